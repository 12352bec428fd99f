//! What an archive may hold: plain files and folders with plain names, each of them once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The longest name with all its folders; as long as one name may be on a Linux file system.
const LONGEST: usize = 255;

/// What is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It points to something else.
    #[error("it is a symbolic link")]
    Link,
    /// A device, a pipe, a socket, or something that there is not.
    #[error("it is neither a file nor a folder")]
    Special,
    /// Its name says one and its mode the other, or a folder has contents.
    #[error("it says that it is a folder, and that it is a file")]
    Ambiguous,
    /// It needs a password.
    #[error("it is encrypted")]
    Encrypted,
    /// It begins with a slash.
    #[error("its path is absolute")]
    Absolute,
    /// It leads out of the folder.
    #[error("its path leads upwards")]
    Upwards,
    /// A separator for some and a letter for others.
    #[error("its name has a backslash")]
    Backslash,
    /// No name is left.
    #[error("it has no name")]
    Nameless,
    /// It cannot be a name on every file system.
    #[error("its name is longer than {LONGEST} bytes")]
    Long,
    /// It cannot be printed.
    #[error("its name is not plain text")]
    Unprintable,
    /// Another entry has this name, or one that differs in case only.
    #[error("it has the name of another entry, {0:?}")]
    Duplicate(String),
    /// Another entry stands in its way.
    #[error("{0:?} would be a file and a folder")]
    FileAndFolder(String),
}

/// What an entry is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Planned {
    /// A file, and whether it can be executed.
    File { path: PathBuf, executable: bool },
    /// A folder.
    Folder { path: PathBuf },
}

/// All names of an archive, as one tree.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// By the path in lower case: there are file systems on which case does not matter.
    taken: HashMap<String, Taken>,
}

#[derive(Debug)]
struct Taken {
    /// As it was spelt first.
    path: String,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    File,
    Folder,
    /// A folder that was named in a path only.
    Implied,
}

impl Tree {
    /// Takes an entry. `mode` is the archive's, with the bits that say what it is; zero if it has none.
    pub(super) fn add(&mut self, name: &[u8], mode: u32, bytes: u64) -> Result<Planned, Refusal> {
        let name = str::from_utf8(name).map_err(|_| Refusal::Unprintable)?;
        let folder = what_it_is(name, mode, bytes)?;
        let path = plain(name)?;
        for (end, _) in path.match_indices('/') {
            self.take(&path[..end], What::Implied)?;
        }
        self.take(&path, if folder { What::Folder } else { What::File })?;
        let path = PathBuf::from(path);
        Ok(match folder {
            true => Planned::Folder { path },
            false => Planned::File { path, executable: mode & 0o7777 == 0 || mode & 0o111 != 0 },
        })
    }

    /// How many files and folders there will be.
    pub(super) fn len(&self) -> u64 {
        self.taken.len() as u64
    }

    fn take(&mut self, path: &str, what: What) -> Result<(), Refusal> {
        let Some(before) = self.taken.get_mut(&path.to_lowercase()) else {
            self.taken.insert(path.to_lowercase(), Taken { path: path.to_owned(), what });
            return Ok(());
        };
        let same = || Refusal::Duplicate(before.path.clone());
        match (before.what, what) {
            (What::File, What::File) | (What::Folder, What::Folder) => Err(same()),
            (What::File, _) | (_, What::File) => Err(Refusal::FileAndFolder(path.to_owned())),
            _ if before.path != path => Err(same()),
            (What::Implied, What::Folder) => {
                before.what = What::Folder;
                Ok(())
            }
            (_, What::Implied) => Ok(()),
        }
    }
}

/// Whether it is a folder, if it is one or a file.
fn what_it_is(name: &str, mode: u32, bytes: u64) -> Result<bool, Refusal> {
    let named_so = name.ends_with('/');
    let folder = match mode & 0o170_000 {
        0 => named_so,
        0o100_000 => false,
        0o040_000 => true,
        0o120_000 => return Err(Refusal::Link),
        _ => return Err(Refusal::Special),
    };
    if folder == named_so && !(folder && bytes > 0) { Ok(folder) } else { Err(Refusal::Ambiguous) }
}

/// The path without what means nothing in it.
fn plain(name: &str) -> Result<String, Refusal> {
    if name.len() > LONGEST {
        return Err(Refusal::Long);
    }
    if name.contains('\\') {
        return Err(Refusal::Backslash);
    }
    if name.starts_with('/') {
        return Err(Refusal::Absolute);
    }
    if name.chars().any(char::is_control) {
        return Err(Refusal::Unprintable);
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(Refusal::Upwards);
    }
    if parts.is_empty() {
        return Err(Refusal::Nameless);
    }
    let path = parts.join("/");
    debug_assert!(Path::new(&path).components().all(|part| matches!(part, std::path::Component::Normal(_))));
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u32 = 0o100_644;

    fn path_of(planned: &Planned) -> &Path {
        match planned {
            Planned::File { path, .. } | Planned::Folder { path } => path,
        }
    }

    #[test]
    fn a_plain_name_becomes_what_it_says() {
        for (name, path) in
            [("vega", "vega"), ("a/b/c", "a/b/c"), ("./a//b/./c", "a/b/c"), ("größer..", "größer.."), ("a/", "a")]
        {
            let planned = Tree::default().add(name.as_bytes(), 0, 0).unwrap();
            assert_eq!(path_of(&planned), Path::new(path), "{name}");
        }
        let dots = Tree::default().add(b"...", FILE, 9).unwrap();
        assert_eq!(dots, Planned::File { path: "...".into(), executable: false });
    }

    #[test]
    fn a_name_that_leads_anywhere_else_is_refused() {
        let long = "x".repeat(256);
        for (name, why) in [
            ("../x", Refusal::Upwards),
            ("a/../b", Refusal::Upwards),
            ("..", Refusal::Upwards),
            ("/abs", Refusal::Absolute),
            ("//", Refusal::Absolute),
            ("a\\b", Refusal::Backslash),
            ("..\\x", Refusal::Backslash),
            ("", Refusal::Nameless),
            ("./", Refusal::Nameless),
            (".", Refusal::Nameless),
            ("a\0b", Refusal::Unprintable),
            ("a\nb", Refusal::Unprintable),
            (&long, Refusal::Long),
        ] {
            assert_eq!(Tree::default().add(name.as_bytes(), 0, 0), Err(why), "{name:?}");
        }
        assert_eq!(Tree::default().add(b"\xff", 0, 0), Err(Refusal::Unprintable));
    }

    #[test]
    fn only_files_and_folders_are_taken() {
        for (name, mode, bytes, why) in [
            ("link", 0o120_777, 3, Refusal::Link),
            ("link/", 0o120_777, 0, Refusal::Link),
            ("device", 0o020_600, 0, Refusal::Special),
            ("disk", 0o060_600, 0, Refusal::Special),
            ("pipe", 0o010_600, 0, Refusal::Special),
            ("socket", 0o140_600, 0, Refusal::Special),
            ("nothing", 0o170_600, 0, Refusal::Special),
            ("folder", 0o040_755, 0, Refusal::Ambiguous),
            ("file/", FILE, 0, Refusal::Ambiguous),
            ("full/", 0o040_755, 1, Refusal::Ambiguous),
        ] {
            assert_eq!(Tree::default().add(name.as_bytes(), mode, bytes), Err(why), "{name}");
        }
    }

    #[test]
    fn no_two_entries_are_in_one_place() {
        for (entries, fits) in [
            (&["a", "b"][..], true),
            (&["a/", "a/b"], true),
            (&["a/b", "a/"], true),
            (&["a/b", "a/c", "a/"], true),
            (&["a", "a"], false),
            (&["a", "A"], false),
            (&["ä", "Ä"], false),
            (&["a", "./a"], false),
            (&["a/b", "a//b"], false),
            (&["a/", "a/"], false),
            (&["a/b", "A/c"], false),
            (&["a", "a/b"], false),
            (&["a/b", "a"], false),
            (&["a/", "a"], false),
            (&["a/b/c", "a/b"], false),
        ] {
            let mut tree = Tree::default();
            let taken = entries.iter().try_for_each(|name| tree.add(name.as_bytes(), 0, 0).map(drop));
            assert_eq!(taken.is_ok(), fits, "{entries:?}: {taken:?}");
        }
    }

    #[test]
    fn what_can_be_executed_is_so_by_its_mode_or_by_having_none() {
        for (mode, executable) in
            [(0, true), (FILE, false), (0o100_755, true), (0o100_001, true), (0o104_644, false), (0o100_000, true)]
        {
            let planned = Tree::default().add(b"it", mode, 1).unwrap();
            assert_eq!(planned, Planned::File { path: "it".into(), executable }, "{mode:o}");
        }
    }

    #[test]
    fn folders_that_are_only_named_count() {
        let mut tree = Tree::default();
        tree.add(b"a/b/c/d", 0, 0).unwrap();
        tree.add(b"a/b/e", 0, 0).unwrap();
        assert_eq!(tree.len(), 5);
    }
}
