//! A plan on disk that is no plan.

use std::fs;
use std::time::Duration;

use omnivisor_testkit::{Answer, Behaviour, upgrade_info, wait_until};
use serde_json::{Value, json};

use super::{Calm, NEVER, announced};
use crate::world::{ANNOUNCEMENT, SOON, timestamp};

#[test]
fn a_plan_that_cannot_be_read_is_left_as_it_is_until_it_can_be() {
    let mut calm = Calm::new();
    // There always is something to merge: a plan that cannot be read must not be replaced by it.
    let executable = calm.world.minted(&Behaviour::new("1.5.0"));
    let waiting = announced(&calm.world, "waiting", "1.5.0", NEVER, &executable);
    calm.world.upstream.serve(ANNOUNCEMENT, Answer::Json(waiting));
    calm.wait_until_staged("1.5.0");

    let path = calm.world.installation.plan();
    let good = fs::read(&path).unwrap();
    let mut large: Value = serde_json::from_slice(&good).unwrap();
    large["current"]["notes"] = "x".repeat(2_000_000).into();
    for (what, bytes, why) in [
        ("malformed", b"{\"current\": oops".to_vec(), "expected value"),
        ("empty", Vec::new(), "EOF"),
        ("half written", good[..good.len() / 2].to_vec(), "EOF"),
        ("of another form", b"[]".to_vec(), "current and queuedUp"),
        ("too large", serde_json::to_vec(&large).unwrap(), "1048576 are the most"),
    ] {
        let words = ["the upgrade plan cannot be read", path.to_str().unwrap(), why];
        calm.check(what, &words, |_| fs::write(&path, &bytes).unwrap());
        if why == "EOF" {
            calm.next_poll();
        }
        assert_eq!(fs::read(&path).unwrap(), bytes, "{what}: it is somebody's plan all the same");
        calm.check(what, &["the upgrade plan can be read again"], |_| fs::write(&path, &good).unwrap());
    }
    let words = ["the upgrade plan cannot be read", path.to_str().unwrap(), "500000000 bytes"];
    calm.check("half a gigabyte", &words, |_| fs::File::create(&path).unwrap().set_len(500_000_000).unwrap());
    calm.next_poll();
    calm.check("half a gigabyte", &["the upgrade plan can be read again"], |_| fs::write(&path, &good).unwrap());
    let aside = path.with_extension("aside");
    let words = ["the upgrade plan cannot be read", path.to_str().unwrap(), "directory"];
    calm.check("a directory", &words, |_| {
        fs::rename(&path, &aside).unwrap();
        fs::create_dir(&path).unwrap();
    });
    calm.check("a directory", &["the upgrade plan can be read again"], |_| {
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    });
    fs::remove_file(&path).unwrap();
    wait_until("a new plan", SOON, || serde_json::from_slice::<Value>(&fs::read(&path).ok()?).ok());
    calm.undisturbed("no plan");
    calm.follows_a_good_one("2.0.0");
}

#[test]
fn a_bad_entry_hides_no_good_one_and_is_kept() {
    let calm = Calm::new();
    let path = calm.world.installation.plan();
    let behaviour = Behaviour::new("2.0.0");
    let good = upgrade_info("2024.2", "2.0.0", &timestamp(Duration::ZERO), None, Some(behaviour.details()));
    calm.world.installation.place_upgrade(&good, Some(&calm.world.minted(&behaviour)));
    let bad = [
        json!({"name": "odd", "note": "by hand"}),
        json!(5),
        json!({"name": "../evil", "manual": "perhaps"}),
        json!({"manual": false, "name": "../escapes", "version": "3.0.0", "platforms": {}, "upgradeTime": NEVER}),
        json!({"manual": false, "name": "someday", "version": "3.0.0", "platforms": {}, "upgradeTime": "someday"}),
    ];
    let mut plan = calm.world.plan();
    let mut queue = bad.to_vec();
    queue.insert(2, good);
    plan["queuedUp"] = queue.into();
    plan["ours"] = "a key that nobody knows".into();
    fs::write(&path, plan.to_string()).unwrap();
    // Nymvisor itself could not read such a plan, so its own start check says nothing here.
    calm.world.wait_for("2.0.0");
    calm.world.wait_for_status("the good one is committed", |status| status["active"]["version"] == "2.0.0");
    wait_until("the good one is off the queue", SOON, || {
        (calm.world.plan()["queuedUp"].as_array()?.len() == bad.len()).then_some(())
    });
    for words in [
        ["odd", "missing field"],
        ["entry 2 of queuedUp", "invalid type"],
        ["../evil", "invalid type"],
        ["../escapes", "starts with a dot"],
        ["someday", "RFC 3339"],
    ] {
        let words = ["an entry of the upgrade plan cannot be followed", words[0], words[1]];
        calm.wait_for_line("bad entries", 0, &words);
    }
    let plan = calm.world.plan();
    let left = plan["queuedUp"].as_array().unwrap();
    assert_eq!(left.len(), bad.len(), "the good one is done, and every other one is still there: {left:#?}");
    for entry in &bad {
        let kept = left
            .iter()
            .any(|left| entry.as_object().is_none_or(|it| it.iter().all(|(key, value)| left[key] == *value)));
        assert!(kept && (entry.is_object() || left.contains(entry)), "{entry} in {left:#?}");
    }
    assert_eq!(plan["ours"], "a key that nobody knows");
}
