//! Announcements that are made of Nym's releases on GitHub.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use omnivisor_core::dialect::nym::files::{PlanFile, UpgradeInfo};
use omnivisor_core::dialect::nym::hashes::GitHubSource;
use omnivisor_core::dialect::nym::queue::{Context, Upstream, announcements, merge_upstream};
use omnivisor_core::github::Release;
use omnivisor_core::release::Version;
use omnivisor_core::schedule::{Source, Trigger};
use omnivisor_core::time::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

const DIGEST: &str = "abababababababababababababababababababababababababababababababab";

fn source() -> GitHubSource {
    GitHubSource {
        owner: "nymtech".to_owned(),
        repository: "nym".to_owned(),
        tag: "nym-binaries-v*".to_owned(),
        pre_releases: false,
        wait: Duration::from_secs(48 * 3600),
        approval: true,
    }
}

/// As the API gives it.
fn release(tag: &str, published: &str, change: impl FnOnce(&mut Value)) -> Release {
    let mut release = json!({
        "tag_name": tag,
        "draft": false,
        "prerelease": false,
        "published_at": published,
        "assets": [{
            "name": "nym-node",
            "state": "uploaded",
            "browser_download_url": format!("https://github.com/nymtech/nym/releases/download/{tag}/nym-node"),
            "digest": format!("sha256:{DIGEST}"),
        }],
    });
    change(&mut release);
    Release::parse(release.to_string().as_bytes()).unwrap()
}

fn details(version: &str) -> Value {
    json!({
        "binary_name": "nym-node",
        "build_timestamp": "2025-05-20T10:00:00.000000000Z",
        "build_version": version,
        "commit_sha": "abc",
        "commit_timestamp": "2025-05-19T10:00:00.000000000+02:00",
        "commit_branch": "HEAD",
        "rustc_version": "1.86.0",
        "rustc_channel": "stable",
        "cargo_profile": "release",
        "cargo_triple": "x86_64-unknown-linux-gnu",
    })
}

/// As the action of Nym's repository writes it.
fn hashes(tag: &str, version: &str) -> Value {
    json!({
        "id": 1,
        "name": "Nym binaries",
        "tag_name": tag,
        "html_url": format!("https://github.com/nymtech/nym/releases/tag/{tag}"),
        "componentName": "nym-binaries",
        "componentVersion": "2025.8",
        "assets": {
            "nym-api": { "sha256": DIGEST, "downloadUrl": "https://x/nym-api" },
            "nym-wallet.deb": { "sha256": DIGEST, "signature": "…", "platform": "deb" },
            "nym-node": {
                "downloadUrl": format!("https://github.com/nymtech/nym/releases/download/{tag}/nym-node"),
                "sha256": DIGEST,
                "details": details(version),
            },
        },
    })
}

fn announced(source: &GitHubSource, release: &Release, hashes: &Value) -> Result<UpgradeInfo, String> {
    source.announcement(release, hashes.to_string().as_bytes(), "nym-node")
}

const TAG: &str = "nym-binaries-v2025.8-tourist";
const DAY: &str = "2025-05-20T12:00:00Z";

#[test]
fn the_highest_release_that_may_be_followed_is() {
    let tags = |release: &Release| release.tag.clone();
    let of = |tag: &str, day: u32| release(tag, &format!("2025-05-{day:02}T00:00:00Z"), |_| ());
    let drafted = release("nym-binaries-v2026.1", DAY, |it| it["draft"] = json!(true));
    let early = release("nym-binaries-v2025.12-beta", DAY, |it| it["prerelease"] = json!(true));
    let releases = [
        of("nym-wallet-v9.9.9", 9),
        drafted,
        early,
        of("nym-binaries-v2025.7.1-hotfix", 8),
        of("nym-binaries-v2025.10-brie", 3),
        of("nym-binaries-v2025.9-appenzeller", 2),
        release("nym-binaries-v2025.11", "never", |_| ()),
    ];
    assert_eq!(source().follows(&releases).map(tags).unwrap(), "nym-binaries-v2025.10-brie");
    let all = GitHubSource { pre_releases: true, ..source() };
    assert_eq!(all.follows(&releases).map(tags).unwrap(), "nym-binaries-v2025.12-beta");
    let exact = GitHubSource { tag: "nym-binaries-v2025.9-appenzeller".to_owned(), ..source() };
    assert_eq!(exact.follows(&releases).map(tags).unwrap(), "nym-binaries-v2025.9-appenzeller");
    let none = GitHubSource { tag: "nym-vpn-*".to_owned(), ..source() };
    assert_eq!(none.follows(&releases), None);
}

#[test]
fn what_is_published_is_an_announcement_that_nymvisor_can_read_and_waits_for_a_person() {
    let info = announced(&source(), &release(TAG, DAY, |_| ()), &hashes(TAG, "1.12.0")).unwrap();
    assert_eq!((info.name.as_str(), info.version.as_str(), info.manual), (TAG, "1.12.0", true));
    assert_eq!(info.upgrade_time.0, Timestamp::parse("2025-05-22T12:00:00Z").unwrap());
    assert_eq!(UpgradeInfo::parse(&info.to_bytes()).unwrap(), info);

    let context = Context {
        platform: "linux-x86_64".to_owned(),
        instance: "one".to_owned(),
        siblings: Vec::new(),
        allow_download: true,
        enforce_checksum: true,
    };
    let merged = |approval| {
        let mut plan = PlanFile::new(UpgradeInfo::genesis(serde_json::from_value(details("1.11.0")).unwrap()));
        let from = Upstream { place: "github:nymtech/nym", approval };
        merge_upstream(&mut plan, &info, from, &context, &Version::new("1.11.0"), &|_| false);
        announcements(&PlanFile::parse(&plan.to_bytes()).unwrap(), &context).announcements.remove(0)
    };
    let first = merged(true);
    assert_eq!(first.trigger, Trigger::OnCommand { ends: false });
    assert_eq!(first.release.digest.unwrap().to_hex(), DIGEST);
    let url = format!("https://github.com/nymtech/nym/releases/download/{TAG}/nym-node");
    assert_eq!(first.source, Source::Download { url });
    assert_eq!(first.expected.get("commit_sha"), Some("abc"));
}

#[test]
fn without_a_person_it_is_done_when_others_have_had_the_time_to_look_at_it() {
    let source = GitHubSource { approval: false, ..source() };
    let info = announced(&source, &release(TAG, DAY, |_| ()), &hashes(TAG, "1.12.0")).unwrap();
    assert!(!info.manual);
    assert_eq!(info.upgrade_time.0, Timestamp::parse("2025-05-22T12:00:00Z").unwrap());
}

#[test]
fn what_does_not_fit_together_is_no_announcement() {
    let good = || release(TAG, DAY, |_| ());
    let other_file = release(TAG, DAY, |it| it["assets"][0]["digest"] = json!(format!("sha256:{}", "00".repeat(32))));
    let no_file = release(TAG, DAY, |it| it["assets"] = json!([]));
    let changed = |change: fn(&mut Value)| {
        let mut hashes = hashes(TAG, "1.12.0");
        change(&mut hashes);
        hashes
    };
    for (release, hashes, reason) in [
        (other_file, hashes(TAG, "1.12.0"), "but GitHub has a file that is sha256:0000"),
        (no_file, hashes(TAG, "1.12.0"), "the release has no file nym-node"),
        (good(), hashes("nym-binaries-v2025.7", "1.12.0"), "that of another release"),
        (good(), changed(|it| it["assets"]["nym-node"] = json!(null)), "makes no sense"),
        (good(), changed(|it| it["assets"]["nym-node"]["sha256"] = json!("abc")), "is none"),
        (good(), changed(|it| drop(it["assets"]["nym-node"]["details"].take())), "makes no sense"),
        (good(), changed(|it| drop(it["assets"].as_object_mut().unwrap().remove("nym-node"))), "but of: nym-api"),
        (good(), json!([]), "an object with assets"),
    ] {
        let error = announced(&source(), &release, &hashes).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_build_for_another_platform_is_announced_for_that() {
    for (triple, key) in [
        ("aarch64-unknown-linux-gnu", "linux-aarch64"),
        ("x86_64-apple-darwin", "darwin-x86_64"),
        ("unknown", "linux-x86_64"),
        ("", "linux-x86_64"),
    ] {
        let mut hashes = hashes(TAG, "1.12.0");
        hashes["assets"]["nym-node"]["details"]["cargo_triple"] = json!(triple);
        let info = announced(&source(), &release(TAG, DAY, |_| ()), &hashes).unwrap();
        assert_eq!(info.platforms.keys().collect::<Vec<_>>(), [key]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_an_announcement_or_none(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..900) {
        let release = release(TAG, DAY, |_| ());
        let _ = source().announcement(&release, &bytes, "nym-node");
        let mut good = hashes(TAG, "1.12.0").to_string().into_bytes();
        let at = at.min(good.len());
        good.splice(at..at, bytes.into_iter().take(3));
        let _ = source().announcement(&release, &good, "nym-node");
    }

    #[test]
    fn any_tag_is_followed_or_not(tag in "\\PC{0,40}", pattern in "\\PC{0,10}\\*?\\PC{0,10}") {
        let _ = GitHubSource { tag: pattern, ..source() }.follows(&[release(&tag, DAY, |_| ())]);
    }
}
