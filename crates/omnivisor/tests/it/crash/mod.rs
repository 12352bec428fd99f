//! Killed, or refused by the disk, at every point of an upgrade and of an undo, and started again: exactly one node, of the
//! right release, and files that the peer itself would start from.
//!
//! What is done to each point is in [`harness`], what of it is worth a test of its own in [`given_up`]; what has to be true of each dialect in [`nym`] and [`vega`]; the points
//! that there are in [`known`].

mod given_up;
mod harness;
mod images;
mod known;
mod nym;
mod vega;

use harness::enumerate;
pub use harness::leftovers;
use omnivisor_testkit::mounts::Ground;

#[test]
fn nym_at_every_point_of_an_upgrade_with_every_fault_the_new_node_runs_once() {
    enumerate(&nym::Upgrade);
}

#[test]
fn nym_at_every_point_of_an_undo_with_every_fault_the_old_node_runs_once() {
    enumerate(&nym::UndoOf3);
}

#[test]
fn nym_at_every_point_of_an_undo_from_what_a_command_has_taken_the_old_node_runs_once() {
    enumerate(&nym::UndoByCommand);
}

// V3, V8
#[test]
fn vega_at_every_point_of_an_upgrade_with_every_fault_the_new_pair_runs_once() {
    enumerate(&vega::Upgrade);
}

#[test]
fn vega_at_every_point_of_an_upgrade_with_a_snapshot_the_new_node_runs_once() {
    match Ground::new() {
        Ok(ground) => enumerate(&vega::UpgradeWithSnapshot { ground }),
        Err(why) => println!("skipped: {why}"),
    }
}
