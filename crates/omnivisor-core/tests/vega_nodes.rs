//! What is known of Vega's nodes: their arguments, their own configurations, and what core answers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use omnivisor_core::dialect::vega::admin::{Accepted, AdminError, Status, interpret, is_version_of, request};
use omnivisor_core::dialect::vega::arguments::{
    SNAPSHOT_HEIGHT, core_home, data_node_home, has_flag, latest_segment_arguments, parse_latest_segment,
    tendermint_home, value_of, with_snapshot_height,
};
use omnivisor_core::dialect::vega::node_config::{
    CoreConfig, DataNodeConfig, Database, core_config_file, data_node_config_file, mismatch,
};
use omnivisor_core::dialect::vega::run_config::Rpc;
use omnivisor_core::release::ReleaseName;
use proptest::prelude::*;

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("fixtures/vega/", $name))
    };
}

/// Words as a list; no word has a blank.
fn words(text: &str) -> Vec<String> {
    text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

// ---- arguments

#[test]
fn a_flags_value_is_what_the_node_takes_it_for() {
    for (arguments, value) in [
        ("start --home /x", Some("/x")),
        ("start --home=/x", Some("/x")),
        ("start --home=/x --verbose", Some("/x")),
        ("--home /a --home=/b", Some("/b")),
        ("--home=/b --home /a", Some("/a")),
        ("--home=/a=b", Some("/a=b")),
        ("--home=/a --home=", Some("")),
        ("--home -", Some("-")),
        ("--home ---x", Some("---x")),
        ("--home=-x", Some("-x")),
        ("--home \"/a\\u0020b\"", Some("/a b")),
        ("--home=\"/x\"", Some("/x")),
        ("--home=\"/x", Some("\"/x")),
        ("start --home", None),
        ("--home --verbose /x", None),
        ("--home -x", None),
        ("--home -- /x", None),
        ("start -- --home /x", None),
        ("--home /a -- --home /x", Some("/a")),
        ("--homes /x", None),
        ("--home.x=/x", None),
        ("-home /x", None),
        ("--Home /x", None),
        ("home /x", None),
        ("--other=--home /x", None),
        ("", None),
    ] {
        assert_eq!(value_of(&words(arguments), "--home").as_deref(), value, "{arguments}");
    }
}

#[test]
fn homes_are_those_of_the_arguments() {
    let core = words("start --home /srv/vega --tendermint-home=$DISK/tm");
    assert_eq!(core_home(&core), Some(PathBuf::from("/srv/vega")));
    let variable = |name: &str| (name == "DISK").then(|| "/mnt".to_owned());
    assert_eq!(tendermint_home(&core, variable), Some(PathBuf::from("/mnt/tm")));
    assert_eq!(data_node_home(&words("datanode start --home=/srv/dn")), Some(PathBuf::from("/srv/dn")));
    for usual in ["start", "start --home=", "start --tendermint-home="] {
        assert_eq!(core_home(&words(usual)), None, "{usual}");
        assert_eq!(tendermint_home(&words(usual), |_| None), None, "{usual}");
    }
}

#[test]
fn the_snapshots_height_is_added_unless_the_operator_has_set_one() {
    for (arguments, with) in [
        ("start --home /x", "start --home /x --snapshot.load-from-block-height 7"),
        ("start --snapshot.load-from-block-height=5", "start --snapshot.load-from-block-height=5"),
        ("start --snapshot.load-from-block-height 5", "start --snapshot.load-from-block-height 5"),
        (
            "start --home=/--snapshot.load-from-block-height",
            "start --home=/--snapshot.load-from-block-height --snapshot.load-from-block-height 7",
        ),
        (
            "start --snapshot.load-from-block-heights=5",
            "start --snapshot.load-from-block-heights=5 --snapshot.load-from-block-height 7",
        ),
        ("start -- x", "start --snapshot.load-from-block-height 7 -- x"),
        ("", "--snapshot.load-from-block-height 7"),
    ] {
        assert_eq!(with_snapshot_height(&words(arguments), 7), words(with), "{arguments}");
    }
}

#[test]
fn the_latest_segment_is_asked_for_at_the_data_nodes_home() {
    for (arguments, asked) in [
        ("datanode start --home /x", "datanode network-history latest-history-segment --output json --home /x"),
        ("start --home=/x", "network-history latest-history-segment --output json --home /x"),
        ("start --home=/x --gateway-enabled true", "network-history latest-history-segment --output json --home /x"),
        ("start --home /a/datanode", "network-history latest-history-segment --output json --home /a/datanode"),
        ("datanode node", "datanode network-history latest-history-segment --output json"),
        ("", "network-history latest-history-segment --output json"),
    ] {
        assert_eq!(latest_segment_arguments(&words(arguments)), words(asked), "{arguments}");
    }
}

#[test]
fn the_latest_segment_is_read_as_a_data_node_prints_it() {
    let read = |text: &str, exit_ok| parse_latest_segment(text.as_bytes(), exit_ok);
    assert_eq!(read(fixture!("segment.json"), true), Ok(Some(777)));
    assert_eq!(read(&format!("migrating\n{}", fixture!("segment.json")), true), Ok(Some(777)));
    assert_eq!(read(r#"{"LatestSegment":{"history_segment_id":"Qm"}}"#, true), Ok(Some(0)));
    assert_eq!(read(fixture!("no-segments.json"), false), Ok(None));
    for (text, exit_ok, said) in [
        (r#"{"error":"resource temporarily unavailable"}"#, false, "resource temporarily unavailable"),
        (fixture!("segment.json"), false, "it failed and did not say why"),
        (r#"{"LatestSegment":null}"#, true, "no segment in it"),
        (r#"{"LatestSegment":{"to_height":-1}}"#, true, "-1"),
        ("panic: no", false, "it printed \"panic: no\""),
        ("", true, "it printed \"\""),
    ] {
        let error = read(text, exit_ok).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}

// ---- core's admin endpoint

#[test]
fn the_request_is_vega_visors_byte_for_byte() {
    let body = br#"{"method":"protocolupgrade.UpgradeStatus","params":[null],"id":181383753249839962}"#;
    assert_eq!(request(181_383_753_249_839_962), body);
    assert_eq!(body.len(), 82);
}

fn release(tag: &str, height: u64) -> Accepted {
    Accepted::Release { tag: ReleaseName::parse(tag).unwrap(), height }
}

#[test]
fn every_answer_of_core_is_understood() {
    for (answer, accepted, ready) in [
        (fixture!("admin-first-block.json"), Accepted::Unknown, false),
        (fixture!("admin-nothing.json"), Accepted::Nothing, false),
        (fixture!("admin-accepted.json"), release("v0.74.0", 48_166_000), false),
        (fixture!("admin-ready.json"), release("v0.74.0", 48_166_000), true),
    ] {
        assert_eq!(interpret(answer.as_bytes()), Ok(Status { accepted, ready }), "{answer}");
    }
    let refused = interpret(fixture!("admin-error.json").as_bytes());
    assert_eq!(refused, Err(AdminError::Refused("not now".to_owned())));
}

#[test]
fn answers_are_read_as_go_reads_them() {
    for (answer, accepted, ready) in [
        (
            r#"{"ID":"x","RESULT":{"acceptedreleaseinfo":{"vegareleasetag":"0.74.0","UPGRADEBLOCKHEIGHT":5},"readytoupgrade":true}}"#,
            release("0.74.0", 5),
            true,
        ),
        (r#"{"result":{},"id":null}"#, Accepted::Unknown, false),
        (r#"{"result":{"AcceptedReleaseInfo":{},"ReadyToUpgrade":null,"new":1}}"#, Accepted::Nothing, false),
        (
            r#"{"result":{"AcceptedReleaseInfo":{"VegaReleaseTag":"V1.0.0-rc.1+x","UpgradeBlockHeight":18446744073709551615}}}"#,
            release("V1.0.0-rc.1+x", u64::MAX),
            false,
        ),
    ] {
        assert_eq!(interpret(answer.as_bytes()), Ok(Status { accepted, ready }), "{answer}");
    }
}

#[test]
fn strange_answers_are_named() {
    let ready =
        |release: &str| format!(r#"{{"result":{{"AcceptedReleaseInfo":{release},"ReadyToUpgrade":true}},"id":1}}"#);
    let tag = |tag: &str, height: &str| ready(&format!(r#"{{"VegaReleaseTag":{tag},"UpgradeBlockHeight":{height}}}"#));
    let long = format!("\"1.0.0-{}\"", "x".repeat(130));
    for (answer, said) in [
        (String::new(), "empty answer"),
        ("\n".to_owned(), "empty answer"),
        ("<html>404</html>".to_owned(), "it answered \"<html>404</html>\""),
        ("rpc: can't find service \"x\"\n".to_owned(), "rpc: can't find service"),
        ("[".repeat(10_000), "did not answer with JSON"),
        ("[]".to_owned(), "it is not an object"),
        (r#"{"result":null,"error":null,"id":1}"#.to_owned(), "no result"),
        (r#"{"error":{"code":7},"id":1}"#.to_owned(), "{\"code\":7}"),
        (r#"{"result":[]}"#.to_owned(), "result is not an object"),
        (r#"{"result":{},"Result":{}}"#.to_owned(), "result is not there only once"),
        (r#"{"result":{"ReadyToUpgrade":"true"}}"#.to_owned(), "ReadyToUpgrade is not a truth value"),
        (ready("null"), "names no release"),
        (ready("{}"), "names no release"),
        (ready("[]"), "AcceptedReleaseInfo is not an object"),
        (tag("\"\"", "0"), "names no release"),
        (tag("\"\"", "5"), "do not go together"),
        (tag("\"v0.74.0\"", "0"), "do not go together"),
        (tag("\"v0.74.0\"", "-5"), "UpgradeBlockHeight is not a whole number"),
        (tag("\"v0.74.0\"", "1e3"), "UpgradeBlockHeight is not a whole number"),
        (tag("\"v0.74.0\"", "\"5\""), "UpgradeBlockHeight is not a whole number"),
        (tag("5", "5"), "VegaReleaseTag is not a text"),
        (tag("\"genesis\"", "5"), "\"genesis\", which cannot be one: it is no version"),
        (tag("\"../v1.0.0\"", "5"), "it is no version"),
        (tag("\"v1.0\"", "5"), "it is no version"),
        (tag("\"vv1.0.0\"", "5"), "it is no version"),
        (tag("\"v1.0.0/x\"", "5"), "it is no version"),
        (tag(&long, "5"), "longer than 128 bytes"),
    ] {
        let error = interpret(answer.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(said), "{error:?} lacks {said:?}");
        assert!(error.len() < 600, "{error}");
    }
}

#[test]
fn a_tag_without_its_v_is_the_same_version() {
    for (printed, tag, same) in [
        ("v0.74.0", "v0.74.0", true),
        ("v0.74.0", "0.74.0", true),
        ("v0.74.0", "V0.74.0", true),
        ("v0.74.0", "v0.74.1", false),
        ("v0.74.0", "v0.74.0-rc.1", false),
        ("v0.74.0+dev.1", "v0.74.0", false),
        ("banana", "banana", true),
        ("banana", "v0.74.0", false),
    ] {
        assert_eq!(is_version_of(printed, tag), same, "{printed} {tag}");
    }
}

// ---- the nodes' own configurations

fn core(text: Option<&str>, arguments: &str) -> CoreConfig {
    CoreConfig::parse(text, &words(arguments), Path::new("/tmp")).unwrap()
}

#[test]
fn configurations_are_where_the_nodes_look_for_them() {
    let config = Path::new("/home/x/.config");
    for (arguments, core, data_node) in [
        ("start", "/home/x/.config/vega/node/config.toml", "/home/x/.config/vega/data-node/config.toml"),
        ("start --home=/v", "/v/config/node/config.toml", "/v/config/data-node/config.toml"),
    ] {
        assert_eq!(core_config_file(&words(arguments), config), Path::new(core));
        assert_eq!(data_node_config_file(&words(arguments), config), Path::new(data_node));
    }
}

#[test]
fn core_is_as_its_arguments_say_else_its_file_else_the_default() {
    let default = core(None, "start");
    assert_eq!((default.socket_path.as_path(), default.http_path.as_str()), (Path::new("/tmp/vega.sock"), "/rpc"));
    assert_eq!(default.statistics_url().as_deref(), Some("http://127.0.0.1:3003/statistics"));
    let file = core(Some(fixture!("core.toml")), "start --home /x");
    assert_eq!(file, CoreConfig { socket_path: PathBuf::from("/run/vega/vega.sock"), ..default });
    let arguments =
        "start --admin.server.socket-path /a --admin.server.http-path=/b --api.rest.port 80 --api.rest.ip=::";
    let by_arguments = core(Some(fixture!("core.toml")), arguments);
    assert_eq!((by_arguments.socket_path.as_path(), by_arguments.http_path.as_str()), (Path::new("/a"), "/b"));
    assert_eq!(by_arguments.statistics_url().as_deref(), Some("http://[::1]:80/statistics"));
    let off = core(Some("[api.rest]\nenabled = false\nip = '10.0.0.1'"), "");
    assert_eq!(off.statistics_url(), None);
    let on = core(Some("[api.rest]\nenabled = false\nip = '10.0.0.1'"), "--api.rest.enabled=true");
    assert_eq!(on.statistics_url().as_deref(), Some("http://10.0.0.1:3003/statistics"));
}

#[test]
fn core_is_asked_where_the_release_says_else_where_it_listens() {
    let rpc = |socket: &str, http: &str| Rpc {
        socket_path: (!socket.is_empty()).then(|| PathBuf::from(socket)),
        http_path: (!http.is_empty()).then(|| http.to_owned()),
    };
    let core = core(Some(fixture!("core.toml")), "");
    for (socket, http, endpoint, said) in [
        ("", "", ("/run/vega/vega.sock", "/rpc"), &[][..]),
        ("/run/./vega//vega.sock", "rpc", ("/run/vega/vega.sock", "/rpc"), &[]),
        (
            "/tmp/vega.sock",
            "",
            ("/tmp/vega.sock", "/rpc"),
            &["socketPath is \"/tmp/vega.sock\"", "\"/run/vega/vega.sock\""],
        ),
        ("", "/x", ("/run/vega/vega.sock", "/x"), &["httpPath is \"/x\", where core has \"/rpc\""]),
        ("/a", "/b", ("/a", "/b"), &["socketPath is \"/a\"", ", and httpPath is \"/b\""]),
    ] {
        let rpc = rpc(socket, http);
        let (asked_socket, asked_path) = core.endpoint(&rpc);
        assert_eq!((asked_socket.as_path(), asked_path.as_str()), (Path::new(endpoint.0), endpoint.1));
        let sentence = mismatch(&rpc, &core);
        assert_eq!(sentence.is_some(), !said.is_empty(), "{sentence:?}");
        for part in said {
            assert!(sentence.as_ref().unwrap().contains(part), "{sentence:?} lacks {part:?}");
        }
    }
}

#[test]
fn a_data_node_that_wants_an_embedded_database_is_known() {
    let embedded = "[SQLStore]\nUseEmbedded = true";
    for (text, arguments, wanted) in [
        (None, "start", false),
        (Some(fixture!("data-node.toml")), "start", false),
        (Some(embedded), "start", true),
        (Some("sqlstore.useembedded = true"), "start", true),
        (None, "start --sqlstore.use-embedded=true", true),
        (None, "start --sqlstore.use-embedded true", true),
        (None, "start --sqlstore.use-embedded", true),
        (Some(embedded), "start --sqlstore.use-embedded=false", false),
        (Some(embedded), "start -- --sqlstore.use-embedded=false", true),
    ] {
        let config = DataNodeConfig::parse(text, &words(arguments)).unwrap();
        assert_eq!(config.embedded, wanted, "{text:?} {arguments}");
    }
    assert!(has_flag(&words("--sqlstore.use-embedded"), "--sqlstore.use-embedded"));
}

#[test]
fn a_data_nodes_database_is_where_it_looks_for_it() {
    let tcp = |host: &str, port| Database::Tcp { host: host.to_owned(), port };
    for (text, arguments, database) in [
        (None, "", tcp("localhost", 5432)),
        (Some(fixture!("data-node.toml")), "", tcp("db.example", 5433)),
        (Some(fixture!("data-node.toml")), "--sqlstore.ConnectionConfig.port=1", tcp("db.example", 1)),
        (Some(fixture!("data-node.toml")), "--sqlstore.ConnectionConfig.host 10.0.0.1", tcp("10.0.0.1", 5433)),
        (
            Some(fixture!("data-node.toml")),
            "--sqlstore.ConnectionConfig.host= --sqlstore.ConnectionConfig.socket-dir /run/postgresql",
            Database::Socket(PathBuf::from("/run/postgresql/.s.PGSQL.5433")),
        ),
        (Some("[SQLStore.ConnectionConfig]\nHost = ''"), "", Database::Socket(PathBuf::from("/tmp/.s.PGSQL.5432"))),
    ] {
        assert_eq!(DataNodeConfig::parse(text, &words(arguments)).unwrap().database, database, "{arguments}");
    }
}

#[test]
fn an_error_shows_no_line_of_a_nodes_configuration() {
    let file = fixture!("data-node.toml");
    for (from, to, said) in [
        ("\"hunter2\"", "hunter2", "line 13"),
        ("Port = 5433", "Port = 'hunter2'", "line 11: SQLStore.ConnectionConfig.Port"),
        ("Port = 5433", "Port = 70000", "a port number, up to 65535"),
        ("UseEmbedded = false", "UseEmbedded = 'hunter2'", "line 7: SQLStore.UseEmbedded"),
        ("GatewayEnabled = true", "GatewayEnabled = hunter2", "line 1"),
    ] {
        let error = DataNodeConfig::parse(Some(&file.replacen(from, to, 1)), &[]).unwrap_err().to_string();
        assert!(error.contains("the data node's config.toml") && error.contains(said), "{error} lacks {said}");
        assert!(!error.contains("hunter2") && !error.contains("70000"), "{error}");
    }
    let error = DataNodeConfig::parse(Some("SQLStore = 'hunter2'"), &[]).unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
    let error = DataNodeConfig::parse(None, &words("--sqlstore.ConnectionConfig.port x")).unwrap_err().to_string();
    assert!(error.contains("the node's arguments: --sqlstore.ConnectionConfig.port = x"), "{error}");
}

// ---- anything

fn word() -> impl Strategy<Value = String> {
    let usual = prop::sample::select(vec![
        "--home",
        "--home=/x",
        "--",
        "-",
        "--=",
        "=",
        "\"",
        "datanode",
        "start",
        "$",
        "${",
        SNAPSHOT_HEIGHT,
        "--a=b",
    ]);
    prop_oneof![usual.prop_map(str::to_owned), any::<String>()]
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd_to_be_refused(bytes in any::<Vec<u8>>(), text in any::<String>(), exit_ok: bool) {
        for bytes in [&bytes, text.as_bytes()] {
            let _ = interpret(bytes);
            let _ = parse_latest_segment(bytes, exit_ok);
        }
        let _ = CoreConfig::parse(Some(&text), &[], Path::new("/tmp"));
        let _ = DataNodeConfig::parse(Some(&text), &[]);
    }

    #[test]
    fn a_height_is_added_once_and_read_back(arguments in prop::collection::vec(word(), 0..6), height: u64) {
        let with = with_snapshot_height(&arguments, height);
        prop_assert!(has_flag(&with, SNAPSHOT_HEIGHT));
        prop_assert_eq!(&with_snapshot_height(&with, height), &with);
        if !has_flag(&arguments, SNAPSHOT_HEIGHT) {
            prop_assert_eq!(value_of(&with, SNAPSHOT_HEIGHT), Some(height.to_string()));
            prop_assert_eq!(core_home(&with), core_home(&arguments));
        }
        let _ = tendermint_home(&arguments, |name| Some(name.to_owned()));
        let _ = latest_segment_arguments(&arguments);
        let _ = CoreConfig::parse(None, &arguments, Path::new("/tmp"));
    }
}
