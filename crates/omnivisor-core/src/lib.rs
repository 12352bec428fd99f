//! The pure core of omnivisor: events in, effects out.

pub mod dialect;
pub mod release;
pub mod schedule;
pub mod time;
