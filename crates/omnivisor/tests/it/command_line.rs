//! The command line of Nymvisor, word for word where its documentation shows it.

use std::path::Path;
use std::process::Output;

use omnivisor_testkit::{Behaviour, BuildInfoAnswer, Installation, Options, Sandbox, Upstream, mint, wait_until};
use serde_json::Value;

use crate::world::{SOON, World, omnivisor_exe, options, template};

/// The list of commands and options, as the documentation of Nymvisor shows it.
const HELP: &str = "\
Usage: nymvisor [OPTIONS] <COMMAND>

Commands:
  init               Initialise a nymvisor instance with persistent Config.toml file
  run                Run the associated daemon with the preconfigured settings
  build-info         Show build information of this binary
  daemon-build-info  Show build information of the associated daemon
  add-upgrade        Queues up another upgrade for the associated daemon
  config             Show configuration options being used by this instance of nymvisor
  help               Print this message or the help of the given subcommand(s)

Options:
  -c, --config-env-file <CONFIG_ENV_FILE>
          Path pointing to an env file that configures the nymvisor and overrides any preconfigured values
  -h, --help
          Print help
  -V, --version
          Print version
";

#[track_caller]
fn said(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn complaint(output: &Output) -> String {
    assert_ne!(output.status.code(), Some(0));
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_help_is_that_of_the_documentation() {
    let sandbox = Sandbox::new();
    for arguments in [&["--help"][..], &["-h"], &["help"]] {
        let text = said(&sandbox.omnivisor(omnivisor_exe(), "nymvisor").args(arguments).output().unwrap());
        assert!(text.ends_with(HELP), "{text}");
    }
    for command in ["init", "run", "build-info", "daemon-build-info", "add-upgrade", "config"] {
        for way in [[command, "--help"], ["help", command]] {
            let text = said(&sandbox.omnivisor(omnivisor_exe(), "nymvisor").args(way).output().unwrap());
            assert!(text.contains(&format!("Usage: nymvisor {command}")), "{text}");
            let nym = ["nym"].iter().chain(&way);
            let text = said(&sandbox.omnivisor(omnivisor_exe(), "omnivisor").args(nym).output().unwrap());
            assert!(text.contains(&format!("nym {command}")), "{text}");
        }
    }
}

#[test]
fn both_kinds_of_build_information_have_nymvisors_forms() {
    let world = World::new();
    let keys = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap();
        value.as_object().unwrap().iter().map(|(key, value)| (key.clone(), value.is_string())).collect::<Vec<_>>()
    };
    let own = said(&world.nymvisor(&["build-info", "-o", "json"]).output().unwrap());
    let daemons = said(&world.nymvisor(&["daemon-build-info", "--output=json"]).output().unwrap());
    assert_eq!(keys(&own), keys(&daemons));
    assert_eq!(own.lines().count(), 1);
    let own: Value = serde_json::from_str(&own).unwrap();
    assert_eq!((&own["binary_name"], &own["build_version"]), (&"omnivisor".into(), &env!("CARGO_PKG_VERSION").into()));
    assert_eq!(serde_json::from_str::<Value>(&daemons).unwrap(), Behaviour::new("1.0.0").details());

    let text = said(&world.nymvisor(&["daemon-build-info"]).output().unwrap());
    let labels: Vec<&str> = text.lines().map(|line| line.split(':').next().unwrap()).collect();
    let expected = [
        "",
        "Binary Name",
        "Build Timestamp",
        "Build Version",
        "Commit SHA",
        "Commit Date",
        "Commit Branch",
        "rustc Version",
        "rustc Channel",
        "cargo Profile",
        "",
    ];
    assert_eq!(labels, expected, "{text}");
    assert!(text.contains("\nBuild Version:      1.0.0\n"), "{text}");
    let version = said(&world.nymvisor(&["-V"]).output().unwrap());
    assert!(version.starts_with("nymvisor \nBinary Name:        omnivisor\n"), "{version}");
    assert_eq!(said(&world.nymvisor(&["--version"]).output().unwrap()), version);
}

/// Of the daemon that runs, not of the one the installation began with.
#[test]
fn the_daemons_build_information_is_that_of_the_active_release() {
    let world = World::new();
    let mut supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    let version = || {
        let text = said(&world.nymvisor(&["daemon-build-info", "-o", "json"]).output().unwrap());
        serde_json::from_str::<Value>(&text).unwrap()["build_version"].clone()
    };
    assert_eq!(version(), "2.0.0");
    supervised.signal(15);
    supervised.wait(SOON);
    assert_eq!(version(), "2.0.0");
}

#[test]
fn an_env_file_counts_over_the_environment_wherever_it_is_named_and_the_node_inherits_it() {
    let world = World::new();
    let file = world.sandbox.path().join("nym env");
    std::fs::write(
        &file,
        "# a comment\n\nexport DAEMON_SHUTDOWN_GRACE_PERIOD=\"7s\"\nDAEMON_MAX_STARTUP_FAILURES = 3\nMARKED='from the file'\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    for arguments in [["-c", file, "config"], ["config", "-c", file], ["config", "--config-env-file", file]] {
        let mut command = world.nymvisor(&arguments);
        let text = said(&command.env("DAEMON_SHUTDOWN_GRACE_PERIOD", "3s").output().unwrap());
        assert!(text.contains("shutdown grace period:             7s\n"), "{text}");
        assert!(text.contains("max startup failures:              3\n"), "{text}");
    }
    let home = world.installation.daemon_home().to_str().unwrap();
    let mut run = world.nymvisor(&["run", "-c", file, "run", "--home", home]);
    run.env("MARKED", "from outside");
    let _supervised = world.sandbox.spawn(run);
    let pid = world.wait_for("1.0.0");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let marked = environment.split(|byte| *byte == 0).find(|entry| entry.starts_with(b"MARKED=")).unwrap();
    assert_eq!(String::from_utf8_lossy(marked), "MARKED=from the file");
    let arguments = world.log().last_start().unwrap().args;
    assert_eq!(arguments, ["run", "--home", home], "what is the daemon's is the daemon's");
}

#[test]
fn an_env_file_that_cannot_be_used_is_an_error_that_shows_no_secret() {
    let world = World::new();
    let file = world.sandbox.path().join("env");
    for (text, words) in [
        ("GOOD=1\nTOKEN=very secret words\n", ["what follows GOOD makes no sense", "NAME=value"]),
        ("DAEMON_HOME=/x\nDAEMON_MAX_STARTUP_FAILURES=many\n", ["DAEMON_MAX_STARTUP_FAILURES", "a whole number"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = complaint(&world.nymvisor(&["config", "-c", file.to_str().unwrap()]).output().unwrap());
        assert!(words.iter().all(|word| error.contains(word)) && !error.contains("secret words"), "{error}");
    }
    let error = complaint(&world.nymvisor(&["-c", "/no/such/file", "config"]).output().unwrap());
    assert!(error.contains("cannot read the env file /no/such/file"), "{error}");
}

#[test]
fn what_stands_behind_run_is_the_daemons() {
    let world = World::new();
    for (arguments, expected) in [
        (&["run", "init", "-h"][..], "args: init -h\n"),
        (&["run", "bonding", "--", "x", "-c", "file"], "args: bonding -- x -c file\n"),
        (&["run", "sign", "--id", "foo"], "args: sign --id foo\n"),
    ] {
        assert_eq!(said(&world.nymvisor(arguments).output().unwrap()), expected);
    }
    for arguments in [&["run", "--id", "foo"][..], &["run", "-V"]] {
        let output = world.nymvisor(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    assert!(world.log().starts().is_empty());
}

/// The daemons that the documentation names, and any other that says who it is; with a banner before it, or without knowing
/// `--no-banner`.
#[test]
fn every_daemon_with_build_information_can_be_run_and_upgraded() {
    let daemons = [
        ("nym-api", BuildInfoAnswer::BannerFirst),
        ("nym-node", BuildInfoAnswer::Ok),
        ("nym-client", BuildInfoAnswer::Ok),
        ("nym-socks5-client", BuildInfoAnswer::NoTriple),
        ("somebodys-node", BuildInfoAnswer::KnowsNoBanner),
    ];
    std::thread::scope(|scope| {
        for (name, build_info) in daemons {
            scope.spawn(move || runs_and_is_upgraded(name, &build_info));
        }
    });
}

fn runs_and_is_upgraded(name: &str, build_info: &BuildInfoAnswer) {
    let (sandbox, upstream) = (Sandbox::new(), Upstream::http());
    let behaviour =
        |version| Behaviour { name: name.to_owned(), build_info: build_info.clone(), ..Behaviour::new(version) };
    let minted = |version| {
        let path = sandbox.path().join(format!("{name}-{version}"));
        mint(&template(), &path, &behaviour(version));
        path
    };
    let first = minted("1.0.0");
    let mut init = sandbox.omnivisor(omnivisor_exe(), "nymvisor");
    init.args(["init", first.to_str().unwrap(), "--daemon-home", sandbox.daemon_home().to_str().unwrap()]);
    init.args(["--upstream-base-upgrade-url", &upstream.url("/"), "--startup-period-duration", "500ms"]);
    assert!(said(&init.output().unwrap()).contains(&format!("daemon name:                       {name}\n")));
    let mut run = sandbox.omnivisor(omnivisor_exe(), "nymvisor");
    run.args(["run", "run"]);
    let _supervised = sandbox.spawn(run);
    let second = minted("2.0.0");
    let mut add = sandbox.omnivisor(omnivisor_exe(), "nymvisor");
    add.args(["add-upgrade", second.to_str().unwrap(), "--upgrade-name", "next", "--now"]);
    said(&add.output().unwrap());
    wait_until(&format!("{name} 2.0.0 runs"), SOON, || {
        let running = sandbox.node_log().running();
        running.iter().any(|node| node.version == "2.0.0").then_some(())
    });
    let id = format!("{name}-default");
    let installation = Installation::at(&sandbox, &id, name, &Options::default());
    wait_until("it is committed", SOON, || {
        std::fs::read_to_string(installation.history()).ok()?.contains("\"2.0.0\"").then_some(())
    });
    // Nymvisor itself understands no other answers than these.
    if matches!(build_info, BuildInfoAnswer::Ok | BuildInfoAnswer::NoTriple) {
        wait_until("the files say so", SOON, || (installation.nymvisor_would_start().ok()? == "2.0.0").then_some(()));
    }
}

#[test]
fn a_custom_data_directory_gets_a_folder_for_the_daemon_and_one_of_nymvisors_is_kept() {
    let sandbox = Sandbox::new();
    let executable = sandbox.path().join("node");
    mint(&template(), &executable, &Behaviour::new("1.0.0"));
    let nymvisor = |arguments: &[&str], directory: Option<&Path>| {
        let mut command = sandbox.omnivisor(omnivisor_exe(), "nymvisor");
        command.args(arguments);
        if let Some(directory) = directory {
            command.env("NYMVISOR_UPGRADE_DATA_DIRECTORY", directory);
        }
        command.output().unwrap()
    };
    let (executable, home) = (executable.to_str().unwrap(), sandbox.daemon_home());
    let init = ["init", executable, "--daemon-home", home.to_str().unwrap()];
    let data = sandbox.path().join("data");
    let own = data.join("nym-node");
    let shown = format!("CUSTOM upgrade data directory      \"{}\"\n", own.display());

    // By the variable or by the argument, once or twice: the same folder, and the configuration says which.
    assert!(said(&nymvisor(&init, Some(&data))).contains(&shown));
    let argument = ["--upgrade-data-directory", data.to_str().unwrap()];
    assert!(said(&nymvisor(&[&init[..], &argument].concat(), None)).contains(&shown));
    assert!(own.join("genesis/bin/nym-node").is_file());
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 1);
    let config = std::fs::read_to_string(
        sandbox.nym_home().join(".nym/nymvisors/instances/nym-node-default/config/config.toml"),
    );
    assert!(config.unwrap().contains(&format!("upgrade_data_directory = '{}'\n", own.display())));
    for directory in [None, Some(data.as_path()), Some(own.as_path())] {
        assert!(said(&nymvisor(&["config"], directory)).contains(&shown), "{directory:?}");
    }

    // What Nymvisor has put into the directory itself stays there.
    let theirs = World::with(
        Behaviour::new("1.0.0"),
        Options { data_directory: Some(sandbox.path().join("theirs")), ..options() },
    );
    let theirs_shown = format!("CUSTOM upgrade data directory      \"{}\"\n", sandbox.path().join("theirs").display());
    assert!(said(&theirs.nymvisor(&["config"]).output().unwrap()).contains(&theirs_shown));
    let mut again = theirs.nymvisor(&["config"]);
    again.env("NYMVISOR_UPGRADE_DATA_DIRECTORY", sandbox.path().join("theirs"));
    assert!(said(&again.output().unwrap()).contains(&theirs_shown));
    let daemon_home = theirs.installation.daemon_home().to_str().unwrap().to_owned();
    let mut init = theirs.nymvisor(&["init", executable, "--daemon-home", &daemon_home]);
    init.env("NYMVISOR_UPGRADE_DATA_DIRECTORY", sandbox.path().join("theirs"));
    assert!(said(&init.output().unwrap()).contains(&theirs_shown));
}

#[test]
fn a_variable_that_counts_over_an_argument_says_so() {
    let sandbox = Sandbox::new();
    let executable = sandbox.path().join("node");
    mint(&template(), &executable, &Behaviour::new("1.0.0"));
    let mut init = sandbox.omnivisor(omnivisor_exe(), "nymvisor");
    init.args([
        "init",
        executable.to_str().unwrap(),
        "--daemon-home",
        "/foo",
        "--restart-daemon-after-upgrade",
        "true",
    ]);
    init.env("DAEMON_HOME", sandbox.daemon_home()).env("DAEMON_RESTART_AFTER_UPGRADE", "f");
    let output = init.output().unwrap();
    let text = said(&output);
    assert!(text.contains(&format!("daemon home:                       {}\n", sandbox.daemon_home().display())));
    assert!(text.contains("restart after upgrade:             false\n"));
    let log = String::from_utf8_lossy(&output.stderr);
    for words in ["DAEMON_HOME is set, and counts over --daemon-home", "counts over --restart-daemon-after-upgrade"] {
        assert!(log.contains(words), "{log}");
    }
}

#[test]
fn a_log_level_that_makes_no_sense_is_named_and_one_that_does_is_followed() {
    let world = World::new();
    for (level, expected, unexpected) in [
        ("all=of=it", "RUST_LOG = \"all=of=it\" is ignored", ""),
        ("error", "", "INFO"),
        ("off,omnivisor=info", "INFO", ""),
    ] {
        let mut run = world.run_command();
        run.env("RUST_LOG", level);
        let before = world.log().starts().len();
        let mut supervised = world.sandbox.spawn(run);
        wait_until("a start", SOON, || (world.log().starts().len() > before).then_some(()));
        supervised.signal(15);
        supervised.wait(SOON);
        let log = supervised.stderr();
        assert!(log.contains(expected), "{level}: {log}");
        assert!(unexpected.is_empty() || !log.contains(unexpected), "{level}: {log}");
    }
}
