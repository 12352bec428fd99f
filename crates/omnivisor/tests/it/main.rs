//! The real binary, from outside: real processes, real files, loopback servers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    missing_docs,
    reason = "a panic is a failed test"
)]

mod advice;
mod ahead;
mod backup;
mod bad_input;
mod build_info;
mod by_command;
mod by_hand;
mod command_line;
mod crash;
mod demo;
mod github;
mod grandchildren;
mod guide;
mod guides;
mod history;
mod never_lost;
mod never_two;
mod nymvisor_fixtures;
mod passes;
mod peer_defects;
mod plan;
#[cfg(debug_assertions)]
mod power_cut;
mod probes;
mod random;
mod reexec;
mod releases;
mod run_to_its_end;
mod scripts;
mod signals;
mod soak;
mod supervise;
mod upgrade;
mod vega;
mod way_in;
mod world;
