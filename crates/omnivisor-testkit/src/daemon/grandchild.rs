//! The process that a fake daemon starts and forgets.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::process::setsid;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::Log;
use crate::behaviour::Grandchild;
use crate::process;

/// Starts it and waits until it has set itself up, so that nothing after depends on who is faster.
#[allow(clippy::zombie_processes)] // Forgetting it is the point.
pub(crate) fn start(grandchild: &Grandchild) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = if grandchild.no_descriptors { without_descriptors() } else { again(&[]) };
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    let flags = [
        ("--orphaned", grandchild.orphaned),
        ("--ignore-term", grandchild.ignore_term),
        ("--own-session", grandchild.own_session),
        ("--forks", grandchild.forks),
    ];
    command.args(flags.iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| flag));
    if let Some(log) = std::env::var_os("FAKE_NODE_LOG") {
        command.arg("--log").arg(log);
    }
    if grandchild.no_environment {
        command.env_clear();
    }
    command.spawn().unwrap();
    // Our copy of the other end, so that a grandchild that fails does not leave us waiting.
    drop(command);
    ours.read_exact(&mut [0]).ok();
}

/// `grandchild`: says so in the log, tells its parent through stdin, and stays until the log is removed.
#[allow(clippy::zombie_processes)]
pub(crate) fn stay(version: &str, flags: &[&str]) -> ! {
    let has = |flag: &str| flags.contains(&flag);
    let path = flags.iter().position(|flag| *flag == "--log").map(|at| PathBuf::from(flags[at + 1]));
    if has("--orphaned") {
        let others: Vec<&str> = flags.iter().copied().filter(|flag| *flag != "--orphaned").collect();
        again(&others).spawn().unwrap();
        std::process::exit(0);
    }
    if has("--own-session") {
        setsid().expect("the child of a node leads no group");
    }
    if has("--ignore-term") {
        let unread = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, unread.clone()).unwrap();
        }
    }
    if !has("--again") {
        let log = Log::at(path.clone(), version, None);
        log.write("grandchild", json!({"started": process::started(std::process::id())}));
        rustix::io::write(std::io::stdin().as_fd(), b"!").ok();
    }
    let gone = || path.as_ref().is_some_and(|path| !path.exists());
    if let Some(path) = path.as_ref().filter(|_| has("--forks")) {
        std::thread::sleep(Duration::from_millis(8));
        if !gone() {
            let mut count = OpenOptions::new().append(true).create(true).open(forks(path)).unwrap();
            count.write_all(b".").unwrap();
            let flags = flags.iter().copied().filter(|flag| *flag != "--again");
            let flags: Vec<&str> = flags.chain(["--again"]).collect();
            again(&flags).stdin(Stdio::null()).spawn().unwrap();
        }
        std::process::exit(0);
    }
    // Nothing else ends one whose environment does not say whose it is.
    while !gone() {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::process::exit(0)
}

/// Where one that forks counts.
pub(crate) fn forks(log: &Path) -> PathBuf {
    log.with_extension("forks")
}

fn again(flags: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("grandchild").args(flags);
    command
}

/// The same, but it has inherited none but the first three.
fn without_descriptors() -> Command {
    const CLOSE: &str = "for it in /proc/$$/fd/*; do it=${it##*/}; [ $it -gt 2 ] && eval \"exec $it>&-\"; done";
    let mut command = Command::new("bash");
    command.args(["--norc", "-c"]).arg(format!("{CLOSE}; exec \"$0\" \"$@\"")).arg(std::env::current_exe().unwrap());
    command.arg("grandchild");
    command
}
