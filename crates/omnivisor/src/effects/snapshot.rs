//! Copy a node's data aside: plain, complete, and there whole or not at all.
//!
//! Flushing: a few files one by one; more of them with the whole file system, which is faster then, but waits for what
//! everybody else has written, too.
//!
//! Kept: contents, folders, symbolic links as links, pipes, modes, owners (as root) and times. Left out: sockets, which
//! whoever listens makes anew, devices, and what stands apart. The copy may be read by nobody else: it holds keys.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use crate::store::{atomic, disk};

/// What the name of a copy that is not whole ends in.
const PARTIAL: &str = ".partial";

/// The mode of a folder that only its owner may look into.
pub const PRIVATE: u32 = 0o700;

/// Up to so many files and folders are flushed one by one: each takes about as long as a whole file system at rest.
const FEW: usize = 16;

/// Takes a snapshot of `home` at `to`, without what is `apart`. Durable and complete when it returns; if `to` is there
/// already, it is complete, and that is all.
///
/// On an error, or when `cancelled`, nothing is left.
pub fn take(home: &Path, to: &Path, apart: &[PathBuf], cancelled: &AtomicBool) -> io::Result<()> {
    if to.exists() {
        return atomic::flush_folder_of(to); // whoever gave it its name may have been killed before that
    }
    let partial = partial(to);
    disk::remove(&partial)?;
    if let Some(parent) = to.parent() {
        disk::make_folders(parent, PRIVATE)?;
    }
    let copied = copy_tree(home, &partial, apart, cancelled).and_then(|()| {
        // Whatever the home's own mode is, and whoever made the folders above.
        disk::set_mode(&partial, PRIVATE)?;
        flush_tree(&partial)?;
        disk::rename(&partial, to)?;
        atomic::flush_folder_of(to)
    });
    if copied.is_err() {
        let _ = disk::remove(&partial);
    }
    copied
}

/// What is at `to` is no snapshot any more, if it was one: the node has gone on since. Done in a moment; not durable, as what
/// has been written since may not be, either.
pub fn void(to: &Path) -> io::Result<()> {
    match disk::rename(to, &partial(to)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes what there is of a snapshot that is not whole, or was [made void](void). As well as it can be done.
pub fn discard(to: &Path) {
    if let Err(error) = disk::remove(&partial(to)) {
        tracing::warn!(path = %partial(to).display(), %error, "what is left of a snapshot cannot be removed");
    }
}

fn partial(to: &Path) -> PathBuf {
    let mut partial = to.as_os_str().to_owned();
    partial.push(PARTIAL);
    PathBuf::from(partial)
}

/// Makes the folder that snapshots of a release go to, so that it is durable before the outage begins.
pub fn prepare(folder: &Path) -> io::Result<()> {
    disk::make_folders_durably(folder, PRIVATE)
}

/// Makes a copy durable.
pub fn flush_tree(root: &Path) -> io::Result<()> {
    let (mut paths, mut looked) = (vec![root.to_owned()], 0);
    while let Some(path) = paths.get(looked).cloned() {
        looked += 1;
        if fs::symlink_metadata(&path)?.is_dir() {
            for entry in fs::read_dir(&path)? {
                paths.push(entry?.path());
            }
        }
        if paths.len() > FEW {
            return disk::flush_file_system(root);
        }
    }
    for path in paths {
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            disk::flush_folder(&path)?;
        } else if kind.is_file() {
            disk::flush_file(&path)?; // links and pipes are in their folder
        }
    }
    Ok(())
}

/// Copies a folder and everything in it. `to` must not be there.
pub fn copy_tree(from: &Path, to: &Path, apart: &[PathBuf], cancelled: &AtomicBool) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from).map_err(|error| named(from, &error))?;
    disk::make_folder(to, PRIVATE).map_err(|error| named(to, &error))?;
    for entry in fs::read_dir(from).map_err(|error| named(from, &error))? {
        let name = entry.map_err(|error| named(from, &error))?.file_name();
        let (source, target) = (from.join(&name), to.join(&name));
        if cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        if !apart.contains(&source) {
            copy_entry(&source, &target, apart, cancelled)?;
        }
    }
    dress(&metadata, to).map_err(|error| named(to, &error))
}

fn copy_entry(from: &Path, to: &Path, apart: &[PathBuf], cancelled: &AtomicBool) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from).map_err(|error| named(from, &error))?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        return copy_tree(from, to, apart, cancelled);
    }
    let copied = if kind.is_file() {
        disk::copy(from, to)
    } else if kind.is_symlink() {
        fs::read_link(from).and_then(|target| disk::link(&target, to))
    } else if kind.is_fifo() {
        disk::make_pipe(to, metadata.mode())
    } else {
        tracing::debug!(path = %from.display(), "a socket or a device is no part of a snapshot");
        return Ok(());
    };
    copied.and_then(|()| dress(&metadata, to)).map_err(|error| named(from, &error))
}

/// Gives a copy the owner, mode and times of what it is a copy of.
fn dress(metadata: &Metadata, to: &Path) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    if !metadata.is_symlink() {
        disk::set_mode(to, metadata.mode() & 0o7777)?;
    }
    let time = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps {
        last_access: time(metadata.atime(), metadata.atime_nsec()),
        last_modification: time(metadata.mtime(), metadata.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
