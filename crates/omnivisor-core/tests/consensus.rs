//! An upgrade that a network has agreed on: every step fails, everything disturbs, the supervisor crashes everywhere; the old
//! node stands at the height or the new one runs, and never the old one after the new one.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "a panic is a failed test")]

mod world;

use omnivisor_core::journal::{Phase, Record};
use omnivisor_core::plan::Step;
use world::{Disturbance, Fault, Fuse, Health, NEW, OLD, Scenario, World};

fn base() -> Scenario {
    Scenario { consensus: true, no_snapshot: true, ..Scenario::default() }
}

/// Lives until nothing more happens by itself, and judges; false if there was no such crash point.
fn check(scenario: &Scenario, crashes: &[usize]) -> bool {
    let mut world = World::new(scenario.clone());
    world.told = false;
    let mut fuse = Fuse::new(crashes);
    let mut lives = 0;
    loop {
        match world.live(&mut fuse) {
            Err(world::Crash) => world.crash(),
            Ok(()) if world.ended.is_some() && lives < 5 => lives += 1,
            Ok(()) => break,
        }
    }
    judge(scenario, &world, crashes);
    fuse.is_spent()
}

fn judge(scenario: &Scenario, world: &World, crashes: &[usize]) {
    let context = || format!("crashes {crashes:?}\n{:#?}\n{}", world.journal, world.tell());
    let runs = world.node.as_ref().map(|node| node.version.as_str());
    let committed = world.journal.iter().filter(|record| matches!(record, Record::Committed { .. })).count();
    let new_ran = world.starts.iter().any(|version| version == NEW);
    // What ran here after the height is never followed by what ran before it; the world itself says so, too.
    let after = world.starts.iter().skip_while(|version| *version != NEW);
    assert!(after.into_iter().all(|version| version != OLD), "{}", context());
    assert!(
        !world.journal.iter().any(|record| matches!(record, Record::Failed { step: Step::Probe, .. })),
        "{}",
        context()
    );
    if !scenario.disturbances.is_empty() {
        return;
    }
    // A copy is only wanted: what cannot be copied does not keep the node from following its network.
    let always = scenario.fault.is_some_and(|fault| fault.attempt.is_none() && fault.step != Step::Snapshot);
    let sick = matches!(scenario.health, Health::Dies | Health::Ends | Health::FailsProbe);
    match (always, sick) {
        (true, _) => {
            assert!(!new_ran && committed == 0, "what cannot be prepared or switched to never runs: {}", context());
            assert_eq!(runs, Some(OLD), "and the old node stands at its height: {}", context());
        }
        (false, true) => {
            assert!(new_ran && committed == 0, "{}", context());
            assert!(matches!(world.phase, Phase::Probing { .. }) && world.link == NEW, "it is held: {}", context());
        }
        (false, false) => {
            assert_eq!((runs, committed, world.link.as_str()), (Some(NEW), 1, NEW), "{}", context());
        }
    }
}

fn every_crash(scenario: &Scenario, stride: usize) -> usize {
    let mut schedules = 1;
    check(scenario, &[]);
    for first in (1..).take_while(|first| check(scenario, &[*first])) {
        schedules += 1;
        schedules += (1..).step_by(stride).take_while(|second| check(scenario, &[first, *second])).count();
        // What is tried for ever has no end of crash points.
        if first > 120 {
            break;
        }
    }
    schedules
}

/// With `OMNIVISOR_LONG=1` every pair of crash points.
#[test]
fn every_fault_with_every_crash() {
    let stride = if std::env::var_os("OMNIVISOR_LONG").is_some() { 1 } else { 11 };
    let mut schedules = 0;
    for (node_dies_with_us, no_snapshot) in [(false, true), (true, true), (false, false), (true, false)] {
        let base = Scenario { node_dies_with_us, no_snapshot, ..base() };
        let steps = [Step::Fetch, Step::Preflight, Step::Arm, Step::Activate, Step::Snapshot];
        let steps = &steps[..if no_snapshot { 4 } else { 5 }];
        for health in [Health::Well, Health::DiesOnce] {
            for step in steps.iter().copied() {
                for permanent in [false, true] {
                    for after_effect in [false, true] {
                        let fault = Some(Fault { step, attempt: Some(1), after_effect, permanent });
                        schedules += every_crash(&Scenario { fault, health, ..base.clone() }, stride);
                    }
                }
            }
            schedules += every_crash(&Scenario { health, ..base.clone() }, stride);
        }
        for step in steps.iter().copied() {
            let fault = Some(Fault { step, attempt: None, after_effect: false, permanent: true });
            check(&Scenario { fault, ..base.clone() }, &[]);
            schedules += (1..100).filter(|crash| check(&Scenario { fault, ..base.clone() }, &[*crash])).count();
        }
        for (health, probe_command) in [(Health::Dies, false), (Health::Ends, false), (Health::FailsProbe, true)] {
            let scenario = Scenario { health, probe_command, ..base.clone() };
            schedules += (1..100).filter(|crash| check(&scenario, &[*crash])).count();
        }
    }
    println!("{schedules} crash schedules");
    assert!(schedules > 10_000, "{schedules}");
}

#[test]
fn every_disturbance_at_every_turn_with_every_crash() {
    let mut schedules = 0;
    for (health, no_snapshot) in [(Health::Well, true), (Health::Dies, true), (Health::Well, false)] {
        for disturbance in Disturbance::ALL {
            for turn in 1..40 {
                let scenario = Scenario { health, no_snapshot, disturbances: vec![(turn, disturbance)], ..base() };
                check(&scenario, &[]);
                schedules += 1 + (1..60).take_while(|crash| check(&scenario, &[*crash])).count();
            }
        }
    }
    println!("{schedules} disturbed schedules");
    assert!(schedules > 10_000, "{schedules}");
}
