//! Write down what is in a snapshot: every entry, with the digest of its contents. From then on a change of it shows.

use std::io;
use std::path::Path;

use super::entry::What;
use super::manifest::{self, Head, Writer};
use super::verify::listed;
use super::walk;
use crate::store::atomic;
use crate::store::disk::{self, Written};

/// Its owner's only, as the snapshot: names tell much.
const MODE: u32 = 0o600;

/// Reads all of the snapshot and completes its manifest. Durable when it returns. `each` is told of every so many bytes that were
/// read, and may end it. On an error the manifest is what it was.
pub fn seal(snapshot: &Path, each: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<Head> {
    let path = manifest::beside(snapshot);
    let mut head = manifest::head(&path)?;
    let (mut entries, mut bytes) = (0, 0);
    for entry in walk(snapshot, &head) {
        entries += 1;
        if let What::File { bytes: more } = entry?.what {
            bytes += more;
        }
        each(0)?;
    }
    (head.entries, head.bytes) = (Some(entries), Some(bytes));
    let unfinished = atomic::unfinished(&path)?;
    let sealed = write(snapshot, &unfinished, &head, each).and_then(|()| disk::rename(&unfinished, &path));
    if let Err(error) = sealed {
        let _ = disk::remove(&unfinished);
        return Err(error);
    }
    atomic::flush_folder_of(&path)?;
    Ok(head)
}

fn write(snapshot: &Path, to: &Path, head: &Head, each: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<()> {
    let mut writer = Writer::new(Written::create(to, MODE)?, head)?;
    let mut walk = walk(snapshot, head);
    while let Some(entry) = walk.next().transpose()? {
        writer.push(&listed(&walk, entry, each)?)?;
    }
    writer.finish()?.flush()
}
