//! What has happened, and therefore where we are.
//!
//! All state of an instance is [`Journal::replay`] of its records; there is no other. [`Journal::append`] is the one table
//! of transitions: a record that it does not list is an error, never a guess. Bytes on disk are
//! [`formats`](crate::formats)' business.

mod phase;
mod record;

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::{FailureKind, Step, Undo, UpgradePlan};
use crate::release::{Installed, Release};
use crate::schedule::Announcement;
use crate::time::Timestamp;

pub use self::phase::Phase;
pub use self::record::{Adoption, Beginning, CancelReason, Record, Summary, Switched};

/// How often an undo is tried before a person is called.
pub const UNDO_ATTEMPTS: u32 = 3;

/// A record that cannot follow the ones before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record {record:?} cannot follow the phase {phase:?}")]
pub struct JournalError {
    /// Where the journal stood.
    pub phase: Box<Phase>,
    /// What was to follow.
    pub record: Box<Record>,
}

/// How the attempts at one release went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// What was attempted. One that is to be prepared in another way has not been attempted yet.
    pub of: Announcement,
    /// Failures in a row that may be gone later.
    pub transient: u32,
    /// Failures of the release itself.
    pub permanent: u32,
    /// When the last one was.
    pub last: Timestamp,
    /// What the last one was.
    pub reason: String,
}

/// What an instance is, derived from its records and from nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    active: Option<Installed>,
    adopted: Option<(Timestamp, Adoption)>,
    phase: Phase,
    plans: u64,
    held: bool,
    committed: BTreeSet<Release>,
    denied: BTreeMap<Release, String>,
    attempts: BTreeMap<Release, Attempts>,
    approved: BTreeSet<Release>,
    last_commit: Option<Timestamp>,
    /// Whether a person has replaced what was committed then.
    replaced: bool,
    /// The upgrade that the active release came by.
    last: Option<Switched>,
}

impl Journal {
    /// What `records` amount to.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<Self, JournalError> {
        let mut journal = Self::default();
        for record in records {
            journal.append(record)?;
        }
        Ok(journal)
    }

    /// The whole table of transitions. On an error nothing has changed.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        use Phase::{Idle, NeedsHuman, Preparing, Probing, Restoring, Staged, Switching, Undoing};
        let next = match (&self.phase, record) {
            (Idle, Record::Adopted { installed, at, adoption }) if self.active.is_none() => {
                self.committed.insert(installed.release.clone());
                self.active = Some(installed.clone());
                self.adopted = Some((*at, *adoption));
                Idle
            }
            (Idle, Record::Summed(summary)) if self.active.is_none() => {
                let Summary { active, adopted_at, adoption, plans, held, last_commit, replaced, last, .. } = &**summary;
                *self = Self {
                    active: Some(active.clone()),
                    adopted: Some((*adopted_at, *adoption)),
                    phase: Idle,
                    plans: *plans,
                    held: *held,
                    last_commit: *last_commit,
                    replaced: *replaced,
                    last: last.clone(),
                    committed: summary.committed.clone(),
                    denied: summary.denied.clone(),
                    attempts: summary.attempts.clone(),
                    approved: summary.approved.clone(),
                };
                Idle
            }
            (_, _) if self.active.is_none() => return Err(self.refuse(record)),
            (phase, Record::Began { .. }) => phase.clone(),

            (phase, Record::TakenOver { installed, at }) => {
                // Whoever has installed it knows nothing of data that is half put back.
                let next = if matches!(phase, Restoring { .. }) { phase.clone() } else { Idle };
                self.committed.insert(installed.release.clone());
                self.active = Some(installed.clone());
                self.adopted = Some((*at, Adoption::Found));
                self.last_commit = None;
                self.last = None;
                self.approved.clear();
                next
            }
            (Idle | Preparing { .. } | Staged { .. }, Record::Replaced { installed, .. })
                if self.active.as_ref().is_some_and(|active| active.folder == installed.folder) =>
            {
                let phase = self.phase.clone();
                self.committed.insert(installed.release.clone());
                self.active = Some(installed.clone());
                self.replaced = true;
                phase
            }
            (Probing { plan, staged, deaths }, Record::Replaced { installed, .. })
                if staged.folder == installed.folder =>
            {
                Probing { plan: plan.clone(), staged: installed.clone(), deaths: *deaths }
            }
            (Idle, Record::Planned(plan)) if self.active.as_ref() == Some(&plan.from) && plan.number > self.plans => {
                self.plans = plan.number;
                Preparing { plan: plan.clone(), step: Step::Fetch }
            }
            (Preparing { plan, step: Step::Fetch }, Record::Started(Step::Preflight)) => {
                Preparing { plan: plan.clone(), step: Step::Preflight }
            }
            (Preparing { plan, step: Step::Preflight }, Record::Staged(staged)) => {
                Staged { plan: plan.clone(), staged: staged.clone() }
            }
            (Staged { plan, staged }, Record::Started(Step::Stop)) => {
                Switching { plan: plan.clone(), staged: staged.clone(), step: Step::Stop }
            }
            (Switching { plan, staged, step }, Record::Started(next)) if Self::follows(plan, *step) == *next => {
                let (plan, staged) = (plan.clone(), staged.clone());
                if *next == Step::Probe {
                    Probing { plan, staged, deaths: 0 }
                } else {
                    Switching { plan, staged, step: *next }
                }
            }
            (Probing { plan, staged, deaths }, Record::Died { .. }) => {
                Probing { plan: plan.clone(), staged: staged.clone(), deaths: deaths + 1 }
            }
            (Probing { plan, staged, .. }, Record::Committed { at }) => {
                let before = self.active_since();
                self.last = Some(Switched { plan: plan.clone(), staged: staged.clone(), before });
                self.last_commit = Some(*at);
                self.replaced = false;
                self.approved.clear(); // what was asked for was asked of the release before
                self.attempts.remove(&plan.to.release);
                self.committed.insert(plan.to.release.clone());
                self.active = Some(staged.clone());
                Idle
            }

            (Preparing { .. } | Staged { .. }, Record::Rescheduled(trigger)) => {
                let mut phase = self.phase.clone();
                if let Preparing { plan, .. } | Staged { plan, .. } = &mut phase {
                    plan.to.trigger = *trigger;
                }
                phase
            }
            (Preparing { .. } | Staged { .. }, Record::Cancelled(_)) => Idle,
            (
                Preparing { plan, .. } | Staged { plan, .. },
                Record::Failed { step: Step::Fetch | Step::Preflight | Step::Arm, kind, reason, at },
            ) => {
                let of = plan.to.clone();
                self.count(of, *kind, reason, *at);
                Idle
            }

            (Switching { plan, step: current, .. }, Record::Failed { step, kind, reason, at }) if step == current => {
                Self::undoing(plan, *step, *kind, reason, *at)
            }
            (Probing { plan, .. }, Record::Failed { step: Step::Probe, kind, reason, at }) => {
                Self::undoing(plan, Step::Probe, *kind, reason, *at)
            }
            (Undoing { owed, .. }, Record::Undone(undo)) if owed.first() == Some(undo) => {
                let mut phase = self.phase.clone();
                if let Undoing { owed, failures, .. } = &mut phase {
                    owed.remove(0);
                    *failures = 0;
                }
                phase
            }
            (Undoing { plan, owed, failures, step, reason, kind, at }, Record::UndoFailed { reason: again })
                if !owed.is_empty() =>
            {
                let (plan, owed) = (plan.clone(), owed.clone());
                let (step, kind, at) = (*step, *kind, *at);
                if failures + 1 < UNDO_ATTEMPTS {
                    Undoing { plan, owed, failures: failures + 1, step, reason: reason.clone(), kind, at }
                } else {
                    NeedsHuman { plan, owed, step, reason: format!("{again} (undoing: {reason})"), kind, at }
                }
            }
            (Undoing { plan, owed, step, reason, kind, at, .. }, Record::RolledBack) if owed.is_empty() => {
                let release = plan.to.release.clone();
                let (step, reason, kind, at) = (*step, reason.clone(), *kind, *at);
                self.approved.remove(&release);
                if step == Step::Probe {
                    self.attempts.remove(&release);
                    self.denied.insert(release, reason);
                } else {
                    self.count(plan.to.clone(), kind, &reason, at);
                }
                Idle
            }
            (NeedsHuman { plan, owed, step, reason, kind, at }, Record::Resumed) => {
                let phase = Undoing {
                    plan: plan.clone(),
                    owed: owed.clone(),
                    failures: 0,
                    step: *step,
                    reason: reason.clone(),
                    kind: *kind,
                    at: *at,
                };
                self.held = false;
                phase
            }

            (_, Record::RollbackOrdered { restore, at }) => {
                let Some(plan) = self.may_roll_back().cloned() else { return Err(self.refuse(record)) };
                if let Some(last) = self.last.take_if(|_| !matches!(self.phase, Probing { .. })) {
                    // As if it had never been committed: it is no floor for what comes, either.
                    self.committed.remove(&plan.to.release);
                    self.active = Some(plan.from.clone());
                    self.last_commit = last.before;
                    self.approved.clear();
                    self.replaced = false;
                }
                let mut owed = Undo::owed(Step::Probe, &plan);
                owed.retain(|undo| *restore || *undo != Undo::Restore);
                let (reason, kind) = ("an operator has taken it back".to_owned(), FailureKind::Permanent);
                Undoing { plan, owed, failures: 0, step: Step::Probe, reason, kind, at: *at }
            }
            (
                Idle | Preparing { .. } | Staged { .. } | Restoring { .. },
                Record::RestoreOrdered { backup, work, .. },
            ) => Restoring { backup: backup.clone(), work: work.clone() },
            (Restoring { .. }, Record::Restored { .. }) => Idle,

            (phase, Record::Held) => {
                let phase = phase.clone();
                self.held = true;
                phase
            }
            (phase, Record::Resumed) => {
                let phase = phase.clone();
                self.held = false;
                phase
            }
            (phase, Record::Approved(release)) => {
                let phase = phase.clone();
                self.denied.remove(release);
                self.attempts.remove(release);
                self.approved.insert(release.clone());
                phase
            }
            _ => return Err(self.refuse(record)),
        };
        self.phase = next;
        Ok(())
    }

    /// The step after `step` between the stop and the probe.
    fn follows(plan: &UpgradePlan, step: Step) -> Step {
        match step {
            Step::Stop if plan.snapshot => Step::Snapshot,
            Step::Stop | Step::Snapshot => Step::Activate,
            _ => Step::Probe,
        }
    }

    fn undoing(plan: &UpgradePlan, step: Step, kind: FailureKind, reason: &str, at: Timestamp) -> Phase {
        let owed = Undo::owed(step, plan);
        Phase::Undoing { plan: plan.clone(), owed, failures: 0, step, reason: reason.to_owned(), kind, at }
    }

    fn count(&mut self, of: Announcement, kind: FailureKind, reason: &str, at: Timestamp) {
        let release = of.release.clone();
        self.attempts.retain(|_, attempts| attempts.of.release != release || attempts.of.is_prepared_like(&of));
        let none = Attempts { of, transient: 0, permanent: 0, last: at, reason: String::new() };
        let attempts = self.attempts.entry(release).or_insert(none);
        match kind {
            FailureKind::Transient => attempts.transient = attempts.transient.saturating_add(1),
            FailureKind::Permanent => attempts.permanent = attempts.permanent.saturating_add(1),
        }
        attempts.last = at;
        reason.clone_into(&mut attempts.reason);
    }

    fn refuse(&self, record: &Record) -> JournalError {
        JournalError { phase: Box::new(self.phase.clone()), record: Box::new(record.clone()) }
    }

    /// One record that stands for all of them; none while an upgrade is under way.
    pub fn summary(&self) -> Option<Record> {
        let (adopted_at, adoption) = self.adopted?;
        if self.phase != Phase::Idle {
            return None;
        }
        Some(Record::Summed(Box::new(Summary {
            active: self.active.clone()?,
            adopted_at,
            adoption,
            plans: self.plans,
            held: self.held,
            last_commit: self.last_commit,
            replaced: self.replaced,
            last: self.last.clone(),
            committed: self.committed.clone(),
            denied: self.denied.clone(),
            attempts: self.attempts.clone(),
            approved: self.approved.clone(),
        })))
    }

    /// The release that is installed, and stays so until another is committed. None only before the first record.
    pub fn active(&self) -> Option<&Installed> {
        self.active.as_ref()
    }

    /// When and how the instance was adopted.
    pub fn adopted(&self) -> Option<(Timestamp, Adoption)> {
        self.adopted
    }

    /// Where an upgrade stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// When an upgrade was committed last; none if none was since the instance was adopted.
    pub fn last_commit(&self) -> Option<Timestamp> {
        self.last_commit
    }

    /// When the active release, as it is, was committed; none if it was adopted, or replaced by a person since.
    pub fn active_since(&self) -> Option<Timestamp> {
        self.last_commit.filter(|_| !self.replaced)
    }

    /// The upgrade that an operator may take back: the one that is being probed, or the one that the active release came by.
    pub fn may_roll_back(&self) -> Option<&UpgradePlan> {
        match &self.phase {
            Phase::Probing { plan, .. } => Some(plan),
            Phase::Idle | Phase::Preparing { .. } | Phase::Staged { .. } => self.last.as_ref().map(|last| &last.plan),
            _ => None,
        }
    }

    /// The number of the last plan; the next has a higher one.
    pub fn plans(&self) -> u64 {
        self.plans
    }

    /// Whether an operator stopped automatic upgrades.
    pub fn held(&self) -> bool {
        self.held
    }

    /// Why this release is never to be run again here, if that is so.
    pub fn denies(&self, release: &Release) -> Option<&str> {
        self.denied.get(release).map(String::as_str)
    }

    /// Every release that is never to be run again here, and why.
    pub fn denied(&self) -> impl Iterator<Item = (&Release, &str)> {
        self.denied.iter().map(|(release, why)| (release, why.as_str()))
    }

    /// How the attempts at this announcement went, if any failed since it last changed.
    pub fn attempts(&self, announced: &Announcement) -> Option<&Attempts> {
        self.attempts.get(&announced.release).filter(|attempts| attempts.of.is_prepared_like(announced))
    }

    /// Whether an operator asked for this release.
    pub fn approved(&self, release: &Release) -> bool {
        self.approved.contains(release)
    }

    /// Every release that was ever healthy here.
    pub fn committed(&self) -> impl Iterator<Item = &Release> {
        self.committed.iter()
    }

    /// Every release that was run here, well or not.
    pub fn ran(&self) -> impl Iterator<Item = &Release> {
        let under_way = match &self.phase {
            Phase::Idle | Phase::Preparing { .. } | Phase::Staged { .. } => None,
            Phase::Switching { plan, .. }
            | Phase::Probing { plan, .. }
            | Phase::Undoing { plan, .. }
            | Phase::NeedsHuman { plan, .. } => Some(&plan.to.release),
            Phase::Restoring { .. } => None,
        };
        self.committed.iter().chain(self.denied.keys()).chain(under_way)
    }

    /// The release that is to run, if one is to run at all: where the upgrade stands decides, not what runs now.
    pub fn runs(&self) -> Option<&Installed> {
        match &self.phase {
            Phase::Idle | Phase::Preparing { .. } | Phase::Staged { .. } => self.active.as_ref(),
            Phase::Probing { staged, .. } => Some(staged),
            Phase::Switching { .. } | Phase::Restoring { .. } => None,
            Phase::Undoing { owed, .. } | Phase::NeedsHuman { owed, .. } => {
                if owed.iter().all(|undo| undo.node_may_run_without()) { self.active.as_ref() } else { None }
            }
        }
    }

    /// The release that files for other tools should name: what runs, or what ran last.
    pub fn shown(&self) -> Option<&Installed> {
        match &self.phase {
            Phase::Probing { staged, .. } => Some(staged),
            _ => self.active.as_ref(),
        }
    }
}
