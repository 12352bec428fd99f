//! What core says of its network's wish, and what it says that makes no sense.

use omnivisor_testkit::{Kind, VegaBehaviour};
use serde_json::{Value, json};

use super::calm::Calm;
use super::world::{ASSET, HEIGHT, NEW, World, installing, options};

const OTHER: &str = "v0.76.0";

fn accepted(world: &World, value: Value) {
    world.installation.control_core(|control| control["accepted"] = value);
}

fn rpc(world: &World, how: &str) {
    world.installation.control_core(|control| control["rpc"] = how.into());
}

fn announcing(with_data_node: bool) -> Calm {
    let options = if with_data_node { installing().with_data_node() } else { installing() };
    let calm = Calm::begin(World::with(options));
    for tag in [NEW, OTHER] {
        calm.world.publish(tag, &VegaBehaviour::new(tag));
    }
    calm
}

#[test]
fn a_release_that_is_agreed_on_later_replaces_the_one_that_was_prepared() {
    // The other one may be the older one: a network has its reasons.
    for (first, then) in [(NEW, OTHER), (OTHER, NEW)] {
        let mut calm = announcing(true);
        calm.world.accept(first);
        calm.wait_until_staged(first);
        calm.world.accept(then);
        calm.wait_until_staged(then);
        let calm = calm.switches_to(then);
        let versions: Vec<String> = calm.world.log().starts().into_iter().map(|start| start.version).collect();
        assert!(!versions.contains(&first.to_owned()), "{versions:?}");
        assert_eq!(calm.world.installation.assert_visor_would_start(), then);
    }
}

#[test]
fn another_height_for_the_same_release_is_followed_and_nothing_is_downloaded_again() {
    let mut calm = announcing(false);
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    calm.check("another height", &[NEW, "at height 2000"], |world| {
        accepted(world, json!({ "tag": NEW, "height": 2000 }));
    });
    calm.wait_until_staged(NEW);
    let calm = calm.switches_to(NEW);
    assert_eq!(calm.world.github.downloads(NEW, ASSET), 1);
    let core = calm.world.log().last_start_of(Kind::Core).unwrap();
    assert!(core.args.contains(&"2000".to_owned()) && !core.args.contains(&HEIGHT.to_string()), "{:?}", core.args);
}

#[test]
fn a_release_that_the_network_has_thought_better_of_is_dropped() {
    let mut calm = announcing(true);
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    accepted(&calm.world, Value::Null);
    calm.world.wait_for_phase("idle");
    assert_eq!(calm.world.status().unwrap()["announced"], json!([]));
    // Whatever is said of readiness now is for no release.
    calm.check("ready for nothing", &["names no release", "it runs on"], World::reach);
    calm.world.installation.control_core(|control| control["ready"] = false.into());
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    assert_eq!(calm.world.github.downloads(NEW, ASSET), 1, "it is still there");
    calm.switches_to(NEW);
}

/// Before its first block core knows nothing: that is no withdrawal.
#[test]
fn a_core_that_cannot_know_yet_withdraws_nothing() {
    let mut calm = announcing(false);
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    calm.world.installation.control_core(|control| control["before_first_block"] = true.into());
    // An answer that is odd is said: then those before it have been heard.
    calm.check("an odd one", &["could not say", "the node is not well"], |world| rpc(world, "error"));
    rpc(&calm.world, "ok");
    calm.check("another odd one", &["answered with no result"], |world| rpc(world, "null"));
    calm.wait_until_staged(NEW);
    calm.world.installation.control_core(|control| {
        control["rpc"] = "ok".into();
        control["before_first_block"] = false.into();
    });
    calm.switches_to(NEW);
}

// V12
#[test]
fn an_answer_that_makes_no_sense_stops_nothing_and_is_said_once() {
    let mut calm = announcing(true);
    let cases = [
        ("ready_without_release", "names no release"),
        ("html", "did not answer with JSON"),
        ("null", "answered with no result"),
        ("error", "could not say what its upgrade status is: the node is not well"),
        ("bad_request", "rpc: not today"),
        ("huge", "did not answer with JSON"),
    ];
    for prepared in [false, true] {
        for (how, words) in cases {
            let before = calm.so_far();
            calm.check(how, &[words, "changes nothing; it runs on"], |world| rpc(world, how));
            assert_eq!(calm.said_since(before).matches(words).count(), 1, "{how}");
            let phase = if prepared { "staged" } else { "idle" };
            assert_eq!(calm.world.status().unwrap()["upgrade"]["phase"], phase, "{how}");
        }
        rpc(&calm.world, "ok");
        calm.world.accept(NEW);
        calm.wait_until_staged(NEW);
    }
    calm.switches_to(NEW);
}

// V12
#[test]
fn a_release_that_cannot_be_one_is_refused_and_said() {
    let mut calm = announcing(false);
    for (tag, height, words) in [
        ("", 7, "do not go together"),
        (NEW, 0, "do not go together"),
        ("../v0.75.0", 7, "cannot be one"),
        ("v0.75.0/..", 7, "cannot be one"),
        ("genesis", 7, "cannot be one"),
        ("current", 7, "cannot be one"),
        ("latest", 7, "cannot be one"),
        ("v0.75.0 --home=/", 7, "cannot be one"),
        ("v0.75.0\n[x]", 7, "cannot be one"),
    ] {
        calm.check(tag, &[words, "it runs on"], |world| {
            world.installation.control_core(|control| {
                control["accepted"] = json!({ "tag": tag, "height": height });
                control["ready"] = true.into();
            });
        });
        assert_eq!(calm.world.status().unwrap()["upgrade"]["phase"], "idle", "{tag:?}");
        assert_eq!(calm.world.github.api_requests(), 0, "{tag:?}");
        // What is odd in the same words is said once: between two of them all is well.
        calm.world.installation.control_core(|control| {
            control["ready"] = false.into();
            control["rpc"] = "error".into();
        });
        calm.wait_for_line("between", calm.so_far().saturating_sub(1), &["the node is not well"]);
        rpc(&calm.world, "ok");
    }
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    calm.switches_to(NEW);
}

/// Core takes a tag without its letter for the same; the release and its folder are called as it was voted for.
#[test]
fn a_tag_without_its_letter_is_the_same_version() {
    let tag = NEW.trim_start_matches('v');
    let mut calm = announcing(false);
    calm.world.publish(tag, &VegaBehaviour::new(NEW));
    calm.world.accept(tag);
    calm.wait_until_staged(tag);
    calm.world.reach();
    calm.world.wait_for(NEW);
    calm.world.wait_for_status("it is committed", |status| {
        status["active"]["name"] == tag && status["upgrade"]["phase"] == "idle"
    });
    calm.world.installation.assert_visor_would_start_from(&calm.world.installation.folder(tag), NEW);
}

/// A socket that comes late, and one that is away for a while.
#[test]
fn a_core_that_cannot_be_asked_for_a_while_is_asked_again() {
    let world = World::with(options());
    world.installation.control_core(|control| control["rpc_after_ms"] = 3000.into());
    let mut calm = Calm::begin(world);
    calm.world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    rpc(&calm.world, "refuse");
    calm.world.reach();
    calm.undisturbed("nobody can know that it is ready");
    rpc(&calm.world, "garbage");
    calm.undisturbed("nor now");
    rpc(&calm.world, "wrong_id");
    calm.switches_to(NEW);
}
