//! Killed with SIGKILL at every checkpoint of an upgrade, and at any moment, and started again: the pair of the new release, each
//! once, and a home that Vega Visor itself would start from at each of these moments.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use omnivisor_testkit::{Kind, VegaBehaviour, wait_until};

use super::world::{HEIGHT, NEW, OLD, World, installing};
use crate::world::SOON;

const SIGTERM: i32 = 15;

/// Checkpoints that an upgrade passes, with how often it may pass each before it dies there. The first two processes that are
/// started are the old ones.
const OF_AN_UPGRADE: [(&str, &[usize]); 16] = [
    ("before-fetch", &[1]),
    ("fetch-chunk", &[1]),
    ("asset-before-unpack", &[1]),
    ("asset-before-side-files", &[1]),
    ("after-fetch", &[1]),
    ("before-preflight", &[1]),
    ("after-preflight", &[1]),
    ("before-arm", &[1]),
    ("after-arm", &[1]),
    ("before-activate", &[1]),
    ("rename current", &[1]),
    ("after-activate", &[1]),
    ("node-before-exec", &[1, 2, 3, 4]),
    ("node-after-exec", &[1, 2, 3, 4]),
    ("write journal", &[3, 5, 7]),
    ("flush journal", &[1, 2, 3, 4, 5, 6, 7, 8]),
];

/// What becomes of the nodes when their supervisor is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nodes {
    RunOn,
    /// As when the power is cut, or by systemd.
    DieToo,
}

/// A pair that was taken over and stopped, and whose network is at the height of an upgrade when it starts again.
fn at_the_height() -> World {
    let world = World::with(installing().with_data_node());
    world.publish(NEW, &VegaBehaviour::new(NEW));
    let mut supervised = world.run();
    world.wait_for(OLD);
    supervised.signal(SIGTERM);
    supervised.wait(SOON);
    world.accept(NEW);
    world.reach();
    world
}

fn kill_nodes(world: &World) {
    for node in world.log().running() {
        let pid = rustix::process::Pid::from_raw(node.pid.cast_signed()).unwrap();
        // It may be gone meanwhile.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    wait_until("the nodes are gone", SOON, || world.log().running().is_empty().then_some(()));
}

/// What is half made, anywhere in the home.
fn leftovers(world: &World) -> Vec<PathBuf> {
    let mut folders = vec![world.installation.home().to_owned()];
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

/// Fails unless Vega Visor would start one of the two; whether it is the new one.
#[track_caller]
fn visor_would_start_the_new_one(world: &World, when: &str) -> bool {
    let (_, version) = world.installation.visor_would_start().unwrap_or_else(|why| panic!("{when}: {why}"));
    assert!(version == OLD || version == NEW, "{when}: {version}");
    version == NEW
}

/// Waits until the upgrade is over, and fails unless all is as it has to be.
#[track_caller]
fn assert_ends_well(world: &World, when: &str) {
    world.wait_for_commit(NEW);
    world.wait_for(NEW);
    world.log().assert_never_double();
    assert!(world.log().of("refused").is_empty(), "{when}: no node on newer data");
    assert_eq!(world.installation.assert_visor_would_start(), NEW, "{when}");
    // The first one, whoever started it; those after the commit need it no more.
    let mut starts = world.log().starts().into_iter();
    let core = starts.find(|start| start.kind == Some(Kind::Core) && start.version == NEW).unwrap();
    let flag = ["--snapshot.load-from-block-height".to_owned(), HEIGHT.to_string()];
    assert!(core.args.windows(2).any(|pair| pair == flag), "{when}: {:?}", core.args);
    let left = leftovers(world);
    assert!(left.is_empty(), "{when}: {left:?}");
}

/// Dies at the checkpoint, is started again without it, and ends well. False if it was never reached.
fn check(checkpoint: &str, nth: usize, nodes: Nodes) -> bool {
    let when = format!("{checkpoint}:{nth}, and the nodes {nodes:?}");
    let world = at_the_height();
    let mut command = world.run_command();
    command.env("OMNIVISOR_CHECKPOINT", format!("{checkpoint}:{nth}"));
    let mut supervised = world.sandbox.spawn(command);
    let reached = wait_until(&format!("{when}: it is reached, or the upgrade over"), SOON, || {
        if supervised.try_wait().is_some() {
            return Some(true);
        }
        let status = world.status()?;
        (status["upgrade"]["phase"] == "idle" && status["active"]["version"] == NEW).then_some(false)
    });
    if reached {
        assert_eq!(supervised.died_of(), Some(9), "{when}");
    }
    drop(supervised);
    visor_would_start_the_new_one(&world, &when);
    if nodes == Nodes::DieToo {
        kill_nodes(&world);
    }
    if reached {
        let _again = world.start();
        assert_ends_well(&world, &when);
    }
    reached
}

// V3, V8
#[test]
fn killed_at_every_checkpoint_of_an_upgrade_the_new_pair_runs_once() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let cases: Vec<(&str, usize)> =
        OF_AN_UPGRADE.iter().flat_map(|(name, counts)| counts.iter().map(move |nth| (*name, *nth))).collect();
    let (next, reached) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    let Some((name, nth)) = cases.get(index) else { return };
                    let nodes = if index % 2 == 0 { Nodes::RunOn } else { Nodes::DieToo };
                    if check(name, *nth, nodes) {
                        reached.fetch_add(1, Ordering::SeqCst);
                    } else {
                        println!("{name}:{nth} was not reached");
                    }
                }
            });
        }
    });
    let reached = reached.into_inner();
    println!("{reached} of {} checkpoints were reached and survived", cases.len());
    assert!(reached >= 28, "only {reached} checkpoints were reached");
}

// V1, V3, V8
#[test]
fn killed_again_and_again_at_any_moment_the_new_pair_runs_once() {
    for nodes in [Nodes::RunOn, Nodes::DieToo] {
        let world = at_the_height();
        let mut new = false;
        // It is not waited for anything here: whatever it does at that moment is what it is killed in.
        for life in [30, 400, 2300, 2500, 150, 800, 2200, 90, 600] {
            let mut supervised = world.start();
            std::thread::sleep(Duration::from_millis(life));
            supervised.kill9();
            let when = format!("after {life} ms, and the nodes {nodes:?}");
            let is_new = visor_would_start_the_new_one(&world, &when);
            assert!(is_new || !new, "{when}: it went back");
            new = is_new;
            if nodes == Nodes::DieToo {
                kill_nodes(&world);
            }
        }
        let _again = world.start();
        assert_ends_well(&world, "at last");
    }
}
