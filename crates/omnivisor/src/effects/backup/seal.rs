//! Write down what is in a snapshot: every entry, with the digest of its contents. From then on a change of it shows.

use std::io;
use std::path::Path;

use super::entry::What;
use super::head::shortened;
use super::manifest::{self, Head, Writer};
use super::verify::listed;
use super::walk;
use crate::store::atomic;
use crate::store::disk::{self, Written};

/// Its owner's only, as the snapshot: names tell much.
const MODE: u32 = 0o600;

/// So many links that lead out of the home are named.
const TOLD: usize = 10;

/// A head that is longer says less of them: a line that is too long is none.
const LONGEST: usize = 32 << 10;

/// Reads all of the snapshot and completes its manifest. Durable when it returns. `each` is told of every so many bytes that were
/// read, and may end it. On an error the manifest is what it was.
pub fn seal(snapshot: &Path, each: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<Head> {
    let path = manifest::beside(snapshot);
    let mut head = manifest::head(&path)?;
    let (mut entries, mut bytes) = (0, 0);
    let mut out = Vec::new();
    for entry in walk(snapshot, &head) {
        entries += 1;
        let entry = entry?;
        match entry.what {
            What::File { bytes: more } => bytes += more,
            What::Link { target } if out.len() < TOLD && leads_out(&head, &entry.path, &target) => {
                out.push(format!("{}: what this link leads to, out of the home", shortened(&entry.path)));
            }
            _ => {}
        }
        each(0)?;
    }
    (head.entries, head.bytes) = (Some(entries), Some(bytes));
    let said = head.not_included.len();
    head.not_included.extend(out);
    while head.not_included.len() > said && head.line().len() > LONGEST {
        head.not_included.pop();
    }
    let unfinished = atomic::unfinished(&path)?;
    let sealed = write(snapshot, &unfinished, &head, each).and_then(|()| disk::rename(&unfinished, &path));
    if let Err(error) = sealed {
        let _ = disk::remove(&unfinished);
        return Err(error);
    }
    atomic::flush_folder_of(&path)?;
    Ok(head)
}

/// Whether a link of the home, as that is now, leads to a folder in none of its: so do operators move a database to another disk.
fn leads_out(head: &Head, link: &Path, target: &Path) -> bool {
    let homes: Vec<&Path> = match head.roots.is_empty() {
        true => vec![Path::new(&head.home)],
        false => head.roots.values().map(Path::new).collect(),
    };
    let live = match head.roots.is_empty() {
        true => Some(Path::new(&head.home).join(link)),
        false => head.roots.iter().find_map(|(name, home)| Some(Path::new(home).join(link.strip_prefix(name).ok()?))),
    };
    let there = live.and_then(|live| live.parent()?.join(target).canonicalize().ok()).filter(|it| it.is_dir());
    let is_in = |there: &Path| homes.iter().any(|home| home.canonicalize().is_ok_and(|home| there.starts_with(home)));
    there.is_some_and(|there| !is_in(&there))
}

fn write(snapshot: &Path, to: &Path, head: &Head, each: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<()> {
    let mut writer = Writer::new(Written::create(to, MODE)?, head)?;
    let mut walk = walk(snapshot, head);
    while let Some(entry) = walk.next().transpose()? {
        writer.push(&listed(&walk, entry, each)?)?;
    }
    writer.finish()?.flush()
}
