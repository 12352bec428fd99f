//! Whatever comes from outside and is wrong: the node runs on, somebody is told why, nothing is lost, and what is right
//! afterwards is followed without a restart.

mod all_that_hangs;
mod announcement;
mod binary;
pub mod disk;
mod download;
mod exit_code;
mod plan;
mod takeover;
mod upstream;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnivisor_testkit::{Answer, Behaviour, Options, Supervised, sha256_hex, upgrade_info, wait_until};
use serde_json::Value;

use crate::world::{ANNOUNCEMENT, SOON, World, options};

/// A time that never comes: what is announced for it is prepared, and waits.
const NEVER: &str = "9999-12-31T23:59:59Z";

/// The usual options, and an upstream that is asked as often as is allowed.
fn impatient() -> Options {
    Options { polling_rate: "1s".to_owned(), startup_period_duration: "300ms".to_owned(), ..options() }
}

/// A supervised node that has to run on, whatever is done to the rest of the world.
struct Calm {
    world: World,
    supervised: Supervised,
    pid: u32,
}

impl Calm {
    /// Starts the supervisor of a world.
    fn begin(world: World) -> Self {
        let supervised = world.run();
        let pid = world.wait_for("1.0.0");
        Self { world, supervised, pid }
    }

    /// One with the usual options.
    fn new() -> Self {
        Self::begin(World::with(Behaviour::new("1.0.0"), impatient()))
    }

    /// Does something wrong, and sees that one line about it has all these words, and that the node does not notice.
    #[track_caller]
    fn check(&mut self, what: &str, words: &[&str], wrong: impl FnOnce(&World)) {
        let before = self.supervised.stderr().len();
        wrong(&self.world);
        self.wait_for_line(what, before, words);
        self.undisturbed(what);
    }

    /// Waits until a line after the first `before` bytes of what the supervisor says has all these words.
    #[track_caller]
    fn wait_for_line(&self, what: &str, before: usize, words: &[&str]) {
        wait_until(&format!("a line with {words:?} about {what}"), SOON, || {
            let said = self.supervised.stderr();
            said.get(before..)?.lines().find(|line| words.iter().all(|word| line.contains(word))).map(|_| ())
        });
    }

    /// Sees that the node that ran at first still runs, and was never even asked to stop.
    #[track_caller]
    fn undisturbed(&mut self, what: &str) {
        assert_eq!(self.supervised.try_wait(), None, "{what}: the supervisor has ended");
        let running: Vec<u32> = self.world.log().running().into_iter().map(|node| node.pid).collect();
        assert_eq!(running, [self.pid], "{what}: another node runs, or none");
        assert_eq!(self.world.log().signals_of(self.pid), [0_i32; 0], "{what}: the node was asked to stop");
    }

    /// Waits until upstream was asked, and has answered, once more.
    #[track_caller]
    fn next_poll(&self) {
        let before = self.world.upstream.requests(ANNOUNCEMENT);
        // The second one is not begun before the first one's answer has been dealt with.
        wait_until("two polls", SOON, || (self.world.upstream.requests(ANNOUNCEMENT) >= before + 2).then_some(()));
    }

    /// Waits until the release of this version is prepared, and sees that the node does not notice.
    #[track_caller]
    fn wait_until_staged(&mut self, version: &str) {
        self.world.wait_for_status(&format!("{version} is prepared"), |status| {
            status["upgrade"]["phase"] == "staged"
                && status["upgrade"]["to"].as_str().is_some_and(|to| to.starts_with(&format!("{version} ")))
        });
        self.undisturbed(version);
    }

    /// Announces something good, and sees that it is followed: nothing that was done before has made it deaf.
    #[track_caller]
    fn follows_a_good_one(mut self, version: &str) -> Self {
        self.undisturbed("before the good release");
        self.world.publish(&format!("good-{version}"), &Behaviour::new(version));
        self.world.wait_for_commit(version);
        self.pid = self.world.wait_for(version);
        assert_eq!(self.supervised.try_wait(), None, "without a restart");
        self.world.log().assert_never_double();
        self
    }

    /// The most memory that the supervisor ever had, in KiB.
    fn most_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.supervised.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// An announcement of this executable that is right in everything, with its download being served.
fn announced(world: &World, name: &str, version: &str, time: &str, executable: &Path) -> Value {
    let path = format!("/download/{name}");
    world.upstream.serve(&path, Answer::File(executable.to_owned()));
    let url = world.upstream.url(&path);
    upgrade_info(name, version, time, Some((&url, &sha256_hex(executable))), None)
}

/// Makes these the only entries of the queue, as a person with an editor does; seen at once, unlike what is published.
fn queue_only(world: &World, entries: &[Value]) {
    let mut plan = world.plan();
    plan["queuedUp"] = entries.into();
    let (path, beside) = (world.installation.plan(), world.sandbox.path().join("plan.edited"));
    std::fs::write(&beside, plan.to_string()).unwrap();
    std::fs::rename(beside, path).unwrap();
}

/// Every path below a folder but the ones that are being written at the moment.
fn paths_below(root: &Path) -> BTreeSet<PathBuf> {
    let mut folders = vec![root.to_owned()];
    let mut paths = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with(".omnivisor-new") {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
            paths.insert(entry.path());
        }
    }
    paths
}

/// How long what has to time out by itself may take: the longest time-out of a transfer is 30 s.
const AT_LAST: Duration = Duration::from_secs(60);
