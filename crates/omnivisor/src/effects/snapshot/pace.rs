//! How fast a running node's data is copied: so that the node is slowed by a tenth at most.
//!
//! A piece is copied and written to the disk, then the thread rests until its time is over. What a piece takes from others is
//! told by the kernel: how much more somebody had to wait for the disk or a processor while it was copied than while this rested
//! (`/proc/pressure`), and how much less was flushed to the homes' disks (their `stat`). Of a node that waits for a flush all the
//! time only the latter says how it fares; a disk that needs no flushes counts none, and then the former has to do. The rate
//! follows that, between a floor, at which a copy of any node comes to an end, and a ceiling. Where the kernel does not tell, the
//! rate is a careful one and stays.
//!
//! The low priority alone is not enough: the disk's cache and the file system's journal know none. Measured on a node that flushes
//! small writes all the time: a quarter to a third slower with it and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::effects::data::Data;
use crate::sys;

/// Between two rests so much is copied, and written to the disk at once. In pieces of a quarter of a megabyte a node that flushes
/// all the time was slowed twice as much as in these: it waits for one of ours more often.
pub const PIECE: u64 = 4 << 20;

/// What a file costs at least: its entry, its inode and its attributes are written, too, and in the journal.
const FILE: u64 = 16 << 10;

/// Where the rate begins, and stays if nothing is known: bytes in a second. Disks that are slower than this by far are rare.
const CAREFUL: f64 = 48.0 * MB;
/// Not slower: 100 GiB take less than two hours.
const FLOOR: f64 = 16.0 * MB;
/// Not faster.
const CEILING: f64 = 192.0 * MB;
const MB: f64 = (1 << 20) as f64;

/// The share that is taken of the time which others would have had to themselves: what is seen is a little less than what a node
/// loses.
const SHARE: f64 = 0.065;

/// How much a new look counts beside all before it: a node's work is not steady, and a rate that follows each look is too low on average, as
/// it falls faster than it rises.
const NEWS: f64 = 0.25;

/// By how much the rate changes from one look to the next at most.
const STEP: std::ops::RangeInclusive<f64> = 0.8..=1.15;

/// With fewer flushes than this while it rested, nobody can tell whether there are less.
const FLUSHES: u64 = 20;

/// What waiting for a processor counts for: where all are busy, it is mostly us who wait, as we have the lower priority.
const PROCESSOR: f64 = 0.25;

/// So long is looked at once.
const LOOK: Duration = Duration::from_millis(500);

/// What has been cancelled goes on for so long at most.
const NAP: Duration = Duration::from_millis(50);

/// Weak enough to give way to a node, and not so weak that it is kept off a processor for long in the midst of a change to the
/// file system's journal, for which the node then waits, too.
const NICE: i32 = 10;

/// Does `work`, which copies a node's data, on a thread of its own, of low priority, and gives it a pace to be told of every so
/// many bytes. The priority ends with the thread: without a privilege nobody can take it back.
pub fn gently<T: Send>(
    data: &Data,
    cancelled: &AtomicBool,
    work: impl FnOnce(&mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<T> + Send,
) -> io::Result<T> {
    let begin = || {
        give_way();
        let disks = data.roots.iter().filter_map(|root| stat_of_disk(&root.path)).collect();
        let mut pace = Pace::new(Machine { begun: Instant::now(), disks, cancelled });
        work(&mut |bytes| pace.copied(bytes))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("copy-ahead".to_owned()).spawn_scoped(scope, begin)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// As far as it can be done: the pace is kept all the same.
fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "a copy keeps its priority");
    }
    if let Err(error) = sys::use_idle_disk_only() {
        tracing::debug!(%error, "a copy keeps its priority at the disk");
    }
}

/// For how long somebody has had to wait, since the machine's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Waited {
    disk: Duration,
    processor: Duration,
    /// How often the disks were flushed; zero where they count none.
    flushes: u64,
}

/// What a pace needs to know, and how it waits.
trait World {
    /// A time that only grows.
    fn now(&self) -> Duration;
    /// None where the kernel does not say.
    fn waited(&self) -> Option<Waited>;
    /// Returns after so long, or at once with an error when nobody wants the copy any more.
    fn rest(&self, time: Duration) -> io::Result<()>;
}

struct Machine<'a> {
    begun: Instant,
    /// What tells of the disks, each once.
    disks: BTreeSet<PathBuf>,
    cancelled: &'a AtomicBool,
}

impl World for Machine<'_> {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn waited(&self) -> Option<Waited> {
        let of = |what| some_total(&fs::read_to_string(format!("/proc/pressure/{what}")).ok()?);
        let flushes = self.disks.iter().filter_map(|stat| flushes(&fs::read_to_string(stat).ok()?)).sum();
        Some(Waited { disk: of("io")?, processor: of("cpu")?, flushes })
    }

    fn rest(&self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match end.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Ok(()),
                left => std::thread::sleep(left.min(NAP)),
            }
        }
    }
}

/// The total of the line `some avg10=… avg60=… avg300=… total=…`, in microseconds there.
fn some_total(pressure: &str) -> Option<Duration> {
    let line = pressure.lines().find(|line| line.starts_with("some "))?;
    line.rsplit_once("total=")?.1.trim().parse().ok().map(Duration::from_micros)
}

/// The file that tells of the disk that this is on; of a partition that of the whole disk, which alone counts flushes.
fn stat_of_disk(path: &Path) -> Option<PathBuf> {
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let folder = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let is_part = folder.join("partition").exists();
    Some(if is_part { folder.parent()? } else { &folder }.join("stat"))
}

/// How often a disk was flushed: the sixteenth number, since Linux 5.5 (Documentation/block/stat.rst).
fn flushes(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(15)?.parse().ok()
}

/// What went by, in work and in rest.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    time: Duration,
    waited: Waited,
}

impl Spent {
    fn add(&mut self, from: (Duration, Option<Waited>), to: (Duration, Option<Waited>)) {
        self.time += to.0.saturating_sub(from.0);
        if let (Some(from), Some(to)) = (from.1, to.1) {
            self.waited.disk += to.disk.saturating_sub(from.disk);
            self.waited.processor += to.processor.saturating_sub(from.processor);
            self.waited.flushes += to.flushes.saturating_sub(from.flushes);
        }
    }
}

struct Pace<W> {
    world: W,
    /// Bytes in a second.
    rate: f64,
    /// What was copied since the last rest.
    copied: u64,
    /// When that rest was over, and what the kernel said then.
    rested: (Duration, Option<Waited>),
    /// The share that is taken at this rate, by all looks so far.
    taken: Option<f64>,
    /// Since the rate was looked at.
    work: Spent,
    rest: Spent,
}

impl<W: World> Pace<W> {
    fn new(world: W) -> Self {
        let rested = (world.now(), world.waited());
        let (work, rest) = (Spent::default(), Spent::default());
        Self { world, rate: CAREFUL, copied: 0, rested, taken: None, work, rest }
    }

    fn copied(&mut self, bytes: u64) -> io::Result<()> {
        self.copied += bytes.max(FILE);
        if self.copied < PIECE {
            return Ok(());
        }
        let due = self.rested.0 + Duration::from_secs_f64(self.copied as f64 / self.rate);
        self.copied = 0;
        let done = (self.world.now(), self.world.waited());
        self.work.add(self.rested, done);
        // However slow the disk is: it has some time without us, and we see how it is then.
        let least = done.0.saturating_sub(self.rested.0) / 4;
        self.world.rest(due.saturating_sub(done.0).max(least))?;
        self.rested = (self.world.now(), self.world.waited());
        self.rest.add(done, self.rested);
        if self.work.time + self.rest.time >= LOOK {
            if self.rested.1.is_some() {
                self.follow(taken(self.work, self.rest));
            }
            (self.work, self.rest) = (Spent::default(), Spent::default());
        }
        Ok(())
    }

    /// Changes the rate so that as much is taken as may be: about as much more or less as the rate is higher or lower.
    fn follow(&mut self, now: f64) {
        let before = self.taken.unwrap_or(now);
        let taken = before + (now - before) * NEWS;
        // What is far too much is not waited out.
        let too_much = if now > 2.0 * SHARE { now.max(taken) } else { taken };
        let factor = (SHARE / too_much.max(f64::MIN_POSITIVE)).clamp(*STEP.start(), *STEP.end());
        let rate = (self.rate * factor).clamp(FLOOR, CEILING);
        self.taken = Some(taken * rate / self.rate);
        self.rate = rate;
    }
}

/// Which share of the time in which nobody would have had to wait was taken by the work: 0 to 1. Somebody may be us: then it is
/// too much rather than too little.
fn taken(work: Spent, rest: Spent) -> f64 {
    let of = |work_waited: Duration, rest_waited: Duration| {
        let (work_time, rest_time) = (work.time.as_secs_f64(), rest.time.as_secs_f64());
        let quiet = (rest_waited.as_secs_f64() / rest_time.max(1e-6)).min(1.0);
        let added = work_waited.as_secs_f64() - quiet * work_time;
        // Where somebody always waits, nothing more can be seen; then it is the noise that is divided.
        added.max(0.0) / ((work_time + rest_time).max(1e-6) * (1.0 - quiet).max(0.2))
    };
    let disk = of(work.waited.disk, rest.waited.disk);
    disk.max(of(work.waited.processor, rest.waited.processor) * PROCESSOR).max(fewer_flushes(work, rest))
}

/// By which share there were fewer flushes than there would have been.
fn fewer_flushes(work: Spent, rest: Spent) -> f64 {
    if rest.waited.flushes < FLUSHES {
        return 0.0;
    }
    let in_a_second = |spent: Spent| spent.waited.flushes as f64 / spent.time.as_secs_f64().max(1e-6);
    let fewer = (1.0 - in_a_second(work) / in_a_second(rest)).max(0.0);
    fewer * work.time.as_secs_f64() / (work.time + rest.time).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A machine whose disk writes so much in a second, and on which others wait for so long of each, beside us and without us.
    struct Simulated {
        now: Cell<Duration>,
        waited: Cell<Waited>,
        tells: bool,
        disk: f64,
        beside: f64,
        alone: f64,
        /// Flushes in a second, of a node that flushes all the time: beside us and without us.
        flushes: (f64, f64),
        /// By how much that is different from one moment to the next, up and down; and where that begins.
        unsteady: (f64, Cell<u64>),
        longest: Cell<Duration>,
    }

    impl Simulated {
        fn new(disk: f64, alone: f64, beside: f64) -> Self {
            let (now, waited, longest) = (Cell::default(), Cell::default(), Cell::default());
            let (flushes, unsteady) = ((0.0, 0.0), (0.0, Cell::new(1)));
            Self { now, waited, tells: true, disk: disk * MB, beside, alone, flushes, unsteady, longest }
        }

        fn pass(&self, time: Duration, waits: f64, flushes: f64) {
            self.now.set(self.now.get() + time);
            let mut waited = self.waited.get();
            waited.disk += time.mul_f64(waits);
            let (share, random) = &self.unsteady;
            random.set(random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
            let other = 1.0 + share * ((random.get() >> 33) as f64 / f64::from(1_u32 << 30) - 1.0);
            waited.flushes += (time.as_secs_f64() * flushes * other).round() as u64;
            self.waited.set(waited);
        }
    }

    impl World for &Simulated {
        fn now(&self) -> Duration {
            self.now.get()
        }

        fn waited(&self) -> Option<Waited> {
            self.tells.then(|| self.waited.get())
        }

        fn rest(&self, time: Duration) -> io::Result<()> {
            self.longest.set(self.longest.get().max(time));
            self.pass(time, self.alone, self.flushes.1);
            Ok(())
        }
    }

    /// Copies so many megabytes, and says how many it did in a second at the end, when the rate has settled.
    fn settled(machine: &Simulated, megabytes: u64) -> f64 {
        let mut pace = Pace::new(machine);
        let mut middle = Duration::ZERO;
        for copied in 0..megabytes {
            if copied == megabytes / 2 {
                middle = machine.now.get();
            }
            machine.pass(Duration::from_secs_f64(MB / machine.disk), machine.beside, machine.flushes.0);
            pace.copied(1 << 20).unwrap();
        }
        (megabytes / 2) as f64 / (machine.now.get() - middle).as_secs_f64()
    }

    #[test]
    fn a_tenth_of_a_disk_is_taken_and_no_more() {
        for (disk, alone, from, to) in [
            (650.0, 0.7, 36.0, 60.0), // of a node that flushes all the time, on a fast disk
            (650.0, 0.1, 36.0, 60.0), // and of one that does little
            (1300.0, 0.5, 75.0, 120.0),
            (300.0, 0.5, 16.0, 28.0),
            (60.0, 0.9, 15.0, 16.5), // never below the floor
            (8.0, 0.9, 6.0, 8.0),    // unless the disk is slower, which has a rest all the same
        ] {
            let found = settled(&Simulated::new(disk, alone, 1.0), 2048);
            assert!((from..=to).contains(&found), "{disk} MB/s, {alone}: {found}");
        }
    }

    /// Of a node that waits for the disk all the time nobody sees that it waits longer.
    #[test]
    fn a_node_that_flushes_all_the_time_is_slowed_by_a_tenth() {
        for (beside, from, to) in [(4000.0, 70.0, 100.0), (2000.0, 24.0, 36.0), (0.0, 15.0, 20.0)] {
            let machine = Simulated { flushes: (beside, 5000.0), ..Simulated::new(250.0, 0.7, 0.7) };
            let found = settled(&machine, 2048);
            assert!((from..=to).contains(&found), "{beside}: {found}");
        }
    }

    /// Half as many, or half as many more, from one moment to the next.
    #[test]
    fn what_is_not_steady_is_followed_on_average() {
        for beside in [4000.0, 2000.0] {
            let machine = |share| Simulated {
                flushes: (beside, 5000.0),
                unsteady: (share, Cell::new(1)),
                ..Simulated::new(250.0, 0.7, 0.7)
            };
            let (steady, unsteady) = (settled(&machine(0.0), 8192), settled(&machine(0.5), 8192));
            assert!((unsteady / steady - 1.0).abs() < 0.15, "{beside}: {steady} and {unsteady}");
        }
    }

    #[test]
    fn where_nobody_waits_it_rises_to_the_ceiling() {
        let found = settled(&Simulated::new(2000.0, 0.0, 0.0), 8192);
        assert!((180.0..=193.0).contains(&found), "{found}");
    }

    #[test]
    fn pressure_that_is_not_ours_changes_nothing() {
        for share in [0.0, 0.3, 0.8, 1.0] {
            let found = settled(&Simulated::new(2000.0, share, share), 8192);
            assert!(found > 180.0, "{share}: {found}");
        }
    }

    #[test]
    fn where_the_kernel_does_not_tell_the_rate_stays() {
        let machine = Simulated { tells: false, ..Simulated::new(2000.0, 0.0, 1.0) };
        let found = settled(&machine, 2048);
        assert!((47.0..=49.0).contains(&found), "{found}");
    }

    #[test]
    fn no_rest_is_long_and_small_files_count_as_larger_ones() {
        let machine = Simulated::new(60.0, 0.9, 1.0);
        settled(&machine, 512);
        assert!(machine.longest.get() < Duration::from_millis(400), "{:?}", machine.longest.get());
        let machine = Simulated::new(2000.0, 0.0, 0.0);
        let mut pace = Pace::new(&machine);
        for _ in 0..PIECE / FILE {
            pace.copied(100).unwrap();
        }
        assert!(machine.now.get() > Duration::from_millis(80), "{:?}", machine.now.get());
    }

    #[test]
    fn what_is_cancelled_rests_no_longer() {
        let cancelled = AtomicBool::new(false);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                cancelled.store(true, Ordering::Relaxed);
            });
            let machine = Machine { begun, disks: BTreeSet::new(), cancelled: &cancelled };
            let error = machine.rest(Duration::from_secs(600)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        });
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    }

    #[test]
    fn the_priority_ends_with_the_thread() {
        let own = || rustix::process::getpriority_process(None).unwrap();
        let before = own();
        let within =
            gently(&Data::in_one(Path::new("/"), &[]), &AtomicBool::new(false), |pace| pace(1).map(|()| own()));
        let within = within.unwrap();
        assert_eq!((within, own()), (NICE.max(before), before));
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        let text =
            "some avg10=1.00 avg60=2.00 avg300=3.00 total=4711\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        assert_eq!(some_total(text), Some(Duration::from_micros(4711)));
        for text in ["", "some", "some total=x", "full avg10=0.00 total=1"] {
            assert_eq!(some_total(text), None, "{text}");
        }
        let stat = " 1 2 3 4 5 6 7 8 0 10 11 12 13 14 15 4711 17\n";
        assert_eq!((flushes(stat), flushes("1 2 3 4 5 6 7 8 9 10 11")), (Some(4711), None));
    }
}
