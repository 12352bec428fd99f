//! Snapshots: whole or not there, and one for each time that a release was tried.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use omnivisor_testkit::{Answer, Behaviour, Options, wait_until};

use super::{assert_still, running_pid, tree, wait_for_polls, wait_for_standing};
use crate::world::{ANNOUNCEMENT, SOON, World, options};

/// What is in a folder's `data`, by its path there.
fn data(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let data = folder.join("data");
    let files = tree(&data).into_iter().filter(|path| path.is_file());
    files.map(|path| (path.strip_prefix(&data).unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

/// Three hundred files of no great size.
fn fill(home: &Path) {
    for number in 0..300 {
        let folder = home.join(format!("data/f{}", number % 10));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(number.to_string()), vec![u8::try_from(number % 251).unwrap(); 20_000]).unwrap();
    }
}

/// The snapshots under their final names, and what is not finished.
fn snapshots(backups: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let upgrades = fs::read_dir(backups).into_iter().flatten().flatten();
    let entries = upgrades.flat_map(|upgrade| fs::read_dir(upgrade.path()).into_iter().flatten().flatten());
    // Beside the manifests, and what they are made as.
    let entries = entries.map(|entry| entry.path()).filter(|path| !path.to_string_lossy().contains("mtree"));
    entries.partition(|path| !path.to_string_lossy().contains(".partial"))
}

/// N23
#[test]
fn a_snapshot_has_its_name_only_when_it_is_whole() {
    let world = World::new();
    let home = world.installation.daemon_home();
    fill(home);
    let mut supervised = world.run();
    wait_until("the node's data", SOON, || home.join("data/state.json").exists().then_some(()));
    let expected = data(home);
    assert_eq!(expected.len(), 301);
    world.publish("2024.2", &Behaviour { migrates: true, ..Behaviour::new("2.0.0") });
    let backups = world.installation.backups();
    // Looked at in the very moment in which it has its name.
    let first = wait_until("a snapshot", SOON, || {
        let whole = snapshots(backups).0.pop()?;
        Some((data(&whole), whole))
    });
    assert!(first.0 == expected, "{} of {} files", first.0.len(), expected.len());
    world.wait_for_commit("2.0.0");
    assert_eq!(snapshots(backups), (vec![first.1], Vec::new()));
    supervised.signal(15);
    supervised.wait(SOON);
}

/// N23
#[test]
fn a_snapshot_that_was_cut_off_is_made_again_and_never_counts() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let world = World::new();
    let home = world.installation.daemon_home();
    fill(home);
    let mut supervised = world.run();
    supervised.signal(15);
    supervised.wait(SOON);
    let expected = data(home);
    world.publish("2024.2", &Behaviour { migrates: true, ..Behaviour::new("2.0.0") });
    let mut command = world.run_command();
    command.env("OMNIVISOR_CHECKPOINT", "rename snapshot-#-000001-preupgrade");
    let mut supervised = world.sandbox.spawn(command);
    supervised.wait(SOON);
    assert_eq!(supervised.died_of(), Some(9));
    let backups = world.installation.backups();
    let (whole, mut partial) = snapshots(backups);
    partial.sort();
    assert_eq!((whole.len(), partial.len()), (0, 2), "{whole:?} {partial:?}");
    // As if it had been killed earlier than at its last moment, in its first pass.
    fs::remove_file(&partial[1]).unwrap();
    fs::remove_dir_all(partial[0].join("data/f3")).unwrap();
    fs::write(partial[0].join("data/f4/4"), "").unwrap();
    let _supervised = world.run_again();
    world.wait_for_commit("2.0.0");
    let (whole, partial) = snapshots(backups);
    assert_eq!((whole.len(), partial.len()), (1, 0), "{whole:?} {partial:?}");
    assert!(data(&whole[0]) == expected);
}

/// A disk on which only so many files fit, whatever the room; it has to outlive the world that uses it.
struct FewFiles(PathBuf);

impl FewFiles {
    /// None if this process may not mount anything.
    fn new(world: &str, files: u32) -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("ov-few-{world}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let disk = Self(folder);
        let option = format!("size=256m,nr_inodes={files}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &option, "omnivisor-test"]).arg(&disk.0);
        let mounted = rustix::process::geteuid().is_root() && mount.status().is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: nothing can be mounted here");
        }
        mounted.then_some(disk)
    }

    fn more(&self, files: u32) {
        let option = format!("remount,nr_inodes={files}");
        assert!(Command::new("mount").args(["-o", &option]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for FewFiles {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).stderr(std::process::Stdio::null()).status().ok();
        fs::remove_dir(&self.0).ok();
    }
}

/// N23: a failure in the middle of the copy, which nobody could foresee.
#[test]
fn a_snapshot_that_does_not_fit_after_all_keeps_the_old_release() {
    let Some(disk) = FewFiles::new("snapshot", 100) else { return };
    let backups = disk.0.join("backups");
    let world = World::with(Behaviour::new("1.0.0"), Options { backup_directory: Some(backups.clone()), ..options() });
    let home = world.installation.daemon_home();
    fill(home);
    let supervised = world.run();
    world.publish("2024.2", &Behaviour { migrates: true, ..Behaviour::new("2.0.0") });
    wait_until("it is said", SOON, || {
        let said = supervised.stderr();
        said.lines().find(|line| line.contains("2024.2") && line.contains("No space left")).map(str::to_owned)
    });
    world.wait_for("1.0.0");
    world.wait_for_files("1.0.0");
    let (whole, partial) = snapshots(&backups);
    assert_eq!(whole.len(), 0, "{whole:?}");
    assert!(world.log().starts().iter().all(|start| start.version == "1.0.0"), "nothing new without a snapshot");
    assert!(world.log().of("refused").is_empty());
    drop(partial);
    disk.more(10_000);
    // It is given up or tried again; a person may always say that it can go on.
    wait_until("it goes on", SOON, || {
        let _ = world.omnivisor(&["upgrade", "2024.2"]);
        (world.status()?["active"]["version"] == "2.0.0").then_some(())
    });
    world.wait_for_commit("2.0.0");
    let (whole, partial) = snapshots(&backups);
    assert_eq!((whole.len(), partial.len()), (1, 0));
    assert_eq!(data(&whole[0]).len(), 301);
    drop((supervised, world, disk));
}

/// N24
#[test]
fn a_release_that_fails_is_tried_once_and_its_snapshot_is_the_data_again() {
    // It takes longer to fail than the whole startup period is, which lets nobody off.
    let sick = Behaviour { exit_after_ms: Some(350), exit_code: 1, migrates: true, ..Behaviour::new("2.0.0") };
    let world =
        World::with(Behaviour::new("1.0.0"), Options { startup_period_duration: "300ms".to_owned(), ..options() });
    let mut command = world.run_command();
    command.env("OMNIVISOR_PROBE_WINDOW", "2s");
    let mut supervised = world.sandbox.spawn(command);
    world.wait_for("1.0.0");
    world.publish("2024.2", &sick);
    wait_until("it was tried", SOON, || {
        let tried = world.log().starts().iter().filter(|start| start.version == "2.0.0").count();
        (tried > 0 && world.log().last_start()?.version == "1.0.0").then_some(())
    });
    world.wait_for("1.0.0");
    world.wait_for_status("it is over", |status| status["upgrade"]["phase"] == "idle");
    let (starts, pid) = (world.log().starts().len(), running_pid(&world.log()));
    assert!(starts <= 4, "the old one, the new one as often as it may die, and the old one: {starts}");
    // It is announced all the time, and after a restart, too.
    wait_for_polls(&world);
    assert_still(&world, pid);
    supervised.signal(15);
    supervised.wait(SOON);
    let _supervised = world.run();
    wait_for_polls(&world);
    assert_eq!(world.log().starts().len(), starts + 1);
    let (whole, partial) = snapshots(world.installation.backups());
    assert_eq!((whole.len(), partial.len()), (0, 0), "{whole:?} {partial:?}");
    assert!(world.log().of("refused").is_empty());
}

/// N24
#[test]
fn a_release_that_cannot_be_fetched_leaves_no_snapshot_and_stops_nothing() {
    let world = World::new();
    let _supervised = world.run();
    let pid = running_pid(&world.log());
    let info = world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.upstream.serve("/download/2024.2", Answer::Status(500, Vec::new()));
    world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
    wait_for_standing(&world, "2024.2", "500");
    wait_until("several tries", SOON, || (world.upstream.requests("/download/2024.2") >= 4).then_some(()));
    assert_still(&world, pid);
    assert_eq!(world.log().signals_of(pid), [0_i32; 0]);
    assert_eq!(snapshots(world.installation.backups()), (Vec::new(), Vec::new()));
    assert_eq!(world.log().starts().len(), 1);
}

#[test]
fn without_a_backup_nothing_is_copied_and_the_upgrade_is_done() {
    let world = World::with(Behaviour::new("1.0.0"), Options { unsafe_skip_backup: true, ..options() });
    fill(world.installation.daemon_home());
    let _supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    assert_eq!(snapshots(world.installation.backups()), (Vec::new(), Vec::new()));
}
