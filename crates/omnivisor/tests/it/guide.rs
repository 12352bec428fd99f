//! The guide for operators of Nymvisor: its commands lead in and back and in again, and the tests that it names are there.

use std::path::Path;

use omnivisor_testkit::{Behaviour, executable, wait_until};

use crate::guides::{Guide, Shell, assert_names_tests, systemctl};
use crate::world::{SOON, World, omnivisor_exe};

const GUIDE: &str = "nymvisor.md";

/// Stands for Nymvisor: runs what `current` names and ends it with a SIGINT.
const PEER: &str = "#!/bin/sh\n\"$DATA/current/bin/nym-node\" \"$@\" &\nnode=$!\n\
    trap 'kill -INT $node; wait $node; exit 0' INT TERM\nwait $node\n";

#[test]
fn the_commands_of_the_guide_lead_in_and_back_and_in_again() {
    let guide = Guide::read(GUIDE);
    let world = World::new();
    let bin = world.sandbox.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    executable::script(&bin.join("nymvisor"), PEER);
    executable::script(&bin.join("systemctl"), &systemctl("nymvisor run run"));
    let mut shell = Shell::new(&bin, || {
        let mut command = world.sandbox.omnivisor(Path::new("/bin/sh"), "sh");
        command.env("UNIT", world.sandbox.path().join("unit")).env("DATA", world.installation.data());
        command
    });
    shell.run("systemctl start nymvisor");
    let first = world.wait_for("1.0.0");

    let look = guide.filled("look", &[("BIN", &bin), ("OMNIVISOR", omnivisor_exe())]);
    let said = shell.run(&look);
    assert!(said.contains("release     1.0.0 (genesis)") && said.contains("Nothing was changed."), "{said}");
    assert_eq!(world.wait_for("1.0.0"), first, "it was not disturbed");

    let said = shell.run(&guide.block("in"));
    assert!(said.contains("id:                                nym-node-default\n"), "{said}");
    world.wait_for_status("it runs", |status| status["node"]["state"] == "running");
    let said = shell.run(&guide.block("look again"));
    assert!(said.contains("release     1.0.0 (genesis)"), "{said}");
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    world.wait_for_status("it is idle", |status| status["upgrade"]["phase"] == "idle");

    let said = shell.run(&guide.block("back"));
    assert!(said.contains("upgrade     idle"), "{said}");
    assert_eq!(world.installation.assert_nymvisor_would_start(), "2.0.0");
    let peers = world.wait_for("2.0.0");
    assert!(world.status().is_none(), "that is Nymvisor's node");

    let said = shell.run(&guide.block("in again"));
    assert!(said.contains("release     2.0.0 (2024.2)"), "{said}");
    wait_until("it is ours again", SOON, || world.status().filter(|status| status["node"]["state"] == "running"));
    assert_ne!(world.wait_for("2.0.0"), peers);
    shell.run("systemctl stop nymvisor");
    assert!(world.log().running().is_empty());
    world.log().assert_never_double();
}

/// Every block with commands is one that the test above runs.
#[test]
fn the_guide_shows_no_command_that_is_not_tested() {
    Guide::read(GUIDE).assert_tested(&["look", "in", "look again", "back", "in again"]);
}

/// Every test that the guide names is there, under that name.
#[test]
fn each_promise_of_nymvisors_documentation_names_tests_that_exist() {
    let guide = Guide::read(GUIDE);
    let rows = guide.rows("| it promises | shown by |");
    assert!(rows.len() > 40, "{} promises", rows.len());
    rows.into_iter().for_each(assert_names_tests);
}
