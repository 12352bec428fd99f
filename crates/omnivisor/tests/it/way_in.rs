//! The first day: what taking over would do, the take-over itself, and the end of what a killed supervisor has left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use omnivisor_testkit::{Behaviour, Options, upgrade_info, wait_until};
use serde_json::Value;

use crate::world::{SOON, World, options, timestamp};

/// Everything below a folder: what it is, whose, when it was changed, and what is in it.
fn everything(folder: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let (path, of) = (entry.path(), entry.metadata().unwrap());
            let contents = match of.file_type() {
                kind if kind.is_dir() => {
                    folders.push(path.clone());
                    Vec::new()
                }
                kind if kind.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
                _ => fs::read(&path).unwrap(),
            };
            found.insert(path, (of.mode(), of.ctime(), of.ctime_nsec(), contents));
        }
    }
    found
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word} is not said in:\n{said}");
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

#[test]
fn a_dry_run_says_what_a_take_over_would_do_and_changes_nothing() {
    let world = World::with(Behaviour::new("1.0.0"), Options { restart_on_failure: false, ..options() });
    let due = upgrade_info("due", "2.0.0", "2024-01-01T00:00:00Z", None, Some(Behaviour::new("2.0.0").details()));
    world.installation.place_upgrade(&due, Some(&world.minted(&Behaviour::new("2.0.0"))));
    world.installation.queue(due);
    let later = timestamp(Duration::from_secs(3600));
    world.installation.queue(upgrade_info("later", "3.0.0", &later, None, None));
    world.installation.queue(upgrade_info("../evil", "4.0.0", &later, None, None));
    fs::write(world.installation.history(), "{\"history\": [").unwrap();
    let before = everything(world.sandbox.path());

    let output = world.omnivisor(&["adopt", "--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let said = text(&output);
    assert_says(
        &said,
        &[
            "instance    nym-node-default (",
            "release     1.0.0 (genesis), in ",
            "node        does not run",
            "announced   2.0.0 (due): was already due when this installation was taken over: is prepared, and waits for",
            &format!("announced   3.0.0 (later): will be switched to at {later}"),
            "announced   (../evil): cannot be followed: ",
            "set aside   ",
            "upgrade-history.json: cannot be read",
            "write       ",
            "current-version-info.json",
            "make        ",
            "note        restart_on_failure is false",
            "Nothing was changed.",
        ],
    );
    assert_eq!(everything(world.sandbox.path()), before, "nothing was changed");

    let output = world.omnivisor(&["adopt", "--dry-run", "--json"]);
    let survey: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&survey["ready"], &survey["takenOver"]), (&true.into(), &false.into()));
    assert_eq!(survey["release"]["version"], "1.0.0");

    // What it said is what happens.
    let output = world.omnivisor(&["adopt"]);
    assert_says(&text(&output), &["This was done"]);
    assert!(world.log().starts().is_empty(), "nothing was started");
    assert_eq!(world.installation.assert_nymvisor_would_start(), "1.0.0");
    let again = world.omnivisor(&["adopt"]);
    assert_says(&text(&again), &["It was taken over before; nothing was changed.", "(due): was already due"]);
    let _supervised = world.run();
    let status = world.wait_for_status("all are known", |status| status["announced"].as_array().unwrap().len() == 3);
    assert!(status["announced"][0]["standing"].as_str().unwrap().contains("omnivisor upgrade due"), "{status}");
}

#[test]
fn a_dry_run_says_what_stands_in_the_way() {
    let world = World::new();
    let mut peer = world.run_by_nymvisor("\"$0\" run & wait");
    let pid = world.wait_for("1.0.0");
    let before = everything(&world.sandbox.nym_home());
    for (arguments, code) in [(&["adopt", "--dry-run"][..], 0), (&["adopt"], 1)] {
        let output = world.omnivisor(arguments);
        assert_eq!(output.status.code(), Some(code));
        let words = format!("FIRST       stop nymvisor (process {}), which runs the node (process {pid})", peer.pid());
        assert_says(&text(&output), &[&words, "Nothing was changed."]);
    }
    // A node that its supervisor has left behind is none: it is taken over as it is.
    peer.kill9();
    let said = text(&world.omnivisor(&["adopt", "--dry-run"]));
    assert_says(&said, &[&format!("node        runs (process {pid}); `nymvisor run …` takes it over, undisturbed")]);
    assert_eq!(everything(&world.sandbox.nym_home()), before);

    let supervised = world.start();
    world.wait_for_status("it is taken over", |status| status["node"]["pid"] == pid);
    let output = world.omnivisor(&["adopt", "--dry-run"]);
    let words = format!("supervised already, by process {}", supervised.pid());
    assert_says(&text(&output), &[&words, "It was taken over before"]);
}

/// Where there is nothing that could be run, that is said; so it is of several instances, and of none.
#[test]
fn a_dry_run_finds_its_instance_or_says_which_there_are() {
    let world = World::new();
    fs::remove_file(world.installation.binary("genesis")).unwrap();
    let output = world.omnivisor(&["adopt", "--dry-run"]);
    assert_eq!(output.status.code(), Some(1));
    assert_says(&text(&output), &["release     none that could be run", "IN THE WAY  there is no release to run"]);

    let output = world.omnivisor(&["adopt", "--dry-run", "--id", "nobody"]);
    assert_says(&text(&output), &["cannot read the configuration", "nobody"]);
    let instances = world.installation.instance_dir().parent().unwrap();
    fs::create_dir_all(instances.join("second/config")).unwrap();
    let config = fs::read_to_string(world.installation.config()).unwrap().replace("nym-node-default", "second");
    fs::write(instances.join("second/config/config.toml"), config).unwrap();
    assert_says(
        &text(&world.omnivisor(&["adopt", "--dry-run"])),
        &["more than one instance", "nym-node-default, second"],
    );
    assert_says(&text(&world.omnivisor(&["adopt", "--dry-run", "--id", "second"])), &["instance    second ("]);
}

#[test]
fn a_stop_ends_the_node_that_a_killed_supervisor_has_left() {
    for (behaviour, how) in [
        (Behaviour::new("1.0.0"), "ended when asked"),
        (Behaviour { ignore_stop: true, ..Behaviour::new("1.0.0") }, "had to be killed"),
    ] {
        let world = World::with(behaviour, Options { shutdown_grace_period: "1s".to_owned(), ..options() });
        let mut supervised = world.run();
        let pid = world.wait_for("1.0.0");
        supervised.kill9();
        assert_eq!(world.log().running().len(), 1, "it lives on");
        let output = world.omnivisor(&["status"]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert_says(
            &text(&output),
            &[&format!("(process {pid}) runs on without a supervisor"), "`omnivisor stop` ends it"],
        );
        let output = world.omnivisor(&["stop"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert_says(&text(&output), &["has no supervisor", &format!("its node (process {pid})"), how]);
        assert!(world.log().running().is_empty(), "it is gone when the command returns");
        let output = world.omnivisor(&["stop"]);
        assert_eq!(output.status.code(), Some(1));
        assert_says(&text(&output), &["no node of nym-node-default runs, and no supervisor"]);
        // It is no command to stay down.
        let _supervised = world.run();
        world.log().assert_never_double();
    }
}

/// And what has outlived the node, in its group.
#[test]
fn a_stop_ends_what_is_left_of_a_node() {
    let grandchild = omnivisor_testkit::Grandchild::default();
    let world = World::with(Behaviour { grandchild: Some(grandchild), ..Behaviour::new("1.0.0") }, options());
    let mut supervised = world.run();
    let pid = world.wait_for("1.0.0");
    wait_until("its child runs", SOON, || (world.log().grandchildren().len() == 1).then_some(()));
    supervised.kill9();
    signal(pid, rustix::process::Signal::KILL);
    wait_until("the node is gone", SOON, || world.log().running().is_empty().then_some(()));
    let output = world.omnivisor(&["stop", "--id", "nym-node-default"]);
    assert_says(&text(&output), &["a process of an earlier node was left"]);
    assert!(world.log().grandchildren().is_empty());
}

/// Nymvisor leaves its node behind whenever it is killed; and where it still runs, it is left to it.
#[test]
fn a_stop_ends_the_node_that_a_killed_nymvisor_has_left_and_no_other() {
    let world = World::new();
    let mut peer = world.run_by_nymvisor("\"$0\" run & wait");
    let pid = world.wait_for("1.0.0");
    let output = world.omnivisor(&["stop"]);
    assert_eq!(output.status.code(), Some(1));
    assert_says(&text(&output), &[&format!("is run by nymvisor (process {})", peer.pid())]);
    assert_eq!(world.log().signals_of(pid), [0_i32; 0]);
    peer.kill9();
    let before = everything(&world.sandbox.nym_home());
    let output = world.omnivisor(&["stop"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(world.log().running().is_empty());
    assert_eq!(everything(&world.sandbox.nym_home()), before, "nothing else was taken over");
}

/// One that cannot be reached is no orphan's.
#[test]
fn a_stop_leaves_the_node_of_a_supervisor_that_it_cannot_reach() {
    let world = World::new();
    let supervised = world.run();
    let pid = world.wait_for("1.0.0");
    let elsewhere = world.sandbox.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for (verb, says) in [("status", "is supervised by process"), ("stop", "supervised already, by process")] {
        let mut command = world.sandbox.omnivisor(crate::world::omnivisor_exe(), "omnivisor");
        let output = command.arg(verb).env("OMNIVISOR_RUNTIME_DIR", &elsewhere).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_says(&text(&output), &[&format!("{says} {}", supervised.pid())]);
    }
    assert_eq!(world.log().signals_of(pid), [0_i32; 0]);
}

/// A link in the wrong place, or none, is what a dry run shows that it would write.
#[test]
fn a_dry_run_shows_the_link_that_would_be_written() {
    let world = World::new();
    let link = world.installation.current();
    fs::remove_file(&link).unwrap();
    symlink("/nowhere", &link).unwrap();
    let said = text(&world.omnivisor(&["adopt", "--dry-run"]));
    assert_says(&said, &[&format!("write       {}", link.display()), "release     1.0.0 (genesis)"]);
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("/nowhere"));
}

/// Nymvisor, killed and started again, runs a node beside the one that it has left (N8): it is at work, and nothing is touched.
#[test]
fn a_peer_at_work_is_seen_beside_the_node_that_it_has_left() {
    let world = World::new();
    let mut first = world.run_by_nymvisor("\"$0\" run & wait");
    let orphan = world.wait_for("1.0.0");
    first.kill9();
    let peer = world.run_by_nymvisor("\"$0\" run & wait");
    let pids = wait_until("both run", SOON, || {
        let running: Vec<u32> = world.log().running().iter().map(|node| node.pid).collect();
        (running.len() == 2).then_some(running)
    });
    let who = format!("process {}", peer.pid());
    assert_says(&text(&world.omnivisor(&["adopt", "--dry-run"])), &["FIRST       stop nymvisor", &who]);
    for (arguments, code) in [(&["adopt"][..], 1), (&["stop"], 1)] {
        let output = world.omnivisor(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
        assert_says(&text(&output), &[&who]);
    }
    let mut supervised = world.start();
    assert_eq!(supervised.wait(SOON).code(), Some(12), "{}", supervised.stderr());
    assert!(supervised.stderr().contains(&who), "{}", supervised.stderr());
    for pid in pids {
        assert_eq!(world.log().signals_of(pid), [0_i32; 0], "{pid}");
    }
    assert!(world.log().running().iter().any(|node| node.pid == orphan));
}

/// What has left the node's group, and ignores what it is asked, is gone, too, when the command returns.
#[test]
fn a_stop_returns_when_the_last_process_is_gone() {
    let grandchild = omnivisor_testkit::Grandchild { ignore_term: true, own_session: true, ..Default::default() };
    let node = Behaviour { grandchild: Some(grandchild), ignore_stop: true, ..Behaviour::new("1.0.0") };
    let world = World::with(node, Options { shutdown_grace_period: "500ms".to_owned(), ..options() });
    let mut supervised = world.run();
    wait_until("its child runs", SOON, || (world.log().grandchildren().len() == 1).then_some(()));
    supervised.kill9();
    let output = world.omnivisor(&["stop"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_says(&text(&output), &["had to be killed"]);
    assert!(world.log().running().is_empty() && world.log().grandchildren().is_empty());
}

/// The variables that an instance is run with may be all that says where it is.
#[test]
fn a_stop_finds_the_instance_of_an_env_file() {
    let world = World::new();
    let elsewhere = world.sandbox.path().join("elsewhere.toml");
    fs::rename(world.installation.config(), &elsewhere).unwrap();
    let file = world.sandbox.path().join("env");
    fs::write(&file, format!("NYMVISOR_CONFIG_PATH={}\n", elsewhere.display())).unwrap();
    let file = file.to_str().unwrap();
    let mut command = world.nymvisor(&["-c", file, "run", "run"]);
    command.env("NYMVISOR_ID", "nym-node-default");
    let mut supervised = world.sandbox.spawn(command);
    let pid = world.wait_for("1.0.0");
    supervised.kill9();
    assert_eq!(world.omnivisor(&["stop"]).status.code(), Some(1));
    let output = world.omnivisor(&["stop", "-c", file]);
    assert_says(&text(&output), &[&format!("its node (process {pid})")]);
    assert!(world.log().running().is_empty());
}

/// What would be done is what is done: where the journal cannot be believed, and where Nymvisor has gone on meanwhile.
#[test]
fn a_dry_run_knows_what_a_journal_says_and_does_not_say() {
    let world = World::new();
    let mut supervised = world.run();
    world.wait_for_files("1.0.0");
    supervised.signal(15);
    supervised.wait(SOON);
    // Nymvisor does an upgrade.
    let entry = upgrade_info("up1", "2.0.0", "2024-01-01T00:00:00Z", None, Some(Behaviour::new("2.0.0").details()));
    world.installation.place_upgrade(&entry, Some(&world.minted(&Behaviour::new("2.0.0"))));
    let details = Behaviour::new("2.0.0").details();
    let version = serde_json::json!({
        "name": "up1", "version": "2.0.0", "upgradeTime": entry["upgradeTime"], "binaryDetails": details,
    });
    fs::write(world.installation.current_version(), version.to_string()).unwrap();
    fs::write(world.installation.plan(), serde_json::json!({"current": entry, "queuedUp": []}).to_string()).unwrap();
    let performed = serde_json::json!({"history": [{"performedAt": timestamp(Duration::ZERO), "info": entry}]});
    fs::write(world.installation.history(), performed.to_string()).unwrap();
    fs::remove_file(world.installation.current()).unwrap();
    symlink(world.installation.upgrade_dir("up1"), world.installation.current()).unwrap();
    let output = world.omnivisor(&["adopt", "--dry-run", "--json"]);
    let survey: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(survey["release"]["version"], "2.0.0", "{survey:#}");
    let written = survey["written"].as_array().unwrap();
    assert!(!written.iter().any(|path| path.as_str().unwrap().ends_with("/current")), "{survey:#}");

    let journal = world.installation.instance_dir().join("data/omnivisor/journal");
    let mut bytes = fs::read(&journal).unwrap();
    bytes[40] ^= 0x55;
    fs::write(&journal, &bytes).unwrap();
    let output = world.omnivisor(&["adopt", "--dry-run"]);
    assert_eq!(output.status.code(), Some(1));
    assert_says(&text(&output), &["IN THE WAY  the journal ", "To begin anew", "release     2.0.0 (up1)"]);
}
