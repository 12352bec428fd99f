//! The files of the Vega dialect: `config.toml` and `run-config.toml` as Vega Visor and people write them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use omnivisor_core::dialect::vega::config::{Asset, AutoInstall, Config, ConfigError, asset_name};
use omnivisor_core::dialect::vega::run_config::{RunConfig, Warning};
use omnivisor_core::release::ReleaseName;
use proptest::prelude::*;

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("fixtures/vega/", $name))
    };
}

const ASSET: &str = "vega-linux-arm64.zip";

fn parse(text: &str) -> (Config, Vec<String>) {
    let (config, warnings) = Config::parse(text, ASSET).unwrap();
    (config, said(&warnings))
}

fn said(warnings: &[Warning]) -> Vec<String> {
    warnings.iter().map(ToString::to_string).collect()
}

/// Each text has all of its parts.
#[track_caller]
fn check(texts: &[String], parts: &[&[&str]]) {
    assert_eq!(texts.len(), parts.len(), "{texts:#?}");
    for (text, parts) in texts.iter().zip(parts) {
        for part in *parts {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
    }
}

/// What the documentation promises.
fn documented() -> Config {
    Config {
        first_connection_retries: 175_000,
        restart_connection_retries: 10,
        restarts: 3,
        restarts_delay: Duration::from_secs(5),
        stop_delay: Duration::ZERO,
        stop_timeout: Duration::from_secs(15),
        upgrade_folders: BTreeMap::from([("vX.X.X".to_owned(), "vX.X.X".to_owned())]),
        auto_install: AutoInstall {
            enabled: true,
            owner: "vegaprotocol".to_owned(),
            repository: "vega".to_owned(),
            asset: Asset { name: "vega-linux-amd64.zip".to_owned(), binary_name: Some("vega".to_owned()) },
        },
    }
}

// ---- config.toml

#[test]
fn a_configuration_is_written_and_read_as_vega_visor_writes_it() {
    assert_eq!(Config::template("vega-linux-amd64.zip"), fixture!("config.toml"));
    assert_eq!(parse(fixture!("config.toml")), (documented(), Vec::new()));
}

#[test]
fn init_names_the_asset_of_this_machine() {
    for (os, arch, name) in [
        ("linux", "x86_64", "vega-linux-amd64.zip"),
        ("linux", "aarch64", "vega-linux-arm64.zip"),
        ("macos", "aarch64", "vega-darwin-arm64.zip"),
        ("linux", "riscv64", "vega-linux-riscv64.zip"),
    ] {
        assert_eq!(asset_name(os, arch), name);
        assert_eq!(parse(&Config::template(name)).0.auto_install.asset.name, name);
    }
}

#[test]
fn keys_left_out_take_their_documented_defaults_and_that_is_said_once() {
    let (config, warnings) = parse(fixture!("config-sparse.toml"));
    assert_eq!(config, Config { restarts: 7, upgrade_folders: BTreeMap::new(), ..documented() });
    let zero = "where Vega Visor takes 0";
    check(
        &warnings,
        &[
            &["maxNumberOfFirstConnectionRetries is left out: 175000 is taken", zero],
            &["maxNumberOfRestartConnectionRetries is left out: 10 is taken", zero],
            &["restartsDelaySeconds is left out: 5 is taken", zero],
            &["stopSignalTimeoutSeconds is left out: 15 is taken", zero],
            &["autoInstall.repositoryOwner is left out: \"vegaprotocol\" is taken", "fails at the upgrade"],
            &["autoInstall.repository is left out: \"vega\" is taken"],
        ],
    );
}

#[test]
fn without_a_table_for_it_nothing_is_downloaded() {
    let (config, warnings) = parse("maxNumberOfRestarts = 3");
    assert!(!config.auto_install.enabled);
    assert!(!warnings.iter().any(|warning| warning.contains("autoInstall")), "{warnings:?}");
    let (config, warnings) = parse("[autoInstall]\nenabled = false");
    assert!(!config.auto_install.enabled);
    assert!(!warnings.iter().any(|warning| warning.contains("autoInstall")), "{warnings:?}");
}

#[test]
fn a_table_for_it_that_does_not_say_whether_means_that_it_is_wanted() {
    let (config, warnings) = parse("[autoInstall]");
    let asset = Asset { name: ASSET.to_owned(), binary_name: Some("vega".to_owned()) };
    assert_eq!(config.auto_install, AutoInstall { asset, ..documented().auto_install });
    check(
        &warnings[5..],
        &[
            &["autoInstall.enabled is left out: true is taken, where Vega Visor takes false"],
            &["autoInstall.repositoryOwner is left out"],
            &["autoInstall.repository is left out"],
            &["autoInstall.asset.name is left out: \"vega-linux-arm64.zip\""],
        ],
    );
}

#[test]
fn an_asset_without_a_binarys_name_is_the_binary_unless_it_is_an_archive() {
    let (config, warnings) = parse("[autoInstall.asset]\nname = 'vega-linux'");
    assert_eq!((config.auto_install.asset.binary(), warnings.len()), ("vega-linux", 8));
    let (config, warnings) = parse("[autoInstall.asset]\nname = 'x.ZIP'");
    assert_eq!(config.auto_install.asset.binary(), "vega");
    check(&warnings[8..], &[&["autoInstall.asset.binaryName is left out: \"vega\"", "the archive itself"]]);
    let (config, _) = parse("[autoInstall.asset]\nname = 'x.zip'\nbinaryName = './bin//vega'");
    assert_eq!(config.auto_install.asset.binary(), "bin/vega");
}

#[test]
fn keys_may_be_written_in_any_case_but_not_twice() {
    let upper: String = fixture!("config.toml")
        .lines()
        .map(|line| match line.split_once('=') {
            Some((key, value)) if !line.contains("vX") => format!("{}={value}\n", key.to_uppercase()),
            _ => format!("{line}\n").replace("[autoInstall", "[AUTOINSTALL"),
        })
        .collect();
    assert!(upper.contains("MAXNUMBEROFRESTARTS") && upper.contains("[AUTOINSTALL.asset]"), "{upper}");
    assert_eq!(parse(&upper), (documented(), Vec::new()));
    let error = Config::parse("restartsDelaySeconds = 1\nRESTARTSDELAYSECONDS = 2", ASSET).unwrap_err();
    assert!(matches!(&error, ConfigError::Twice { key, .. } if key.eq_ignore_ascii_case("restartsDelaySeconds")));
}

#[test]
fn outdated_forms_are_named_with_what_is_written_today() {
    let default = "autoInstall.asset.name is left out: \"vega-linux-arm64.zip\" is taken";
    let darwin = "write [autoInstall.asset] with name = \"vega-darwin-amd64.zip\" and binaryName = \"vega\"";
    let linux = "write [autoInstall.asset] with name = \"vega-linux-amd64.zip\" and binaryName = \"vega\"";
    let (_, warnings) = parse(fixture!("config-until-0.71.toml"));
    check(&warnings, &[&[default], &["config.toml, line 11: autoInstall.assets is ignored", "data node", darwin]]);
    let (_, warnings) = parse(fixture!("config-upgrading-guide.toml"));
    check(&warnings, &[&[default], &["autoInstall.assets is ignored", linux]]);
    for (line, parts) in [
        ("asset_name = 'x'", &["autoInstall.asset.asset_name is ignored", "write name"]),
        ("binary_name = 'x'", &["autoInstall.asset.binary_name is ignored", "write binaryName"]),
        ("[autoInstall.asset.vega]\nasset_name = 'vega-linux-amd64.zip'", &["autoInstall.asset.vega", linux]),
        ("[autoInstall.assets]", &["autoInstall.assets is ignored", "name = \"vega-linux-arm64.zip\""]),
        ("[autoInstall.asset.data_node]\nname = 'x'", &["autoInstall.asset.data_node", "leave it out"]),
    ] {
        let (_, warnings) = parse(&format!("{}{line}", fixture!("config.toml")));
        check(&warnings, &[parts]);
    }
}

#[test]
fn unknown_keys_are_named_with_what_was_probably_meant() {
    for (from, to, parts) in [
        (
            "maxNumberOfRestarts",
            "maxNumberOfRestart",
            &["line 3: maxNumberOfRestart ", "write maxNumberOfRestarts"][..],
        ),
        ("stopSignalTimeoutSeconds", "stopSignalTimeout", &["write stopSignalTimeoutSeconds"]),
        ("restartsDelaySeconds", "restart_delay_seconds", &["write restartsDelaySeconds"]),
        ("[upgradeFolders]", "[upgrade_folders]", &["line 8: upgrade_folders ", "write upgradeFolders"]),
        ("repositoryOwner", "owner", &["line 13: autoInstall.owner ", "no setting has this name"]),
        ("repository =", "repo =", &["autoInstall.repo "]),
        ("binaryName", "binary-name", &["write autoInstall.asset.binaryName"]),
        ("enabled = true", "enabled = true\n\"asset.name\" = 1", &["line 13: autoInstall.asset.name is ignored"]),
        ("enabled = true", "enabled = true\nmaxNumberOfRestarts = 1", &["belongs above the first [table]"]),
        ("enabled = true", "enabled = true\nname = 'x'", &["name belongs into [autoInstall.asset]"]),
        ("maxNumberOfRestarts", "vega.rpc.httpPath = ''\nmaxNumberOfRestarts", &["vega is", "run-config.toml"]),
        (
            "maxNumberOfRestarts",
            "logLevel = 1\nmaxNumberOfRestarts",
            &["logLevel is ignored: no setting has this name"],
        ),
    ] {
        let (_, warnings) = parse(&fixture!("config.toml").replacen(from, to, 1));
        check(&warnings[warnings.len() - 1..], &[parts]);
        assert!(warnings.len() <= 2, "{warnings:?}");
    }
}

#[test]
fn a_wrong_value_is_explained() {
    for (from, to, parts) in [
        (
            "maxNumberOfRestarts = 3",
            "maxNumberOfRestarts = -1",
            &["line 3", "maxNumberOfRestarts = -1", "negative"][..],
        ),
        ("Retries = 10", "Retries = 99999999999999999999", &["RestartConnectionRetries", "too large"]),
        ("Retries = 10", "Retries = 10.0", &["RestartConnectionRetries = 10.0", "fraction", "a whole number"]),
        ("DelaySeconds = 5", "DelaySeconds = '5'", &["restartsDelaySeconds", "it is a text", "a whole number"]),
        ("DelaySeconds = 5", "DelaySeconds = 5000000000", &["restartsDelaySeconds", "makes no sense"]),
        ("enabled = true", "enabled = 'yes'", &["autoInstall.enabled = 'yes'", "`true` or `false`"]),
        ("[upgradeFolders]\n", "upgradeFolders = 3\n", &["line 8", "upgradeFolders", "a table"]),
        ("\"vX.X.X\" =", "vX.X.X =", &["upgradeFolders.\"vX\"", "a release's tag in quotes"]),
        ("= \"vX.X.X\"", "= 1", &["upgradeFolders.\"vX.X.X\" = 1", "in quotes"]),
        ("= \"vX.X.X\"", "= '/srv/x'", &["upgradeFolders.\"vX.X.X\" = '/srv/x'", "below the home"]),
        ("= \"vX.X.X\"", "= 'a/../../x'", &["below the home"]),
        ("= \"vX.X.X\"", "= '.'", &["below the home"]),
        ("= \"vX.X.X\"", "= ''", &["below the home"]),
        ("= \"vX.X.X\"", "= 'current/x'", &["the link to the active release"]),
        ("= \"vX.X.X\"", "= '.omnivisor'", &["its state"]),
        ("\"vX.X.X\" =", "\"../x\" =", &["\"../x\" cannot be the name of an upgrade"]),
        ("\"vX.X.X\" =", "\"current\" =", &["cannot be the name of an upgrade"]),
        ("repository = \"vega\"", "repository = 'vegaprotocol/vega'", &["line 14", "as GitHub allows it"]),
        ("\"vegaprotocol\"", "\"..\"", &["autoInstall.repositoryOwner = \"..\"", "as GitHub allows it"]),
        ("\"vega-linux-amd64.zip\"", "\"../x.zip\"", &["autoInstall.asset.name", "no file's name"]),
        ("\"vega-linux-amd64.zip\"", "\"x/\"", &["autoInstall.asset.name", "no file's name"]),
        ("binaryName = \"vega\"", "binaryName = '/bin/sh'", &["autoInstall.asset.binaryName", "leads out"]),
        ("enabled = true", "enabled = true\nenabled = false", &["cannot read config.toml", "line 13", "^"]),
    ] {
        assert!(fixture!("config.toml").contains(from), "{from}");
        let error = Config::parse(&fixture!("config.toml").replacen(from, to, 1), ASSET).unwrap_err().to_string();
        check(&[error], &[parts]);
    }
}

#[test]
fn a_file_that_is_something_else_is_refused() {
    for (text, said) in [
        ("", "it is empty"),
        (" \n\n", "it is empty"),
        ("\u{feff}\n", "it is empty"),
        ("<html>404</html>", "looks like HTML"),
        ("{\"maxNumberOfRestarts\": 3}", "looks like JSON"),
    ] {
        let error = Config::parse(text, ASSET).unwrap_err().to_string();
        assert!(error.contains("config.toml") && error.contains(said), "{error}");
        let error = RunConfig::parse(text).unwrap_err().to_string();
        assert!(error.contains("run-config.toml") && error.contains(said), "{error}");
    }
    assert_eq!(parse(&format!("\u{feff}{}", fixture!("config.toml"))).0, documented());
}

#[test]
fn a_releases_folder_is_called_like_its_tag_unless_it_is_mapped() {
    let (config, _) = parse("[upgradeFolders]\n'v0.74.0' = './releases//v0.74.0-hotfix/'");
    let folder = |tag: &str| config.upgrade_folder(&ReleaseName::parse(tag).unwrap()).to_owned();
    assert_eq!(folder("v0.74.0"), "releases/v0.74.0-hotfix");
    assert_eq!(folder("V0.74.0"), "V0.74.0", "tags are not keys: their case counts");
}

// ---- run-config.toml

fn run_config(text: &str) -> RunConfig {
    let (config, warnings) = RunConfig::parse(text).unwrap();
    assert_eq!(said(&warnings), [""; 0]);
    config
}

#[test]
fn a_run_configuration_is_read_as_vega_visor_writes_it() {
    let config = run_config(fixture!("run-config.toml"));
    assert_eq!((config.name.as_str(), config.data_node.is_none()), ("genesis", true));
    assert_eq!(config.vega.args, ["arg1", "arg2", "..."]);
    assert_eq!((config.rpc.socket_path, config.rpc.http_path), (None, None), "empty is as core has it");
    let data_node = run_config(fixture!("run-config-data-node.toml")).data_node.unwrap();
    assert_eq!(data_node.path, Path::new("vega data-node"));
}

#[test]
fn a_run_configuration_written_by_hand_is_read() {
    let (config, warnings) = RunConfig::parse(fixture!("run-config-by-hand.toml")).unwrap();
    check(&said(&warnings), &[&["run-config.toml, line 5: vega.owner is ignored: no setting has this name"]]);
    assert_eq!(config.name, "v0.73.0");
    assert_eq!(config.vega.executable(Path::new("/home/visor/current")), Path::new("/opt/vega/vega"));
    assert_eq!(config.rpc.socket_path.as_deref(), Some(Path::new("/run/vega/vega.sock")));
    assert_eq!(config.rpc.http_path.as_deref(), Some("/rpc"));
    let data_node = config.data_node.as_ref().unwrap();
    assert_eq!(data_node.executable(Path::new("/v")), Path::new("/v/data-node"));
    assert_eq!(data_node.args, ["start", "--home", "/srv/vega"]);
    assert_eq!(config.unfilled(), None);
}

#[test]
fn a_template_that_nobody_has_filled_in_is_known_as_such() {
    for text in [fixture!("run-config.toml").to_owned(), fixture!("run-config-data-node.toml").to_owned()] {
        check(&[run_config(&text).unfilled().unwrap()], &[&["vega.binary.args still says \"arg1\""]]);
    }
    let filled = "name='x'\nvega.binary.path='vega'\nvega.binary.args=['start']\n";
    assert_eq!(run_config(filled).unfilled(), None);
    let peer = format!("{filled}data_node.binary = {{ path = 'vega data-node', args = ['start'] }}");
    check(&[run_config(&peer).unfilled().unwrap()], &[&["data_node.binary.path", "\"datanode\", \"start\""]]);
    for with_data_node in [false, true] {
        let ours = run_config(&RunConfig::template("v\"1", with_data_node));
        assert_eq!((ours.name.as_str(), ours.data_node.is_some()), ("v\"1", with_data_node));
        check(&[ours.unfilled().unwrap()], &[&["vega.binary.args still says \"<home of vega>\""]]);
        let text = RunConfig::template("genesis", with_data_node);
        let filled = text.replace("<home of vega>", "/srv/vega").replace("<home of cometbft>", "/srv/cometbft");
        let filled = run_config(&filled);
        assert_eq!(filled.unfilled(), None);
        let data_node = filled.data_node.map(|binary| (binary.path, binary.args[..2].join(" ")));
        assert_eq!(data_node.is_some(), with_data_node);
        assert!(data_node.is_none_or(|it| it == ("vega".into(), "datanode start".to_owned())));
    }
}

#[test]
fn a_wrong_run_configuration_is_explained() {
    for (from, to, parts) in [
        ("path = \"vega\"", "", &["vega.binary.path is missing"][..]),
        ("path = \"vega\"", "path = ''", &["vega.binary.path is missing or empty"]),
        ("path = \"vega\"", "path = \"a\\u0000b\"", &["line 5", "zero byte"]),
        ("\"arg2\"", "2", &["line 6", "vega.binary.args", "a list of texts"]),
        ("[\"arg1\", \"arg2\", \"...\"]", "\"start --home /x\"", &["vega.binary.args", "a list of texts"]),
        ("[vega.rpc]", "[data_node]\n[vega.rpc]", &["data_node.binary.path is missing"]),
        ("[vega.rpc]", "[VEGA.rpc]", &["stands there twice, in two spellings"]),
    ] {
        let error = RunConfig::parse(&fixture!("run-config.toml").replacen(from, to, 1)).unwrap_err().to_string();
        check(&[error], &[parts]);
    }
}

#[test]
fn what_a_shell_would_have_made_something_else_of_is_named() {
    for (args, parts) in [
        ("'start', '--home /x'", &[&["\"--home /x\" is passed as one word"][..]][..]),
        ("'start --home=/x'", &[&["as one word"]]),
        ("'start', '--home', '$HOME/x'", &[&["--home is \"$HOME/x\"", "variables are not replaced"]]),
        ("'start', '--home=~/x'", &[&["variables are not replaced"]]),
        ("'start', '--home=/my disk'", &[]),
        ("'start', '--tendermint-home', '$HOME/x'", &[]),
    ] {
        let text = fixture!("run-config.toml").replace("\"arg1\", \"arg2\", \"...\"", args);
        check(&said(&RunConfig::parse(&text).unwrap().1), parts);
    }
    let (_, warnings) =
        RunConfig::parse(&fixture!("run-config-data-node.toml").replace("data_node", "datanode")).unwrap();
    check(&said(&warnings), &[&["line 11: datanode is ignored", "write data_node"]]);
}

#[test]
fn the_next_release_keeps_what_a_person_wrote() {
    let next = RunConfig::for_release(fixture!("run-config-by-hand.toml"), "v0.74.0", "vega").unwrap();
    assert_eq!(next, fixture!("run-config-by-hand.v0.74.0.toml"));
}

#[test]
fn a_data_nodes_words_are_put_in_front_only_where_they_are_missing() {
    for (before, after) in [
        (r#"["--home", "/x"]"#, r#"["datanode", "start", "--home", "/x"]"#),
        (r#"["start", "--home", "/x"]"#, r#"["datanode", "start", "--home", "/x"]"#),
        (r#"[ "node" ]"#, r#"[ "datanode", "node" ]"#),
        (r#"["datanode", "node", "--home", "/x"]"#, r#"["datanode", "node", "--home", "/x"]"#),
        (r#"["datanode","start"]"#, r#"["datanode","start"]"#),
        (r#"["/a/datanode/x"]"#, r#"["datanode", "start", "/a/datanode/x"]"#),
        ("[]", r#"["datanode", "start"]"#),
        ("[\n  \"--home\",\n  \"/x\" # y\n]", "[\n  \"datanode\",\n  \"start\",\n  \"--home\",\n  \"/x\" # y\n]"),
        ("[ # x\n\t\"start\"]", "[\n\t\"datanode\", # x\n\t\"start\"]"),
    ] {
        let text = |args: &str, name: &str, path: &str| {
            format!(
                "name = '{name}'\nvega = {{ binary = {{ path = '{path}', args = ['start'] }} }}\n\
                 [data_node]\nbinary.path = '{path}'\nbinary.args = {args}\n"
            )
            .replace('\'', if name == "x" { "'" } else { "\"" })
        };
        let next = RunConfig::for_release(&text(before, "x", "/old"), "v1", "bin/vega").unwrap();
        assert_eq!(next, text(after, "v1", "bin/vega").replace("[\"start\"]", "['start']"), "{before}");
    }
}

#[test]
fn what_the_current_release_leaves_out_is_added() {
    let text = "# mine\n[vega.binary]\npath = 'v'\n[data_node.binary]\npath = 'd'\n";
    let next = run_config(&RunConfig::for_release(text, "v1", "vega").unwrap());
    assert_eq!(next.name, "v1");
    assert_eq!(next.data_node.unwrap().args, ["datanode", "start"]);
    assert!(RunConfig::for_release("name = 'x'", "v1", "vega").is_err());
    assert!(RunConfig::for_release("[vega.binary]\npath = 'v'\n[VEGA]", "v1", "vega").is_err());
}

// ---- anything

/// Text that is often nearly right.
fn nearly_toml() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "maxNumberOfRestarts",
        "stopDelaySeconds",
        "upgradeFolders",
        "autoInstall",
        "asset",
        "assets",
        "name",
        "enabled",
        "vega",
        "binary",
        "path",
        "args",
        "rpc",
        "data_node",
        "socketPath",
        "=",
        ".",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        ",",
        "\n",
        "\"v1\"",
        "'..'",
        "true",
        "3",
        "-1",
        "1e9",
        "0xff",
        "#",
        "\\",
        "é",
        "1979-05-27",
        " ",
        "\"",
        "\r\n",
    ]);
    prop_oneof![prop::collection::vec(words, 0..24).prop_map(|words| words.concat()), any::<String>()]
}

proptest! {
    #[test]
    fn no_text_is_too_odd_to_be_refused(text in nearly_toml(), name in ".*", binary in ".*") {
        let _ = Config::parse(&text, ASSET);
        if let Ok((current, _)) = RunConfig::parse(&text) {
            let next = RunConfig::for_release(&text, &name, "vega").unwrap();
            let (next, _) = RunConfig::parse(&next).unwrap();
            prop_assert_eq!(&next.name, &name);
            prop_assert_eq!(next.rpc, current.rpc);
            let _ = RunConfig::for_release(&text, &name, &binary);
        }
    }

    #[test]
    fn the_next_release_runs_with_the_same_arguments(
        vega in prop::collection::vec("[^\0\x7f]*", 0..5), data_node in prop::option::of(prop::collection::vec("[^\0\x7f]*", 0..5)),
        name in ".*",
    ) {
        // Lists of both are written alike, but for a control character that TOML does not have as it is.
        let list = |words: &[String]| serde_json::to_string(words).unwrap();
        let mut text = format!("[vega.binary]\npath = 'old'\nargs = {}\n", list(&vega));
        if let Some(args) = &data_node {
            text += &format!("[data_node.binary]\npath = 'old'\nargs = {}\n", list(args));
        }
        let (next, _) = RunConfig::parse(&RunConfig::for_release(&text, &name, "vega").unwrap()).unwrap();
        prop_assert_eq!(next.name, name);
        prop_assert_eq!(&next.vega.path, Path::new("vega"));
        prop_assert_eq!(next.vega.args, vega);
        prop_assert_eq!(next.data_node.is_some(), data_node.is_some());
        if let Some((next, args)) = next.data_node.zip(data_node) {
            prop_assert_eq!(&next.path, Path::new("vega"));
            prop_assert_eq!(&next.args[0], "datanode");
            prop_assert!(next.args.ends_with(&args), "{:?} {:?}", next.args, args);
            prop_assert!(next.args.len() - args.len() <= 2);
        }
    }
}
