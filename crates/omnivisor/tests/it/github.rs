//! GitHub's releases, asked for at a fake that speaks as its API does; and what comes of a download from there.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use omnivisor::effects::fetch::{Download, download};
use omnivisor::effects::github::{Fetched, GitHub, GitHubError, How, Located, Token};
use omnivisor_core::github::Release;
use omnivisor_core::plan::{Failure, FailureKind};
use omnivisor_core::release::{Algorithm, Digest};
use omnivisor_core::time::Timestamp;
use omnivisor_testkit::{Answer, FakeGitHub, Upstream, sha256_hex};
use serde_json::json;

const TAG: &str = "v0.79.0";
const ASSET: &str = "vega-linux-amd64.zip";
const SECRET: &str = "ghp_0123456789abcdef";

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn client_of(fake: &FakeGitHub, token: Option<&str>) -> GitHub {
    let token = token.map(|text| Token::find(|_| Some(text.into()), None).unwrap().unwrap());
    GitHub::new(fake.api_url().parse().unwrap(), fake.web_url().parse().unwrap(), token).unwrap()
}

fn released() -> FakeGitHub {
    let fake = FakeGitHub::new();
    fake.publish(TAG, &[(ASSET, b"an archive", true), ("old.zip", b"another", false)]);
    fake
}

fn by_tag(fake: &FakeGitHub, client: &GitHub, tag: &str) -> Result<Release, GitHubError> {
    wait(client.release_by_tag(&fake.owner, &fake.repository, tag))
}

fn releases(fake: &FakeGitHub, client: &GitHub) -> Result<Fetched<Vec<Release>>, GitHubError> {
    wait(client.releases(&fake.owner, &fake.repository))
}

fn locate(fake: &FakeGitHub, client: &GitHub, tag: &str, asset: &str) -> Result<Located, GitHubError> {
    wait(client.asset_source(&fake.owner, &fake.repository, tag, asset))
}

/// Downloads what was located; the file.
fn fetch(located: &Located, folder: &Path) -> Result<PathBuf, Failure> {
    let to = folder.join("asset");
    let wanted = Download {
        headers: located.headers.clone(),
        digest: located.digest.as_ref(),
        size: located.size,
        ..Download::of(&located.url)
    };
    wait(download(&wanted, &to)).map(|()| to)
}

fn in_seconds(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds
}

fn time(unix_seconds: u64) -> Timestamp {
    Timestamp::EPOCH.plus(Duration::from_secs(unix_seconds))
}

/// V26
#[test]
fn a_release_is_asked_for_by_its_tag_with_one_question() {
    let fake = released();
    fake.publish("v0.80.0", &[]);
    let release = by_tag(&fake, &client_of(&fake, None), TAG).unwrap();
    assert_eq!(fake.api_requests(), 1);
    assert_eq!((release.tag.as_str(), release.prerelease), (TAG, true));
    assert!(release.published_at.is_some());
    assert_eq!(release.assets.len(), 2);
    assert_eq!(release.assets[0].size, Some(10));
    assert!(release.assets[0].digest.is_some() && release.assets[1].digest.is_none());
    let request = fake.api.last_request(&fake.tag_path(TAG)).unwrap();
    assert_eq!(request.header("accept"), Some("application/vnd.github+json"));
    assert_eq!(request.header("x-github-api-version"), Some("2022-11-28"));
    assert!(request.header("user-agent").unwrap().starts_with("omnivisor/"));
    assert_eq!(request.header("authorization"), None);
}

#[test]
fn an_asset_is_downloaded_and_is_what_the_api_says() {
    let (fake, folder) = (released(), tempfile::tempdir().unwrap());
    let located = locate(&fake, &client_of(&fake, None), TAG, ASSET).unwrap();
    assert_eq!((located.how, located.size), (How::Api, Some(10)));
    let path = fetch(&located, folder.path()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"an archive");
    assert_eq!(located.digest.unwrap().to_hex(), sha256_hex(&path));
    assert_eq!((fake.api_requests(), fake.downloads(TAG, ASSET)), (1, 1));
    // One of which GitHub has no digest, as of those from before there were any.
    assert_eq!(locate(&fake, &client_of(&fake, None), TAG, "old.zip").unwrap().digest, None);
}

#[test]
fn a_token_opens_what_is_private_and_goes_to_nobody_else() {
    let (fake, folder) = (released(), tempfile::tempdir().unwrap());
    fake.require_token(SECRET);
    let without = locate(&fake, &client_of(&fake, None), TAG, ASSET).unwrap_err();
    assert!(matches!(without, GitHubError::NoRelease { .. }), "{without}");

    let client = client_of(&fake, Some(SECRET));
    let located = locate(&fake, &client, TAG, ASSET).unwrap();
    assert!(located.url.starts_with(&fake.api_url()), "{}", located.url);
    assert!(!format!("{located:?} {client:?}").contains(SECRET));
    fetch(&located, folder.path()).unwrap();
    assert_eq!(fake.downloads(TAG, ASSET), 1);
    let asked = fake.api.all_requests().into_iter().filter(|it| it.header("authorization").is_some()).count();
    assert_eq!(asked, 2, "for the release, and for the asset");
    assert!(fake.secrets_given_away().is_empty(), "the storage is somebody else");
}

#[test]
fn an_asset_that_is_not_at_the_api_is_asked_for_without_the_token() {
    let (fake, elsewhere) = (FakeGitHub::new(), Upstream::http());
    fake.publish_changed(TAG, &[(ASSET, b"an archive", true)], |release| {
        release["assets"][0]["url"] = json!(elsewhere.url("/asset"));
    });
    let located = locate(&fake, &client_of(&fake, Some(SECRET)), TAG, ASSET).unwrap();
    assert_eq!(located.url, fake.web.url(&fake.download_path(TAG, ASSET)));
    assert!(!located.headers.contains_key("authorization"));
}

#[test]
fn a_token_that_has_expired_is_no_reason_not_to_see_what_is_public() {
    let fake = released();
    fake.refuse_tokens();
    let client = client_of(&fake, Some(SECRET));
    let located = locate(&fake, &client, TAG, ASSET).unwrap();
    assert!(located.how == How::Api && located.digest.is_some() && !located.headers.contains_key("authorization"));
    assert_eq!(fake.api_requests(), 2);
    by_tag(&fake, &client, TAG).unwrap();
    assert_eq!(fake.api_requests(), 3, "it is not shown again");
}

#[test]
fn what_there_is_not_is_said_and_not_looked_for_elsewhere() {
    let fake = released();
    let client = client_of(&fake, None);
    let no_tag = locate(&fake, &client, "v0.80.0", ASSET).unwrap_err();
    assert!(matches!(&no_tag, GitHubError::NoRelease { tag, .. } if tag == "v0.80.0"), "{no_tag}");
    let no_asset = locate(&fake, &client, TAG, "vega-plan9.zip").unwrap_err();
    assert!(matches!(&no_asset, GitHubError::NoAsset { there, .. } if there.len() == 2), "{no_asset}");
    assert!(no_asset.to_string().contains(ASSET), "{no_asset}");
    for error in [no_tag, no_asset] {
        assert_eq!(error.failure().kind, FailureKind::Transient, "it may be published yet");
        assert_eq!(error.retry_at(), None);
    }
    assert!(fake.web.all_requests().is_empty());

    let names: Vec<String> = (0..50).map(|number| format!("asset-{number}")).collect();
    let many: Vec<(&str, &[u8], bool)> = names.iter().map(|name| (name.as_str(), &b""[..], false)).collect();
    fake.publish(TAG, &many);
    let error = locate(&fake, &client, TAG, ASSET).unwrap_err();
    assert!(matches!(&error, GitHubError::NoAsset { there, .. } if there.len() == 20), "{error}");
}

#[test]
fn without_the_api_an_asset_is_where_assets_always_are() {
    let (fake, folder) = (released(), tempfile::tempdir().unwrap());
    let client = client_of(&fake, Some(SECRET));
    let page = Answer::Body { content_type: "text/html".to_owned(), bytes: b"<html>".to_vec() };
    for (what, answer) in [
        ("broken", Answer::Status(503, Vec::new())),
        ("no API at all", Answer::Status(404, b"<html>".to_vec())),
        ("a page for everything", page),
        ("no HTTP", Answer::Garbage),
        ("cut", Answer::CutAt { bytes: vec![b' '; 100], after: 10 }),
        ("endless", Answer::Endless),
        ("circle", Answer::RedirectLoop),
    ] {
        fake.api.serve_instead(Some(answer));
        let located = locate(&fake, &client, TAG, ASSET).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(located.how, How::Generated, "{what}");
        assert_eq!((located.digest.as_ref(), located.size), (None, None), "{what}");
        assert_eq!(located.url, fake.web.url(&fake.download_path(TAG, ASSET)), "{what}");
        assert!(!located.headers.contains_key("authorization"), "{what}");
        fetch(&located, folder.path()).unwrap();
    }
    assert!(fake.secrets_given_away().is_empty());
    let gone = GitHub::new("http://127.0.0.1:1/".parse().unwrap(), fake.web_url().parse().unwrap(), None).unwrap();
    assert_eq!(locate(&fake, &gone, TAG, ASSET).unwrap().how, How::Generated);
    let error = by_tag(&fake, &gone, TAG).unwrap_err();
    assert_eq!(error.failure().kind, FailureKind::Transient, "{error}");
}

#[test]
fn a_list_that_was_read_is_not_sent_again() {
    let fake = released();
    let client = client_of(&fake, None);
    let Fetched::New(list) = releases(&fake, &client).unwrap() else { panic!("it is new") };
    assert_eq!(list.len(), 1);
    assert_eq!(fake.api.last_request(&fake.list_path()).unwrap().query, "per_page=30");
    assert_eq!(releases(&fake, &client).unwrap(), Fetched::Unchanged);
    fake.publish("v0.80.0", &[]);
    let Fetched::New(list) = releases(&fake, &client).unwrap() else { panic!("there is a new one") };
    assert_eq!(list.iter().map(|it| it.tag.as_str()).collect::<Vec<_>>(), ["v0.80.0", TAG]);
    assert_eq!(releases(&fake, &client).unwrap(), Fetched::Unchanged);
    client.forget(&fake.owner, &fake.repository);
    assert!(matches!(releases(&fake, &client), Ok(Fetched::New(_))));
    // Who did not ask for a difference is not told that there is none.
    fake.api.serve_instead(Some(Answer::with_headers(304, &[])));
    assert!(matches!(releases(&fake, &client_of(&fake, None)), Err(GitHubError::Unreadable { .. })));
}

#[test]
fn who_asked_too_often_asks_nobody_until_it_may() {
    let (fake, folder) = (released(), tempfile::tempdir().unwrap());
    let client = client_of(&fake, None);
    let reset = in_seconds(1000);
    fake.limit_rate(reset);
    let error = by_tag(&fake, &client, TAG).unwrap_err();
    let until = error.retry_at().unwrap();
    assert!(until >= time(reset) && until <= time(reset + 1), "{until}");
    assert_eq!(error.failure().kind, FailureKind::Transient);
    fake.mend_api();
    assert_eq!(by_tag(&fake, &client, TAG), Err(error.clone()));
    assert_eq!(releases(&fake, &client), Err(error));
    assert_eq!(fake.api_requests(), 1);
    // What is needed now is to be had, if without a digest.
    let located = locate(&fake, &client, TAG, ASSET).unwrap();
    assert_eq!(located.how, How::Generated);
    fetch(&located, folder.path()).unwrap();
    assert_eq!(fake.api_requests(), 1);
}

#[test]
fn it_is_asked_again_when_its_time_is_over() {
    let fake = released();
    let client = client_of(&fake, None);
    fake.api.serve_instead(Some(Answer::with_headers(429, &[("Retry-After", "1")])));
    assert!(by_tag(&fake, &client, TAG).unwrap_err().retry_at().is_some());
    fake.mend_api();
    omnivisor_testkit::wait_until("the limit to end", Duration::from_secs(30), || by_tag(&fake, &client, TAG).ok());
    assert_eq!(fake.api_requests(), 2);
}

#[test]
fn what_is_forbidden_is_no_limit() {
    let fake = released();
    let client = client_of(&fake, None);
    fake.api.serve_instead(Some(Answer::with_headers(403, &[("X-RateLimit-Remaining", "12")])));
    let error = by_tag(&fake, &client, TAG).unwrap_err();
    assert!(matches!(error, GitHubError::Refused { .. }), "{error}");
    by_tag(&fake, &client, TAG).unwrap_err();
    assert_eq!(fake.api_requests(), 2);
}

#[test]
fn another_release_than_the_one_that_was_asked_for_is_none() {
    let fake = FakeGitHub::new();
    fake.publish_changed(TAG, &[], |release| release["tag_name"] = json!("v0.79"));
    fake.api.serve_instead(Some(Answer::Json(json!({"tag_name": "v0.79", "assets": []}))));
    let error = by_tag(&fake, &client_of(&fake, None), TAG).unwrap_err();
    assert!(matches!(error, GitHubError::Unreadable { .. }), "{error}");
}

#[test]
fn a_repository_that_has_moved_is_followed() {
    let fake = released();
    let moved = fake.tag_path(TAG).replace("/vega/", "/old-name/");
    fake.api.serve(&moved, Answer::Redirect(fake.tag_path(TAG)));
    let release = wait(client_of(&fake, None).release_by_tag(&fake.owner, "old-name", TAG)).unwrap();
    assert_eq!(release.tag, TAG);
}

#[test]
fn no_error_tells_a_secret() {
    let fake = released();
    fake.require_token(SECRET);
    let client = client_of(&fake, Some(SECRET));
    let located = locate(&fake, &client, TAG, ASSET).unwrap();
    let cut = Answer::CutAt { bytes: b"an archive".to_vec(), after: 3 };
    for answer in [Answer::Garbage, cut, Answer::Status(500, Vec::new()), Answer::RedirectLoop] {
        fake.web.serve_instead(Some(answer));
        let folder = tempfile::tempdir().unwrap();
        let failure = fetch(&located, folder.path()).unwrap_err();
        assert!(!failure.reason.contains(SECRET) && !failure.reason.contains("signature=secret"), "{}", failure.reason);
        assert_eq!(failure.kind, FailureKind::Transient);
    }
}

#[test]
fn a_download_has_to_be_what_was_said_of_it() {
    let (upstream, folder) = (Upstream::http(), tempfile::tempdir().unwrap());
    upstream.serve("/it", Answer::bytes("0123456789"));
    upstream.serve("/cut", Answer::CutAt { bytes: b"0123456789".to_vec(), after: 3 });
    upstream.serve("/endless", Answer::Endless);
    let other = Digest::new(Algorithm::Sha256, &[7; 32]).unwrap();
    let of = |path: &str, size, limit, digest: Option<&Digest>| {
        let (url, to) = (upstream.url(path), folder.path().join("it"));
        let wanted = Download { size, limit, digest, ..Download::of(&url) };
        let result = wait(download(&wanted, &to)).map_err(|failure| failure.kind);
        assert_eq!(to.exists(), result.is_ok());
        let _ = std::fs::remove_file(to);
        result
    };
    assert_eq!(of("/it", Some(10), 10, None), Ok(()));
    assert_eq!(of("/it", Some(11), 100, None), Err(FailureKind::Transient));
    assert_eq!(of("/it", None, 9, None), Err(FailureKind::Permanent));
    assert_eq!(of("/it", Some(10), 10, Some(&other)), Err(FailureKind::Permanent));
    assert_eq!(of("/cut", Some(10), 10, None), Err(FailureKind::Transient));
    assert_eq!(of("/endless", Some(10), 1 << 20, None), Err(FailureKind::Transient));
    assert_eq!(of("/endless", None, 1 << 20, None), Err(FailureKind::Permanent));
}
