//! What was seen of a release that is being probed, and the verdict over that.

use std::time::Duration;

use serde_json::Value;

use super::check::{self, Answer, Check, Expected, JsonCheck, Sighting};
use super::{HealthProbe, Rhythm};

/// What was seen of a release since its probe began, in this life of the supervisor and in this life of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Since when it is alive (monotonic), if it is.
    alive_since: Option<Duration>,
    /// What the last sample has shown.
    last_sample: Option<Sample>,
    /// Failed samples in a row up to the last one.
    failures: u32,
    /// Whether one was ever good.
    succeeded: bool,
    /// When the last one ended (monotonic); none where the next is not to wait.
    sampled_at: Option<Duration>,
    /// The heights that were seen.
    heights: Vec<Height>,
    /// Whether it has said that it is ready.
    ready: bool,
    /// Whether it answered.
    answered: bool,
}

/// What a sample has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sample {
    Well,
    /// Neither, as something has to be seen more than once; and what.
    Undecided(String),
    Failed(String),
}

/// How far something has counted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Height {
    of: JsonCheck,
    highest: u128,
    /// When it was seen to reach that (monotonic).
    since: Duration,
    /// Whether it has grown since it was seen first.
    grew: bool,
}

/// What the probe says so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet; look again then (monotonic), or when something happens.
    Pending(Option<Duration>),
    /// The checks are to be looked at now.
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

    /// It has answered when it was asked something.
    pub fn answered(&mut self) {
        self.answered = true;
    }

    /// It has said that it is ready. That is worth a sample at once.
    pub fn ready(&mut self) {
        if !self.ready {
            (self.ready, self.sampled_at) = (true, None);
        }
    }

    /// The checks were looked at, each of them. The first that failed says why; one that cannot be judged yet makes no failure.
    pub fn sampled(&mut self, now: Duration, sightings: Vec<Sighting>) {
        if self.alive_since.is_none() {
            return; // of a life that is over
        }
        let samples: Vec<Sample> = sightings.into_iter().map(|sighting| self.judge(now, sighting)).collect();
        let failed = samples.iter().find(|sample| matches!(sample, Sample::Failed(_)));
        let undecided = samples.iter().find(|sample| matches!(sample, Sample::Undecided(_)));
        let sample = failed.or(undecided).cloned().unwrap_or(Sample::Well);
        self.note(now, sample);
    }

    /// The checks could not be looked at.
    pub fn not_sampled(&mut self, now: Duration, why: String) {
        self.note(now, Sample::Failed(why));
    }

    fn note(&mut self, now: Duration, sample: Sample) {
        self.sampled_at = Some(now);
        match &sample {
            Sample::Well => (self.failures, self.succeeded) = (0, true),
            Sample::Undecided(_) => {}
            Sample::Failed(_) => self.failures = self.failures.saturating_add(1),
        }
        self.last_sample = Some(sample);
    }

    fn judge(&mut self, now: Duration, Sighting { check, answer }: Sighting) -> Sample {
        let judged = match (&check, answer) {
            (_, Err(why)) => Err(why),
            (Check::Notify, Ok(_)) if !self.ready => Err("the node has not sent READY=1 to it yet".to_owned()),
            (Check::Http(http), Ok(Answer::Status(status))) => http.judge(status),
            (Check::Json(json), Ok(Answer::Value(value))) => match &json.expected {
                Expected::Equals(wanted) if value == *wanted => Ok(()),
                Expected::Equals(wanted) => {
                    let (pointer, wanted) = (&json.pointer, check::cut(wanted));
                    Err(format!("{pointer:?} is {}, and {wanted} is wanted", check::cut(&value)))
                }
                Expected::Advances { within } => match self.advance(now, json, *within, &value) {
                    Ok(true) => Ok(()),
                    Ok(false) => return Sample::Undecided(format!("{check}: {:?} has not grown yet", json.pointer)),
                    Err(why) => Err(why),
                },
            },
            (Check::Command(_) | Check::Tcp { .. } | Check::Notify, Ok(_)) => Ok(()),
            (Check::Http(_) | Check::Json(_), Ok(_)) => Err("nothing of what was asked for was seen".to_owned()),
        };
        match judged {
            Ok(()) => Sample::Well,
            Err(why) => Sample::Failed(format!("{check}: {why}")),
        }
    }

    /// Whether it has grown; an error if it has not for too long. What is lower than before has not: it may be another server's
    /// word.
    fn advance(&mut self, now: Duration, json: &JsonCheck, within: Duration, value: &Value) -> Result<bool, String> {
        let pointer = &json.pointer;
        let Some(height) = check::number(value) else {
            return Err(format!("{pointer:?} is {}, and not a whole number", check::cut(value)));
        };
        let Some(known) = self.heights.iter_mut().find(|known| known.of == *json) else {
            self.heights.push(Height { of: json.clone(), highest: height, since: now, grew: false });
            return Ok(false);
        };
        if height > known.highest {
            (known.highest, known.since, known.grew) = (height, now, true);
            return Ok(true);
        }
        let still = now.saturating_sub(known.since);
        if still >= within {
            let still = humantime::format_duration(Duration::from_millis(still.as_millis().try_into().unwrap_or(0)));
            return Err(format!("{pointer:?} has stood at {} for {still}", known.highest));
        }
        Ok(known.grew)
    }

    /// When the checks are to be looked at next (monotonic), if they ever were.
    pub fn next_sample(&self, probe: &HealthProbe) -> Option<Duration> {
        let Rhythm { interval, .. } = probe.rhythm;
        self.sampled_at.filter(|_| !probe.checks.is_empty()).map(|at| at.saturating_add(interval))
    }

    /// The verdict at `now`. Deaths are counted by the journal, which outlives the supervisor.
    pub fn verdict(&self, probe: &HealthProbe, now: Duration) -> Verdict {
        let Some(alive_since) = self.alive_since else { return Verdict::Pending(None) };
        let end = alive_since.saturating_add(probe.window);
        let is_over = now >= end;
        if probe.answers && !self.answered && is_over {
            return Verdict::Pending(None); // until it answers
        }
        if probe.checks.is_empty() {
            return if is_over { Verdict::Healthy } else { Verdict::Pending(Some(end)) };
        }
        // What cannot be judged at the end is looked at until it can be: a height is either seen to grow, or fails in time.
        match &self.last_sample {
            Some(Sample::Failed(why)) if is_over && self.sampled_at.is_some() => {
                return Verdict::Sick(format!("its probe fails at the end of its window: {why}"));
            }
            Some(Sample::Failed(why)) if self.succeeded && self.failures >= probe.rhythm.failures => {
                return Verdict::Sick(format!("its probe failed {} times in a row: {why}", self.failures));
            }
            Some(Sample::Well) if is_over => return Verdict::Healthy,
            _ => {}
        }
        match self.next_sample(probe) {
            Some(next) if now < next => Verdict::Pending(Some(if is_over { next } else { next.min(end) })),
            _ => Verdict::Sample,
        }
    }

    /// What it has not shown yet; none if that is nothing but its time.
    pub fn lacks(&self, probe: &HealthProbe) -> Option<String> {
        let unasked = || "its checks have not been looked at yet".to_owned();
        match &self.last_sample {
            _ if self.alive_since.is_none() => Some("it does not run".to_owned()),
            Some(Sample::Failed(why) | Sample::Undecided(why)) => Some(why.clone()),
            _ if probe.answers && !self.answered => Some("it has not answered yet".to_owned()),
            None if !probe.checks.is_empty() => Some(unasked()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use url::Url;

    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn probe(checks: &[Check]) -> HealthProbe {
        let rhythm = Rhythm { interval: S(5), timeout: S(5), failures: 2 };
        HealthProbe { window: S(60), deaths: 2, answers: false, checks: checks.to_vec(), rhythm }
    }

    fn command() -> Check {
        Check::Command(vec!["true".to_owned()])
    }

    fn height() -> Check {
        let url = Url::parse("http://127.0.0.1/status").unwrap();
        let expected = Expected::Advances { within: S(15) };
        Check::Json(JsonCheck { url, call: None, pointer: "/height".to_owned(), expected })
    }

    fn fine(check: Check) -> Sighting {
        Sighting { check, answer: Ok(Answer::Done) }
    }

    fn bad(check: Check, why: &str) -> Sighting {
        Sighting { check, answer: Err(why.to_owned()) }
    }

    fn at(value: Value) -> Sighting {
        Sighting { check: height(), answer: Ok(Answer::Value(value)) }
    }

    fn why(verdict: Verdict) -> String {
        match verdict {
            Verdict::Sick(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn alive_for_the_window_is_healthy_and_a_death_starts_it_again() {
        let mut seen = Observed::default();
        assert_eq!(seen.verdict(&probe(&[]), S(0)), Verdict::Pending(None));
        seen.up(S(10));
        seen.up(S(20)); // said twice
        assert_eq!(seen.verdict(&probe(&[]), S(69)), Verdict::Pending(Some(S(70))));
        assert_eq!(seen.verdict(&probe(&[]), S(70)), Verdict::Healthy);
        seen.died();
        seen.up(S(71));
        assert_eq!(seen.verdict(&probe(&[]), S(130)), Verdict::Pending(Some(S(131))));
    }

    #[test]
    fn a_node_that_can_be_asked_has_to_answer() {
        let probe = HealthProbe { answers: true, ..probe(&[]) };
        let mut seen = Observed::default();
        seen.up(S(0));
        assert_eq!(seen.verdict(&probe, S(59)), Verdict::Pending(Some(S(60))));
        assert_eq!(seen.verdict(&probe, S(600)), Verdict::Pending(None));
        assert_eq!(seen.lacks(&probe), Some("it has not answered yet".to_owned()));
        seen.answered();
        assert_eq!(seen.verdict(&probe, S(601)), Verdict::Healthy);
        seen.died();
        seen.up(S(700));
        assert_eq!(seen.verdict(&probe, S(800)), Verdict::Pending(None), "its next life has to answer again");
    }

    #[test]
    fn a_check_has_to_succeed_at_the_end() {
        let probe = probe(&[command()]);
        let mut seen = Observed::default();
        seen.up(S(0));
        assert_eq!(seen.verdict(&probe, S(1)), Verdict::Sample);
        seen.sampled(S(1), vec![bad(command(), "1")]);
        assert_eq!(seen.verdict(&probe, S(2)), Verdict::Pending(Some(S(6))));
        seen.sampled(S(58), vec![bad(command(), "1")]);
        let pending = Verdict::Pending(Some(S(60)));
        assert_eq!(seen.verdict(&probe, S(59)), pending, "never well, but it has its window");
        assert!(matches!(seen.verdict(&probe, S(60)), Verdict::Sick(_)));
        seen.sampled(S(60), vec![fine(command())]);
        assert_eq!(seen.verdict(&probe, S(60)), Verdict::Healthy);
    }

    #[test]
    fn a_node_that_was_well_and_falls_sick_is_not_given_the_whole_window() {
        let probe = probe(&[command()]);
        let mut seen = Observed::default();
        seen.up(S(0));
        seen.sampled(S(1), vec![fine(command())]);
        seen.sampled(S(6), vec![bad(command(), "1")]);
        assert_eq!(seen.verdict(&probe, S(7)), Verdict::Pending(Some(S(11))));
        seen.not_sampled(S(11), "1".to_owned());
        assert!(matches!(seen.verdict(&probe, S(11)), Verdict::Sick(_)));
    }

    #[test]
    fn a_window_that_ends_without_a_sample_asks_for_one() {
        let mut seen = Observed::default();
        seen.up(S(0));
        assert_eq!(seen.verdict(&probe(&[command()]), S(61)), Verdict::Sample);
    }

    #[test]
    fn every_check_has_to_succeed_and_the_first_that_fails_says_why() {
        let tcp = || Check::Tcp { host: "127.0.0.1".to_owned(), port: 80 };
        let probe = probe(&[command(), tcp(), height()]);
        let mut seen = Observed::default();
        seen.up(S(0));
        seen.sampled(S(59), vec![fine(command()), bad(tcp(), "closed"), bad(height(), "silent")]);
        assert_eq!(why(seen.verdict(&probe, S(60))), "its probe fails at the end of its window: 127.0.0.1:80: closed");
        assert_eq!(seen.lacks(&probe), Some("127.0.0.1:80: closed".to_owned()));
        // What was noted beside a failure is known.
        seen.sampled(S(61), vec![fine(command()), bad(tcp(), "closed"), at(json!(1))]);
        seen.sampled(S(62), vec![fine(command()), fine(tcp()), at(json!(2))]);
        assert_eq!(seen.verdict(&probe, S(62)), Verdict::Healthy);
    }

    #[test]
    fn a_height_has_to_be_seen_to_grow() {
        let probe = probe(&[height()]);
        let mut seen = Observed::default();
        seen.up(S(0));
        seen.sampled(S(1), vec![at(json!("7"))]);
        assert_eq!(seen.verdict(&probe, S(1)), Verdict::Pending(Some(S(6))));
        assert!(seen.lacks(&probe).unwrap().contains("has not grown yet"));
        seen.sampled(S(6), vec![at(json!("7"))]);
        assert!(seen.lacks(&probe).unwrap().contains("has not grown yet"), "seen twice");
        seen.sampled(S(11), vec![at(json!("8"))]);
        assert_eq!(seen.lacks(&probe), None);
        seen.sampled(S(58), vec![at(json!("9"))]);
        assert_eq!(seen.verdict(&probe, S(60)), Verdict::Healthy);
    }

    #[test]
    fn a_height_may_stand_between_two_blocks_and_no_longer() {
        let probe = probe(&[height()]);
        let mut seen = Observed::default();
        seen.up(S(0));
        seen.sampled(S(1), vec![at(json!(7))]);
        seen.sampled(S(6), vec![at(json!(8))]);
        seen.sampled(S(20), vec![at(json!(8))]);
        assert_eq!(seen.lacks(&probe), None, "fourteen seconds");
        seen.sampled(S(21), vec![at(json!(3))]);
        assert!(seen.lacks(&probe).unwrap().contains("has stood at 8 for 15s"), "lower is no growth");
        seen.sampled(S(26), vec![at(json!(8))]);
        assert!(matches!(seen.verdict(&probe, S(26)), Verdict::Sick(_)));
    }

    #[test]
    fn a_height_that_stands_still_from_the_start_is_sick_at_the_end() {
        let probe = probe(&[height()]);
        let mut seen = Observed::default();
        seen.up(S(0));
        for second in [1, 16, 31, 46, 59] {
            seen.sampled(S(second), vec![at(json!(7))]);
            assert!(!matches!(seen.verdict(&probe, S(second)), Verdict::Sick(_)), "it has its window");
        }
        assert!(why(seen.verdict(&probe, S(60))).contains("has stood at 7"));
    }

    #[test]
    fn a_height_that_is_seen_first_at_the_end_is_looked_at_until_it_is_known() {
        let probe = probe(&[height()]);
        let mut seen = Observed::default();
        seen.up(S(0));
        seen.sampled(S(59), vec![at(json!(7))]);
        assert_eq!(seen.verdict(&probe, S(60)), Verdict::Pending(Some(S(64))));
        let mut grows = seen.clone();
        grows.sampled(S(64), vec![at(json!(8))]);
        assert_eq!(grows.verdict(&probe, S(64)), Verdict::Healthy);
        seen.sampled(S(64), vec![at(json!(7))]);
        seen.sampled(S(74), vec![at(json!(7))]);
        assert!(matches!(seen.verdict(&probe, S(74)), Verdict::Sick(_)));
        seen.died();
        seen.up(S(100));
        seen.sampled(S(101), vec![at(json!(9))]);
        assert!(seen.lacks(&probe).unwrap().contains("has not grown yet"), "its next life has to grow by itself");
    }

    #[test]
    fn a_node_has_to_say_that_it_is_ready_in_each_of_its_lives() {
        let probe = probe(&[Check::Notify]);
        let mut seen = Observed::default();
        seen.up(S(0));
        seen.sampled(S(1), vec![fine(Check::Notify)]);
        assert!(seen.lacks(&probe).unwrap().contains("READY=1"));
        seen.ready();
        assert_eq!(seen.verdict(&probe, S(2)), Verdict::Sample, "at once");
        seen.sampled(S(2), vec![fine(Check::Notify)]);
        seen.ready(); // said twice
        assert_eq!(seen.verdict(&probe, S(3)), Verdict::Pending(Some(S(7))));
        assert_eq!(seen.verdict(&probe, S(60)), Verdict::Healthy);
        seen.died();
        seen.up(S(61));
        seen.sampled(S(120), vec![fine(Check::Notify)]);
        assert!(matches!(seen.verdict(&probe, S(121)), Verdict::Sick(_)));
        seen.ready();
        assert_eq!(seen.verdict(&probe, S(121)), Verdict::Sample, "what was said in time counts");
    }

    #[test]
    fn what_is_seen_of_a_life_that_is_over_counts_for_nothing() {
        let mut seen = Observed::default();
        seen.up(S(0));
        seen.died();
        seen.sampled(S(1), vec![at(json!(7))]);
        assert_eq!(seen, Observed::default());
    }

    #[test]
    fn what_is_asked_for_has_to_be_what_is_said() {
        let url = Url::parse("http://127.0.0.1/status").unwrap();
        let expected = Expected::Equals(json!(false));
        let check = || {
            Check::Json(JsonCheck {
                url: url.clone(),
                call: None,
                pointer: "/catching_up".to_owned(),
                expected: expected.clone(),
            })
        };
        let probe = probe(&[check()]);
        let mut seen = Observed::default();
        seen.up(S(0));
        for value in [json!(true), json!("false"), json!(null)] {
            seen.sampled(S(1), vec![Sighting { check: check(), answer: Ok(Answer::Value(value)) }]);
            assert!(seen.lacks(&probe).unwrap().contains("false is wanted"));
        }
        seen.sampled(S(1), vec![Sighting { check: check(), answer: Ok(Answer::Value(json!(false))) }]);
        assert_eq!(seen.lacks(&probe), None);
    }

    #[test]
    fn a_window_in_which_no_height_can_be_judged_is_doubted() {
        assert_eq!(probe(&[height(), command()]).doubt(), None);
        let short = HealthProbe { window: S(19), ..probe(&[height()]) };
        assert!(short.doubt().unwrap().contains("too short"));
        assert_eq!(HealthProbe { window: S(1), ..probe(&[command()]) }.doubt(), None);
    }
}
