//! Make an archive of a snapshot, and remove the snapshot when the archive has been read back and found good.
//!
//! Whatever happens on the way, one of the two is whole: the archive gets its name last, after its manifest, and the folder loses its
//! name only then.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use omnivisor_core::time::Timestamp;

use super::manifest::{self, Head};
use super::{Backup, Kind, differs, pack, verify};
use crate::checkpoint;
use crate::effects::parts;
use crate::effects::snapshot::command::{self, Remove};
use crate::store::atomic;
use crate::store::disk::{self, Written};

/// Its owner's only: it holds keys.
const MODE: u32 = 0o600;

/// As `zstd` itself by default; a higher one takes many times as long.
const LEVEL: i32 = 3;

/// No more threads than this: each keeps some megabytes.
const THREADS: u32 = 8;

/// What is left free on the disk for everybody else: a twentieth of it, within these limits. A node that runs there comes first.
const RESERVE: (u64, u64) = (128 << 20, 10 << 30);

/// Between two looks whether that is still free.
const LOOK: u64 = 16 << 20;

/// What a snapshot that is being removed is called; whoever sees one may go on with it.
pub const REMOVED: &str = ".partial-removed";

/// What an archive is made as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `tar.zst`
    #[default]
    Zst,
    /// `tar.gz`, which Nymvisor's operators expect
    Gz,
}

impl Format {
    fn ending(self) -> &'static str {
        match self {
            Self::Zst => ".tar.zst",
            Self::Gz => ".tar.gz",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Zst => Kind::TarZst,
            Self::Gz => Kind::TarGz,
        }
    }
}

/// There is not enough room.
#[derive(Debug)]
struct NoRoom {
    folder: PathBuf,
    needed: u64,
    reserve: u64,
    free: u64,
}

impl std::error::Error for NoRoom {}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, needed, reserve, free } = self;
        write!(
            f,
            "{} has {free} bytes free, and an archive needs up to {needed} there, with {reserve} left for others",
            folder.display()
        )
    }
}

/// Makes an archive of a sealed snapshot, reads it back, and removes the snapshot. Where the archive is.
///
/// Durable when it returns; can be done again after a crash at any point. `each` is told of every so many bytes that were read, and
/// may end it. On an error the snapshot is what it was, and no half of an archive is left.
pub fn archive(snapshot: &Backup, format: Format, each: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<PathBuf> {
    let head = snapshot.head.as_ref().filter(|_| snapshot.sealed && snapshot.kind == Kind::Folder);
    let head = head.ok_or_else(|| io::Error::other(format!("{} is no sealed snapshot", snapshot.path.display())))?;
    let sealed = manifest::beside(&snapshot.path);
    let path = snapshot.path.with_file_name(format!("{}{}", name(head), format.ending()));
    let is_there = match manifest::head(&manifest::beside(&path)) {
        _ if path.symlink_metadata().is_err() => false,
        Ok(there) if there.id == head.id => is_good(&path, format, &sealed, each)?,
        _ => return Err(io::Error::other(format!("{} is there, and is another one", path.display()))),
    };
    if !is_there {
        make(snapshot, head, format, &path, each)?;
    }
    remove_folder(&snapshot.path)?;
    Ok(path)
}

/// Removes a snapshot's folder and its manifest, so that half of it is never taken for one.
pub fn remove_folder(snapshot: &Path) -> io::Result<()> {
    let removed = with_ending(snapshot, REMOVED);
    parts::remove(&removed)?; // of a try that was killed, if its name came back
    disk::rename(snapshot, &removed)?;
    atomic::flush_folder_of(snapshot)?;
    disk::remove(&manifest::beside(snapshot))?;
    differs::forget(snapshot)?;
    parts::remove(&removed)
}

/// Removes what an operator's command has taken of this home, and the link to it. What fails on the way is gone on with by
/// [`remove_rest`].
pub fn remove_link(link: &Path, home: &Path, by: Remove<'_>) -> io::Result<()> {
    if by.is_none() {
        return Err(no_command());
    }
    command::put_word(link, REMOVED, home)?;
    disk::remove(link)?;
    atomic::flush_folder_of(link)?;
    disk::remove(&manifest::beside(link))?;
    differs::forget(link)?;
    remove_rest(&with_ending(link, REMOVED), by)
}

/// Removes what was given the name of something that is being removed: where it is a word of what a command has taken, that removes it, or
/// it stays.
pub fn remove_rest(removed: &Path, by: Remove<'_>) -> io::Result<()> {
    let name = removed.file_name().and_then(OsStr::to_str).and_then(|name| name.strip_suffix(REMOVED));
    let id = name.and_then(|name| name.strip_prefix("snapshot-")?.strip_suffix("-preupgrade"));
    // What has its own name was taken anew since, or is not to be removed yet.
    let is_there = name.is_some_and(|name| removed.with_file_name(name).is_symlink());
    if let Some(id) = id.filter(|_| removed.is_symlink() && !is_there) {
        by.ok_or_else(no_command)?(id)?;
        command::is_gone(removed)?;
    }
    parts::remove(removed)
}

fn no_command() -> io::Error {
    io::Error::other("a command has taken it, and snapshot.command does not say any more which")
}

/// Removes an archive, and its manifest.
pub fn remove_archive(archive: &Path) -> io::Result<()> {
    disk::remove(archive)?;
    differs::forget(archive)?;
    disk::remove(&manifest::beside(archive))
}

fn make(
    snapshot: &Backup,
    head: &Head,
    format: Format,
    path: &Path,
    each: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    // Half is what data that compresses badly comes to.
    has_room(folder, head.bytes.unwrap_or_default() / 2)?;
    let sealed = manifest::beside(&snapshot.path);
    let unfinished = atomic::unfinished(path)?;
    let (mut written, mut looked) = (0, 0);
    let mut watched = |bytes: u64| {
        written += bytes;
        if written - looked > LOOK {
            looked = written;
            has_room(folder, LOOK)?;
        }
        each(bytes)
    };
    let made = write(&snapshot.path, &unfinished, format, &mut watched)
        .and_then(|()| {
            checkpoint::reach("backup-packed");
            let verified = verify::archive(&unfinished, format.kind(), Some(&sealed), each)?;
            match verified.differs.first() {
                Some(first) => {
                    let first = first.clone();
                    // That, or the archive.
                    differs::note(snapshot, &verify::verify(snapshot, each)?)?;
                    Err(io::Error::other(format!("it was read back, and is not the snapshot: {first}")))
                }
                None => Ok(()),
            }
        })
        .and_then(|()| atomic::replace_by_copy(&manifest::beside(path), &sealed, MODE))
        .and_then(|()| atomic::rename_new(&unfinished, path))
        .and_then(|()| atomic::flush_folder_of(path));
    if made.is_err() {
        let _ = disk::remove(&unfinished);
    }
    made
}

fn write(snapshot: &Path, to: &Path, format: Format, each: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<()> {
    let file = BufWriter::with_capacity(1 << 20, Written::create(to, MODE)?);
    let file = match format {
        Format::Zst => {
            let threads = std::thread::available_parallelism().map_or(1, |it| u32::try_from(it.get()).unwrap_or(1));
            let mut encoder = zstd::stream::write::Encoder::new(file, LEVEL)?;
            encoder.include_checksum(true)?;
            encoder.multithread(threads.min(THREADS))?;
            pack::pack(snapshot, encoder, each)?.finish()?
        }
        Format::Gz => {
            let encoder = flate2::write::GzEncoder::new(file, flate2::Compression::default());
            pack::pack(snapshot, encoder, each)?.finish()?
        }
    };
    file.into_inner().map_err(io::IntoInnerError::into_error)?.flush()
}

/// Whether an archive that is there already is what the snapshot's manifest says; if not, it is gone.
fn is_good(
    path: &Path,
    format: Format,
    sealed: &Path,
    each: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<bool> {
    match verify::archive(path, format.kind(), Some(sealed), each) {
        Ok(verified) if verified.is_good() => return Ok(true),
        Err(error) if error.kind() != io::ErrorKind::InvalidData => return Err(error),
        Ok(_) | Err(_) => {}
    }
    tracing::warn!(archive = %path.display(), "an archive is damaged, and is made anew from its snapshot");
    remove_archive(path)?;
    Ok(false)
}

fn has_room(folder: &Path, needed: u64) -> io::Result<()> {
    // A file system that does not tell has to show it when it is written to.
    let Ok(stat) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let reserve = (stat.f_blocks.saturating_mul(stat.f_frsize) / 20).clamp(RESERVE.0, RESERVE.1);
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= needed.saturating_add(reserve) {
        return Ok(());
    }
    let error = NoRoom { folder: folder.to_owned(), needed, reserve, free };
    Err(io::Error::new(io::ErrorKind::StorageFull, error))
}

/// `backup-YYYY-MM-DD-HHMMSSmmm-preupgrade`, as Nymvisor calls it: when it was taken, in UTC.
fn name(head: &Head) -> String {
    let utc = head.taken().map_or(Timestamp::EPOCH, |at| Timestamp::from_unix_nanos(at.unix_nanos()));
    let text = utc.to_string();
    let text = text.trim_end_matches('Z');
    let (second, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (day, time) = second.split_once('T').unwrap_or((second, ""));
    format!("backup-{day}-{}{:0<3.3}-preupgrade", time.replace(':', ""), fraction)
}

/// When an archive was taken that is called so.
pub(super) fn taken(name: &str) -> Option<Timestamp> {
    let text = name.strip_prefix("backup-")?.strip_suffix("-preupgrade")?;
    let (day, time) = (text.get(..10)?, text.get(10..)?.strip_prefix('-')?);
    if time.len() != 9 || !time.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes, seconds, millis) = (&time[..2], &time[2..4], &time[4..6], &time[6..]);
    Timestamp::parse(&format!("{day}T{hours}:{minutes}:{seconds}.{millis}Z")).ok()
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_an_archive_was_taken_is_read_off_its_name() {
        let taken = |name: &str| taken(name).map(|at| at.to_string());
        let name = "backup-2026-11-22-052356989-preupgrade";
        assert_eq!(taken(name).as_deref(), Some("2026-11-22T05:23:56.989Z"));
        for name in ["backup-2026-11-22-05235698-preupgrade", "backup-2026-13-22-052356989-preupgrade", "backup-é", ""]
        {
            assert_eq!(taken(name), None, "{name}");
        }
    }

    #[test]
    fn an_archive_is_called_as_nymvisor_would_call_it() {
        let name = |taken: &str| name(&Head { taken: taken.to_owned(), ..Head::default() });
        assert_eq!(name("2026-11-22T05:23:56.989607769Z"), "backup-2026-11-22-052356989-preupgrade");
        assert_eq!(name("2026-11-22T05:23:56.5Z"), "backup-2026-11-22-052356500-preupgrade");
        assert_eq!(name("2026-11-22T05:23:56Z"), "backup-2026-11-22-052356000-preupgrade");
        assert_eq!(name("2030-01-01T00:00:00+02:00"), "backup-2029-12-31-220000000-preupgrade");
    }
}
