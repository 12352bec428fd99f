//! Make the files of an archive: never one that is there, never outside of the folder, never more than the limit.

use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Limits, UnpackError, named, space};
use crate::store::disk::{self, Written};

/// Looked at and counted after so many bytes: a moment's work, and what is written beyond a limit at most.
const CHUNK: usize = 64 * 1024;

/// What a file takes beside its contents: the end of its last block.
const BLOCK: u64 = 4096;

/// Where an archive's contents go.
pub(super) struct Writer<'a> {
    archive: &'a Path,
    into: &'a Path,
    limits: &'a Limits,
    cancelled: &'a AtomicBool,
    written: u64,
    buffer: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(archive: &'a Path, into: &'a Path, limits: &'a Limits, cancelled: &'a AtomicBool) -> Self {
        Self { archive, into, limits, cancelled, written: 0, buffer: vec![0; CHUNK] }
    }

    /// The archive's own path.
    pub(super) fn archive(&self) -> &'a Path {
        self.archive
    }

    /// Sees that so much would be taken, and that there is room for it. Said before anything is written.
    pub(super) fn expect(&self, bytes: u64, entries: u64) -> Result<(), UnpackError> {
        self.count(entries)?;
        if bytes > self.limits.bytes {
            return Err(self.too_large());
        }
        space::require(self.into, bytes.saturating_add(entries.saturating_mul(BLOCK)), "what is unpacked")?;
        Ok(())
    }

    /// Sees that so many files and folders would be taken, and that it is to go on.
    pub(super) fn count(&self, entries: u64) -> Result<(), UnpackError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(UnpackError::Cancelled);
        }
        if entries > self.limits.entries {
            return Err(UnpackError::TooMany { archive: self.archive.to_owned(), limit: self.limits.entries });
        }
        Ok(())
    }

    /// Makes a folder, and those above it.
    pub(super) fn folder(&self, path: &Path) -> Result<(), UnpackError> {
        let mut made = self.into.to_owned();
        for part in path.components() {
            made.push(part);
            match disk::make_folder(&made, 0o755) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                created => created.map_err(named(&made))?,
            }
            disk::set_mode(&made, 0o755).map_err(named(&made))?;
        }
        Ok(())
    }

    /// Makes a file, and the folders above it; gives its length.
    pub(super) fn file(&mut self, path: &Path, executable: bool, contents: &mut impl Read) -> Result<u64, UnpackError> {
        self.count(0)?;
        self.folder(path.parent().unwrap_or(Path::new("")))?;
        let path = self.into.join(path);
        let mode = if executable { 0o755 } else { 0o644 };
        let cannot = named(&path);
        let mut file = Written::create_new(&path, mode).map_err(&cannot)?;
        file.set_mode(mode).map_err(&cannot)?;
        let before = self.written;
        loop {
            self.count(0)?;
            let read = match contents.read(&mut self.buffer) {
                Ok(0) => return Ok(self.written - before),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(self.archive, error)),
            };
            if read as u64 > self.limits.bytes - self.written {
                return Err(self.too_large());
            }
            self.written += read as u64;
            file.push(&self.buffer[..read]).map_err(&cannot)?;
        }
    }

    fn too_large(&self) -> UnpackError {
        UnpackError::TooLarge { archive: self.archive.to_owned(), limit: self.limits.bytes }
    }
}

/// The system's own errors have a number; what a decoder says of the bytes has none.
pub(super) fn unreadable(archive: &Path, error: io::Error) -> UnpackError {
    if error.raw_os_error().is_some() {
        return named(archive)(error);
    }
    UnpackError::Damaged { archive: archive.to_owned(), reason: error.to_string() }
}
