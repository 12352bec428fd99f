//! One pass over a home: what looks as it did in the pass before is left alone, everything else is copied once more, or [left to the last
//! one](super::later).
//!
//! What looks the same is the same because of two rules. A file is looked at, then its pages are cleaned, then it is read: a
//! mapped page that is dirty already is written to without a new time stamp, and a clean one is not. And what was stamped within
//! two seconds before the pass, or later, is copied again, as it may have changed again within one tick of the clock.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use omnivisor_core::time::Timestamp;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::copy::{self, dress, processors};
use super::later::{self, Later};
use super::look::{Changed, Found, Look};
use super::seen::{Notes, Place, Seen, Stamp};
use super::trail::Trail;
use super::{Each, PRIVATE};
use crate::effects::backup::Only;
use crate::store::disk;
use crate::sys;

/// Up to so many files and folders are flushed one by one: each takes about as long as a whole file system at rest.
pub(super) const FEW: usize = 2;

/// So many sockets and devices are named.
const LEFT_OUT: usize = 20;

/// How a pass knows what has changed. Only tests have others, to see what they are for.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whether dirty pages are cleaned before a file is read.
    pub cleans: bool,
    /// What was stamped so long before the pass, or later, may change and look the same: nanoseconds.
    pub tick: i128,
    /// How coarse time stamps are: nanoseconds.
    pub granularity: i128,
}

impl Default for Rules {
    fn default() -> Self {
        Self { cleans: true, tick: 2_000_000_000, granularity: 1 }
    }
}

/// A pass to be taken.
pub struct Pass<'a> {
    /// What is copied.
    pub home: &'a Path,
    /// What it is called where several are copied; else empty.
    pub name: &'a str,
    /// Where to; what is there already was made by the pass before.
    pub to: &'a Path,
    /// What is left out.
    pub apart: &'a [PathBuf],
    /// What is not left out.
    pub only: &'a Only,
    /// What the pass before has seen.
    pub seen: &'a Seen,
    /// When it begins.
    pub begun: Timestamp,
    /// Whether nobody writes any more: then what changes meanwhile, or vanishes, is an error.
    pub is_last: bool,
    /// How it knows what has changed.
    pub rules: Rules,
    /// Set by somebody who does not want it any more.
    pub cancelled: &'a AtomicBool,
    /// What is left to the last one, and is no part of the copy until then.
    pub later: &'a mut Later,
    /// Is told of every so many bytes that were copied, and may take its time.
    pub pace: Each<'a>,
}

/// What a pass did.
#[derive(Debug, Default)]
pub struct Passed {
    /// What it has seen, for the next one.
    pub notes: Notes,
    /// How many files there are, and links and pipes.
    pub files: u64,
    /// What it copied.
    pub copied: Copied,
    /// Sockets and devices, which are not copied: the first few.
    pub left_out: Vec<PathBuf>,
}

impl Passed {
    /// Together with what another pass did.
    pub(super) fn and(&mut self, mut other: Self) {
        self.notes.and(&mut other.notes);
        self.files += other.files;
        self.copied.and(other.copied);
        self.left_out.append(&mut other.left_out);
    }
}

/// What was copied.
#[derive(Debug, Default)]
pub struct Copied {
    /// How many files, links and pipes.
    pub count: u64,
    /// How many bytes these have.
    pub bytes: u64,
    /// What was changed in the copy, if that is little: files, and folders.
    pub touched: Vec<PathBuf>,
}

impl Copied {
    pub(super) fn add(&mut self, stat: &Stat) {
        self.count += 1;
        self.bytes += u64::try_from(stat.st_size).unwrap_or_default();
    }

    pub(super) fn touch(&mut self, path: PathBuf) {
        if self.touched.len() <= FEW {
            self.touched.push(path);
        }
    }

    /// Together with what somebody else has copied.
    pub(super) fn and(&mut self, other: Self) {
        self.count += other.count;
        self.bytes += other.bytes;
        other.touched.into_iter().for_each(|path| self.touch(path));
    }
}

impl Pass<'_> {
    /// Takes it. Nothing is durable when it returns.
    pub fn take(self) -> io::Result<Passed> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, self.home, flags, Mode::empty()).map_err(|error| named(self.home, error.into()))?;
        let stat = fstat(&root)?;
        let apart = Apart::of(self.apart, self.home);
        let place = if self.name.is_empty() { Place::default() } else { Place::default().join(self.name.as_bytes()) };
        let found = if self.is_last {
            let (home, seen, rules, cancelled) = (self.home, self.seen, self.rules, self.cancelled);
            let look = Look { home, to: self.to, apart: &apart, seen, rules, cancelled };
            look.over(root.try_clone()?, place.clone(), processors())?
        } else {
            None
        };
        let (changed, links, files, copied) = match found {
            Some(Found { changed, links, files, copied }) => (Some(changed), links, Some(files), copied),
            None => (None, HashMap::new(), None, Copied::default()),
        };
        let mut walk = Walk {
            pass: self,
            apart,
            links: links.into_iter().map(|(inode, path)| (inode, (path, false))).collect(),
            below: PathBuf::new(),
            device: None,
            trail: Trail::default(),
            passed: Passed { copied, ..Passed::default() },
        };
        walk.folder(&root, &place, &stat, changed.as_ref())?;
        walk.trail.write()?;
        walk.passed.files = files.unwrap_or(walk.passed.files);
        Ok(walk.passed)
    }
}

/// What is left out, by its path below the home.
pub(super) struct Apart {
    paths: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
}

impl Apart {
    fn of(apart: &[PathBuf], home: &Path) -> Self {
        let paths: BTreeSet<PathBuf> =
            apart.iter().filter_map(|path| path.strip_prefix(home).ok()).map(Path::to_owned).collect();
        Self { folders: paths.iter().filter_map(|path| path.parent()).map(Path::to_owned).collect(), paths }
    }

    pub(super) fn has(&self, below: &Path) -> bool {
        self.paths.contains(below)
    }

    /// Whether anything of it is in this folder.
    pub(super) fn is_in(&self, folder: &Path) -> bool {
        self.folders.contains(folder)
    }
}

struct Walk<'a> {
    pass: Pass<'a>,
    apart: Apart,
    /// Of files with several names: the first one, and whether it was copied in this pass.
    links: HashMap<(u64, u64), (PathBuf, bool)>,
    /// Where it is.
    below: PathBuf,
    /// What the first folder is on.
    device: Option<u64>,
    /// What is not on the disk yet, while a node runs.
    trail: Trail,
    passed: Passed,
}

impl Walk<'_> {
    /// Copies what is in a folder, and the folder; of what is in it, only what has changed, where that is known.
    fn folder(&mut self, from: &OwnedFd, place: &Place, stat: &Stat, changed: Option<&Changed>) -> io::Result<()> {
        if !self.pass.name.is_empty() && *self.device.get_or_insert(stat.st_dev) != stat.st_dev {
            let error =
                io::Error::other("it is a file system or a subvolume of its own, and a restore could not move it");
            return Err(named(&self.pass.home.join(&self.below), error));
        }
        let is_same = self.pass.seen.is_same(place, stat, self.pass.rules);
        let to = self.pass.to.join(&self.below);
        // What its owner may not write to is written to all the same.
        let is_locked = stat.st_mode & 0o300 != 0o300 && !rustix::process::geteuid().is_root();
        let mut touched = !is_same || is_locked;
        if !is_same {
            make_folder(&to).map_err(|error| named(&to, error))?;
        }
        if touched && is_locked {
            disk::set_mode(&to, PRIVATE)?;
        }
        if let Some(changed) = changed {
            for (name, changed) in &changed.0 {
                touched |= self.below(from, name, place, Some(changed))?;
            }
        } else {
            let (may_be_apart, is_all) = (self.apart.is_in(&self.below), self.pass.only.is_all());
            for entry in Dir::read_from(from).map_err(|error| self.unread(error))? {
                let entry = entry.map_err(|error| self.unread(error))?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name != "."
                    && name != ".."
                    && !(may_be_apart && self.apart.has(&self.below.join(name)))
                    && (is_all || self.pass.only.has(&self.below.join(name)))
                {
                    touched |= self.below(from, name, place, None)?;
                }
            }
        }
        if !is_same {
            touched |= self.remove_what_is_gone(from, &to)?;
        }
        if touched {
            dress(stat, Some(from.as_fd()), &to).map_err(|error| named(&to, error))?;
            self.passed.copied.touch(to);
        }
        self.note(place, Stamp::of(stat, self.pass.begun, self.pass.rules));
        Ok(())
    }

    fn below(&mut self, folder: &OwnedFd, name: &OsStr, place: &Place, changed: Option<&Changed>) -> io::Result<bool> {
        self.below.push(name);
        let touched = self.entry(folder.as_fd(), name, &place.join(name.as_bytes()), changed);
        self.below.pop();
        touched
    }

    /// Copies what is called so in a folder, unless it looks as it did; whether it did.
    fn entry(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        place: &Place,
        changed: Option<&Changed>,
    ) -> io::Result<bool> {
        wanted(self.pass.cancelled)?;
        let Some(stat) = self.there(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW))? else { return Ok(false) };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Some(opened) = self.there(openat(folder, name, flags, Mode::empty()))? else { return Ok(false) };
            // Of what was opened, whatever has that name meanwhile.
            let stat = fstat(&opened)?;
            self.folder(&opened, place, &stat, changed)?;
            return Ok(false);
        }
        self.passed.files += 1;
        let stamp = Stamp::of(&stat, self.pass.begun, self.pass.rules);
        if self.pass.seen.is_same(place, &stat, self.pass.rules) && !self.has_new_copy(kind, &stat) {
            self.note(place, stamp);
            return Ok(false);
        }
        let to = self.pass.to.join(&self.below);
        let copied = match kind {
            FileType::RegularFile => self.file(folder, name, &stat, &to),
            FileType::Symlink => readlinkat(folder, name, Vec::new()).map_err(io::Error::from).and_then(|target| {
                disk::remove(&to)?;
                disk::link(Path::new(OsStr::from_bytes(target.as_bytes())), &to)?;
                dress(&stat, None, &to).map(|()| Some(stat))
            }),
            FileType::Fifo => disk::remove(&to)
                .and_then(|()| disk::make_pipe(&to, stat.st_mode & 0o7777))
                .and_then(|()| dress(&stat, None, &to))
                .map(|()| Some(stat)),
            _ => {
                tracing::debug!(path = %self.below.display(), "a socket or a device is no part of a snapshot");
                if self.passed.left_out.len() < LEFT_OUT {
                    self.passed.left_out.push(Path::new(self.pass.name).join(&self.below));
                }
                disk::remove(&to).map(|()| None)
            }
        };
        match copied {
            Ok(None) => Ok(true),
            Ok(Some(stat)) => {
                self.passed.copied.add(&stat);
                self.note(place, Stamp::of(&stat, self.pass.begun, self.pass.rules));
                if kind == FileType::RegularFile {
                    self.passed.copied.touch(to);
                }
                Ok(true)
            }
            // It vanished while it was looked at: the next pass sees that its folder has changed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.pass.is_last => Ok(true),
            Err(error) => Err(named(&self.pass.home.join(&self.below), error)),
        }
    }

    /// For the next pass, if there is one.
    fn note(&mut self, place: &Place, stamp: Stamp) {
        if !self.pass.is_last {
            self.passed.notes.note(place, stamp);
        }
    }

    /// Whether this is one more name of a file that was copied anew in this pass, under another one: as that was moved.
    fn has_new_copy(&mut self, kind: FileType, stat: &Stat) -> bool {
        if kind != FileType::RegularFile || stat.st_nlink < 2 {
            return false;
        }
        let first = || (self.below.clone(), false);
        self.links.entry((stat.st_dev, stat.st_ino)).or_insert_with(first).1
    }

    /// Copies a file. What it looked like before it was read; none if that is another one by now, or if it is left to the last pass: neither is
    /// noted, so that it is looked at again.
    fn file(&mut self, folder: BorrowedFd<'_>, name: &OsStr, stat: &Stat, to: &Path) -> io::Result<Option<Stat>> {
        let inode = (stat.st_dev, stat.st_ino);
        if let Some((first, _)) = self.links.get(&inode).filter(|_| stat.st_nlink > 1) {
            disk::remove(to)?;
            disk::hard_link(&self.pass.to.join(first), to)?;
            return Ok(Some(*stat));
        }
        let Some(copied) = (if self.pass.is_last {
            let (cancelled, pace) = (self.pass.cancelled, &mut *self.pass.pace);
            copy::at_rest(folder, name, to, self.pass.rules, &mut |bytes| wanted(cancelled).and_then(|()| pace(bytes)))?
        } else {
            self.while_running(folder, name, to)?
        }) else {
            return Ok(None); // the next pass sees that
        };
        if copied.st_nlink > 1 {
            self.links.insert((copied.st_dev, copied.st_ino), (self.below.clone(), true));
        }
        Ok(Some(copied))
    }

    fn while_running(&mut self, folder: BorrowedFd<'_>, name: &OsStr, to: &Path) -> io::Result<Option<Stat>> {
        let Some((from, stat)) = copy::open(folder, name)? else { return Ok(None) };
        if self.pass.rules.cleans {
            sys::clean_pages(&from)?;
        }
        let Some(from) = self.pass.later.leave(from, &stat, self.pass.begun, to.parent().unwrap_or(to)) else {
            (self.pass.pace)(0)?;
            return later::remove(to).map(|()| None);
        };
        let (cancelled, pace, trail) = (self.pass.cancelled, &mut *self.pass.pace, &mut self.trail);
        let written = copy::contents(&from, &stat, to, false, &mut |to, bytes| {
            wanted(cancelled)?;
            trail.wrote(to, bytes)?;
            pace(bytes)
        })?;
        match written {
            Some(written) => trail.keep(written)?,
            None => pace(0)?, // by reference, which costs something, too
        }
        dress(&stat, Some(from.as_fd()), to)?;
        Ok(Some(stat))
    }

    /// Removes from the copy what is not in the folder any more.
    fn remove_what_is_gone(&self, from: &OwnedFd, to: &Path) -> io::Result<bool> {
        let mut there = Vec::new();
        for entry in Dir::read_from(from).map_err(|error| self.unread(error))? {
            let entry = entry.map_err(|error| self.unread(error))?;
            there.push(Place::default().join(entry.file_name().to_bytes()).number());
        }
        there.sort_unstable();
        let may_be_apart = self.apart.is_in(&self.below);
        let mut removed = false;
        for entry in fs::read_dir(to)? {
            let name = entry?.file_name();
            let is_there = there.binary_search(&Place::default().join(name.as_bytes()).number()).is_ok();
            if !is_there || may_be_apart && self.apart.has(&self.below.join(&name)) {
                disk::remove(&to.join(name))?;
                removed = true;
            }
        }
        Ok(removed)
    }

    /// None of what is gone, as long as somebody may remove it.
    fn there<T>(&self, looked: rustix::io::Result<T>) -> io::Result<Option<T>> {
        match looked {
            Ok(there) => Ok(Some(there)),
            Err(Errno::NOENT) if !self.pass.is_last => Ok(None),
            Err(error) => Err(self.unread(error)),
        }
    }

    fn unread(&self, error: Errno) -> io::Error {
        named(&self.pass.home.join(&self.below), error.into())
    }
}

pub(super) fn wanted(cancelled: &AtomicBool) -> io::Result<()> {
    if cancelled.load(Ordering::Relaxed) { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
}

/// A folder, whatever is there.
fn make_folder(to: &Path) -> io::Result<()> {
    match fs::symlink_metadata(to) {
        Ok(there) if there.is_dir() => Ok(()),
        Ok(_) => disk::remove_file(to).and_then(|()| disk::make_folder(to, PRIVATE)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk::make_folder(to, PRIVATE),
        Err(error) => Err(error),
    }
}

pub(super) fn named(path: &Path, error: io::Error) -> io::Error {
    match error.get_ref() {
        Some(_) if error.kind() != io::ErrorKind::Other => error, // it says so already
        _ => io::Error::new(error.kind(), format!("{}: {error}", path.display())),
    }
}
