//! How one upgrade is done: its steps in order, what each owes if the upgrade ends there, and how it is taken back.
//!
//! Absent here: when (see [`schedule`](crate::schedule)) and what has already happened (see [`journal`](crate::journal)).

use std::fmt;

use crate::release::Installed;
use crate::schedule::Announcement;
use crate::time::Timestamp;

/// One upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpgradePlan {
    /// Counts the upgrades of this journal.
    pub number: u64,
    /// When it was decided on. With the number it names the snapshot, so that no two ever share one: not even those of an
    /// instance whose journal has begun anew.
    pub begun: Timestamp,
    /// What runs now, and what runs again if this fails.
    pub from: Installed,
    /// What is to run.
    pub to: Announcement,
    /// Whether the node's data is copied aside between the stop and the switch.
    pub snapshot: bool,
}

impl UpgradePlan {
    /// Whether its network has agreed on it, and does not wait for us.
    pub fn is_agreed(&self) -> bool {
        self.to.trigger.height().is_some()
    }

    /// A name that no other upgrade has: when it began, in milliseconds since 1970, and its number.
    pub fn id(&self) -> String {
        format!("{}-{:06}", self.begun.unix_nanos() / 1_000_000, self.number)
    }
}

/// A step of an upgrade, in the order they are taken. **Every step can be taken twice**: after a crash the one that was
/// under way is taken again, whatever part of it had been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Get the executable into the release's folder and check its digest, while the old node runs.
    Fetch,
    /// Ask that executable who it is, and see that there is room for the rest, while the old node runs.
    Preflight,
    /// The last look before the outage: the executable is still the one that was proven, the room is still there.
    Arm,
    /// Wait until every process of the old node is gone.
    Stop,
    /// Copy the node's data aside.
    Snapshot,
    /// Make the new release the one that starts.
    Activate,
    /// Run the new node until it has shown that it is well.
    Probe,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 7] =
        [Self::Fetch, Self::Preflight, Self::Arm, Self::Stop, Self::Snapshot, Self::Activate, Self::Probe];

    /// The step's name, as files and messages write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Preflight => "preflight",
            Self::Arm => "arm",
            Self::Stop => "stop",
            Self::Snapshot => "snapshot",
            Self::Activate => "activate",
            Self::Probe => "probe",
        }
    }

    /// Reads [`as_str`](Self::as_str) back.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == name)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A step of taking an upgrade back, in the order they are taken. **Every one can be taken twice.**
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Undo {
    /// Wait until every process of the new node is gone.
    Stop,
    /// Put the data back as it was before the switch; monotonic files stay as they are.
    Restore,
    /// Make the old release the one that starts.
    Reactivate,
}

impl Undo {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Stop, Self::Restore, Self::Reactivate];

    /// What is owed when an upgrade ends at `step`. Data is restored only if the new node may have touched it.
    pub fn owed(step: Step, plan: &UpgradePlan) -> Vec<Self> {
        match step {
            Step::Fetch | Step::Preflight | Step::Arm | Step::Stop | Step::Snapshot => Vec::new(),
            Step::Activate => vec![Self::Reactivate],
            Step::Probe if plan.snapshot => vec![Self::Stop, Self::Restore, Self::Reactivate],
            Step::Probe => vec![Self::Stop, Self::Reactivate],
        }
    }

    /// Whether the old node may run although this could not be done: a link that other tools read is no reason to stay
    /// down; data that is neither old nor new is.
    pub fn node_may_run_without(self) -> bool {
        self == Self::Reactivate
    }

    /// Its name, as files and messages write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Restore => "restore",
            Self::Reactivate => "reactivate",
        }
    }

    /// Reads [`as_str`](Self::as_str) back.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|undo| undo.as_str() == name)
    }
}

impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a failure says about trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// The world may be better later (network, server, space): tried again with back-off for as long as it is announced.
    Transient,
    /// The release itself is wrong (digest, platform, build information): tried three times, then when it changes.
    Permanent,
}

/// Why a step could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whether trying again makes sense.
    pub kind: FailureKind,
    /// One sentence for a person: what was attempted, on what, why it failed.
    pub reason: String,
}

impl Failure {
    /// A failure that may be gone later.
    pub fn transient(reason: impl Into<String>) -> Self {
        Self { kind: FailureKind::Transient, reason: reason.into() }
    }

    /// A failure of the release itself.
    pub fn permanent(reason: impl Into<String>) -> Self {
        Self { kind: FailureKind::Permanent, reason: reason.into() }
    }
}
