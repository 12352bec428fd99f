//! Releases that GitHub has, and that cannot be had, or are not what they should be: the node runs on, somebody is told why,
//! and once it is mended the upgrade goes through.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use omnivisor_testkit::{Answer, AutoInstall, FakeGitHub, VegaBehaviour, VegaOptions, VersionAnswer, wait_until};

use super::archive::{Entry, archive, claiming};
use super::calm::Calm;
use super::world::{ASSET, NEW, OLD, World, installing};
use crate::world::SOON;

/// One thing that is wrong, under a tag of its own.
struct Case {
    what: &'static str,
    /// What is said of it.
    words: &'static [&'static str],
    wrong: fn(&World, &str),
}

/// Each is announced while it is wrong, said, tried again, mended, and prepared: all of it beside one node.
#[track_caller]
fn check(cases: &[Case]) {
    let mut calm = Calm::begin(World::with(installing().with_data_node()));
    for (number, Case { what, words, wrong }) in cases.iter().enumerate() {
        let tag = format!("v0.75.{number}");
        calm.check(what, &[&["tried again", &tag], *words].concat(), |world| {
            wrong(world, &tag);
            world.accept(&tag);
        });
        calm.wait_for_standing(what, &tag, words);
        assert!(!calm.world.installation.folder(&tag).exists(), "{what}: nothing is installed");
        assert_eq!(strays(&calm.world), Vec::<PathBuf>::new(), "{what}");
        calm.world.publish(&tag, &VegaBehaviour::new(&tag));
        calm.wait_until_staged(&tag);
    }
    let last = format!("v0.75.{}", cases.len() - 1);
    let calm = calm.switches_to(&last);
    assert_eq!(calm.world.installation.assert_visor_would_start(), last);
    assert!(calm.world.github.secrets_given_away().is_empty());
}

/// Whatever an archive may have left outside of its place.
fn strays(world: &World) -> Vec<PathBuf> {
    let home = world.installation.home();
    let places = [home.join(".omnivisor"), home.to_owned(), world.sandbox.path().to_owned()];
    places.iter().map(|folder| folder.join("stray")).filter(|path| path.symlink_metadata().is_ok()).collect()
}

/// Publishes this archive as the asset; what the API says of it is right.
fn publish(world: &World, tag: &str, archive: &[u8]) {
    world.github.publish(tag, &[(ASSET, archive, true)]);
}

/// Publishes what is right, and gives another answer when it is downloaded.
fn answer(world: &World, tag: &str, answer: impl FnOnce(Vec<u8>) -> Answer) {
    let asset = world.installation.asset(&VegaBehaviour::new(tag));
    publish(world, tag, &asset);
    world.github.web.serve(&FakeGitHub::storage_path(tag, ASSET), answer(asset));
}

// V7, V8
#[test]
fn an_asset_that_cannot_be_had_stops_nothing_and_is_installed_once_it_can() {
    check(&[
        Case {
            what: "nobody there",
            words: &["refused"],
            wrong: |world, tag| answer(world, tag, |_| Answer::Redirect("http://127.0.0.1:9/".to_owned())),
        },
        Case {
            what: "a page with 404",
            words: &["answered 404"],
            wrong: |world, tag| answer(world, tag, |_| Answer::Status(404, b"<html>".to_vec())),
        },
        Case {
            what: "500",
            words: &["answered 500"],
            wrong: |world, tag| answer(world, tag, |_| Answer::Status(500, b"oops".to_vec())),
        },
        Case {
            what: "cut half way",
            words: &["end of file"],
            wrong: |world, tag| {
                answer(world, tag, |bytes| Answer::CutAt { after: bytes.len() / 2, bytes });
            },
        },
        Case {
            what: "a circle",
            words: &["too many redirects"],
            wrong: |world, tag| answer(world, tag, |_| Answer::RedirectLoop),
        },
        Case { what: "no HTTP", words: &["invalid HTTP"], wrong: |world, tag| answer(world, tag, |_| Answer::Garbage) },
        Case {
            what: "an error page with 200",
            words: &["has 26 bytes, but", "were announced"],
            wrong: |world, tag| answer(world, tag, |_| Answer::bytes(*b"<html>Please log in</html>")),
        },
    ]);
}

// V9, V10
#[test]
fn an_asset_that_is_not_what_was_announced_is_never_installed() {
    check(&[
        Case {
            what: "another digest",
            words: &["has the digest", "was announced"],
            wrong: |world, tag| {
                answer(world, tag, |mut bytes| {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    Answer::bytes(bytes)
                });
            },
        },
        Case {
            what: "another version",
            words: &["is version v0.70.0, but v0.75.1 was announced"],
            wrong: |world, tag| world.publish(tag, &VegaBehaviour::new("v0.70.0")),
        },
        Case {
            what: "no release with this tag",
            words: &["vegaprotocol/vega has no release with the tag \"v0.75.2\""],
            wrong: |_, _| (),
        },
        Case {
            what: "no such asset",
            words: &["has no asset \"vega-linux-amd64.zip\", but vega-linux-x86_64.zip"],
            wrong: |world, tag| world.github.publish(tag, &[("vega-linux-x86_64.zip", b"PK", true)]),
        },
        Case {
            what: "no asset at all",
            words: &["has no asset \"vega-linux-amd64.zip\", but none at all"],
            wrong: |world, tag| world.github.publish(tag, &[]),
        },
        Case {
            what: "another executable in it",
            words: &["has no file \"vega\" in it; it has: data-node"],
            wrong: |world, tag| publish(world, tag, &archive(&[Entry::file("data-node", b"#!/bin/sh\n")])),
        },
        Case {
            what: "a web page",
            words: &["neither an ELF executable nor a script"],
            wrong: |world, tag| publish(world, tag, b"<!doctype html><title>Please log in</title>"),
        },
        Case {
            what: "another machine's",
            words: &["is built for another machine"],
            wrong: |world, tag| {
                let mut elf = [0; 64];
                elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
                elf[18] = 21; // PowerPC
                publish(world, tag, &archive(&[Entry::file("vega", &elf)]));
            },
        },
        Case {
            what: "one that does not say its version",
            words: &["its version", "cannot be used"],
            wrong: |world, tag| {
                let version_answer = VersionAnswer::Rubbish;
                world.publish(tag, &VegaBehaviour { version_answer, ..VegaBehaviour::new(tag) });
            },
        },
        Case {
            what: "one that fails when it is asked",
            words: &["does not say who it is", "exit code 3", "no version today"],
            wrong: |world, tag| {
                let version_answer = VersionAnswer::Exit(3);
                world.publish(tag, &VegaBehaviour { version_answer, ..VegaBehaviour::new(tag) });
            },
        },
    ]);
}

// V21
#[test]
fn an_archive_that_is_a_trap_leaves_nothing_anywhere() {
    check(&[
        Case {
            what: "a path that leads upwards",
            words: &["refused because of its entry \"../stray\"", "leads upwards"],
            wrong: |world, tag| {
                publish(world, tag, &archive(&[Entry::file("vega", b"#!/bin/sh\n"), Entry::file("../stray", b"x")]));
            },
        },
        Case {
            what: "an absolute path",
            words: &["refused because of its entry", "its path is absolute"],
            wrong: |world, tag| {
                let path = world.sandbox.path().join("stray");
                publish(world, tag, &archive(&[Entry::file(path.to_str().unwrap(), b"x")]));
            },
        },
        Case {
            what: "a link, and a file through it",
            words: &["refused because of its entry \"out\"", "symbolic link"],
            wrong: |world, tag| {
                let target = world.sandbox.path().to_str().unwrap().to_owned();
                publish(world, tag, &archive(&[Entry::link("out", &target), Entry::file("out/stray", b"x")]));
            },
        },
        Case {
            what: "the executable is a link",
            words: &["refused because of its entry \"vega\"", "symbolic link"],
            wrong: |world, tag| publish(world, tag, &archive(&[Entry::link("vega", "/bin/true")])),
        },
        Case {
            what: "a bomb that says so",
            words: &["holds more than 2147483648 bytes"],
            wrong: |world, tag| {
                publish(world, tag, &claiming(archive(&[Entry::file("vega", &[0; 4096])]), 3 << 30));
            },
        },
        Case {
            what: "a bomb that lies",
            words: &["damaged"],
            wrong: |world, tag| {
                publish(world, tag, &claiming(archive(&[Entry::file("vega", &vec![0; 32 << 20])]), 100));
            },
        },
        Case {
            what: "an archive that is cut",
            words: &["damaged"],
            wrong: |world, tag| {
                let mut whole = archive(&[Entry::file("vega", &[7; 4096])]);
                whole.truncate(whole.len() / 2);
                publish(world, tag, &whole);
            },
        },
        Case {
            what: "a file in the place of our own",
            words: &["holds a folder called run-config.toml"],
            wrong: |world, tag| {
                let entries = [Entry::file("vega", b"#!/bin/sh\n"), Entry::file("run-config.toml/vega", b"x")];
                publish(world, tag, &archive(&entries));
            },
        },
    ]);
}

// V7, V8
/// Nothing is stopped for what is not there: a core that stands at the height has saved its state, and waits.
#[test]
fn at_the_height_nothing_that_failed_a_check_is_run_and_the_old_node_stays() {
    let mut calm = Calm::begin(World::with(installing().with_data_node()));
    calm.check("another version", &["tried again", "is version v0.70.0"], |world| {
        world.publish(NEW, &VegaBehaviour::new("v0.70.0"));
        world.accept(NEW);
        world.reach();
    });
    calm.wait_for_line("at the height", 0, &[NEW, "planned", "now: the node is ready"]);
    let tried = calm.world.github.downloads(NEW, ASSET);
    calm.world
        .wait_for_status("it is tried again at the height", |_| calm.world.github.downloads(NEW, ASSET) > tried + 2);
    calm.undisturbed("at the height");
    let versions: Vec<String> = calm.world.log().starts().into_iter().map(|start| start.version).collect();
    assert_eq!(versions, [OLD, OLD], "and nothing else was started");
    assert_eq!(calm.world.installation.assert_visor_would_start(), OLD);
    assert!(!calm.world.installation.folder(NEW).exists());

    calm.world.publish(NEW, &VegaBehaviour::new(NEW));
    let calm = calm.switches_to(NEW);
    assert_eq!(calm.world.installation.assert_visor_would_start(), NEW);
}

/// Whatever is wrong, a server that is asked in vain is asked less and less often.
#[test]
fn what_failed_is_tried_again_with_longer_and_longer_pauses() {
    let gone = |world: &World| world.github.withdraw(NEW);
    let wrong = |world: &World| world.publish(NEW, &VegaBehaviour::new("v0.70.0"));
    for (what, wrong) in [("a release that is not there", gone as fn(&World)), ("one that is wrong", wrong)] {
        let world = World::with(installing());
        wrong(&world);
        let mut command = world.run_command();
        command.env("OMNIVISOR_RETRY_DELAY", "1s").env("OMNIVISOR_RETRY_MOST", "3s");
        let supervised = world.sandbox.spawn(command);
        let mut calm = Calm::with(world, supervised);
        calm.world.accept(NEW);
        let asked = || {
            let requests = calm.world.github.api.all_requests().into_iter();
            requests.filter(|request| request.path == calm.world.github.tag_path(NEW)).collect::<Vec<_>>()
        };
        let requests = wait_until("four tries", SOON, || {
            let requests = asked();
            (requests.len() >= 4).then_some(requests)
        });
        for (pair, least) in requests.windows(2).zip([1000, 2000, 3000]) {
            let pause = pair[1].at - pair[0].at;
            // Retries are by the calendar clock, which may be set by a little meanwhile.
            assert!(
                pause + Duration::from_millis(20) >= Duration::from_millis(least),
                "{what}: {pause:?} < {least} ms"
            );
        }
        calm.undisturbed(what);
    }
}

// V9
/// What a file is, it says itself: no name and no content type is believed.
#[test]
fn an_asset_may_be_an_archive_of_folders_or_the_executable_itself() {
    let cases = [
        ("vega-linux-amd64.zip", Some("bin/vega"), "bin/vega", true),
        ("vega-linux-amd64.zip", None, "vega", true),
        ("vega-linux-amd64", None, "vega-linux-amd64", false),
        ("vega-linux-amd64", Some("vega"), "vega", false),
        ("vega.bin", Some("vega"), "vega", true),
    ];
    for (name, binary, expected, zipped) in cases {
        let install =
            AutoInstall { asset: name.to_owned(), binary: binary.map(str::to_owned), ..AutoInstall::default() };
        let world = World::with(VegaOptions { auto_install: Some(install), ..installing().with_data_node() });
        let executable = fs::read(world.installation.minted(&VegaBehaviour::new(NEW))).unwrap();
        let asset = match zipped {
            true => archive(&[Entry::file("LICENSE", b"text"), Entry::file(expected, &executable)]),
            false => executable.clone(),
        };
        world.github.publish_changed(NEW, &[("other.zip", b"x", true), (name, &asset, true)], |release| {
            release["assets"][1]["content_type"] = "application/x-zip-compressed".into();
        });
        let mut calm = Calm::begin(world);
        calm.world.accept(NEW);
        calm.wait_until_staged(NEW);
        assert!(fs::read(calm.world.installation.folder(NEW).join(expected)).unwrap() == executable, "{name}");
        let calm = calm.switches_to(NEW);
        assert_eq!(calm.world.installation.assert_visor_would_start(), NEW, "{name} {binary:?}");
    }
}
