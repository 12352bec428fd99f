//! The queue of the Nym dialect: what it announces, and what an upstream, a person and an upgrade change in it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use omnivisor_core::dialect::nym::build_info::BuildInfo;
use omnivisor_core::dialect::nym::files::{HistoryFile, Lenient, PlanFile, UpgradeInfo};
use omnivisor_core::dialect::nym::queue::{
    Context, Merged, Observed, Outcome, Upstream, add_local, announcements, history_with, merge_upstream, settle,
};
use omnivisor_core::release::{Digest, Release, Version};
use omnivisor_core::schedule::{Origin, Source, Trigger};
use omnivisor_core::time::Timestamp;
use serde_json::{Value, json};

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("fixtures/nym/", $name))
    };
}

const URL: &str = "https://nymtech.net/.wellknown/nym-node/upgrade-info.json";

fn time(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn build_info() -> BuildInfo {
    BuildInfo::parse(fixture!("build-info.json").as_bytes()).unwrap()
}

// ---- the queue, read

fn context() -> Context {
    Context {
        platform: "linux-x86_64".to_owned(),
        instance: "a".to_owned(),
        siblings: Vec::new(),
        allow_download: true,
        enforce_checksum: true,
    }
}

fn shared(instance: &str) -> Context {
    let siblings = ["a", "b"].iter().filter(|other| **other != instance).map(|other| (*other).to_owned()).collect();
    Context { instance: instance.to_owned(), siblings, ..context() }
}

/// A release as upstream announces it.
fn answer(name: &str, version: &str, time: &str) -> UpgradeInfo {
    let info = json!({
        "manual": false, "name": name, "notes": "", "publishDate": null, "version": version,
        "platforms": {"linux-x86_64": {"checksum": "AB".repeat(32), "checksumAlgorithm": "sha256", "url": "https://x/y"}},
        "upgradeTime": time,
    });
    UpgradeInfo::parse(info.to_string().as_bytes()).unwrap()
}

fn plan_of(queue: Value) -> PlanFile {
    let mut plan: Value = serde_json::from_str(fixture!("upgrade-plan-empty.json")).unwrap();
    plan["queuedUp"] = queue;
    PlanFile::parse(plan.to_string().as_bytes()).unwrap()
}

fn empty() -> PlanFile {
    plan_of(json!([]))
}

/// Changes one value of an announced release, and reads it as the only entry of a queue.
fn observe(pointer: &str, value: Value, ctx: &Context) -> Observed {
    let mut entry: Value = serde_json::from_slice(&answer("up", "2.0.0", "2030-01-01T00:00:00Z").to_bytes()).unwrap();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    entry.pointer_mut(parent).unwrap()[key] = value;
    announcements(&plan_of(json!([entry])), ctx)
}

#[test]
fn an_entry_is_announced_with_all_it_says() {
    let plan = PlanFile::parse(fixture!("upgrade-plan.json").as_bytes()).unwrap();
    let observed = announcements(&plan, &Context { enforce_checksum: false, ..context() });
    assert_eq!(observed.refused, []);
    let [local, up, last] = &observed.announcements[..] else { panic!("{observed:?}") };
    assert_eq!(local.release.name.as_str(), "up1");
    assert_eq!((local.origin, local.release.digest.as_ref()), (Origin::Local, None));
    assert!(matches!(&local.source, Source::Placed { why } if why.contains("on this machine")), "{:?}", local.source);
    assert_eq!(local.expected.get("commit_sha"), Some("abc"));
    assert_eq!(up.trigger, Trigger::At(time("2030-01-01T00:00:00+02:00")));
    assert_eq!(up.published, Some(time("2029-12-24T11:00:00Z")));
    assert_eq!(up.origin, Origin::Upstream);
    assert_eq!(up.release.digest.as_ref().unwrap().to_string(), format!("sha256:{}", "ab".repeat(32)));
    let url = "https://github.com/nymtech/nym/releases/download/v1.2/nym-node";
    assert_eq!(up.source, Source::Download { url: url.to_owned() });
    assert_eq!(up.expected, Default::default());
    assert_eq!((last.trigger, last.release.digest.as_ref()), (Trigger::OnCommand { ends: true }, None));
    assert_eq!(last.source, Source::Download { url: "http://example.com/x".to_owned() });
}

#[test]
fn an_entry_without_a_usable_build_needs_a_placed_executable() {
    let build = |key: &str| format!("/platforms/linux-x86_64/{key}");
    let no_download = Context { allow_download: false, ..context() };
    let elsewhere = Context { platform: "linux-arm".to_owned(), ..context() };
    for (pointer, value, ctx, part) in [
        ("/notes".to_owned(), json!(""), &elsewhere, "no build for linux-arm (there are: linux-x86_64)"),
        ("/notes".to_owned(), json!(""), &no_download, "DAEMON_ALLOW_BINARIES_DOWNLOAD"),
        (build("checksum"), json!(""), &context(), "DAEMON_ENFORCE_DOWNLOAD_CHECKSUM"),
        (build("checksum"), json!("abc"), &context(), "\"abc\" is not a sha256 checksum"),
        (build("checksumAlgorithm"), json!("md5"), &context(), "\"md5\""),
        (build("url"), json!("x/y"), &context(), "not an address"),
        (build("url"), json!("ftp://x/y"), &context(), "only http and https"),
        (build("url"), json!(5), &context(), "linux-x86_64 cannot be downloaded"),
        ("/platforms/linux-x86_64".to_owned(), json!(null), &context(), "linux-x86_64 cannot be downloaded"),
    ] {
        let observed = observe(&pointer, value, ctx);
        assert_eq!(observed.refused, [], "{part}");
        let Source::Placed { why } = &observed.announcements[0].source else { panic!("{observed:?}") };
        assert!(why.contains(part), "{why} lacks {part}");
    }
    let algorithm = observe(&build("checksumAlgorithm"), json!("SHA256"), &context());
    assert!(matches!(algorithm.announcements[0].source, Source::Download { .. }), "upper case is fine");
    let odd = observe("/platforms/darwin-x86_64", json!({"checksumAlgorithm": "md5"}), &context());
    assert!(matches!(odd.announcements[0].source, Source::Download { .. }), "another platform's build is no matter");
    assert!(observe("/notes", json!(""), &no_download).announcements[0].release.digest.is_some());
}

#[test]
fn an_entry_that_cannot_be_followed_is_refused_with_a_reason() {
    for (pointer, value, name, part) in [
        ("/name", json!("a/x"), "a/x", "separator"),
        ("/name", json!("genesis"), "genesis", "first release"),
        ("/name", json!(7), "entry 1 of queuedUp", "string"),
        ("/version", json!(" "), "up", "version is empty"),
        ("/manual", json!("no"), "up", "boolean"),
        ("/upgradeTime", json!("soon"), "up", "RFC 3339"),
        ("/omnivisor", json!([]), "up", "expected an object"),
    ] {
        let observed = observe(pointer, value, &context());
        assert_eq!(observed.announcements, [], "{pointer}");
        assert_eq!(observed.refused[0].name, name);
        assert!(observed.refused[0].reason.contains(part), "{observed:?} lacks {part}");
    }
    let no_build = json!({"digest": "md5:00"});
    let plan = plan_of(json!([{"manual": false, "name": "l", "version": "1", "platforms": {},
        "upgradeTime": "2030-01-01T00:00:00Z", "omnivisor": no_build}]));
    assert!(announcements(&plan, &context()).refused[0].reason.contains("omnivisor"));
}

#[test]
fn an_entry_with_instances_is_for_those_at_their_time() {
    let own = json!({"instances": {"a": "2031-01-01T00:00:00Z"}});
    let observed = observe("/omnivisor", own.clone(), &shared("a"));
    assert_eq!(observed.announcements[0].trigger, Trigger::At(time("2031-01-01T00:00:00Z")));
    assert_eq!(observe("/omnivisor", own, &shared("b")), Observed::default());
}

#[test]
fn who_announced_a_release_decides_its_origin() {
    let placed = |own: Value| {
        let plan = plan_of(json!([{"manual": false, "name": "l", "version": "1", "platforms": {},
            "upgradeTime": "2030-01-01T00:00:00Z", "omnivisor": own}]));
        announcements(&plan, &context()).announcements.remove(0)
    };
    assert_eq!(placed(json!(null)).origin, Origin::Local);
    assert_eq!(placed(json!({"upstream": URL})).origin, Origin::Upstream);
    let older = placed(json!({"allowOlder": true, "digest": format!("sha512:{}", "0f".repeat(64))}));
    assert_eq!(older.origin, Origin::LocalDowngrade);
    assert_eq!(older.release.digest.unwrap().to_hex(), "0f".repeat(64));
}

#[test]
fn the_same_name_with_another_version_is_another_announcement() {
    let entry = |version| Lenient::Known(answer("up", version, "2030-01-01T00:00:00Z"));
    let plan = PlanFile { queued_up: vec![entry("2.0.0"), entry("2.0.1")], ..empty() };
    assert_eq!(announcements(&plan, &context()).announcements.len(), 2);
}

// ---- the queue, changed

fn from(place: &str) -> Upstream<'_> {
    Upstream { place, approval: false }
}

fn merge(plan: &mut PlanFile, answer: &UpgradeInfo, ctx: &Context) -> Merged {
    let before = plan.clone();
    let merged = merge_upstream(plan, answer, from(URL), ctx, &Version::new("1.0.0"), &|_| false);
    assert_eq!(merged.changed(), *plan != before, "{merged:?}");
    merged
}

fn outcome(outcome: Outcome) -> Merged {
    Merged { outcome, withdrawn: Vec::new() }
}

/// What each instance sees: "name version time", joined.
fn seen(plan: &PlanFile, ctx: &Context) -> String {
    let line = |announcement: omnivisor_core::schedule::Announcement| {
        let Release { name, version, .. } = announcement.release;
        format!("{name} {version} {}", announcement.trigger)
    };
    announcements(plan, ctx).announcements.into_iter().map(line).collect::<Vec<_>>().join("; ")
}

/// The names in the queue, in its order; "?" for what cannot be read.
fn names(plan: &PlanFile) -> Vec<&str> {
    plan.queued_up.iter().map(|entry| entry.known().map_or("?", |info| info.name.as_str())).collect()
}

#[test]
fn a_new_announcement_is_queued_once_and_in_order() {
    let mut plan = PlanFile::parse(fixture!("upgrade-plan.json").as_bytes()).unwrap();
    plan.queued_up.insert(0, Lenient::Malformed { raw: json!({"name": "odd"}), reason: "x".to_owned() });
    let up = answer("new", "2.0.0", "2029-01-01T00:00:00Z");
    assert_eq!(merge(&mut plan, &up, &context()), outcome(Outcome::Added));
    assert_eq!(names(&plan), ["up1", "new", "2030.1-up2", "last", "?"]);
    assert_eq!(merge(&mut plan, &up, &context()), outcome(Outcome::Unchanged));
    let own = plan.queued_up[1].known().unwrap().omnivisor.clone().unwrap();
    assert_eq!((own.upstream.as_deref(), own.instances), (Some(URL), None));
    let again = PlanFile::parse(&plan.to_bytes()).unwrap();
    assert_eq!(again.queued_up[..4], plan.queued_up[..4]);
    assert_eq!(names(&again), names(&plan));
}

#[test]
fn only_what_is_newer_and_not_denied_is_queued() {
    for version in ["1.0.0", "0.9.9", "1.0.0-rc.1", "banana"] {
        let mut plan = empty();
        let up = answer("up", version, "2030-01-01T00:00:00Z");
        assert_eq!(merge(&mut plan, &up, &context()), outcome(Outcome::NotNewer), "{version}");
    }
    let up = answer("up", "2.0.0", "2030-01-01T00:00:00Z");
    let digest = Digest::parse(&format!("sha256:{}", "ab".repeat(32))).unwrap();
    let denied = |release: &Release| release.digest.as_ref() == Some(&digest);
    let mut plan = empty();
    let merged = merge_upstream(&mut plan, &up, from(URL), &context(), &Version::new("1"), &denied);
    assert_eq!((merged, plan), (outcome(Outcome::Denied), empty()));
}

#[test]
fn an_announcement_that_cannot_be_followed_changes_nothing() {
    let mut plan = empty();
    merge(&mut plan, &answer("up", "2.0.0", "2030-01-01T00:00:00Z"), &context());
    for (name, version) in [("../up", "3.0.0"), ("genesis", "3.0.0"), ("up", "")] {
        let merged = merge(&mut plan, &answer(name, version, "2030-01-01T00:00:00Z"), &context());
        assert!(matches!(merged.outcome, Outcome::Refused(_)), "{merged:?}");
        assert_eq!(names(&plan), ["up"]);
    }
}

#[test]
fn upstream_cannot_speak_for_this_program() {
    let mut up = answer("up", "2.0.0", "2030-01-01T00:00:00Z");
    up.omnivisor = Some(serde_json::from_value(json!({"allowOlder": true, "instances": {}})).unwrap());
    let mut plan = empty();
    merge(&mut plan, &up, &context());
    assert_eq!(announcements(&plan, &context()).announcements[0].origin, Origin::Upstream);
    up.version = "0.1.0".to_owned();
    assert_eq!(merge(&mut plan, &up, &context()).outcome, Outcome::NotNewer);
}

#[test]
fn a_correction_replaces_what_was_announced() {
    let mut plan = empty();
    merge(&mut plan, &answer("up", "2.0.0", "2030-01-01T00:00:00Z"), &context());
    let mut up = answer("up", "2.0.0", "2031-01-01T00:00:00Z");
    up.manual = true;
    up.extra.insert("new".to_owned(), json!(1));
    up.platforms.insert("any".to_owned(), json!({"url": "http://x/"}));
    assert_eq!(merge(&mut plan, &up, &context()), outcome(Outcome::Updated));
    let mut queued = plan.queued_up[0].known().unwrap().clone();
    assert!(queued.omnivisor.take().is_some());
    assert_eq!(queued, up);
}

#[test]
fn a_withdrawn_announcement_leaves_the_queue() {
    let mut plan = empty();
    merge(&mut plan, &answer("up", "2.0.0", "2030-01-01T00:00:00Z"), &context());
    let other = "https://other/";
    let third = answer("third", "2.5.0", "2030-06-01T00:00:00Z");
    merge_upstream(&mut plan, &third, from(other), &context(), &Version::new("1.0.0"), &|_| false);
    plan.queued_up.push(Lenient::Known(answer("by hand", "2.1.0", "2031-01-01T00:00:00Z")));
    let withdrawn =
        |outcome, names: &[&str]| Merged { outcome, withdrawn: names.iter().map(|n| (*n).to_owned()).collect() };
    let up = answer("up", "2.0.1", "2030-01-01T00:00:00Z");
    assert_eq!(merge(&mut plan, &up, &context()), withdrawn(Outcome::Added, &["up"]), "another version of the name");
    let old = answer("old", "1.0.0", "2020-01-01T00:00:00Z");
    assert_eq!(merge(&mut plan, &old, &context()), withdrawn(Outcome::NotNewer, &["up"]), "a step back");
    assert_eq!(names(&plan), ["third", "by hand"], "what others queued stays");
}

#[test]
fn what_a_person_queued_stays_and_what_nymvisor_queued_is_taken_over() {
    let mut plan = empty();
    let details = BuildInfo { build_version: "2.0.0".to_owned(), ..build_info() };
    let at = time("2030-01-01T00:00:00Z");
    add_local(&mut plan, UpgradeInfo::local("up", details, at, None, at), None, false, false).unwrap();
    let up = answer("up", "2.0.0", "2031-01-01T00:00:00Z");
    assert_eq!(merge(&mut plan, &up, &context()), outcome(Outcome::KeptLocal));

    let mut plan = PlanFile { queued_up: vec![Lenient::Known(up.clone())], ..empty() };
    assert_eq!(merge(&mut plan, &up, &context()), outcome(Outcome::Updated));
    assert_eq!(plan.queued_up.len(), 1);
    let next = answer("next", "2.1.0", "2031-01-01T00:00:00Z");
    assert_eq!(merge(&mut plan, &next, &context()).withdrawn, ["up"]);
}

#[test]
fn two_instances_follow_one_queue_each_at_its_own_time() {
    let (a, b) = (shared("a"), shared("b"));
    let mut plan = empty();
    let up = |time| answer("up", "2.0.0", time);
    assert_eq!(merge(&mut plan, &up("2030-01-02T00:00:00Z"), &a).outcome, Outcome::Added);
    assert_eq!((seen(&plan, &b).as_str(), plan.queued_up.len()), ("", 1), "b has not asked yet");
    assert_eq!(merge(&mut plan, &up("2030-01-01T00:00:00Z"), &b).outcome, Outcome::Added);
    assert_eq!(seen(&plan, &a), "up 2.0.0 at 2030-01-02T00:00:00Z");
    assert_eq!(seen(&plan, &b), "up 2.0.0 at 2030-01-01T00:00:00Z");
    assert_eq!(plan.queued_up[0].known().unwrap().upgrade_time.to_string(), "2030-01-01T00:00:00Z");
    assert_eq!(merge(&mut plan, &up("2030-01-01T00:00:00Z"), &b), outcome(Outcome::Unchanged));
    // The one that is through takes itself off; the other goes on.
    assert!(settle(&mut plan, "up", "2.0.0", &b));
    assert!(!settle(&mut plan, "up", "2.0.0", &b));
    assert_eq!((seen(&plan, &a).as_str(), seen(&plan, &b).as_str()), ("up 2.0.0 at 2030-01-02T00:00:00Z", ""));
    assert_eq!(plan.queued_up[0].known().unwrap().upgrade_time.to_string(), "2030-01-02T00:00:00Z");
    assert!(!settle(&mut plan, "up", "2.0.1", &a), "another version is another release");
    assert!(settle(&mut plan, "up", "2.0.0", &a));
    assert_eq!(plan, empty());
}

#[test]
fn an_entry_for_everybody_is_split_when_one_differs() {
    let (a, b) = (shared("a"), shared("b"));
    let everybody =
        || PlanFile { queued_up: vec![Lenient::Known(answer("up", "2.0.0", "2030-01-01T00:00:00Z"))], ..empty() };
    let old = "up 2.0.0 at 2030-01-01T00:00:00Z";

    let mut plan = everybody();
    merge(&mut plan, &answer("up", "2.0.0", "2029-01-01T00:00:00Z"), &a);
    assert_eq!((seen(&plan, &a).as_str(), seen(&plan, &b).as_str()), ("up 2.0.0 at 2029-01-01T00:00:00Z", old));

    let mut plan = everybody();
    assert!(settle(&mut plan, "up", "2.0.0", &a));
    assert_eq!((seen(&plan, &a).as_str(), seen(&plan, &b).as_str()), ("", old));

    let mut plan = everybody();
    merge(&mut plan, &answer("up", "2.0.0", "2030-01-01T00:00:00Z"), &a);
    assert_eq!(merge(&mut plan, &answer("x", "3.0.0", "2030-01-01T00:00:00Z"), &a).withdrawn, ["up"]);
    assert_eq!((seen(&plan, &a).as_str(), seen(&plan, &b).as_str()), ("x 3.0.0 at 2030-01-01T00:00:00Z", old));

    let mut plan = everybody();
    assert!(settle(&mut plan, "up", "2.0.0", &context()));
    assert_eq!(plan, empty(), "an instance that is alone removes it");
}

#[test]
fn a_local_release_needs_a_free_name_or_force() {
    let local = |version: &str| {
        let details = BuildInfo { build_version: version.to_owned(), ..build_info() };
        let at = time("2030-01-01T00:00:00Z");
        UpgradeInfo::local("up", details, at, None, at)
    };
    let digest = Digest::parse(&format!("sha256:{}", "01".repeat(32))).unwrap();
    let mut plan =
        PlanFile { queued_up: vec![Lenient::Known(answer("later", "3", "2031-01-01T00:00:00Z"))], ..empty() };
    add_local(&mut plan, local("2.0.0"), Some(&digest), false, false).unwrap();
    assert_eq!(names(&plan), ["up", "later"]);
    let error = add_local(&mut plan, local("0.5.0"), None, true, false).unwrap_err().to_string();
    assert!(error.contains("\"up\"") && error.contains("2.0.0") && error.contains("--force"), "{error}");
    assert_eq!(announcements(&plan, &context()).announcements[0].release.digest, Some(digest));
    add_local(&mut plan, local("0.5.0"), None, true, true).unwrap();
    assert_eq!(names(&plan), ["up", "later"]);
    let announcement = &announcements(&plan, &context()).announcements[0];
    assert_eq!((announcement.origin, announcement.release.version.as_str()), (Origin::LocalDowngrade, "0.5.0"));
    let bad = UpgradeInfo { name: "genesis".to_owned(), ..local("1") };
    assert!(add_local(&mut plan, bad, None, false, true).unwrap_err().to_string().contains("first release"));
}

#[test]
fn an_upgrade_is_noted_once() {
    let info = UpgradeInfo::parse(fixture!("local-upgrade-info.json").as_bytes()).unwrap();
    let at = time("2026-11-22T05:23:56.989607769Z");
    let old = HistoryFile::parse(fixture!("upgrade-history.json").as_bytes()).unwrap();
    assert_eq!(history_with(Some(old.clone()), at, info.clone(), "a"), None);
    let later = at.plus(Duration::from_secs(1));
    let new = history_with(Some(old.clone()), later, info.clone(), "a").unwrap();
    assert_eq!((new.history.len(), &new.history[0]), (2, &old.history[0]));
    assert!(String::from_utf8(new.to_bytes()).unwrap().contains("\"omnivisorInstance\": \"a\""));
    assert_eq!(history_with(None, at, info, "a").unwrap().history.len(), 1);
}
