//! Which processes of this node are alive, whoever started them: asked before anything is started.
//!
//! A node counts as alive if any one of these holds: the process that was recorded at its start is there; a process of its
//! group or its cgroup is; a process carries its mark; somebody holds its lock; a process runs an executable of this instance's release
//! folders, or a script there, on this home, as a peer's orphan does.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use omnivisor_core::dialect::Dialect;
use serde::{Deserialize, Serialize};

use super::cgroup;
use super::group::in_groups;
use super::process::{ProcessId, Stat, all_pids, boot_id, mark_of};
use super::script;
use crate::store::{atomic, small};

/// What was started last; for the next supervisor, so it outlives this process but need not outlive the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchRecord {
    /// The first main process.
    pub process: ProcessId,
    /// The session it was started in.
    pub session: i32,
    /// The boot in which it runs.
    pub boot_id: String,
    /// The folder of the release it is of.
    pub folder: PathBuf,
    /// Its arguments, for people.
    pub arguments: Vec<String>,
    /// The other main processes, in the order in which they were started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<ProcessId>,
    /// The cgroup that they are in, if they have one of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// Where it is to say that it is ready, if it was told so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
}

/// A node's word that it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Where it is to say it: its `NOTIFY_SOCKET`.
    pub socket: PathBuf,
    /// Whether it has.
    pub said: bool,
}

impl LaunchRecord {
    /// What stands in this file, if it is of this boot.
    pub fn read(path: &Path) -> Option<Self> {
        let record: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (record.boot_id == boot_id()).then_some(record)
    }

    /// Writes it.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        atomic::replace_in_memory(path, &serde_json::to_vec_pretty(self)?, 0o600)
    }

    /// Every main process.
    pub fn processes(&self) -> impl Iterator<Item = ProcessId> {
        std::iter::once(self.process).chain(self.others.iter().copied())
    }
}

/// What to look for.
pub struct Sought<'a> {
    /// What was recorded at the last start.
    pub launch: Option<&'a LaunchRecord>,
    /// The mark of this node's processes.
    pub mark: &'a str,
    /// The cgroups that they may be in.
    pub cgroups: &'a [PathBuf],
    /// How the dialect knows its own.
    pub dialect: &'a dyn Dialect,
    /// How many main processes a node has.
    pub expected: usize,
    /// Where the link points to.
    pub link: Option<&'a Path>,
    /// Whether other instances use the same release folders.
    pub shared: bool,
    /// The node's lock, if somebody holds it.
    pub held_lock: Option<&'a Path>,
}

/// A main process of this instance's node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runner {
    /// Which process.
    pub process: ProcessId,
    /// The folder of the release it is of.
    pub folder: PathBuf,
    /// Which of the main processes it is.
    pub role: usize,
}

/// Another supervisor, at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process.
    pub process: i32,
    /// Its name.
    pub name: String,
    /// The node that it runs.
    pub node: i32,
}

/// Who is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RollCall {
    /// The node's main processes, if all of them are there: in the order in which they are started.
    pub mains: Vec<Runner>,
    /// Other processes of the node, beside which nothing may be started.
    pub stragglers: Vec<ProcessId>,
    /// Another supervisor that runs a node of this installation: then nothing is touched.
    pub peer: Option<Peer>,
}

impl RollCall {
    /// The folder of the release that runs.
    pub fn folder(&self) -> Option<&PathBuf> {
        self.mains.first().map(|main| &main.folder)
    }
}

/// Asks.
pub fn call(sought: &Sought<'_>) -> RollCall {
    let recorded: Vec<ProcessId> =
        sought.launch.into_iter().flat_map(LaunchRecord::processes).filter(|process| process.is_alive()).collect();
    let group = sought.launch.map(left_in_group).unwrap_or_default();
    let own = std::process::id().cast_signed();
    let releases = &sought.dialect.paths().releases;
    let resolved = fs::canonicalize(releases).unwrap_or_else(|_| releases.clone());
    let recognise = |process: ProcessId| recognise(process, sought, &resolved);
    let mut marked = Vec::new();
    let mut orphans = Vec::new();
    for pid in all_pids().filter(|pid| *pid != own) {
        let Some(process) = ProcessId::of(pid) else { continue };
        if recorded.contains(&process) {
            continue;
        }
        let mark = mark_of(pid);
        let ours = mark.as_deref() == Some(sought.mark.as_bytes());
        let inside = sought.cgroups.iter().any(|path| cgroup::has(pid, path));
        if ours || inside || group.contains(&process) || sought.held_lock.is_some_and(|lock| holds(pid, lock)) {
            marked.push(process);
        } else if mark.is_none()
            && let Some(runner) = recognise(process)
            && (!sought.shared || is_on_home(pid, &sought.dialect.paths().home))
        {
            orphans.push(runner);
        }
    }

    // What a node has forked looks like it, until it executes something else.
    let parents: Vec<i32> = orphans.iter().map(|orphan| orphan.process.pid).collect();
    orphans.retain(|it| Stat::of(it.process.pid).is_none_or(|stat| !parents.contains(&stat.parent)));

    let mut roll = RollCall::default();
    // What was recorded is in the order in which it was started.
    let of_launch = |process: &ProcessId| {
        let launch = sought.launch?;
        let role = launch.processes().position(|it| it == *process)?;
        Some(Runner { process: *process, folder: launch.folder.clone(), role })
    };
    // A node whose record was lost is known by its mark; one that a peer left, by its executables. Where there is a record, and
    // what it names is gone, what has the mark is only what that has left, and may be of the same executable.
    let leading = marked.iter().copied().filter_map(|process| {
        let leads = Stat::of(process.pid).is_some_and(|stat| stat.group == process.pid);
        leads.then(|| recognise(process))?
    });
    roll.mains = whole(recorded.iter().filter_map(of_launch).collect(), sought);
    if roll.mains.is_empty() && sought.launch.is_none() {
        // What a node starts may lead a group of its own, and be of the same executable: it is younger.
        roll.mains = whole(oldest_of_each_role(leading.collect()), sought);
    }
    if roll.mains.is_empty() {
        roll.mains = whole(orphans.clone(), sought);
    }
    // What belongs to a live node, in its group or not, is no straggler; a part of a node that has lost the rest is one.
    if roll.mains.is_empty() {
        roll.stragglers = recorded;
        roll.stragglers.extend(marked);
    }
    let is_main = |process: &ProcessId| roll.mains.iter().any(|main| main.process == *process);
    roll.stragglers.extend(orphans.iter().map(|orphan| orphan.process).filter(|process| !is_main(process)));
    roll.peer = orphans.iter().find_map(|orphan| supervisor_of(orphan.process.pid, sought.dialect));
    roll
}

fn oldest_of_each_role(mut candidates: Vec<Runner>) -> Vec<Runner> {
    candidates.sort_by_key(|runner| (runner.role, runner.process.start_time));
    candidates.dedup_by_key(|runner| runner.role);
    candidates
}

/// These processes in the order of their roles, if each role is there once, and all are of one release; else none.
fn whole(candidates: Vec<Runner>, sought: &Sought<'_>) -> Vec<Runner> {
    if candidates.len() != sought.expected || candidates.iter().any(|it| it.folder != candidates[0].folder) {
        return Vec::new();
    }
    let mut by_role = candidates;
    by_role.sort_by_key(|runner| runner.role);
    let is_whole = by_role.iter().enumerate().all(|(role, runner)| runner.role == role);
    if is_whole { by_role } else { Vec::new() }
}

/// What is left of the groups that were led by processes which are gone. The number of a group may be another group's by
/// now: if a process has it that is not the one that was recorded, or if the session is another one.
fn left_in_group(launch: &LaunchRecord) -> Vec<ProcessId> {
    let same_session = |pid: i32| Stat::of(pid).is_some_and(|stat| stat.session == launch.session);
    let is_the_one = |leader: &ProcessId| ProcessId::of(leader.pid).is_none_or(|now| now == *leader);
    let led: Vec<i32> = launch.processes().filter(is_the_one).map(|leader| leader.pid).collect();
    in_groups(&led).into_iter().filter(|process| same_session(process.pid)).collect()
}

/// What a process is to this installation, also when its executable has been deleted or replaced since. Its release's folder
/// is in the words of the configuration, not of the disk: that is how releases are recorded.
fn recognise(process: ProcessId, sought: &Sought<'_>, resolved: &Path) -> Option<Runner> {
    let (pid, dialect) = (process.pid, sought.dialect);
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let exe = exe.to_str().map_or(exe.clone(), |text| PathBuf::from(text.trim_end_matches(" (deleted)")));
    let read = |path: &Path| small::read(path).ok();
    let is_one = |executable: PathBuf, arguments: &[OsString]| {
        let named = match executable.strip_prefix(resolved) {
            Ok(below) => dialect.paths().releases.join(below),
            Err(_) => executable,
        };
        // A peer starts a script by the link, and that is all that is known of it.
        let named = match (named.strip_prefix(&dialect.paths().link), sought.link) {
            (Ok(below), Some(link)) => link.join(below),
            _ => named,
        };
        dialect.recognise(&named, arguments, sought.link, &read)
    };
    let arguments = arguments_of(pid);
    let as_script = || script::of(pid, &arguments).and_then(|(path, arguments)| is_one(path, &arguments));
    let (folder, role) = is_one(exe, &arguments).or_else(as_script)?;
    Some(Runner { process, folder, role })
}

/// A process's arguments, without the first, which is its name.
fn arguments_of(pid: i32) -> Vec<OsString> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    line.split(|byte| *byte == 0).skip(1).map(|argument| OsString::from_vec(argument.to_vec())).collect()
}

/// Whether a process has to do with this home: by its arguments, its environment, its folder or its open files.
fn is_on_home(pid: i32, home: &Path) -> bool {
    let bytes = home.as_os_str().as_bytes();
    let mentions = |file: &str| {
        let contents = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        contents.windows(bytes.len()).any(|window| window == bytes)
    };
    let below = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(home));
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    mentions("cmdline")
        || mentions("environ")
        || below(format!("/proc/{pid}/cwd").into())
        || files.into_iter().any(|file| below(file.path()))
}

/// The processes that hold this lock file, or carry this mark.
pub fn holders(lock: &Path, mark: &str) -> Vec<ProcessId> {
    let own = std::process::id().cast_signed();
    let is_one = |pid: &i32| mark_of(*pid).as_deref() == Some(mark.as_bytes()) || holds(*pid, lock);
    all_pids().filter(|pid| *pid != own).filter(is_one).filter_map(ProcessId::of).collect()
}

/// The processes that hold this lock file and carry this mark.
pub fn marked_holders(lock: &Path, mark: &str) -> Vec<ProcessId> {
    let is_ours =
        |process: &ProcessId| mark_of(process.pid).as_deref() == Some(mark.as_bytes()) && holds(process.pid, lock);
    holders(lock, mark).into_iter().filter(is_ours).collect()
}

/// Whether a process has this file open.
pub fn holds(pid: i32, file: &Path) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.into_iter().any(|open| fs::read_link(open.path()).is_ok_and(|target| target == file))
}

/// The peer that runs a node, if its parent is one.
fn supervisor_of(pid: i32, dialect: &dyn Dialect) -> Option<Peer> {
    let parent = Stat::of(pid)?.parent;
    let exe = fs::read_link(format!("/proc/{parent}/exe")).ok()?;
    let name = exe.file_name()?.to_string_lossy().trim_end_matches(" (deleted)").to_owned();
    let called = fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
    let called = String::from_utf8_lossy(called.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    let is_peer = |name: &String| dialect.peers().iter().any(|peer| name.ends_with(peer));
    [name, called].into_iter().find(is_peer).map(|name| Peer { process: parent, name, node: pid })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::process::Stat;

    /// This test's own process stands for a stranger that got the number of a node which is long gone.
    #[test]
    fn another_process_of_the_same_number_is_nobody_of_ours() {
        let group = Stat::of(std::process::id().cast_signed()).unwrap().group;
        let Some(leader) = ProcessId::of(group) else { return }; // whoever led our group is gone
        let session = Stat::of(group).unwrap().session;
        let launch = |start_time, session| LaunchRecord {
            process: ProcessId { pid: group, start_time },
            session,
            boot_id: boot_id(),
            folder: PathBuf::new(),
            arguments: Vec::new(),
            others: Vec::new(),
            cgroup: None,
            readiness: None,
        };
        assert!(!left_in_group(&launch(leader.start_time, session)).is_empty());
        assert_eq!(left_in_group(&launch(leader.start_time + 1, session)), []);
        assert_eq!(left_in_group(&launch(leader.start_time, session + 1)), []);
    }
}
