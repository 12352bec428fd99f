//! Somebody is killed while homes on two file systems are copied or put back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use omnivisor_testkit::wait_until;

use super::super::snapshots::{backups, folder_of, home, is_back, is_copied_ahead, migrate, read, said, upgraded};
use super::super::world::OLD;
use super::{Scene, ended, tree};
use crate::world::SOON;

/// Wherever it is killed: what was begun is gone on with, or nothing was changed, and it can be ordered again.
#[test]
fn a_restore_to_two_file_systems_that_is_killed_anywhere_can_be_ordered_again() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let Some(scene) = Scene::new() else { return };
    let world = &scene.world;
    scene.was_run();
    scene.done(&["backup", "now"]);
    let before = [tree(&world.installation.core_home()), tree(&scene.consensus())];
    let of_the_node = |core: &Path| tree(&core.join("state"));
    let of_the_node_then = of_the_node(&world.installation.core_home());
    let id = backups(world)[0]["id"].as_str().unwrap().to_owned();
    let restore = |variable: &str, value: &str| {
        let mut command = world.sandbox.omnivisor(crate::world::omnivisor_exe(), "omnivisor");
        command.args(["restore", &id, "--home", &home(world)]).env(variable, value);
        command.output().unwrap()
    };
    migrate(world);
    let reached = world.sandbox.path().join("reached");
    assert!(restore("OMNIVISOR_CHECKPOINTS_REACHED", reached.to_str().unwrap()).status.success());
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    let points = read(&reached);
    let points = points.lines().map(|name| {
        let times = times.entry(name.to_owned()).or_default();
        *times += 1;
        format!("{name}:{times}")
    });
    let points: Vec<String> = points.collect();
    assert!(points.iter().any(|point| point.starts_with("link consensus")), "{points:#?}");
    for (index, point) in points.iter().enumerate() {
        migrate(world);
        let migrated = tree(&scene.consensus());
        let killed = restore("OMNIVISOR_CHECKPOINT", point);
        assert!(!killed.status.success(), "{point}: {}", said(&killed));
        if index % 5 == 0 {
            // A node is started on what was there, or on what was put back, and on nothing between them.
            scene.was_run();
            let there = tree(&scene.consensus());
            assert!(there == migrated || there == before[1], "{point}: {there:#?}");
        }
        let again = restore("NOTHING", "");
        assert!(again.status.success(), "{point}: {}", said(&again));
        is_back(world);
        assert_eq!(tree(&scene.consensus()), before[1], "{point}");
        assert_eq!(of_the_node(&world.installation.core_home()), of_the_node_then, "{point}");
    }
    println!("killed at {} points", points.len());
    let _supervised = world.run();
    world.wait_for(OLD);
    wait_until("no part is left to which nothing leads", SOON, || scene.orphans().is_empty().then_some(()));
}

/// The same of what takes it: it is there whole, or not at all.
#[test]
fn a_backup_of_two_file_systems_that_is_killed_anywhere_is_whole_or_none() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let Some(scene) = Scene::new() else { return };
    let world = &scene.world;
    scene.was_run();
    let backup = |variable: &str, value: &str| {
        let mut command = world.sandbox.omnivisor(crate::world::omnivisor_exe(), "omnivisor");
        command.args(["backup", "now", "--home", &home(world)]).env(variable, value);
        command.output().unwrap()
    };
    // The first one makes folders that stay.
    scene.done(&["backup", "now"]);
    let reached = world.sandbox.path().join("reached");
    assert!(backup("OMNIVISOR_CHECKPOINTS_REACHED", reached.to_str().unwrap()).status.success());
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    let points = read(&reached);
    for name in points.lines() {
        let times = times.entry(name.to_owned()).or_default();
        *times += 1;
        let killed = backup("OMNIVISOR_CHECKPOINT", &format!("{name}:{times}"));
        assert!(!killed.status.success(), "{name}: {}", said(&killed));
        for taken in backups(world) {
            // Between its own name and that of its manifest nothing says that it is whole, as with one file system.
            let damaged = taken["damaged"].as_str();
            assert!(damaged.is_none_or(|why| why.contains("no manifest")), "{name}:{times}: {taken:#}");
            assert_eq!(read(folder_of(&taken).join("consensus/data/blocks")), "old", "{name}:{times}");
        }
    }
    println!("killed at {} points", points.lines().count());
    let again = backup("NOTHING", "");
    assert!(again.status.success(), "{}", said(&again));
    assert!(scene.done(&["backup", "verify"]).contains("good"));
    let _supervised = world.run();
    wait_until("no part is left to which nothing leads", SOON, || scene.orphans().is_empty().then_some(()));
}

/// Nobody is killed, but a call of it fails: then nothing was changed, or the next one goes on with it.
#[test]
fn a_restore_to_two_file_systems_of_which_any_call_fails_can_be_ordered_again() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let Some(scene) = Scene::new() else { return };
    let world = &scene.world;
    scene.was_run();
    scene.done(&["backup", "now"]);
    let before = tree(&scene.consensus());
    let id = backups(world)[0]["id"].as_str().unwrap().to_owned();
    let restore = |variables: &[(&str, &str)]| {
        let mut command = world.sandbox.omnivisor(crate::world::omnivisor_exe(), "omnivisor");
        command.args(["restore", &id, "--home", &home(world)]).envs(variables.iter().copied());
        command.output().unwrap()
    };
    migrate(world);
    let reached = world.sandbox.path().join("reached");
    assert!(restore(&[("OMNIVISOR_CHECKPOINTS_REACHED", reached.to_str().unwrap())]).status.success());
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    let points = read(&reached);
    let mut refused = 0;
    for name in points.lines() {
        let times = times.entry(name.to_owned()).or_default();
        *times += 1;
        let point = format!("{name}:{times}");
        migrate(world);
        let failed = restore(&[("OMNIVISOR_CHECKPOINT", &point), ("OMNIVISOR_FAULT", "EIO")]);
        refused += usize::from(!failed.status.success());
        if !failed.status.success() && said(&failed).contains("nothing was changed") {
            assert_eq!(read(scene.consensus().join("data/blocks")), "new", "{point}: {}", said(&failed));
        }
        let again = restore(&[]);
        assert!(again.status.success(), "{point}: {}", said(&again));
        is_back(world);
        assert_eq!(tree(&scene.consensus()), before, "{point}");
        scene.has_no_orphans();
    }
    println!("{refused} of {} calls were refused", points.lines().count());
    assert!(refused > 20, "{refused}");
}

/// An undo that the next start does, and somebody is killed in.
#[test]
fn an_undo_on_two_file_systems_that_is_killed_is_ended_by_the_next_start() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    for point in
        ["rename copy", "link consensus", "make-folder replaced-#-#-consensus", "rename cleared", "rename blocks:2"]
    {
        let Some(scene) = Scene::new() else { return };
        let world = &scene.world;
        ended(upgraded(world, world.run(), || is_copied_ahead(world)));
        let before = tree(&folder_of(&backups(world)[0]).join("consensus"));
        migrate(world);
        scene.done(&["rollback"]);
        let mut command = world.run_command();
        command.env("OMNIVISOR_CHECKPOINT", point);
        let mut killed = world.sandbox.spawn(command);
        assert!(!killed.wait(SOON).success(), "{point}");
        assert_ne!(scene.parts(), BTreeSet::new(), "{point}");
        let _supervised = world.run();
        world.wait_for_status("the old one is the active one", |status| {
            status["upgrade"]["phase"] == "idle" && status["active"]["name"] == "genesis"
        });
        is_back(world);
        assert_eq!(tree(&scene.consensus()), before, "{point}");
        scene.has_no_orphans();
    }
}
