//! The configuration: what Nymvisor wrote, what people write, and what the environment says.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use omnivisor_testkit::{Behaviour, Installation, Options, Sandbox, wait_until};

use super::{assert_done, tree};
use crate::world::{ANNOUNCEMENT, SOON, World, omnivisor_exe, options, template};

const ID: &str = "nym-node-default";

/// A sandbox with a configuration, and nothing else that is needed to show it.
struct Shown {
    sandbox: Sandbox,
}

impl Shown {
    fn new(text: &str) -> Self {
        let shown = Self { sandbox: Sandbox::new() };
        shown.instance(ID, text);
        shown
    }

    fn instances(&self) -> PathBuf {
        self.sandbox.nym_home().join(".nym/nymvisors/instances")
    }

    fn instance(&self, id: &str, text: &str) {
        let folder = self.instances().join(id).join("config");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.toml"), text).unwrap();
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = self.sandbox.omnivisor(omnivisor_exe(), "nymvisor");
        command.arg("config").args(more);
        command
    }

    fn config(&self, more: &[&str]) -> Output {
        self.command(more).output().unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What Nymvisor itself writes for a daemon `fakeds` with the home `/home/x`.
const DEFAULTS: &str = "
[nymvisor]
id = 'fakeds-default'
upstream_base_upgrade_url = 'https://nymtech.net/.wellknown/'
upstream_polling_rate = '1h'
disable_logs = false
upgrade_data_directory = ''

[daemon]
name = 'fakeds'
home = '/home/x'
absolute_upstream_upgrade_url = ''
allow_binaries_download = true
enforce_download_checksum = true
restart_after_upgrade = true
restart_on_failure = false
failure_restart_delay = '10s'
max_startup_failures = 10
startup_period_duration = '2m'
shutdown_grace_period = '10s'
backup_data_directory = ''
unsafe_skip_backup = false
";

#[test]
fn the_configuration_is_printed_byte_for_byte_as_nymvisor_prints_it() {
    let shown = Shown::new(DEFAULTS);
    let text = shown.config(&[]);
    let expected = "
id:                                fakeds-default
daemon name:                       fakeds
daemon home:                       /home/x
upstream base upgrade url:         https://nymtech.net/.wellknown/
disable nymvisor logs:             false
CUSTOM upgrade data directory      \"\"
upstream absolute upgrade url:     \"\"
allow binaries download:           true
enforce download checksum:         true
restart after upgrade:             true
restart on failure:                false
on failure restart delay:          10s
max startup failures:              10
startup period duration:           2m
shutdown grace period:             10s
CUSTOM backup data directory       \"\"
UNSAFE skip backups                false

";
    assert_eq!(String::from_utf8(text.stdout.clone()).unwrap(), expected);
    assert_eq!((text.status.code(), said(&text)), (Some(0), String::new()));
    let line = concat!(
        r#"{"nymvisor":{"id":"fakeds-default","upstream_base_upgrade_url":"https://nymtech.net/.wellknown/","#,
        r#""upstream_polling_rate":"1h","disable_logs":false,"upgrade_data_directory":null},"#,
        r#""daemon":{"name":"fakeds","home":"/home/x","absolute_upstream_upgrade_url":null,"#,
        r#""allow_binaries_download":true,"enforce_download_checksum":true,"restart_after_upgrade":true,"#,
        r#""restart_on_failure":false,"failure_restart_delay":"10s","max_startup_failures":10,"#,
        r#""startup_period_duration":"2m","shutdown_grace_period":"10s","backup_data_directory":null,"#,
        r#""unsafe_skip_backup":false}}"#,
        "\n"
    );
    for arguments in [["-o", "json"], ["--output", "json"]] {
        let json = shown.config(&arguments);
        assert_eq!(String::from_utf8(json.stdout.clone()).unwrap(), line);
        assert_eq!((json.status.code(), said(&json)), (Some(0), String::new()));
    }
}

#[test]
fn what_the_environment_says_is_printed_too() {
    let shown = Shown::new(DEFAULTS);
    let set = |command: &mut Command| {
        command.env("DAEMON_ABSOLUTE_UPSTREAM_UPGRADE_URL", "https://example.com/a?b=c&d=e");
        command
            .env("NYMVISOR_UPGRADE_DATA_DIRECTORY", "/srv/data")
            .env("DAEMON_BACKUP_DATA_DIRECTORY", "/srv/back ups");
        command.env("NYMVISOR_UPSTREAM_POLLING_RATE", "90m").env("DAEMON_MAX_STARTUP_FAILURES", "3");
        command.env("DAEMON_STARTUP_PERIOD_DURATION", "1000s").env("DAEMON_FAILURE_RESTART_DELAY", "336h");
        command.env("DAEMON_RESTART_ON_FAILURE", "T").env("DAEMON_UNSAFE_SKIP_BACKUP", "1").output().unwrap().stdout
    };
    let text = String::from_utf8(set(&mut shown.command(&[]))).unwrap();
    for line in [
        "CUSTOM upgrade data directory      \"/srv/data\"",
        "upstream absolute upgrade url:     \"https://example.com/a?b=c&d=e\"",
        "restart on failure:                true",
        "on failure restart delay:          14days",
        "max startup failures:              3",
        "startup period duration:           16m 40s",
        "CUSTOM backup data directory       \"/srv/back ups\"",
        "UNSAFE skip backups                true",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} in {text}");
    }
    let json = String::from_utf8(set(&mut shown.command(&["-o", "json"]))).unwrap();
    for part in [
        r#""upstream_polling_rate":"1h 30m","disable_logs":false,"upgrade_data_directory":"/srv/data"}"#,
        r#""absolute_upstream_upgrade_url":"https://example.com/a?b=c&d=e","allow_binaries_download":true"#,
        r#""backup_data_directory":"/srv/back ups","unsafe_skip_backup":true}}"#,
    ] {
        assert!(json.contains(part), "{part} in {json}");
    }
}

/// N33
#[test]
fn what_nymvisor_has_escaped_as_if_for_html_is_read_as_it_was_meant() {
    let (sandbox, upstream) = (Sandbox::new(), omnivisor_testkit::Upstream::http());
    let home = sandbox.path().join("it's <mine> & \"yours\" = `ours`");
    let executable = sandbox.path().join("node");
    omnivisor_testkit::mint(&template(), &executable, &Behaviour::new("1.0.0"));
    let options = Options {
        absolute_url: Some(upstream.url(&format!("{ANNOUNCEMENT}?token=a&b=c"))),
        daemon_home: Some(home.clone()),
        ..options()
    };
    let installation = Installation::nymvisor_with(&sandbox, ID, "nym-node", &executable, &options);
    let written = fs::read_to_string(installation.config()).unwrap();
    assert!(
        written.contains("?token&#x3D;a&amp;b&#x3D;c'") && written.contains("/it&#x27;s &lt;mine&gt; &amp; &quot;")
    );

    let command = |arguments: &[&str]| {
        let mut command = sandbox.omnivisor(omnivisor_exe(), "nymvisor");
        command.args(arguments);
        command
    };
    let shown = command(&["config", "-o", "json"]).output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["daemon"]["home"], home.to_str().unwrap());
    let mut run = command(&["run", "run", "--home"]);
    run.arg(&home);
    let _supervised = sandbox.spawn(run);
    let request = wait_until("upstream is asked", SOON, || upstream.last_request(ANNOUNCEMENT));
    assert_eq!(request.query, "token=a&b=c");
    wait_until("the node has the home", SOON, || home.join("data/state.json").exists().then_some(()));
    wait_until("so has the supervisor", SOON, || {
        home.join("nymvisor/current-version-info.json").exists().then_some(())
    });
    let beside: Vec<_> =
        tree(sandbox.path()).into_iter().filter(|path| path.to_string_lossy().contains("&#x")).collect();
    assert!(beside.is_empty(), "{beside:?}");
    assert_eq!(installation.assert_nymvisor_would_start(), "1.0.0");
}

/// N45: every variable of Nymvisor, empty and wrong, and what is said to be right.
#[test]
fn a_variable_that_is_empty_or_wrong_is_named_before_anything_happens() {
    let path = ("a path in UTF-8", &["\u{fffd}"][..]);
    let name = ("a plain name that can be a file's, such as `nym-node`", &["a/b", "..", "a\nb", "\u{fffd}"][..]);
    let url =
        ("an absolute address such as `https://nymtech.net/.wellknown/`", &["/x", "nymtech.net", "ftp://a/b"][..]);
    let boolean = ("`true` or `false` (or t, f, 1, 0)", &["yes", "on", " true", "2"][..]);
    let duration = ("a duration such as `10s` or `1h 30m`", &["10", "-1s", "5 parsecs", "10S"][..]);
    let rate = (duration.0, &["10", "soon"][..]);
    let number = ("a whole number such as `10`", &["-1", "ten", "1.0", " 1"][..]);
    let variables = [
        ("NYMVISOR_ID", name),
        ("NYMVISOR_CONFIG_PATH", path),
        ("NYMVISOR_UPSTREAM_BASE_UPGRADE_URL", url),
        ("NYMVISOR_UPSTREAM_POLLING_RATE", rate),
        ("NYMVISOR_DISABLE_LOGS", boolean),
        ("NYMVISOR_UPGRADE_DATA_DIRECTORY", path),
        ("DAEMON_NAME", name),
        ("DAEMON_HOME", path),
        ("DAEMON_ABSOLUTE_UPSTREAM_UPGRADE_URL", url),
        ("DAEMON_ALLOW_BINARIES_DOWNLOAD", boolean),
        ("DAEMON_ENFORCE_DOWNLOAD_CHECKSUM", boolean),
        ("DAEMON_RESTART_AFTER_UPGRADE", boolean),
        ("DAEMON_RESTART_ON_FAILURE", boolean),
        ("DAEMON_FAILURE_RESTART_DELAY", duration),
        ("DAEMON_MAX_STARTUP_FAILURES", number),
        ("DAEMON_STARTUP_PERIOD_DURATION", duration),
        ("DAEMON_SHUTDOWN_GRACE_PERIOD", duration),
        ("DAEMON_BACKUP_DATA_DIRECTORY", path),
        ("DAEMON_UNSAFE_SKIP_BACKUP", boolean),
    ];
    assert_eq!(variables.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), 19, "all of them, once");
    let shown = Shown::new(DEFAULTS);
    let before = tree(shown.sandbox.path());
    for (variable, (right, values)) in variables {
        for value in values.iter().chain(&[""]) {
            let raw = if *value == "\u{fffd}" { OsStr::from_bytes(b"\xff") } else { OsStr::new(value) };
            let output = shown.command(&[]).env(variable, raw).output().unwrap();
            let said = said(&output);
            assert_eq!(output.status.code(), Some(1), "{variable}={value:?}: {said}");
            let begin = format!("Error: cannot use {variable} = {value:?}: ");
            assert!(said.starts_with(&begin), "{begin} in {said}");
            let right = if *value == "\u{fffd}" { "UTF-8" } else { right };
            assert!(said.contains("it has to be ") && said.trim_end().ends_with(right), "{variable}={value:?}: {said}");
            assert!(output.stdout.is_empty());
        }
    }
    // Whatever the command is.
    for arguments in [
        &["run", "run"][..],
        &["run", "version"],
        &["init", "/bin/true"],
        &["add-upgrade", "/bin/true", "--upgrade-name", "x"],
    ] {
        let mut command = shown.sandbox.omnivisor(omnivisor_exe(), "nymvisor");
        let output = command.args(arguments).env("DAEMON_UNSAFE_SKIP_BACKUP", "").output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("cannot use DAEMON_UNSAFE_SKIP_BACKUP = \"\""), "{arguments:?}: {said}");
    }
    assert_eq!(tree(shown.sandbox.path()), before);
}

/// N45: a zero is right for every duration but the one.
#[test]
fn a_duration_of_nothing_is_a_duration() {
    let shown = Shown::new(DEFAULTS);
    for (variable, code) in [
        ("DAEMON_FAILURE_RESTART_DELAY", 0),
        ("DAEMON_STARTUP_PERIOD_DURATION", 0),
        ("DAEMON_SHUTDOWN_GRACE_PERIOD", 0),
        ("NYMVISOR_UPSTREAM_POLLING_RATE", 1),
    ] {
        let output = shown.command(&[]).env(variable, "0s").output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{variable}: {}", said(&output));
        assert!(code == 0 || said(&output).contains(variable));
    }
}

/// N46
#[test]
fn what_is_no_instance_among_the_instances_is_not_counted() {
    let shown = Shown::new(DEFAULTS);
    fs::write(shown.instances().join(".DS_Store"), "\0\0\0\u{1}Bud1").unwrap();
    fs::create_dir(shown.instances().join("empty")).unwrap();
    fs::create_dir_all(shown.instances().join("half/config")).unwrap();
    fs::create_dir_all(shown.instances().join("odd/config/config.toml")).unwrap();
    let output = shown.config(&[]);
    assert_done(&output);
    assert!(String::from_utf8(output.stdout).unwrap().contains("fakeds-default"));

    for id in ["second", "another"] {
        shown.instance(id, &DEFAULTS.replace("fakeds-default", id));
    }
    let output = shown.config(&[]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("another, nym-node-default, second") && said.contains("NYMVISOR_ID"), "{said}");
    for wrong in ["DS_Store", "empty", "half", "odd"] {
        assert!(!said.contains(wrong), "{said}");
    }
    let output = shown.command(&["-o", "json"]).env("NYMVISOR_ID", "second").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains(r#""id":"second""#));
    for id in [ID, "second", "another"] {
        fs::remove_dir_all(shown.instances().join(id)).unwrap();
    }
    let output = shown.config(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no instance in"), "{output:?}");
}

/// N47
#[test]
fn keys_that_are_missing_have_their_defaults() {
    // Each one alone, and all of them.
    let defaults = Shown::new(DEFAULTS).config(&["-o", "json"]).stdout;
    let expected: serde_json::Value = serde_json::from_slice(&defaults).unwrap();
    let optional: Vec<&str> = DEFAULTS
        .lines()
        .filter(|line| line.contains('=') && !["id", "name", "home"].contains(&line.split(' ').next().unwrap()))
        .collect();
    assert_eq!(optional.len(), 15);
    let check = |text: &str, what: &str| {
        let output = Shown::new(text).config(&["-o", "json"]);
        assert_done(&output);
        let mut printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        if !text.contains("restart_on_failure") {
            assert_eq!(printed["daemon"]["restart_on_failure"], true, "as it is documented: {what}");
            printed["daemon"]["restart_on_failure"] = false.into();
        }
        assert_eq!(printed, expected, "{what}");
    };
    for line in &optional {
        check(&DEFAULTS.replace(&format!("{line}\n"), ""), line);
    }
    let all = optional.iter().fold(DEFAULTS.to_owned(), |text, line| text.replace(&format!("{line}\n"), ""));
    check(&all, "all of them");
}

/// N47
#[test]
fn keys_that_are_not_known_are_warned_about_by_name_and_refuse_nothing() {
    let text = format!("scheme = 3\n{DEFAULTS}quarantine = '2days'\n[notify]\npushover = 'x'\n")
        .replace("[daemon]", "upgrade_data_dirctory = '/x'\n[daemon]");
    let world = World::new();
    let mut plain = fs::read_to_string(world.installation.config()).unwrap();
    plain.push_str("\nquarantine = '2days'\n[notify]\npushover = 'x'\n");
    fs::write(world.installation.config(), format!("scheme = 3\n{plain}")).unwrap();
    let supervised = world.run();
    for key in ["scheme", "daemon.quarantine", "notify"] {
        let warned = supervised.stderr();
        let lines: Vec<&str> = warned.lines().filter(|line| line.contains(&format!(" {key} is ignored"))).collect();
        assert!(lines.len() == 1 && lines[0].contains("WARN"), "{key}: {warned}");
    }
    let output = Shown::new(&text).config(&["-o", "json"]);
    assert_done(&output);
    assert_eq!(output.stdout, Shown::new(DEFAULTS).config(&["-o", "json"]).stdout);
}

/// N47
#[test]
fn a_value_that_is_wrong_is_named_with_its_key_and_what_would_be_right() {
    for (right, wrong, parts) in [
        ("disable_logs = false", "disable_logs = 'perhaps'", &["disable_logs", "perhaps", "boolean"][..]),
        ("max_startup_failures = 10", "max_startup_failures = -1", &["max_startup_failures", "-1"]),
        (
            "startup_period_duration = '2m'",
            "startup_period_duration = '2'",
            &["daemon.startup_period_duration", "\"2\"", "1h 30m"],
        ),
        ("failure_restart_delay = '10s'", "failure_restart_delay = 10", &["failure_restart_delay", "10", "string"]),
        (
            "upstream_polling_rate = '1h'",
            "upstream_polling_rate = '0s'",
            &["nymvisor.upstream_polling_rate", "0s", "`1s`"],
        ),
        (
            "'https://nymtech.net/.wellknown/'",
            "'nymtech.net'",
            &["nymvisor.upstream_base_upgrade_url", "nymtech.net", "https://"],
        ),
        ("id = 'fakeds-default'", "id = 'a/b'", &["nymvisor.id", "a/b", "plain name"]),
        ("home = '/home/x'", "home = ''", &["daemon.home", "missing or empty"]),
        ("home = '/home/x'", "home = '/home/x", &["home = '/home/x", "line 11"]),
    ] {
        let shown = Shown::new(&DEFAULTS.replace(right, wrong));
        let output = shown.config(&[]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{wrong}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} in {said}");
        assert!(said.contains("config/config.toml"), "{said}");
    }
}

#[test]
fn a_configuration_is_found_by_its_path_then_by_its_id_then_as_the_only_one() {
    let shown = Shown::new(DEFAULTS);
    let id = |command: &mut Command| {
        let output = command.output().unwrap();
        assert_done(&output);
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        shown["nymvisor"]["id"].as_str().unwrap().to_owned()
    };
    assert_eq!(id(&mut shown.command(&["-o", "json"])), "fakeds-default", "the only one");
    shown.instance("second", &DEFAULTS.replace("fakeds-default", "second"));
    assert_eq!(id(shown.command(&["-o", "json"]).env("NYMVISOR_ID", "second")), "second");
    let elsewhere = shown.sandbox.path().join("elsewhere.toml");
    fs::write(&elsewhere, DEFAULTS.replace("fakeds-default", "third")).unwrap();
    assert_eq!(id(shown.command(&["-o", "json"]).env("NYMVISOR_CONFIG_PATH", &elsewhere)), "third");
    // The path counts; the id is then only what the instance is called.
    let both = &mut shown.command(&["-o", "json"]);
    both.env("NYMVISOR_CONFIG_PATH", &elsewhere).env("NYMVISOR_ID", "second");
    assert_eq!(id(both), "second");
    let none = shown.command(&[]).env("NYMVISOR_ID", "fourth").output().unwrap();
    assert_eq!(none.status.code(), Some(1));
    assert!(said(&none).contains("instances/fourth/config/config.toml"), "{}", said(&none));
}
