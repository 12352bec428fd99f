//! The upgrade plan: however it is changed, it is noticed.

use std::fs;
use std::time::Duration;

use omnivisor_testkit::{Behaviour, wait_until};

use super::{WEEK, add_upgrade, assert_done, assert_still, placed, queued, running_pid, wait_for_standing};
use crate::world::{SOON, World, timestamp};

/// N14
#[test]
fn two_changes_in_the_same_moment_are_both_seen() {
    let world = World::new();
    let _supervised = world.run();
    assert_done(&add_upgrade(&world, "later", &Behaviour::new("3.0.0"), &["--upgrade-delay", "7days"]));
    assert_done(&add_upgrade(&world, "now", &Behaviour::new("2.0.0"), &["--now"]));
    world.wait_for_commit("2.0.0");
    assert_eq!(queued(&world), ["later"]);
    // Written in place as the peer does, the file is empty for a moment: once, and many times at once.
    for number in 0..20 {
        world.installation.queue(placed(&world, &format!("w{number}"), &format!("4.0.{number}"), &timestamp(WEEK)));
    }
    world.installation.queue(placed(&world, "last", "2.5.0", &timestamp(Duration::ZERO)));
    world.wait_for_commit("2.5.0");
    assert_eq!(world.log().starts().len(), 3);
}

/// N15
#[test]
fn a_plan_that_is_replaced_again_and_again_stays_watched() {
    let world = World::new();
    let _supervised = world.run();
    for number in 0..3 {
        let name = format!("later{number}");
        world.installation.queue_by_rename(placed(&world, &name, &format!("3.0.{number}"), &timestamp(WEEK)));
        wait_for_standing(&world, &name, "switched");
    }
    world.installation.queue_by_rename(placed(&world, "now", "2.0.0", &timestamp(Duration::ZERO)));
    world.wait_for_commit("2.0.0");
    world.installation.queue(placed(&world, "in-place", "2.1.0", &timestamp(Duration::ZERO)));
    world.wait_for_commit("2.1.0");
    assert_done(&add_upgrade(&world, "added", &Behaviour::new("2.2.0"), &["--now"]));
    world.wait_for_commit("2.2.0");
}

/// N16
#[test]
fn a_plan_that_is_deleted_is_made_again_and_the_node_runs_on() {
    let world = World::new();
    let mut supervised = world.run();
    let pid = running_pid(&world.log());
    for _ in 0..2 {
        fs::remove_file(world.installation.plan()).unwrap();
        wait_until("a new plan", SOON, || world.installation.plan().exists().then_some(()));
        world.wait_for_files("1.0.0");
        assert_still(&world, pid);
    }
    supervised.signal(15);
    supervised.wait(SOON);
    fs::remove_file(world.installation.plan()).unwrap();
    let _supervised = world.run();
    world.wait_for_files("1.0.0");
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
}
