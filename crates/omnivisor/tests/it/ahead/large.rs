//! A large file that is left to the last pass, in an upgrade that is killed or fails around it: the snapshot has it as it was when its node
//! ended, and never as somebody has seen it before.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use omnivisor_testkit::mounts::Ground;
use omnivisor_testkit::{Behaviour, Sandbox, wait_until};

use super::copies;
use crate::random::Random;
use crate::world::{SOON, World, options};

const LARGE: usize = 20 << 20;
const PAGE: usize = 4096;

/// A node on an XFS, with a database.
struct Scene {
    world: World,
    _ground: Ground,
}

impl Scene {
    fn new() -> Option<Self> {
        let ground = match Ground::new() {
            Ok(ground) => ground,
            Err(why) => {
                println!("skipped: {why}");
                return None;
            }
        };
        let folder = ground.image("world");
        fs::create_dir(&folder).unwrap();
        let world = World::within(Sandbox::on(&folder), Behaviour::new("1.0.0"), options());
        fs::create_dir_all(world.installation.daemon_home().join("data")).unwrap();
        let scene = Self { world, _ground: ground };
        fs::write(scene.database(), vec![7; LARGE]).unwrap();
        Some(scene)
    }

    fn database(&self) -> PathBuf {
        self.world.installation.daemon_home().join("data/database")
    }

    /// As its node does: some pages, at random.
    fn write(&self, random: &mut Random) {
        let file = File::options().write(true).open(self.database()).unwrap();
        for _ in 0..20 {
            let at = random.below((LARGE / PAGE) as u64) * PAGE as u64;
            file.write_all_at(&random.below(u64::MAX).to_le_bytes(), at).unwrap();
        }
    }

    /// The copies of it in snapshots, whole or not.
    fn copied(&self) -> Vec<PathBuf> {
        copies(&self.world).into_iter().map(|it| it.join("data/database")).filter(|it| it.exists()).collect()
    }
}

#[test]
fn wherever_an_upgrade_is_killed_or_fails_the_snapshot_has_it_as_its_node_left_it() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    // Whether the node may still write to it when that has happened.
    let cases = [
        ("before-arm", "KILL", true),
        ("after-arm", "KILL", true),
        ("before-snapshot", "KILL", true),
        ("copy database", "KILL", true),
        ("copy database", "ENOSPC", false),
        ("rename snapshot-#-000001-preupgrade", "KILL", true),
        ("after-snapshot", "KILL", false),
        ("before-activate", "KILL", false),
    ];
    // Most of a case is waiting.
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some((point, fault, runs)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    try_one(point, fault, *runs);
                }
            });
        }
    });
}

fn try_one(point: &str, fault: &str, runs: bool) {
    let what = format!("{fault} at {point}");
    let Some(scene) = Scene::new() else { return };
    let world = &scene.world;
    let mut command = world.run_command();
    command.env("OMNIVISOR_RETRY_DELAY", "100ms").env("OMNIVISOR_CHECKPOINT", point).env("OMNIVISOR_FAULT", fault);
    let mut supervised = world.sandbox.spawn(command);
    world.wait_for("1.0.0");
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    let mut next = None;
    if fault == "KILL" {
        supervised.wait(SOON);
        if ["after-arm", "before-snapshot", "copy database"].contains(&point) {
            assert!(scene.copied().is_empty(), "{what}: it was left to the last pass");
        }
        if runs {
            scene.write(&mut Random(3));
        }
        next = Some(world.sandbox.spawn(world.run_command()));
    }
    world.wait_for_commit("2.0.0");
    let snapshot = wait_until(&format!("{what}: there is one snapshot"), SOON, || match &scene.copied()[..] {
        [only] => Some(only.clone()),
        _ => None,
    });
    assert!(fs::read(&snapshot).unwrap() == fs::read(scene.database()).unwrap(), "{what}: it is an older one");
    drop((next, supervised));
}
