//! A journal that cannot be written in the middle of a switch: the old node runs until it can, whoever dies meanwhile.

use std::collections::BTreeMap;

use omnivisor_testkit::wait_until;

use super::harness::{Story, kill_nodes, status, wait_for_the_end};
use super::nym;
use crate::world::SOON;

/// Which record of an upgrade of Nym is the first that cannot be written, and the step that is under way then.
const RECORDS: [(usize, &str); 3] = [(6, "stop"), (7, "snapshot"), (8, "activate")];

fn check(nth: usize, step: &str, nodes_die_too: bool) {
    let scene = nym::Upgrade.begin();
    let mut command = scene.command();
    command.env("OMNIVISOR_CHECKPOINT", format!("write journal:{nth}")).env("OMNIVISOR_FAULT", "EIO*");
    let mut faulty = scene.sandbox().spawn(command);
    let status = wait_until(&format!("it is given up at the {step}"), SOON, || {
        let status = status(&*scene)?;
        let is_switching = status["upgrade"]["phase"] == "switching" && status["upgrade"]["step"] == step;
        (is_switching && status["node"]["state"] == "running").then_some(status)
    });
    assert!(status["unwritable"].as_str().is_some_and(|why| why.contains("Input/output error")), "{status:#}");
    assert!(faulty.stderr().contains("the switch is given up"), "{}", faulty.stderr());
    let versions = || {
        let mut versions: BTreeMap<String, usize> = BTreeMap::new();
        scene.log().starts().into_iter().for_each(|start| *versions.entry(start.version).or_default() += 1);
        versions
    };
    // It says so itself a moment after it was started.
    let running = wait_until("a node runs", SOON, || Some(scene.log().running()).filter(|running| !running.is_empty()));
    assert!(matches!(running.as_slice(), [only] if only.version == "1.0.0"), "{running:?}");
    assert!(!versions().contains_key("2.0.0"), "the new node is never started without its record");
    faulty.kill9();
    if nodes_die_too {
        kill_nodes(&*scene);
    }
    let again = scene.sandbox().spawn(scene.command());
    wait_for_the_end(&*scene, &format!("given up at the {step}"));
    scene.log().assert_never_double();
    assert!(scene.log().of("refused").is_empty(), "a node was started on newer data");
    scene.check_end(step);
    assert_eq!(versions().get("2.0.0"), Some(&1));
    if !nodes_die_too && step != "stop" {
        assert!(again.stderr().contains("a node runs in the middle of a switch"), "{}", again.stderr());
    }
}

#[test]
fn a_switch_whose_records_cannot_be_written_is_given_up_and_the_old_node_runs() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    std::thread::scope(|scope| {
        for (index, (nth, step)) in RECORDS.into_iter().enumerate() {
            scope.spawn(move || check(nth, step, index == 2));
        }
        scope.spawn(|| check(8, "activate", false));
    });
}

/// A person may end the run all the same.
#[test]
fn a_run_whose_journal_cannot_be_written_can_be_ended() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let scene = nym::Upgrade.begin();
    let mut command = scene.command();
    // What was activated cannot be recorded.
    command.env("OMNIVISOR_CHECKPOINT", "write journal:7").env("OMNIVISOR_FAULT", "EIO*");
    let mut faulty = scene.sandbox().spawn(command);
    wait_until("it cannot be written", SOON, || {
        let status = status(&*scene)?;
        (status["unwritable"].is_string() && status["node"]["why"].is_string()).then_some(())
    });
    faulty.signal(15);
    assert_eq!(faulty.wait(SOON).code(), Some(0), "{}", faulty.stderr());
    assert!(scene.log().running().is_empty());
    let _again = scene.sandbox().spawn(scene.command());
    wait_for_the_end(&*scene, "started again");
    scene.check_end("started again");
}
