//! The one way in which this program asks the network for something.

use std::error::Error as _;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, RequestBuilder, Response};

pub use reqwest::StatusCode;
pub use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};

/// A server that is reached at all is reached in a second; ten leave room for a bad day.
const CONNECT: Duration = Duration::from_secs(10);
/// Nothing at all for so long is a stall.
const STALL: Duration = Duration::from_secs(30);
/// GitHub's downloads take two.
const REDIRECTS: usize = 10;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It could not be asked, or the answer broke off.
    #[error("{url}: {reason}")]
    Transport {
        /// What was asked.
        url: String,
        /// The whole chain of causes.
        reason: String,
    },
    /// It answered that it has nothing.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked.
        url: String,
        /// What it said.
        status: StatusCode,
    },
    /// It answers with more than it should.
    #[error("{url} answers with more than {limit} bytes")]
    TooLarge {
        /// What was asked.
        url: String,
        /// How much would have been taken.
        limit: u64,
    },
}

/// An answer, good or bad, that was taken whole.
#[derive(Debug)]
pub struct Answer {
    /// What it says it is.
    pub status: StatusCode,
    /// What is said about it.
    pub headers: HeaderMap,
    /// What it is; nothing if it is no success.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header, if it is plain text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A connection to the network, to be dropped when it is not needed: what it keeps is memory.
pub struct Http(Client);

impl Http {
    /// Opens one. Proxies and certificate authorities are the system's.
    pub fn new() -> Result<Self, HttpError> {
        Self::with(|builder| {
            builder.redirect(Policy::custom(|attempt| {
                let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
                if attempt.previous().len() > REDIRECTS {
                    attempt.error("too many redirects")
                } else if was_secure && attempt.url().scheme() != "https" {
                    attempt.error("it redirects from https to something that anybody on the way can change")
                } else {
                    attempt.follow()
                }
            }))
        })
    }

    /// Without any certificate authority on the system no client can be built, not even one for plain http.
    fn with(how: impl Fn(ClientBuilder) -> ClientBuilder) -> Result<Self, HttpError> {
        let roots = || {
            webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().filter_map(|der| reqwest::Certificate::from_der(der).ok())
        };
        how(builder())
            .build()
            .or_else(|_| how(builder()).tls_certs_only(roots()).build())
            .map(Self)
            .map_err(|error| transport("the network", &error))
    }

    /// Opens one to servers of one's own: past every proxy, and no redirect is followed. Without `secure` only plain http is
    /// spoken, which needs no certificate authority.
    pub fn direct(secure: bool) -> Result<Self, HttpError> {
        if secure {
            return Self::with(|builder| builder.no_proxy().redirect(Policy::none()));
        }
        let client = builder().no_proxy().redirect(Policy::none()).tls_certs_only([]).build();
        client.map(Self).map_err(|error| transport("the network", &error))
    }

    /// Asks for `url`; anything but a success is an error.
    pub async fn get(&self, url: &str) -> Result<Response, HttpError> {
        self.get_with(url, &HeaderMap::new()).await
    }

    /// Asks for `url` and says more about it; anything but a success is an error.
    ///
    /// An `Authorization` is for the host that is asked: a redirect to another one goes there without.
    pub async fn get_with(&self, url: &str, headers: &HeaderMap) -> Result<Response, HttpError> {
        let response = self.send(url, headers).await?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(HttpError::Status { url: shown(url), status: response.status() })
        }
    }

    /// Asks for something small, all of it within `timeout`; anything but a success is an error.
    pub async fn get_small(&self, url: &str, limit: u64, timeout: Duration) -> Result<Vec<u8>, HttpError> {
        let answer = self.ask_small(url, &HeaderMap::new(), limit, timeout).await?;
        if answer.status.is_success() {
            Ok(answer.body)
        } else {
            Err(HttpError::Status { url: shown(url), status: answer.status })
        }
    }

    /// Like [`Self::get_with`] for something small; whatever is answered is the answer.
    pub async fn ask_small(
        &self,
        url: &str,
        headers: &HeaderMap,
        limit: u64,
        timeout: Duration,
    ) -> Result<Answer, HttpError> {
        let request = self.0.get(url).headers(headers.clone());
        take_small(request, url, limit, timeout).await
    }

    /// The same, of something that is asked by a GET, or with this JSON by a POST.
    pub async fn ask_once(
        &self,
        url: &str,
        posted: Option<String>,
        limit: u64,
        timeout: Duration,
    ) -> Result<Answer, HttpError> {
        let request = match posted {
            None => self.0.get(url),
            Some(json) => self.0.post(url).header(header::CONTENT_TYPE, "application/json").body(json),
        };
        take_small(request, url, limit, timeout).await
    }

    async fn send(&self, url: &str, headers: &HeaderMap) -> Result<Response, HttpError> {
        self.0.get(url).headers(headers.clone()).send().await.map_err(|error| transport(url, &error))
    }
}

fn builder() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("omnivisor/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .read_timeout(STALL)
        .pool_max_idle_per_host(0)
}

/// Sends it, and takes all of a good answer.
async fn take_small(request: RequestBuilder, url: &str, limit: u64, timeout: Duration) -> Result<Answer, HttpError> {
    let all = async {
        let mut response = request.send().await.map_err(|error| transport(url, &error))?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut body = Vec::new();
        if !status.is_success() {
            return Ok(Answer { status, headers, body });
        }
        while let Some(chunk) = response.chunk().await.map_err(|error| transport(url, &error))? {
            if body.len() as u64 + chunk.len() as u64 > limit {
                return Err(HttpError::TooLarge { url: shown(url), limit });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body })
    };
    let slow = || HttpError::Transport { url: shown(url), reason: "no whole answer in time".to_owned() };
    tokio::time::timeout(timeout, all).await.unwrap_or_else(|_| Err(slow()))
}

/// An error of the transport with all its causes: reqwest's own text hides them.
pub fn transport(url: &str, error: &reqwest::Error) -> HttpError {
    let mut reason = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        reason = if reason.is_empty() { error.to_string() } else { format!("{reason}: {error}") };
        cause = error.source();
    }
    if reason.is_empty() {
        // What carries no cause says it in its kind; the address stands before it already. One that it was sent on to may
        // have something secret in it.
        reason = error.to_string();
        if let Some(url) = error.url() {
            reason = reason.replace(url.as_str(), &shown(url.as_str()));
        }
    }
    HttpError::Transport { url: shown(url), reason }
}

/// An address without what may be secret in it.
pub fn shown(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(url) => omnivisor_core::health::shown(&url),
        Err(_) => "an address that is none".to_owned(),
    }
}
