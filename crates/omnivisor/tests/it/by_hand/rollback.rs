//! `omnivisor rollback`: the old release runs on its old data, and the other one is not installed again.

use std::fs;

use omnivisor_testkit::{Behaviour, Options, Supervised, wait_until};

use crate::world::{SOON, World, options};

/// An upgrade from 1.0.0 to 2.0.0, which migrates the data, was committed.
fn upgraded(options: Options) -> (World, Supervised) {
    let world = World::with(Behaviour::new("1.0.0"), options);
    let supervised = world.run();
    world.publish("2024.2", &Behaviour { migrates: true, ..Behaviour::new("2.0.0") });
    world.wait_for_commit("2.0.0");
    (world, supervised)
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

fn is_back(world: &World) {
    world.wait_for("1.0.0");
    world.wait_for_files("1.0.0");
    let status = world.wait_for_status("it is over", |status| status["upgrade"]["phase"] == "idle");
    assert_eq!(status["active"]["version"], "1.0.0");
    assert_eq!(status["failed"][0]["version"], "2.0.0", "{status:#}");
    assert!(world.log().of("refused").is_empty(), "the old node finds its own data");
    world.log().assert_never_double();
}

#[test]
fn an_upgrade_that_was_well_is_taken_back_by_hand_with_its_data() {
    let (world, _supervised) = upgraded(options());
    let home = world.installation.daemon_home();
    fs::write(home.join("data/since.txt"), "written since").unwrap();
    let output = world.omnivisor(&["rollback"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("goes back from 2.0.0 to 1.0.0, with the data"), "{}", said(&output));
    is_back(&world);
    assert!(!home.join("data/since.txt").exists());
    let kept = fs::read_dir(home.join("nymvisor"))
        .unwrap()
        .flatten()
        .find_map(|entry| fs::read_to_string(entry.path().join("replaced/data/since.txt")).ok());
    assert_eq!(kept.as_deref(), Some("written since"), "what it was replaced by is kept aside");
    let again = world.omnivisor(&["rollback"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("no upgrade has been done here"), "{}", said(&again));
    let history = said(&world.omnivisor(&["history"]));
    assert!(history.contains("an operator takes the upgrade back, with its data"), "{history}");
}

#[test]
fn the_data_stays_where_an_operator_says_so() {
    let world = World::new();
    let _supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    let since = world.installation.daemon_home().join("data/since.txt");
    fs::write(&since, "written since").unwrap();
    let output = world.omnivisor(&["rollback", "--keep-data"]);
    assert!(output.status.success() && said(&output).contains("its data stays"), "{}", said(&output));
    is_back(&world);
    assert!(since.exists());
}

#[test]
fn without_a_snapshot_the_data_is_not_taken_back_unasked() {
    let (world, _supervised) = upgraded(Options { unsafe_skip_backup: true, ..options() });
    let pid = world.wait_for("2.0.0");
    let output = world.omnivisor(&["rollback"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("no snapshot was taken before") && said(&output).contains("--keep-data"));
    assert_eq!(world.wait_for("2.0.0"), pid, "it runs on");
}

/// What is answered is done: a run that is ending takes no order any more.
#[test]
fn a_run_that_is_ending_is_given_no_rollback() {
    let world = World::new();
    let mut supervised = world.run();
    world.publish("2024.2", &Behaviour { linger_ms: 3000, ..Behaviour::new("2.0.0") });
    world.wait_for_commit("2.0.0");
    let stopped = world.omnivisor(&["stop"]);
    assert!(stopped.status.success(), "{}", said(&stopped));
    let output = world.omnivisor(&["rollback"]);
    assert!(!output.status.success() && said(&output).contains("the run is ending"), "{}", said(&output));
    supervised.wait(SOON);
    let output = world.omnivisor(&["rollback"]);
    assert!(output.status.success() && said(&output).contains("at its next start"), "{}", said(&output));
}

/// The order is on disk, and the next start does it before anything runs.
#[test]
fn a_rollback_that_is_ordered_while_nothing_runs_is_done_by_the_next_start() {
    let (world, mut supervised) = upgraded(options());
    supervised.signal(15);
    supervised.wait(SOON);
    let starts = world.log().starts().len();
    let output = world.omnivisor(&["rollback"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("at its next start"), "{}", said(&output));
    assert_eq!(world.log().starts().len(), starts, "nothing was started");
    let _supervised = world.run_again();
    is_back(&world);
    let new = world.log().starts().split_off(starts);
    assert!(new.iter().all(|start| start.version == "1.0.0"), "{new:?}");
}

/// One that is being probed does not have to fail first.
#[test]
fn an_upgrade_that_is_being_probed_is_taken_back_by_hand() {
    let world = World::new();
    let _supervised = world.on_trial(&Behaviour { migrates: true, ..Behaviour::new("2.0.0") });
    wait_until("the data is migrated", SOON, || {
        let state = fs::read_to_string(world.installation.daemon_home().join("data/state.json")).ok()?;
        state.contains("2.0.0").then_some(())
    });
    let output = world.omnivisor(&["rollback"]);
    assert!(output.status.success(), "{}", said(&output));
    is_back(&world);
}

/// An upgrade whose snapshot was packed.
fn packed(migrates: bool) -> (World, Supervised) {
    let world = World::new();
    let mut command = world.run_command();
    command.env("OMNIVISOR_PROBE_WINDOW", "300ms").env("OMNIVISOR_BACKUP_ARCHIVE_AFTER", "0s");
    let supervised = world.sandbox.spawn(command);
    world.wait_for("1.0.0");
    world.publish("2024.2", &Behaviour { migrates, ..Behaviour::new("2.0.0") });
    world.wait_for_commit("2.0.0");
    wait_until("the snapshot is packed", SOON, || {
        let names = fs::read_dir(world.installation.backups().join("2024.2")).ok()?.flatten();
        let names: Vec<_> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        (names.len() == 2 && names.iter().any(|name| name.ends_with(".tar.zst"))).then_some(())
    });
    (world, supervised)
}

/// What is beside the data and called so.
fn beside(world: &World, prefix: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(world.installation.daemon_home().join("nymvisor")).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix))
        .collect()
}

/// Unpacking is done while the node runs, and whoever is killed in that has stopped nothing.
#[test]
fn what_was_packed_is_unpacked_before_the_node_is_stopped() {
    for (point, name) in [("rollback-copied", ".making-ready-"), ("rollback-ready", "restore-")] {
        let (world, mut supervised) = packed(true);
        supervised.signal(9);
        supervised.wait(SOON);
        let pid = world.wait_for("2.0.0");
        let mut command = world.run_command();
        command.env("OMNIVISOR_CHECKPOINT", point);
        let mut supervised = world.sandbox.spawn(command);
        wait_until("it has taken over", SOON, || world.status());
        let output = world.omnivisor(&["rollback"]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("as soon as that is copied from"), "{}", said(&output));
        supervised.wait(SOON);
        assert_eq!(world.wait_for("2.0.0"), pid, "nothing was ordered yet");
        assert_eq!(world.log().signals_of(pid), [0_i32; 0]);
        let ready = beside(&world, name);
        assert!(ready.len() == 1 && ready[0].join("complete").exists(), "{ready:?}");
        // The next one goes on from what has its name, and has no use for the other.
        let _supervised = world.run_again();
        wait_until("it has taken over", SOON, || world.status());
        wait_until("it is removed", SOON, || beside(&world, ".making-ready-").is_empty().then_some(()));
        assert_eq!(world.wait_for("2.0.0"), pid);
        let output = world.omnivisor(&["rollback"]);
        assert!(output.status.success(), "{}", said(&output));
        is_back(&world);
    }
}

/// Beside a node as much has to stay free as beside any copy of its data.
#[test]
fn what_does_not_fit_beside_the_node_is_not_unpacked() {
    let (world, mut supervised) = packed(true);
    supervised.signal(9);
    supervised.wait(SOON);
    let pid = world.wait_for("2.0.0");
    let mut command = world.run_command();
    command.env("OMNIVISOR_SNAPSHOT_RESERVE", "4096TiB");
    let _supervised = world.sandbox.spawn(command);
    wait_until("it has taken over", SOON, || world.status());
    let output = world.omnivisor(&["rollback"]);
    let said = said(&output);
    assert!(!output.status.success() && said.contains("are needed for the data as it was"), "{said}");
    assert!(said.contains("--keep-data"), "{said}");
    assert_eq!(world.wait_for("2.0.0"), pid, "the node runs on");
    assert!(beside(&world, ".making-ready-").is_empty() && beside(&world, "restore-").is_empty());
}

/// What was begun is for nothing then.
#[test]
fn whoever_wants_the_data_kept_does_not_wait_for_a_copy_of_it() {
    let (world, _supervised) = packed(false);
    // The two commands come one right after the other; whichever way that goes, the node goes back once.
    let first = world.omnivisor(&["rollback"]);
    assert!(first.status.success(), "{}", said(&first));
    let _ = world.omnivisor(&["rollback", "--keep-data"]);
    world.wait_for("1.0.0");
    let status = world.wait_for_status("it is over", |status| status["upgrade"]["phase"] == "idle");
    assert_eq!(status["active"]["version"], "1.0.0");
    world.wait_for_status("nobody waits for it", |status| status["rollback"].is_null());
    wait_until("nothing is left of it", SOON, || beside(&world, ".making").is_empty().then_some(()));
    world.log().assert_never_double();
}

#[test]
fn a_packed_snapshot_goes_back_at_once_and_a_damaged_one_leaves_the_node_as_it_is() {
    for is_damaged in [false, true] {
        let (world, _supervised) = packed(true);
        let pid = world.wait_for("2.0.0");
        if is_damaged {
            let folder = fs::read_dir(world.installation.backups().join("2024.2")).unwrap();
            let archive = folder.flatten().map(|it| it.path()).find(|it| it.extension().is_some_and(|it| it == "zst"));
            let archive = archive.unwrap();
            let mut bytes = fs::read(&archive).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle..].fill(0x55);
            fs::write(&archive, bytes).unwrap();
        }
        let output = world.omnivisor(&["rollback"]);
        assert!(output.status.success(), "{}", said(&output));
        if !is_damaged {
            is_back(&world);
            continue;
        }
        let status = world.wait_for_status("it says why", |status| status["rollback"]["state"] == "failed");
        assert_eq!(status["upgrade"]["phase"], "idle", "{status:#}");
        assert_eq!(world.wait_for("2.0.0"), pid, "the node runs on");
        let shown = said(&world.omnivisor(&["status"]));
        assert!(shown.contains("rollback    CANNOT be begun: "), "{shown}");
        wait_until("nothing is left of it", SOON, || {
            (beside(&world, "restore-").is_empty() && beside(&world, ".making").is_empty()).then_some(())
        });
    }
}
