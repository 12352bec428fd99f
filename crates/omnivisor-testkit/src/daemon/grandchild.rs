//! The process that a fake daemon starts and forgets.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::setsid;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{Log, sleep_for_good};
use crate::behaviour::Grandchild;
use crate::process;

/// Starts it and waits until it has set itself up, so that nothing after depends on who is faster.
#[allow(clippy::zombie_processes)] // Forgetting it is the point.
pub(crate) fn start(grandchild: &Grandchild) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new("/proc/self/exe");
    command.arg("grandchild").stdin(Stdio::from(OwnedFd::from(theirs)));
    if grandchild.ignore_term {
        command.arg("--ignore-term");
    }
    if grandchild.own_session {
        command.arg("--own-session");
    }
    command.spawn().unwrap();
    // Our copy of the other end, so that a grandchild that fails does not leave us waiting.
    drop(command);
    ours.read_exact(&mut [0]).ok();
}

/// `grandchild`: says so in the log, tells its parent through stdin, and stays.
pub(crate) fn stay(log: &Log<'_>, flags: &[&str]) -> ! {
    if flags.contains(&"--own-session") {
        setsid().expect("the child of a node leads no group");
    }
    if flags.contains(&"--ignore-term") {
        let unread = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, unread.clone()).unwrap();
        }
    }
    log.write("grandchild", json!({"started": process::started(std::process::id())}));
    rustix::io::write(std::io::stdin().as_fd(), b"!").ok();
    sleep_for_good()
}
