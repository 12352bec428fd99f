//! What is in the daemon's home, and what becomes of it in a backup.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use omnivisor_testkit::Behaviour;

use super::tree;
use crate::world::World;

/// The one snapshot of an upgrade.
fn snapshot(backups: &Path, name: &str) -> PathBuf {
    let folder = backups.join(name);
    let mut found: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_dir());
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn write(path: PathBuf, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// N20
#[test]
fn odd_files_in_the_home_stop_no_upgrade() {
    let world = World::new();
    let home = world.sandbox.daemon_home();
    write(home.join("data/deep/real"), "real", 0o644);
    symlink("/nowhere/at/all", home.join("dangling")).unwrap();
    symlink("loop", home.join("loop")).unwrap();
    symlink(&home, home.join("data/home")).unwrap();
    symlink("real", home.join("data/deep/link")).unwrap();
    let _top = UnixListener::bind(home.join("top.sock")).unwrap();
    let _deep = UnixListener::bind(home.join("data/deep/it.sock")).unwrap();
    for path in ["fifo", "data/deep/fifo"] {
        assert!(Command::new("mkfifo").arg(home.join(path)).status().unwrap().success());
    }
    let _supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    let copy = snapshot(world.installation.backups(), "2024.2");
    assert_eq!(fs::read_to_string(copy.join("data/deep/real")).unwrap(), "real");
    for (link, target) in
        [("dangling", Path::new("/nowhere/at/all")), ("loop", Path::new("loop")), ("data/home", &home)]
    {
        assert_eq!(fs::read_link(copy.join(link)).unwrap(), target, "a link stays a link");
    }
    assert_eq!(world.log().starts().len(), 2, "at the first try");
}

/// N21
#[test]
fn backups_inside_the_home_hold_no_backups() {
    let world = World::new();
    let zz = world.sandbox.daemon_home().join("zz");
    write(world.sandbox.daemon_home().join("aa/real"), &"x".repeat(100_000), 0o644);
    let mut command = world.nymvisor(&["run", "run"]);
    command.env("DAEMON_BACKUP_DATA_DIRECTORY", &zz);
    let _supervised = world.sandbox.spawn(command);
    world.wait_for("1.0.0");
    for version in ["2.0.0", "3.0.0"] {
        world.publish(version, &Behaviour::new(version));
        world.wait_for_commit(version);
        let copy = snapshot(&zz, version);
        let copied: Vec<_> = tree(&copy).into_iter().map(|path| path.strip_prefix(&copy).unwrap().to_owned()).collect();
        assert_eq!(copied, [Path::new("aa/real"), Path::new("aa")]);
    }
}

/// N22
#[test]
fn a_backup_can_be_read_by_nobody_else() {
    let world = World::new();
    let home = world.sandbox.daemon_home();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
    write(home.join("keys/private.pem"), "secret", 0o600);
    write(home.join("keys/public.pem"), "public", 0o644);
    let _supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    let copy = snapshot(world.installation.backups(), "2024.2");
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(copy.join("keys/private.pem")), 0o600);
    assert_eq!(mode(copy.join("keys/public.pem")), 0o644, "it is put back as it was");
    assert_eq!(mode(world.installation.backups().join("2024.2")) & 0o077, 0, "nobody else gets so far");
}
