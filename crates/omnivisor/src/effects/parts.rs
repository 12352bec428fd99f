//! The parts of a copy that are on other file systems than the rest of it. Of data in several homes, what is on another one than the
//! supervisor's own folders is copied by reference, and put back by a rename, only there: so in the home itself, in a folder of ours
//! that no copy holds.
//!
//! In the copy a link leads there, which is called as the home. A part keeps its name whatever the copy is called, so that a rename of the
//! copy stays the one moment in which it becomes a snapshot, or is none any more. The link is there before its part is, and as long as
//! that: a part to which no link leads is of a copy that is gone.
//!
//! A node may make any link at the top of its home, and of one home that is the top of the copy. So only what holds several homes, and
//! nothing else, has parts.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use omnivisor_core::dialect::HOMES;

use super::data::{self, Data};
use super::snapshot::PRIVATE;
use crate::clock;
use crate::store::disk;

/// The folder in a home.
pub const PARTS: &str = ".omnivisor-parts";

/// What the name of a part begins with that holds what a restore has replaced: it is never removed.
const REPLACED: &str = "replaced-";

/// What a part is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A snapshot, or what is made ready to be put back.
    Copy,
    /// What was replaced.
    Replaced,
}

/// The part that a link of ours leads to, whether it is there or not; none of anything else.
pub fn of(link: &Path) -> Option<PathBuf> {
    let part = fs::read_link(link).ok()?;
    is_ours(link, &part).then_some(part)
}

/// Whether a link that is called so, and leads there, is one of ours.
pub fn is_ours(link: &Path, part: &Path) -> bool {
    let is_plain = part.components().all(|it| matches!(it, Component::RootDir | Component::Normal(_)));
    let is_in_parts = part.parent().and_then(Path::file_name).is_some_and(|name| name == PARTS);
    let called = part.file_name().unwrap_or_default().as_bytes();
    let called = called.strip_prefix(REPLACED.as_bytes()).unwrap_or(called);
    part.is_absolute() && is_plain && is_in_parts && begun(called, link.file_name().unwrap_or_default()).is_some()
}

/// When a part was begun, and by whose supervisor, by its name: `<nanoseconds>-<supervisor's home>-<home>`.
fn begun(called: &[u8], home: &OsStr) -> Option<(i128, u32)> {
    let rest = std::str::from_utf8(called.strip_suffix(home.as_bytes())?.strip_suffix(b"-")?).ok()?;
    let (at, whose) = rest.split_once('-').filter(|(at, _)| at.bytes().all(|it| it.is_ascii_digit()))?;
    Some((at.parse().ok()?, whose.parse().ok()?))
}

/// Where what is called so is.
pub fn real(path: PathBuf) -> PathBuf {
    of(&path).unwrap_or(path)
}

/// The parts of a copy, by what the links to them are called; none of what is no folder.
pub fn all(copy: &Path) -> io::Result<Vec<(OsString, PathBuf)>> {
    let entries = match fs::read_dir(copy) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !HOMES.iter().any(|home| entry.file_name() == *home) {
            return Ok(Vec::new());
        }
        if let Some(part) = of(&entry.path()) {
            found.push((entry.file_name(), part));
        }
    }
    Ok(found)
}

/// A part of this copy that is not there any more: then it is none.
pub fn missing(copy: &Path) -> Option<PathBuf> {
    all(copy).ok()?.into_iter().map(|(_, part)| part).find(|part| !is_folder(part))
}

/// Whether a copy is there, with all its parts: one may be on a disk that is not there any more.
pub fn is_whole(copy: &Path) -> bool {
    copy.is_dir() && missing(copy).is_none()
}

/// Whether what is in this copy of each home is on the file system that the home is on by now, as far as it is there.
pub fn fits(data: &Data, copy: &Path) -> bool {
    let is_there = |name: &str| {
        let link = data::at(copy, name);
        match (data.parts.get(name), of(&link)) {
            (Some(parts), Some(part)) => part.parent() == Some(parts) && is_folder(&part),
            (None, None) => true,
            _ => false,
        }
    };
    copy.is_dir() && data.roots.iter().all(|root| root.name.is_empty() || is_there(root.name))
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|it| it.is_dir())
}

/// Makes the parts that a copy has to have, empty, and the copy itself, where it has to have any; leaves alone what is there. Not
/// durable. What was changed.
pub fn lay(data: &Data, copy: &Path) -> io::Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    for (name, parts) in &data.parts {
        let link = copy.join(name);
        if of(&link).is_some_and(|part| part.parent() == Some(parts) && is_folder(&part)) {
            continue;
        }
        disk::make_folders(copy, PRIVATE)?;
        lay_one(data, &link, parts, Of::Copy)?;
        changed.extend([copy.to_owned(), parts.clone()].into_iter().chain(parts.parent().map(Path::to_owned)));
    }
    Ok(changed)
}

/// Makes one part, in this folder of its home. Where `link` leads there already, that is all.
pub fn lay_one(data: &Data, link: &Path, parts: &Path, what: Of) -> io::Result<()> {
    disk::make_folders_durably(parts, PRIVATE)?;
    let part = match of(link) {
        Some(part) if part.parent() == Some(parts) => part,
        _ => {
            let part = free(data, parts, link.file_name().unwrap_or_default(), what);
            // First, so that nobody finds a part to which nothing leads.
            disk::link(&part, link)?;
            part
        }
    };
    if is_folder(&part) { Ok(()) } else { disk::make_folder(&part, PRIVATE) }
}

/// A name that no part has had: somebody may be removing one.
fn free(data: &Data, parts: &Path, home: &OsStr, what: Of) -> PathBuf {
    let (begin, whose) = (if what == Of::Replaced { REPLACED } else { "" }, data::id(&data.home));
    let mut nanos = clock::now().wall.unix_nanos();
    loop {
        let mut name = OsString::from(format!("{begin}{nanos}-{whose:012}-"));
        name.push(home);
        let part = parts.join(name);
        if fs::symlink_metadata(&part).is_err() {
            return part;
        }
        nanos += 1;
    }
}

/// Makes everything durable that is on the file systems that a copy and its parts are on, side by side: no node runs meanwhile.
///
/// `on` is on the file system that the copy is on.
pub fn flush(copy: &Path, on: &Path) -> io::Result<()> {
    let parts = all(copy)?;
    std::thread::scope(|scope| {
        let (mut flushes, mut flushed) = (Vec::new(), Ok(()));
        for (_, part) in &parts {
            match std::thread::Builder::new().spawn_scoped(scope, move || disk::flush_file_system(part)) {
                Ok(flush) => flushes.push(flush),
                Err(_) => flushed = flushed.and(disk::flush_file_system(part)), // there are too many threads
            }
        }
        let flushed = flushed.and(disk::flush_file_system(on));
        let joined = flushes.into_iter().map(|it| it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.fold(flushed, io::Result::and)
    })
}

/// Removes a copy, if it is there, and its parts before it: whoever is killed meanwhile leaves links to what is left.
pub fn remove(copy: &Path) -> io::Result<()> {
    if is_folder(copy) {
        for (_, part) in all(copy)? {
            remove_part(&part)?;
        }
    }
    disk::remove(copy)
}

/// Removes what is called so in a copy, wherever it is.
pub fn remove_entry(path: &Path) -> io::Result<()> {
    of(path).map_or(Ok(()), |part| remove_part(&part))?;
    disk::remove(path)
}

/// Removes the folder that a restore works in, and the parts of what was made ready there.
pub fn remove_work(work: &Path) -> io::Result<()> {
    if !is_folder(work) {
        return disk::remove(work); // what a link leads to is none of ours
    }
    let entries = match fs::read_dir(work) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
        entries => Some(entries?),
    };
    for entry in entries.into_iter().flatten() {
        remove(&entry?.path())?;
    }
    disk::remove(work)
}

/// Only out of a folder that is one: what a link in its place leads to is not ours.
fn remove_part(part: &Path) -> io::Result<()> {
    match part.parent() {
        Some(parts) if is_folder(parts) => disk::remove(part),
        _ => Ok(()),
    }
}

/// Parts of copies of this supervisor that are gone: no link leads to them from the backups, or from where restores work. None that is older
/// than `since`, as what led there may have been moved away with the state. Nobody makes or removes a copy meanwhile.
pub fn orphans(data: &Data, within: [&Path; 2], since: i128) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for root in data.roots.iter().filter(|root| !root.name.is_empty()) {
        let parts = root.path.join(PARTS);
        if is_folder(&parts) {
            for entry in fs::read_dir(&parts)? {
                let entry = entry?;
                let name = entry.file_name();
                let begun = begun(name.as_bytes(), OsStr::new(root.name));
                if begun.is_some_and(|(at, whose)| at >= since && whose == data::id(&data.home)) {
                    found.push(entry.path());
                }
            }
        }
    }
    if !found.is_empty() {
        let mut led = BTreeSet::new();
        within.iter().try_for_each(|folder| links(folder, DEEP, &mut led))?;
        // By name: a home that is mounted elsewhere by now has its parts all the same.
        found.retain(|part| part.file_name().is_some_and(|name| !led.contains(name)));
    }
    Ok(found)
}

/// So deep in the backups are the folders that hold links: `<release>/<snapshot>`; and so where a restore works: `<work>/copy`.
const DEEP: usize = 2;

/// What the links in a folder lead to, by name, and those in folders in it.
fn links(folder: &Path, deep: usize, led: &mut BTreeSet<OsString>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            // What is gone by now is being removed.
            let led_to = fs::read_link(entry.path()).or_else(|error| match error.kind() {
                ErrorKind::NotFound => Ok(PathBuf::new()),
                _ => Err(error),
            })?;
            led.extend(led_to.file_name().map(OsStr::to_owned));
        } else if kind.is_dir() && deep > 0 {
            links(&entry.path(), deep - 1, led)?;
        }
    }
    Ok(())
}
