//! What a journal consists of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::Attempts;
use crate::plan::{FailureKind, Step, Undo, UpgradePlan};
use crate::release::{Installed, Release};
use crate::schedule::Trigger;
use crate::time::Timestamp;

/// How an installation came to be supervised here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// It was made by this program's `init`: what is already due may be done.
    Initialised,
    /// It was found as another tool left it: what was already due waits for a person.
    Found,
}

/// Why a plan was dropped before the node was stopped for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CancelReason {
    /// Nobody announces it any more.
    Withdrawn,
    /// It is announced with other contents.
    Superseded,
    /// Another one is due before it.
    Preempted,
}

impl CancelReason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Withdrawn, Self::Superseded, Self::Preempted];

    /// Its name, as files and messages write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Withdrawn => "withdrawn",
            Self::Superseded => "superseded",
            Self::Preempted => "preempted",
        }
    }
}

/// What a supervisor found when it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// No process of the node.
    Started,
    /// A live node, which goes on: it was not restarted.
    TookOver,
    /// Only what an earlier node had left behind.
    Cleared,
    /// Itself: it has taken the place of a supervisor of this version, in the same process, and the node goes on.
    Replaced(String),
    /// Itself: a supervisor of this version was to take its place, and failed. The node goes on.
    Returned(String),
}

impl Beginning {
    /// Its name, as files write it, and the version that it names, if it does.
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Started => ("started", ""),
            Self::TookOver => ("took-over", ""),
            Self::Cleared => ("cleared", ""),
            Self::Replaced(from) => ("replaced", from),
            Self::Returned(from) => ("returned", from),
        }
    }

    /// The one of this name.
    pub fn parse(name: &str, from: String) -> Option<Self> {
        Some(match name {
            "started" => Self::Started,
            "took-over" => Self::TookOver,
            "cleared" => Self::Cleared,
            "replaced" => Self::Replaced(from),
            "returned" => Self::Returned(from),
            _ => return None,
        })
    }
}

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The first record: this was found installed.
    Adopted {
        /// What runs.
        installed: Installed,
        /// Since when we know.
        at: Timestamp,
        /// How we came to it.
        adoption: Adoption,
    },
    /// An upgrade was decided on; preparing it begins.
    Planned(UpgradePlan),
    /// The step is about to be taken. Fetching needs none: it begins with the plan.
    Started(Step),
    /// Preparing is done: this is what would be switched to.
    Staged(Installed),
    /// The release under way is now wanted at another time.
    Rescheduled(Trigger),
    /// The plan was dropped before the node was stopped for it.
    Cancelled(CancelReason),
    /// A step failed for good.
    Failed {
        /// Which.
        step: Step,
        /// What that says about trying again.
        kind: FailureKind,
        /// For a person.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// The new node died while it was being probed.
    Died {
        /// For a person.
        reason: String,
    },
    /// The first undo that was owed is done.
    Undone(Undo),
    /// The first undo that is owed failed.
    UndoFailed {
        /// For a person.
        reason: String,
    },
    /// The new release has shown that it is well; it is the active one.
    Committed {
        /// When.
        at: Timestamp,
    },
    /// All that was owed is done; the old release is the active one.
    RolledBack,
    /// An operator said: take the last upgrade back, or the one that is being probed.
    RollbackOrdered {
        /// Whether the data goes back, too.
        restore: bool,
        /// When.
        at: Timestamp,
    },
    /// An operator said: put the data back as this backup has it. What is put back is ready; nothing was moved yet. No node runs
    /// until that is done.
    RestoreOrdered {
        /// Which backup.
        backup: String,
        /// The version of the release that its data is of, where that is known.
        version: Option<String>,
        /// What of it, for people; none is all of it.
        paths: Vec<String>,
        /// The folder that it is put back from, and that keeps what is replaced.
        work: PathBuf,
        /// When.
        at: Timestamp,
    },
    /// It is put back.
    Restored {
        /// When.
        at: Timestamp,
    },
    /// An operator said: no automatic upgrades.
    Held,
    /// An operator said: go on, with upgrades and with an undo that was stuck.
    Resumed,
    /// An operator said: switch to this one, although it waits for a person.
    Approved(Release),
    /// Another tool has installed this since we looked last: it is the active one, and what was under way is over.
    TakenOver {
        /// What runs.
        installed: Installed,
        /// When that was found.
        at: Timestamp,
    },
    /// A person has replaced the executable of the active release, or of one that is held, by this one, which was proven
    /// before it was started.
    Replaced {
        /// What the folder holds now.
        installed: Installed,
        /// When that was found.
        at: Timestamp,
    },
    /// A supervisor began to supervise, or went on in another's place. Changes nothing of what the journal amounts to.
    Began {
        /// When.
        at: Timestamp,
        /// The supervisor's own version.
        version: String,
        /// What it found.
        how: Beginning,
    },
    /// Stands for every record before it: the first one of a journal that had become long.
    Summed(Box<Summary>),
}

impl Record {
    /// When that was, where it is a part of what has happened.
    pub fn at(&self) -> Option<Timestamp> {
        match self {
            Self::Adopted { at, .. }
            | Self::Failed { at, .. }
            | Self::Committed { at }
            | Self::RollbackOrdered { at, .. }
            | Self::RestoreOrdered { at, .. }
            | Self::Restored { at }
            | Self::TakenOver { at, .. }
            | Self::Replaced { at, .. }
            | Self::Began { at, .. } => Some(*at),
            Self::Planned(plan) => Some(plan.begun),
            _ => None,
        }
    }
}

/// An upgrade that was committed, and what is needed to take it back all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switched {
    /// The upgrade.
    pub plan: UpgradePlan,
    /// What was switched to.
    pub staged: Installed,
    /// When the release before had been committed, if it was.
    pub before: Option<Timestamp>,
}

/// Everything that a journal amounts to while no upgrade is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What runs.
    pub active: Installed,
    /// Since when the instance is known.
    pub adopted_at: Timestamp,
    /// How it came to be.
    pub adoption: Adoption,
    /// The number of the last plan.
    pub plans: u64,
    /// Whether an operator stopped automatic upgrades.
    pub held: bool,
    /// When the active release was committed.
    pub last_commit: Option<Timestamp>,
    /// Whether a person has replaced it since.
    pub replaced: bool,
    /// The upgrade that it came by, if that can be taken back.
    pub last: Option<Switched>,
    /// What was ever healthy here.
    pub committed: BTreeSet<Release>,
    /// What is never to be run again, and why.
    pub denied: BTreeMap<Release, String>,
    /// How the attempts at releases went.
    pub attempts: BTreeMap<Release, Attempts>,
    /// What an operator asked for.
    pub approved: BTreeSet<Release>,
}
