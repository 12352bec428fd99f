//! Disks that are full or may not be written to, and homes with odd things in them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use omnivisor_testkit::mounts::{Ground, Mounted};
use omnivisor_testkit::{Answer, Behaviour, Options, wait_until};

use super::{Calm, NEVER, announced, impatient};
use crate::world::{ANNOUNCEMENT, SOON, World};

/// A small disk of its own. It has to outlive the world that uses it.
pub struct Disk {
    pub folder: PathBuf,
}

impl Disk {
    /// One of so many MiB; none if this process may not mount anything.
    pub fn new(mebibytes: u64) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: not root");
            return None;
        }
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("ov-disk-{}-{number}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let disk = Self { folder };
        if !disk.mount(&["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "omnivisor-test"]) {
            eprintln!("skipped: nothing can be mounted here");
            return None;
        }
        Some(disk)
    }

    fn mount(&self, arguments: &[&str]) -> bool {
        Command::new("mount").args(arguments).arg(&self.folder).status().is_ok_and(|status| status.success())
    }

    fn read_only(&self, read_only: bool) {
        let option = if read_only { "remount,ro" } else { "remount,rw" };
        assert!(self.mount(&["-o", option]));
    }

    /// Leaves nothing free, until the file that is returned is removed.
    pub fn fill(&self) -> PathBuf {
        let path = self.folder.join("ballast");
        let mut file = fs::File::create(&path).unwrap();
        let chunk = vec![0; 64 * 1024];
        while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.folder).status().ok();
        fs::remove_dir(&self.folder).ok();
    }
}

fn world(options: Options) -> World {
    World::with(Behaviour::new("1.0.0"), options)
}

#[test]
fn a_full_disk_of_releases_stops_nothing_and_loses_nothing() {
    let Some(disk) = Disk::new(96) else { return };
    let data = disk.folder.join("data");
    let mut calm = Calm::begin(world(Options { data_directory: Some(data.clone()), ..impatient() }));
    let plan = fs::read(calm.world.installation.plan()).unwrap();
    let ballast = disk.fill();
    // Not even the plan can be written.
    calm.check("a full disk", &["upgrade-plan.json", "No space left"], |world| {
        world.publish("2024.2", &Behaviour::new("2.0.0"));
    });
    assert_eq!(fs::read(calm.world.installation.plan()).unwrap(), plan);

    // A little is free: the plan can be written, the release cannot.
    let file = fs::OpenOptions::new().write(true).open(&ballast).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1024 * 1024).unwrap();
    drop(file);
    calm.check("an almost full disk", &["bytes free", "are needed for the download", "tried again"], |_| {});
    fs::remove_file(ballast).unwrap();
    calm.world.wait_for_commit("2.0.0");
    calm.pid = calm.world.wait_for("2.0.0");

    // A download that does not end leaves something free for others.
    let path = "/download/2024.3";
    calm.check("an endless download", &["bytes free", "are needed for", path, "tried again"], |world| {
        let executable = world.minted(&Behaviour::new("3.0.0"));
        let info = announced(world, "2024.3", "3.0.0", NEVER, &executable);
        world.upstream.serve(path, Answer::Endless);
        world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
    });
    let most = calm.most_memory();
    assert!(most < 40_000, "{most} KiB");
    let calm = calm.follows_a_good_one("4.0.0");
    drop((calm, disk));
}

#[test]
fn a_backup_disk_that_is_full_or_read_only_is_known_before_the_stop() {
    let Some(disk) = Disk::new(48) else { return };
    let backups = disk.folder.join("backups");
    let mut calm = Calm::begin(world(Options { backup_directory: Some(backups.clone()), ..impatient() }));
    let name = backups.to_str().unwrap().to_owned();
    let ballast = disk.fill();
    calm.check("a full disk", &["tried again", &name, "are needed for a snapshot"], |world| {
        world.publish("2024.2", &Behaviour::new("2.0.0"));
    });
    disk.read_only(true);
    calm.check("a read-only disk", &["tried again", &name, "cannot be written to", "Read-only"], |_| {});
    disk.read_only(false);
    fs::remove_file(ballast).unwrap();
    calm.world.wait_for_commit("2.0.0");
    calm.world.wait_for("2.0.0");
    assert!(backups.join("2024.2").is_dir());
    drop((calm, disk));
}

/// To the last block, by a release that then dies: what its undo needs was kept.
#[test]
fn a_release_that_fills_the_disk_is_taken_back_with_its_data() {
    let ground = match Ground::new() {
        Ok(ground) => ground,
        Err(why) => return println!("skipped: {why}"),
    };
    let image = ground.make_ext4("small").unwrap();
    let disk = Mounted::new(&image, &ground.disk()).unwrap();
    let home = disk.path().join("daemon");
    let world = world(Options { daemon_home: Some(home.clone()), ..impatient() });
    fs::create_dir_all(home.join("data/db")).unwrap();
    fs::write(home.join("data/db/1"), "old").unwrap();
    let mut command = world.run_command();
    command.env("OMNIVISOR_SNAPSHOT_RESERVE", "1MiB").env("OMNIVISOR_PROBE_WINDOW", "20s");
    let _supervised = world.sandbox.spawn(command);
    world.wait_for("1.0.0");
    let dies = Behaviour { exit_after_ms: Some(1500), exit_code: 1, migrates: true, ..Behaviour::new("2.0.0") };
    world.publish("2024.2", &dies);
    world.wait_for("2.0.0");
    fs::write(home.join("data/db/1"), "new").unwrap();
    for chunk in [1 << 20, 4096, 1] {
        let mut file = fs::File::create(home.join(format!("filled-{chunk}"))).unwrap();
        while std::io::Write::write_all(&mut file, &vec![b'x'; chunk]).and_then(|()| file.sync_data()).is_ok() {}
    }
    assert!(fs::create_dir(home.join("no-room")).is_err(), "it is full");
    world.wait_for_status("it is over", |status| status["failed"][0]["version"] == "2.0.0");
    world.wait_for("1.0.0");
    assert_eq!(fs::read_to_string(home.join("data/db/1")).unwrap(), "old");
    assert!(!home.join("filled-4096").exists());
}

#[test]
fn odd_things_in_the_home_are_copied_or_left_out() {
    let calm = Calm::new();
    let home = calm.world.sandbox.daemon_home();
    let path = |name: &str| home.join("data").join(name);
    wait_until("the node's data", SOON, || path("state.json").exists().then_some(()));
    let _listener = UnixListener::bind(path("socket")).unwrap();
    symlink("/no/such/place", path("dangling")).unwrap();
    symlink("..", path("circle")).unwrap();
    symlink("/etc/hostname", path("outside")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    fs::write(path("secret"), "of one").unwrap();
    fs::set_permissions(path("secret"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    fs::write(path("name\nwith \u{1b}[31m anything"), "x").unwrap();
    let root = rustix::process::geteuid().is_root();
    if !root {
        // Refused before the stop, and named: a copy without it would be none.
        calm.world.publish("2024.2", &Behaviour::new("2.0.0"));
        calm.wait_for_line(
            "an unreadable file",
            0,
            &["tried again", path("secret").to_str().unwrap(), "cannot be read"],
        );
        fs::remove_file(path("secret")).unwrap();
    }
    let calm = calm.follows_a_good_one("2.0.0");

    let backup = only_folder(&calm.world.installation.backups().join("good-2.0.0")).join("data");
    let kind = |name: &str| fs::symlink_metadata(backup.join(name)).map(|it| it.file_type());
    assert!(kind("socket").is_err(), "whoever listens makes it anew");
    assert!(kind("fifo").unwrap().is_fifo());
    for (name, target) in [("dangling", "/no/such/place"), ("circle", ".."), ("outside", "/etc/hostname")] {
        assert_eq!(fs::read_link(backup.join(name)).unwrap(), Path::new(target), "a link stays a link");
    }
    assert!(backup.join("name\nwith \u{1b}[31m anything").exists());
    if root {
        assert_eq!(fs::read(backup.join("secret")).unwrap(), b"of one");
    }
}

fn only_folder(folder: &Path) -> PathBuf {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.retain(|path| path.is_dir());
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries[0].clone()
}
