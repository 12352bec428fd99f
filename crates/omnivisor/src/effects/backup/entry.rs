//! What a backup holds, entry by entry, in the one order that all of them are written, read and compared in: a folder, then what
//! is in it, by name. So two of them are compared side by side, and neither is ever whole in memory.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

use crate::effects::parts;

/// The longest list of names of extended attributes, and the longest value, that Linux has.
const XATTR: usize = 64 << 10;

/// A file, a folder, or what else there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Below the root; empty: the root itself.
    pub path: PathBuf,
    /// What it is.
    pub what: What,
    /// Who may do what with it: the lower twelve bits.
    pub mode: u32,
    /// Whose it is.
    pub uid: u64,
    /// And which group's.
    pub gid: u64,
    /// When it was modified: seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
    /// Under how many names it is there; zero if that is not known.
    pub names: u64,
    /// Its extended attributes, by name. A symbolic link has none.
    pub attributes: Vec<(CString, Vec<u8>)>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A folder.
    Folder,
    /// A file of so many bytes.
    File {
        /// How many.
        bytes: u64,
    },
    /// One more name of a file that came before, under this path.
    Again {
        /// Its first name.
        first: PathBuf,
        /// How many bytes it has.
        bytes: u64,
    },
    /// A symbolic link.
    Link {
        /// What it says.
        target: PathBuf,
    },
    /// A named pipe.
    Pipe,
}

/// All entries of a tree, the root first. Sockets and devices are none. What has [parts] is shown as if these were in it.
///
/// In memory are the names of the folders that it is in, and the first name of each file that has several.
#[derive(Debug)]
pub struct Walk {
    root: PathBuf,
    /// Of each folder that it is in, the names that are still to come, the last one first.
    folders: Vec<(PathBuf, Vec<OsString>)>,
    begun: bool,
    first: HashMap<(u64, u64), PathBuf>,
    /// These are passed over.
    apart: Vec<PathBuf>,
    /// What of it is elsewhere, by its name in it.
    parts: HashMap<PathBuf, PathBuf>,
}

impl Walk {
    /// Of what is in this folder.
    pub fn of(root: &Path) -> Self {
        // What cannot be read is an error when it is looked at.
        let parts = parts::all(root).into_iter().flatten().map(|(name, part)| (name.into(), part)).collect();
        let (root, folders, first, apart) = (root.to_owned(), Vec::new(), HashMap::new(), Vec::new());
        Self { root, folders, begun: false, first, apart, parts }
    }

    /// The same without these, below it.
    pub fn without(self, apart: Vec<PathBuf>) -> Self {
        Self { apart, ..self }
    }

    fn advance(&mut self) -> io::Result<Option<Entry>> {
        if !self.begun {
            self.begun = true;
            return self.look(PathBuf::new());
        }
        while let Some((folder, names)) = self.folders.last_mut() {
            let Some(name) = names.pop() else {
                self.folders.pop();
                continue;
            };
            let path = folder.join(name);
            if self.apart.contains(&path) {
                continue;
            }
            if let Some(entry) = self.look(path)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn look(&mut self, path: PathBuf) -> io::Result<Option<Entry>> {
        let full = self.full(&path);
        let metadata = fs::symlink_metadata(&full).map_err(|error| named(&full, error))?;
        let kind = metadata.file_type();
        let what = if kind.is_dir() {
            let names = fs::read_dir(&full).and_then(|entries| entries.map(|it| Ok(it?.file_name())).collect());
            let mut names: Vec<OsString> = names.map_err(|error| named(&full, error))?;
            names.sort_unstable_by(|one, other| other.cmp(one));
            self.folders.push((path.clone(), names));
            What::Folder
        } else if kind.is_file() {
            self.file(&path, &metadata)
        } else if kind.is_symlink() {
            What::Link { target: fs::read_link(&full).map_err(|error| named(&full, error))? }
        } else if kind.is_fifo() {
            What::Pipe
        } else {
            return Ok(None);
        };
        let attributes = if kind.is_symlink() { Vec::new() } else { attributes(&full)? };
        Ok(Some(Entry {
            path,
            what,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid().into(),
            gid: metadata.gid().into(),
            modified: (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap_or_default()),
            names: metadata.nlink(),
            attributes,
        }))
    }

    fn file(&mut self, path: &Path, metadata: &Metadata) -> What {
        let bytes = metadata.len();
        if metadata.nlink() > 1 {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(first) = self.first.get(&inode) {
                return What::Again { first: first.clone(), bytes };
            }
            self.first.insert(inode, path.to_owned());
        }
        What::File { bytes }
    }

    /// Where an entry is.
    pub fn full(&self, path: &Path) -> PathBuf {
        // Joining nothing would put a slash behind it.
        match self.parts.get(path) {
            Some(part) => part.clone(),
            None if path.as_os_str().is_empty() => self.root.clone(),
            None => self.root.join(path),
        }
    }
}

impl Iterator for Walk {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// The extended attributes that this process may read, by name: all, as root.
fn attributes(path: &Path) -> io::Result<Vec<(CString, Vec<u8>)>> {
    let mut list = vec![0; XATTR];
    let length = match llistxattr(path, &mut list) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(named(path, error.into())),
    };
    let names = list[..length].split_inclusive(|byte| *byte == 0);
    let mut found = Vec::new();
    for name in names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
        let mut value = vec![0; XATTR];
        match lgetxattr(path, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                value.shrink_to_fit();
                found.push((name.to_owned(), value));
            }
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(error) => return Err(named(path, error.into())),
        }
    }
    found.sort_unstable();
    Ok(found)
}

pub(super) fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
