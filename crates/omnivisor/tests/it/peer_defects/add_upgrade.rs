//! `add-upgrade`: what it says, what it refuses, what it replaces, and what it never touches.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use omnivisor_testkit::{Behaviour, sha256_hex, wait_until};
use rustix::fs::FlockOperation;
use serde_json::Value;

use super::{
    WEEK, add_upgrade, assert_done, assert_still, placed, queued, running_pid, tree, wait_for_polls, wait_for_standing,
};
use crate::world::{SOON, World, timestamp};

/// Everything below a folder, with what is in it.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    tree(folder).into_iter().map(|path| (path.clone(), fs::read(path).ok())).collect()
}

/// The entry of this name in the queue.
fn entry(world: &World, name: &str) -> Value {
    let plan = world.plan();
    let found: Vec<&Value> =
        plan["queuedUp"].as_array().unwrap().iter().filter(|entry| entry["name"] == name).collect();
    assert_eq!(found.len(), 1, "{name} in {plan:#}");
    found[0].clone()
}

/// N29
#[test]
fn force_replaces_what_was_queued_by_hand() {
    let world = World::new();
    assert_done(&add_upgrade(&world, "up1", &Behaviour::new("2.0.0"), &["--upgrade-delay", "7days"]));
    let refused = add_upgrade(&world, "up1", &Behaviour::new("2.1.0"), &["--upgrade-delay", "7days"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("up1") && said.contains("--force"), "{said}");
    assert_eq!(entry(&world, "up1")["version"], "2.0.0");

    assert_done(&add_upgrade(&world, "up1", &Behaviour::new("2.1.0"), &["--force", "--upgrade-delay", "7days"]));
    assert_eq!(entry(&world, "up1")["version"], "2.1.0");
    let described = fs::read(world.installation.upgrade_dir("up1").join("upgrade-info.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&described).unwrap()["version"], "2.1.0");
    assert_eq!(
        sha256_hex(&world.installation.binary("up1")),
        sha256_hex(&world.minted(&Behaviour::new("2.1.0"))),
        "the executable, too"
    );
    assert_eq!(world.installation.assert_nymvisor_would_start(), "1.0.0");
    let _supervised = world.run();
    assert_done(&add_upgrade(&world, "up1", &Behaviour::new("2.2.0"), &["--force", "--now"]));
    world.wait_for_commit("2.2.0");
    assert_eq!(world.log().starts().len(), 2, "nothing else was ever switched to");
}

/// N29: the operator's own build in the place of one that was fetched already.
#[test]
fn force_replaces_what_upstream_has_queued() {
    let world = World::new();
    let _supervised = world.run();
    let theirs = Behaviour::new("2.0.0");
    let ours = Behaviour { commit: "patched".to_owned(), ..Behaviour::new("2.0.0") };
    world.publish_for("2024.2", &theirs, &timestamp(WEEK));
    world.wait_for_status("theirs is ready", |status| status["upgrade"]["phase"] == "staged");
    let pid = running_pid(&world.log());
    assert_eq!(add_upgrade(&world, "2024.2", &ours, &["--now"]).status.code(), Some(1), "not without --force");
    assert_done(&add_upgrade(&world, "2024.2", &ours, &["--force", "--upgrade-delay", "7days"]));
    assert_eq!(entry(&world, "2024.2")["binaryDetails"]["commit_sha"], "patched");
    world.wait_for_status("ours is ready", |status| {
        let digest = sha256_hex(&world.installation.binary("2024.2"));
        status["upgrade"]["phase"] == "staged" && digest == sha256_hex(&world.minted(&ours))
    });
    // Upstream goes on announcing its own.
    wait_for_polls(&world);
    assert_eq!(entry(&world, "2024.2")["binaryDetails"]["commit_sha"], "patched");
    assert_still(&world, pid);
    assert_done(&add_upgrade(&world, "2024.2", &ours, &["--force", "--now"]));
    world.wait_for_commit("2.0.0");
    let history: Value = serde_json::from_slice(&fs::read(world.installation.history()).unwrap()).unwrap();
    assert_eq!(history["history"][0]["info"]["binaryDetails"]["commit_sha"], "patched");
}

/// N30
#[test]
fn force_under_the_name_of_the_release_that_runs_changes_nothing() {
    let world = World::new();
    let mut supervised = world.run();
    world.publish("up1", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    wait_until("an empty queue", SOON, || queued(&world).is_empty().then_some(()));
    let pid = running_pid(&world.log());
    let before = contents(world.installation.data());
    // Another version, another build, and the very one that runs.
    let patched = Behaviour { commit: "patched".to_owned(), ..Behaviour::new("2.0.0") };
    for behaviour in [Behaviour::new("3.0.0"), patched, Behaviour::new("2.0.0")] {
        let output = add_upgrade(&world, "up1", &behaviour, &["--force", "--now"]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("what a node runs from") && said.contains("another name"), "{said}");
        assert!(contents(world.installation.data()) == before, "{:?}", tree(world.installation.data()));
    }
    assert_still(&world, pid);
    supervised.signal(15);
    supervised.wait(SOON);
    assert_eq!(world.installation.assert_nymvisor_would_start(), "2.0.0");
    let _supervised = world.run();
    world.wait_for("2.0.0");
}

/// N31
#[test]
fn the_very_file_that_is_in_its_place_already_is_left_whole() {
    let world = World::new();
    let _supervised = world.run();
    // Once as a person places it, before anything is announced; once queued already.
    for (version, more) in [("2.0.0", &[][..]), ("2.1.0", &["--force"])] {
        let behaviour = Behaviour::new(version);
        let info = placed(&world, version, version, &timestamp(WEEK));
        if more.is_empty() {
            fs::remove_file(world.installation.upgrade_dir(version).join("upgrade-info.json")).unwrap();
        } else {
            world.installation.queue(info);
            wait_for_standing(&world, version, "switched");
        }
        let binary = world.installation.binary(version);
        let (inode, digest) = (fs::metadata(&binary).unwrap().ino(), sha256_hex(&binary));
        assert_eq!(digest, sha256_hex(&world.minted(&behaviour)));
        let arguments = ["add-upgrade", binary.to_str().unwrap(), "--upgrade-name", version, "--now"];
        assert_done(&world.nymvisor(&[&arguments, more].concat()).output().unwrap());
        assert_eq!((fs::metadata(&binary).unwrap().ino(), sha256_hex(&binary)), (inode, digest), "{version}");
        world.wait_for_commit(version);
    }
    assert_eq!(world.log().starts().len(), 3);
}

/// N48
#[test]
fn what_is_queued_is_said_and_the_operators_file_stays_as_it_is() {
    let world = World::new();
    for (name, version, mode) in [("up1", "2.0.0", 0o755), ("up2", "3.0.0", 0o600), ("up3", "4.0.0", 0o444)] {
        let executable = world.minted(&Behaviour::new(version));
        fs::set_permissions(&executable, fs::Permissions::from_mode(mode)).unwrap();
        let looks = |path: &Path| {
            let metadata = fs::metadata(path).unwrap();
            let times = (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec());
            (metadata.mode() & 0o7777, metadata.ino(), times, sha256_hex(path))
        };
        let before = looks(&executable);
        let add = |more: &[&str]| {
            let arguments = ["add-upgrade", executable.to_str().unwrap(), "--upgrade-name", name];
            let output = world.nymvisor(&[&arguments, more].concat()).output().unwrap();
            assert_done(&output);
            assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let said = add(&["--upgrade-time", "2099-01-01T00:00:00Z"]);
        assert!(said.starts_with(&format!("{version} ({name}) is queued for 2099-01-01T00:00:00Z, in ")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        let said = add(&["--force", "--upgrade-time", "2099-01-01T00:00:00Z", "-o", "json"]);
        assert_eq!(said.lines().count(), 1, "{said}");
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            said,
            serde_json::json!({
                "name": name, "version": version, "upgradeTime": "2099-01-01T00:00:00Z",
                "digest": format!("sha256:{}", before.3),
            })
        );
        assert_eq!(looks(&executable), before, "{name}");
        let placed = fs::metadata(world.installation.binary(name)).unwrap();
        assert_eq!(placed.mode() & 0o777, 0o755, "the copy can be run");
    }
}

/// N48
#[test]
fn the_time_is_as_it_was_said_and_else_in_a_quarter_of_an_hour() {
    let world = World::new();
    let due = |name: &str, more: &[&str]| {
        assert_done(&add_upgrade(&world, name, &Behaviour::new("2.0.0"), more));
        (entry(&world, name)["upgradeTime"].clone(), entry(&world, name)["publishDate"].clone())
    };
    for (name, time, written) in [
        ("blank", "2030-01-01 00:00:00+02:00", "2030-01-01T00:00:00+02:00"),
        ("lower", "2030-01-01t00:00:00.500Z", "2030-01-01T00:00:00.5Z"),
    ] {
        assert_eq!(due(name, &["--upgrade-time", time]).0, written);
    }
    let published = due("published", &["--publish-date", "2026-01-31T12:00:00-01:00"]).1;
    assert_eq!(published, "2026-01-31T12:00:00-01:00");
    for (name, more, delay) in [
        ("delayed", &["--upgrade-delay", "1h 30m"][..], Duration::from_secs(90 * 60)),
        ("default", &[], Duration::from_secs(15 * 60)),
        ("now", &["--now"], Duration::ZERO),
    ] {
        // In UTC and of one form, so that the order of the texts is the order of the times.
        let (now, then) = (timestamp(Duration::ZERO), timestamp(delay));
        let (time, published) = due(name, more);
        let (time, published) = (time.as_str().unwrap(), published.as_str().unwrap());
        assert!(then.as_str() < time && time < timestamp(delay).as_str(), "{name}: {time}");
        assert!(now.as_str() < published && published < timestamp(Duration::ZERO).as_str(), "{name}: {published}");
    }
}

/// N48
#[test]
fn arguments_that_exclude_each_other_or_are_no_times_are_refused_as_usage() {
    let world = World::new();
    let executable = world.minted(&Behaviour::new("2.0.0"));
    let before = contents(world.sandbox.path());
    let (time, delay, publish) = (
        ["--upgrade-time", "2030-01-01T00:00:00Z"],
        ["--upgrade-delay", "1h"],
        ["--publish-date", "2030-01-01T00:00:00Z"],
    );
    let (now, add) = (["--now"], ["--add-binary"]);
    for (words, named) in [
        ([&now[..], &time].concat(), "--upgrade-time"),
        ([&now[..], &delay].concat(), "--upgrade-delay"),
        ([&time[..], &delay].concat(), "--upgrade-delay"),
        ([&delay[..], &time].concat(), "--upgrade-time"),
        ([&add[..], &now].concat(), "--now"),
        ([&add[..], &time].concat(), "--upgrade-time"),
        ([&add[..], &delay].concat(), "--upgrade-delay"),
        ([&add[..], &publish].concat(), "--publish-date"),
        (vec!["--upgrade-time", "2030-01-01"], "2030-01-01"),
        (vec!["--upgrade-time", "2030-01-01T00:00:00"], "2030-01-01T00:00:00"),
        (vec!["--publish-date", "2030-01-01"], "2030-01-01"),
        (vec!["--upgrade-delay", "10"], "--upgrade-delay"),
        (vec!["--upgrade-delay", "tomorrow"], "--upgrade-delay"),
        (vec!["--output", "yaml"], "yaml"),
        (vec!["--soon"], "--soon"),
    ] {
        let arguments = ["add-upgrade", executable.to_str().unwrap(), "--upgrade-name", "up1"];
        let output = world.nymvisor(&[&arguments, words.as_slice()].concat()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(named) && output.stdout.is_empty(), "{words:?}: {said}");
    }
    let unnamed = world.nymvisor(&["add-upgrade", executable.to_str().unwrap()]).output().unwrap();
    assert_eq!(unnamed.status.code(), Some(2));
    assert!(contents(world.sandbox.path()) == before, "nothing was written");
}

/// Runs eight of them at once, and sees that nothing of any is lost.
fn add_eight(world: &World, first: usize) {
    let names: Vec<String> = (first..first + 8).map(|number| format!("up{number}")).collect();
    let commands: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let executable = world.minted(&Behaviour::new(&format!("2.{first}.{number}")));
            let mut command = world.nymvisor(&["add-upgrade", executable.to_str().unwrap(), "--upgrade-name", name]);
            command.args(["--upgrade-delay", "7days"]).stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        })
        .collect();
    let children: Vec<_> = commands.into_iter().map(|mut command| command.spawn().unwrap()).collect();
    for child in children {
        assert_done(&child.wait_with_output().unwrap());
    }
    for name in &names {
        entry(world, name);
        assert!(world.installation.binary(name).is_file(), "{name}");
    }
}

/// N40
#[test]
fn of_upgrades_that_are_added_at_once_none_is_lost() {
    let world = World::new();
    // What a crash has left there is a file like any other: a lock is on the file, and its holder is gone.
    let lock = world.installation.data().join("upgrade.lock");
    fs::write(&lock, "stale").unwrap();
    let inode = fs::metadata(&lock).unwrap().ino();
    add_eight(&world, 0);
    assert_eq!(queued(&world).len(), 8);
    let _supervised = world.run();
    world.publish_for("2024.2", &Behaviour::new("3.0.0"), &timestamp(WEEK));
    add_eight(&world, 8);
    wait_until("upstream's, too", SOON, || (queued(&world).len() == 17).then_some(()));
    assert_done(&add_upgrade(&world, "now", &Behaviour::new("2.99.0"), &["--now"]));
    world.wait_for_commit("2.99.0");
    assert_eq!(queued(&world).len(), 17);
    assert_eq!(fs::metadata(&lock).unwrap().ino(), inode, "nobody has removed it or made it anew");
    let entries = tree(world.installation.data());
    let left: Vec<_> = entries.iter().filter(|path| path.to_string_lossy().contains(".omnivisor-add-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// N40
#[test]
fn whoever_holds_the_lock_is_waited_for_and_keeps_it() {
    let world = World::new();
    let path = world.installation.data().join("upgrade.lock");
    let lock = fs::File::create(&path).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    let executable = world.minted(&Behaviour::new("2.0.0"));
    let mut command = world.nymvisor(&["add-upgrade", executable.to_str().unwrap(), "--upgrade-name", "up1"]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    // All that is left to do needs the lock.
    let described = world.installation.upgrade_dir("up1").join("upgrade-info.json");
    wait_until("it is described", SOON, || described.exists().then_some(()));
    // One that does not wait is done in a few milliseconds; a slow machine can only hide that, not feign it.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(400) {
        assert_eq!(child.try_wait().unwrap(), None, "it waits");
        assert!(queued(&world).is_empty());
    }
    assert_eq!(fs::metadata(&path).unwrap().ino(), lock.metadata().unwrap().ino());
    drop(lock);
    assert!(wait_until("it goes on", SOON, || child.try_wait().unwrap()).success());
    assert_eq!(queued(&world), ["up1"]);
}

/// What `--now` means: prepared at once, switched to when it is ready; and the answer says what is being done.
#[test]
fn an_upgrade_that_is_wanted_now_is_prepared_at_once_and_its_answer_says_so() {
    let world = World::new();
    let output = add_upgrade(&world, "early", &Behaviour::new("1.1.0"), &["--now"]);
    assert_done(&output);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("(early) is queued for ") && said.contains(", now\nno supervisor of this instance"),
        "{said}"
    );
    let _supervised = world.run();
    super::wait_for_standing(&world, "early", "omnivisor upgrade early"); // due before the take-over
    super::empty_the_queue(&world);
    let output = add_upgrade(&world, "next", &Behaviour { padding: 40_000_000, ..Behaviour::new("2.0.0") }, &["--now"]);
    assert_done(&output);
    let said = String::from_utf8(output.stdout).unwrap();
    let became = said.lines().nth(1).unwrap_or_default();
    assert!(["it is being", "it is ready", "it runs"].iter().any(|it| became.starts_with(it)), "{said}");
    world.wait_for_commit("2.0.0");
    // What is held is said, and not done.
    assert_done(&world.omnivisor(&["hold"]));
    let output = add_upgrade(&world, "held", &Behaviour::new("3.0.0"), &["--now", "-o", "json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let became = said["became"].as_str().unwrap();
    assert!(became.contains("on hold") && became.contains("omnivisor resume"), "{said}");
    world.wait_for_status("it waits", |status| status["upgrade"]["phase"] == "staged");
    assert_eq!(world.log().last_start().unwrap().version, "2.0.0");
}
