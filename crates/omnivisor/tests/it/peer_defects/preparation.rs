//! Everything that can fail does so while the old node runs.

use std::fs;
use std::time::{Duration, SystemTime};

use omnivisor_testkit::installation::platform;
use omnivisor_testkit::{Answer, Behaviour, Options, upgrade_info, wait_until};
use serde_json::{Value, json};

use super::{
    add_upgrade, assert_done, assert_still, publish_changed, running_pid, wait_for_request, wait_for_standing,
};
use crate::world::{ANNOUNCEMENT, SOON, World, options, timestamp};

/// N3
#[test]
fn whatever_is_wrong_with_a_release_the_old_node_runs_on() {
    let world = World::new();
    let _supervised = world.run();
    let pid = running_pid(&world.log());
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str); 7] = [
        (
            "no build for this machine",
            |info| info["platforms"] = json!({"plan9-sparc": info["platforms"][platform()]}),
            "no build for",
        ),
        ("no build at all", |info| info["platforms"] = json!({}), "no build for"),
        ("no checksum, though demanded", |info| info["platforms"][platform()]["checksum"] = "".into(), "no checksum"),
        ("another checksum", |info| info["platforms"][platform()]["checksum"] = "00".repeat(32).into(), "digest"),
        (
            "nothing there",
            |info| {
                let url = info["platforms"][platform()]["url"].as_str().unwrap().to_owned() + "-not";
                info["platforms"][platform()]["url"] = url.into();
            },
            "404",
        ),
        ("another build", |info| info["binaryDetails"]["commit_sha"] = "other".into(), "commit_sha"),
        ("another version", |info| info["version"] = "2.9.9".into(), "2.9.9"),
    ];
    for (number, (what, change, said)) in cases.into_iter().enumerate() {
        eprintln!("{what}");
        let name = format!("up{number}");
        publish_changed(&world, &name, &format!("2.0.{number}"), change);
        wait_for_standing(&world, &name, said);
        assert_still(&world, pid);
    }
    assert_eq!(world.log().starts().len(), 1);
    world.publish("good", &Behaviour::new("2.1.0"));
    world.wait_for_commit("2.1.0");
    world.wait_for("2.1.0");
    assert!(world.log().starts().iter().all(|start| !start.version.starts_with("2.0.")));
}

/// N3
#[test]
fn with_downloads_disabled_the_old_node_runs_until_the_executable_is_placed() {
    let world = World::with(Behaviour::new("1.0.0"), Options { allow_download: false, ..options() });
    let _supervised = world.run();
    let pid = running_pid(&world.log());
    let behaviour = Behaviour::new("2.0.0");
    let entry = world.publish("up1", &behaviour);
    wait_for_standing(&world, "up1", "downloads are disabled");
    assert_still(&world, pid);
    world.installation.place_upgrade(&entry, Some(&world.minted(&behaviour)));
    world.wait_for_commit("2.0.0");
    assert_eq!(world.upstream.requests("/download/up1"), 0);
}

/// N25
#[test]
fn an_upgrade_that_is_due_at_the_start_shoots_no_node_that_has_just_begun() {
    let world = World::new();
    let mut supervised = world.run();
    // One falls due while nothing runs; the other is brought forward meanwhile.
    for (version, brought_forward) in [("2.0.0", false), ("3.0.0", true)] {
        let time = if brought_forward { super::WEEK } else { Duration::from_secs(3) };
        let due = SystemTime::now() + time;
        world.installation.queue(super::placed(&world, version, version, &timestamp(time)));
        world.wait_for_status("ready", |status| status["upgrade"]["phase"] == "staged");
        supervised.signal(15);
        supervised.wait(SOON);
        if brought_forward {
            super::empty_the_queue(&world);
            let details = Some(Behaviour::new(version).details());
            world.installation.queue(upgrade_info(version, version, &timestamp(Duration::ZERO), None, details));
        } else {
            super::wait_for_time(due);
        }
        let before = world.log().starts().len();
        supervised = world.start();
        world.wait_for_commit(version);
        let starts: Vec<String> = world.log().starts()[before..].iter().map(|start| start.version.clone()).collect();
        assert_eq!(starts, [version], "all that it needs is there: the old node need not begin");
    }
}

/// N25
#[test]
fn an_upgrade_that_cannot_be_done_at_the_start_keeps_the_old_node_from_nothing() {
    let world = World::new();
    let mut supervised = world.run();
    let time = Duration::from_secs(3);
    let due = SystemTime::now() + time;
    world.installation.queue(super::placed(&world, "up1", "2.0.0", &timestamp(time)));
    world.wait_for_status("ready", |status| status["upgrade"]["phase"] == "staged");
    supervised.signal(15);
    supervised.wait(SOON);
    super::wait_for_time(due);
    fs::write(world.installation.binary("up1"), "not what was proven").unwrap();
    let _supervised = world.run();
    wait_for_standing(&world, "up1", "tried again");
    world.wait_for("1.0.0");
    assert_eq!(world.log().starts().len(), 2);
}

/// N26
#[test]
fn an_error_page_is_not_installed_and_the_right_file_is_once_it_is_there() {
    let world = World::with(Behaviour::new("1.0.0"), Options { enforce_checksum: false, ..options() });
    let _supervised = world.run();
    let pid = running_pid(&world.log());
    let page = b"<!doctype html><title>Not here</title>".to_vec();
    let bodies = [
        Answer::Status(404, page.clone()),
        Answer::Status(500, page.clone()),
        Answer::Body { content_type: "text/html".to_owned(), bytes: page },
    ];
    for (number, body) in bodies.into_iter().enumerate() {
        let (name, version) = (format!("up{number}"), format!("2.0.{number}"));
        let path = format!("/page/{number}");
        world.upstream.serve(&path, body);
        let url = world.upstream.url(&path);
        let mut info = upgrade_info(&name, &version, &timestamp(Duration::ZERO), Some((&url, "")), None);
        info["platforms"][platform()]["checksum"] = "".into();
        world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
        wait_for_standing(&world, &name, "tried again");
        assert!(!world.installation.binary(&name).exists(), "{name} is not there");
        assert_still(&world, pid);
        if number == 2 {
            // Nobody announces anything new: the file behind the address is mended.
            world.upstream.serve(&path, Answer::File(world.minted(&Behaviour::new(&version))));
            world.wait_for_commit(&version);
        }
    }
}

/// N27
#[test]
fn a_manual_upgrade_is_prepared_and_waits_for_its_command() {
    let world = World::new();
    let mut supervised = world.run();
    let pid = running_pid(&world.log());
    publish_changed(&world, "up1", "2.0.0", |info| info["manual"] = true.into());
    wait_for_standing(&world, "up1", "omnivisor upgrade up1");
    wait_until("it is prepared", SOON, || world.installation.binary("up1").exists().then_some(()));
    super::wait_for_polls(&world);
    assert_still(&world, pid);
    // A restart is no command either.
    supervised.signal(15);
    supervised.wait(SOON);
    let mut supervised = world.run();
    wait_for_standing(&world, "up1", "omnivisor upgrade up1");
    world.wait_for_files("1.0.0");
    assert_eq!(world.log().last_start().unwrap().version, "1.0.0");
    assert_done(&world.omnivisor(&["upgrade", "up1"]));
    // The run ends with the switch, as with Nymvisor; the next one starts the new release and judges it.
    assert_eq!(supervised.wait(SOON).code(), Some(0), "{}", supervised.stderr());
    assert_eq!(world.log().last_start().unwrap().version, "1.0.0");
    assert_eq!(world.installation.assert_nymvisor_would_start(), "2.0.0");
    let _supervised = world.run();
    world.wait_for("2.0.0");
    world.wait_for_commit("2.0.0");
}

/// N13
#[test]
fn an_added_upgrade_is_known_only_when_its_executable_is_there_whole() {
    let world = World::new();
    let supervised = world.run();
    let big = Behaviour { padding: 60_000_000, ..Behaviour::new("2.0.0") };
    let executable = world.minted(&big);
    let size = fs::metadata(&executable).unwrap().len();
    let mut command = world.nymvisor(&["add-upgrade", executable.to_str().unwrap(), "--upgrade-name", "up1", "--now"]);
    let mut child = command.spawn().unwrap();
    wait_until("add-upgrade", SOON, || {
        let known = world.installation.upgrade_dir("up1").join("upgrade-info.json").exists()
            || fs::read_to_string(world.installation.plan()).unwrap().contains("up1");
        if known || world.installation.binary("up1").exists() {
            assert_eq!(fs::metadata(world.installation.binary("up1")).unwrap().len(), size);
        }
        child.try_wait().unwrap()
    });
    world.wait_for_commit("2.0.0");
    assert!(!supervised.stderr().contains("failed"), "at the first try");
    assert_eq!(world.log().starts().len(), 2);
    world.log().assert_never_double();
}

/// N19
#[test]
fn what_is_queued_during_a_download_is_not_lost() {
    let world = World::new();
    let _supervised = world.run();
    let info = publish_changed(&world, "up1", "2.0.0", |_| ());
    let executable = fs::read(world.minted(&Behaviour::new("2.0.0"))).unwrap();
    let per_second = executable.len() as u64;
    world.upstream.serve("/download/up1", Answer::Slow { bytes: executable, per_second });
    world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
    wait_for_request(&world, "/download/up1");
    assert_done(&add_upgrade(&world, "later", &Behaviour::new("3.0.0"), &["--upgrade-delay", "7days"]));
    let status = world.status().unwrap();
    assert_ne!(status["active"]["version"], "2.0.0", "it was queued meanwhile");
    world.wait_for_commit("2.0.0");
    assert_eq!(super::queued(&world), ["later"]);
    wait_for_standing(&world, "later", "switched");
}

/// N32
#[test]
fn the_executable_of_an_announced_upgrade_can_be_brought_by_hand() {
    let world = World::with(Behaviour::new("1.0.0"), Options { allow_download: false, ..options() });
    let _supervised = world.run();
    let behaviour = Behaviour::new("2.0.0");
    world.publish_for("up1", &behaviour, &timestamp(super::WEEK));
    wait_for_standing(&world, "up1", "downloads are disabled");
    let early = add_upgrade(&world, "up2", &behaviour, &["--add-binary"]);
    assert_ne!(early.status.code(), Some(0), "nobody has announced up2");
    let other = add_upgrade(&world, "up1", &Behaviour::new("2.0.1"), &["--add-binary"]);
    assert_ne!(other.status.code(), Some(0), "that is another version");
    assert_done(&add_upgrade(&world, "up1", &behaviour, &["--add-binary"]));
    world.wait_for_status("ready", |status| status["upgrade"]["phase"] == "staged");
    world.publish("up1", &behaviour);
    world.wait_for_commit("2.0.0");
    assert_eq!(world.upstream.requests("/download/up1"), 0);
}

/// What a person has to place is looked for and not tried: nothing is written down for that, nothing else is dropped for it,
/// and once it is there nobody waits.
#[test]
fn an_executable_that_is_to_be_placed_is_waited_for_without_a_record() {
    let world = World::new();
    let mut command = world.run_command();
    command.env("OMNIVISOR_RETRY_DELAY", "1h").env("OMNIVISOR_RETRY_MOST", "1h");
    let _supervised = world.sandbox.spawn(command);
    world.wait_for("1.0.0");
    let later = super::placed(&world, "later", "3.0.0", &timestamp(super::WEEK));
    world.installation.queue(later);
    world.wait_for_status("that is ready", |status| status["upgrade"]["phase"] == "staged");
    let behaviour = Behaviour::new("2.0.0");
    let due = upgrade_info("due", "2.0.0", &timestamp(Duration::ZERO), None, Some(behaviour.details()));
    world.installation.place_upgrade(&due, None);
    world.installation.queue(due);
    let said = wait_for_standing(&world, "due", "waits for its executable");
    assert!(said.contains(world.installation.binary("due").to_str().unwrap()), "{said}");

    let journal = world.installation.instance_dir().join("data/omnivisor/journal");
    let before = fs::read(&journal).unwrap();
    for _ in 0..2 {
        super::wait_for_polls(&world);
    }
    assert!(fs::read(&journal).unwrap() == before, "something was written down");
    assert_eq!(world.status().unwrap()["upgrade"]["phase"], "staged", "the other one stays ready");

    let executable = world.minted(&behaviour);
    world.installation.place_upgrade(&super::queued_entry(&world, "due"), Some(&executable));
    world.wait_for_commit("2.0.0");
    world.log().assert_never_double();
}
