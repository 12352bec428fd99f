//! Fails every step in every way, disturbs at every turn, crashes the supervisor at every point and at every pair of
//! points, and checks where it ends up.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "a panic is a failed test")]

mod world;

use omnivisor_core::agent::Ending;
use omnivisor_core::journal::{Phase, Record};
use omnivisor_core::plan::{Step, Undo};
use world::{Data, Disturbance, Fault, Fuse, Health, NEW, OLD, Scenario, World};

/// Steps that are actions; a stop cannot fail, it only takes its time.
const FALLIBLE: [Step; 5] = [Step::Fetch, Step::Preflight, Step::Arm, Step::Snapshot, Step::Activate];

fn faults() -> Vec<Option<Fault>> {
    let mut faults = vec![None];
    for step in FALLIBLE {
        for attempt in [None, Some(1), Some(2)] {
            for (after_effect, permanent) in [(false, false), (true, false), (false, true), (true, true)] {
                faults.push(Some(Fault { step, attempt, after_effect, permanent }));
            }
        }
    }
    faults
}

/// Every fault, every sickness, every failing undo, with and without a node that outlives its supervisor.
fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for node_dies_with_us in [false, true] {
        let base = Scenario { node_dies_with_us, ..Scenario::default() };
        all.extend(faults().into_iter().map(|fault| Scenario { fault, ..base.clone() }));
        for health in [Health::Dies, Health::DiesOnce, Health::Ends, Health::FailsProbe] {
            for undo_fault in [
                None,
                Some((Undo::Restore, 1)),
                Some((Undo::Restore, 9)),
                Some((Undo::Reactivate, 1)),
                Some((Undo::Reactivate, 9)),
            ] {
                for (no_restarts, no_snapshot) in [(false, false), (true, false), (false, true)] {
                    let probe_command = health == Health::FailsProbe;
                    all.push(Scenario { health, undo_fault, no_restarts, no_snapshot, probe_command, ..base.clone() });
                }
            }
        }
        all.push(Scenario { no_snapshot: true, ..base.clone() });
        all.push(Scenario { probe_command: true, ..base.clone() });
        all.push(Scenario { parked: true, ..base.clone() });
        for health in [Health::Well, Health::Dies, Health::DiesOnce, Health::Ends] {
            all.push(Scenario { end_after_switch: true, health, ..base.clone() });
        }
        for step in FALLIBLE {
            let fault = Some(Fault { step, attempt: Some(1), after_effect: true, permanent: false });
            all.push(Scenario { end_after_switch: true, fault, ..base.clone() });
        }
        all.push(Scenario { manual: true, ..base });
    }
    all
}

/// Lives through the schedule; returns whether every crash in it happened. Told only if it goes wrong, or is short.
fn check(scenario: &Scenario, crashes: &[usize]) -> bool {
    let quiet = || live(scenario, crashes, crashes.len() < 2);
    std::panic::catch_unwind(quiet).unwrap_or_else(|_| live(scenario, crashes, true))
}

fn live(scenario: &Scenario, crashes: &[usize], told: bool) -> bool {
    let mut world = World::new(scenario.clone());
    world.told = told;
    let mut fuse = Fuse::new(crashes);
    let mut lives = 0;
    loop {
        match world.live(&mut fuse) {
            Err(world::Crash) => world.crash(),
            // A run that was ended is started again: by systemd, or by the operator the next morning.
            Ok(()) if world.ended.is_some() && lives < 5 => lives += 1,
            Ok(()) => break,
        }
    }
    judge(scenario, &world, crashes);
    fuse.is_spent()
}

fn judge(scenario: &Scenario, world: &World, crashes: &[usize]) {
    let context = || format!("crashes {crashes:?}\n{}", world.tell());
    let count = |wanted: &dyn Fn(&Record) -> bool| world.journal.iter().filter(|record| wanted(record)).count();
    let committed = count(&|record| matches!(record, Record::Committed { .. }));
    let denied = world.journal.iter().any(|record| matches!(record, Record::Failed { step: Step::Probe, .. }));
    let undisturbed = scenario.disturbances.is_empty();

    assert!(!matches!(world.ended, Some(Ending::GaveUp(_))) || scenario.no_restarts, "{}", context());
    let stuck = matches!(&world.phase, Phase::NeedsHuman { .. });
    let runs = world.node.as_ref().map(|node| node.version.as_str());
    if stuck {
        let Phase::NeedsHuman { owed, .. } = &world.phase else { unreachable!() };
        assert!(matches!(scenario.undo_fault, Some((_, times)) if times >= 3), "{}", context());
        if owed.first() == Some(&Undo::Restore) {
            assert_eq!(runs, None, "nothing runs on data that is neither old nor new: {}", context());
        } else {
            assert_eq!(runs, Some(OLD), "a link is no reason to stay down: {}", context());
        }
        return;
    }
    match &world.phase {
        Phase::Idle => {}
        Phase::Staged { .. } => {
            let waits = world.held || scenario.parked || scenario.manual || !undisturbed;
            assert!(waits, "nothing waits without a reason: {}", context());
        }
        // A step that always fails is being tried again and again.
        phase => panic!("left in {phase:?}: {}", context()),
    }
    if world.ended.is_none() {
        assert_eq!(runs, Some(world.link.as_str()), "the node runs in the end: {}", context());
    }
    if !scenario.no_snapshot {
        assert!(matches!(world.data, Data::Of(version) if version == world.link), "{}", context());
    }
    assert_eq!(world.link != OLD, committed > 0, "{}", context());
    if scenario.end_after_switch && crashes.is_empty() && undisturbed {
        assert_eq!(world.switched, 1, "a run ends with each switch: {}", context());
    }
    if !scenario.end_after_switch && !scenario.manual {
        assert_eq!(world.switched, 0, "{}", context());
    }
    if undisturbed {
        let sick = matches!(scenario.health, Health::Dies | Health::Ends | Health::FailsProbe)
            || (scenario.health == Health::DiesOnce && scenario.no_restarts && crashes.is_empty());
        let always = scenario.fault.is_some_and(|fault| fault.attempt.is_none());
        let either = scenario.health == Health::DiesOnce && scenario.no_restarts;
        if !either || crashes.is_empty() {
            let waits = scenario.parked || scenario.manual;
            assert_eq!(committed, usize::from(!sick && !always && !waits), "{}", context());
            assert_eq!(denied, sick, "{}", context());
        }
        if sick {
            let planned = count(&|record| matches!(record, Record::Planned(_)));
            assert_eq!(planned, 1, "a release that failed here is not tried again: {}", context());
        }
        if scenario.fault.is_some_and(|fault| fault.permanent && fault.attempt.is_none()) {
            let failed = count(&|record| matches!(record, Record::Failed { .. }));
            assert_eq!(failed, 3, "a release that is wrong is tried three times: {}", context());
        }
    } else if committed > 0 {
        assert!(
            world.link == NEW || scenario.disturbances.iter().any(|(_, d)| *d == Disturbance::Preempt),
            "{}",
            context()
        );
    }
}

fn every_pair(scenario: &Scenario, stride: usize) -> usize {
    let mut schedules = 1;
    check(scenario, &[]);
    for first in (1..).take_while(|first| check(scenario, &[*first])) {
        schedules += 1 + (1..).step_by(stride).take_while(|second| check(scenario, &[first, *second])).count();
    }
    schedules
}

/// With `OMNIVISOR_LONG=1` every pair of crash points; else every first one with every seventh second one.
#[test]
fn every_fault_with_every_crash_and_every_pair_of_crashes() {
    let (stride, least) = if std::env::var_os("OMNIVISOR_LONG").is_some() { (1, 500_000) } else { (7, 50_000) };
    let scenarios = scenarios();
    let schedules: usize = scenarios.iter().map(|scenario| every_pair(scenario, stride)).sum();
    println!("{} scenarios, {schedules} crash schedules", scenarios.len());
    assert!(schedules > least, "{schedules}");
}

/// A disturbance at every turn of an upgrade that succeeds and of one that is undone, with a crash at every point.
#[test]
fn every_disturbance_at_every_turn_with_every_crash() {
    let mut schedules = 0;
    for health in [Health::Well, Health::Dies] {
        for disturbance in Disturbance::ALL {
            for turn in 1..40 {
                let scenario = Scenario { health, disturbances: vec![(turn, disturbance)], ..Scenario::default() };
                check(&scenario, &[]);
                schedules += 1 + (1..).take_while(|crash| check(&scenario, &[*crash])).count();
            }
        }
    }
    println!("{schedules} disturbed schedules");
    assert!(schedules > 20_000, "{schedules}");
}

/// A release that waits for a person is approved, and the run ends with the switch; with a crash at every point.
#[test]
fn a_release_that_waits_for_a_person_ends_the_run_when_it_is_switched_to() {
    for turn in 1..30 {
        for health in [Health::Well, Health::Dies] {
            let disturbances = vec![(turn, Disturbance::Approve)];
            let scenario = Scenario { manual: true, health, disturbances, ..Scenario::default() };
            let mut world = World::new(scenario.clone());
            assert!(world.live(&mut Fuse::new(&[])).is_ok());
            // Before the release is announced nobody can approve it.
            if !world.journal.iter().any(|record| matches!(record, Record::Approved(_))) {
                continue;
            }
            assert_eq!(world.ended, Some(Ending::Switched), "{}", world.tell());
            assert!(world.node.is_none(), "{}", world.tell());
            assert!((1..).take_while(|crash| check(&scenario, &[*crash])).count() > 20);
        }
    }
}

/// A node that ends by itself while an upgrade that is due is under way has a successor; one that ends at another time ends
/// the run.
#[test]
fn a_node_that_ends_by_itself_ends_the_run_unless_its_successor_is_due() {
    for disturbance in [Disturbance::NodeEnds, Disturbance::NodeDies] {
        for no_restarts in [false, true] {
            let (mut succeeded, mut ended) = (0, 0);
            for turn in 1..40 {
                let scenario = Scenario { no_restarts, disturbances: vec![(turn, disturbance)], ..Scenario::default() };
                let mut world = World::new(scenario);
                assert!(world.live(&mut Fuse::new(&[])).is_ok());
                let committed = world.journal.iter().any(|record| matches!(record, Record::Committed { .. }));
                let failed = world.journal.iter().any(|record| matches!(record, Record::Failed { .. }));
                let before = !world.journal.iter().any(|record| matches!(record, Record::Planned(_)));
                // A node that failed does not wait for a download.
                let fetching = matches!(world.phase, Phase::Preparing { step: Step::Fetch, .. })
                    && matches!(world.ended, Some(Ending::GaveUp(_)));
                assert!(
                    committed || failed || before || fetching,
                    "a due upgrade is finished, one way or the other: {}",
                    world.tell()
                );
                succeeded += usize::from(committed && world.ended.is_none());
                ended += usize::from(world.ended.is_some());
            }
            assert!(succeeded > 5, "{disturbance:?} {no_restarts} {succeeded} {ended}");
        }
    }
}

/// Two disturbances at every pair of turns.
#[test]
fn every_two_disturbances_at_every_two_turns() {
    let stride = if std::env::var_os("OMNIVISOR_LONG").is_some() { 1 } else { 3 };
    for health in [Health::Well, Health::Dies] {
        for first in Disturbance::ALL {
            for second in Disturbance::ALL {
                for turn in 1..30 {
                    for later in (turn..30).step_by(stride) {
                        let disturbances = vec![(turn, first), (later, second)];
                        check(&Scenario { health, disturbances, ..Scenario::default() }, &[]);
                    }
                }
            }
        }
    }
}
