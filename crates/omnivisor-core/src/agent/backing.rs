//! A backup that an operator wants now: most of it is copied while the node runs, the rest while it is down for a moment.
//!
//! Nothing of it is in the journal: a supervisor that is killed meanwhile leaves no backup, and its successor runs the node.

use super::{Action, Agent};
use crate::journal::Phase;
use crate::plan::UpgradePlan;
use crate::release::Installed;
use crate::time::{Now, Timestamp};

/// How far a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backing {
    /// When it was asked for; that is its name.
    pub(super) at: Timestamp,
    pub(super) stage: Stage,
}

/// What is done for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The node runs, and its data is copied.
    Ahead,
    /// The node is asked to end.
    Stopping,
    /// What has changed since is copied.
    Taking,
}

impl Backing {
    /// What the shell has to do for it; nothing while the node ends.
    pub(super) fn action(self, of: &Installed) -> Option<Action> {
        let last = match self.stage {
            Stage::Ahead => false,
            Stage::Stopping => return None,
            Stage::Taking => true,
        };
        Some(Action::Backup { at: self.at, of: of.clone(), last })
    }

    /// Whether no node is to run.
    pub(super) fn is_outage(self) -> bool {
        self.stage != Stage::Ahead
    }
}

impl Agent {
    /// Why no backup can be taken now, if that is so.
    pub fn cannot_back_up(&self) -> Option<&'static str> {
        match self.journal.phase() {
            _ if self.ending.is_some() => Some("the run is ending"),
            _ if self.backing.is_some() => Some("a backup is being taken"),
            Phase::Preparing { plan, .. } | Phase::Staged { plan, .. } if plan.to.trigger.is_ready() => {
                Some("the node waits for its upgrade")
            }
            Phase::Idle | Phase::Preparing { .. } | Phase::Staged { .. } => None,
            _ => Some("an upgrade is under way"),
        }
    }

    /// What an upgrade cannot wait for is given up: of one whose time has come what is copied ahead, of one that its network waits
    /// for all of it.
    pub(super) fn drop_backup_if_in_the_way(&mut self, now: Now) {
        let Some(backing) = self.backing else { return };
        let comes = |plan: &UpgradePlan| !backing.is_outage() && self.may_switch(now, plan);
        let may = match self.journal.phase() {
            _ if self.ending.is_some() => false,
            Phase::Preparing { plan, .. } | Phase::Staged { plan, .. } => !plan.to.trigger.is_ready() && !comes(plan),
            Phase::Idle => !self.plan(now).is_some_and(|plan| comes(&plan)),
            _ => false,
        };
        self.backing = self.backing.filter(|_| may);
    }

    /// When the backup was asked for that is being taken.
    pub fn backup_under_way(&self) -> Option<Timestamp> {
        self.backing.map(|backing| backing.at)
    }

    /// Whether a backup is being taken, and the node is down for it.
    pub fn is_down_for_backup(&self) -> bool {
        self.backing.is_some_and(Backing::is_outage)
    }
}
