//! Whether the calendar clock can be believed: a clock that jumped ahead must not fire every upgrade of the next year.

use std::time::Duration;

use crate::time::{Now, Timestamp};

/// A jump ahead by more than this is doubted. Time daemons step a clock by less than a second once they run, and slew what
/// is below that; a leap second is one.
const JUMP: Duration = Duration::from_secs(60);

/// How long what became due by a jump waits for the clock to be set back. A time daemon that starts with a wrong clock
/// corrects it within some of its polls, of 64 seconds each.
const CONFIRMATION: Duration = Duration::from_secs(10 * 60);

/// What is known of the calendar clock. Both of its parts are lost with the supervisor: the next one believes what it finds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calendar {
    /// When the two clocks were compared last, while this one was believed.
    believed: Now,
    doubt: Option<Doubt>,
}

/// A jump that is not believed.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// Until when (monotonic).
    until: Duration,
    /// What the clock said when it was seen.
    since: Timestamp,
}

impl Calendar {
    pub(super) fn new(now: Now) -> Self {
        Self { believed: now, doubt: None }
    }

    /// To be called whenever there is a new time: at the latest when the clock was set.
    pub(super) fn look(&mut self, now: Now) {
        let jumped = now.wall.since(self.expected(now)) > JUMP;
        match self.doubt {
            Some(doubt) if jumped && now.monotonic < doubt.until => {}
            None if jumped => self.doubt = Some(Doubt { until: now.monotonic + CONFIRMATION, since: now.wall }),
            _ => *self = Self::new(now),
        }
    }

    /// What the clock would say if it had not jumped.
    fn expected(&self, now: Now) -> Timestamp {
        self.believed.wall.plus(now.monotonic.saturating_sub(self.believed.monotonic))
    }

    /// Whether this time has come, as far as is known.
    pub(super) fn has_come(&self, now: Now, time: Timestamp) -> bool {
        time <= now.wall && (self.doubt.is_none() || time <= self.expected(now))
    }

    /// Whether what was published then was published by the clock as it has been since it jumped.
    pub(super) fn is_of_the_jump(&self, now: Now, published: Timestamp) -> bool {
        self.doubt.is_some_and(|doubt| (doubt.since..=now.wall).contains(&published))
    }

    /// Until when (monotonic) a jump is doubted, and how far it went.
    pub(super) fn doubted(&self, now: Now) -> Option<(Duration, Duration)> {
        self.doubt.map(|doubt| (doubt.until, now.wall.since(self.expected(now))))
    }
}
