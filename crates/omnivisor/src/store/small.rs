//! Read a file that other people write: what is no file, or far too large for what it should be, is an error and is not read.

use std::fs;
use std::io;
use std::path::Path;

/// Twice what any dialect takes for one of its files.
const LARGEST: u64 = 2 << 20;

/// The contents of a small file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is a directory, or something else that is no file"));
    }
    if metadata.len() > LARGEST {
        return Err(io::Error::other(format!("it has {} bytes, which is more than it could need", metadata.len())));
    }
    fs::read(path)
}
