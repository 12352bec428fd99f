//! What restores and undos have replaced. It may be as large as the data, and stays until a person removes it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use omnivisor_core::time::Timestamp;

use super::{BY_HAND, CLEARED, COMPLETE, REPLACED, UNDO};
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
    let works = fs::read_dir(beside).into_iter().flatten().flatten().map(|it| it.path());
    let mut all: Vec<Aside> = works.filter_map(|work| look(&work)).collect();
    all.sort_by_key(|it| std::cmp::Reverse(it.at));
    all
}

fn look(work: &Path) -> Option<Aside> {
    let name = work.file_name()?.to_str()?;
    let by_hand = name.starts_with(BY_HAND);
    let path = work.join(REPLACED);
    if !(by_hand || name.starts_with(UNDO)) || !path.is_dir() {
        return None;
    }
    // From when on all of it is aside.
    let modified = fs::metadata(work.join(CLEARED)).and_then(|it| it.modified()).ok()?;
    let at = Timestamp::EPOCH.plus(modified.duration_since(UNIX_EPOCH).ok()?);
    Some(Aside { work: work.to_owned(), path, by_hand, at })
}

impl Aside {
    /// Removes it, where what replaced it is in its place. Whoever is killed in it can do it again.
    pub fn remove(&self) -> io::Result<()> {
        // First: half of it must not be taken for what a restore has still to put back.
        disk::remove(&self.work.join(COMPLETE))?;
        disk::flush_folder(&self.work)?;
        parts::remove(&self.path)?;
        parts::remove_work(&self.work)
    }
}
