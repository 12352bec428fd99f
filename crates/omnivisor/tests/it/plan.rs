//! `omnivisor plan` says beforehand what an upgrade would copy, whether that fits, and for how long the node would be down.

use std::fs;
use std::process::Output;
use std::time::Duration;

use omnivisor_testkit::Behaviour;
use serde_json::Value;

use crate::world::{World, omnivisor_exe, timestamp};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

fn plan(world: &World, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = world.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
    command.arg("plan").args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn snapshot(world: &World, variables: &[(&str, &str)]) -> Value {
    let output = plan(world, variables, &["--json"]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["snapshot"].clone()
}

#[test]
fn what_an_upgrade_costs_is_told_beforehand_with_a_supervisor_and_without() {
    let world = World::new();
    let home = world.installation.daemon_home();
    for number in 0..40 {
        fs::create_dir_all(home.join("data/db")).unwrap();
        fs::write(home.join(format!("data/db/{number}")), vec![1; 100_000]).unwrap();
    }
    let before = snapshot(&world, &[]);
    assert!(before["bytes"].as_u64().unwrap() >= 4_000_000, "{before:#}");
    assert!(before["entries"].as_u64().unwrap() >= 42, "{before:#}");
    assert_eq!(before["fits"], true, "{before:#}");
    assert_eq!(before["home"], home.to_str().unwrap());
    let _supervised = world.run();
    world.publish_for("2024.2", &Behaviour::new("2.0.0"), &timestamp(Duration::from_secs(36_000)));
    world.wait_for_status("it is staged", |status| status["upgrade"]["phase"] == "staged");
    let text = said(&plan(&world, &[], &[]));
    for part in ["snapshot    ", "room        ", "outage      ", "announced   2.0.0 (2024.2): will be switched to at"] {
        assert!(text.contains(part), "{part:?}: {text}");
    }
    assert!(
        !home.join("nymvisor/backups").exists()
            || fs::read_dir(home.join("nymvisor/backups/2024.2")).unwrap().next().is_none(),
        "nothing was copied"
    );
}

#[test]
fn too_little_room_and_too_long_an_outage_are_told_beforehand() {
    let world = World::new();
    let much = [("OMNIVISOR_SNAPSHOT_RESERVE", "4096TiB")];
    let told = snapshot(&world, &much);
    if told["method"] == "copy" {
        assert_eq!(told["fits"], false, "{told:#}");
        assert!(said(&plan(&world, &much, &[])).contains("NO ROOM"));
    }
    let short = [("OMNIVISOR_SNAPSHOT_OUTAGE_LIMIT", "1ms")];
    assert!(said(&plan(&world, &short, &[])).contains("TOO LONG    snapshot.outage-limit is 1ms"));
    let none = [("OMNIVISOR_SNAPSHOT_METHOD", "none")];
    assert!(said(&plan(&world, &none, &[])).contains("none is taken"));
    assert_eq!(snapshot(&world, &none), Value::Null);
}
