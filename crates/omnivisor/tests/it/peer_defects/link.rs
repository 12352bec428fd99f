//! A folder where the link `current` should be.

use std::fs;

use omnivisor_testkit::{Behaviour, wait_until};

use super::{queued, tree};
use crate::world::{SOON, World};

/// N53
#[test]
fn a_folder_in_the_place_of_the_link_is_never_deleted_and_keeps_no_node_down() {
    let world = World::new();
    let current = world.installation.current();
    fs::remove_file(&current).unwrap();
    fs::create_dir_all(current.join("bin")).unwrap();
    fs::copy(world.installation.binary("genesis"), current.join("bin/nym-node")).unwrap();
    fs::write(current.join("somebody's"), "only copy").unwrap();
    let before = tree(&current);
    let supervised = world.run();
    let of_current = |word: &str| {
        let said = supervised.stderr();
        said.lines().any(|line| line.contains(&format!("{} is no link", current.display())) && line.contains(word))
    };
    wait_until("it is said", SOON, || of_current("move it away").then_some(()));
    let pid = super::running_pid(&world.log());
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    let standing = super::wait_for_standing(&world, "2024.2", "is no link");
    assert!(standing.contains(current.to_str().unwrap()), "{standing}");
    // Before the stop: the node never notices.
    super::assert_still(&world, pid);
    assert_eq!(world.log().signals_of(pid), [0_i32; 0]);
    assert_eq!(tree(&current), before);
    // A person puts it away, and all is well.
    fs::rename(&current, world.sandbox.path().join("aside")).unwrap();
    world.wait_for_commit("2.0.0");
    assert_eq!(fs::read_link(&current).unwrap(), world.installation.upgrade_dir("2024.2"));
    wait_until("an empty queue", SOON, || queued(&world).is_empty().then_some(()));
}
