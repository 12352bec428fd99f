//! Make ready, while the node runs, what a rollback by hand puts back, where all of that has to be copied: an archive, or a
//! snapshot on another disk. Only then is the rollback ordered, and the outage has no copy in it.
//!
//! A supervisor that ends meanwhile has ordered nothing, and what it was making is removed by the next start. One that is killed between
//! the name and the order leaves what is whole, and the next rollback takes that. No upgrade is begun meanwhile; an undo that is owed
//! comes first, and what is made for nothing goes.

use std::fs;
use std::io::{self, ErrorKind::Interrupted};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use omnivisor_core::agent::Event;
use omnivisor_core::dialect::Dialect;
use omnivisor_core::journal::Phase;
use omnivisor_core::plan::UpgradePlan;
use serde_json::json;

use super::act::restore_folder;
use super::restoring::note_damage;
use super::rollback::{has_room, may_roll_back};
use super::{Channel, Shell};
use crate::checkpoint;
use crate::clock;
use crate::effects::backup::{self, Backup};
use crate::effects::data::Data;
use crate::effects::parts;
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

    fn cancel(&self) {
        self.cancelled.iter().for_each(|cancelled| cancelled.store(true, Ordering::Relaxed));
    }

    /// Nobody wants it any more, nor to know what became of it.
    pub(super) fn give_up(&mut self) {
        self.cancel();
        self.said = serde_json::Value::Null;
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

impl Shell {
    /// Begins to copy what the rollback of this upgrade puts back; when it is there, the rollback is ordered.
    pub(super) fn make_ready(&mut self, plan: &UpgradePlan, from: Backup) -> Result<(), String> {
        if self.making_ready.is_under_way() {
            return Err(
                "what it puts back is being made ready already: `omnivisor status` shows how that goes".to_owned()
            );
        }
        let limits = self.limits;
        if is_counted(&from) {
            has_room(&*self.dialect, &plan.from.folder, &from, Some(limits))?;
        }
        tracing::info!(from = %from.path.display(), "what the rollback puts back is made ready; the node runs on until then");
        let cancelled = Arc::new(AtomicBool::new(false));
        self.making_ready.cancelled = Some(cancelled.clone());
        self.making_ready.said = json!({ "state": "making ready", "from": from.path });
        let (dialect, made, id) = (self.dialect.clone(), self.making_ready.made.0.clone(), plan.id());
        let release = plan.from.folder.clone();
        tokio::task::spawn_blocking(move || {
            // To count it may take a while.
            let room = if is_counted(&from) { Ok(()) } else { has_room(&*dialect, &release, &from, Some(limits)) };
            let done =
                room.map_err(io::Error::other).and_then(|()| make(&*dialect, (&release, &id), &from, &cancelled));
            if let Err(error) = &done {
                note_damage(&from, error);
            }
            checkpoint::reach("rollback-copied");
            let _ = made.send((id, done));
        });
        Ok(())
    }

    /// Gives it up where something else is done with the node that cannot wait.
    pub(super) fn give_up_making_ready(&mut self) {
        if !matches!(
            self.agent.journal().phase(),
            Phase::Idle | Phase::Preparing { .. } | Phase::Staged { .. } | Phase::Probing { .. }
        ) {
            self.making_ready.give_up();
        }
    }

    /// It is there, or cannot be: then the node runs on.
    pub(super) fn made_ready(&mut self, (id, made): Made) {
        let cancelled = self.making_ready.cancelled.take();
        self.making_ready.said = serde_json::Value::Null;
        let is_wanted = cancelled.is_some_and(|it| !it.load(Ordering::Relaxed)) && self.agent.ending().is_none();
        let ordered = made.map_err(|error| error.to_string()).and_then(|()| {
            if !is_wanted {
                return Err("nobody wants it any more".to_owned());
            }
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
                discard(&making(&*self.dialect, &id));
                if !is_wanted {
                    return;
                }
                tracing::error!(why, "what the rollback puts back cannot be made ready; the node runs on");
                self.making_ready.said = json!({ "state": "failed", "why": why });
            }
        }
    }
}

/// Whether it is known how many bytes it has.
fn is_counted(from: &Backup) -> bool {
    from.bytes.is_some() || from.head.as_ref().is_some_and(|head| head.bytes.is_some())
}

/// Copies it at a pace that leaves the node its disk. Durable when it returns; on an error nothing is left.
fn make(dialect: &dyn Dialect, (release, id): (&Path, &str), from: &Backup, cancelled: &AtomicBool) -> io::Result<()> {
    let (data, making) = (Data::of(dialect, release)?, making(dialect, id));
    parts::remove_work(&making)?;
    let keeps = |path: &Path| dialect.is_monotonic(path);
    let restore = Restore { data: &data, work: &making, is_monotonic: &keeps };
    // Compared with its list, whatever it is.
    let made = pace::gently(&data, cancelled, |pace| {
        let mut each = |bytes| if cancelled.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { pace(bytes) };
        restore.prepare(&Source::Made(&|to, each| backup::unpack(from, to, each)), &[], &mut each)
    });
    if made.is_err() {
        let _ = parts::remove_work(&making);
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
    let is_one = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(MAKING);
    entries.filter(is_one).for_each(|entry| discard(&entry.path()));
}

/// Removes it beside whatever else is done. It has another name at once: the next one may be made meanwhile.
fn discard(making: &Path) {
    let mut aside = making.as_os_str().to_owned();
    aside.push(format!("-{}", clock::now().wall.unix_nanos()));
    let aside = PathBuf::from(aside);
    match disk::rename(making, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => tracing::warn!(path = %making.display(), %error, "what was made ready cannot be moved away"),
        Ok(()) => {}
    }
    tokio::task::spawn_blocking(move || {
        if let Err(error) = parts::remove_work(&aside) {
            tracing::warn!(path = %aside.display(), %error, "what was made ready cannot be removed");
        }
    });
}
