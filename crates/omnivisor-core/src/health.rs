//! How a new release proves itself: a probe as data, and a verdict over what was seen.
//!
//! Absent here: running anything. The shell runs the command of a probe and reports how it ended.

use std::time::Duration;

/// What a release has to show before it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthProbe {
    /// It has to stay alive this long without a break.
    pub window: Duration,
    /// How often it may die in its window before it counts as sick. At least 1.
    pub deaths: u32,
    /// And it has to have answered, for a node that can be asked.
    pub answers: bool,
    /// And this command has to succeed.
    pub command: Option<CommandProbe>,
}

/// A command that exits with 0 when the node is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandProbe {
    /// Program and arguments; no shell is involved.
    pub argv: Vec<String>,
    /// From the end of one run to the start of the next.
    pub interval: Duration,
    /// A run that takes longer counts as failed.
    pub timeout: Duration,
    /// So many failures in a row, after it had succeeded once, are sickness before the window ends. At least 1.
    pub failures: u32,
}

/// What was seen of a release since its probe began, in this life of the supervisor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Since when it is alive (monotonic), if it is.
    pub alive_since: Option<Duration>,
    /// How the last run of the command ended, in this life of the node.
    pub last_sample: Option<Result<(), String>>,
    /// Failures in a row up to the last run.
    pub failures: u32,
    /// Whether it ever succeeded, in this life of the node.
    pub succeeded: bool,
    /// When the last run ended (monotonic).
    pub sampled_at: Option<Duration>,
    /// Whether it answered, in this life of the node.
    pub answered: bool,
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

/// What the probe says so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet; look again then (monotonic), or when something happens.
    Pending(Option<Duration>),
    /// The command is to be run now.
    Sample,
    /// It has shown what it had to.
    Healthy,
    /// It will not, and why.
    Sick(String),
}

impl Observed {
    /// The node was seen running at `now`.
    pub fn up(&mut self, now: Duration) {
        self.alive_since.get_or_insert(now);
    }

    /// The node died: what was seen of its life counts no more.
    pub fn died(&mut self) {
        *self = Self::default();
    }

    /// The command was run and ended.
    pub fn sampled(&mut self, now: Duration, result: Result<(), String>) {
        self.sampled_at = Some(now);
        match &result {
            Ok(()) => {
                self.failures = 0;
                self.succeeded = true;
            }
            Err(_) => self.failures += 1,
        }
        self.last_sample = Some(result);
    }

    /// When the command is to be run next (monotonic), if it ever was.
    pub fn next_sample(&self, probe: &HealthProbe) -> Option<Duration> {
        self.sampled_at.zip(probe.command.as_ref()).map(|(at, command)| at + command.interval)
    }

    /// The verdict at `now`. Deaths are counted by the journal, which outlives the supervisor.
    pub fn verdict(&self, probe: &HealthProbe, now: Duration) -> Verdict {
        let Some(alive_since) = self.alive_since else { return Verdict::Pending(None) };
        let end = alive_since + probe.window;
        if probe.answers && !self.answered && now >= end {
            return Verdict::Pending(None); // until it answers
        }
        let Some(command) = &probe.command else {
            return if now >= end { Verdict::Healthy } else { Verdict::Pending(Some(end)) };
        };
        match &self.last_sample {
            Some(Err(why)) if now >= end => {
                return Verdict::Sick(format!("its probe fails at the end of its window: {why}"));
            }
            Some(Err(why)) if self.succeeded && self.failures >= command.failures => {
                return Verdict::Sick(format!("its probe failed {} times in a row: {why}", self.failures));
            }
            Some(Ok(())) if now >= end => return Verdict::Healthy,
            _ => {}
        }
        match self.next_sample(probe) {
            Some(next) if now < next => Verdict::Pending(Some(next.min(end))),
            _ => Verdict::Sample,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn probe(command: bool) -> HealthProbe {
        let command =
            command.then(|| CommandProbe { argv: vec!["true".to_owned()], interval: S(5), timeout: S(5), failures: 2 });
        HealthProbe { window: S(60), deaths: 2, answers: false, command }
    }

    #[test]
    fn alive_for_the_window_is_healthy_and_a_death_starts_it_again() {
        let mut seen = Observed::default();
        assert_eq!(seen.verdict(&probe(false), S(0)), Verdict::Pending(None));
        seen.up(S(10));
        seen.up(S(20)); // said twice
        assert_eq!(seen.verdict(&probe(false), S(69)), Verdict::Pending(Some(S(70))));
        assert_eq!(seen.verdict(&probe(false), S(70)), Verdict::Healthy);
        seen.died();
        seen.up(S(71));
        assert_eq!(seen.verdict(&probe(false), S(130)), Verdict::Pending(Some(S(131))));
    }

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

    #[test]
    fn a_node_that_can_be_asked_has_to_answer() {
        let probe = HealthProbe { answers: true, ..probe(false) };
        let mut seen = Observed::default();
        seen.up(S(0));
        assert_eq!(seen.verdict(&probe, S(59)), Verdict::Pending(Some(S(60))));
        assert_eq!(seen.verdict(&probe, S(600)), Verdict::Pending(None));
        seen.answered = true;
        assert_eq!(seen.verdict(&probe, S(601)), Verdict::Healthy);
        seen.died();
        seen.up(S(700));
        assert_eq!(seen.verdict(&probe, S(800)), Verdict::Pending(None), "its next life has to answer again");
    }

    #[test]
    fn a_command_has_to_succeed_at_the_end() {
        let mut seen = Observed::default();
        seen.up(S(0));
        assert_eq!(seen.verdict(&probe(true), S(1)), Verdict::Sample);
        seen.sampled(S(1), Err("1".to_owned()));
        assert_eq!(seen.verdict(&probe(true), S(2)), Verdict::Pending(Some(S(6))));
        seen.sampled(S(58), Err("1".to_owned()));
        assert_eq!(
            seen.verdict(&probe(true), S(59)),
            Verdict::Pending(Some(S(60))),
            "never well, but it has its window"
        );
        assert!(matches!(seen.verdict(&probe(true), S(60)), Verdict::Sick(_)));
        seen.sampled(S(60), Ok(()));
        assert_eq!(seen.verdict(&probe(true), S(60)), Verdict::Healthy);
    }

    #[test]
    fn a_node_that_was_well_and_falls_sick_is_not_given_the_whole_window() {
        let mut seen = Observed::default();
        seen.up(S(0));
        seen.sampled(S(1), Ok(()));
        seen.sampled(S(6), Err("1".to_owned()));
        assert_eq!(seen.verdict(&probe(true), S(7)), Verdict::Pending(Some(S(11))));
        seen.sampled(S(11), Err("1".to_owned()));
        assert!(matches!(seen.verdict(&probe(true), S(11)), Verdict::Sick(_)));
    }

    #[test]
    fn a_window_that_ends_without_a_sample_asks_for_one() {
        let mut seen = Observed::default();
        seen.up(S(0));
        assert_eq!(seen.verdict(&probe(true), S(61)), Verdict::Sample);
    }
}
