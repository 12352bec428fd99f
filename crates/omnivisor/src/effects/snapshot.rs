//! Copy a node's data aside, in passes: the first ones while the node runs, and the last one, of what has changed since,
//! after it has ended. The copy is there whole or not at all.
//!
//! Flushing: a few files one by one; more of them with the whole file system, which is faster then, but waits for what
//! everybody else has written, too.
//!
//! Kept: contents, holes, folders, symbolic links as links, pipes, hard links, modes, owners (as root), extended attributes
//! (not of symbolic links) and times. Left out: sockets, which whoever listens makes anew, devices, and what stands apart. The
//! copy may be read by nobody else: it holds keys.

pub mod command;
mod copy;
mod cost;
pub mod later;
mod look;
pub mod pace;
pub mod pass;
pub mod seen;
mod trail;

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use omnivisor_core::dialect::Root;

pub use self::command::{Method, SnapshotCommand};
pub use self::cost::{Cost, Left, Limits, Needed, cost, folder};
use self::later::Later;
use self::pass::{Copied, FEW, Pass, Passed, Rules};
use self::seen::Seen;
use super::backup::archive::REMOVED;
use super::backup::manifest::{self, Head};
use super::backup::{Only, differs};
use super::data::{self, Data};
use super::parts;
use crate::clock;
use crate::store::disk::Written;
use crate::store::{atomic, disk};

/// What the name of a copy that is not whole ends in.
const PARTIAL: &str = ".partial";

/// And that of what was seen of its files.
const SEEN: &str = ".partial-seen";

/// And that of its manifest, until the copy has its own name.
const LISTED: &str = ".partial-mtree";

/// The mode of a folder that only its owner may look into.
pub const PRIVATE: u32 = 0o700;

/// And that of a file.
const MODE: u32 = 0o600;

/// So many passes at most: a node that writes all the time always leaves something to the last one.
const PASSES: usize = 6;

/// What the last pass may be left with: bytes, and files.
const LITTLE: (u64, u64) = (32 << 20, 500);

/// File systems on which whatever changes a file changes what it looks like, also through a mapping (on tmpfs it does not): ext2 to
/// ext4, XFS, Btrfs, F2FS and ZFS.
const TRUSTED: [i64; 5] = [0xef53, 0x5846_5342, BTRFS, 0xf2f5_2010, 0x2fc1_2fc1];

const BTRFS: i64 = 0x9123_683e;

/// Is told of every so many bytes that are copied or read; may take its time, and end all of it with an error.
pub type Each<'a> = &'a mut dyn FnMut(u64) -> io::Result<()>;

/// A snapshot to be taken.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// What is copied.
    pub data: &'a Data,
    /// What it is called when it is whole.
    pub to: &'a Path,
}

impl Snapshot<'_> {
    /// Takes passes while the node runs, until little is left for the last one; what that will be about, if it can be known. `pace`
    /// is told of every so many bytes, and may take its time. What was copied is durable when it returns; on an error, or when `cancelled`,
    /// nothing is left that anybody believes.
    pub fn prepare(&self, cancelled: &AtomicBool, pace: Each<'_>) -> io::Result<Option<Left>> {
        if self.to.exists() || !have_honest_times(self.data) {
            return Ok(None);
        }
        let mut left = None;
        let mut most = later::AT_MOST;
        for _ in 0..PASSES {
            let mut later = Later::at_most(most);
            let done = self.pass(false, &mut later, cancelled, pace).and_then(|mut passed| {
                parts::flush(&beside(self.to, PARTIAL), self.to.parent().unwrap_or(self.to))?;
                passed.notes.write(&beside(self.to, SEEN))?;
                Ok(passed)
            });
            let passed = self.clean(done)?;
            let (files, Copied { count: changed, bytes, .. }) = (passed.files, passed.copied);
            tracing::debug!(files, changed, bytes, later = later.count(), "a pass is done");
            left = Some(Left { files, changed, bytes, later: later.time() });
            if !later.fits() {
                most = Duration::ZERO; // the next pass has to copy all of it
                continue;
            }
            if bytes <= LITTLE.0 && changed <= LITTLE.1 {
                break;
            }
        }
        Ok(left)
    }

    /// Whether passes were taken no longer ago, so that only what has changed since is left to copy; or all of it is there.
    pub fn is_prepared(&self, within: Duration) -> bool {
        let seen = beside(self.to, SEEN);
        let age = fs::metadata(&seen).and_then(|it| it.modified()).map(|at| at.elapsed().unwrap_or_default());
        let is_seen = || age.is_ok_and(|age| age < within) && parts::fits(self.data, &beside(self.to, PARTIAL));
        self.to.exists() || is_seen() && Seen::read(&seen).is_some()
    }

    /// Copies what has changed since, when nobody writes any more. Durable and complete when it returns; if `to` is there
    /// already, it is complete, and that is all.
    ///
    /// On an error, or when `cancelled`, nothing is left.
    pub fn take(&self, cancelled: &AtomicBool) -> io::Result<()> {
        self.take_as(&Head::default(), cancelled)
    }

    /// The same, with a manifest that says which snapshot this is.
    pub fn take_as(&self, head: &Head, cancelled: &AtomicBool) -> io::Result<()> {
        self.clean(self.end_as(head, cancelled))
    }

    /// The same for whoever cannot wait until what there is of it is removed: on an error it is still to be [made void](void), and
    /// [discarded](discard).
    pub fn end_as(&self, head: &Head, cancelled: &AtomicBool) -> io::Result<()> {
        let (listed, manifest) = (beside(self.to, LISTED), manifest::beside(self.to));
        if self.to.is_symlink() && !command::is_whole(self.to) {
            void(self.to, &self.data.home)?; // by a command that was set before, and not there any more
        }
        if self.to.exists() {
            match parts::missing(self.to) {
                None => return self.complete(head),
                // Whoever took a home's disk away has left none.
                Some(_) => void(self.to, &self.data.home)?,
            }
        }
        if let Some(parent) = self.to.parent() {
            disk::make_folders(parent, PRIVATE)?;
        }
        let partial = beside(self.to, PARTIAL);
        self.pass(true, &mut Later::default(), cancelled, &mut |_| Ok(())).and_then(|mut passed| {
            // Whatever the home's own mode is, and whoever made the folders above.
            disk::set_mode(&partial, PRIVATE)?;
            // Flushed with the rest: a manifest costs the outage nothing that takes time.
            Written::create(&listed, MODE)?.push(&self.told(head, &passed).to_bytes())?;
            passed.copied.touch(listed.clone());
            pass::wanted(cancelled)?; // a flush cannot be cancelled
            flush(&partial, &passed)?;
            disk::rename(&partial, self.to)?;
            disk::rename(&listed, &manifest)?;
            atomic::flush_folder_of(self.to)?;
            disk::remove(&beside(self.to, SEEN))
        })
    }

    /// Others may share the folder, and call theirs so.
    fn is_ours(&self) -> io::Result<()> {
        match manifest::head(&manifest::beside(self.to)) {
            Ok(head) if !head.is_of(self.data) => {
                Err(io::Error::other(format!("{} is one of {}", self.to.display(), head.described())))
            }
            _ => Ok(()),
        }
    }

    /// It has its name. Whoever gave it that may have been killed before its manifest had one, or either was durable.
    fn complete(&self, head: &Head) -> io::Result<()> {
        self.is_ours()?;
        // Whoever made this good before may have been killed in it.
        let name = self.to.file_name().unwrap_or_default().to_string_lossy();
        let folder = self.to.parent().unwrap_or(self.to);
        atomic::sweep_of(folder, |unfinished| unfinished.trim_start_matches('.').starts_with(&*name));
        let manifest = manifest::beside(self.to);
        match manifest.exists() {
            true => atomic::flush_folder_of(self.to)?,
            false => atomic::replace(&manifest, &head.to_bytes(), MODE)?,
        }
        disk::remove(&beside(self.to, LISTED))?;
        if beside(self.to, PARTIAL).is_symlink() {
            command::turn_word(self.to)?;
        }
        disk::remove(&beside(self.to, SEEN))
    }

    /// What is in it, and what is not.
    fn told(&self, head: &Head, passed: &Passed) -> Head {
        let apart = self.data.apart_below().map(|path| format!("{}: it stands apart", path.display()));
        let left_out =
            passed.left_out.iter().map(|path| format!("{}: a socket or a device", manifest::shortened(path)));
        Head { not_included: head.not_included.iter().cloned().chain(apart).chain(left_out).collect(), ..head.clone() }
    }

    fn pass(&self, is_last: bool, later: &mut Later, cancelled: &AtomicBool, pace: Each<'_>) -> io::Result<Passed> {
        let partial = beside(self.to, PARTIAL);
        if partial.is_symlink() {
            command::turn_word(self.to)?; // of a command that was set before
        }
        let seen = match Seen::read(&beside(self.to, SEEN)).filter(|_| parts::fits(self.data, &partial)) {
            Some(seen) => seen,
            None => {
                // Nothing is known of it; and what is known is of no copy that comes after it.
                disk::remove(&beside(self.to, SEEN))?;
                parts::remove(&partial)?;
                Seen::default()
            }
        };
        if !is_last {
            // What was seen is not true any more of what this pass has come to, if it does not come to its end: a folder that was
            // moved away and is moved back would be believed to be in the copy. In the last pass nobody moves anything.
            disk::remove(&beside(self.to, SEEN))?;
        }
        let mut all = Passed::default();
        self.make_for_several(&partial, &mut all)?;
        let (begun, rules, apart) = (clock::now().wall, Rules::default(), &self.data.apart);
        for Root { name, path: home } in &self.data.roots {
            let (to, seen) = (&parts::real(data::at(&partial, name)), &seen);
            let only = &Only::default();
            all.and(Pass { home, name, to, apart, only, seen, begun, is_last, rules, cancelled, later, pace }.take()?);
        }
        Ok(all)
    }

    /// What holds the copies of several folders, and nothing else.
    fn make_for_several(&self, partial: &Path, passed: &mut Passed) -> io::Result<()> {
        if self.data.one().is_some() {
            return Ok(());
        }
        if !partial.is_dir() {
            disk::make_folder(partial, PRIVATE)?;
            passed.copied.touch(partial.to_owned());
        }
        for entry in fs::read_dir(partial)? {
            let name = entry?.file_name();
            if !self.data.roots.iter().any(|root| name == root.name) {
                parts::remove_entry(&partial.join(name))?; // it was one of them before
                passed.copied.touch(partial.to_owned());
            }
        }
        parts::lay(self.data, partial)?.into_iter().for_each(|path| passed.copied.touch(path));
        Ok(())
    }

    /// Leaves nothing behind a failure; whoever has cancelled it does not wait for that.
    fn clean<T>(&self, done: io::Result<T>) -> io::Result<T> {
        match &done {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => discard_behind(self.to),
            Err(_) => discard(self.to),
        }
        done
    }
}

/// Whether this is on a Btrfs, of which every snapshot can be copied by reference.
pub fn is_btrfs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|it| it.f_type == BTRFS)
}

/// Whether a change of a file can be seen without reading it.
pub fn has_honest_times(root: &Path) -> bool {
    rustix::fs::statfs(root).is_ok_and(|it| TRUSTED.contains(&it.f_type))
}

fn have_honest_times(data: &Data) -> bool {
    data.roots.iter().all(|root| has_honest_times(&root.path))
}

/// What is at `to` is no snapshot any more, if it was one: the node has gone on since. Done in a moment; not durable, as what
/// has been written since may not be, either.
pub fn void(to: &Path, home: &Path) -> io::Result<()> {
    // One that is taken under this name later is another one. Whether that can be noted is no reason to leave this one what it was.
    if let Err(error) = differs::forget(to) {
        tracing::warn!(path = %to.display(), %error, "what is known of a snapshot that is none any more cannot be removed");
    }
    if to.is_symlink() {
        command::put_word(to, REMOVED, home)?;
        return disk::remove(to);
    }
    match disk::rename(to, &beside(to, PARTIAL)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Gives what was copied ahead of one snapshot to another one of the same home, in a moment. Not durable; whoever is killed in it leaves
/// nothing that is believed.
pub fn hand_on(from: &Path, to: &Path) -> io::Result<()> {
    disk::rename(&beside(from, PARTIAL), &beside(to, PARTIAL))?;
    disk::rename(&beside(from, SEEN), &beside(to, SEEN))
}

/// The parts of what was copied ahead of one.
pub fn parts_ahead(to: &Path) -> Vec<PathBuf> {
    parts::all(&beside(to, PARTIAL)).into_iter().flatten().map(|(_, part)| part).collect()
}

/// Removes what there is of a snapshot that is not whole, or was [made void](void). As well as it can be done.
pub fn discard(to: &Path) {
    let partial = beside(to, PARTIAL);
    if partial.is_symlink()
        && let Err(error) = command::turn_word(to)
    {
        tracing::warn!(path = %partial.display(), %error, "that a command has to remove something cannot be noted");
        return;
    }
    // In this order: what was seen of a copy that is not there would be believed of another one.
    let mut left = vec![beside(to, SEEN), partial, beside(to, LISTED), beside(to, command::NEW)];
    if to.symlink_metadata().is_err() {
        left.push(manifest::beside(to));
    }
    for path in left {
        if let Err(error) = parts::remove(&path) {
            tracing::warn!(path = %path.display(), %error, "what is left of a snapshot cannot be removed");
            return;
        }
    }
    // Somebody may have been killed while what was seen was written.
    to.parent().into_iter().for_each(atomic::sweep);
}

/// The same, done in a moment: what takes its time goes on behind. What of that is left by whoever is killed goes with the [rest of
/// backups](super::backup::keep).
fn discard_behind(to: &Path) {
    let (partial, aside) = (beside(to, PARTIAL), beside(to, &format!(".{}{REMOVED}", clock::now().wall.unix_nanos())));
    let is_aside = !partial.is_symlink() && disk::rename(&partial, &aside).is_ok();
    if is_aside {
        let remove = move || parts::remove(&aside);
        if let Err(error) = std::thread::Builder::new().name("discard".to_owned()).spawn(remove) {
            tracing::warn!(%error, "what was copied ahead is removed later");
        }
    }
    discard(to);
}

fn beside(to: &Path, ending: &str) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Makes the folder that snapshots of a release go to, so that it is durable before the outage begins.
pub fn prepare(folder: &Path) -> io::Result<()> {
    disk::make_folders_durably(folder, PRIVATE)
}

/// Makes what a pass has changed durable.
fn flush(root: &Path, passed: &Passed) -> io::Result<()> {
    if passed.copied.touched.len() > FEW {
        return parts::flush(root, root);
    }
    passed.copied.touched.iter().try_for_each(|path| flush_one(path))
}

fn flush_one(path: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_dir() {
        disk::flush_folder(path)
    } else if kind.is_file() {
        disk::flush_file(path)
    } else {
        Ok(()) // links and pipes are in their folder
    }
}

/// Makes a copy durable.
pub fn flush_tree(root: &Path) -> io::Result<()> {
    if !parts::all(root)?.is_empty() {
        return parts::flush(root, root);
    }
    let (mut paths, mut looked) = (vec![root.to_owned()], 0);
    while let Some(path) = paths.get(looked).cloned() {
        looked += 1;
        if fs::symlink_metadata(&path)?.is_dir() {
            for entry in fs::read_dir(&path)? {
                paths.push(entry?.path());
            }
        }
        if paths.len() > FEW {
            return disk::flush_file_system(root);
        }
    }
    paths.iter().try_for_each(|path| flush_one(path))
}

/// Copies a folder, to which nobody writes, and everything in it, without what is `apart`. `to` must not be there. `each` is told of
/// every so many bytes, may take its time, and ends it with an error. Where one of them has [parts], `to` is there already if it
/// has any, empty: then both are of several homes, and hold nothing else.
pub fn copy_tree(from: &Path, to: &Path, apart: &[PathBuf], each: Each<'_>) -> io::Result<()> {
    copy_some(from, to, apart, &Only::default(), each)
}

/// The same of some of it.
pub fn copy_some(from: &Path, to: &Path, apart: &[PathBuf], only: &Only, each: Each<'_>) -> io::Result<()> {
    if parts::all(from)?.is_empty() && parts::all(to)?.is_empty() {
        return copy_one(from, to, apart, only, each);
    }
    disk::make_folders(to, PRIVATE)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        if !only.has(Path::new(&name)) {
            continue;
        }
        let only = only.below(Path::new(&name));
        copy_one(&parts::real(from.join(&name)), &parts::real(to.join(&name)), apart, &only, each)?;
    }
    let folder = fs::File::open(from)?;
    copy::dress(&rustix::fs::fstat(&folder)?, Some(folder.as_fd()), to)
}

fn copy_one(from: &Path, to: &Path, apart: &[PathBuf], only: &Only, each: Each<'_>) -> io::Result<()> {
    let (seen, begun, rules) = (Seen::default(), clock::now().wall, Rules::default());
    let never = AtomicBool::new(false);
    Pass {
        home: from,
        name: "",
        to,
        apart,
        only,
        seen: &seen,
        begun,
        is_last: true,
        rules,
        cancelled: &never,
        later: &mut Later::default(),
        pace: each,
    }
    .take()
    .map(|_| ())
}
