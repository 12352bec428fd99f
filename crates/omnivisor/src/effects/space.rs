//! Room on disks, and whether a tree can be copied at all: looked at before the node is stopped for it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::store::disk::{self, Written};

/// Left free on every disk that is written to, for everybody else: small enough for a small VPS.
const RESERVE: u64 = 16 * 1024 * 1024;

/// What a copy of a node's data leaves free, unless told otherwise: a tenth of the disk, and not less than this. The node goes on
/// writing, and a full disk is what kills it.
const RESERVE_OF_A_COPY: u64 = 10 << 30;

/// There is not enough room.
#[derive(Debug, thiserror::Error)]
#[error("{path} has {free} bytes free, and {needed} are needed for {what} (with {reserve} left for others)", path = .path.display())]
pub struct NoSpace {
    path: PathBuf,
    what: String,
    needed: u64,
    free: u64,
    reserve: String,
}

/// The room on a disk, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Free, for this user.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// That of the disk that `path`, or the nearest folder above it that exists, is on. None where the file system does not tell: it has
/// to show it when it is written to.
pub fn room(path: &Path) -> Option<Room> {
    let stat = rustix::fs::statvfs(existing(path)).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some(Room { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
}

fn existing(path: &Path) -> &Path {
    path.ancestors().find(|folder| folder.exists()).unwrap_or(path)
}

/// What a copy has to leave free on such a disk.
pub fn reserve_of_a_copy(room: Room, configured: Option<u64>) -> u64 {
    configured.unwrap_or_else(|| RESERVE_OF_A_COPY.max(room.total / 10))
}

/// Sees that `bytes` more fit on the disk that `path` is on, or will be.
pub fn require(path: &Path, bytes: u64, what: &str) -> Result<(), NoSpace> {
    require_beside(path, bytes, RESERVE, what)
}

/// The same, with so many bytes left free.
pub fn require_beside(path: &Path, bytes: u64, reserve: u64, what: &str) -> Result<(), NoSpace> {
    let Some(Room { free, .. }) = room(path) else { return Ok(()) };
    let needed = bytes.saturating_add(reserve);
    if free >= needed {
        return Ok(());
    }
    let reserve = format!("{} MiB", reserve >> 20);
    Err(NoSpace { path: existing(path).to_owned(), what: what.to_owned(), needed, free, reserve })
}

/// What an undo needs of a disk that a bad release has filled: names, folders, and marks.
const FOR_AN_UNDO: u64 = 1 << 20;

/// The file that keeps it.
const KEPT: &str = "room-for-an-undo";

/// Keeps room in this folder, until it is [given](give_room).
pub fn keep_room(folder: &Path) -> io::Result<()> {
    let path = folder.join(KEPT);
    if fs::metadata(&path).is_ok_and(|it| it.len() >= FOR_AN_UNDO) {
        return Ok(());
    }
    let kept = Written::create(&path, 0o600)?;
    let reserved = rustix::fs::fallocate(kept.as_file(), FallocateFlags::empty(), 0, FOR_AN_UNDO);
    // Where a file system can promise nothing, there is nothing to keep.
    reserved.or_else(|error| if error == Errno::OPNOTSUPP { Ok(()) } else { Err(error.into()) })
}

/// Gives the room that was kept.
pub fn give_room(folder: &Path) -> io::Result<()> {
    disk::remove(&folder.join(KEPT))
}

/// What is in a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The bytes that a copy needs.
    pub bytes: u64,
    /// How many files, folders and links there are.
    pub entries: u64,
}

/// Walks a tree, and sees that all of it can be read. `apart` is left out. What vanishes meanwhile is no error: a node is at work in
/// it.
pub fn survey(root: &Path, apart: &[PathBuf]) -> io::Result<Survey> {
    let mut found = Survey::default();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder != root => continue,
            entries => entries.map_err(|error| named(&folder, &error))?,
        };
        for entry in entries {
            let path = entry.map_err(|error| named(&folder, &error))?.path();
            if apart.contains(&path) {
                continue;
            }
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_file() {
                found.bytes += metadata.blocks() * 512;
                readable(&path)?;
            }
            found.bytes += 512; // its name and its inode
            found.entries += 1;
        }
    }
    Ok(found)
}

/// Asks the kernel instead of opening: a lease or a device must not notice.
fn readable(path: &Path) -> io::Result<()> {
    match rustix::fs::access(path, rustix::fs::Access::READ_OK) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(named(path, &error.into())),
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{} cannot be read: {error}", path.display()))
}
