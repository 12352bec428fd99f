//! Make a release the active one for everybody who looks: the link, and the files that other tools expect.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use omnivisor_core::dialect::{Contents, Dialect, Link, Mirrored, Ours};
use omnivisor_core::release::Installed;
use omnivisor_core::time::Timestamp;

use crate::checkpoint;
use crate::store::lock::{Lock, LockError};
use crate::store::small;
use crate::store::{atomic, disk};

/// How long another instance or the peer may take to change a shared file.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often somebody else may be faster.
const TRIES: usize = 50;

/// Why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// Somebody else is changing them.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// They do not make sense.
    #[error(transparent)]
    Dialect(#[from] omnivisor_core::dialect::DialectError),
    /// Something that a person has to decide about stands in the link's place.
    #[error("{path} is no link, and is left as it is: move it away; the link is made then", path = .0.display())]
    NoLink(std::path::PathBuf),
    /// Somebody else writes them all the time.
    #[error("somebody else writes the files as fast as we do")]
    Overtaken,
    /// One cannot be written.
    #[error("{path} cannot be written: {source}", path = .path.display())]
    Write {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The link as it is, if it is there: where it points to, in the words of the configuration.
pub fn read_link(dialect: &dyn Dialect) -> Option<Link> {
    let paths = dialect.paths();
    let target = fs::read_link(&paths.link).ok()?;
    let made = fs::symlink_metadata(&paths.link).ok()?;
    let made = i128::from(made.mtime()) * 1_000_000_000 + i128::from(made.mtime_nsec());
    let target = paths.releases.join(target).components().collect();
    Some(Link { target, made: Timestamp::from_unix_nanos(made) })
}

/// Points the link to this folder; durable when it returns. A link that does already is left alone, but flushed: whoever
/// pointed it there may have been killed before that.
pub fn link(link: &Path, folder: &Path) -> Result<(), ActivateError> {
    let cannot = |source| ActivateError::Write { path: link.to_owned(), source };
    if fs::read_link(link).is_ok_and(|target| target == folder) {
        return atomic::flush_folder_of(link).map_err(cannot);
    }
    if fs::symlink_metadata(link).is_ok_and(|it| !it.is_symlink()) {
        return Err(ActivateError::NoLink(link.to_owned()));
    }
    atomic::replace_link(link, folder).map_err(cannot)
}

/// Puts the upgrades back into the queue that another tool did not finish; their names. Durable when it returns.
pub fn requeue(dialect: &dyn Dialect, ours: &Ours) -> Result<Vec<String>, ActivateError> {
    let path = &dialect.paths().queue;
    let _lock = Lock::take_shared_within(&dialect.paths().shared_lock, PATIENCE)?;
    for _ in 0..TRIES {
        let before = small::read(path).ok();
        let read = |file: &Path| if file == path { before.clone() } else { small::read(file).ok() };
        let Some((queue, names)) = dialect.unfinished(&read, ours) else { return Ok(Vec::new()) };
        let written = atomic::replace_if(path, before.as_deref(), &queue, 0o644);
        if written.map_err(|source| ActivateError::Write { path: path.clone(), source })? {
            return Ok(names);
        }
    }
    Err(ActivateError::Overtaken)
}

/// Rewrites every file that says something else than `state`. Durable when it returns. Holds the shared lock meanwhile.
pub fn mirror(dialect: &dyn Dialect, state: &Mirrored) -> Result<usize, ActivateError> {
    mirror_only(dialect, state, |_| true)
}

/// Writes what is missing in the folder of a release that is about to be switched to: whoever follows the link finds it whole,
/// also in the moment after the switch. Durable when it returns. Holds the shared lock meanwhile.
pub fn describe(dialect: &dyn Dialect, installed: &Installed) -> Result<usize, ActivateError> {
    let state = Mirrored { shown: installed.clone(), committed: None, linked: false, settled: Vec::new() };
    mirror_only(dialect, &state, |path| path.starts_with(&installed.folder) && !path.exists())
}

fn mirror_only(
    dialect: &dyn Dialect,
    state: &Mirrored,
    is_wanted: impl Fn(&Path) -> bool,
) -> Result<usize, ActivateError> {
    let _lock = Lock::take_shared_within(&dialect.paths().shared_lock, PATIENCE)?;
    // Whoever shares the link may have moved it since.
    let target = fs::read_link(&dialect.paths().link).ok();
    let linked = target.is_none_or(|target| target == state.shown.folder || !target.is_dir());
    let state = &Mirrored { linked, ..state.clone() };
    let mut written = 0;
    for _ in 0..TRIES {
        // What was read is what may be replaced: a person or a peer takes no lock.
        let seen = RefCell::new(HashMap::new());
        let read = |path: &Path| -> Option<Vec<u8>> {
            seen.borrow_mut().entry(path.to_owned()).or_insert_with(|| small::read(path).ok()).clone()
        };
        let files = dialect.mirror(state, &read)?;
        let seen = seen.borrow();
        let mut overtaken = false;
        for file in files.into_iter().filter(|file| is_wanted(&file.path)) {
            let bytes = match &file.contents {
                Contents::Link(target) => {
                    link(&file.path, target)?;
                    continue;
                }
                Contents::Bytes(bytes) => bytes,
            };
            let before = seen.get(&file.path).and_then(Option::as_deref);
            let folder = file.path.parent().filter(|folder| !folder.is_dir());
            let folder = folder.map_or(Ok(()), |folder| disk::make_folders_durably(folder, 0o777));
            let wrote = folder.and_then(|()| atomic::replace_if(&file.path, before, bytes, 0o644));
            match wrote.map_err(|source| ActivateError::Write { path: file.path.clone(), source })? {
                true => written += 1,
                false if before.is_none() && file.path.exists() && small::read(&file.path).is_err() => {
                    let source = io::Error::other("what stands there cannot be read");
                    return Err(ActivateError::Write { path: file.path, source });
                }
                false => overtaken = true,
            }
            checkpoint::reach("mirror-between-files");
        }
        if !overtaken {
            return Ok(written);
        }
    }
    Err(ActivateError::Overtaken)
}
