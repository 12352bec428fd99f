//! What restores and undos have replaced. It may be as large as the data, and stays until a person removes it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use omnivisor_core::time::Timestamp;

use super::{BY_HAND, CLEARED, COMPLETE, COPY, HALF, REPLACED, Restore, UNDO};
use crate::effects::backup::entry::{Walk, What};
use crate::effects::data::Data;
use crate::effects::parts;
use crate::store::disk;

/// What was replaced once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// The folder that it was done in.
    work: PathBuf,
    /// What was replaced.
    pub path: PathBuf,
    /// Whether a person has ordered that; else an undo has done it, or a rollback.
    pub by_hand: bool,
    /// When.
    pub at: Timestamp,
}

/// All there is in this folder, the newest first.
pub fn all(beside: &Path) -> Vec<Aside> {
    let works = fs::read_dir(beside).into_iter().flatten().flatten();
    let works = works.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir())); // and no link
    let mut all: Vec<Aside> = works.filter_map(|work| look(&work.path())).collect();
    all.sort_by_key(|it| std::cmp::Reverse(it.at));
    all
}

fn look(work: &Path) -> Option<Aside> {
    let name = work.file_name()?.to_str()?;
    let by_hand = name.starts_with(BY_HAND);
    if !by_hand && !name.starts_with(UNDO) {
        return None;
    }
    // From when on all of it is aside.
    let modified = fs::symlink_metadata(work.join(CLEARED)).and_then(|it| it.modified()).ok()?;
    let at = Timestamp::EPOCH.plus(modified.duration_since(UNIX_EPOCH).ok()?);
    Some(Aside { work: work.to_owned(), path: work.join(REPLACED), by_hand, at })
}

impl Aside {
    /// Whether something that was to replace it is not in its place: then this may be all there is of the data. An error says that it cannot be
    /// told.
    pub fn is_needed(&self, data: &Data, is_monotonic: &(dyn Fn(&Path) -> bool + Sync)) -> io::Result<bool> {
        Restore { data, work: &self.work, is_monotonic }.is_half_done()
    }

    /// How many bytes its files take: counted now, one by one.
    pub fn bytes(&self) -> io::Result<u64> {
        Walk::of(&self.path).try_fold(0, |sum, entry| match entry?.what {
            What::File { bytes } => Ok(sum + bytes),
            _ => Ok(sum),
        })
    }

    /// Removes it, where it is not [needed](Self::is_needed) any more. Whoever is killed in it can do it again.
    pub fn remove(&self) -> io::Result<()> {
        // Later it may be gone because it was removed here.
        let is_whole = self.work.join(COMPLETE).exists();
        if let Some(missing) = parts::missing(&self.path).filter(|_| is_whole) {
            return Err(io::Error::other(format!("a part of it, {}, is not there", missing.display())));
        }
        // First: half of it must not be taken for what a restore has still to put back.
        disk::remove(&self.work.join(COMPLETE))?;
        disk::flush_folder(&self.work)?;
        for name in [HALF, COPY, REPLACED] {
            parts::remove(&self.work.join(name))?;
        }
        // What it is known by goes last.
        for entry in fs::read_dir(&self.work)? {
            let entry = entry?;
            if entry.file_name() != CLEARED {
                disk::remove(&entry.path())?;
            }
        }
        disk::remove(&self.work)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;

    #[test]
    fn what_was_replaced_is_needed_until_all_that_replaces_it_is_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let write = |path: &str, text: &str| {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
        };
        for (path, text) in [("home/a", "new"), ("home/b", "new"), ("old/a", "old"), ("old/b", "old")] {
            write(path, text);
        }
        let data = Data::in_one(&at("home"), &[at("home/beside")]);
        let (beside, work) = (at("home/beside"), at("home/beside/restored-7"));
        let restore = Restore { data: &data, work: &work, is_monotonic: &|_| false };
        restore.prepare(&Source::Kept(&at("old")), &[], &mut |_| Ok(())).unwrap();
        assert_eq!(all(&beside), [], "nothing was moved yet");
        restore.put_in_place().unwrap();
        let one = all(&beside).remove(0);
        assert!(!one.is_needed(&data, &|_| false).unwrap());
        // As after a kill before the last rename.
        fs::rename(at("home/b"), work.join("copy/b")).unwrap();
        assert!(one.is_needed(&data, &|_| false).unwrap());
        fs::rename(work.join("copy/b"), at("home/b")).unwrap();
        one.remove().unwrap();
        assert!(!work.exists() && all(&beside).is_empty());
        assert_eq!(fs::read_to_string(at("home/b")).unwrap(), "old");
    }
}
