//! `omnivisor backup remove`: remove one backup that a person names, also one that is damaged, or that another tool has made.

use std::path::Path;

use anyhow::{Context, anyhow};
use clap::Args;

use super::super::installation::Installation;
use super::super::{Outcome, Trouble, history, output};
use super::{Remover, Whose, not_to_be_touched, under_way};
use crate::effects::backup::{self, Backup, Kind};
use crate::exit::Exit;

#[derive(Args)]
pub(in crate::cli) struct Remove {
    /// The backup, or the beginning of its name
    backup: String,
    /// Also the only good one, the one that the active release would be taken back with, and one of another home
    #[arg(long)]
    force: bool,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    whose: Whose,
}

pub(super) fn run(verb: &Remove) -> Outcome {
    let installation = verb.whose.find(false)?;
    let backups = &installation.dialect.paths().backups;
    let id = backup::find(backups, &verb.backup)?.id;
    let (meant, others): (Vec<Backup>, Vec<Backup>) = backup::list(backups).into_iter().partition(|it| it.id == id);
    if let Some(why) = needed(&installation, &id, &meant, &others)?
        && !verb.force
    {
        let error = anyhow!("{id} stays: {why}");
        return Err(Trouble::from(error).hint("with --force it is removed all the same"));
    }
    let remover = Remover::of(&installation)?;
    // As a folder and as an archive it is one.
    for backup in &meant {
        let what = format!("{}, taken {}, {}", backup.id, history::second(&backup.taken), backup.path.display());
        if verb.dry_run {
            output::result(&format!("would remove {what}"));
            continue;
        }
        remover.remove(backup).with_context(|| format!("cannot remove the backup {}", backup.path.display()))?;
        output::result(&format!("removed {what}"));
    }
    Ok(Exit::Success)
}

/// Why a person has to say twice that it is to be removed. What an upgrade that is under way needs is an error.
fn needed(
    installation: &Installation,
    id: &str,
    meant: &[Backup],
    others: &[Backup],
) -> Result<Option<String>, Trouble> {
    let home = &installation.dialect.paths().home;
    let spared = not_to_be_touched(installation)?.ok_or_else(under_way)?;
    if spared.under_way.as_deref() == Some(id) {
        return Err(anyhow!("{id} stays: an upgrade is under way that needs it").into());
    }
    if spared.way_back.as_deref() == Some(id) {
        return Ok(Some("`omnivisor rollback` would take the active release back with it".to_owned()));
    }
    let of_another = |head: &backup::manifest::Head| (Path::new(&head.home) != home).then(|| head.described());
    if let Some(of) = meant.iter().filter_map(|it| it.head.as_ref()).find_map(of_another) {
        return Ok(Some(format!("it is one of {of}")));
    }
    let is_good = |it: &Backup| {
        let is_own = it.head.as_ref().is_some_and(|head| Path::new(&head.home) == home);
        is_own && it.damaged.is_none() && it.differs.is_none() && it.kind != Kind::Essentials
    };
    let is_last = meant.iter().any(is_good) && !others.iter().any(is_good);
    Ok(is_last.then(|| "there is no other good one".to_owned()))
}
