//! The height that core begins at: that of an upgrade until it is committed, and that of the data node's history after a failure.

use std::process::Command;
use std::time::Duration;

use omnivisor_testkit::{Event, Kind, Supervised, VegaBehaviour, VegaOptions, wait_until};
use serde_json::json;

use super::world::{HEIGHT, NEW, OLD, World, options, said, wait_for_line};
use crate::world::SOON;

const SIGTERM: i32 = 15;

/// Core's own flag.
const FLAG: &str = "--snapshot.load-from-block-height";

/// The height that this core was started with, by core's own rules; not twice.
fn height_of(core: &Event) -> Option<u64> {
    let args = &core.args;
    let given: Vec<&str> = args
        .iter()
        .enumerate()
        .filter_map(|(index, word)| match word.strip_prefix(FLAG)? {
            "" => Some(args[index + 1].as_str()),
            rest => rest.strip_prefix('='),
        })
        .collect();
    assert!(given.len() < 2, "{args:?}");
    given.first().map(|height| height.parse().unwrap())
}

fn core_starts(world: &World) -> Vec<Event> {
    world.log().starts().into_iter().filter(|start| start.kind == Some(Kind::Core)).collect()
}

/// Waits for core's start of this number, from 1 on, and that it runs; the height that it began at.
#[track_caller]
fn nth_height(world: &World, number: usize) -> Option<u64> {
    let start = wait_until(&format!("start {number} of core"), SOON, || core_starts(world).get(number - 1).cloned());
    assert_eq!(core_starts(world).len(), number);
    height_of(&start)
}

/// Kills core, or the data node, in a way that nobody can prepare for.
#[track_caller]
fn kill(world: &World, kind: Kind) {
    let pid = wait_until("it runs", SOON, || world.log().running_of(kind).first().map(|running| running.pid));
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// `vegavisor run`, with an upgrade that has to show for so long that it is well.
fn judging(world: &World, window: &str) -> Command {
    let mut command = world.run_command();
    command.env("OMNIVISOR_PROBE_WINDOW", window);
    command
}

/// Upgraded to a release that is placed by hand, and not committed.
fn probing(options: VegaOptions) -> (World, Supervised) {
    let world = World::with(options);
    world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    let supervised = world.sandbox.spawn(judging(&world, "1h"));
    world.wait_for(OLD);
    world.accept(NEW);
    world.reach();
    world.wait_for(NEW);
    world.wait_for_phase("probing");
    (world, supervised)
}

/// What a data node is told when it is asked for its latest segment.
fn question(world: &World) -> Vec<String> {
    let asked = wait_until("it is asked", SOON, || world.log().of("segment").pop());
    asked.args
}

/// One that has history up to this height.
fn has_segment(world: &World, to: u64) {
    world.installation.control_data_node(|control| control["segment"] = json!({ "from": 1, "to": to }));
}

// V19
#[test]
fn the_height_of_an_upgrade_holds_until_it_is_committed_across_supervisors_and_no_longer() {
    let (world, mut first) = probing(options());
    assert_eq!(nth_height(&world, 2), Some(HEIGHT));
    kill(&world, Kind::Core);
    assert_eq!(nth_height(&world, 3), Some(HEIGHT), "it has not shown yet that it is well");

    first.signal(SIGTERM);
    assert_eq!(first.wait(SOON).code(), Some(0));
    let mut second = world.sandbox.spawn(judging(&world, "1h"));
    assert_eq!(nth_height(&world, 4), Some(HEIGHT), "another supervisor knows it, too");
    world.wait_for_phase("probing");

    // And one that takes the node over.
    second.kill9();
    let mut third = world.sandbox.spawn(judging(&world, "1s"));
    world.wait_for_commit(NEW);
    assert_eq!(core_starts(&world).len(), 4, "the node was taken over");
    kill(&world, Kind::Core);
    assert_eq!(nth_height(&world, 5), None, "that was long ago");
    world.wait_for(NEW);
    third.signal(SIGTERM);
    assert_eq!(third.wait(SOON).code(), Some(0));
    let _fourth = world.run();
    assert_eq!(nth_height(&world, 6), None);
}

#[test]
fn after_an_upgrade_and_a_failure_core_begins_at_the_later_of_its_height_and_the_data_nodes_history() {
    let (world, _supervised) = probing(options().with_data_node());
    assert_eq!(nth_height(&world, 2), Some(HEIGHT));
    assert!(world.log().of("segment").is_empty(), "at the upgrade itself nobody has to be asked");
    has_segment(&world, HEIGHT - 300);
    kill(&world, Kind::Core);
    assert_eq!(nth_height(&world, 3), Some(HEIGHT), "what is before the upgrade is for the old release");
    world.wait_for(NEW);
    has_segment(&world, HEIGHT + 300);
    kill(&world, Kind::Datanode);
    assert_eq!(nth_height(&world, 4), Some(HEIGHT + 300));
}

#[test]
fn after_a_failure_beside_a_data_node_core_begins_where_its_history_ends() {
    for fails in [Kind::Core, Kind::Datanode] {
        let world = World::with(options().with_data_node());
        has_segment(&world, 777);
        let _supervised = world.run();
        world.wait_for(OLD);
        assert_eq!(nth_height(&world, 1), None, "nothing had failed before the first start");
        kill(&world, fails);
        assert_eq!(nth_height(&world, 2), Some(777), "{fails:?}");
    }
}

#[test]
fn a_core_alone_is_started_again_as_it_was() {
    let world = World::new();
    let _supervised = world.run();
    world.wait_for(OLD);
    kill(&world, Kind::Core);
    assert_eq!(nth_height(&world, 2), None);
}

#[test]
fn a_data_node_without_history_is_no_reason_to_stay_down() {
    let world = World::with(options().with_data_node());
    let supervised = world.run();
    world.wait_for(OLD);
    kill(&world, Kind::Core);
    assert_eq!(nth_height(&world, 2), None);
    world.wait_for(OLD);
    assert_eq!(world.log().of("segment").len(), 1);
    assert!(!said(&supervised).contains("cannot be started"), "{}", said(&supervised));
}

#[test]
fn a_question_that_fails_is_a_failed_start_and_is_asked_again() {
    let world = World::with(options().with_data_node());
    let supervised = world.run();
    world.wait_for(OLD);
    has_segment(&world, 777);
    world.installation.control_data_node(|control| control["segment_answer"] = json!("fail"));
    kill(&world, Kind::Core);
    wait_for_line(&supervised, &["cannot be started", "history", "resource temporarily unavailable"]);
    assert_eq!(core_starts(&world).len(), 1, "it might begin anywhere");
    world.installation.control_data_node(|control| control["segment_answer"] = json!("ok"));
    assert_eq!(nth_height(&world, 2), Some(777));
}

// V20
#[test]
fn a_question_that_hangs_ends_and_is_asked_again() {
    let world = World::with(options().with_data_node());
    let supervised = world.run();
    world.wait_for(OLD);
    has_segment(&world, 777);
    world.installation.control_data_node(|control| control["segment_answer"] = json!("hang"));
    kill(&world, Kind::Core);
    question(&world);
    let status = world.status().expect("it is asked beside everything else");
    assert_eq!(status["node"]["state"], "starting", "{status:#}");
    world.installation.control_data_node(|control| control["segment_answer"] = json!("ok"));
    // The limit is 30 seconds.
    let bound = Duration::from_secs(30) + SOON;
    wait_until("its time is over", bound, || said(&supervised).contains("did not end within 30s").then_some(()));
    assert_eq!(nth_height(&world, 2), Some(777));
}

// V20, V28
#[test]
fn a_question_that_hangs_keeps_no_supervisor_from_ending() {
    let world = World::with(options().with_data_node());
    let mut supervised = world.run();
    world.wait_for(OLD);
    world.installation.control_data_node(|control| control["segment_answer"] = json!("hang"));
    kill(&world, Kind::Core);
    question(&world);
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert_eq!(core_starts(&world).len(), 1);
}

// V18
#[test]
fn the_data_node_is_asked_on_its_own_home_however_that_is_written() {
    let folder = |world: &World| world.installation.data_node_home().to_str().unwrap().to_owned();
    for in_one_word in [false, true] {
        let world = World::with(options().with_data_node());
        let home = folder(&world);
        world.change_run_config(|run| {
            let of_home =
                if in_one_word { vec![format!("--home={home}")] } else { vec!["--home".into(), home.clone()] };
            let words = ["datanode", "start"].map(str::to_owned).into_iter().chain(of_home);
            // What follows is none of it; and a path with this name is no word of the command.
            run.data_node.as_mut().unwrap().1 = words.chain(["--level=datanode".to_owned()]).collect();
        });
        has_segment(&world, 777);
        let _supervised = world.run();
        world.wait_for(OLD);
        kill(&world, Kind::Core);
        assert_eq!(nth_height(&world, 2), Some(777), "the default home knows nothing");
        let expected = ["datanode", "network-history", "latest-history-segment", "--output", "json", "--home", &home];
        assert_eq!(question(&world), expected);
    }
}

// V18
#[test]
fn an_operators_own_height_stays_and_what_only_looks_like_it_is_none() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for (arguments, expected) in [
        (words(&[FLAG, "5"]), 5),
        (words(&[&format!("{FLAG}=5")]), 5),
        (words(&[&format!("--log-file=/somewhere/{FLAG}")]), HEIGHT),
        (words(&[&format!("--log-file=/somewhere/{FLAG}=5")]), HEIGHT),
        (words(&["--log-file", &format!("/somewhere/{FLAG}")]), HEIGHT),
        (words(&[&format!("{FLAG}s=5")]), HEIGHT),
    ] {
        let world = World::with(options().with_data_node());
        world.change_run_config(|run| run.core_args.extend(arguments.clone()));
        let core_args = {
            let mut run = world.installation.run_config(NEW);
            run.core_args.extend(arguments.clone());
            world.installation.place(NEW, &run, &VegaBehaviour::new(NEW));
            run.core_args
        };
        let _supervised = world.run();
        world.wait_for(OLD);
        world.accept(NEW);
        world.reach();
        world.wait_for(NEW);
        let start = core_starts(&world).pop().unwrap();
        assert_eq!(height_of(&start), Some(expected), "{arguments:?}");
        assert!(start.args.starts_with(&core_args), "and the rest is as it was: {:?}", start.args);
    }
}
