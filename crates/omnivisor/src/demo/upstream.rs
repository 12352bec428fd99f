//! The demo's upstream: a web server on the loopback that announces a release and has it for download.

use std::collections::HashMap;
use std::convert::Infallible;
use std::env;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use omnivisor_core::dialect::nym::files::{DownloadUrl, UpgradeInfo};
use omnivisor_core::dialect::nym::platform::platform_key;
use tokio::net::{TcpListener, TcpStream};

use super::sample::{NAME, Sample};
use crate::clock;

/// What is answered to a request of a path.
#[derive(Default)]
struct Answers {
    of: HashMap<String, Bytes>,
    /// How often somebody asked what is announced, since it was announced.
    asked: usize,
}

type Shared = Arc<Mutex<Answers>>;

/// A web server that runs for as long as the runtime does.
#[derive(Clone)]
pub struct Upstream {
    address: SocketAddr,
    answers: Shared,
}

impl Upstream {
    /// Begins to serve, at a port that is free.
    pub async fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let upstream = Self { address: listener.local_addr()?, answers: Shared::default() };
        let answers = upstream.answers.clone();
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(serve(stream, answers.clone()))),
                    // Out of descriptors, perhaps: it passes, but not at once.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        Ok(upstream)
    }

    /// Below which address everything is.
    pub fn base(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Announces a release, to be switched to at once; gives the digest it is announced with.
    pub fn announce(&self, sample: &Sample, executable: Vec<u8>) -> io::Result<String> {
        let path = format!("/{NAME}/{}", sample.version);
        let checksum = hex::encode(digest(&SHA256, &executable));
        let download = DownloadUrl {
            checksum: checksum.clone(),
            checksum_algorithm: "sha256".to_owned(),
            url: format!("http://{}{path}", self.address),
        };
        let now = clock::now().wall;
        let mut info = UpgradeInfo::local(&name(sample), sample.build_info(), now, None, now);
        info.notes = "a release of the demo".to_owned();
        let platform = platform_key(env::consts::OS, env::consts::ARCH);
        info.platforms = [(platform, serde_json::to_value(download)?)].into();
        let info: Bytes = info.to_bytes().into();
        // Nobody asks for what was announced before.
        let of = [(path, executable.into()), (announcement(), info)].into();
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = Answers { of, asked: 0 };
        Ok(checksum)
    }

    /// How often somebody asked what is announced, since it was announced.
    pub fn asked(&self) -> usize {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).asked
    }
}

fn announcement() -> String {
    format!("/{NAME}/{}", UpgradeInfo::FILE_NAME)
}

/// What a release is called in its announcement.
fn name(sample: &Sample) -> String {
    format!("v{}", sample.version)
}

async fn serve(stream: TcpStream, answers: Shared) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let answer = {
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.asked += usize::from(request.uri().path() == announcement());
            answers.of.get(request.uri().path()).cloned()
        };
        let status = if answer.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        let mut response = Response::new(Full::new(answer.unwrap_or_default()));
        *response.status_mut() = status;
        async { Ok::<_, Infallible>(response) }
    });
    // A client that goes away is no trouble of ours.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
