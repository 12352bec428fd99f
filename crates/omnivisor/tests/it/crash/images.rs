//! What a real file system holds if the power goes: the real binary at work on an ext4 whose file stands on an XFS, an image
//! of that file taken before each of its calls that changes a disk, and every image mounted and recovered from.
//!
//! What the ext4 has not written yet is not in the file, and so is lost. Needs root, loop devices, and `mkfs.xfs` of
//! xfsprogs; where that cannot be had, it says so.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use omnivisor_testkit::{sha256_hex, wait_until};

use super::harness::{Scene, Story, kill_nodes, said, wait_for_the_end};
use super::{nym, vega};
use crate::world::SOON;

/// Of so many images the short form takes one.
const SHORT: usize = 25;

/// Room for an installation and a new release.
const EXT4: &str = "200M";
const XFS: &str = "1200M";

/// Runs a command of the system.
fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file system that is mounted until this is dropped.
struct Mount(PathBuf);

impl Mount {
    fn of(file: &Path, at: &Path) -> Result<Self, String> {
        run("mount", &["-o", "loop", text(file), text(at)])?;
        Ok(Self(at.to_owned()))
    }

    /// All that was written is on the disk after that.
    fn end(self) -> Result<(), String> {
        let end = Instant::now() + SOON;
        loop {
            match run("umount", &[text(&self.0)]) {
                Err(_) if Instant::now() < end => std::thread::sleep(std::time::Duration::from_millis(10)),
                result => {
                    std::mem::forget(self);
                    return result;
                }
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", text(&self.0)]);
    }
}

/// An XFS, and on it the file of an ext4.
struct Rig {
    xfs: Mount,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root may mount".to_owned());
        }
        let folder = tempfile::tempdir().unwrap();
        let (file, at) = (folder.path().join("xfs"), folder.path().join("mounted"));
        fs::create_dir(&at).unwrap();
        run("truncate", &["-s", XFS, text(&file)])?;
        run("mkfs.xfs", &["-q", "-m", "reflink=1", text(&file)])?;
        let rig = Self { xfs: Mount::of(&file, &at)?, _folder: folder };
        run("truncate", &["-s", EXT4, text(&rig.disk())])?;
        run("mkfs.ext4", &["-q", "-F", text(&rig.disk())])?;
        Ok(rig)
    }

    fn disk(&self) -> PathBuf {
        self.xfs.0.join("ext4")
    }

    /// As it is at this moment, as if the power had gone.
    fn take(&self, number: usize) -> PathBuf {
        let image = self.xfs.0.join(format!("image-{number}"));
        run("cp", &["--reflink=always", text(&self.disk()), text(&image)]).unwrap();
        image
    }

    /// Puts everything that is in this folder on the disk.
    fn fill(&self, folder: &Path) -> Result<(), String> {
        let at = self.xfs.0.join("at");
        fs::create_dir(&at).unwrap();
        let mounted = Mount::of(&self.disk(), &at)?;
        run("cp", &["-a", &format!("{}/.", text(folder)), text(&at)])?;
        mounted.end()
    }
}

/// Tells the story, and takes an image before every call; the name of the call is with it.
fn images(rig: &Rig, scene: &dyn Scene, name: &str) -> Vec<(PathBuf, String)> {
    let socket = rig.xfs.0.join("gate");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut command = scene.command();
    command.env("OMNIVISOR_CHECKPOINT_GATE", &socket);
    let mut supervised = scene.sandbox().spawn(command);
    let images = std::thread::scope(|scope| {
        let taking = scope.spawn(|| {
            let mut gate = BufReader::new(listener.accept().unwrap().0);
            let mut images = Vec::new();
            loop {
                let mut call = String::new();
                if gate.read_line(&mut call).unwrap_or(0) == 0 {
                    return images;
                }
                images.push((rig.take(images.len()), call.trim().to_owned()));
                if gate.get_mut().write_all(&[1]).is_err() {
                    return images;
                }
            }
        });
        wait_for_the_end(scene, name);
        supervised.kill9(); // and nobody waits at the gate any more
        taking.join().unwrap()
    });
    kill_nodes(scene);
    images
}

/// What is on it that matters; two images with the same are one.
fn contents(root: &Path) -> BTreeSet<(PathBuf, String)> {
    let (mut folders, mut all) = (vec![root.to_owned()], BTreeSet::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let is_output = entry.file_name().to_string_lossy().starts_with("supervisor-");
            if is_output || entry.file_name() == "node.log" {
                continue;
            }
            let what = if kind.is_dir() {
                folders.push(path.clone());
                "a folder".to_owned()
            } else if kind.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if kind.is_file() {
                sha256_hex(&path)
            } else {
                "something else".to_owned()
            };
            all.insert((path, what));
        }
    }
    all
}

/// How many images were taken, and how many of them were different; each of those was recovered from.
fn recover(story: &dyn Story) -> Result<(usize, usize), String> {
    let rig = Rig::new()?;
    let scene = story.begin();
    let place = scene.sandbox().path().to_owned();
    rig.fill(&place)?;
    let mounted = Mount::of(&rig.disk(), &place)?;
    let mut images = images(&rig, &*scene, story.name());
    mounted.end()?;
    let taken = images.len();
    if std::env::var_os("OMNIVISOR_LONG").is_none() {
        let mut index = 0;
        images.retain(|_| {
            index += 1;
            index % SHORT == 0
        });
    }
    let mut seen = BTreeSet::new();
    for (image, call) in images {
        let when = format!("{}: the power went before {call} ({})", story.name(), image.display());
        let mounted = Mount::of(&image, &place)?;
        if seen.insert(contents(&place)) {
            scene.check_files(&when);
            // The log of the nodes is the test's own, and what of it was lost is nobody's loss.
            let _ = fs::remove_file(scene.sandbox().node_log_path());
            let mut supervised = scene.sandbox().spawn(scene.command());
            wait_for_the_end(&*scene, &when);
            scene.check_end(&when);
            scene.log().assert_never_double();
            assert!(scene.log().of("refused").is_empty(), "{when}: a node was started on newer data");
            supervised.signal(15);
            assert_eq!(supervised.wait(SOON).code(), Some(0), "{when}: {}", said(&supervised));
            wait_until("the nodes are gone", SOON, || scene.log().running().is_empty().then_some(()));
        }
        mounted.end()?;
        fs::remove_file(image).unwrap();
    }
    Ok((taken, seen.len()))
}

#[test]
fn whatever_a_real_file_system_holds_after_a_power_cut_the_right_node_runs_once() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let begun = Instant::now();
    let stories: [&(dyn Story + Sync); 3] = [&nym::Upgrade, &nym::UndoOf3, &vega::Upgrade];
    let told = std::thread::scope(|scope| {
        let all: Vec<_> = stories.iter().map(|story| (story.name(), scope.spawn(|| recover(*story)))).collect();
        all.into_iter().map(|(name, told)| (name, told.join().unwrap())).collect::<Vec<_>>()
    });
    let mut all = (0, 0);
    for (name, told) in told {
        match told {
            Ok((taken, different)) => {
                println!("{name}: {taken} images, {different} different ones were recovered from, none lost");
                all = (all.0 + taken, all.1 + different);
            }
            Err(why) => println!("{name}: skipped: {why}"),
        }
    }
    println!("{} images, {} recoveries, {:.0} s", all.0, all.1, begun.elapsed().as_secs_f32());
}
