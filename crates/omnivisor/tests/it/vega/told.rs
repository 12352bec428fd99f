//! What an operator is told: by the answer to a command, by the status, and by the log.

use std::fs;
use std::process::Output;

use omnivisor_testkit::{VegaBehaviour, VegaOptions, wait_until};
use serde_json::json;

use super::world::{NEW, OLD, World, kill, options, said, wait_for_line};
use crate::world::SOON;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A data node whose PostgreSQL is nowhere.
fn without_postgres() -> World {
    let world = World::with(options().with_data_node());
    let nowhere = world.sandbox.path().join("nowhere");
    let config = format!(
        "[SQLStore]\n  UseEmbedded = false\n  [SQLStore.ConnectionConfig]\n    Host = \"\"\n    Port = 5432\n    \
         SocketDir = {nowhere:?}\n"
    );
    fs::write(world.installation.data_node_config(), config).unwrap();
    world
}

#[test]
fn a_stop_is_answered_while_no_node_runs() {
    let world = without_postgres();
    let mut command = world.run_command();
    command.env("OMNIVISOR_VEGA_POSTGRES_PATIENCE", "1h");
    let mut supervised = world.sandbox.spawn(command);
    wait_for_line(&supervised, &["PostgreSQL", "not there yet"]);
    world.wait_for_status("it answers", |status| status["node"]["state"] == "starting");
    let stopped = world.omnivisor(&["stop"]);
    assert!(stopped.status.success() && text(&stopped).contains("is stopping"), "{}", text(&stopped));
    assert_eq!(supervised.wait(SOON).code(), Some(0));

    // And in the pause after a node that died.
    let world = World::with(VegaOptions { restarts_delay_seconds: 3600, ..options() });
    let mut supervised = world.run();
    world.wait_for(OLD);
    kill(world.log().running()[0].pid);
    world.wait_for_status("it is waited", |status| status["node"]["state"] == "down");
    let stopped = world.omnivisor(&["stop"]);
    assert!(stopped.status.success() && text(&stopped).contains("is stopping"), "{}", text(&stopped));
    assert_eq!(supervised.wait(SOON).code(), Some(0));
}

#[test]
fn a_new_core_that_is_started_again_for_ever_is_not_said_to_be_given_up() {
    let world = World::with(VegaOptions { restarts: 1, ..options() });
    world.installation.control_core(|control| control["by_version"] = json!({ NEW: { "exit_after_ms": 20 } }));
    world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    let supervised = world.run();
    world.wait_for(OLD);
    world.accept(NEW);
    world.reach();
    wait_for_line(&supervised, &["the node ended with", "it is started again in 1s"]);
    wait_for_line(&supervised, &["the node ended with", "started again all the same"]);
    wait_until("it is, once more than is configured", SOON, || {
        (world.log().starts().iter().filter(|start| start.version == NEW).count() > 2).then_some(())
    });
    assert!(!said(&supervised).contains("is not started again"), "{}", said(&supervised));
}

/// The line about the node that people see.
fn node_line(world: &World) -> String {
    let shown = text(&world.omnivisor(&["status"]));
    shown.lines().find(|line| line.starts_with("node ")).unwrap_or_default().to_owned()
}

#[test]
fn a_node_that_does_not_run_is_shown_with_the_reason_and_when_it_is_started_again() {
    let world = World::with(VegaOptions { restarts_delay_seconds: 100, ..options() });
    let _supervised = world.run();
    world.wait_for(OLD);
    assert!(world.status().unwrap()["node"]["why"].is_null());
    kill(world.log().running()[0].pid);
    let status = world.wait_for_status("it is waited", |status| status["node"]["state"] == "down");
    assert_eq!(status["node"]["why"], "it ended with signal 9", "{status:#}");
    let line = node_line(&world);
    assert!(line.starts_with("node        down: it ended with signal 9; started again in 1m "), "{line}");
}

#[test]
fn a_start_that_fails_is_shown_with_the_reason_until_one_is_up() {
    let world = World::new();
    let _supervised = world.run();
    world.wait_for(OLD);
    let (executable, aside) = (world.installation.genesis().join("vega"), world.sandbox.path().join("aside"));
    fs::rename(&executable, &aside).unwrap();
    kill(world.log().running()[0].pid);
    world.wait_for_status("it is shown", |status| {
        status["node"]["why"].as_str().is_some_and(|why| why.contains("put the executable of"))
    });
    fs::rename(&aside, &executable).unwrap();
    let status = world.wait_for_status("it runs", |status| status["node"]["state"] == "running");
    assert!(status["node"]["why"].is_null(), "{status:#}");
}

#[test]
fn a_start_that_waits_is_shown_with_what_it_waits_for() {
    let world = without_postgres();
    let mut command = world.run_command();
    command.env("OMNIVISOR_VEGA_POSTGRES_PATIENCE", "1h");
    let _supervised = world.sandbox.spawn(command);
    world.wait_for_status("it is shown", |status| status["node"]["why"].is_string());
    let line = node_line(&world);
    assert!(line.starts_with("node        starting: it waits for PostgreSQL at "), "{line}");
}

#[test]
fn a_core_that_cannot_be_asked_is_shown_before_any_patience_is_over() {
    let world = World::new();
    let nowhere = world.sandbox.path().join("nobody-listens-here");
    world.change_run_config(|run| run.socket_path = nowhere.to_str().unwrap().to_owned());
    let supervised = world.run();
    let status = world.wait_for_status("it is shown", |status| status["unheard"].is_string());
    assert!(status["unheard"].as_str().unwrap().contains("nobody-listens-here"), "{status:#}");
    assert!(status["silent"].is_null(), "a start may take days: {status:#}");
    let shown = text(&world.omnivisor(&["status"]));
    assert!(shown.lines().any(|line| line.starts_with("UNHEARD     ")), "{shown}");
    assert!(!said(&supervised).contains("core answers"), "{}", said(&supervised));
}

#[test]
fn a_core_that_nobody_knows_how_to_ask_is_said_at_once_and_its_first_answer_too() {
    let world = World::new();
    let config = world.installation.core_config();
    let right = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{right}  [API.REST]\n    Port = \"none\"\n")).unwrap();
    let supervised = world.run();
    wait_for_line(&supervised, &["WARN", "core has not answered yet", "does not say where", "cannot be seen until"]);
    fs::write(&config, right).unwrap();
    wait_for_line(&supervised, &["INFO", "core answers"]);
    world.wait_for_status("it is shown", |status| status["unheard"].is_null());
    kill(world.log().running()[0].pid);
    world.wait_for_status("the next one answers", |_| said(&supervised).matches("core answers").count() == 2);
    assert_eq!(said(&supervised).matches("has not answered yet").count(), 1, "{}", said(&supervised));
}

#[test]
fn a_folder_in_the_place_of_the_link_is_said_with_its_remedy_and_delays_no_end() {
    let world = World::new();
    let current = world.installation.current();
    fs::remove_file(&current).unwrap();
    fs::create_dir(&current).unwrap();
    let mut supervised = world.run();
    world.wait_for(OLD);
    wait_for_line(&supervised, &["WARN", current.to_str().unwrap(), "is no link", "move it away"]);
    let stopped = world.omnivisor(&["stop"]);
    assert!(stopped.status.success(), "{}", text(&stopped));
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert!(!said(&supervised).contains("could not be brought up to date"), "nothing was waited for");
    assert!(current.is_dir(), "it is nobody's to delete");

    // And where it cannot be told what ran last.
    world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    fs::remove_dir_all(world.installation.home().join(".omnivisor")).unwrap();
    let mut supervised = world.start();
    assert_eq!(supervised.wait(SOON).code(), Some(1));
    assert!(said(&supervised).contains("move it away, and make it a link"), "{}", said(&supervised));
}

#[test]
fn a_dry_run_takes_a_supervisor_that_waits_for_no_left_over_of_a_node() {
    let world = without_postgres();
    let mut command = world.run_command();
    command.env("OMNIVISOR_VEGA_POSTGRES_PATIENCE", "1h");
    let supervised = world.sandbox.spawn(command);
    world.wait_for_status("it waits", |status| status["node"]["why"].is_string());
    let shown = text(&world.omnivisor(&["adopt", "--home", world.installation.home().to_str().unwrap(), "--dry-run"]));
    assert!(shown.contains(&format!("supervised already, by process {}", supervised.pid())), "{shown}");
    assert!(!shown.contains("left over"), "{shown}");
}

#[test]
fn the_first_line_of_a_run_names_the_home_and_the_instance() {
    let world = World::new();
    let supervised = world.run();
    let home = format!("home={}", world.installation.home().display());
    wait_for_line(&supervised, &["begins", &home, "instance=\"visor\""]);
    assert!(!said(&supervised).contains("dialect="), "{}", said(&supervised));
}
