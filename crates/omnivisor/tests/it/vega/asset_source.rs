//! Where an asset is got from, what is shown to whom, and that its folder appears whole or not at all.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use omnivisor_testkit::{Answer, FakeGitHub, VegaBehaviour, executable, sha256_hex, wait_until};

use super::archive::{Entry, archive};
use super::calm::Calm;
use super::world::{ASSET, NEW, OLD, World, installing, said};
use crate::world::SOON;

const SECRET: &str = "ghp_0123456789abcdef";

// V26
#[test]
fn without_the_api_an_asset_is_downloaded_from_where_it_always_is() {
    let an_hour = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600;
    let page = Answer::Body { content_type: "text/html".to_owned(), bytes: b"<html>It works</html>".to_vec() };
    let answers = [
        ("broken", Some(Answer::Status(503, b"<html>unicorn</html>".to_vec()))),
        ("no API at all", Some(Answer::Status(404, b"<html>".to_vec()))),
        ("a page for everything", Some(page)),
        ("forbidden", Some(Answer::Status(403, b"not from here".to_vec()))),
        ("no HTTP", Some(Answer::Garbage)),
        ("asked too often", None),
    ];
    let mut calm = Calm::begin(World::with(installing().with_data_node()));
    let github = |calm: &Calm, tag: &str| calm.world.github.web.requests(&calm.world.github.download_path(tag, ASSET));
    for (number, (what, answer)) in answers.into_iter().enumerate() {
        let tag = format!("v0.75.{number}");
        calm.check(what, &["the usual address is taken", &format!("/download/{tag}/")], |world| {
            world.publish(&tag, &VegaBehaviour::new(&tag));
            match answer {
                Some(answer) => world.github.api.serve_instead(Some(answer)),
                None => world.github.limit_rate(an_hour),
            }
            world.accept(&tag);
        });
        calm.wait_until_staged(&tag);
        assert_eq!(github(&calm, &tag), 1, "{what}");
        calm.world.github.mend_api();
    }
    // It wanted to be left alone for an hour, and is.
    let before = calm.world.github.api_requests();
    calm.world.publish(NEW, &VegaBehaviour::new(NEW));
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    assert_eq!(calm.world.github.api_requests(), before);
    calm.switches_to(NEW);
}

/// The same check as always: nobody vouches for the bytes, so what they say of themselves counts all the more.
#[test]
fn what_comes_without_a_digest_has_to_say_the_right_version() {
    let mut calm = Calm::begin(World::with(installing()));
    calm.world.github.break_api();
    calm.check("another version", &["tried again", "is version v0.70.0, but v0.75.0 was announced"], |world| {
        world.publish(NEW, &VegaBehaviour::new("v0.70.0"));
        world.accept(NEW);
    });
    assert!(!calm.world.installation.folder(NEW).exists());
    calm.world.publish(NEW, &VegaBehaviour::new(NEW));
    calm.wait_until_staged(NEW);
    calm.switches_to(NEW);
}

// V26
#[test]
fn a_token_is_shown_to_the_api_and_to_nobody_else() {
    let world = World::with(installing().with_data_node());
    let told = world.sandbox.path().join("told");
    let minted = world.installation.minted(&VegaBehaviour::new(NEW));
    let script = telling(&told, &minted);
    world.github.publish(NEW, &[(ASSET, &archive(&[Entry::file("vega", script.as_bytes())]), true)]);
    world.github.require_token(SECRET);
    let mut command = world.run_command();
    command.env("GITHUB_TOKEN", SECRET).env("RUST_LOG", "trace");
    let supervised = world.sandbox.spawn(command);
    let mut calm = Calm::with(world, supervised);
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    let old = calm.world.log().running();
    let calm = calm.switches_to(NEW);
    let asked = calm.world.github.api.all_requests();
    assert!(asked.iter().all(|it| it.header("authorization") == Some(&format!("Bearer {SECRET}"))), "{asked:#?}");
    assert!(calm.world.github.secrets_given_away().is_empty());

    let told = fs::read_to_string(told).unwrap();
    for ran in ["ran version --output json", "ran start --home", "ran datanode start --home"] {
        assert!(told.contains(ran), "{told}");
    }
    assert!(!told.contains("GITHUB_TOKEN") && !told.contains(SECRET), "{told}");
    assert_eq!(old.len(), 2);
    for node in calm.world.log().running() {
        let environment = fs::read(format!("/proc/{}/environ", node.pid)).unwrap();
        assert!(!String::from_utf8_lossy(&environment).contains(SECRET), "{node:?}");
    }
    let said = said(&calm.supervised);
    assert!(!said.contains(SECRET), "{said}");
    assert!(!calm.world.status().unwrap().to_string().contains(SECRET));
    for (path, bytes) in files_below(calm.world.installation.home()) {
        assert!(!String::from_utf8_lossy(&bytes).contains(SECRET), "{}", path.display());
    }
}

/// The old nodes, too; and a data node that is asked where its history ends.
#[test]
fn no_node_and_no_question_has_the_token() {
    let world = World::with(installing().with_data_node());
    let told = world.sandbox.path().join("told");
    let genesis = world.installation.genesis().join("vega");
    let minted = world.installation.minted(&VegaBehaviour::new(OLD));
    fs::remove_file(&genesis).unwrap();
    let script = telling(&told, &minted);
    executable::script(&genesis, &script);
    world.installation.control_data_node(|control| control["exit_after_ms"] = 300.into());
    let mut command = world.run_command();
    command.env("GITHUB_TOKEN", SECRET);
    let _supervised = world.sandbox.spawn(command);
    let told = wait_until("the pair is started again", SOON, || {
        let told = fs::read_to_string(&told).unwrap_or_default();
        (told.matches("ran datanode start").count() > 1 && told.contains("latest-history-segment")).then_some(told)
    });
    assert!(told.contains("ran version --output json"), "{told}");
    assert!(!told.contains("GITHUB_TOKEN") && !told.contains(SECRET), "{told}");
}

// V21
#[test]
fn a_slow_download_is_waited_for_while_the_node_runs() {
    let mut calm = Calm::begin(World::with(installing().with_data_node()));
    let bytes = calm.world.installation.asset(&VegaBehaviour::new(NEW));
    calm.world.publish(NEW, &VegaBehaviour::new(NEW));
    let per_second = bytes.len() as u64 / 3;
    calm.world.github.web.serve(&FakeGitHub::storage_path(NEW, ASSET), Answer::Slow { bytes, per_second });
    calm.world.accept(NEW);
    let part = calm.world.installation.home().join(".omnivisor/staging/asset");
    wait_until("it is under way", SOON, || (fs::read_dir(&part).ok()?.count() > 0).then_some(()));
    assert!(!calm.world.installation.folder(NEW).exists());
    calm.undisturbed("a slow download");
    calm.wait_until_staged(NEW);
    calm.switches_to(NEW);
}

#[test]
fn a_download_that_nobody_wants_any_more_ends_at_once() {
    let mut calm = Calm::begin(World::with(installing().with_data_node()));
    calm.world.publish(NEW, &VegaBehaviour::new(NEW));
    let stall = Answer::Stall { after_bytes: 1000, of_bytes: 1_000_000 };
    calm.world.github.publish_changed(NEW, &[(ASSET, b"unknown", false)], |release| {
        release["assets"][0]["size"] = 1_000_000.into();
    });
    calm.world.github.web.serve(&FakeGitHub::storage_path(NEW, ASSET), stall);
    calm.world.accept(NEW);
    wait_until("it is under way", SOON, || (calm.world.github.downloads(NEW, ASSET) > 0).then_some(()));
    let begin = std::time::Instant::now();
    calm.world.installation.control_core(|control| control["accepted"] = serde_json::Value::Null);
    calm.world.wait_for_phase("idle");
    assert!(begin.elapsed().as_secs() < 20, "before it would have been given up by itself");
    calm.undisturbed("a release that was withdrawn");
    // What is agreed on then is not kept waiting.
    let next = "v0.75.1";
    calm.world.publish(next, &VegaBehaviour::new(next));
    calm.world.accept(next);
    calm.wait_until_staged(next);
    let staging = calm.world.installation.home().join(".omnivisor/staging");
    assert_eq!(files_below(&staging).len(), 0, "nothing half made stays");
    calm.switches_to(next);
}

// V8
#[test]
fn an_upgrade_folder_appears_whole_or_not_at_all() {
    let archive = format!("rename {}", ASSET);
    let renamed = format!("rename {NEW}");
    let checkpoints: [(&str, bool); 8] = [
        ("fetch-chunk:3", false),
        (&archive, false),
        ("asset-before-unpack", false),
        ("asset-before-side-files", false),
        ("rename #", false),
        ("after-fetch", false),
        (&renamed, false),
        ("after-preflight", true),
    ];
    std::thread::scope(|scope| {
        for checkpoints in checkpoints.chunks(3) {
            scope.spawn(move || checkpoints.iter().for_each(|(checkpoint, there)| killed_at(checkpoint, *there)));
        }
    });
}

fn killed_at(checkpoint: &str, there: bool) {
    let world = World::with(installing().with_data_node());
    world.publish(NEW, &VegaBehaviour::new(NEW));
    world.accept(NEW);
    let whole = |folder: &Path| {
        let names: Vec<String> = files_below(folder).into_iter().map(|(path, _)| path.display().to_string()).collect();
        assert_eq!(names, ["run-config.toml", "vega"], "{checkpoint}");
        let minted = world.installation.minted(&VegaBehaviour::new(NEW));
        assert_eq!(sha256_hex(&folder.join("vega")), sha256_hex(&minted), "{checkpoint}");
        let config = fs::read_to_string(folder.join("run-config.toml")).unwrap();
        assert_eq!(config, world.installation.run_config(NEW).to_toml(), "{checkpoint}");
    };
    let mut command = world.run_command();
    command.env("OMNIVISOR_CHECKPOINT", checkpoint);
    let mut supervised = world.sandbox.spawn(command);
    wait_until(checkpoint, SOON, || supervised.try_wait());
    assert_eq!(supervised.died_of(), Some(9), "{checkpoint}: {}", said(&supervised));
    let folder = world.installation.folder(NEW);
    assert_eq!(folder.exists(), there, "{checkpoint}");
    if there {
        whole(&folder);
    }
    let supervised = world.run();
    let mut calm = Calm::with(world, supervised);
    calm.wait_until_staged(NEW);
    let names = fs::read_dir(calm.world.installation.home()).unwrap().flatten().map(|it| it.file_name());
    let of_it = names.filter(|name| name.to_string_lossy().starts_with(NEW)).count();
    assert_eq!(of_it, 1, "{checkpoint}: it is there once");
    calm.switches_to(NEW);
}

// V8
/// Vega Visor makes the folder first, and takes one that is there for installed.
#[test]
fn a_folder_that_vega_visor_left_half_made_stops_nothing() {
    for (what, files) in [
        ("an empty one", &[][..]),
        ("one with the archive", &[("vega-linux-amd64.zip", "PK")]),
        ("one without the executable", &[("run-config.toml", "name = \"x\"\n[vega.binary]\npath = \"vega\"\n")]),
        ("one with an empty file", &[("run-config.toml", "")]),
    ] {
        let world = World::with(installing());
        let folder = world.installation.folder(NEW);
        fs::create_dir(&folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        world.publish(NEW, &VegaBehaviour::new(NEW));
        let mut calm = Calm::begin(world);
        calm.world.accept(NEW);
        calm.wait_until_staged(NEW);
        let calm = calm.switches_to(NEW);
        assert_eq!(calm.world.installation.assert_visor_would_start(), NEW, "{what}");
        for (name, text) in files {
            assert_eq!(fs::read_to_string(folder.join(name)).unwrap(), *text, "{what}: what is not ours stays");
        }
    }
}

/// A program that tells what it is run with, and then is this one.
fn telling(to: &Path, executable: &Path) -> String {
    format!("#!/bin/sh\n{{ echo \"ran $*\"; env; }} >>'{}'\nexec '{}' \"$@\"\n", to.display(), executable.display())
}

/// Every file below a folder, by its path there.
fn files_below(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if let Ok(bytes) = fs::read(&path) {
                files.push((path.strip_prefix(folder).unwrap().to_owned(), bytes));
            }
        }
    }
    files.sort();
    files
}
