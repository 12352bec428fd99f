//! How the fake starts, runs and ends, and what its log makes of that.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Output;

use omnivisor_testkit::fake_node::REFUSED;
use omnivisor_testkit::{Kind, Supervised, VegaBehaviour, VersionAnswer, wait_until};
use serde_json::json;

use crate::{SIGTERM, SOON, World};

const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;

impl World {
    fn run(&self, exe: &Path, args: &[&str]) -> Output {
        self.sandbox.omnivisor(exe, "vega").args(args).output().unwrap()
    }
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8(output.stdout.clone()).unwrap())
}

fn stop(mut running: Supervised) -> Option<i32> {
    running.signal(SIGTERM);
    running.wait(SOON).code()
}

#[test]
fn it_says_its_version_as_vega_does() {
    let world = World::new();
    let answers = |version_answer, args: &[&str]| {
        let exe = world.installation.minted(&VegaBehaviour { version_answer, ..VegaBehaviour::new("v0.75.0") });
        said(&world.run(&exe, args))
    };
    let json = "{\"version\":\"v0.75.0\",\"hash\":\"abc\"}\n".to_owned();
    assert_eq!(answers(VersionAnswer::Ok, &["version", "--output", "json"]), (Some(0), json.clone()));
    assert_eq!(answers(VersionAnswer::Ok, &["version", "--output=json"]), (Some(0), json));
    assert_eq!(answers(VersionAnswer::Ok, &["version"]), (Some(0), "Vega CLI v0.75.0 (abc)\n".to_owned()));
    let other = VersionAnswer::OtherVersion("v9".to_owned());
    assert!(answers(other, &["version", "--output", "json"]).1.contains("\"v9\""));
    assert_eq!(answers(VersionAnswer::Exit(3), &["version", "--output", "json"]), (Some(3), String::new()));
    assert_eq!(answers(VersionAnswer::Rubbish, &["version", "--output", "json"]).0, Some(0));
    assert_eq!(answers(VersionAnswer::Ok, &["wallet", "list"]), (Some(0), "args: wallet list\n".to_owned()));
}

#[test]
fn both_start_and_are_told_apart() {
    let world = World::new();
    let (core, data_node) = (world.start(Kind::Core), world.start(Kind::Datanode));
    let log = world.log();
    assert_eq!(log.running_of(Kind::Core).iter().map(|it| it.pid).collect::<Vec<_>>(), [core.pid()]);
    assert_eq!(log.running_of(Kind::Datanode).iter().map(|it| it.pid).collect::<Vec<_>>(), [data_node.pid()]);
    assert_eq!(log.running().len(), 2);
    assert_eq!(log.last_start_of(Kind::Core).unwrap().args, world.installation.run_config("any").core_args);
    assert_eq!(stop(core), Some(0));
    assert_eq!(stop(data_node), Some(0));
    assert!(log.running().is_empty());
    log.assert_never_double();
    assert_eq!(
        log.story(),
        [
            "core v0.74.0 start",
            "datanode v0.74.0 start",
            "core v0.74.0 signal 15",
            "core v0.74.0 exit 0",
            "datanode v0.74.0 signal 15",
            "datanode v0.74.0 exit 0"
        ]
    );
}

#[test]
fn two_of_a_kind_on_one_home_are_a_double() {
    let world = World::new();
    let (_core, _data_node) = (world.start(Kind::Core), world.start(Kind::Datanode));
    for kind in [Kind::Core, Kind::Datanode] {
        let second = world.start(kind);
        let double = wait_until("it is noticed", SOON, || {
            world.log().of("double").into_iter().find(|logged| logged.pid == second.pid())
        });
        assert_eq!(double.kind, Some(kind));
        stop(second);
    }
}

#[test]
fn data_of_a_newer_version_are_refused() {
    let world = World::new();
    let next = world.installation.place_release("v0.75.0", &VegaBehaviour::new("v0.75.0"));
    for kind in [Kind::Core, Kind::Datanode] {
        assert_eq!(stop(world.start(kind)), Some(0));
        assert_eq!(stop(world.start_from(&next, kind)), Some(0));
        assert_eq!(world.start(kind).wait(SOON).code(), Some(REFUSED));
        assert_eq!(world.log().of("refused").last().unwrap().kind, Some(kind));
        assert_eq!(stop(world.start_from(&next, kind)), Some(0), "the newer one goes on");
    }
}

#[test]
fn it_stops_as_it_is_told_to() {
    let world = World::new();
    world.installation.control_core(|control| control["stop_exit_code"] = 143.into());
    let core = world.start(Kind::Core);
    world.wait_for_socket();
    assert_eq!(stop(core), Some(143));
    assert!(!world.installation.socket().exists(), "its socket goes with it");

    let mut core = world.start(Kind::Core);
    // What a stop does is read when it is asked for.
    world.installation.control_core(|control| control["ignore_stop"] = true.into());
    core.signal(SIGTERM);
    wait_until("it heard", SOON, || (!world.log().signals_of(core.pid()).is_empty()).then_some(()));
    world.installation.control_core(|control| {
        control["ignore_stop"] = false.into();
        control["linger_ms"] = 200.into();
    });
    core.signal(SIGTERM);
    core.wait(SOON);
    let of_it: Vec<_> = world.log().events().into_iter().filter(|logged| logged.pid == core.pid()).collect();
    let last: Vec<_> = of_it.iter().rev().take(2).collect();
    assert!(last[0].mono_ns - last[1].mono_ns >= 200_000_000, "{last:?}");
}

#[test]
fn it_ends_as_it_is_told_to_and_each_version_in_its_own_way() {
    let world = World::new();
    world.installation.control_core(|control| {
        control["by_version"] = json!({
            "v0.75.0": {"exit_after_ms": 20, "exit_code": 42},
            "v0.76.0": {"die_of_signal": SIGSEGV},
        });
    });
    let [next, last] =
        ["v0.75.0", "v0.76.0"].map(|tag| world.installation.place_release(tag, &VegaBehaviour::new(tag)));
    let core = world.start(Kind::Core);
    assert_eq!(stop(core), Some(0));
    assert_eq!(world.start_from(&next, Kind::Core).wait(SOON).code(), Some(42));
    let mut dead = world.start_from(&last, Kind::Core);
    dead.wait(SOON);
    assert_eq!(dead.died_of(), Some(SIGSEGV));
    let story = world.log().story();
    assert_eq!(
        story[3..],
        ["core v0.75.0 start", "core v0.75.0 exit 42", "core v0.76.0 start", "core v0.76.0 dies 11"]
    );
    assert!(world.log().outage_before("v0.75.0").is_some_and(|outage| outage < SOON));
}

#[test]
fn a_killed_core_leaves_its_socket_and_the_next_one_takes_it() {
    let world = World::new();
    let mut core = world.start(Kind::Core);
    world.wait_for_socket();
    core.signal(SIGKILL);
    core.wait(SOON);
    assert!(world.installation.socket().exists());
    let _core = world.start(Kind::Core);
    world.wait_for_socket();
    world.log().assert_never_double();
}

#[test]
fn a_grandchild_survives_its_core() {
    let world = World::new();
    world.installation.control_core(|control| control["grandchild"] = json!({"ignore_term": true}));
    let core = world.start(Kind::Core);
    wait_until("it is there", SOON, || (world.log().grandchildren().len() == 1).then_some(()));
    stop(core);
    assert_eq!(world.log().grandchildren().len(), 1);
    assert!(world.log().running().is_empty());
}

#[test]
fn a_data_node_needs_its_postgres() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = world.sandbox.path().join(".s.PGSQL.5432");
    let _unix = UnixListener::bind(&socket).unwrap();
    for (needs, code) in [
        (json!({"host": "127.0.0.1", "port": port}), 0),
        // Nobody listens at this one, and none is given it by chance.
        (json!({"host": "127.0.0.1", "port": 9}), 1),
        (json!({"socket": socket}), 0),
        (json!({"socket": socket.with_extension("5433")}), 1),
    ] {
        world.installation.control_data_node(|control| control["needs_postgres"] = needs.clone());
        let mut data_node = world.start(Kind::Datanode);
        let ended = if code == 0 { stop(data_node) } else { data_node.wait(SOON).code() };
        assert_eq!(ended, Some(code), "{needs}");
    }
}

#[test]
fn a_data_node_tells_its_latest_segment() {
    let world = World::new();
    let exe = world.installation.current().join("vega");
    let home = world.installation.data_node_home();
    let home = home.to_str().unwrap();
    let asked = ["datanode", "network-history", "latest-history-segment", "--output=json", "--home", home];
    let none = (Some(1), "{\"error\":\"no history segments found\"}\n".to_owned());
    assert_eq!(said(&world.run(&exe, &asked)), none);

    world.installation.control_data_node(|control| control["segment"] = json!({"from": 1, "to": 777}));
    let found = "{\"LatestSegment\":{\"from_height\":1,\"to_height\":777,\"history_segment_id\":\"Qm777\"}}\n";
    let found = (Some(0), found.to_owned());
    assert_eq!(said(&world.run(&exe, &asked)), found);
    let short = ["network-history", "latest-history-segment", "--output", "json", &format!("--home={home}")];
    assert_eq!(said(&world.run(&exe, &short)), found);
    assert_eq!(said(&world.run(&exe, &asked[..4])), none, "the default home is empty");
    assert_eq!(world.log().of("segment").len(), 4);
    assert_eq!(world.log().of("segment")[1].args, asked);

    for (answer, says) in [("none", "no history segments found"), ("fail", "resource temporarily unavailable")] {
        world.installation.control_data_node(|control| control["segment_answer"] = answer.into());
        let (code, text) = said(&world.run(&exe, &asked));
        assert!(code == Some(1) && text.contains(says), "{answer}: {text}");
    }
}

#[test]
fn without_its_home_it_does_not_start() {
    let world = World::new();
    let exe = world.installation.current().join("vega");
    for args in [&["start"][..], &["start", "--home", "/nowhere"], &["datanode", "node"]] {
        assert_eq!(said(&world.run(&exe, args)).0, Some(1), "{args:?}");
    }
    // Vega is `init`ialised, or it does not run.
    std::fs::remove_file(world.installation.core_config()).unwrap();
    assert_eq!(world.start(Kind::Core).wait(SOON).code(), Some(1));
}
