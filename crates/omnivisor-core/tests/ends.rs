//! When a run ends, and when it does not: as the node has ended, as a person wants it, or as an upgrade says.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod world;

use std::time::Duration;

use omnivisor_core::agent::{Agent, Effects, Ending, Event};
use omnivisor_core::journal::{Phase, Record};
use omnivisor_core::plan::{Failure, Step};
use omnivisor_core::schedule::{Announcement, Trigger};
use omnivisor_core::supervisor::{Exit, Report, Wanted};
use world::{Lab, NEW, Scenario, World, announce, asked};

const S: fn(u64) -> Duration = Duration::from_secs;

#[test]
fn what_waits_for_a_command_is_prepared_and_not_switched_to_and_ends_the_run_if_it_is_to() {
    for ends in [true, false] {
        let mut lab = Lab::new();
        let announced = Announcement { trigger: Trigger::OnCommand { ends }, ..announce(NEW, 90) };
        assert_eq!(asked(&lab.stage(&announced)), "");
        lab.clock = S(1_000_000);
        assert_eq!(asked(&lab.step(Event::Timeout)), "");
        assert_eq!(asked(&lab.step(Event::Approve(announced.release))), "Arm");
        lab.done();
        assert_eq!(asked(&lab.step(Event::NodeDown)), "Snapshot");
        assert_eq!(asked(&lab.done()), "Activate");
        lab.done();
        assert_eq!(lab.agent.ending().is_some(), ends);
    }
}

#[test]
fn a_stop_in_the_outage_starts_nothing_and_the_next_run_goes_on() {
    let mut lab = Lab::new();
    lab.stage(&announce(NEW, 90));
    lab.done();
    let effects = lab.step(Event::NodeDown);
    assert_eq!(asked(&effects), "Snapshot");
    lab.step(Event::StopRequested);
    let effects = lab.done();
    assert_eq!(effects.records, [Record::Started(Step::Activate)], "what was done counts");
    assert_eq!(effects.action, None, "and nothing more is begun");
    let policy = World::new(Scenario::default()).policy();
    let (_, effects) = Agent::recover(&lab.records, policy, lab.now()).unwrap();
    assert_eq!(asked(&effects), "Activate");
}

/// Whoever starts us again starts it again meanwhile: a download may take hours.
#[test]
fn a_node_that_failed_does_not_wait_for_the_download_of_its_successor() {
    let gave_up = || Event::Node(Report::GaveUp(Exit::Signal(9)));
    let mut lab = Lab::new();
    lab.step(Event::Announced(vec![announce(NEW, 90)]));
    assert_eq!(lab.step(gave_up()), Effects { cancel: true, ..Effects::default() });
    assert_eq!(lab.agent.ending(), Some(&Ending::GaveUp(Exit::Signal(9))));
    // What is on the disk is seconds away.
    let mut lab = Lab::new();
    lab.step(Event::Announced(vec![announce(NEW, 90)]));
    assert_eq!(asked(&lab.done()), "Preflight");
    lab.step(gave_up());
    assert_eq!(lab.agent.ending(), None);
}

#[test]
fn a_node_that_ends_in_the_outage_does_not_end_the_run_and_its_successor_may_end_later() {
    let mut lab = Lab::new();
    lab.stage(&announce(NEW, 90));
    lab.done();
    lab.step(Event::Node(Report::Finished));
    assert_eq!(lab.agent.ending(), None);
    lab.step(Event::NodeDown);
    lab.done();
    lab.done();
    assert!(matches!(lab.agent.journal().phase(), Phase::Probing { .. }));
    lab.step(Event::Node(Report::Up));
    lab.clock += S(61);
    lab.step(Event::Timeout);
    assert_eq!(lab.agent.journal().phase(), &Phase::Idle, "committed");
    assert_eq!(lab.agent.ending(), None, "the end of its predecessor is over and done with");
    lab.step(Event::Node(Report::Finished));
    assert_eq!(lab.agent.ending(), Some(&Ending::Finished));
}

#[test]
fn a_node_that_ended_ends_the_run_when_nothing_comes_of_its_successor() {
    for then in [Event::Failed(Failure::transient("no network")), Event::Announced(Vec::new()), Event::Hold] {
        let mut lab = Lab::new();
        lab.step(Event::Announced(vec![announce(NEW, 90)]));
        lab.step(Event::Node(Report::Finished));
        assert_eq!(lab.agent.ending(), None, "its successor is due");
        lab.step(then.clone());
        assert_eq!(lab.agent.ending(), Some(&Ending::Finished), "{then:?}");
        assert_eq!(lab.agent.wanted(), Wanted::Stopped);
    }
}
