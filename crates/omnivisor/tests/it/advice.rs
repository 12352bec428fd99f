//! Whoever is told that something is not as it should be is told what to do next.

use std::fs;
use std::process::Output;

use omnivisor_testkit::{Behaviour, wait_until};

use crate::world::{SOON, World};

fn add(world: &World, name: &str, behaviour: &Behaviour, more: &[&str]) -> Output {
    let executable = world.minted(behaviour);
    let arguments = ["add-upgrade", executable.to_str().unwrap(), "--upgrade-name", name];
    world.nymvisor(&[&arguments, more].concat()).output().unwrap()
}

#[track_caller]
fn assert_fails(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "{word} is not said in:\n{said}");
    }
}

/// A release that was taken back would be queued and silently dropped, `--force` or not; and it would be forgotten by `status`.
#[test]
fn a_release_that_failed_here_is_refused_by_name_and_shown() {
    let world = World::new();
    let _supervised = world.run();
    let sick = Behaviour { exit_after_ms: Some(1), exit_code: 3, ..Behaviour::new("2.0.0") };
    let output = add(&world, "sick", &sick, &["--now"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let status = world.wait_for_status("it is taken back", |status| {
        status["upgrade"]["phase"] == "idle" && status["failed"].as_array().is_some_and(|failed| !failed.is_empty())
    });
    assert_eq!((&status["failed"][0]["name"], &status["failed"][0]["version"]), (&"sick".into(), &"2.0.0".into()));
    let said = world.omnivisor(&["status"]);
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("failed      2.0.0 (sick): is not installed again: it died"), "{said}");

    // The files for other tools follow a moment later.
    wait_until("it is off the queue", SOON, || world.plan()["queuedUp"].as_array()?.is_empty().then_some(()));
    let before = fs::read(world.installation.plan()).unwrap();
    for more in [&["--force"][..], &["--force", "--now"]] {
        assert_fails(&add(&world, "sick", &sick, more), &["2.0.0 (sick) failed here", "hint: choose another name"]);
    }
    assert_fails(&world.omnivisor(&["upgrade", "sick"]), &["2.0.0 (sick) failed here and is not installed again"]);
    assert_fails(&world.omnivisor(&["upgrade", "nobody"]), &["is announced", "omnivisor status"]);
    assert_eq!(fs::read(world.installation.plan()).unwrap(), before);

    // Another name is another release; and once what runs is newer nobody asks for what failed.
    let output = add(&world, "well", &Behaviour::new("3.0.0"), &["--now"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    world.wait_for_commit("3.0.0");
    world.wait_for_status("it is forgotten", |status| status["failed"] == serde_json::json!([]));
}

/// So would one that ran well and is to be gone back to.
#[test]
fn a_release_that_ran_here_before_is_gone_back_to_by_another_name() {
    let world = World::new();
    let _supervised = world.run();
    for (name, version) in [("first", "2.0.0"), ("second", "3.0.0")] {
        assert_eq!(add(&world, name, &Behaviour::new(version), &["--now"]).status.code(), Some(0));
        world.wait_for_commit(version);
    }
    let back = Behaviour::new("2.0.0");
    let output = add(&world, "first", &back, &["--force", "--now"]);
    assert_fails(&output, &["2.0.0 (first) ran here before", "hint: choose another name to go back to it"]);
    assert_eq!(add(&world, "back", &back, &["--force", "--now"]).status.code(), Some(0));
    wait_until("it is back", SOON, || (world.log().last_start()?.version == "2.0.0").then_some(()));
    world.wait_for_files("2.0.0");
}

#[test]
fn a_plan_that_cannot_be_read_can_be_mended_or_moved_away() {
    let world = World::new();
    fs::write(world.installation.plan(), "{").unwrap();
    let output = add(&world, "next", &Behaviour::new("2.0.0"), &[]);
    assert_fails(&output, &["cannot read the upgrade plan", "upgrade-plan.json", "hint: mend it, or move it away"]);
}

#[test]
fn where_nobody_supervises_it_is_said_how_somebody_would() {
    let world = World::new();
    assert_fails(&world.omnivisor(&["status"]), &["no instance is running", "hint: `nymvisor run …`"]);
    // A configuration that cannot be used hides whether a node was left.
    fs::write(world.installation.config(), "x").unwrap();
    let output = world.omnivisor(&["stop"]);
    assert_fails(&output, &["no instance is running", "left a node behind cannot be found out", "config.toml"]);
}

#[test]
fn an_executable_that_is_gone_is_to_be_put_back() {
    let world = World::new();
    let mut supervised = world.run();
    world.wait_for_files("1.0.0");
    supervised.signal(15);
    supervised.wait(SOON);
    fs::remove_file(world.installation.binary("genesis")).unwrap();
    let mut command = world.run_command();
    command.env("DAEMON_RESTART_ON_FAILURE", "false");
    let mut supervised = world.sandbox.spawn(command);
    assert_eq!(supervised.wait(SOON).code(), Some(10), "{}", supervised.stderr());
    let said = supervised.stderr();
    assert!(said.contains("put the executable of 1.0.0 (genesis) back"), "{said}");
}
