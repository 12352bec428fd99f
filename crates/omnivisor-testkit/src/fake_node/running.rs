//! A fake nym-node at work: lock, data, health. Its other commands are one level up.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use super::{REFUSED, serving};
use crate::behaviour::Behaviour;
use crate::daemon::{End, Log, Signals, Stop, flag, grandchild, live, lock, replace, take_state};

/// `run`: returns the exit code once something ends the node.
pub(super) fn run(behaviour: &Behaviour, args: &[String]) -> i32 {
    // Before the first line of the log, so that whoever waits for that line may send a signal at once.
    let mut signals = Signals::register();
    let log = Log::open(&behaviour.version, None);
    log.start(args);
    // One node for each log, wherever its home is.
    let held = log.path().map(|path| {
        let mut name = path.clone().into_os_string();
        name.push(".lock");
        lock(name)
    });
    if held.as_ref().is_some_and(Option::is_none) {
        log.write("double", json!({}));
    }
    let mut database = None;
    if let Some(home) = home(args) {
        if !take_home(&home, behaviour) {
            log.write("refused", json!({}));
            return REFUSED;
        }
        // As nodes do for all their life.
        database = fs::File::options().append(true).open(home.join("data/state.json")).ok();
    }
    if let Some(grandchild) = &behaviour.grandchild {
        grandchild::start(grandchild);
    }
    for line in 1..=behaviour.stdout_lines {
        println!("line {line} of {} {}", behaviour.name, behaviour.version);
    }
    if let Some(serves) = &behaviour.serves {
        serving::begin(serves);
    }
    if behaviour.says_ready {
        serving::say_ready();
    }
    let end = End { after_ms: behaviour.exit_after_ms, code: behaviour.exit_code, signal: behaviour.die_of_signal };
    let stop = || {
        if let Some(command) = &behaviour.at_stop {
            let status = Command::new("/bin/sh").args(["-c", command]).stdin(Stdio::null()).status().unwrap();
            assert!(status.success(), "{command}: {status}");
        }
        Stop { ignored: behaviour.ignore_stop, linger_ms: behaviour.linger_ms, code: 0 }
    };
    let code = live(&log, &mut signals, &end, stop);
    drop(database);
    log.exit(code)
}

/// `--home X` or `--home=X` of the arguments, else `$DAEMON_HOME`.
fn home(args: &[String]) -> Option<PathBuf> {
    flag(args, "--home").map(PathBuf::from).or_else(|| std::env::var_os("DAEMON_HOME").map(PathBuf::from))
}

/// Opens the data of the home; false if they are of a newer schema than this node knows.
fn take_home(home: &Path, behaviour: &Behaviour) -> bool {
    if !take_state(&home.join("data/state.json"), &behaviour.version, behaviour.migrates) {
        return false;
    }
    let healthy = home.join("healthy");
    if behaviour.sick {
        if let Err(error) = fs::remove_file(&healthy) {
            assert_eq!(error.kind(), ErrorKind::NotFound, "cannot remove {}: {error}", healthy.display());
        }
    } else {
        replace(&healthy, &behaviour.version);
    }
    true
}
