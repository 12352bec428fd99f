//! The pure core of omnivisor: events in, effects out.

pub mod agent;
pub mod dialect;
pub mod formats;
pub mod github;
pub mod health;
pub mod journal;
pub mod plan;
pub mod release;
pub mod retention;
pub mod schedule;
pub mod supervisor;
pub mod time;
