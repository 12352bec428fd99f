//! The server, asked by a plain socket, so that no client's kindness hides what is on the wire.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Answer, Upstream};

/// Everything the server sends to a request, until it closes.
fn get(upstream: &Upstream, path: &str, headers: &str) -> Vec<u8> {
    let mut stream = ask(upstream, path, headers);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    answer
}

fn ask(upstream: &Upstream, path: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", upstream.port())).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes()).unwrap();
    stream
}

fn text(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).into_owned()
}

fn body(answer: &[u8]) -> String {
    text(answer).split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn what_is_served_is_answered_until_it_is_withdrawn() {
    let upstream = Upstream::http();
    assert!(text(&get(&upstream, "/a", "")).starts_with("HTTP/1.1 404 "));
    upstream.serve("/a", Answer::Json(json!({"x": 1})));
    assert_eq!(body(&get(&upstream, "/a?y=2", "User-Agent: me\r\n")), "{\"x\":1}");
    let request = upstream.last_request("/a").unwrap();
    assert_eq!((request.method.as_str(), request.query.as_str()), ("GET", "y=2"));
    assert_eq!(request.header("user-agent"), Some("me"));
    upstream.withdraw("/a");
    assert!(body(&get(&upstream, "/a", "")).contains("<title>404"));
    assert_eq!(upstream.requests("/a"), 3);
    assert_eq!(upstream.requests("/b"), 0);
}

#[test]
fn bytes_and_files_can_be_had_from_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "0123456789").unwrap();
    let upstream = Upstream::http();
    upstream.serve("/body", Answer::bytes("0123456789"));
    upstream.serve("/file", Answer::File(file));
    for path in ["/body", "/file"] {
        let whole = get(&upstream, path, "");
        assert!(text(&whole).starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(body(&whole), "0123456789");
        let rest = get(&upstream, path, "Range: bytes=4-\r\n");
        assert!(text(&rest).starts_with("HTTP/1.1 206 "));
        assert!(text(&rest).contains("Content-Range: bytes 4-9/10\r\n"));
        assert_eq!(body(&rest), "456789");
        assert!(text(&get(&upstream, path, "Range: bytes=10-\r\n")).starts_with("HTTP/1.1 416 "));
    }
}

#[test]
fn answers_can_be_bad_in_many_ways() {
    let upstream = Upstream::http();
    upstream.serve("/cut", Answer::CutAt { bytes: b"0123456789".to_vec(), after: 3 });
    let cut = get(&upstream, "/cut", "");
    assert!(text(&cut).contains("Content-Length: 10\r\n"));
    assert_eq!(body(&cut), "012");

    upstream.serve("/status", Answer::Status(500, b"broken".to_vec()));
    assert!(text(&get(&upstream, "/status", "")).starts_with("HTTP/1.1 500 "));
    upstream.serve("/there", Answer::Redirect("/status".to_owned()));
    assert!(text(&get(&upstream, "/there", "")).contains("Location: /status\r\n"));
    upstream.serve("/loop", Answer::RedirectLoop);
    assert!(text(&get(&upstream, "/loop", "")).contains("Location: /loop\r\n"));
    upstream.serve("/garbage", Answer::Garbage);
    assert!(!get(&upstream, "/garbage", "").starts_with(b"HTTP"));

    upstream.serve("/endless", Answer::Endless);
    let mut endless = ask(&upstream, "/endless", "");
    endless.read_exact(&mut vec![0; 1_000_000]).unwrap();

    let begin = Instant::now();
    upstream.serve("/slow", Answer::Slow { bytes: vec![b'x'; 20], per_second: 100 });
    assert_eq!(body(&get(&upstream, "/slow", "")).len(), 20);
    assert!(begin.elapsed() >= Duration::from_millis(150));
}

#[test]
fn an_answer_can_depend_on_a_header_of_the_request() {
    let upstream = Upstream::http();
    upstream.serve("/a", Answer::tagged("\"7\"", &json!({"x": 1})));
    let whole = get(&upstream, "/a", "");
    assert!(text(&whole).contains("ETag: \"7\"\r\n") && body(&whole) == "{\"x\":1}");
    assert!(text(&get(&upstream, "/a", "If-None-Match: \"6\"\r\n")).starts_with("HTTP/1.1 200 "));
    let same = get(&upstream, "/a", "if-none-match: \"7\"\r\n");
    assert!(text(&same).starts_with("HTTP/1.1 304 ") && body(&same).is_empty());
}

#[test]
fn one_answer_can_stand_for_all_and_another_for_the_rest() {
    let upstream = Upstream::http();
    upstream.serve("/a", Answer::bytes("a"));
    upstream.serve_rest(Answer::with_headers(410, &[("X-Why", "gone")]));
    assert_eq!(body(&get(&upstream, "/a", "")), "a");
    assert!(text(&get(&upstream, "/b", "")).contains("X-Why: gone\r\n"));
    upstream.serve_instead(Some(Answer::Status(503, Vec::new())));
    for path in ["/a", "/b"] {
        assert!(text(&get(&upstream, path, "")).starts_with("HTTP/1.1 503 "));
    }
    upstream.serve_instead(None);
    assert_eq!(body(&get(&upstream, "/a", "")), "a");
}

#[test]
fn a_sequence_goes_on_to_its_last() {
    let upstream = Upstream::http();
    let inner = Answer::Sequence(vec![Answer::bytes("2"), Answer::bytes("3")]);
    upstream.serve("/", Answer::Sequence(vec![Answer::bytes("1"), inner]));
    let answers: Vec<_> = (0..4).map(|_| body(&get(&upstream, "/", ""))).collect();
    assert_eq!(answers, ["1", "2", "3", "3"]);
}

#[test]
fn whoever_hangs_is_let_go_when_the_server_is_dropped() {
    let upstream = Upstream::http();
    upstream.serve("/hang", Answer::Hang);
    upstream.serve("/stall", Answer::Stall { after_bytes: 5, of_bytes: 10 });
    upstream.serve("/slow", Answer::Slow { bytes: vec![0; 1000], per_second: 1 });
    let mut hanging = ask(&upstream, "/hang", "");
    let mut stalled = ask(&upstream, "/stall", "");
    let slow = ask(&upstream, "/slow", "");
    let mut some = Vec::new();
    while !some.ends_with(&[0; 5]) {
        let mut byte = [1];
        stalled.read_exact(&mut byte).unwrap();
        some.extend(byte);
    }
    drop(upstream);
    hanging.read_to_end(&mut Vec::new()).ok();
    stalled.read_to_end(&mut Vec::new()).ok();
    drop(slow);
}

#[test]
fn the_authority_vouches_for_the_server() {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};

    let upstream = Upstream::https();
    upstream.serve("/", Answer::bytes("secret"));
    assert!(upstream.url("/").starts_with("https://127.0.0.1:"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(upstream.ca_pem_path()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    for name in ["127.0.0.1", "localhost"] {
        let name = ServerName::try_from(name).unwrap();
        let client = rustls::ClientConnection::new(config.clone().into(), name).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", upstream.port())).unwrap();
        let mut stream = rustls::StreamOwned::new(client, socket);
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(body(&answer), "secret");
    }
}
