//! What happens in a world: how the release behaves, what fails, and what comes from outside.

use std::time::Duration;

use omnivisor_core::plan::{Step, Undo};

/// How a release behaves when it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    #[default]
    Well,
    /// Dies shortly after each start.
    Dies,
    /// Dies once.
    DiesOnce,
    /// Ends by itself, with exit code 0.
    Ends,
    /// Runs, and its probe's command fails.
    FailsProbe,
}

/// A step that fails: always, or at its nth attempt; before or after it had its effect.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub step: Step,
    pub attempt: Option<usize>,
    pub after_effect: bool,
    pub permanent: bool,
}

/// Something from outside, at a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    Withdraw,
    Supersede,
    Postpone,
    Preempt,
    Hold,
    HoldAndResume,
    Stop,
    Approve,
    NodeDies,
    NodeEnds,
    /// A person replaces the active release's executable.
    Replace,
    /// What comes next of a switch cannot be recorded for long.
    GiveUp,
    /// An operator takes the last upgrade back, or the one that is being probed. Not one of [`Self::ALL`]: what was committed does not stay.
    RollBack,
    /// An operator wants a backup now.
    BackUp,
}

impl Disturbance {
    pub const ALL: [Self; 12] = [
        Self::Withdraw,
        Self::Supersede,
        Self::Postpone,
        Self::Preempt,
        Self::Hold,
        Self::HoldAndResume,
        Self::Stop,
        Self::Approve,
        Self::NodeDies,
        Self::NodeEnds,
        Self::Replace,
        Self::GiveUp,
    ];
}

#[derive(Clone, Debug, Default)]
pub struct Scenario {
    pub fault: Option<Fault>,
    /// An undo that fails so many times.
    pub undo_fault: Option<(Undo, usize)>,
    pub health: Health,
    pub no_snapshot: bool,
    pub probe_command: bool,
    /// Whether the node dies with its supervisor.
    pub node_dies_with_us: bool,
    pub no_restarts: bool,
    /// Whether a run ends after a switch.
    pub end_after_switch: bool,
    /// Whether the release is announced as one that waits for a person.
    pub manual: bool,
    /// Whether it is the node's network that has agreed on the release, for a height. The node that runs says so, and when.
    pub consensus: bool,
    /// Whether the installation was taken over from a peer after the release had become due.
    pub parked: bool,
    /// How long before the switch the data is copied ahead.
    pub lead: Duration,
    /// How long after the beginning the release is due.
    pub due_in: u64,
    /// Disturbances, each at a turn counted over all lives.
    pub disturbances: Vec<(usize, Disturbance)>,
}
