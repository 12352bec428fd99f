//! Give a switch up that cannot be gone on with, as the journal cannot be written: the old node runs meanwhile.
//!
//! The new node is never started without its record, so until then nothing is owed but the link, and the old node may run on
//! its data; the copy of them is none any more, once it does. What was given up is recorded when that can be done; or by the
//! next supervisor, which finds a node where none can be.

use std::io;
use std::time::Duration;

use omnivisor_core::agent::Event;
use omnivisor_core::journal::Phase;
use omnivisor_core::plan::Failure;
use omnivisor_core::supervisor::Wanted;

use super::{Shell, act};
use crate::clock;

/// How long the node stays down for a journal that cannot be written: longer than a disk hangs that recovers, and about as long
/// as a stop may take anyway.
const PATIENCE: Duration = Duration::from_secs(5);

/// The journal cannot be written.
pub(super) struct Unwritable {
    /// Since when (monotonic).
    since: Duration,
    /// Why, the last time.
    why: String,
}

impl Shell {
    /// What is to be true of the node.
    pub(super) fn wanted(&self) -> Wanted {
        self.agent.instead().filter(|_| self.has_given_up()).unwrap_or_else(|| self.agent.wanted())
    }

    /// Whether that the switch was given up waits to be recorded.
    pub(super) fn has_given_up(&self) -> bool {
        self.waiting.iter().any(|event| matches!(event, Event::GivenUp(_)))
    }

    /// Why nothing can be recorded, if that is so.
    pub(super) fn unwritable(&self) -> Option<String> {
        self.unwritable.as_ref().map(|it| format!("the journal cannot be written: {}", it.why))
    }

    pub(super) fn is_unwritable(&mut self, error: &io::Error) {
        let now = clock::now().monotonic;
        if self.unwritable.is_none() {
            tracing::error!(%error, "the journal cannot be written: nothing is begun until it can");
        }
        let since = self.unwritable.as_ref().map_or(now, |it| it.since);
        self.unwritable = Some(Unwritable { since, why: error.to_string() });
        if now.saturating_sub(since) >= PATIENCE && self.agent.instead().is_some() && !self.has_given_up() {
            self.give_up();
        }
    }

    pub(super) fn is_writable(&mut self) {
        if self.unwritable.take().is_some() {
            tracing::info!("the journal can be written again");
        }
    }

    fn give_up(&mut self) {
        let Phase::Switching { plan, .. } = self.agent.journal().phase() else { return };
        if self.action.is_under_way() {
            self.action.cancel(); // nothing runs before it has ended
            return;
        }
        let plan = plan.clone();
        let why = self.unwritable().unwrap_or_default();
        tracing::error!(why, "the switch is given up: the old node runs until that can be recorded");
        if plan.snapshot
            && let Err(error) = act::void_snapshot(&*self.dialect, &plan)
        {
            tracing::error!(
                %error,
                "the copy of the node's data cannot be made void: if the machine stops now, an undo may bring back data of before"
            );
        }
        self.waiting.push_front(Event::GivenUp(Failure::transient(why)));
    }

    /// A node is alive where none can be: the supervisor before could not record that it had given the switch up.
    pub(super) fn was_given_up(&mut self) {
        tracing::warn!("a node runs in the middle of a switch: it was given up, and could not be recorded");
        let why = "an earlier supervisor gave the switch up, as it could not write its journal";
        self.waiting.push_front(Event::GivenUp(Failure::transient(why)));
    }
}
