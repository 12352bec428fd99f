//! Put data back from a backup, as an operator orders it while nothing runs; and go on with that where somebody was killed.
//!
//! What is put back is made ready first, beside the data. Then the order is recorded, and from there on no node is started until all
//! of it is in place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use omnivisor_core::dialect::Dialect;
use omnivisor_core::journal::{Journal, Phase, Record};
use omnivisor_core::release::Installed;

use super::JOURNAL;
use super::by_hand::ByHand;
use super::claim::{StartError, state};
use super::present::Present;
use crate::clock;
use crate::effects::backup::{self, Backup, Kind, Only, contents, differs};
use crate::effects::data::Data;
use crate::effects::essentials;
use crate::effects::restore::{self, BY_HAND, Restore, Source, UNDO};
use crate::effects::{parts, space};
use crate::store::journal_file::JournalFile;

/// What is to be put back.
pub struct Ordered<'a> {
    /// From this backup.
    pub id: &'a str,
    /// Only these paths below the home; none is all of it.
    pub only: &'a [PathBuf],
    /// Whether a backup is believed that nothing can be compared with.
    pub unverified: bool,
}

/// What was done.
pub struct PutBack {
    /// From this.
    pub backup: Backup,
    /// What it was replaced by is in this folder.
    pub replaced: PathBuf,
    /// What runs at the next start.
    pub active: Installed,
    /// What `rollback` would go back to.
    pub before: Option<Installed>,
}

/// Puts it back. Everything is durable when it returns; after an error it can be ordered again, and the next start goes on with what
/// was moved already.
pub async fn put_back(
    dialect: &dyn Dialect,
    shared: bool,
    allow_network_file_system: bool,
    ordered: &Ordered<'_>,
) -> Result<PutBack, StartError> {
    let instance = ByHand::take(dialect, shared, allow_network_file_system).await?;
    if let Some(who) = occupied(&instance.present) {
        return Err(StartError::NodeRuns(who));
    }
    let folder = &dialect.paths().state;
    let replayed = Journal::replay(&instance.records).unwrap_or_default();
    let (Phase::Idle | Phase::Preparing { .. } | Phase::Staged { .. } | Phase::Restoring { .. }, Some(active)) =
        (replayed.phase(), replayed.active().cloned())
    else {
        return Err(StartError::Refused(
            "an upgrade is under way, and what it owes comes first: start, and wait until it is over".to_owned(),
        ));
    };
    // Of homes that no snapshot is taken of, too.
    if let Some(kept) = backup::find(&dialect.paths().backups, ordered.id).ok().filter(|it| it.kind == Kind::Essentials)
    {
        return Err(StartError::Refused(essentials::by_hand(&kept)));
    }
    let data = Data::of(dialect, &active.folder).map_err(|error| StartError::Refused(error.to_string()))?;
    check(dialect, &data, ordered.only)?;
    let backup = chosen(dialect, &data, ordered)?;
    let (mut journal, _) = JournalFile::open(&folder.join(JOURNAL)).map_err(|error| StartError::State {
        what: "the journal cannot be opened".to_owned(),
        source: io::Error::other(error),
    })?;
    // What was begun is in place first: this one may be about less of the home.
    if let Phase::Restoring { backup, work } = replayed.phase() {
        finish(dialect, &active, &mut journal, backup, work)?;
    }
    let at = clock::now().wall;
    sweep(&dialect.paths().beside);
    let work = dialect.paths().beside.join(format!("{BY_HAND}{}", at.unix_nanos() / 1_000_000));
    let keeps = |path: &Path| dialect.is_monotonic(path);
    let restore = Restore { data: &data, work: &work, is_monotonic: &keeps };
    if let Err(error) = make_ready(&restore, &backup, ordered.only).and_then(|()| restore.can_be_put(ordered.only)) {
        let _ = parts::remove_work(&work);
        let is_damaged = error.kind() == io::ErrorKind::InvalidData && ordered.only.is_empty();
        let is_listed = || backup.sealed && contents::tell(&backup, &Only::default(), &mut |_| Ok(())).is_ok();
        let hint = match backup.kind {
            Kind::Folder if is_damaged && is_listed() => " (what of it is good can be put back by --path)",
            Kind::TarZst | Kind::TarGz if is_damaged && is_listed() => {
                " (what stands in it before that can be put back by --path)"
            }
            _ => "",
        };
        note_damage(&backup, &error);
        let what = format!("{} cannot be made ready, and nothing was changed{hint}", backup.path.display());
        return Err(StartError::State { what, source: error });
    }
    let order = Record::RestoreOrdered {
        backup: backup.id.clone(),
        version: backup.head.as_ref().map(|head| head.from.version.clone()),
        paths: for_people(ordered.only),
        work: work.clone(),
        at,
    };
    journal.append(&[order], at).map_err(state("the journal cannot be written, and nothing was changed".to_owned()))?;
    finish(dialect, &active, &mut journal, &backup.id, &work)?;
    let before = replayed.may_roll_back().map(|plan| plan.from.clone());
    Ok(PutBack { backup, replaced: work.join("replaced"), active, before })
}

/// That an archive is not good is known from then on, where that can be noted. Of a folder it is the copy that is compared, and what is wrong
/// with that may be due to where it is.
pub(super) fn note_damage(backup: &Backup, error: &io::Error) {
    let is_archive = matches!(backup.kind, Kind::TarZst | Kind::TarGz | Kind::Nymvisor);
    if error.kind() == io::ErrorKind::InvalidData
        && is_archive
        && let Err(error) = differs::note_error(backup, error)
    {
        tracing::warn!(path = %backup.path.display(), %error, "that a backup is not good cannot be noted");
    }
}

/// What is put back is listed in its folder; a record has a limit.
fn for_people(paths: &[PathBuf]) -> Vec<String> {
    const TOLD: usize = 20;
    const LONGEST: usize = 200;
    let mut told: Vec<String> =
        paths.iter().take(TOLD).map(|path| path.to_string_lossy().chars().take(LONGEST).collect()).collect();
    if paths.len() > TOLD {
        told.push(format!("and {} more", paths.len() - TOLD));
    }
    told
}

/// Who may be at work on the home, whether it can be seen or only holds the node's lock.
pub(super) fn occupied(present: &Present) -> Option<String> {
    let seen = present.roll.mains.first().map(|main| main.process).or(present.roll.stragglers.first().copied());
    let unseen = present.node_lock.is_none().then(|| "its lock is held by somebody who cannot be seen".to_owned());
    seen.map(|process| format!("process {}", process.pid)).or(unseen)
}

/// Goes on with what was begun, before anything is started. `occupied` says who is at work on the home already.
pub(super) fn go_on(
    dialect: &dyn Dialect,
    occupied: Option<String>,
    journal: Option<&mut JournalFile>,
    records: &mut Vec<Record>,
) -> Result<(), StartError> {
    let Some(journal) = journal else { return refuse_half(dialect) };
    let replayed = Journal::replay(&*records).unwrap_or_default();
    let Phase::Restoring { backup, work } = replayed.phase() else {
        // Beside the node: it may be a whole home.
        let beside = dialect.paths().beside.clone();
        std::thread::spawn(move || sweep(&beside));
        return Ok(());
    };
    if let Some(who) = occupied {
        return Err(StartError::Refused(format!(
            "the data is half put back from {backup}, and something is at work on it ({who}): end that, and start again"
        )));
    }
    tracing::warn!(backup, "data was being put back from a backup, and that was interrupted: it is gone on with");
    let active = replayed.active().ok_or_else(|| StartError::Refused("it is not known what ran here".to_owned()))?;
    records.push(finish(dialect, active, journal, backup, work)?);
    Ok(())
}

/// Where the journal is not believed, the folders have to tell whether a restore was interrupted.
fn refuse_half(dialect: &dyn Dialect) -> Result<(), StartError> {
    let data = Data::now(dialect);
    let folders = fs::read_dir(&dialect.paths().beside).into_iter().flatten().flatten().map(|it| it.path());
    let keeps = |path: &Path| dialect.is_monotonic(path);
    let half = folders.into_iter().find(|folder| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let is_work = [BY_HAND, UNDO].iter().any(|begin| name.starts_with(begin));
        // Where it cannot be told, a person has to.
        is_work
            && match &data {
                Ok(data) => Restore { data, work: folder, is_monotonic: &keeps }.is_half_done().unwrap_or(true),
                Err(_) => restore::is_begun(folder),
            }
    });
    half.map_or(Ok(()), |work| {
        Err(StartError::Refused(format!(
            "the data was being put back, that was interrupted, and the journal cannot be believed: what is missing is in \
             {work}/copy, what was there in {work}/replaced. Put one of them in place, move {work} away, and start again",
            work = work.display()
        )))
    })
}

fn finish(
    dialect: &dyn Dialect,
    active: &Installed,
    journal: &mut JournalFile,
    backup: &str,
    work: &Path,
) -> Result<Record, StartError> {
    // Half of it without an order to finish it would be taken for a whole.
    journal.settle().map_err(state("the journal cannot be flushed, and nothing is moved before it is".to_owned()))?;
    let keeps = |path: &Path| dialect.is_monotonic(path);
    let put = |data: &Data| Restore { data, work, is_monotonic: &keeps }.put_in_place();
    Data::of(dialect, &active.folder).and_then(|data| put(&data)).map_err(|source| StartError::State {
        what: format!(
            "the data is put back from {backup} in part, and no node is started on that. Nothing is lost: what is missing is in \
             {work}/copy, what was there in {work}/replaced. Mend the cause, and start again",
            work = work.display()
        ),
        source,
    })?;
    let at = clock::now().wall;
    let done = Record::Restored { at };
    journal.append(std::slice::from_ref(&done), at).map_err(state("the journal cannot be written".to_owned()))?;
    // What is left of it are files that must never go back.
    if let Err(error) = parts::remove(&work.join("copy")) {
        tracing::warn!(%error, "what is left of what was put back cannot be removed");
    }
    Ok(done)
}

fn check(dialect: &dyn Dialect, data: &Data, only: &[PathBuf]) -> Result<(), StartError> {
    for path in only {
        let is_below = path.components().all(|it| matches!(it, std::path::Component::Normal(_)));
        if !is_below || path.as_os_str().is_empty() {
            return Err(StartError::Refused(format!("{} is no path below the node's home", path.display())));
        }
        if data.live(path).is_none() {
            let names: Vec<_> = data.roots.iter().map(|root| root.name).collect();
            let names = names.join(", ");
            return Err(StartError::Refused(format!(
                "{} does not begin with the name of a home: {names}",
                path.display()
            )));
        }
        if dialect.is_monotonic(path) {
            return Err(StartError::Refused(format!("{} must never go back to an earlier state", path.display())));
        }
    }
    Ok(())
}

/// The backup that is meant, if it is one that can be believed.
fn chosen(dialect: &dyn Dialect, data: &Data, ordered: &Ordered<'_>) -> Result<Backup, StartError> {
    let paths = dialect.paths();
    let found = backup::find(&paths.backups, ordered.id).map_err(|error| StartError::Refused(error.to_string()))?;
    if let Some(why) = &found.damaged
        && !ordered.unverified
    {
        return Err(StartError::Refused(format!("{} cannot be believed: {why}", found.path.display())));
    }
    if found.damaged.is_some() && fs::read_dir(&found.path).is_ok_and(|mut entries| entries.next().is_none()) {
        return Err(StartError::Refused(format!("there is nothing in {}", found.path.display())));
    }
    if let Some(head) = &found.head
        && (!found.is_of(&paths.home) || !head.is_of(data))
    {
        return Err(StartError::Refused(format!("{} is one of {}", found.path.display(), head.described())));
    }
    Ok(found)
}

fn make_ready(restore: &Restore<'_>, backup: &Backup, only: &[PathBuf]) -> io::Result<()> {
    let meant = Only::of(only);
    for (folder, bytes) in backup.room(restore.data, restore.work.parent().unwrap_or(restore.work), &meant)? {
        space::require(&folder, bytes, "what is put back").map_err(io::Error::other)?;
    }
    // Nothing can be compared with one that a person believes all the same.
    if backup.kind == Kind::Folder && backup.damaged.is_some() && !backup.sealed {
        return restore.prepare(&Source::Kept(&backup.path), only, &mut |_| Ok(()));
    }
    restore.prepare(&Source::Made(&|to, each| backup::unpack_some(backup, to, &meant, each)), only, &mut |_| Ok(()))
}

/// Removes what restores that were interrupted before anything was moved have left.
fn sweep(beside: &Path) {
    let folders = fs::read_dir(beside).into_iter().flatten().flatten().map(|it| it.path());
    for folder in folders {
        let is_work = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(BY_HAND));
        if is_work && !folder.join("replaced").exists() {
            let _ = parts::remove_work(&folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_for_people_has_a_limit() {
        let paths =
            |count: usize| (0..count).map(|it| PathBuf::from(format!("{it}/{}", "\u{1b}".repeat(4000)))).collect();
        let told = |paths: Vec<PathBuf>| for_people(&paths);
        assert_eq!(told(vec!["data/db".into()]), ["data/db"]);
        assert_eq!((told(paths(20)).len(), told(paths(21)).pop().unwrap()), (20, "and 1 more".to_owned()));
        assert!(told(paths(5000)).iter().map(String::len).sum::<usize>() < 5000);
    }
}
