//! The real binary, from outside: real processes, real files, loopback servers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    missing_docs,
    reason = "a panic is a failed test"
)]

mod bad_input;
mod build_info;
mod crash;
mod demo;
mod never_lost;
mod peer_defects;
mod supervise;
mod upgrade;
mod world;
