//! Core and data node start, stop and fail together.

use omnivisor_testkit::{Kind, wait_until};
use serde_json::json;

use super::world::{OLD, World, options, said, wait_for_line};
use crate::world::SOON;

/// V4, V6: whichever it is, and whatever its exit code; the other one ends in its own time.
#[test]
fn when_one_of_the_pair_ends_the_other_is_stopped_in_its_own_time_and_both_start_again() {
    for (code, ends) in [(0, Kind::Core), (1, Kind::Core), (0, Kind::Datanode), (1, Kind::Datanode)] {
        let world = World::with(options().with_data_node());
        let fails = |control: &mut serde_json::Value| {
            control["exit_after_ms"] = json!(500);
            control["exit_code"] = json!(code);
        };
        let lingers = |control: &mut serde_json::Value| control["linger_ms"] = json!(700);
        match ends {
            Kind::Core => {
                world.installation.control_core(fails);
                world.installation.control_data_node(lingers);
            }
            Kind::Datanode => {
                world.installation.control_data_node(fails);
                world.installation.control_core(lingers);
            }
        }
        let supervised = world.start();
        wait_until("both start again", SOON, || (world.log().starts().len() == 4).then_some(()));
        let story: Vec<String> = world.log().story().into_iter().filter(|line| !line.ends_with("segment")).collect();
        let (one, other) = match ends {
            Kind::Core => ("core", "datanode"),
            Kind::Datanode => ("datanode", "core"),
        };
        let expected =
            [format!("{one} {OLD} exit {code}"), format!("{other} {OLD} signal 15"), format!("{other} {OLD} exit 0")];
        // Which of the first and of the last two says first that it started is the kernel's choice.
        assert_eq!(story[2..5], expected, "{story:#?}\n{}", said(&supervised));
        let unexpected = if code == 0 { "not expected" } else { "started again" };
        wait_for_line(&supervised, &["the node ended with", &format!("exit code {code}"), unexpected]);
        world.log().assert_never_double();
    }
}

/// Releases that are placed by hand, and one process only.
#[test]
fn a_core_without_a_data_node_is_a_node() {
    let world = World::new();
    let mut supervised = world.run();
    world.wait_for(OLD);
    let status = world.status().unwrap();
    assert_eq!(status["node"]["processes"].as_array().unwrap().len(), 1, "{status:#}");
    supervised.signal(15);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert_eq!(world.log().story().last().unwrap(), &format!("core {OLD} exit 0"));
}
