//! The update agent: events in, effects out. Decides; never acts.
//!
//! The shell's whole contract is one order, after every [`Agent::step`]:
//!
//! 1. append [`Effects::records`] to the journal and flush it; a node that is committed is forgiven what failed before;
//! 2. make the processes match [`Agent::wanted`];
//! 3. if [`Effects::cancel`], ask the action in flight to end early; carry out [`Effects::action`]; report how it ended.
//!
//! Going on after an event and going on after a crash are one function, so every test of the one tests the other.
//! At most one action is in flight. What is kept beside the journal (what is announced, what is in flight, how the new node
//! looks) may be lost at any time: it is told again.

mod backing;
mod calendar;
mod call;
mod standing;
mod wanted;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use crate::health::Observed;
use crate::journal::{Journal, JournalError, Phase, Record};
use crate::plan::{Failure, FailureKind, Step, Undo};
use crate::release::Release;
use crate::schedule::{Announcement, Trigger};
use crate::supervisor::Report;
use crate::time::Now;

use self::backing::{Backing, Stage};
use self::calendar::Calendar;
pub use self::standing::Standing;
pub use self::words::{Action, Effects, Ending, Event, Outcome, Policy, Rollback, Timeouts};

/// Decides; never acts.
#[derive(Clone, Debug)]
pub struct Agent {
    journal: Journal,
    policy: Policy,
    announced: Vec<Announcement>,
    /// Until something was announced, nobody has withdrawn anything.
    heard: bool,
    /// What is announced and was not placed yet; and what has been placed since, and not been tried.
    missing: BTreeMap<Release, String>,
    appeared: BTreeSet<Release>,
    in_flight: Option<Action>,
    cancelling: bool,
    seen: Observed,
    undo_after: Option<Duration>,
    ending: Option<Ending>,
    /// The node ended by itself, while an upgrade that is due is being prepared: the run ends if nothing comes of that.
    postponed: Option<Ending>,
    /// When it was last asked.
    now: Now,
    calendar: Calendar,
    /// Since when (monotonic) the node waits for its successor.
    ready_since: Option<Duration>,
    /// For which plan the data was copied ahead last, well or not, and when (monotonic).
    precopied: Option<(u64, Duration)>,
    /// A backup that an operator wants now.
    backing: Option<Backing>,
}

impl Agent {
    /// Goes on from whatever `records` say was under way.
    pub fn recover(records: &[Record], policy: Policy, now: Now) -> Result<(Self, Effects), JournalError> {
        let mut agent = Self {
            journal: Journal::replay(records)?,
            policy,
            announced: Vec::new(),
            heard: false,
            missing: BTreeMap::new(),
            appeared: BTreeSet::new(),
            in_flight: None,
            cancelling: false,
            seen: Observed::default(),
            undo_after: None,
            ending: None,
            postponed: None,
            now,
            calendar: Calendar::new(now),
            ready_since: None,
            precopied: None,
            backing: None,
        };
        let mut effects = Effects::default();
        agent.go_on(now, &mut effects);
        Ok((agent, effects))
    }

    /// How upgrades are done from now on.
    pub fn follow(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Answers an event.
    pub fn step(&mut self, now: Now, event: Event) -> Effects {
        let mut effects = Effects::default();
        self.now = now;
        self.calendar.look(now);
        self.take_in(now, event, &mut effects.records);
        self.go_on(now, &mut effects);
        effects
    }

    fn take_in(&mut self, now: Now, event: Event, records: &mut Vec<Record>) {
        match event {
            Event::Announced(announced) => {
                self.announced.clear();
                for one in announced {
                    // The same release said twice is one announcement, the first: two would supersede each other for ever.
                    if self.announced.iter().all(|other| other.release != one.release) {
                        self.announced.push(one);
                    }
                }
                self.heard = true;
            }
            Event::Missing(missing) => {
                let found = self.missing.keys().filter(|release| !missing.contains_key(*release));
                self.appeared.extend(found.cloned());
                self.missing = missing;
            }
            Event::Done(outcome) => {
                if let Some(action) = self.landed() {
                    self.done(now, action, outcome, records);
                }
            }
            Event::Failed(failure) => {
                if let Some(action) = self.landed() {
                    self.failed(now, action, failure, records);
                }
            }
            Event::Cancelled => {
                self.landed();
            }
            Event::GivenUp(failure) => self.give_up(now, failure, records),
            Event::Node(report) => self.node(now, report, records),
            Event::NodeAnswered => self.seen.answered(),
            Event::NodeReady => self.seen.ready(),
            Event::NodeDown => match self.journal.phase() {
                _ if !self.awaits_down() => {}
                _ if self.backing.is_some() => {
                    self.backing = self.backing.map(|backing| Backing { stage: Stage::Taking, ..backing });
                }
                Phase::Switching { plan, .. } if plan.snapshot => self.write(records, Record::Started(Step::Snapshot)),
                Phase::Switching { .. } => self.write(records, Record::Started(Step::Activate)),
                _ => self.write(records, Record::Undone(Undo::Stop)),
            },
            Event::Timeout => {}
            Event::StopRequested => self.ending = Some(Ending::Stopped),
            Event::Hold => {
                if !self.journal.held() {
                    self.write(records, Record::Held);
                }
            }
            Event::Resume => {
                self.undo_after = None;
                if self.journal.held() || matches!(self.journal.phase(), Phase::NeedsHuman { .. }) {
                    self.write(records, Record::Resumed);
                }
            }
            Event::BackUp => {
                if self.cannot_back_up().is_none() {
                    self.backing = Some(Backing { at: now.wall, stage: Stage::Ahead });
                }
            }
            Event::RollBack { restore } => {
                if self.ending.is_none() && self.journal.may_roll_back().is_some() {
                    self.write(records, Record::RollbackOrdered { restore, at: now.wall });
                }
            }
            Event::Approve(release) => self.write(records, Record::Approved(release)),
            Event::Replaced(installed) => {
                if self.may_be_replaced(&installed.folder) {
                    self.write(records, Record::Replaced { installed, at: now.wall });
                }
            }
        }
    }

    /// Whether a person may put another executable into this folder, of what is to run. What is being switched to, or probed,
    /// was proven for that; but what is held is to be mended.
    pub fn may_be_replaced(&self, folder: &Path) -> bool {
        match self.journal.phase() {
            _ if self.journal.runs().is_none_or(|runs| runs.folder != folder) => false,
            Phase::Idle | Phase::Preparing { .. } | Phase::Staged { .. } => true,
            Phase::Probing { .. } => self.policy.rollback == Rollback::Hold,
            _ => false,
        }
    }

    fn landed(&mut self) -> Option<Action> {
        self.cancelling = false;
        self.in_flight.take()
    }

    /// What was done counts, even if it was to be cancelled meanwhile: the journal says whether it still matters.
    fn done(&mut self, now: Now, action: Action, outcome: Outcome, records: &mut Vec<Record>) {
        if let Outcome::Sampled(sightings) = outcome {
            return self.seen.sampled(now.monotonic, sightings);
        }
        let Some(plan) = action.plan() else {
            self.backing = self.backing.filter(|it| it.stage == Stage::Ahead);
            self.backing = self.backing.map(|backing| Backing { stage: Stage::Stopping, ..backing });
            return;
        };
        if self.phase_number() != Some(plan.number) {
            return;
        }
        if matches!(action, Action::Precopy(_)) {
            self.precopied = Some((plan.number, now.monotonic));
            return;
        }
        let record = match (self.journal.phase(), action, outcome) {
            (Phase::Preparing { step: Step::Fetch, .. }, Action::Fetch(_), _) => Record::Started(Step::Preflight),
            (Phase::Preparing { step: Step::Preflight, .. }, Action::Preflight(_), Outcome::Proven(staged)) => {
                Record::Staged(staged)
            }
            // The trigger may have been moved, or a hold come, while the last look was taken.
            (Phase::Staged { plan, .. }, Action::Arm(..), _) if self.may_switch(now, plan) => {
                Record::Started(Step::Stop)
            }
            (Phase::Switching { step: Step::Snapshot, .. }, Action::Snapshot(_), _) => Record::Started(Step::Activate),
            (Phase::Switching { plan, step: Step::Activate, .. }, Action::Activate(..), _) => {
                self.seen = Observed::default();
                if self.policy.end_after_switch || plan.to.trigger == (Trigger::OnCommand { ends: true }) {
                    self.ending.get_or_insert(Ending::Switched);
                }
                Record::Started(Step::Probe)
            }
            (Phase::Undoing { owed, .. }, Action::Restore(_), _) if owed.first() == Some(&Undo::Restore) => {
                Record::Undone(Undo::Restore)
            }
            (Phase::Undoing { owed, .. }, Action::Reactivate(_), _) if owed.first() == Some(&Undo::Reactivate) => {
                Record::Undone(Undo::Reactivate)
            }
            _ => return,
        };
        self.write(records, record);
    }

    fn failed(&mut self, now: Now, action: Action, failure: Failure, records: &mut Vec<Record>) {
        if let Action::Sample(_) = action {
            return self.seen.not_sampled(now.monotonic, failure.reason);
        }
        let Some(plan) = action.plan() else {
            self.backing = None;
            return;
        };
        if self.phase_number() != Some(plan.number) {
            return;
        }
        if matches!(action, Action::Precopy(_)) {
            // The last look before the switch tells whether that matters.
            self.precopied = Some((plan.number, now.monotonic));
            return;
        }
        let step = match (self.journal.phase(), &action) {
            // To stay down for want of a copy is worse than to go on without: its network goes on without it.
            (Phase::Switching { plan, .. }, Action::Snapshot(_)) if plan.to.trigger.height().is_some() => {
                return self.write(records, Record::Started(Step::Activate));
            }
            (Phase::Preparing { .. }, Action::Fetch(_)) => Step::Fetch,
            (Phase::Preparing { .. }, Action::Preflight(_)) => Step::Preflight,
            (Phase::Staged { .. }, Action::Arm(..)) => Step::Arm,
            (Phase::Switching { .. }, Action::Snapshot(_)) => Step::Snapshot,
            (Phase::Switching { .. }, Action::Activate(..)) => Step::Activate,
            (Phase::Undoing { failures, .. }, Action::Restore(_) | Action::Reactivate(_)) => {
                self.undo_after = Some(now.monotonic + self.policy.retry * 2_u32.saturating_pow((*failures).min(10)));
                self.write(records, Record::UndoFailed { reason: failure.reason });
                return;
            }
            _ => return,
        };
        let Failure { kind, reason } = failure;
        self.appeared.remove(&plan.to.release);
        // From the stop on, each try costs an outage: such a failure is never tried again and again.
        let kind = if step > Step::Arm { FailureKind::Permanent } else { kind };
        self.write(records, Record::Failed { step, kind, reason, at: now.wall });
    }

    /// Whatever was being done for the switch is over.
    fn give_up(&mut self, now: Now, failure: Failure, records: &mut Vec<Record>) {
        let Phase::Switching { plan, step, .. } = self.journal.phase() else { return };
        let (release, step) = (plan.to.release.clone(), *step);
        self.landed();
        self.appeared.remove(&release);
        let Failure { reason, .. } = failure;
        // As of every failure from the stop on: each try costs an outage.
        self.write(records, Record::Failed { step, kind: FailureKind::Permanent, reason, at: now.wall });
    }

    fn node(&mut self, now: Now, report: Report, records: &mut Vec<Record>) {
        let probed = match self.journal.phase() {
            Phase::Probing { deaths, .. } if self.ending.is_none() => Some(*deaths),
            _ => None,
        };
        match (report, probed) {
            (Report::Up, Some(_)) => self.seen.up(now.monotonic),
            (Report::Up, None) => {}
            (Report::Died(exit), Some(deaths)) => {
                self.seen.died();
                self.write(records, Record::Died { reason: exit.to_string() });
                if deaths + 1 >= self.policy.probe.deaths && self.policy.rollback == Rollback::Auto {
                    let reason = format!("it died {} times while it was probed, the last time with {exit}", deaths + 1);
                    self.sick(now, reason, records);
                }
            }
            (Report::GaveUp(exit), Some(_)) if self.policy.rollback == Rollback::Hold => {
                self.seen.died();
                self.write(records, Record::Died { reason: exit.to_string() });
            }
            (Report::GaveUp(exit), Some(_)) => {
                self.sick(now, format!("it ended with {exit} while it was probed"), records)
            }
            (Report::Finished, Some(_)) => {
                self.sick(
                    now,
                    "it ended by itself, with exit code 0, before it had shown that it is well".to_owned(),
                    records,
                );
            }
            (Report::Died(_), None) => {}
            // Whether that is the end of the run depends on what is under way.
            (Report::Finished, None) => self.postponed = Some(Ending::Finished),
            (Report::GaveUp(exit), None) => self.postponed = Some(Ending::GaveUp(exit)),
        }
    }

    /// A node that ended by itself ends the run, unless an upgrade that is due is under way: then its successor runs. A node
    /// that failed does not wait for a download, which may take hours: whoever starts us again starts it again meanwhile.
    fn end_unless_due(&mut self, now: Now) {
        match self.journal.phase() {
            Phase::Preparing { plan, step: Step::Fetch }
                if matches!(self.postponed, Some(Ending::GaveUp(_))) && !plan.to.trigger.is_ready() =>
            {
                self.ending = self.ending.take().or_else(|| self.postponed.take());
            }
            Phase::Preparing { plan, .. } | Phase::Staged { plan, .. } if self.may_switch(now, plan) => {}
            Phase::Switching { .. } | Phase::Probing { .. } => self.postponed = None,
            Phase::Undoing { .. } => {}
            _ => self.ending = self.ending.take().or_else(|| self.postponed.take()),
        }
    }

    fn sick(&mut self, now: Now, reason: String, records: &mut Vec<Record>) {
        let kind = FailureKind::Permanent;
        self.write(records, Record::Failed { step: Step::Probe, kind, reason, at: now.wall });
    }

    /// What has happened.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What is announced, in the order of the queue.
    pub fn announced(&self) -> &[Announcement] {
        &self.announced
    }

    /// What is announced and was not placed yet, and why that is needed.
    pub fn missing(&self) -> &BTreeMap<Release, String> {
        &self.missing
    }

    /// Whether an action is being carried out.
    pub fn in_flight(&self) -> Option<&Action> {
        self.in_flight.as_ref()
    }

    /// How the run ends, once no process of the node is left and nothing is in flight.
    pub fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// The number of the upgrade that is under way.
    pub fn phase_number(&self) -> Option<u64> {
        match self.journal.phase() {
            Phase::Idle | Phase::Restoring { .. } => None,
            Phase::Preparing { plan, .. }
            | Phase::Staged { plan, .. }
            | Phase::Switching { plan, .. }
            | Phase::Probing { plan, .. }
            | Phase::Undoing { plan, .. }
            | Phase::NeedsHuman { plan, .. } => Some(plan.number),
        }
    }

    fn write(&mut self, records: &mut Vec<Record>, record: Record) {
        match self.journal.append(&record) {
            Ok(()) => records.push(record),
            // Not written, so not done: the journal stays what it is, and the next event finds the same state. The
            // enumeration of every fault and crash shows that it does not happen.
            Err(error) => debug_assert!(false, "the agent writes only what its journal allows: {error}"),
        }
    }
}
