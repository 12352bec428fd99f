//! Core and data node are started, stopped and started again together, and each has its time.

use std::time::Duration;

use omnivisor_testkit::{Event, Kind, VegaBehaviour, VegaOptions, measure, wait_until};
use serde_json::{Value, json};

use super::world::{NEW, OLD, World, options, said, wait_for_line};
use crate::world::SOON;

const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;
const SIGTERM: i32 = 15;

/// Tells one of the two what it does.
fn control(world: &World, kind: Kind, change: impl FnOnce(&mut Value)) {
    match kind {
        Kind::Core => world.installation.control_core(change),
        Kind::Datanode => world.installation.control_data_node(change),
    }
}

fn other(kind: Kind) -> Kind {
    match kind {
        Kind::Core => Kind::Datanode,
        Kind::Datanode => Kind::Core,
    }
}

/// Everything that processes of this kind have logged, and of this event.
fn of(world: &World, kind: Kind, event: &str) -> Vec<Event> {
    world.log().of(event).into_iter().filter(|logged| logged.kind == Some(kind)).collect()
}

#[track_caller]
fn wait_for_starts(world: &World, kind: Kind, count: usize) -> Vec<Event> {
    wait_until(&format!("start {count} of {kind:?}"), SOON, || {
        Some(of(world, kind, "start")).filter(|starts| starts.len() >= count)
    })
}

/// A pair that fails again and again, so long after each start.
fn failing(options: VegaOptions, after_ms: u64) -> World {
    let world = World::with(VegaOptions { restarts_delay_seconds: 0, ..options.with_data_node() });
    world.installation.control_core(|control| {
        control["exit_after_ms"] = json!(after_ms);
        control["exit_code"] = json!(1);
    });
    world
}

// V4
#[test]
fn when_a_signal_ends_one_of_the_pair_the_other_has_its_grace() {
    for (dies, signal) in [(Kind::Core, SIGKILL), (Kind::Core, SIGSEGV), (Kind::Datanode, SIGKILL)] {
        let world = World::with(options().with_data_node());
        control(&world, dies, |control| control["die_of_signal"] = json!(signal));
        control(&world, dies, |control| control["exit_after_ms"] = json!(300));
        control(&world, other(dies), |control| control["linger_ms"] = json!(700));
        let supervised = world.start();
        wait_for_starts(&world, dies, 2);
        let first = of(&world, other(dies), "start").remove(0).pid;
        assert_eq!(world.log().signals_of(first), [SIGTERM], "{}", said(&supervised));
        let ended = of(&world, other(dies), "exit").remove(0);
        assert_eq!((ended.pid, ended.code), (first, Some(0)), "it was not cut off");
        wait_for_line(&supervised, &["the node ended with", &format!("signal {signal}"), "started again"]);
        wait_for_starts(&world, other(dies), 2);
        world.log().assert_never_double();
    }
}

// V5
#[test]
fn in_an_upgrade_each_of_the_pair_has_its_grace_whatever_the_other_ends_with() {
    for (quick, code) in [(Kind::Core, 143), (Kind::Datanode, 1)] {
        let world = World::with(options().with_data_node());
        world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
        let of_old = |control: &mut Value, what: Value| control["by_version"] = json!({ OLD: what });
        control(&world, quick, |control| of_old(control, json!({ "stop_exit_code": code })));
        control(&world, other(quick), |control| of_old(control, json!({ "linger_ms": 1500 })));
        let _supervised = world.run();
        world.wait_for(OLD);
        let slow = world.log().running_of(other(quick))[0].pid;
        world.accept(NEW);
        world.reach();
        world.wait_for(NEW);
        let ended = of(&world, other(quick), "exit").remove(0);
        assert_eq!((ended.pid, ended.code), (slow, Some(0)), "it was not cut off");
        world.wait_for_commit(NEW);
        world.log().assert_never_double();
    }
}

// V22
#[test]
fn what_does_not_end_in_its_time_is_killed_and_gone_before_anything_is_started() {
    let world = World::with(VegaOptions { stop_signal_timeout_seconds: 1, ..options().with_data_node() });
    world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    world.installation.control_data_node(|control| control["by_version"] = json!({ OLD: { "ignore_stop": true } }));
    let supervised = world.run();
    world.wait_for(OLD);
    let stubborn = world.log().running_of(Kind::Datanode)[0].pid;
    world.accept(NEW);
    world.reach();
    wait_for_line(&supervised, &["did not end within its grace period and is killed"]);
    world.wait_for(NEW);
    assert_eq!(world.log().signals_of(stubborn), [SIGTERM], "it was asked first");
    let asked = of(&world, Kind::Datanode, "signal")[0].mono_ns;
    let next = of(&world, Kind::Datanode, "start")[1].mono_ns;
    let grace = Duration::from_nanos(next - asked);
    assert!(grace >= Duration::from_millis(990), "it had its second: {grace:?}");
    world.log().assert_never_double();
}

#[test]
fn a_pair_that_failed_is_started_again_after_its_delay() {
    let delay = 2;
    let world = World::with(VegaOptions { restarts_delay_seconds: delay, ..options().with_data_node() });
    world.installation.control_core(|control| control["exit_after_ms"] = json!(200));
    let _supervised = world.start();
    let again = wait_for_starts(&world, Kind::Core, 2)[1].mono_ns;
    let ended = of(&world, Kind::Core, "exit")[0].mono_ns;
    let pause = Duration::from_nanos(again - ended);
    assert!(pause >= Duration::from_secs(delay), "{pause:?}");
}

#[test]
fn a_pair_that_fails_too_often_is_given_up_with_a_code_of_its_own() {
    let world = failing(VegaOptions { restarts: 2, ..options() }, 200);
    world.installation.control_data_node(|control| control["linger_ms"] = json!(300));
    let mut supervised = world.start();
    assert_eq!(supervised.wait(SOON).code(), Some(11), "{}", said(&supervised));
    assert_eq!(of(&world, Kind::Core, "start").len(), 3, "once, and twice again");
    assert!(world.log().running().is_empty());
    let ends = of(&world, Kind::Datanode, "exit");
    assert!(ends.len() == 3 && ends.iter().all(|end| end.code == Some(0)), "each had its grace: {ends:?}");
    assert!(said(&supervised).contains("failed too often"), "{}", said(&supervised));
}

#[test]
fn a_pair_that_is_not_to_be_started_again_ends_its_supervisor_with_a_code_of_its_own() {
    let world = failing(VegaOptions { restarts: 0, ..options() }, 200);
    let mut supervised = world.start();
    assert_eq!(supervised.wait(SOON).code(), Some(10), "{}", said(&supervised));
    assert_eq!(of(&world, Kind::Core, "start").len(), 1);
    assert!(world.log().running().is_empty());
}

// V14
#[test]
fn a_run_of_good_health_gives_the_restarts_back() {
    for in_file in [false, true] {
        let world = failing(VegaOptions { restarts: 1, ..options() }, 900);
        let mut command = world.run_command();
        match in_file {
            true => {
                let file = world.installation.home().join("omnivisor.toml");
                std::fs::write(file, "[restart]\nhealthy = \"500ms\"\n").unwrap();
            }
            false => drop(command.env("OMNIVISOR_RESTART_HEALTHY", "500ms")),
        }
        let mut supervised = world.sandbox.spawn(command);
        wait_for_starts(&world, Kind::Core, 5);
        assert!(supervised.try_wait().is_none());
        // And it is what is counted: less than that is not well.
        world.installation.control_core(|control| control["exit_after_ms"] = json!(10));
        assert_eq!(supervised.wait(SOON).code(), Some(11), "{}", said(&supervised));
        world.log().assert_never_double();
    }
}

#[test]
fn a_pair_that_is_ready_is_stopped_after_the_delay_that_is_set_for_it() {
    let delay = 2;
    let world = World::with(VegaOptions { stop_delay_seconds: delay, ..options().with_data_node() });
    world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    let _supervised = world.run();
    world.wait_for(OLD);
    world.accept(NEW);
    world.wait_for_phase("staged");
    let ready = measure::mono_ns();
    world.reach();
    world.wait_for(NEW);
    for kind in [Kind::Core, Kind::Datanode] {
        let waited = Duration::from_nanos(of(&world, kind, "signal")[0].mono_ns - ready);
        assert!(waited >= Duration::from_secs(delay), "{kind:?}: {waited:?}");
    }
}

// V1
#[test]
fn the_end_of_the_supervisor_is_the_end_of_both_in_their_time() {
    for signal in [SIGTERM, SIGINT] {
        let world = World::with(options().with_data_node());
        world.installation.control_core(|control| control["linger_ms"] = json!(700));
        let mut supervised = world.run();
        world.wait_for(OLD);
        supervised.signal(signal);
        assert_eq!(supervised.wait(SOON).code(), Some(0));
        assert!(world.log().running().is_empty());
        for kind in [Kind::Core, Kind::Datanode] {
            let signals: Vec<_> = of(&world, kind, "signal").iter().map(|it| it.signal).collect();
            assert_eq!(signals, [Some(SIGTERM)], "{kind:?}, as Vega Visor stops it");
            assert_eq!(of(&world, kind, "exit")[0].code, Some(0), "{kind:?}");
        }
    }
}

// V1: and without its signal, the next one finds them.
#[test]
fn a_pair_whose_supervisor_was_killed_is_taken_over_and_stopped_by_the_next() {
    let world = World::with(options().with_data_node());
    let mut first = world.run();
    world.wait_for(OLD);
    let pids: Vec<u32> = world.log().running().iter().map(|running| running.pid).collect();
    first.kill9();
    let mut second = world.run();
    let now: Vec<u32> = world.log().running().iter().map(|running| running.pid).collect();
    assert_eq!(now, pids, "{}", said(&second));
    second.signal(SIGTERM);
    assert_eq!(second.wait(SOON).code(), Some(0));
    assert!(world.log().running().is_empty());
    assert_eq!(world.log().starts().len(), 2);
}

// V4: one that died while nobody was there.
#[test]
fn half_a_pair_is_stopped_and_both_are_started() {
    for dies in [Kind::Core, Kind::Datanode] {
        let world = World::with(options().with_data_node());
        let mut first = world.run();
        world.wait_for(OLD);
        first.kill9();
        let pid = |kind| rustix::process::Pid::from_raw(world.log().running_of(kind)[0].pid.cast_signed()).unwrap();
        let left = world.log().running_of(other(dies))[0].pid;
        rustix::process::kill_process(pid(dies), rustix::process::Signal::KILL).unwrap();
        wait_until("it is gone", SOON, || world.log().running_of(dies).is_empty().then_some(()));
        let second = world.run();
        world.wait_for(OLD);
        assert_eq!(world.log().starts().len(), 4, "{}", said(&second));
        assert_eq!(world.log().signals_of(left), [SIGTERM]);
        world.log().assert_never_double();
    }
}

// V23
#[test]
fn what_either_of_the_pair_has_started_ends_with_it() {
    for (kind, ignores) in [(Kind::Core, false), (Kind::Datanode, false), (Kind::Datanode, true)] {
        let world = World::with(VegaOptions { stop_signal_timeout_seconds: 1, ..options().with_data_node() });
        world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
        let grandchild = json!({ "ignore_term": ignores, "own_session": false });
        control(&world, kind, |control| control["by_version"] = json!({ OLD: { "grandchild": grandchild } }));
        let _supervised = world.run();
        world.wait_for(OLD);
        wait_until("the grandchild is there", SOON, || (world.log().grandchildren().len() == 1).then_some(()));
        world.accept(NEW);
        world.reach();
        // The first of the new ones finds nothing of the old ones.
        wait_until("another core starts", SOON, || (of(&world, Kind::Core, "start").len() == 2).then_some(()));
        assert!(world.log().grandchildren().is_empty(), "{kind:?}");
        world.wait_for(NEW);
    }
}

// V28
#[test]
fn a_supervisor_that_waits_to_start_a_pair_again_ends_at_once() {
    let world = World::with(VegaOptions { restarts_delay_seconds: 3600, ..options().with_data_node() });
    world.installation.control_core(|control| control["exit_after_ms"] = json!(200));
    let mut supervised = world.start();
    wait_until("both are down", SOON, || {
        let ended = !of(&world, Kind::Core, "exit").is_empty() && !of(&world, Kind::Datanode, "exit").is_empty();
        (ended && world.status().is_some_and(|status| status["node"]["state"] == "down")).then_some(())
    });
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
}
