//! `omnivisor backup`: what there is to go back to. Reads the files, whether a supervisor runs or not.

mod now;

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use omnivisor_core::journal::Journal;
use serde_json::{Value, json};

use super::installation::{Installation, Which};
use super::{Outcome, Trouble, env_file, history, output};
use crate::clock;
use crate::effects::backup::archive::remove_rest;
use crate::effects::backup::keep::{Spared, not_removed, remove};
use crate::effects::backup::verify::{Verified, verify};
use crate::effects::backup::{self, Backup as Found, Kind};
use crate::effects::data::Data;
use crate::effects::essentials;
use crate::effects::restore::aside::{self, Aside};
use crate::exit::Exit;
use crate::shell::{JOURNAL, spared};

/// What can be asked of backups.
#[derive(Subcommand)]
pub(super) enum Backup {
    /// Take a backup: most of it while the node runs, the rest while it is down for a moment
    Now(Now),
    /// Show what there is, the newest first
    List(List),
    /// Read a backup, and compare it with the list of what was in it
    Verify(Verify),
    /// Remove what the settings say that need not stay
    Prune(Prune),
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

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    whose: Whose,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Verify {
    /// The backup, or the beginning of its name; without one, the newest
    backup: Option<String>,
    /// All of them
    #[arg(long, conflicts_with = "backup")]
    all: bool,
    #[command(flatten)]
    whose: Whose,
}

#[derive(Args)]
pub(super) struct Prune {
    #[command(flatten)]
    whose: Whose,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Also what restores, undos and rollbacks have replaced, which nothing else removes
    #[arg(long)]
    replaced: bool,
}

pub(super) fn run(verb: &Backup) -> Outcome {
    match verb {
        Backup::Now(verb) => now::run(&verb.whose),
        Backup::List(verb) => list(verb),
        Backup::Verify(verb) => check(verb),
        Backup::Prune(verb) => prune(verb),
    }
}

fn list(verb: &List) -> Outcome {
    let installation = verb.whose.find(false)?;
    let all = backup::list(&installation.dialect.paths().backups);
    if verb.json {
        output::result(&Value::Array(all.iter().map(as_json).collect()).to_string());
    } else if all.is_empty() {
        output::result(&format!("there is no backup in {}", installation.dialect.paths().backups.display()));
    } else {
        let row = |id: &str, taken: &str, kind: &str, size: &str, rest: &str| {
            format!("{id:42} {taken:20}  {kind:10}  {size:>10}  {rest}").trim_end().to_owned()
        };
        let mut lines = vec![row("BACKUP", "TAKEN", "KIND", "SIZE", "UPGRADE")];
        for it in &all {
            let size = it.bytes.map_or_else(|| "?".to_owned(), output::size);
            lines.push(row(&it.id, &history::second(&it.taken), it.kind.as_str(), &size, &upgrade(it)));
        }
        output::result(&lines.join("\n"));
    }
    let replaced = aside::all(&installation.dialect.paths().beside);
    if !replaced.is_empty() && !verb.json {
        let mut lines = vec![String::new()];
        lines.extend(replaced.iter().map(|aside| format!("kept: {}", told(aside))));
        lines.push("`omnivisor backup prune --replaced` removes that; nothing else does".to_owned());
        output::result(&lines.join("\n"));
    }
    Ok(Exit::Success)
}

/// Which upgrade it was taken for, and what is wrong with it.
fn upgrade(backup: &Found) -> String {
    let of = match &backup.head {
        Some(head) if head.is_by_hand() => format!("by hand, of {} ({})", head.from.version, head.from.name),
        Some(head) => format!("{} -> {} ({})", head.from.version, head.to.version, head.to.name),
        None => format!("-> {}", backup.release),
    };
    let of = match backup.kind {
        Kind::Essentials => format!("{of}: {}", essentials::described(backup.head.as_ref())),
        _ => of,
    };
    match &backup.damaged {
        Some(why) => format!("{of}: DAMAGED, {why}"),
        None if backup.differs.is_some() => {
            format!("{of}: NOT GOOD, {}", backup.differs.as_deref().unwrap_or_default())
        }
        None if is_to_be_listed(backup) => format!("{of}: not listed yet"),
        None => of,
    }
}

fn as_json(backup: &Found) -> Value {
    json!({
        "id": backup.id,
        "release": backup.release,
        "kind": backup.kind.as_str(),
        "path": backup.path,
        "taken": backup.taken.to_string(),
        "bytes": backup.bytes,
        "sealed": backup.sealed,
        "damaged": backup.damaged,
        "differs": backup.differs,
        "manifest": backup.head,
    })
}

fn check(verb: &Verify) -> Outcome {
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
                // Where that cannot be written, it is known to whoever reads this.
                let _ = backup::differs::note(backup, &verified);
                output::result(&verdict(backup, &verified));
            }
            Err(error) => {
                is_good = false;
                output::result(&format!("{}: NOT GOOD: {error}", backup.id));
            }
        }
    }
    Ok(match (is_good, is_listed) {
        (false, _) => Exit::BackupDamaged,
        (true, false) => Exit::Failure,
        (true, true) => Exit::Success,
    })
}

/// Whether it is whole, as far as is known, and there is nothing yet to compare it with.
fn is_to_be_listed(backup: &Found) -> bool {
    backup.damaged.is_none() && backup.head.is_some() && !backup.sealed
}

fn verdict(backup: &Found, verified: &Verified) -> String {
    let Verified { entries, bytes, .. } = verified;
    if !verified.is_good() {
        let mut lines = vec![format!("{}: NOT GOOD: {} of {entries} entries differ", backup.id, verified.different)];
        lines.extend(verified.differs.iter().map(|it| format!("  {it}")));
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

fn prune(verb: &Prune) -> Outcome {
    let installation = verb.whose.find(false)?;
    let paths = installation.dialect.paths();
    // Before it is known that none of them is needed: what comes later is not looked at.
    let replaced = if verb.replaced { aside::all(&paths.beside) } else { Vec::new() };
    let spared = not_to_be_touched(&installation)?.ok_or_else(under_way)?;
    let now = clock::now().wall;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let by = installation.method.removes.clone();
    let by = by.map(|command| move |id: &str| runtime.block_on(command.remove(&paths.home, id)));
    let by = by.as_ref().map(|by| by as &dyn Fn(&str) -> std::io::Result<()>);
    let gone = installation.keep.expendable(&paths.backups, &paths.home, &spared, now);
    let rest = not_removed(&paths.backups, &paths.home);
    // One that cannot be removed keeps nobody from the others.
    let mut failed: Vec<anyhow::Error> = Vec::new();
    for backup in &gone {
        let what = format!("{}, taken {}, {}", backup.id, history::second(&backup.taken), backup.path.display());
        if verb.dry_run {
            output::result(&format!("would remove {what}"));
        } else {
            match remove(backup, &paths.home, by) {
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
            match remove_rest(word, by) {
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

fn under_way() -> Trouble {
    anyhow!("an upgrade is between its stop and its end: nothing is removed now").into()
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
        not_to_be_touched(installation)?.ok_or_else(under_way)?;
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

fn told(aside: &Aside) -> String {
    let by = if aside.by_hand { "a restore" } else { "an undo or a rollback" };
    format!("what {by} has replaced, {}, {}", history::second(&aside.at), aside.path.display())
}

/// As the journal has it. Without a journal nothing is known, and nothing may be touched.
fn not_to_be_touched(installation: &Installation) -> Result<Option<Spared>, Trouble> {
    let records = history::read(&installation.dialect.paths().state.join(JOURNAL))
        .context("which backups an upgrade still needs cannot be known, so nothing is removed")?;
    let journal = Journal::replay(records.iter().map(|(record, _)| record))
        .context("the journal contradicts itself, so nothing is removed")?;
    Ok(spared(&journal))
}
