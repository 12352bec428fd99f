//! How a new release proves itself: a probe as data, and a verdict over what was seen.
//!
//! Absent here: looking at anything. The shell takes the looks of a probe and reports what it saw.

mod check;
mod seen;

use std::time::Duration;

pub use self::check::{Answer, Call, Check, Expected, HttpCheck, JsonCheck, Sighting, shown};
pub use self::seen::{Observed, Verdict};

/// What a release has to show before it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthProbe {
    /// It has to stay alive this long without a break.
    pub window: Duration,
    /// How often it may die in its window before it counts as sick. At least 1.
    pub deaths: u32,
    /// And it has to have answered, for a node that can be asked.
    pub answers: bool,
    /// And all of this has to be true of it. They are looked at together: that is a sample.
    pub checks: Vec<Check>,
    /// How often that is looked at.
    pub rhythm: Rhythm,
}

/// When the checks of a probe are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// From the end of one sample to the start of the next.
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// So many failed samples in a row, after a good one, are sickness before the window ends. At least 1.
    pub failures: u32,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { interval: Duration::from_secs(5), timeout: Duration::from_secs(10), failures: 3 }
    }
}

impl HealthProbe {
    /// Whether the node has to say by itself that it is ready.
    pub fn waits_for_ready(&self) -> bool {
        self.checks.contains(&Check::Notify)
    }

    /// What an operator should know of it: a window in which a height that stands still could not be told from one that grows.
    pub fn doubt(&self) -> Option<String> {
        let within = self.checks.iter().filter_map(|check| match check {
            Check::Json(JsonCheck { expected: Expected::Advances { within }, .. }) => Some(*within),
            _ => None,
        });
        let needed = within.max()?.saturating_add(self.rhythm.interval);
        let said = humantime::format_duration;
        (self.window < needed).then(|| {
            format!(
                "the probe's window of {} is too short to tell a height that stands still from one that grows: the verdict \
                 comes up to {} after a new release was started; a longer probe.window, or a shorter interval and within, \
                 would be right",
                said(self.window),
                said(needed.saturating_add(self.rhythm.timeout))
            )
        })
    }
}

/// How long a node has left us without an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// Whether it has ever answered, or taken a question.
    heard: bool,
    /// Questions in a row that failed.
    failures: u64,
    /// Whether that was too much already.
    told: bool,
}

impl Silence {
    /// It answered.
    pub fn answered(&mut self) {
        *self = Self { heard: true, failures: 0, told: false };
    }

    /// It takes questions: what it replays at its start is behind it, or it hangs.
    pub fn listens(&mut self) {
        self.heard = true;
    }

    /// It did not; true when that has become too much, once. `again` says whether it was started after a failure.
    pub fn failed(&mut self, patience: &Patience, again: bool) -> bool {
        self.failures = self.failures.saturating_add(1);
        let limit = match self.heard || again {
            true => patience.again.min(patience.first),
            false => patience.first,
        };
        let is_news = !self.told && self.failures >= limit.max(1);
        self.told |= is_news;
        is_news
    }
}

/// How many questions in a row a node may leave without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Before it has answered for the first time.
    pub first: u64,
    /// After a restart, or once it has answered.
    pub again: u64,
    /// Whether it is then restarted; else it is only said.
    pub restart: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_told_once_and_later_of_a_node_that_is_starting() {
        let patience = Patience { first: 5, again: 2, restart: false };
        let told =
            |silence: &mut Silence, again, times| (0..times).filter(|_| silence.failed(&patience, again)).count();
        let mut silence = Silence::default();
        assert_eq!((told(&mut silence, false, 4), told(&mut silence, false, 10)), (0, 1));
        silence.answered();
        assert_eq!((told(&mut silence, false, 1), told(&mut silence, false, 10)), (0, 1));
        assert_eq!(told(&mut Silence::default(), true, 2), 1, "after a failure it has to be there sooner");
        let mut silence = Silence::default();
        assert_eq!(told(&mut silence, false, 4), 0);
        silence.listens();
        assert_eq!(told(&mut silence, false, 9), 1, "somebody is there and says nothing");
        let none = Patience { first: 0, again: 0, restart: false };
        assert!(Silence::default().failed(&none, false));
    }
}
