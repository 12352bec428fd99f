//! Upgrades and bad upgrades, one after the other, and in all of them random faults; beside it somebody who looks at the
//! outside world all the time, and says which invariant is broken.
//!
//! `OMNIVISOR_SOAK` is how many faults (a few, if it is not set), `OMNIVISOR_SEED` which ones: the same seed gives the same
//! faults in the same order. How long the machine takes for what is between them is another matter in every run.

mod disk;
mod faults;
mod releases;
mod watcher;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use omnivisor_testkit::{Behaviour, Options, Sandbox, Supervised, wait_until};
use serde_json::Value;

use self::disk::Disk;
use self::faults::{Clock, Fault};
use self::releases::Release;
use self::watcher::Watcher;
use crate::crash::leftovers;
use crate::random::Random;
use crate::world::{SOON, World, options};

/// In the short form these faults are of as many kinds as there can be, and none takes half a minute: a full disk and a broken
/// one, a clock that jumps, every kill, a replacement, among good and bad releases.
const SEED: u64 = 106_461;

/// A poll of an upstream that stalls takes thirty seconds, and so may a download.
const PATIENCE: Duration = Duration::from_secs(100);

struct Soak {
    /// Before the world that is on them, as that is removed last.
    disks: Vec<Disk>,
    world: World,
    clock: Clock,
    supervised: Option<Supervised>,
    /// Whether its disk calls fail.
    disk_is_bad: bool,
    disk_is_full: bool,
    /// Whether what is not due yet may be switched to in this round: somebody wanted it, or a supervisor has begun since the
    /// clock jumped, and believes what it finds.
    may_be_early: bool,
    clock_is_ahead: bool,
    /// What it is about in this round.
    name: String,
    seed: u64,
    random: Random,
    watcher: Watcher,
    /// The newest release that is well, and what it is called.
    good: String,
    told: BTreeMap<String, usize>,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let options = Options {
            max_startup_failures: 500,
            shutdown_grace_period: "2s".to_owned(),
            failure_restart_delay: "100ms".to_owned(),
            startup_period_duration: "100ms".to_owned(),
            ..options()
        };
        let sandbox = Sandbox::new();
        let disks = Disk::under(&sandbox);
        let world = World::within(sandbox, Behaviour::new("1.0.0"), options);
        let clock = Clock::of(world.sandbox.path());
        std::fs::create_dir_all(world.installation.daemon_home().join("data")).unwrap();
        let watcher = Watcher::begin(&world);
        let told = BTreeMap::new();
        Self {
            disks,
            world,
            clock,
            supervised: None,
            disk_is_bad: false,
            disk_is_full: false,
            may_be_early: false,
            clock_is_ahead: false,
            name: String::new(),
            seed,
            random: Random(seed),
            watcher,
            good: "1.0.0".to_owned(),
            told,
        }
    }

    /// A release, the faults, and its end; how many faults that were.
    fn round(&mut self, number: u64, most: usize) -> usize {
        let kind = self.random.one_of(&Release::ALL);
        let (version, name) = (format!("1.{number}.0"), format!("2030.{number}"));
        name.clone_into(&mut self.name);
        self.may_be_early = false;
        self.tell(&format!("release: {kind:?}"));
        self.watcher.note(&format!("round {number}: {kind:?}"));
        self.publish(kind, &version, &name);
        let faults = most.min(1 + usize::try_from(self.random.below(3)).unwrap());
        for _ in 0..faults {
            let pause = Duration::from_millis(self.random.below(900));
            std::thread::sleep(pause); // it is not waited for anything: whatever is done then is disturbed
            let fault = self.random.one_of(&Fault::ALL);
            self.tell(&format!("fault: {fault:?}"));
            self.watcher.note(&format!("{fault:?} after {pause:?}"));
            self.disturb(fault);
            self.check();
        }
        if kind == Release::FarOff && !self.may_be_early {
            let active = self.world.status().unwrap_or_default()["active"]["version"].clone();
            assert!(active != version.as_str(), "{version} is not due for a month, and runs\n{}", self.story());
        }
        self.settle(kind, &version, &name);
        faults
    }

    fn tell(&mut self, what: &str) {
        *self.told.entry(what.to_owned()).or_default() += 1;
    }

    /// Fails if an invariant was broken.
    #[track_caller]
    fn check(&self) {
        if let Some(broken) = self.watcher.broken() {
            panic!("{broken}\n{}", self.story());
        }
    }

    /// What was done, for whoever has to find out why something is broken.
    fn story(&self) -> String {
        let said = self.supervised.as_ref().map(Supervised::stderr).unwrap_or_default();
        let said: Vec<&str> = said.lines().collect();
        let end = said[said.len().saturating_sub(40)..].join("\n");
        format!("OMNIVISOR_SEED={}\n{}\nthe supervisor said last:\n{end}", self.seed, self.watcher.story())
    }

    /// All faults end, and then the right release runs.
    fn settle(&mut self, kind: Release, version: &str, name: &str) {
        self.world.upstream.serve_instead(None);
        self.clock.set(Duration::ZERO);
        self.clock_is_ahead = false;
        self.disks.iter().for_each(Disk::make_room);
        self.disk_is_full = false;
        self.begin_anew_if_needed();
        wait_until("the supervisor answers", SOON, || self.world.status());
        self.world.omnivisor(&["resume"]);
        if kind.is_good() {
            version.clone_into(&mut self.good);
        }
        let end = Instant::now() + PATIENCE;
        let mut asked = Instant::now();
        loop {
            self.check();
            if self.supervised.as_mut().is_none_or(|it| it.try_wait().is_some()) {
                self.start();
            }
            let status = self.world.status().unwrap_or_default();
            let runs = status["node"]["state"] == "running";
            let idle = status["upgrade"]["phase"] == "idle";
            if runs
                && idle
                && status["active"]["version"] == self.good.as_str()
                && (kind.is_good() || judged(&status, name))
            {
                self.watcher.settled(&self.world);
                return self.check();
            }
            // What has failed waits for its next try, which may be a while.
            let waits = idle || status["upgrade"]["phase"] == "staged";
            if kind.is_good() && runs && waits && asked.elapsed() > Duration::from_millis(700) {
                self.world.omnivisor(&["upgrade", name]);
                asked = Instant::now();
            }
            assert!(
                Instant::now() < end,
                "{} does not run, or {name} is not judged: {status:#}\n{}",
                self.good,
                self.story()
            );
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn end(mut self) -> BTreeMap<String, usize> {
        if let Some(mut supervised) = self.supervised.take() {
            supervised.signal(15);
            assert_eq!(supervised.wait(SOON).code(), Some(0), "{}", supervised.stderr());
        }
        self.check();
        self.world.log().assert_never_double();
        let left = leftovers(vec![self.world.sandbox.nym_home(), self.world.sandbox.daemon_home()]);
        assert!(left.is_empty(), "{left:?}\n{}", self.story());
        let looks = self.watcher.end();
        self.told.insert("looks at the outside world".to_owned(), looks);
        self.told
    }
}

/// Whether it is said of a release that is not good that it is not followed, or not for now.
fn judged(status: &Value, name: &str) -> bool {
    let of = |list: &str| status[list].as_array().into_iter().flatten().find(|it| it["name"] == name);
    let standing = of("announced").and_then(|it| it["standing"].as_str()).unwrap_or_default();
    of("failed").is_some() || ["failed here", "tried again at", "given up"].iter().any(|word| standing.contains(word))
}

#[test]
fn whatever_happens_no_invariant_is_broken() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let wanted = number("OMNIVISOR_SOAK").unwrap_or(12);
    let seed = number("OMNIVISOR_SEED").unwrap_or(SEED);
    let begun = Instant::now();
    println!("OMNIVISOR_SEED={seed} OMNIVISOR_SOAK={wanted}");
    let mut soak = Soak::new(seed);
    if !soak.clock.can_jump() {
        println!("skipped: the clock does not jump, as libfaketime is not installed");
    }
    if !cfg!(debug_assertions) {
        println!("skipped: no call of the disk fails, as a release has no checkpoints");
    }
    if soak.disks.is_empty() {
        println!("skipped: no disk is full, as nothing can be mounted here");
    }
    soak.start();
    soak.world.wait_for("1.0.0");
    wait_until("the supervisor answers", SOON, || soak.world.status());
    soak.see_the_clock_jump();
    let (mut done, mut round) = (0, 1);
    while done < wanted {
        done += u64::try_from(soak.round(round, usize::try_from(wanted - done).unwrap())).unwrap();
        round += 1;
    }
    let upgraded = soak.good.clone();
    for (what, times) in soak.end() {
        println!("{times:>6} {what}");
    }
    println!("{done} faults in {} rounds, {upgraded} runs, {:.0} s", round - 1, begun.elapsed().as_secs_f32());
}
