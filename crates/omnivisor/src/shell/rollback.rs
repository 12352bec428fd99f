//! Take an upgrade back by hand: whether that can be done, and, where no supervisor runs, that it is to be done at the next start.

use omnivisor_core::dialect::Dialect;
use omnivisor_core::journal::{Journal, Phase, Record};
use omnivisor_core::plan::UpgradePlan;

use super::act;
use super::adopt::{Known, known};
use super::claim::{StartError, claim, state};
use super::present::Present;
use crate::clock;
use crate::effects::backup::{self, Kind};
use crate::effects::{snapshot, space};
use crate::store::disk;
use crate::store::journal_file::JournalFile;
use crate::store::lock::Inherited;
use crate::store::small;

/// The upgrade that would be taken back; or why none can be.
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
        return Err(format!("the snapshot {} is gone; {hint}", folder.display()));
    };
    if let Some(why) = &found.damaged {
        return Err(format!("the snapshot {} cannot be believed: {why}; {hint}", found.path.display()));
    }
    // What has to be copied has to fit.
    let beside = &dialect.paths().beside;
    let is_moved = found.kind == Kind::Folder && disk::is_same(&found.path, beside);
    let bytes = found.head.as_ref().and_then(|head| head.bytes).or(found.bytes).unwrap_or_default();
    if !is_moved {
        space::require(beside, bytes, "the data as it was").map_err(|error| format!("{error}; {hint}"))?;
    }
    Ok(plan.clone())
}

/// Orders it where no supervisor runs: the next start does it first. What is taken back; the order is on disk when it returns.
pub async fn order_rollback(
    dialect: &dyn Dialect,
    shared: bool,
    allow_network_file_system: bool,
    keep_data: bool,
) -> Result<UpgradePlan, StartError> {
    let _locks = claim(dialect, allow_network_file_system, &mut Inherited::default()).await?;
    Present::find(dialect, shared, &mut Inherited::default())?.refuse_peer()?;
    let folder = &dialect.paths().state;
    let records = match known(folder) {
        Known::Believed(records) => records,
        Known::Nothing => return Err(StartError::NothingToRun("this instance was never run here".to_owned())),
        Known::Degraded(why) => return Err(StartError::NothingToRun(why)),
    };
    let journal = Journal::replay(&records).unwrap_or_default();
    let plan = may_roll_back(dialect, &journal, keep_data).map_err(StartError::Refused)?;
    let order = Record::RollbackOrdered { restore: plan.snapshot && !keep_data, at: clock::now().wall };
    let written = JournalFile::open(&folder.join(super::JOURNAL))
        .map_err(std::io::Error::other)
        .and_then(|(mut journal, _)| journal.append(&[order]));
    written.map_err(state("the journal cannot be written".to_owned()))?;
    Ok(plan)
}
