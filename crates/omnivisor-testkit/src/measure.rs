//! What benchmarks share: a clock, the end of a process, and a table.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC in nanoseconds, as the fake nodes log it.
pub fn mono_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

/// A handle of a running process, to hand to [`gone`].
pub fn pidfd(pid: u32) -> OwnedFd {
    pidfd_open(Pid::from_raw(pid.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap()
}

/// Waits until the process is gone and says when that was.
pub fn gone(pidfd: &OwnedFd) -> u64 {
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None).unwrap();
    mono_ns()
}

/// The calls of a trace by `strace -f -ttt` that were begun between this time (seconds of the calendar clock) and the next
/// execution of a program: their names, and what they were given.
pub fn calls_before_exec(trace: &str, from: f64) -> Vec<String> {
    let mut calls = Vec::new();
    for line in trace.lines() {
        let mut words = line.split_whitespace().skip(1);
        let Some(time) = words.next().and_then(|time| time.parse::<f64>().ok()) else { continue };
        let call = words.next().unwrap_or_default();
        if time < from || call.starts_with(['<', '+']) {
            continue;
        }
        if call.starts_with("execve") {
            break;
        }
        let words: Vec<&str> = [call].into_iter().chain(words.take_while(|word| *word != "=")).collect();
        calls.push(words.join(" "));
    }
    calls
}

/// The calendar clock, as `strace -ttt` has it.
pub fn calendar() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Minimum, median, maximum.
pub fn spread(mut all: Vec<Duration>) -> String {
    all.sort();
    let ms = |duration: Duration| format!("{:.2}", duration.as_secs_f64() * 1000.0);
    format!("{} / {} / {} ms", ms(all[0]), ms(all[all.len() / 2]), ms(all[all.len() - 1]))
}

/// The head of the table.
pub fn head() {
    row("what (min / median / max where several)", "limit", "found");
    println!("|{}|{}|{}|", "-".repeat(72), "-".repeat(14), "-".repeat(32));
}

/// One line of the table.
pub fn row(what: &str, limit: &str, found: &str) {
    println!("| {what:<70} | {limit:>12} | {found:<30} |");
}
