//! The clocks, and timers on them.
//!
//! Durations run on the clock that counts suspended time; calendar times on the wall clock, whose timer also fires when
//! somebody sets that clock, so that a time is never missed and never waited for too long.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use omnivisor_core::time::{Now, Timestamp};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::sys;

/// What both clocks say.
pub fn now() -> Now {
    Now { monotonic: monotonic(), wall: wall() }
}

fn monotonic() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn wall() -> Timestamp {
    // By the C library, so that a test can give one process another clock.
    let nanos = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp::from_unix_nanos(now.map_or_else(|before| -nanos(before.duration()), nanos))
}

/// A timer that can be moved and awaited.
pub struct Timer {
    fd: AsyncFd<OwnedFd>,
    wall: bool,
    set: Option<i128>,
}

impl Timer {
    /// One on the clock that never jumps.
    pub fn monotonic() -> io::Result<Self> {
        Self::new(TimerfdClockId::Boottime, false)
    }

    /// One on the calendar clock.
    pub fn wall() -> io::Result<Self> {
        Self::new(TimerfdClockId::Realtime, true)
    }

    fn new(clock: TimerfdClockId, wall: bool) -> io::Result<Self> {
        let fd = timerfd_create(clock, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { fd: sys::awaitable(fd)?, wall, set: None })
    }

    /// Fires at this time (nanoseconds on its clock), or not at all. Setting it to what it is set to costs nothing.
    pub fn set(&mut self, at: Option<i128>) -> io::Result<()> {
        if self.set == at {
            return Ok(());
        }
        let spec = at.map_or(Timespec::default(), |nanos| {
            let nanos = nanos.max(1); // zero would disarm it
            let second = 1_000_000_000;
            Timespec {
                tv_sec: i64::try_from(nanos / second).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(nanos % second).unwrap_or(0),
            }
        });
        let mut flags = TimerfdTimerFlags::ABSTIME;
        if self.wall {
            flags |= TimerfdTimerFlags::CANCEL_ON_SET;
        }
        let every = Itimerspec { it_interval: Timespec::default(), it_value: spec };
        timerfd_settime(self.fd.get_ref(), flags, &every)?;
        self.set = at;
        Ok(())
    }

    /// Waits until it fires, or until the clock it is on was set. Cancel-safe.
    pub async fn fired(&mut self) {
        loop {
            let Ok(mut guard) = self.fd.readable().await else { return std::future::pending().await };
            match rustix::io::read(self.fd.get_ref(), &mut [0_u8; 8]) {
                Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
                _ => {
                    guard.clear_ready();
                    self.set = None; // after a change of the clock it has to be set anew
                    return;
                }
            }
        }
    }
}
