//! What a node has started ends with it, wherever it has gone to: before a snapshot, before the next start, and at the end.

mod cgroup;

use std::fs;
use std::time::Duration;

use omnivisor_testkit::{Behaviour, Grandchild, Options, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{SOON, World, options};

const SIGTERM: i32 = 15;

/// Those that are not in the node's group any more, and that their environment does not betray.
fn escaped() -> Grandchild {
    Grandchild { own_session: true, orphaned: true, no_environment: true, ..Grandchild::default() }
}

/// Every way to go astray.
fn strays() -> [(&'static str, Grandchild); 5] {
    [
        ("a daemon", Grandchild { no_environment: false, ..escaped() }),
        ("one without an environment", escaped()),
        ("one without a lock", Grandchild { no_descriptors: true, ..escaped() }),
        ("one that ignores SIGTERM", Grandchild { ignore_term: true, ..escaped() }),
        ("one that forks all the time", Grandchild { forks: true, ..escaped() }),
    ]
}

/// A world whose node starts this, and has a grace of 300 ms.
fn world_with(grandchild: Grandchild) -> World {
    let node = Behaviour { grandchild: Some(grandchild), ..Behaviour::new("1.0.0") };
    World::with(node, Options { shutdown_grace_period: "300ms".to_owned(), ..options() })
}

/// The grandchildren that are alive, whatever their environment says.
fn left(world: &World) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_one = |pid: &i32| {
        // A zombie has neither.
        let is_below = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.starts_with(world.sandbox.path()));
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        is_below && words.split(|byte| *byte == 0).any(|word| word == b"grandchild")
    };
    pids.filter(is_one).collect()
}

/// Waits until the grandchild has set itself up.
fn wait_for_grandchild(world: &World, forks: bool) {
    wait_until("the grandchild is there", SOON, || {
        let is_there = if forks { world.log().forks() > 2 } else { !left(world).is_empty() };
        (is_there && world.log().of("grandchild").len() == 1).then_some(())
    });
}

/// Fails if any is left, or one forks where nobody sees it.
fn assert_none_left(world: &World, what: &str) {
    assert_eq!(left(world), Vec::<i32>::new(), "{what}");
    let before = world.log().forks();
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!((left(world), world.log().forks()), (Vec::new(), before), "{what}");
}

/// Each stray in a world of its own; two at a time, as they mostly wait.
fn check(of: impl Fn(&str, Grandchild) + Sync) {
    std::thread::scope(|scope| {
        for lane in 0..2 {
            let of = &of;
            scope.spawn(move || strays().into_iter().skip(lane).step_by(2).for_each(|(what, stray)| of(what, stray)));
        }
    });
}

#[test]
fn at_the_end_of_a_run_nothing_is_left() {
    check(|what, stray| {
        let world = world_with(stray.clone());
        let mut supervised = world.run();
        wait_for_grandchild(&world, stray.forks);
        supervised.signal(SIGTERM);
        assert_eq!(supervised.wait(SOON).code(), Some(0), "{what}");
        assert_none_left(&world, what);
    });
}

#[test]
fn before_the_next_start_after_a_failure_nothing_is_left() {
    check(|what, stray| {
        let world = world_with(stray.clone());
        let _supervised = world.run();
        wait_for_grandchild(&world, stray.forks);
        let first = left(&world);
        let pid = world.wait_for("1.0.0");
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        wait_until("it is started again", SOON, || (world.log().starts().len() == 2).then_some(()));
        assert!(!left(&world).iter().any(|pid| first.contains(pid)), "{what}");
        wait_until("it has a grandchild, too", SOON, || (world.log().of("grandchild").len() == 2).then_some(()));
        if !stray.forks {
            wait_until("it is the only one", SOON, || (left(&world).len() == 1).then_some(()));
        }
        world.log().assert_never_double();
    });
}

/// One that forks counts in a file of its own all the while: what is in the copy of it is all that there ever was.
#[test]
fn before_a_snapshot_nothing_is_left() {
    check(|what, stray| {
        let world = world_with(stray.clone());
        let _supervised = world.run();
        wait_for_grandchild(&world, stray.forks);
        world.publish("2024.2", &Behaviour::new("2.0.0"));
        wait_until("the new one is started", SOON, || (world.log().starts().len() == 2).then_some(()));
        assert_none_left(&world, what);
        world.wait_for_commit("2.0.0");
    });
}

/// The next supervisor is not their parent: it knows them by the lock that they have inherited, or by their mark.
#[test]
fn what_a_killed_supervisor_has_left_ends_with_the_node_that_is_taken_over() {
    check(|what, stray| {
        if stray.no_descriptors {
            return; // has neither; only a cgroup tells
        }
        // What forks is not held by the number of one process that has the lock: it has its mark.
        let stray = Grandchild { no_environment: !stray.forks && stray.no_environment, ..stray };
        let world = world_with(stray.clone());
        let mut first = world.run();
        wait_for_grandchild(&world, stray.forks);
        let pid = world.wait_for("1.0.0");
        first.kill9();
        let mut second = world.run_again();
        assert_eq!(world.status().unwrap()["node"]["pid"], pid, "{what}");
        world.publish("2024.2", &Behaviour::new("2.0.0"));
        wait_until("the new one is started", SOON, || (world.log().starts().len() == 2).then_some(()));
        assert_none_left(&world, what);
        second.signal(SIGTERM);
        assert_eq!(second.wait(SOON).code(), Some(0), "{what}");
    });
}

/// Else the table of processes would fill up, as we are the parent of all that are orphaned.
#[test]
fn what_comes_to_the_supervisor_is_reaped() {
    let world = world_with(Grandchild { forks: true, ..escaped() });
    let supervised = world.run();
    wait_until("it has forked often", SOON, || (world.log().forks() > 50).then_some(()));
    let zombies = || {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", supervised.pid())).unwrap();
        let is_zombie = |pid: &&str| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z"))
        };
        children.split_whitespace().filter(is_zombie).count()
    };
    wait_until("few zombies", SOON, || (zombies() <= 2).then_some(()));
}

/// A lock that somebody holds who has nothing to do with the node but its lock.
#[test]
fn a_stray_that_holds_the_lock_delays_the_next_start_by_the_grace_and_no_more() {
    let world = world_with(Grandchild { ignore_term: true, ..escaped() });
    let mut first = world.run();
    wait_for_grandchild(&world, false);
    let pid = world.wait_for("1.0.0");
    first.kill9();
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    wait_until("only the stray is left", SOON, || world.log().running().is_empty().then_some(()));
    assert_eq!(left(&world).len(), 1);
    let begun = std::time::Instant::now();
    let second = world.run();
    let took = begun.elapsed();
    assert!(second.stderr().contains("are ended first"), "{}", second.stderr());
    assert!(took >= Duration::from_millis(300), "it had its grace: {took:?}");
    wait_until("one grandchild", SOON, || (left(&world).len() == 1).then_some(()));
    world.log().assert_never_double();
}
