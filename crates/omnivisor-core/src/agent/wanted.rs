//! What is to be true now, and when to look again: functions of the journal and the time.

use std::time::Duration;

use super::backing::Stage;
use super::{Agent, Rollback, Standing, Timeouts};
use crate::health::Verdict;
use crate::journal::Phase;
use crate::plan::{Step, Undo};
use crate::supervisor::{Endurance, LaunchKey, Wanted};

impl Agent {
    /// What is to be true of the node.
    pub fn wanted(&self) -> Wanted {
        match self.journal.runs() {
            Some(installed) if self.ending.is_none() && !self.is_down_for_backup() => {
                let held =
                    matches!(self.journal.phase(), Phase::Probing { .. }) && self.policy.rollback == Rollback::Hold;
                let endurance = if held { Endurance::ForEver } else { Endurance::AsConfigured };
                Wanted::Running(LaunchKey { installed: installed.clone(), generation: 0 }, endurance)
            }
            _ => Wanted::Stopped,
        }
    }

    /// What may run in the middle of a switch that cannot be gone on with, before that is recorded: the old release. The new
    /// one was never started, so nothing is owed but the link.
    pub fn instead(&self) -> Option<Wanted> {
        let installed = self.journal.active().filter(|_| self.ending.is_none())?.clone();
        let is_switching = matches!(self.journal.phase(), Phase::Switching { .. });
        is_switching.then_some(Wanted::Running(LaunchKey { installed, generation: 0 }, Endurance::AsConfigured))
    }

    /// Whether a node that is found alive now says that the switch was given up, and that nobody could record it: past its
    /// stop none is there.
    pub fn expects_no_node(&self) -> bool {
        matches!(self.journal.phase(), Phase::Switching { step, .. } if *step != Step::Stop)
    }

    /// Whether the next thing to happen is that the node's last process is gone: [`Event::NodeDown`].
    pub fn awaits_down(&self) -> bool {
        match self.journal.phase() {
            _ if self.ending.is_some() => false,
            _ if self.backing.is_some() => self.backing.is_some_and(|it| it.stage == Stage::Stopping),
            Phase::Switching { step, .. } => *step == Step::Stop,
            Phase::Undoing { owed, .. } => owed.first() == Some(&Undo::Stop),
            _ => false,
        }
    }

    /// When to call back, at the latest. Seen from the last call, whenever this is asked: what has become due since then
    /// is still to be waited for, for no time at all.
    pub fn timeouts(&self) -> Timeouts {
        let now = self.now;
        if self.ending.is_some() {
            return Timeouts::default();
        }
        let monotonic = match self.journal.phase() {
            Phase::Probing { .. } => match self.seen.verdict(&self.policy.probe, now.monotonic) {
                Verdict::Pending(at) => at,
                Verdict::Sick(_) => self.seen.next_sample(&self.policy.probe),
                _ => None,
            },
            Phase::Undoing { .. } => self.undo_after.filter(|after| now.monotonic < *after),
            Phase::Staged { plan, .. } => {
                let after_delay = self.ready_since.map(|since| since + self.policy.stop_delay);
                let after_delay = after_delay.filter(|at| *at > now.monotonic);
                let copy = self.copies_ahead_at(plan).0;
                [self.doubts_the_clock().map(|(until, _)| until), after_delay, copy].into_iter().flatten().min()
            }
            _ => None,
        };
        let due = match self.journal.phase() {
            Phase::Staged { plan, .. } if !self.journal.held() && !self.is_parked(&plan.to) => plan.to.trigger.due(),
            _ => None,
        };
        let retries = self.announced.iter().filter_map(|announced| match self.standing(now, announced) {
            Standing::RetryAt(at, _) => Some(at),
            _ => None,
        });
        let copy = match self.journal.phase() {
            Phase::Staged { plan, .. } => self.copies_ahead_at(plan).1,
            _ => None,
        };
        let wall = retries.chain(due).chain(copy).filter(|at| *at > now.wall).min();
        Timeouts { monotonic, wall }
    }

    /// What a new release that is being probed has not shown yet; none if there is no such release, or only its time is missing.
    pub fn lacks(&self) -> Option<String> {
        let is_probing = matches!(self.journal.phase(), Phase::Probing { .. });
        if is_probing { self.seen.lacks(&self.policy.probe) } else { None }
    }

    /// If the calendar clock has jumped ahead: until when (monotonic) what became due by that waits, and how far it jumped.
    pub fn doubts_the_clock(&self) -> Option<(Duration, Duration)> {
        self.calendar.doubted(self.now)
    }
}
