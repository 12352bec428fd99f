//! Accepted, prefetched and verified, ready, stopped, switched, started.

use omnivisor_testkit::{Kind, VegaBehaviour};

use super::world::{ASSET, HEIGHT, NEW, OLD, World, installing, options};

#[test]
fn what_the_network_agrees_on_is_installed_before_the_height_and_switched_to_there() {
    let world = World::with(installing().with_data_node());
    world.publish(NEW, &VegaBehaviour::new(NEW));
    let mut supervised = world.run();
    world.wait_for(OLD);
    world.accept(NEW);
    world.wait_for_phase("staged");
    assert_eq!(world.github.downloads(NEW, ASSET), 1);
    assert_eq!(world.log().starts().len(), 2, "nothing was stopped for it");
    assert!(world.installation.folder(NEW).join("vega").is_file());
    let before = world.github.api_requests();

    world.reach();
    world.wait_for(NEW);
    world.wait_for_commit(NEW);
    assert_eq!(world.github.api_requests(), before, "no network in the outage");
    assert_eq!(world.installation.assert_visor_would_start(), NEW);
    let core = world.log().last_start_of(Kind::Core).unwrap();
    let flag = ["--snapshot.load-from-block-height".to_owned(), HEIGHT.to_string()];
    assert!(core.args.windows(2).any(|pair| pair == flag), "{:?}", core.args);
    let story = world.log().story();
    // Both are signalled at once: which of them says so first is the kernel's choice.
    let mut stops: Vec<&String> = story.iter().filter(|line| line.contains("signal")).collect();
    stops.sort();
    assert_eq!(stops, [&format!("core {OLD} signal 15"), &format!("datanode {OLD} signal 15")], "{story:#?}");
    world.log().assert_never_double();
    supervised.signal(15);
    assert_eq!(supervised.wait(crate::world::SOON).code(), Some(0));
    assert!(world.log().running().is_empty());
}

/// Before its height a release is of no network that there is, whoever wants it.
#[test]
fn a_person_can_hurry_the_preparation_and_not_the_height() {
    let world = World::with(options());
    let supervised = world.run();
    world.wait_for(OLD);
    world.accept(NEW);
    world.wait_for_status("nobody has placed it", |status| {
        status["announced"][0]["standing"].as_str().is_some_and(|standing| standing.contains("tried again at"))
    });
    world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    let answer = world.omnivisor(&["upgrade", NEW]);
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(answer.contains("at height 1000") && answer.contains("not before"), "{answer}");
    world.wait_for_phase("staged");
    let hold = world.omnivisor(&["hold"]);
    let said = String::from_utf8_lossy(&hold.stdout).into_owned();
    assert!(said.contains("at height 1000: the node will halt there"), "{said}");
    assert!(world.omnivisor(&["upgrade", NEW]).status.success());
    world.wait_for_status("it is on hold", |status| status["held"] == true);
    assert_eq!(world.log().starts().len(), 1, "nothing was stopped: {}", super::world::said(&supervised));
    world.reach();
    world.wait_for_commit(NEW);
}

#[test]
fn a_release_that_is_placed_by_hand_is_checked_and_switched_to() {
    let world = World::with(options());
    let _supervised = world.run();
    world.wait_for(OLD);
    world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    world.accept(NEW);
    world.wait_for_phase("staged");
    world.reach();
    world.wait_for(NEW);
    world.wait_for_commit(NEW);
    assert_eq!(world.installation.assert_visor_would_start(), NEW);
}

/// No snapshot goes back what a network has done, and nobody but the operator knows whether the old release can go on.
#[test]
fn a_release_of_a_network_goes_back_only_where_a_person_says_that_its_data_may_stay() {
    let world = World::with(options().with_data_node());
    // Wherever the tests run, its file system may be one that clones.
    std::fs::write(world.installation.home().join("omnivisor.toml"), "[snapshot]\nmethod = 'none'\n").unwrap();
    let _supervised = world.run();
    world.wait_for(OLD);
    world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    world.accept(NEW);
    world.wait_for_phase("staged");
    world.reach();
    world.wait_for_commit(NEW);
    let refused = world.omnivisor(&["rollback"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("no snapshot was taken"), "{said}");
    assert!(said.contains("PostgreSQL may have been migrated") && said.contains("--keep-data"), "{said}");
    world.wait_for(NEW);
    let back = world.omnivisor(&["rollback", "--keep-data"]);
    assert!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
    // Whether the old one can go on past the height is its own affair; this one cannot.
    world.wait_for_status("the old one is the active one", |status| {
        status["upgrade"]["phase"] == "idle" && OLD.ends_with(status["active"]["version"].as_str().unwrap_or("-"))
    });
}
