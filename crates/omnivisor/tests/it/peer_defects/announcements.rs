//! What upstream says: names, versions, corrections.

use std::time::{Duration, SystemTime};

use omnivisor_testkit::{Answer, Behaviour, upgrade_info, wait_until};

use super::{
    WEEK, add_upgrade, assert_done, assert_still, placed, publish_changed, queued, running_pid, wait_for_polls,
    wait_for_standing, wait_for_time,
};
use crate::world::{ANNOUNCEMENT, SOON, World, options, timestamp};

/// N5, N12
#[test]
fn a_name_that_is_no_plain_name_is_not_followed_and_nothing_is_written_there() {
    let world = World::new();
    let supervised = world.run();
    let pid = running_pid(&world.log());
    let evil = world.sandbox.path().join("evil");
    let names = [evil.to_str().unwrap(), "../../../evil", "../evil", "a/../../evil", "", ".", "..", "a/b", "genesis"];
    let before = super::tree(world.installation.data());
    for (number, name) in names.into_iter().enumerate() {
        let download = format!("n{number}");
        publish_changed(&world, &download, "2.0.0", |info| info["name"] = name.into());
        wait_until(&format!("{name:?} is refused"), SOON, || {
            supervised.stderr().contains(&format!("announces {name:?}, which cannot be followed")).then_some(())
        });
        assert_still(&world, pid);
        assert_eq!(super::tree(world.installation.data()), before, "{name:?}");
        assert_eq!(world.upstream.requests(&format!("/download/{download}")), 0);
    }
    // From a plan that Nymvisor wrote, or a person, just as little.
    for name in names {
        let mut entry = upgrade_info("x", "2.0.0", &timestamp(Duration::ZERO), None, None);
        entry["name"] = name.into();
        world.installation.queue(entry);
    }
    wait_until("all are refused", SOON, || {
        (supervised.stderr().matches("an entry of the upgrade plan cannot be followed").count() >= names.len())
            .then_some(())
    });
    assert!(!evil.exists() && !world.sandbox.path().join("nym/evil").exists());
    assert_still(&world, pid);
    // And a good one is not kept from its turn.
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
}

/// N5
#[test]
fn an_upgrade_cannot_be_added_under_the_name_of_another_place() {
    let world = World::new();
    let evil = world.sandbox.path().join("evil");
    for name in [evil.to_str().unwrap(), "../../../../../evil", "genesis", "..", ""] {
        let output = add_upgrade(&world, name, &Behaviour::new("2.0.0"), &["--now"]);
        assert_ne!(output.status.code(), Some(0), "{name:?}");
        assert!(queued(&world).is_empty());
    }
    assert!(!evil.exists() && !world.sandbox.path().join("nym/evil").exists());
    assert_eq!(world.installation.assert_nymvisor_would_start(), "1.0.0");
}

/// N6
#[test]
fn an_older_announcement_is_no_upgrade() {
    let world = World::with(Behaviour::new("2.0.0"), options());
    let _supervised = world.run();
    let pid = running_pid(&world.log());
    for version in ["1.0.0", "2.0.0-rc.1", "2.0.0", "1.99.99"] {
        world.publish(&format!("stale-{version}"), &Behaviour::new(version));
        wait_for_polls(&world);
        assert_still(&world, pid);
    }
    assert!(queued(&world).is_empty());
    world.publish("2024.2", &Behaviour::new("2.0.1"));
    world.wait_for_commit("2.0.1");
    assert_eq!(world.log().starts().len(), 2);
}

/// N6
#[test]
fn a_hot_fix_is_not_undone_by_the_next_poll() {
    let world = World::new();
    let _supervised = world.run();
    world.publish("2024.2", &Behaviour::new("1.1.0"));
    world.wait_for_commit("1.1.0");
    assert_done(&add_upgrade(&world, "hot-fix", &Behaviour::new("1.1.1"), &["--now"]));
    world.wait_for_commit("1.1.1");
    let pid = running_pid(&world.log());
    wait_for_polls(&world);
    assert_still(&world, pid);
    assert_eq!(world.log().starts().len(), 3);
    assert!(queued(&world).is_empty());
}

/// N11
#[test]
fn a_name_that_is_announced_again_with_a_new_version_harms_nothing_and_is_installed() {
    let world = World::new();
    let mut supervised = world.run();
    world.publish("2024.5-x", &Behaviour::new("1.1.0"));
    world.wait_for_commit("1.1.0");
    world.publish_for("2024.5-x", &Behaviour::new("1.2.0"), &timestamp(WEEK));
    world.wait_for_status("ready", |status| status["upgrade"]["phase"] == "staged");
    assert_eq!(world.installation.assert_nymvisor_would_start(), "1.1.0");
    supervised.signal(15);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert_eq!(world.installation.assert_nymvisor_would_start(), "1.1.0");
    let _supervised = world.run();
    world.wait_for("1.1.0");
    world.publish("2024.5-x", &Behaviour::new("1.2.0"));
    world.wait_for_commit("1.2.0");
    world.wait_for("1.2.0");
    world.log().assert_never_double();
}

/// N17
#[test]
fn an_upgrade_that_is_taken_off_the_queue_does_not_happen() {
    let world = World::new();
    let _supervised = world.run();
    let time = Duration::from_secs(3);
    world.installation.queue(placed(&world, "cancelled", "2.0.0", &timestamp(time)));
    world.wait_for_status("ready", |status| status["upgrade"]["phase"] == "staged");
    let pid = running_pid(&world.log());
    super::empty_the_queue(&world);
    world.wait_for_status("cancelled", |status| status["upgrade"]["phase"] == "idle");
    assert_still(&world, pid);
    // One that is due after it shows that its time has passed.
    world.installation.queue(placed(&world, "later", "1.5.0", &timestamp(time)));
    world.wait_for_commit("1.5.0");
    let versions: Vec<_> = world.log().starts().into_iter().map(|start| start.version).collect();
    assert_eq!(versions, ["1.0.0", "1.5.0"]);
}

/// N18
#[test]
fn upstream_can_postpone_and_bring_forward() {
    let world = World::new();
    let _supervised = world.run();
    let pid = running_pid(&world.log());
    let first = SystemTime::now() + Duration::from_secs(3);
    world.publish_for("2024.2", &Behaviour::new("2.0.0"), &timestamp(Duration::from_secs(3)));
    world.wait_for_status("ready", |status| status["upgrade"]["phase"] == "staged");
    let later = timestamp(WEEK);
    world.publish_for("2024.2", &Behaviour::new("2.0.0"), &later);
    world.wait_for_status("postponed", |status| status["announced"][0]["due"] == later.as_str());
    assert!(SystemTime::now() < first, "in time");
    wait_for_time(first);
    wait_for_polls(&world);
    assert_still(&world, pid);
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
}

/// N18
#[test]
fn upstream_can_withdraw() {
    let world = World::new();
    let _supervised = world.run();
    let pid = running_pid(&world.log());
    let first = SystemTime::now() + Duration::from_secs(3);
    world.publish_for("2024.2", &Behaviour::new("2.0.0"), &timestamp(Duration::from_secs(3)));
    world.wait_for_status("ready", |status| status["upgrade"]["phase"] == "staged");
    publish_changed(&world, "2024.1", "1.0.0", |_| ());
    wait_until("the queue is empty", SOON, || queued(&world).is_empty().then_some(()));
    assert!(SystemTime::now() < first, "in time");
    wait_for_time(first);
    wait_for_polls(&world);
    assert_still(&world, pid);
}

/// N18
#[test]
fn upstream_can_correct_an_address_and_a_checksum() {
    let world = World::new();
    let _supervised = world.run();
    let pid = running_pid(&world.log());
    let key = omnivisor_testkit::installation::platform();
    let right = publish_changed(&world, "2024.2", "2.0.0", |info| {
        info["platforms"][&key]["checksum"] = "00".repeat(32).into();
    });
    wait_for_standing(&world, "2024.2", "digest");
    let mut elsewhere = right;
    elsewhere["platforms"][&key]["url"] = world.upstream.url("/nowhere").into();
    world.upstream.serve(ANNOUNCEMENT, Answer::Json(elsewhere));
    super::wait_for_request(&world, "/nowhere");
    assert_still(&world, pid);
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    assert_eq!(world.log().starts().len(), 2);
}
