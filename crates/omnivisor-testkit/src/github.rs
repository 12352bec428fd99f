//! A server that speaks as GitHub's API does, with the pages where assets are downloaded, as far as upgrades need it.
//!
//! Two servers, as GitHub has: the API at one, pages and storage at the other, so that a secret that is carried from the one
//! to the other is seen. Every asset is behind a redirect to the storage. No paging, no drafts of one's own, no names that
//! would have to be quoted, and it counts no requests to limit them: a test says when the limit is reached.

use std::sync::Mutex;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::upstream::{Answer, Request, Upstream};

/// What the API answers to what there is not.
const NOT_FOUND: &str = r#"{"message":"Not Found","documentation_url":"https://docs.github.com/rest","status":"404"}"#;

/// A GitHub with one repository.
#[derive(Debug)]
pub struct FakeGitHub {
    /// Where the API is.
    pub api: Upstream,
    /// Where pages and storage are.
    pub web: Upstream,
    /// All releases, the newest first.
    releases: Mutex<Vec<Value>>,
    access: Mutex<Access>,
    /// Who the repository belongs to.
    pub owner: String,
    /// What it is called.
    pub repository: String,
}

/// Whom the API answers.
#[derive(Clone, Debug)]
enum Access {
    Everybody,
    /// Only who sends this.
    With(String),
    /// Only who sends nothing.
    Without,
}

impl FakeGitHub {
    /// The one that Vega's releases are in, without any.
    #[expect(clippy::new_without_default, reason = "it starts two servers")]
    pub fn new() -> Self {
        Self::of("vegaprotocol", "vega")
    }

    /// One without a release.
    pub fn of(owner: &str, repository: &str) -> Self {
        let it = Self {
            api: Upstream::http(),
            web: Upstream::http(),
            releases: Mutex::default(),
            access: Mutex::new(Access::Everybody),
            owner: owner.to_owned(),
            repository: repository.to_owned(),
        };
        it.api.serve_rest(json_answer(404, NOT_FOUND));
        it.serve_all();
        it
    }

    /// The address of the API, with a path of its own as a company's server has it.
    pub fn api_url(&self) -> String {
        self.api.url("/api/v3")
    }

    /// The address of the pages.
    pub fn web_url(&self) -> String {
        self.web.url("")
    }

    /// The path, at the API, of a release.
    pub fn tag_path(&self, tag: &str) -> String {
        format!("{}/tags/{tag}", self.list_path())
    }

    /// The path, at the API, of the list of releases.
    pub fn list_path(&self) -> String {
        format!("/api/v3/repos/{}/{}/releases", self.owner, self.repository)
    }

    /// The path, at the pages, of an asset.
    pub fn download_path(&self, tag: &str, asset: &str) -> String {
        format!("/{}/{}/releases/download/{tag}/{asset}", self.owner, self.repository)
    }

    /// The path, at the pages' server, that an asset really is at.
    pub fn storage_path(tag: &str, asset: &str) -> String {
        format!("/storage/{tag}/{asset}")
    }

    /// Publishes a release of these assets: name, contents, and whether the API tells their digest. One with the same tag is
    /// replaced.
    pub fn publish(&self, tag: &str, assets: &[(&str, &[u8], bool)]) {
        self.publish_changed(tag, assets, |_| ());
    }

    /// Publishes a release that the API tells of as `change` makes it.
    pub fn publish_changed(&self, tag: &str, assets: &[(&str, &[u8], bool)], change: impl FnOnce(&mut Value)) {
        let mut releases = self.releases.lock().unwrap();
        releases.retain(|release| release["tag_name"] != tag);
        let assets: Vec<Value> =
            assets.iter().map(|(name, bytes, told)| self.upload(tag, name, bytes, *told)).collect();
        let mut release = json!({
            "url": self.api.url(&format!("{}/{}", self.list_path(), releases.len() + 1)),
            "tag_name": tag,
            "name": tag,
            "draft": false,
            "prerelease": true,
            "published_at": OffsetDateTime::from(SystemTime::now()).format(&Rfc3339).unwrap(),
            "assets": assets,
        });
        change(&mut release);
        releases.insert(0, release);
        drop(releases);
        self.serve_all();
    }

    /// Takes a release back, and what could be downloaded of it.
    pub fn withdraw(&self, tag: &str) {
        let mut releases = self.releases.lock().unwrap();
        let (gone, stay): (Vec<Value>, Vec<Value>) = releases.drain(..).partition(|it| it["tag_name"] == tag);
        *releases = stay;
        drop(releases);
        self.api.withdraw(&self.tag_path(tag));
        let names = gone.iter().flat_map(|release| release["assets"].as_array().unwrap().clone());
        for asset in names.filter_map(|asset| Some(asset["name"].as_str()?.to_owned())) {
            self.web.withdraw(&self.download_path(tag, &asset));
            self.web.withdraw(&Self::storage_path(tag, &asset));
            self.api.withdraw(&self.asset_path(tag, &asset));
        }
        self.serve_all();
    }

    /// From now on the API answers only who has this token: 404 without one, as for what is private, 401 with another one.
    pub fn require_token(&self, token: &str) {
        self.grant(Access::With(format!("Bearer {token}")));
    }

    /// From now on the API answers 401 to every token, as it does when one has expired.
    pub fn refuse_tokens(&self) {
        self.grant(Access::Without);
    }

    /// From now on the API answers that it was asked too often, until so many seconds after 1970.
    pub fn limit_rate(&self, reset: u64) {
        let reset = reset.to_string();
        let headers = [
            ("X-RateLimit-Limit", "60"),
            ("X-RateLimit-Remaining", "0"),
            ("X-RateLimit-Reset", reset.as_str()),
            ("Content-Type", "application/json; charset=utf-8"),
        ];
        self.api.serve_instead(Some(Answer::with_headers(403, &headers)));
    }

    /// From now on the API answers 503, whatever it is asked.
    pub fn break_api(&self) {
        self.api.serve_instead(Some(Answer::Status(503, b"<html>unicorn</html>".to_vec())));
    }

    /// Ends [`Self::limit_rate`] and [`Self::break_api`].
    pub fn mend_api(&self) {
        self.api.serve_instead(None);
    }

    /// How often the API was asked for anything.
    pub fn api_requests(&self) -> usize {
        self.api.all_requests().len()
    }

    /// How often an asset's contents were asked for, by whatever way.
    pub fn downloads(&self, tag: &str, asset: &str) -> usize {
        self.web.requests(&Self::storage_path(tag, asset))
    }

    /// Every request that came with an `Authorization` to the pages' server, which is one too many.
    pub fn secrets_given_away(&self) -> Vec<Request> {
        let requests = self.web.all_requests().into_iter();
        requests.filter(|request| request.header("authorization").is_some()).collect()
    }

    /// Puts an asset where it can be downloaded; gives what the API tells of it.
    fn upload(&self, tag: &str, name: &str, bytes: &[u8], digest_told: bool) -> Value {
        let storage = Self::storage_path(tag, name);
        self.web.serve(&storage, Answer::bytes(bytes));
        let redirect = Answer::Redirect(self.web.url(&format!("{storage}?signature=secret")));
        self.web.serve(&self.download_path(tag, name), redirect);
        let told = digest_told.then(|| format!("sha256:{}", hex::encode(digest(&SHA256, bytes))));
        json!({
            "url": self.api.url(&self.asset_path(tag, name)),
            "name": name,
            // What uploaders say it is, which may be anything.
            "content_type": "application/octet-stream",
            "state": "uploaded",
            "size": bytes.len(),
            "digest": told,
            "browser_download_url": self.web.url(&self.download_path(tag, name)),
        })
    }

    /// GitHub has a number there.
    fn asset_path(&self, tag: &str, name: &str) -> String {
        format!("{}/assets/{tag}-{name}", self.list_path())
    }

    /// Serves everything that the API has.
    fn serve_all(&self) {
        let releases = self.releases.lock().unwrap();
        let list = Value::Array(releases.clone());
        let etag = format!("W/\"{}\"", &hex::encode(digest(&SHA256, list.to_string().as_bytes()))[..16]);
        self.serve(&self.list_path(), Answer::tagged(&etag, &list));
        for release in releases.iter() {
            let Some(tag) = release["tag_name"].as_str() else { continue };
            self.serve(&self.tag_path(tag), json_answer(200, &release.to_string()));
            for name in release["assets"].as_array().into_iter().flatten().filter_map(|asset| asset["name"].as_str()) {
                let place = self.web.url(&format!("{}?signature=secret", Self::storage_path(tag, name)));
                self.serve(&self.asset_path(tag, name), Answer::Redirect(place));
            }
        }
    }

    fn grant(&self, access: Access) {
        *self.access.lock().unwrap() = access;
        self.serve_all();
    }

    fn serve(&self, path: &str, answer: Answer) {
        let when = |is: Option<String>, then, otherwise| Answer::When {
            header: "Authorization".to_owned(),
            is,
            then: Box::new(then),
            otherwise: Box::new(otherwise),
        };
        let bad = json_answer(401, r#"{"message":"Bad credentials","status":"401"}"#);
        let answer = match self.access.lock().unwrap().clone() {
            Access::Everybody => answer,
            Access::With(token) => when(Some(token), answer, when(None, json_answer(404, NOT_FOUND), bad)),
            Access::Without => when(None, answer, bad),
        };
        self.api.serve(path, answer);
    }
}

fn json_answer(status: u16, text: &str) -> Answer {
    let headers = vec![("Content-Type".to_owned(), "application/json; charset=utf-8".to_owned())];
    Answer::Full { status, headers, bytes: text.as_bytes().to_vec() }
}
