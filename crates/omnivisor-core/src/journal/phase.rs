//! Where an upgrade, or a restore, stands.

use std::path::PathBuf;

use crate::plan::{FailureKind, Step, Undo, UpgradePlan};
use crate::release::Installed;
use crate::time::Timestamp;

/// Where an upgrade stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is under way.
    #[default]
    Idle,
    /// The release is being fetched or proven; the old node runs.
    Preparing {
        /// The upgrade.
        plan: UpgradePlan,
        /// [`Step::Fetch`] or [`Step::Preflight`].
        step: Step,
    },
    /// The release is ready; the old node runs until the trigger fires.
    Staged {
        /// The upgrade.
        plan: UpgradePlan,
        /// What is ready.
        staged: Installed,
    },
    /// The outage: no node runs.
    Switching {
        /// The upgrade.
        plan: UpgradePlan,
        /// What is switched to.
        staged: Installed,
        /// [`Step::Stop`], [`Step::Snapshot`] or [`Step::Activate`].
        step: Step,
    },
    /// The new node runs and has not shown yet that it is well.
    Probing {
        /// The upgrade.
        plan: UpgradePlan,
        /// What runs.
        staged: Installed,
        /// How often it has died.
        deaths: u32,
    },
    /// The upgrade failed and is being taken back; no node runs until that is done.
    Undoing {
        /// The upgrade.
        plan: UpgradePlan,
        /// What is still to be done, in order.
        owed: Vec<Undo>,
        /// How often the first of them has failed.
        failures: u32,
        /// The step that failed.
        step: Step,
        /// Why it failed.
        reason: String,
        /// What is known about trying again.
        kind: FailureKind,
        /// When it failed.
        at: Timestamp,
    },
    /// Taking it back failed: nothing more happens by itself.
    NeedsHuman {
        /// The upgrade.
        plan: UpgradePlan,
        /// What is still to be done, in order.
        owed: Vec<Undo>,
        /// The step that failed first.
        step: Step,
        /// Why the undo failed, and before it the step.
        reason: String,
        /// What is known about trying again.
        kind: FailureKind,
        /// When the step failed.
        at: Timestamp,
    },
    /// Data is being put back from a backup, as an operator has ordered; no node runs until that is done.
    Restoring {
        /// Which backup.
        backup: String,
        /// The folder that it is put back from.
        work: PathBuf,
    },
}
