//! The program `vega` of the tests: a core node and a data node in one, as the real one is. What it is comes from the
//! trailer of its executable, what it does from `control.json` in its home (see `control`), which a test may change
//! while it runs.
//!
//! Commands: `version [--output json]`, `start …` or `node …`, `datanode start …` or `datanode node …`,
//! `[datanode] network-history latest-history-segment …`, anything else (echoed), and its own `grandchild`. Nothing here
//! checks anything: what happened is in the log at `$FAKE_NODE_LOG`, read by `node_log`. No blocks are made, and nothing
//! is replayed: its height is what the test says.

mod admin;
pub mod control;
mod core_node;
mod data_node;
mod http;
mod running;

use std::process::ExitCode;

use serde_json::json;

use crate::daemon::{arguments, echo, flag, grandchild, never_stop_writing, sleep_for_good};
use crate::minting::Minted;
use crate::vega_behaviour::{VegaBehaviour, VersionAnswer};
use crate::wire;

/// Everything the fake does; to be called from the `main` of an executable that was minted.
pub fn main() -> ExitCode {
    let Some(behaviour) = VegaBehaviour::own() else {
        eprintln!("this fake vega was not minted");
        return ExitCode::from(99);
    };
    let args = arguments();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let code = match words.as_slice() {
        ["version", ..] => answer_version(&behaviour, wants_json(&args)),
        ["start" | "node", ..] => core_node::run(&behaviour, &args),
        ["datanode", "start" | "node", ..] => data_node::run(&behaviour, &args),
        ["datanode", "network-history", "latest-history-segment", ..]
        | ["network-history", "latest-history-segment", ..] => data_node::answer_segment(&behaviour, &args),
        ["grandchild", flags @ ..] => grandchild::stay(&behaviour.version, flags),
        _ => echo(&args, 0),
    };
    std::process::exit(code)
}

fn wants_json(args: &[String]) -> bool {
    flag(args, "--output") == Some("json")
}

fn answer_version(behaviour: &VegaBehaviour, as_json: bool) -> i32 {
    let version = match &behaviour.version_answer {
        VersionAnswer::Ok => &behaviour.version,
        VersionAnswer::OtherVersion(version) => version,
        VersionAnswer::Hang => sleep_for_good(),
        VersionAnswer::Rubbish => {
            println!("this is no JSON");
            return 0;
        }
        VersionAnswer::Huge => return never_stop_writing("{\"version\":\""),
        VersionAnswer::Exit(code) => {
            eprintln!("no version today");
            return *code;
        }
    };
    if as_json {
        println!("{}", wire::compact(&json!({"version": version, "hash": behaviour.hash})));
    } else {
        println!("Vega CLI {version} ({})", behaviour.hash);
    }
    0
}
