//! What is kept of an upgrade for which no snapshot can be taken: signer state and configuration, and nothing else; never a reason to stay
//! behind the network, and never a backup.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use omnivisor_testkit::mounts::Ground;
use omnivisor_testkit::{Supervised, VegaBehaviour, wait_until};
use serde_json::Value;

use super::snapshots::{SIGNED, backups, cannot_clone, cloning, filled, home, names, read, said, upgraded, write};
use super::world::{NEW, OLD, World, options, wait_for_line};
use crate::bad_input::disk::Disk;
use crate::world::SOON;

/// The files below a folder, by their paths in it, in order.
fn files(folder: &Path) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(below) = folders.pop() {
        for entry in fs::read_dir(below).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

#[track_caller]
fn kept(world: &World) -> PathBuf {
    let all: Vec<Value> = backups(world).into_iter().filter(|it| it["kind"] == "essentials").collect();
    assert_eq!(all.len(), 1, "{all:#?}");
    assert!(all[0]["damaged"].is_null(), "{all:#?}");
    PathBuf::from(all[0]["path"].as_str().unwrap())
}

fn stop(mut supervised: Supervised) {
    supervised.signal(15);
    supervised.wait(SOON);
}

fn plan(world: &World) -> String {
    said(&world.omnivisor(&["plan", "--home", &home(world)]))
}

/// What a core, its consensus engine and a data node have, that is no database.
fn with_more(world: World) -> World {
    let (core, consensus) = (world.installation.core_home(), world.installation.tendermint_home());
    write(&core.join("config/node/wallets.encrypted"), "keys");
    write(&core.join("data/node/wallets/vega/x"), "keys");
    write(&consensus.join("config/priv_validator_key.json"), "a key");
    write(&consensus.join("config/node_key.json"), "a key");
    write(&consensus.join("config/genesis.json"), "{}");
    fs::write(consensus.join("config/large.json"), vec![0; (1 << 20) + 1]).unwrap();
    fs::set_permissions(consensus.join("config/config.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    // To where the data is no link may lead.
    symlink(consensus.join("data"), consensus.join("config/data")).unwrap();
    world
}

#[test]
fn without_a_snapshot_signer_state_and_configuration_are_kept_and_listed_and_never_put_back() {
    if cannot_clone().is_none() {
        return;
    }
    let world = with_more(filled(World::with(options().with_data_node())));
    assert!(plan(&world).contains("signer state and configuration only, because"), "{}", plan(&world));
    let supervised = upgraded(&world, world.run(), || true);
    wait_for_line(&supervised, &["INFO", "signer state and configuration are kept", "files=5"]);
    let folder = kept(&world);
    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.starts_with("essentials-"), "{name}");
    assert_eq!(
        files(&folder),
        [
            "consensus/config/config.toml",
            "consensus/config/genesis.json",
            "consensus/data/priv_validator_state.json",
            "core/config/node/config.toml",
            "data-node/config/data-node/config.toml",
        ]
    );
    assert_eq!(read(folder.join("consensus").join(SIGNED)), "1");
    // It may hold passwords, and nobody else may look into it.
    let mut entries = vec![folder.clone()];
    while let Some(path) = entries.pop() {
        let (metadata, expected) = (fs::metadata(&path).unwrap(), if path.is_dir() { 0o700 } else { 0o600 });
        assert_eq!(metadata.permissions().mode() & 0o7777, expected, "{}", path.display());
        entries.extend(fs::read_dir(&path).into_iter().flatten().map(|it| it.unwrap().path()));
    }
    let live = fs::metadata(world.installation.core_config()).unwrap();
    let copy = fs::metadata(folder.join("core/config/node/config.toml")).unwrap();
    assert_eq!((copy.mtime(), copy.uid()), (live.mtime(), live.uid()));

    let status = world.status().unwrap();
    assert_eq!(status["essentials"], folder.to_str().unwrap(), "{status:#}");
    let shown = said(&world.omnivisor(&["status"]));
    assert!(shown.contains("signer state and configuration are in") && shown.contains(&name), "{shown}");
    assert_eq!(status["signerState"], true, "{status:#}");
    let manifest = wait_until("it is listed", SOON, || {
        let all = backups(&world);
        all.iter().find(|it| it["sealed"] == true).map(|it| it["manifest"].clone())
    });
    assert_eq!(manifest["method"], "essentials", "{manifest:#}");
    let left_out = manifest["not_included"].to_string();
    assert!(left_out.contains("large.json: it has") && left_out.contains("consensus/config/data: "), "{left_out}");
    let list = said(&world.omnivisor(&["backup", "list", "--home", &home(&world)]));
    assert!(list.contains(&name) && list.contains("signer state and configuration only"), "{list}");
    let verified = world.omnivisor(&["backup", "verify", &name, "--home", &home(&world)]);
    assert!(verified.status.success() && said(&verified).contains("good: "), "{}", said(&verified));
    // It is no newest backup.
    let newest = world.omnivisor(&["backup", "verify", "--home", &home(&world)]);
    assert!(!newest.status.success() && said(&newest).contains("there is no backup"), "{}", said(&newest));
    let back = world.omnivisor(&["rollback"]);
    assert!(!back.status.success() && said(&back).contains("no snapshot was taken"), "{}", said(&back));

    stop(supervised);
    for more in [&[][..], &["--unverified"], &["--path", "core/config"]] {
        let restore = ["restore", &name, "--home", &home(&world)];
        let restored = world.omnivisor(&[&restore, more].concat());
        let copies = format!("cp -r {}/consensus/config/. ", folder.display());
        assert!(!restored.status.success() && said(&restored).contains(&copies), "{}", said(&restored));
        assert!(said(&restored).contains("sign twice"), "{}", said(&restored));
    }
}

/// A world whose core is not told where the home of its consensus engine is.
fn unsaid(is_there: bool) -> World {
    let world = World::new();
    world.change_run_config(|run| {
        let at = run.core_args.iter().position(|word| word == "--tendermint-home").unwrap();
        run.core_args.drain(at..at + 2);
    });
    if is_there {
        write(&world.sandbox.home().join(".cometbft").join(SIGNED), "7");
        write(&world.sandbox.home().join(".cometbft/config/config.toml"), "");
    }
    world
}

#[test]
fn where_no_home_of_the_consensus_engine_is_said_its_usual_one_is_looked_into() {
    let world = unsaid(true);
    assert!(plan(&world).contains("signer state and configuration only, because"), "{}", plan(&world));
    let supervised = upgraded(&world, world.run(), || true);
    wait_for_line(&supervised, &["INFO", "signer state and configuration are kept", "files=3"]);
    assert_eq!(read(kept(&world).join("consensus").join(SIGNED)), "7");
    assert_eq!(world.status().unwrap()["signerState"], true);
}

#[test]
fn where_no_signer_state_is_found_nobody_says_that_it_is_kept() {
    let world = unsaid(false);
    assert!(plan(&world).contains("CONFIGURATION ONLY, as no signer state can be read"), "{}", plan(&world));
    let supervised = upgraded(&world, world.run(), || true);
    wait_for_line(&supervised, &["WARN", "configuration only: ", "/.cometbft is kept (", "files=1"]);
    wait_for_line(&supervised, &["WARN", "of an upgrade configuration only is kept"]);
    assert!(!super::world::said(&supervised).contains("signer state and configuration are kept"));
    let status = world.status().unwrap();
    assert_eq!((&status["signerState"], status["essentials"].is_string()), (&Value::Bool(false), true), "{status:#}");
    let shown = said(&world.omnivisor(&["status"]));
    assert!(shown.contains("CONFIGURATION ONLY is in") && !shown.contains("signer state and"), "{shown}");
    let listed = &backups(&world)[0];
    let left_out = listed["manifest"]["not_included"][0].as_str().unwrap();
    assert!(left_out.starts_with("consensus: no signer state of "), "{listed:#}");
    let list = said(&world.omnivisor(&["backup", "list", "--home", &home(&world)]));
    assert!(list.contains("configuration only, no signer state"), "{list}");
    stop(supervised);
    let restored = world.omnivisor(&["restore", listed["id"].as_str().unwrap(), "--home", &home(&world)]);
    assert!(said(&restored).contains("it holds configuration only, no signer state"), "{}", said(&restored));
}

#[test]
fn who_wants_no_snapshots_has_nothing_kept() {
    let world = filled(World::new());
    let mut command = world.run_command();
    command.env("OMNIVISOR_SNAPSHOT_METHOD", "none");
    let _supervised = upgraded(&world, world.sandbox.spawn(command), || true);
    assert_eq!(names(&world), Vec::<String>::new());
    let status = world.status().unwrap();
    assert!(status["essentials"].is_null() && status["signerState"].is_null(), "{status:#}");
}

#[test]
fn a_full_disk_keeps_no_node_from_following_its_network() {
    if cannot_clone().is_none() {
        return;
    }
    let Some(disk) = Disk::new(64) else { return };
    let world = filled(World::new());
    let backups = world.installation.home().join(".omnivisor/backups");
    fs::create_dir_all(backups.parent().unwrap()).unwrap();
    symlink(&disk.folder, &backups).unwrap();
    disk.fill();
    let supervised = upgraded(&world, world.run(), || true);
    wait_for_line(&supervised, &["WARN", "signer state and configuration cannot be kept", "goes on without"]);
    world.wait_for(NEW);
    assert_eq!(names(&world), Vec::<String>::new());
}

/// A file system that takes no writes, until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(path: PathBuf) -> Option<Self> {
        let frozen = Command::new("fsfreeze").arg("--freeze").arg(&path).status().is_ok_and(|it| it.success());
        frozen.then_some(Self(path))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).status().ok();
    }
}

#[test]
fn a_disk_that_hangs_keeps_no_node_from_following_its_network() {
    if cannot_clone().is_none() {
        return;
    }
    let ground = match Ground::new() {
        Ok(ground) => ground,
        Err(why) => return println!("skipped: {why}"),
    };
    let world = filled(World::new());
    let backups = world.installation.home().join(".omnivisor/backups");
    fs::create_dir_all(backups.parent().unwrap()).unwrap();
    fs::create_dir(ground.image("backups")).unwrap();
    symlink(ground.image("backups"), &backups).unwrap();
    let supervised = world.run();
    let Some(frozen) = Frozen::new(ground.image("")) else { return println!("skipped: nothing can be frozen here") };
    let supervised = upgraded(&world, supervised, || true);
    wait_for_line(&supervised, &["WARN", "signer state and configuration takes long", "does not wait"]);
    world.wait_for(NEW);
    drop(frozen);
    // What the new node has written by then is not what is meant.
    wait_for_line(&supervised, &["WARN", "signer state and configuration cannot be kept", "takes too long"]);
    assert_eq!(names(&world), Vec::<String>::new());
    stop(supervised);
}

/// Where it can be cloned, and must not.
#[test]
fn without_the_room_that_has_to_stay_free_only_they_are_kept() {
    let Some((world, _ground)) = cloning(options()) else { return };
    let mut command = world.run_command();
    command.env("OMNIVISOR_SNAPSHOT_RESERVE", "1TiB");
    let supervised = upgraded(&world, world.sandbox.spawn(command), || true);
    wait_for_line(&supervised, &["ERROR", "without a snapshot", "snapshot.reserve says how much stays"]);
    wait_for_line(&supervised, &["ERROR", "no snapshot of the data is taken"]);
    wait_for_line(&supervised, &["INFO", "signer state and configuration are kept"]);
    assert_eq!(read(kept(&world).join("consensus").join(SIGNED)), "1");
    assert!(!names(&world).iter().any(|name| name.starts_with("snapshot-")), "{:?}", names(&world));
}

/// What could not be put back by renames can be copied by hand.
#[test]
fn of_homes_in_one_another_they_are_kept_too() {
    let Some((world, _ground)) = cloning(options()) else { return };
    let (consensus, within) = (world.installation.tendermint_home(), world.installation.core_home().join("tm"));
    fs::rename(&consensus, &within).unwrap();
    symlink(&within, &consensus).unwrap();
    write(&consensus.join(SIGNED), "3");
    assert!(plan(&world).contains("only, because") && plan(&world).contains("holds another home"), "{}", plan(&world));
    let supervised = upgraded(&world, world.run(), || true);
    wait_for_line(&supervised, &["INFO", "signer state and configuration are kept", "files=3"]);
    assert_eq!(read(kept(&world).join("consensus").join(SIGNED)), "3");
}

#[test]
fn a_supervisor_that_is_killed_in_it_goes_on_and_nothing_half_made_is_left() {
    if !cfg!(debug_assertions) || cannot_clone().is_none() {
        return println!("skipped: a release has no checkpoints");
    }
    let world = filled(World::new());
    let mut command = world.run_command();
    command.env("OMNIVISOR_CHECKPOINT", "make essentials-#-000001.partial-mtree").env("OMNIVISOR_FAULT", "KILL");
    let mut supervised = world.sandbox.spawn(command);
    world.wait_for(OLD);
    world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    world.accept(NEW);
    world.wait_for_phase("staged");
    world.reach();
    supervised.wait(SOON);
    assert!(names(&world).iter().any(|name| name.ends_with(".partial")), "{:?}", names(&world));
    // And of one of which nobody knows any more.
    let rest = world.installation.home().join(".omnivisor/backups").join(NEW).join("essentials-1-000009.partial");
    write(&rest.join("core/config/node/config.toml"), "half");
    let _again = world.run();
    world.wait_for_commit(NEW);
    assert_eq!(read(kept(&world).join("consensus").join(SIGNED)), "1");
    let is_clean = || !names(&world).iter().any(|name| name.contains(".partial"));
    wait_until("nothing half made is left", SOON, || is_clean().then_some(()));
}

/// The newest stay, as many as of backups; and what is no backup takes the place of none.
#[test]
fn old_ones_are_removed_and_count_as_no_backups() {
    if cannot_clone().is_none() {
        return;
    }
    let world = filled(World::new());
    let supervised = world.run();
    let mut command = world.surrounded(crate::world::omnivisor_exe(), "omnivisor");
    command.args(["backup", "now"]);
    let taken = command.output().unwrap();
    assert!(taken.status.success(), "{}", said(&taken));
    let supervised = upgraded(&world, supervised, || true);
    wait_until("both are listed", SOON, || {
        (backups(&world).iter().filter(|it| it["sealed"] == true).count() == 2).then_some(())
    });
    stop(supervised);
    let folder = kept(&world);
    // Two that are older.
    for number in [1, 2] {
        let name = format!("essentials-{number}-000001");
        let older = folder.with_file_name(&name);
        write(&older.join("core/config/node/config.toml"), "older");
        let text = read(folder.with_extension("mtree"));
        let (id, taken) = (folder.file_name().unwrap().to_str().unwrap(), format!("2020-01-0{number}T00:00:00Z"));
        let head: Value =
            serde_json::from_str(text.lines().nth(1).unwrap().trim_start_matches("# omnivisor-snapshot/1 ")).unwrap();
        let text = text.replace(id, &name).replace(head["taken"].as_str().unwrap(), &taken);
        fs::write(older.with_extension("mtree"), text).unwrap();
    }
    let prune = |keep: &str| {
        let mut command = world.surrounded(crate::world::omnivisor_exe(), "omnivisor");
        command.args(["backup", "prune", "--home", &home(&world)]).env("OMNIVISOR_BACKUP_KEEP", keep);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let of = |kind: &str| backups(&world).iter().filter(|it| it["kind"] == kind).count();
        (of("folder"), of("essentials"))
    };
    assert_eq!(prune("3"), (1, 3));
    assert_eq!(prune("2"), (1, 2));
    assert_eq!(prune("1"), (1, 1));
    assert!(folder.is_dir(), "the newest stays");
    assert!(!folder.with_file_name("essentials-1-000001.mtree").exists());

    let remove = |arguments: &[&str]| {
        world.omnivisor(
            &[&["backup", "remove", folder.file_name().unwrap().to_str().unwrap(), "--home", &home(&world)], arguments]
                .concat(),
        )
    };
    let refused = said(&remove(&[]));
    assert!(refused.contains("what the last upgrade has left") && folder.is_dir(), "{refused}");
    let removed = said(&remove(&["--force"]));
    assert!(!folder.exists(), "{removed}");
}
