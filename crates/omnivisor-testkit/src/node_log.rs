//! Reads the log that fake nodes write. What a line means is decided in `fake_node`; nothing here waits.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::process;

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Event {
    /// `start`, `double`, `refused`, `grandchild`, `signal`, `dies` or `exit`.
    pub event: String,
    /// Who wrote it.
    pub pid: u32,
    /// The version of the node that wrote it.
    pub version: String,
    /// When, by CLOCK_MONOTONIC, in nanoseconds.
    pub mono_ns: u64,
    /// The arguments of a `start`.
    #[serde(default)]
    pub args: Vec<String>,
    /// The signal of a `signal` or `dies`.
    pub signal: Option<i32>,
    /// The code of an `exit`.
    pub code: Option<i32>,
    /// When the process was started, in ticks since boot (`start` and `grandchild`).
    started: Option<u64>,
}

/// A process that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub pid: u32,
    /// The version of the node.
    pub version: String,
}

/// The log of all the fake nodes of one sandbox.
#[derive(Clone, Debug)]
pub struct NodeLog {
    path: PathBuf,
}

impl NodeLog {
    /// The log at this path, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Everything logged so far, oldest first.
    pub fn events(&self) -> Vec<Event> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        // What follows the last newline is still being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in the node log: {line}")))
            .collect()
    }

    /// The events of one kind.
    pub fn of(&self, event: &str) -> Vec<Event> {
        self.events().into_iter().filter(|logged| logged.event == event).collect()
    }

    /// Every start of a node, oldest first.
    pub fn starts(&self) -> Vec<Event> {
        self.of("start")
    }

    /// The latest start.
    pub fn last_start(&self) -> Option<Event> {
        self.starts().pop()
    }

    /// The signals the node of this process has logged.
    pub fn signals_of(&self, pid: u32) -> Vec<i32> {
        self.of("signal").into_iter().filter(|logged| logged.pid == pid).filter_map(|logged| logged.signal).collect()
    }

    /// The nodes that are alive; one that is dead and not reaped is not.
    pub fn running(&self) -> Vec<Running> {
        self.alive("start")
    }

    /// The forgotten children of nodes that are alive.
    pub fn grandchildren(&self) -> Vec<Running> {
        self.alive("grandchild")
    }

    /// Fails if two nodes ever ran at the same time.
    pub fn assert_never_double(&self) {
        let events = self.events();
        let double = events.iter().find(|logged| logged.event == "double");
        assert!(double.is_none(), "two nodes ran at once, the second was {double:?}; everything: {events:#?}");
    }

    fn alive(&self, event: &str) -> Vec<Running> {
        self.of(event)
            .into_iter()
            .filter(|logged| logged.started.is_some() && process::started(logged.pid) == logged.started)
            .map(|logged| Running { pid: logged.pid, version: logged.version })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Sandbox, wait_until};
    use std::process::{Command, Stdio};
    use std::time::Duration;

    fn start_line(pid: u32, version: &str) -> String {
        let started = process::started(pid).unwrap();
        format!("{{\"event\":\"start\",\"pid\":{pid},\"version\":\"{version}\",\"mono_ns\":5,\"started\":{started}}}\n")
    }

    #[test]
    fn a_dead_node_is_not_running_even_before_it_is_reaped() {
        let sandbox = Sandbox::new();
        let log = sandbox.node_log();
        assert_eq!(log.last_start(), None);
        let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        // The second line is not finished.
        std::fs::write(sandbox.node_log_path(), start_line(pid, "1.0.0") + "{\"event\":\"do").unwrap();
        assert_eq!(log.running(), [Running { pid, version: "1.0.0".to_owned() }]);
        drop(child.stdin.take());
        wait_until("the node to be gone", Duration::from_secs(10), || log.running().is_empty().then_some(()));
        child.wait().unwrap();
        assert_eq!(log.starts().len(), 1);
        log.assert_never_double();
    }

    #[test]
    #[should_panic(expected = "two nodes ran at once")]
    fn two_at_once_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "{\"event\":\"double\",\"pid\":1,\"version\":\"1\",\"mono_ns\":1}\n").unwrap();
        NodeLog::new(&path).assert_never_double();
    }
}
