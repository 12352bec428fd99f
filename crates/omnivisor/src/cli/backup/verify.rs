//! `omnivisor backup verify`: read a backup, and compare it with the list of what was in it.

use std::io;

use anyhow::anyhow;
use clap::Args;

use super::super::{Outcome, output};
use super::{Whose, is_to_be_listed};
use crate::effects::backup::verify::{Verified, verify};
use crate::effects::backup::{self, Backup, Kind};
use crate::exit::Exit;
use crate::shell::give_way;

#[derive(Args)]
pub(in crate::cli) struct Verify {
    /// The backup, or the beginning of its name; without one, the newest
    backup: Option<String>,
    /// All of them
    #[arg(long, conflicts_with = "backup")]
    all: bool,
    #[command(flatten)]
    whose: Whose,
}

pub(super) fn run(verb: &Verify) -> Outcome {
    let installation = verb.whose.find(false)?;
    let backups = &installation.dialect.paths().backups;
    let all = match &verb.backup {
        Some(id) => vec![backup::find(backups, id)?],
        None if verb.all => backup::list(backups),
        None => backup::list(backups).into_iter().filter(|it| it.kind != Kind::Essentials).take(1).collect(),
    };
    if all.is_empty() {
        return Err(anyhow!("there is no backup in {}", backups.display()).into());
    }
    give_way();
    let mut is_good = true;
    let mut is_listed = true;
    for backup in &all {
        if is_to_be_listed(backup) {
            is_listed = false;
            output::result(&format!(
                "{}: not listed yet: a supervisor reads and lists it once the node is well, and then it can be compared",
                backup.id
            ));
            continue;
        }
        match verify(backup, &mut |_| Ok(())) {
            Ok(verified) => {
                is_good &= verified.is_good();
                output::result(&verdict(backup, &verified));
                noted(backup::differs::note(backup, &verified));
            }
            Err(error) => {
                is_good = false;
                output::result(&output::readable(&format!("{}: NOT GOOD: {error}", backup.id)));
                noted(backup::differs::note_error(backup, &error));
            }
        }
    }
    Ok(match (is_good, is_listed) {
        (false, _) => Exit::BackupDamaged,
        (true, false) => Exit::Failure,
        (true, true) => Exit::Success,
    })
}

fn noted(noted: io::Result<()>) {
    if let Err(error) = noted {
        output::result(&format!("  which cannot be noted beside it, so that nobody else knows: {error}"));
    }
}

fn verdict(backup: &Backup, verified: &Verified) -> String {
    let Verified { entries, bytes, .. } = verified;
    if !verified.is_good() {
        let mut lines =
            vec![format!("{}: NOT GOOD: {} differences in {entries} entries", backup.id, verified.different)];
        lines.extend(verified.differs.iter().map(|it| format!("  {}", output::readable(it))));
        if verified.different > verified.differs.len() as u64 {
            lines.push("  …".to_owned());
        }
        return lines.join("\n");
    }
    let how = match verified.compared {
        true => "each as it was when it was taken",
        false => "readable to its end; there is no list to compare it with",
    };
    format!("{}: good: {entries} entries, {}, {how}", backup.id, output::size(*bytes))
}
