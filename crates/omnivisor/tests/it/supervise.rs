//! Never two nodes, never none: restarts, signals, locks, adoption, what is left behind.

use std::fs;
use std::time::Duration;

use omnivisor_testkit::{Answer, Behaviour, Grandchild, Options, upgrade_info, wait_until, wire};

use crate::world::{ANNOUNCEMENT, SOON, World, options, timestamp};

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGTERM: i32 = 15;

#[test]
fn each_signal_that_ends_the_supervisor_ends_the_node_in_its_own_time_first() {
    for signal in [SIGINT, SIGTERM, SIGQUIT] {
        let world = World::with(Behaviour { linger_ms: 150, ..Behaviour::new("1.0.0") }, options());
        let mut supervised = world.run();
        let pid = world.wait_for("1.0.0");
        supervised.signal(signal);
        assert_eq!(supervised.wait(SOON).code(), Some(0));
        assert_eq!(world.log().signals_of(pid), [SIGINT], "asked once, as the peer asks");
        assert_eq!(world.log().of("exit").len(), 1, "and waited for");
        assert!(world.log().running().is_empty());
    }
}

#[test]
fn a_closed_terminal_ends_neither_the_supervisor_nor_the_node() {
    let world = World::new();
    let mut supervised = world.run();
    let pid = world.wait_for("1.0.0");
    supervised.signal(SIGHUP);
    wait_until("it says so", SOON, || supervised.stderr().contains("SIGHUP").then_some(()));
    assert_eq!(world.wait_for("1.0.0"), pid);
    assert_eq!(world.status().unwrap()["node"]["pid"], pid);
}

#[test]
fn a_stop_is_heard_while_a_download_stalls_and_while_a_restart_is_waited_for() {
    let world = World::new();
    let mut supervised = world.run();
    let info = world.publish("stalls", &Behaviour::new("2.0.0"));
    world.upstream.serve("/download/stalls", Answer::Stall { after_bytes: 1000, of_bytes: 1_000_000 });
    world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
    wait_until("the download has begun", SOON, || world.upstream.last_request("/download/stalls"));
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0));

    let dies = Behaviour { exit_after_ms: Some(10), exit_code: 1, ..Behaviour::new("1.0.0") };
    let world = World::with(dies, Options { failure_restart_delay: "1h".to_owned(), ..options() });
    let mut supervised = world.run();
    wait_until("it waits", SOON, || supervised.stderr().contains("started again in").then_some(()));
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
}

#[test]
fn a_node_that_ignores_the_request_is_killed_at_the_end_of_its_grace() {
    let stubborn = Behaviour { ignore_stop: true, ..Behaviour::new("1.0.0") };
    let world = World::with(stubborn, Options { shutdown_grace_period: "300ms".to_owned(), ..options() });
    let mut supervised = world.run();
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert!(world.log().running().is_empty());
    assert!(supervised.stderr().contains("is killed"), "{}", supervised.stderr());
}

#[test]
fn what_a_node_leaves_behind_is_ended_before_the_next_one_starts() {
    for ignore_term in [false, true] {
        let grandchild = Some(Grandchild { ignore_term, ..Grandchild::default() });
        let node =
            Behaviour { grandchild, die_of_signal: Some(9), exit_after_ms: Some(100), ..Behaviour::new("1.0.0") };
        let options = Options { shutdown_grace_period: "300ms".to_owned(), ..options() };
        let world = World::with(node, options);
        let _supervised = world.run();
        wait_until("it was started twice", SOON, || (world.log().starts().len() >= 2).then_some(()));
        // The lock of the first is inherited by its grandchild: a second start beside it would be seen.
        wait_until("one grandchild at most", SOON, || (world.log().grandchildren().len() <= 1).then_some(()));
        world.log().assert_never_double();
    }
}

#[test]
fn a_killed_supervisor_leaves_the_node_undisturbed_and_the_next_one_takes_it_over() {
    let world = World::new();
    let mut supervised = world.run();
    let pid = world.wait_for("1.0.0");
    supervised.kill9();
    assert_eq!(world.wait_for("1.0.0"), pid);
    let mut second = world.run_again();
    assert_eq!(world.status().unwrap()["node"]["pid"], pid);
    assert_eq!(world.log().starts().len(), 1, "it was not started again");

    // It can be upgraded,
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    // and a later one that dies unseen is restarted.
    let pid = world.wait_for("2.0.0");
    second.kill9();
    let mut third = world.run_again();
    let killed = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    wait_until("another one runs", SOON, || world.log().running().iter().any(|it| it.pid != pid).then_some(()));
    third.signal(SIGTERM);
    assert_eq!(third.wait(SOON).code(), Some(0));
    assert!(world.log().running().is_empty(), "an adopted node is stopped, too");
    world.log().assert_never_double();
}

#[test]
fn of_two_supervisors_that_find_a_live_node_exactly_one_takes_it_over() {
    for _ in 0..5 {
        let world = World::new();
        let mut first = world.run();
        let pid = world.wait_for("1.0.0");
        first.kill9();
        let mut both = [world.start(), world.start()];
        let loser = wait_until("one of them gives up", SOON, || {
            both.iter_mut().find_map(|it| it.try_wait().map(|status| (status.code(), it.stderr())))
        });
        assert_eq!(loser.0, Some(12), "{}", loser.1);
        assert!(loser.1.contains("supervised already, by process"), "{}", loser.1);
        world.wait_for_status("the other has it", |status| status["node"]["pid"] == pid);
        assert_eq!(both.iter_mut().filter_map(omnivisor_testkit::Supervised::try_wait).count(), 1);
        assert_eq!(world.log().starts().len(), 1);
    }
}

#[test]
fn a_node_that_was_started_with_other_arguments_is_replaced() {
    let world = World::new();
    let mut first = world.run();
    let pid = world.wait_for("1.0.0");
    first.kill9();
    let mut command = world.run_command();
    command.arg("--other");
    let _second = world.sandbox.spawn(command);
    wait_until("another one runs", SOON, || {
        let running = world.log().running();
        (running.len() == 1 && running[0].pid != pid).then_some(())
    });
    assert!(world.log().last_start().unwrap().args.contains(&"--other".to_owned()));
    world.log().assert_never_double();
}

#[test]
fn a_short_command_runs_beside_the_node_and_keeps_its_exit_code() {
    let world = World::with(Behaviour { exit_code: 7, ..Behaviour::new("1.0.0") }, options());
    let _supervised = world.run();
    let pid = world.wait_for("1.0.0");
    let output = world.nymvisor(&["run", "bonding-information"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "args: bonding-information");
    assert_eq!(world.nymvisor(&["run", "fail"]).status().unwrap().code(), Some(7));
    assert_eq!(world.wait_for("1.0.0"), pid);
    assert_eq!(world.log().starts().len(), 1);
}

#[test]
fn an_operator_holds_resumes_and_stops() {
    let world = World::new();
    let mut supervised = world.run();
    let pid = world.wait_for("1.0.0");
    assert!(world.omnivisor(&["hold"]).status.success());
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    let status = world.wait_for_status("it is ready, and held", |status| status["upgrade"]["phase"] == "staged");
    assert_eq!(status["held"], true);

    // A hold outlives the supervisor.
    supervised.kill9();
    let mut again = world.run_again();
    let status = world.wait_for_status("it is ready, and held", |status| status["upgrade"]["phase"] == "staged");
    assert_eq!((&status["held"], &status["node"]["pid"]), (&true.into(), &pid.into()));

    assert!(world.omnivisor(&["resume"]).status.success());
    world.wait_for_commit("2.0.0");
    assert!(world.omnivisor(&["stop"]).status.success());
    assert_eq!(again.wait(SOON).code(), Some(0));
    assert!(world.log().running().is_empty());
    let output = world.omnivisor(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no instance is running"));
}

#[test]
fn a_journal_that_cannot_be_believed_keeps_the_node_running_and_upgrades_nothing() {
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 4] = [
        ("missing", |journal| fs::remove_file(journal).unwrap()),
        ("empty", |journal| fs::write(journal, "").unwrap()),
        ("not a journal", |journal| fs::write(journal, "{}").unwrap()),
        ("damaged in the middle", |journal| {
            let mut bytes = fs::read(journal).unwrap();
            bytes[40] ^= 1;
            fs::write(journal, bytes).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let world = World::new();
        let mut supervised = world.run();
        world.omnivisor(&["hold"]);
        world.omnivisor(&["resume"]);
        supervised.signal(SIGTERM);
        supervised.wait(SOON);
        let journal = world.installation.instance_dir().join("data/omnivisor/journal");
        damage(&journal);
        let before = fs::read(&journal).ok();

        let supervised = world.run();
        world.publish("2024.2", &Behaviour::new("2.0.0"));
        let status = world.wait_for_status("it knows of it", |status| {
            status["announced"].as_array().is_some_and(|announced| !announced.is_empty())
        });
        assert!(status["degraded"].is_string(), "{what}: {status}");
        assert!(supervised.stderr().contains("DEGRADED"), "{what}");
        world.wait_for("1.0.0");
        let output = world.omnivisor(&["upgrade", "2024.2"]);
        assert!(!output.status.success(), "{what}");
        assert_eq!(fs::read(&journal).ok(), before, "{what}: what is there is not touched");
    }
}

#[test]
fn a_torn_last_record_is_cut_and_everything_before_it_counts() {
    let world = World::new();
    let mut supervised = world.run();
    assert!(world.omnivisor(&["hold"]).status.success());
    supervised.kill9();
    let journal = world.installation.instance_dir().join("data/omnivisor/journal");
    let mut bytes = fs::read(&journal).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes[end..end + 7].copy_from_slice(b"\x20\0\0\0\0\x01\0");
    fs::write(&journal, bytes).unwrap();
    let _again = world.run_again();
    let status = world.status().unwrap();
    assert_eq!((&status["held"], &status["degraded"]), (&true.into(), &serde_json::Value::Null));
}

#[test]
fn a_release_whose_probe_fails_is_undone() {
    let world = World::new();
    let healthy = world.installation.daemon_home().join("healthy");
    let settings = world.installation.config().with_file_name("omnivisor.toml");
    let probe = format!("[probe]\ncommand = ['/usr/bin/test', '-f', '{}']\ninterval = '100ms'\n", healthy.display());
    fs::write(settings, probe).unwrap();
    let supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    world.publish("2024.3", &Behaviour { sick: true, migrates: true, ..Behaviour::new("3.0.0") });
    wait_until("it is tried", SOON, || world.log().starts().iter().any(|it| it.version == "3.0.0").then_some(()));
    world.wait_for("2.0.0");
    world.wait_for_files("2.0.0");
    assert!(supervised.stderr().contains("its probe fail"), "{}", supervised.stderr());
    assert!(world.log().of("refused").is_empty());
}

/// The peer upgraded while it was in charge again: its release is run, and never the older one on its data.
#[test]
fn coming_back_from_the_peer_the_release_that_it_installed_is_run() {
    let world = World::new();
    let mut supervised = world.run();
    supervised.signal(SIGTERM);
    supervised.wait(SOON);

    let behaviour = Behaviour::new("2.0.0");
    let info = upgrade_info("theirs", "2.0.0", &timestamp(Duration::ZERO), None, Some(behaviour.details()));
    let installation = &world.installation;
    installation.place_upgrade(&info, Some(&world.minted(&behaviour)));
    let mut plan = world.plan();
    plan["current"] = info.clone();
    fs::write(installation.plan(), wire::pretty(&plan)).unwrap();
    let performed = serde_json::json!({"history": [{"performedAt": timestamp(Duration::ZERO), "info": info}]});
    fs::write(installation.history(), wire::pretty(&performed)).unwrap();
    let version = serde_json::json!({
        "name": "theirs", "version": "2.0.0", "upgradeTime": info["upgradeTime"], "binaryDetails": behaviour.details(),
    });
    fs::write(installation.current_version(), wire::pretty(&version)).unwrap();
    fs::remove_file(installation.current()).unwrap();
    std::os::unix::fs::symlink(installation.upgrade_dir("theirs"), installation.current()).unwrap();
    assert_eq!(installation.assert_nymvisor_would_start(), "2.0.0", "the peer could have left it so");

    let _back = world.run();
    world.wait_for("2.0.0");
    assert_eq!(world.log().last_start().unwrap().version, "2.0.0");
    assert!(world.log().starts().iter().skip(1).all(|start| start.version == "2.0.0"));
    world.wait_for_files("2.0.0");
}
