//! An installation on some file system with a home of some shape, upgraded by the released binary. The fake node waits at its
//! end until what a node changes there was changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use omnivisor_testkit::measure::{calendar, calls_before_exec, gone, mono_ns, pidfd};
use omnivisor_testkit::{Behaviour, Installation, Options, Sandbox, Supervised, mint, wait_until};

use rustix::process::{Pid, Signal, kill_process};

use crate::homes::{Changed, Shape, flush};
use crate::{exe, template};

const SOON: Duration = Duration::from_secs(60);
/// A floor's rate for the largest home, and more.
const PASSES: Duration = Duration::from_secs(900);

/// How an upgrade is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Warm,
    /// The page cache is dropped between the change and the node's end.
    Cold,
    /// Each flush takes five milliseconds more. Slows nothing else: of the calls, only the flushes are stopped at.
    SlowFlushes,
}

#[derive(Clone, Debug)]
pub struct Outage {
    pub took: Duration,
    /// From the command to the node's being asked to end.
    pub ahead: Duration,
    pub changed: Changed,
    /// The calls that flush; only of [`How::SlowFlushes`].
    pub flushes: Vec<String>,
    /// The highest resident memory of the supervisor, in bytes.
    pub memory: u64,
}

pub struct Scene {
    pub sandbox: Sandbox,
    installation: Installation,
    shape: Shape,
    round: u64,
    /// Whether the snapshot of an upgrade stays where it is, as it does for a day.
    pub keeps: bool,
}

impl Scene {
    /// In this folder, which has to be there and is left behind.
    pub fn new(folder: &Path, shape: Shape) -> Self {
        let sandbox = Sandbox::on(folder);
        shape.make(&sandbox.daemon_home());
        let genesis = sandbox.path().join("genesis-node");
        let options = Options {
            restart_on_failure: true,
            startup_period_duration: "200ms".to_owned(),
            shutdown_grace_period: "10m".to_owned(),
            ..Options::default()
        };
        let mut scene = Self {
            installation: {
                mint(&template(), &genesis, &Behaviour::new("1.0.0"));
                Installation::nymvisor_with(&sandbox, "nym-node-default", "nym-node", &genesis, &options)
            },
            sandbox,
            shape,
            round: 0,
            keeps: false,
        };
        // The genesis node's end is as that of the others.
        let first = scene.next();
        fs::rename(first, scene.installation.binary("genesis")).unwrap();
        scene
    }

    fn asked(&self) -> PathBuf {
        self.sandbox.path().join("asked")
    }

    fn answer(&self) -> PathBuf {
        self.sandbox.path().join("answer")
    }

    fn version(&self) -> String {
        format!("{}.0.0", self.round + 1)
    }

    fn next(&mut self) -> PathBuf {
        let path = self.sandbox.path().join(format!("node-{}", self.version()));
        let (asked, answer) = (self.asked(), self.answer());
        let (asked, answer) = (asked.display(), answer.display());
        let wait = format!("touch {asked}; until rm {answer} 2>/dev/null; do sleep 0.002; done");
        mint(&template(), &path, &Behaviour { at_stop: Some(wait), ..Behaviour::new(&self.version()) });
        path
    }

    fn run(&self, how: How) -> Supervised {
        let mut command = match how {
            How::Warm | How::Cold => {
                let mut command = self.sandbox.omnivisor(exe(), "nymvisor");
                command.args(["run", "run"]);
                command
            }
            How::SlowFlushes => {
                let mut command = self.sandbox.omnivisor(Path::new("strace"), "strace");
                command.args(["-f", "-y", "--seccomp-bpf", "-ttt", "-e", "signal=none"]);
                command.args(["-e", "trace=fsync,fdatasync,syncfs,msync,sync,execve"]);
                command.args(["-e", "inject=fsync,fdatasync,syncfs,msync,sync:delay_enter=5000"]);
                let name = self.sandbox.path().join("nymvisor");
                if !name.exists() {
                    std::os::unix::fs::symlink(exe(), &name).unwrap();
                }
                command.arg("-o").arg(self.trace()).arg(name).args(["run", "run"]);
                command
            }
        };
        command.env("OMNIVISOR_SNAPSHOT_RESERVE", "1GiB");
        let supervised = self.sandbox.spawn(command);
        wait_until("the supervisor has settled", SOON, || self.status());
        wait_until("the node runs", SOON, || self.sandbox.node_log().running().pop());
        supervised
    }

    fn trace(&self) -> PathBuf {
        self.sandbox.path().join("trace")
    }

    fn status(&self) -> Option<serde_json::Value> {
        let output = self.sandbox.omnivisor(exe(), "omnivisor").args(["status", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    /// One upgrade, from a new supervisor's start to its end.
    pub fn upgrade(&mut self, how: How) -> Outage {
        let supervised = self.run(how);
        self.round += 1;
        let (version, path) = (self.version(), self.next());
        let old = self.sandbox.node_log().last_start().unwrap();
        let watched = pidfd(old.pid);
        let mut command = self.sandbox.omnivisor(exe(), "nymvisor");
        command.args(["add-upgrade", path.to_str().unwrap(), "--upgrade-name", &format!("up-{version}"), "--now"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told = mono_ns();
        wait_until("the node is asked to end", PASSES, || self.asked().exists().then_some(()));
        let ahead = Duration::from_nanos(mono_ns() - told);
        fs::remove_file(self.asked()).unwrap();
        let changed = self.shape.change(&self.sandbox.daemon_home(), self.round);
        if how == How::Cold {
            drop_page_cache();
        }
        fs::write(self.answer(), "").unwrap();
        let (ended, calendar) = (gone(&watched), calendar());
        let start = wait_until("the new node runs", PASSES, || {
            self.sandbox.node_log().last_start().filter(|start| start.version == version)
        });
        wait_until("the upgrade is committed", SOON, || {
            let status = self.status()?;
            (status["upgrade"]["phase"] == "idle" && status["active"]["version"] == version.as_str()).then_some(())
        });
        let flushes = match how {
            How::SlowFlushes => calls_before_exec(&fs::read_to_string(self.trace()).unwrap(), calendar),
            How::Warm | How::Cold => Vec::new(),
        };
        let memory = highest_memory(parent(self.sandbox.node_log().last_start().unwrap().pid));
        self.end(supervised);
        Outage { took: Duration::from_nanos(start.mono_ns - ended), ahead, changed, flushes, memory }
    }

    /// Ends the node as an operator does, and removes what was copied, if it is not kept: there is no room for all of it.
    fn end(&self, mut supervised: Supervised) {
        let node = self.sandbox.node_log().last_start().unwrap();
        fs::write(self.answer(), "").unwrap();
        let supervisor = Pid::from_raw(parent(node.pid).cast_signed()).unwrap();
        kill_process(supervisor, Signal::TERM).unwrap();
        supervised.wait(SOON);
        let _ = fs::remove_file(self.asked());
        let copied = fs::read_dir(self.installation.backups()).unwrap();
        for entry in copied.filter(|_| !self.keeps) {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        flush(self.sandbox.path());
    }
}

/// The supervisor, if the node is a node: what was started may be an strace with that below it.
fn parent(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

fn highest_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Only root can; whether it did.
pub fn drop_page_cache() -> bool {
    let _ = Command::new("sync").status();
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}
