//! Put a node's data back as a snapshot has it, entry by entry, by renames.
//!
//! First what is put back is made ready on the home's own file system, whole, so that nothing is moved before all of it is there;
//! that can be done while the node runs. Then what is replaced is moved aside, and kept, and what is ready takes its place. What
//! must never go back (monotonic files) and what stands apart is not moved at all. Taken again after a crash, each part goes on
//! where it was.

pub mod aside;
mod scope;
mod several;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use omnivisor_core::dialect::Root;

use self::scope::{Moved, Scope};
use super::backup::Only;
use super::data::{self, Data};
use super::parts;
use super::snapshot::{self, Each, PRIVATE};
use crate::checkpoint;
use crate::store::{atomic, disk};

/// What a restore works on.
pub struct Restore<'a> {
    /// Where it goes.
    pub data: &'a Data,
    /// A folder for what is made ready and what is replaced, on the file system of all of the data that has no [parts].
    pub work: &'a Path,
    /// Whether a path in a snapshot must never go back.
    pub is_monotonic: &'a (dyn Fn(&Path) -> bool + Sync),
}

/// Where what is put back comes from.
pub enum Source<'a> {
    /// This snapshot, which is used up where it is on the home's file system: not a byte has to be copied then.
    GivenUp(&'a Path),
    /// This snapshot, which stays.
    Kept(&'a Path),
    /// Whatever makes this folder, which is not there yet, with what is meant in it.
    Made(&'a dyn Fn(&Path, Each<'_>) -> io::Result<()>),
}

/// What the name of a folder begins with in which an undo works, or a rollback.
pub const UNDO: &str = "restore-";
/// And a restore by hand.
pub const BY_HAND: &str = "restored-";
/// What is put back.
const COPY: &str = "copy";
/// The same, until it is whole, where it is copied.
const HALF: &str = "copy.partial";
/// What was replaced.
const REPLACED: &str = "replaced";
/// There is no such folder.
const NOWHERE: &str = "nowhere";
/// Stands where the copy is whole, and lists the paths that are put back, each with a zero at its end; none is all of it.
const COMPLETE: &str = "complete";
/// Stands where all that is replaced is aside.
const CLEARED: &str = "cleared";

impl Restore<'_> {
    /// Whether what is put back is ready.
    pub fn is_ready(&self) -> bool {
        self.work.join(COMPLETE).exists()
    }

    /// Makes ready what is put back: `only` these paths below the home, or all of it. Nothing of the home is touched. `each` is
    /// told of every so many bytes that are copied, may take its time, and ends it with an error. Durable when it returns; if it was
    /// ready already, that is all.
    pub fn prepare(&self, from: &Source<'_>, only: &[PathBuf], each: Each<'_>) -> io::Result<()> {
        if self.is_ready() {
            return Ok(());
        }
        let copy = self.work.join(COPY);
        disk::make_folders_durably(self.work, PRIVATE)?;
        atomic::sweep(self.work); // of a try that was killed
        match from {
            // It is there already, and its name was all that a try before had not made durable.
            Source::GivenUp(snapshot) if !snapshot.is_dir() && copy.is_dir() => {}
            // What a link leads to is not given up with it.
            Source::GivenUp(snapshot) | Source::Kept(snapshot) if !snapshot.is_dir() || snapshot.is_symlink() => {
                return Err(io::Error::other(format!("the snapshot {} is not there", snapshot.display())));
            }
            Source::GivenUp(snapshot) => {
                self.holds_each(snapshot)?;
                parts::remove(&copy)?;
                let renamed = match parts::fits(self.data, snapshot) {
                    true => disk::rename(snapshot, &copy),
                    false => Err(ErrorKind::CrossesDevices.into()), // a home is on another file system by now
                };
                match renamed {
                    Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                        self.make(&copy, &[], &mut |to| snapshot::copy_tree(snapshot, to, &[], each))?;
                    }
                    renamed => {
                        renamed?;
                        atomic::flush_folder_of(snapshot)?;
                    }
                }
            }
            Source::Kept(snapshot) => {
                let meant = Only::of(only);
                self.make(&copy, only, &mut |to| snapshot::copy_some(snapshot, to, &[], &meant, each))?;
            }
            Source::Made(make) => self.make(&copy, only, &mut |to| make(to, each))?,
        }
        self.holds_each(&copy)?;
        self.note_folders()?;
        // Its name, too, before that of the file that says so.
        disk::flush_folder(self.work)?;
        let mut list = Vec::new();
        for path in only {
            list.extend_from_slice(path.as_os_str().as_bytes());
            list.push(0);
        }
        atomic::replace(&self.work.join(COMPLETE), &list, 0o600)
    }

    /// It has its name when it is whole and durable: half of it must never be taken for what a rename has made.
    fn make(&self, copy: &Path, only: &[PathBuf], how: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
        let half = self.work.join(HALF);
        parts::remove(&half)?;
        parts::remove(copy)?;
        parts::lay(self.data, &half)?;
        how(&half)?;
        // Of several folders each is there, and empty where nothing of it is meant.
        let is_left_out = |root: &&Root| !root.name.is_empty() && !Only::of(only).has(Path::new(root.name));
        for root in self.data.roots.iter().filter(is_left_out) {
            disk::make_folders(&half.join(root.name), PRIVATE)?;
        }
        snapshot::flush_tree(&half)?;
        disk::rename(&half, copy)
    }

    /// Whether it could be put in place, as far as it is known beforehand, and holds something of each of `only`.
    pub fn can_be_put(&self, only: &[PathBuf]) -> io::Result<()> {
        // A link on the way, to another disk perhaps, leads to what is neither copied nor moved.
        let is_other = |there: &Path| fs::symlink_metadata(there).is_ok_and(|it| !it.is_dir());
        let above = |path: &Path| -> Vec<PathBuf> {
            let above = path.ancestors().skip(1).filter(|it| !self.data.is_root(it));
            above.map(Path::to_owned).collect()
        };
        for path in only {
            let copy = self.work.join(COPY);
            if above(path).iter().any(|it| is_other(&copy.join(it))) || fs::symlink_metadata(copy.join(path)).is_err() {
                return Err(io::Error::new(ErrorKind::NotFound, format!("{} is not in it", path.display())));
            }
            if let Some(other) = above(path).iter().map(|it| self.live(it)).find(|it| is_other(it)) {
                let why = format!("{} is no folder, and may be a link to elsewhere", other.display());
                return Err(io::Error::other(format!("{} cannot be put there: {why}", path.display())));
            }
        }
        self.scope().map(drop)
    }

    /// Puts in place what is ready, by renames. No node runs. Durable when it returns.
    pub fn put_in_place(&self) -> io::Result<()> {
        let scope = self.scope()?;
        checkpoint::reach("restore-before-renames");
        atomic::sweep(self.work); // of a try that was killed
        // A kill may have come between a name and its flush: what is believed of it here has to outlive a power cut.
        disk::flush_folder(self.work)?;
        if !self.work.join(CLEARED).exists() {
            self.set_aside(Path::new(""), &scope)?;
            atomic::replace(&self.work.join(CLEARED), b"", 0o600)?;
        }
        self.put_back(Path::new(""), &scope)
    }

    /// Whether something was moved, and something that is ready is not in place.
    pub fn is_half_done(&self) -> io::Result<bool> {
        if is_begun(self.work) { self.is_left(Path::new(""), &self.found()?.0) } else { Ok(false) }
    }

    fn is_left(&self, below: &Path, scope: &Scope<'_>) -> io::Result<bool> {
        let copy = self.work.join(COPY).join(below);
        for name in names_if_there(&copy)? {
            let path = below.join(&name);
            let is_left = match scope.of(&path, &copy.join(&name)) {
                Moved::Nothing => false,
                Moved::Parts => self.is_left(&path, scope)?,
                Moved::All => true,
            };
            if is_left {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is moved. An error where a monotonic file is missing in the home.
    fn scope(&self) -> io::Result<Scope<'_>> {
        let (scope, missing) = self.found()?;
        match missing {
            None => Ok(scope),
            Some(path) => Err(io::Error::other(format!(
                "{} must never go back to an earlier state, and is missing, or behind a link: a person has to decide, and copies it there \
                 by hand if none that is newer was ever in use",
                path.display()
            ))),
        }
    }

    /// What is moved, and a monotonic file that is missing in the home.
    fn found(&self) -> io::Result<(Scope<'_>, Option<PathBuf>)> {
        self.is_for_these()?;
        let list = fs::read(self.work.join(COMPLETE))?;
        let only = list.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        let only = only.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect();
        let mut scope = Scope { data: self.data, kept: self.data.apart_below().collect(), only };
        let mut missing = None;
        let roots = self.data.roots.iter().map(|root| (PathBuf::from(root.name), true));
        for (root, is_live) in roots.chain([(PathBuf::new(), false)]) {
            let mut folders = vec![root];
            while let Some(folder) = folders.pop() {
                let there = if is_live { self.live(&folder) } else { data::at(&self.work.join(COPY), &folder) };
                let entries = match fs::read_dir(there) {
                    // A node may be at work there; but a home has to be there.
                    Err(error) if error.kind() == ErrorKind::NotFound && is_live && !self.data.is_root(&folder) => {
                        continue;
                    }
                    entries => entries?,
                };
                for entry in entries {
                    let entry = entry?;
                    let path = folder.join(entry.file_name());
                    if scope.kept.contains(&path) {
                        continue;
                    }
                    // A home may be a link, to its part.
                    let is_root = self.data.is_root(&path);
                    let is_folder = is_root || entry.file_type()?.is_dir();
                    // A store that is a folder stays as a whole: what is not in it any more is its newer state.
                    if is_folder && (is_root || !(self.is_monotonic)(&path)) {
                        folders.push(path);
                    } else if (self.is_monotonic)(&path) {
                        if !self.is_there(&path, is_folder) && !is_side_file(&path) && scope.has(&path) {
                            missing = missing.or_else(|| Some(self.live(&path)));
                        }
                        scope.kept.insert(path);
                    }
                }
            }
        }
        Ok((scope, missing))
    }

    /// Whether something is in the home itself, and not behind a link.
    fn is_there(&self, path: &Path, is_folder: bool) -> bool {
        let kind = |path: &Path| fs::symlink_metadata(self.live(path)).map(|it| it.is_dir());
        let mut above = path.ancestors().skip(1).filter(|it| !self.data.is_root(it));
        above.all(|it| kind(it).unwrap_or_default()) && kind(path).is_ok_and(|found| found == is_folder)
    }

    /// Moves away what is replaced; durable before anything takes its place, so that it is never the one thing that is lost.
    fn set_aside(&self, below: &Path, scope: &Scope<'_>) -> io::Result<()> {
        // Before anything is in them, or it could go with them.
        self.make_aside(below)?;
        for name in self.names(below)? {
            let path = below.join(&name);
            match scope.of(&path, &self.live(&path)) {
                Moved::Nothing => {}
                Moved::Parts => self.set_aside(&path, scope)?,
                Moved::All => self.set_one_aside(&path)?,
            }
        }
        disk::flush_folder(&self.aside(below))?;
        // That it is gone here, too: what is said to be cleared must not be there again after a power cut.
        self.data.live(below).map_or(Ok(()), |folder| disk::flush_folder(&folder))
    }

    /// What is in a folder of the data; above several, their names.
    fn names(&self, below: &Path) -> io::Result<BTreeSet<OsString>> {
        match self.data.live(below) {
            Some(folder) => names(&folder),
            None => Ok(self.data.roots.iter().map(|root| root.name.into()).collect()),
        }
    }

    /// Where something of a snapshot goes. Where nothing goes that is of none of the data's folders: a name in the work folder.
    fn live(&self, below: &Path) -> PathBuf {
        self.data.live(below).unwrap_or_else(|| self.work.join(NOWHERE).join(below))
    }

    fn set_one_aside(&self, path: &Path) -> io::Result<()> {
        let mut rest = self.aside(path);
        // A person may have put something there since.
        for attempt in 1.. {
            if fs::symlink_metadata(&rest).is_err() {
                break;
            }
            rest = self.aside(Path::new(&format!("{}.{attempt}", path.display())));
        }
        disk::rename(&self.live(path), &rest)
    }

    /// Moves what is ready to where nothing is now.
    fn put_back(&self, below: &Path, scope: &Scope<'_>) -> io::Result<()> {
        let copy = self.work.join(COPY).join(below);
        for name in names_if_there(&copy)? {
            let path = below.join(&name);
            let live = self.live(&path);
            match scope.of(&path, &copy.join(&name)) {
                Moved::Nothing => {}
                Moved::Parts if live.is_dir() => self.put_back(&path, scope)?,
                _ if self.data.is_root(&path) => {
                    return Err(io::Error::other(format!("{} is no folder", live.display())));
                }
                // Its folder is gone in the home: then it is as it was.
                Moved::Parts | Moved::All => {
                    if scope.kept.iter().any(|kept| kept.starts_with(&path)) && live.is_dir() {
                        return Err(io::Error::other(format!(
                            "{} holds what must never go back, and was no folder then: a person has to decide",
                            live.display()
                        )));
                    }
                    if fs::symlink_metadata(&live).is_ok() {
                        self.set_one_aside(&path)?;
                        disk::flush_folder(&self.aside(below))?;
                    }
                    disk::rename(&copy.join(&name), &live)?;
                }
            }
        }
        self.data.live(below).map_or(Ok(()), |folder| disk::flush_folder(&folder))
    }

    fn aside(&self, path: &Path) -> PathBuf {
        self.work.join(REPLACED).join(path)
    }
}

/// Whether something was moved in this work folder, or may have been.
pub fn is_begun(work: &Path) -> bool {
    [COMPLETE, REPLACED, COPY].iter().all(|name| work.join(name).exists())
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
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(BTreeSet::new()),
        result => result,
    }
}
