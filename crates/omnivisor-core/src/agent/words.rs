//! What the agent is told, and what it answers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::health::{HealthProbe, Sighting};
use crate::journal::Record;
use crate::plan::{Failure, UpgradePlan};
use crate::release::{Installed, Release};
use crate::schedule::Announcement;
use crate::supervisor::{Exit, Report};
use crate::time::Timestamp;

/// How an instance wants its upgrades done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How a new release proves itself.
    pub probe: HealthProbe,
    /// Whether the node's data is copied aside before a switch.
    pub snapshot: bool,
    /// How long after the first failure that may be gone later the next try is; doubled each time.
    pub retry: Duration,
    /// The longest time between two tries.
    pub retry_most: Duration,
    /// How long after a failure of the release itself the next try is.
    pub recheck: Duration,
    /// How many failures of the release itself are the last, until it is announced differently.
    pub rechecks: u32,
    /// What becomes of a release that does not show that it is well.
    pub rollback: Rollback,
    /// How long after the node has said that it is ready it is stopped.
    pub stop_delay: Duration,
    /// How long before the switch the data begins to be copied ahead.
    pub lead: Duration,
    /// Whether the run ends after a switch, with the new release in place and not started: the next run starts and judges it.
    pub end_after_switch: bool,
}

/// What becomes of a release that ran and did not show that it is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollback {
    /// It is taken back, with its data, and never tried again.
    Auto,
    /// It stays: a network has agreed on it, and the old one could not go on with its data. It is started again and again, and
    /// a person is called.
    Hold,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// These, and no others, are announced now, in the order of the queue.
    Announced(Vec<Announcement>),
    /// Of what is announced now, or will be next, these and no others lack an executable that a person is to place; and why.
    Missing(BTreeMap<Release, String>),
    /// The action in flight succeeded.
    Done(Outcome),
    /// The action in flight failed.
    Failed(Failure),
    /// The action in flight ended early, as it was asked to.
    Cancelled,
    /// The switch under way is not gone on with, as that cannot be recorded; no action is being carried out any more, and what
    /// [`Agent::instead`] says may run already. Harmless at any other time.
    GivenUp(Failure),
    /// Something happened to the node.
    Node(Report),
    /// The node that runs has answered when it was asked something. Harmless at any time.
    NodeAnswered,
    /// The node that runs has said by itself that it is ready. Harmless at any time.
    NodeReady,
    /// No process of the node is there, and [`Agent::awaits_down`].
    NodeDown,
    /// A time of [`Agent::timeouts`] was reached. Harmless at any time.
    Timeout,
    /// The run is to end: stop the node, start nothing.
    StopRequested,
    /// No automatic upgrades until further notice.
    Hold,
    /// Go on.
    Resume,
    /// Switch to this one, although it waits for a person.
    Approve(Release),
    /// Take a backup now, if that [can be done](super::Agent::cannot_back_up).
    BackUp,
    /// Take back the upgrade that is being probed, or the last one, with its data or without. Harmless if there is none.
    RollBack {
        /// Whether the data goes back, too.
        restore: bool,
    },
    /// A person has replaced the active release's executable by this one, which has been proven.
    Replaced(Installed),
}

/// What an action found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing but that it is done.
    Nothing,
    /// What a preflight proved.
    Proven(Installed),
    /// What a sample has seen, of each check.
    Sampled(Vec<Sighting>),
}

/// Something long that the shell is to do. Each can be done twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Get the release's executable into its folder, digest checked.
    Fetch(UpgradePlan),
    /// Prove that executable; answers [`Outcome::Proven`].
    Preflight(UpgradePlan),
    /// Copy the node's data ahead, while the node runs: what the snapshot then has to copy is little.
    Precopy(UpgradePlan),
    /// Copy the node's data to a backup of this time: ahead, while the node runs, or what is left of it, while none does.
    Backup {
        /// When it was asked for.
        at: Timestamp,
        /// What runs on that data.
        of: Installed,
        /// Whether this is the end of it.
        last: bool,
    },
    /// See that it still is what was proven, and that the switch can be done.
    Arm(UpgradePlan, Installed),
    /// Copy the node's data aside. No node runs.
    Snapshot(UpgradePlan),
    /// Make the new release the one that starts. No node runs.
    Activate(UpgradePlan, Installed),
    /// Put the data back. No node runs.
    Restore(UpgradePlan),
    /// Make the old release the one that starts. No node runs.
    Reactivate(UpgradePlan),
    /// Look at the probe's checks once, at all of them; answers [`Outcome::Sampled`].
    Sample(UpgradePlan),
}

impl Action {
    /// The same work for the same plan, whatever else has changed meanwhile.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self.plan(), other.plan()) {
            (Some(one), Some(other_plan)) => {
                std::mem::discriminant(self) == std::mem::discriminant(other) && one.number == other_plan.number
            }
            _ => self == other,
        }
    }

    /// The upgrade it is for, if it is for one.
    pub fn plan(&self) -> Option<&UpgradePlan> {
        Some(match self {
            Self::Backup { .. } => return None,
            Self::Fetch(plan)
            | Self::Preflight(plan)
            | Self::Precopy(plan)
            | Self::Arm(plan, _)
            | Self::Snapshot(plan)
            | Self::Activate(plan, _)
            | Self::Restore(plan)
            | Self::Reactivate(plan)
            | Self::Sample(plan) => plan,
        })
    }
}

/// The answer to an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// To be on disk before anything else is done.
    pub records: Vec<Record>,
    /// Whether the action in flight is to end early.
    pub cancel: bool,
    /// To be begun.
    pub action: Option<Action>,
}

/// How a run ends that nobody ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// An operator asked for it.
    Stopped,
    /// The node ended by itself and well.
    Finished,
    /// The new release is in place, and a person is to start it.
    Switched,
    /// The node failed and is not started again.
    GaveUp(Exit),
}

/// When the agent wants to be called with [`Event::Timeout`], at the latest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// By the clock that never jumps.
    pub monotonic: Option<Duration>,
    /// By the calendar clock.
    pub wall: Option<Timestamp>,
}
