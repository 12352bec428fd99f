//! A private folder for one test, the environment of the programs that run in it, and the end of all of them.
//!
//! What is in the folder is not decided here: see `installation`. Processes are found by their environment, so a program
//! that is started without [`Sandbox::omnivisor`] and without `FAKE_NODE_LOG` is not cleaned up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::node_log::NodeLog;
use crate::process;
use crate::supervised::Supervised;

/// A unix socket's path is at most 107 bytes; this leaves room for the names below the folder.
const LONGEST_RUNTIME: usize = 60;

/// A private folder that leaves nothing behind: neither files nor processes.
#[derive(Debug)]
pub struct Sandbox {
    folder: PathBuf,
    /// Where a power cut would not be seen: what is only there while the machine runs, and what a test reads. The folder
    /// itself, unless that was given.
    kept: TempDir,
    outputs: Mutex<Vec<PathBuf>>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// A new one, empty but for its folders.
    pub fn new() -> Self {
        let kept = Self::begin();
        Self::of(kept.path().to_owned(), kept)
    }

    /// A new one on a disk of its own, which is mounted here and stays: all files but those at run time, and what the nodes
    /// and the supervisors log.
    pub fn on(disk: &Path) -> Self {
        Self::of(disk.to_owned(), Self::begin())
    }

    fn begin() -> TempDir {
        let begin = |within: &Path| tempfile::Builder::new().prefix("ov").tempdir_in(within);
        let mut folder = begin(&std::env::temp_dir()).unwrap();
        if folder.path().join("run").as_os_str().len() > LONGEST_RUNTIME {
            folder = begin(Path::new("/tmp")).unwrap();
        }
        folder
    }

    fn of(folder: PathBuf, kept: TempDir) -> Self {
        let sandbox = Self { folder, kept, outputs: Mutex::default() };
        for path in [sandbox.home(), sandbox.nym_home(), sandbox.daemon_home(), sandbox.runtime()] {
            fs::create_dir(path).unwrap();
        }
        fs::set_permissions(sandbox.runtime(), fs::Permissions::from_mode(0o700)).unwrap();
        sandbox
    }

    /// The folder itself, which is also the current folder of the programs.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The value of HOME; nothing should ever be written there.
    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// The value of NYM_HOME_DIR.
    pub fn nym_home(&self) -> PathBuf {
        self.path().join("nym")
    }

    /// Where the data of the node are.
    pub fn daemon_home(&self) -> PathBuf {
        self.path().join("daemon")
    }

    /// The value of OMNIVISOR_RUNTIME_DIR: short and private.
    pub fn runtime(&self) -> PathBuf {
        self.kept.path().join("run")
    }

    /// The value of FAKE_NODE_LOG.
    pub fn node_log_path(&self) -> PathBuf {
        self.kept.path().join("node.log")
    }

    /// What the fake nodes of this sandbox logged.
    pub fn node_log(&self) -> NodeLog {
        NodeLog::new(&self.node_log_path())
    }

    /// A command that runs the supervisor under one of its names, with nothing of this process' environment but PATH.
    pub fn omnivisor(&self, exe: &Path, argv0: &str) -> Command {
        let mut command = Command::new(exe);
        command
            .arg0(argv0)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
            .env("HOME", self.home())
            .env("NYM_HOME_DIR", self.nym_home())
            .env("OMNIVISOR_RUNTIME_DIR", self.runtime())
            .env("FAKE_NODE_LOG", self.node_log_path())
            // Machines that tests run on have disks that are nearly full.
            .env("OMNIVISOR_SNAPSHOT_RESERVE", "16MiB")
            .env("NO_COLOR", "1")
            .env("LC_ALL", "C");
        command
    }

    /// Starts a command whose output goes to files of the sandbox; they are shown if the test fails.
    pub fn spawn(&self, command: Command) -> Supervised {
        let mut outputs = self.outputs.lock().unwrap();
        let number = outputs.len() / 2 + 1;
        let [stdout, stderr] =
            ["out", "err"].map(|stream| self.kept.path().join(format!("supervisor-{number}.{stream}")));
        outputs.extend([stdout.clone(), stderr.clone()]);
        Supervised::spawn(command, stdout, stderr)
    }

    /// Kills every process of this sandbox, and those they start meanwhile; says whether all are gone.
    fn kill_all(&self) -> bool {
        let begin = Instant::now();
        loop {
            let ours = |pid| process::has_variable_below(pid, "FAKE_NODE_LOG", self.kept.path());
            let mut found = false;
            for pid in process::all().into_iter().filter(|pid| ours(*pid)) {
                found |= process::kill_if(pid, ours);
            }
            if !found {
                return true;
            }
            if begin.elapsed() > Duration::from_secs(10) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn show(&self) {
        let log = self.node_log_path();
        for path in self.outputs.lock().unwrap().iter().chain([&log]) {
            let text = fs::read(path).unwrap_or_default();
            eprintln!("---- {}\n{}", path.display(), String::from_utf8_lossy(&text));
        }
        eprintln!("----");
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let gone = self.kill_all();
        if std::thread::panicking() {
            self.show();
        } else {
            assert!(gone, "processes of {} cannot be killed", self.path().display());
        }
    }
}

/// Waits until a condition holds, and fails the test naming `what` if it does not in time.
#[track_caller]
pub fn wait_until<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    // Soon at first; then seldom enough that many who wait leave the machine to those they wait for.
    let (mut pause, longest) = (Duration::from_millis(2), Duration::from_millis(20));
    loop {
        // Looked at once more after the time is over, in case this thread slept through it.
        let over = begin.elapsed() > deadline;
        if let Some(found) = condition() {
            return found;
        }
        assert!(!over, "waited {deadline:?} in vain for {what}");
        std::thread::sleep(pause);
        pause = (pause * 5 / 4).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_sandbox_is_the_end_of_its_processes() {
        let sandbox = Sandbox::new();
        assert!(sandbox.runtime().as_os_str().len() <= LONGEST_RUNTIME);
        let mut command = sandbox.omnivisor(Path::new("/bin/sh"), "nymvisor");
        command.args(["-c", "(trap '' INT TERM; sleep 1000 & echo $!; wait) & wait"]);
        let supervised = sandbox.spawn(command);
        let pid: u32 = wait_until("the pid", Duration::from_secs(10), || supervised.stdout().trim().parse().ok());
        let started = process::started(pid);
        assert!(started.is_some());

        let path = sandbox.path().to_owned();
        drop(sandbox);
        wait_until("the end", Duration::from_secs(10), || (process::started(pid) != started).then_some(()));
        assert!(!path.exists());
    }

    #[test]
    #[should_panic(expected = "in vain for a miracle")]
    fn a_wait_names_what_did_not_come() {
        wait_until::<()>("a miracle", Duration::from_millis(5), || None);
    }
}
