//! A disk as POSIX promises it, and no better: what was written and not flushed is there, or not, or in part, in any order;
//! a name that was made, moved or removed is so once its folder is flushed, and may or may not be before. A rename is one
//! change: what it moves is under one of its names.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use omnivisor::store::trace::Call;

/// What a disk holds: every path below its root, and what is there.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    File(Vec<u8>),
    Folder,
    Link(PathBuf),
    Pipe,
}

/// Up to so many changes of names are lost in every combination; of more, each alone, all but each, and what came first.
const COMBINED: usize = 6;

/// What is no larger is torn in the middle.
const SMALL: usize = 64;

/// A disk writes so many bytes as one.
const BLOCK: usize = 512;

type Number = usize;

/// What is there, whatever its names.
#[derive(Clone, Debug)]
enum Inode {
    File(File),
    /// Its names, as they are durable.
    Folder(BTreeMap<OsString, Number>),
    Link(PathBuf),
    Pipe,
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    /// What was done to it since it was flushed.
    pending: Vec<Edit>,
}

#[derive(Clone, Debug)]
enum Edit {
    Empty,
    Write(usize, Vec<u8>),
}

/// Names that change together, in folders.
#[derive(Clone, Debug)]
struct Renaming {
    /// Each is: in this folder, this name, is now this.
    names: Vec<(Number, OsString, Option<Number>)>,
    /// Durable once all of these are flushed.
    folders: BTreeSet<Number>,
}

/// A disk at work.
#[derive(Clone, Debug)]
pub struct Disk {
    root: PathBuf,
    inodes: Vec<Inode>,
    /// Changes of names since their folders were flushed, in order.
    pending: Vec<Renaming>,
    /// What is on a second disk: nothing of it is flushed with all of the first one, and nothing is moved from one to the other.
    second: BTreeSet<Number>,
}

const ROOT: Number = 0;

/// What is called so is on a second disk, with all that is in it.
pub const SECOND: &str = "second-disk";

impl Disk {
    /// One on which this is durable below `root`.
    pub fn with(root: &Path, tree: &Tree) -> Self {
        let inodes = vec![Inode::Folder(BTreeMap::new())];
        let mut disk = Self { root: root.to_owned(), inodes, pending: Vec::new(), second: BTreeSet::new() };
        for (path, entry) in tree {
            let inode = match entry {
                Entry::File(bytes) => Inode::File(File { durable: bytes.clone(), pending: Vec::new() }),
                Entry::Folder => Inode::Folder(BTreeMap::new()),
                Entry::Link(target) => Inode::Link(target.clone()),
                Entry::Pipe => Inode::Pipe,
            };
            let number = disk.add(inode);
            let (folder, name) = disk.place(&root.join(path)).unwrap_or_else(|why| panic!("{why}"));
            disk.is_in(folder, &name, number);
            disk.names_of(folder).insert(name, number);
        }
        disk
    }

    /// Does what was done. An error is a call that could not have been made.
    pub fn apply(&mut self, call: &Call) -> Result<(), String> {
        match call {
            Call::MakeFile { path } => match self.find(path) {
                Some(number) => self.file(number, path)?.pending.push(Edit::Empty),
                None => self.make(path, Inode::File(File::default()))?,
            },
            Call::Write { path, at, bytes } => {
                let number = self.find(path).ok_or_else(|| missing(path))?;
                let at = usize::try_from(*at).map_err(|error| error.to_string())?;
                self.file(number, path)?.pending.push(Edit::Write(at, bytes.clone()));
            }
            Call::Copy { path } => return Err(format!("{} was not kept as what it is", path.display())),
            Call::Flush { path } => {
                let number = self.find(path).ok_or_else(|| missing(path))?;
                let file = self.file(number, path)?;
                file.durable = file.live();
                file.pending.clear();
            }
            Call::FlushFolder { path } => {
                let folder = self.follow(path).ok_or_else(|| missing(path))?;
                self.flush_names(|it| it == folder);
            }
            Call::FlushAll { path } => {
                let there = self.follow(path).ok_or_else(|| missing(path))?;
                let second = self.second.clone();
                let is_there = |number: Number| second.contains(&number) == second.contains(&there);
                for (number, inode) in self.inodes.iter_mut().enumerate() {
                    if let Inode::File(file) = inode
                        && is_there(number)
                    {
                        file.durable = file.live();
                        file.pending.clear();
                    }
                }
                self.flush_names(is_there);
            }
            Call::Rename { from, to } => {
                let number = self.find(from).ok_or_else(|| missing(from))?;
                let ((source, old), (target, new)) = (self.place(from)?, self.place(to)?);
                if self.second.contains(&number) != self.second.contains(&target) {
                    return Err(format!("{} is on another disk than {}", from.display(), to.display()));
                }
                // Whoever flushes the folder that it is moved to has moved it.
                self.pending.push(Renaming {
                    names: vec![(target, new, Some(number)), (source, old, None)],
                    folders: [target].into(),
                });
            }
            Call::Exchange { one, other } => {
                let (first, second) = (self.find(one), self.find(other));
                let (first, second) = (first.ok_or_else(|| missing(one))?, second.ok_or_else(|| missing(other))?);
                let ((a, x), (b, y)) = (self.place(one)?, self.place(other)?);
                self.pending
                    .push(Renaming { names: vec![(b, y, Some(first)), (a, x, Some(second))], folders: [a, b].into() });
            }
            Call::Link { path, target } => self.make(path, Inode::Link(target.clone()))?,
            Call::HardLink { path, file } => {
                let number = self.find(file).ok_or_else(|| missing(file))?;
                self.name(path, number)?;
            }
            Call::MakePipe { path } => self.make(path, Inode::Pipe)?,
            Call::MakeFolder { path } => self.make(path, Inode::Folder(BTreeMap::new()))?,
            Call::Remove { path } => {
                let number = self.find(path).ok_or_else(|| missing(path))?;
                self.remove(number, path)?;
            }
        }
        Ok(())
    }

    /// What the program sees.
    pub fn live(&self) -> Tree {
        let mut disk = self.clone();
        for inode in &mut disk.inodes {
            if let Inode::File(file) = inode {
                file.durable = file.live();
                file.pending.clear();
            }
        }
        disk.flush_names(|_| true);
        disk.tree(&BTreeMap::new())
    }

    /// Everything that it may hold if the power goes now, each once.
    pub fn after_power_cut(&self) -> BTreeSet<Tree> {
        let mut states = BTreeSet::new();
        for lost in lost_of(self.pending.len()) {
            let mut disk = self.clone();
            let pending = std::mem::take(&mut disk.pending);
            for (index, renaming) in pending.into_iter().enumerate() {
                if !lost.contains(&index) {
                    disk.settle(&renaming);
                }
            }
            // With many names under way their files are torn while all of them are there.
            let torn = lost.is_empty() || self.pending.len() <= COMBINED;
            states.extend(disk.with_files_torn(torn));
        }
        states
    }

    /// With durable names as they are: every file whole; then each in every way in which it may be torn, while the others
    /// are whole, and while they are empty.
    fn with_files_torn(&self, torn: bool) -> Vec<Tree> {
        let ways: Vec<(Number, Vec<Vec<u8>>)> = self
            .inodes
            .iter()
            .enumerate()
            .filter_map(|(number, inode)| match inode {
                Inode::File(file) if !file.pending.is_empty() => Some((number, file.torn())),
                _ => None,
            })
            .collect();
        let whole: BTreeMap<Number, &Vec<u8>> = ways.iter().map(|(number, ways)| (*number, &ways[0])).collect();
        let untouched: BTreeMap<Number, &Vec<u8>> =
            ways.iter().filter_map(|(number, ways)| Some((*number, ways.last()?))).collect();
        let mut trees = vec![self.tree(&whole), self.tree(&untouched)];
        if !torn {
            return trees;
        }
        for (number, ways) in &ways {
            let others = if ways.len() > 1 { &[&whole, &untouched][..] } else { &[&whole] };
            for others in others {
                for way in ways {
                    let mut contents = (*others).clone();
                    contents.insert(*number, way);
                    trees.push(self.tree(&contents));
                }
            }
        }
        trees
    }

    fn tree(&self, contents: &BTreeMap<Number, &Vec<u8>>) -> Tree {
        let mut tree = Tree::new();
        let mut folders = vec![(ROOT, PathBuf::new())];
        while let Some((number, below)) = folders.pop() {
            let Inode::Folder(names) = &self.inodes[number] else { continue };
            for (name, number) in names {
                let path = below.join(name);
                let entry = match &self.inodes[*number] {
                    Inode::File(file) => {
                        Entry::File(contents.get(number).map_or_else(|| file.durable.clone(), |it| (*it).clone()))
                    }
                    Inode::Folder(_) => {
                        folders.push((*number, path.clone()));
                        Entry::Folder
                    }
                    Inode::Link(target) => Entry::Link(target.clone()),
                    Inode::Pipe => Entry::Pipe,
                };
                tree.insert(path, entry);
            }
        }
        tree
    }

    fn flush_names(&mut self, flushed: impl Fn(Number) -> bool) {
        for renaming in &mut self.pending {
            renaming.folders.retain(|folder| !flushed(*folder));
        }
        // What was moved on durably is not where it was before, whether that was flushed or not.
        let mut moved = BTreeSet::new();
        let mut durable = Vec::new();
        for renaming in self.pending.iter().rev() {
            let moves = |it: &Renaming| it.names.iter().filter_map(|(_, _, number)| *number).collect::<Vec<_>>();
            let is_durable = renaming.folders.is_empty() || moves(renaming).iter().any(|number| moved.contains(number));
            if is_durable {
                moved.extend(moves(renaming));
            }
            durable.push(is_durable);
        }
        durable.reverse();
        let (mut pending, mut index) = (std::mem::take(&mut self.pending), 0);
        for (renaming, is_durable) in pending.iter().zip(&durable) {
            if *is_durable {
                self.settle(renaming);
            }
        }
        pending.retain(|_| {
            index += 1;
            !durable[index - 1]
        });
        self.pending = pending;
    }

    fn settle(&mut self, renaming: &Renaming) {
        for (folder, name, number) in &renaming.names {
            match number {
                Some(number) => {
                    // Nothing has two names here: what is moved on, without the move before it, leaves where it was.
                    for inode in &mut self.inodes {
                        if let Inode::Folder(names) = inode {
                            names.retain(|_, it| it != number);
                        }
                    }
                    self.names_of(*folder).insert(name.clone(), *number);
                }
                None => {
                    self.names_of(*folder).remove(name);
                }
            }
        }
    }

    fn make(&mut self, path: &Path, inode: Inode) -> Result<(), String> {
        if self.find(path).is_some() {
            return Err(format!("{} is there already", path.display()));
        }
        let number = self.add(inode);
        self.name(path, number)
    }

    fn name(&mut self, path: &Path, number: Number) -> Result<(), String> {
        let (folder, name) = self.place(path)?;
        self.is_in(folder, &name, number);
        self.pending.push(Renaming { names: vec![(folder, name, Some(number))], folders: [folder].into() });
        Ok(())
    }

    fn is_in(&mut self, folder: Number, name: &OsStr, number: Number) {
        if name == SECOND || self.second.contains(&folder) {
            self.second.insert(number);
        }
    }

    /// What is in it first, as the program can do no other.
    fn remove(&mut self, number: Number, path: &Path) -> Result<(), String> {
        if let Inode::Folder(_) = &self.inodes[number] {
            for (name, inner) in self.live_names(number) {
                self.remove(inner, &path.join(name))?;
            }
        }
        let (folder, name) = self.place(path)?;
        self.pending.push(Renaming { names: vec![(folder, name, None)], folders: [folder].into() });
        Ok(())
    }

    fn add(&mut self, inode: Inode) -> Number {
        self.inodes.push(inode);
        self.inodes.len() - 1
    }

    fn file(&mut self, number: Number, path: &Path) -> Result<&mut File, String> {
        match &mut self.inodes[number] {
            Inode::File(file) => Ok(file),
            _ => Err(format!("{} is no file", path.display())),
        }
    }

    fn names_of(&mut self, folder: Number) -> &mut BTreeMap<OsString, Number> {
        match &mut self.inodes[folder] {
            Inode::Folder(names) => names,
            other => panic!("{other:?} is no folder"),
        }
    }

    /// Its names as the program sees them.
    fn live_names(&self, folder: Number) -> BTreeMap<OsString, Number> {
        let Inode::Folder(names) = &self.inodes[folder] else { return BTreeMap::new() };
        let mut names = names.clone();
        for (_, name, number) in self.pending.iter().flat_map(|it| &it.names).filter(|(of, ..)| *of == folder) {
            match number {
                Some(number) => names.insert(name.clone(), *number),
                None => names.remove(name),
            };
        }
        names
    }

    fn find(&self, path: &Path) -> Option<Number> {
        if path == self.root {
            return Some(ROOT);
        }
        let folder = self.follow(path.parent()?)?;
        self.live_names(folder).get(path.file_name()?).copied()
    }

    /// What a link leads to; else the same.
    fn follow(&self, path: &Path) -> Option<Number> {
        let number = self.find(path)?;
        match &self.inodes[number] {
            Inode::Link(target) => self.follow(&path.parent()?.join(target)),
            _ => Some(number),
        }
    }

    fn place(&self, path: &Path) -> Result<(Number, OsString), String> {
        let folder = path.parent().and_then(|folder| self.follow(folder)).ok_or_else(|| missing(path))?;
        match &self.inodes[folder] {
            Inode::Folder(_) => Ok((folder, path.file_name().unwrap_or_default().to_owned())),
            _ => Err(format!("{} is in no folder", path.display())),
        }
    }
}

impl File {
    fn live(&self) -> Vec<u8> {
        written(&self.durable, &self.pending)
    }

    /// What may be in it: all; all but one of the writes; of the last one any beginning, any end, all but one block, only one
    /// block; none of the bytes, but the length; and last, nothing of it.
    fn torn(&self) -> Vec<Vec<u8>> {
        let whole = self.live();
        let mut ways = vec![whole.clone()];
        ways.extend((0..self.pending.len()).map(|without| {
            let mut edits = self.pending.clone();
            edits.remove(without);
            written(&self.durable, &edits)
        }));
        if let Some((Edit::Write(at, bytes), before)) = self.pending.split_last() {
            let mut with = |parts: &[(usize, usize)]| {
                let mut edits = before.to_vec();
                edits.extend(parts.iter().map(|(from, to)| Edit::Write(at + from, bytes[*from..*to].to_vec())));
                ways.push(written(&self.durable, &edits));
            };
            let mut cuts: Vec<usize> = (*at..at + bytes.len()).filter(|it| it % BLOCK == 0).map(|it| it - at).collect();
            cuts.extend([0, bytes.len() / 2, bytes.len()]);
            if bytes.len() > SMALL {
                cuts.extend([1, bytes.len() - 1]);
            }
            cuts.sort_unstable();
            cuts.dedup();
            for cut in &cuts {
                with(&[(0, *cut)]);
                with(&[(*cut, bytes.len())]);
            }
            for block in cuts.windows(2) {
                with(&[(block[0], block[1])]);
                with(&[(0, block[0]), (block[1], bytes.len())]);
            }
        }
        let mut unwritten = self.durable.clone();
        unwritten.resize(whole.len(), 0);
        ways.push(unwritten);
        ways.sort();
        ways.dedup();
        ways.retain(|way| *way != whole && *way != self.durable);
        ways.insert(0, whole);
        ways.push(self.durable.clone());
        ways
    }
}

fn written(durable: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = durable.to_vec();
    for edit in edits {
        match edit {
            Edit::Empty => bytes.clear(),
            Edit::Write(at, new) => {
                bytes.resize(bytes.len().max(at + new.len()), 0);
                bytes[*at..at + new.len()].copy_from_slice(new);
            }
        }
    }
    bytes
}

/// Which of so many changes are lost: each of these lists is one state.
fn lost_of(changes: usize) -> Vec<BTreeSet<usize>> {
    if changes <= COMBINED {
        let is_lost = |combination: usize, index: &usize| combination >> index & 1 == 1;
        return (0..1 << changes)
            .map(|combination| (0..changes).filter(|index| is_lost(combination, index)).collect())
            .collect();
    }
    let mut lists: Vec<BTreeSet<usize>> = (0..=changes).map(|kept| (kept..changes).collect()).collect();
    lists.extend((0..changes).map(|one| [one].into()));
    lists.extend((0..changes).map(|one| (0..changes).filter(|it| *it != one).collect()));
    lists
}

fn missing(path: &Path) -> String {
    format!("{} is not there", path.display())
}
