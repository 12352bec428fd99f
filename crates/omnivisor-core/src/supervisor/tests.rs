//! What is ordered, and when.

use super::*;
use crate::release::{Algorithm, Digest, Identity, Release, ReleaseName, Version};

const S: fn(u64) -> Duration = Duration::from_secs;

fn key(version: &str) -> LaunchKey {
    let release = Release { name: ReleaseName::genesis(), version: Version::new(version), digest: None };
    let digest = Digest::new(Algorithm::Sha256, &[0; 32]).unwrap();
    let installed = Installed { release, folder: "/x".into(), digest, identity: Identity::default() };
    LaunchKey { installed, generation: 0 }
}

fn supervisor(on_failure: bool) -> Supervisor {
    Supervisor::new(RestartPolicy {
        on_failure,
        delay: S(10),
        startup_period: S(120),
        max_startup_failures: 3,
        grace: S(5),
        zero_is_done: true,
    })
}

fn running(version: &str) -> Wanted {
    Wanted::Running(key(version), Endurance::AsConfigured)
}

fn exited(code: i32) -> Seen {
    Seen::Exited { exit: Exit::Code(code), others: false, group_empty: true }
}

fn started(supervisor: &mut Supervisor, at: u64) {
    assert_eq!(supervisor.reconcile(S(at), &running("1")), Some(Order::Start(key("1"))));
    assert_eq!(supervisor.observe(S(at), Seen::Started), Some(Report::Up));
    assert_eq!(supervisor.reconcile(S(at), &running("1")), None);
}

#[test]
fn a_node_that_fails_is_restarted_after_the_delay_and_given_up_after_the_limit() {
    let mut it = supervisor(true);
    started(&mut it, 0);
    assert_eq!(it.observe(S(1), exited(42)), Some(Report::Died(Exit::Code(42))));
    assert_eq!(it.timeout(), Some(S(11)));
    assert_eq!(it.reconcile(S(10), &running("1")), None, "not before the delay is over");
    started(&mut it, 11);
    assert_eq!(it.observe(S(12), exited(42)), Some(Report::Died(Exit::Code(42))));
    started(&mut it, 22);
    assert_eq!(it.observe(S(23), exited(42)), Some(Report::GaveUp(Exit::Code(42))));
    assert_eq!(it.reconcile(S(1000), &running("1")), None);
    assert!(it.is_down());
}

#[test]
fn a_long_run_gives_the_budget_back() {
    let mut it = supervisor(true);
    for round in 0..20 {
        started(&mut it, round * 1000);
        let died = Some(Report::Died(Exit::Signal(11)));
        let exit = Seen::Exited { exit: Exit::Signal(11), others: false, group_empty: true };
        assert_eq!(it.observe(S(round * 1000 + 120), exit), died);
    }
}

#[test]
fn a_node_that_has_shown_that_it_is_well_has_the_whole_budget() {
    let mut it = supervisor(true);
    started(&mut it, 0);
    it.observe(S(1), exited(1));
    started(&mut it, 11);
    it.observe(S(12), exited(1));
    started(&mut it, 22);
    it.forgive();
    for at in [30, 41] {
        assert_eq!(it.observe(S(at), exited(1)), Some(Report::Died(Exit::Code(1))));
        started(&mut it, at + 10);
    }
    assert_eq!(it.observe(S(52), exited(1)), Some(Report::GaveUp(Exit::Code(1))));
}

#[test]
fn a_long_run_takes_the_failures_before_it_off_the_count() {
    let mut it = supervisor(true);
    started(&mut it, 0);
    it.observe(S(1), exited(1));
    started(&mut it, 11);
    it.observe(S(12), exited(1));
    started(&mut it, 22);
    assert_eq!(it.observe(S(222), exited(1)), Some(Report::Died(Exit::Code(1))), "after a long run");
    started(&mut it, 232);
    assert_eq!(it.observe(S(233), exited(1)), Some(Report::Died(Exit::Code(1))), "the first one of a new count");
    started(&mut it, 243);
    assert_eq!(it.observe(S(244), exited(1)), Some(Report::Died(Exit::Code(1))));
    started(&mut it, 254);
    assert_eq!(it.observe(S(255), exited(1)), Some(Report::GaveUp(Exit::Code(1))));
}

#[test]
fn exit_0_is_the_end_and_an_unknown_exit_is_a_failure() {
    let mut it = supervisor(true);
    started(&mut it, 0);
    assert_eq!(it.observe(S(1), exited(0)), Some(Report::Finished));
    assert_eq!(it.reconcile(S(100), &running("1")), None);

    let mut it = supervisor(true);
    assert_eq!(it.observe(S(0), Seen::Adopted(key("1"))), Some(Report::Up));
    let exit = Seen::Exited { exit: Exit::Unknown, others: false, group_empty: true };
    assert_eq!(it.observe(S(1), exit), Some(Report::Died(Exit::Unknown)));
}

#[test]
fn without_restarts_the_first_failure_is_the_end() {
    let mut it = supervisor(false);
    started(&mut it, 0);
    assert_eq!(it.observe(S(500), exited(1)), Some(Report::GaveUp(Exit::Code(1))));
}

#[test]
fn a_stop_asks_the_main_process_then_the_group_then_kills() {
    let mut it = supervisor(true);
    started(&mut it, 0);
    assert_eq!(it.reconcile(S(1), &Wanted::Stopped), Some(Order::AskMain));
    assert_eq!(it.reconcile(S(1), &Wanted::Stopped), None, "asked once");
    assert_eq!(it.observe(S(2), Seen::Exited { exit: Exit::Code(0), others: false, group_empty: false }), None);
    assert_eq!(it.reconcile(S(2), &Wanted::Stopped), Some(Order::AskGroup));
    assert!(!it.is_down());
    assert_eq!(it.timeout(), Some(S(6)), "one grace for all of it");
    assert_eq!(it.reconcile(S(6), &Wanted::Stopped), Some(Order::Kill));
    assert_eq!(it.reconcile(S(7), &Wanted::Stopped), None);
    assert!(it.was_killed());
    assert_eq!(it.observe(S(7), Seen::GroupEmpty), None);
    assert!(it.is_down());
}

#[test]
fn a_node_of_another_release_is_replaced_at_once() {
    let mut it = supervisor(true);
    started(&mut it, 0);
    assert_eq!(it.reconcile(S(1), &running("2")), Some(Order::AskMain));
    assert_eq!(it.observe(S(2), exited(130)), None, "asked for, so no failure");
    assert_eq!(it.reconcile(S(2), &running("2")), Some(Order::Start(key("2"))));
}

#[test]
fn a_release_that_waits_for_its_restart_is_replaced_without_waiting() {
    let mut it = supervisor(true);
    started(&mut it, 0);
    it.observe(S(1), exited(1));
    assert_eq!(it.reconcile(S(2), &running("2")), Some(Order::Start(key("2"))));
}

#[test]
fn a_start_that_was_not_made_is_no_failure_and_a_node_that_ended_can_be_wanted_again() {
    let mut it = supervisor(true);
    for _ in 0..10 {
        assert_eq!(it.reconcile(S(0), &running("1")), Some(Order::Start(key("1"))));
        assert!(!it.is_down());
        assert_eq!(it.observe(S(0), Seen::NotYet), None);
        assert!(it.is_down());
    }
    started(&mut it, 0);
    it.observe(S(1), exited(0));
    assert_eq!(it.reconcile(S(2), &running("1")), None, "it ended for good");
    assert_eq!(it.reconcile(S(3), &Wanted::Stopped), None);
    assert_eq!(it.reconcile(S(4), &running("1")), Some(Order::Start(key("1"))), "it is wanted anew");
}

#[test]
fn what_a_dead_node_left_behind_is_gone_before_the_next_start() {
    let mut it = supervisor(true);
    assert_eq!(it.observe(S(0), Seen::Stragglers), None);
    assert_eq!(it.reconcile(S(0), &running("1")), Some(Order::AskGroup));
    assert_eq!(it.reconcile(S(5), &running("1")), Some(Order::Kill));
    assert_eq!(it.observe(S(6), Seen::GroupEmpty), None);
    assert_eq!(it.reconcile(S(6), &running("1")), Some(Order::Start(key("1"))));

    let mut it = supervisor(true);
    started(&mut it, 0);
    it.observe(S(1), Seen::Exited { exit: Exit::Signal(9), others: false, group_empty: false });
    assert_eq!(it.reconcile(S(1), &running("1")), Some(Order::AskGroup));
    assert_eq!(it.observe(S(2), Seen::GroupEmpty), None);
    assert_eq!(it.reconcile(S(2), &running("1")), None, "and the delay is kept");
    assert_eq!(it.reconcile(S(11), &running("1")), Some(Order::Start(key("1"))));
}

/// The core and the data node of a pair: one fails, the other has its grace, and both are started again together.
#[test]
fn when_one_of_two_ends_the_other_is_asked_and_has_its_grace() {
    let mut it = supervisor(true);
    started(&mut it, 0);
    let first = Seen::Exited { exit: Exit::Code(1), others: true, group_empty: false };
    assert_eq!(it.observe(S(1), first), Some(Report::Died(Exit::Code(1))));
    assert_eq!(it.reconcile(S(1), &running("1")), Some(Order::AskMain));
    assert_eq!(it.reconcile(S(1), &running("1")), None, "it is asked once");
    assert_eq!(it.timeout(), Some(S(6)), "and has its grace");
    let second = Seen::Exited { exit: Exit::Code(0), others: false, group_empty: true };
    assert_eq!(it.observe(S(4), second), None, "what was asked for is no failure");
    assert!(it.is_down());
    assert_eq!(it.reconcile(S(10), &running("1")), None);
    assert_eq!(it.reconcile(S(11), &running("1")), Some(Order::Start(key("1"))));
}

#[test]
fn the_first_of_two_that_ends_on_a_stop_takes_no_grace_from_the_other() {
    let mut it = supervisor(true);
    started(&mut it, 0);
    assert_eq!(it.reconcile(S(1), &Wanted::Stopped), Some(Order::AskMain));
    let first = Seen::Exited { exit: Exit::Code(143), others: true, group_empty: false };
    assert_eq!(it.observe(S(1), first), None);
    assert_eq!(it.reconcile(S(2), &Wanted::Stopped), None, "nothing is said to the other a second time");
    let last = Seen::Exited { exit: Exit::Code(0), others: false, group_empty: false };
    assert_eq!(it.observe(S(4), last), None);
    assert_eq!(it.reconcile(S(4), &Wanted::Stopped), Some(Order::AskGroup), "what they left behind");
}

#[test]
fn where_zero_is_no_end_it_is_a_failure() {
    let mut it = supervisor(true);
    it.follow(RestartPolicy { zero_is_done: false, ..it.policy });
    started(&mut it, 0);
    assert_eq!(it.observe(S(1), exited(0)), Some(Report::Died(Exit::Code(0))));
    started(&mut it, 11);
}

#[test]
fn a_node_that_hangs_is_asked_to_end_and_started_again() {
    let mut it = supervisor(true);
    started(&mut it, 0);
    let hung = "it answers nothing";
    assert_eq!(it.observe(S(1), Seen::Hung(hung.to_owned())), Some(Report::Died(Exit::Hung(hung.to_owned()))));
    assert_eq!(it.reconcile(S(1), &running("1")), Some(Order::AskMain));
    assert_eq!(it.observe(S(2), exited(0)), None);
    started(&mut it, 11);
}

#[test]
fn what_is_kept_trying_for_ever_pauses_longer_and_longer() {
    let mut it = supervisor(true);
    let for_ever = Wanted::Running(key("1"), Endurance::ForEver);
    let (mut now, mut pauses) = (S(0), Vec::new());
    for _ in 0..12 {
        while it.reconcile(now, &for_ever) != Some(Order::Start(key("1"))) {
            let next = it.timeout().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        it.observe(now, Seen::Started);
        it.observe(now, exited(1));
    }
    assert_eq!(pauses, [10, 10, 10, 20, 40, 80, 160, 300, 300, 300, 300]);
    // A long run gives the budget back.
    now += S(300);
    while it.reconcile(now, &for_ever) != Some(Order::Start(key("1"))) {
        now = it.timeout().unwrap();
    }
    it.observe(now, Seen::Started);
    now += S(121);
    it.observe(now, exited(1));
    it.reconcile(now, &for_ever);
    assert_eq!(it.timeout(), Some(now + S(10)));
}
