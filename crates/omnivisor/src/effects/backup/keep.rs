//! What becomes of the snapshots of a home while its node runs: they are sealed, packed, and removed when there are newer ones.
//!
//! Only those that were taken of this home, by the manifests beside them: others may share the folder. Each step can be ended at
//! any time and begun again, and what fails for one of them keeps nobody from the others.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use omnivisor_core::retention::{Retention, Stored};
use omnivisor_core::time::Timestamp;

use super::archive::{self, Format, REMOVED};
use super::seal::seal;
use super::{Backup, Kind, differs, list, manifest};
use crate::effects::essentials;
use crate::effects::snapshot::command::{Remove, is_word_of, turn_word};
use crate::store::atomic;

/// Between two words on what takes long.
const PROGRESS: Duration = Duration::from_secs(10);

/// What is wanted of backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// What archives are made as; none: snapshots stay folders.
    pub archive: Option<Format>,
    /// How old a snapshot has to be to become one: it goes back in a moment, and an archive does not.
    pub after: Duration,
    /// Which ones may go.
    pub retention: Retention,
}

/// What is not to be touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spared {
    /// The snapshot of the upgrade that is under way: not even looked at.
    pub under_way: Option<String>,
    /// The one that the active release could be taken back with: never removed.
    pub way_back: Option<String>,
}

impl Keep {
    /// Does all that is to be done now. An error says that something is left to do, and has been logged; of kind `Interrupted`
    /// when `cancelled`.
    pub fn round(
        &self,
        backups: &Path,
        home: &Path,
        spared: &Spared,
        now: Timestamp,
        by: Remove<'_>,
        cancelled: &AtomicBool,
    ) -> io::Result<()> {
        sweep(backups, home, spared, by);
        let mut outcome = Ok(());
        // What has to go anyway is not packed before; but how many bytes they take is known only when they are.
        let whatever_they_take = Self { retention: Retention { bytes: None, ..self.retention }, ..*self };
        let snapshots = || own(backups, home, spared).into_iter().filter(|it| it.tree().is_some());
        for backup in snapshots() {
            outcome = outcome.and(list_one(&backup, cancelled));
            ended(cancelled)?;
        }
        outcome = outcome.and(whatever_they_take.prune(backups, home, spared, now, by));
        for backup in snapshots() {
            outcome = outcome.and(self.pack_one(&backup, now, cancelled));
            ended(cancelled)?;
        }
        outcome.and(self.prune(backups, home, spared, now, by))
    }

    fn prune(&self, backups: &Path, home: &Path, spared: &Spared, now: Timestamp, by: Remove<'_>) -> io::Result<()> {
        let mut outcome = Ok(());
        for backup in self.expendable(backups, home, spared, now) {
            match remove(&backup, home, by) {
                Ok(()) => {
                    tracing::info!(backup = backup.id, path = %backup.path.display(), "an old backup was removed")
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    tracing::warn!(path = %backup.path.display(), %error, "an old backup cannot be removed");
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    /// What may go now, the oldest first. What was kept in place of a snapshot is counted by itself, as it stands for none.
    pub fn expendable(&self, backups: &Path, home: &Path, spared: &Spared, now: Timestamp) -> Vec<Backup> {
        let all = own(backups, home, spared).into_iter().filter(|it| it.sealed);
        let (essentials, all) = all.partition(|it: &Backup| it.kind == Kind::Essentials);
        let small = Self { retention: Retention { bytes: None, ..self.retention }, ..*self };
        [self.expendable_of(all, spared, now), small.expendable_of(essentials, spared, now)].concat()
    }

    fn expendable_of(&self, all: Vec<Backup>, spared: &Spared, now: Timestamp) -> Vec<Backup> {
        let mut good: Vec<Stored> = Vec::new();
        for backup in &all {
            // As a folder and as an archive it is one.
            if good.iter().any(|it| it.id == backup.id) {
                continue;
            }
            let needed = spared.way_back.as_ref() == Some(&backup.id);
            let bytes = backup.bytes.unwrap_or_default();
            good.push(Stored { id: backup.id.clone(), taken: backup.taken, bytes, needed });
        }
        let gone = self.retention.expendable(now, &good);
        gone.iter().flat_map(|id| all.iter().filter(move |it| it.id == *id)).cloned().collect()
    }

    fn pack_one(&self, backup: &Backup, now: Timestamp, cancelled: &AtomicBool) -> io::Result<()> {
        // What a command has taken is as small as it becomes; and what was copied by reference, as several homes mostly are, takes less than
        // an archive.
        let is_one = backup.head.as_ref().is_none_or(|head| head.roots.is_empty());
        let is_due = backup.kind == Kind::Folder && is_one && backup.sealed && now.since(backup.taken) >= self.after;
        let Some(format) = self.archive.filter(|_| is_due) else { return Ok(()) };
        let path = &backup.path;
        // It is read twice: once to be packed, and once as it was packed.
        let bytes = backup.head.as_ref().and_then(|head| head.bytes).map(|bytes| 2 * bytes);
        let mut progress = Progress::new("a snapshot is being packed", path, bytes, cancelled);
        let packed = archive::archive(backup, format, &mut |bytes| progress.more(bytes));
        let packed = packed.inspect_err(|error| {
            told(error, "a snapshot cannot be packed, and stays as it is", path, cancelled);
        })?;
        let (before, after) = (bytes.unwrap_or_default() / 2, fs::metadata(&packed).map_or(0, |it| it.len()));
        tracing::info!(backup = backup.id, archive = %packed.display(), before, after, "a snapshot was packed, and read back");
        Ok(())
    }
}

/// Seals it, if it is not yet.
fn list_one(backup: &Backup, cancelled: &AtomicBool) -> io::Result<()> {
    if backup.sealed {
        return Ok(());
    }
    let path = &backup.path;
    let mut progress = Progress::new("a snapshot is being read and listed", path, None, cancelled);
    let head = seal(path, &mut |bytes| progress.more(bytes));
    let head = head.inspect_err(|error| told(error, "a snapshot cannot be listed", path, cancelled))?;
    let what = if backup.kind == Kind::Essentials { "what was kept in place of a snapshot" } else { "a snapshot" };
    tracing::info!(backup = backup.id, entries = head.entries, bytes = head.bytes, "{what} is whole, and listed");
    Ok(())
}

fn ended(cancelled: &AtomicBool) -> io::Result<()> {
    if cancelled.load(Ordering::Relaxed) { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
}

/// Removes a backup.
pub fn remove(backup: &Backup, home: &Path, by: Remove<'_>) -> io::Result<()> {
    let removed = match backup.kind {
        Kind::Folder | Kind::Essentials => archive::remove_folder(&backup.path),
        Kind::Command => archive::remove_link(&backup.path, home, by),
        _ => archive::remove_archive(&backup.path),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()), // by somebody else, just now
        result => result,
    }
}

/// What commands have taken of this home and was to be removed, and could not be yet.
pub fn not_removed(backups: &Path, home: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(backups).into_iter().flatten().flatten();
    let paths = folders.flat_map(|it| fs::read_dir(it.path()).into_iter().flatten().flatten()).map(|it| it.path());
    let is_one = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).and_then(|name| name.strip_suffix(REMOVED));
        name.is_some_and(|name| !path.with_file_name(name).is_symlink()) && is_word_of(path, home)
    };
    paths.filter(is_one).collect()
}

/// The backups of this home that are good, as far as their manifests say.
fn own(backups: &Path, home: &Path, spared: &Spared) -> Vec<Backup> {
    let is_own = |it: &Backup| it.is_good() && it.is_of(home) && spared.under_way.as_ref() != Some(&it.id);
    list(backups).into_iter().filter(is_own).collect()
}

/// Removes what a crash has left: half of an archive, half of a snapshot that was removed, a manifest of nothing.
fn sweep(backups: &Path, home: &Path, spared: &Spared, by: Remove<'_>) {
    for folder in fs::read_dir(backups).into_iter().flatten().flatten().map(|it| it.path()).filter(|it| it.is_dir()) {
        // Whoever copies data ahead makes files there, too, at this very moment.
        let ours = format!(".{}-", std::process::id());
        atomic::sweep_of(&folder, |name| {
            !name.contains(&ours) || name.starts_with(".backup-") || name.contains(".mtree.")
        });
        for path in fs::read_dir(&folder).into_iter().flatten().flatten().map(|it| it.path()) {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let of_nothing = || {
                let of = name.strip_suffix(".mtree").map(|name| path.with_file_name(name));
                of.is_some_and(|of| of.symlink_metadata().is_err()) && is_of(&path, home, spared)
            };
            // Others may share the folder, and only they know what removes theirs.
            if path.is_symlink() && !is_word_of(&path, home) {
                continue;
            }
            // Whoever called the command was killed, and nobody knows of that upgrade any more.
            let is_under_way = || spared.under_way.as_ref().is_some_and(|id| name.contains(id.as_str()));
            if let Some(whole) = name.strip_suffix(".partial").filter(|_| path.is_symlink() && !is_under_way())
                && let Err(error) = turn_word(&path.with_file_name(whole))
            {
                tracing::warn!(path = %path.display(), %error, "that a command has to remove something cannot be noted");
            }
            let of_essentials = || essentials::is_unfinished(name) && !is_under_way();
            let of_nothing = || {
                let of = name.strip_suffix(differs::ENDING).map(|name| path.with_file_name(name));
                of.is_some_and(|of| of.symlink_metadata().is_err()) || of_nothing()
            };
            if name.ends_with(REMOVED) || of_essentials() || of_nothing() {
                tracing::debug!(path = %path.display(), "the rest of a backup is removed");
                if let Err(error) = archive::remove_rest(&path, by)
                    && error.kind() != io::ErrorKind::Interrupted
                {
                    tracing::warn!(path = %path.display(), %error, "the rest of a backup cannot be removed");
                }
            }
        }
    }
}

/// Whether a manifest is one of this home, and not of the upgrade that is under way.
fn is_of(manifest: &Path, home: &Path, spared: &Spared) -> bool {
    manifest::head(manifest)
        .is_ok_and(|head| Path::new(&head.home) == home && spared.under_way.as_ref() != Some(&head.id))
}

fn told(error: &io::Error, what: &str, path: &Path, cancelled: &AtomicBool) {
    if !cancelled.load(Ordering::Relaxed) {
        tracing::warn!(path = %path.display(), %error, "{what}");
    }
}

/// Tells now and then how far it is.
struct Progress<'a> {
    what: &'static str,
    path: PathBuf,
    done: u64,
    of: Option<u64>,
    told: Instant,
    cancelled: &'a AtomicBool,
}

impl<'a> Progress<'a> {
    fn new(what: &'static str, path: &Path, of: Option<u64>, cancelled: &'a AtomicBool) -> Self {
        Self { what, path: path.to_owned(), done: 0, of, told: Instant::now(), cancelled }
    }

    fn more(&mut self, bytes: u64) -> io::Result<()> {
        ended(self.cancelled)?;
        self.done += bytes;
        if self.told.elapsed() > PROGRESS {
            self.told = Instant::now();
            let percent = self.of.filter(|of| *of > 0).map(|of| self.done.saturating_mul(100) / of);
            tracing::info!(path = %self.path.display(), bytes = self.done, percent, "{}", self.what);
        }
        Ok(())
    }
}
