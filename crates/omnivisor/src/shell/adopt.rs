//! Open the journal of an instance; or, on the first day, begin one with what another tool has left, proven.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use omnivisor_core::dialect::{Dialect, Mirrored, Ours, Read};
use omnivisor_core::journal::{Adoption, Journal, Phase, Record};
use omnivisor_core::plan::Step;
use omnivisor_core::release::{Identity, Installed, Release, ReleaseName, Version};
use omnivisor_core::time::Timestamp;

use super::claim::{StartError, claim, state};
use super::present::Present;
use super::report;
use crate::clock;
use crate::effects::{activate, digest, preflight};
use crate::store::journal_file::{JournalFile, OpenError};
use crate::store::lock::Inherited;
use crate::store::{atomic, disk, journal_file, small};

/// Everything that ever happened.
pub const JOURNAL: &str = "journal";
/// Says that there was a journal.
pub(super) const ADOPTED: &str = "adopted";
/// The version of what does not say which it is.
const UNKNOWN: &str = "unknown";
/// How long after a queue could not be written the next try is; doubled each time, up to the second.
const REQUEUE: Duration = Duration::from_secs(5);
const REQUEUE_SELDOM: Duration = Duration::from_secs(300);

/// What our own files say of an instance.
pub(super) enum Known {
    /// It was never supervised here.
    Nothing,
    /// This has happened.
    Believed(Vec<Record>),
    /// They cannot be believed, and why.
    Degraded(String),
}

/// Reads them, and touches nothing.
pub(super) fn known(folder: &Path) -> Known {
    let path = folder.join(JOURNAL);
    match journal_file::read(&path) {
        Ok(records) if !records.is_empty() && Journal::replay(&records).is_ok() => Known::Believed(records),
        Ok(_) => Known::Degraded(format!("the journal {} contradicts itself", path.display())),
        Err(OpenError::Missing(_)) if !folder.join(ADOPTED).exists() => Known::Nothing,
        Err(error) => Known::Degraded(said(&error)),
    }
}

/// An error with all its causes.
fn said(error: &OpenError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The journal; or, where there never was one, a new one of what is installed; or, where it cannot be believed, none, what
/// the link names, and why.
pub(super) async fn open_journal(
    dialect: &Arc<dyn Dialect>,
    running: Option<PathBuf>,
) -> Result<(Option<JournalFile>, Vec<Record>, Option<String>), StartError> {
    let folder = &dialect.paths().state;
    let (path, marker) = (folder.join(JOURNAL), folder.join(ADOPTED));
    let degraded = match known(folder) {
        Known::Degraded(why) => why,
        Known::Nothing => {
            let record = find_installed(&**dialect, running).await?;
            set_aside_unreadable(&**dialect);
            if let Some(ours) = ours(std::slice::from_ref(&record)) {
                requeue_unfinished(dialect, Ours { since: Timestamp::EPOCH, ..ours }).await;
            }
            return Ok(match JournalFile::create(&path, std::slice::from_ref(&record)) {
                Ok(journal) => {
                    note_adopted(&marker);
                    (Some(journal), vec![record], None)
                }
                // A full disk is no reason to stay down.
                Err(error) => {
                    let why =
                        format!("the journal {} cannot be made: {error}; make room and start again", path.display());
                    (None, vec![record, Record::Held], Some(why))
                }
            });
        }
        Known::Believed(_) => match JournalFile::open(&path) {
            Err(error) => said(&error),
            Ok((mut journal, mut records)) => {
                note_adopted(&marker);
                set_aside_unreadable(&**dialect);
                let before = ours(&records);
                let record = taken_over(&**dialect, &records, &|path| small::read(path).ok()).await?;
                records.extend(record.clone());
                // First, so that a crash does not lose it; whether it then waits for a person matters less.
                if let (Some(before), Some(now)) = (before, ours(&records)) {
                    requeue_unfinished(dialect, Ours { since: before.since, ..now }).await;
                }
                if let Some(record) = record {
                    report::tell_one(&record);
                    journal
                        .append(std::slice::from_ref(&record), clock::now().wall)
                        .map_err(state("the journal cannot be written".to_owned()))?;
                }
                return Ok((Some(journal), records, None));
            }
        },
    };
    let record = find_installed(&**dialect, running).await?;
    Ok((None, vec![record, Record::Held], Some(with_hint(&degraded, folder))))
}

/// Why a run is degraded, and what ends that.
pub(super) fn with_hint(degraded: &str, folder: &Path) -> String {
    format!("{degraded}. To begin anew from what runs now, move {} away and start again", folder.display())
}

/// Takes an installation over without starting or stopping anything: the journal is begun, and the files for other tools say
/// what it says. One that was taken over before stays as it is.
pub async fn adopt(
    dialect: &Arc<dyn Dialect>,
    shared: bool,
    allow_network_file_system: bool,
) -> Result<(), StartError> {
    let _locks = claim(&**dialect, allow_network_file_system, &mut Inherited::default()).await?;
    let present = Present::find(&**dialect, shared, &mut Inherited::default())?;
    present.refuse_peer()?;
    let (_, records, degraded) = open_journal(dialect, present.roll.folder().cloned()).await?;
    if let Some(why) = degraded {
        return Err(StartError::NothingToRun(why));
    }
    let journal = Journal::replay(&records).unwrap_or_default();
    // What an upgrade under way owes is written by the run that finishes it.
    if let (Phase::Idle, Some(shown)) = (journal.phase(), journal.shown()) {
        let mirrored = Mirrored { shown: shown.clone(), committed: None, linked: true, settled: Vec::new() };
        activate::mirror(&**dialect, &mirrored).map_err(|error| StartError::State {
            what: "the files for other tools cannot be written".to_owned(),
            source: io::Error::other(error),
        })?;
    }
    Ok(())
}

/// Begins the journal of an instance that was just made; false if there is one, or if `found` says that another tool had
/// been there: then the first run adopts what is there.
pub fn initialise(dialect: &dyn Dialect, adopted: &Record, found: bool) -> io::Result<bool> {
    let folder = &dialect.paths().state;
    let (path, marker) = (folder.join(JOURNAL), folder.join(ADOPTED));
    if found || marker.exists() || path.exists() {
        return Ok(false);
    }
    disk::make_folders_durably(folder, 0o700)?;
    JournalFile::create(&path, std::slice::from_ref(adopted))?;
    mark_adopted(&marker).map_err(io::Error::other)?;
    Ok(true)
}

/// Whether another tool ran this instance meanwhile, and upgraded it: then its release, proven, is the one to run. An older
/// one must not be started on what that has left. If it was only about to, what runs stays, and is adopted anew: what was due
/// by now waits for a person, as on the first day.
pub(super) async fn taken_over(
    dialect: &dyn Dialect,
    records: &[Record],
    read: Read<'_>,
) -> Result<Option<Record>, StartError> {
    let Some(ours) = ours(records) else { return Ok(None) };
    let link = activate::read_link(dialect);
    let at = clock::now().wall;
    let Some(folder) = dialect.moved(read, link.as_ref(), &ours) else {
        let journal = Journal::replay(records).unwrap_or_default();
        let rests = matches!(journal.phase(), Phase::Idle | Phase::Preparing { .. } | Phase::Staged { .. });
        let installed = ours.shown.clone();
        return Ok((rests && dialect.unfinished(read, &ours).is_some()).then_some(Record::TakenOver { installed, at }));
    };
    let installed = prove(dialect, &folder).await?.map_err(|why| {
        StartError::NothingToRun(format!(
            "another tool has installed {} meanwhile, which cannot run: {why}; put its executable back and start again",
            folder.display()
        ))
    })?;
    Ok(Some(Record::TakenOver { installed, at }))
}

/// What the records say, for whoever compares it with what another tool has written.
pub(super) fn ours(records: &[Record]) -> Option<Ours> {
    let journal = Journal::replay(records).ok()?;
    let (shown, (adopted, _)) = (journal.shown()?.clone(), journal.adopted()?);
    let ran = journal.ran().cloned().collect();
    let since = journal.last_commit().map_or(adopted, |committed| committed.max(adopted));
    let under_way = match journal.phase() {
        Phase::Switching { plan, step: Step::Activate, .. }
        | Phase::Undoing { plan, .. }
        | Phase::NeedsHuman { plan, .. } => Some(plan.to.release.clone()),
        _ => None,
    };
    Some(Ours { shown, since, ran, under_way })
}

/// How often an executable may be replaced while it is being proven.
const PROOFS: usize = 3;

/// Proves the executables of a folder; or says why that cannot be done. What is recorded of them is of the very files that were
/// asked.
pub(super) async fn prove(dialect: &dyn Dialect, folder: &Path) -> Result<Result<Installed, String>, StartError> {
    let executables = match dialect.executables(folder, &|path| small::read(path).ok()) {
        Ok(executables) => executables,
        Err(error) => return Ok(Err(error.to_string())),
    };
    if let Some(missing) = executables.iter().find(|executable| !executable.is_file()) {
        return Ok(Err(format!("{} is not there", missing.display())));
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = ReleaseName::parse_installed(&name).map_err(|error| StartError::NothingToRun(error.to_string()))?;
    let unreadable = || state("the executable cannot be read".to_owned());
    for _ in 0..PROOFS {
        let digest = digest::of_executables(&executables).map_err(unreadable())?;
        let (version, identity) = match preflight::identify(dialect, &executables).await {
            Ok(said) => said,
            Err(failure) if dialect.accepts_silence() => {
                tracing::warn!(why = failure.reason, "what is installed does not say who it is, and is taken as it is");
                (Version::new(UNKNOWN), Identity::default())
            }
            Err(failure) => return Ok(Err(failure.reason)),
        };
        if digest::of_executables_if_changed(&executables).map_err(unreadable())? == digest {
            let release = Release { name, version, digest: None };
            return Ok(Ok(Installed { release, folder: folder.to_owned(), digest, identity }));
        }
    }
    Ok(Err(format!("{} is being replaced again and again", executables[0].display())))
}

/// Without the marker a journal that is lost later is begun anew, and not missed; that is no reason to stay down.
fn note_adopted(marker: &Path) {
    if let Err(error) = mark_adopted(marker) {
        tracing::warn!(error = &error as &dyn std::error::Error, "that there is a journal cannot be noted");
    }
}

fn mark_adopted(marker: &Path) -> Result<(), StartError> {
    if marker.exists() {
        return Ok(());
    }
    atomic::replace(marker, b"there is a journal beside this\n", 0o600)
        .map_err(state(format!("{} cannot be written", marker.display())))
}

/// A plan that a crash of its writer left half written would stop every upgrade for ever, and a history the way back to the
/// peer: they are kept beside new ones.
fn set_aside_unreadable(dialect: &dyn Dialect) {
    for path in dialect.unreadable(&|path| small::read(path).ok()) {
        let aside = path.with_extension(format!("json.unreadable-{}", clock::now().wall.unix_nanos() / 1_000_000));
        match disk::rename(&path, &aside) {
            Ok(()) => {
                tracing::warn!(path = %path.display(), aside = %aside.display(), "a file cannot be read; it is kept there, and made anew");
            }
            Err(error) => tracing::error!(path = %path.display(), %error, "a file cannot be read or moved away"),
        }
    }
}

/// An upgrade that another tool was committing when it was killed has left its queue and was not done: it would be lost. Where
/// it cannot be put back now it is tried again beside everything else, for as long as this process lives.
async fn requeue_unfinished(dialect: &Arc<dyn Dialect>, ours: Ours) {
    if requeued(dialect, &ours).await {
        return;
    }
    let dialect = dialect.clone();
    tokio::spawn(async move {
        let mut pause = REQUEUE;
        loop {
            tokio::time::sleep(pause).await;
            if requeued(&dialect, &ours).await {
                return;
            }
            pause = (pause * 2).min(REQUEUE_SELDOM);
        }
    });
}

/// Whether it is done, or there is nothing to be done.
async fn requeued(dialect: &Arc<dyn Dialect>, ours: &Ours) -> bool {
    let (dialect, ours) = (dialect.clone(), ours.clone());
    let result = tokio::task::spawn_blocking(move || activate::requeue(&*dialect, &ours)).await;
    match result {
        Ok(Ok(names)) => {
            names.iter().for_each(|name| {
                tracing::warn!(name, "an upgrade was begun here and not finished by another tool: it is queued again");
            });
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "an upgrade that another tool has not finished cannot be queued again; tried again");
            false
        }
        Err(error) => {
            tracing::error!(%error, "what another tool has not finished could not be looked at");
            true
        }
    }
}

async fn find_installed(dialect: &dyn Dialect, running: Option<PathBuf>) -> Result<Record, StartError> {
    let installed = adopt_installation(dialect, running).await?;
    Ok(Record::Adopted { installed, at: clock::now().wall, adoption: Adoption::Found })
}

/// What another tool left installed, proven: what runs, else what the link names, else what the files name.
pub async fn adopt_installation(dialect: &dyn Dialect, running: Option<PathBuf>) -> Result<Installed, StartError> {
    let link = activate::read_link(dialect).map(|link| link.target);
    let folders = dialect.shelves().into_iter().flat_map(fs::read_dir).flatten().flatten().map(|entry| entry.path());
    let folders: Vec<PathBuf> = folders.filter(|folder| folder.is_dir() && !folder.is_symlink()).collect();
    let found = dialect.found(&|path| small::read(path).ok(), link.as_deref(), &folders);
    let mut reasons = Vec::new();
    for folder in running.into_iter().chain(found.folders) {
        match prove(dialect, &folder).await? {
            Ok(installed) => return Ok(installed),
            Err(why) => reasons.push(why),
        }
    }
    match found.advice {
        Some(advice) => reasons.push(advice),
        None if found.upgraded => {
            reasons.push("upgrades were done here, so the first release is not started instead".to_owned());
        }
        None => {}
    }
    Err(StartError::NothingToRun(reasons.join("; ")))
}
