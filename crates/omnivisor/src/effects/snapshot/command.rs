//! Snapshots that an operator's command takes, of a file system or a disk: in a moment, whatever there is in the home.
//!
//! The command is called with one more word. `check`: could it take one now? `take`: it takes one and prints the folder that holds
//! the home as it is now, and as nobody changes it any more. `remove`: that is not needed any more, or came to nothing. Each may
//! be called again with the same id, and is right then, too. The home is never put back by it, as keys would go back with the rest: what is
//! put back is copied from the folder.
//!
//! A link to the folder stands where else the copy stands, with the same manifest beside it. From before the command is called until that
//! link is there, and again when the snapshot is to be removed, a *word* stands beside it: a link that leads nowhere and says of which
//! home it is, and in which folder, where that is known. So whoever is killed leaves a word of what has to be removed.
//!
//! One command removes what all of them have taken, and each answers success for what it does not know. So the folder is looked at, too.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{LISTED, MODE, PARTIAL, PRIVATE, SEEN, Snapshot, beside, discard, void};
use crate::checkpoint;
use crate::effects::backup::archive::REMOVED;
use crate::effects::backup::manifest::{self, Head};
use crate::effects::data::{self, Data};
use crate::effects::{mounts, process, run_command};
use crate::store::atomic;
use crate::store::disk::{self, Written};

/// How a manifest calls it.
pub const METHOD: &str = "command";

/// The variable in which the command finds the id of the snapshot, which no other home's has.
const ID: &str = "OMNIVISOR_SNAPSHOT_ID";

/// And that with the node's home.
const HOME: &str = "OMNIVISOR_SNAPSHOT_HOME";

/// What a word begins with; then comes the home.
const WORD: &str = "what a command has taken of ";

/// What comes along, as it can also be set as a command of one's own.
const BTRFS: &str = include_str!("../../../../../dist/snapshot-btrfs");
const ZFS: &str = include_str!("../../../../../dist/snapshot-zfs");

/// So many bytes of names at most are noted in a manifest, of which each line has a limit.
const NAMES: usize = 16 << 10;

/// Where the folder begins in a word: no home has this in its path, as it is [written](plain) there.
const IN: &[u8] = b"//";

/// A word is no longer, and else says no folder: XFS has links of up to 1024 bytes.
const LONGEST: usize = 1000;

/// Between two looks whether somebody is gone.
const LOOK: Duration = Duration::from_millis(50);

/// What the name of a link ends in that is about to have another one.
pub(super) const NEW: &str = ".partial-link";

/// And that of a copy that nobody wants any more, as a command is set.
const COPIED: &str = ".copied.partial-removed";

/// How snapshots are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Method {
    /// What takes those that are taken from now on; none: they are copied.
    pub takes: Option<Arc<SnapshotCommand>>,
    /// What removes those that a command has taken.
    pub removes: Option<Arc<SnapshotCommand>>,
    /// Whether what an operator [cannot do without](crate::effects::essentials) is kept where none can be taken, as they are wanted.
    pub falls_back: bool,
}

/// An operator's command, or one that comes along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotCommand {
    /// By its whole path.
    program: PathBuf,
    /// Its first arguments.
    arguments: Vec<String>,
    /// What people call it.
    name: String,
    /// Where it is known to put what it takes.
    folder: Option<PathBuf>,
    /// How long it may take; the node is down meanwhile.
    pub patience: Duration,
}

impl SnapshotCommand {
    /// This program, by its whole path, with these first arguments.
    pub fn new(program: PathBuf, arguments: Vec<String>, patience: Duration) -> Self {
        let words = arguments.iter().map(String::as_str);
        let name = [program.to_string_lossy().as_ref()].into_iter().chain(words).collect::<Vec<_>>().join(" ");
        Self { program, arguments, name, folder: None, patience }
    }

    /// The one that comes along for a home that is a subvolume of a Btrfs; snapshots go to this folder.
    pub fn btrfs(folder: &str, patience: Duration) -> Self {
        Self { folder: Some(folder.into()), ..Self::along("btrfs", BTRFS, &[folder], patience) }
    }

    /// The one that comes along for a home on a dataset of ZFS.
    pub fn zfs(patience: Duration) -> Self {
        Self::along("zfs", ZFS, &[], patience)
    }

    fn along(method: &str, script: &str, arguments: &[&str], patience: Duration) -> Self {
        let first = ["-c", script, method].into_iter().chain(arguments.iter().copied()).map(str::to_owned);
        let name = format!("snapshot.method = \"{method}\":");
        Self { name, ..Self::new("/bin/sh".into(), first.collect(), patience) }
    }

    /// Whether it could take one, as far as it can be known while the node runs.
    pub async fn check(&self, data: &Data, id: &str) -> io::Result<()> {
        let (home, apart) = (in_one(data)?, data.apart.as_slice());
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let is_in = |folder: &Path, above: &Path| real(folder).starts_with(real(above));
        if let Some(folder) = &self.folder
            && is_in(folder, home)
            && !apart.iter().any(|apart| is_in(folder, apart))
        {
            // What is taken would be a part of the home.
            return Err(io::Error::other(format!("{} is in the home {}", folder.display(), home.display())));
        }
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
        let Snapshot { data, to } = snapshot;
        let (home, apart) = (in_one(data)?, data.apart.as_slice());
        snapshot.is_ours()?;
        if to.is_symlink() && !is_whole(to) {
            void(to, home)?;
        }
        if to.is_dir() {
            return snapshot.complete(head);
        }
        if let Some(parent) = to.parent() {
            disk::make_folders(parent, PRIVATE)?;
        }
        let partial = beside(to, PARTIAL);
        let was_killed = partial.is_symlink();
        if !was_killed && partial.exists() {
            // What was copied before a command was set, and was seen of it.
            disk::remove(&beside(to, SEEN))?;
            disk::rename(&partial, &beside(to, COPIED))?;
        }
        put_word(to, PARTIAL, home)?;
        if beside(to, REMOVED).is_symlink() {
            disk::remove(&beside(to, REMOVED))?; // of a try before: what is taken now must not be removed for it
        }
        atomic::flush_folder_of(to)?;
        let taken = self.taken(home, apart, &head.id, was_killed).await;
        checkpoint::reach("snapshot-commanded");
        let named = taken.and_then(|(folder, names)| {
            let apart: Vec<String> = apart
                .iter()
                .filter_map(|path| path.strip_prefix(home).ok())
                .map(|path| path.display().to_string())
                .collect();
            let not_included = apart.iter().map(|path| format!("{path}: it stands apart")).collect();
            let head = Head { method: METHOD.to_owned(), apart, names, not_included, ..head.clone() };
            let (listed, new) = (beside(to, LISTED), beside(to, NEW));
            let mut written = Written::create(&listed, MODE)?;
            written.push(&head.to_bytes())?;
            written.flush()?;
            // First: no snapshot is believed without.
            disk::rename(&listed, &manifest::beside(to))?;
            disk::remove(&new)?;
            disk::link(&folder, &new)?;
            disk::rename(&new, to)?;
            atomic::flush_folder_of(to)?;
            disk::remove(&partial)?;
            disk::remove(&beside(to, SEEN))
        });
        named.inspect_err(|_| {
            if let Err(error) = void(to, home) {
                tracing::warn!(path = %to.display(), %error, "what a command has taken cannot be made void");
            }
            discard(to);
        })
    }

    /// Sees that what it took of this home under this id is removed, if it is there.
    pub async fn remove(&self, home: &Path, id: &str) -> io::Result<()> {
        // One that is still at work might take it after that.
        self.end_others(home, id).await?;
        self.call("remove", home, id).await.map(drop)
    }

    /// The folder, and what has to be in it. `again`: somebody who was killed may have left a command at work.
    async fn taken(&self, home: &Path, apart: &[PathBuf], id: &str, again: bool) -> io::Result<(PathBuf, Vec<String>)> {
        if again {
            self.end_others(home, id).await?;
        }
        let printed = self.call("take", home, id).await?;
        let line = printed.strip_suffix(b"\n").unwrap_or(&printed);
        let said = Path::new(OsStr::from_bytes(line));
        let wrong = |why: String| {
            let said = String::from_utf8_lossy(line).chars().take(200).collect::<String>();
            io::Error::other(format!("{} take printed {said:?}, {why}", self.name))
        };
        if !said.is_absolute() || line.contains(&b'\n') {
            return Err(wrong("and not one line with the whole path of a folder".to_owned()));
        }
        let folder = fs::canonicalize(said).map_err(|error| wrong(format!("which cannot be found: {error}")))?;
        let names = is_one(&folder, home, apart).map_err(wrong)?;
        Ok((folder, names))
    }

    /// Ends what somebody who was killed, or waited for it in vain, has left of a call with this id.
    async fn end_others(&self, home: &Path, id: &str) -> io::Result<()> {
        let (id, begun) = (unique(home, id), Instant::now());
        loop {
            let is_one = |pid: &i32| process::variable_of(*pid, ID).as_deref() == Some(id.as_bytes());
            let Some(pid) = process::all_pids().find(is_one) else { return Ok(()) };
            if begun.elapsed() > self.patience {
                return Err(io::Error::other(format!(
                    "{} is still at work, as process {pid}: it cannot be ended",
                    self.name
                )));
            }
            // Looked at once more when it is held: the number may have become another process's.
            if let Some(Ok(held)) = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()))
                && is_one(&pid)
            {
                let _ = pidfd_send_signal(&held, Signal::KILL);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn call(&self, verb: &str, home: &Path, id: &str) -> io::Result<Vec<u8>> {
        let arguments = self.arguments.iter().map(String::as_str).chain([verb]);
        let id = unique(home, id);
        let environment = [(ID, OsStr::new(&id)), (HOME, home.as_os_str())];
        run_command::run(&self.program, arguments, &environment, self.patience)
            .await
            .map_err(|error| io::Error::other(format!("{} {verb}: {error}", self.name)))
    }
}

/// A command is asked for one folder.
fn in_one(data: &Data) -> io::Result<&Path> {
    let several = || {
        io::Error::other(format!(
            "the node's data is in several folders ({}), and a snapshot.command takes a snapshot of one folder only",
            data.described()
        ))
    };
    data.one().ok_or_else(several)
}

/// What removes, by their ids, the snapshots of a home that a command has taken; an error of kind `Interrupted` says that it is to be done
/// later. None where no command is set.
pub type Remove<'a> = Option<&'a dyn Fn(&str) -> io::Result<()>>;

/// As the command has it: those of two homes may be equal.
fn unique(home: &Path, id: &str) -> String {
    format!("{:08x}-{id}", data::id(home))
}

/// However many slashes somebody has written.
fn plain(home: &Path) -> PathBuf {
    home.components().collect()
}

/// What a link says that leads nowhere.
fn word(home: &Path, folder: Option<&Path>) -> PathBuf {
    let mut word = OsString::from(WORD);
    word.push(plain(home));
    if let Some(folder) = folder.filter(|it| it.is_absolute() && word.len() + it.as_os_str().len() < LONGEST) {
        word.push("/");
        word.push(folder);
    }
    PathBuf::from(word)
}

/// Of which home a word is, and the folder that it says.
fn said(link: &Path) -> Option<(PathBuf, Option<PathBuf>)> {
    let said = fs::read_link(link).ok()?;
    let said = said.as_os_str().as_bytes().strip_prefix(WORD.as_bytes())?;
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    Some(match said.windows(IN.len()).position(|it| it == IN) {
        Some(at) => (path(&said[..at]), Some(path(&said[at + 1..]))),
        None => (path(said), None),
    })
}

/// Whether this is a word of what a command has taken of this home.
pub fn is_word_of(link: &Path, home: &Path) -> bool {
    said(link).is_some_and(|(of, _)| of == plain(home))
}

/// Puts a word beside a snapshot, with this ending, in a moment, in place of another link. It says where that one leads, if it is there.
pub fn put_word(to: &Path, ending: &str, home: &Path) -> io::Result<()> {
    let new = beside(to, NEW);
    disk::remove(&new)?;
    disk::link(&word(home, fs::read_link(to).ok().as_deref()), &new)?;
    disk::rename(&new, &beside(to, ending))
}

/// Fails where that is still there of which this word is, though a command has answered that it is not. An empty folder is nothing: it may
/// be where something was mounted, or what ZFS shows for a moment of a snapshot that is gone. Where no folder is known, the answer counts.
pub fn is_gone(word: &Path) -> io::Result<()> {
    let Some((_, Some(folder))) = said(word) else { return Ok(()) };
    match fs::read_dir(&folder).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok())) {
        false => Ok(()),
        true => Err(io::Error::other(format!(
            "{} is still there, though `remove` has succeeded: another command has taken it than the one that snapshot.method, \
             snapshot.command and snapshot.folder say now; set them as they were, or remove it by hand",
            folder.display()
        ))),
    }
}

/// A word of what is taken becomes one of what has to be removed, unless it is there whole.
pub fn turn_word(to: &Path) -> io::Result<()> {
    let partial = beside(to, PARTIAL);
    match to.is_symlink() {
        true => disk::remove(&partial),
        false => disk::rename(&partial, &beside(to, REMOVED)),
    }
}

/// Whether what a command has taken is still there where this link leads, as far as it can be told in a moment: what was mounted there may
/// be no more.
pub fn is_whole(link: &Path) -> bool {
    manifest::head(&manifest::beside(link)).is_ok_and(|head| missing(link, &head).is_none())
}

/// What is not there of what has to be.
pub fn missing(link: &Path, head: &Head) -> Option<PathBuf> {
    let folder = fs::read_link(link).unwrap_or_else(|_| link.to_owned());
    let is_missing = |path: &PathBuf| path.symlink_metadata().is_err();
    [folder.clone()].into_iter().chain(head.names.iter().map(|name| folder.join(name))).find(is_missing)
}

/// What has to be in this folder for it to hold the home as it was, or why it does not.
fn is_one(folder: &Path, home: &Path, apart: &[PathBuf]) -> Result<Vec<String>, String> {
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
    let wanted: Vec<_> = wanted.into_iter().filter(|name| !apart.contains(&home.join(name))).collect();
    match wanted.iter().find(|name| !held.contains(name)) {
        Some(missing) => Err(format!("and there is no {} in it, as there is in the home", missing.to_string_lossy())),
        None => {
            let mut room = NAMES;
            let names = wanted.into_iter().filter_map(|name| name.into_string().ok());
            Ok(names.take_while(|name| room.checked_sub(name.len() + 8).map(|left| room = left).is_some()).collect())
        }
    }
}

/// Something in the home that is no part of its file system, or is mounted there.
fn another_file_system(home: &Path, apart: &[PathBuf]) -> io::Result<Option<PathBuf>> {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (whole, kept): (PathBuf, Vec<_>) = (real(home), apart.iter().map(|path| real(path)).collect());
    let names: Vec<OsString> = fs::read_dir(home)?.map(|it| Ok(it?.file_name())).collect::<io::Result<_>>()?;
    // A file system may show its snapshots in a folder that is not listed, and mount each there.
    let is_listed = |below: &Path| below.iter().next().is_some_and(|first| names.iter().any(|name| name == first));
    let is_inside =
        |at: &PathBuf| at.strip_prefix(&whole).is_ok_and(is_listed) && !kept.iter().any(|apart| at.starts_with(apart));
    if let Some(mounted) = mounts::all()?.into_iter().find(is_inside) {
        return Ok(Some(mounted));
    }
    // A subvolume is mounted nowhere.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The word that is put beside a snapshot of `/srv/home`, where a link to this folder stands.
    fn put(place: &Path, folder: Option<&Path>) -> PathBuf {
        let to = place.join("snapshot");
        let _ = fs::remove_file(&to);
        if let Some(folder) = folder {
            std::os::unix::fs::symlink(folder, &to).unwrap();
        }
        put_word(&to, REMOVED, Path::new("/srv//home/")).unwrap();
        beside(&to, REMOVED)
    }

    #[test]
    fn a_word_says_of_which_home_it_is_and_where_that_was() {
        let place = tempfile::tempdir().unwrap();
        let long = PathBuf::from(format!("/{}", "x".repeat(1000)));
        for (folder, known) in [
            (None, None),
            (Some(Path::new("/srv/snapshots/1")), Some("/srv/snapshots/1".into())),
            (Some(Path::new("nowhere")), None),
            (Some(long.as_path()), None),
        ] {
            let word = put(place.path(), folder);
            assert_eq!(said(&word), Some(("/srv/home".into(), known)));
            assert!(is_word_of(&word, Path::new("/srv/home")) && !is_word_of(&word, Path::new("/srv/home/snapshots")));
            assert!(!is_word_of(&word, Path::new("/srv")) && !word.exists());
        }
    }

    #[test]
    fn what_is_in_a_folder_is_not_gone_and_an_empty_one_is() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("taken");
        let word = put(place.path(), Some(&folder));
        is_gone(&word).unwrap();
        fs::create_dir(&folder).unwrap();
        is_gone(&word).unwrap();
        fs::write(folder.join("data"), "").unwrap();
        let why = is_gone(&word).unwrap_err().to_string();
        assert!(why.starts_with(&folder.display().to_string()), "{why}");
        is_gone(&put(place.path(), None)).unwrap();
    }
}
