//! Where the demo is performed: one private folder, the processes that belong to it, and the end of both.
//!
//! The folder's lock is held by the demo for as long as it lives, however it ends. A sample node that finds it free ends;
//! a later demo that finds it free removes the folder. The processes are found by the variable in their environment that
//! names the folder, so neither a crash nor a double fork hides one.

use std::env;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{Signal, geteuid};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::FOLDER;
use crate::effects::group;
use crate::effects::process::{ProcessId, all_pids};
use crate::effects::space;
use crate::sys;

/// What the folders of demos are called.
const PREFIX: &str = "omnivisor-demo-";
/// The file whose lock says that the demo is there.
const LOCK: &str = "lock";
/// What the supervisor logs.
const LOG: &str = "supervisor.log";
/// How much of that is shown.
const TAIL: usize = 12;
/// A socket's path is at most 107 bytes: so many above the folder leave room for its name and those in it.
const LONGEST: usize = 56;
/// Copies of the executable that the disk has at most, and one more.
const COPIES: u64 = 8;
/// A folder without a holder is not removed before: it may be of a demo that is about to take its lock.
const STALE: Duration = Duration::from_secs(60);
/// How long a command may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long killed processes may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// What the children are told. The times are short, so that nobody has to wait for what takes minutes in earnest.
const VARIABLES: [(&str, &str); 10] = [
    ("NYMVISOR_UPSTREAM_POLLING_RATE", "1s"),
    ("DAEMON_RESTART_ON_FAILURE", "true"),
    ("DAEMON_FAILURE_RESTART_DELAY", "300ms"),
    ("DAEMON_STARTUP_PERIOD_DURATION", "2s"),
    ("DAEMON_SHUTDOWN_GRACE_PERIOD", "20s"),
    ("OMNIVISOR_PROBE_WINDOW", "2s"),
    ("OMNIVISOR_RETRY_DELAY", "1s"),
    ("OMNIVISOR_SNAPSHOT_RESERVE", "16MiB"),
    // The folder is private: there is nobody else whom a lock would have to keep out.
    ("OMNIVISOR_ALLOW_NETWORK_FILE_SYSTEM", "true"),
    ("NO_COLOR", "1"),
];

/// The folder and the processes of a demo. Dropping it leaves nothing behind.
pub struct Stage {
    folder: Option<TempDir>,
    path: PathBuf,
    _lock: File,
    supervisor: Option<Child>,
}

impl Stage {
    /// Makes the folder, where one can be made, and removes those of demos that were killed.
    pub fn set() -> anyhow::Result<Self> {
        let size = fs::metadata("/proc/self/exe").context("cannot look at the own executable")?.len();
        let mut reasons = Vec::new();
        for place in [env::temp_dir(), "/tmp".into(), "/var/tmp".into(), "/dev/shm".into()] {
            let set = fits(&place, size).and_then(|place| {
                sweep(&place);
                Self::set_in(&place).context("cannot make a folder")
            });
            match set {
                Ok(stage) => return Ok(stage),
                Err(error) => reasons.push(format!("{}: {error:#}", place.display())),
            }
        }
        Err(anyhow!("there is no place for a private folder; {}", reasons.join("; ")))
    }

    fn set_in(place: &Path) -> io::Result<Self> {
        let folder =
            tempfile::Builder::new().prefix(PREFIX).permissions(Permissions::from_mode(0o700)).tempdir_in(place)?;
        let path = folder.path().to_owned();
        let lock = File::create(path.join(LOCK))?;
        lock.try_lock()?;
        Ok(Self { folder: Some(folder), path, _lock: lock, supervisor: None })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the supervisor has its socket.
    pub fn runtime(&self) -> PathBuf {
        self.path.join("run")
    }

    /// This executable under another name, in the folder, with nothing of our environment.
    fn command(&self, called: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(called).args(arguments).current_dir(&self.path).stdin(Stdio::null()).env_clear();
        command.envs(VARIABLES).env(FOLDER, &self.path).env("OMNIVISOR_RUNTIME_DIR", self.runtime());
        command.env("HOME", self.path.join("home")).env("NYM_HOME_DIR", &self.path);
        // A group of its own: a Ctrl-C is for the demo, which knows in which order things end.
        command.process_group(0).kill_on_drop(true);
        sys::unblock_signals(command.as_std_mut());
        command
    }

    /// Runs a command to its end; gives what it printed.
    pub async fn run(&self, called: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let typed = format!("{called} {}", arguments.join(" "));
        let output = tokio::time::timeout(ANSWER, self.command(called, arguments).output()).await;
        let output = output.map_err(|_| anyhow!("`{typed}` does not end within {ANSWER:?}"))?;
        let output = output.with_context(|| format!("cannot run `{typed}`"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{typed}` failed ({}): {}", output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a supervisor; gives its process.
    pub fn start_supervisor(&mut self, arguments: &[&str]) -> anyhow::Result<u32> {
        let log = File::options().create(true).append(true).open(self.path.join(LOG))?;
        let mut command = self.command("nymvisor", arguments);
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("cannot start the supervisor")?;
        let pid = child.id().ok_or_else(|| anyhow!("the supervisor is gone at once"))?;
        self.supervisor = Some(child);
        Ok(pid)
    }

    /// Kills the supervisor, and it alone, as the kernel does when memory is short.
    pub async fn kill_supervisor(&mut self) -> anyhow::Result<()> {
        let mut child = self.supervisor.take().ok_or_else(|| anyhow!("there is no supervisor"))?;
        child.kill().await.context("cannot kill the supervisor")
    }

    /// How the supervisor has ended, if it has.
    pub fn supervisor_ended(&mut self) -> Option<ExitStatus> {
        self.supervisor.as_mut()?.try_wait().ok()?
    }

    /// The last lines that the supervisor has logged.
    pub fn log(&self) -> String {
        let text = fs::read(self.path.join(LOG)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// The processes of this demo, but for the demo itself.
    pub fn processes(&self) -> Vec<ProcessId> {
        processes(&self.path)
    }

    /// Ends what is left and removes the folder. Nothing is to be done the second time.
    pub fn strike(&mut self) -> anyhow::Result<()> {
        let Some(folder) = self.folder.take() else { return Ok(()) };
        let begun = Instant::now();
        // Until a whole look finds none: one that is killed may have started another one meanwhile.
        loop {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            if begun.elapsed() > GONE {
                bail!("these processes of the demo cannot be killed: {left:?}");
            }
            group::signal(&left, Signal::KILL);
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(mut child) = self.supervisor.take() {
            let _ = child.try_wait();
        }
        folder.close().with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.strike();
    }
}

/// Whether the demo of this folder is gone.
pub fn is_gone(folder: &Path) -> bool {
    match File::open(folder.join(LOCK)) {
        Ok(lock) => lock.try_lock_shared().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn processes(folder: &Path) -> Vec<ProcessId> {
    let mark = [FOLDER.as_bytes(), b"=", folder.as_os_str().as_encoded_bytes()].concat();
    let is_ours = |id: &ProcessId| {
        let environment = fs::read(format!("/proc/{}/environ", id.pid)).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark)
    };
    all_pids().filter_map(ProcessId::of).filter(is_ours).collect()
}

/// Whether a demo can be performed below this folder; gives its whole path.
fn fits(place: &Path, executable: u64) -> anyhow::Result<PathBuf> {
    let place = fs::canonicalize(place)?;
    if place.as_os_str().len() > LONGEST {
        bail!("its path is too long for a socket below it");
    }
    if statvfs(&place)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        bail!("nothing may be executed there (noexec)");
    }
    space::require(&place, executable.saturating_mul(COPIES), "the demo")?;
    Ok(place)
}

/// Removes the folders of demos that were killed and could not do it themselves.
fn sweep(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let path = entry.path();
        let old = || fs::metadata(path.join(LOCK)).ok()?.modified().ok()?.elapsed().ok();
        // In a folder that everybody may write to, what somebody else has put there is not even opened.
        let ours = || fs::symlink_metadata(&path).is_ok_and(|it| it.is_dir() && it.uid() == geteuid().as_raw());
        let stale = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && ours()
            && old().is_some_and(|age| age > STALE)
            && is_gone(&path)
            && processes(&path).is_empty();
        if stale {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_there_for_as_long_as_it_is_kept() {
        let stage = Stage::set().unwrap();
        let path = stage.path().to_owned();
        assert!(!is_gone(&path));
        assert!(path.join("run/sample-node-default.sock").as_os_str().len() < 107);
        drop(stage);
        assert!(is_gone(&path));
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_demo_left_is_swept_once_it_is_old() {
        let place = tempfile::tempdir().unwrap();
        let left = place.path().join("omnivisor-demo-killed");
        fs::create_dir(&left).unwrap();
        let lock = File::create(left.join(LOCK)).unwrap();
        sweep(place.path());
        assert!(left.exists(), "it may be about to take its lock");
        lock.set_modified(std::time::SystemTime::now() - 2 * STALE).unwrap();
        lock.lock().unwrap();
        sweep(place.path());
        assert!(left.exists(), "its demo is there");
        drop(lock);
        let link = place.path().join("omnivisor-demo-elsewhere");
        std::os::unix::fs::symlink(&left, &link).unwrap();
        sweep(place.path());
        assert!(!left.exists());
        assert!(link.symlink_metadata().is_ok(), "what is no folder is no demo's");
    }
}
