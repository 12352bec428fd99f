//! What `omnivisor history` tells, while a supervisor runs and while none does.

use std::fs;

use omnivisor_testkit::{Behaviour, VegaOptions};
use serde_json::Value;

use crate::vega::world::{World as VegaWorld, options as vega_options};
use crate::world::{SOON, World};

const SIGTERM: i32 = 15;

fn told(world: &World) -> String {
    let output = world.omnivisor(&["history"]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Start time and so on: another process would have others.
fn stat(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.split_whitespace().nth(21).unwrap().to_owned()
}

#[test]
fn a_supervisor_that_was_killed_and_started_again_has_taken_the_node_over_and_says_so() {
    let world = World::new();
    let mut first = world.run();
    let pid = world.wait_for("1.0.0");
    let started = stat(pid);
    first.kill9();
    let mut second = world.run_again();
    assert_eq!((world.wait_for("1.0.0"), stat(pid)), (pid, started), "not restarted: no outage at all");
    assert_eq!(world.log().starts().len(), 1);

    let lines = told(&world);
    let lines: Vec<&str> = lines.lines().collect();
    let [adopted, started, taken_over] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(adopted.contains("adopted as another tool had installed it: 1.0.0"), "{adopted}");
    assert!(started.contains("omnivisor 0.1.0 began: no node was there"), "{started}");
    assert!(taken_over.contains("it took over the live node, which was not restarted"), "{taken_over}");
    second.signal(SIGTERM);
    second.wait(SOON);
    assert_eq!(told(&world).lines().count(), 3, "also without a supervisor");
}

#[test]
fn history_has_each_step_of_an_upgrade_and_what_an_operator_did() {
    let world = World::new();
    let _supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    assert!(world.omnivisor(&["hold"]).status.success());
    let lines = told(&world);
    let mut rest = lines.lines();
    for words in [
        "adopted",
        "began",
        "planned: from 1.0.0 (genesis) to 2.0.0 (2024.2)",
        "ready",
        "step stop",
        "committed",
        "held",
    ] {
        assert!(rest.any(|line| line.contains(words)), "{words} in this order in\n{lines}");
    }
    assert!(lines.lines().all(|line| line.starts_with("20")), "each has its time:\n{lines}");
    let json = world.omnivisor(&["history", "--json"]);
    let records: Vec<Value> = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(records.len(), lines.lines().count());
    assert!(records.iter().all(|it| it["at"].is_string() || it["written"].is_string() || it["begun"].is_string()));
    assert_eq!((&records[1]["record"], &records[1]["how"]), (&"began".into(), &"started".into()));
}

#[test]
fn a_home_of_vega_has_a_history_too_and_where_there_is_none_that_is_said() {
    let world = VegaWorld::with(VegaOptions { ..vega_options() });
    let history = || world.omnivisor(&["history", "--home", world.installation.home().to_str().unwrap()]);
    let none = history();
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("there is no history"), "{none:?}");
    let _supervised = world.run();
    let text = String::from_utf8(history().stdout).unwrap();
    assert!(text.contains("began: no node was there"), "{text}");
}
