//! One rule, one test: what the agent must and must not do, said directly. Most were written because a planted bug showed
//! that no other test noticed, see `plant-bugs` in the testkit.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod world;

use std::time::Duration;

use omnivisor_core::agent::{Action, Agent, Effects, Event, Outcome, Standing};
use omnivisor_core::formats::journal;
use omnivisor_core::journal::{CancelReason, Journal, Phase, Record};
use omnivisor_core::plan::{Failure, FailureKind, Step, Undo};
use omnivisor_core::release::{Algorithm, Digest, Installed, Release, Version};
use omnivisor_core::schedule::{Announcement, Origin, Trigger};
use omnivisor_core::supervisor::{Endurance, LaunchKey, Wanted};
use omnivisor_core::time::{Now, Timestamp};
use world::{Fault, Fuse, Health, Lab, NEW, NEWER, OLD, Scenario, World, announce, asked, at, installed, release};

const S: fn(u64) -> Duration = Duration::from_secs;

fn lived(scenario: Scenario) -> World {
    let mut world = World::new(scenario);
    assert!(world.live(&mut Fuse::new(&[])).is_ok(), "nothing crashes here");
    world
}

fn runs(world: &World) -> Option<&str> {
    world.node.as_ref().map(|node| node.version.as_str())
}

fn always(step: Step, permanent: bool) -> Option<Fault> {
    Some(Fault { step, attempt: None, after_effect: true, permanent })
}

#[test]
fn recovery_asks_for_what_was_under_way_without_being_told_anything() {
    let world = lived(Scenario { health: Health::Dies, ..Scenario::default() });
    let mut seen = Vec::new();
    for end in 1..=world.journal.len() {
        let records = &world.journal[..end];
        let (agent, effects) = Agent::recover(records, world.policy(), world.now()).unwrap();
        let expected = match Journal::replay(records).unwrap().phase() {
            Phase::Preparing { step: Step::Fetch, .. } => "Fetch",
            Phase::Preparing { .. } => "Preflight",
            Phase::Staged { .. } => "Arm",
            Phase::Switching { step: Step::Snapshot, .. } => "Snapshot",
            Phase::Switching { step: Step::Activate, .. } => "Activate",
            Phase::Undoing { owed, .. } => match owed.first() {
                Some(Undo::Restore) => "Restore",
                Some(Undo::Reactivate) => "Reactivate",
                _ => "",
            },
            _ => "",
        };
        assert_eq!(asked(&effects), expected, "{:?}", agent.journal().phase());
        seen.push(expected);
    }
    seen.retain(|action| !action.is_empty());
    seen.dedup();
    assert_eq!(seen, ["Fetch", "Preflight", "Arm", "Snapshot", "Activate", "Restore", "Reactivate"]);
}

#[test]
fn no_person_can_want_a_release_before_the_height_of_its_network() {
    let at_height = |ready| Announcement {
        trigger: Trigger::AtHeight { height: 1000, ready },
        origin: Origin::Network,
        ..announce(NEW, 90)
    };
    let mut lab = Lab::new();
    lab.stage(&at_height(false));
    assert_eq!(asked(&lab.step(Event::Approve(release(NEW, 1)))), "");
    assert!(lab.agent.journal().approved(&at_height(false).release));
    lab.step(Event::Hold);
    assert_eq!(asked(&lab.step(Event::Announced(vec![at_height(false)]))), "", "it is not there yet");
    assert_eq!(asked(&lab.step(Event::Announced(vec![at_height(true)]))), "Arm", "wanted in spite of the hold");

    let mut lab = Lab::new();
    lab.stage(&at_height(false));
    lab.step(Event::Hold);
    assert_eq!(asked(&lab.step(Event::Announced(vec![at_height(true)]))), "", "nobody wanted it");
}

#[test]
fn an_activation_that_failed_half_way_is_taken_back() {
    let world = lived(Scenario { fault: always(Step::Activate, false), ..Scenario::default() });
    assert_eq!((world.link.as_str(), runs(&world)), (OLD, Some(OLD)), "{}", world.tell());
}

#[test]
fn a_link_that_cannot_be_moved_back_keeps_no_node_down() {
    let undo_fault = Some((Undo::Reactivate, 9));
    let world = lived(Scenario { health: Health::Dies, undo_fault, ..Scenario::default() });
    assert!(matches!(world.phase, Phase::NeedsHuman { .. }), "{}", world.tell());
    assert_eq!(runs(&world), Some(OLD), "{}", world.tell());
}

#[test]
fn no_two_plans_have_the_same_number() {
    let fault = Some(Fault { step: Step::Fetch, attempt: Some(1), after_effect: false, permanent: false });
    let world = lived(Scenario { fault, ..Scenario::default() });
    let numbers: Vec<u64> = world
        .journal
        .iter()
        .filter_map(|record| match record {
            Record::Planned(plan) => Some(plan.number),
            _ => None,
        })
        .collect();
    assert_eq!(numbers, [1, 2]);
}

#[test]
fn a_release_that_is_wrong_is_tried_three_times() {
    let world = lived(Scenario { fault: always(Step::Preflight, true), ..Scenario::default() });
    let failed = world.journal.iter().filter(|record| matches!(record, Record::Failed { .. })).count();
    assert_eq!(failed, 3, "{}", world.tell());
    assert_eq!(runs(&world), Some(OLD), "{}", world.tell());
}

#[test]
fn while_held_a_release_is_prepared_and_not_switched_to() {
    let mut lab = Lab::new();
    lab.step(Event::Hold);
    assert_eq!(asked(&lab.stage(&announce(NEW, 90))), "", "it is due, and waits");
    lab.clock = S(10_000);
    assert_eq!(asked(&lab.step(Event::Timeout)), "");
    assert_eq!(asked(&lab.step(Event::Resume)), "Arm");
}

#[test]
fn a_hold_during_the_last_look_counts() {
    let mut lab = Lab::new();
    assert_eq!(asked(&lab.stage(&announce(NEW, 90))), "Arm");
    lab.step(Event::Hold);
    lab.done();
    assert!(matches!(lab.agent.journal().phase(), Phase::Staged { .. }), "the node was not stopped");
    assert!(lab.agent.journal().runs().is_some());
}

/// One whose download of a first release is to end, because a second one of the same name is announced instead.
fn superseded() -> Lab {
    let mut lab = Lab::new();
    let first = announce(NEW, 90);
    assert_eq!(asked(&lab.step(Event::Announced(vec![first.clone()]))), "Fetch");
    let again = Announcement { release: release(NEW, 2), ..first };
    let effects = lab.step(Event::Announced(vec![again]));
    assert!(effects.cancel, "the download of what is not wanted any more is to end");
    assert!(matches!(effects.records[0], Record::Cancelled(CancelReason::Superseded)));
    assert_eq!(asked(&effects), "", "one action at a time");
    lab
}

#[test]
fn a_result_that_comes_late_is_not_the_present_actions() {
    let late = [
        Event::Done(Outcome::Nothing),
        Event::Failed(Failure::permanent("broke off")),
        Event::Failed(Failure::transient("broke off")),
        Event::Cancelled,
    ];
    for event in late {
        let effects = superseded().step(event.clone());
        assert_eq!(effects.records, [], "nothing is known of the second one yet: {event:?}");
        match effects.action {
            Some(Action::Fetch(plan)) => assert_eq!(plan.to.release, release(NEW, 2)),
            other => panic!("{other:?} after {event:?}"),
        }
    }
}

#[test]
fn what_becomes_of_a_withdrawn_release_is_nobodys() {
    for event in [Event::Done(Outcome::Nothing), Event::Failed(Failure::permanent("broke off"))] {
        let mut lab = Lab::new();
        lab.step(Event::Announced(vec![announce(NEW, 90)]));
        assert!(lab.step(Event::Announced(Vec::new())).cancel);
        assert_eq!(lab.step(event), Effects::default());
    }
}

#[test]
fn what_is_due_earlier_goes_first() {
    let mut lab = Lab::new();
    let later = announce(NEWER, 5000);
    assert_eq!(asked(&lab.stage(&later)), "", "staged, and waits for its time");
    let effects = lab.step(Event::Announced(vec![later, announce(NEW, 4000)]));
    assert_eq!(effects.records[0], Record::Cancelled(CancelReason::Preempted));
    match effects.action {
        Some(Action::Fetch(plan)) => assert_eq!(plan.to.release, release(NEW, 1)),
        other => panic!("{other:?}"),
    }
}

/// N41: each upgrade of the year would be due at once.
#[test]
fn a_clock_that_jumps_ahead_fires_nothing_until_it_has_had_time_to_be_set_right() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let jumped = |lab: &Lab, by: Duration| Now { monotonic: lab.clock, wall: at(lab.clock + by) };
    let staged = |due: u64| {
        let mut lab = Lab::new();
        lab.stage(&announce(NEW, due));
        lab.clock += S(10);
        lab
    };
    // A step of seconds is what time daemons do.
    let mut lab = staged(150);
    assert_eq!(asked(&lab.agent.step(jumped(&lab, S(59)), Event::Timeout)), "Arm");

    let mut lab = staged(5000);
    assert_eq!(lab.agent.step(jumped(&lab, DAY), Event::Timeout), Effects::default());
    let (until, by) = lab.agent.doubts_the_clock().unwrap();
    assert_eq!((until, by), (lab.clock + S(600), DAY));
    assert_eq!(lab.agent.timeouts().monotonic, Some(until), "and it asks to be called then");
    // It is set right again: the time comes when it comes.
    lab.clock += S(300);
    assert_eq!(lab.step(Event::Timeout), Effects::default());
    assert_eq!(lab.agent.doubts_the_clock(), None);
    lab.clock = S(5000);
    assert_eq!(asked(&lab.step(Event::Timeout)), "Arm");

    // Nobody sets it right: it is believed in the end.
    let mut lab = staged(5000);
    lab.agent.step(jumped(&lab, DAY), Event::Timeout);
    lab.clock += S(599);
    assert_eq!(lab.agent.step(jumped(&lab, DAY), Event::Timeout), Effects::default());
    lab.clock += S(1);
    assert_eq!(asked(&lab.agent.step(jumped(&lab, DAY), Event::Timeout)), "Arm");

    // What was due before the jump is due; and so is what a person wants now, by the clock as it is.
    let mut lab = staged(105);
    assert_eq!(asked(&lab.agent.step(jumped(&lab, DAY), Event::Timeout)), "Arm");
    let mut lab = Lab::new();
    lab.clock += S(10);
    let now = jumped(&lab, DAY);
    lab.agent.step(now, Event::Timeout);
    let by_hand = Announcement {
        origin: Origin::Local,
        published: Some(now.wall),
        trigger: Trigger::At(now.wall),
        ..announce(NEW, 0)
    };
    lab.agent.step(now, Event::Announced(vec![by_hand.clone()]));
    lab.agent.step(now, Event::Done(Outcome::Nothing));
    let proven = Event::Done(Outcome::Proven(installed(&by_hand.release)));
    assert_eq!(asked(&lab.agent.step(now, proven)), "Arm");
}

#[test]
fn who_wants_one_upgrade_without_a_snapshot_has_that_one_without() {
    for without_snapshot in [false, true] {
        let mut lab = Lab::new();
        let announced = Announcement { without_snapshot, origin: Origin::Local, ..announce(NEW, 90) };
        let effects = lab.step(Event::Announced(vec![announced]));
        let [Record::Planned(plan), ..] = effects.records.as_slice() else { panic!("{effects:?}") };
        assert_eq!(plan.snapshot, !without_snapshot);
        // Nobody takes the plan for another one because it was written down in between.
        let mut bytes = journal::MAGIC.to_vec();
        bytes.extend(journal::encode(&effects.records));
        assert_eq!(journal::decode(&bytes).unwrap().records, effects.records);
    }
}

#[test]
fn no_approval_goes_back_to_an_older_version() {
    let mut lab = Lab::new();
    let older = announce("0.9.0", 90);
    lab.step(Event::Announced(vec![older.clone()]));
    let effects = lab.step(Event::Approve(older.release.clone()));
    assert_eq!(effects.action, None);
    assert_eq!(lab.standing(&older), Standing::NotNewer(OLD.to_owned()));
    let asked_for = Announcement { origin: Origin::LocalDowngrade, ..older };
    assert_eq!(asked(&lab.step(Event::Announced(vec![asked_for]))), "Fetch", "a downgrade is announced as one");
}

#[test]
fn an_upstream_is_followed_upwards_only() {
    let mut lab = Lab::new();
    let reissued = Announcement { release: release(OLD, 9), ..announce(OLD, 90) };
    let mut odd = announce(NEW, 90);
    odd.release.version = Version::new("banana");
    for announced in [reissued.clone(), odd] {
        let effects = lab.step(Event::Announced(vec![announced.clone()]));
        assert_eq!(effects, Effects::default(), "{announced:?}");
        assert_eq!(lab.standing(&announced), Standing::NotNewer(OLD.to_owned()));
    }
    let hot_fix = Announcement { origin: Origin::Local, ..reissued };
    assert_eq!(asked(&lab.step(Event::Announced(vec![hot_fix]))), "Fetch", "a person may issue the same version again");
}

#[test]
fn the_wait_between_two_tries_doubles_up_to_its_limit_and_the_tries_never_end() {
    let mut lab = Lab::new();
    let announced = announce(NEW, 90);
    let mut waits = Vec::new();
    assert_eq!(asked(&lab.step(Event::Announced(vec![announced.clone()]))), "Fetch");
    for _ in 0..12 {
        assert_eq!(asked(&lab.step(Event::Failed(Failure::transient("no network")))), "");
        let Standing::RetryAt(next, _) = lab.standing(&announced) else { panic!("{:?}", lab.standing(&announced)) };
        let wait = next.since(lab.now().wall);
        assert_eq!(lab.agent.timeouts().wall, Some(next), "and it asks to be called then");
        lab.clock += wait - Duration::from_nanos(1);
        assert_eq!(asked(&lab.step(Event::Timeout)), "", "not a moment earlier");
        lab.clock += Duration::from_nanos(1);
        assert_eq!(asked(&lab.step(Event::Timeout)), "Fetch");
        waits.push(wait.as_secs());
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]);
}

#[test]
fn a_clock_that_was_set_back_makes_nobody_wait_for_it() {
    let mut lab = Lab::new();
    let announced = announce(NEW, 90);
    lab.step(Event::Announced(vec![announced.clone()]));
    lab.step(Event::Failed(Failure::transient("no network")));
    assert!(matches!(lab.standing(&announced), Standing::RetryAt(..)));
    let back = Now { monotonic: lab.clock, wall: Timestamp::EPOCH };
    assert_eq!(lab.agent.standing(back, &announced), Standing::Waiting);
}

#[test]
fn an_approval_ends_with_the_next_commit() {
    let mut lab = Lab::new();
    lab.step(Event::Approve(release(NEWER, 1)));
    assert_eq!(asked(&lab.stage(&announce(NEW, 90))), "Arm");
    lab.done();
    let mut journal = lab.agent.journal().clone();
    for record in [
        Record::Started(Step::Snapshot),
        Record::Started(Step::Activate),
        Record::Started(Step::Probe),
        Record::Committed { at: at(S(200)) },
    ] {
        journal.append(&record).unwrap();
    }
    assert!(!journal.approved(&release(NEWER, 1)), "it was asked of the release before");
}

#[test]
fn a_summary_stands_for_everything_before_it() {
    // One release failed here; another cannot be fetched, is approved all the same, and everything is on hold.
    let mut records = lived(Scenario { health: Health::Dies, ..Scenario::default() }).journal;
    let mut plan = records.iter().find_map(|record| match record {
        Record::Planned(plan) => Some(plan.clone()),
        _ => None,
    });
    let plan = plan.as_mut().unwrap();
    plan.number += 1;
    plan.to = announce(NEWER, 90);
    let (step, kind) = (Step::Fetch, FailureKind::Transient);
    records.push(Record::Planned(plan.clone()));
    assert_eq!(Journal::replay(&records).unwrap().summary(), None, "an upgrade under way is not summed up");
    records.push(Record::Failed { step, kind, reason: "no network".to_owned(), at: at(S(500)) });
    records.extend([Record::Held, Record::Approved(release("4.0.0", 1))]);
    let journal = Journal::replay(&records).unwrap();
    assert!(journal.denies(&release(NEW, 1)).is_some() && journal.attempts(&announce(NEWER, 90)).is_some());
    let summary = journal.summary().unwrap();
    assert_eq!(Journal::replay([&summary]).unwrap(), journal);
    let mut bytes = journal::MAGIC.to_vec();
    bytes.extend(journal::encode(std::slice::from_ref(&summary)));
    assert_eq!(journal::decode(&bytes).unwrap().records, [summary]);
}

#[test]
fn what_a_person_has_put_in_the_place_of_the_active_executable_is_the_active_one_from_then_on() {
    let by_hand = |version: &str| {
        let mut by_hand = installed(&release(OLD, 0));
        by_hand.digest = Digest::new(Algorithm::Sha256, &[9; 32]).unwrap();
        by_hand.release.version = Version::new(version);
        by_hand
    };
    for (number, prepared) in [(0, false), (1, true)] {
        let mut lab = Lab::new();
        let later = announce(NEW, 5000);
        if prepared {
            lab.stage(&later);
        }
        lab.step(Event::Replaced(by_hand("1.0.1")));
        assert_eq!(lab.agent.journal().active(), Some(&by_hand("1.0.1")), "{number}");
        assert_eq!(
            lab.agent.wanted(),
            Wanted::Running(LaunchKey { installed: by_hand("1.0.1"), generation: 0 }, Endurance::AsConfigured)
        );
        // It was well enough for a person: an upstream is followed above it only.
        assert_eq!(lab.standing(&announce("1.0.1", 90)), Standing::NotNewer("1.0.1".to_owned()));
        let again = Journal::replay(&lab.records).unwrap();
        assert_eq!(again.active(), Some(&by_hand("1.0.1")));
    }
    // In the outage, and while the new one is judged, nothing takes the place of anything.
    let mut lab = Lab::new();
    lab.stage(&announce(NEW, 90));
    assert_eq!(lab.done().records, [Record::Started(Step::Stop)]);
    assert_eq!(lab.step(Event::Replaced(by_hand("1.0.1"))).records, []);
    // And what is elsewhere is no replacement.
    let mut elsewhere = by_hand("1.0.1");
    elsewhere.folder = "/elsewhere".into();
    let mut journal = Journal::replay(&Lab::new().records).unwrap();
    assert!(journal.append(&Record::Replaced { installed: elsewhere, at: at(S(100)) }).is_err());
}

#[test]
fn what_the_replaced_executable_has_overtaken_is_not_switched_to() {
    let by_hand = |version: &str| {
        let release = Release { version: Version::new(version), ..release(OLD, 0) };
        Installed {
            release,
            digest: Digest::new(Algorithm::Sha256, &[9; 32]).unwrap(),
            ..installed(&self::release(OLD, 0))
        }
    };
    for (version, dropped) in [(NEWER, true), (NEW, true), ("1.0.1", false)] {
        for prepared in [false, true] {
            let mut lab = Lab::new();
            let tonight = announce(NEW, 4000);
            if prepared {
                lab.stage(&tonight);
            } else {
                lab.step(Event::Announced(vec![tonight]));
            }
            let records = lab.step(Event::Replaced(by_hand(version))).records;
            assert_eq!(
                records.contains(&Record::Cancelled(CancelReason::Superseded)),
                dropped,
                "{version}: {records:?}"
            );
            if !prepared {
                continue;
            }
            lab.clock = S(4000);
            assert_eq!(asked(&lab.step(Event::Timeout)), if dropped { "" } else { "Arm" }, "{version}");
        }
    }
}
