//! A core that takes a question and never answers it.

use std::time::{Duration, Instant};

use omnivisor_testkit::{Kind, VegaOptions, wait_until};

use super::calm::Calm;
use super::world::{OLD, World, kill, options, said, wait_for_line};
use crate::world::SOON;

/// What is said once it was silent for too long.
const ALARM: &str = "the node gives no answer: nobody can say whether it follows its network";

fn impatient() -> VegaOptions {
    VegaOptions { restart_connection_retries: 1, ..options() }.with_data_node()
}

fn rpc(world: &World, how: &str) {
    world.installation.control_core(|control| control["rpc"] = how.into());
}

// V11, V15
#[test]
fn a_core_that_never_answers_is_said_to_and_left_alone() {
    let mut calm = Calm::begin(World::with(impatient()));
    let before = calm.so_far();
    calm.check("a core that hangs", &[ALARM, "no answer within 5s"], |world| rpc(world, "hang"));
    let status = calm.world.status().unwrap();
    assert!(status["silent"].as_str().unwrap().contains("no answer within 5s"), "{status:#}");
    calm.check("a core that answers again", &["the node answers again"], |world| rpc(world, "ok"));
    calm.world.wait_for_status("it is not silent", |status| status["silent"].is_null());
    assert_eq!(calm.said_since(before).matches(ALARM).count(), 1, "it is said once");
}

// V11
#[test]
fn a_core_that_hangs_keeps_nobody_from_seeing_that_its_data_node_has_failed() {
    let world = World::with(impatient());
    let mut supervised = world.run();
    world.wait_for(OLD);
    rpc(&world, "hang");
    wait_for_line(&supervised, &[ALARM]);
    let data_node = world.log().last_start_of(Kind::Datanode).unwrap().pid;
    kill(data_node);
    wait_until("both start again", SOON, || (world.log().starts().len() == 4).then_some(()));
    world.wait_for(OLD);
    world.log().assert_never_double();
    let begin = Instant::now();
    supervised.signal(15);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(5), "and the end is not kept waiting: {:?}", begin.elapsed());
    assert!(world.log().running().is_empty());
}

// V15
#[test]
fn a_core_that_never_answers_is_restarted_where_that_is_wanted() {
    // The first question to what is started again may come before that listens, and counts.
    let world = World::with(VegaOptions { restart_connection_retries: 2, ..impatient() });
    let mut command = world.run_command();
    command.env("OMNIVISOR_VEGA_RESTART_SILENT", "true");
    let supervised = world.sandbox.spawn(command);
    world.wait_for(OLD);
    wait_until("core has answered", SOON, || {
        world.status().filter(|status| status["node"]["state"] == "running").map(|_| ())
    });
    rpc(&world, "hang");
    wait_for_line(&supervised, &[ALARM]);
    rpc(&world, "ok");
    wait_until("both start again", SOON, || (world.log().starts().len() == 4).then_some(()));
    wait_for_line(&supervised, &["the node ended with", "no answer to any question"]);
    world.wait_for(OLD);
    world.wait_for_status("it is not silent", |status| status["silent"].is_null());
    let signals = world.log().of("signal").into_iter().filter_map(|event| event.signal).collect::<Vec<_>>();
    assert_eq!(signals, [15, 15], "both were asked to end, in their own time");
    world.log().assert_never_double();
}

/// Whoever kills what is left of a node until none of it is left must not take the next one, which is there some milliseconds
/// later, for it.
#[test]
fn a_core_that_is_killed_for_its_silence_takes_not_the_next_one_with_it() {
    let quick = VegaOptions { stop_signal_timeout_seconds: 1, restarts_delay_seconds: 0, ..options() };
    // As above.
    let world = World::with(VegaOptions { restart_connection_retries: 2, ..quick });
    world.installation.control_core(|control| control["ignore_stop"] = true.into());
    let mut command = world.run_command();
    command.env("OMNIVISOR_VEGA_RESTART_SILENT", "true");
    let supervised = world.sandbox.spawn(command);
    world.wait_for(OLD);
    wait_for_line(&supervised, &["core answers"]);
    rpc(&world, "hang");
    wait_for_line(&supervised, &[ALARM]);
    rpc(&world, "ok");
    wait_until("the next one answers", SOON, || (said(&supervised).matches("core answers").count() == 2).then_some(()));
    world.wait_for(OLD);
    assert_eq!(world.log().starts().len(), 2, "{}", said(&supervised));
}

// V15
/// A first start may replay a chain: it has its own patience. What was started after a failure has another one.
#[test]
fn a_first_start_and_a_restart_have_each_their_own_patience() {
    let world = World::with(VegaOptions { first_connection_retries: 175_000, ..impatient() });
    rpc(&world, "refuse");
    let mut command = world.run_command();
    command.env("RUST_LOG", "debug");
    let supervised = world.sandbox.spawn(command);
    let tries = || said(&supervised).matches("DEBUG the node gives no answer").count();
    wait_until("three questions", SOON, || (tries() >= 3).then_some(()));
    assert!(!said(&supervised).contains(ALARM), "{}", said(&supervised));
    kill(world.log().last_start_of(Kind::Core).unwrap().pid);
    wait_until("both start again", SOON, || (world.log().starts().len() == 4).then_some(()));
    wait_for_line(&supervised, &[ALARM]);
    assert_eq!(world.log().running().len(), 2, "and they run on");
}

// V15
#[test]
fn the_patience_of_a_first_start_ends_as_well() {
    let mut calm = {
        let world = World::with(VegaOptions { first_connection_retries: 3, ..impatient() });
        rpc(&world, "refuse");
        let mut command = world.run_command();
        command.env("RUST_LOG", "debug");
        let supervised = world.sandbox.spawn(command);
        Calm::with(world, supervised)
    };
    calm.wait_for_line("nobody listens", 0, &[ALARM, "No such file"]);
    let said = said(&calm.supervised);
    let before = said.split(ALARM).next().unwrap();
    assert_eq!(before.matches("DEBUG the node gives no answer").count(), 3, "{said}");
    calm.undisturbed("a socket that never came");
    rpc(&calm.world, "ok");
    calm.wait_for_line("it came", 0, &["the node answers again"]);
}
