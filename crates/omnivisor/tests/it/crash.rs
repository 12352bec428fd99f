//! Killed with SIGKILL at every checkpoint of an upgrade and of an undo, and started again: exactly one node, of the right
//! release, and files that Nymvisor itself would start from.

use omnivisor_testkit::{Behaviour, wait_until};

use crate::world::{SOON, World};

/// Checkpoints that an upgrade passes, with how often it may pass each before it dies there.
const OF_AN_UPGRADE: [(&str, &[usize]); 18] = [
    ("poll-before-queue", &[1]),
    ("before-fetch", &[1]),
    ("fetch-chunk", &[1, 20]),
    ("rename nym-node", &[1, 2]),
    ("after-fetch", &[1]),
    ("before-preflight", &[1]),
    ("after-preflight", &[1]),
    ("before-arm", &[1]),
    ("before-snapshot", &[1]),
    ("rename snapshot-#-000001-preupgrade", &[1]),
    ("before-activate", &[1]),
    ("rename current", &[1]),
    ("after-activate", &[1]),
    ("node-before-exec", &[2]),
    ("node-after-exec", &[2]),
    ("mirror-between-files", &[3, 4, 5, 6]),
    ("write journal", &[1, 2, 3, 4, 5, 6, 7, 8]),
    ("flush journal", &[1, 2, 3, 4, 5, 6, 7, 8]),
];

/// Those that only an undo passes.
const OF_AN_UNDO: [(&str, &[usize]); 8] = [
    ("node-before-exec", &[3, 4]),
    ("node-after-exec", &[3, 4]),
    ("flush journal", &[8, 9, 10, 11, 12, 13]),
    ("before-restore", &[1]),
    ("restore-before-renames", &[1]),
    ("rename data", &[1]),
    ("after-restore", &[1]),
    ("before-reactivate", &[1]),
];

/// Dies at the checkpoint, is started again without it, and ends with `expected`. False if it was never reached.
fn check(checkpoint: &str, nth: usize, release: &Behaviour, expected: &str) -> bool {
    let world = World::new();
    std::fs::create_dir_all(world.sandbox.daemon_home().join("data")).unwrap();
    std::fs::write(world.sandbox.daemon_home().join("data/id.pem"), "key").unwrap();
    // Adopted and stopped, so that what is published next is new, and every count begins at the upgrade.
    let mut supervised = world.run();
    supervised.signal(15);
    supervised.wait(SOON);

    let queued = world.publish("2024.9", release);
    let mut command = world.run_command();
    command.env("OMNIVISOR_CHECKPOINT", format!("{checkpoint}:{nth}"));
    let mut supervised = world.sandbox.spawn(command);
    let reached = wait_until(&format!("{checkpoint}:{nth} is reached, or the upgrade over"), SOON, || {
        if supervised.try_wait().is_some() {
            return Some(true);
        }
        let status = world.status()?;
        let idle = status["upgrade"]["phase"] == "idle" && status["announced"].as_array()?.is_empty();
        (idle && world.log().starts().len() > 2).then_some(false)
    });
    if reached {
        assert_eq!(supervised.died_of(), Some(9), "{checkpoint}:{nth}");
    }
    drop(supervised);
    let again = world.run_again();
    world.wait_for_status("the upgrade is over", |status| {
        status["upgrade"]["phase"] == "idle" && status["active"]["version"] == expected
    });
    world.wait_for(expected);
    world.wait_for_files(expected);
    wait_until("the queue is empty", SOON, || world.plan()["queuedUp"].as_array()?.is_empty().then_some(()));
    world.log().assert_never_double();
    assert!(world.log().of("refused").is_empty(), "no node on newer data: {checkpoint}:{nth}");
    assert_eq!(std::fs::read_to_string(world.sandbox.daemon_home().join("data/id.pem")).unwrap(), "key");
    let committed = usize::from(expected == queued["version"]);
    wait_until(&format!("once in the history: {checkpoint}:{nth}"), SOON, || {
        let history = std::fs::read_to_string(world.installation.history()).unwrap_or_default();
        (history.matches("\"performedAt\"").count() == committed).then_some(())
    });
    let left = world.leftovers();
    assert!(left.is_empty(), "{checkpoint}:{nth} left {left:?}");
    drop(again);
    reached
}

/// Two at a time: the machine has two cores, and most of a case is waiting.
fn check_all(cases: &[(&str, &[usize])], release: &Behaviour, expected: &str, least: usize) {
    let cases: Vec<(&str, usize)> =
        cases.iter().flat_map(|(name, counts)| counts.iter().map(move |nth| (*name, *nth))).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let reached = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some((name, nth)) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) {
                    if check(name, *nth, release, expected) {
                        reached.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    } else {
                        println!("{name}:{nth} was not reached");
                    }
                }
            });
        }
    });
    let reached = reached.into_inner();
    println!("{reached} of {} checkpoints were reached and survived", cases.len());
    assert!(reached >= least, "only {reached} checkpoints were reached");
}

#[test]
fn killed_at_every_checkpoint_of_an_upgrade_the_new_node_runs_once() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    check_all(&OF_AN_UPGRADE, &Behaviour { migrates: true, ..Behaviour::new("2.0.0") }, "2.0.0", 30);
}

#[test]
fn killed_at_every_checkpoint_of_an_undo_the_old_node_runs_once() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let sick = Behaviour { exit_after_ms: Some(10), exit_code: 1, migrates: true, ..Behaviour::new("3.0.0") };
    check_all(&OF_AN_UNDO, &sick, "1.0.0", 12);
}
