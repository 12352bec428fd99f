//! Reads the log that fake nodes write. What a line means is decided in `daemon`; nothing here waits.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::process;

/// Which of the processes that make up one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A core node of Vega.
    Core,
    /// A data node of Vega.
    Datanode,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Event {
    /// `start`, `double`, `refused`, `grandchild`, `signal`, `dies`, `exit`, or `segment` (asked for its latest).
    pub event: String,
    /// Which process of the node; `None` of one that is a single process.
    pub kind: Option<Kind>,
    /// Who wrote it.
    pub pid: u32,
    /// The version of the node that wrote it.
    pub version: String,
    /// When, by CLOCK_MONOTONIC, in nanoseconds.
    pub mono_ns: u64,
    /// The arguments of a `start` or `segment`.
    #[serde(default)]
    pub args: Vec<String>,
    /// The signal of a `signal` or `dies`.
    pub signal: Option<i32>,
    /// The code of an `exit`.
    pub code: Option<i32>,
    /// When the process was started, in ticks since boot (`start` and `grandchild`).
    started: Option<u64>,
}

impl Event {
    /// Whether it is the end of a process, as far as the process itself can tell.
    fn is_end(&self) -> bool {
        matches!(self.event.as_str(), "dies" | "exit" | "refused")
    }
}

/// In a few words, such as `core v0.74.0 signal 15`.
impl fmt::Display for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match self.kind {
            Some(Kind::Core) => "core",
            Some(Kind::Datanode) => "datanode",
            None => "node",
        };
        write!(out, "{who} {} {}", self.version, self.event)?;
        self.signal.or(self.code).map_or(Ok(()), |number| write!(out, " {number}"))
    }
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

    /// The latest start of this kind.
    pub fn last_start_of(&self, kind: Kind) -> Option<Event> {
        self.starts().into_iter().rfind(|logged| logged.kind == Some(kind))
    }

    /// How often a grandchild that forks has started another one.
    pub fn forks(&self) -> u64 {
        fs::metadata(crate::daemon::grandchild::forks(&self.path)).map_or(0, |file| file.len())
    }

    /// What happened, in order, each in a few words; grandchildren are left out.
    pub fn story(&self) -> Vec<String> {
        let told = self.events().into_iter().filter(|logged| logged.event != "grandchild");
        told.map(|logged| logged.to_string()).collect()
    }

    /// How long nothing ran before this version did: from the last word of the last process before it to its own first
    /// one. `None` if it never started, if nothing ran before it, or if one was killed or ran on: that leaves no last
    /// word.
    pub fn outage_before(&self, version: &str) -> Option<Duration> {
        let events = self.events();
        let first = events.iter().position(|logged| logged.event == "start" && logged.version == version)?;
        let (before, begin) = (&events[..first], events[first].mono_ns);
        let mut last = None;
        for kind in [None, Some(Kind::Core), Some(Kind::Datanode)] {
            let started = before.iter().rposition(|logged| logged.event == "start" && logged.kind == kind);
            let Some(started) = started else { continue };
            let pid = before[started].pid;
            let end = before[started..].iter().rfind(|logged| logged.pid == pid && logged.is_end())?;
            last = last.max(Some(end.mono_ns));
        }
        Some(Duration::from_nanos(begin.checked_sub(last?)?))
    }

    /// The signals the node of this process has logged.
    pub fn signals_of(&self, pid: u32) -> Vec<i32> {
        self.of("signal").into_iter().filter(|logged| logged.pid == pid).filter_map(|logged| logged.signal).collect()
    }

    /// The nodes that are alive; one that is dead and not reaped is not.
    pub fn running(&self) -> Vec<Running> {
        self.alive("start", |_| true)
    }

    /// The processes of this kind that are alive.
    pub fn running_of(&self, kind: Kind) -> Vec<Running> {
        self.alive("start", |logged| logged.kind == Some(kind))
    }

    /// The forgotten children of nodes that are alive.
    pub fn grandchildren(&self) -> Vec<Running> {
        self.alive("grandchild", |_| true)
    }

    /// Fails if two nodes (of Vega: two of one kind on one home) ever ran at the same time.
    pub fn assert_never_double(&self) {
        let events = self.events();
        let double = events.iter().find(|logged| logged.event == "double");
        assert!(double.is_none(), "two nodes ran at once, the second was {double:?}; everything: {events:#?}");
    }

    fn alive(&self, event: &str, which: impl Fn(&Event) -> bool) -> Vec<Running> {
        self.of(event)
            .into_iter()
            .filter(which)
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

    fn log_of(folder: &tempfile::TempDir, lines: &[(u64, u32, &str, &str, &str)]) -> NodeLog {
        let path = folder.path().join("log");
        let lines = lines.iter().map(|(mono_ns, pid, kind, version, event)| {
            format!(r#"{{"event":"{event}","pid":{pid},"kind":"{kind}","version":"{version}","mono_ns":{mono_ns}}}"#)
                + "\n"
        });
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        NodeLog::new(&path)
    }

    #[test]
    fn an_outage_begins_with_the_last_word_of_the_old_and_ends_with_the_first_of_the_new() {
        let folder = tempfile::tempdir().unwrap();
        // The first core was killed long before; that is another outage.
        let old = [
            (10, 1, "core", "v1", "start"),
            (20, 2, "datanode", "v1", "start"),
            (30, 3, "core", "v1", "start"),
            (40, 3, "core", "v1", "exit"),
        ];
        let ended = (45, 2, "datanode", "v1", "exit");
        let new = [(50, 4, "core", "v2", "start"), (60, 5, "datanode", "v2", "start")];
        let log = log_of(&folder, &[&old[..], &[ended], &new[..]].concat());
        assert_eq!(log.outage_before("v2"), Some(Duration::from_nanos(5)));
        assert_eq!(log.outage_before("v1"), None, "nothing ran before");
        assert_eq!(log.outage_before("v3"), None, "it never started");
        assert_eq!(log.story()[3..6], ["core v1 exit", "datanode v1 exit", "core v2 start"]);
        assert_eq!(log.last_start_of(Kind::Datanode).unwrap().pid, 5);

        let log = log_of(&folder, &[&old[..], &new[..], &[ended]].concat());
        assert_eq!(log.outage_before("v2"), None, "one ran on");
    }
}
