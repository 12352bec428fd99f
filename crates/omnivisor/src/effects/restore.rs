//! Put a node's data back as a snapshot has it, entry by entry, by renames.
//!
//! The snapshot stays; a copy of it is made on the home's own file system first, so that nothing is moved before all of it
//! is there. What is replaced is kept aside. What must never go back (monotonic files) and what stands apart is not moved
//! at all. Taken again after a crash, it goes on where it was: whatever is still in the copy has not been put back yet.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::snapshot::{self, PRIVATE};
use crate::checkpoint;
use crate::store::{atomic, disk};

/// What a restore works on.
pub struct Restore<'a> {
    /// The snapshot, which is complete.
    pub snapshot: &'a Path,
    /// Where it goes.
    pub home: &'a Path,
    /// A folder on the home's file system for what is made and what is replaced.
    pub work: &'a Path,
    /// What is no part of snapshots.
    pub apart: &'a [PathBuf],
    /// Whether a path below the home must never go back.
    pub is_monotonic: &'a dyn Fn(&Path) -> bool,
}

/// What stands where the copy is whole.
const COMPLETE: &str = "complete";

impl Restore<'_> {
    /// Does it. Durable when it returns.
    pub fn run(&self, cancelled: &AtomicBool) -> io::Result<()> {
        let kept = self.kept()?;
        let (copy, aside) = (self.work.join("copy"), self.work.join("replaced"));
        if !self.work.join(COMPLETE).exists() {
            if !self.snapshot.is_dir() {
                return Err(io::Error::other(format!("the snapshot {} is not there", self.snapshot.display())));
            }
            disk::remove(&copy)?;
            atomic::sweep(self.work); // of a try that was killed
            disk::make_folders_durably(self.work, PRIVATE)?;
            snapshot::copy_tree(self.snapshot, &copy, cancelled)?;
            snapshot::flush_tree(&copy)?;
            // Its name, too, before that of the file that says so: no copy means that all of it was put back.
            disk::flush_folder(self.work)?;
            atomic::replace(&self.work.join(COMPLETE), b"", 0o600)?;
        }
        checkpoint::reach("restore-before-renames");
        self.set_aside(Path::new(""), &copy, &aside, &kept)?;
        self.put_back(Path::new(""), &copy, &kept)
    }

    /// The paths below the home that are not moved: what stands apart, and every monotonic file, live or in the snapshot.
    fn kept(&self) -> io::Result<BTreeSet<PathBuf>> {
        let mut kept: BTreeSet<PathBuf> =
            self.apart.iter().filter_map(|path| path.strip_prefix(self.home).ok()).map(Path::to_owned).collect();
        for root in [self.home, self.snapshot] {
            let mut folders = vec![PathBuf::new()];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(root.join(&folder))? {
                    let entry = entry?;
                    let path = folder.join(entry.file_name());
                    if kept.contains(&path) {
                        continue;
                    }
                    if entry.file_type()?.is_dir() {
                        folders.push(path);
                    } else if (self.is_monotonic)(&path) {
                        let there = fs::symlink_metadata(self.home.join(&path)).is_ok();
                        if !there && !is_side_file(&path) {
                            return Err(io::Error::other(format!(
                                "{} must never go back to an earlier state, and is missing: a person has to decide",
                                self.home.join(&path).display()
                            )));
                        }
                        kept.insert(path);
                    }
                }
            }
        }
        Ok(kept)
    }

    /// Moves away what is not the snapshot's; durable before anything takes its place, so that it is never the one thing that
    /// is lost.
    fn set_aside(&self, below: &Path, copy: &Path, aside: &Path, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
        let in_snapshot = names_if_there(&self.snapshot.join(below))?;
        // Before anything is in them, or it could go with them.
        disk::make_folders_durably(&aside.join(below), PRIVATE)?;
        for name in names(&self.home.join(below))? {
            let path = below.join(&name);
            if kept.contains(&path) {
                continue;
            }
            if self.holds_kept(&path, kept) {
                self.set_aside(&path, copy, aside, kept)?;
                continue;
            }
            // What is in the snapshot and no longer in the copy was put back before a crash.
            if in_snapshot.contains(&name) && fs::symlink_metadata(copy.join(&path)).is_err() {
                continue;
            }
            let mut rest = aside.join(&path);
            // A crash may have come between two attempts that both replaced something.
            for attempt in 1.. {
                if fs::symlink_metadata(&rest).is_err() {
                    break;
                }
                rest = aside.join(format!("{}.{attempt}", path.display()));
            }
            disk::rename(&self.home.join(&path), &rest)?;
        }
        disk::flush_folder(&aside.join(below))
    }

    /// Moves what the snapshot has to where nothing is now.
    fn put_back(&self, below: &Path, copy: &Path, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
        let live = self.home.join(below);
        for name in names_if_there(&copy.join(below))? {
            let path = below.join(&name);
            if kept.contains(&path) {
                continue;
            }
            if self.holds_kept(&path, kept) {
                self.put_back(&path, copy, kept)?;
            } else {
                disk::rename(&copy.join(&path), &live.join(&name))?;
            }
        }
        disk::flush_folder(&live)
    }

    /// Whether this is a folder with something in it that is not moved.
    fn holds_kept(&self, path: &Path, kept: &BTreeSet<PathBuf>) -> bool {
        kept.iter().any(|kept| kept.starts_with(path)) && self.home.join(path).is_dir()
    }
}

/// Whether a file belongs to a database and comes and goes with its connections: it is as it is, there or not.
fn is_side_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ["-wal", "-shm", "-journal", ".lock", ".tmp"].iter().any(|ending| name.ends_with(ending))
}

fn names(folder: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
}

fn names_if_there(folder: &Path) -> io::Result<BTreeSet<OsString>> {
    match names(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(BTreeSet::new())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Interrupted after every number of renames and taken again, it ends with the same tree.
    #[test]
    fn the_old_data_is_back_but_a_key_stays_and_the_rest_is_kept_aside() {
        let root = std::env::temp_dir().join(format!("omnivisor-restore-{}", std::process::id()));
        let home = root.join("home");
        let read = |path: &str| fs::read_to_string(home.join(path)).ok();
        write(home.join("config/config.toml"), "old");
        write(home.join("data/db"), "old");
        write(home.join("data/keys/id.pem"), "key 1");
        write(home.join("data/keys/tickets.pem-wal"), "comes and goes");
        write(home.join("nymvisor/backups/x"), "apart");
        let apart = [home.join("nymvisor")];
        let copy = root.join("snapshot");
        snapshot::Snapshot { home: &home, to: &copy, apart: &apart }.take(&AtomicBool::new(false)).unwrap();
        assert!(!copy.join("nymvisor").exists());

        write(home.join("data/db"), "migrated");
        write(home.join("data/keys/id.pem"), "key 2");
        write(home.join("data/keys/other"), "new");
        write(home.join("new/file"), "new");
        fs::remove_file(home.join("config/config.toml")).unwrap();
        let work = home.join("nymvisor/restore");
        fs::remove_file(home.join("data/keys/tickets.pem-wal")).unwrap();
        let monotonic = |path: &Path| path.to_string_lossy().contains(".pem");
        let restore = Restore { snapshot: &copy, home: &home, work: &work, apart: &apart, is_monotonic: &monotonic };
        for _ in 0..2 {
            restore.run(&AtomicBool::new(false)).unwrap();
            assert_eq!(read("config/config.toml").as_deref(), Some("old"));
            assert_eq!(read("data/db").as_deref(), Some("old"));
            assert_eq!(read("data/keys/id.pem").as_deref(), Some("key 2"), "a key never goes back");
            assert_eq!(read("nymvisor/backups/x").as_deref(), Some("apart"));
            assert_eq!(read("data/keys/tickets.pem-wal"), None, "a database's side file stays away with its database");
            assert_eq!(read("new/file"), None);
            assert_eq!(read("data/keys/other"), None);
            let aside = work.join("replaced");
            assert_eq!(fs::read_to_string(aside.join("data/db")).unwrap(), "migrated");
            assert_eq!(fs::read_to_string(aside.join("new/file")).unwrap(), "new");
        }
        fs::remove_file(home.join("data/keys/id.pem")).unwrap();
        let refused = restore.run(&AtomicBool::new(false)).unwrap_err();
        assert!(refused.to_string().contains("never go back"), "{refused}");
        fs::remove_dir_all(root).unwrap();
    }
}
