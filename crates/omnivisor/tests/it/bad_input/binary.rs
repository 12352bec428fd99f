//! Executables that are not what they should be. None of them ever gets near the node.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use omnivisor_testkit::{Behaviour, BuildInfoAnswer, executable, upgrade_info};

use super::{Calm, announced, queue_only};
use crate::world::{World, timestamp};

/// Where an ELF file says for which machine it is, and AArch64's number.
const MACHINE: usize = 18;
const AARCH64: u8 = 183;

fn answers(build_info: BuildInfoAnswer) -> Behaviour {
    Behaviour { build_info, ..Behaviour::new("2.0.0") }
}

/// The bytes of an executable that were announced with their own digest, but are wrong.
fn publish_bytes(world: &World, name: &str, bytes: &[u8]) {
    let path = world.sandbox.path().join("minted").join(name);
    fs::write(&path, bytes).unwrap();
    queue_only(world, &[announced(world, name, "2.0.0", &timestamp(Duration::ZERO), &path)]);
}

#[test]
fn an_executable_that_is_not_what_it_should_be_is_never_switched_to() {
    let mut calm = Calm::new();
    let good = fs::read(calm.world.minted(&Behaviour::new("2.0.0"))).unwrap();
    let mut elsewhere = good.clone();
    let other = if elsewhere[MACHINE] == AARCH64 { 62 } else { AARCH64 };
    elsewhere[MACHINE] = other;
    let machine = format!("ELF machine {other}");
    let head = good[..200].to_vec();
    for (name, bytes, words) in [
        ("text", b"just a text".to_vec(), ["neither an ELF executable nor a script", "nym-node"]),
        ("no-bytes", Vec::new(), ["neither an ELF executable nor a script", "nym-node"]),
        ("elsewhere", elsewhere, ["built for another machine", &machine]),
        ("half", head, ["does not say who it is", "nym-node"]),
        ("no-interpreter", b"#!/no/such/interpreter\n".to_vec(), ["does not say who it is", "cannot be executed"]),
    ] {
        calm.check(name, &["the upgrade failed", words[0], words[1]], |world| publish_bytes(world, name, &bytes));
        assert!(!calm.world.installation.binary(name).exists(), "{name} is not published");
    }
    for (name, behaviour, words) in [
        ("rubbish", answers(BuildInfoAnswer::Rubbish), ["did not print its build information", "this is no JSON"]),
        ("endless", answers(BuildInfoAnswer::Huge), ["more than 64 KiB", "nym-node"]),
        ("fails", answers(BuildInfoAnswer::Exit(1)), ["exit code 1", "no build info today"]),
        (
            "daemon",
            answers(BuildInfoAnswer::OtherName("nym-api".to_owned())),
            ["calls itself nym-api", "nym-node runs here"],
        ),
        (
            "version",
            answers(BuildInfoAnswer::OtherVersion("2.1.0".to_owned())),
            ["is version 2.1.0", "2.0.0 was announced"],
        ),
    ] {
        calm.check(name, &["the upgrade failed", words[0], words[1]], |world| {
            let mut info = announced(world, name, "2.0.0", &timestamp(Duration::ZERO), &world.minted(&behaviour));
            info["binaryDetails"] = behaviour.details();
            queue_only(world, &[info]);
        });
        assert!(!calm.world.installation.binary(name).exists(), "{name} is not published");
    }
    calm.check("details", &["the upgrade failed", "commit_sha = abc", "but def was announced"], |world| {
        let behaviour = Behaviour::new("2.0.0");
        let mut info = announced(world, "details", "2.0.0", &timestamp(Duration::ZERO), &world.minted(&behaviour));
        info["binaryDetails"] = behaviour.details();
        info["binaryDetails"]["commit_sha"] = "def".into();
        queue_only(world, &[info]);
    });
    queue_only(&calm.world, &[]);
    calm.follows_a_good_one("2.0.0");
}

#[test]
fn an_executable_placed_by_hand_is_taken_without_its_x_bit_but_not_if_it_is_another() {
    let mut calm = Calm::new();
    let behaviour = Behaviour::new("2.0.0");
    let info = upgrade_info("by-hand", "2.0.0", &timestamp(Duration::ZERO), None, Some(behaviour.details()));
    let binary = calm.world.installation.binary("by-hand");
    calm.check("nothing placed", &["there is no executable at", binary.to_str().unwrap()], |world| {
        world.installation.queue(info.clone());
    });
    calm.check("another version", &["the upgrade failed", "is version 1.9.0", "2.0.0 was announced"], |world| {
        world.installation.place_upgrade(&info, Some(&world.minted(&Behaviour::new("1.9.0"))));
    });
    assert!(binary.exists(), "what a person placed is not removed");
    executable::copy(&calm.world.minted(&behaviour), &binary);
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o644)).unwrap();
    // It may have been given up by now: a person says that it is another one.
    assert!(calm.world.omnivisor(&["upgrade", "by-hand"]).status.success());
    calm.world.wait_for_commit("2.0.0");
    calm.world.wait_for("2.0.0");
    assert_eq!(fs::metadata(&binary).unwrap().permissions().mode() & 0o777, 0o755);

    // Announced for downloading, but something else stands in its place: neither is lost.
    let placed = calm.world.installation.binary("in-the-way");
    fs::create_dir_all(placed.parent().unwrap()).unwrap();
    fs::write(&placed, "somebody's").unwrap();
    calm.world.publish("in-the-way", &Behaviour::new("3.0.0"));
    calm.world.wait_for_commit("3.0.0");
    calm.world.wait_for("3.0.0");
    assert_eq!(fs::read(&placed).unwrap(), b"somebody's");
}
