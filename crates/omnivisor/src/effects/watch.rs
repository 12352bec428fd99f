//! Notice that a file may have changed: at once where the kernel tells, and by looking now and then where it does not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::store::lock::unreliable_file_system;

/// Between two looks when the kernel tells: should it ever forget to. A sleep is up to two wake-ups.
const SELDOM: Duration = Duration::from_secs(120);
/// Between two looks when it does not.
const OFTEN: Duration = Duration::from_secs(1);

/// Watches one file by its folder, so that one that is replaced, deleted or made anew is noticed, too.
pub struct FileWatch {
    path: PathBuf,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    stamp: Option<Stamp>,
}

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileWatch {
    /// Begins to watch. Without the kernel's help (no inotify left, a network file system) it looks every second.
    pub fn new(path: &Path) -> Self {
        let mut watch = Self { path: path.to_owned(), changed: Arc::new(Notify::new()), watcher: None, stamp: None };
        watch.watch_folder();
        if watch.watcher.is_none() {
            tracing::warn!(path = %path.display(), "the kernel does not tell when this file changes: looking every second");
        }
        watch.stamp = stamp(path);
        watch
    }

    fn watch_folder(&mut self) {
        let changed = self.changed.clone();
        let name = self.path.file_name().map(ToOwned::to_owned);
        let tell = move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return changed.notify_one() };
            let concerns = event.paths.is_empty() || event.paths.iter().any(|path| path.file_name() == name.as_deref());
            if concerns && !matches!(event.kind, EventKind::Access(_)) {
                changed.notify_one();
            }
        };
        let Some(folder) = self.path.parent() else { return };
        // What another machine writes there is not told here.
        if unreliable_file_system(folder).is_some() {
            return;
        }
        self.watcher = notify::recommended_watcher(tell)
            .and_then(|mut watcher| watcher.watch(folder, RecursiveMode::NonRecursive).map(|()| watcher))
            .ok();
    }

    /// Waits until the file may have changed. Cancel-safe; changes between two calls are not lost.
    pub async fn changed(&mut self) {
        loop {
            let pause = if self.watcher.is_some() { SELDOM } else { OFTEN };
            let told = tokio::time::timeout(pause, self.changed.notified()).await.is_ok();
            let now = stamp(&self.path);
            if told || now != self.stamp {
                if !told && self.watcher.is_some() {
                    // It changed and nobody told: the folder itself may be another one now.
                    self.watch_folder();
                }
                self.stamp = now;
                return;
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}
