//! Random faults, disturbances and crashes, several of each, in any order; what fails is shrunk and printed as a script.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod world;

use std::time::Duration;

use omnivisor_core::journal::{Journal, Phase};
use omnivisor_core::plan::{Step, Undo};
use proptest::prelude::*;
use world::{Disturbance, Fault, Fuse, Health, Scenario, World};

fn fault() -> impl Strategy<Value = Fault> {
    let step = prop::sample::select(vec![Step::Fetch, Step::Preflight, Step::Arm, Step::Snapshot, Step::Activate]);
    (step, prop::option::of(1..4_usize), any::<bool>(), any::<bool>())
        .prop_map(|(step, attempt, after_effect, permanent)| Fault { step, attempt, after_effect, permanent })
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let health =
        prop::sample::select(vec![Health::Well, Health::Dies, Health::DiesOnce, Health::Ends, Health::FailsProbe]);
    let undo = (prop::sample::select(vec![Undo::Restore, Undo::Reactivate]), 1..5_usize);
    let kinds = [&Disturbance::ALL[..], &[Disturbance::RollBack, Disturbance::BackUp]].concat();
    let disturbances = prop::collection::vec((1..80_usize, prop::sample::select(kinds)), 0..6);
    let times = (prop::sample::select(vec![0, 600, 7200]), prop::sample::select(vec![0, 300, 36_000]));
    (prop::option::of(fault()), prop::option::of(undo), health, any::<[bool; 7]>(), disturbances, times).prop_map(
        |(
            fault,
            undo_fault,
            health,
            [no_snapshot, probe_command, node_dies_with_us, no_restarts, parked, end_after_switch, consensus],
            disturbances,
            (due_in, lead),
        )| {
            Scenario {
                fault,
                undo_fault,
                health,
                no_snapshot,
                probe_command,
                node_dies_with_us,
                no_restarts,
                parked,
                end_after_switch,
                manual: parked && end_after_switch && !consensus,
                consensus,
                lead: Duration::from_secs(lead),
                due_in,
                disturbances,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, in whatever order: the world's own assertions hold (never two nodes, never an old node on new
    /// data, nothing copied or switched under a running node), it settles, and a node runs unless there is a reason.
    #[test]
    fn any_order_of_events_ends_well(scenario in scenario(), crashes in prop::collection::vec(1..60_usize, 0..5)) {
        let mut world = World::new(scenario.clone());
        let mut fuse = Fuse::new(&crashes);
        let mut lives = 0;
        loop {
            match world.live(&mut fuse) {
                Err(world::Crash) => world.crash(),
                Ok(()) if world.ended.is_some() && lives < 8 => lives += 1,
                Ok(()) => break,
            }
        }
        let stuck = matches!(world.phase, Phase::NeedsHuman { .. });
        if world.ended.is_none() && !stuck {
            let runs = world.node.as_ref().map(|node| node.version.as_str());
            // What a network has agreed on is started again for ever, with pauses.
            let pauses = scenario.consensus && runs.is_none() && matches!(world.phase, Phase::Probing { .. });
            prop_assert!(runs == Some(world.link.as_str()) || pauses, "{}", world.tell());
        }
        // What is written is enough: replaying it again and again says the same.
        let replayed = Journal::replay(&world.journal).unwrap();
        prop_assert_eq!(replayed.phase(), &world.phase);
    }
}
