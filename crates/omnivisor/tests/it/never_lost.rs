//! A node is not lost to our own troubles, nor doubled, nor run on what belongs to another time.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use omnivisor_testkit::{Behaviour, Grandchild, Installation, Options, executable, wait_until};
use rustix::fs::{CWD, RenameFlags};

use crate::world::{SOON, World, options};

const SIGTERM: i32 = 15;

fn sick() -> Behaviour {
    Behaviour { exit_after_ms: Some(10), exit_code: 1, migrates: true, ..Behaviour::new("2.0.0") }
}

/// Waits until 2.0.0 was tried so often, and 1.0.0 runs again.
fn wait_for_undo(world: &World, tried: usize) {
    wait_until("it was tried and undone", SOON, || {
        let starts = world.log().starts();
        (starts.iter().filter(|start| start.version == "2.0.0").count() == tried).then_some(())
    });
    world.wait_for("1.0.0");
    world.wait_for_status("idle again", |status| status["upgrade"]["phase"] == "idle");
}

#[test]
fn a_journal_that_begins_anew_takes_no_old_snapshot_for_its_own() {
    let world = World::new();
    let data = world.sandbox.daemon_home().join("data/db");
    fs::create_dir_all(data.parent().unwrap()).unwrap();
    let mut supervised = world.run();
    fs::write(&data, "november").unwrap();
    world.publish("2024.2", &sick());
    wait_for_undo(&world, 2);
    supervised.signal(SIGTERM);
    supervised.wait(SOON);

    // As the hint of a degraded start says; and the month goes on.
    let state = world.installation.instance_dir().join("data/omnivisor");
    fs::rename(&state, state.with_extension("away")).unwrap();
    fs::write(&data, "december").unwrap();
    world.upstream.withdraw(crate::world::ANNOUNCEMENT);
    let _again = world.run();
    world.publish("2024.2", &sick());
    wait_for_undo(&world, 4);
    assert_eq!(fs::read_to_string(&data).unwrap(), "december");
    assert!(world.log().of("refused").is_empty(), "the old node is on its own data");
}

#[test]
fn what_an_adopted_node_leaves_in_a_session_of_its_own_delays_the_next_start_and_no_more() {
    let grandchild = Some(Grandchild { ignore_term: true, own_session: true, ..Default::default() });
    let node = Behaviour { grandchild, ..Behaviour::new("1.0.0") };
    let world = World::with(node, Options { shutdown_grace_period: "300ms".to_owned(), ..options() });
    let mut first = world.run();
    let pid = world.wait_for("1.0.0");
    wait_until("the grandchild is there", SOON, || (world.log().grandchildren().len() == 1).then_some(()));
    first.kill9();
    let again = world.run_again();
    let killed = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    wait_until("another node runs", SOON, || world.log().running().iter().any(|it| it.pid != pid).then_some(()));
    assert!(again.stderr().contains("that the node left behind are killed"), "{}", again.stderr());
    world.log().assert_never_double();
}

#[test]
fn a_start_that_cannot_be_noted_is_made_all_the_same() {
    let world = World::new();
    let state = world.installation.instance_dir().join("data/omnivisor");
    fs::create_dir_all(state.join("launch.json/in-the-way")).unwrap();
    let mut supervised = world.run();
    let pid = world.wait_for("1.0.0");
    assert!(supervised.stderr().contains("cannot be noted"), "{}", supervised.stderr());
    // And found by its mark.
    supervised.kill9();
    let _again = world.run_again();
    assert_eq!(world.wait_for("1.0.0"), pid);
    assert_eq!(world.status().unwrap()["node"]["pid"], pid);
}

#[test]
fn two_instances_of_one_home_run_one_node() {
    let world = World::new();
    let mut first = world.run();
    let pid = world.wait_for("1.0.0");
    let genesis = world.minted(&Behaviour::new("1.0.0"));
    let directory = Some(world.sandbox.path().join("other-data"));
    let options = Options { data_directory: directory, ..options() };
    Installation::nymvisor_with(&world.sandbox, "other", "nym-node", &genesis, &options);
    let mut command = world.run_command();
    command.env("NYMVISOR_ID", "other");
    let mut second = world.sandbox.spawn(command);
    assert_eq!(second.wait(SOON).code(), Some(12), "{}", second.stderr());
    assert!(second.stderr().contains("nym-node-default"), "{}", second.stderr());
    assert_eq!(world.wait_for("1.0.0"), pid);

    // Nor beside a node whose supervisor is gone.
    first.kill9();
    let mut command = world.run_command();
    command.env("NYMVISOR_ID", "other");
    let mut second = world.sandbox.spawn(command);
    assert_eq!(second.wait(SOON).code(), Some(12), "{}", second.stderr());
    assert!(second.stderr().contains("a node of instance nym-node-default"), "{}", second.stderr());
    assert_eq!(world.wait_for("1.0.0"), pid);
    world.log().assert_never_double();
}

#[test]
fn a_link_that_cannot_be_moved_back_keeps_no_node_down() {
    let world = World::new();
    let supervised = world.run();
    world.publish("2024.2", &Behaviour { exit_after_ms: Some(600), exit_code: 1, ..Behaviour::new("2.0.0") });
    wait_until("it is tried", SOON, || world.log().starts().iter().any(|it| it.version == "2.0.0").then_some(()));
    // Somebody puts a folder where the link was.
    let link = world.installation.current();
    wait_until("the link is moved", SOON, || {
        (fs::read_link(&link).ok()? != world.installation.upgrade_dir("genesis")).then_some(())
    });
    // In one step: a link that is missing may be made anew at any time, and the folder would be made behind it.
    let aside = world.sandbox.path().join("aside");
    fs::create_dir_all(aside.join("in-the-way")).unwrap();
    rustix::fs::renameat_with(CWD, &aside, CWD, &link, RenameFlags::EXCHANGE).unwrap();
    let dies = wait_until("it died twice", SOON, || {
        world.log().of("exit").into_iter().filter(|it| it.version == "2.0.0").nth(1)
    });
    world.wait_for("1.0.0");
    let back = world.log().last_start().unwrap();
    assert!(Duration::from_nanos(back.mono_ns - dies.mono_ns) < Duration::from_millis(2 * 300 + 1000));
    let pid = world.wait_for("1.0.0");
    wait_until("a person is called", SOON, || supervised.stderr().contains("omnivisor resume").then_some(()));
    fs::remove_dir_all(&link).unwrap();
    assert!(world.omnivisor(&["resume"]).status.success());
    world.wait_for_status("idle again", |status| status["upgrade"]["phase"] == "idle");
    assert_eq!(world.wait_for("1.0.0"), pid, "and the node that ran goes on");
}

#[test]
fn a_signal_during_the_start_ends_it_before_anything_is_run() {
    let world = World::new();
    // Adoption asks the executable who it is, and it does not answer.
    let genesis = world.installation.binary("genesis");
    executable::script(&genesis, "#!/bin/sh\nexec sleep 1000\n");
    let mut supervised = world.start();
    wait_until("it asks", SOON, || {
        let children = format!("/proc/{0}/task/{0}/children", supervised.pid());
        (!fs::read_to_string(children).ok()?.trim().is_empty()).then_some(())
    });
    supervised.signal(1);
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0), "{}", supervised.stderr());
    assert!(world.log().starts().is_empty());
}

#[test]
fn a_log_that_nobody_reads_stalls_nothing() {
    let world = World::with(
        Behaviour { exit_after_ms: Some(5), exit_code: 1, ..Behaviour::new("1.0.0") },
        Options { failure_restart_delay: "1ms".to_owned(), max_startup_failures: 100_000, ..options() },
    );
    let mut command = world.run_command();
    command.env("RUST_LOG", "trace").stderr(Stdio::piped()).stdout(Stdio::null()).stdin(Stdio::null());
    let mut supervisor = command.spawn().unwrap();
    // The pipe is full long before.
    wait_until("it restarts and restarts", Duration::from_secs(60), || {
        (world.log().starts().len() > 600).then_some(())
    });
    assert!(world.status().is_some(), "and it answers");
    let pid = rustix::process::Pid::from_raw(supervisor.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = wait_until("it ends", SOON, || supervisor.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn an_approval_that_would_come_to_nothing_is_refused() {
    let world = World::new();
    let _supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    let older = world.minted(&Behaviour::new("1.5.0"));
    let add = |force: bool| {
        let mut command = world.nymvisor(&["add-upgrade", older.to_str().unwrap(), "--upgrade-name", "back", "--now"]);
        if force {
            command.arg("--force");
        }
        command.output().unwrap()
    };
    let refused = add(false);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--force"), "{refused:?}");
    assert!(add(true).status.success());
    world.wait_for_commit("1.5.0");
    let again = world.omnivisor(&["upgrade", "2024.2"]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
}

#[test]
fn a_pipe_in_the_place_of_the_plan_keeps_nobody_waiting() {
    let world = World::new();
    let plan = world.installation.plan();
    fs::remove_file(&plan).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, &plan, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let mut supervised = world.run();
    world.wait_for("1.0.0");
    assert!(world.status().is_some(), "it answers");
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert!(world.log().running().is_empty());
}

#[test]
fn what_is_secret_in_the_upstreams_address_is_not_written_where_everybody_reads() {
    let world = World::new();
    let address = world.upstream.url(crate::world::ANNOUNCEMENT).replace("http://", "http://me:s3cret@");
    let mut command = world.run_command();
    command.env("DAEMON_ABSOLUTE_UPSTREAM_UPGRADE_URL", format!("{address}?token=t0ken"));
    let supervised = world.sandbox.spawn(command);
    world.wait_for("1.0.0");
    let later = crate::world::timestamp(Duration::from_secs(3600));
    world.publish_for("2024.2", &Behaviour::new("2.0.0"), &later);
    world.wait_for_status("it is ready", |status| status["upgrade"]["phase"] == "staged");
    assert!(world.upstream.last_request(crate::world::ANNOUNCEMENT).unwrap().query.contains("t0ken"), "but it is sent");
    let plan = fs::read_to_string(world.installation.plan()).unwrap();
    for secret in ["s3cret", "t0ken"] {
        assert!(!plan.contains(secret), "{plan}");
        assert!(!supervised.stderr().contains(secret), "{}", supervised.stderr());
    }
}
