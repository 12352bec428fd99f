//! Runs a network node and upgrades it with nobody watching.

use std::process::ExitCode;

fn main() -> ExitCode {
    omnivisor::cli::main(std::env::args_os()).into()
}
