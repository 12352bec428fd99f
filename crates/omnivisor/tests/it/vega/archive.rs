//! Archives that no honest release has.

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;

/// What is put into one.
pub enum Entry<'a> {
    File(&'a str, &'a [u8]),
    Link(&'a str, &'a str),
}

impl<'a> Entry<'a> {
    /// A file that can be executed.
    pub fn file(name: &'a str, bytes: &'a [u8]) -> Self {
        Self::File(name, bytes)
    }

    pub fn link(name: &'a str, target: &'a str) -> Self {
        Self::Link(name, target)
    }
}

/// A zip archive of these entries, whatever they are called.
pub fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    // Size is nothing to a test, time is.
    let options = SimpleFileOptions::default().unix_permissions(0o755).compression_level(Some(1));
    for entry in entries {
        match entry {
            Entry::File(name, bytes) => {
                archive.start_file(*name, options).unwrap();
                archive.write_all(bytes).unwrap();
            }
            Entry::Link(name, target) => archive.add_symlink(*name, *target, options).unwrap(),
        }
    }
    archive.finish().unwrap().into_inner()
}

/// An archive of one entry that says it has so many bytes, whatever it has.
pub fn claiming(mut archive: Vec<u8>, bytes: u32) -> Vec<u8> {
    let directory = archive.windows(4).rposition(|at| at == b"PK\x01\x02").unwrap();
    for size in [22, directory + 24] {
        archive[size..size + 4].copy_from_slice(&bytes.to_le_bytes());
    }
    archive
}
