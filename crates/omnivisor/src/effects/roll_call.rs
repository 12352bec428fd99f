//! Which processes of this node are alive, whoever started them: asked before anything is started.
//!
//! A node counts as alive if any one of these holds: the process that was recorded at its start is there; a process of its
//! group is; a process carries its mark; somebody holds its lock; a process runs an executable of this instance's release
//! folders on this home, as a peer's orphan does.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::process::{Group, MARK, ProcessId, Stat, all_pids, boot_id};
use crate::store::atomic;

/// What was started last; for the next supervisor, so it outlives this process but need not outlive the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchRecord {
    /// The main process.
    pub process: ProcessId,
    /// The session it was started in.
    pub session: i32,
    /// The boot in which it runs.
    pub boot_id: String,
    /// The folder of the release it is of.
    pub folder: PathBuf,
    /// Its arguments, for people.
    pub arguments: Vec<String>,
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
}

/// What to look for.
pub struct Sought<'a> {
    /// What was recorded at the last start.
    pub launch: Option<&'a LaunchRecord>,
    /// The mark of this node's processes.
    pub mark: &'a str,
    /// The folder that holds all releases.
    pub releases: &'a Path,
    /// The executable's name.
    pub executable: &'a OsString,
    /// The node's home.
    pub home: &'a Path,
    /// Whether other instances use the same release folders.
    pub shared: bool,
    /// The node's lock, if somebody holds it.
    pub held_lock: Option<&'a Path>,
}

/// A process that runs one of this instance's executables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runner {
    /// Which process.
    pub process: ProcessId,
    /// The folder of the release it is of.
    pub folder: PathBuf,
}

/// Who is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RollCall {
    /// The node's main process.
    pub main: Option<Runner>,
    /// Other processes of the node, without which nothing may be started.
    pub stragglers: Vec<ProcessId>,
    /// Another supervisor that runs the node: its process, and its name.
    pub peer: Option<(i32, String)>,
}

/// Asks.
pub fn call(sought: &Sought<'_>) -> RollCall {
    let mut roll = RollCall::default();
    let recorded = sought.launch.filter(|launch| launch.process.is_alive());
    if let Some(launch) = recorded {
        roll.main = Some(Runner { process: launch.process, folder: launch.folder.clone() });
    }
    let group = sought.launch.map(left_in_group).unwrap_or_default();
    let own = std::process::id().cast_signed();
    let mut orphans = Vec::new();
    for pid in all_pids().filter(|pid| *pid != own) {
        let Some(process) = ProcessId::of(pid) else { continue };
        if recorded.is_some_and(|launch| launch.process == process) {
            continue;
        }
        let mark = mark_of(pid);
        let ours = mark.as_deref() == Some(sought.mark.as_bytes());
        if ours || group.contains(&process) || sought.held_lock.is_some_and(|lock| holds(pid, lock)) {
            roll.stragglers.push(process);
        } else if mark.is_none()
            && let Some(folder) = release_of(pid, sought)
            && (!sought.shared || is_on_home(pid, sought.home))
            && !is_question(pid)
        {
            orphans.push(Runner { process, folder });
        }
    }
    // A node whose record was lost is known by its mark; one that a peer left, by its executable.
    if roll.main.is_none() {
        let marked = roll.stragglers.iter().copied().find_map(|process| {
            let folder = release_of(process.pid, sought)?;
            let leads = Stat::of(process.pid).is_some_and(|stat| stat.group == process.pid);
            leads.then_some(Runner { process, folder })
        });
        roll.main = marked.or_else(|| (orphans.len() == 1).then(|| orphans[0].clone()));
    }
    // What belongs to a live node, in its group or not, is no straggler.
    if roll.main.is_some() {
        roll.stragglers.clear();
    }
    let main = roll.main.as_ref().map(|main| main.process);
    roll.peer = orphans.iter().find_map(|orphan| supervisor_of(orphan.process.pid));
    roll.stragglers.extend(orphans.iter().map(|orphan| orphan.process).filter(|process| Some(*process) != main));
    roll
}

/// What is left of the group that was led by a process which is gone. The number of a group may be another group's by now:
/// if a process has it that is not the one that was recorded, or if the session is another one.
fn left_in_group(launch: &LaunchRecord) -> Vec<ProcessId> {
    let leader = launch.process;
    if ProcessId::of(leader.pid).is_some_and(|now| now != leader) {
        return Vec::new();
    }
    let same_session = |pid: i32| Stat::of(pid).is_some_and(|stat| stat.session == launch.session);
    Group::Led(leader.pid).members().into_iter().filter(|process| same_session(process.pid)).collect()
}

fn mark_of(pid: i32) -> Option<Vec<u8>> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{MARK}=");
    environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(prefix.as_bytes())).map(<[u8]>::to_vec)
}

/// The release folder that a process's executable is in, also when the file has been deleted or replaced since.
fn release_of(pid: i32, sought: &Sought<'_>) -> Option<PathBuf> {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let exe = exe.to_str().map_or(exe.clone(), |text| PathBuf::from(text.trim_end_matches(" (deleted)")));
    let bin = exe.parent().filter(|bin| bin.ends_with("bin"))?;
    let folder = bin.parent()?;
    let releases = fs::canonicalize(sought.releases).unwrap_or_else(|_| sought.releases.to_owned());
    let named = exe.file_name() == Some(sought.executable);
    let below = folder.strip_prefix(&releases).ok()?;
    let is_release =
        below == Path::new("genesis") || (below.starts_with("upgrades") && below.components().count() == 2);
    // In the words of the configuration, not of the disk: that is how releases are recorded.
    (named && is_release).then(|| sought.releases.join(below))
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

/// Whether a process has this file open.
fn holds(pid: i32, file: &Path) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.into_iter().any(|open| fs::read_link(open.path()).is_ok_and(|target| target == file))
}

/// Whether a process is no node but somebody asking its executable who it is.
fn is_question(pid: i32) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.split(|byte| *byte == 0).any(|argument| argument == b"build-info" || argument == b"--version")
}

/// The peer that runs a node, if its parent is one.
fn supervisor_of(pid: i32) -> Option<(i32, String)> {
    let parent = Stat::of(pid)?.parent;
    let exe = fs::read_link(format!("/proc/{parent}/exe")).ok()?;
    let name = exe.file_name()?.to_string_lossy().trim_end_matches(" (deleted)").to_owned();
    let called = fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
    let called = String::from_utf8_lossy(called.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    [name, called].into_iter().find(|name| name.ends_with("nymvisor")).map(|name| (parent, name))
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
        };
        assert!(!left_in_group(&launch(leader.start_time, session)).is_empty());
        assert_eq!(left_in_group(&launch(leader.start_time + 1, session)), []);
        assert_eq!(left_in_group(&launch(leader.start_time, session + 1)), []);
    }
}
