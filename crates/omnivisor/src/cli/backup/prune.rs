//! `omnivisor backup prune`: remove what the settings say that need not stay, as the supervisor does by itself.

use anyhow::anyhow;
use clap::Args;

use super::super::installation::Installation;
use super::super::{Outcome, Trouble, history, output};
use super::{Remover, Whose, journal, told, under_way};
use crate::clock;
use crate::effects::backup::keep::not_removed;
use crate::effects::data::Data;
use crate::effects::restore::aside::{self, Aside};
use crate::exit::Exit;
use crate::shell::{give_way, spared};

#[derive(Args)]
pub(in crate::cli) struct Prune {
    #[command(flatten)]
    whose: Whose,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Also what restores, undos and rollbacks have replaced, which nothing else removes
    #[arg(long)]
    replaced: bool,
}

pub(super) fn run(verb: &Prune) -> Outcome {
    let installation = verb.whose.find(false)?;
    let paths = installation.dialect.paths();
    // Before it is known that none of them is needed: what comes later is not looked at.
    let replaced = if verb.replaced { aside::all(&paths.beside) } else { Vec::new() };
    let spared = spared(&journal(&installation)?).ok_or_else(under_way)?;
    let gone = installation.keep.expendable(&paths.backups, &paths.home, &spared, clock::now().wall);
    let rest = not_removed(&paths.backups, &paths.home);
    give_way();
    let remover = Remover::of(&installation)?;
    // One that cannot be removed keeps nobody from the others.
    let mut failed: Vec<anyhow::Error> = Vec::new();
    for backup in &gone {
        let what = format!("{}, taken {}, {}", backup.id, history::second(&backup.taken), backup.path.display());
        if verb.dry_run {
            output::result(&format!("would remove {what}"));
        } else {
            match remover.remove(backup) {
                Ok(()) => output::result(&format!("removed {what}")),
                Err(error) => {
                    failed.push(anyhow!(error).context(format!("cannot remove the backup {}", backup.path.display())));
                }
            }
        }
    }
    for word in &rest {
        if verb.dry_run {
            output::result(&format!("would remove what a command has taken, {}", word.display()));
        } else {
            match remover.remove_rest(word) {
                Ok(()) => output::result(&format!("removed what a command has taken, {}", word.display())),
                Err(error) => {
                    let what = format!("cannot remove what a command has taken, {}", word.display());
                    failed.push(anyhow!(error).context(what));
                }
            }
        }
    }
    if verb.replaced {
        remove_replaced(verb, &installation, &replaced, &mut failed)?;
    }
    if gone.is_empty() && rest.is_empty() && replaced.is_empty() {
        output::result("nothing has to go");
    }
    let mut failed = failed.into_iter();
    let Some(first) = failed.next() else { return Ok(Exit::Success) };
    failed.for_each(|error| output::result(&format!("{error:#}")));
    Err(first.into())
}

fn remove_replaced(
    verb: &Prune,
    installation: &Installation,
    replaced: &[Aside],
    failed: &mut Vec<anyhow::Error>,
) -> Result<(), Trouble> {
    let dialect = &*installation.dialect;
    for aside in replaced {
        let what = told(aside);
        spared(&journal(installation)?).ok_or_else(under_way)?;
        match Data::now(dialect).and_then(|data| aside.is_needed(&data, &|path| dialect.is_monotonic(path))) {
            Ok(false) => {}
            Ok(true) => {
                failed.push(anyhow!("{what}, stays: what was to replace it is not all in its place"));
                continue;
            }
            Err(error) => {
                failed.push(anyhow!("{what}, stays: whether it is needed cannot be told: {error}"));
                continue;
            }
        }
        if verb.dry_run {
            output::result(&format!("would remove {what}"));
        } else {
            match aside.remove() {
                Ok(()) => output::result(&format!("removed {what}")),
                Err(error) => failed.push(anyhow!(error).context(format!("cannot remove {what}"))),
            }
        }
    }
    Ok(())
}
