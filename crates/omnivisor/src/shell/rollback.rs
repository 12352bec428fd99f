//! Take an upgrade back by hand: whether that can be done, and, where no supervisor runs, that it is to be done at the next start.

use std::path::Path;

use omnivisor_core::dialect::Dialect;
use omnivisor_core::journal::{Journal, Phase, Record};
use omnivisor_core::plan::UpgradePlan;

use super::act;
use super::by_hand::ByHand;
use super::claim::{StartError, state};
use crate::clock;
use crate::effects::backup::{self, Backup, Kind, Only};
use crate::effects::data::Data;
use crate::effects::snapshot::{self, Limits};
use crate::effects::{parts, space};
use crate::store::disk;
use crate::store::journal_file::JournalFile;
use crate::store::small;

/// The upgrade that would be taken back; or why none can be. Whether there is [room](has_room) is another question.
pub(super) fn may_roll_back(dialect: &dyn Dialect, journal: &Journal, keep_data: bool) -> Result<UpgradePlan, String> {
    let Some(plan) = journal.may_roll_back() else {
        return Err(match journal.phase() {
            Phase::Switching { .. } => "a switch is under way: wait until the new node runs".to_owned(),
            Phase::Undoing { .. } | Phase::NeedsHuman { .. } => "an upgrade is being taken back already".to_owned(),
            Phase::Restoring { .. } => "data is being put back from a backup".to_owned(),
            _ => "no upgrade has been done here that could be taken back: `omnivisor history` shows them".to_owned(),
        });
    };
    let (from, to) = (&plan.from.release, &plan.to.release);
    let read = |path: &std::path::Path| small::read(path).ok();
    let executables = dialect.executables(&plan.from.folder, &read).map_err(|error| error.to_string())?;
    if let Some(gone) = executables.iter().find(|path| !path.is_file()) {
        return Err(format!("{from} cannot run again: {} is gone", gone.display()));
    }
    if keep_data {
        return Ok(plan.clone());
    }
    let beyond = dialect.beyond_snapshots(&read);
    let and_beyond = beyond.iter().map(|what| format!("; {what}")).collect::<String>();
    let hint = "if the old release can go on with that, say --keep-data";
    if !plan.snapshot {
        return Err(format!(
            "no snapshot was taken before {to}, so the data stays as that has left it{and_beyond}; {hint}"
        ));
    }
    if let Some(what) = beyond.first() {
        return Err(format!("the snapshot that was taken before {to} does not hold everything: {what}; {hint}"));
    }
    let (folder, work) = (snapshot::folder(dialect, plan), act::restore_folder(dialect, &plan.id()));
    if work.is_dir() {
        return Ok(plan.clone()); // it was begun before
    }
    let Ok(found) = backup::find(&dialect.paths().backups, &plan.id()) else {
        return Err(format!("there is no snapshot {}; {hint}", folder.display()));
    };
    let data = Data::of(dialect, &plan.from.folder).map_err(|error| format!("{error}; {hint}"))?;
    if let Some(other) = found.head.as_ref().filter(|head| !head.is_of(&data)) {
        return Err(format!("the snapshot {} is one of {}; {hint}", found.path.display(), other.described()));
    }
    if let Some(why) = &found.differs {
        return Err(format!(
            "the snapshot {path} is not good: {why}; `omnivisor backup verify {id}` looks again, `omnivisor restore {id} --path …` puts \
             back what of it is good; {hint}",
            path = found.path.display(),
            id = found.id
        ));
    }
    if let Some(why) = &found.damaged {
        return Err(format!("the snapshot {} cannot be believed: {why}; {hint}", found.path.display()));
    }
    Ok(plan.clone())
}

/// What has to be copied before this upgrade can be taken back with its data, if anything has.
pub(super) fn to_be_copied(dialect: &dyn Dialect, plan: &UpgradePlan) -> Option<Backup> {
    if act::restore_folder(dialect, &plan.id()).is_dir() {
        return None; // it was begun before
    }
    let found = backup::find(&dialect.paths().backups, &plan.id()).ok()?;
    // A home may be on another file system by now.
    let fits = || Data::of(dialect, &plan.from.folder).is_ok_and(|data| parts::fits(&data, &found.path));
    let is_moved = found.kind == Kind::Folder && disk::is_same(&found.path, &dialect.paths().beside) && fits();
    (!is_moved).then_some(found)
}

/// Whether that fits; beside a node, with as much left free as any copy of its data leaves.
///
/// `release` is the folder of the one that it goes back to.
pub(super) fn has_room(
    dialect: &dyn Dialect,
    release: &Path,
    from: &Backup,
    beside_node: Option<Limits>,
) -> Result<(), String> {
    let beside = &dialect.paths().beside;
    let data = Data::of(dialect, release).map_err(|error| error.to_string())?;
    for (folder, bytes) in from.room(&data, beside, &Only::default()).map_err(|error| error.to_string())? {
        let what = "the data as it was";
        let fits = match (beside_node, space::room(&folder)) {
            (Some(limits), Some(room)) => {
                space::require_beside(&folder, bytes, space::reserve_of_a_copy(room, limits.reserve), what)
            }
            _ => space::require(&folder, bytes, what),
        };
        fits.map_err(|error| format!("{error}; if the old release can go on with the data as it is, say --keep-data"))?;
    }
    Ok(())
}

/// Orders it where no supervisor runs: the next start does it first. What is taken back; the order is on disk when it returns.
pub async fn order_rollback(
    dialect: &dyn Dialect,
    shared: bool,
    allow_network_file_system: bool,
    keep_data: bool,
) -> Result<UpgradePlan, StartError> {
    let instance = ByHand::take(dialect, shared, allow_network_file_system).await?;
    let folder = &dialect.paths().state;
    let journal = Journal::replay(&instance.records).unwrap_or_default();
    let plan = may_roll_back(dialect, &journal, keep_data).map_err(StartError::Refused)?;
    if let Some(from) = (!keep_data).then(|| to_be_copied(dialect, &plan)).flatten() {
        has_room(dialect, &plan.from.folder, &from, None).map_err(StartError::Refused)?;
    }
    let at = clock::now().wall;
    let order = Record::RollbackOrdered { restore: plan.snapshot && !keep_data, at };
    let written = JournalFile::open(&folder.join(super::JOURNAL))
        .map_err(std::io::Error::other)
        .and_then(|(mut journal, _)| journal.append(&[order], at));
    written.map_err(state("the journal cannot be written".to_owned()))?;
    Ok(plan)
}
