//! Make ready, while the node runs, what a rollback by hand puts back, where all of that has to be copied: an archive, or a
//! snapshot on another disk. Only then is the rollback ordered, and the outage has no copy in it.
//!
//! A supervisor that ends meanwhile has ordered nothing, and what it had made is removed by the next start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use omnivisor_core::agent::Event;
use omnivisor_core::dialect::Dialect;
use omnivisor_core::plan::UpgradePlan;
use serde_json::json;

use super::act::restore_folder;
use super::rollback::may_roll_back;
use super::{Channel, Shell};
use crate::checkpoint;
use crate::effects::backup::{self, Backup, Kind};
use crate::effects::restore::{Restore, Source};
use crate::effects::snapshot::pace;
use crate::store::disk;

/// What the name of a folder begins with in which it is made.
const MAKING: &str = ".making-ready-";

/// What was made ready for the upgrade with this id, or why it was not.
pub(super) type Made = (String, io::Result<()>);

/// How what a rollback puts back is made ready.
pub(super) struct MakingReady {
    made: Channel<Made>,
    /// Set when nobody wants it any more; none where nothing is being made ready.
    cancelled: Option<Arc<AtomicBool>>,
    /// For whoever asks.
    said: serde_json::Value,
}

impl Default for MakingReady {
    fn default() -> Self {
        Self { made: tokio::sync::mpsc::unbounded_channel(), cancelled: None, said: serde_json::Value::Null }
    }
}

/// Whoever ends does not wait for it.
impl Drop for MakingReady {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl MakingReady {
    /// Whether something is being made ready.
    pub(super) fn is_under_way(&self) -> bool {
        self.cancelled.is_some()
    }

    /// Nobody wants it any more.
    pub(super) fn cancel(&self) {
        self.cancelled.iter().for_each(|cancelled| cancelled.store(true, Ordering::Relaxed));
    }

    /// What the status says of it.
    pub(super) fn said(&self) -> &serde_json::Value {
        &self.said
    }

    /// What has come of it.
    pub(super) async fn heard(&mut self) -> Option<Made> {
        self.made.1.recv().await
    }
}

/// What has to be copied before this upgrade can be taken back with its data, if anything has.
pub(super) fn to_be_copied(dialect: &dyn Dialect, plan: &UpgradePlan) -> Option<Backup> {
    if restore_folder(dialect, &plan.id()).is_dir() {
        return None; // it was begun before
    }
    let found = backup::find(&dialect.paths().backups, &plan.id()).ok()?;
    (found.kind != Kind::Folder || !disk::is_same(&found.path, &dialect.paths().beside)).then_some(found)
}

impl Shell {
    /// Begins to copy what the rollback of this upgrade puts back; when it is there, the rollback is ordered.
    pub(super) fn make_ready(&mut self, plan: &UpgradePlan, from: Backup) -> Result<(), String> {
        if self.making_ready.is_under_way() {
            return Err(
                "what it puts back is being made ready already: `omnivisor status` shows how that goes".to_owned()
            );
        }
        tracing::info!(from = %from.path.display(), "what the rollback puts back is made ready; the node runs on until then");
        let cancelled = Arc::new(AtomicBool::new(false));
        self.making_ready.cancelled = Some(cancelled.clone());
        self.making_ready.said = json!({ "state": "making ready", "from": from.path });
        let (dialect, made, id) = (self.dialect.clone(), self.making_ready.made.0.clone(), plan.id());
        tokio::task::spawn_blocking(move || {
            let done = make(&*dialect, &id, &from, &cancelled);
            checkpoint::reach("rollback-copied");
            let _ = made.send((id, done));
        });
        Ok(())
    }

    /// It is there, or cannot be: then the node runs on.
    pub(super) fn made_ready(&mut self, (id, made): Made) {
        let cancelled = self.making_ready.cancelled.take();
        self.making_ready.said = serde_json::Value::Null;
        let ordered = made.map_err(|error| error.to_string()).and_then(|()| {
            let plan = may_roll_back(&*self.dialect, self.agent.journal(), false)?;
            if plan.id() != id {
                return Err("another upgrade was done meanwhile".to_owned());
            }
            name(&*self.dialect, &id).map_err(|error| error.to_string())
        });
        match ordered {
            Ok(()) => {
                checkpoint::reach("rollback-ready");
                self.waiting.push_back(Event::RollBack { restore: true });
            }
            Err(why) => {
                let making = making(&*self.dialect, &id);
                tokio::task::spawn_blocking(move || disk::remove(&making));
                if cancelled.is_none_or(|it| it.load(Ordering::Relaxed)) {
                    return; // nobody waits for it any more
                }
                tracing::error!(why, "what the rollback puts back cannot be made ready; the node runs on");
                self.making_ready.said = json!({ "state": "failed", "why": why });
            }
        }
    }
}

/// Copies it, at low priority. Durable when it returns; on an error nothing is left.
fn make(dialect: &dyn Dialect, id: &str, from: &Backup, cancelled: &AtomicBool) -> io::Result<()> {
    let (paths, making) = (dialect.paths(), making(dialect, id));
    disk::remove(&making)?;
    let keeps = |path: &Path| dialect.is_monotonic(path);
    let restore = Restore { home: &paths.home, work: &making, apart: &paths.apart, is_monotonic: &keeps };
    let unpack = |to: &Path| backup::unpack(from, to, cancelled);
    let source = if from.kind == Kind::Folder { Source::Kept(&from.path) } else { Source::Made(&unpack) };
    let made = pace::gently(&paths.home, cancelled, |_| restore.prepare(&source, &[], cancelled));
    if made.is_err() {
        let _ = disk::remove(&making);
    }
    made
}

/// Gives it the name under which the undo looks for it: in the moment in which that is ordered, so that no other undo has taken the
/// name since.
fn name(dialect: &dyn Dialect, id: &str) -> io::Result<()> {
    disk::rename_new(&making(dialect, id), &restore_folder(dialect, id))?;
    disk::flush_folder(&dialect.paths().beside)
}

fn making(dialect: &dyn Dialect, id: &str) -> PathBuf {
    dialect.paths().beside.join(format!("{MAKING}{id}"))
}

/// Removes what somebody was making who was killed; whoever supervises the instance is the only one who makes it.
pub(super) fn sweep(dialect: &dyn Dialect) {
    let entries = fs::read_dir(&dialect.paths().beside).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(MAKING)) {
        if let Err(error) = disk::remove(&entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "what was being made ready cannot be removed");
        }
    }
}
