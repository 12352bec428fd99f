//! Releases that a person places: looked at when they are announced, and once more at the height.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use omnivisor_testkit::{RunConfig, VegaBehaviour, executable, mint};

use super::calm::Calm;
use super::world::{HEIGHT, NEW, OLD, World, installing, options, template};
use crate::world::SOON;

/// Something that is wrong with the folder of a release.
struct Case {
    what: &'static str,
    words: &'static [&'static str],
    wrong: fn(&World, &str),
}

/// The folder without what was wrong.
fn mend(world: &World, tag: &str) {
    let folder = world.installation.folder(tag);
    if folder.is_dir() {
        fs::remove_dir_all(&folder).unwrap();
    }
    world.installation.place_release(tag, &VegaBehaviour::new(tag));
}

fn rewrite(world: &World, tag: &str, text: &str) {
    fs::write(world.installation.folder(tag).join("run-config.toml"), text).unwrap();
}

/// Places it right, and then changes its run-config.toml.
fn with_run_config(world: &World, tag: &str, change: impl FnOnce(&mut RunConfig)) {
    mend(world, tag);
    let mut config = world.installation.run_config(tag);
    change(&mut config);
    rewrite(world, tag, &config.to_toml());
}

const CASES: [Case; 11] = [
    Case { what: "nothing", words: &["no executable at", "nothing is downloaded here"], wrong: |_, _| () },
    Case {
        what: "an empty folder",
        words: &["run-config.toml", "cannot be read"],
        wrong: |world, tag| fs::create_dir(world.installation.folder(tag)).unwrap(),
    },
    Case {
        what: "no executable",
        words: &["no executable at"],
        wrong: |world, tag| {
            mend(world, tag);
            fs::remove_file(world.installation.folder(tag).join("vega")).unwrap();
        },
    },
    Case {
        what: "an empty run-config.toml",
        words: &["run-config.toml", "it is empty"],
        wrong: |world, tag| {
            mend(world, tag);
            rewrite(world, tag, "");
        },
    },
    Case {
        what: "half a run-config.toml",
        words: &["run-config.toml", "line 3"],
        wrong: |world, tag| {
            mend(world, tag);
            rewrite(world, tag, "name = \"next\"\n[vega.binary]\npath = \"ve");
        },
    },
    Case {
        what: "a template that nobody has filled in",
        words: &["run-config.toml", "still says \"arg1\""],
        wrong: |world, tag| {
            mend(world, tag);
            rewrite(world, tag, &RunConfig::example(tag, false).to_toml());
        },
    },
    Case {
        what: "a data node that is no file",
        words: &["run-config.toml", "vega data-node"],
        wrong: |world, tag| {
            with_run_config(world, tag, |config| {
                config.data_node = Some(("vega data-node".to_owned(), vec!["start".to_owned()]));
            });
        },
    },
    Case {
        what: "a data node of another version",
        words: &["is version v0.74.0", "the other one is"],
        wrong: |world, tag| {
            with_run_config(world, tag, |config| {
                config.data_node = Some(("data-node".to_owned(), vec!["datanode".to_owned(), "start".to_owned()]));
            });
            mint(&template(), &world.installation.folder(tag).join("data-node"), &VegaBehaviour::new(OLD));
        },
    },
    Case {
        what: "another version",
        words: &["is version v0.70.0, but", "was announced"],
        wrong: |world, tag| {
            world.installation.place_release(tag, &VegaBehaviour::new("v0.70.0"));
        },
    },
    Case {
        what: "no program",
        words: &["neither an ELF executable nor a script"],
        wrong: |world, tag| {
            mend(world, tag);
            fs::write(world.installation.folder(tag).join("vega"), "<html>").unwrap();
        },
    },
    Case {
        what: "a link that leads nowhere",
        words: &["no executable at"],
        wrong: |world, tag| {
            mend(world, tag);
            let path = world.installation.folder(tag).join("vega");
            fs::remove_file(&path).unwrap();
            symlink("nowhere", path).unwrap();
        },
    },
];

// V7, V8, V9
#[test]
fn a_folder_is_looked_at_when_its_release_is_announced() {
    std::thread::scope(|scope| {
        for cases in CASES.chunks(6) {
            scope.spawn(move || {
                let mut calm = Calm::begin(World::with(options()));
                let mut last = String::new();
                for (number, Case { what, words, wrong }) in cases.iter().enumerate() {
                    let tag = format!("v0.75.{number}");
                    calm.check(what, &[&["tried again", &tag], *words].concat(), |world| {
                        wrong(world, &tag);
                        world.accept(&tag);
                    });
                    calm.wait_for_standing(what, &tag, words);
                    mend(&calm.world, &tag);
                    calm.wait_until_staged(&tag);
                    last = tag;
                }
                calm.switches_to(&last);
            });
        }
    });
}

// V7
/// And once more at the height: what was right may not be so any more.
#[test]
fn a_folder_that_was_changed_meanwhile_is_not_switched_to_until_it_is_right_again() {
    std::thread::scope(|scope| {
        for case in &CASES[2..] {
            scope.spawn(move || changed_meanwhile(case));
        }
    });
}

fn changed_meanwhile(case: &Case) {
    let Case { what, words, wrong } = case;
    let mut calm = Calm::begin(World::with(options()));
    mend(&calm.world, NEW);
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    calm.check(what, &[&["tried again"], *words].concat(), |world| {
        wrong(world, NEW);
        world.reach();
    });
    let versions: Vec<String> = calm.world.log().starts().into_iter().map(|start| start.version).collect();
    assert_eq!(versions, [OLD], "{what}: nothing else was started");
    assert_eq!(calm.world.installation.assert_visor_would_start(), OLD, "{what}");
    mend(&calm.world, NEW);
    let calm = calm.switches_to(NEW);
    assert_eq!(calm.world.installation.assert_visor_would_start(), NEW, "{what}");
}

/// Whoever replaces it by another build of the same release has proven it by asking it.
#[test]
fn another_build_of_the_same_release_is_proven_anew_and_switched_to() {
    let mut calm = Calm::begin(World::with(options()));
    mend(&calm.world, NEW);
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    let before = calm.so_far();
    let other = VegaBehaviour { hash: "another".to_owned(), ..VegaBehaviour::new(NEW) };
    calm.world.installation.place_release(NEW, &other);
    let calm = calm.switches_to(NEW);
    calm.wait_for_line("the other build", before, &["was changed since it was proven"]);
}

// V7
#[test]
fn a_release_that_nobody_has_placed_stops_nothing_and_is_switched_to_once_it_is_there() {
    let mut calm = Calm::begin(World::with(options().with_data_node()));
    calm.check("at the height", &["tried again", "no executable at", "enabled = false"], |world| {
        world.accept(NEW);
        world.reach();
    });
    calm.world.wait_for_status("it stands at the height", |status| {
        status["announced"][0]["name"] == NEW && status["active"]["version"] == OLD
    });
    assert_eq!(calm.world.github.api_requests(), 0, "nobody was asked for it");
    assert!(!calm.world.installation.folder(NEW).exists());
    // The folder last: half of one is looked at as well.
    calm.world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    let calm = calm.switches_to(NEW);
    assert_eq!(calm.world.installation.assert_visor_would_start(), NEW);
}

#[test]
fn a_release_is_in_the_folder_that_upgrade_folders_says() {
    for folder in ["next", "releases/the next one", "v0.70.0"] {
        let mut options = options();
        options.upgrade_folders.insert(NEW.to_owned(), folder.to_owned());
        let mut calm = Calm::begin(World::with(options));
        // The folder that is called like the tag is another one's.
        calm.world.installation.place(NEW, &calm.world.installation.run_config(NEW), &VegaBehaviour::new("v0.1.0"));
        calm.world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
        calm.world.accept(NEW);
        calm.wait_until_staged(NEW);
        let calm = calm.switches_to(NEW);
        let expected = calm.world.installation.home().join(folder);
        calm.world.installation.assert_visor_would_start_from(&expected, NEW);
    }
}

#[test]
fn what_is_downloaded_goes_into_the_folder_that_upgrade_folders_says() {
    let mut options = installing();
    options.upgrade_folders.insert(NEW.to_owned(), "next".to_owned());
    let mut calm = Calm::begin(World::with(options));
    calm.world.publish(NEW, &VegaBehaviour::new(NEW));
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    assert!(!calm.world.installation.home().join(NEW).exists());
    let calm = calm.switches_to(NEW);
    let expected = calm.world.installation.home().join("next");
    calm.world.installation.assert_visor_would_start_from(&expected, NEW);
}

/// Placed by a person, it counts; nothing is downloaded over it.
#[test]
fn a_release_that_was_placed_is_not_downloaded() {
    let mut calm = Calm::begin(World::with(installing()));
    calm.world.publish(NEW, &VegaBehaviour { hash: "from GitHub".to_owned(), ..VegaBehaviour::new(NEW) });
    calm.world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    assert_eq!((calm.world.github.api_requests(), calm.world.github.downloads(NEW, "vega-linux-amd64.zip")), (0, 0));
    calm.switches_to(NEW);
}

/// Vega Visor does so, too.
#[test]
fn an_executable_that_cannot_be_executed_is_made_so() {
    let mut calm = Calm::begin(World::with(options()));
    let folder = calm.world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    fs::set_permissions(folder.join("vega"), fs::Permissions::from_mode(0o640)).unwrap();
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    let mode = fs::metadata(folder.join("vega")).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0o111, "{mode:o}");
    calm.switches_to(NEW);
}

/// Core and data node may be two programs, as they once were, and may be anywhere.
#[test]
fn executables_elsewhere_and_two_of_them_are_run_as_they_are_named() {
    let world = World::with(options().with_data_node());
    let elsewhere = world.sandbox.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    executable::copy(&world.installation.minted(&VegaBehaviour::new(NEW)), &elsewhere.join("data-node"));
    let mut config = world.installation.run_config(NEW);
    config.data_node.as_mut().unwrap().0 = elsewhere.join("data-node").to_str().unwrap().to_owned();
    world.installation.place(NEW, &config, &VegaBehaviour::new(NEW));
    let mut calm = Calm::begin(world);
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    let calm = calm.switches_to(NEW);
    let exe = |pid: u32| fs::read_link(Path::new("/proc").join(pid.to_string()).join("exe")).unwrap();
    let mut running: Vec<_> = calm.world.log().running().into_iter().map(|node| exe(node.pid)).collect();
    running.sort();
    assert_eq!(running, [elsewhere.join("data-node"), calm.world.installation.folder(NEW).join("vega")]);
    let core = calm.world.log().last_start_of(omnivisor_testkit::Kind::Core).unwrap();
    assert!(core.args.contains(&HEIGHT.to_string()), "{:?}", core.args);
}

/// What a release runs is said in its own folder: one may add a data node, and one leave it out.
#[test]
fn a_release_may_bring_a_data_node_or_do_without_one() {
    let last = "v0.76.0";
    let world = World::with(options().with_data_node());
    let both = world.installation.run_config("x");
    let alone = RunConfig { data_node: None, ..both.clone() };
    fs::write(world.installation.genesis().join("run-config.toml"), alone.to_toml()).unwrap();
    world.installation.place(NEW, &both, &VegaBehaviour::new(NEW));
    world.installation.place(last, &alone, &VegaBehaviour::new(last));
    let running = |world: &World| {
        let mut versions: Vec<String> = world.log().running().into_iter().map(|node| node.version).collect();
        versions.sort();
        versions
    };
    let mut supervised = world.run();
    for (tag, expected) in [(NEW, vec![NEW, NEW]), (last, vec![last])] {
        world.installation.control_core(|control| control["ready"] = false.into());
        world.accept(tag);
        world.wait_for_phase("staged");
        world.reach();
        omnivisor_testkit::wait_until(&format!("{expected:?} run"), SOON, || {
            (running(&world) == expected).then_some(())
        });
        world.wait_for_commit(tag);
        let processes = world.status().unwrap()["node"]["processes"].as_array().unwrap().len();
        assert_eq!(processes, expected.len());
    }
    world.log().assert_never_double();
    supervised.signal(15);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert!(world.log().running().is_empty());
}
