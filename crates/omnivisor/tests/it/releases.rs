//! Nym's releases, followed on GitHub instead of at the upstream that Nymvisor asks.

use std::fs;
use std::time::Duration;

use omnivisor_testkit::{Answer, Behaviour, FakeGitHub, Supervised, sha256_hex, wait_until};
use serde_json::{Value, json};

use crate::world::{SOON, World, options};

const TAG: &str = "nym-binaries-v2025.8-tourist";

struct Nym {
    world: World,
    github: FakeGitHub,
}

impl Nym {
    fn new() -> Self {
        Self { world: World::new(), github: FakeGitHub::of("nymtech", "nym") }
    }

    /// Publishes a release as Nym does: the executable, and what `hashes.json` says of it after `change`.
    fn publish(&self, tag: &str, behaviour: &Behaviour, change: impl FnOnce(&mut Value)) {
        let executable = self.world.minted(behaviour);
        let mut hashes = json!({
            "tag_name": tag,
            "assets": { "nym-node": { "sha256": sha256_hex(&executable), "details": behaviour.details() } },
        });
        change(&mut hashes);
        let (executable, hashes) = (fs::read(executable).unwrap(), hashes.to_string().into_bytes());
        let assets = [("nym-node", executable.as_slice(), true), ("hashes.json", hashes.as_slice(), true)];
        self.github.publish_changed(tag, &assets, |release| release["prerelease"] = json!(false));
    }

    /// A supervisor with these variables, and a node that runs.
    fn run(&self, variables: &[(&str, &str)]) -> Supervised {
        let mut command = self.world.run_command();
        command.env("OMNIVISOR_NYM_GITHUB", "nymtech/nym");
        command.env("OMNIVISOR_GITHUB_API", self.github.api_url()).env("OMNIVISOR_GITHUB_WEB", self.github.web_url());
        command.envs(variables.iter().copied());
        let supervised = self.world.sandbox.spawn(command);
        self.world.wait_for("1.0.0");
        supervised
    }
}

fn wait_for_line(supervised: &Supervised, words: &[&str]) {
    wait_until(&format!("a line with {words:?}"), SOON, || {
        supervised.stderr().lines().find(|line| words.iter().all(|word| line.contains(word))).map(|_| ())
    });
}

#[test]
fn a_release_on_github_is_prepared_and_switched_to_when_a_person_says_so_and_the_run_goes_on() {
    let nym = Nym::new();
    nym.publish(TAG, &Behaviour::new("1.1.0"), |_| ());
    let mut supervised = nym.run(&[]);
    let status = nym.world.wait_for_status("it is prepared", |status| status["upgrade"]["phase"] == "staged");
    let standing = status["announced"][0]["standing"].as_str().unwrap();
    assert!(standing.contains(&format!("waits for `omnivisor upgrade {TAG}`")), "{standing}");
    nym.world.wait_for("1.0.0");
    let entry = nym.world.plan()["queuedUp"][0].clone();
    assert_eq!((entry["version"].as_str(), entry["manual"].as_bool()), (Some("1.1.0"), Some(true)), "{entry:#}");
    assert!(nym.world.omnivisor(&["upgrade", TAG]).status.success());
    nym.world.wait_for("1.1.0");
    nym.world.wait_for_commit("1.1.0");
    assert_eq!(nym.world.upstream.requests(crate::world::ANNOUNCEMENT), 0, "one source, not two");
    assert!(supervised.try_wait().is_none(), "the run goes on");
    nym.world.log().assert_never_double();
}

#[test]
fn where_no_person_has_to_say_so_it_is_done_after_the_time_that_others_have_to_look_at_it() {
    let nym = Nym::new();
    nym.publish(TAG, &Behaviour::new("1.1.0"), |_| ());
    let _supervised = nym.run(&[
        ("OMNIVISOR_NYM_APPROVAL", "false"),
        ("OMNIVISOR_NYM_COOL_DOWN", "3s"),
        ("OMNIVISOR_NYM_SPREAD", "1s"),
    ]);
    let entry = wait_until("it is queued", SOON, || nym.world.plan()["queuedUp"].get(0).cloned());
    let time = |key: &str| omnivisor_core::time::Timestamp::parse(entry[key].as_str().unwrap()).unwrap();
    let wait = time("upgradeTime").since(time("publishDate"));
    assert!(wait >= Duration::from_secs(3) && wait <= Duration::from_secs(4), "{wait:?}");
    nym.world.wait_for_commit("1.1.0");
}

#[test]
fn by_itself_nothing_is_done_for_two_days_after_a_release() {
    let nym = Nym::new();
    nym.publish(TAG, &Behaviour::new("1.1.0"), |_| ());
    let _supervised = nym.run(&[("OMNIVISOR_NYM_APPROVAL", "false")]);
    let status = nym.world.wait_for_status("it is prepared", |status| status["upgrade"]["phase"] == "staged");
    let left = status["announced"][0]["dueInSeconds"].as_u64().unwrap() / 3600;
    assert!((47..=54).contains(&left), "{left} hours");
    // A release that is taken back meanwhile is none.
    nym.publish("nym-binaries-v2025.7", &Behaviour::new("1.0.0"), |_| ());
    nym.github.withdraw(TAG);
    nym.world.wait_for_status("it is dropped", |status| status["upgrade"]["phase"] == "idle");
    nym.world.wait_for("1.0.0");
}

/// Whatever is left says nothing, and is no reason to go on with what is gone.
#[test]
fn a_release_that_is_taken_back_is_dropped_also_if_no_other_can_be_announced() {
    let nym = Nym::new();
    let executable = fs::read(nym.world.minted(&Behaviour::new("1.0.5"))).unwrap();
    let without_hashes = [("nym-node", executable.as_slice(), true)];
    nym.github.publish_changed("nym-binaries-v2025.7", &without_hashes, |it| it["prerelease"] = json!(false));
    nym.publish(TAG, &Behaviour::new("1.1.0"), |_| ());
    let supervised = nym.run(&[("OMNIVISOR_NYM_APPROVAL", "false")]);
    nym.world.wait_for_status("it is prepared", |status| status["upgrade"]["phase"] == "staged");
    nym.github.withdraw(TAG);
    wait_for_line(&supervised, &["withdrew the upgrade", TAG]);
    nym.world.wait_for_status("it is dropped", |status| status["upgrade"]["phase"] == "idle");
    assert!(nym.world.plan()["queuedUp"].as_array().unwrap().is_empty());
    wait_for_line(&supervised, &["has no asset \"hashes.json\""]);
}

#[test]
fn hashes_that_are_not_those_of_the_file_are_not_believed_until_they_are() {
    let nym = Nym::new();
    nym.publish(TAG, &Behaviour::new("1.1.0"), |hashes| {
        hashes["assets"]["nym-node"]["sha256"] = json!("0".repeat(64));
    });
    let supervised = nym.run(&[]);
    wait_for_line(&supervised, &["hashes.json of the release", "but GitHub has a file that is", "the node runs on"]);
    assert!(nym.world.plan()["queuedUp"].as_array().unwrap().is_empty());
    nym.publish(TAG, &Behaviour::new("1.1.0"), |_| ());
    nym.world.wait_for_status("it is prepared", |status| status["upgrade"]["phase"] == "staged");
}

#[test]
fn what_its_makers_do_not_call_ready_is_followed_only_if_that_is_wanted() {
    let nym = Nym::new();
    let executable = fs::read(nym.world.minted(&Behaviour::new("1.1.0"))).unwrap();
    nym.github.publish(TAG, &[("nym-node", &executable, true)]);
    let supervised = nym.run(&[]);
    wait_for_line(&supervised, &["none of the 1 newest is one that is followed"]);
    drop(supervised);
    let supervised = nym.run(&[("OMNIVISOR_NYM_CHANNEL", "pre-release")]);
    wait_for_line(&supervised, &["has no asset \"hashes.json\", but nym-node"]);
}

#[test]
fn an_upstream_that_is_gone_for_long_is_said_to_be_with_where_releases_are_to_be_had() {
    for page in [Answer::Status(404, b"gone".to_vec()), Answer::Status(200, b"<!doctype html><html>".to_vec())] {
        let world = World::with(
            Behaviour::new("1.0.0"),
            omnivisor_testkit::Options { polling_rate: "100ms".to_owned(), ..options() },
        );
        world.upstream.serve(crate::world::ANNOUNCEMENT, page);
        let config = || {
            let output = world.nymvisor(&["config"]).output().unwrap();
            assert!(output.status.success());
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        assert!(!config().contains("nymtech/nym"), "nobody knows yet");
        let supervised = world.run();
        wait_for_line(&supervised, &["no announcement, since", "github = \"nymtech/nym\""]);
        wait_until("config says so", SOON, || config().contains("github = \"nymtech/nym\"").then_some(()));
        world.publish("up1", &Behaviour::new("1.1.0"));
        world.wait_for_commit("1.1.0");
        assert!(!config().contains("nymtech/nym"), "it is back");
    }
}
