//! `omnivisor history`: what has happened to an instance, as its journal has it. Reads only, whether a supervisor runs or not.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use omnivisor_core::formats::journal::{self, DecodeError};
use omnivisor_core::journal::{Adoption, Beginning, Record};
use omnivisor_core::plan::FailureKind;
use omnivisor_core::time::Timestamp;

use super::installation::{Installation, Which};
use super::own::{self, Missing};
use super::{Outcome, Trouble, output};
use crate::exit::Exit;
use crate::shell::JOURNAL;
use crate::store::journal_file::{self, OpenError};

/// A supervisor that writes just now may show the end of a write before its beginning; that is over at the next look.
const LOOKS: usize = 3;

/// Show what has happened here, oldest first
#[derive(Args)]
pub(super) struct History {
    #[command(flatten)]
    which: Which,
    /// As JSON: the records as they are in the journal
    #[arg(long)]
    json: bool,
}

pub(super) fn run(history: &History) -> Outcome {
    let records = read(&state(&history.which)?.join(JOURNAL)).context("there is no history")?;
    let lines: Vec<String> = if history.json {
        let text = |(record, at): &_| String::from_utf8(journal::payload(record, *at)).unwrap_or_default();
        vec![format!("[{}]", records.iter().map(text).collect::<Vec<_>>().join(",\n"))]
    } else {
        let line = |(record, at): &(Record, Option<Timestamp>)| {
            format!("{:20}  {}", at.as_ref().map_or_else(String::new, second), output::readable(&words(record)))
        };
        records.iter().map(line).collect()
    };
    output::result(&lines.join("\n"));
    Ok(Exit::Success)
}

/// The state folder of the instance that runs, or that is there.
fn state(which: &Which) -> Result<PathBuf, Trouble> {
    match own::find(which) {
        Ok(instance) => Ok(instance.state),
        Err(Missing { error, several: true }) => Err(error.into()),
        Err(Missing { several: false, .. }) => {
            Ok(Installation::find(which, None, false)?.dialect.paths().state.clone())
        }
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<(Record, Option<Timestamp>)>, OpenError> {
    let mut looks = 1;
    loop {
        match journal_file::read_with_times(path) {
            Err(OpenError::Undecodable { source: DecodeError::Damaged { .. }, .. }) if looks < LOOKS => looks += 1,
            result => return result,
        }
    }
}

/// A time to the second, in UTC.
pub(super) fn second(at: &Timestamp) -> String {
    let text = at.to_string();
    match text.split_once('.') {
        Some((second, _)) => format!("{second}Z"),
        None => text,
    }
}

/// A record in one line.
fn words(record: &Record) -> String {
    match record {
        Record::Adopted { installed, adoption, .. } => {
            let how = match adoption {
                Adoption::Found => "adopted as another tool had installed it",
                Adoption::Initialised => "adopted as it was made here",
            };
            format!("{how}: {}", installed.release)
        }
        Record::Planned(plan) => {
            format!("planned: from {} to {}, {}", plan.from.release, plan.to.release, plan.to.trigger)
        }
        Record::Started(step) => format!("step {step}"),
        Record::Staged(staged) => format!("ready: {}", staged.release),
        Record::Rescheduled(trigger) => format!("rescheduled: {trigger}"),
        Record::Cancelled(why) => format!("dropped: {}", why.as_str()),
        Record::Failed { step, kind, reason, .. } => {
            let again = match kind {
                FailureKind::Transient => ", which may pass",
                FailureKind::Permanent => "",
            };
            format!("failed at step {step}{again}: {reason}")
        }
        Record::Died { reason } => format!("the new node died: {reason}"),
        Record::Undone(undo) => format!("undone: {undo}"),
        Record::UndoFailed { reason } => format!("the undo failed: {reason}"),
        Record::Committed { .. } => "committed: the new release is the active one".to_owned(),
        Record::RolledBack => "rolled back: the old release is the active one".to_owned(),
        Record::RollbackOrdered { restore, .. } => {
            let data = if *restore { "with its data" } else { "without its data" };
            format!("an operator takes the upgrade back, {data}")
        }
        Record::RestoreOrdered { backup, version, paths, .. } => {
            let of = version.as_ref().map(|version| format!(", the data of {version}")).unwrap_or_default();
            let only = if paths.is_empty() { String::new() } else { format!(": {}", paths.join(", ")) };
            format!("data is put back from {backup}{of}{only}")
        }
        Record::Restored { .. } => "the data is put back".to_owned(),
        Record::Held => "held: no automatic upgrades".to_owned(),
        Record::Resumed => "resumed".to_owned(),
        Record::Approved(release) => format!("approved: {release}"),
        Record::TakenOver { installed, .. } => {
            format!("taken over: another tool has installed {}", installed.release)
        }
        Record::Replaced { installed, .. } => {
            format!("replaced: a person has put {} in the place of the executable", installed.release)
        }
        Record::Began { version, how, .. } => format!("omnivisor {version} {}", began(how)),
        Record::Summed(summary) => {
            format!("what was before is summed up; active was {}", summary.active.release)
        }
    }
}

fn began(how: &Beginning) -> String {
    match how {
        Beginning::Started => "began: no node was there".to_owned(),
        Beginning::TookOver => "began: it took over the live node, which was not restarted".to_owned(),
        Beginning::Cleared => "began: an earlier node had left processes behind, which were ended".to_owned(),
        Beginning::Replaced(from) => format!("replaced {from} in place: the node was not touched"),
        Beginning::Returned(from) => format!("goes on: {from} was to replace it and failed, the node was not touched"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_to_the_second() {
        let at = |text: &str| second(&Timestamp::parse(text).unwrap());
        assert_eq!(at("2024-05-06T07:08:09.123456789Z"), "2024-05-06T07:08:09Z");
        assert_eq!(at("2024-05-06T07:08:09Z"), "2024-05-06T07:08:09Z");
    }
}
