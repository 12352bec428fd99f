//! The link `current`: what it is worth, what stands in its place, and what becomes of it.

use std::fs;
use std::os::unix::fs::symlink;

use omnivisor_testkit::{Kind, Supervised, VegaBehaviour, wait_until};
use rustix::fs::{CWD, RenameFlags};

use super::world::{NEW, OLD, World, options, said, wait_for_line};
use crate::world::SOON;

const SIGTERM: i32 = 15;

/// What may be where the link was.
#[derive(Clone, Copy, Debug)]
enum Instead {
    Nothing,
    LeadsNowhere,
    LeadsToNoRelease,
}

/// Puts it there.
fn put(world: &World, instead: Instead) {
    let link = world.installation.current();
    fs::remove_file(&link).unwrap();
    match instead {
        Instead::Nothing => {}
        Instead::LeadsNowhere => symlink(world.installation.folder("v9.9.9"), &link).unwrap(),
        Instead::LeadsToNoRelease => {
            let folder = world.installation.folder("v9.9.9");
            fs::create_dir_all(&folder).unwrap();
            symlink(folder, &link).unwrap();
        }
    }
}

/// Upgraded to a release that is placed by hand.
fn upgraded() -> (World, Supervised) {
    let world = World::with(options());
    world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    let supervised = world.run();
    world.wait_for(OLD);
    world.accept(NEW);
    world.reach();
    world.wait_for_commit(NEW);
    (world, supervised)
}

// V3
#[test]
fn a_link_that_is_lost_after_an_upgrade_never_means_the_first_release() {
    for instead in [Instead::Nothing, Instead::LeadsNowhere, Instead::LeadsToNoRelease] {
        let (world, mut supervised) = upgraded();
        supervised.signal(SIGTERM);
        assert_eq!(supervised.wait(SOON).code(), Some(0));
        put(&world, instead);
        let again = world.run();
        world.wait_for(NEW);
        wait_until(&format!("the link is there again: {instead:?}"), SOON, || {
            (world.installation.visor_would_start().ok()?.1 == NEW).then_some(())
        });
        let versions: Vec<String> = world.log().starts().into_iter().map(|start| start.version).collect();
        assert_eq!(versions, [OLD, NEW, NEW], "{}", said(&again));
        assert!(world.log().of("refused").is_empty());
    }
}

// V3
#[test]
fn a_home_that_was_taken_from_vega_visor_without_its_link_says_what_is_missing() {
    for instead in [Instead::Nothing, Instead::LeadsNowhere, Instead::LeadsToNoRelease] {
        let world = World::with(options());
        world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
        put(&world, instead);
        let mut supervised = world.start();
        assert_eq!(supervised.wait(SOON).code(), Some(1), "{instead:?}: {}", said(&supervised));
        for words in [world.installation.current().to_str().unwrap(), "genesis", NEW, "make it a link"] {
            assert!(said(&supervised).contains(words), "{instead:?}: {words}: {}", said(&supervised));
        }
        assert!(world.log().starts().is_empty());
        // As it says.
        let link = world.installation.current();
        let _ = fs::remove_file(&link);
        symlink(world.installation.folder(NEW), &link).unwrap();
        let _again = world.run();
        world.wait_for(NEW);
    }
}

#[test]
fn a_home_with_nothing_but_its_first_release_needs_no_link() {
    let world = World::new();
    put(&world, Instead::Nothing);
    let _supervised = world.run();
    world.wait_for(OLD);
    wait_until("the link is made", SOON, || {
        (fs::read_link(world.installation.current()).ok()? == world.installation.genesis()).then_some(())
    });
}

// V3: a restart of the node reads what is decided, not the link.
#[test]
fn a_link_that_is_lost_while_the_node_runs_changes_nothing() {
    let (world, _supervised) = upgraded();
    put(&world, Instead::Nothing);
    let pid = rustix::process::Pid::from_raw(world.log().running_of(Kind::Core)[0].pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_until("it is started again", SOON, || (world.log().starts().len() == 3).then_some(()));
    world.wait_for(NEW);
}

// V3
#[test]
fn a_home_that_was_moved_after_an_upgrade_never_means_the_first_release() {
    let (world, mut supervised) = upgraded();
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    let moved = world.sandbox.path().join("moved");
    fs::rename(world.installation.home(), &moved).unwrap();
    let _again = world.sandbox.spawn(world.visor(&["run", "--home", moved.to_str().unwrap()]));
    world.wait_for(NEW);
    let versions: Vec<String> = world.log().starts().into_iter().map(|start| start.version).collect();
    assert_eq!(versions, [OLD, NEW, NEW]);
    wait_until("the link leads to where the release is now", SOON, || {
        (fs::read_link(moved.join("current")).ok()? == moved.join(NEW)).then_some(())
    });
}

// V24
#[test]
fn a_folder_in_the_place_of_the_link_is_never_deleted_and_keeps_the_node_from_no_block() {
    let world = World::with(options());
    let supervised = world.run();
    world.wait_for(OLD);
    let current = world.installation.current();
    let folder = world.sandbox.path().join("somebody");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("somebody's"), "only copy").unwrap();
    rustix::fs::renameat_with(CWD, &folder, CWD, &current, RenameFlags::EXCHANGE).unwrap();
    world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    world.accept(NEW);
    world.reach();
    // Before the stop: the node never notices.
    wait_for_line(&supervised, &[current.to_str().unwrap(), "is no link"]);
    assert_eq!(world.log().starts().len(), 1);
    assert!(world.log().of("signal").is_empty());
    assert_eq!(fs::read_to_string(current.join("somebody's")).unwrap(), "only copy");
    // A person puts it away, and all is well.
    fs::rename(&current, world.sandbox.path().join("aside")).unwrap();
    world.wait_for_commit(NEW);
    assert_eq!(fs::read_link(&current).unwrap(), world.installation.folder(NEW));
}

// V24
#[test]
fn a_release_that_is_a_folder_in_the_place_of_the_link_is_left_where_it_is() {
    let world = World::with(options());
    let current = world.installation.current();
    fs::remove_file(&current).unwrap();
    world.installation.place("current", &world.installation.run_config("current"), &VegaBehaviour::new(NEW));
    let mut supervised = world.start();
    assert_eq!(supervised.wait(SOON).code(), Some(1), "{}", said(&supervised));
    assert!(said(&supervised).contains(current.to_str().unwrap()), "{}", said(&supervised));
    assert!(world.log().starts().is_empty());
    assert!(current.join("vega").is_file() && current.join("run-config.toml").is_file());
}
