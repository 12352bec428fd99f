//! A fake node at work: log, lock, data, health, signals. Its other commands are one level up.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, setrlimit, setsid};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::{REFUSED, sleep_for_good};
use crate::behaviour::{Behaviour, Grandchild};
use crate::process;

/// `run`: returns the exit code once something ends the node.
pub(super) fn run(behaviour: &Behaviour, args: &[String]) -> i32 {
    // Before the first line of the log, so that whoever waits for that line may send a signal at once.
    let mut signals = Signals::register();
    let log = Log::open(&behaviour.version);
    log.write("start", json!({"args": args, "started": process::started(std::process::id())}));
    let lock = log.lock();
    if lock.is_none() {
        log.write("double", json!({}));
    }
    if let Some(home) = home(args)
        && !take_home(&home, behaviour)
    {
        log.write("refused", json!({}));
        return REFUSED;
    }
    if let Some(grandchild) = &behaviour.grandchild {
        start_grandchild(grandchild);
    }
    for line in 1..=behaviour.stdout_lines {
        println!("line {line} of {} {}", behaviour.name, behaviour.version);
    }

    let dies = behaviour.exit_after_ms.or(behaviour.die_of_signal.map(|_| 0));
    let mut deadline = dies.map(|after| Instant::now() + Duration::from_millis(after));
    let mut stopping = false;
    while let Some(signal) = signals.next(deadline) {
        log.write("signal", json!({"signal": signal}));
        let ignored = behaviour.ignore_stop && signal != SIGQUIT;
        if !stopping && !ignored {
            stopping = true;
            deadline = Some(Instant::now() + Duration::from_millis(behaviour.linger_ms));
        }
    }
    if stopping {
        log.write("exit", json!({"code": 0}));
        return 0;
    }
    if let Some(signal) = behaviour.die_of_signal {
        log.write("dies", json!({"signal": signal}));
        die_of(signal);
    }
    log.write("exit", json!({"code": behaviour.exit_code}));
    behaviour.exit_code
}

/// `grandchild`: says so in the log, tells its parent through stdin, and stays.
pub(super) fn grandchild(behaviour: &Behaviour, flags: &[&str]) -> i32 {
    if flags.contains(&"--own-session") {
        setsid().expect("the child of a node leads no group");
    }
    if flags.contains(&"--ignore-term") {
        let unread = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, unread.clone()).unwrap();
        }
    }
    let started = process::started(std::process::id());
    Log::open(&behaviour.version).write("grandchild", json!({"started": started}));
    rustix::io::write(std::io::stdin().as_fd(), b"!").ok();
    sleep_for_good()
}

/// Starts it and waits until it has set itself up, so that nothing after depends on who is faster.
#[allow(clippy::zombie_processes)] // Forgetting it is the point.
fn start_grandchild(grandchild: &Grandchild) {
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

/// `--home X` or `--home=X` of the arguments, else `$DAEMON_HOME`.
fn home(args: &[String]) -> Option<PathBuf> {
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if word == "--home" {
            return words.next().map(PathBuf::from);
        }
        if let Some(home) = word.strip_prefix("--home=") {
            return Some(PathBuf::from(home));
        }
    }
    std::env::var_os("DAEMON_HOME").map(PathBuf::from)
}

/// Opens the data of the home; false if they are of a newer schema than this node knows.
fn take_home(home: &Path, behaviour: &Behaviour) -> bool {
    let state = home.join("data/state.json");
    let schema = fs::read(&state)
        .ok()
        .map(|bytes| serde_json::from_slice::<Value>(&bytes).unwrap()["schema"].as_str().unwrap().to_owned());
    if schema.as_deref().is_some_and(|schema| numbers(schema) > numbers(&behaviour.version)) {
        return false;
    }
    if schema.is_none() || behaviour.migrates {
        fs::create_dir_all(home.join("data")).unwrap();
        replace(&state, &json!({"schema": behaviour.version}).to_string());
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

fn numbers(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("beside");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, path).unwrap();
}

fn die_of(signal: i32) {
    // A test has no use for a core dump in its folder.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).ok();
    signal_hook::low_level::emulate_default_handler(signal).unwrap();
}

/// The log at `$FAKE_NODE_LOG`; without the variable nothing is logged.
struct Log<'a> {
    file: Option<File>,
    path: Option<PathBuf>,
    version: &'a str,
}

impl<'a> Log<'a> {
    fn open(version: &'a str) -> Self {
        let path = std::env::var_os("FAKE_NODE_LOG").map(PathBuf::from);
        let file = path.as_ref().map(|path| OpenOptions::new().append(true).create(true).open(path).unwrap());
        Self { file, path, version }
    }

    /// One line in one write, so that the lines of two nodes do not mix.
    fn write(&self, event: &str, mut fields: Value) {
        let Some(mut file) = self.file.as_ref() else { return };
        let now = clock_gettime(ClockId::Monotonic);
        fields["event"] = event.into();
        fields["pid"] = std::process::id().into();
        fields["version"] = self.version.into();
        fields["mono_ns"] = (now.tv_sec * 1_000_000_000 + now.tv_nsec).into();
        file.write_all(format!("{fields}\n").as_bytes()).unwrap();
    }

    /// The lock only one node may hold; to be kept until the end. `None` if another has it.
    fn lock(&self) -> Option<Option<File>> {
        let Some(path) = &self.path else { return Some(None) };
        let mut name = path.clone().into_os_string();
        name.push(".lock");
        let file = OpenOptions::new().append(true).create(true).open(name).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| Some(file))
    }
}

/// The signals that stop a node, each through its own pipe.
struct Signals([(i32, UnixStream); 3]);

impl Signals {
    fn register() -> Self {
        Self([SIGINT, SIGTERM, SIGQUIT].map(|signal| {
            let (reads, writes) = UnixStream::pair().unwrap();
            signal_hook::low_level::pipe::register(signal, writes).unwrap();
            (signal, reads)
        }))
    }

    /// The next signal, or `None` at the deadline.
    fn next(&mut self, deadline: Option<Instant>) -> Option<i32> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.map(|left| Timespec::try_from(left).unwrap());
            let mut ends = self.0.each_ref().map(|(_, end)| PollFd::new(end, PollFlags::IN));
            let ready = match poll(&mut ends, timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result.unwrap(),
            };
            if ready == 0 {
                return None;
            }
            let first = ends.iter().position(|end| !end.revents().is_empty()).unwrap();
            let (signal, end) = &mut self.0[first];
            end.read_exact(&mut [0]).unwrap();
            return Some(*signal);
        }
    }
}
