//! What becomes of a snapshot after an upgrade, and which ones stay.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use omnivisor::effects::backup::archive::{Format, archive};
use omnivisor::effects::backup::keep::{Keep, Spared};
use omnivisor::effects::backup::manifest::Head;
use omnivisor::effects::backup::seal::seal;
use omnivisor::effects::backup::{Kind, differs, list};
use omnivisor::effects::data::Data;
use omnivisor::effects::snapshot::Snapshot;
use omnivisor_core::retention::Retention;
use omnivisor_core::time::Timestamp;
use omnivisor_testkit::{Behaviour, Options, wait_until};
use serde_json::Value;

use super::{NEVER, Place, fill, looked_at};
use crate::world::{SOON, World, options};

fn world() -> World {
    let world = World::new();
    let home = world.installation.daemon_home();
    for number in 0..40 {
        fs::create_dir_all(home.join("data")).unwrap();
        fs::write(home.join(format!("data/{number}")), vec![number; 3000]).unwrap();
    }
    world
}

/// A supervisor that packs at once.
fn packing(world: &World) -> Command {
    let mut command = world.run_command();
    command.env("OMNIVISOR_PROBE_WINDOW", "300ms").env("OMNIVISOR_BACKUP_ARCHIVE_AFTER", "0s");
    command
}

fn listed(world: &World) -> Vec<Value> {
    let output = world.omnivisor(&["backup", "list", "--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice::<Value>(&output.stdout).unwrap().as_array().unwrap().clone()
}

/// Waits until there is one backup, of this kind, and nothing beside it but its manifest.
fn wait_for_one(world: &World, kind: &str) -> Value {
    let last = std::cell::RefCell::new(Vec::new());
    wait_until(&format!("one backup of kind {kind}"), SOON, || {
        let all = listed(world);
        let folder = world.installation.backups().join("2024.2");
        *last.borrow_mut() =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|it| it.path()).collect::<Vec<PathBuf>>();
        let is_so = all.len() == 1 && all[0]["kind"] == kind && all[0]["sealed"] == true && last.borrow().len() == 2;
        is_so.then(|| all[0].clone())
    })
}

#[test]
fn after_an_upgrade_its_snapshot_is_listed_packed_and_read_back() {
    let world = world();
    let mut supervised = world.sandbox.spawn(packing(&world));
    world.wait_for("1.0.0");
    world.publish("2024.2", &Behaviour { migrates: true, ..Behaviour::new("2.0.0") });
    world.wait_for_commit("2.0.0");
    let one = wait_for_one(&world, "tar.zst");
    assert_eq!(one["manifest"]["from"]["version"], "1.0.0");
    assert_eq!(one["manifest"]["to"]["version"], "2.0.0");
    let name = Path::new(one["path"].as_str().unwrap()).file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with("backup-20") && name.ends_with("-preupgrade.tar.zst"), "{name}");
    let verified = world.omnivisor(&["backup", "verify", &one["id"].as_str().unwrap()[..8]]);
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success() && said.contains("good: "), "{said}");
    let shown = world.omnivisor(&["backup", "list"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("1.0.0 -> 2.0.0 (2024.2)"), "{shown:?}");
    // What is not good is told by a code of its own, with no supervisor, too.
    supervised.signal(15);
    supervised.wait(SOON);
    let path = one["path"].as_str().unwrap();
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes.truncate(middle);
    fs::write(path, bytes).unwrap();
    let verified = world.omnivisor(&["backup", "verify"]);
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert_eq!(verified.status.code(), Some(13), "{said}");
    assert!(said.contains("NOT GOOD"), "{said}");
}

/// Wherever it is killed, it goes on, and in the end there is one archive and nothing else.
#[test]
fn a_supervisor_that_is_killed_while_it_packs_goes_on_with_it() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let snapshot = "snapshot-#-000001-preupgrade";
    let points = [
        format!("flush {snapshot}.mtree"),
        "backup-packed".to_owned(),
        format!("rename {snapshot}.partial-removed"),
        format!("remove {snapshot}.mtree"),
        format!("remove {snapshot}.partial-removed"),
    ];
    std::thread::scope(|scope| {
        for point in points {
            scope.spawn(move || {
                let world = world();
                let mut command = packing(&world);
                command.env("OMNIVISOR_CHECKPOINT", &point);
                let mut supervised = world.sandbox.spawn(command);
                world.wait_for("1.0.0");
                world.publish("2024.2", &Behaviour::new("2.0.0"));
                supervised.wait(SOON);
                assert_eq!(supervised.died_of(), Some(9), "{point}: {}", supervised.stderr());
                let _again = world.sandbox.spawn(packing(&world));
                let one = wait_for_one(&world, "tar.zst");
                let verified = world.omnivisor(&["backup", "verify", one["id"].as_str().unwrap()]);
                assert!(verified.status.success(), "{point}: {verified:?}");
                world.wait_for("2.0.0");
            });
        }
    });
}

/// An archive that would fill the disk is not made: the node comes first.
#[test]
fn a_disk_that_is_nearly_full_keeps_the_snapshot_and_says_so() {
    let folder = std::env::temp_dir().join(format!("ov-packed-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mount =
        || Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m", "omnivisor-test"]).arg(&folder).status();
    if !rustix::process::geteuid().is_root() || !mount().is_ok_and(|status| status.success()) {
        return println!("skipped: nothing can be mounted here");
    }
    let options = Options { backup_directory: Some(folder.clone()), ..options() };
    let world = World::with(Behaviour::new("1.0.0"), options);
    let supervised = world.sandbox.spawn(packing(&world));
    world.wait_for("1.0.0");
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    wait_until("it says why it does not pack", SOON, || {
        let said = supervised.stderr();
        (said.contains("cannot be packed, and stays as it is") && said.contains("bytes free")).then_some(())
    });
    let all = listed(&world);
    assert_eq!((all.len(), &all[0]["kind"], &all[0]["sealed"]), (1, &"folder".into(), &true.into()), "{all:?}");
    world.wait_for("2.0.0");
    drop((supervised, world));
    Command::new("umount").arg("-l").arg(&folder).status().unwrap();
    fs::remove_dir(&folder).ok();
}

#[test]
fn whatever_ends_it_the_snapshot_stays_and_no_half_of_an_archive() {
    let place = Place::new();
    fill(&place.home());
    let backup = place.sealed();
    let mut calls = 0;
    archive_ending(&backup, u32::MAX, &mut calls);
    let all = calls;
    let place = Place::new();
    fill(&place.home());
    let backup = place.sealed();
    for after in [0, 1, all / 4, all / 2, all * 3 / 4, all - 1] {
        archive_ending(&backup, after, &mut 0);
        assert!(looked_at(&backup).is_good());
        let left = fs::read_dir(backup.path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 2, "ended after {after} of {all}");
    }
}

fn archive_ending(backup: &omnivisor::effects::backup::Backup, after: u32, calls: &mut u32) {
    let done = archive(backup, Format::Zst, &mut |_| {
        *calls += 1;
        if *calls > after { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    });
    assert_eq!(done.is_ok(), after == u32::MAX, "{done:?}");
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn day(day: u32) -> Timestamp {
    Timestamp::EPOCH.plus(DAY * day)
}

/// A snapshot of that day.
fn snapshot_of(place: &Place, home: &Path, number: u32) -> PathBuf {
    let id = format!("{number}-{number:06}");
    let to = place.backups().join(format!("2024.9/snapshot-{id}-preupgrade"));
    let head = Head { id, taken: day(number).to_string(), home: home.display().to_string(), ..Head::default() };
    Snapshot { data: &Data::in_one(home, &[]), to: &to }.take_as(&head, &NEVER).unwrap();
    to
}

#[test]
fn of_old_backups_so_many_stay_and_never_goes_what_is_needed_or_not_ours() {
    let place = Place::new();
    fs::write(place.home().join("file"), "text").unwrap();
    let other = place.path("other");
    fs::create_dir(&other).unwrap();
    let folder = place.backups().join("2024.9");
    for number in [1, 2, 3, 4, 5] {
        snapshot_of(&place, &place.home(), number);
    }
    seal(&snapshot_of(&place, &other, 6), &mut |_| Ok(())).unwrap();
    fs::create_dir(folder.join("snapshot-7-000007-preupgrade")).unwrap();
    fs::write(folder.join("backup-2020-01-01-000000000-preupgrade.tar.gz"), "Nymvisor's").unwrap();
    fs::create_dir(folder.join("snapshot-8-000008-preupgrade.partial")).unwrap();
    fs::create_dir(folder.join("snapshot-9-000009-preupgrade.partial-removed")).unwrap();
    fs::write(folder.join(".backup-x.tar.zst.4000000-1.omnivisor-new"), "").unwrap();
    fs::copy(
        folder.join("snapshot-1-000001-preupgrade.mtree"),
        folder.join("backup-2019-01-01-000000000-preupgrade.tar.zst.mtree"),
    )
    .unwrap();
    let keep = Keep {
        archive: Some(Format::Gz),
        after: DAY * 97,
        retention: Retention { count: Some(2), ..Retention::default() },
    };
    let spared = Spared { under_way: Some("5-000005".into()), way_back: Some("1-000001".into()) };
    for _ in 0..2 {
        keep.round(&place.backups(), &place.home(), &spared, day(100), None, &NEVER).unwrap();
        let all = list(&place.backups());
        let kinds: BTreeSet<(&str, &str)> = all.iter().map(|it| (it.id.as_str(), it.kind.as_str())).collect();
        let expected = [
            ("1-000001", "tar.gz"),
            ("3-000003", "tar.gz"),
            ("4-000004", "folder"),
            ("5-000005", "folder"),
            ("6-000006", "folder"),
            ("7-000007", "folder"),
            ("backup-2020-01-01-000000000-preupgrade", "nymvisor"),
        ];
        assert_eq!(kinds, expected.into(), "{kinds:?}");
        let is_untouched = |it: &&omnivisor::effects::backup::Backup| it.id == "5-000005" && !it.sealed;
        assert_eq!(all.iter().filter(is_untouched).count(), 1, "the one of an upgrade that is under way");
        let rest: Vec<_> = fs::read_dir(&folder).unwrap().map(|it| it.unwrap().file_name()).collect();
        let rest = rest.iter().filter(|it| !it.to_string_lossy().ends_with(".mtree")).count();
        assert_eq!(rest, 8, "what somebody else is making is not ours to remove, and the rest is gone");
        let manifests = all.iter().filter(|it| it.head.is_some()).count();
        let there = fs::read_dir(&folder)
            .unwrap()
            .filter(|it| it.as_ref().unwrap().path().extension().is_some_and(|it| it == "mtree"));
        assert_eq!(there.count(), manifests, "no manifest of nothing is left");
    }
    assert!(list(&place.backups()).iter().any(|it| it.kind == Kind::TarGz && looked_at(it).is_good()));
}

/// It would take the place of a good one, and be tried again every hour.
#[test]
fn what_was_found_not_to_be_good_counts_for_none_and_stays() {
    let place = Place::new();
    fs::write(place.home().join("file"), "text").unwrap();
    for number in [1, 2, 3] {
        seal(&snapshot_of(&place, &place.home(), number), &mut |_| Ok(())).unwrap();
    }
    let bad = place.backups().join("2024.9/snapshot-3-000003-preupgrade");
    fs::write(bad.join("file"), "rot!").unwrap();
    let retention = Retention { count: Some(1), ..Retention::default() };
    // Who packs it sees it; of those that are left one is kept.
    let keep = |archive| Keep { archive, after: Duration::ZERO, retention };
    let round = |keep: Keep| keep.round(&place.backups(), &place.home(), &Spared::default(), day(100), None, &NEVER);
    let many = Keep { retention: Retention::default(), ..keep(Some(Format::Gz)) };
    round(many).unwrap_err();
    round(keep(Some(Format::Gz))).unwrap();
    let all = list(&place.backups());
    let kinds: BTreeSet<(&str, &str)> = all.iter().map(|it| (it.id.as_str(), it.kind.as_str())).collect();
    assert_eq!(kinds, [("2-000002", "tar.gz"), ("3-000003", "folder")].into(), "{kinds:?}");
    let noted = all.iter().find(|it| it.id == "3-000003").unwrap();
    assert!(noted.differs.as_ref().unwrap().contains("file"), "{noted:?}");
    // Whoever mends it, and says so, has one more.
    fs::write(bad.join("file"), "text").unwrap();
    let modified = fs::File::options().write(true).open(bad.join("file")).unwrap();
    modified.set_modified(fs::metadata(place.home().join("file")).unwrap().modified().unwrap()).unwrap();
    differs::note(noted, &looked_at(noted)).unwrap();
    round(keep(None)).unwrap();
    let all: Vec<_> = list(&place.backups()).into_iter().map(|it| it.id).collect();
    assert_eq!(all, ["3-000003"]);
    let left: Vec<_> = fs::read_dir(bad.parent().unwrap()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}
