//! A published release is fetched, proven, switched to and committed; a sick one is undone.

use std::time::{Duration, Instant};

use omnivisor_testkit::{Behaviour, wait_until};

use crate::world::{SOON, World};

#[test]
fn a_published_release_is_installed_and_the_old_node_runs_until_it_is_ready() {
    let world = World::new();
    let mut supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for("2.0.0");
    world.wait_for_commit("2.0.0");
    assert_eq!(world.plan()["queuedUp"].as_array().unwrap().len(), 0, "done is done");
    supervised.signal(2);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert!(world.log().running().is_empty());
    world.log().assert_never_double();
    assert_eq!(world.installation.assert_nymvisor_would_start(), "2.0.0");
}

/// When it goes on, both the death and the end of the window are there to be heard.
#[test]
fn a_release_that_died_while_its_supervisor_stood_still_is_not_taken_for_well() {
    const SIGCONT: i32 = 18;
    const SIGSTOP: i32 = 19;
    let world = World::new();
    let mut command = world.run_command();
    command.env("OMNIVISOR_PROBE_WINDOW", "400ms");
    let mut supervised = world.sandbox.spawn(command);
    world.wait_for("1.0.0");
    let sick = Behaviour { exit_after_ms: Some(100), exit_code: 3, migrates: true, ..Behaviour::new("3.0.0") };
    world.publish("2024.3", &sick);
    let of_sick = |what: &str| world.log().of(what).iter().any(|event| event.version == "3.0.0");
    wait_until("the sick release is started", SOON, || of_sick("start").then_some(()));
    supervised.signal(SIGSTOP);
    let stopped = Instant::now();
    wait_until("it has died, and its window is over", SOON, || {
        (of_sick("exit") && stopped.elapsed() > Duration::from_millis(600)).then_some(())
    });
    supervised.signal(SIGCONT);
    let status = world.wait_for_status("it is over", |status| {
        status["upgrade"]["phase"] == "idle" && status["announced"].as_array().is_some_and(Vec::is_empty)
    });
    assert_eq!(status["active"]["version"], "1.0.0", "{}", supervised.stderr());
    assert_eq!(status["failed"][0]["version"], "3.0.0", "{status:#}");
}

#[test]
fn a_release_that_dies_at_start_is_undone_and_never_tried_again() {
    let world = World::new();
    let sick = Behaviour { exit_after_ms: Some(20), exit_code: 3, migrates: true, ..Behaviour::new("3.0.0") };
    let supervised = world.run();
    world.publish("2024.3", &sick);
    wait_until("the sick release died twice", SOON, || {
        (world.log().starts().iter().filter(|start| start.version == "3.0.0").count() == 2).then_some(())
    });
    world.wait_for("1.0.0");
    world.wait_for_files("1.0.0");
    let status = world.wait_for_status("idle again", |status| status["upgrade"]["phase"] == "idle");
    assert_eq!(status["active"]["version"], "1.0.0");
    assert!(world.log().of("refused").is_empty(), "the old node finds its own data");
    let second = world.log().of("exit").into_iter().filter(|it| it.version == "3.0.0").nth(1).unwrap();
    let back = world.log().last_start().unwrap();
    let outage = Duration::from_nanos(back.mono_ns - second.mono_ns);
    assert!(outage < Duration::from_millis(2 * 300 + 1000), "{outage:?}");
    drop(supervised);
    world.log().assert_never_double();
}
