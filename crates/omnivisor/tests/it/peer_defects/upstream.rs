//! Upstreams that are odd, slow, or dead.

use std::time::Duration;

use omnivisor_testkit::installation::platform;
use omnivisor_testkit::{Answer, Behaviour, Options, Upstream, sha256_hex, upgrade_info, wait_until};
use serde_json::json;

use super::{assert_still, publish_changed, queued, running_pid, wait_for_polls, wait_for_request};
use crate::world::{ANNOUNCEMENT, SOON, World, options, timestamp};

/// N44
#[test]
fn odd_builds_for_other_machines_keep_nobody_from_the_one_for_this() {
    let world = World::new();
    let supervised = world.run();
    publish_changed(&world, "2024.2", "2.0.0", |info| {
        let platforms = info["platforms"].as_object_mut().unwrap();
        let odd = [
            ("plan9-sparc", json!({"checksum": "zz", "checksumAlgorithm": "sha256", "url": "http://127.0.0.1/x"})),
            ("amiga-m68k", json!({"checksum": "00", "checksumAlgorithm": "md5", "url": "http://127.0.0.1/x"})),
            ("beos-ppc", json!({"checksum": "", "checksumAlgorithm": "SHA256", "url": "somewhere"})),
            ("linux-vax", json!({"url": "http://127.0.0.1/x"})),
            ("any", json!(7)),
            ("none", json!(null)),
        ];
        platforms.extend(odd.map(|(key, build)| (key.to_owned(), build)));
        platforms[&platform()]["checksum"] = platforms[&platform()]["checksum"].as_str().unwrap().to_uppercase().into();
        // Nymvisor demands them, which helps nobody.
        for key in ["notes", "publishDate"] {
            info.as_object_mut().unwrap().remove(key);
        }
    });
    world.wait_for_status("it is done", |status| {
        status["active"]["version"] == "2.0.0" && status["upgrade"]["phase"] == "idle"
    });
    wait_until("an empty queue", SOON, || queued(&world).is_empty().then_some(()));
    assert_eq!(world.log().starts().len(), 2, "{}", supervised.stderr());
    // And the way back is open: Nymvisor, which reads nothing of a file with such a build, finds none.
    world.wait_for_files("2.0.0");
    assert_eq!(world.installation.assert_nymvisor_would_start(), "2.0.0");
}

/// N49
#[test]
fn a_download_of_some_seconds_is_a_handful_of_lines() {
    let world = World::new();
    let supervised = world.run();
    let behaviour = Behaviour::new("2.0.0");
    let executable = world.minted(&behaviour);
    let (url, digest) = (world.upstream.url("/download/2024.2"), sha256_hex(&executable));
    let bytes = std::fs::read(executable).unwrap();
    let per_second = bytes.len() as u64 / 2;
    world.upstream.serve("/download/2024.2", Answer::Slow { bytes, per_second });
    let (now, build) = (timestamp(Duration::ZERO), Some((url.as_str(), digest.as_str())));
    let info = upgrade_info("2024.2", "2.0.0", &now, build, Some(behaviour.details()));
    world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
    wait_for_request(&world, "/download/2024.2");
    let begin = world.upstream.last_request("/download/2024.2").unwrap().at;
    let before = supervised.stderr().lines().count();
    world.wait_for_commit("2.0.0");
    assert!(begin.elapsed() > Duration::from_millis(1500), "it took its time");
    let said = supervised.stderr();
    let lines: Vec<&str> = said.lines().skip(before).collect();
    assert!(lines.len() <= 12, "{} lines: {lines:#?}", lines.len());
    assert!(said.contains("downloading") && said.contains("/download/2024.2"), "{said}");
}

/// N54
#[test]
fn an_upstream_that_is_gone_for_good_is_no_trouble_for_the_node() {
    let page = b"<!doctype html><html><title>Page not found</title></html>".to_vec();
    for (what, answer, words) in [
        ("404", Answer::Status(404, page.clone()), "answered 404"),
        (
            "a page for everything",
            Answer::Body { content_type: "text/html".to_owned(), bytes: page },
            "cannot read upgrade-info.json",
        ),
    ] {
        let world = World::new();
        world.upstream.serve(ANNOUNCEMENT, answer);
        let supervised = world.run();
        let pid = running_pid(&world.log());
        wait_for_polls(&world);
        let said = supervised.stderr();
        let about = said.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{what}: {said}"));
        let url = world.upstream.url(ANNOUNCEMENT);
        assert!(
            about.contains("WARN") && about.contains(&url) && about.contains("the node runs on"),
            "{what}: {about}"
        );
        assert!(!said.contains("ERROR") && said.lines().all(|line| line.len() < 500), "{what}: {said}");
        assert_still(&world, pid);
        assert_eq!(world.log().signals_of(pid), [0_i32; 0], "{what}");
        assert!(queued(&world).is_empty());
        let status = world.status().unwrap();
        assert_eq!((&status["upgrade"]["phase"], &status["node"]["pid"]), (&json!("idle"), &json!(pid)), "{what}");
        // And if it is back one day, it is followed.
        world.publish("2024.2", &Behaviour::new("2.0.0"));
        world.wait_for_commit("2.0.0");
    }
}

#[test]
fn the_address_is_below_the_base_and_an_absolute_one_counts_over_it() {
    let other = Upstream::http();
    for (absolute_url, asked, other_asked) in
        [(None, ANNOUNCEMENT, false), (Some(other.url("/else/where.json?x=1")), "/else/where.json", true)]
    {
        let world = World::with(Behaviour::new("1.0.0"), Options { absolute_url, ..options() });
        let _supervised = world.run();
        let upstream = if other_asked { &other } else { &world.upstream };
        wait_until("it is asked", SOON, || (upstream.requests(asked) > 0).then_some(()));
        assert_eq!(world.upstream.requests(ANNOUNCEMENT) == 0, other_asked);
    }
}
