//! `control.json`: what a fake Vega node does, as a test tells it while it runs. It is in the home of the node that it
//! is for; without one the node behaves well.
//!
//! It is read when the node starts, when it is asked to stop, and at every request. Below `by_version` there may be
//! other values for one version, such as `{"ready": true, "by_version": {"v0.75.0": {"exit_after_ms": 50}}}`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::behaviour::Grandchild;
use crate::daemon::replace;

/// The name of the file.
const FILE: &str = "control.json";

/// What a node does.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// Ends by itself after so long.
    pub exit_after_ms: Option<u64>,
    /// The code it then ends with.
    pub exit_code: i32,
    /// Dies of this signal (at once, or after `exit_after_ms`) instead of exiting.
    pub die_of_signal: Option<i32>,
    /// How long a graceful stop takes.
    pub linger_ms: u64,
    /// Logs SIGINT and SIGTERM and goes on.
    pub ignore_stop: bool,
    /// The code it ends with when it was asked to stop.
    pub stop_exit_code: i32,
    /// A process it starts and forgets.
    pub grandchild: Option<Grandchild>,
    /// Core: the release that the network has agreed on. Once it is this node's own, it is behind it.
    pub accepted: Option<Accepted>,
    /// Core: ready to be upgraded to it.
    pub ready: bool,
    /// Core: the height of the chain when the node starts.
    pub height: u64,
    /// Core: by how much the height grows in a second.
    pub blocks_per_second: u64,
    /// Core: it has nothing to say of releases yet.
    pub before_first_block: bool,
    /// Core: how the admin endpoint answers.
    pub rpc: Rpc,
    /// Core: the admin socket appears so late.
    pub rpc_after_ms: u64,
    /// Core: the port of `GET /statistics`, on 127.0.0.1.
    pub rest_port: Option<u16>,
    /// Data node: does not start unless it can connect there.
    pub needs_postgres: Option<Postgres>,
    /// Data node: its latest history segment.
    pub segment: Option<Segment>,
    /// Data node: how it answers when it is asked for that.
    pub segment_answer: SegmentAnswer,
}

/// A release that the network has agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Its tag, as it was voted for.
    pub tag: String,
    /// The height to switch at.
    pub height: u64,
}

/// How an admin endpoint answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rpc {
    /// As Vega does.
    #[default]
    Ok,
    /// Accepts and never answers.
    Hang,
    /// At the start: there is no socket, until this changes. Later: hangs up.
    Refuse,
    /// A web page.
    Html,
    /// Something that is not HTTP.
    Garbage,
    /// A result of `null`, and no error either.
    Null,
    /// An error of the method.
    Error,
    /// Ready, but for no release.
    ReadyWithoutRelease,
    /// As Vega does, but to another request.
    WrongId,
    /// 400 and a line of text.
    BadRequest,
    /// An answer that does not end.
    Huge,
}

/// Where a data node's Postgres listens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Postgres {
    /// On the network.
    Tcp {
        /// An address.
        host: String,
        /// A port.
        port: u16,
    },
    /// At this path.
    Unix {
        /// The socket itself, not its folder.
        socket: PathBuf,
    },
}

/// The latest of what a data node has of the network's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Its first block.
    pub from: u64,
    /// Its last block.
    pub to: u64,
}

/// How a data node answers when it is asked for its latest segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentAnswer {
    /// With it, or that there is none.
    #[default]
    Ok,
    /// Never.
    Hang,
    /// That there is none.
    None,
    /// That it cannot.
    Fail,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            exit_after_ms: None,
            exit_code: 0,
            die_of_signal: None,
            linger_ms: 0,
            ignore_stop: false,
            stop_exit_code: 0,
            grandchild: None,
            accepted: None,
            ready: false,
            height: 1,
            blocks_per_second: 0,
            before_first_block: false,
            rpc: Rpc::Ok,
            rpc_after_ms: 0,
            rest_port: None,
            needs_postgres: None,
            segment: None,
            segment_answer: SegmentAnswer::Ok,
        }
    }
}

impl Control {
    /// That of a node of this version with this home. A mistake of the test ends the node.
    pub(super) fn read(home: &Path, version: &str) -> Self {
        load(home).and_then(|whole| Self::of(&whole, version)).unwrap_or_else(|reason| {
            eprintln!("{}: {reason}", home.join(FILE).display());
            std::process::exit(99)
        })
    }

    fn of(whole: &Map<String, Value>, version: &str) -> Result<Self, String> {
        let mut keys = whole.clone();
        if let Some(versions) = keys.remove("by_version")
            && let Some(own) = versions.get(version)
        {
            keys.extend(own.as_object().ok_or_else(|| format!("{own} is no object"))?.clone());
        }
        serde_json::from_value(keys.into()).map_err(|error| error.to_string())
    }
}

/// Changes what a node with this home does. Fails on a key that there is not.
#[track_caller]
pub fn change(home: &Path, change: impl FnOnce(&mut Value)) {
    let mut whole = Value::from(load(home).unwrap());
    change(&mut whole);
    let keys = whole.as_object().expect("what a node does is an object");
    let versions = keys.get("by_version").and_then(Value::as_object);
    let versions = versions.into_iter().flat_map(Map::keys).map(String::as_str);
    for version in versions.chain([""]) {
        Control::of(keys, version).unwrap_or_else(|reason| panic!("control.json, version {version:?}: {reason}"));
    }
    replace(&home.join(FILE), &whole.to_string());
}

fn load(home: &Path) -> Result<Map<String, Value>, String> {
    match fs::read(home.join(FILE)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Map::new()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_version_may_be_told_something_else() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Control::read(folder.path(), "v1"), Control::default());
        change(folder.path(), |control| control["linger_ms"] = 5.into());
        change(folder.path(), |control| {
            control["accepted"] = json!({"tag": "v2", "height": 7});
            control["rpc"] = "ready_without_release".into();
            control["needs_postgres"] = json!({"socket": "/x"});
            control["by_version"] = json!({"v2": {"linger_ms": 6, "rpc": "null"}});
        });
        let accepted = Some(Accepted { tag: "v2".to_owned(), height: 7 });
        let needs_postgres = Some(Postgres::Unix { socket: "/x".into() });
        let v1 =
            Control { linger_ms: 5, accepted, needs_postgres, rpc: Rpc::ReadyWithoutRelease, ..Control::default() };
        assert_eq!(Control::read(folder.path(), "v1"), v1);
        assert_eq!(Control::read(folder.path(), "v2"), Control { linger_ms: 6, rpc: Rpc::Null, ..v1 });
    }

    #[test]
    #[should_panic(expected = "unknown field `reddy`")]
    fn what_is_misspelt_for_one_version_is_found_at_once() {
        let folder = tempfile::tempdir().unwrap();
        change(folder.path(), |control| control["by_version"] = json!({"v2": {"reddy": true}}));
    }
}
