//! The node's data: what a snapshot holds, and a restore puts back. One folder, or several that belong together.
//!
//! Of several each has a name, under which it stands in a snapshot: `core/config/node.toml` there is `config/node.toml` in core's home.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use omnivisor_core::dialect::{Dialect, Root};

use super::mounts;
use super::parts::PARTS;
use super::space::{self, Survey};
use crate::store::{disk, small};

/// The lock that whoever supervises a node keeps in each of its homes.
pub const HOME_LOCK: &str = "omnivisor.lock";

/// And the one that the node inherits.
pub const HOME_NODE_LOCK: &str = "omnivisor-node.lock";

/// So deep links are looked for.
const LINKS: usize = 1;

/// Where a node's data is.
#[derive(Clone, Debug)]
pub struct Data {
    /// Whose it is: the node's home, or that of its supervisor.
    pub home: PathBuf,
    /// The folders.
    pub roots: Vec<Root>,
    /// What of it is no part of a snapshot, and stays where it is in a restore.
    pub apart: Vec<PathBuf>,
    /// Of the folders that are on another file system than the supervisor's own, by name: where the [parts](super::parts) of copies are.
    pub parts: BTreeMap<&'static str, PathBuf>,
}

impl Data {
    /// Of a node whose release is in this folder. An error says why it is not known where all of it is, or why it could not be put back: of
    /// several folders none may be in another one, or have to do with the supervisor's own, and each has to be in one mount of one file
    /// system, with nothing else mounted in it, and no link out of it where what they hold begins.
    pub fn of(dialect: &dyn Dialect, release: &Path) -> io::Result<Self> {
        let paths = dialect.paths();
        let roots = dialect.roots(release, &|path| small::read(path).ok()).map_err(io::Error::other)?;
        let (home, mut apart) = (paths.home.clone(), paths.apart.clone());
        if let [Root { name: "", .. }] = roots.as_slice() {
            return Ok(Self { home, roots, apart, parts: BTreeMap::new() });
        }
        let roots = roots.into_iter().map(|root| Ok(Root { path: real(&root.path)?, ..root }));
        let roots = one_each(roots.collect::<io::Result<_>>()?);
        let own = [&home, &paths.state, &paths.beside, &paths.backups].map(|path| real(there(path)));
        let (mounted, mut parts) = (mounts::all()?, BTreeMap::new());
        for Root { name, path } in &roots {
            // Where that folder is not needed any more there may still be one.
            apart.extend([HOME_LOCK, HOME_NODE_LOCK, PARTS].map(|ours| path.join(ours)));
            for own in &own {
                let own = own.as_ref().map_err(|error| io::Error::other(error.to_string()))?;
                if path.starts_with(own) || own.starts_with(path) {
                    return Err(not_so(path, &format!("and {} are in one another", own.display())));
                }
            }
            if let Some(other) = roots.iter().find(|other| other.path != *path && other.path.starts_with(path)) {
                return Err(not_so(path, &format!("holds another home, {}", other.path.display())));
            }
            if !disk::is_same(path, there(&paths.beside)) {
                parts.insert(*name, parts_in(path)?);
            }
            if let Some(mounted) = mounted.iter().find(|it| *it != path && it.starts_with(path)) {
                return Err(not_so(mounted, "is mounted in a home, and a restore could not move it"));
            }
            if let Some(link) = links_out(path, &roots, &apart)?.first() {
                return Err(not_so(link, "leads out of its home, and what is there would stay when that goes back"));
            }
        }
        Ok(Self { home, roots, apart, parts })
    }

    /// As the installation is now.
    pub fn now(dialect: &dyn Dialect) -> io::Result<Self> {
        let link = &dialect.paths().link;
        let release = if link.exists() { link.clone() } else { dialect.genesis_folder() };
        Self::of(dialect, &release)
    }

    /// All that is in one folder, without what is `apart`.
    pub fn in_one(home: &Path, apart: &[PathBuf]) -> Self {
        let roots = vec![Root { name: "", path: home.to_owned() }];
        Self { home: home.to_owned(), roots, apart: apart.to_vec(), parts: BTreeMap::new() }
    }

    /// The folder, if it is one.
    pub fn one(&self) -> Option<&Path> {
        self.roots.iter().find(|root| root.name.is_empty()).map(|root| root.path.as_path())
    }

    /// Where this is, that stands so in a snapshot; none of what is above the folders.
    pub fn live(&self, below: &Path) -> Option<PathBuf> {
        if let Some(home) = self.one() {
            return Some(home.join(below));
        }
        let root = self.roots.iter().find(|root| below.starts_with(root.name))?;
        below.strip_prefix(root.name).ok().map(|below| at(&root.path, below))
    }

    /// Where what is there stands in a snapshot; none of what is no part of the data.
    pub fn below(&self, path: &Path) -> Option<PathBuf> {
        self.roots
            .iter()
            .find_map(|root| path.strip_prefix(&root.path).ok().map(|below| Path::new(root.name).join(below)))
    }

    /// What stands apart, as it would stand in a snapshot.
    pub fn apart_below(&self) -> impl Iterator<Item = PathBuf> {
        self.apart.iter().filter_map(|path| self.below(path))
    }

    /// Whether this is one of the folders, as it stands in a snapshot, or above them: it is never moved itself.
    pub fn is_root(&self, below: &Path) -> bool {
        below.as_os_str().is_empty() || self.roots.iter().any(|root| below == Path::new(root.name))
    }

    /// All of it, seen to be readable.
    pub fn survey(&self) -> io::Result<Survey> {
        self.survey_where(|_| true)
    }

    /// The same of what is copied only to where it is.
    pub fn survey_of_parts(&self) -> io::Result<Survey> {
        self.survey_where(|root| self.parts.contains_key(root.name))
    }

    fn survey_where(&self, is_one: impl Fn(&Root) -> bool) -> io::Result<Survey> {
        let mut all = Survey::default();
        for root in self.roots.iter().filter(|root| is_one(root)) {
            let found = space::survey(&root.path, &self.apart)?;
            all.bytes += found.bytes;
            all.entries += found.entries;
        }
        Ok(all)
    }

    /// One of the folders that cannot be copied by reference to this one, which may not be there yet, or to where the parts of its copies
    /// are.
    pub fn not_cloned(&self, to: &Path) -> Option<&Root> {
        let to = |root: &Root| self.parts.get(root.name).map_or(to, PathBuf::as_path);
        self.roots.iter().find(|root| !disk::can_clone(&root.path, there(to(root))))
    }

    /// Where the supervisor has no folder of its own all that is copied of a home is copied by reference: an error says of which that cannot be
    /// done.
    /// And nobody else may write to where it is.
    pub fn may_have_parts(&self) -> io::Result<()> {
        for root in &self.roots {
            self.parts.get(root.name).map_or(Ok(()), |parts| is_ours_alone(&root.path, parts))?;
        }
        let cannot =
            |root: &&Root| self.parts.get(root.name).is_some_and(|parts| !disk::can_clone(&root.path, there(parts)));
        match self.roots.iter().find(cannot) {
            Some(root) => Err(not_so(
                &root.path,
                &format!(
                    "is on another file system than {}, on which nothing is copied by reference",
                    self.home.display()
                ),
            )),
            None => Ok(()),
        }
    }

    /// Where those are that have a name, by that.
    pub fn named(&self) -> BTreeMap<String, String> {
        let several = self.roots.iter().filter(|root| !root.name.is_empty());
        several.map(|root| (root.name.to_owned(), root.path.display().to_string())).collect()
    }

    /// The links that lead out of it, where it begins: what is there is in no copy of it.
    pub fn links_out(&self) -> io::Result<Vec<PathBuf>> {
        let of = |root: &Root| links_out(&root.path, &self.roots, &self.apart);
        Ok(self.roots.iter().map(of).collect::<io::Result<Vec<_>>>()?.concat())
    }

    /// For people.
    pub fn described(&self) -> String {
        self.roots.iter().map(|root| root.path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// A number that is the same for this home however it is written, and hardly another one's.
pub fn id(home: &Path) -> u32 {
    let plain: PathBuf = home.components().collect();
    crc32fast::hash(plain.as_os_str().as_bytes())
}

fn real(path: &Path) -> io::Result<PathBuf> {
    path.canonicalize().map_err(|error| unseen(path, &error))
}

fn unseen(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{} cannot be found: {error}", path.display()))
}

/// The nearest folder above that is there.
fn there(path: &Path) -> &Path {
    path.ancestors().find(|folder| folder.is_dir()).unwrap_or(path)
}

/// The links to folders that are in none of these, among what is in a home or in a folder there: so do operators move a database to another
/// disk.
fn links_out(home: &Path, roots: &[Root], apart: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let roots: Vec<PathBuf> = roots.iter().filter_map(|root| real(&root.path).ok()).collect();
    let mut links = Vec::new();
    let mut folders = vec![(home.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // a node is at work there
            entries => entries.map_err(|error| unseen(&folder, &error))?,
        };
        for entry in entries {
            let entry = entry.map_err(|error| unseen(&folder, &error))?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if apart.contains(&path) {
                continue;
            }
            if kind.is_dir() && depth < LINKS {
                folders.push((path, depth + 1));
            } else if kind.is_symlink()
                && path.is_dir()
                && real(&path).is_ok_and(|target| !roots.iter().any(|root| target.starts_with(root)))
            {
                links.push(path);
            }
        }
    }
    Ok(links)
}

/// Whether nobody else may move the folder of ours in a home, or what is in it: what is copied there would be written elsewhere.
fn is_ours_alone(home: &Path, parts: &Path) -> io::Result<()> {
    let us = rustix::process::geteuid().as_raw();
    let whose = fs::metadata(home).map_err(|error| unseen(home, &error))?;
    if whose.uid() != us || whose.mode() & 0o022 != 0 {
        let why = "is on another file system, is not this user's, or others may write to it: they could lead a copy elsewhere";
        return Err(not_so(home, why));
    }
    match fs::symlink_metadata(parts) {
        Ok(there) if there.uid() != us || there.mode() & 0o077 != 0 => Err(not_so(parts, "is not this user's alone")),
        _ => Ok(()),
    }
}

/// The folder of ours in a home, which may not be there yet.
fn parts_in(home: &Path) -> io::Result<PathBuf> {
    let parts = home.join(PARTS);
    match fs::symlink_metadata(&parts) {
        Ok(there) if !there.is_dir() || !disk::is_same(home, &parts) => {
            Err(not_so(&parts, "is no folder on its home's own file system"))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unseen(&parts, &error)),
        _ => Ok(parts),
    }
}

/// What is one folder has one name, the first.
fn one_each(roots: Vec<Root>) -> Vec<Root> {
    let mut each: Vec<Root> = Vec::new();
    for root in roots {
        if !each.iter().any(|other| other.path == root.path) {
            each.push(root);
        }
    }
    each
}

fn not_so(path: &Path, why: &str) -> io::Error {
    io::Error::other(format!("the node's data is in several folders, and {} {why}", path.display()))
}

/// Where a folder of this name is, in what holds a copy of all of them.
pub fn at(copy: &Path, name: impl AsRef<Path>) -> PathBuf {
    // With nothing joined to it a path would end in a slash.
    if name.as_ref().as_os_str().is_empty() { copy.to_owned() } else { copy.join(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_a_snapshot_is_somewhere_and_back() {
        let one = Data::in_one(Path::new("/home"), &["/home/apart".into(), "/other".into()]);
        assert_eq!(one.live(Path::new("a/b")), Some("/home/a/b".into()));
        assert_eq!(one.live(Path::new("")).as_deref(), Some(Path::new("/home")));
        assert_eq!(one.below(Path::new("/home/a")), Some("a".into()));
        assert_eq!(one.apart_below().collect::<Vec<_>>(), [Path::new("apart")]);
        assert!(one.is_root(Path::new("")) && !one.is_root(Path::new("a")));

        let root = |name, path: &str| Root { name, path: path.into() };
        let roots = vec![root("core", "/srv/vega"), root("consensus", "/var/tm")];
        let apart = vec!["/visor".into(), "/srv/vega/visor".into()];
        let several = Data { home: "/visor".into(), roots, apart, parts: BTreeMap::new() };
        assert_eq!(several.one(), None);
        assert_eq!(several.live(Path::new("")), None);
        assert_eq!(several.live(Path::new("core")), Some("/srv/vega".into()));
        assert_eq!(several.live(Path::new("consensus/data/db")), Some("/var/tm/data/db".into()));
        assert_eq!(several.live(Path::new("corette")), None);
        assert_eq!(several.below(Path::new("/var/tm/data")), Some("consensus/data".into()));
        assert_eq!(several.below(Path::new("/visor/x")), None);
        assert_eq!(several.apart_below().collect::<Vec<_>>(), [Path::new("core/visor")]);
        assert!(several.is_root(Path::new("core")) && !several.is_root(Path::new("core/a")));
    }
}
