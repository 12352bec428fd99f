//! Snapshots of a node whose data is in several homes: taken by themselves only where all of it can be cloned, and never a reason to
//! stay behind a network.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use omnivisor_testkit::mounts::Ground;
use omnivisor_testkit::{Sandbox, Supervised, VegaBehaviour, VegaOptions, wait_until};
use serde_json::Value;

use super::world::{NEW, OLD, World, options, wait_for_line};
use crate::world::SOON;

/// What the plan says of homes that no snapshot is taken of.
pub const ESSENTIALS: &str = "signer state and configuration only, because";

pub const SIGNED: &str = "data/priv_validator_state.json";

/// A world on a file system that can clone, if there can be one here.
pub fn cloning(options: VegaOptions) -> Option<(World, Ground)> {
    match Ground::new() {
        Ok(ground) => {
            let folder = ground.image("world");
            fs::create_dir(&folder).unwrap();
            Some((on(&folder, options), ground))
        }
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

pub fn on(disk: &Path, options: VegaOptions) -> World {
    filled(World::within(Sandbox::on(disk), options))
}

/// With what a core and its consensus engine have written.
pub fn filled(world: World) -> World {
    let (core, consensus) = (world.installation.core_home(), world.installation.tendermint_home());
    write(&core.join("state/node/data"), "old");
    write(&core.join("state/gone"), "old");
    write(&consensus.join("data/blocks"), "old");
    write(&consensus.join(SIGNED), "1");
    world
}

pub fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

pub fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path.as_ref()).unwrap_or_else(|error| format!("{}: {error}", path.as_ref().display()))
}

pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub fn home(world: &World) -> String {
    world.installation.home().to_str().unwrap().to_owned()
}

/// To the new release, at the height, for which `ready` is waited for.
pub fn upgraded(world: &World, supervised: Supervised, ready: impl Fn() -> bool) -> Supervised {
    world.wait_for(OLD);
    world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    world.accept(NEW);
    world.wait_for_phase("staged");
    wait_until("what comes before the height", SOON, || ready().then_some(()));
    world.reach();
    world.wait_for_commit(NEW);
    supervised
}

/// What there is of snapshots for the new release, by name.
pub fn names(world: &World) -> Vec<String> {
    let folder = world.installation.home().join(".omnivisor/backups").join(NEW);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Whether the data was copied ahead.
pub fn is_copied_ahead(world: &World) -> bool {
    names(world).iter().any(|name| name.ends_with(".partial-seen"))
}

/// What the new release does to the data.
pub fn migrate(world: &World) {
    let (core, consensus) = (world.installation.core_home(), world.installation.tendermint_home());
    write(&core.join("state/node/data"), "new");
    write(&core.join("state/more"), "new");
    fs::remove_file(core.join("state/gone")).unwrap();
    write(&consensus.join("data/blocks"), "new");
    write(&consensus.join(SIGNED), "2");
}

#[track_caller]
pub fn is_back(world: &World) {
    let (core, consensus) = (world.installation.core_home(), world.installation.tendermint_home());
    assert_eq!(read(core.join("state/node/data")), "old");
    assert_eq!(read(core.join("state/gone")), "old");
    assert!(!core.join("state/more").exists());
    assert_eq!(read(consensus.join("data/blocks")), "old");
    assert_eq!(read(consensus.join(SIGNED)), "2", "what was signed stays signed");
}

pub fn backups(world: &World) -> Vec<Value> {
    let output = world.omnivisor(&["backup", "list", "--json", "--home", &home(world)]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

pub fn folder_of(backup: &Value) -> PathBuf {
    PathBuf::from(backup["path"].as_str().unwrap_or_else(|| panic!("{backup:#}")))
}

#[test]
fn where_all_of_it_can_be_cloned_a_snapshot_holds_every_home_and_a_person_can_go_back_to_it() {
    let Some((world, _ground)) = cloning(options()) else { return };
    let _supervised = upgraded(&world, world.run(), || is_copied_ahead(&world));
    let taken = backups(&world);
    assert_eq!(taken.len(), 1, "{taken:#?}");
    let folder = folder_of(&taken[0]);
    assert_eq!(read(folder.join("core/state/node/data")), "old");
    assert_eq!(read(folder.join("consensus").join(SIGNED)), "1");
    assert!(!folder.join("core/omnivisor-node.lock").exists(), "a lock is no data");
    let lock = || fs::metadata(world.installation.core_home().join("omnivisor-node.lock")).unwrap().ino();
    let before = lock();
    migrate(&world);
    let back = world.omnivisor(&["rollback"]);
    assert!(back.status.success(), "{}", said(&back));
    world.wait_for_status("the old one is the active one", |status| {
        status["upgrade"]["phase"] == "idle" && status["active"]["name"] == "genesis"
    });
    is_back(&world);
    assert_eq!(lock(), before, "the lock that the node holds is never moved");
    assert_eq!(world.installation.assert_visor_would_start(), OLD);
}

/// Nothing, where the tests run on a file system that clones.
pub fn cannot_clone() -> Option<()> {
    let world = World::new();
    let clones = said(&world.omnivisor(&["plan", "--home", &home(&world)])).contains("copied by reference, which");
    if clones {
        println!("skipped: the temporary folder is on a file system that clones");
    }
    (!clones).then_some(())
}

/// What could not be put back is not taken: where the homes are is looked at, not what they are called.
#[test]
fn homes_that_have_to_do_with_each_other_have_no_snapshot_and_the_plan_says_why() {
    type Arrange<'a> = &'a dyn Fn(&World);
    let moved = |from: &Path, to: &Path| {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::rename(from, to).unwrap();
        symlink(to, from).unwrap();
    };
    let cases: [(&str, Arrange<'_>); 3] = [
        ("holds another home", &|world| {
            moved(&world.installation.tendermint_home(), &world.installation.core_home().join("tm"));
        }),
        ("are in one another", &|world| {
            moved(&world.installation.core_home(), &world.installation.home().join("core"));
        }),
        ("cannot be found", &|world| fs::remove_dir_all(world.installation.tendermint_home()).unwrap()),
    ];
    for (why, arrange) in cases {
        let Some((world, _ground)) = cloning(options()) else { return };
        let plan = || said(&world.omnivisor(&["plan", "--home", &home(&world)]));
        assert!(plan().contains("by reference"), "{}", plan());
        arrange(&world);
        let is_signed = world.installation.tendermint_home().exists();
        let only = if is_signed { ESSENTIALS } else { "CONFIGURATION ONLY, as no signer state can be read, because" };
        assert!(plan().contains(only) && plan().contains(why), "{}", plan());
    }
}

#[test]
fn what_is_mounted_in_a_home_could_not_be_moved_and_none_is_taken() {
    let Some((world, _ground)) = cloning(options()) else { return };
    let data = world.installation.tendermint_home().join("data");
    let bind =
        |arguments: &[&str]| Command::new(arguments[0]).args(&arguments[1..]).arg(&data).status().unwrap().success();
    assert!(bind(&["mount", "--bind", data.to_str().unwrap()]));
    let plan = said(&world.omnivisor(&["plan", "--home", &home(&world)]));
    assert!(bind(&["umount"]));
    assert!(plan.contains(ESSENTIALS) && plan.contains("is mounted in a home"), "{plan}");
}

#[test]
fn a_snapshot_for_which_nothing_could_be_copied_ahead_keeps_no_node_from_following_its_network() {
    let Some((world, _ground)) = cloning(options()) else { return };
    write(&world.installation.home().join(".omnivisor/backups"), "a file");
    let supervised = upgraded(&world, world.run(), || true);
    wait_for_line(&supervised, &["ERROR", "without a snapshot", "cannot be made"]);
    wait_for_line(&supervised, &["ERROR", "no snapshot of the data is taken", "nothing that was copied ahead"]);
    wait_for_line(&supervised, &["WARN", "signer state and configuration cannot be kept"]);
    let refused = world.omnivisor(&["rollback"]);
    assert!(!refused.status.success() && said(&refused).contains("--keep-data"), "{}", said(&refused));
    world.wait_for(NEW);
}

#[test]
fn a_snapshot_that_fails_at_the_height_is_done_without_and_nothing_is_left_of_it() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let Some((world, _ground)) = cloning(options()) else { return };
    let mut command = world.run_command();
    command.env("OMNIVISOR_CHECKPOINT", "make snapshot-#-000001-preupgrade.partial-mtree");
    command.env("OMNIVISOR_FAULT", "ENOSPC");
    let supervised = upgraded(&world, world.sandbox.spawn(command), || is_copied_ahead(&world));
    wait_for_line(&supervised, &["ERROR", "no snapshot of the data is taken", "No space left on device"]);
    let is_of_it = |name: &String| name.starts_with("snapshot-");
    wait_until("nothing is left", SOON, || (!names(&world).iter().any(is_of_it)).then_some(()));
    wait_for_line(&supervised, &["INFO", "signer state and configuration are kept"]);
    let left = backups(&world);
    assert_eq!(left.len(), 1, "{left:#?}");
    assert_eq!(left[0]["kind"], "essentials", "{left:#?}");
    assert_eq!(read(folder_of(&left[0]).join("consensus").join(SIGNED)), "1");
}

#[test]
fn a_backup_by_hand_holds_every_home_and_is_put_back_while_nothing_runs() {
    let world = filled(World::with(options().with_data_node()));
    let mut supervised = world.run();
    world.wait_for(OLD);
    let mut command = world.surrounded(crate::world::omnivisor_exe(), "omnivisor");
    command.args(["backup", "now"]);
    let taken = command.output().unwrap();
    assert!(taken.status.success(), "{}", said(&taken));
    let all = wait_until("it is listed", SOON, || {
        let all = backups(&world);
        all.first().is_some_and(|it| it["sealed"] == true).then_some(all)
    });
    for name in ["core", "consensus", "data-node"] {
        assert!(folder_of(&all[0]).join(name).is_dir(), "{name}: {all:#?}");
    }
    supervised.signal(15);
    supervised.wait(SOON);
    migrate(&world);
    let id = all[0]["id"].as_str().unwrap();
    let only = world.omnivisor(&["restore", id, "--path", "core/state/node", "--home", &home(&world)]);
    assert!(only.status.success(), "{}", said(&only));
    assert_eq!(read(world.installation.core_home().join("state/node/data")), "old");
    assert_eq!(read(world.installation.tendermint_home().join("data/blocks")), "new");
    let whole = world.omnivisor(&["restore", id, "--home", &home(&world)]);
    assert!(whole.status.success(), "{}", said(&whole));
    is_back(&world);
    let _supervised = world.run();
    world.wait_for(OLD);
}
