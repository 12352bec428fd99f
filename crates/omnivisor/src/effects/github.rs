//! Ask GitHub, or a server that speaks as it does, for releases and where their assets are.
//!
//! One question for each thing that is wanted, and none while it said to wait. It says what there is and decides nothing:
//! what is downloaded, when, and whether it is good is the business of others. No paging: what is wanted is named, or new.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use omnivisor_core::github::Release;
use omnivisor_core::plan::Failure;
use omnivisor_core::release::Digest;
use omnivisor_core::time::Timestamp;
use url::Url;

use super::http::{Answer, HeaderMap, HeaderName, HeaderValue, Http, HttpError, StatusCode, header, shown};

mod limit;
mod token;

use self::limit::Limit;
pub use self::token::{Token, TokenError};

/// The largest answer: a release with notes and a thousand assets has one megabyte, and thirty of them without have less.
const LARGEST: u64 = 4 << 20;
/// All of an answer within this.
const ANSWER: Duration = Duration::from_secs(60);
/// How many of a release's assets are named to say which there are.
const NAMED: usize = 20;

const API_VERSION: HeaderName = HeaderName::from_static("x-github-api-version");

/// Why it is not known what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GitHubError {
    /// It cannot be asked for at all.
    #[error("{0:?} is no {1} that GitHub has")]
    Name(String, &'static str),
    /// It is no address to ask at.
    #[error("{0} is no address of GitHub or a server like it")]
    Address(String),
    /// It was not to be had, as things are.
    #[error("{0}")]
    Unreachable(String),
    /// It answered with something that is not what the API answers.
    #[error("{url} gives no answer of GitHub's API: {reason}")]
    Unreadable {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// It does not want to answer this question.
    #[error("{url} answered {status}: a token that has the right to see {repository} may help")]
    Refused {
        /// What was asked.
        url: String,
        /// What it said.
        status: StatusCode,
        /// Whose it is.
        repository: String,
    },
    /// It was asked too often.
    #[error("GitHub's API has been asked too often and wants to be left alone until {until}")]
    RateLimited {
        /// Until when nobody is asked.
        until: Timestamp,
    },
    /// There is no such release, or none that may be seen.
    #[error("{repository} has no release with the tag {tag:?}, or it may not be seen without another token")]
    NoRelease {
        /// Whose it would be.
        repository: String,
        /// Its tag.
        tag: String,
    },
    /// The release has no such asset.
    #[error("the release {tag} of {repository} has no asset {asset:?}, but {}", listed(.there))]
    NoAsset {
        /// Whose it is.
        repository: String,
        /// Which release.
        tag: String,
        /// What was looked for.
        asset: String,
        /// The names of those that there are; not all, if there are many.
        there: Vec<String>,
    },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none at all".to_owned() } else { names.join(", ") }
}

impl GitHubError {
    /// What it means for the upgrade. A release and its assets may be published a moment later, and rights be given.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Name(..) | Self::Address(_) => Failure::permanent(self.to_string()),
            Self::Unreachable(_)
            | Self::Unreadable { .. }
            | Self::Refused { .. }
            | Self::RateLimited { .. }
            | Self::NoRelease { .. }
            | Self::NoAsset { .. } => Failure::transient(self.to_string()),
        }
    }

    /// Before when it makes no sense to try again, if that was said.
    pub fn retry_at(&self) -> Option<Timestamp> {
        match self {
            Self::RateLimited { until } => Some(*until),
            _ => None,
        }
    }
}

impl From<HttpError> for GitHubError {
    fn from(error: HttpError) -> Self {
        Self::Unreachable(error.to_string())
    }
}

/// What has become of something that was asked for before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched<T> {
    /// It is what it was.
    Unchanged,
    /// It is this.
    New(T),
}

/// Where an asset is.
#[derive(Clone, Debug)]
pub struct Located {
    /// What to ask for.
    pub url: String,
    /// What to say when asking; there may be a token among it.
    pub headers: HeaderMap,
    /// The digest that GitHub made of it.
    pub digest: Option<Digest>,
    /// How many bytes it has.
    pub size: Option<u64>,
    /// How that is known.
    pub how: How,
}

/// How it is known where an asset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The API said so.
    Api,
    /// It is where assets always are; whether there is one, and which, nobody said.
    Generated,
}

/// A server that speaks as GitHub does. To be kept: it remembers what was answered, and how long to leave it alone.
pub struct GitHub {
    api: Url,
    web: Url,
    token: Option<Token>,
    /// Whether the token was refused: it is not shown again.
    token_refused: AtomicBool,
    limit: Limit,
    /// The ETag of each list of releases that was read.
    seen: Mutex<HashMap<String, HeaderValue>>,
}

impl fmt::Debug for GitHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitHub")
            .field("api", &self.api.as_str())
            .field("web", &self.web.as_str())
            .finish_non_exhaustive()
    }
}

impl GitHub {
    /// Where GitHub's own API is. A company's own server has it at `https://<host>/api/v3`.
    pub const API: &str = "https://api.github.com";
    /// Where GitHub's pages are.
    pub const WEB: &str = "https://github.com";

    /// A server whose API is at `api`, and whose pages are at `web`. The token is shown to that API only, and only where
    /// nobody can listen.
    pub fn new(api: Url, web: Url, token: Option<Token>) -> Result<Self, GitHubError> {
        for url in [&api, &web] {
            if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
                return Err(GitHubError::Address(shown(url.as_str())));
            }
        }
        if token.is_some() && !is_private(&api) {
            tracing::warn!(api = shown(api.as_str()), "the token is not used: without https anybody can read it");
        }
        Ok(Self {
            api,
            web,
            token,
            token_refused: AtomicBool::new(false),
            limit: Limit::default(),
            seen: Mutex::default(),
        })
    }

    /// The release with this tag, if it is published. One question.
    pub async fn release_by_tag(&self, owner: &str, repository: &str, tag: &str) -> Result<Release, GitHubError> {
        let of = Repository::parse(owner, repository)?;
        let url = below(&self.api, &["repos", owner, repository, "releases", "tags", part(tag, "tag")?])?;
        let answer = self.ask(&url, &of, None).await?;
        // A page that says so is of a server without an API.
        if answer.status == StatusCode::NOT_FOUND && is_json(&answer) {
            return Err(GitHubError::NoRelease { repository: of.0, tag: tag.to_owned() });
        }
        let release = Release::parse(&self.body(&url, &of, answer)?).map_err(unreadable(&url))?;
        // Names of tags are compared as they are written: nothing else than what was agreed on is it.
        if release.tag != tag {
            return Err(unreadable(&url)(format!("it tells of the release {:?}", release.tag)));
        }
        Ok(release)
    }

    /// The newest releases, thirty at most, if there is anything new in them since they were read here last.
    pub async fn releases(&self, owner: &str, repository: &str) -> Result<Fetched<Vec<Release>>, GitHubError> {
        let of = Repository::parse(owner, repository)?;
        let mut url = below(&self.api, &["repos", owner, repository, "releases"])?;
        url.set_query(Some("per_page=30"));
        let known = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&of.0).cloned();
        let answer = self.ask(&url, &of, known.as_ref()).await?;
        if answer.status == StatusCode::NOT_MODIFIED && known.is_some() {
            return Ok(Fetched::Unchanged);
        }
        let etag = answer.headers.get(header::ETAG).cloned();
        let mut releases = Release::parse_list(&self.body(&url, &of, answer)?).map_err(unreadable(&url))?;
        for asset in releases.iter_mut().flat_map(|release| &mut release.assets) {
            asset.download_url = asset.download_url.take().filter(|url| self.is_safe(url));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match etag {
            Some(etag) => seen.insert(of.0, etag),
            None => seen.remove(&of.0),
        };
        Ok(Fetched::New(releases))
    }

    /// Forgets that the releases were read: the next answer is new. For whoever could do nothing with one.
    pub fn forget(&self, owner: &str, repository: &str) {
        if let Ok(of) = Repository::parse(owner, repository) {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(&of.0);
        }
    }

    /// Where an asset of a release is, and its digest, as the API says. If the API cannot be asked, or does not want to be:
    /// where it has to be.
    ///
    /// That there is no such release, or no such asset in it, is an answer, and no reason to try elsewhere.
    pub async fn asset_source(
        &self,
        owner: &str,
        repository: &str,
        tag: &str,
        asset: &str,
    ) -> Result<Located, GitHubError> {
        let path = [owner, repository, "releases", "download", part(tag, "tag")?, part(asset, "asset")?];
        let generated = below(&self.web, &path)?;
        let release = match self.release_by_tag(owner, repository, tag).await {
            Ok(release) => release,
            Err(
                error @ (GitHubError::Unreachable(_)
                | GitHubError::Unreadable { .. }
                | GitHubError::Refused { .. }
                | GitHubError::RateLimited { .. }),
            ) => {
                tracing::warn!(%error, url = generated.as_str(), "the asset is looked for where it has to be");
                let how = How::Generated;
                return Ok(Located { url: generated.into(), headers: raw(), digest: None, size: None, how });
            }
            Err(error) => return Err(error),
        };
        self.asset_of(owner, repository, &release, asset)
    }

    /// Where an asset of this release is, and its digest.
    pub fn asset_of(
        &self,
        owner: &str,
        repository: &str,
        release: &Release,
        asset: &str,
    ) -> Result<Located, GitHubError> {
        let tag = &release.tag;
        let path = [owner, repository, "releases", "download", part(tag, "tag")?, part(asset, "asset")?];
        let generated = below(&self.web, &path)?;
        let Some(found) = release.assets.iter().find(|it| it.name == asset) else {
            return Err(GitHubError::NoAsset {
                repository: format!("{owner}/{repository}"),
                tag: tag.to_owned(),
                asset: asset.to_owned(),
                there: release.assets.iter().take(NAMED).map(|it| it.name.clone()).collect(),
            });
        };
        let (digest, size) = (found.digest.clone(), found.size);
        let mut headers = raw();
        let url = match (&found.api_url, self.token()) {
            // What is not public is to be had through the API only, and with a token only.
            (Some(url), Some(token)) if self.is_of_the_api(url) => {
                headers.insert(header::AUTHORIZATION, token.header());
                headers.insert(API_VERSION, api_version());
                url
            }
            _ => match &found.download_url {
                Some(url) if self.is_safe(url) => url,
                _ => &generated,
            },
        };
        Ok(Located { url: url.to_string(), headers, digest, size, how: How::Api })
    }

    /// Asks the API, unless it wants to be left alone. An answer that something is not there, or not new, is one.
    async fn ask(&self, url: &Url, of: &Repository, known: Option<&HeaderValue>) -> Result<Answer, GitHubError> {
        if let Some(until) = self.limit.until() {
            return Err(GitHubError::RateLimited { until });
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
        headers.insert(API_VERSION, api_version());
        if let Some(known) = known {
            headers.insert(header::IF_NONE_MATCH, known.clone());
        }
        let token = self.token();
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, token.header());
        }
        let http = Http::new()?;
        let mut answer = http.ask_small(url.as_str(), &headers, LARGEST, ANSWER).await?;
        if answer.status == StatusCode::UNAUTHORIZED && token.is_some() {
            // It has expired, perhaps: what everybody may see is still to be had.
            tracing::warn!(repository = of.0, "GitHub refuses the token; it is asked without one from now on");
            self.token_refused.store(true, Ordering::Relaxed);
            headers.remove(header::AUTHORIZATION);
            answer = http.ask_small(url.as_str(), &headers, LARGEST, ANSWER).await?;
        }
        match self.limit.heed(&answer) {
            Some(until) => Err(GitHubError::RateLimited { until }),
            None => Ok(answer),
        }
    }

    /// What a success says; anything else is an error.
    fn body(&self, url: &Url, of: &Repository, answer: Answer) -> Result<Vec<u8>, GitHubError> {
        let (url, status) = (shown(url.as_str()), answer.status);
        if status.is_success() {
            Ok(answer.body)
        } else if status.is_server_error() {
            Err(HttpError::Status { url, status }.into())
        } else if status.is_client_error() && (status != StatusCode::NOT_FOUND || is_json(&answer)) {
            Err(GitHubError::Refused { url, status, repository: of.0.clone() })
        } else {
            Err(GitHubError::Unreadable { url, reason: format!("it answered {status}") })
        }
    }

    /// The token, where it may be shown.
    fn token(&self) -> Option<&Token> {
        let usable = is_private(&self.api) && !self.token_refused.load(Ordering::Relaxed);
        self.token.as_ref().filter(|_| usable)
    }

    /// Nothing is taken from where it is less safe than what pointed to it.
    fn is_safe(&self, url: &Url) -> bool {
        url.scheme() == "https" || self.api.scheme() == "http"
    }

    fn is_of_the_api(&self, url: &Url) -> bool {
        url.origin() == self.api.origin()
    }
}

/// Whose releases they are, as people write it.
struct Repository(String);

impl Repository {
    fn parse(owner: &str, repository: &str) -> Result<Self, GitHubError> {
        Ok(Self(format!("{}/{}", part(owner, "owner")?, part(repository, "repository")?)))
    }
}

/// A part of a path, which is one however it is read.
fn part<'a>(name: &'a str, what: &'static str) -> Result<&'a str, GitHubError> {
    if matches!(name, "" | "." | "..") || name.len() > 255 || name.chars().any(char::is_control) {
        return Err(GitHubError::Name(name.chars().take(200).collect(), what));
    }
    Ok(name)
}

/// An address below another one; each part is quoted.
fn below(base: &Url, parts: &[&str]) -> Result<Url, GitHubError> {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    match url.path_segments_mut() {
        Ok(mut path) => drop(path.pop_if_empty().extend(parts)),
        Err(()) => return Err(GitHubError::Address(shown(base.as_str()))),
    }
    Ok(url)
}

/// Whether nobody on the way can read what is sent there.
fn is_private(url: &Url) -> bool {
    let here = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || here
}

fn unreadable(url: &Url) -> impl Fn(String) -> GitHubError {
    move |reason| GitHubError::Unreadable { url: shown(url.as_str()), reason }
}

fn is_json(answer: &Answer) -> bool {
    answer.header(&header::CONTENT_TYPE).is_some_and(|kind| kind.contains("json"))
}

/// That the asset itself is wanted, and not a description of it.
fn raw() -> HeaderMap {
    HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("application/octet-stream"))])
}

fn api_version() -> HeaderValue {
    HeaderValue::from_static("2022-11-28")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_token_is_only_shown_where_nobody_can_listen() {
        for (address, private) in [
            ("https://api.github.com", true),
            ("https://git.example/api/v3", true),
            ("http://127.0.0.1:8080", true),
            ("http://127.8.8.8", true),
            ("http://[::1]:1/x", true),
            ("http://localhost", true),
            ("http://api.github.com", false),
            ("http://10.0.0.1", false),
            ("http://localhost.example", false),
            ("http://127.0.0.1.example", false),
        ] {
            assert_eq!(is_private(&url(address)), private, "{address}");
        }
    }

    #[test]
    fn every_part_of_a_path_stays_one_part() {
        for (base, parts, expected) in [
            ("https://api.github.com", &["repos", "o", "r"][..], "https://api.github.com/repos/o/r"),
            ("https://git.example/api/v3/", &["repos", "o"], "https://git.example/api/v3/repos/o"),
            ("https://x?y=z#w", &["a/b", "c?d", "e#f"], "https://x/a%2Fb/c%3Fd/e%23f"),
            ("https://x", &["ü v%2e"], "https://x/%C3%BC%20v%252e"),
        ] {
            assert_eq!(below(&url(base), parts).unwrap().as_str(), expected);
        }
        for odd in ["", ".", "..", "a\0b", &"x".repeat(256)] {
            assert!(matches!(part(odd, "tag"), Err(GitHubError::Name(..))), "{odd:?}");
        }
    }

    #[test]
    fn only_web_servers_are_asked() {
        for address in ["file:///x", "mailto:a@b", "data:,x", "ftp://x"] {
            let made = GitHub::new(url(address), url(GitHub::WEB), None);
            assert!(matches!(made, Err(GitHubError::Address(_))), "{address}");
            assert!(GitHub::new(url(GitHub::API), url(address), None).is_err(), "{address}");
        }
        assert!(GitHub::new(url(GitHub::API), url(GitHub::WEB), None).is_ok());
    }
}
