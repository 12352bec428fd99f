//! Room on disks, and whether a tree can be copied at all: looked at before the node is stopped for it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Left free on every disk that is written to, for everybody else: small enough for a small VPS.
const RESERVE: u64 = 16 * 1024 * 1024;

/// There is not enough room.
#[derive(Debug, thiserror::Error)]
#[error("{path} has {free} bytes free, and {needed} are needed for {what} (with 16 MiB left for others)", path = .path.display())]
pub struct NoSpace {
    path: PathBuf,
    what: String,
    needed: u64,
    free: u64,
}

/// Sees that `bytes` more fit on the disk that `path`, or the nearest folder above it that exists, is on.
pub fn require(path: &Path, bytes: u64, what: &str) -> Result<(), NoSpace> {
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(path);
    // A file system that does not tell has to show it when it is written to.
    let Ok(stat) = rustix::fs::statvfs(existing) else { return Ok(()) };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed = bytes.saturating_add(RESERVE);
    if free >= needed {
        return Ok(());
    }
    Err(NoSpace { path: existing.to_owned(), what: what.to_owned(), needed, free })
}

/// The bytes that a copy of the tree needs. Walks it, and sees that all of it can be read. `apart` is left out. What vanishes meanwhile is no error: a node is
/// at work in it.
pub fn survey(root: &Path, apart: &[PathBuf]) -> io::Result<u64> {
    let mut bytes = 0;
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
                bytes += metadata.blocks() * 512;
                readable(&path)?;
            }
            bytes += 512; // its name and its inode
        }
    }
    Ok(bytes)
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
