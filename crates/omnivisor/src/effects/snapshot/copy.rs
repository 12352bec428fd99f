//! Copy one file: by reference where the file system can, else its bytes without its holes; of a large one that is there
//! already, only the blocks that differ.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags, fgetxattr, flistxattr, fstat,
    llistxattr, lremovexattr, lsetxattr, openat, statat,
};
use rustix::io::Errno;

use super::Each;
use super::pace::PIECE;
use super::pass::Rules;
use super::seen::Stamp;
use crate::store::disk::{self, Progress, Written};
use crate::sys;

/// Of a file that is larger, the blocks are compared, if a copy is there.
pub(super) const LARGE: u64 = 16 << 20;

/// So much is compared at a time.
const BLOCK: usize = 256 << 10;

/// And so much is written at least: what databases change at once.
const PAGE: usize = 4096;

/// So many threads at most compare a large file.
const THREADS: usize = 4;

/// The longest list of names of extended attributes, and the longest value, that Linux has.
const XATTR: usize = 64 << 10;

/// Most lists are shorter than this.
const FEW_XATTRS: usize = 256;

/// Makes `to` hold what is in this file. What is there already is an older copy of it, which is written over: to remove a file
/// takes longer than to write one. A large one is compared, on all processors if those are `ours`. The copy, if bytes were
/// written to it.
pub(super) fn contents(
    from: &File,
    stat: &Stat,
    to: &Path,
    ours: bool,
    progress: Progress<'_>,
) -> io::Result<Option<File>> {
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    let there = fs::symlink_metadata(to).ok().filter(may_be_written_over);
    match there.map(|it| it.len()) {
        Some(length) if (LARGE..=size).contains(&length) => match disk::clone_over(from, to)? {
            true => Ok(None),
            false => patch(from, to, if ours { processors() } else { 1 }, progress).map(Some),
        },
        Some(_) if is_without_holes(stat) => disk::copy_over(from, to, progress),
        _ => {
            disk::remove(to)?;
            disk::copy_contents(from, to, progress)
        }
    }
}

/// Opens a file that is to be copied; none if what is called so is none by now.
pub(super) fn open(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<(File, Stat)>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let from = File::from(openat(folder, name, flags, Mode::empty())?);
    let stat = fstat(&from)?;
    Ok((FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some((from, stat)))
}

/// Copies a file that nobody writes to; it is an error if somebody does. What it looks like; none if it is no file by now.
pub(super) fn at_rest(
    folder: BorrowedFd<'_>,
    name: &OsStr,
    to: &Path,
    rules: Rules,
    each: Each<'_>,
) -> io::Result<Option<Stat>> {
    let Some((from, stat)) = open(folder, name)? else { return Ok(None) };
    each(0)?; // nothing more may be said of one that is copied by reference
    // The disk is at work while the rest is copied, and has the less to do when all is flushed.
    let mut kept = 0;
    let written = contents(&from, &stat, to, true, &mut |to, bytes| {
        kept += bytes;
        if kept >= PIECE {
            sys::start_writing(to)?;
            kept = 0;
        }
        each(bytes)
    })?;
    if let Some(written) = written {
        sys::start_writing(&written)?;
    }
    dress(&stat, Some(from.as_fd()), to)?;
    match Stamp::number(&fstat(&from)?, rules) == Stamp::number(&stat, rules) {
        true => Ok(Some(stat)),
        false => Err(io::Error::other("it was written to while it was copied, though the node has ended")),
    }
}

/// Whether there is an older copy of a file, which it takes little to write over: nothing of its folder changes.
pub(super) fn is_little(stat: &Stat, to: &Path) -> bool {
    stat.st_nlink == 1
        && is_without_holes(stat)
        && u64::try_from(stat.st_size).is_ok_and(|size| size < LARGE)
        && fs::symlink_metadata(to).is_ok_and(|it| may_be_written_over(&it))
}

/// The holes of a file would be no holes in what is written over.
fn is_without_holes(stat: &Stat) -> bool {
    u64::try_from(stat.st_blocks).unwrap_or_default() * 512 >= u64::try_from(stat.st_size).unwrap_or_default()
}

/// What has several names is made anew.
pub(super) fn may_be_written_over(it: &fs::Metadata) -> bool {
    it.is_file() && it.nlink() == 1 && (it.mode() & 0o200 != 0 || rustix::process::geteuid().is_root())
}

/// So many threads are of use.
pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, |it| it.get().min(THREADS))
}

/// Writes the pages that differ, found by so many threads.
fn patch(from: &File, to: &Path, threads: usize, progress: Progress<'_>) -> io::Result<File> {
    let (old, new) = (File::open(to)?, Written::open(to)?);
    let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let compare = |progress: Progress<'_>| compare(from, &old, &new, &next, progress);
    let help = || {
        compare(&mut |_, _| if is_over.load(Ordering::Relaxed) { Err(ErrorKind::Interrupted.into()) } else { Ok(()) })
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(help)).collect();
        let done = compare(progress);
        is_over.store(done.is_err(), Ordering::Relaxed);
        let helped = helpers.into_iter().map(|it| it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        done.and(helped.fold(Ok(()), io::Result::and))
    })?;
    Ok(new.into_file())
}

/// Compares block after block, whichever is next.
fn compare(from: &File, old: &File, new: &Written, next: &AtomicU64, progress: Progress<'_>) -> io::Result<()> {
    let (mut there, mut wanted) = (vec![0; BLOCK], vec![0; BLOCK]);
    loop {
        let at = next.fetch_add(BLOCK as u64, Ordering::Relaxed);
        let read = read_at(from, &mut wanted, at)?;
        if read == 0 {
            return Ok(());
        }
        let found = read_at(old, &mut there[..read], at)?;
        if there[..found] != wanted[..read] {
            for run in differing(&there[..found], &wanted[..read]) {
                new.write_at(&wanted[run.clone()], at + run.start as u64)?;
            }
        }
        progress(old, read as u64)?;
    }
}

/// Where the pages are that differ; those that follow each other are one run.
fn differing(there: &[u8], wanted: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, page) in wanted.chunks(PAGE).enumerate() {
        let (begin, end) = (index * PAGE, index * PAGE + page.len());
        if there.get(begin..end) == Some(page) {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == begin => run.end = end,
            _ => runs.push(begin..end),
        }
    }
    runs
}

/// As much as there is.
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], at + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Gives a copy the owner, mode, extended attributes and times of what it is a copy of; `from` is that, if it could be opened.
pub(super) fn dress(stat: &Stat, from: Option<BorrowedFd<'_>>, to: &Path) -> io::Result<()> {
    // To look takes less than to give it what it has, of which a file system makes a change of its own each time.
    let there = statat(CWD, to, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_owned = (there.st_uid, there.st_gid) == (stat.st_uid, stat.st_gid) || !rustix::process::geteuid().is_root();
    if !is_owned {
        std::os::unix::fs::lchown(to, Some(stat.st_uid), Some(stat.st_gid))?;
    }
    // A new owner takes bits of the mode away.
    let has_mode = is_owned && there.st_mode & 0o7777 == stat.st_mode & 0o7777;
    if !has_mode && FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        disk::set_mode(to, stat.st_mode & 0o7777)?;
    }
    if let Some(from) = from {
        attributes(from, to)?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec.cast_signed() },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() },
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// Those that this process may read and write: all, as root.
fn attributes(from: BorrowedFd<'_>, to: &Path) -> io::Result<()> {
    let mut list = Vec::new();
    let wanted = names(|buffer| flistxattr(from, buffer), &mut list)?;
    let mut list = Vec::new();
    for name in names(|buffer| llistxattr(to, buffer), &mut list)?.iter().filter(|name| !wanted.contains(name)) {
        allowed(lremovexattr(to, name.as_c_str()))?;
    }
    for name in wanted {
        let mut value = Vec::with_capacity(XATTR);
        match fgetxattr(from, name.as_c_str(), rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => allowed(lsetxattr(to, name.as_c_str(), &value, XattrFlags::empty()))?,
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn names(
    mut list: impl FnMut(&mut Vec<u8>) -> rustix::io::Result<usize>,
    buffer: &mut Vec<u8>,
) -> io::Result<Vec<CString>> {
    // Most have none or few, for which no place is needed for the longest list.
    buffer.resize(FEW_XATTRS, 0);
    let length = match list(buffer) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(Errno::RANGE) => {
            buffer.resize(XATTR, 0);
            list(buffer)?
        }
        Err(error) => return Err(error.into()),
    };
    let names = buffer[..length].split_inclusive(|byte| *byte == 0);
    Ok(names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()).map(CStr::to_owned).collect())
}

/// What only root may set stays away where this is not root.
fn allowed(set: rustix::io::Result<()>) -> io::Result<()> {
    match set {
        Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP) if !rustix::process::geteuid().is_root() => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_differ_are_found_in_runs() {
        let there = vec![1; 10 * PAGE];
        let mut wanted = there.clone();
        wanted.extend([1; 100]);
        let runs = |there: &[u8], wanted: &[u8]| {
            differing(there, wanted).into_iter().map(|run| (run.start, run.len())).collect::<Vec<_>>()
        };
        assert_eq!(runs(&there, &wanted), [(10 * PAGE, 100)]);
        for changed in [0, 2 * PAGE, 3 * PAGE + 1, 5 * PAGE - 1] {
            wanted[changed] = 2;
        }
        assert_eq!(runs(&there, &wanted), [(0, PAGE), (2 * PAGE, 3 * PAGE), (10 * PAGE, 100)]);
        assert_eq!(runs(&there[..PAGE], &there[..2 * PAGE]), [(PAGE, PAGE)]);
    }

    #[test]
    fn a_long_list_of_attributes_is_kept_and_what_is_not_in_it_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        fs::write(&one, "").unwrap();
        fs::write(&other, "").unwrap();
        let name = |number: usize| format!("user.{}{number}", "long".repeat(20));
        if lsetxattr(&other, "user.more", b"", XattrFlags::empty()).is_err() {
            return; // there are no attributes here
        }
        for number in 0..10 {
            lsetxattr(&one, name(number), &[number as u8], XattrFlags::empty()).unwrap();
        }
        let from = File::open(&one).unwrap();
        dress(&fstat(&from).unwrap(), Some(from.as_fd()), &other).unwrap();
        let mut list = Vec::new();
        let found = names(|buffer| llistxattr(&other, buffer), &mut list).unwrap();
        let mut found: Vec<_> = found.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
        found.sort();
        assert_eq!(found, (0..10).map(name).collect::<Vec<_>>());
    }

    #[test]
    fn a_large_file_is_compared_by_several_threads_and_an_error_ends_all() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let mut bytes: Vec<u8> = (0..20 * BLOCK + 7).map(|number| (number / 1000) as u8).collect();
        fs::write(&other, &bytes[..19 * BLOCK]).unwrap();
        for at in (0..bytes.len()).step_by(3 * PAGE + 11) {
            bytes[at] ^= 1;
        }
        fs::write(&one, &bytes).unwrap();
        let from = File::open(&one).unwrap();
        // The others may have done all of it before this thread had its turn.
        let fails =
            || patch(&from, &other, 3, &mut |_, _| Err(io::Error::other("enough"))).map_err(|it| it.to_string());
        assert!((0..1000).any(|_| fails().is_err_and(|error| error == "enough")));
        patch(&from, &other, 3, &mut |_, _| Ok(())).unwrap();
        assert_eq!(fs::read(&other).unwrap(), bytes);
    }
}
