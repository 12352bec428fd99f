//! The command line of Vega Visor: what is typed, what is answered, how it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use omnivisor_testkit::{Sandbox, Supervised, VegaOptions, mint, wait_until};
use serde_json::{Value, json};

use super::world::{OLD, World, options, said, template};
use crate::world::{SOON, omnivisor_exe};

/// What Vega Visor's `init` writes, but for the name of the asset.
const CONFIG: &str = r#"maxNumberOfFirstConnectionRetries = 175000
maxNumberOfRestartConnectionRetries = 10
maxNumberOfRestarts = 3
restartsDelaySeconds = 5
stopDelaySeconds = 0
stopSignalTimeoutSeconds = 15

[upgradeFolders]
  "vX.X.X" = "vX.X.X"

[autoInstall]
  enabled = true
  repositoryOwner = "vegaprotocol"
  repository = "vega"
  [autoInstall.asset]
    name = "<asset>"
    binaryName = "vega"
"#;

fn visor(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    sandbox.omnivisor(omnivisor_exe(), "visor").args(arguments).output().unwrap()
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn fails(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Everything below a folder: path, mode and contents.
fn everything(folder: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut folders = vec![folder.to_owned()];
    let mut found = Vec::new();
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().flatten() {
            let (path, mode) = (entry.path(), entry.metadata().unwrap().permissions().mode() & 0o7777);
            if path.is_dir() {
                folders.push(path.clone());
            }
            let bytes = fs::read(&path).unwrap_or_default();
            found.push((path.strip_prefix(folder).unwrap().to_owned(), mode, bytes));
        }
    }
    found.sort();
    found
}

#[test]
fn init_makes_a_home_that_vega_visor_would_have_made_wherever_the_flag_stands() {
    let sandbox = Sandbox::new();
    let absolute = sandbox.path().join("deep/er/home");
    let with_equals = format!("--home={}", sandbox.path().join("equals").display());
    for (home, arguments) in [
        ("deep/er/home", &["init", "--home", absolute.to_str().unwrap()][..]),
        ("relative", &["init", "--home", "relative"]),
        ("before", &["--home", "before", "init"]),
        ("equals", &[with_equals.as_str(), "init"]),
        ("both", &["init", "--home", "./both", "--with-data-node"]),
    ] {
        let said = succeeds(&visor(&sandbox, arguments));
        let home = sandbox.path().join(home);
        let found = everything(&home);
        let names: Vec<&str> = found.iter().map(|(path, _, _)| path.to_str().unwrap()).collect();
        let expected = ["config.toml", "genesis", "genesis/run-config.toml", "vX.X.X", "vX.X.X/run-config.toml"];
        assert_eq!(names, expected, "{arguments:?}");
        for (path, mode, bytes) in &found {
            if path.extension().is_some_and(|it| it == "toml") {
                assert_eq!(*mode, 0o600, "{path:?}");
                let shown = fs::canonicalize(home.join(path)).unwrap();
                let shown = shown.strip_prefix(fs::canonicalize(sandbox.path()).unwrap()).unwrap();
                assert!(said.contains(shown.to_str().unwrap()), "{shown:?} is named in {said}");
            }
            if path.ends_with("run-config.toml") {
                let text = String::from_utf8_lossy(bytes);
                assert_eq!(text.contains("[data_node]"), arguments.contains(&"--with-data-node"), "{text}");
            }
        }
        let config = fs::read_to_string(home.join("config.toml")).unwrap();
        let asset = config.lines().find_map(|line| line.trim().strip_prefix("name = ")).unwrap().trim_matches('"');
        assert!(asset.starts_with("vega-linux-") && asset.ends_with(".zip"), "{asset}");
        assert_eq!(config, CONFIG.replace("<asset>", asset));

        // Nobody has said yet what is to be run.
        let complaint = fails(&visor(&sandbox, &["run", "--home", home.to_str().unwrap()]), 1);
        assert!(complaint.contains("nothing can be run yet") && complaint.contains("genesis/run-config.toml"));
    }
}

#[test]
fn init_touches_nothing_that_is_there() {
    let sandbox = Sandbox::new();
    let home = sandbox.path().join("home-of-visor");
    let init = || visor(&sandbox, &["init", "--home", home.to_str().unwrap()]);
    fs::create_dir(&home).unwrap();
    succeeds(&init()); // an empty one is a new volume
    let refused = |what: &str, words: &str| {
        let before = everything(&home);
        let complaint = fails(&init(), 1);
        assert!(complaint.contains(words) && complaint.contains("home-of-visor"), "{what}: {complaint}");
        assert_eq!(everything(&home), before, "{what}");
    };
    refused("a home", "there is a home already");
    // One that somebody has begun to use, and whose configuration was lost.
    fs::remove_file(home.join("config.toml")).unwrap();
    let run_config = home.join("genesis/run-config.toml");
    fs::write(&run_config, "name = \"mine\"\n[vega.binary]\npath = \"vega\"\nargs = [\"start\"]\n").unwrap();
    refused("a release that was filled in", "there is a home already");
    fs::remove_file(&run_config).unwrap();
    std::os::unix::fs::symlink("genesis", home.join("current")).unwrap();
    refused("an active release", "there is a home already");
    fs::remove_file(home.join("current")).unwrap();
    fs::write(home.join("thesis.doc"), "years of work").unwrap();
    refused("a folder of other things", "thesis.doc");
    fs::remove_file(home.join("thesis.doc")).unwrap();
    // What an interrupted one has left is completed.
    succeeds(&init());
    fs::remove_dir_all(&home).unwrap();
    fs::write(&home, "a file").unwrap();
    let complaint = fails(&init(), 1);
    assert!(complaint.contains("home-of-visor"), "{complaint}");
}

#[test]
fn a_home_is_run_wherever_the_flag_stands_and_by_any_of_the_names() {
    let world = World::new();
    let home = world.installation.home().to_str().unwrap().to_owned();
    let equals = format!("--home={home}");
    let relative = world.installation.home().strip_prefix(world.sandbox.path()).unwrap().to_str().unwrap().to_owned();
    for (name, arguments) in [
        ("visor", &["run", "--home", &home][..]),
        ("vegavisor", &["run", &equals]),
        ("vegavisor", &[&equals, "run"]),
        ("vegavisor", &["--home", &relative, "run"]),
        ("omnivisor", &["vega", "run", "--home", &relative]),
        ("omnivisor", &["vega", "--home", &home, "run"]),
    ] {
        let mut command = world.sandbox.omnivisor(omnivisor_exe(), name);
        command.args(arguments).env("TMPDIR", world.sandbox.path());
        let mut supervised = world.sandbox.spawn(command);
        world.wait_for(OLD);
        wait_until("it answers", SOON, || world.status());
        assert_eq!(world.status().unwrap()["instance"], "visor", "{arguments:?}");
        supervised.signal(15);
        assert_eq!(supervised.wait(SOON).code(), Some(0), "{arguments:?}");
    }
    world.log().assert_never_double();
}

#[test]
fn the_version_is_told_to_people_and_to_programs() {
    let sandbox = Sandbox::new();
    let number = concat!("v", env!("CARGO_PKG_VERSION"));
    for arguments in [&["version"][..], &["version", "--output", "human"], &["version", "--output=human"]] {
        let line = succeeds(&visor(&sandbox, arguments));
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.contains(&format!(" {number} (")) && line.ends_with(")\n"), "{line}");
    }
    for arguments in [&["version", "--output", "json"][..], &["version", "--output=json"]] {
        let line = succeeds(&visor(&sandbox, arguments));
        let value: Value = serde_json::from_str(&line).unwrap();
        let hash = value["hash"].as_str().unwrap();
        // Some read it without a JSON reader.
        assert_eq!(line, format!("{{\"version\":\"{number}\",\"hash\":\"{hash}\"}}\n"));
    }
    fails(&visor(&sandbox, &["version", "--output", "yaml"]), 2);
}

#[test]
fn what_is_typed_wrong_and_a_home_that_is_missing_are_said_with_what_to_do() {
    let sandbox = Sandbox::new();
    for (arguments, code, words) in [
        (&["run"][..], 2, &["the home is not known", "--home"][..]),
        (&["init"], 2, &["the home is not known", "--home"]),
        (&["run", "--home"], 2, &["--home"]),
        (&["start", "--home", "x"], 2, &["start"]),
        (&["run", "--home", "x", "--verbose"], 2, &["--verbose"]),
        (&["run", "--home", "nowhere"], 1, &["cannot read the configuration", "nowhere/config.toml", "vegavisor init"]),
    ] {
        let complaint = fails(&visor(&sandbox, arguments), code);
        assert!(words.iter().all(|word| complaint.contains(word)), "{arguments:?}: {complaint}");
    }
    for arguments in [&["--help"][..], &["help"], &["run", "--help"], &["init", "--help"]] {
        let help = succeeds(&visor(&sandbox, arguments));
        assert!(help.contains("Usage: visor") && help.contains("--home"), "{help}");
    }
    assert!(!sandbox.path().join("nowhere").exists());
}

fn fail_at_once(world: &World) {
    world.installation.control_core(|control| {
        control["exit_after_ms"] = json!(50);
        control["exit_code"] = json!(3);
    });
}

#[track_caller]
fn ends_with(world: &World, supervised: &mut Supervised, code: i32, starts: usize) {
    let status = supervised.wait(SOON);
    assert_eq!(status.code(), Some(code), "{}", said(supervised));
    assert_eq!(world.log().starts().len(), starts, "{}", said(supervised));
    wait_until("nothing is left", SOON, || world.log().running().is_empty().then_some(()));
    assert!(supervised.stderr().contains("Error: "), "the end is said: {}", supervised.stderr());
}

#[test]
fn the_exit_code_tells_how_it_ended() {
    let world = World::with(VegaOptions { restarts: 2, restarts_delay_seconds: 0, ..options() });
    fail_at_once(&world);
    ends_with(&world, &mut world.start(), 11, 3);

    let world = World::with(VegaOptions { restarts: 0, ..options() });
    fail_at_once(&world);
    ends_with(&world, &mut world.start(), 10, 1);

    let world = World::with(options());
    let mut first = world.run();
    world.wait_for(OLD);
    let second = world.run_command().output().unwrap();
    let complaint = fails(&second, 12);
    assert!(complaint.contains("hint: `omnivisor status`") && complaint.contains(&first.pid().to_string()));
    assert_eq!(world.log().starts().len(), 1);
    first.signal(15);
    assert_eq!(first.wait(SOON).code(), Some(0));

    // Something that cannot be started is a failure like any other.
    let world = World::with(VegaOptions { restarts: 0, ..options() });
    fs::remove_file(world.installation.genesis().join("vega")).unwrap();
    ends_with(&world, &mut world.start(), 1, 0);
    mint(&template(), &world.installation.genesis().join("vega"), &omnivisor_testkit::VegaBehaviour::new(OLD));
    let _supervised = world.run();
    world.wait_for(OLD);
}
