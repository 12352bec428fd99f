//! An upstream that answers badly, or not at all.

use std::time::{Duration, Instant};

use omnivisor_testkit::{Answer, Behaviour, Options, Upstream, wait_until};

use super::{Calm, impatient};
use crate::world::{ANNOUNCEMENT, SOON, World};

/// N39: 500 MB of nothing; a debug build of the supervisor that has read two pages of it has some 20 MB.
const MOST_MEMORY_KIB: u64 = 40_000;

#[test]
fn whatever_an_upstream_answers_the_node_runs_on() {
    let half = br#"{"manual":false,"name":"2024.2","notes":"","publishDate":nul"#;
    let html = b"<!doctype html><title>404</title><h1>Not Found</h1>".to_vec();
    let cases = [
        ("rubbish", Answer::bytes(*b"this is no JSON"), ["cannot read upgrade-info.json", "this is no JSON"]),
        ("nothing", Answer::bytes(Vec::new()), ["cannot read upgrade-info.json", "EOF"]),
        ("half of it", Answer::bytes(half.to_vec()), ["cannot read upgrade-info.json", "column 60"]),
        ("another form", Answer::bytes(*b"[1, 2]"), ["cannot read upgrade-info.json", "describes an upgrade"]),
        ("a page with 200", Answer::bytes(html.clone()), ["cannot read upgrade-info.json", "<!doctype html>"]),
        ("a page with 404", Answer::Status(404, html), ["upstream cannot be asked", "answered 404"]),
        ("500", Answer::Status(500, b"oops".to_vec()), ["upstream cannot be asked", "answered 500"]),
        ("a cut", Answer::CutAt { bytes: half.to_vec(), after: 9 }, ["upstream cannot be asked", "end of file"]),
        ("no end", Answer::Endless, ["upstream cannot be asked", "more than 1048576 bytes"]),
        ("no HTTP", Answer::Garbage, ["upstream cannot be asked", "invalid HTTP"]),
        ("too much", Answer::bytes(vec![b' '; 500_000_000]), ["upstream cannot be asked", "more than 1048576 bytes"]),
        ("a circle", Answer::RedirectLoop, ["upstream cannot be asked", "too many redirects"]),
    ];
    // An upstream may be asked once in a second; four at a time are asked four times as often.
    std::thread::scope(|scope| {
        for cases in cases.chunks(3) {
            scope.spawn(move || {
                let mut calm = Calm::new();
                let url = calm.world.upstream.url(ANNOUNCEMENT);
                for (what, answer, words) in cases {
                    calm.check(what, &[words[0], words[1], &url, "the node runs on"], |world| {
                        world.upstream.serve(ANNOUNCEMENT, answer.clone());
                    });
                }
                let most = calm.most_memory();
                assert!(most < MOST_MEMORY_KIB, "{most} KiB");
                calm.follows_a_good_one("2.0.0");
            });
        }
    });
}

/// N54: the default upstream has been gone for long. Whoever reads the log is told once, not at every poll.
#[test]
fn an_upstream_that_is_gone_is_reported_once_and_not_at_every_poll() {
    let world = World::new();
    let supervised = world.run();
    let told = || supervised.stderr().matches("answered 404").count();
    wait_until("it is told", SOON, || (told() > 0).then_some(()));
    let before = world.upstream.requests(ANNOUNCEMENT);
    wait_until("three more polls", SOON, || (world.upstream.requests(ANNOUNCEMENT) >= before + 3).then_some(()));
    assert_eq!(told(), 1, "{}", supervised.stderr());
    // Another trouble is news; the first one after it is news again.
    world.upstream.serve(ANNOUNCEMENT, Answer::Status(503, Vec::new()));
    wait_until("the other trouble", SOON, || supervised.stderr().contains("answered 503").then_some(()));
    world.upstream.serve(ANNOUNCEMENT, Answer::Status(404, Vec::new()));
    wait_until("the first one again", SOON, || (told() == 2).then_some(()));
}

#[test]
fn an_upstream_that_is_not_there_is_asked_again() {
    let base = Options { absolute_url: Some("http://127.0.0.1:9/upgrade-info.json".to_owned()), ..impatient() };
    let mut calm = Calm::begin(World::with(Behaviour::new("1.0.0"), base));
    // Said once, and perhaps already by now.
    let line = |line: &str| {
        ["upstream cannot be asked", "http://127.0.0.1:9/", "refused"].iter().all(|word| line.contains(word))
    };
    wait_until("it is said", SOON, || calm.supervised.stderr().lines().any(line).then_some(()));
    calm.undisturbed("nobody");
}

#[test]
fn an_upstream_that_hangs_does_not_keep_the_supervisor_from_ending() {
    let stall = Answer::Stall { after_bytes: 100, of_bytes: 1000 };
    for answer in [Answer::Hang, stall] {
        let mut calm = Calm::new();
        calm.world.upstream.serve(ANNOUNCEMENT, answer);
        let before = calm.world.upstream.requests(ANNOUNCEMENT);
        wait_until("a poll", SOON, || (calm.world.upstream.requests(ANNOUNCEMENT) > before).then_some(()));
        calm.undisturbed("a hanging upstream");
        let begin = Instant::now();
        calm.supervised.signal(15);
        assert_eq!(calm.supervised.wait(SOON).code(), Some(0));
        assert!(begin.elapsed() < Duration::from_secs(5), "within the grace, and it took {:?}", begin.elapsed());
        assert!(calm.world.log().running().is_empty());
    }
}

#[test]
fn an_upstream_is_believed_if_its_certificate_is() {
    let secure = Upstream::https();
    let absolute_url = Some(secure.url(ANNOUNCEMENT));
    let world = World::with(Behaviour::new("1.0.0"), Options { absolute_url, ..impatient() });
    let info = world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.upstream.withdraw(ANNOUNCEMENT);
    let mut calm = Calm::begin(world);
    // Published after the start, or it would wait for a person.
    let again = calm.world.publish("2024.2", &Behaviour::new("2.0.0"));
    assert_ne!(info["upgradeTime"], again["upgradeTime"]);
    secure.serve(ANNOUNCEMENT, Answer::Json(again));
    // Said once, at the first poll: perhaps before anybody looks.
    calm.wait_for_line("an unknown authority", 0, &["upstream cannot be asked", "https://", "certificate"]);
    calm.undisturbed("an unknown authority");
    assert_eq!(secure.requests(ANNOUNCEMENT), 0, "nothing is said before it is known to whom");
    assert_eq!(calm.world.plan()["queuedUp"].as_array().unwrap().len(), 0);
    calm.supervised.signal(15);
    assert_eq!(calm.supervised.wait(SOON).code(), Some(0));

    let mut command = calm.world.nymvisor(&["run", "run", "--id", "x"]);
    command.env("SSL_CERT_FILE", secure.ca_pem_path());
    let _supervised = calm.world.sandbox.spawn(command);
    calm.world.wait_for_commit("2.0.0");
    calm.world.wait_for("2.0.0");
}
