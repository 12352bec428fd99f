//! What an operator does by hand: takes an upgrade back that was well, and puts data back; and what is copied ahead for that.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod world;

use std::time::Duration;

use omnivisor_core::agent::{Agent, Event, Standing};
use omnivisor_core::journal::{Journal, Phase, Record};
use omnivisor_core::plan::{Step, Undo};
use omnivisor_core::schedule::{Announcement, Trigger};
use omnivisor_core::supervisor::Wanted;
use omnivisor_core::time::Timestamp;
use world::{Data, Disturbance, Fault, Fuse, Health, Lab, NEW, NEWER, OLD, Scenario, World, announce, asked, at};

const MINUTES: fn(u64) -> Duration = |minutes| Duration::from_secs(60 * minutes);

/// Lives through it all; whether every crash happened.
fn live(scenario: &Scenario, crashes: &[usize]) -> (World, bool) {
    let mut world = World::new(scenario.clone());
    let mut fuse = Fuse::new(crashes);
    while world.live(&mut fuse).is_err() {
        world.crash();
    }
    (world, fuse.is_spent())
}

fn has(world: &World, wanted: impl Fn(&Record) -> bool) -> bool {
    world.journal.iter().any(wanted)
}

fn restore(backup: &str, at: Timestamp) -> Record {
    let (version, paths, work) = (Some(OLD.to_owned()), Vec::new(), "/work".into());
    Record::RestoreOrdered { backup: backup.to_owned(), version, paths, work, at }
}

/// At every turn, with a crash at every point after it: the old release runs on its old data, and the other one is denied.
#[test]
fn a_rollback_by_hand_ends_with_the_old_release_on_the_old_data() {
    let (mut after_commit, mut while_probed) = (0, 0);
    for no_snapshot in [false, true] {
        for undo_fault in [None, Some((Undo::Restore, 1)), Some((Undo::Reactivate, 2))] {
            for turn in 1..40 {
                let disturbances = vec![(turn, Disturbance::RollBack)];
                let scenario = Scenario { no_snapshot, undo_fault, disturbances, ..Scenario::default() };
                let check = |crashes: &[usize]| {
                    let (world, spent) = live(&scenario, crashes);
                    let told = || format!("crashes {crashes:?}\n{}", world.tell());
                    let ordered = has(&world, |it| matches!(it, Record::RollbackOrdered { .. }));
                    let runs = world.node.as_ref().map(|node| node.version.as_str());
                    let expected = if ordered { OLD } else { NEW };
                    assert_eq!((world.link.as_str(), runs), (expected, Some(expected)), "{}", told());
                    assert!(no_snapshot || world.data == Data::Of(expected), "{}", told());
                    if ordered {
                        let journal = Journal::replay(&world.journal).unwrap();
                        assert_eq!(journal.phase(), &Phase::Idle, "{}", told());
                        assert_eq!(journal.active().unwrap().release.version.as_str(), OLD, "{}", told());
                        assert!(journal.denies(&announce(NEW, 90).release).is_some(), "{}", told());
                        assert!(journal.may_roll_back().is_none(), "{}", told());
                        let committed = has(&world, |it| matches!(it, Record::Committed { .. }));
                        return (spent, Some(committed));
                    }
                    (spent, None)
                };
                match check(&[]).1 {
                    Some(true) => after_commit += 1,
                    Some(false) => while_probed += 1,
                    None => {}
                }
                for crash in (1..).take_while(|crash| check(&[*crash]).0) {
                    assert!(crash < 500);
                }
            }
        }
    }
    assert!(after_commit > 5 && while_probed > 5, "{after_commit} {while_probed}");
}

/// What failed by the operator's judgement is no floor for what comes: a mended release may be numbered below it.
#[test]
fn what_was_taken_back_by_hand_is_denied_and_is_no_floor() {
    let worlds = (1..40).map(|turn| {
        live(&Scenario { disturbances: vec![(turn, Disturbance::RollBack)], ..Scenario::default() }, &[]).0
    });
    let was_committed = |world: &World| {
        has(world, |it| matches!(it, Record::Committed { .. })) && has(world, |it| matches!(it, Record::RolledBack))
    };
    let world = worlds.into_iter().find(was_committed).unwrap();
    let (mut agent, _) = Agent::recover(&world.journal, world.policy(), world.now()).unwrap();
    agent.step(world.now(), Event::Announced(vec![announce(NEW, 90)]));
    assert!(matches!(agent.standing(world.now(), &announce(NEW, 90)), Standing::Denied(_)));
    assert_eq!(agent.standing(world.now(), &announce("1.5.0", 90)), Standing::Waiting, "it is above the old one");
    assert!(matches!(agent.standing(world.now(), &announce("0.9.0", 90)), Standing::NotNewer(_)));
}

/// Also after the journal was summed up; and not twice.
#[test]
fn the_last_upgrade_can_be_taken_back_until_another_one_or_another_tool_comes() {
    let (world, _) = live(&Scenario::default(), &[]);
    let journal = Journal::replay(&world.journal).unwrap();
    let summed = Journal::replay([&journal.summary().unwrap()]).unwrap();
    let mut journals = [journal, summed];
    for journal in &mut journals {
        assert_eq!(journal.may_roll_back().unwrap().to.release.version.as_str(), NEW);
        let mut taken_over = journal.clone();
        let installed = world::installed(&world::release(NEWER, 3));
        taken_over.append(&Record::TakenOver { installed, at: world.now().wall }).unwrap();
        assert!(taken_over.may_roll_back().is_none(), "what another tool has installed was never switched to here");
        let ordered = Record::RollbackOrdered { restore: true, at: world.now().wall };
        journal.append(&ordered).unwrap();
        let Phase::Undoing { owed, .. } = journal.phase() else { panic!("{:?}", journal.phase()) };
        assert_eq!(*owed, [Undo::Stop, Undo::Restore, Undo::Reactivate]);
        assert!(journal.append(&ordered).is_err(), "it is under way");
    }
    let (world, _) = live(&Scenario { health: Health::Dies, ..Scenario::default() }, &[]);
    assert!(Journal::replay(&world.journal).unwrap().may_roll_back().is_none(), "nothing was ever committed");
}

/// Whoever else installs something meanwhile: half of a restore is never started on.
#[test]
fn no_node_runs_until_what_was_begun_to_be_put_back_is_put_back() {
    let (world, _) = live(&Scenario::default(), &[]);
    let mut records = world.journal.clone();
    let now = world.now();
    records.push(restore("1-000001", now.wall));
    let installed = world::installed(&world::release(NEWER, 3));
    records.push(Record::TakenOver { installed, at: now.wall });
    let (mut agent, effects) = Agent::recover(&records, world.policy(), now).unwrap();
    assert_eq!((agent.wanted(), effects.action), (Wanted::Stopped, None));
    for event in [Event::Resume, Event::RollBack { restore: true }, Event::Announced(vec![announce("4.0.0", 90)])] {
        let effects = agent.step(now, event);
        assert_eq!((agent.wanted(), effects.action), (Wanted::Stopped, None));
    }
    records.push(Record::Restored { at: now.wall });
    let (agent, _) = Agent::recover(&records, world.policy(), now).unwrap();
    assert!(matches!(agent.wanted(), Wanted::Running(key, _) if key.installed.release.version.as_str() == NEWER));
    // A switch has its own undo, which comes first.
    for end in 1..world.journal.len() {
        let mut journal = Journal::replay(&world.journal[..end]).unwrap();
        let may = matches!(journal.phase(), Phase::Idle | Phase::Preparing { .. } | Phase::Staged { .. });
        let ordered = restore("1", now.wall);
        assert_eq!(journal.append(&ordered).is_ok(), may, "{:?}", journal.phase());
    }
}

/// From its lead on, and again every half hour; what a copy that failed means is found out by the last look.
#[test]
fn the_data_is_copied_ahead_before_the_switch_is_due() {
    let due_in = MINUTES(150).as_secs();
    let due = Duration::from_secs(90) + MINUTES(150);
    let times = |fault| {
        let scenario = Scenario { lead: MINUTES(60), due_in, fault, ..Scenario::default() };
        let (world, _) = live(&scenario, &[]);
        let times: Vec<Duration> = world.precopies.iter().map(|(_, at)| *at).collect();
        (world, times)
    };
    let (world, copied) = times(None);
    assert_eq!(copied, [due - MINUTES(60), due - MINUTES(30)], "{}", world.tell());
    assert_eq!(world.link, NEW);
    let (world, copied) =
        times(Some(Fault { step: Step::Arm, attempt: Some(1), after_effect: true, permanent: false }));
    assert_eq!(copied.len(), 2, "a copy that fails is not tried all the time: {}", world.tell());
    assert_eq!(world.link, NEW, "{}", world.tell());
    let without = Scenario { lead: MINUTES(60), due_in, no_snapshot: true, ..Scenario::default() };
    assert_eq!(live(&without, &[]).0.precopies, []);
    assert_eq!(at(due), announce(NEW, 90 + due_in).trigger.due().unwrap());
}

/// Whenever it is asked for: it is taken of a node that is down, or not at all; and the upgrade is done as ever.
#[test]
fn a_backup_by_hand_is_taken_while_no_node_runs_and_is_in_no_upgrades_way() {
    let mut taken = 0;
    for health in [Health::Well, Health::Dies] {
        for (fails, due_in) in [(false, 0), (false, 600), (true, 600)] {
            let fault =
                fails.then_some(Fault { step: Step::Snapshot, attempt: Some(9), after_effect: true, permanent: false });
            for turn in 1..40 {
                let disturbances = vec![(turn, Disturbance::BackUp)];
                let scenario = Scenario { health, fault, due_in, disturbances, ..Scenario::default() };
                let check = |crashes: &[usize]| {
                    let (world, spent) = live(&scenario, crashes);
                    let told = || format!("crashes {crashes:?}\n{}", world.tell());
                    let expected = if health == Health::Well { NEW } else { OLD };
                    let runs = world.node.as_ref().map(|node| node.version.as_str());
                    assert_eq!((world.link.as_str(), runs), (expected, Some(expected)), "{}", told());
                    assert_eq!(world.data, Data::Of(expected), "{}", told());
                    assert!(world.backups.len() <= 1, "{}", told());
                    (spent, world.backups.len())
                };
                taken += check(&[]).1;
                for crash in (1..).take_while(|crash| check(&[*crash]).0) {
                    assert!(crash < 500);
                }
            }
        }
    }
    assert!(taken > 8, "{taken}");
}

/// What the network waits for does not wait for a copy.
#[test]
fn a_backup_is_given_up_for_a_node_that_stands_at_its_height() {
    for turn in 1..40 {
        let disturbances = vec![(turn, Disturbance::BackUp)];
        let scenario = Scenario { consensus: true, no_snapshot: true, disturbances, ..Scenario::default() };
        let (world, _) = live(&scenario, &[]);
        assert_eq!(world.link, NEW, "{}", world.tell());
        let stop = world.script.iter().position(|line| line.contains("Started stop"));
        let copied = world.script.iter().rposition(|line| line.contains("action   Backup"));
        let ready = world.script.iter().position(|line| line.contains("the node is ready"));
        assert!(copied.is_none() || copied < ready || copied > stop, "{}", world.tell());
    }
}

/// What is copied ahead of a backup is dropped for an upgrade whose time has come, and for one that its network waits for.
#[test]
fn a_backup_is_dropped_for_an_upgrade_that_is_waited_for() {
    let at_height = |ready| Announcement { trigger: Trigger::AtHeight { height: 1000, ready }, ..world::agreed(NEW) };
    let at_time = announce(NEW, 700);
    for (first, then) in [(at_height(false), at_height(true)), (at_time.clone(), at_time)] {
        let mut lab = Lab::new();
        lab.stage(&first);
        assert_eq!(asked(&lab.step(Event::BackUp)), "Backup");
        assert!(!lab.step(Event::Announced(vec![first])).cancel, "nothing waits for it yet");
        lab.clock = Duration::from_secs(800);
        assert!(lab.step(Event::Announced(vec![then])).cancel);
        assert_eq!(asked(&lab.step(Event::Cancelled)), "Arm");
        assert_eq!(lab.agent.backup_under_way(), None);
    }
}
