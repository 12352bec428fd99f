//! Look at a home on all processors, when nobody writes any more: what of it does not look as it did in the pass before. Of an
//! outage with many files this is the longest part, and each look waits for memory most of its time. What takes little is copied
//! at once: the disk writes that while the rest is looked at.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::{io, mem};

use rayon::{Scope, ThreadPoolBuilder};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};

use super::copy;
use super::pass::{Apart, Copied, Rules, named, wanted};
use super::seen::{Place, Seen};

/// So many names are looked at in one go.
const NAMES: usize = 512;

/// So many times that may wait for a processor; whoever comes to more looks himself. So little memory is needed.
const WAITING: usize = 8;

/// Of each thread: enough for folders as deep as a path can be long. Only what is used of it is taken.
const STACK: usize = 16 << 20;

/// Where more has changed, what takes time is to copy that.
const CHANGES: usize = 50_000;

/// What has changed, by name, with what has changed in it.
#[derive(Debug, Default)]
pub(super) struct Changed(pub(super) BTreeMap<OsString, Changed>);

impl Changed {
    fn add(&mut self, path: &Path) {
        path.iter().fold(self, |folder, name| folder.0.entry(name.to_owned()).or_default());
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) changed: Changed,
    /// How many files there are, and links and pipes.
    pub(super) files: u64,
    /// Of files with several names, of which one looks as it did: that one.
    pub(super) links: HashMap<(u64, u64), PathBuf>,
    /// What was copied at once; the rest of what has changed is still to be.
    pub(super) copied: Copied,
}

/// What is looked at, and what it looked like.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    pub(super) home: &'a Path,
    /// The copy.
    pub(super) to: &'a Path,
    pub(super) apart: &'a Apart,
    pub(super) seen: &'a Seen,
    pub(super) rules: Rules,
    pub(super) cancelled: &'a AtomicBool,
}

impl Look<'_> {
    /// Looks at everything in the home, which is opened as `root`, and is this place, with so many threads. None where that helps nothing: they
    /// cannot be had, or very much has changed.
    pub(super) fn over(self, root: OwnedFd, place: Place, threads: usize) -> io::Result<Option<Found>> {
        if threads < 2 || self.seen.is_empty() {
            return Ok(None);
        }
        let pool = match ThreadPoolBuilder::new().num_threads(threads).stack_size(STACK).build() {
            Ok(pool) => pool,
            Err(error) => {
                tracing::debug!(%error, "files are looked at by one thread");
                return Ok(None);
            }
        };
        let lookers = Lookers {
            look: self,
            found: Mutex::default(),
            changes: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            end: OnceLock::new(),
        };
        let root = Folder { opened: root, below: PathBuf::new(), place, is_same: false };
        pool.scope(|scope| lookers.folder(scope, root));
        match lookers.end.into_inner() {
            None => Ok(Some(lookers.found.into_inner().unwrap_or_else(PoisonError::into_inner))),
            Some(End::TooMuch) => Ok(None),
            Some(End::Failed(error)) => Err(error),
        }
    }
}

/// Why nobody looks any further.
enum End {
    Failed(io::Error),
    TooMuch,
}

struct Folder {
    opened: OwnedFd,
    below: PathBuf,
    place: Place,
    /// Whether it looks as it did: then it is in the copy, and a folder there.
    is_same: bool,
}

struct Lookers<'a> {
    look: Look<'a>,
    found: Mutex<Found>,
    changes: AtomicUsize,
    waiting: AtomicUsize,
    end: OnceLock<End>,
}

impl Lookers<'_> {
    /// Has it done by another thread, if one may want something to do.
    fn hand<'s>(&'s self, scope: &Scope<'s>, what: impl FnOnce(&Scope<'s>) + Send + 's) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < WAITING {
            scope.spawn(|scope| {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                what(scope);
            });
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            what(scope);
        }
    }

    fn folder<'s>(&'s self, scope: &Scope<'s>, folder: Folder) {
        if let Err(error) = self.read(scope, &Arc::new(folder)) {
            let _ = self.end.set(End::Failed(error)); // the first one counts
        }
    }

    fn read<'s>(&'s self, scope: &Scope<'s>, folder: &Arc<Folder>) -> io::Result<()> {
        let unread = |error: rustix::io::Errno| named(&self.look.home.join(&folder.below), error.into());
        let may_be_apart = self.look.apart.is_in(&folder.below);
        let (mut names, mut count) = (Vec::new(), 0);
        for entry in Dir::read_from(&folder.opened).map_err(unread)? {
            let entry = entry.map_err(unread)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..")
                || may_be_apart && self.look.apart.has(&folder.below.join(OsStr::from_bytes(name.to_bytes())))
            {
                continue;
            }
            names.extend_from_slice(name.to_bytes_with_nul());
            count += 1;
            if count % NAMES == 0 {
                let (folder, names) = (folder.clone(), mem::take(&mut names));
                self.hand(scope, move |scope| self.names(scope, &folder, &names));
            }
        }
        self.names(scope, folder, &names);
        Ok(())
    }

    /// Looks at what has these names, of which each ends in a zero.
    fn names<'s>(&'s self, scope: &Scope<'s>, folder: &Folder, names: &[u8]) {
        let mut noted = Noted::default();
        let names = names.split_inclusive(|byte| *byte == 0);
        for name in names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
            if self.end.get().is_some() {
                return;
            }
            if let Err(error) = self.name(scope, folder, name, &mut noted) {
                let error = named(&self.look.home.join(below(folder, name)), error);
                let _ = self.end.set(End::Failed(error));
                return;
            }
        }
        if self.changes.fetch_add(noted.changed.len(), Ordering::Relaxed) + noted.changed.len() > CHANGES {
            let _ = self.end.set(End::TooMuch);
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.files += noted.files;
        noted.changed.iter().for_each(|path| found.changed.add(path));
        for (inode, path) in noted.links {
            found.links.entry(inode).or_insert(path);
        }
        found.copied.and(noted.copied);
    }

    fn name<'s>(&'s self, scope: &Scope<'s>, folder: &Folder, name: &CStr, noted: &mut Noted) -> io::Result<()> {
        wanted(self.look.cancelled)?;
        let stat = statat(&folder.opened, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let place = folder.place.join(name.to_bytes());
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = openat(&folder.opened, name, flags, Mode::empty())?;
            let is_same = self.look.seen.is_same(&place, &fstat(&opened)?, self.look.rules);
            let folder = Folder { opened, below: below(folder, name), place, is_same };
            noted.changed.extend((!is_same).then(|| folder.below.clone()));
            self.hand(scope, move |scope| self.folder(scope, folder));
            return Ok(());
        }
        noted.files += 1;
        let is_file = kind == FileType::RegularFile;
        match self.look.seen.is_same(&place, &stat, self.look.rules) {
            false if is_file && folder.is_same && self.copied(folder, name, &stat, noted)? => {}
            false => noted.changed.push(below(folder, name)),
            true if is_file && stat.st_nlink > 1 => {
                noted.links.push(((stat.st_dev, stat.st_ino), below(folder, name)));
            }
            true => {}
        }
        Ok(())
    }

    /// Copies a file, if that is little; whether it was.
    fn copied(&self, folder: &Folder, name: &CStr, stat: &Stat, noted: &mut Noted) -> io::Result<bool> {
        let to = self.look.to.join(below(folder, name));
        if !copy::is_little(stat, &to) {
            return Ok(false);
        }
        let name = OsStr::from_bytes(name.to_bytes());
        let copied =
            copy::at_rest(folder.opened.as_fd(), name, &to, self.look.rules, &mut |_| wanted(self.look.cancelled))?;
        if let Some(stat) = &copied {
            noted.copied.add(stat);
            noted.copied.touch(to);
        }
        Ok(copied.is_some())
    }
}

/// What one thread has found among some names.
#[derive(Default)]
struct Noted {
    changed: Vec<PathBuf>,
    files: u64,
    links: Vec<((u64, u64), PathBuf)>,
    copied: Copied,
}

fn below(folder: &Folder, name: &CStr) -> PathBuf {
    folder.below.join(OsStr::from_bytes(name.to_bytes()))
}
