//! One upgrade, one readable file: what is written, done and seen, in order. A change of behaviour is a change of a file.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod world;

use omnivisor_core::plan::{Step, Undo};
use world::{Disturbance, Fault, Fuse, Health, Scenario, World};

fn transcript(scenario: Scenario, crashes: &[usize]) -> String {
    let mut world = World::new(scenario);
    let mut fuse = Fuse::new(crashes);
    while world.live(&mut fuse).is_err() {
        world.crash();
    }
    let runs = world.node.as_ref().map_or("nothing", |node| &node.version);
    format!("{}\n   end   {runs} runs", world.script.join("\n"))
}

macro_rules! transcripts {
    ($($name:ident: $scenario:expr, $crashes:expr;)*) => {
        $(#[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), transcript($scenario, &$crashes));
        })*
    };
}

fn fault(step: Step) -> Option<Fault> {
    Some(Fault { step, attempt: Some(1), after_effect: false, permanent: false })
}

transcripts! {
    an_upgrade_that_succeeds: Scenario::default(), [];
    a_release_that_dies_is_undone: Scenario { health: Health::Dies, ..Scenario::default() }, [];
    a_release_that_fails_its_probe_is_undone:
        Scenario { health: Health::FailsProbe, probe_command: true, ..Scenario::default() }, [];
    a_download_that_fails_once: Scenario { fault: fault(Step::Fetch), ..Scenario::default() }, [];
    a_snapshot_that_fails_once: Scenario { fault: fault(Step::Snapshot), ..Scenario::default() }, [];
    a_crash_in_the_outage_with_the_node_gone:
        Scenario { node_dies_with_us: true, ..Scenario::default() }, [19];
    a_withdrawal_while_it_is_fetched:
        Scenario { disturbances: vec![(3, Disturbance::Withdraw)], ..Scenario::default() }, [];
    a_postponement: Scenario { disturbances: vec![(3, Disturbance::Postpone)], ..Scenario::default() }, [];
    taken_over_with_an_upgrade_already_due: Scenario { parked: true, ..Scenario::default() }, [];
    taken_over_and_approved:
        Scenario { parked: true, disturbances: vec![(5, Disturbance::Approve)], ..Scenario::default() }, [];
    a_run_that_ends_with_the_switch: Scenario { end_after_switch: true, ..Scenario::default() }, [];
    a_node_that_ends_while_its_successor_is_prepared:
        Scenario { disturbances: vec![(4, Disturbance::NodeEnds)], ..Scenario::default() }, [];
    a_restore_that_never_works:
        Scenario { health: Health::Dies, undo_fault: Some((Undo::Restore, 9)), ..Scenario::default() }, [];
    an_upgrade_that_a_network_has_agreed_on:
        Scenario { consensus: true, no_snapshot: true, ..Scenario::default() }, [];
    a_snapshot_that_fails_at_the_height_of_a_network:
        Scenario { consensus: true, fault: fault(Step::Snapshot), ..Scenario::default() }, [];
    a_release_that_a_network_has_agreed_on_and_that_dies:
        Scenario { consensus: true, no_snapshot: true, health: Health::Dies, ..Scenario::default() }, [];
    stopped_by_an_operator_in_the_outage:
        Scenario { disturbances: vec![(8, Disturbance::Stop)], ..Scenario::default() }, [];
}
