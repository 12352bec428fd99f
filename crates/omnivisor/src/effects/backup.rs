//! What there is to go back to: snapshots as folders, archives of them, and the archives that Nymvisor makes.
//!
//! They are in `<backups>/<release>/`. A folder or an archive of ours is a backup with the manifest that stands beside it, and none
//! without. Nothing here is kept in memory or anywhere else: what is there is read, by whoever wants to know.

pub mod archive;
pub mod contents;
pub mod differs;
pub mod entry;
mod head;
pub mod keep;
pub mod manifest;
pub mod member;
pub mod only;
pub mod pack;
pub mod seal;
pub mod unpack;
pub mod verify;

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use omnivisor_core::time::Timestamp;

use self::entry::{Walk, What};
use self::manifest::Head;
pub use self::only::Only;
pub use self::unpack::{unpack, unpack_some};
use super::data::Data;
use super::essentials;
use super::parts;
use super::snapshot::command;
use crate::store::disk;

/// Among so many entries a file is looked for that a copy by reference can be tried with.
const TRIED: usize = 1000;

/// What an archive that is compressed may make its reader keep in memory: 128 MiB, as `zstd` itself by default.
const WINDOW_LOG: u32 = 27;

/// What form a backup has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A link to a folder that an operator's command has made.
    Command,
    /// An archive of ours, `tar.zst`.
    TarZst,
    /// An archive of ours, `tar.gz`.
    TarGz,
    /// An archive that Nymvisor made, `tar.gz`. It has no manifest.
    Nymvisor,
    /// What was [kept](essentials) in place of a snapshot: no backup, as it is never put back. Listed, compared and removed as those are.
    Essentials,
}

impl Kind {
    /// As it is listed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Command => "command",
            Self::TarZst => "tar.zst",
            Self::TarGz => "tar.gz",
            Self::Nymvisor => "nymvisor",
            Self::Essentials => "essentials",
        }
    }
}

/// A backup.
#[derive(Clone, Debug)]
pub struct Backup {
    /// Its name: of ours `<begun ms>-<number>`, and `essentials-` before that of what is none; of Nymvisor's the name of the file without its
    /// ending.
    pub id: String,
    /// The folder that it is in, which is called as the release that was to run then.
    pub release: String,
    /// What form it has.
    pub kind: Kind,
    /// Where it is; see [`Backup::tree`].
    pub path: PathBuf,
    /// What its manifest says of it.
    pub head: Option<Head>,
    /// When it was taken: by its manifest, of Nymvisor's by its name; where nothing says it, when its file was last modified.
    pub taken: Timestamp,
    /// How many bytes it takes; of a folder, those of its files, once they have been counted.
    pub bytes: Option<u64>,
    /// Whether its manifest lists what is in it.
    pub sealed: bool,
    /// Why it is no backup, though it looks like one.
    pub damaged: Option<String>,
    /// What is not as its list says, if somebody has found that: what is can be put back.
    pub differs: Option<String>,
}

impl Backup {
    /// Whether it was taken of this home, as its manifest says.
    pub fn is_of(&self, home: &Path) -> bool {
        self.head.as_ref().is_some_and(|head| Path::new(&head.home) == home)
    }

    /// Whether nothing is known to be wrong with it.
    pub fn is_good(&self) -> bool {
        self.damaged.is_none() && self.differs.is_none()
    }

    /// The folder that holds it, and what of that is no part of it; none of an archive.
    pub fn tree(&self) -> Option<(PathBuf, Vec<PathBuf>)> {
        match self.kind {
            Kind::Folder | Kind::Command | Kind::Essentials => {
                Some((led(&self.path), self.head.iter().flat_map(|head| &head.apart).map(PathBuf::from).collect()))
            }
            Kind::TarZst | Kind::TarGz | Kind::Nymvisor => None,
        }
    }

    /// Where a copy of what is meant of it takes room, and how much: in this folder, and where the parts are of homes that are on other file
    /// systems. Not where it is made by reference.
    pub fn room(&self, data: &Data, beside: &Path, only: &Only) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut rooms: Vec<(PathBuf, u64)> = Vec::new();
        if data.one().is_some() {
            if !self.is_copied_by_reference(beside) {
                let known = self.head.as_ref().and_then(|head| head.bytes).filter(|_| only.is_all());
                let bytes = known.map_or_else(|| verify::size(self, only), |bytes| Ok(Some(bytes)))?;
                rooms.extend(bytes.or(self.bytes).map(|bytes| (beside.to_owned(), bytes)));
            }
            return Ok(rooms);
        }
        for root in data.roots.iter().filter(|root| only.has(Path::new(root.name))) {
            let to = data.parts.get(root.name).map_or(beside, PathBuf::as_path);
            let existing = to.ancestors().find(|it| it.is_dir()).unwrap_or(to);
            if self.kind != Kind::Folder || !disk::can_clone(&parts::real(self.path.join(root.name)), existing) {
                let bytes = verify::size(self, &only.within(Path::new(root.name)))?.unwrap_or_default();
                match rooms.iter_mut().find(|room| room.0 == to) {
                    Some(room) => room.1 += bytes,
                    None => rooms.push((to.to_owned(), bytes)),
                }
            }
        }
        Ok(rooms)
    }

    /// Whether a copy of it there takes next to no room.
    fn is_copied_by_reference(&self, to: &Path) -> bool {
        match self.kind {
            Kind::Folder => disk::can_clone(&self.path, to),
            // It may be one that nobody can write to, not even to try: so with a file of it.
            Kind::Command => {
                let all = self.tree().map(|(root, apart)| Walk::of(&root).without(apart));
                let mut some = all.into_iter().flatten().flatten().take(TRIED);
                let file = some.find(|entry| matches!(entry.what, What::File { bytes: 1.. }));
                let file = file.and_then(|file| File::open(led(&self.path).join(file.path)).ok());
                file.is_some_and(|file| disk::can_clone_all([(&file, to)]))
            }
            Kind::TarZst | Kind::TarGz | Kind::Nymvisor | Kind::Essentials => false,
        }
    }
}

/// Where a link leads; a folder is where it is.
fn led(path: &Path) -> PathBuf {
    fs::read_link(path).unwrap_or_else(|_| path.to_owned())
}

/// Every entry of what is at this path, a folder or a link to one, with this manifest's head.
fn walk(path: &Path, head: &Head) -> Walk {
    Walk::of(&led(path)).without(head.apart.iter().map(PathBuf::from).collect())
}

/// Why no backup is meant.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// None is called so.
    #[error("there is no backup {id:?} in {folder}", folder = .folder.display())]
    None {
        /// What was asked for.
        id: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// Several are.
    #[error("{id:?} may be each of {all}")]
    Several {
        /// What was asked for.
        id: String,
        /// What they are called.
        all: String,
    },
}

/// All backups in this folder, the newest first. What looks like one and is none is among them, and says why; what is being made is
/// not. What cannot be looked into has none.
pub fn list(backups: &Path) -> Vec<Backup> {
    let folders = fs::read_dir(backups).into_iter().flatten().flatten().map(|it| it.path()).filter(|it| it.is_dir());
    let entries = folders.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let mut all: Vec<Backup> = entries.filter_map(|entry| look(&entry.path())).collect();
    all.sort_by(|one, other| other.taken.cmp(&one.taken).then_with(|| one.path.cmp(&other.path)));
    all
}

/// The one that is called so, or begins so, if no other one does. Of a snapshot that is there as a folder and as an archive, the
/// folder.
pub fn find(backups: &Path, id: &str) -> Result<Backup, FindError> {
    let mut found: Vec<Backup> = list(backups).into_iter().filter(|it| it.id.starts_with(id)).collect();
    if found.iter().any(|it| it.id == id) {
        found.retain(|it| it.id == id);
    }
    found.sort_by_key(|it| (!it.is_good(), it.damaged.is_some(), it.kind != Kind::Folder));
    if found.iter().any(|it| it.id != found[0].id) {
        let all = found.iter().map(|it| it.id.as_str()).collect::<Vec<_>>().join(", ");
        return Err(FindError::Several { id: id.to_owned(), all });
    }
    found.into_iter().next().ok_or_else(|| FindError::None { id: id.to_owned(), folder: backups.to_owned() })
}

/// What is at this path, if it is called as a backup.
fn look(path: &Path) -> Option<Backup> {
    let name = path.file_name()?.to_str()?;
    let metadata = fs::symlink_metadata(path).ok()?;
    let (kind, stem) =
        if let Some(id) = name.strip_prefix("snapshot-").and_then(|rest| rest.strip_suffix("-preupgrade")) {
            let kind = if metadata.is_symlink() { Kind::Command } else { Kind::Folder };
            (metadata.is_dir() || metadata.is_symlink()).then_some((kind, id))?
        } else if let Some(id) = name.strip_prefix(essentials::NAME) {
            // Its name is its id: whoever looks for the snapshot of an upgrade must not find it.
            let is_whole = metadata.is_dir() && id.bytes().all(|it| it.is_ascii_digit() || it == b'-');
            is_whole.then_some((Kind::Essentials, name))?
        } else {
            let is_archive = name.starts_with("backup-") && metadata.is_file();
            let (kind, stem) = match name.strip_suffix(".tar.zst") {
                Some(stem) => (Kind::TarZst, stem),
                None => (Kind::TarGz, name.strip_suffix(".tar.gz")?),
            };
            is_archive.then_some((kind, stem))?
        };
    let release = path.parent()?.file_name()?.to_string_lossy().into_owned();
    let manifest = manifest::beside(path);
    let modified = metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let mut backup = Backup {
        id: stem.to_owned(),
        release,
        kind,
        path: path.to_owned(),
        head: None,
        taken: Timestamp::EPOCH.plus(modified.unwrap_or_default()),
        bytes: metadata.is_file().then_some(metadata.len()),
        sealed: false,
        damaged: None,
        differs: differs::noted(path),
    };
    match manifest::head(&manifest) {
        Ok(head) => {
            backup.id.clone_from(&head.id);
            backup.taken = head.taken().unwrap_or(backup.taken);
            backup.bytes = backup.bytes.or(head.bytes);
            backup.sealed = manifest::is_sealed(&manifest);
            if !metadata.is_file() && head.id != stem {
                backup.id = stem.to_owned();
                backup.damaged = Some(format!("its manifest is one of {}", head.id));
            } else if let (Kind::Command, Some(missing)) = (kind, command::missing(path, &head)) {
                backup.damaged = Some(format!("{}, which a command has taken, is not there", missing.display()));
            } else if let Some(missing) = parts::missing(path).filter(|_| kind == Kind::Folder) {
                backup.damaged = Some(format!("a part of it, {}, is not there", missing.display()));
            } else if metadata.is_file() && !backup.sealed {
                backup.damaged = Some("its manifest does not list what is in it".to_owned());
            }
            backup.head = Some(head);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match kind {
            Kind::TarGz => {
                backup.kind = Kind::Nymvisor;
                backup.taken = archive::taken(stem).unwrap_or(backup.taken); // a copy of the file is no newer
            }
            _ => backup.damaged = Some("it has no manifest: nothing says that it is whole".to_owned()),
        },
        Err(error) => backup.damaged = Some(error.to_string()),
    }
    Some(backup)
}

/// What a decoder cannot read is invalid data, whatever it calls it; what a disk says stays what it is.
struct Decoded<R>(R);

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.raw_os_error() {
            None if error.kind() != io::ErrorKind::Interrupted => member::damaged(&error.to_string()),
            _ => error,
        })
    }
}

/// What is in an archive, not compressed any more.
fn open(path: &Path, kind: Kind) -> io::Result<Box<dyn Read>> {
    let file = BufReader::with_capacity(256 << 10, File::open(path).map_err(|error| entry::named(path, error))?);
    match kind {
        Kind::TarZst => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(file)?;
            decoder.window_log_max(WINDOW_LOG)?;
            Ok(Box::new(Decoded(decoder)))
        }
        Kind::TarGz | Kind::Nymvisor => Ok(Box::new(Decoded(flate2::bufread::MultiGzDecoder::new(file)))),
        Kind::Folder | Kind::Command | Kind::Essentials => {
            Err(io::Error::other(format!("{} is no archive", path.display())))
        }
    }
}
