//! What the sample nodes of a demo note, and how it is read: a line for each event, and a line for each beat.
//!
//! Both files are in the demo's folder and not in the node's home: a home is put back as it was, what happened is not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;

const EVENTS: &str = "events";
const BEATS: &str = "beats";

/// Something that a node did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, on the clock that never jumps.
    pub at: Duration,
    /// The process.
    pub pid: u32,
    /// Of which version it is.
    pub version: String,
    /// What.
    pub what: What,
}

/// What a node can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Said who it is.
    Asked,
    /// Began to run.
    Started,
    /// Found these data, or none.
    Found(Option<Data>),
    /// Found data of a newer version, and ended.
    Refused,
    /// Made the data its own.
    Rewrote,
    /// Died.
    Died,
    /// Was asked to end, and left these data.
    Stopped(Data),
}

/// The data of a sample node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// The version that has written them.
    pub version: String,
    /// How many beats there were, of all the nodes that ever had them.
    pub count: u64,
}

/// How long the machine runs: what all processes agree about.
pub fn now() -> Duration {
    clock::now().monotonic
}

/// Where a node notes.
pub struct Notes {
    events: File,
    beats: File,
    version: String,
}

impl Notes {
    /// Opens the notes of a demo.
    pub fn open(folder: &Path, version: &str) -> io::Result<Self> {
        let open = |name| OpenOptions::new().create(true).append(true).open(folder.join(name));
        Ok(Self { events: open(EVENTS)?, beats: open(BEATS)?, version: version.to_owned() })
    }

    /// Notes an event.
    pub fn event(&self, what: What) -> io::Result<()> {
        let event = Event { at: now(), pid: std::process::id(), version: self.version.clone(), what };
        let line = format!("{}\n", serde_json::to_string(&event)?);
        (&self.events).write_all(line.as_bytes())
    }

    /// Notes beats.
    pub fn beats(&self, beats: &[Duration]) -> io::Result<()> {
        let pid = std::process::id();
        let lines: String = beats.iter().map(|at| format!("{pid} {}\n", at.as_nanos())).collect();
        (&self.beats).write_all(lines.as_bytes())
    }
}

/// Everything that happened so far, the oldest first.
#[derive(Debug, Default)]
pub struct Events(Vec<Event>);

impl Events {
    /// Reads them.
    pub fn read(folder: &Path) -> Self {
        let text = fs::read_to_string(folder.join(EVENTS)).unwrap_or_default();
        // What follows the last newline is still being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Self(whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// The first event after `since` that a node of this version did and that is such a one.
    pub fn first(&self, version: &str, since: Duration, is: impl Fn(&What) -> bool) -> Option<&Event> {
        self.0.iter().find(|event| event.version == version && event.at >= since && is(&event.what))
    }

    /// All of them.
    pub fn all(&self) -> &[Event] {
        &self.0
    }

    /// Whether ever a node began to run before the one before it had ended.
    pub fn ever_two_at_once(&self) -> bool {
        let mut runs = None;
        for event in &self.0 {
            match event.what {
                What::Started if runs.is_some() => return true,
                What::Started => runs = Some(event.pid),
                What::Died | What::Stopped(_) | What::Refused if runs == Some(event.pid) => runs = None,
                _ => {}
            }
        }
        false
    }
}

/// The beats of one process.
#[derive(Debug)]
pub struct Beats(Vec<Duration>);

impl Beats {
    /// Reads them.
    pub fn read(folder: &Path, pid: u32) -> Self {
        let text = fs::read_to_string(folder.join(BEATS)).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let beat = |line: &str| {
            let (of, at) = line.split_once(' ')?;
            (of.parse() == Ok(pid)).then(|| at.parse().ok().map(Duration::from_nanos))?
        };
        Self(whole.lines().filter_map(beat).collect())
    }

    /// How many there were after a time.
    pub fn after(&self, since: Duration) -> usize {
        self.0.iter().filter(|at| **at > since).count()
    }

    /// The longest pause between two of them, from the last one before `since` on.
    pub fn longest_pause(&self, since: Duration) -> Duration {
        let pauses = self.0.windows(2).filter(|pair| pair[1] > since).map(|pair| pair[1].saturating_sub(pair[0]));
        pauses.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(of: &[(u32, What)]) -> Events {
        let event = |(pid, what): &(u32, What)| Event {
            at: Duration::ZERO,
            pid: *pid,
            version: "1".to_owned(),
            what: what.clone(),
        };
        Events(of.iter().map(event).collect())
    }

    #[test]
    fn two_at_once_are_noticed() {
        let left = || What::Stopped(Data { version: "1".to_owned(), count: 1 });
        assert!(!events(&[(1, What::Started), (1, left()), (2, What::Started), (2, What::Died)]).ever_two_at_once());
        assert!(events(&[(1, What::Started), (2, What::Started), (1, left())]).ever_two_at_once());
    }

    #[test]
    fn the_pause_in_which_something_happened_counts() {
        let at = |times: &[u64]| Beats(times.iter().map(|at| Duration::from_millis(*at)).collect());
        let since = Duration::from_millis(150);
        assert_eq!(at(&[0, 90, 100, 160, 180]).longest_pause(since), Duration::from_millis(60));
        assert_eq!(at(&[0, 90, 100]).longest_pause(since), Duration::ZERO);
    }
}
