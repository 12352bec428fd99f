//! The locks that keep a node from running twice.
//!
//! - `supervisor.lock` is held by the supervisor for its life and by nothing else.
//! - `node.lock` is inherited by the node's processes and by nothing else: it outlives the supervisor with them.
//! - `upgrade.lock` is the peer's name for the right to change the files that instances share.
//!
//! A lock file is never renamed, replaced or deleted: a lock is on the file, not on its name.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest word of a holder that is read: a path and a few words.
const HOLDER: u64 = 5000;

/// Why a lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error("{path} is held by {holder}", path = .path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote into it.
        holder: String,
    },
    /// It cannot be opened or locked at all.
    #[error("the lock {path} cannot be used", path = .path.display())]
    Unusable {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A lock that is held until it is dropped, or until every process that inherited it is gone.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes the lock if nobody has it. Close-on-exec. Nobody else may even read its file: whoever can open it can hold it.
    pub fn try_take(path: &Path) -> Result<Self, LockError> {
        Self::try_take_as(path, 0o600)
    }

    fn try_take_as(path: &Path, mode: u32) -> Result<Self, LockError> {
        let unusable = |source| LockError::Unusable { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).mode(mode).open(path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), file }),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
            Err(TryLockError::WouldBlock) => Err(LockError::Held { path: path.to_owned(), holder: holder(path) }),
        }
    }

    /// Takes a lock that others know, too, waiting for it for so long. Blocks its thread. Its file is made as theirs are.
    pub fn take_shared_within(path: &Path, patience: Duration) -> Result<Self, LockError> {
        let end = Instant::now() + patience;
        loop {
            match Self::try_take_as(path, 0o666) {
                Err(LockError::Held { .. }) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                result => return result,
            }
        }
    }

    /// Writes into the lock file who holds it, for whoever finds it held.
    pub fn sign(&mut self, holder: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(holder.as_bytes())
    }

    /// The locked file, to be inherited.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The path that it was taken by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One that this process was started with, if it is on the file that has this path.
    pub fn inherited(path: &Path, descriptor: OwnedFd) -> Option<Self> {
        let file = File::from(descriptor);
        let (held, named) = (file.metadata().ok()?, std::fs::metadata(path).ok()?);
        let is_the_one = (held.dev(), held.ino()) == (named.dev(), named.ino());
        is_the_one.then(|| Self { path: path.to_owned(), file })
    }

    /// The same lock once more: it is held until the last one is dropped.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { path: self.path.clone(), file: self.file.try_clone()? })
    }
}

/// Locks that this process was started with, and that nobody has asked for yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Lock>);

impl Inherited {
    /// These.
    pub fn new(locks: Vec<Lock>) -> Self {
        Self(locks)
    }

    /// Whether the lock of this path is among them.
    pub fn has(&self, path: &Path) -> bool {
        self.0.iter().any(|lock| lock.path == path)
    }

    /// Takes the lock of this path out, if it is among them.
    pub fn take(&mut self, path: &Path) -> Option<Lock> {
        let index = self.0.iter().position(|lock| lock.path == path)?;
        Some(self.0.swap_remove(index))
    }
}

/// Whether somebody holds this lock, without taking it for a moment: whoever finds it held then would be misled.
pub fn is_held(path: &Path) -> bool {
    let Ok(of) = std::fs::metadata(path) else { return false };
    // Btrfs and overlays list another device than the one that a file says it is on.
    let wanted = format!(":{}", of.ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().any(|line| line.contains(" FLOCK ") && line.split_whitespace().any(|word| word.ends_with(&wanted)))
}

/// What the holder of a lock wrote into it.
pub fn holder(path: &Path) -> String {
    let mut holder = String::new();
    let _ = File::open(path).and_then(|file| file.take(HOLDER).read_to_string(&mut holder));
    let holder = holder.trim();
    if holder.is_empty() { "an unknown process".to_owned() } else { holder.to_owned() }
}

/// The name of the network or user-space file system that `path` is on, if it is on one: locks are no guarantee there.
pub fn unreliable_file_system(path: &Path) -> Option<&'static str> {
    let kind = rustix::fs::statfs(path).ok()?.f_type;
    match u32::try_from(kind & 0xffff_ffff).ok()? {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("CIFS"),
        0x6573_5546 => Some("FUSE"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_holds_it() {
        let path = std::env::temp_dir().join(format!("omnivisor-lock-{}", std::process::id()));
        let mut first = Lock::try_take(&path).unwrap();
        first.sign("pid 42").unwrap();
        match Lock::try_take(&path) {
            Err(LockError::Held { holder, .. }) => assert_eq!(holder, "pid 42"),
            other => panic!("{other:?}"),
        }
        assert!(is_held(&path));
        drop(first);
        assert!(!is_held(&path));
        Lock::take_shared_within(&path, Duration::ZERO).unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
