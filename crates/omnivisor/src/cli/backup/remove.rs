//! `omnivisor backup remove`: remove one backup that a person names, also one that is damaged, or that another tool has made.
//!
//! Only one of this instance's: whether another one that shares the folder still needs its own is not known here.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, anyhow};
use clap::Args;

use super::super::installation::Installation;
use super::super::{Outcome, Trouble, history, output};
use super::{Remover, Whose, journal, under_way};
use crate::effects::backup::{self, Backup, Kind};
use crate::effects::essentials;
use crate::exit::Exit;
use crate::shell::{give_way, spared_by_hand};

/// As often is it looked whether it is gone: a snapshot may become an archive just then.
const LOOKS: usize = 3;

#[derive(Args)]
pub(in crate::cli) struct Remove {
    /// The backup, by its whole name
    backup: String,
    /// Also the last one that is known to be good, the one that the active release would be taken back with, and one that may be good again
    #[arg(long)]
    force: bool,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    whose: Whose,
}

pub(in crate::cli) fn run(verb: &Remove) -> Outcome {
    let installation = verb.whose.find(false)?;
    let (backups, id) = (&installation.dialect.paths().backups, &verb.backup);
    let look = || backup::list(backups).into_iter().partition(|it| it.id == *id);
    let (mut meant, others): (Vec<Backup>, Vec<Backup>) = look();
    if meant.is_empty() {
        let one = backup::find(backups, id)?;
        return Err(anyhow!("what is to be removed is named whole: {}", one.id).into());
    }
    if let Some(why) = needed(&installation, id, &meant, &others)?
        && !verb.force
    {
        let error = anyhow!("{id} stays: {}", output::readable(&why));
        return Err(Trouble::from(error).hint("with --force it is removed all the same"));
    }
    give_way();
    let remover = Remover::of(&installation)?;
    for _ in 0..LOOKS {
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
        (meant, _) = look();
        if meant.is_empty() || verb.dry_run {
            return Ok(Exit::Success);
        }
    }
    Err(anyhow!("{id} is there again each time it is removed: {}", meant[0].path.display()).into())
}

/// Who may not look knows nothing of it.
fn is_gone(home: &Path) -> bool {
    home.try_exists().is_ok_and(|is_there| !is_there)
}

/// However it is written.
fn is_same(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
    id(one).is_some_and(|one| id(other) == Some(one))
}

/// Why a person has to say twice that it is to be removed. What somebody else needs, or an upgrade that is under way, is an error.
fn needed(
    installation: &Installation,
    id: &str,
    meant: &[Backup],
    others: &[Backup],
) -> Result<Option<String>, Trouble> {
    let home = &installation.dialect.paths().home;
    let mut of_a_home_that_is_gone = None;
    for backup in meant.iter().filter(|it| !it.is_of(home)) {
        match (&backup.head, backup.kind) {
            // Nobody else can remove it.
            (Some(head), _) if is_gone(Path::new(&head.home)) && backup.kind != Kind::Command => {
                of_a_home_that_is_gone = Some(head.described());
            }
            (Some(head), _) if is_same(Path::new(&head.home), home) => {}
            (Some(head), _) => {
                let of = output::readable(&head.described());
                let error =
                    anyhow!("{id} stays: it is one of {of}, and only the instance of that knows whether it needs it");
                return Err(Trouble::from(error).hint("`--id`, or `--home`, says which instance is meant"));
            }
            (None, Kind::Command) => {
                return Err(anyhow!("{id} stays: nothing says of which home a command has taken it").into());
            }
            (None, _) => {}
        }
    }
    let spared = spared_by_hand(&journal(installation)?).ok_or_else(under_way)?;
    let of =
        |it: &Option<String>| it.as_deref().is_some_and(|it| it == id.strip_prefix(essentials::NAME).unwrap_or(id));
    if of(&spared.under_way) {
        return Err(anyhow!("{id} stays: what is under way needs it").into());
    }
    if let Some(gone) = of_a_home_that_is_gone {
        return Ok(Some(format!("it is one of {gone}, which is not there")));
    }
    if of(&spared.way_back) {
        return Ok(Some("it is what the last upgrade has left to go back to".to_owned()));
    }
    if let Some(why) = meant.iter().find_map(|it| it.damaged.as_ref()) {
        return Ok(Some(format!("it may be good again, where a disk is not mounted or cannot be read: {why}")));
    }
    let is_proven = |it: &Backup| it.is_good() && it.sealed && it.is_of(home) && it.kind != Kind::Essentials;
    Ok((!others.iter().any(is_proven)).then(|| "no other one of this home is known to be good".to_owned()))
}
