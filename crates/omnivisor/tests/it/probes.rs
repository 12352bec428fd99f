//! What a new release can be asked to show: one that does not is taken back by itself, with its data, and one that does is kept.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use omnivisor_testkit::{Behaviour, Height, Serves, wait_until};

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
    let status = world.wait_for_status("it is probed, and what is missing is said", |status| {
        status["upgrade"]["phase"] == "probing" && status["upgrade"]["waitsFor"].is_string()
    });
    let begun = Instant::now();
    let said = status["upgrade"]["waitsFor"].as_str().unwrap().to_owned();
    wait_until("it is taken back", SOON, || supervised.stderr().contains("the upgrade failed").then_some(()));
    let took = begun.elapsed();
    assert!(took < WINDOW + Duration::from_secs(1), "{took:?}");
    world.wait_for("2.0.0");
    world.wait_for_files("2.0.0");
    let stderr = supervised.stderr();
    assert!(stderr.contains(reason), "{reason:?} is not in {stderr}");
    assert!(!said.is_empty() && !stderr.contains("panicked"), "{stderr}");
    assert_eq!(fs::read(world.installation.daemon_home().join("data/state.json")).unwrap(), schema, "the old data");
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
        "in",
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

/// Servers that lie, break off, hang or never end are a failed sample, and say which.
#[test]
fn no_server_can_do_more_than_fail_a_sample() {
    const LIARS: [(&str, fn(&mut TcpStream), &str); 10] = [
        (
            "redirects",
            |it| say(it, b"HTTP/1.1 302 Found\r\nLocation: /well\r\nContent-Length: 0\r\n\r\n"),
            "answered 302",
        ),
        ("never ends", |it| endless(it, b"HTTP/1.1 200 OK\r\n\r\n"), "more than 1024 KiB"),
        ("has no end of headers", |it| endless(it, b"HTTP/1.1 200 OK\r\nX: "), ""),
        ("says nothing", |it| drop(it.read_to_end(&mut Vec::new())), "in"),
        (
            "hangs in the middle",
            |it| {
                say(it, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
                let _ = it.read_to_end(&mut Vec::new());
            },
            "in",
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
