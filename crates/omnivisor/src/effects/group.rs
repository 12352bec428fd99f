//! All processes of a node, wherever they have gone: seen, asked to end, killed, and waited for until none is left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use omnivisor_core::supervisor::Seen;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group, pidfd_send_signal, test_kill_process_group};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::cgroup::Cgroup;
use super::children;
use super::process::{ProcessId, Stat, all_pids, mark_of, open_pidfd};
use super::roll_call::holds;
use crate::store::lock::{Lock, LockError};

/// How often a group that is being stopped is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// How long each look may kill what is born meanwhile: a process that forks and ends is caught within a few tries, of which
/// each takes a tenth of a millisecond. The loop stands still meanwhile.
const KILLING: Duration = Duration::from_millis(5);

/// What was not started here is looked for so often before it is believed to be gone: what forks and ends may be missed.
const LOOKS: usize = 3;

/// How long after the kill a lock may be held by somebody who cannot be seen. Then the start is tried, and says what is wrong.
const UNSEEN: Duration = Duration::from_secs(10);

/// How a node's processes are known outside of their groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kin {
    /// The mark in their environment.
    pub mark: String,
    /// The lock that they have inherited.
    pub lock: PathBuf,
    /// The cgroup that they are in, if there is one.
    pub cgroup: Option<Cgroup>,
}

/// The processes of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The process groups that these processes lead, or led.
    led: Vec<i32>,
    /// And these processes.
    only: Vec<ProcessId>,
    /// Whether all of it was started by this process: then all of it is below us, where that can be told.
    ours: bool,
    kin: Kin,
}

impl Group {
    /// What was started here or somewhere else, with the groups that it leads.
    pub(super) fn new(led: Vec<i32>, only: Vec<ProcessId>, ours: bool, kin: Kin) -> Self {
        Self { led, only, ours, kin }
    }

    /// These processes, and what else is known for kin of theirs.
    pub fn of(processes: Vec<ProcessId>, kin: Kin) -> Self {
        Self { led: Vec::new(), only: processes, ours: false, kin }
    }

    /// Whether none of them is left; zombies, which only wait for their parent, do not count.
    pub fn is_empty(&self) -> bool {
        !self.only.iter().any(|process| process.is_alive()) && self.members().is_empty() && !self.holds_lock()
    }

    /// Those that are left. A tenth of a millisecond, if all of it is ours; else a look at every process of the machine, which
    /// is one to ten.
    pub fn members(&self) -> Vec<ProcessId> {
        let mut left = self.only.clone();
        left.retain(|process| process.is_alive());
        let below = children::of_node(&self.kin.mark);
        if !self.ours || below.is_none() {
            left.extend(in_groups(&self.led));
            left.extend(marked(&self.kin.mark));
            left.extend(holders(&self.kin.lock));
        }
        left.extend(below.into_iter().flatten());
        left.extend(self.kin.cgroup.iter().flat_map(Cgroup::members));
        let own = std::process::id().cast_signed();
        let by_pid: BTreeMap<i32, ProcessId> = left.into_iter().map(|process| (process.pid, process)).collect();
        by_pid.into_values().filter(|process| process.pid != own).collect()
    }

    /// Sends a signal to these members of it, and to its groups: what is born in them meanwhile gets it, too.
    pub fn signal(&self, members: &[ProcessId], signal: Signal) {
        if let Some(cgroup) = self.kin.cgroup.as_ref().filter(|_| signal == Signal::KILL) {
            cgroup.kill();
        }
        let outside: Vec<_> = members.iter().copied().filter(|process| !self.is_in_group(process)).collect();
        for id in self.led.iter().filter_map(|group| Pid::from_raw(*group)) {
            let _ = kill_process_group(id, signal);
        }
        self::signal(&outside, signal);
    }

    /// Reports when the last one is gone. With `kill`, whatever is left or is still being born is killed until then. It has to
    /// be ended before another node is started: it would take that for the same.
    pub fn watch_empty(self, kill: bool, report: UnboundedSender<Seen>) -> AbortHandle {
        let watch = tokio::spawn(async move {
            let begun = Instant::now();
            let mut known: Vec<ProcessId> = Vec::new();
            let mut in_vain = 0;
            loop {
                // As long as one of those is there, nobody has to look for others.
                if !known.iter().any(|process| process.is_alive()) {
                    known = self.members();
                    in_vain = if known.is_empty() { in_vain + 1 } else { 0 };
                    let is_unseen = self.holds_lock() && !(kill && begun.elapsed() > UNSEEN);
                    if in_vain >= if self.ours { 1 } else { LOOKS } && !is_unseen {
                        break;
                    }
                }
                if kill {
                    known = self.kill_all();
                }
                tokio::time::sleep(LOOK).await;
            }
            let _ = report.send(Seen::GroupEmpty);
        });
        watch.abort_handle()
    }

    /// Kills all, and what they have started meanwhile; those that were seen last.
    fn kill_all(&self) -> Vec<ProcessId> {
        let begun = Instant::now();
        let mut killed: Vec<ProcessId> = Vec::new();
        if !self.ours {
            self.kill_as_found(begun);
        }
        loop {
            let members = self.members();
            let is_new = |process: &ProcessId| !killed.contains(process);
            if !members.iter().any(is_new) || begun.elapsed() > KILLING {
                return members;
            }
            self.signal(&members, Signal::KILL);
            killed.extend(members);
        }
    }

    /// At once as each is found: by the end of a look at every process of the machine one may have started another and ended.
    fn kill_as_found(&self, begun: Instant) {
        let mut found = true;
        while found && begun.elapsed() < KILLING {
            found = false;
            each_marked(&self.kin.mark, |process| {
                found = true;
                self::signal(&[process], Signal::KILL);
            });
        }
        if self.holds_lock() {
            each_holder(&self.kin.lock, |process| self::signal(&[process], Signal::KILL));
        }
    }

    /// Whether somebody holds the lock of a node that is not ours, seen or not.
    fn holds_lock(&self) -> bool {
        !self.ours && is_held(&self.kin.lock)
    }

    fn is_in_group(&self, process: &ProcessId) -> bool {
        !self.led.is_empty() && Stat::of(process.pid).is_some_and(|stat| self.led.contains(&stat.group))
    }
}

/// Sends a signal to these processes. One that is gone already is no error.
pub fn signal(processes: &[ProcessId], signal: Signal) {
    for process in processes {
        if let Ok(pidfd) = open_pidfd(*process) {
            let _ = pidfd_send_signal(pidfd, signal);
        }
    }
}

/// The processes that are in one of these process groups.
pub fn in_groups(groups: &[i32]) -> Vec<ProcessId> {
    let is_there =
        |group: &i32| Pid::from_raw(*group).is_some_and(|it| test_kill_process_group(it) != Err(Errno::SRCH));
    if !groups.iter().any(is_there) {
        return Vec::new();
    }
    let is_member = |pid: &i32| Stat::of(*pid).is_some_and(|stat| groups.contains(&stat.group));
    all_pids().filter(is_member).filter_map(ProcessId::of).collect()
}

/// The processes with this mark in their environment.
fn marked(mark: &str) -> Vec<ProcessId> {
    let mut found = Vec::new();
    each_marked(mark, |process| found.push(process));
    found
}

fn each_marked(mark: &str, act: impl FnMut(ProcessId)) {
    let is_marked = |pid: &i32| mark_of(*pid).as_deref() == Some(mark.as_bytes());
    newest_first().into_iter().filter(is_marked).filter_map(ProcessId::of).for_each(act);
}

/// The processes that hold this lock. Whether there are any is known without a look at every open file of the machine.
fn holders(lock: &Path) -> Vec<ProcessId> {
    let mut found = Vec::new();
    if is_held(lock) {
        each_holder(lock, |process| found.push(process));
    }
    found
}

fn each_holder(lock: &Path, act: impl FnMut(ProcessId)) {
    newest_first().into_iter().filter(|pid| holds(*pid, lock)).filter_map(ProcessId::of).for_each(act);
}

/// Every process but this one; those first that may be gone before they can be looked at.
fn newest_first() -> Vec<i32> {
    let own = std::process::id().cast_signed();
    let mut pids: Vec<i32> = all_pids().filter(|pid| *pid != own).collect();
    pids.sort_unstable_by_key(|pid| std::cmp::Reverse(*pid));
    pids
}

/// Whether somebody has it: asked by a try, as only the one who supervises the instance takes it.
fn is_held(lock: &Path) -> bool {
    matches!(Lock::try_take(lock), Err(LockError::Held { .. }))
}
