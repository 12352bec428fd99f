//! A core that gives no answer, or a strange one.

use std::process::Command;

use omnivisor_testkit::{Kind, VegaBehaviour, VegaOptions, wait_until};
use serde_json::json;

use super::world::{NEW, OLD, World, options, said, wait_for_line};
use crate::world::SOON;

const SIGTERM: i32 = 15;

/// With little patience for a core that has answered before; what has just been started has until the second question.
fn impatient() -> VegaOptions {
    VegaOptions { restart_connection_retries: 2, ..options() }
}

/// Core has answered: what it says of a release was taken up.
fn wait_until_heard(world: &World) {
    world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    world.accept(NEW);
    world.wait_for_phase("staged");
}

/// How core answers from now on.
fn answers(world: &World, how: &str) {
    world.installation.control_core(|control| control["rpc"] = json!(how));
}

/// `vegavisor run`, by which a silent node is started again.
fn restarting(world: &World) -> Command {
    let mut command = world.run_command();
    command.env("OMNIVISOR_VEGA_RESTART_SILENT", "true");
    command
}

fn pid_of(world: &World, kind: Kind) -> u32 {
    world.log().running_of(kind)[0].pid
}

// V11
#[test]
fn a_core_that_accepts_and_does_not_answer_keeps_nobody_from_seeing_that_it_dies() {
    let world = World::with(options().with_data_node());
    answers(&world, "hang");
    let mut supervised = world.run();
    world.wait_for(OLD);
    let core = pid_of(&world, Kind::Core);
    assert!(world.status().is_some(), "nor from answering");
    let pid = rustix::process::Pid::from_raw(core.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_until("both start again", SOON, || (world.log().starts().len() == 4).then_some(()));
    world.wait_for(OLD);
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert!(world.log().running().is_empty());
}

// V15
#[test]
fn a_core_that_does_not_answer_is_said_to_be_silent_and_runs_on() {
    let world = World::with(impatient().with_data_node());
    let supervised = world.run();
    world.wait_for(OLD);
    wait_until_heard(&world);
    answers(&world, "hang");
    wait_for_line(&supervised, &["ERROR", "gives no answer", "no answer within 5s"]);
    let status = world.wait_for_status("it is shown", |status| status["silent"].is_string());
    assert_eq!(status["node"]["state"], "running", "{status:#}");
    let shown = world.omnivisor(&["status"]).stdout;
    assert!(String::from_utf8_lossy(&shown).contains("SILENT "), "for people, too");
    answers(&world, "ok");
    wait_for_line(&supervised, &["answers again"]);
    world.wait_for_status("it is shown", |status| status["silent"].is_null());
    assert_eq!(world.log().starts().len(), 2, "{}", said(&supervised));
}

// V15
#[test]
fn a_core_that_hangs_is_started_again_with_its_data_node_where_an_operator_wants_that() {
    for how in ["hang", "refuse"] {
        let world = World::with(impatient().with_data_node());
        let supervised = world.sandbox.spawn(restarting(&world));
        world.wait_for(OLD);
        wait_until_heard(&world);
        let pids = [pid_of(&world, Kind::Core), pid_of(&world, Kind::Datanode)];
        answers(&world, how);
        wait_for_line(&supervised, &["the node ended with", "no answer to any question"]);
        for pid in pids {
            let asked = wait_until("it is asked to end", SOON, || {
                let signals = world.log().signals_of(pid);
                (!signals.is_empty()).then_some(signals)
            });
            assert_eq!(asked, [SIGTERM], "{how}: in its own time, not killed");
        }
        answers(&world, "ok");
        wait_until("both start again", SOON, || (world.log().starts().len() >= 4).then_some(()));
        world.wait_for(OLD);
        world.log().assert_never_double();
    }
}

// V15: a start takes its time, and is not what is meant by silence.
#[test]
fn a_core_that_is_still_starting_is_not_started_again() {
    let world = World::with(VegaOptions { first_connection_retries: 1000, restart_connection_retries: 1, ..options() });
    world.installation.control_core(|control| control["rpc_after_ms"] = json!(6000));
    let supervised = world.sandbox.spawn(restarting(&world));
    world.wait_for(OLD);
    wait_until_heard(&world);
    assert_eq!(world.log().starts().len(), 1, "{}", said(&supervised));
}

// V11: what was agreed on stays so.
#[test]
fn a_core_that_falls_silent_before_its_height_is_upgraded_when_it_speaks_again() {
    let world = World::with(impatient());
    let supervised = world.run();
    world.wait_for(OLD);
    wait_until_heard(&world);
    answers(&world, "hang");
    wait_for_line(&supervised, &["gives no answer"]);
    world.reach();
    assert_eq!(world.status().unwrap()["upgrade"]["phase"], "staged");
    assert_eq!(world.log().starts().len(), 1);
    answers(&world, "ok");
    world.wait_for(NEW);
    world.wait_for_commit(NEW);
}

// V11
#[test]
fn a_new_core_that_never_answers_is_not_believed_in() {
    let world = World::with(VegaOptions { first_connection_retries: 2, ..impatient() });
    world.installation.control_core(|control| control["by_version"] = json!({ NEW: { "rpc": "hang" } }));
    let supervised = world.run();
    world.wait_for(OLD);
    wait_until_heard(&world);
    world.reach();
    world.wait_for(NEW);
    // The window of one second is long over by then.
    wait_for_line(&supervised, &["gives no answer"]);
    assert_eq!(world.status().unwrap()["upgrade"]["phase"], "probing");
    world.installation.control_core(|control| control["by_version"] = json!({}));
    world.wait_for_commit(NEW);
    assert_eq!(world.log().starts().len(), 2, "{}", said(&supervised));
}

// V12
#[test]
fn a_strange_answer_stops_no_node() {
    for how in ["null", "error", "ready_without_release", "html", "garbage", "bad_request", "huge"] {
        let world = World::with(options());
        let supervised = world.run();
        world.wait_for(OLD);
        answers(&world, how);
        match how {
            // That is no HTTP at all, so it counts as none.
            "garbage" => {}
            _ => wait_for_line(&supervised, &["WARN", "what the node answers changes nothing"]),
        }
        assert_eq!(world.log().starts().len(), 1, "{how}: {}", said(&supervised));
        assert!(world.log().of("signal").is_empty(), "{how}");
        // And what makes sense again is followed.
        world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
        answers(&world, "ok");
        world.accept(NEW);
        world.reach();
        world.wait_for(NEW);
    }
}
