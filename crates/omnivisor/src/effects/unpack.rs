//! Get out what a downloaded file holds: a zip archive's files, or else the file itself.
//!
//! What the file is, its first bytes say: no name and no content type is believed. An archive is looked through before
//! anything is written, and refused whole if one entry is odd: nothing is skipped, renamed or repaired. What stands in its
//! headers is only ever a claim; what counts is counted while it is written.
//!
//! A further format is a variant of [`Format`] and a module beside [`zip`](self::zip) that gives its entries to a
//! [`Tree`] and their contents to a [`Writer`]: what is refused, and how files are made, is there and the same for all.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use omnivisor_core::plan::Failure;

use super::space::NoSpace;
use super::{snapshot, space};
use crate::store::disk;

mod tree;
mod write;
mod zip;

#[cfg(test)]
mod tests;

pub use self::tree::Refusal;
use self::tree::Tree;
use self::write::Writer;

/// How much an archive may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files and folders, those that are only named in a path included.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

impl Limits {
    /// What no release of a node comes near: Vega's archives hold one file of 100 MB. Two GiB are as much as an executable may
    /// have.
    pub const RELEASE: Self = Self { entries: 20_000, bytes: 2 << 30 };
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A zip archive.
    Zip,
    /// Itself: an executable, or whatever else.
    Raw,
}

impl Format {
    /// Tells it by the first bytes.
    pub fn of(first: &[u8]) -> Self {
        // The header of a first entry; or the end of the directory, which an empty archive begins with.
        if first.starts_with(b"PK\x03\x04") || first.starts_with(b"PK\x05\x06") { Self::Zip } else { Self::Raw }
    }
}

/// Why nothing was unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive, or where it goes to, cannot be read or written.
    #[error("{path} cannot be read or written: {source}", path = .path.display())]
    Io {
        /// Which of them.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is something in the folder already.
    #[error("{folder} is no place to unpack to: it is not empty", folder = .folder.display())]
    NotEmpty {
        /// Which folder.
        folder: PathBuf,
    },
    /// There is not enough room.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// It was told to stop.
    #[error("unpacking was cancelled")]
    Cancelled,
    /// Cut short, damaged, or of a kind that is not read here.
    #[error("{archive} is damaged: {reason}", archive = .archive.display())]
    Damaged {
        /// Which archive.
        archive: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// One of its entries is nothing that a release has.
    #[error("{archive} is refused because of its entry {entry:?}: {why}", archive = .archive.display())]
    Entry {
        /// Which archive.
        archive: PathBuf,
        /// The entry's name, cut to a readable length.
        entry: String,
        /// What is wrong with it.
        why: Refusal,
    },
    /// More files and folders than there may be.
    #[error("{archive} is refused: it holds more than {limit} files and folders", archive = .archive.display())]
    TooMany {
        /// Which archive.
        archive: PathBuf,
        /// How many there may be.
        limit: u64,
    },
    /// More bytes than there may be.
    #[error("{archive} is refused: it holds more than {limit} bytes", archive = .archive.display())]
    TooLarge {
        /// Which archive.
        archive: PathBuf,
        /// How many there may be.
        limit: u64,
    },
    /// No file at all.
    #[error("{archive} holds no file", archive = .archive.display())]
    Nothing {
        /// Which archive.
        archive: PathBuf,
    },
}

impl UnpackError {
    /// What it means for the upgrade: an archive that is odd stays so.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Io { .. } | Self::NotEmpty { .. } | Self::NoSpace(_) | Self::Cancelled => {
                Failure::transient(self.to_string())
            }
            Self::Damaged { .. }
            | Self::Entry { .. }
            | Self::TooMany { .. }
            | Self::TooLarge { .. }
            | Self::Nothing { .. } => Failure::permanent(self.to_string()),
        }
    }
}

/// Unpacks `archive` into the empty folder `into`, and says which files are there now, relative to it. They are durable when
/// it returns. Of a file that is no archive a copy is made, under its own name.
///
/// Modes are our own: folders and what can be executed 0755, other files 0644. What comes without a mode can be executed, and
/// so can what is no archive. Blocks; `cancelled` is looked at between two chunks. On an error the folder is empty again.
pub fn unpack(
    archive: &Path,
    into: &Path,
    limits: &Limits,
    cancelled: &AtomicBool,
) -> Result<Vec<PathBuf>, UnpackError> {
    let unwritten = named(into);
    if fs::read_dir(into).map_err(&unwritten)?.next().is_some() {
        return Err(UnpackError::NotEmpty { folder: into.to_owned() });
    }
    let mut opened = File::open(archive).map_err(named(archive))?;
    let emptied = EmptiedUnlessDone { folder: into, done: false };
    let writer = Writer::new(archive, into, limits, cancelled);
    let files = match format_of(&mut opened).map_err(named(archive))? {
        Format::Zip => zip::unpack(&opened, writer),
        Format::Raw => raw(&mut opened, writer),
    }?;
    if files.is_empty() {
        return Err(UnpackError::Nothing { archive: archive.to_owned() });
    }
    snapshot::flush_tree(into).map_err(&unwritten)?;
    emptied.done();
    Ok(files)
}

/// What a file is; it is read from its beginning afterwards.
fn format_of(file: &mut File) -> io::Result<Format> {
    let mut first = Vec::new();
    file.by_ref().take(4).read_to_end(&mut first)?;
    io::Seek::rewind(file)?;
    Ok(Format::of(&first))
}

fn raw(file: &mut File, mut writer: Writer<'_>) -> Result<Vec<PathBuf>, UnpackError> {
    let archive = writer.archive();
    let bytes = file.metadata().map_err(named(archive))?.len();
    let name = Path::new(archive.file_name().unwrap_or(archive.as_os_str())).to_owned();
    writer.expect(bytes, 1)?;
    writer.file(&name, true, file)?;
    Ok(vec![name])
}

/// A folder that is emptied when this is dropped, also by a panic.
struct EmptiedUnlessDone<'a> {
    folder: &'a Path,
    done: bool,
}

impl EmptiedUnlessDone<'_> {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for EmptiedUnlessDone<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        for entry in fs::read_dir(self.folder).into_iter().flatten().flatten() {
            let _ = disk::remove(&entry.path());
        }
    }
}

fn named(path: &Path) -> impl Fn(io::Error) -> UnpackError {
    move |source| UnpackError::Io { path: path.to_owned(), source }
}
