//! Snapshots that an operator's command takes, of a file system or a disk: in a moment, whatever there is in the home.
//!
//! The command is called with one more word. `check`: could it take one now? `take`: it takes one and prints the folder that holds
//! the home as it is now, and as nobody changes it any more. `remove`: that is not needed any more, or came to nothing. Each may
//! be called again with the same id, and is right then, too. The home is never put back by it, as keys would go back with the rest: what is
//! put back is copied from the folder.
//!
//! A link to the folder stands where else the copy stands, with the same manifest beside it. While the command is at work, a link
//! that leads nowhere stands there, so that somebody who is killed leaves a word of what has to be removed.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{LISTED, MODE, PARTIAL, PRIVATE, SEEN, Snapshot, beside, discard, void};
use crate::checkpoint;
use crate::effects::backup::archive::REMOVED;
use crate::effects::backup::manifest::{self, Head};
use crate::effects::run_command;
use crate::store::atomic;
use crate::store::disk::{self, Written};

/// How a manifest calls it.
pub const METHOD: &str = "command";

/// The variable in which the command finds the id of the snapshot.
const ID: &str = "OMNIVISOR_SNAPSHOT_ID";

/// And that with the node's home.
const HOME: &str = "OMNIVISOR_SNAPSHOT_HOME";

/// Where the link leads while the command is at work.
const TAKING: &str = "what the command takes";

/// What the name of a link ends in that is about to replace another one.
pub(super) const NEW: &str = ".partial-link";

/// How snapshots are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Method {
    /// What takes those that are taken from now on; none: they are copied.
    pub takes: Option<Arc<SnapshotCommand>>,
    /// What removes those that a command has taken.
    pub removes: Option<Arc<SnapshotCommand>>,
}

/// An operator's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotCommand {
    /// The program, by its whole path.
    pub program: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<String>,
    /// How long it may take; the node is down meanwhile.
    pub patience: Duration,
}

impl SnapshotCommand {
    /// Whether it could take one, as far as it can be known while the node runs.
    pub async fn check(&self, home: &Path, apart: &[PathBuf], id: &str) -> io::Result<()> {
        if let Some(other) = another_file_system(home, apart)? {
            return Err(io::Error::other(format!(
                "{} is a file system or a subvolume of its own, and would be empty in a snapshot of {}",
                other.display(),
                home.display()
            )));
        }
        self.call("check", home, id).await.map(drop)
    }

    /// Takes it, while no node runs. Durable when it returns, as far as the command's own work is; if it is there already, that is all. On an
    /// error nothing is believed of what was taken, and it is removed later.
    pub async fn take(&self, snapshot: Snapshot<'_>, head: &Head) -> io::Result<()> {
        let Snapshot { home, to, apart } = snapshot;
        let below: Vec<String> = apart
            .iter()
            .filter_map(|path| path.strip_prefix(home).ok())
            .map(|path| path.display().to_string())
            .collect();
        let not_included = below.iter().map(|path| format!("{path}: it stands apart")).collect();
        let head = Head { method: METHOD.to_owned(), apart: below, not_included, ..head.clone() };
        if to.is_dir() {
            return snapshot.complete(&head);
        }
        if let Some(parent) = to.parent() {
            disk::make_folders(parent, PRIVATE)?;
        }
        if !beside(to, PARTIAL).is_symlink() {
            put_by(to)?; // what was copied before a command was set
        }
        put_link(to, Path::new(TAKING))?;
        if beside(to, REMOVED).is_symlink() {
            disk::remove(&beside(to, REMOVED))?; // of a try before: what is taken now must not be removed for it
        }
        let taken = self.taken(home, apart, &head.id).await;
        checkpoint::reach("snapshot-commanded");
        let named = taken.and_then(|folder| {
            put_link(to, &folder)?;
            let listed = beside(to, LISTED);
            let mut written = Written::create(&listed, MODE)?;
            written.push(&head.to_bytes())?;
            written.flush()?;
            disk::rename(&beside(to, PARTIAL), to)?;
            disk::rename(&listed, &manifest::beside(to))?;
            atomic::flush_folder_of(to)?;
            disk::remove(&beside(to, SEEN))
        });
        named.inspect_err(|_| {
            if let Err(error) = void(to) {
                tracing::warn!(path = %to.display(), %error, "what a command has taken cannot be made void");
            }
            discard(to);
        })
    }

    /// Sees that what it took of this home under this id is removed, if it is there.
    pub async fn remove(&self, home: &Path, id: &str) -> io::Result<()> {
        self.call("remove", home, id).await.map(drop)
    }

    async fn taken(&self, home: &Path, apart: &[PathBuf], id: &str) -> io::Result<PathBuf> {
        let printed = self.call("take", home, id).await?;
        let line = printed.strip_suffix(b"\n").unwrap_or(&printed);
        let said = Path::new(OsStr::from_bytes(line));
        let wrong = |why: String| {
            let said = String::from_utf8_lossy(line).chars().take(200).collect::<String>();
            io::Error::other(format!("{} take printed {said:?}, {why}", self.name()))
        };
        if !said.is_absolute() || line.contains(&b'\n') {
            return Err(wrong("and not one line with the whole path of a folder".to_owned()));
        }
        let folder = fs::canonicalize(said).map_err(|error| wrong(format!("which cannot be found: {error}")))?;
        is_one(&folder, home, apart).map_err(wrong)?;
        Ok(folder)
    }

    async fn call(&self, verb: &str, home: &Path, id: &str) -> io::Result<Vec<u8>> {
        let arguments = self.arguments.iter().map(String::as_str).chain([verb]);
        let environment = [(ID, OsStr::new(id)), (HOME, home.as_os_str())];
        run_command::run(&self.program, arguments, &environment, self.patience)
            .await
            .map_err(|error| io::Error::other(format!("{} {verb}: {error}", self.name())))
    }

    fn name(&self) -> String {
        let words = self.arguments.iter().map(String::as_str);
        [self.program.to_string_lossy().as_ref()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
    }
}

/// What removes, by their ids, the snapshots of a home that a command has taken. None where no command is set.
pub type Remove<'a> = Option<&'a dyn Fn(&str) -> io::Result<()>>;

/// Gives what there is of a snapshot that is none, or not yet, the name under which it is removed.
pub(super) fn put_by(to: &Path) -> io::Result<()> {
    let (partial, removed) = (beside(to, PARTIAL), beside(to, REMOVED));
    match disk::rename(&partial, &removed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) if removed.is_dir() || removed.is_symlink() => disk::remove(&partial),
        result => result,
    }
}

/// Makes a link lead there, in a moment, whatever it led to.
fn put_link(to: &Path, target: &Path) -> io::Result<()> {
    let new = beside(to, NEW);
    disk::remove(&new)?;
    disk::link(target, &new)?;
    disk::rename(&new, &beside(to, PARTIAL))
}

/// Whether this folder may hold the home as it was, or why not.
fn is_one(folder: &Path, home: &Path, apart: &[PathBuf]) -> Result<(), String> {
    let looked = |path: &Path, error: io::Error| format!("and {} cannot be looked at: {error}", path.display());
    let at = |path: &Path| fs::metadata(path).map_err(|error| looked(path, error));
    let (there, live) = (at(folder)?, at(home)?);
    if !there.is_dir() {
        return Err("which is no folder".to_owned());
    }
    if (there.dev(), there.ino()) == (live.dev(), live.ino()) {
        return Err("which is the home itself".to_owned());
    }
    let names = |path: &Path| -> Result<Vec<OsString>, String> {
        let entries = fs::read_dir(path).and_then(|entries| entries.map(|it| Ok(it?.file_name())).collect());
        entries.map_err(|error| looked(path, error))
    };
    let (held, wanted) = (names(folder)?, names(home)?);
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let is_in_apart = || apart.iter().any(|path| folder.starts_with(real(path)));
    // A file system may show its snapshots in a folder that is not listed.
    let is_listed = |below: &Path| below.iter().next().is_some_and(|first| wanted.iter().any(|name| name == first));
    if folder.strip_prefix(real(home)).is_ok_and(is_listed) && !is_in_apart() {
        return Err("which is a part of the home".to_owned());
    }
    match wanted.iter().find(|name| !apart.contains(&home.join(name)) && !held.contains(name)) {
        Some(missing) => Err(format!("and there is no {} in it, as there is in the home", missing.to_string_lossy())),
        None => Ok(()),
    }
}

/// A folder of the home that is no part of its file system.
fn another_file_system(home: &Path, apart: &[PathBuf]) -> io::Result<Option<PathBuf>> {
    let device = fs::metadata(home)?.dev();
    let mut folders = vec![home.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder != home => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if !entry.file_type()?.is_dir() || apart.contains(&path) {
                continue;
            }
            match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                looked if looked.as_ref().is_ok_and(|it| it.dev() != device) => return Ok(Some(path)),
                looked => {
                    looked?;
                    folders.push(path);
                }
            }
        }
    }
    Ok(None)
}
