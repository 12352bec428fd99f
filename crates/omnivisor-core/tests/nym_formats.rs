//! The formats of the Nym dialect: files as Nymvisor writes them, its outputs, and its environment.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnivisor_core::dialect::nym::build_info::{BuildInfo, BuildInfoError};
use omnivisor_core::dialect::nym::config::{Config, Fragment, MARKER};
use omnivisor_core::dialect::nym::files::{CurrentVersionFile, FileError, HistoryFile, LARGEST, PlanFile, UpgradeInfo};
use omnivisor_core::time::Timestamp;
use serde_json::{Value, json};

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("fixtures/nym/", $name))
    };
}

const CONFIG: &str = fixture!("config.toml");

// ---- build information

fn build_info() -> BuildInfo {
    BuildInfo::parse(fixture!("build-info.json").as_bytes()).unwrap()
}

#[test]
fn build_information_is_printed_as_nymvisor_prints_it() {
    assert_eq!(build_info().to_json_line(), fixture!("build-info.json"));
    assert_eq!(build_info().to_text(), fixture!("build-info.txt"));
    let odd = BuildInfo { commit_branch: "a\"b\n".to_owned(), ..build_info() };
    assert_eq!(BuildInfo::parse(odd.to_json_line().as_bytes()), Ok(odd));
}

#[test]
fn build_information_is_one_json_object_behind_a_banner_at_most() {
    let line = fixture!("build-info.json");
    let banner = format!("\n _ __  _ {{x}}\n| '_ \\| |\n\n{line}\n");
    for good in [format!("\n  {line}\n\n"), line.replacen('{', "{\"new\":[1],", 1), banner] {
        assert_eq!(BuildInfo::parse(good.as_bytes()), Ok(build_info()), "{good}");
    }
    assert_eq!(BuildInfo::parse(b" \n"), Err(BuildInfoError::Empty));
    let behind = format!("{line}\nbye");
    for bad in [format!("{line}{line}"), format!("nym-node 1.0 {line}"), behind, "{}".to_owned(), "[".repeat(100_000)] {
        let error = BuildInfo::parse(bad.as_bytes()).unwrap_err().to_string();
        let shown = error.split_once("it printed ").unwrap().1;
        assert!(shown.chars().count() <= 202 && !shown.contains('\n'), "{error}");
    }
    assert!(BuildInfo::parse(&[0xff, 0xfe]).is_err());
}

#[test]
fn an_unknown_triple_is_no_difference() {
    let old = fixture!("build-info.json").replace(",\"cargo_triple\":\"x86_64-unknown-linux-gnu\"", "");
    let old = BuildInfo::parse(old.as_bytes()).unwrap();
    assert_eq!(old.cargo_triple, "unknown");
    let found = build_info().to_identity();
    assert!(found.differences(&old.expected_identity()).is_empty());
    assert_eq!(found.differences(&build_info().expected_identity()), []);
    assert_eq!(old.to_identity().differences(&build_info().expected_identity()).len(), 1);
}

#[test]
fn build_information_survives_as_an_identity() {
    assert_eq!(BuildInfo::from_identity(&build_info().to_identity()), Some(build_info()));
    let some = [("binary_name", "x"), ("build_version", "1")].into_iter().collect();
    assert_eq!(BuildInfo::from_identity(&some).unwrap().commit_sha, "unknown");
    assert_eq!(BuildInfo::from_identity(&[("binary_name", "x")].into_iter().collect()), None);
}

// ---- configuration

fn config() -> Config {
    let (config, warnings) = Config::from_toml(CONFIG).unwrap();
    assert_eq!(warnings, []);
    config
}

#[test]
fn a_file_of_nymvisor_is_read_and_printed_as_nymvisor_prints_it() {
    assert_eq!(config().to_text(), fixture!("config.txt"));
    assert_eq!(config().to_json_line(), fixture!("config.json"));
    let new = Config::new("fakeds", Path::new("/home/x"), "fakeds-default").unwrap();
    assert_eq!(Config { restart_on_failure: true, ..config() }, new);
}

#[test]
fn what_a_file_leaves_out_is_as_documented() {
    let (config, warnings) =
        Config::from_toml("[nymvisor]\nid = 'i'\nupstream_polling_rate=''\n[daemon]\nname = 'n'\nhome = '/h'").unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config, Config::new("n", Path::new("/h"), "i").unwrap());
}

#[test]
fn a_written_configuration_is_read_back() {
    let odd = Config {
        home: PathBuf::from("/it's \\ &amp; \"x\"\t"),
        upgrade_data_directory: Some(PathBuf::from("/ü &lt;")),
        absolute_upstream_upgrade_url: Some("https://example.com/a?b=c&amp;d='e'".parse().unwrap()),
        startup_period_duration: Duration::new(93_784, 5_006_007),
        shutdown_grace_period: Duration::ZERO,
        max_startup_failures: 0,
        unsafe_skip_backup: true,
        ..config()
    };
    for config in [config(), odd] {
        let text = config.to_toml().unwrap();
        assert!(text.starts_with(MARKER), "{text}");
        assert_eq!(Config::from_toml(&text).unwrap(), (config, Vec::new()), "{text}");
    }
    let text = Config { startup_period_duration: Duration::new(93_784, 5_006_007), ..config() }.to_toml().unwrap();
    assert!(text.contains("\nstartup_period_duration = '1day 2h 3m 4s 5ms 6us 7ns'\n"), "{text}");
    let values = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect()
    };
    assert_eq!(values(&config().to_toml().unwrap()), values(CONFIG), "the keys, their order and form are Nymvisor's");
    let home = PathBuf::from(OsString::from_vec(vec![b'/', 0xff]));
    assert!(Config { home, ..config() }.to_toml().is_err());
}

#[test]
fn escapes_are_taken_back_only_where_nymvisor_may_have_written_them() {
    let escaped = CONFIG.replace("/home/x", "/home/a&#x3D;b&amp;amp;");
    let (config, warnings) = Config::from_toml(&escaped).unwrap();
    assert_eq!(config.home, Path::new("/home/a=b&amp;"));
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].to_string().contains("daemon.home"), "{}", warnings[0]);
    let (config, warnings) = Config::from_toml(&format!("{MARKER}\n{escaped}")).unwrap();
    assert_eq!(config.home, Path::new("/home/a&#x3D;b&amp;amp;"));
    assert_eq!(warnings, []);
}

#[test]
fn unknown_keys_are_named() {
    let text = format!("top = 1\n{CONFIG}\nnew = {{ x = 1979-05-27 }}\n[other]\nid = 1\n")
        .replace("[daemon]", "a=1\n[daemon]");
    let (read, warnings) = Config::from_toml(&text).unwrap();
    assert_eq!(read, config());
    let names: Vec<String> = warnings.iter().map(|w| w.to_string().split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["other", "top", "nymvisor.a", "daemon.new"]);
}

#[test]
fn a_wrong_value_is_explained() {
    for (from, to, parts) in [
        ("id = 'fakeds-default'", "", &["nymvisor.id"][..]),
        ("id = 'fakeds-default'", "id = ''", &["nymvisor.id"]),
        ("id = 'fakeds-default'", "id = '../x'", &["nymvisor.id", "separator"]),
        ("name = 'fakeds'", "", &["daemon.name"]),
        ("home = '/home/x'", "home = ''", &["daemon.home"]),
        ("'10s'\nmax", "'10'\nmax", &["daemon.failure_restart_delay", "\"10\"", "`10s`", "`1h 30m`"]),
        ("'1h'", "'0s'", &["nymvisor.upstream_polling_rate", "\"0s\"", "`1s`"]),
        ("'https://nymtech.net/.wellknown/'", "'nymtech.net'", &["upstream_base_upgrade_url", "absolute address"]),
        ("'https://nymtech.net/.wellknown/'", "'file:///x'", &["upstream_base_upgrade_url", "http"]),
        ("max_startup_failures = 10", "max_startup_failures = -1", &["line 21", "^"]),
        ("max_startup_failures = 10", "max_startup_failures = 'x'", &["line 21", "^"]),
        ("disable_logs = false", "disable_logs = 'no'", &["line 9", "^"]),
        ("disable_logs = false", "disable_logs = ", &["line 9", "^"]),
        ("[daemon]", "[[daemon]]", &["invalid type", "^"]),
    ] {
        assert!(CONFIG.contains(from), "{from}");
        let error = Config::from_toml(&CONFIG.replace(from, to)).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{to}: {error} lacks {part}");
        }
    }
}

#[test]
fn directories_do_not_depend_on_where_it_runs() {
    let mut config = Config {
        home: PathBuf::from("./home/./x"),
        upgrade_data_directory: Some(PathBuf::from("../data/")),
        backup_data_directory: Some(PathBuf::from("/abs/b")),
        ..config()
    };
    config.resolve_against(Path::new("/srv/nym"));
    assert_eq!(config.home, Path::new("/srv/nym/home/x"));
    assert_eq!(config.home.as_os_str(), "/srv/nym/home/x");
    assert_eq!(config.upgrade_data_directory.as_deref(), Some(Path::new("/srv/nym/../data")));
    assert_eq!(config.backup_data_directory.as_deref(), Some(Path::new("/abs/b")));
}

// ---- environment

fn env(vars: &[(&str, &str)]) -> Result<(Fragment, Vec<String>), String> {
    Fragment::from_env(vars.iter().map(|(name, value)| (name.into(), value.into())))
        .map(|(fragment, warnings)| (fragment, warnings.iter().map(ToString::to_string).collect()))
        .map_err(|error| error.to_string())
}

#[test]
fn every_variable_sets_its_field() {
    let (fragment, warnings) = env(&[
        ("NYMVISOR_ID", "i"),
        ("NYMVISOR_CONFIG_PATH", "/c"),
        ("NYMVISOR_UPSTREAM_BASE_UPGRADE_URL", "http://base/"),
        ("NYMVISOR_UPSTREAM_POLLING_RATE", "1s"),
        ("NYMVISOR_DISABLE_LOGS", "TRUE"),
        ("NYMVISOR_UPGRADE_DATA_DIRECTORY", "./d"),
        ("DAEMON_NAME", "n"),
        ("DAEMON_HOME", "h"),
        ("DAEMON_ABSOLUTE_UPSTREAM_UPGRADE_URL", "http://abs/x"),
        ("DAEMON_ALLOW_BINARIES_DOWNLOAD", "f"),
        ("DAEMON_ENFORCE_DOWNLOAD_CHECKSUM", "0"),
        ("DAEMON_RESTART_AFTER_UPGRADE", "False"),
        ("DAEMON_RESTART_ON_FAILURE", "T"),
        ("DAEMON_FAILURE_RESTART_DELAY", "0s"),
        ("DAEMON_MAX_STARTUP_FAILURES", "3"),
        ("DAEMON_STARTUP_PERIOD_DURATION", "1h30m"),
        ("DAEMON_SHUTDOWN_GRACE_PERIOD", " 1m 30s "),
        ("DAEMON_BACKUP_DATA_DIRECTORY", "/b"),
        ("DAEMON_UNSAFE_SKIP_BACKUP", "1"),
        ("PATH", ""),
    ])
    .unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    let mut read = config();
    assert_eq!(fragment.config_path.as_deref(), Some(Path::new("/c")));
    read.apply(fragment);
    let expected = Config {
        id: "i".to_owned(),
        upstream_base_upgrade_url: "http://base/".parse().unwrap(),
        upstream_polling_rate: Duration::from_secs(1),
        disable_logs: true,
        upgrade_data_directory: Some("./d".into()),
        name: "n".to_owned(),
        home: "h".into(),
        absolute_upstream_upgrade_url: Some("http://abs/x".parse().unwrap()),
        allow_binaries_download: false,
        enforce_download_checksum: false,
        restart_after_upgrade: false,
        restart_on_failure: true,
        failure_restart_delay: Duration::ZERO,
        max_startup_failures: 3,
        startup_period_duration: Duration::from_secs(5400),
        shutdown_grace_period: Duration::from_secs(90),
        backup_data_directory: Some("/b".into()),
        unsafe_skip_backup: true,
    };
    assert_eq!(read, expected);
    read.apply(Fragment::default());
    assert_eq!(read, expected);
}

#[test]
fn a_variable_that_is_set_must_be_right() {
    let bools = ["NYMVISOR_DISABLE_LOGS", "DAEMON_ALLOW_BINARIES_DOWNLOAD", "DAEMON_ENFORCE_DOWNLOAD_CHECKSUM"];
    let bools = bools.iter().flat_map(|name| ["yes", "on", " true", "", "2"].map(|value| (*name, value)));
    let others = [
        ("NYMVISOR_ID", ""),
        ("NYMVISOR_ID", "a/b"),
        ("NYMVISOR_CONFIG_PATH", ""),
        ("NYMVISOR_UPSTREAM_BASE_UPGRADE_URL", ""),
        ("NYMVISOR_UPSTREAM_BASE_UPGRADE_URL", "/x"),
        ("NYMVISOR_UPSTREAM_POLLING_RATE", "0s"),
        ("NYMVISOR_UPSTREAM_POLLING_RATE", ""),
        ("NYMVISOR_UPGRADE_DATA_DIRECTORY", ""),
        ("DAEMON_NAME", ""),
        ("DAEMON_HOME", ""),
        ("DAEMON_ABSOLUTE_UPSTREAM_UPGRADE_URL", ""),
        ("DAEMON_FAILURE_RESTART_DELAY", "10"),
        ("DAEMON_STARTUP_PERIOD_DURATION", "-1s"),
        ("DAEMON_SHUTDOWN_GRACE_PERIOD", "10S"),
        ("DAEMON_MAX_STARTUP_FAILURES", "-1"),
        ("DAEMON_MAX_STARTUP_FAILURES", ""),
        ("DAEMON_BACKUP_DATA_DIRECTORY", ""),
        ("DAEMON_ALLOW_DOWNLOAD_BINARIES", "maybe"),
    ];
    for (name, value) in bools.chain(others) {
        let error = env(&[(name, value)]).unwrap_err();
        assert!(error.contains(name) && error.contains(&format!("{value:?}")), "{name}={value}: {error}");
        assert!(error.contains("it has to be "), "{error}");
    }
    let raw = |name: &str| [(OsString::from(name), OsString::from_vec(vec![0xff]))].into_iter();
    assert!(Fragment::from_env(raw("DAEMON_NAME")).unwrap_err().to_string().contains("UTF-8"));
    assert!(Fragment::from_env(raw("DAEMON_HOME")).unwrap_err().to_string().contains("UTF-8"));
    assert!(Fragment::from_env(raw("SOMETHING")).is_ok());
}

#[test]
fn names_that_do_nothing_are_warned_about() {
    for (name, part) in [
        ("DAEMON_NAM", Some("no setting has this name")),
        ("NYMVISOR_HOME", Some("no setting has this name")),
        ("DAEMON_RESTART_DELAY", Some("belongs to Cosmovisor; here there is nothing like it")),
        ("DAEMON_POLL_INTERVAL", Some("NYMVISOR_UPSTREAM_POLLING_RATE")),
        ("DAEMON_DOWNLOAD_MUST_HAVE_CHECKSUM", Some("DAEMON_ENFORCE_DOWNLOAD_CHECKSUM")),
        ("UNSAFE_SKIP_BACKUP", Some("DAEMON_UNSAFE_SKIP_BACKUP")),
        ("HOME", None),
    ] {
        let (fragment, warnings) = env(&[(name, "")]).unwrap();
        assert_eq!(fragment, Fragment::default());
        match part {
            Some(part) => assert!(warnings[0].contains(part) && warnings[0].starts_with(name), "{warnings:?}"),
            None => assert!(warnings.is_empty(), "{warnings:?}"),
        }
    }
}

#[test]
fn the_second_spelling_counts_if_the_first_is_not_set() {
    let (first, second) = (("DAEMON_ALLOW_BINARIES_DOWNLOAD", "true"), ("DAEMON_ALLOW_DOWNLOAD_BINARIES", "false"));
    for (vars, allowed) in [(&[second][..], false), (&[first, second], true), (&[second, first], true)] {
        let (fragment, warnings) = env(vars).unwrap();
        assert_eq!(fragment.allow_binaries_download, Some(allowed));
        assert_eq!(warnings.len(), 1);
    }
}

// ---- files

#[test]
fn what_nymvisor_wrote_is_written_back_byte_for_byte() {
    macro_rules! check {
        ($type:ty, $($name:literal),+) => {$(
            let file = <$type>::parse(fixture!($name).as_bytes()).unwrap();
            assert_eq!(String::from_utf8(file.to_bytes()).unwrap(), fixture!($name));
        )+};
    }
    check!(UpgradeInfo, "genesis-upgrade-info.json", "local-upgrade-info.json", "upstream-upgrade-info.json");
    check!(PlanFile, "upgrade-plan.json", "upgrade-plan-empty.json");
    check!(HistoryFile, "upgrade-history.json");
    check!(CurrentVersionFile, "current-version.json");
}

#[test]
fn constructed_releases_are_as_nymvisor_makes_them() {
    let genesis = UpgradeInfo::parse(fixture!("genesis-upgrade-info.json").as_bytes()).unwrap();
    assert_eq!(UpgradeInfo::genesis(genesis.binary_details.clone().unwrap()), genesis);
    let local = UpgradeInfo::parse(fixture!("local-upgrade-info.json").as_bytes()).unwrap();
    let (now, then) = (local.publish_date.unwrap().0, local.upgrade_time.0);
    let details = local.binary_details.clone().unwrap();
    assert_eq!(UpgradeInfo::local("up1", details.clone(), now, None, then), local);
    let early = Some(Timestamp::EPOCH);
    assert_eq!(UpgradeInfo::local("up1", details, now, early, then).publish_date.unwrap().0, Timestamp::EPOCH);
}

#[test]
fn what_is_not_known_is_kept() {
    let mut plan: Value = serde_json::from_str(fixture!("upgrade-plan.json")).unwrap();
    plan["new"] = json!({"a": [1, null]});
    plan["current"]["new"] = json!(1);
    plan["queuedUp"][1]["new"] = json!("x");
    plan["queuedUp"][1]["omnivisor"] = json!({"new": 1, "instances": {"a": "2030-01-01T00:00:00Z"}});
    plan["queuedUp"][1]["platforms"]["linux-x86_64"] = json!({"checksumAlgorithm": "md5", "new": true});
    let kept = PlanFile::parse(plan.to_string().as_bytes()).unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&kept).unwrap(), plan);

    let mut history: Value = serde_json::from_str(fixture!("upgrade-history.json")).unwrap();
    history["new"] = json!(1);
    history["history"][0]["new"] = json!(1);
    history["history"].as_array_mut().unwrap().push(json!("odd"));
    let kept = HistoryFile::parse(history.to_string().as_bytes()).unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&kept).unwrap(), history);
}

#[test]
fn keys_that_only_nymvisor_demands_may_be_missing() {
    let info = UpgradeInfo::parse(
        br#"{"manual":false,"name":"n","version":"1","platforms":{"any":{"url":"http://x/"}},"upgradeTime":"2030-01-01 00:00:00Z"}"#,
    )
    .unwrap();
    assert_eq!((info.notes.as_str(), info.publish_date, &info.binary_details), ("", None, &None));
    assert_eq!(info.download("linux-arm").unwrap().1.unwrap().digest(), Ok(None));
}

#[test]
fn a_file_that_cannot_be_read_says_what_is_wrong() {
    let info = fixture!("upstream-upgrade-info.json");
    let without = |key: &str| info.lines().filter(|line| !line.contains(key)).collect::<Vec<_>>().join("\n");
    for (bytes, part) in [
        (without("\"manual\""), "manual"),
        (without("\"name\""), "name"),
        (without("\"version\""), "version"),
        (without("\"upgradeTime\""), "upgradeTime"),
        (info.replace("2030-01-01T00:00:00+02:00", "2030-01-01"), "RFC 3339"),
        (info.replace("\"binaryDetails\": null", "\"binaryDetails\": {}"), "binary_name"),
        ("<html>\n<body>404".to_owned(), "<html>\\n<body>404"),
        (format!("{info}x"), "trailing"),
        (String::new(), "EOF"),
        ("[".repeat(200_000), "expected an object that describes an upgrade"),
        (format!("{{\"x\":{}", "[".repeat(200_000)), "recursion limit"),
    ] {
        let error = UpgradeInfo::parse(bytes.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("upgrade-info.json"), "{error} lacks {part}");
        assert!(error.len() < 1000);
    }
    let large = vec![b' '; LARGEST + 1];
    let error = PlanFile::parse(&large).unwrap_err();
    assert_eq!(error, FileError::TooLarge { what: "upgrade-plan.json", size: LARGEST + 1 });
    assert!(error.to_string().contains("1048577"), "{error}");
    assert!(!PlanFile::parse(&large[1..]).unwrap_err().to_string().contains("1048576 are the most"));
}
