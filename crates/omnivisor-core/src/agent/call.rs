//! What the journal calls for now: a record, an action, or nothing.

use std::time::Duration;

use super::{Action, Agent, Effects, Rollback, Standing};
use crate::health::Verdict;
use crate::journal::{CancelReason, Phase, Record};
use crate::plan::{FailureKind, Step, Undo, UpgradePlan};
use crate::schedule::{Announcement, Trigger};
use crate::time::{Now, Timestamp};

/// What was copied ahead is brought up to date so often while the switch is waited for: what has changed in half an hour is
/// copied in a moment.
const REFRESH: Duration = Duration::from_secs(1800);

enum Call {
    Write(Record),
    Act(Action),
    Wait,
}

impl Agent {
    /// Does what the journal calls for. The same after an event and after a crash.
    pub(super) fn go_on(&mut self, now: Now, effects: &mut Effects) {
        loop {
            self.end_unless_due(now);
            self.note_ready(now);
            self.drop_backup_if_in_the_way(now);
            let action = match self.call(now) {
                Call::Write(record) => {
                    self.write(&mut effects.records, record);
                    continue;
                }
                Call::Act(action) => Some(action),
                Call::Wait => None,
            };
            match (&self.in_flight, action) {
                (None, Some(action)) => {
                    self.in_flight = Some(action.clone());
                    effects.action = Some(action);
                }
                (Some(running), Some(action)) if running.is_same(&action) => {}
                (Some(_), _) if !self.cancelling => {
                    self.cancelling = true;
                    effects.cancel = true;
                }
                _ => {}
            }
            return;
        }
    }

    /// Since when the node waits for what is under way.
    fn note_ready(&mut self, now: Now) {
        let ready = match self.journal.phase() {
            Phase::Preparing { plan, .. } | Phase::Staged { plan, .. } => plan.to.trigger.is_ready(),
            _ => false,
        };
        self.ready_since = if ready { self.ready_since.or(Some(now.monotonic)) } else { None };
    }

    fn call(&self, now: Now) -> Call {
        if self.ending.is_some() {
            return Call::Wait;
        }
        if let (Some(backing), Some(active)) = (self.backing, self.journal.active()) {
            // What becomes of an upgrade meanwhile may be that it cannot wait.
            let changed = match self.journal.phase() {
                Phase::Preparing { plan, .. } | Phase::Staged { plan, .. } => self.review(now, plan),
                _ => None,
            };
            return changed.map_or_else(|| backing.action(active).map_or(Call::Wait, Call::Act), Call::Write);
        }
        match self.journal.phase() {
            Phase::Idle => self.plan(now).map_or(Call::Wait, |plan| Call::Write(Record::Planned(plan))),
            Phase::Preparing { plan, step } => match self.review(now, plan) {
                Some(record) => Call::Write(record),
                None if *step == Step::Fetch => Call::Act(Action::Fetch(plan.clone())),
                None => Call::Act(Action::Preflight(plan.clone())),
            },
            Phase::Staged { plan, staged } => match self.review(now, plan) {
                Some(record) => Call::Write(record),
                // What was copied of a pass is worth its end, unless the node waits.
                None if self.is_copying_ahead() && !plan.to.trigger.is_ready() => {
                    Call::Act(Action::Precopy(plan.clone()))
                }
                None if self.may_switch(now, plan) => Call::Act(Action::Arm(plan.clone(), staged.clone())),
                None if self.copies_ahead(now, plan) => Call::Act(Action::Precopy(plan.clone())),
                None => Call::Wait,
            },
            Phase::Switching { plan, staged, step } => match step {
                Step::Snapshot => Call::Act(Action::Snapshot(plan.clone())),
                Step::Activate => Call::Act(Action::Activate(plan.clone(), staged.clone())),
                _ => Call::Wait, // for NodeDown
            },
            Phase::Probing { plan, .. } => match self.seen.verdict(&self.policy.probe, now.monotonic) {
                Verdict::Pending(_) => Call::Wait,
                Verdict::Sample => Call::Act(Action::Sample(plan.clone())),
                Verdict::Healthy => Call::Write(Record::Committed { at: now.wall }),
                // It may be well yet: it goes on being looked at.
                Verdict::Sick(_) if self.policy.rollback == Rollback::Hold => {
                    match self.seen.next_sample(&self.policy.probe) {
                        Some(next) if now.monotonic < next => Call::Wait,
                        _ => Call::Act(Action::Sample(plan.clone())),
                    }
                }
                Verdict::Sick(reason) => Call::Write(Record::Failed {
                    step: Step::Probe,
                    kind: FailureKind::Permanent,
                    reason,
                    at: now.wall,
                }),
            },
            Phase::Undoing { plan, owed, .. } => match owed.first() {
                None => Call::Write(Record::RolledBack),
                Some(Undo::Stop) => Call::Wait, // for NodeDown
                Some(_) if self.undo_after.is_some_and(|after| now.monotonic < after) => Call::Wait,
                Some(Undo::Restore) => Call::Act(Action::Restore(plan.clone())),
                Some(Undo::Reactivate) => Call::Act(Action::Reactivate(plan.clone())),
            },
            // Data that is half put back is no agent's business: it is done before anything else is.
            Phase::NeedsHuman { .. } | Phase::Restoring { .. } => Call::Wait,
        }
    }

    /// The upgrade to begin, if there is one.
    pub(super) fn plan(&self, now: Now) -> Option<UpgradePlan> {
        let to = self.next(now)?.clone();
        let from = self.journal.active()?.clone();
        let number = self.journal.plans() + 1;
        let snapshot = self.policy.snapshot && !to.without_snapshot;
        Some(UpgradePlan { number, begun: now.wall, from, to, snapshot })
    }

    fn is_copying_ahead(&self) -> bool {
        matches!(self.in_flight, Some(Action::Precopy(_))) && !self.cancelling
    }

    /// Whether the data is to be copied ahead now: some time before the switch, and once more if that was long ago.
    fn copies_ahead(&self, now: Now, plan: &UpgradePlan) -> bool {
        let is_recent =
            self.precopied.is_some_and(|(number, at)| number == plan.number && now.monotonic < at + REFRESH);
        let comes = match plan.to.trigger {
            Trigger::At(due) => self.calendar.has_come(now, due.minus(self.policy.lead)) && !self.is_parked(&plan.to),
            Trigger::AtHeight { ready, .. } => !ready,
            Trigger::OnCommand { .. } => false,
        };
        plan.snapshot && !self.policy.lead.is_zero() && comes && !is_recent && !self.journal.held()
    }

    /// When to copy ahead (once more): by the clock that never jumps, and by the calendar.
    pub(super) fn copies_ahead_at(&self, plan: &UpgradePlan) -> (Option<Duration>, Option<Timestamp>) {
        if !plan.snapshot || self.policy.lead.is_zero() || self.journal.held() || self.is_parked(&plan.to) {
            return (None, None);
        }
        let again = self.precopied.filter(|(number, _)| *number == plan.number).map(|(_, at)| at + REFRESH);
        (again.filter(|at| *at > self.now.monotonic), plan.to.trigger.due().map(|due| due.minus(self.policy.lead)))
    }

    /// What became of `plan` meanwhile, if that changes anything.
    fn review(&self, now: Now, plan: &UpgradePlan) -> Option<Record> {
        if !self.heard {
            return None;
        }
        let Some(announced) = self.announced.iter().find(|other| other.release == plan.to.release) else {
            let again = self.announced.iter().any(|other| other.release.name == plan.to.release.name);
            let why = if again { CancelReason::Superseded } else { CancelReason::Withdrawn };
            return Some(Record::Cancelled(why));
        };
        let same = Announcement { trigger: plan.to.trigger, ..announced.clone() } == plan.to;
        if !same {
            return Some(Record::Cancelled(CancelReason::Superseded));
        }
        // What runs may have become another release since: then this one may be none to go to any more.
        if let Standing::Installed | Standing::Denied(_) | Standing::NotNewer(_) = self.standing(now, announced) {
            return Some(Record::Cancelled(CancelReason::Superseded));
        }
        if announced.trigger != plan.to.trigger {
            return Some(Record::Rescheduled(announced.trigger));
        }
        match self.next(now) {
            Some(next) if next.release == plan.to.release => None,
            Some(next) if self.urgency(next) < self.urgency(&plan.to) => {
                Some(Record::Cancelled(CancelReason::Preempted))
            }
            _ => None,
        }
    }
}
