//! `omnivisor restore`: put a node's data back as a backup has it.

use std::path::{Component, PathBuf};

use anyhow::Context;
use clap::Args;
use omnivisor_core::release::Installed;

use super::installation::{Installation, Which};
use super::own::{self, Missing};
use super::{Outcome, Trouble, output};
use crate::exit::Exit;
use crate::shell::{Ordered, StartError, put_back};

/// Put the node's data back as a backup has it; the node must be stopped
#[derive(Args)]
pub(super) struct Restore {
    /// Which: an id that `omnivisor backup list` shows, or its beginning
    #[arg(id = "backup", value_name = "BACKUP")]
    id: String,
    /// Only this path below the node's home (of several homes: with the name of one, as in core/state); may be said several times
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Believe a folder that has no manifest, with which nothing can be compared
    #[arg(long)]
    unverified: bool,
    #[command(flatten)]
    which: Which,
    /// The env file that the instance is run with, if there is one
    #[arg(short, long)]
    config_env_file: Option<PathBuf>,
}

pub(super) fn run(restore: &Restore) -> Outcome {
    const STOP: &str = "`omnivisor stop --wait` stops the node, and waits until it has ended";
    match own::find(&restore.which) {
        Ok(instance) => {
            let error = anyhow::anyhow!("{} runs (supervisor: process {})", instance.id, instance.pid);
            return Err(Trouble::new(Exit::AlreadyRunning, error).hint(STOP));
        }
        Err(Missing { error, several: true }) => return Err(error.into()),
        Err(Missing { several: false, .. }) => {}
    }
    let installation = Installation::find(&restore.which, restore.config_env_file.as_deref(), true)?;
    let Installation { dialect, shared, allow_network_file_system: allow, run, .. } = installation;
    let paths = plain(&restore.paths);
    let ordered = Ordered { id: &restore.id, only: &paths, unverified: restore.unverified };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot begin to work")?;
    let done = runtime.block_on(put_back(&*dialect, shared, allow, &ordered)).map_err(|error| match error {
        StartError::AlreadyRunning(_) | StartError::NodeRuns(_) => Trouble::new(Exit::AlreadyRunning, error).hint(STOP),
        error => error.into(),
    })?;
    let head = &done.backup.head;
    let of = head.as_ref().map(|head| format!(", the data of {}", head.from.version)).unwrap_or_default();
    let only: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let mut lines = vec![
        match only.is_empty() {
            true => format!("{} is put back{of}", done.backup.id),
            false => format!("of {}{of}, this is put back: {}", done.backup.id, output::readable(&only.join(", "))),
        },
        format!("what it replaced is kept in {}", done.replaced.display()),
        format!("keys and whatever else must never go back are as they were; `{run}` starts {}", done.active.release),
    ];
    let differs = head.as_ref().is_some_and(|head| head.from.version != done.active.release.version.as_str());
    if differs {
        let of =
            |release: &Installed| head.as_ref().is_some_and(|it| it.from.version == release.release.version.as_str());
        lines.push(match done.before.as_ref().is_some_and(of) {
            true => "that is another release than the data is of: `omnivisor rollback --keep-data` goes back to it"
                .to_owned(),
            false => "that is another release than the data is of: whether it can go on with that is for you to know"
                .to_owned(),
        });
    }
    output::result(&lines.join("\n"));
    Ok(Exit::Success)
}

/// Without `./`, and none of what is in another one.
pub(super) fn plain(paths: &[PathBuf]) -> Vec<PathBuf> {
    let is_here = |part: &Component<'_>| *part == Component::CurDir;
    let mut paths: Vec<PathBuf> =
        paths.iter().map(|path| path.components().filter(|part| !is_here(part)).collect()).collect();
    paths.sort();
    paths.dedup_by(|one, before| !before.as_os_str().is_empty() && one.starts_with(before));
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_said_twice_is_one() {
        let plain = |paths: &[&str]| plain(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(
            plain(&["./config/config.toml", "config", "data/./db", "config/"]),
            ["config", "data/db"].map(PathBuf::from)
        );
        assert_eq!(plain(&["a/b", "a"]), [PathBuf::from("a")]);
        assert_eq!(plain(&["."]), [PathBuf::new()]);
        assert_eq!(plain(&["config", "configured"]), ["config", "configured"].map(PathBuf::from));
    }
}
