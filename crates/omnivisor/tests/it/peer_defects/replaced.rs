//! An executable that a person has replaced by hand: accepted if it says that it is the same program, never run unasked.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use omnivisor_testkit::{Behaviour, executable, wait_until};

use crate::world::{SOON, World};

/// What a person does: the new executable takes the place of the old one by a rename.
fn replace(world: &World, behaviour: &Behaviour) {
    executable::copy(&world.minted(behaviour), &world.installation.binary("genesis"));
}

fn stopped(world: &World) {
    let mut supervised = world.run();
    world.wait_for_files("1.0.0");
    supervised.signal(15);
    supervised.wait(SOON);
}

/// N28: a rebuilt executable of the same version, and one of another version.
#[test]
fn an_executable_that_was_replaced_by_hand_is_asked_who_it_is_and_run() {
    let world = World::new();
    stopped(&world);
    for (version, commit) in [("1.0.0", "rebuilt"), ("1.0.1", "abc")] {
        replace(&world, &Behaviour { commit: commit.to_owned(), ..Behaviour::new(version) });
        let mut supervised = world.run();
        assert_eq!(world.log().last_start().unwrap().version, version);
        wait_until("that is said", SOON, || supervised.stderr().contains("replaced by hand").then_some(()));
        world.wait_for_files(version);
        supervised.signal(15);
        assert_eq!(supervised.wait(SOON).code(), Some(0));
    }
    // It is known now, and is no news at the next start.
    let supervised = world.run();
    assert!(!supervised.stderr().contains("replaced by hand"), "{}", supervised.stderr());
}

/// N28: while the supervisor runs, at the next restart of the node.
#[test]
fn an_executable_that_is_replaced_while_its_node_runs_is_asked_before_the_next_start() {
    let world = World::new();
    let supervised = world.run();
    let pid = world.wait_for("1.0.0");
    replace(&world, &Behaviour { commit: "rebuilt".to_owned(), ..Behaviour::new("1.0.0") });
    kill(pid);
    wait_until("it is started again", SOON, || (world.log().starts().len() == 2).then_some(()));
    wait_until("it is accepted", SOON, || supervised.stderr().contains("replaced by hand").then_some(()));
    world.wait_for("1.0.0");
}

/// What is no node of this program is never started; what was there before is started once it is back.
#[test]
fn an_executable_that_was_replaced_by_something_else_is_not_run() {
    for wrong in [Behaviour { name: "nym-api".to_owned(), ..Behaviour::new("1.0.0") }, broken()] {
        let world = World::new();
        stopped(&world);
        let before = world.log().starts().len();
        let right = fs::read(world.installation.binary("genesis")).unwrap();
        replace(&world, &wrong);
        let supervised = world.start();
        wait_until("it is refused", SOON, || supervised.stderr().contains("cannot be accepted").then_some(()));
        assert_eq!(world.log().starts().len(), before);
        write(&world.installation.binary("genesis"), &right);
        world.wait_for("1.0.0");
        assert_eq!(world.log().starts().len(), before + 1);
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn broken() -> Behaviour {
    Behaviour { build_info: omnivisor_testkit::BuildInfoAnswer::Rubbish, ..Behaviour::new("1.0.0") }
}

fn write(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    executable::write(path, |sink| sink.write_all(bytes));
}

/// A stop does not wait for an executable that does not answer.
#[test]
fn a_stop_is_heard_while_an_executable_that_was_replaced_is_asked() {
    let world = World::new();
    stopped(&world);
    replace(&world, &Behaviour { build_info: omnivisor_testkit::BuildInfoAnswer::Hang, ..Behaviour::new("1.0.0") });
    let mut supervised = world.start();
    wait_until("it is asked", SOON, || supervised.stderr().contains("asked who it is").then_some(()));
    let begun = Instant::now();
    supervised.signal(15);
    assert_eq!(supervised.wait(SOON).code(), Some(0), "{}", supervised.stderr());
    // The answer would be waited for for twenty seconds.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// Nor does a journal that cannot be written keep anybody down, or from ending.
#[test]
fn what_has_been_replaced_runs_even_if_that_cannot_be_recorded() {
    let world = World::new();
    let mut supervised = world.run();
    let pid = world.wait_for("1.0.0");
    replace(&world, &Behaviour { commit: "rebuilt".to_owned(), ..Behaviour::new("1.0.0") });
    let journal = world.installation.instance_dir().join("data/omnivisor/journal");
    let immutable = |flag: &str| {
        let done = std::process::Command::new("chattr").arg(flag).arg(&journal).status();
        done.is_ok_and(|status| status.success())
    };
    if !immutable("+i") {
        return println!("skipped: no file can be made immutable here");
    }
    kill(pid);
    let second = wait_until("it runs again", SOON, || {
        world.log().running().iter().map(|node| node.pid).find(|running| *running != pid)
    });
    assert!(supervised.stderr().contains("the journal cannot be written"), "{}", supervised.stderr());
    supervised.signal(15);
    let ended = supervised.wait(SOON);
    assert!(immutable("-i"));
    assert_eq!(ended.code(), Some(0), "{}", supervised.stderr());
    assert!(world.log().running().iter().all(|node| node.pid != second));
}

/// The history has an upgrade once, whatever takes its place later.
#[test]
fn a_replacement_after_an_upgrade_is_no_second_upgrade() {
    let world = World::new();
    let mut supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    supervised.signal(15);
    supervised.wait(SOON);
    let next = world.minted(&Behaviour::new("2.0.1"));
    executable::copy(&next, &world.installation.binary("2024.2"));
    let _supervised = world.run();
    world.wait_for("2.0.1");
    world.wait_for_files("2.0.1");
    let history: serde_json::Value = serde_json::from_slice(&fs::read(world.installation.history()).unwrap()).unwrap();
    assert_eq!(history["history"].as_array().unwrap().len(), 1, "{history:#}");
}
