//! The verbs that every dialect has, at a home of Vega Visor.

use std::fs;
use std::process::Output;

use omnivisor_testkit::wait_until;

use super::world::{OLD, World, options};
use crate::world::SOON;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What an operator sees before the binary is swapped.
#[test]
fn a_home_of_vega_visor_is_shown_before_it_is_taken_over_and_then_taken_over() {
    let world = World::with(options().with_data_node());
    let home = world.installation.home().to_str().unwrap();
    let before = fs::read_dir(home).unwrap().count();
    let shown = world.omnivisor(&["adopt", "--home", home, "--dry-run"]);
    assert!(shown.status.success(), "{}", text(&shown));
    for words in [&format!("{OLD} (genesis)") as &str, "does not run; `vegavisor run --home …` starts it", ".omnivisor"]
    {
        assert!(text(&shown).contains(words), "{words}: {}", text(&shown));
    }
    assert_eq!(fs::read_dir(home).unwrap().count(), before, "a dry run changes nothing");

    let taken = world.omnivisor(&["adopt", "--home", home]);
    assert!(taken.status.success() && text(&taken).contains("This was done"), "{}", text(&taken));
    let again = world.omnivisor(&["adopt", "--home", home, "--json"]);
    let again: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((again["takenOver"].as_bool(), again["ready"].as_bool()), (Some(true), Some(true)), "{again:#}");
    let _supervised = world.run();
    world.wait_for(OLD);
}

#[test]
fn a_home_that_cannot_be_run_is_named_with_what_stands_in_the_way() {
    let world = World::new();
    fs::remove_file(world.installation.genesis().join("vega")).unwrap();
    let home = world.installation.home().to_str().unwrap();
    let shown = world.omnivisor(&["adopt", "--home", home]);
    assert_eq!(shown.status.code(), Some(1), "{}", text(&shown));
    assert!(text(&shown).contains("IN THE WAY"), "{}", text(&shown));
    let nowhere = world.omnivisor(&["adopt", "--home", "/nonexistent"]);
    assert!(text(&nowhere).contains("/nonexistent/config.toml"), "{}", text(&nowhere));
}

#[test]
fn a_pair_that_a_killed_supervisor_has_left_is_stopped_by_its_home() {
    let world = World::with(options().with_data_node());
    let mut supervised = world.run();
    world.wait_for(OLD);
    let home = world.installation.home().to_str().unwrap();
    let status = world.omnivisor(&["status", "--home", home]);
    assert!(status.status.success() && text(&status).contains(OLD), "{}", text(&status));
    supervised.kill9();
    let pids: Vec<u32> = world.log().running().iter().map(|node| node.pid).collect();
    assert_eq!(pids.len(), 2, "the nodes do not notice");
    let stopped = world.omnivisor(&["stop", "--home", home]);
    assert!(stopped.status.success() && text(&stopped).contains("ended when asked"), "{}", text(&stopped));
    assert!(world.log().running().is_empty(), "it returns when the last process is gone");
    for pid in pids {
        assert_eq!(world.log().signals_of(pid), [15]);
    }
    let nothing = world.omnivisor(&["stop", "--home", home]);
    assert!(text(&nothing).contains("no node of visor runs, and no supervisor"), "{}", text(&nothing));
}

/// Another instance's node is not what was meant.
#[test]
fn a_home_says_which_of_the_running_instances_is_meant() {
    let world = World::new();
    let mut supervised = world.run();
    let other = world.sandbox.path().join("elsewhere");
    fs::create_dir(&other).unwrap();
    let refused = world.omnivisor(&["stop", "--home", other.to_str().unwrap()]);
    assert!(!refused.status.success(), "{}", text(&refused));
    world.wait_for(OLD);
    let stopped = world.omnivisor(&["stop", "--home", world.installation.home().to_str().unwrap()]);
    assert!(stopped.status.success(), "{}", text(&stopped));
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    wait_until("the node is gone", SOON, || world.log().running().is_empty().then_some(()));
}

/// As it is for those that ask the supervisor: else they would speak of another node, and remove what is its.
#[test]
fn verbs_about_files_are_about_the_instance_that_runs() {
    let world = World::new();
    let _supervised = world.run();
    world.wait_for(OLD);
    let id = world.installation.home().file_name().unwrap().to_str().unwrap().to_owned();
    let backups = world.installation.home().join(".omnivisor/backups").display().to_string();
    for which in [&[][..], &["--id", &id]] {
        for (verb, words) in
            [(&["plan"][..], id.as_str()), (&["backup", "list"], &backups), (&["backup", "prune"], "nothing")]
        {
            let output = world.omnivisor(&[verb, which].concat());
            assert!(output.status.success() && text(&output).contains(words), "{verb:?} {which:?}: {}", text(&output));
        }
    }
}
