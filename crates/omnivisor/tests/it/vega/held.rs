//! A data node that has its PostgreSQL below itself cannot be upgraded: no home is made for it, and where there is one, it runs
//! on and its upgrades are held.

use std::fs;
use std::path::Path;
use std::process::Output;

use omnivisor_testkit::{Sandbox, VegaBehaviour, VegaInstallation};
use serde_json::Value;

use super::world::{ASSET, HEIGHT, NEW, OLD, World, installing, options, said, wait_for_line};
use crate::world::omnivisor_exe;

/// What is said in every one of these cases.
const EMBEDDED: &str = "embedded PostgreSQL";

/// A data node's file that asks for it, or does not.
fn configure(file: &Path, embedded: bool) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, format!("[SQLStore]\n  UseEmbedded = {embedded}\n")).unwrap();
}

/// An installation whose data node is configured so, by its file and by its arguments.
fn configured(in_file: bool, arguments: &[&str]) -> World {
    let world = World::with(installing().with_data_node());
    configure(&world.installation.data_node_config(), in_file);
    world.change_run_config(|run| {
        run.data_node.as_mut().unwrap().1.extend(arguments.iter().map(|word| (*word).to_owned()));
    });
    world.publish(NEW, &VegaBehaviour::new(NEW));
    world
}

/// What status says of the new release.
fn standing(status: &Value) -> &str {
    let announced = status["announced"].as_array().unwrap();
    let new = announced.iter().find(|announced| announced["name"] == NEW);
    new.and_then(|new| new["standing"].as_str()).unwrap_or_default()
}

#[test]
fn init_makes_no_home_beside_a_data_node_that_embeds_its_postgres() {
    let sandbox = Sandbox::new();
    let installation = VegaInstallation::at(&sandbox, options());
    let home = installation.home().to_str().unwrap();
    let init = |arguments: &[&str], configs: Option<&Path>| -> Output {
        let mut command = sandbox.omnivisor(omnivisor_exe(), "vegavisor");
        command.args(["init", "--home", home]).args(arguments);
        command.envs(configs.map(|folder| ("XDG_CONFIG_HOME", folder)));
        command.output().unwrap()
    };
    let elsewhere = sandbox.path().join("config");
    for (configs, folder) in [(None, sandbox.home().join(".config")), (Some(elsewhere.as_path()), elsewhere.clone())] {
        let file = folder.join("vega/data-node/config.toml");
        configure(&file, true);
        let refused = init(&["--with-data-node"], configs);
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{why}");
        assert!(why.contains(EMBEDDED) && why.contains(file.to_str().unwrap()), "{why}");
        assert!(!installation.home().exists(), "nothing is half made");
        configure(&file, false);
    }
    let made = init(&["--with-data-node"], None);
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn init_of_a_core_alone_does_not_mind_what_a_data_node_would_do() {
    let world = World::new();
    configure(&world.sandbox.home().join(".config/vega/data-node/config.toml"), true);
    let home = world.sandbox.path().join("another");
    let made = world.visor(&["init", "--home", home.to_str().unwrap()]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn an_installation_with_an_embedded_postgres_runs_with_a_warning_and_is_not_upgraded() {
    for (in_file, arguments) in [
        (true, &[][..]),
        (false, &["--sqlstore.use-embedded=true"]),
        (false, &["--sqlstore.use-embedded", "true"]),
        (false, &["--sqlstore.use-embedded"]),
    ] {
        let world = configured(in_file, arguments);
        let supervised = world.run();
        world.wait_for(OLD);
        wait_for_line(&supervised, &["WARN", EMBEDDED, "upgrades are held"]);
        world.accept(NEW);
        world.reach();
        wait_for_line(&supervised, &["WARN", "cannot be followed", EMBEDDED]);
        let status = world.status().unwrap();
        assert_eq!(status["upgrade"]["phase"], "idle", "{arguments:?}: {status:#}");
        assert!(standing(&status).contains(EMBEDDED), "{arguments:?}: {status:#}");
        // Nor by a person who does not know better.
        let forced = world.omnivisor(&["upgrade", NEW]);
        assert_eq!(forced.status.code(), Some(1), "{forced:?}");
        assert_eq!(world.github.downloads(NEW, ASSET), 0);
        assert_eq!(world.log().starts().len(), 2, "nothing was stopped: {}", said(&supervised));
        world.wait_for(OLD);
    }
}

#[test]
fn upgrades_go_on_once_the_data_node_has_a_postgres_of_its_operators() {
    let world = configured(true, &[]);
    let supervised = world.run();
    world.wait_for(OLD);
    world.accept(NEW);
    world.reach();
    wait_for_line(&supervised, &["cannot be followed", EMBEDDED]);
    configure(&world.installation.data_node_config(), false);
    world.wait_for(NEW);
    world.wait_for_commit(NEW);
}

#[test]
fn what_was_ready_is_not_switched_to_once_the_data_node_is_configured_to_embed_its_postgres() {
    let world = configured(false, &[]);
    let supervised = world.run();
    world.wait_for(OLD);
    world.accept(NEW);
    world.wait_for_phase("staged");
    configure(&world.installation.data_node_config(), true);
    world.reach();
    wait_for_line(&supervised, &["cannot be followed", EMBEDDED]);
    world.wait_for_phase("idle");
    assert_eq!(world.log().starts().len(), 2, "nothing was stopped: {}", said(&supervised));
}

#[test]
fn a_data_nodes_arguments_count_over_its_file() {
    let world = configured(true, &["--sqlstore.use-embedded=false"]);
    let supervised = world.run();
    world.wait_for(OLD);
    world.accept(NEW);
    world.wait_for_phase("staged");
    assert!(!said(&supervised).contains(EMBEDDED), "{}", said(&supervised));
    assert!(standing(&world.status().unwrap()).contains(&HEIGHT.to_string()));
}
