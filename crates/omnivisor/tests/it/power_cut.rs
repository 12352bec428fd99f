//! The power goes after every call that changes the disk: whatever the disk may hold then, what was durable is there, and
//! recovery ends well. And every flush, rename and link is needed: without it, or after the call that follows it, something
//! is lost.
//!
//! The real code works on a real folder, and every call is kept; [`model::Disk`] says what may be left of it at each point.

mod cases;
mod model;
mod mutants;
mod releases;
mod two_disks;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use omnivisor::store::trace::{Call, Recording};

use self::model::{Disk, Entry, Tree};

/// Gives some cases, one after the other.
type Cases = fn(&dyn Fn(&Case<'_>));
type Step<'a> = Box<dyn Fn(&Path) + 'a>;
type Prepare<'a> = Box<dyn Fn(&Path) + 'a>;
type Check<'a> = Box<dyn Fn(&Path, usize) -> Result<(), String> + 'a>;

/// Something durable.
struct Case<'a> {
    name: &'static str,
    /// Makes what is on the disk before, durably.
    prepare: Prepare<'a>,
    /// Each is durable when it returns.
    steps: Vec<Step<'a>>,
    /// Recovers from what the disk holds after so many steps have returned, and says what is lost.
    check: Check<'a>,
    /// Whether the steps can be taken again after the program was killed.
    again: bool,
    /// Whether each of its calls has to be needed. What an effect flushes for one that was killed before it could, or can make
    /// anew, may be more than the power alone can ask for.
    strict: bool,
}

/// What was done, and after how many calls each step had returned.
#[derive(Clone)]
struct Trace {
    before: Tree,
    calls: Vec<Call>,
    returned: Vec<usize>,
}

impl Trace {
    fn of(case: &Case<'_>, root: &Path) -> Self {
        empty(root);
        (case.prepare)(root);
        Self::from(case, root, read(root))
    }

    /// What is done where this is on the disk.
    fn from(case: &Case<'_>, root: &Path, before: Tree) -> Self {
        write(root, &before);
        let (mut calls, mut returned) = (Vec::new(), Vec::new());
        for step in &case.steps {
            calls.extend(record(root, step));
            returned.push(calls.len());
        }
        Self { before, calls, returned }
    }

    /// How many steps have returned after so many calls.
    fn steps(&self, calls: usize) -> usize {
        self.returned.iter().filter(|returned| **returned <= calls).count()
    }
}

fn record(root: &Path, step: &Step<'_>) -> Vec<Call> {
    let recording = Recording::of(root);
    step(root);
    recording.end()
}

/// What was lost, where.
struct Lost {
    after: usize,
    why: String,
}

/// How many different states were recovered from; or the first that lost something. From the end, where most that is missing
/// is missed.
fn recover_from_all(case: &Case<'_>, trace: &Trace, root: &Path) -> Result<usize, Lost> {
    let mut disks = vec![Disk::with(root, &trace.before)];
    for (index, call) in trace.calls.iter().enumerate() {
        let mut disk = disks[index].clone();
        let lost = |why| Lost { after: index + 1, why: format!("the call fails: {why}") };
        disk.apply(call).map_err(lost)?;
        disks.push(disk);
    }
    let mut seen = BTreeSet::new();
    for (after, disk) in disks.iter().enumerate().rev() {
        let steps = trace.steps(after);
        for tree in disk.after_power_cut() {
            if !seen.contains(&(steps, tree.clone())) {
                write(root, &tree);
                (case.check)(root, steps).map_err(|why| Lost { after, why })?;
                seen.insert((steps, tree));
            }
        }
    }
    Ok(seen.len())
}

/// The program is killed after every call; started again, it does the same once more, without the call of this number and name if one is
/// said; then the power goes. How many states that were.
fn killed_and_then_cut(
    case: &Case<'_>,
    trace: &Trace,
    root: &Path,
    without: Option<&(usize, String)>,
) -> Result<usize, Lost> {
    let mut disk = Disk::with(root, &trace.before);
    let mut states = 0;
    for after in 0..=trace.calls.len() {
        let lost = |why| Lost { after, why: format!("after it was killed and has done it again: {why}") };
        if let Some(call) = after.checked_sub(1).and_then(|index| trace.calls.get(index)) {
            disk.apply(call).map_err(lost)?;
        }
        write(root, &disk.live());
        let mut again = disk.clone();
        let calls = case.steps.iter().flat_map(|step| record(root, step)).enumerate();
        for (_, call) in calls.filter(|(number, call)| without != Some(&(*number, call.name()))) {
            again.apply(&call).map_err(lost)?;
        }
        for tree in again.after_power_cut() {
            states += 1;
            write(root, &tree);
            (case.check)(root, case.steps.len()).map_err(lost)?;
        }
    }
    Ok(states)
}

/// From so many states of a case the power goes once more.
const FROM: usize = 8;

/// The power goes; recovery does the same once more, and the power goes again, after each of its calls. From one in `every`
/// state. How many states that were.
fn cut_again(case: &Case<'_>, trace: &Trace, root: &Path, every: usize) -> Result<usize, Lost> {
    let mut disk = Disk::with(root, &trace.before);
    let (mut first, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for after in 0..=trace.calls.len() {
        let lost = |why| Lost { after, why: format!("after it went before, and all was done again: {why}") };
        if let Some(call) = after.checked_sub(1).and_then(|index| trace.calls.get(index)) {
            disk.apply(call).map_err(lost)?;
        }
        for tree in disk.after_power_cut() {
            let steps = trace.steps(after);
            if !first.insert((steps, tree.clone())) || first.len() % every.max(1) != 0 {
                continue;
            }
            let again = Trace::from(case, root, tree);
            let mut disk = Disk::with(root, &again.before);
            for call in 0..=again.calls.len() {
                if let Some(call) = call.checked_sub(1).and_then(|index| again.calls.get(index)) {
                    disk.apply(call).map_err(lost)?;
                }
                for tree in disk.after_power_cut() {
                    let steps = steps.max(again.steps(call));
                    if seen.insert((steps, tree.clone())) {
                        write(root, &tree);
                        (case.check)(root, steps).map_err(lost)?;
                    }
                }
            }
        }
    }
    Ok(seen.len())
}

fn empty(root: &Path) {
    let _ = fs::remove_dir_all(root);
    fs::create_dir_all(root).unwrap();
}

fn write(root: &Path, tree: &Tree) {
    empty(root);
    for (path, entry) in tree {
        let path = root.join(path);
        match entry {
            Entry::File(bytes) => fs::write(path, bytes).unwrap(),
            Entry::Folder => fs::create_dir(path).unwrap(),
            Entry::Link(target) => std::os::unix::fs::symlink(target, path).unwrap(),
            Entry::Pipe => {
                let mode = rustix::fs::Mode::RUSR;
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            }
        }
    }
}

/// What is there; of what is not, nothing.
fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).into_iter().flatten().flatten() {
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().unwrap();
            let entry = if kind.is_dir() {
                folders.push(path.clone());
                Entry::Folder
            } else if kind.is_symlink() {
                Entry::Link(fs::read_link(root.join(&path)).unwrap())
            } else if kind.is_file() {
                Entry::File(fs::read(root.join(&path)).unwrap())
            } else {
                Entry::Pipe
            };
            tree.insert(path, entry);
        }
    }
    tree
}

/// A folder of its own, in memory where that can be had.
fn root(name: &str) -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix(&format!("omnivisor-{name}-")).tempdir_in(parent).unwrap()
}

fn every_case(check: impl Fn(&Case<'_>, &Path) + Sync) {
    let all: [Cases; 4] = [cases::all, two_disks::all, releases::nym, releases::vega];
    std::thread::scope(|scope| {
        for some in all {
            let check = &check;
            scope.spawn(move || {
                some(&|case| {
                    let folder = root("power-cut");
                    check(case, &folder.path().join("root"));
                });
            });
        }
    });
}

#[test]
fn whatever_a_power_cut_leaves_nothing_durable_is_lost() {
    let begun = Instant::now();
    let long = std::env::var_os("OMNIVISOR_LONG").is_some();
    let states = std::sync::atomic::AtomicUsize::new(0);
    println!(
        "states after: the power went; a kill, a start, and the power went; the power went, a start, and it went again"
    );
    every_case(|case, root| {
        let trace = Trace::of(case, root);
        assert!(!trace.calls.is_empty(), "{}: nothing was done", case.name);
        let fail = |lost: Lost| -> usize {
            let before = lost.after.checked_sub(1).map_or("nothing".to_owned(), |index| trace.calls[index].name());
            panic!("{}: the power went after call {} ({before}): {}", case.name, lost.after, lost.why)
        };
        let cut = recover_from_all(case, &trace, root).unwrap_or_else(fail);
        let killed = if case.again { killed_and_then_cut(case, &trace, root, None).unwrap_or_else(fail) } else { 0 };
        let again = if case.again && long { cut_again(case, &trace, root, cut / FROM).unwrap_or_else(fail) } else { 0 };
        let (calls, seconds) = (trace.calls.len(), begun.elapsed().as_secs_f32());
        println!("{:<68} {calls:>3} calls {cut:>5} {killed:>5} {again:>6} states ({seconds:.1} s)", case.name);
        states.fetch_add(cut + killed + again, std::sync::atomic::Ordering::Relaxed);
    });
    let states = states.into_inner();
    println!("{states} states, none lost, in {:.1} s", begun.elapsed().as_secs_f32());
    assert!(states >= if long { 10_000 } else { 4_000 }, "only {states} states");
}
