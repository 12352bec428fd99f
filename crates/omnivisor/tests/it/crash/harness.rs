//! Tells a story once to learn its points; then again and again, with a fault at one of them, and asks how it ends.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use omnivisor_testkit::{NodeLog, Sandbox, Supervised, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::known::Known;
use crate::world::{SOON, omnivisor_exe};

/// How many cases at a time: most of a case is waiting.
const AT_A_TIME: usize = 4;

/// Of a point that is reached more often than this, four times are taken for all.
const OFTEN: usize = 6;

/// How long a supervisor that was refused something is watched, at most, before it is killed.
const WATCHED: Duration = Duration::from_secs(1);

/// And at least: what follows a refusal follows at once.
const LOOKED_AT: Duration = Duration::from_millis(200);

/// Of all cases, the short form takes one in so many.
const SHORT: usize = 40;

/// Between two commands of a person who does not want to wait for the next try.
const IMPATIENT: Duration = Duration::from_millis(500);

/// Something that happens to an installation, from the start of its supervisor to the end of an upgrade.
pub trait Story: Sync {
    /// In a few words.
    fn name(&self) -> &'static str;

    /// The points that it has.
    fn known(&self) -> Known;

    /// One that begins in the same way: a call that fails there need not fail here once more, at the same place.
    fn begins_as(&self) -> Option<&'static dyn Story> {
        None
    }

    /// An installation that was adopted and stopped, and whose upgrade is announced.
    fn begin(&self) -> Box<dyn Scene> {
        self.begin_in(Sandbox::new())
    }

    /// The same in this sandbox.
    fn begin_in(&self, sandbox: Sandbox) -> Box<dyn Scene>;
}

/// One telling of a story.
pub trait Scene {
    fn sandbox(&self) -> &Sandbox;

    /// The supervisor, not started yet.
    fn command(&self) -> Command;

    /// `omnivisor history`, not started yet.
    fn history(&self) -> Command;

    /// What the upgrade is called.
    fn release(&self) -> &'static str;

    /// Whether the upgrade is over, as it has to be, and every file written that says so; else what is still missing.
    fn is_over(&self, status: &Value) -> Result<(), String>;

    /// Fails unless the peer could go on from here, whatever was being done.
    fn check_files(&self, when: &str);

    /// The node writes what must never go back, if it has such a thing.
    fn sign(&self) {}

    /// Fails unless all is as it has to be once the upgrade is over.
    fn check_end(&self, when: &str);

    /// Where nothing half made may be left.
    fn folders(&self) -> Vec<PathBuf>;
}

/// What is done to the supervisor when it reaches a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    name: &'static str,
    /// What the system calls it.
    said: &'static str,
}

const KILL: Fault = Fault { name: "KILL", said: "" };
const FAULTS: [Fault; 3] = [
    Fault { name: "ENOSPC", said: "No space left on device" },
    Fault { name: "EIO", said: "Input/output error" },
    Fault { name: "EACCES", said: "Permission denied" },
];
/// From then on every call fails so.
const LASTING: [Fault; 2] =
    [Fault { name: "ENOSPC*", said: "No space left on device" }, Fault { name: "EIO*", said: "Input/output error" }];

#[derive(Clone, Debug)]
struct Case {
    point: String,
    nth: usize,
    fault: Fault,
    /// As when the power is cut, or by systemd.
    nodes_die_too: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { point, nth, fault, nodes_die_too } = self;
        let nodes = if *nodes_die_too { "; the nodes die, too" } else { "" };
        write!(out, "{} at {point}:{nth}{nodes}", fault.name)
    }
}

/// All of it, with `OMNIVISOR_LONG`; else one case in so many. `OMNIVISOR_CASE` names those whose text holds it.
pub fn enumerate(story: &dyn Story) {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let begin = Instant::now();
    let points = points(story);
    let long = std::env::var_os("OMNIVISOR_LONG").is_some();
    let told = story.begins_as().map(self::points).unwrap_or_default();
    let mut cases = cases(&points, &told);
    if let Ok(wanted) = std::env::var("OMNIVISOR_CASE") {
        cases.retain(|case| case.to_string().contains(&wanted));
    } else if !long {
        let mut index = 0;
        cases.retain(|_| {
            index += 1;
            index % SHORT == 1
        });
    }
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let (hit, missed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    match catch_unwind(AssertUnwindSafe(|| check(story, case))) {
                        Ok(true) => hit.lock().unwrap().push(case.clone()),
                        Ok(false) => missed.lock().unwrap().push(case.clone()),
                        Err(why) => {
                            let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
                            failed.lock().unwrap().push(format!("{case}: {why}"));
                        }
                    }
                }
            });
        }
    });
    let (hit, mut missed, failed) =
        (hit.into_inner().unwrap(), missed.into_inner().unwrap(), failed.into_inner().unwrap());
    println!(
        "{}: {} names, {} points, {} cases",
        story.name(),
        points.len(),
        points.values().sum::<usize>(),
        cases.len()
    );
    println!("{}: {} hit, {} s", story.name(), hit.len(), begin.elapsed().as_secs());
    for fault in std::iter::once(KILL).chain(FAULTS).chain(LASTING) {
        let names: std::collections::BTreeSet<(&str, usize)> =
            hit.iter().filter(|case| case.fault == fault).map(|case| (case.point.as_str(), case.nth)).collect();
        println!("{}: {} at {} points", story.name(), fault.name, names.len());
    }
    missed.iter().for_each(|case| println!("{}: not reached: {case}", story.name()));
    failed.iter().for_each(|case| println!("{}: FAILED: {case}", story.name()));
    assert!(failed.is_empty(), "{} of {} cases: {failed:#?}", failed.len(), cases.len());
    // Of those that come sometimes one may not come this time.
    missed.retain(|case| !story.known().sometimes.contains(&case.point.as_str()));
    // How often some of the others come depends on the moment, too.
    assert!(missed.len() <= (cases.len() / 10).max(1), "too many were not reached: {missed:#?}");
}

/// The names that the story reaches, and how often each. Fails unless they are those that are known.
fn points(story: &dyn Story) -> BTreeMap<String, usize> {
    let scene = story.begin();
    let reached = scene.sandbox().path().join("reached");
    let mut command = scene.command();
    command.env("OMNIVISOR_CHECKPOINTS_REACHED", &reached);
    let supervised = scene.sandbox().spawn(command);
    wait_for_the_end(&*scene, story.name());
    drop(supervised);
    let mut points = BTreeMap::new();
    for name in names(&reached) {
        *points.entry(name).or_default() += 1;
    }
    let known = story.known();
    let new: Vec<&String> = points.keys().filter(|name| !known.has(name)).collect();
    assert!(
        new.is_empty(),
        "{}: these calls and checkpoints are new: {new:#?}; add them to the list in tests/it/crash/known, and \
         run `just crash`",
        story.name()
    );
    let gone: Vec<&&str> = known.always.iter().filter(|name| !points.contains_key(**name)).collect();
    assert!(
        gone.is_empty(),
        "{}: these are not reached any more: {gone:#?}; take them off the list in tests/it/crash/known, or put them to \
         those that come sometimes",
        story.name()
    );
    points
}

fn cases(points: &BTreeMap<String, usize>, told: &BTreeMap<String, usize>) -> Vec<Case> {
    let mut cases = Vec::new();
    for (point, count) in points {
        let told = told.get(point).copied().unwrap_or_default();
        let taken: Vec<usize> = if *count <= OFTEN { (1..=*count).collect() } else { vec![1, 2, count / 2, *count] };
        for nth in taken {
            let may_fail = point.contains(' ') && nth > told;
            let faults = FAULTS.iter().filter(|_| may_fail);
            let lasting = LASTING.iter().filter(|_| may_fail && nth == told + ((count - told) / 2).max(1));
            for fault in std::iter::once(&KILL).chain(faults).chain(lasting) {
                cases.push(Case { point: point.clone(), nth, fault: *fault, nodes_die_too: cases.len() % 3 == 1 });
            }
        }
    }
    cases
}

/// Lives through it, and fails unless it ends well. False if the point was not reached.
fn check(story: &dyn Story, case: &Case) -> bool {
    let scene = story.begin();
    let reached = scene.sandbox().path().join("reached");
    let mut command = scene.command();
    command.env("OMNIVISOR_CHECKPOINTS_REACHED", &reached);
    command.env("OMNIVISOR_CHECKPOINT", format!("{}:{}", case.point, case.nth)).env("OMNIVISOR_FAULT", case.fault.name);
    let mut faulty = scene.sandbox().spawn(command);
    let when = case.to_string();
    let is_hit = || names(&reached).filter(|name| *name == case.point).count() >= case.nth;
    let over = || status(&*scene).is_some_and(|status| scene.is_over(&status).is_ok());
    let hit = wait_until(&format!("{when}: it is reached, or the upgrade over"), SOON, || {
        // In this order: the point is written down before anything is done there, and to ask takes a while in which it may be.
        let is_over = faulty.try_wait().is_some() || over();
        if is_hit() { Some(true) } else { is_over.then_some(false) }
    });
    // It may be reached after the upgrade is over, too: while that was looked at.
    let hit = hit || faulty.try_wait().is_some() && is_hit();
    if !hit {
        assert!(faulty.try_wait().is_none(), "{when}: it ended before: {}", said(&faulty));
        return false;
    }
    if case.fault == KILL {
        faulty.wait(SOON);
        assert_eq!(faulty.died_of(), Some(9), "{when}");
    } else {
        watch(&*scene, case, &mut faulty);
        if faulty.try_wait().is_none() {
            faulty.kill9();
        }
    }
    scene.log().assert_never_double();
    scene.check_files(&format!("{when}, at its death"));
    scene.sign();
    if case.nodes_die_too {
        kill_nodes(&*scene);
    }
    let _again = scene.sandbox().spawn(scene.command());
    wait_for_the_end(&*scene, &when);
    scene.log().assert_never_double();
    assert!(scene.log().of("refused").is_empty(), "{when}: a node was started on newer data");
    scene.check_end(&when);
    // What is being made at this moment is not left.
    let left = || leftovers(scene.folders());
    wait_until(&format!("{when}: nothing is left, but {:?}", left()), SOON, || left().is_empty().then_some(()));
    true
}

/// Sees what it makes of a refusal: a node runs, or it is said why not.
fn watch(scene: &dyn Scene, case: &Case, faulty: &mut Supervised) {
    let begin = Instant::now();
    wait_until(&format!("{case}: it has settled"), SOON, || {
        let phase = status(scene).map(|status| status["upgrade"]["phase"].as_str().unwrap_or_default().to_owned());
        let rests = matches!(phase.as_deref(), Some("idle" | "staged" | "needs-human")) && begin.elapsed() > LOOKED_AT;
        (rests || faulty.try_wait().is_some() || begin.elapsed() > WATCHED).then_some(())
    });
    wait_until(&format!("{case}: a node runs, or it is said why not"), SOON, || {
        if let Some(ended) = faulty.try_wait() {
            assert!(!ended.success(), "{case}: it ended as if all were well: {}", said(faulty));
            assert!(said(faulty).contains(case.fault.said), "{case}: it did not say why it ended: {}", said(faulty));
            return Some(());
        }
        if !scene.log().running().is_empty() {
            return Some(());
        }
        status(scene)?["node"]["why"].is_string().then_some(())
    });
}

/// Waits until all is as it has to be; a failure that is waited for is tried again at once, as a person would.
pub fn wait_for_the_end(scene: &dyn Scene, when: &str) {
    let (mut asked, mut missing) = (Instant::now(), Mutex::new(String::new()));
    let begin = Instant::now();
    loop {
        if let Some(status) = status(scene) {
            match scene.is_over(&status) {
                Ok(()) => return,
                Err(why) => *missing.get_mut().unwrap() = why,
            }
            let waits = |announced: &Value| {
                let standing = announced["standing"].as_str().unwrap_or_default();
                announced["name"] == scene.release() && standing.contains("tried again at")
                    || standing.contains("given up until")
            };
            let idle = status["upgrade"]["phase"] == "idle";
            let waits = status["announced"].as_array().is_some_and(|all| all.iter().any(waits));
            if idle && waits && asked.elapsed() > IMPATIENT {
                asked = Instant::now();
                omnivisor(scene, &["upgrade", scene.release()]);
            }
        }
        assert!(begin.elapsed() < SOON, "{when}: it does not end well: {}", missing.get_mut().unwrap());
        std::thread::sleep(Duration::from_millis(15));
    }
}

impl dyn Scene + '_ {
    pub fn log(&self) -> NodeLog {
        self.sandbox().node_log()
    }
}

fn omnivisor(scene: &dyn Scene, arguments: &[&str]) -> Output {
    scene.sandbox().omnivisor(omnivisor_exe(), "omnivisor").args(arguments).output().unwrap()
}

pub fn status(scene: &dyn Scene) -> Option<Value> {
    omnivisor_testkit::status(&scene.sandbox().runtime())
}

/// The names that were reached, in order.
fn names(reached: &Path) -> impl Iterator<Item = String> {
    let text = std::fs::read_to_string(reached).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text[..whole].lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

/// The dialects do not log to the same stream.
pub fn said(supervised: &Supervised) -> String {
    supervised.stdout() + &supervised.stderr()
}

pub fn kill_nodes(scene: &dyn Scene) {
    for node in scene.log().running() {
        // It may be gone meanwhile.
        let _ = kill_process(Pid::from_raw(node.pid.cast_signed()).unwrap(), Signal::KILL);
    }
    wait_until("the nodes are gone", SOON, || scene.log().running().is_empty().then_some(()));
}

/// What is half made.
pub fn leftovers(mut folders: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut left = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let is_staged = folder.ends_with("staging");
            if is_staged || [".omnivisor-new", ".partial", ".part"].iter().any(|ending| name.ends_with(ending)) {
                left.push(path.clone());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            }
        }
    }
    left
}
