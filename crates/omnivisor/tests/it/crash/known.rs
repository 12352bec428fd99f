//! The points of each story: every call that changes a disk, and every checkpoint, by the name that it is reached by.
//!
//! A test fails when a story reaches a point that is not here: whoever adds a durable call adds its name, so that the
//! call is killed at, and refused, from then on.

mod nym;
mod vega;

pub use nym::{NYM_UNDO, NYM_UNDO_BY_COMMAND, NYM_UPGRADE};
pub use vega::{VEGA_UPGRADE, VEGA_UPGRADE_WITH_SNAPSHOT};

/// The points of a story.
#[derive(Clone, Copy)]
pub struct Known {
    /// Each of these is reached.
    pub always: &'static [&'static str],
    /// These may be, as it happens.
    pub sometimes: &'static [&'static str],
}

impl Known {
    pub fn has(&self, name: &str) -> bool {
        self.always.contains(&name) || self.sometimes.contains(&name)
    }
}
