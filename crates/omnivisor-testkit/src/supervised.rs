//! A supervisor that runs. Its environment is set by `sandbox`; the nodes below it are not touched here.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::sandbox::wait_until;

/// A supervisor that was started; killed when this is dropped.
#[derive(Debug)]
pub struct Supervised {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Supervised {
    pub(crate) fn spawn(mut command: Command, stdout: PathBuf, stderr: PathBuf) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        Self { child, stdout, stderr }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it (and the nodes below it) wrote to stdout so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// What it (and the nodes below it) wrote to stderr so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it did.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it ends by itself, and fails the test if it does not in time.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        wait_until("the supervisor to end", deadline, || self.try_wait())
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&mut self, signal: i32) {
        if self.try_wait().is_none() {
            let signal = Signal::from_named_raw(signal).expect("a signal with a name");
            kill_process(Pid::from_child(&self.child), signal).unwrap();
        }
    }

    /// Kills and reaps it, as a power cut would end it; what it started goes on.
    pub fn kill9(&mut self) -> ExitStatus {
        self.child.kill().unwrap();
        self.child.wait().unwrap()
    }

    /// The signal that ended it, if one did.
    pub fn died_of(&mut self) -> Option<i32> {
        self.try_wait().and_then(|status| status.signal())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use crate::sandbox::{Sandbox, wait_until};
    use std::path::Path;
    use std::time::Duration;

    #[test]
    fn what_it_writes_and_how_it_ends_is_seen() {
        let sandbox = Sandbox::new();
        let mut command = sandbox.omnivisor(Path::new("/bin/sh"), "nymvisor");
        command.args(["-c", "trap 'exit 7' TERM; echo here >&2; echo there; while :; do sleep 0.01; done"]);
        let mut supervised = sandbox.spawn(command);
        wait_until("a sign", Duration::from_secs(10), || (supervised.stdout() == "there\n").then_some(()));
        assert_eq!(supervised.stderr(), "here\n");
        assert!(supervised.try_wait().is_none());
        supervised.signal(15);
        assert_eq!(supervised.wait(Duration::from_secs(10)).code(), Some(7));
        supervised.signal(15);
    }

    #[test]
    fn it_can_be_killed() {
        let sandbox = Sandbox::new();
        let mut command = sandbox.omnivisor(Path::new("/bin/sh"), "omnivisor");
        command.args(["-c", "while :; do sleep 0.01; done"]);
        let mut supervised = sandbox.spawn(command);
        supervised.kill9();
        assert_eq!(supervised.died_of(), Some(9));
    }
}
