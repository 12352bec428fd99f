//! What was copied in the last moments and is not on the disk yet. It is written in pieces while the copy goes on: what is left
//! to the kernel is written in one burst of hundreds of megabytes, and a node's own flush waits behind that.
//!
//! Nothing is durable by this.

use std::fs::File;
use std::io;

use super::pace::PIECE;
use crate::sys;

/// So many files are kept open at most.
const FILES: usize = 64;

/// What was written, and not yet to the disk.
#[derive(Default)]
pub(super) struct Trail {
    files: Vec<File>,
    bytes: u64,
}

impl Trail {
    /// Is told of what was written to a file that is not complete yet.
    pub(super) fn wrote(&mut self, to: &File, bytes: u64) -> io::Result<()> {
        self.bytes += bytes;
        if self.bytes < PIECE {
            return Ok(());
        }
        sys::start_writing(to)?;
        self.write()?;
        sys::clean_pages(to)
    }

    /// Takes a file that is complete.
    pub(super) fn keep(&mut self, file: File) -> io::Result<()> {
        self.files.push(file);
        if self.files.len() < FILES { Ok(()) } else { self.write() }
    }

    /// Writes all of it, and waits for that.
    pub(super) fn write(&mut self) -> io::Result<()> {
        // First all, so that the disk has them together.
        self.files.iter().try_for_each(sys::start_writing)?;
        self.files.iter().try_for_each(sys::clean_pages)?;
        self.files.clear();
        self.bytes = 0;
        Ok(())
    }
}
