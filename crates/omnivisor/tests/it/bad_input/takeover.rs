//! Somebody runs the node already.

use omnivisor_testkit::{Behaviour, wait_until};

use super::{Calm, impatient};
use crate::world::{SOON, World};

#[test]
fn a_second_supervisor_is_refused_and_told_who_is_first() {
    let mut calm = Calm::new();
    let pid = calm.supervised.pid();
    for _ in 0..2 {
        let mut second = calm.world.start();
        assert_eq!(second.wait(SOON).code(), Some(12), "{}", second.stderr());
        let said = second.stderr();
        assert!(said.contains(&format!("supervised already, by process {pid}")), "{said}");
        assert!(said.contains("omnivisor status"), "and what can be done: {said}");
        assert_eq!(calm.world.log().starts().len(), 1);
        calm.undisturbed("a second supervisor");
    }
    assert_eq!(calm.world.status().unwrap()["supervisor"], pid, "the first one still answers");
    calm.follows_a_good_one("2.0.0");
}

#[test]
fn a_node_whose_supervisor_is_gone_is_taken_over_as_it_is() {
    let world = World::with(Behaviour::new("1.0.0"), impatient());
    let mut peer = world.run_by_nymvisor("\"$0\" run & exit 0");
    assert_eq!(peer.wait(SOON).code(), Some(0));
    let pid = world.wait_for("1.0.0");
    let supervised = world.start();
    let mut calm = Calm { world, supervised, pid };
    calm.wait_for_line("the take-over", 0, &["the node is alive and is taken over", &pid.to_string()]);
    calm.world.wait_for_status("the node is known", |status| status["node"]["pid"] == pid);
    calm.undisturbed("the take-over");
    assert_eq!(calm.world.log().starts().len(), 1);
    calm.follows_a_good_one("2.0.0");
}

#[test]
fn a_node_whose_supervisor_lives_is_left_to_it() {
    let world = World::with(Behaviour::new("1.0.0"), impatient());
    let mut peer = world.run_by_nymvisor("\"$0\" run & wait");
    let pid = world.wait_for("1.0.0");
    let mut supervised = world.start();
    assert_eq!(supervised.wait(SOON).code(), Some(12), "{}", supervised.stderr());
    let said = supervised.stderr();
    let both = [format!("the node (process {pid})"), format!("nymvisor (process {})", peer.pid())];
    assert!(both.iter().all(|it| said.contains(it)), "{said}");
    assert_eq!(peer.try_wait(), None);
    assert_eq!(world.log().running().len(), 1);
    assert_eq!(world.log().signals_of(pid), [0_i32; 0]);
    assert_eq!(world.log().starts().len(), 1);

    // It is a matter of who runs it, and not of what was written down meanwhile.
    peer.kill9();
    let supervised = world.start();
    let mut calm = Calm { world, supervised, pid };
    wait_until("the node is known", SOON, || calm.world.status().filter(|status| status["node"]["pid"] == pid));
    calm.undisturbed("the take-over");
    calm.follows_a_good_one("2.0.0");
}
