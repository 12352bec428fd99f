//! The guide for operators of Vega Visor: its commands lead in and back and in again, and the tests that it names are there.

use std::path::Path;

use omnivisor_testkit::{VegaBehaviour, executable};

use super::world::{NEW, OLD, World, options};
use crate::guides::{Guide, Shell, assert_names_tests, systemctl};
use crate::world::omnivisor_exe;

const GUIDE: &str = "vega.md";

/// Stands for Vega Visor, at version 0.79 or earlier: runs what `current` names, and leaves it when it ends.
const PEER: &str = "#!/bin/sh\n\"$VISOR_HOME/current/vega\" start --home \"$CORE_HOME\" &\n\
    \"$VISOR_HOME/current/vega\" datanode start --home \"$DATA_NODE_HOME\" &\nwait\n";

#[test]
fn the_commands_of_the_guide_lead_in_and_back_and_in_again() {
    let guide = Guide::read(GUIDE);
    let world = World::with(options().with_data_node());
    let (bin, home) = (world.sandbox.path().join("bin"), world.installation.home());
    std::fs::create_dir(&bin).unwrap();
    executable::script(&bin.join("visor"), PEER);
    executable::script(&bin.join("systemctl"), &systemctl("visor run --home \"$VISOR_HOME\""));
    let mut shell = Shell::new(&bin, || {
        let mut command = world.surrounded(Path::new("/bin/sh"), "sh");
        command.env("UNIT", world.sandbox.path().join("unit")).env("VISOR_HOME", home);
        command.env("CORE_HOME", world.installation.core_home());
        command.env("DATA_NODE_HOME", world.installation.data_node_home());
        command
    });
    shell.run("systemctl start visor");
    world.wait_for(OLD);
    let first = world.log().running();

    let values: [(&str, &Path); 3] = [("BIN", &bin), ("OMNIVISOR", omnivisor_exe()), ("VISOR_HOME", home)];
    let said = shell.run(&guide.filled("look", &values));
    assert!(said.contains(&format!("release     {OLD} (genesis)")), "{said}");
    assert!(said.contains("Nothing was changed."), "{said}");

    shell.run(&guide.block("in"));
    world.wait_for_status("it runs", |status| status["node"]["state"] == "running");
    assert_eq!(world.log().running(), first, "what Vega Visor has left was taken over, undisturbed");
    let said = shell.run(&guide.block("look again"));
    assert!(said.contains(&format!("release     {OLD} (genesis)")), "{said}");
    world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    world.accept(NEW);
    world.wait_for_phase("staged");
    world.reach();
    world.wait_for_commit(NEW);

    let said = shell.run(&guide.block("back"));
    assert!(said.contains("upgrade     idle"), "{said}");
    assert_eq!(world.installation.assert_visor_would_start(), NEW);
    world.wait_for(NEW);
    assert!(world.status().is_none(), "that are Vega Visor's nodes");

    let said = shell.run(&guide.block("in again"));
    assert!(said.contains(&format!("release     {NEW} ({NEW})")), "{said}");
    world.wait_for_status("it is ours again", |status| status["node"]["state"] == "running");
    shell.run("systemctl stop visor");
    assert!(world.log().running().is_empty());
    world.log().assert_never_double();
}

#[test]
fn the_guide_shows_no_command_that_is_not_tested() {
    Guide::read(GUIDE).assert_tested(&["look", "in", "look again", "back", "in again"]);
}

/// Every test that the guide names is there, under that name.
#[test]
fn each_defect_of_vega_visor_names_tests_that_exist() {
    let guide = Guide::read(GUIDE);
    let rows = guide.rows("| Vega Visor | omnivisor | shown by |");
    assert!(rows.len() >= 30, "{} rows", rows.len());
    rows.into_iter().for_each(assert_names_tests);
}
