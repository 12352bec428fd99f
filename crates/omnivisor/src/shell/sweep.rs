//! Remove what a crash left half made, of ours.

use std::fs;
use std::path::Path;
use std::time::Duration;

use omnivisor_core::dialect::Dialect;

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

fn sweep_release(dialect: &dyn Dialect, folder: &Path) {
    atomic::sweep(folder);
    for executable in dialect.executables(folder, &|path| small::read(path).ok()).unwrap_or_default() {
        if let Some(bin) = executable.parent().filter(|bin| bin.starts_with(folder) && *bin != folder) {
            atomic::sweep(bin);
        }
    }
}
