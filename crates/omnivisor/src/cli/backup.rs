//! `omnivisor backup`: what there is to go back to. Works with the files, whether a supervisor runs or not.

mod list;
mod now;
mod prune;
mod remove;
mod show;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use omnivisor_core::journal::Journal;

use super::installation::{Installation, Which};
use super::{Outcome, Trouble, env_file, history};
use crate::effects::backup::Backup as Found;
use crate::effects::backup::archive;
use crate::effects::backup::keep;
use crate::effects::restore::aside::Aside;
use crate::effects::snapshot::command::{Remove, SnapshotCommand};
use crate::shell::JOURNAL;

/// What can be asked of backups.
#[derive(Subcommand)]
pub(super) enum Backup {
    /// Take a backup: most of it while the node runs, the rest while it is down for a moment
    Now(Now),
    /// Show what there is, the newest first
    List(list::List),
    /// Show what is in a backup
    Show(show::Show),
    /// Read a backup, and compare it with the list of what was in it
    Verify(verify::Verify),
    /// Remove what the settings say that need not stay
    Prune(prune::Prune),
    /// Remove a backup, whatever the settings say
    Remove(remove::Remove),
}

/// Whose backups are meant.
#[derive(Args)]
struct Whose {
    #[command(flatten)]
    which: Which,
    /// The env file that the instance is run with, if there is one
    #[arg(short, long)]
    config_env_file: Option<PathBuf>,
}

impl Whose {
    /// The one that is asked, if it runs: with an env file the one that this is of.
    fn running(&self) -> Result<Which, Trouble> {
        match (&self.config_env_file, &self.which) {
            (Some(_), Which { id: None, home: None }) => {
                let id = self.find(false)?.dialect.instance().to_owned();
                Ok(Which { id: Some(id), home: None })
            }
            (Some(file), which) => env_file::apply(file).map(|()| which.clone()),
            (None, which) => Ok(which.clone()),
        }
    }

    fn find(&self, logged: bool) -> Result<Installation, Trouble> {
        Installation::meant(&self.which, self.config_env_file.as_deref(), logged)
    }
}

#[derive(Args)]
pub(super) struct Now {
    #[command(flatten)]
    whose: Whose,
}

pub(super) fn run(verb: &Backup) -> Outcome {
    match verb {
        Backup::Now(verb) => now::run(&verb.whose),
        Backup::List(verb) => list::run(verb),
        Backup::Show(verb) => show::run(verb),
        Backup::Verify(verb) => verify::run(verb),
        Backup::Prune(verb) => prune::run(verb),
        Backup::Remove(verb) => remove::run(verb),
    }
}

/// As the journal has it. Without a journal nothing is known, and nothing may be touched.
fn journal(installation: &Installation) -> Result<Journal, Trouble> {
    let records = history::read(&installation.dialect.paths().state.join(JOURNAL))
        .context("which backups an upgrade still needs cannot be known, so nothing is removed")?;
    let journal = Journal::replay(records.iter().map(|(record, _)| record))
        .context("the journal contradicts itself, so nothing is removed")?;
    Ok(journal)
}

/// Removes backups, those that a command has taken by that command.
struct Remover {
    runtime: tokio::runtime::Runtime,
    command: Option<Arc<SnapshotCommand>>,
    home: PathBuf,
}

impl Remover {
    fn of(installation: &Installation) -> Result<Self, Trouble> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
        let home = installation.dialect.paths().home.clone();
        Ok(Self { runtime, command: installation.method.removes.clone(), home })
    }

    fn remove(&self, backup: &Found) -> io::Result<()> {
        self.with(|by| keep::remove(backup, &self.home, by))
    }

    fn remove_rest(&self, word: &Path) -> io::Result<()> {
        self.with(|by| archive::remove_rest(word, by))
    }

    fn with<T>(&self, work: impl FnOnce(Remove<'_>) -> T) -> T {
        let by = self.command.as_ref();
        let by = by.map(|command| |id: &str| self.runtime.block_on(command.remove(&self.home, id)));
        work(by.as_ref().map(|by| by as &dyn Fn(&str) -> io::Result<()>))
    }
}

fn under_way() -> Trouble {
    anyhow!("an upgrade is between its stop and its end: nothing is removed now").into()
}

/// Whether it is whole, as far as is known, and there is nothing yet to compare it with.
fn is_to_be_listed(backup: &Found) -> bool {
    backup.damaged.is_none() && backup.head.is_some() && !backup.sealed
}

fn told(aside: &Aside) -> String {
    let by = if aside.by_hand { "a restore" } else { "an undo or a rollback" };
    format!("what {by} has replaced, {}, {}", history::second(&aside.at), aside.path.display())
}
