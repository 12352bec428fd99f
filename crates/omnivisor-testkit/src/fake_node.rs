//! The program of a fake nym-node; its behaviour is in the trailer of its executable. It has no threads, unless it
//! serves, and it starts fast.
//!
//! Commands: `[--no-banner] build-info --output=json`, `run …`, `fail`, anything else (echoed), and its own
//! `grandchild`. Nothing here checks anything: what happened is in the log at `$FAKE_NODE_LOG`, read by `node_log`.

mod running;
mod serving;

use std::process::ExitCode;

use serde_json::Value;

use crate::behaviour::{Behaviour, BuildInfoAnswer};
use crate::daemon::{arguments, echo, grandchild, never_stop_writing, sleep_for_good};
use crate::minting::Minted;
use crate::wire;

pub use crate::daemon::REFUSED;

/// Everything the fake node does; to be called from the `main` of an executable that was minted.
pub fn main() -> ExitCode {
    let Some(behaviour) = Behaviour::own() else {
        eprintln!("this fake node was not minted");
        return ExitCode::from(99);
    };
    let args = arguments();
    let words: Vec<&str> = args.iter().map(String::as_str).filter(|word| *word != "--no-banner").collect();
    let code = match words.as_slice() {
        ["build-info", ..] if behaviour.build_info == BuildInfoAnswer::KnowsNoBanner && words.len() < args.len() => {
            eprintln!("error: unexpected argument '--no-banner' found");
            2
        }
        ["build-info", "--output=json"] | ["build-info", "--output", "json"] => answer_build_info(&behaviour),
        ["run", ..] => running::run(&behaviour, &args),
        ["grandchild", flags @ ..] => grandchild::stay(&behaviour.version, flags),
        ["fail", ..] => echo(&args, behaviour.exit_code),
        _ => echo(&args, 0),
    };
    std::process::exit(code)
}

fn answer_build_info(behaviour: &Behaviour) -> i32 {
    let mut details = behaviour.details();
    match &behaviour.build_info {
        BuildInfoAnswer::Ok | BuildInfoAnswer::KnowsNoBanner => {}
        BuildInfoAnswer::Hang => sleep_for_good(),
        BuildInfoAnswer::Rubbish => {
            println!("this is no JSON");
            return 0;
        }
        BuildInfoAnswer::Huge => return never_stop_writing("{\"binary_name\":\""),
        BuildInfoAnswer::Exit(code) => {
            eprintln!("no build info today");
            return *code;
        }
        BuildInfoAnswer::OtherName(name) => details["binary_name"] = Value::from(name.as_str()),
        BuildInfoAnswer::OtherVersion(version) => details["build_version"] = Value::from(version.as_str()),
        BuildInfoAnswer::BannerFirst => println!("\n   _ __  _   _ _ __ ___\n  | '_ \\| | | | '_ \\ _ \\\n"),
        BuildInfoAnswer::NoTriple => {
            details.as_object_mut().unwrap().remove("cargo_triple");
        }
    }
    println!("{}", wire::compact(&details));
    0
}
