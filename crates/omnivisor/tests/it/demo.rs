//! The demo tells its story, disturbs nobody and is disturbed by nobody, and leaves nothing behind however it ends.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use omnivisor_testkit::{Sandbox, Supervised, wait_until};

use crate::world::{SOON, omnivisor_exe};

/// It takes eight seconds where nothing else is at work.
const PERFORMANCE: Duration = Duration::from_secs(180);

struct Theatre {
    sandbox: Sandbox,
}

impl Theatre {
    fn new() -> Self {
        let theatre = Self { sandbox: Sandbox::new() };
        fs::create_dir(theatre.place()).unwrap();
        theatre
    }

    /// Where the demo makes its folder.
    fn place(&self) -> PathBuf {
        fs::canonicalize(self.sandbox.path()).unwrap().join("t")
    }

    fn command(&self) -> Command {
        let mut command = self.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
        command.arg("demo").env("TMPDIR", self.place());
        command
    }

    /// Starts it, and waits until it has said this.
    fn begin(&self, until: &str) -> Supervised {
        let demo = self.sandbox.spawn(self.command());
        wait_until(&format!("the demo says {until:?}"), PERFORMANCE, || demo.stdout().contains(until).then_some(()));
        demo
    }

    /// Those that carry the demo's variable.
    fn processes(&self) -> Vec<u32> {
        let mark = [b"OMNIVISOR_DEMO=", self.place().as_os_str().as_bytes()].concat();
        let is_ours = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(&mark))
        };
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(is_ours).collect()
    }

    #[track_caller]
    fn assert_nothing_is_left(&self) {
        assert_eq!(self.processes(), [0_u32; 0]);
        for folder in [self.place(), self.sandbox.home(), self.sandbox.nym_home(), self.sandbox.daemon_home()] {
            assert_empty(&folder);
        }
        assert_empty(&self.sandbox.runtime());
    }
}

#[track_caller]
fn assert_empty(folder: &Path) {
    let left: Vec<_> = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What is told is the same each time, but for these.
#[track_caller]
fn assert_story(demo: &Supervised) {
    let filters = [
        (r"/\S*/omnivisor-demo-\w+", "[folder]"),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:[port]"),
        (r"process \d+", "process [pid]"),
        (r"kill -9 \d+", "kill -9 [pid]"),
        (r"[\d.]+ MB", "[size]"),
        (r"counted to \d+", "counted to [count]"),
        (r" +\d+(\.\d+)? m?s\b", " [time]"),
    ];
    insta::with_settings!({ filters => filters, omit_expression => true }, {
        insta::assert_snapshot!("story", demo.stdout());
    });
}

#[test]
fn everything_is_seen_and_nothing_is_left() {
    let theatre = Theatre::new();
    let mut demo = theatre.begin("1. A node");
    let status = demo.wait(PERFORMANCE);
    assert_eq!((status.code(), demo.stderr()), (Some(0), String::new()), "{}", demo.stdout());
    assert_story(&demo);
    theatre.assert_nothing_is_left();
}

#[test]
fn what_the_users_environment_says_changes_nothing() {
    let theatre = Theatre::new();
    let mut command = theatre.command();
    command
        .env("DAEMON_HOME", "/nonexistent")
        .env("DAEMON_NAME", "another")
        .env("NYMVISOR_ID", "x")
        .env("NYMVISOR_CONFIG_PATH", "/nonexistent/config.toml")
        .env("NYMVISOR_UPGRADE_DATA_DIRECTORY", "/nonexistent")
        .env("OMNIVISOR_CONFIG", "/nonexistent")
        .env("OMNIVISOR_PROBE_WINDOW", "1h")
        .env("OMNIVISOR_PROBE_COMMAND", "/bin/false")
        .env("http_proxy", "http://127.0.0.1:9")
        .env("HTTP_PROXY", "http://127.0.0.1:9")
        .env("RUST_LOG", "trace");
    let mut demo = theatre.sandbox.spawn(command);
    let status = demo.wait(PERFORMANCE);
    assert_eq!((status.code(), demo.stderr()), (Some(0), String::new()), "{}", demo.stdout());
    assert_story(&demo);
    theatre.assert_nothing_is_left();
}

#[test]
fn a_signal_ends_it_wherever_it_is_and_nothing_is_left() {
    for (signal, name, moment) in [
        (2, "SIGINT", "$ nymvisor init"),
        (15, "SIGTERM", "switched: 1.0.0 ended"),
        (2, "SIGINT", "it died; "),
        (15, "SIGTERM", "no supervisor, and the node"),
    ] {
        let theatre = Theatre::new();
        let mut demo = theatre.begin(moment);
        demo.signal(signal);
        assert_eq!(demo.wait(SOON).code(), Some(1), "{name} at {moment:?}");
        assert!(demo.stderr().contains(&format!("ended by {name}")), "{}", demo.stderr());
        theatre.assert_nothing_is_left();
    }
}

#[test]
fn what_is_not_seen_is_an_error_and_nothing_is_left() {
    let theatre = Theatre::new();
    // Whatever comes next, it does not.
    let mut demo = theatre.begin("2. A good release");
    let said = demo.stdout();
    let supervisor = said.split("(supervisor: process ").nth(1).unwrap().split(',').next().unwrap();
    let supervisor = rustix::process::Pid::from_raw(supervisor.parse().unwrap()).unwrap();
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
    assert_eq!(demo.wait(SOON).code(), Some(1));
    let error = demo.stderr();
    for part in ["in vain until ", "SIGKILL", "log ends so:"] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    theatre.assert_nothing_is_left();
}

#[test]
fn its_processes_end_by_themselves_if_it_is_killed() {
    for moment in ["1.0.0 runs as", "switched: 1.0.0 ended", "dies at its start", "no supervisor, and the node"] {
        let theatre = Theatre::new();
        let mut demo = theatre.begin(moment);
        demo.kill9();
        wait_until(&format!("all processes end, after {moment:?}"), SOON, || {
            theatre.processes().is_empty().then_some(())
        });
        // Its folder is removed by a later demo, which does not take it for that of one that is just beginning.
        let left = fs::read_dir(theatre.place()).unwrap().next().unwrap().unwrap().path();
        let old = std::time::SystemTime::now() - Duration::from_secs(3600);
        fs::File::options().write(true).open(left.join("lock")).unwrap().set_modified(old).unwrap();
        let mut next = theatre.begin("1. A node");
        assert!(!left.exists());
        next.signal(15);
        next.wait(SOON);
        theatre.assert_nothing_is_left();
    }
}

#[test]
fn nobody_has_to_listen() {
    let theatre = Theatre::new();
    let mut command = theatre.command();
    let mut demo = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((demo.stdout.take(), demo.stderr.take()));
    let status = wait_until("the demo to end", PERFORMANCE, || demo.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    theatre.assert_nothing_is_left();
}

#[test]
fn where_no_socket_fits_it_goes_elsewhere() {
    let theatre = Theatre::new();
    let long = theatre.place().join("a".repeat(80));
    fs::create_dir(&long).unwrap();
    let mut command = theatre.command();
    command.env("TMPDIR", &long);
    let mut demo = theatre.sandbox.spawn(command);
    wait_until("it begins", SOON, || demo.stdout().contains("1. A node").then_some(()));
    assert!(!demo.stdout().contains("aaaa"), "{}", demo.stdout());
    assert_empty(&long);
    demo.signal(2);
    assert_eq!(demo.wait(SOON).code(), Some(1));
}
