//! Our children: those that this program has started, and those that come to us when whoever started them is gone.
//!
//! The supervisor is the reaper of everything below it. So what a node has started stays below us, whatever group or session it
//! goes to and whatever it does to its environment, and is found without a look at every process of the machine. After the
//! death of a supervisor the next one is not their parent: then the mark, the lock and the cgroup tell.
//!
//! Nobody waits for "any child": whoever has started one waits for that one, and must not be robbed of its status.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, set_child_subreaper, waitid};
use tokio::signal::unix::{SignalKind, signal};

use super::process::{ProcessId, Stat, mark_of};

/// How often something may have ended before it could be looked at, and have left something else.
const LOOKS: usize = 100;

/// What a child is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is a main process of the node.
    Main,
    /// It answers a question of ours, and so is none of the node's processes.
    Helper,
}

/// The children that somebody in this program waits for. Held while one is being started: before it executes anything, nothing
/// tells it from what a node has left.
static WAITED_FOR: Mutex<Vec<(ProcessId, Role)>> = Mutex::new(Vec::new());

/// Whether what comes to us is the node's.
static ORPHANS_ARE_OURS: AtomicBool = AtomicBool::new(false);

fn waited_for() -> MutexGuard<'static, Vec<(ProcessId, Role)>> {
    WAITED_FOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes this process the parent of every orphan below it, and from then on reaps those that nobody waits for. False if not all
/// that comes to us is the node's: as the first process of a container, or with children from before, which may leave
/// something, too; or if the kernel does not list children. Then nothing is told by its being our child.
///
/// `before` is what an earlier image of this process found. If that could tell, those that nobody waits for have come to us since;
/// if it could not, what its node has left is not below us, and what is below us is not all of it.
pub fn take_orphans(before: Option<bool>) -> io::Result<bool> {
    let mut ended = signal(SignalKind::child())?;
    tokio::spawn(async move {
        while ended.recv().await.is_some() {
            reap();
        }
    });
    let listed = Path::new("/proc/thread-self/children").exists();
    let own = std::process::id();
    let strangers = {
        let waited_for = waited_for();
        of("self").iter().any(|pid| !waited_for.iter().any(|(process, _)| process.pid == *pid))
    };
    if own == 1 || !before.unwrap_or(!strangers) || !listed {
        return Ok(false);
    }
    set_child_subreaper(Pid::from_raw(own.cast_signed()))?;
    ORPHANS_ARE_OURS.store(true, Ordering::Relaxed);
    Ok(true)
}

/// Whether what comes to us is the node's, and so are children that nobody waits for.
pub fn are_orphans_ours() -> bool {
    ORPHANS_ARE_OURS.load(Ordering::Relaxed)
}

/// A child that an earlier image of this process has started, and that is waited for.
pub fn inherit(pid: i32, role: Role) {
    if let Some(stat) = Stat::of(pid) {
        waited_for().push((ProcessId { pid, start_time: stat.start_time }, role));
    }
}

/// Starts a child that the caller waits for. `pid` is told what `start` has returned.
pub fn start<T>(
    role: Role,
    start: impl FnOnce() -> io::Result<T>,
    pid: impl FnOnce(&T) -> Option<u32>,
) -> io::Result<T> {
    let mut waited_for = waited_for();
    let started = start()?;
    // A zombie keeps its number and its time until it is waited for.
    waited_for.retain(|(process, _)| process.is_there());
    if let Some(pid) = pid(&started).map(u32::cast_signed)
        && let Some(stat) = Stat::of(pid)
    {
        waited_for.push((ProcessId { pid, start_time: stat.start_time }, role));
    }
    Ok(started)
}

/// What of a node with this mark is below us: alive, in whatever group or session. None if that cannot be told.
pub fn of_node(mark: &str) -> Option<Vec<ProcessId>> {
    if !ORPHANS_ARE_OURS.load(Ordering::Relaxed) {
        return None;
    }
    let waited_for = waited_for();
    // One that is waited for may have ended, and another one have its number.
    let role = |pid: i32| waited_for.iter().find(|(it, _)| it.pid == pid && it.is_there()).map(|(_, role)| *role);
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for look in 1.. {
        // Helpers answer questions of ours. What they have left behind has another mark.
        let is_new = |pid: &i32| role(*pid) != Some(Role::Helper) && seen.insert(*pid);
        let new: Vec<i32> = of("self").into_iter().filter(is_new).collect();
        let is_nodes = |process: &ProcessId| {
            role(process.pid) == Some(Role::Main) || mark_of(process.pid).is_none_or(|its| its == mark.as_bytes())
        };
        let mut below: Vec<ProcessId> = new.iter().copied().filter_map(ProcessId::of).filter(is_nodes).collect();
        while let Some(process) = below.pop() {
            let children = of(&process.pid.to_string()).into_iter().filter(|pid| seen.insert(*pid));
            below.extend(children.filter_map(ProcessId::of));
            found.push(process);
        }
        // What has ended between two of these looks may have left another one, which is our child by now.
        if new.iter().all(|pid| role(*pid) == Some(Role::Main)) || (look > 1 && !found.is_empty()) {
            break;
        }
        if look == LOOKS {
            found.extend(new.iter().map(|pid| ProcessId { pid: *pid, start_time: 0 }));
            break;
        }
    }
    Some(found)
}

/// Reaps what has ended and what nobody waits for.
fn reap() {
    let waited_for = waited_for();
    for pid in of("self") {
        let Some(stat) = Stat::of(pid).filter(|stat| stat.state == 'Z') else { continue };
        let process = ProcessId { pid, start_time: stat.start_time };
        if waited_for.iter().any(|(it, _)| *it == process) {
            continue;
        }
        // A child's number is nobody else's before it is reaped.
        if let Some(Ok(pidfd)) = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
}

/// The children of each thread of a process.
fn of(process: &str) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}
