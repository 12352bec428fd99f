//! The admin endpoint, byte for byte. What is expected here was written down from gorilla/rpc 1.2.0 and gorilla/mux
//! 1.8.0 themselves, which were sent the same requests.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use omnivisor_testkit::{Kind, wait_until};
use serde_json::{Value, json};

use crate::{SOON, World};

const REQUEST: &str = "POST /rpc HTTP/1.1\r\nHost: unix\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 82\r\n\
    Content-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n\
    {\"method\":\"protocolupgrade.UpgradeStatus\",\"params\":[null],\"id\":181383753249839962}";

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\nDate: <now>\r\nContent-Length: 140\r\n\r\n\
    {\"result\":{\"AcceptedReleaseInfo\":{\"VegaReleaseTag\":\"\",\"UpgradeBlockHeight\":0},\"ReadyToUpgrade\":false},\
    \"error\":null,\"id\":181383753249839962}\n";

/// What is answered to all of this, until the other side hangs up. It is told that no more comes.
fn exchange(mut stream: UnixStream, sent: &str) -> String {
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(sent.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    without_date(&String::from_utf8_lossy(&answer))
}

fn without_date(text: &str) -> String {
    let lines = text.split_inclusive("\r\n");
    let date = |line: &str| line.starts_with("Date: ") && line.ends_with(" GMT\r\n") && line.len() == 37;
    lines.map(|line| if date(line) { "Date: <now>\r\n" } else { line }).collect()
}

fn request(line: &str, content_type: &str, body: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: unix\r\nContent-Length: {}\r\n{content_type}\r\n{body}", body.len())
}

fn post(body: &str) -> String {
    request("POST /rpc", "Content-Type: application/json\r\n", body)
}

impl World {
    fn ask(&self, sent: &str) -> String {
        self.wait_for_socket();
        exchange(UnixStream::connect(self.installation.socket()).unwrap(), sent)
    }

    /// The `result` of a call.
    fn status(&self) -> Value {
        let answer = self.ask(REQUEST);
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str::<Value>(body).unwrap()["result"].clone()
    }
}

fn result(tag: &str, height: u64, ready: bool) -> Value {
    json!({"AcceptedReleaseInfo": {"VegaReleaseTag": tag, "UpgradeBlockHeight": height}, "ReadyToUpgrade": ready})
}

#[test]
fn the_answer_is_that_of_gorilla_and_the_connection_stays() {
    let world = World::new();
    let _core = world.start(Kind::Core);
    assert_eq!(world.ask(REQUEST), ANSWER);
    assert_eq!(world.ask(&REQUEST.repeat(3)), ANSWER.repeat(3));
    let closes = REQUEST.replace("Host: unix\r\n", "Host: unix\r\nConnection: close\r\n");
    let closed = ANSWER.replace("140\r\n", "140\r\nConnection: close\r\n");
    assert_eq!(world.ask(&closes.repeat(2)), closed, "once");
}

#[test]
fn what_is_asked_badly_is_answered_as_gorilla_does() {
    let world = World::new();
    let _core = world.start(Kind::Core);
    let call = |rest: &str| post(&format!("{{\"method\":\"protocolupgrade.UpgradeStatus\",{rest}}}"));
    let method = |name: &str| post(&format!("{{\"method\":{name},\"params\":[null],\"id\":1}}"));
    let bad = |text: &str| ("400 Bad Request", text.to_owned());
    let good = |id: &str| {
        let info = "{\"VegaReleaseTag\":\"\",\"UpgradeBlockHeight\":0}";
        let result = format!("{{\"AcceptedReleaseInfo\":{info},\"ReadyToUpgrade\":false}}");
        ("200 OK", format!("{{\"result\":{result},\"error\":null,\"id\":{id}}}\n"))
    };
    let rpc = "Content-Type: application/json\r\n";
    let other_type = ("415 Unsupported Media Type", "rpc: unrecognized Content-Type: text/plain".to_owned());
    let no_post = |verb: &str| ("405 Method Not Allowed", format!("rpc: POST method required, received {verb}"));
    for (sent, (status, body)) in [
        (call(r#""params":[],"id":"a b""#), good("\"a b\"")),
        (call(r#""params":[{}],"id":-7,"jsonrpc":"2.0""#), good("-7")),
        (call(r#""params":[null,2],"id":9223372036854775807"#), good("9223372036854775807")),
        (post(r#"{"METHOD":"protocolupgrade.UpgradeStatus","Params":[null],"ID":1} trailing"#), good("1")),
        (
            request("POST /rpc?x=1", "Content-Type: Application/JSON; charset=x\r\n", "{}"),
            bad("rpc: service/method request ill-formed: \"\""),
        ),
        (call(r#""params":[null]"#), ("200 OK", String::new())),
        (call(r#""params":[null],"id":null"#), ("200 OK", String::new())),
        (call(r#""id":1"#), bad("rpc: method request ill-formed: missing params field")),
        (call(r#""params":null,"id":1"#), bad("rpc: method request ill-formed: missing params field")),
        (call(r#""params":{},"id":1"#), bad("json: cannot unmarshal object into Go value of type [1]interface {}")),
        (
            call(r#""params":[1],"id":1"#),
            bad("json: cannot unmarshal number into Go value of type admin.ReadyForUpgradeArgs"),
        ),
        (method("\"NodeWallet.Reload\""), bad("rpc: can't find service \"NodeWallet.Reload\"")),
        (method("\"protocolupgrade.upgradeStatus\""), bad("rpc: can't find method \"protocolupgrade.upgradeStatus\"")),
        (method("\"nope\""), bad("rpc: service/method request ill-formed: \"nope\"")),
        (method("1"), bad("json: cannot unmarshal number into Go struct field serverRequest.method of type string")),
        (post(""), bad("EOF")),
        (post("[1]"), bad("json: cannot unmarshal array into Go value of type json.serverRequest")),
        (request("POST /rpc", "Content-Type: text/plain\r\n", "{}"), other_type),
        (request("PUT /rpc", rpc, "{}"), no_post("PUT")),
        (request("GET /rpc", "", ""), no_post("GET")),
        (request("POST /other", rpc, "{}"), ("404 Not Found", "404 page not found\n".to_owned())),
    ] {
        let headers = match (status, body.is_empty()) {
            ("200 OK", true) => "X-Content-Type-Options: nosniff\r\n",
            ("200 OK", false) => "Content-Type: application/json; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n",
            ("404 Not Found", _) => "Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n",
            _ => "Content-Type: text/plain; charset=utf-8\r\n",
        };
        let expected =
            format!("HTTP/1.1 {status}\r\n{headers}Date: <now>\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        assert_eq!(world.ask(&sent), expected, "{sent}");
    }
    for (sent, status) in [
        ("rubbish\r\n\r\n".to_owned(), "400 Bad Request"),
        (REQUEST.replace("Host: unix\r\n", ""), "400 Bad Request: missing required Host header"),
    ] {
        let headers = "Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n";
        assert_eq!(world.ask(&sent), format!("HTTP/1.1 {status}\r\n{headers}\r\n{status}"));
    }
}

#[test]
fn what_the_network_agreed_on_is_said_until_it_is_done() {
    let world = World::new();
    let mut core = world.start(Kind::Core);
    assert_eq!(world.status(), result("", 0, false));
    world.installation.control_core(|control| control["before_first_block"] = true.into());
    assert_eq!(world.status(), json!({"AcceptedReleaseInfo": null, "ReadyToUpgrade": false}));
    world.installation.control_core(|control| {
        control["before_first_block"] = false.into();
        control["accepted"] = json!({"tag": "v0.75.0", "height": 1000});
    });
    assert_eq!(world.status(), result("v0.75.0", 1000, false));
    world.installation.control_core(|control| control["ready"] = true.into());
    assert_eq!(world.status(), result("v0.75.0", 1000, true));

    core.signal(crate::SIGTERM);
    core.wait(SOON);
    let next = world.installation.place_release("v0.75.0", &omnivisor_testkit::VegaBehaviour::new("v0.75.0"));
    let _core = world.start_from(&next, Kind::Core);
    assert_eq!(world.status(), result("", 0, false), "it is behind this one");
    // The tag may have been voted for without its v.
    world.installation.control_core(|control| control["accepted"]["tag"] = "0.75.0".into());
    assert_eq!(world.status(), result("", 0, false));
}

#[test]
fn the_endpoint_can_be_bad_in_many_ways() {
    let world = World::new();
    let _core = world.start(Kind::Core);
    for (rpc, answer) in [
        ("null", "{\"result\":null,\"error\":null,\"id\":181383753249839962}\n"),
        ("error", "{\"result\":null,\"error\":\"the node is not well\",\"id\":181383753249839962}\n"),
        ("ready_without_release", "{\"result\":{\"AcceptedReleaseInfo\":null,\"ReadyToUpgrade\":true},"),
        ("wrong_id", ",\"error\":null,\"id\":\"another\"}\n"),
        ("html", "\r\n\r\n<!doctype html>"),
        ("garbage", "\u{16}\0 this is not HTTP"),
        ("bad_request", "HTTP/1.1 400 Bad Request\r\n"),
        ("ok", ANSWER),
    ] {
        world.installation.control_core(|control| control["rpc"] = rpc.into());
        let said = world.ask(REQUEST);
        assert!(said.contains(answer), "{rpc}: {said}");
    }
    world.installation.control_core(|control| control["rpc"] = "refuse".into());
    assert_eq!(world.ask(REQUEST), "");

    world.installation.control_core(|control| control["rpc"] = "hang".into());
    let mut stream = UnixStream::connect(world.installation.socket()).unwrap();
    stream.write_all(REQUEST.as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // Of a socket with a time limit a bare read says `Interrupted` where the whole process was stopped for a moment.
    let error = stream.read_exact(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "neither an answer nor an end");

    world.installation.control_core(|control| control["rpc"] = "huge".into());
    let mut stream = UnixStream::connect(world.installation.socket()).unwrap();
    stream.write_all(REQUEST.as_bytes()).unwrap();
    let mut much = vec![0; 1 << 22];
    stream.read_exact(&mut much).unwrap();
}

#[test]
fn the_socket_comes_late_or_when_it_is_allowed_to() {
    let world = World::new();
    let socket = world.installation.socket();
    world.installation.control_core(|control| control["rpc"] = "refuse".into());
    let _core = world.start(Kind::Core);
    assert!(!socket.exists());
    world.installation.control_core(|control| control["rpc"] = "ok".into());
    assert_eq!(world.ask(REQUEST), ANSWER);

    let world = World::new();
    world.installation.control_core(|control| control["rpc_after_ms"] = 400.into());
    let _core = world.start(Kind::Core);
    let started = world.log().last_start().unwrap().mono_ns;
    world.wait_for_socket();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap();
    assert!(now - started >= 400_000_000);
}

#[test]
fn the_socket_is_where_the_cores_own_configuration_says() {
    let world = World::new();
    let own = world.sandbox.path().join("own.sock");
    // Go does not mind the case of keys.
    std::fs::write(
        world.installation.core_config(),
        format!("[admin.server]\nSOCKETPATH = {own:?}\nHttpPath = '/own'\n"),
    )
    .unwrap();
    let _core = world.start(Kind::Core);
    let stream = wait_until("somebody listens", SOON, || UnixStream::connect(&own).ok());
    assert_eq!(exchange(stream, &REQUEST.replace("/rpc", "/own")), ANSWER);
}

#[test]
fn the_height_is_told_over_rest() {
    let world = World::new();
    // Free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.installation.control_core(|control| {
        control["rest_port"] = port.into();
        control["height"] = 123.into();
    });
    let _core = world.start(Kind::Core);
    let ask = |path: &str| {
        let mut stream = wait_until("somebody listens", SOON, || TcpStream::connect(("127.0.0.1", port)).ok());
        stream.write_all(request(&format!("GET {path}"), "Connection: close\r\n", "").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("/statistics").ends_with("\r\n\r\n{\"statistics\":{\"blockHeight\":\"123\"}}"));
    assert!(ask("/other").starts_with("HTTP/1.1 404 "));
    world.installation.control_core(|control| control["blocks_per_second"] = 100_000.into());
    wait_until("it grows", SOON, || (!ask("/statistics").contains("\"123\"")).then_some(()));
}
