//! `omnivisor backup show`: what is in a backup, and what of it a restore would leave alone.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use omnivisor_core::time::Timestamp;
use serde_json::{Value, json};

use super::super::restore::plain;
use super::super::{Outcome, history, output};
use super::Whose;
use crate::effects::backup::entry::{Entry, What};
use crate::effects::backup::manifest::Listed;
use crate::effects::backup::{self, Kind, Only, contents};
use crate::effects::data::Data;
use crate::exit::Exit;

#[derive(Args)]
pub(in crate::cli) struct Show {
    /// The backup, or the beginning of its name
    backup: String,
    /// Only this path in it, as `omnivisor restore --path` takes it; may be said several times
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// As JSON, an entry a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whose: Whose,
}

pub(super) fn run(verb: &Show) -> Outcome {
    let installation = verb.whose.find(false)?;
    let backup = backup::find(&installation.dialect.paths().backups, &verb.backup)?;
    let only = Only::of(&plain(&verb.paths));
    let dialect = &*installation.dialect;
    // Where that cannot be known, because the node's own files cannot be read, keys are known all the same.
    let apart: Vec<PathBuf> = Data::now(dialect).map(|data| data.apart_below().collect()).unwrap_or_default();
    let stays = |entry: &Entry| {
        backup.kind == Kind::Essentials
            || apart.iter().any(|apart| entry.path.starts_with(apart))
            || dialect.is_monotonic(&entry.path)
    };
    let mut lines = output::Lines::new();
    let mut is_any = false;
    let mut unseen = plain(&verb.paths);
    for (word, why) in [("DAMAGED", &backup.damaged), ("NOT GOOD", &backup.differs)] {
        if let Some(why) = why.as_ref().filter(|_| !verb.json) {
            lines.push(&output::readable(&format!("{word}: {why}")))?;
        }
    }
    for what in backup.head.iter().flat_map(|head| &head.not_included).filter(|_| !verb.json) {
        lines.push(&output::readable(&format!("not in it: {what}")))?;
    }
    let told = contents::tell(&backup, &only, &mut |listed| {
        if only.leads_to(&listed.entry.path) {
            return Ok(());
        }
        if !is_any && !verb.json {
            lines.push(&row("MODE", "OWNER", "SIZE", "MODIFIED", "PATH"))?;
        }
        is_any = true;
        unseen.retain(|path| !listed.entry.path.starts_with(path));
        let stays = stays(&listed.entry);
        lines.push(&if verb.json { as_json(&listed, stays).to_string() } else { as_row(&listed, stays) })
    });
    match told.and_then(|()| lines.end()) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Success),
        told => told.with_context(|| format!("what is in {} cannot be told", backup.path.display()))?,
    }
    match unseen.first() {
        None => Ok(Exit::Success),
        Some(path) => Err(anyhow!("{} is not in {}", readable(path), backup.path.display()).into()),
    }
}

fn row(mode: &str, owner: &str, size: &str, modified: &str, path: &str) -> String {
    format!("{mode:4}  {owner:11}  {size:>11}  {modified:20}  {path}")
}

fn as_row(listed: &Listed, stays: bool) -> String {
    let entry = &listed.entry;
    let path = match entry.path.as_os_str().is_empty() {
        true => ".".to_owned(),
        false => readable(&entry.path),
    };
    let (size, path) = match &entry.what {
        What::Folder => (String::new(), format!("{path}/")),
        What::File { bytes } => (output::size(*bytes), path),
        What::Again { first, .. } => (String::new(), format!("{path} (the same file as {})", readable(first))),
        What::Link { target } => (String::new(), format!("{path} -> {}", readable(target))),
        What::Pipe => (String::new(), format!("{path} (a pipe)")),
    };
    let path = if stays { format!("{path} (never put back)") } else { path };
    let owner = format!("{}:{}", entry.uid, entry.gid);
    row(&format!("{:04o}", entry.mode), &owner, &size, &history::second(&modified(entry.modified)), &path)
}

fn as_json(listed: &Listed, stays: bool) -> Value {
    let entry = &listed.entry;
    let (kind, bytes, more) = match &entry.what {
        What::Folder => ("folder", None, None),
        What::File { bytes } => ("file", Some(*bytes), None),
        // An archive without a list says nothing but the name.
        What::Again { first, bytes } => ("file", Some(*bytes).filter(|bytes| *bytes > 0), Some(("same_as", first))),
        What::Link { target } => ("link", None, Some(("target", target))),
        What::Pipe => ("pipe", None, None),
    };
    let mut value = json!({
        "path": entry.path.to_string_lossy(),
        "kind": kind,
        "bytes": bytes,
        "mode": format!("{:04o}", entry.mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "modified": modified(entry.modified).to_string(),
        "sha256": listed.digest,
        "never_put_back": stays,
    });
    if let Some((key, path)) = more {
        value[key] = path.to_string_lossy().into();
    }
    value
}

fn modified((seconds, nanos): (i64, u32)) -> Timestamp {
    Timestamp::from_unix_nanos(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
}

fn readable(path: &Path) -> String {
    output::readable(&path.to_string_lossy())
}
