//! How a run ends of itself: with a switch, if it is configured so, and with a node that is done.

use std::time::Duration;

use omnivisor_testkit::{Answer, Behaviour, Options, wait_until};

use crate::world::{SOON, World, options, timestamp};

fn ends_after_upgrades() -> World {
    World::with(Behaviour::new("1.0.0"), Options { restart_after_upgrade: false, ..options() })
}

#[test]
fn without_restart_after_upgrade_the_run_ends_with_the_switch_and_the_next_one_judges_it() {
    let world = ends_after_upgrades();
    let mut supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    assert_eq!(supervised.wait(SOON).code(), Some(0), "{}", supervised.stderr());
    assert!(world.log().running().is_empty(), "a person starts the new one");
    assert!(world.log().starts().iter().all(|start| start.version == "1.0.0"));
    assert_eq!(world.installation.assert_nymvisor_would_start(), "2.0.0");
    assert!(!world.installation.history().exists(), "it has not shown yet that it is well");

    let mut supervised = world.run();
    world.wait_for("2.0.0");
    world.wait_for_commit("2.0.0");
    assert!(supervised.try_wait().is_none(), "it is supervised as ever");
    world.log().assert_never_double();
}

#[test]
fn a_sick_release_that_was_switched_to_by_a_run_that_ended_is_undone_by_the_next() {
    let world = ends_after_upgrades();
    let mut supervised = world.run();
    let sick = Behaviour { exit_after_ms: Some(20), exit_code: 3, migrates: true, ..Behaviour::new("2.0.0") };
    world.publish("2024.2", &sick);
    assert_eq!(supervised.wait(SOON).code(), Some(0), "{}", supervised.stderr());
    let _supervised = world.start();
    wait_until("the sick release died twice", SOON, || {
        (world.log().starts().iter().filter(|start| start.version == "2.0.0").count() == 2).then_some(())
    });
    world.wait_for("1.0.0");
    world.wait_for_files("1.0.0");
    assert!(world.log().of("refused").is_empty(), "the old node finds its own data");
}

#[test]
fn a_start_after_the_switch_that_is_killed_still_judges_the_release() {
    let world = ends_after_upgrades();
    let mut supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    let mut supervised = world.run();
    supervised.kill9();
    let _supervised = world.run_again();
    world.wait_for("2.0.0");
    world.wait_for_commit("2.0.0");
    world.log().assert_never_double();
}

/// Asks the node itself to end, which it does with exit code 0: not as its supervisor would.
fn end(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

/// N36: a node that ends by itself is done, unless what it waits for is due: then its successor is started.
#[test]
fn a_node_that_ends_while_a_due_upgrade_is_prepared_has_a_successor() {
    let world = World::new();
    let mut supervised = world.run();
    let pid = world.wait_for("1.0.0");
    let next = Behaviour::new("2.0.0");
    let bytes = std::fs::read(world.minted(&next)).unwrap();
    world.publish("2024.2", &next);
    // Long enough for the node to end meanwhile.
    let per_second = bytes.len() as u64 / 6;
    world.upstream.serve("/download/2024.2", Answer::Slow { bytes, per_second });
    wait_until("it is being downloaded", SOON, || (world.upstream.requests("/download/2024.2") > 0).then_some(()));
    end(pid);
    world.wait_for_status("down, and preparing", |status| {
        status["node"]["state"] == "down" && status["upgrade"]["phase"] == "preparing"
    });
    world.wait_for("2.0.0");
    world.wait_for_commit("2.0.0");
    assert!(supervised.try_wait().is_none());
}

/// N36: one that is not due is done at the next start.
#[test]
fn a_node_that_ends_before_its_upgrade_is_due_ends_the_run_and_loses_no_upgrade() {
    let world = World::new();
    let mut supervised = world.run();
    let pid = world.wait_for("1.0.0");
    world.publish_for("2024.2", &Behaviour::new("2.0.0"), &timestamp(Duration::from_secs(3600)));
    world.wait_for_status("staged", |status| status["upgrade"]["phase"] == "staged");
    end(pid);
    assert_eq!(supervised.wait(SOON).code(), Some(0), "{}", supervised.stderr());
    assert_eq!(world.plan()["queuedUp"][0]["name"], "2024.2");
    let _supervised = world.run();
    world.wait_for_status("staged", |status| status["upgrade"]["phase"] == "staged");
}

/// A node that failed is not kept down by the download of its successor: whoever starts us again starts it again.
#[test]
fn a_node_that_fails_while_its_successor_is_downloaded_ends_the_run_at_once() {
    let world = World::with(Behaviour::new("1.0.0"), Options { restart_on_failure: false, ..options() });
    let mut supervised = world.run();
    let pid = world.wait_for("1.0.0");
    let next = Behaviour::new("2.0.0");
    world.publish("2024.2", &next);
    world.upstream.serve("/download/2024.2", Answer::Stall { after_bytes: 1000, of_bytes: 1_000_000 });
    wait_until("it is being downloaded", SOON, || (world.upstream.requests("/download/2024.2") > 0).then_some(()));
    let node = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(node, rustix::process::Signal::KILL).unwrap();
    assert_eq!(supervised.wait(SOON).code(), Some(10), "{}", supervised.stderr());
    let _again = world.run();
    world.wait_for("1.0.0");
}
