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
    let mut command = world.run_command();
    command.env("OMNIVISOR_PROBE_WINDOW", "10m");
    let _supervised = world.sandbox.spawn(command);
    world.wait_for("1.0.0");
    world.publish("2024.2", &Behaviour { migrates: true, ..Behaviour::new("2.0.0") });
    world.wait_for_status("it is probed", |status| status["upgrade"]["phase"] == "probing");
    wait_until("the data is migrated", SOON, || {
        let state = fs::read_to_string(world.installation.daemon_home().join("data/state.json")).ok()?;
        state.contains("2.0.0").then_some(())
    });
    let output = world.omnivisor(&["rollback"]);
    assert!(output.status.success(), "{}", said(&output));
    is_back(&world);
}
