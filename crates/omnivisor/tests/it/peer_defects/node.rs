//! The node's processes: restarts, exit codes, signals, one node at a time.

use std::process::Command;
use std::time::Duration;

use omnivisor_testkit::{Answer, Behaviour, Options, upgrade_info, wait_until};

use super::{assert_still, running_pid, wait_for_polls, wait_for_request};
use crate::world::{ANNOUNCEMENT, SOON, World, options, timestamp};

fn failing(genesis: Behaviour) -> World {
    World::with(genesis, options())
}

/// N1
#[test]
fn a_node_that_exits_non_zero_is_started_again() {
    let world = failing(Behaviour { exit_after_ms: Some(100), exit_code: 42, ..Behaviour::new("1.0.0") });
    let mut supervised = world.run();
    wait_until("three starts", SOON, || (world.log().starts().len() >= 3).then_some(()));
    assert!(supervised.try_wait().is_none(), "it is being supervised");
    world.log().assert_never_double();
}

/// N1
#[test]
fn a_node_that_dies_of_a_signal_is_started_again() {
    let sick = Behaviour { exit_after_ms: Some(100), die_of_signal: Some(11), ..Behaviour::new("1.0.0") };
    let world = failing(sick);
    let mut supervised = world.run();
    wait_until("three starts", SOON, || (world.log().starts().len() >= 3).then_some(()));
    assert!(supervised.try_wait().is_none(), "it is being supervised");
}

/// N1, N2
#[test]
fn giving_up_has_its_own_exit_code_and_comes_after_as_many_failures_as_configured() {
    let sick = Behaviour { exit_after_ms: Some(1), exit_code: 42, ..Behaviour::new("1.0.0") };
    let quick = Options { failure_restart_delay: "10ms".to_owned(), max_startup_failures: 3, ..options() };
    let world = World::with(sick, quick);
    let mut supervised = world.run();
    assert_eq!(supervised.wait(SOON).code(), Some(11), "{}", supervised.stderr());
    assert_eq!(world.log().starts().len(), 3);
}

/// N2
#[test]
fn the_exit_code_tells_that_the_node_failed() {
    let sick = Behaviour { exit_after_ms: Some(1), exit_code: 42, ..Behaviour::new("1.0.0") };
    let world = World::with(sick, Options { restart_on_failure: false, ..options() });
    let mut supervised = world.run();
    assert_eq!(supervised.wait(SOON).code(), Some(10), "{}", supervised.stderr());
    assert_eq!(world.log().starts().len(), 1);
}

/// N2
#[test]
fn a_node_that_ends_well_ends_the_run_well() {
    let world = World::with(Behaviour { exit_after_ms: Some(1), ..Behaviour::new("1.0.0") }, options());
    assert_eq!(world.run().wait(SOON).code(), Some(0));
    assert_eq!(world.log().starts().len(), 1);
}

/// N2
#[test]
fn what_ends_a_run_is_said_even_if_nothing_is_logged() {
    let world = World::with(Behaviour::new("1.0.0"), Options { disable_logs: true, ..options() });
    let binary = world.installation.binary("genesis");
    let aside = binary.with_extension("aside");
    std::fs::rename(&binary, &aside).unwrap();
    // Nothing was ever run here, and there is nothing to run.
    let mut first = world.start();
    assert_eq!(first.wait(SOON).code(), Some(1));
    assert!(first.stderr().contains(binary.to_str().unwrap()), "{:?}", first.stderr());
    // It ran here, and is gone now.
    std::fs::rename(&aside, &binary).unwrap();
    let mut second = world.run();
    second.signal(15);
    assert_eq!(second.wait(SOON).code(), Some(0));
    std::fs::rename(&binary, &aside).unwrap();
    let mut command = world.nymvisor(&["run", "run"]);
    command.env("DAEMON_RESTART_ON_FAILURE", "false");
    let mut third = world.sandbox.spawn(command);
    assert_ne!(third.wait(SOON).code(), Some(0));
    assert!(third.stderr().contains(binary.to_str().unwrap()), "{:?}", third.stderr());
}

/// N8
#[test]
fn a_second_supervisor_is_refused_and_told_who_is_first() {
    let world = World::new();
    let first = world.run();
    let pid = running_pid(&world.log());
    let mut second = world.start();
    assert_eq!(second.wait(SOON).code(), Some(12));
    assert!(second.stderr().contains(&first.pid().to_string()), "{}", second.stderr());
    assert_still(&world, pid);
    assert_eq!(world.log().starts().len(), 1);
}

/// N8
#[test]
fn the_node_of_a_killed_supervisor_is_taken_over_and_never_doubled() {
    let world = World::new();
    let mut first = world.run();
    let pid = running_pid(&world.log());
    first.kill9();
    let mut second = world.start();
    world.wait_for_status("the node is known", |status| status["node"]["pid"] == pid);
    assert_still(&world, pid);
    assert_eq!(world.log().starts().len(), 1);
    second.signal(15);
    assert_eq!(second.wait(SOON).code(), Some(0));
    assert!(world.log().running().is_empty(), "what was taken over is stopped, too");
}

/// N8
#[test]
fn a_closed_terminal_and_odd_signals_leave_no_node_without_a_supervisor() {
    let world = World::new();
    let mut supervised = world.run();
    let pid = running_pid(&world.log());
    supervised.signal(1);
    wait_for_polls(&world);
    assert!(supervised.try_wait().is_none(), "SIGHUP is survived");
    assert_still(&world, pid);
}

/// N9
#[test]
fn a_stalled_download_keeps_neither_the_node_down_nor_the_supervisor_from_ending() {
    let world = World::new();
    let mut supervised = world.run();
    let pid = running_pid(&world.log());
    world.upstream.serve("/stalls", Answer::Stall { after_bytes: 1000, of_bytes: 1_000_000 });
    let (url, digest) = (world.upstream.url("/stalls"), "00".repeat(32));
    let info = upgrade_info("up1", "2.0.0", &timestamp(Duration::ZERO), Some((&url, &digest)), None);
    world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
    wait_for_request(&world, "/stalls");
    wait_for_polls(&world);
    assert_still(&world, pid);
    supervised.signal(15);
    assert_eq!(supervised.wait(Duration::from_secs(5)).code(), Some(0));
    assert!(world.log().running().is_empty());
    assert_eq!(world.log().signals_of(pid), [2], "asked once, the way Nym's daemons are");
}

/// N9
#[test]
fn a_restart_delay_is_cut_short_by_a_signal() {
    let sick = Behaviour { exit_after_ms: Some(1), exit_code: 3, ..Behaviour::new("1.0.0") };
    for signal in [2, 15, 3] {
        let slow = Options { failure_restart_delay: "1h".to_owned(), ..options() };
        let world = World::with(sick.clone(), slow);
        let mut supervised = world.run();
        wait_until("the node's end", SOON, || (world.log().of("exit").len() == 1).then_some(()));
        world.wait_for_status("the delay", |status| status["node"]["state"] == "down");
        supervised.signal(signal);
        assert_eq!(supervised.wait(Duration::from_secs(5)).code(), Some(0));
        assert_eq!(world.log().starts().len(), 1);
    }
}

/// N35
#[test]
fn a_short_command_runs_once_and_neither_polls_nor_upgrades() {
    let world = World::new();
    let mut supervised = world.run();
    world.publish_for("2024.2", &Behaviour::new("2.0.0"), &timestamp(super::WEEK));
    super::wait_for_standing(&world, "2024.2", "switched");
    supervised.signal(15);
    supervised.wait(SOON);
    // Due now, and neither the queue nor upstream says anything else.
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    let mut plan = world.plan();
    plan["queuedUp"][0]["upgradeTime"] = timestamp(Duration::ZERO).into();
    std::fs::write(world.installation.plan(), plan.to_string()).unwrap();

    let requests = world.upstream.all_requests().len();
    let short = |arguments: &[&str]| world.nymvisor(arguments).output().unwrap();
    let output = short(&["run", "bonding-information", "--output", "json"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "args: bonding-information --output json\n");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(world.upstream.all_requests().len(), requests);
    assert_eq!(world.installation.assert_nymvisor_would_start(), "1.0.0");
    assert_eq!(world.log().starts().len(), 1);

    // Beside a running node, too.
    world.upstream.withdraw(ANNOUNCEMENT);
    super::empty_the_queue(&world);
    let _supervised = world.run();
    let pid = running_pid(&world.log());
    assert_eq!(short(&["run", "bonding-information"]).stdout, b"args: bonding-information\n");
    assert_still(&world, pid);
}

/// N35
#[test]
fn a_short_command_has_its_own_exit_code() {
    let world = World::with(Behaviour { exit_code: 5, ..Behaviour::new("1.0.0") }, options());
    let output = world.nymvisor(&["run", "fail", "now"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout), (Some(5), b"args: fail now\n".to_vec()));
}

/// N16
#[test]
fn a_polling_rate_of_zero_is_refused_before_anything_is_started() {
    let world = World::new();
    let mut command: Command = world.nymvisor(&["run", "run"]);
    let output = command.env("NYMVISOR_UPSTREAM_POLLING_RATE", "0s").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("NYMVISOR_UPSTREAM_POLLING_RATE") && said.contains("0s"), "{said}");
    assert!(world.log().starts().is_empty());
}
