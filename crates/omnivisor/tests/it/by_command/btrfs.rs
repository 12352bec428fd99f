//! The script for Btrfs that comes along, on a Btrfs.

use std::fs;
use std::path::Path;
use std::process::Command;

use omnivisor_testkit::mounts::Btrfs;
use omnivisor_testkit::{Behaviour, Options, wait_until};
use serde_json::Value;

use super::{said, stop};
use crate::world::{SOON, World, omnivisor_exe, options};

#[test]
fn a_subvolume_of_a_btrfs_is_taken_by_the_script_that_comes_along() {
    let disk = match Btrfs::new() {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    let (home, snapshots) = (disk.path().join("daemon"), disk.path().join("snapshots"));
    let made = Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(&home).status().unwrap();
    assert!(made.success());
    fs::create_dir(&snapshots).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/snapshot-btrfs");
    let options = Options { daemon_home: Some(home.clone()), ..options() };
    let world = World::with(Behaviour::new("1.0.0"), options);
    let settings =
        format!("[snapshot]\nmethod = 'command'\ncommand = ['{}', '{}']\n", script.display(), snapshots.display());
    fs::write(world.installation.config().with_file_name("omnivisor.toml"), settings).unwrap();
    fs::create_dir_all(home.join("data")).unwrap();
    fs::write(home.join("data/id.pem"), "1").unwrap();
    let supervised = world.run();
    world.publish(
        "2024.2",
        &Behaviour { migrates: true, exit_after_ms: Some(50), exit_code: 3, ..Behaviour::new("2.0.0") },
    );
    world.wait_for_status("it is over", |status| status["failed"][0]["version"] == "2.0.0");
    world.wait_for("1.0.0");
    assert!(world.log().of("refused").is_empty(), "the old node finds its own data");
    let output = world.omnivisor(&["backup", "now"]);
    assert!(output.status.success(), "{}", said(&output));
    wait_until("both are listed", SOON, || {
        let output = world.omnivisor(&["backup", "list", "--json"]);
        let all: Vec<Value> = serde_json::from_slice(&output.stdout).ok()?;
        let is_good = |it: &Value| it["kind"] == "command" && it["sealed"] == true && it["damaged"].is_null();
        (all.len() == 2 && all.iter().all(is_good)).then_some(())
    });
    let names = || fs::read_dir(&snapshots).unwrap().map(|it| it.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(names().len(), 2, "what was only tried is gone: {:?}", names());
    stop(supervised);
    let mut command = world.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
    let pruned = command.args(["backup", "prune"]).env("OMNIVISOR_BACKUP_KEEP", "1").output().unwrap();
    assert!(pruned.status.success(), "{}", said(&pruned));
    assert_eq!(names().len(), 1, "{:?}", names());
}
