//! x
pub mod build_info;
pub mod config;
pub mod files;
pub mod platform;
pub mod queue;
