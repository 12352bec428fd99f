//! Announcements that cannot be followed, and some that only have to wait.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use omnivisor_testkit::{Answer, Behaviour, wait_until};
use serde_json::{Value, json};

use super::{Calm, NEVER, announced, impatient, paths_below, queue_only};
use crate::world::{ANNOUNCEMENT, SOON, World, timestamp};

fn platform() -> String {
    format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH)
}

#[test]
fn an_announcement_that_cannot_be_followed_is_explained() {
    let mut calm = Calm::new();
    let executable = calm.world.minted(&Behaviour::new("2.0.0"));
    let here = platform();
    let good = |world: &World, name: &str| announced(world, name, "2.0.0", &timestamp(Duration::ZERO), &executable);
    let with = |key: &'static str, value: Value| {
        move |info: &mut Value| {
            info["platforms"].as_object_mut().unwrap().values_mut().for_each(|it| it[key] = value.clone())
        }
    };
    type Spoil = Box<dyn Fn(&mut Value)>;
    let cases: Vec<(&str, Spoil, [&str; 2])> = vec![
        (
            "unknown-platform",
            Box::new(|info| {
                let build = info["platforms"][platform()].clone();
                info["platforms"] = json!({"amiga-m68k": build, "beos-ppc": build});
            }),
            [&here, "amiga-m68k, beos-ppc"],
        ),
        ("odd-build", Box::new(|info| info["platforms"][platform()] = json!(7)), [&here, "expected an object"]),
        ("no-checksum", Box::new(with("checksum", "".into())), ["no checksum", "DAEMON_ENFORCE_DOWNLOAD_CHECKSUM"]),
        ("checksum", Box::new(with("checksum", "zz".into())), ["\"zz\" is not a sha256", "64 hexadecimal digits"]),
        ("md5", Box::new(with("checksumAlgorithm", "md5".into())), ["unknown checksum algorithm", "md5"]),
        ("no-url", Box::new(with("url", "somewhere".into())), ["somewhere", "not an address"]),
        ("ftp", Box::new(with("url", "ftp://127.0.0.1/x".into())), ["ftp", "only http and https"]),
    ];
    for (name, spoil, words) in cases {
        calm.check(name, &words, |world| {
            let mut info = good(world, name);
            spoil(&mut info);
            queue_only(world, &[info]);
        });
        assert_eq!(calm.world.upstream.requests(&format!("/download/{name}")), 0, "{name}");
    }
    queue_only(&calm.world, &[]);
    let cases: Vec<(&str, Spoil, [&str; 2])> = vec![
        ("no-platform", Box::new(|info| info["platforms"] = json!({})), [&here, "none"]),
        ("older", Box::new(|info| info["version"] = "0.9.0".into()), ["0.9.0", "not newer than 1.0.0"]),
        ("word", Box::new(|info| info["version"] = "ragusa".into()), ["ragusa", "not newer than 1.0.0"]),
        ("no-version", Box::new(|info| info["version"] = "".into()), ["no-version", "its version is empty"]),
        ("someday", Box::new(|info| info["upgradeTime"] = "someday".into()), ["upgrade-info.json", "RFC 3339"]),
    ];
    for (name, spoil, words) in cases {
        calm.check(name, &words, |world| {
            let mut info = good(world, name);
            spoil(&mut info);
            world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
        });
        assert_eq!(calm.world.upstream.requests(&format!("/download/{name}")), 0, "{name}");
    }
    calm.follows_a_good_one("2.0.0");
}

#[test]
fn an_equal_version_is_no_news() {
    let mut calm = Calm::new();
    calm.world.publish("again", &Behaviour { commit: "other".to_owned(), ..Behaviour::new("1.0.0") });
    calm.next_poll();
    assert_eq!(calm.world.upstream.requests("/download/again"), 0);
    assert_eq!(calm.world.plan()["queuedUp"].as_array().unwrap().len(), 0);
    calm.undisturbed("an equal version");
}

#[test]
fn a_name_never_leads_out_of_its_folder() {
    let mut calm = Calm::new();
    let executable = calm.world.minted(&Behaviour::new("2.0.0"));
    let root = calm.world.sandbox.path().to_owned();
    calm.next_poll();
    let before = paths_below(&root);
    let long = "x".repeat(5000);
    let absolute = root.join("absolute").display().to_string();
    let names = [
        ("a/b", "path separator"),
        ("../../../../evil", "starts with a dot"),
        ("..", "starts with a dot"),
        (".hidden", "starts with a dot"),
        (&absolute, "path separator"),
        ("a\\b", "path separator"),
        ("nul\0byte", "control character"),
        ("line\nbreak", "control character"),
        ("genesis", "first release"),
        ("current", "active release"),
        ("", "empty"),
        (" ", "blank"),
        (&long, "longer than 128 bytes"),
    ];
    let named = |world: &World, name: &str| {
        let mut info = announced(world, "fine", "2.0.0", &timestamp(Duration::ZERO), &executable);
        info["name"] = name.into();
        info
    };
    let shown = |name: &str| format!("{:?}", name.chars().take(40).collect::<String>()).trim_matches('"').to_owned();
    for (name, why) in
        names.into_iter().filter(|(name, _)| ["../../../../evil", &absolute, "nul\0byte", &long].contains(name))
    {
        calm.check(name, &["upstream announces", "cannot be followed", &shown(name), why], |world| {
            world.upstream.serve(ANNOUNCEMENT, Answer::Json(named(world, name)));
        });
    }
    calm.world.upstream.withdraw(ANNOUNCEMENT);
    for (name, why) in names {
        calm.check(name, &["an entry of the upgrade plan cannot be followed", &shown(name), why], |world| {
            queue_only(world, &[named(world, name)]);
        });
    }
    queue_only(&calm.world, &[]);
    calm.next_poll();
    let made: BTreeSet<PathBuf> = paths_below(&root).difference(&before).cloned().collect();
    assert!(made.is_empty(), "{made:?}");
    assert_eq!(calm.world.upstream.requests("/download/fine"), 0);
    let longest = calm.supervised.stderr().lines().map(str::len).max().unwrap();
    assert!(longest < 1000, "a log is for people, and a line of it has {longest} bytes");
    calm.follows_a_good_one("2.0.0");
}

#[test]
fn what_is_announced_for_the_end_of_time_waits() {
    let mut calm = Calm::new();
    calm.world.publish_for("2024.2", &Behaviour::new("2.0.0"), NEVER);
    calm.wait_until_staged("2.0.0");
    let status = calm.world.status().unwrap();
    assert_eq!(status["announced"][0]["due"], NEVER);
    let standing = status["announced"][0]["standing"].as_str().unwrap();
    assert!(standing.contains("will be switched to at 9999-12-31"), "{standing}");
    calm.next_poll();
    calm.undisturbed("a far time");
    calm.follows_a_good_one("3.0.0");
}

/// The day on which an installation is taken over surprises nobody.
#[test]
fn what_was_due_before_the_take_over_waits_for_a_person() {
    let world = World::with(Behaviour::new("1.0.0"), impatient());
    let mut info = world.publish_for("2024.2", &Behaviour::new("2.0.0"), "2024-01-01T00:00:00Z");
    info["publishDate"] = "2023-12-01T00:00:00Z".into();
    world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
    let mut calm = Calm::begin(world);
    calm.wait_until_staged("2.0.0");
    let status = calm.world.status().unwrap();
    let standing = status["announced"][0]["standing"].as_str().unwrap();
    assert!(standing.contains("waits for `omnivisor upgrade 2024.2`"), "{standing}");
    calm.wait_for_line("what to do", 0, &["waits for `omnivisor upgrade 2024.2`"]);
    calm.next_poll();
    calm.undisturbed("nobody has said anything");

    let refused = calm.world.omnivisor(&["upgrade", "2024.9"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no upgrade \"2024.9\" is announced"), "{refused:?}");
    calm.undisturbed("another name");
    let output = calm.world.omnivisor(&["upgrade", "2024.2"]);
    assert!(output.status.success(), "{output:?}");
    calm.world.wait_for_commit("2.0.0");
    calm.world.wait_for("2.0.0");
}

/// A download that is not what was announced is not fetched for ever, and a corrected announcement is followed at once.
#[test]
fn a_wrong_digest_is_downloaded_three_times_at_most() {
    let mut calm = Calm::new();
    calm.check("a wrong digest", &["/download/2024.2", "has the digest", "was announced"], |world| {
        let mut info = world.publish("2024.2", &Behaviour::new("2.0.0"));
        info["platforms"][platform()]["checksum"] = "0".repeat(64).into();
        world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
    });
    calm.wait_for_line("the end of it", 0, &["given up until it is announced differently", "has the digest"]);
    calm.undisturbed("a wrong digest");
    assert_eq!(calm.world.upstream.requests("/download/2024.2"), 3);
    let upgrades = calm.world.installation.upgrade_dir("2024.2");
    assert!(!upgrades.join("bin").exists(), "nothing of it is left");
    calm.world.publish("2024.2", &Behaviour::new("2.0.0"));
    wait_until("the right one is fetched", SOON, || {
        (calm.world.upstream.requests("/download/2024.2") == 4).then_some(())
    });
    calm.world.wait_for_commit("2.0.0");
    calm.world.wait_for("2.0.0");
}

/// Whatever of an announcement was corrected: it is another one.
#[test]
fn an_announcement_that_was_given_up_is_tried_again_when_it_is_corrected() {
    let mut calm = Calm::new();
    let behaviour = Behaviour::new("2.0.0");
    calm.check("wrong details", &["commit_sha = abc", "but def was announced"], |world| {
        let mut info = world.publish("2024.2", &behaviour);
        info["binaryDetails"]["commit_sha"] = "def".into();
        world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
    });
    calm.wait_for_line("the end of it", 0, &["given up until it is announced differently", "def was announced"]);
    calm.undisturbed("wrong details");
    calm.world.publish("2024.2", &behaviour);
    calm.world.wait_for_commit("2.0.0");
    calm.world.wait_for("2.0.0");
}
