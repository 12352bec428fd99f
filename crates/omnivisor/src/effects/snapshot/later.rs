//! What is not copied ahead: a large file that somebody writes to, where it takes no time to copy it by reference when nobody does any more.
//!
//! Had it been copied ahead by reference, both would share its pages, and the file system would write each one that changes to another
//! place. A file of which some thousand pages were changed is in as many pieces then, and each takes its time to be copied by reference
//! once more: with the node stopped, longer than all the rest of a switch. One that is in few pieces, and shared with nobody, is copied
//! in a moment however much of it has changed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fiemap::Fiemap;
use omnivisor_core::time::Timestamp;
use rustix::fs::Stat;

use super::copy::{LARGE, may_be_written_over};
use super::seen::nanos;
use crate::store::disk::{self, Written};

/// A file that was written to no longer ago is written to still: nanoseconds. A table of a database is written once and then left, and a
/// database is not.
const RECENT: i128 = 600 * 1_000_000_000;

/// A piece that is shared with nobody is copied by reference on XFS, as `just bench-outage` finds, and somewhat more.
const EACH_PIECE: Duration = Duration::from_micros(15);

/// And what else there is to do for a file.
const FILE: Duration = Duration::from_micros(100);

/// So long may all of it take while no node runs. What is in more pieces is better copied ahead: then it takes its time only for those that
/// have changed.
pub(super) const AT_MOST: Duration = Duration::from_millis(10);

/// What a pass leaves to the last one.
#[derive(Debug, Default)]
pub struct Later {
    most: Duration,
    time: Duration,
    /// With the folders that they are copied to.
    files: Vec<(File, PathBuf)>,
}

impl Later {
    /// As much as takes so long in the last pass.
    pub fn at_most(most: Duration) -> Self {
        Self { most, ..Self::default() }
    }

    /// How long it takes then.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// How many files it is.
    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    /// Leaves this file to the last pass, if that is better, where it is copied to `folder`. Else it is given back.
    pub(super) fn leave(&mut self, from: File, stat: &Stat, begun: Timestamp, folder: &Path) -> Option<File> {
        let is_large = u64::try_from(stat.st_size).is_ok_and(|size| size >= LARGE);
        let is_written_to = nanos(stat.st_mtime, stat.st_mtime_nsec) + RECENT >= begun.unix_nanos();
        let left = self.most.checked_sub(self.time + FILE);
        let Some(left) = left.filter(|_| is_large && is_written_to && stat.st_nlink == 1) else { return Some(from) };
        let Some(takes) = pieces(&from, left).filter(|_| disk::can_clone_all([(&from, folder)])) else {
            return Some(from);
        };
        self.time += FILE + takes;
        self.files.push((from, folder.to_owned()));
        None
    }

    /// Whether all of them can be copied together, as each of them can: a quota may say no, and shall say so before the node is stopped.
    pub(super) fn fits(&self) -> bool {
        self.files.len() < 2 || disk::can_clone_all(self.files.iter().map(|(from, folder)| (from, folder.as_path())))
    }
}

/// Removes an older copy of such a file, if there is one; as well as it can be done, it shares nothing with it when this returns, which
/// what was only removed may do for a while.
pub(super) fn remove(copy: &Path) -> io::Result<()> {
    if fs::symlink_metadata(copy).is_ok_and(|it| may_be_written_over(&it))
        && let Err(error) = Written::open(copy).and_then(|it| it.set_length(0))
    {
        tracing::debug!(path = %copy.display(), %error, "a copy that is removed is not emptied before");
    }
    disk::remove(copy)
}

/// How long it takes to copy the pieces of a file; none if that cannot be known, or is longer than `left`.
fn pieces(file: &File, left: Duration) -> Option<Duration> {
    Fiemap::new(file).try_fold(Duration::ZERO, |takes, piece| {
        let takes = takes + piece.ok().map(|_| EACH_PIECE)?;
        (takes <= left).then_some(takes)
    })
}
