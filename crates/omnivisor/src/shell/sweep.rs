//! Remove what a crash left half made, of ours.

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use omnivisor_core::dialect::Dialect;

use super::adopt::ADOPTED;
use crate::effects::data::Data;
use crate::effects::parts;
use crate::effects::process::ProcessId;
use crate::store::lock::Lock;
use crate::store::small;
use crate::store::{atomic, disk};

/// Removes every file that nobody is making any more from the folders that this instance writes to. Can be done at any time.
pub fn sweep(dialect: &dyn Dialect) {
    let paths = dialect.paths();
    for folder in [&paths.state, &paths.beside] {
        atomic::sweep(folder);
    }
    // Others may be writing where instances share files; then it is theirs to sweep.
    let Ok(_lock) = Lock::take_shared_within(&paths.shared_lock, Duration::ZERO) else { return };
    atomic::sweep(&paths.releases);
    sweep_release(dialect, &dialect.genesis_folder());
    let entries = dialect.shelves().into_iter().flat_map(fs::read_dir).flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let adding = name.strip_prefix(".omnivisor-add-").and_then(|pid| pid.parse().ok());
        match adding {
            Some(pid) if ProcessId::of(pid).is_none() => {
                let _ = disk::remove(&entry.path());
            }
            Some(_) => {}
            None => sweep_release(dialect, &entry.path()),
        }
    }
}

/// Removes parts of copies that are gone, beside whatever comes. Before anything is copied or moved, and with a journal: without one it is not
/// known what was moved away.
pub(super) fn sweep_parts(dialect: &dyn Dialect) {
    let paths = dialect.paths();
    // What is older than this state may be of one that was moved away, with what leads there.
    let begun = fs::metadata(paths.state.join(ADOPTED)).and_then(|it| it.modified()).ok();
    let begun =
        begun.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).and_then(|it| i128::try_from(it.as_nanos()).ok());
    let (Some(begun), Ok(data)) = (begun, Data::now(dialect)) else { return };
    // Whatever is not there just now, as another disk may not be, is no reason to believe that nothing leads to them.
    if !disk::is_same(&paths.backups, &paths.beside) {
        return;
    }
    match parts::orphans(&data, [&paths.backups, &paths.beside], begun) {
        Ok(orphans) if orphans.is_empty() => {}
        Ok(orphans) => drop(std::thread::spawn(move || orphans.iter().for_each(|part| remove_part(part)))),
        Err(error) => tracing::warn!(%error, "what is left of copies that are gone cannot be looked for"),
    }
}

fn remove_part(part: &Path) {
    match disk::remove(part) {
        Ok(()) => tracing::info!(path = %part.display(), "what was left of a copy that is gone was removed"),
        Err(error) => {
            tracing::warn!(path = %part.display(), %error, "what is left of a copy that is gone cannot be removed")
        }
    }
}

fn sweep_release(dialect: &dyn Dialect, folder: &Path) {
    atomic::sweep(folder);
    for executable in dialect.executables(folder, &|path| small::read(path).ok()).unwrap_or_default() {
        if let Some(bin) = executable.parent().filter(|bin| bin.starts_with(folder) && *bin != folder) {
            atomic::sweep(bin);
        }
    }
}
