//! The data node's PostgreSQL is no part of the node: it is waited for, and otherwise left alone.

mod cluster;

use std::fs;
use std::path::Path;
use std::process::Command;

use omnivisor_testkit::VegaBehaviour;
use serde_json::{Value, json};

use self::cluster::Cluster;
use super::world::{NEW, OLD, World, installing, options, said, wait_for_line};
use crate::world::SOON;

const SIGTERM: i32 = 15;

/// Tells the data node where its database is.
fn point_at(world: &World, host: &str, port: u16, socket_folder: &Path) {
    let socket_folder = socket_folder.to_str().unwrap();
    let config = format!(
        "[SQLStore]\n  UseEmbedded = false\n  [SQLStore.ConnectionConfig]\n    Host = {host:?}\n    Port = {port}\n    \
         SocketDir = {socket_folder:?}\n"
    );
    fs::write(world.installation.data_node_config(), config).unwrap();
}

/// And lets it end at once where it is not.
fn needs(world: &World, place: Value) {
    world.installation.control_data_node(|control| control["needs_postgres"] = place);
}

/// `vegavisor run`, with so much patience.
fn patient(world: &World, patience: &str) -> Command {
    let mut command = world.run_command();
    command.env("OMNIVISOR_VEGA_POSTGRES_PATIENCE", patience);
    command
}

// V23: what is stopped is the pair with all its children, and no more than that.
#[test]
fn an_upgrade_of_the_pair_leaves_its_postgres_and_whoever_is_connected_alone() {
    let world = World::with(installing().with_data_node());
    let Some(mut postgres) = Cluster::made_in(&world.sandbox) else { return };
    postgres.start();
    point_at(&world, "127.0.0.1", postgres.port(), postgres.socket_folder());
    needs(&world, json!({ "host": "127.0.0.1", "port": postgres.port() }));
    let mut session = postgres.session();
    let mut look = || {
        let (process, since) = (postgres.process(), postgres.answer("select pg_postmaster_start_time()"));
        (process, since, session.ask("select pg_backend_pid()"))
    };
    let before = look();
    assert!(!before.1.is_empty() && !before.2.is_empty(), "{before:?}");

    world.publish(NEW, &VegaBehaviour::new(NEW));
    let mut supervised = world.sandbox.spawn(patient(&world, "60s"));
    world.wait_for(OLD);
    world.accept(NEW);
    world.wait_for_phase("staged");
    world.reach();
    world.wait_for(NEW);
    world.wait_for_commit(NEW);
    assert_eq!(look(), before);
    let log = said(&supervised);
    assert!(!log.contains("PostgreSQL"), "it was there, so there was nothing to say: {log}");

    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert!(world.log().running().is_empty());
    assert_eq!(look(), before, "not even at the end");
}

#[test]
fn a_postgres_that_comes_up_late_is_waited_for() {
    let world = World::with(options().with_data_node());
    let Some(mut postgres) = Cluster::made_in(&world.sandbox) else { return };
    // Without a host it is asked for at its socket.
    point_at(&world, "", postgres.port(), postgres.socket_folder());
    let socket = postgres.socket_folder().join(format!(".s.PGSQL.{}", postgres.port()));
    needs(&world, json!({ "socket": socket }));
    let supervised = world.sandbox.spawn(patient(&world, "60s"));
    wait_for_line(&supervised, &["PostgreSQL at", socket.to_str().unwrap(), "not there yet", "1m at most"]);
    assert!(world.log().starts().is_empty(), "neither of the two is started meanwhile");
    postgres.start();
    world.wait_for(OLD);
    assert_eq!(world.log().starts().len(), 2, "no start was in vain");
    wait_for_line(&supervised, &["PostgreSQL is there"]);
}

#[test]
fn a_postgres_that_does_not_come_up_delays_the_start_and_no_more() {
    let world = World::with(options().with_data_node());
    let nowhere = world.sandbox.path().join("nowhere");
    point_at(&world, "", 5432, &nowhere);
    let supervised = world.sandbox.spawn(patient(&world, "1s"));
    wait_for_line(&supervised, &["PostgreSQL", nowhere.to_str().unwrap(), "not there yet", "for 1s at most"]);
    wait_for_line(&supervised, &["PostgreSQL", nowhere.to_str().unwrap(), "not there after 1s", "started without it"]);
    // It may be that only we cannot see it: the data node itself is who has to say so.
    world.wait_for(OLD);
}

// V28: a pause is not slept through.
#[test]
fn a_supervisor_that_waits_for_a_postgres_can_be_ended() {
    let world = World::with(options().with_data_node());
    point_at(&world, "", 5432, &world.sandbox.path().join("nowhere"));
    let mut supervised = world.sandbox.spawn(patient(&world, "1h"));
    wait_for_line(&supervised, &["PostgreSQL", "not there yet", "for 1h at most"]);
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert!(world.log().starts().is_empty());
}

#[test]
fn a_core_without_a_data_node_waits_for_no_postgres() {
    let world = World::new();
    let supervised = world.sandbox.spawn(patient(&world, "1h"));
    world.wait_for(OLD);
    assert!(!said(&supervised).contains("PostgreSQL"), "{}", said(&supervised));
}
