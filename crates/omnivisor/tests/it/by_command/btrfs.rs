//! The ways of Btrfs and ZFS that come along: on a Btrfs, and with a `zfs` that does what is asked of it by copies.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use omnivisor_testkit::mounts::Btrfs;
use omnivisor_testkit::{Behaviour, Options, wait_until};
use serde_json::Value;

use super::{said, stop};
use crate::world::{SOON, World, omnivisor_exe, options};

#[test]
fn a_subvolume_of_a_btrfs_is_taken_by_the_script_that_comes_along() {
    on_btrfs(|snapshots| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/snapshot-btrfs");
        format!("method = 'command'\ncommand = ['{}', '{}']\n", script.display(), snapshots.display())
    });
}

#[test]
fn a_subvolume_of_a_btrfs_is_taken_without_a_command_of_ones_own() {
    on_btrfs(|snapshots| format!("method = 'btrfs'\nfolder = '{}'\n", snapshots.display()));
}

fn on_btrfs(settings: impl Fn(&Path) -> String) {
    let disk = match Btrfs::new() {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    let (home, snapshots) = (disk.path().join("daemon"), disk.path().join("snapshots"));
    let made = Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(&home).status().unwrap();
    assert!(made.success());
    fs::create_dir(&snapshots).unwrap();
    let path = std::env::var("PATH").unwrap();
    is_refused_before_the_stop(&home, &settings(&snapshots), "others may look into", &snapshots);
    fs::set_permissions(&snapshots, fs::Permissions::from_mode(0o700)).unwrap();
    let inside = home.join("snaps");
    // Where a command puts what it takes is not known.
    if !settings(&inside).contains("command") {
        is_refused_before_the_stop(&home, &settings(&inside), "is in the home", &inside);
    }
    let names = || fs::read_dir(&snapshots).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    is_taken(&home, &settings(&snapshots), &path, &names);
}

/// Only what the script asks of `zfs`: that the real one does this is for whoever has one.
#[test]
fn a_dataset_is_taken_by_what_is_asked_of_zfs() {
    let folder = tempfile::tempdir().unwrap();
    let (bin, tank) = (folder.path().join("bin"), folder.path().join("tank"));
    for made in [&bin, &tank.join("daemon"), &tank.join(".zfs/snapshot")] {
        fs::create_dir_all(made).unwrap();
    }
    let zfs = r#"#!/bin/sh
set -eu
tank=TANK
case "$*" in
  "list -H -o name -t snapshot -d 1 tank/node") ls "$tank/.zfs/snapshot" | sed 's,^,tank/node@,' ;;
  "list -H -o name $tank/daemon") echo tank/node ;;
  "get -H -o value mountpoint tank/node") echo "$tank" ;;
  "snapshot tank/node@"*) s=$tank/.zfs/snapshot/${2#*@}; mkdir "$s"; cp -a "$tank/daemon" "$s/" ;;
  "destroy tank/node@"*) rm -r "$tank/.zfs/snapshot/${2#*@}" ;;
  *) echo "zfs: not understood: $*" >&2; exit 2 ;;
esac
"#;
    let tool = bin.join("zfs");
    fs::write(&tool, zfs.replace("TANK", tank.to_str().unwrap())).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let shown = tank.join(".zfs/snapshot");
    let names = || fs::read_dir(&shown).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    is_taken(&tank.join("daemon"), "method = 'zfs'\n", &path, &names);
}

/// What cannot be is known while the node runs, and costs no outage.
fn is_refused_before_the_stop(home: &Path, settings: &str, why: &str, folder: &Path) {
    let is_new = !folder.exists();
    if is_new {
        fs::create_dir(folder).unwrap();
    }
    let options = Options { daemon_home: Some(home.to_owned()), ..options() };
    let world = World::with(Behaviour::new("1.0.0"), options);
    let settings = format!("[snapshot]\n{settings}");
    fs::write(world.installation.config().with_file_name("omnivisor.toml"), settings).unwrap();
    let supervised = world.run();
    let pid = world.wait_for("1.0.0");
    let output = world.omnivisor(&["backup", "now"]);
    assert!(!output.status.success() && said(&output).contains(why), "{}", said(&output));
    assert_eq!(world.wait_for("1.0.0"), pid, "it was not stopped for that");
    stop(supervised);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "nothing is left there");
    if is_new {
        fs::remove_dir(folder).unwrap();
    }
    fs::remove_dir_all(home.join("nymvisor")).unwrap();
}

/// An upgrade that is undone and a backup by hand, of this home with these settings; `names` lists what was taken.
fn is_taken(home: &Path, settings: &str, path: &str, names: &dyn Fn() -> Vec<String>) {
    let options = Options { daemon_home: Some(home.to_owned()), ..options() };
    let world = World::with(Behaviour::new("1.0.0"), options);
    let settings = format!("[snapshot]\n{settings}");
    fs::write(world.installation.config().with_file_name("omnivisor.toml"), settings).unwrap();
    fs::create_dir_all(home.join("data")).unwrap();
    fs::write(home.join("data/id.pem"), "1").unwrap();
    let mut run = world.run_command();
    run.env("PATH", path);
    let supervised = world.sandbox.spawn(run);
    world.wait_for("1.0.0");
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
    assert_eq!(names().len(), 2, "what was only tried is gone: {:?}", names());
    stop(supervised);
    let mut command = world.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
    let pruned =
        command.args(["backup", "prune"]).env("OMNIVISOR_BACKUP_KEEP", "1").env("PATH", path).output().unwrap();
    assert!(pruned.status.success(), "{}", said(&pruned));
    assert_eq!(names().len(), 1, "{:?}", names());
}
