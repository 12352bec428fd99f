//! Get a backup's tree out again, exactly: contents, holes, modes, owners (as root), extended attributes, times, links and pipes.
//!
//! An archive may have been made by anybody. Nothing of it is written to outside of the folder, or through a link, and what it
//! should not hold is refused, not passed over. Where there is a manifest every entry is compared with it as it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lsetxattr};
use rustix::io::Errno;

use super::entry::{Entry, Walk, What, named};
use super::manifest::{self, Listed, Reader};
use super::member::{Member, Members, Part};
use super::verify::{self, Digested, compare};
use super::{Backup, Kind, Only, open};
use crate::effects::snapshot::pace::PIECE;
use crate::effects::snapshot::{self, Each, PRIVATE};
use crate::effects::{parts, space};
use crate::store::disk::{self, Written};
use crate::sys;

/// So many zeros in a row, at a multiple of it, become a hole.
const HOLE: usize = 4096;

/// Before a file that is larger it is looked whether there is room for it.
const LARGE: u64 = 1 << 20;

/// So many folders are kept in mind, until all is in them.
const FOLDERS: usize = 4_000_000;

/// Puts the tree into the folder `to`, which must not be there, or hold nothing but empty [parts], and which nobody else may look into. Blocks; `each` is told of every
/// so many bytes, may take its time, and ends it with an error. Nothing is durable when it returns: see
/// [`snapshot::flush_tree`]. On an error nothing is left.
pub fn unpack(from: &Backup, to: &Path, each: Each<'_>) -> io::Result<()> {
    unpack_some(from, to, &Only::default(), each)
}

/// The same of some of it: nothing else is compared, either. A path that is not in it is no error.
pub fn unpack_some(from: &Backup, to: &Path, only: &Only, each: Each<'_>) -> io::Result<()> {
    if let Some(why) = &from.damaged {
        return Err(io::Error::new(io::ErrorKind::InvalidData, why.clone()));
    }
    if parts::all(to)?.is_empty() {
        disk::make_folder(to, PRIVATE).map_err(|error| named(to, error))?;
    }
    let done = match from.kind {
        Kind::Folder | Kind::Command => folder(from, to, only, each),
        Kind::TarZst | Kind::TarGz | Kind::Nymvisor => archive(from, to, only, each),
        Kind::Essentials => Err(io::Error::other(format!("{} is no backup", from.path.display()))),
    };
    if done.is_err()
        && let Err(error) = parts::remove(to)
    {
        tracing::warn!(path = %to.display(), %error, "what is left of a backup that could not be unpacked cannot be removed");
    }
    done
}

/// A copy, which is compared with the list, if there is one yet.
fn folder(from: &Backup, to: &Path, only: &Only, each: Each<'_>) -> io::Result<()> {
    let Some((root, apart)) = from.tree() else { return Ok(()) };
    let apart: Vec<PathBuf> = apart.iter().map(|path| root.join(path)).collect();
    snapshot::copy_some(&root, to, &apart, only, each)?;
    let manifest = manifest::beside(&from.path);
    // One that had a list when it was found has to have it still: else somebody is removing it.
    if !from.sealed && !manifest::is_sealed(&manifest) {
        return Ok(());
    }
    let verified = verify::tree(Walk::of(to), &manifest, only, each)?;
    match verified.is_good() {
        false => Err(differs(from, &verified.differs.join("; "))),
        true => Ok(()),
    }
}

fn archive(from: &Backup, to: &Path, only: &Only, each: Each<'_>) -> io::Result<()> {
    let mut members = Members::new(open(&from.path, from.kind)?);
    let is_ours = from.kind != Kind::Nymvisor;
    let only = &if is_ours { only.and(firsts(from, only)?) } else { only.clone() };
    // Links that were there before: what an archive makes is none of them.
    let parts: BTreeMap<_, _> = parts::all(to)?.into_iter().map(|(name, part)| (PathBuf::from(name), part)).collect();
    let implied = parts.keys().cloned().collect();
    let mut tree = Tree { root: to, parts, is_in_order: is_ours, implied, open: Vec::new(), inside: None };
    let mut next = || {
        loop {
            let Some(member) = members.advance()? else { return Ok(None) };
            each(0)?;
            // The root itself, which is not what is put back.
            if member.entry.path.as_os_str().is_empty() && member.entry.what == What::Folder {
                continue;
            }
            if !only.has(&member.entry.path) {
                continue;
            }
            let digest = tree.add(&member, &mut members, each)?;
            return Ok(Some(Listed::new(member.entry, digest)));
        }
    };
    if is_ours {
        let mut reader = Reader::open(&manifest::beside(&from.path))?;
        compare(&mut reader, &mut next, only, true, &mut |path, how| {
            Err(differs(from, &format!("{} {how}", path.display())))
        })?;
    } else {
        while next()?.is_some() {}
    }
    tree.finish()
}

/// What is meant by one more name, and stands in the archive under its first one.
fn firsts(from: &Backup, only: &Only) -> io::Result<Vec<PathBuf>> {
    let mut firsts = Vec::new();
    if !only.is_all() {
        let mut list = Reader::open(&manifest::beside(&from.path))?;
        while let Some(Listed { entry, .. }) = list.advance()? {
            match entry.what {
                What::Again { first, .. } if only.has(&entry.path) && !only.has(&first) => firsts.push(first),
                _ => {}
            }
        }
    }
    Ok(firsts)
}

fn differs(from: &Backup, how: &str) -> io::Error {
    let text = format!("{} is not what its manifest says: {how}", from.path.display());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// What is being made.
struct Tree<'a> {
    root: &'a Path,
    /// What of it is elsewhere, each by its name in it, and is there already.
    parts: BTreeMap<PathBuf, PathBuf>,
    /// Whether a folder is complete when another one comes that is not in it.
    is_in_order: bool,
    /// Folders that were named in a path only.
    implied: BTreeSet<PathBuf>,
    /// Folders that get their mode and their times when all is in them.
    open: Vec<Entry>,
    /// The folder that was looked at last: it is there, and is no link, and so are those above it.
    inside: Option<PathBuf>,
}

impl Tree<'_> {
    /// Makes one entry; the digest of its contents.
    fn add<R: io::Read>(
        &mut self,
        member: &Member,
        members: &mut Members<R>,
        each: Each<'_>,
    ) -> io::Result<Option<String>> {
        let entry = &member.entry;
        if self.is_in_order {
            while let Some(last) = self.open.pop_if(|last| !entry.path.starts_with(&last.path)) {
                dress(&last, &self.full(&last.path))?;
            }
        }
        let parent = entry.path.parent().unwrap_or(Path::new("")).to_owned();
        self.enter(&parent, entry)?;
        let to = self.full(&entry.path);
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => refused(entry, "there is another one of this name"),
            _ => named(&to, error),
        };
        let mut digest = Digested::default();
        match &entry.what {
            What::Folder => {
                if !self.implied.remove(&entry.path) {
                    disk::make_folder(&to, PRIVATE).map_err(refused)?;
                }
                if self.open.len() >= FOLDERS {
                    return Err(refused_all("it has too many folders"));
                }
                self.open.push(entry.clone());
                return Ok(None);
            }
            What::File { bytes } => {
                if *bytes > LARGE {
                    space::require(self.root, 0, "what is being unpacked").map_err(io::Error::other)?;
                }
                let mut file =
                    Sparse { file: Written::create_new(&to, 0o600).map_err(refused)?, at: 0, length: 0, given: 0 };
                members.contents(member, &mut |part| {
                    digest.update(&part);
                    each(file.push(&part)?)
                })?;
                file.finish().map_err(|error| named(&to, error))?;
            }
            What::Again { first, .. } => {
                self.enter(first.parent().unwrap_or(Path::new("")), entry)?;
                let file = self.full(first);
                if !fs::symlink_metadata(&file).is_ok_and(|it| it.is_file() || it.file_type().is_fifo()) {
                    return Err(refused(io::Error::other(refused_text(
                        entry,
                        "it is a name of what is no file here, or was not unpacked",
                    ))));
                }
                disk::hard_link(&file, &to).map_err(refused)?;
                return Ok(None);
            }
            // Whoever removes what was unpacked would remove what that leads to.
            What::Link { target } if parent.as_os_str().is_empty() && parts::is_ours(&to, target) => {
                return Err(self::refused(entry, "it is a link to where omnivisor keeps parts of other backups"));
            }
            What::Link { target } => disk::link(target, &to).map_err(refused)?,
            What::Pipe => disk::make_pipe(&to, 0o600).map_err(refused)?,
        }
        dress(entry, &to).map_err(|error| named(&to, error))?;
        digest.of(entry)
    }

    /// Where an entry is.
    fn full(&self, path: &Path) -> PathBuf {
        let first = path.iter().next().and_then(|first| Some((first, self.parts.get(Path::new(first))?)));
        match first.and_then(|(first, part)| Some((part, path.strip_prefix(first).ok()?))) {
            Some((part, below)) => crate::effects::data::at(part, below),
            None => self.root.join(path),
        }
    }

    /// Sees that this is a folder that was made here, and no link to one; makes it where an archive does not name its folders.
    fn enter(&mut self, folder: &Path, for_whom: &Entry) -> io::Result<()> {
        if self.inside.as_deref() == Some(folder) {
            return Ok(());
        }
        let mut below = PathBuf::new();
        for part in folder.components() {
            below.push(part);
            let full = self.full(&below);
            match fs::symlink_metadata(&full) {
                Ok(there) if there.is_dir() => {}
                Ok(_) => return Err(refused(for_whom, "its path leads through what is no folder")),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if self.implied.len() >= FOLDERS {
                        return Err(refused_all("it has too many folders"));
                    }
                    disk::make_folder(&full, PRIVATE).map_err(|error| named(&full, error))?;
                    self.implied.insert(below.clone());
                }
                Err(error) => return Err(named(&full, error)),
            }
        }
        self.inside = Some(folder.to_owned());
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        // Those inside before those that they are in.
        self.open.sort_by(|one, other| one.path.cmp(&other.path));
        while let Some(last) = self.open.pop() {
            let to = self.full(&last.path);
            dress(&last, &to).map_err(|error| named(&to, error))?;
        }
        Ok(())
    }
}

/// A file that is written without its zeros.
struct Sparse {
    file: Written,
    at: u64,
    /// Up to where something was written.
    length: u64,
    /// Up to where the disk has been given it.
    given: u64,
}

impl Sparse {
    /// How many bytes that were.
    fn push(&mut self, part: &Part<'_>) -> io::Result<u64> {
        let bytes = match part {
            Part::Bytes(bytes) => *bytes,
            Part::Zeros(length) => {
                self.at += length;
                return Ok(0);
            }
        };
        // Blocks of the file, not of what happened to be read.
        let mut rest = bytes;
        let mut begin = self.at;
        let (mut run, mut run_at) = (0, self.at);
        while !rest.is_empty() {
            let until = HOLE - usize::try_from(begin % HOLE as u64).unwrap_or_default();
            let (block, after) = rest.split_at(until.min(rest.len()));
            if block.iter().any(|byte| *byte != 0) {
                if run == 0 {
                    run_at = begin;
                }
                run += block.len();
            } else {
                self.write(bytes, run_at, run)?;
                run = 0;
            }
            begin += block.len() as u64;
            rest = after;
        }
        self.write(bytes, run_at, run)?;
        self.at = begin;
        if self.length >= self.given + PIECE {
            // What is left to the kernel is written in one burst, and a node's own flush waits behind that.
            sys::start_writing(self.file.as_file())?;
            self.given = self.length;
        }
        Ok(bytes.len() as u64)
    }

    fn write(&mut self, bytes: &[u8], at: u64, length: usize) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let from = usize::try_from(at - self.at).unwrap_or_default();
        self.file.write_at(&bytes[from..from + length], at)?;
        self.length = at + length as u64;
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        if self.length < self.at {
            self.file.set_length(self.at)?;
        }
        sys::start_writing(self.file.as_file())
    }
}

/// Gives it the owner, mode, extended attributes and times that the archive says.
fn dress(entry: &Entry, to: &Path) -> io::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::other("its owner has too large a number"));
        lchown(to, Some(id(entry.uid)?), Some(id(entry.gid)?))?;
    }
    if !matches!(entry.what, What::Link { .. }) {
        disk::set_mode(to, entry.mode)?;
        for (name, value) in &entry.attributes {
            match lsetxattr(to, name.as_c_str(), value, XattrFlags::empty()) {
                // What only root may set stays away where this is not root.
                Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP) if !is_root => {}
                set => set?,
            }
        }
    }
    let time = Timespec { tv_sec: entry.modified.0, tv_nsec: entry.modified.1.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn refused(entry: &Entry, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, refused_text(entry, why))
}

fn refused_text(entry: &Entry, why: &str) -> String {
    format!("the archive is refused because of its member {:?}: {why}", entry.path.display().to_string())
}

fn refused_all(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive is refused: {why}"))
}
