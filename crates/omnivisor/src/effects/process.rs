//! The node's main processes: start them so that no crash can lose one, see them end. All that belongs to them is a
//! [`Group`].
//!
//! A child waits between fork and exec until its process id, start time and boot are on record; so whatever runs is known
//! to the next supervisor. It is watched through a pidfd, which never names another process.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use omnivisor_core::dialect::CommandSpec;
use omnivisor_core::supervisor::{Exit, Seen};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedSender;

use super::children::{self, Role};
use super::github::Token;
use super::group::{Group, Kin};
use super::notify::{self, Told};
use crate::store::lock::Lock;
use crate::sys::{self, Gate};

/// The variable that marks a process as one of a node's.
pub const MARK: &str = "OMNIVISOR_NODE";

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

    /// Whether it is still there, or nobody has waited for it yet.
    pub fn is_there(self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.start_time == self.start_time)
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
                let child = children::start(Role::Main, || command.spawn(), |child| Some(child.id()));
                let _ = reply.send(child);
            }
        })?;
        Ok(Self { jobs })
    }

    /// Starts one process of a node. `record` is called when its process exists and before it executes anything; if this process
    /// dies meanwhile, nothing is executed. `locks` are inherited by it and by whatever it starts; it begins in the cgroup of
    /// `kin`, if it can be put there. `told` says where it is to say that it is ready.
    pub fn start(
        &self,
        spec: &CommandSpec,
        kin: &Kin,
        locks: &[&Lock],
        told: Told<'_>,
        record: impl FnOnce(ProcessId),
    ) -> io::Result<Main> {
        let (ready, ready_sender) = pipe_with(PipeFlags::CLOEXEC)?;
        let (go, go_sender) = pipe_with(PipeFlags::CLOEXEC)?;
        let inherit = locks.iter().map(|lock| lock.file().as_fd().try_clone_to_owned()).collect::<Result<_, _>>()?;
        let mut command = Command::new(&spec.program);
        command.args(&spec.arguments).env(MARK, &kin.mark).stdin(Stdio::null()).process_group(0);
        command.env_remove(Token::VARIABLE); // that is ours, and no node's business
        match told {
            Told::Passed => {}
            Told::At(path) => {
                command.env(notify::VARIABLE, path);
            }
            Told::Nothing => {
                command.env_remove(notify::VARIABLE);
            }
        }
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
            if let Some(cgroup) = &kin.cgroup
                && let Err(error) = cgroup.take_in(pid)
            {
                tracing::warn!(cgroup = %cgroup.path().display(), %error, "the node cannot be put into its cgroup, and runs in ours");
            }
            // Whatever can fail comes before it executes anything: nothing runs whose end would not be heard.
            let main = Main::of(spec.name, id, pidfd, true)?;
            record(id);
            Ok(main)
        });
        if recorded.is_ok() {
            crate::checkpoint::reach("node-before-exec");
            rustix::io::write(&go_sender, &[1])?;
        }
        drop(go_sender);
        let spawned = result.recv().map_err(|_| gone())?;
        let main = recorded?;
        spawned?; // std's handle is dropped: the pidfd is what the process is waited for with
        crate::checkpoint::reach("node-after-exec");
        Ok(main)
    }
}

/// A descriptor of this process, which will never be another's.
pub fn open_pidfd(id: ProcessId) -> io::Result<OwnedFd> {
    let pid = id.raw().ok_or_else(|| io::Error::other("no process has this number"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    if id.is_alive() { Ok(pidfd) } else { Err(Errno::SRCH.into()) }
}

/// One of a running node's main processes.
pub struct Main {
    name: &'static str,
    id: ProcessId,
    /// Readable when it has ended.
    pidfd: Arc<AsyncFd<OwnedFd>>,
    ours: bool,
}

impl Main {
    fn of(name: &'static str, id: ProcessId, pidfd: OwnedFd, ours: bool) -> io::Result<Self> {
        Ok(Self { name, id, pidfd: Arc::new(sys::awaitable(pidfd)?), ours })
    }

    /// Takes over a process that somebody else has started.
    pub fn adopt(name: &'static str, id: ProcessId) -> io::Result<Self> {
        Self::of(name, id, open_pidfd(id)?, false)
    }

    /// Takes over a child of this very process, which an earlier image of it has started; it may have ended.
    pub fn inherit(name: &'static str, id: ProcessId) -> io::Result<Self> {
        let gone = || io::Error::other(format!("no child of this supervisor is the {name} (process {})", id.pid));
        let stat = Stat::of(id.pid).ok_or_else(gone)?;
        if stat.start_time != id.start_time || stat.parent != std::process::id().cast_signed() {
            return Err(gone());
        }
        // Nobody but its parent can reap it, so its number stays its own.
        let pidfd = pidfd_open(id.raw().ok_or_else(gone)?, PidfdFlags::empty())?;
        Self::of(name, id, pidfd, true)
    }

    /// What people call it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Which process it is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Whether it is a child of this process, so that it can be known how it ends.
    pub fn is_ours(&self) -> bool {
        self.ours
    }

    /// Whether it leads a group: one that was started elsewhere may share its group with anything.
    fn leads(&self) -> bool {
        self.ours || Stat::of(self.id.pid).is_some_and(|stat| stat.group == self.id.pid)
    }
}

/// A running node: its main processes.
pub struct Node {
    mains: Vec<Main>,
    kin: Kin,
    left: Arc<AtomicUsize>,
    /// Whether somebody else watches it from now on.
    released: Arc<AtomicBool>,
}

impl Node {
    /// Of these, and of what else is known for theirs.
    pub fn new(mains: Vec<Main>, kin: Kin) -> Self {
        let left = Arc::new(AtomicUsize::new(mains.len()));
        Self { mains, kin, left, released: Arc::default() }
    }

    /// How it ends is not asked for any more, and left to be found by whoever watches it next.
    pub fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
    }

    /// Its main processes, in the order in which they were started; some may have ended.
    pub fn mains(&self) -> &[Main] {
        &self.mains
    }

    /// Everything that is part of it: the groups that its main processes lead, those of them that lead none, and their kin.
    pub fn group(&self) -> Group {
        let (led, only): (Vec<_>, Vec<_>) = self.mains.iter().partition(|main| main.leads());
        let ours = self.mains.iter().all(|main| main.ours);
        let led = led.iter().map(|main| main.id.pid).collect();
        Group::new(led, only.iter().map(|main| main.id).collect(), ours, self.kin.clone())
    }

    /// Sends a signal to every main process. One that is gone already is no error.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or_else(|| io::Error::other("no such signal"))?;
        let mut result = Ok(());
        for main in &self.mains {
            match pidfd_send_signal(main.pidfd.get_ref(), signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => result = Err(io::Error::other(format!("the {}: {error}", main.name))),
            }
        }
        result
    }

    /// Reports how each main process ends, once.
    pub fn watch(&self, report: &UnboundedSender<Seen>) {
        let several = self.mains.len() > 1;
        for main in &self.mains {
            let (waited, ours, name, group) = (main.pidfd.clone(), main.ours, main.name, self.group());
            let (left, released, report) = (self.left.clone(), self.released.clone(), report.clone());
            tokio::spawn(async move {
                let _ = waited.readable().await;
                if released.load(Ordering::SeqCst) {
                    return;
                }
                let exit = if ours { reap(waited.get_ref()) } else { Exit::Unknown };
                if several {
                    tracing::info!("the {name} ended with {exit}");
                }
                let others = left.fetch_sub(1, Ordering::SeqCst) > 1;
                let group_empty = !others && group.is_empty();
                let _ = report.send(Seen::Exited { exit, others, group_empty });
            });
        }
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

/// The mark in a process's environment, whoever's it is.
pub fn mark_of(pid: i32) -> Option<Vec<u8>> {
    variable_of(pid, MARK)
}

/// A variable in a process's environment, as that began with it; none where it may not be looked at.
pub fn variable_of(pid: i32, name: &str) -> Option<Vec<u8>> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{name}=");
    environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(prefix.as_bytes())).map(<[u8]>::to_vec)
}

/// This boot of the machine; process numbers and start times mean nothing in another one.
pub fn boot_id() -> String {
    fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default().trim().to_owned()
}
