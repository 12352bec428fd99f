//! What an operator is told: by the answer to a command, by the status, and by the log.

use std::fs;
use std::process::Output;

use omnivisor_testkit::VegaOptions;

use super::world::{OLD, World, kill, options, wait_for_line};
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
