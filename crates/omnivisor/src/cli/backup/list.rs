//! `omnivisor backup list`: what there is to go back to, or what going back has replaced.

use clap::Args;
use serde_json::{Value, json};

use super::super::{Outcome, history, output};
use super::{Whose, is_to_be_listed, told};
use crate::effects::backup::{self, Backup, Kind};
use crate::effects::essentials;
use crate::effects::restore::aside::{self, Aside};
use crate::exit::Exit;

#[derive(Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    whose: Whose,
    /// What restores, undos and rollbacks have replaced, and how large that is, in place of the backups
    #[arg(long)]
    replaced: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(verb: &List) -> Outcome {
    let installation = verb.whose.find(false)?;
    let replaced = aside::all(&installation.dialect.paths().beside);
    if verb.replaced {
        return list_replaced(verb, &replaced);
    }
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
            lines.push(row(
                &it.id,
                &history::second(&it.taken),
                it.kind.as_str(),
                &size,
                &output::readable(&upgrade(it)),
            ));
        }
        output::result(&lines.join("\n"));
    }
    if !replaced.is_empty() && !verb.json {
        let mut lines = vec![String::new()];
        lines.extend(replaced.iter().map(|aside| format!("kept: {}", told(aside))));
        lines.push("`omnivisor backup prune --replaced` removes that; nothing else does".to_owned());
        output::result(&lines.join("\n"));
    }
    Ok(Exit::Success)
}

/// How large each is, is counted now: it may be a whole home.
fn list_replaced(verb: &List, replaced: &[Aside]) -> Outcome {
    let told = |aside: &Aside| match aside.bytes() {
        Ok(bytes) => format!("{}, {}", told(aside), output::size(bytes)),
        Err(error) => format!("{}: how large it is cannot be told: {error}", told(aside)),
    };
    let as_json = |aside: &Aside| {
        json!({
            "path": aside.path,
            "replaced": aside.at.to_string(),
            "by_hand": aside.by_hand,
            "bytes": aside.bytes().ok(),
        })
    };
    match replaced {
        _ if verb.json => output::result(&Value::Array(replaced.iter().map(as_json).collect()).to_string()),
        [] => output::result("nothing is kept that was replaced"),
        replaced => replaced.iter().for_each(|aside| output::result(&told(aside))),
    }
    Ok(Exit::Success)
}

/// Which upgrade it was taken for, and what is wrong with it.
fn upgrade(backup: &Backup) -> String {
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

fn as_json(backup: &Backup) -> Value {
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
