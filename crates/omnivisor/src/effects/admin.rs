//! Ask a node, on its own socket, what its network has agreed on, and how high it is.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use omnivisor_core::dialect::Endpoint;
use reqwest::Client;
use reqwest::header::CONTENT_TYPE;

use super::http::{Http, transport};

/// A node that does not answer within this hangs, or is so busy that it may as well.
const ANSWER: Duration = Duration::from_secs(5);
/// An answer has some hundred bytes.
const LARGEST: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub struct NoAnswer {
    /// In words.
    pub why: String,
    /// Whether the question was taken: somebody listens there, and hangs.
    pub hangs: bool,
}

/// A connection to a node's socket, kept from one question to the next.
#[derive(Default)]
pub struct Admin(Option<(PathBuf, Client)>);

impl Admin {
    /// Asks, and gives whatever was answered.
    pub async fn ask(&mut self, endpoint: &Endpoint, question: Vec<u8>) -> Result<Vec<u8>, NoAnswer> {
        let url = format!("http://unix/{}", endpoint.path.trim_start_matches('/'));
        let at = |why: String| NoAnswer { why: format!("{}: {why}", endpoint.socket.display()), hangs: false };
        let client = self.client(&endpoint.socket).map_err(at)?;
        let request = client.post(&url).header(CONTENT_TYPE, "application/json").body(question);
        let answer = async {
            let mut response = request.send().await?;
            let mut bytes = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                bytes.extend_from_slice(&chunk);
                if bytes.len() > LARGEST {
                    break; // whoever reads it sees that it is none
                }
            }
            Ok::<_, reqwest::Error>(bytes)
        };
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => {
                self.0 = None;
                Err(at(transport(&url, &error).to_string().trim_start_matches(&format!("{url}: ")).to_owned()))
            }
            Err(_) => {
                self.0 = None;
                let why = at(format!("no answer within {}", humantime::format_duration(ANSWER)));
                Err(NoAnswer { hangs: true, ..why })
            }
        }
    }

    fn client(&mut self, socket: &PathBuf) -> Result<Client, String> {
        match &self.0 {
            Some((at, client)) if at == socket => Ok(client.clone()),
            _ => {
                // No authority is needed here, and a system without any could build no client.
                let client = Client::builder().unix_socket(socket.as_path()).tls_certs_only([]).no_proxy().build();
                let client = client.map_err(|error| error.to_string())?;
                self.0 = Some((socket.clone(), client.clone()));
                Ok(client)
            }
        }
    }
}

/// A number that no other question has.
pub fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What a node says of its height; none, if it says nothing.
pub async fn height(url: &str) -> Option<Vec<u8>> {
    Http::new().ok()?.get_small(url, LARGEST as u64, ANSWER).await.ok()
}
