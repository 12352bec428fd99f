//! The node's processes: start them so that no crash can lose one, see them end, stop the whole group.
//!
//! A child waits between fork and exec until its process id, start time and boot are on record; so whatever runs is known
//! to the next supervisor. It is watched through a pidfd, which never names another process.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use omnivisor_core::dialect::CommandSpec;
use omnivisor_core::supervisor::{Exit, Seen};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal,
    test_kill_process_group, waitid,
};
use tokio::sync::mpsc::UnboundedSender;

use crate::store::lock::Lock;
use crate::sys::{self, Gate};

/// The variable that marks a process as one of a node's.
pub const MARK: &str = "OMNIVISOR_NODE";

/// How often a group that is being stopped is looked at.
const GROUP_LOOK: Duration = Duration::from_millis(10);

/// A process, named so that no later one can be taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it was started, in clock ticks since the machine was (field 22 of `/proc/<pid>/stat`).
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has this number now, unless it is gone or only a zombie is left.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = Stat::of(pid)?;
        (stat.state != 'Z' && stat.state != 'X').then_some(Self { pid, start_time: stat.start_time })
    }

    /// Whether it is still there.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn raw(self) -> Option<Pid> {
        Pid::from_raw(self.pid)
    }
}

/// What `/proc/<pid>/stat` says.
pub struct Stat {
    /// The one-letter state; `Z` is a zombie.
    pub state: char,
    /// The parent.
    pub parent: i32,
    /// The process group.
    pub group: i32,
    /// The session.
    pub session: i32,
    /// In clock ticks since the machine was started.
    pub start_time: u64,
}

impl Stat {
    /// Reads it; none if there is no such process.
    pub fn of(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in parentheses, in which anything may stand.
        let rest = text.get(text.rfind(')')? + 1..)?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let session = fields.next()?.parse().ok()?;
        let start_time = fields.nth(15)?.parse().ok()?;
        Some(Self { state, parent, group, session, start_time })
    }
}

/// The processes there are.
pub fn all_pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Starts processes, from one thread that lives as long as the supervisor.
pub struct Launcher {
    jobs: mpsc::Sender<(Command, mpsc::Sender<io::Result<Child>>)>,
}

impl Launcher {
    /// Begins its thread.
    pub fn new() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<(Command, mpsc::Sender<io::Result<Child>>)>();
        std::thread::Builder::new().name("launcher".to_owned()).stack_size(128 * 1024).spawn(move || {
            for (mut command, reply) in queue {
                let _ = reply.send(command.spawn());
            }
        })?;
        Ok(Self { jobs })
    }

    /// Starts the node. `record` is called when its process exists and before it executes anything; if this process
    /// dies meanwhile, nothing is executed. `lock` is inherited by it and by whatever it starts.
    pub fn start(
        &self,
        spec: &CommandSpec,
        mark: &str,
        lock: Option<&Lock>,
        record: impl Fn(ProcessId),
    ) -> io::Result<Node> {
        let (ready, ready_sender) = pipe_with(PipeFlags::CLOEXEC)?;
        let (go, go_sender) = pipe_with(PipeFlags::CLOEXEC)?;
        let inherit = lock.map(|lock| lock.file().as_fd().try_clone_to_owned()).transpose()?;
        let mut command = Command::new(&spec.program);
        command.args(&spec.arguments).env(MARK, mark).stdin(Stdio::null()).process_group(0);
        let gate = Gate { ready: ready_sender, go, go_sender: sys::number(&go_sender), inherit };
        sys::hold_at_gate(&mut command, gate);

        let (reply, result) = mpsc::channel();
        let gone = || io::Error::other("the thread that starts processes is gone");
        self.jobs.send((command, reply)).map_err(|_| gone())?;
        let mut bytes = [0_u8; 4];
        if fs::File::from(ready).read_exact(&mut bytes).is_err() {
            // It ended before it could say its number: the result says why.
            return Err(result.recv().map_err(|_| gone())?.err().unwrap_or_else(gone));
        }
        let pid = i32::from_ne_bytes(bytes);
        let recorded = Stat::of(pid).ok_or_else(|| io::Error::other("the new process vanished")).and_then(|stat| {
            let id = ProcessId { pid, start_time: stat.start_time };
            let pidfd = open_pidfd(id)?;
            record(id);
            Ok((id, pidfd))
        });
        if recorded.is_ok() {
            crate::checkpoint::reach("node-before-exec");
            rustix::io::write(&go_sender, &[1])?;
        }
        drop(go_sender);
        let spawned = result.recv().map_err(|_| gone())?;
        let (id, pidfd) = recorded?;
        spawned?; // std's handle is dropped: the pidfd is what the process is waited for with
        crate::checkpoint::reach("node-after-exec");
        Ok(Node { id, pidfd, ours: true })
    }
}

fn open_pidfd(id: ProcessId) -> io::Result<OwnedFd> {
    let pid = id.raw().ok_or_else(|| io::Error::other("no process has this number"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    if id.is_alive() { Ok(pidfd) } else { Err(Errno::SRCH.into()) }
}

/// A running node's main process.
pub struct Node {
    id: ProcessId,
    pidfd: OwnedFd,
    ours: bool,
}

impl Node {
    /// Takes over a process that somebody else has started.
    pub fn adopt(id: ProcessId) -> io::Result<Self> {
        Ok(Self { id, pidfd: open_pidfd(id)?, ours: false })
    }

    /// Which process it is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// The group that its processes are in. One that was started elsewhere may share its group with anything, so only the
    /// process itself counts then.
    pub fn group(&self) -> Group {
        let leads = Stat::of(self.id.pid).is_some_and(|stat| stat.group == self.id.pid);
        if self.ours || leads { Group::Led(self.id.pid) } else { Group::Only(vec![self.id]) }
    }

    /// Sends a signal to the main process. One that is gone already is no error.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or_else(|| io::Error::other("no such signal"))?;
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reports how it ends, once.
    pub fn watch(&self, report: UnboundedSender<Seen>) -> io::Result<()> {
        let waited = sys::awaitable(self.pidfd.try_clone()?)?;
        let (ours, group) = (self.ours, self.group());
        tokio::spawn(async move {
            let _ = waited.readable().await;
            let exit = if ours { reap(waited.get_ref()) } else { Exit::Unknown };
            let _ = report.send(Seen::Exited { exit, others: false, group_empty: group.is_empty() });
        });
        Ok(())
    }
}

fn reap(pidfd: &OwnedFd) -> Exit {
    loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                if let Some(code) = status.exit_status() {
                    return Exit::Code(code);
                }
                return status.terminating_signal().map_or(Exit::Unknown, Exit::Signal);
            }
            Err(Errno::INTR) => {}
            _ => return Exit::Unknown,
        }
    }
}

/// The processes of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    /// The process group that this process led.
    Led(i32),
    /// These processes and no others.
    Only(Vec<ProcessId>),
}

impl Group {
    /// Whether none of them is left; zombies, which only wait for their parent, do not count.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Only(processes) => !processes.iter().any(|process| process.is_alive()),
            Self::Led(group) => {
                let Some(id) = Pid::from_raw(*group) else { return true };
                test_kill_process_group(id) == Err(Errno::SRCH) || self.members().is_empty()
            }
        }
    }

    /// Those that are left.
    pub fn members(&self) -> Vec<ProcessId> {
        match self {
            Self::Only(processes) => processes.iter().copied().filter(|process| process.is_alive()).collect(),
            Self::Led(group) => all_pids()
                .filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.group == *group))
                .filter_map(ProcessId::of)
                .collect(),
        }
    }

    /// Sends a signal to all that are left.
    pub fn signal(&self, signal: Signal) {
        match self {
            Self::Led(group) => {
                if let Some(id) = Pid::from_raw(*group) {
                    let _ = kill_process_group(id, signal);
                }
            }
            Self::Only(processes) => {
                for process in processes {
                    if let Ok(pidfd) = open_pidfd(*process) {
                        let _ = pidfd_send_signal(pidfd, signal);
                    }
                }
            }
        }
    }

    /// Reports when the last one is gone. With `kill`, whatever is left or is still being born is killed until then.
    pub fn watch_empty(self, kill: bool, report: UnboundedSender<Seen>) {
        tokio::spawn(async move {
            while !self.is_empty() {
                if kill {
                    self.signal(Signal::KILL);
                }
                tokio::time::sleep(GROUP_LOOK).await;
            }
            let _ = report.send(Seen::GroupEmpty);
        });
    }
}

/// This boot of the machine; process numbers and start times mean nothing in another one.
pub fn boot_id() -> String {
    fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default().trim().to_owned()
}
