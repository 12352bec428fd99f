//! Homes on file systems of their own: one snapshot holds all of them, each is copied by reference and put back by renames where it is, and
//! nothing is left there of a copy that is gone.

mod killed;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use omnivisor::effects::data;
use omnivisor_testkit::mounts::{Ground, Mounted};
use omnivisor_testkit::{Supervised, wait_until};
use serde_json::Value;

use super::snapshots::{
    ESSENTIALS, SIGNED, backups, filled, folder_of, home, is_back, is_copied_ahead, migrate, names, on, read, said,
    upgraded, write,
};
use super::world::{NEW, OLD, World, options};
use crate::world::SOON;

/// A world whose consensus engine has a disk of its own. Its fields are dropped in this order.
struct Scene {
    world: World,
    bound: Option<Mounted>,
    other: Ground,
    _ground: Ground,
}

impl Scene {
    /// None where there can be none here.
    fn new() -> Option<Self> {
        let (ground, other) = match (Ground::new(), Ground::new()) {
            (Ok(ground), Ok(other)) => (ground, other),
            (Err(why), _) | (_, Err(why)) => {
                println!("skipped: {why}");
                return None;
            }
        };
        let folder = ground.image("world");
        fs::create_dir(&folder).unwrap();
        let world = on(&folder, options());
        let (home, there) = (world.installation.tendermint_home(), other.image("tendermint"));
        assert!(Command::new("cp").arg("-a").args([&home, &there]).status().unwrap().success());
        fs::remove_dir_all(&home).unwrap();
        fs::create_dir(&home).unwrap();
        let bound = Mounted::bind(&there, &home).unwrap();
        Some(Self { world, bound: Some(bound), other, _ground: ground })
    }

    fn consensus(&self) -> PathBuf {
        self.world.installation.tendermint_home()
    }

    fn ours(&self) -> PathBuf {
        self.world.installation.home().join(".omnivisor")
    }

    /// The parts of copies on the other disk.
    fn parts(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.consensus().join(".omnivisor-parts")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name != "room-for-an-undo").collect()
    }

    /// Parts to which nothing of ours leads.
    fn orphans(&self) -> BTreeSet<String> {
        let mut led = BTreeSet::new();
        links(&self.ours(), &mut led);
        self.parts().difference(&led).cloned().collect()
    }

    #[track_caller]
    fn has_no_orphans(&self) {
        assert_eq!(self.orphans(), BTreeSet::new());
    }

    fn omnivisor(&self, arguments: &[&str]) -> Output {
        self.world.omnivisor(&[arguments, &["--home", &home(&self.world)]].concat())
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.omnivisor(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        said(&output)
    }

    /// Once, so that there is something to restore to, and no longer.
    fn was_run(&self) {
        ended(self.world.run());
    }
}

fn ended(mut supervised: Supervised) {
    supervised.signal(15);
    supervised.wait(SOON);
}

fn links(folder: &Path, led: &mut BTreeSet<String>) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if let Ok(to) = fs::read_link(&path) {
            led.extend(to.file_name().map(|name| name.to_string_lossy().into_owned()));
        } else if path.is_dir() {
            links(&path, led);
        }
    }
}

/// What is in a folder: mode and contents, and when a file was modified. Without what is ours, and what never goes back.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inside) = folders.pop() {
        for path in fs::read_dir(&inside).unwrap().flatten().map(|entry| entry.path()) {
            let below = path.strip_prefix(folder).unwrap().to_owned();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if below.to_string_lossy().contains("omnivisor") || below == Path::new(SIGNED) {
                continue;
            }
            if metadata.is_dir() {
                found.insert(below, (metadata.permissions().mode(), 0, Vec::new()));
                folders.push(path);
            } else if metadata.is_file() {
                let contents = fs::read(&path).unwrap();
                found.insert(below, (metadata.permissions().mode(), metadata.mtime_nsec(), contents));
            }
        }
    }
    found
}

#[test]
fn an_upgrade_that_has_migrated_homes_on_two_file_systems_is_taken_back_on_both() {
    let Some(scene) = Scene::new() else { return };
    let world = &scene.world;
    let plan = scene.done(&["plan"]);
    assert!(plan.contains("by reference") && plan.contains(".omnivisor-parts"), "{plan}");
    let _supervised = upgraded(world, world.run(), || is_copied_ahead(world));
    let taken = backups(world);
    assert_eq!((taken.len(), scene.parts().len()), (1, 1), "{taken:#?}");
    let folder = folder_of(&taken[0]);
    assert_eq!(read(folder.join("consensus/data/blocks")), "old");
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_eq!(device(&folder.join("consensus")), device(&scene.consensus()));
    assert_ne!(device(&folder), device(&scene.consensus()));
    let kept = |name: &str| fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(kept(""), 0o700);
    let parts = fs::metadata(scene.consensus().join(".omnivisor-parts")).unwrap();
    assert_eq!(parts.permissions().mode() & 0o777, 0o700, "it holds keys");

    let before = tree(&folder.join("consensus"));
    let blocks = fs::metadata(folder.join("consensus/data/blocks")).unwrap().ino();
    migrate(world);
    let back = world.omnivisor(&["rollback"]);
    assert!(back.status.success(), "{}", said(&back));
    world.wait_for_status("the old one is the active one", |status| {
        status["upgrade"]["phase"] == "idle" && status["active"]["name"] == "genesis"
    });
    is_back(world);
    assert_eq!(tree(&scene.consensus()), before);
    assert_eq!(fs::metadata(scene.consensus().join("data/blocks")).unwrap().ino(), blocks, "it was moved, not copied");
    scene.has_no_orphans();
    let replaced = scene.parts().into_iter().filter(|name| name.starts_with("replaced-")).count();
    assert_eq!((replaced, scene.parts().len()), (1, 2), "{:?}", scene.parts());
    assert_eq!(world.installation.assert_visor_would_start(), OLD);
}

#[test]
fn a_backup_by_hand_of_two_file_systems_is_listed_and_verified_and_goes_back_to_both() {
    let Some(scene) = Scene::new() else { return };
    let world = &scene.world;
    scene.was_run();
    let before = [tree(&world.installation.core_home()), tree(&scene.consensus())];
    scene.done(&["backup", "now"]);
    let all = backups(world);
    assert_eq!((all.len(), &all[0]["sealed"], &all[0]["damaged"]), (1, &Value::Bool(true), &Value::Null), "{all:#?}");
    let manifest =
        read(folder_of(&all[0]).with_extension("mtree")) + &read(format!("{}.mtree", folder_of(&all[0]).display()));
    assert!(
        manifest.contains("./consensus type=dir") && manifest.contains("./consensus/data/blocks type=file"),
        "{manifest}"
    );
    assert!(scene.done(&["backup", "verify"]).contains("good"));

    migrate(world);
    let id = all[0]["id"].as_str().unwrap();
    scene.done(&["restore", id, "--path", "consensus/data/blocks"]);
    assert_eq!(read(scene.consensus().join("data/blocks")), "old");
    assert_eq!(read(world.installation.core_home().join("state/node/data")), "new");
    scene.done(&["restore", id]);
    is_back(world);
    assert_eq!([tree(&world.installation.core_home()), tree(&scene.consensus())], before);
    scene.has_no_orphans();

    // What is changed there shows, and what is not there at all is believed by nobody.
    write(&folder_of(&all[0]).join("consensus/data/blocks"), "other");
    let verified = scene.omnivisor(&["backup", "verify"]);
    assert!(!verified.status.success() && said(&verified).contains("consensus/data/blocks"), "{}", said(&verified));
    fs::remove_dir_all(fs::read_link(folder_of(&all[0]).join("consensus")).unwrap()).unwrap();
    let listed = backups(world);
    assert!(listed[0]["damaged"].as_str().unwrap().contains("is not there"), "{listed:#?}");
    let before = [tree(&world.installation.core_home()), tree(&scene.consensus())];
    let refused = scene.omnivisor(&["restore", id, "--unverified"]);
    assert!(!refused.status.success() && said(&refused).contains("is not there"), "{}", said(&refused));
    assert_eq!([tree(&world.installation.core_home()), tree(&scene.consensus())], before);
    let _supervised = world.run();
    world.wait_for(OLD);
}

#[test]
fn a_snapshot_that_is_removed_takes_its_parts_along() {
    let Some(scene) = Scene::new() else { return };
    let world = &scene.world;
    scene.was_run();
    fs::write(world.installation.home().join("omnivisor.toml"), "[backup]\nkeep = 1\n").unwrap();
    for _ in 0..3 {
        scene.done(&["backup", "now"]);
    }
    assert_eq!((backups(world).len(), scene.parts().len()), (3, 3));
    let pruned = scene.done(&["backup", "prune"]);
    assert_eq!((backups(world).len(), scene.parts().len()), (1, 1), "{pruned}");
    scene.has_no_orphans();
    assert!(scene.done(&["backup", "verify"]).contains("good"));

    // What somebody who was killed has left is found by the next start, and nothing else is touched.
    let parts = scene.consensus().join(".omnivisor-parts");
    let kept = scene.parts();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let whose = data::id(world.installation.home());
    let orphan = parts.join(format!("{now}-{whose}-consensus"));
    let others = [
        format!("replaced-{now}-{whose}-consensus"),
        format!("{}-{whose}-consensus", now / 2),
        format!("{now}-{}-consensus", whose.wrapping_add(1)), // of another supervisor
        "mine".to_owned(),
    ];
    write(&orphan.join("data/blocks"), "orphaned");
    others.iter().for_each(|name| write(&parts.join(name).join("data/blocks"), "kept"));
    let _supervised = world.run();
    wait_until("it is gone", SOON, || (!orphan.exists()).then_some(()));
    let left: BTreeSet<_> = kept.into_iter().chain(others).collect();
    assert_eq!(scene.parts(), left);
}

/// What was copied ahead of an upgrade that is withdrawn goes, there too.
#[test]
fn what_was_copied_ahead_in_vain_is_removed_on_both() {
    let Some(scene) = Scene::new() else { return };
    let world = &scene.world;
    let _supervised = world.run();
    world.wait_for(OLD);
    world.installation.place_release(NEW, &omnivisor_testkit::VegaBehaviour::new(NEW));
    world.accept(NEW);
    world.wait_for_phase("staged");
    wait_until("it is copied ahead", SOON, || (is_copied_ahead(world) && scene.parts().len() == 1).then_some(()));
    world.installation.control_core(|control| control["accepted"] = Value::Null);
    wait_until("nothing is left", SOON, || (names(world).is_empty() && scene.parts().is_empty()).then_some(()));
}

/// A disk may come later than the supervisor, or not at all.
#[test]
fn while_the_disk_of_a_part_is_not_there_nothing_is_put_back_and_nothing_is_removed() {
    let Some(mut scene) = Scene::new() else { return };
    ended(upgraded(&scene.world, scene.world.run(), || is_copied_ahead(&scene.world)));
    let before = tree(&folder_of(&backups(&scene.world)[0]).join("consensus"));
    migrate(&scene.world);
    let parts = scene.parts();
    drop(scene.bound.take());
    let core = tree(&scene.world.installation.core_home());
    let listed = backups(&scene.world);
    assert!(listed[0]["damaged"].as_str().unwrap().contains("is not there"), "{listed:#?}");
    let refused = scene.omnivisor(&["rollback"]);
    assert!(!refused.status.success() && said(&refused).contains("is not there"), "{}", said(&refused));
    let id = listed[0]["id"].as_str().unwrap();
    let refused = scene.omnivisor(&["restore", id, "--unverified"]);
    assert!(!refused.status.success(), "{}", said(&refused));
    assert_eq!(tree(&scene.world.installation.core_home()), core);

    scene.bound = Some(Mounted::bind(&scene.other.image("tendermint"), &scene.consensus()).unwrap());
    assert_eq!(scene.parts(), parts);
    scene.done(&["rollback"]);
    let _supervised = scene.world.run();
    scene.world.wait_for_status("the old one is the active one", |status| {
        status["upgrade"]["phase"] == "idle" && status["active"]["name"] == "genesis"
    });
    is_back(&scene.world);
    assert_eq!(tree(&scene.consensus()), before);
    scene.has_no_orphans();
}

/// A small disk for the programs, and a large one for the data, as machines have them.
#[test]
fn homes_that_can_be_cloned_are_snapshotted_also_where_the_supervisors_own_file_system_cannot() {
    let Ok(ground) = Ground::new() else { return println!("skipped: nothing can be mounted here") };
    let ext4 = ground.make_ext4("ext4").unwrap();
    let disk = Mounted::new(&ext4, &ground.disk()).unwrap();
    let folder = ground.image("world");
    fs::create_dir(&folder).unwrap();
    let options = omnivisor_testkit::VegaOptions { home: Some(disk.path().join("visor")), ..options() };
    let world = on(&folder, options);
    let supervised = upgraded(&world, world.run(), || is_copied_ahead(&world));
    let folder = folder_of(&backups(&world)[0]);
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    let data = "state/node/data";
    let before = (inode(folder.join("core").join(data)), inode(folder.join("consensus/data/blocks")));
    migrate(&world);
    let back = world.omnivisor(&["rollback"]);
    assert!(back.status.success(), "{}", said(&back));
    world.wait_for_status("the old one is the active one", |status| {
        status["upgrade"]["phase"] == "idle" && status["active"]["name"] == "genesis"
    });
    is_back(&world);
    let (core, consensus) = (world.installation.core_home(), world.installation.tendermint_home());
    let after = (inode(core.join(data)), inode(consensus.join("data/blocks")));
    assert_eq!(after, before, "they were moved, not copied");
    ended(supervised);
    drop(world);
    drop(disk);
}

/// While nothing waits for it, one home may be a plain copy, and the other one a clone.
#[test]
fn a_backup_by_hand_is_a_plain_copy_where_the_supervisor_is_and_a_clone_elsewhere() {
    let Ok(ground) = Ground::new() else { return println!("skipped: nothing can be mounted here") };
    let ext4 = ground.make_ext4("ext4").unwrap();
    let disk = Mounted::new(&ext4, &ground.disk()).unwrap();
    let folder = disk.path().join("world");
    fs::create_dir(&folder).unwrap();
    let world = on(&folder, options());
    let (consensus, there) = (world.installation.tendermint_home(), ground.image("tendermint"));
    assert!(Command::new("cp").arg("-a").args([&consensus, &there]).status().unwrap().success());
    let bound = Mounted::bind(&there, &consensus).unwrap();
    let plan = said(&world.omnivisor(&["plan", "--home", &home(&world)]));
    let core = world.installation.core_home().canonicalize().unwrap().display().to_string();
    assert!(plan.contains(ESSENTIALS) && plan.contains(&core), "{plan}");
    ended(world.run());
    let done = |arguments: &[&str]| {
        let output = world.omnivisor(&[arguments, &["--home", &home(&world)]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    };
    let before = tree(&consensus);
    done(&["backup", "now"]);
    done(&["backup", "verify"]);
    migrate(&world);
    done(&["restore", backups(&world)[0]["id"].as_str().unwrap()]);
    is_back(&world);
    assert_eq!(tree(&consensus), before);
    drop(world);
    drop(bound);
    drop(disk);
}

/// What could not be copied aside in a moment is not copied at all, and it is said of which home.
#[test]
fn a_home_on_a_file_system_that_cannot_clone_is_refused_by_name() {
    let Ok(ground) = Ground::new() else { return println!("skipped: nothing can be mounted here") };
    let folder = ground.image("world");
    fs::create_dir(&folder).unwrap();
    let world = filled(on(&folder, options()));
    let ext4 = ground.make_ext4("ext4").unwrap();
    let disk = Mounted::new(&ext4, &ground.disk()).unwrap();
    let consensus = world.installation.tendermint_home();
    write(&disk.path().join("tendermint").join(SIGNED), "1");
    let bound = Mounted::bind(&disk.path().join("tendermint"), &consensus).unwrap();
    let plan = said(&world.omnivisor(&["plan", "--home", &home(&world)]));
    let name = consensus.canonicalize().unwrap().display().to_string();
    for words in [ESSENTIALS, &name, "is on another file system", "nothing is copied by reference"] {
        assert!(plan.contains(words), "{words}: {plan}");
    }
    let supervised = upgraded(&world, world.run(), || true);
    let kinds: Vec<_> = backups(&world).iter().map(|it| it["kind"].clone()).collect();
    assert_eq!(kinds, ["essentials"]);
    ended(supervised);
    let refused = world.omnivisor(&["backup", "now", "--home", &home(&world)]);
    assert!(
        !refused.status.success() && said(&refused).contains("nothing is copied by reference"),
        "{}",
        said(&refused)
    );
    assert!(!consensus.join(".omnivisor-parts").exists(), "nothing of ours is left there");
    drop(world);
    drop(bound);
}
