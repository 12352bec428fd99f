//! The way back to Nymvisor and a return: what it did meanwhile is neither undone nor done again, and what it was doing when it
//! ended (N4 a to e) is not lost.

use std::fs;

use omnivisor_testkit::Behaviour;

use super::commit::{Broken, cut};
use super::{assert_done, queued, wait_for_standing};
use crate::world::{SOON, World};

/// What it is called, and how Nymvisor came to it.
type State = (&'static str, fn(&Broken));

/// An installation that was run here once and was given back to Nymvisor, on which that is about to commit `up1`.
fn given_back() -> Broken {
    Broken::after(|world| {
        let mut supervised = world.run();
        world.wait_for_files("1.0.0");
        supervised.signal(15);
        assert_eq!(supervised.wait(SOON).code(), Some(0));
    })
}

/// Nothing else than this version has ever run since Nymvisor's node.
fn only_started(world: &World, version: &str) {
    let starts: Vec<String> = world.log().starts().into_iter().map(|start| start.version).collect();
    assert_eq!(starts, ["1.0.0", version]);
}

/// N4 b and c, and d: the old node runs, and the upgrade that was not finished waits for a person, as on the first day.
#[test]
fn an_upgrade_that_nymvisor_did_not_finish_is_queued_again() {
    let states: [State; 4] = [
        ("current-version is written", |broken| {
            super::empty_the_queue(&broken.world); // as far as it got in memory
            broken.current_version();
        }),
        ("the plan is cut off", |broken| {
            broken.current_version().plan();
            cut(&broken.world.installation.plan(), 300);
        }),
        ("the history is cut off", |broken| {
            broken.current_version().plan().history();
            cut(&broken.world.installation.history(), 30);
        }),
        ("all is written but the link", |broken| {
            broken.current_version().plan().history_now();
        }),
    ];
    for (what, reached) in states {
        eprintln!("{what}");
        let broken = given_back();
        reached(&broken);
        let survey = broken.world.omnivisor(&["adopt", "--dry-run", "--json"]);
        let survey: serde_json::Value = serde_json::from_slice(&survey.stdout).unwrap();
        assert_eq!(survey["queuedAgain"], serde_json::json!(["up1"]), "{survey:#}");
        assert_eq!(survey["release"]["version"], "1.0.0", "{survey:#}");

        let world = &broken.world;
        let mut supervised = world.run();
        world.wait_for("1.0.0");
        wait_for_standing(world, "up1", "omnivisor upgrade up1");
        world.wait_for_files("1.0.0");
        only_started(world, "1.0.0");
        // It waits also after another start, and is queued once.
        supervised.signal(15);
        supervised.wait(SOON);
        let _supervised = world.run();
        wait_for_standing(world, "up1", "omnivisor upgrade up1");
        assert_eq!(queued(world), ["up1"]);
        assert_done(&world.omnivisor(&["upgrade", "up1"]));
        world.wait_for_commit("2.0.0");
        world.log().assert_never_double();
    }
}

/// N4 e: the link is gone, and all files say the new release.
#[test]
fn a_link_that_nymvisor_has_removed_leads_to_the_release_that_the_files_name() {
    let broken = given_back();
    broken.current_version().plan().history_now().unlink();
    let _supervised = broken.world.run();
    broken.world.wait_for("2.0.0");
    broken.world.wait_for_files("2.0.0");
    only_started(&broken.world, "2.0.0");
}

/// The old node on the data of the new one is the worst that could be done. So the history is not the only thing that says
/// what Nymvisor did: it may be lost, or of a clock that was wrong.
#[test]
fn an_upgrade_that_nymvisor_did_is_believed_whatever_became_of_its_history() {
    let histories: [State; 3] = [
        ("older than what is ours", |broken| {
            broken.history();
        }),
        ("lost", |_| {}),
        ("cut off", |broken| {
            broken.history();
            cut(&broken.world.installation.history(), 30);
        }),
    ];
    for (what, became) in histories {
        eprintln!("{what}");
        let broken = given_back();
        broken.current_version().plan().link();
        became(&broken);
        let world = &broken.world;
        let mut supervised = world.run();
        world.wait_for("2.0.0");
        world.wait_for_files("2.0.0");
        only_started(world, "2.0.0");
        assert!(queued(world).is_empty(), "{:?}", queued(world));
        supervised.signal(15);
        supervised.wait(SOON);
        world.publish("2024.9", &Behaviour::new("9.0.0"));
        let _supervised = world.run();
        world.wait_for_commit("9.0.0");
    }
}

/// Two upgrades, and Nymvisor ended within the second: the first is what ran last.
#[test]
fn of_two_upgrades_the_one_that_was_finished_runs_and_the_other_is_queued_again() {
    let broken = given_back();
    let world = &broken.world;
    broken.current_version().plan().history_now().link();
    let (second, behaviour) = ("2026-01-01T00:00:00Z", Behaviour::new("3.0.0"));
    let entry = super::placed(world, "up2", "3.0.0", second);
    broken.write(
        world.installation.current_version(),
        &serde_json::json!({"name": "up2", "version": "3.0.0", "upgradeTime": second, "binaryDetails": behaviour.details()}),
    );
    broken.write(world.installation.plan(), &serde_json::json!({"current": entry, "queuedUp": []}));
    let _supervised = world.run();
    world.wait_for("2.0.0");
    wait_for_standing(world, "up2", "omnivisor upgrade up2");
    world.wait_for_files("2.0.0");
    only_started(world, "2.0.0");
}

/// What our own crash has left behind, or what somebody has put back from a backup, is nothing that Nymvisor did.
#[test]
fn files_that_name_what_ran_here_before_change_nothing() {
    let world = World::new();
    let files = &world.installation;
    let mut supervised = world.run();
    let old = [files.current_version(), files.plan()].map(|path| (path.clone(), fs::read(path).unwrap()));
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    world.upstream.serve(crate::world::ANNOUNCEMENT, omnivisor_testkit::Answer::Status(404, Vec::new()));
    let before_last = [files.current_version(), files.plan()].map(|path| (path.clone(), fs::read(path).unwrap()));
    world.publish("2024.3", &Behaviour::new("3.0.0"));
    world.wait_for_commit("3.0.0");
    world.upstream.serve(crate::world::ANNOUNCEMENT, omnivisor_testkit::Answer::Status(404, Vec::new()));
    for (what, put_back) in [("the first", &old), ("the one before", &before_last)] {
        eprintln!("{what}");
        supervised.signal(15);
        assert_eq!(supervised.wait(SOON).code(), Some(0));
        for (path, bytes) in put_back {
            fs::write(path, bytes).unwrap();
        }
        supervised = world.run();
        world.wait_for("3.0.0");
        world.wait_for_files("3.0.0");
        assert!(queued(&world).is_empty(), "{:?}", queued(&world));
    }
}
