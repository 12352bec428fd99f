//! The shell of omnivisor: acts as the core decides.

pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod control;
pub mod demo;
pub mod effects;
pub mod exit;
pub mod handover;
pub mod settings;
pub mod shell;
pub mod store;
pub mod sys;
