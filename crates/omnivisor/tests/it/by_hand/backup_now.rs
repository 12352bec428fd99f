//! `omnivisor backup now`: a backup of a node that is down for a moment, or was down already.

use std::fs;

use omnivisor_testkit::{Behaviour, wait_until};
use serde_json::Value;

use crate::world::{SOON, World, omnivisor_exe};

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

fn list(world: &World) -> Vec<Value> {
    let output = world.omnivisor(&["backup", "list", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_backup_now_is_one_of_a_node_that_was_stopped_and_runs_again() {
    let world = World::new();
    let mut supervised = world.run();
    let (home, before) = (world.installation.daemon_home(), world.wait_for("1.0.0"));
    fs::create_dir_all(home.join("data/db")).unwrap();
    fs::write(home.join("data/db/1"), "one").unwrap();
    let output = world.omnivisor(&["backup", "now"]);
    assert!(output.status.success(), "{}", said(&output));
    let after = world.wait_for("1.0.0");
    assert_ne!(before, after, "what is copied of a node that writes is no backup");
    world.log().assert_never_double();
    let all = list(&world);
    assert_eq!(all.len(), 1, "{all:#?}");
    assert_eq!(all[0]["damaged"], Value::Null);
    assert_eq!(all[0]["manifest"]["from"]["version"], "1.0.0");
    wait_until("it is listed", SOON, || (list(&world)[0]["sealed"] == true).then_some(()));
    let verified = world.omnivisor(&["backup", "verify"]);
    assert!(verified.status.success(), "{}", said(&verified));

    // Where nothing runs it is taken at once, and can be put back.
    supervised.signal(15);
    supervised.wait(SOON);
    fs::write(home.join("data/db/1"), "two").unwrap();
    let output = world.omnivisor(&["backup", "now"]);
    assert!(output.status.success(), "{}", said(&output));
    let all = list(&world);
    assert_eq!(all.len(), 2, "{all:#?}");
    for (id, text) in [(&all[1]["id"], "one"), (&all[0]["id"], "two")] {
        let output = world.omnivisor(&["restore", id.as_str().unwrap()]);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(fs::read_to_string(home.join("data/db/1")).unwrap(), text);
    }
}

/// An instance may be run with a file that says where its backups go.
#[test]
fn backups_are_found_by_the_env_file_that_the_instance_is_run_with() {
    let world = World::new();
    let mut supervised = world.run();
    world.wait_for("1.0.0");
    supervised.signal(15);
    supervised.wait(SOON);
    let (elsewhere, file) = (world.sandbox.path().join("elsewhere"), world.sandbox.path().join("my.env"));
    fs::create_dir(&elsewhere).unwrap();
    fs::write(&file, format!("DAEMON_BACKUP_DATA_DIRECTORY={}\n", elsewhere.display())).unwrap();
    let taken = world.omnivisor(&["backup", "now", "-c", file.to_str().unwrap()]);
    assert!(taken.status.success(), "{}", said(&taken));
    assert_eq!(list(&world), Vec::<Value>::new());
    for verb in [&["list"][..], &["verify"], &["prune", "--dry-run"]] {
        let output = world.omnivisor(&[&["backup"], verb, &["-c", file.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{verb:?}: {}", said(&output));
        assert!(verb[0] != "list" || said(&output).contains("by hand, of 1.0.0"), "{}", said(&output));
    }
    assert!(fs::read_dir(&elsewhere).unwrap().count() > 0);
}

#[test]
fn no_backup_is_taken_of_a_node_that_is_on_trial() {
    let world = World::new();
    let _supervised = world.on_trial(&Behaviour::new("2.0.0"));
    let pid = world.wait_for("2.0.0");
    let refused = world.omnivisor(&["backup", "now"]);
    assert!(!refused.status.success() && said(&refused).contains("an upgrade is under way"), "{}", said(&refused));
    assert_eq!(world.wait_for("2.0.0"), pid);
}

/// What it had copied takes as much room as the home.
#[test]
fn what_a_backup_had_copied_when_it_was_killed_is_removed_by_the_next_one() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let world = World::new();
    let mut supervised = world.run();
    supervised.signal(15);
    supervised.wait(SOON);
    let mut command = world.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
    let point = "rename snapshot-#-000000-preupgrade";
    let killed = command.args(["backup", "now"]).env("OMNIVISOR_CHECKPOINT", point).output().unwrap();
    assert!(!killed.status.success(), "{}", said(&killed));
    let folder = world.installation.backups().join("by-hand-nym-node-default");
    let partial = || {
        let names = fs::read_dir(&folder).unwrap().map(|it| it.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.contains(".partial")).count()
    };
    assert!(partial() > 0);
    let output = world.omnivisor(&["backup", "now"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!((partial(), list(&world).len()), (0, 1));
}
