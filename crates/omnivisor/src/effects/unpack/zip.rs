//! Zip archives. The only place that knows the crate which reads them.
//!
//! Read entry by entry, twice, instead of all at once: the crate's own list of entries is as large as the archive wants it
//! to be. Compressed by deflate, or not at all: whatever else there is nobody uses for releases.

use std::fs::File;
use std::path::PathBuf;

use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;
use zip::unstable::read::ZipIterable;
use zip::{CompressionMethod, ZipReadOptions};

use super::tree::Planned;
use super::write::unreadable;
use super::{Refusal, Tree, UnpackError, Writer, named};

/// How much of a name is shown.
const SHOWN: usize = 200;

/// Unpacks it; the paths of its files, in their order there.
pub(super) fn unpack(file: &File, mut writer: Writer<'_>) -> Result<Vec<PathBuf>, UnpackError> {
    let archive = writer.archive();
    let wrong = |error| damaged(archive, error);
    // One descriptor, and so one position, for both: each use goes to where it wants to be.
    let again = || file.try_clone().map_err(named(archive));
    // What comes before the archive would be something else than its first bytes say.
    let config = Config { archive_offset: ArchiveOffset::Known(0) };
    let mut entries = ZipIterable::try_new(again()?, config).map_err(wrong)?;
    writer.count(entries.len() as u64)?;

    let (mut tree, mut planned, mut bytes) = (Tree::default(), Vec::new(), 0_u64);
    for entry in entries.files().map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let refuse = |why| {
            let name = String::from_utf8_lossy(entry.name_raw());
            let entry = name.chars().take(SHOWN).collect();
            UnpackError::Entry { archive: archive.to_owned(), entry, why }
        };
        if entry.encrypted() {
            return Err(refuse(Refusal::Encrypted));
        }
        if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
            let reason = format!("{:?} is compressed in a way that is not read here", entry.name_raw().escape_ascii());
            return Err(UnpackError::Damaged { archive: archive.to_owned(), reason });
        }
        // Whatever system it says to be from: nobody else has anything in these bits.
        let mode = entry.external_attributes() >> 16;
        planned.push(tree.add(entry.name_raw(), mode, entry.size()).map_err(refuse)?);
        bytes = bytes.saturating_add(entry.size());
        writer.count(tree.len())?;
    }
    writer.expect(bytes, tree.len())?;

    let mut files = Vec::new();
    let mut contents = entries.files_with_reader(again()?, ZipReadOptions::new()).map_err(wrong)?;
    for planned in planned {
        let Some(content) = contents.next() else {
            let reason = "its list of entries has become shorter".to_owned();
            return Err(UnpackError::Damaged { archive: archive.to_owned(), reason });
        };
        let mut content = content.map_err(wrong)?;
        let (path, executable) = match planned {
            Planned::File { path, executable } => (path, executable),
            Planned::Folder { path } => {
                writer.folder(&path)?;
                continue;
            }
        };
        let length = writer.file(&path, executable, &mut content)?;
        if length != content.size() {
            let reason = format!("{} has {length} bytes instead of {}", path.display(), content.size());
            return Err(UnpackError::Damaged { archive: archive.to_owned(), reason });
        }
        files.push(path);
    }
    Ok(files)
}

fn damaged(archive: &std::path::Path, error: ZipError) -> UnpackError {
    match error {
        ZipError::Io(error) => unreadable(archive, error),
        other => UnpackError::Damaged { archive: archive.to_owned(), reason: other.to_string() },
    }
}
