//! What is not copied ahead: a large file that somebody writes to, where it takes no time to copy it by reference when nobody does any more.
//!
//! Had it been copied ahead by reference, both would share its pages, and the file system would write each one that changes to another
//! place. A file of which some thousand pages were changed is in as many pieces then, and each takes its time to be copied by reference
//! once more: with the node stopped, longer than all the rest of a switch. One that is in few pieces, and shared with nobody, is copied
//! in a moment however much of it has changed.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use fiemap::Fiemap;
use omnivisor_core::time::Timestamp;
use rustix::fs::Stat;

use super::copy::{LARGE, may_be_written_over};
use super::seen::nanos;
use crate::store::disk::{self, Written};

/// A file that was written to no longer ago is written to still: nanoseconds. Two passes are not so far apart.
const RECENT: i128 = 3600 * 1_000_000_000;

/// A piece of a file is copied by reference on XFS, as `just bench-outage` finds, and somewhat more.
const PIECE: Duration = Duration::from_micros(15);

/// And what else there is to do for a file.
const FILE: Duration = Duration::from_micros(100);

/// So long may all of it take, of one home, while no node runs.
pub(super) const AT_MOST: Duration = Duration::from_millis(10);

/// What a pass leaves to the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Later {
    /// So many files.
    pub files: u64,
    /// So long they take then.
    pub takes: Duration,
}

impl Later {
    /// Whether this file is better left to the last pass, where it will be in `folder`; if so, it is counted.
    pub(super) fn takes(&mut self, from: &File, stat: &Stat, begun: Timestamp, folder: &Path) -> bool {
        let is_large = u64::try_from(stat.st_size).is_ok_and(|size| size >= LARGE);
        let is_written_to = nanos(stat.st_mtime, stat.st_mtime_nsec) + RECENT >= begun.unix_nanos();
        if !is_large || !is_written_to || stat.st_nlink > 1 {
            return false;
        }
        let left = AT_MOST.saturating_sub(self.takes + FILE);
        let Some(takes) = pieces(from, left).filter(|_| disk::can_clone_file(from, folder)) else { return false };
        self.files += 1;
        self.takes += FILE + takes;
        true
    }

    /// Together with what another pass leaves.
    pub(super) fn and(&mut self, other: Self) {
        self.files += other.files;
        self.takes += other.takes;
    }
}

/// Removes a copy of such a file, if there is one. It shares nothing with it when this returns, which what was only removed may do for a while.
pub(super) fn remove(copy: &Path) -> io::Result<()> {
    if fs::symlink_metadata(copy).is_ok_and(|it| may_be_written_over(&it)) {
        Written::open(copy)?.set_length(0)?;
    }
    disk::remove(copy)
}

/// How long it takes to copy the pieces of a file; none if that cannot be known, or is longer than `left`.
fn pieces(file: &File, left: Duration) -> Option<Duration> {
    Fiemap::new(file).try_fold(Duration::ZERO, |takes, piece| {
        let takes = takes + piece.ok().map(|_| PIECE)?;
        (takes <= left).then_some(takes)
    })
}
