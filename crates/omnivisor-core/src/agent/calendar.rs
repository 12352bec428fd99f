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
    /// Until when (monotonic) a jump since then is doubted.
    doubted_until: Option<Duration>,
}

impl Calendar {
    pub(super) fn new(now: Now) -> Self {
        Self { believed: now, doubted_until: None }
    }

    /// To be called whenever there is a new time: at the latest when the clock was set.
    pub(super) fn look(&mut self, now: Now) {
        let jumped = now.wall.since(self.expected(now)) > JUMP;
        match self.doubted_until {
            Some(until) if jumped && now.monotonic < until => {}
            None if jumped => self.doubted_until = Some(now.monotonic + CONFIRMATION),
            _ => *self = Self::new(now),
        }
    }

    /// What the clock would say if it had not jumped.
    fn expected(&self, now: Now) -> Timestamp {
        self.believed.wall.plus(now.monotonic.saturating_sub(self.believed.monotonic))
    }

    /// Whether this time has come, as far as is known.
    pub(super) fn has_come(&self, now: Now, time: Timestamp) -> bool {
        time <= now.wall && (self.doubted_until.is_none() || time <= self.expected(now))
    }

    /// Until when (monotonic) a jump is doubted, and how far it went.
    pub(super) fn doubted(&self, now: Now) -> Option<(Duration, Duration)> {
        self.doubted_until.map(|until| (until, now.wall.since(self.expected(now))))
    }
}
