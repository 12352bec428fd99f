//! Remember that a backup is not what its list says, once somebody has read it: it is no good one then, and must not take the place of one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Backup;
use super::verify::Verified;
use crate::store::{atomic, disk};

/// What the name of the file beside it ends in.
pub const ENDING: &str = ".differs";

const MODE: u32 = 0o600;

/// Notes what was seen, durably; where all is as it was, that nothing else is known any more.
pub fn note(backup: &Backup, verified: &Verified) -> io::Result<()> {
    let path = beside(&backup.path);
    match verified.differs.first() {
        Some(first) => atomic::replace(&path, first.as_bytes(), MODE),
        // Durably, too: what is good must not be refused after a power cut.
        None if path.exists() => disk::remove(&path).and_then(|()| atomic::flush_folder_of(&path)),
        None => Ok(()),
    }
}

/// The same of one that could not be read to its end, by this error of reading it: it is damaged, or its disk is. Who may not read it knows
/// nothing of it.
pub fn note_error(backup: &Backup, error: &io::Error) -> io::Result<()> {
    use io::ErrorKind::{Interrupted, NotFound, OutOfMemory, PermissionDenied};
    let is_broken = !matches!(error.kind(), Interrupted | NotFound | OutOfMemory | PermissionDenied);
    match is_broken && backup.damaged.is_none() {
        true => atomic::replace(&beside(&backup.path), error.to_string().as_bytes(), MODE),
        false => Ok(()),
    }
}

/// What was noted of what is at this path.
pub(super) fn noted(path: &Path) -> Option<String> {
    match fs::read(beside(path)) {
        Ok(first) => Some(String::from_utf8_lossy(&first).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("and what is not as its list says cannot be read: {error}")),
    }
}

/// With the backup.
pub fn forget(path: &Path) -> io::Result<()> {
    disk::remove(&beside(path))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ENDING);
    PathBuf::from(name)
}
