//! What a new release can be asked to show: one that does not is taken back by itself, with its data, and one that does is kept.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use omnivisor_testkit::{Behaviour, Height, Serves, Supervised, wait_until};
use serde_json::Value;

use crate::world::{SOON, World};

/// The window of the probes here; nothing of a check may make it longer.
const WINDOW: Duration = Duration::from_secs(2);

/// An address that no other test has: this machine has millions.
fn address() -> String {
    static COUNT: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    format!("127.{}.{high}.{low}:8077", 64 + COUNT.fetch_add(1, Ordering::Relaxed))
}

/// An instance with this probe.
fn world(probe: &str) -> World {
    let world = World::new();
    let settings = world.installation.config().with_file_name("omnivisor.toml");
    let window = WINDOW.as_secs();
    fs::write(settings, format!("[probe]\nwindow = '{window}s'\ninterval = '100ms'\n{probe}")).unwrap();
    world
}

/// A release that serves is committed with this probe; one that does not as it should is taken back, for this reason.
fn check(probe: impl Fn(&str) -> String, sick: impl Fn(Serves) -> Option<Serves>, reason: &str) {
    let well = Serves { address: address(), status: 200, height: Height::Grows };
    let sick = Behaviour { serves: sick(well.clone()), ..Behaviour::new("3.0.0") };
    judge(&probe(&well.address), Behaviour { serves: Some(well), ..Behaviour::new("2.0.0") }, sick, reason);
}

/// The first is committed, the second is taken back in time.
fn judge(probe: &str, well: Behaviour, sick: Behaviour, reason: &str) {
    let world = world(probe);
    let supervised = world.run();
    world.publish("2024.2", &well);
    world.wait_for_commit(&well.version);
    let schema = fs::read(world.installation.daemon_home().join("data/state.json")).unwrap();

    world.publish("2024.3", &Behaviour { migrates: true, ..sick });
    let status = || {
        // As long as it is not well, it is said what is missing.
        let upgrade = world.status().unwrap_or_default()["upgrade"].take();
        assert!(upgrade["phase"] != "probing" || upgrade["waitsFor"].is_string(), "{upgrade}");
    };
    is_taken_back(&world, &supervised, reason, status);
    assert_eq!(fs::read(world.installation.daemon_home().join("data/state.json")).unwrap(), schema, "the old data");
}

/// Version 3.0.0 is, in time, and 2.0.0 runs again. `meanwhile` is done again and again.
fn is_taken_back(world: &World, supervised: &Supervised, reason: &str, meanwhile: impl Fn()) {
    wait_until("it is taken back", SOON, || {
        meanwhile();
        supervised.stderr().contains("the upgrade failed").then_some(())
    });
    world.wait_for("2.0.0");
    world.wait_for_files("2.0.0");
    let logged = |event: &str| world.log().of(event).into_iter().find(|it| it.version == "3.0.0").unwrap().mono_ns;
    let took = Duration::from_nanos(logged("signal") - logged("start"));
    assert!(took < WINDOW + Duration::from_secs(1), "{took:?}");
    let stderr = supervised.stderr();
    assert!(stderr.contains(reason) && !stderr.contains("panicked"), "{reason:?} is not in {stderr}");
    assert!(world.log().of("refused").is_empty());
}

#[test]
fn a_page_has_to_be_answered_well() {
    check(
        |address| format!("http = 'http://{address}/health'"),
        |well| Some(Serves { status: 503, ..well }),
        "it answered 503, and 200 to 299 is wanted",
    );
}

#[test]
fn a_page_has_to_be_answered_at_all() {
    check(
        |address| format!("timeout = '300ms'\nhttp = 'http://{address}/health'"),
        |well| Some(Serves { height: Height::Hangs, ..well }),
        "no whole answer in time",
    );
}

#[test]
fn a_port_has_to_be_open() {
    check(|address| format!("tcp = '{address}'"), |_| None, "refused");
}

#[test]
fn a_height_on_a_page_has_to_grow() {
    let json = "pointer = '/result/sync_info/latest_block_height'\nadvances = true\nwithin = '1s'";
    check(
        |address| format!("[probe.json]\nurl = 'http://{address}/status'\n{json}"),
        |well| Some(Serves { height: Height::Stands, ..well }),
        "has stood at 7 for",
    );
}

#[test]
fn a_height_that_is_called_for_has_to_grow() {
    check(
        |address| {
            let json = "method = 'height'\npointer = '/height'\nadvances = true\nwithin = '1s'";
            format!("[[probe.json]]\nurl = 'http://{address}'\n{json}")
        },
        |well| Some(Serves { height: Height::Stands, ..well }),
        "has stood at 7 for",
    );
}

/// The node's own word counts, and nobody else's; and the socket of whoever has started the supervisor is not the node's.
#[test]
fn a_node_has_to_say_by_itself_that_it_is_ready() {
    let world = world("notify = true");
    let (command, outer) = with_an_outer_socket(&world);
    let supervised = world.sandbox.spawn(command);
    world.wait_for("1.0.0");
    let lie = || drop(UnixDatagram::unbound().unwrap().send_to(b"READY=1", launch(&world).0));
    lie();
    wait_until("that is not believed", SOON, || supervised.stderr().contains("it is not believed").then_some(()));
    world.publish("2024.2", &Behaviour { says_ready: true, ..Behaviour::new("2.0.0") });
    world.wait_for_commit("2.0.0");
    world.publish("2024.3", &Behaviour { migrates: true, ..Behaviour::new("3.0.0") });
    is_taken_back(&world, &supervised, "has not sent READY=1", lie);
    assert_eq!(outer.recv(&mut [0; 100]).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing comes there");
}

#[test]
fn a_socket_that_is_passed_on_stays_the_nodes_where_its_word_is_not_waited_for() {
    let world = World::with(Behaviour { says_ready: true, ..Behaviour::new("1.0.0") }, crate::world::options());
    let (command, outer) = with_an_outer_socket(&world);
    let _supervised = world.sandbox.spawn(command);
    wait_until("it is said there", SOON, || outer.recv(&mut [0; 100]).ok());
}

/// A node says it once, and may be somebody else's before its window is over.
#[test]
fn what_a_node_has_said_is_known_to_the_next_supervisor_and_the_next_image() {
    let world = world("notify = true");
    let mut supervised = world.run();
    world.publish("2024.2", &Behaviour { says_ready: true, ..Behaviour::new("2.0.0") });
    let said = || launch(&world).1;
    wait_until("it is noted", SOON, || said().then_some(()));
    let (socket, pid) = (launch(&world).0, world.wait_for("2.0.0"));
    supervised.kill9();
    assert_eq!(world.log().running()[0].pid, pid);
    let supervised = world.run_again();
    world.wait_for_commit("2.0.0");
    assert_eq!(world.wait_for("2.0.0"), pid, "it was taken over");

    let output = world.omnivisor(&["reexec"]);
    assert!(output.status.success(), "{output:?}");
    world.publish("2024.3", &Behaviour { says_ready: true, ..Behaviour::new("3.0.0") });
    world.wait_for_commit("3.0.0");
    assert_eq!(launch(&world), (socket, true), "the socket stays where it was");
    assert!(!supervised.stderr().contains("the upgrade failed"), "{}", supervised.stderr());
}

/// `nymvisor run`, not started yet, with a socket of its own to say that it is ready to.
fn with_an_outer_socket(world: &World) -> (Command, UnixDatagram) {
    let path = world.sandbox.runtime().join("outer");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut command = world.run_command();
    command.env("NOTIFY_SOCKET", path);
    (command, socket)
}

/// Where the node that was started last is to say that it is ready, and whether it has.
fn launch(world: &World) -> (PathBuf, bool) {
    let file = world.installation.instance_dir().join("data/omnivisor/launch.json");
    let launch: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    (launch["readiness"]["socket"].as_str().unwrap().into(), launch["readiness"]["said"] == true)
}

/// Servers that lie, break off, hang or never end are a failed sample, and say which.
#[test]
fn no_server_can_do_more_than_fail_a_sample() {
    type Lie = fn(&mut TcpStream);
    const LIARS: [(&str, Lie, &str); 10] = [
        (
            "redirects",
            |it| say(it, b"HTTP/1.1 302 Found\r\nLocation: /well\r\nContent-Length: 0\r\n\r\n"),
            "answered 302",
        ),
        // More than is read, or longer than is waited for, where the machine is busy.
        ("never ends", |it| endless(it, b"HTTP/1.1 200 OK\r\n\r\n"), ""),
        ("has no end of headers", |it| endless(it, b"HTTP/1.1 200 OK\r\nX: "), ""),
        ("says nothing", |it| drop(it.read_to_end(&mut Vec::new())), "no whole answer in time"),
        (
            "hangs in the middle",
            |it| {
                say(it, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
                let _ = it.read_to_end(&mut Vec::new());
            },
            "no whole answer in time",
        ),
        ("breaks off", |it| say(it, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"), ""),
        ("speaks rubbish", |it| say(it, b"\x00\xff\xfe SSH-2.0-OpenSSH\r\n\r\n"), ""),
        ("hangs up", |_| {}, ""),
        ("answers with no JSON", |it| say(it, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n<>"), "no JSON"),
        ("lies about its length", |it| say(it, b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"), ""),
    ];
    let listeners = LIARS.map(|(_, lie, _)| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let _ = stream.read(&mut [0; 4096]);
                    lie(&mut stream);
                });
            }
        });
        address
    });
    std::thread::scope(|scope| {
        for ((name, _, reason), address) in LIARS.into_iter().zip(listeners) {
            scope.spawn(move || {
                let json = "pointer = '/a'\nequals = 1";
                let world = world(&format!("timeout = '500ms'\n[probe.json]\nurl = 'http://{address}/x'\n{json}"));
                let supervised = world.run();
                world.publish("2024.2", &Behaviour::new("2.0.0"));
                let failed =
                    || supervised.stderr().lines().find(|line| line.contains("the upgrade failed")).map(str::to_owned);
                let said = wait_until("it is taken back", SOON, failed);
                assert!(said.contains(&address.to_string()) && said.contains(reason), "{name}: {said}");
                world.wait_for("1.0.0");
            });
        }
    });
}

fn say(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}

fn endless(stream: &mut TcpStream, begin: &[u8]) {
    say(stream, begin);
    while stream.write_all(&[b'a'; 64 * 1024]).is_ok() {}
}
