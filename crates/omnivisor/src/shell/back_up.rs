//! Take a backup now, as an operator wants it: through the agent where a node runs, and at once where none does.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use omnivisor_core::agent::{Action, Event};
use omnivisor_core::dialect::Dialect;
use omnivisor_core::journal::Journal;
use omnivisor_core::plan::Failure;
use omnivisor_core::release::Installed;
use omnivisor_core::time::Timestamp;
use serde_json::json;

use super::by_hand::ByHand;
use super::claim::{StartError, state};
use super::{Shell, restoring};
use crate::clock;
use crate::control;
use crate::effects::backup::manifest::Head;
use crate::effects::backup::seal::seal;
use crate::effects::data::Data;
use crate::effects::snapshot::{self, Cost, Limits, Method, Snapshot, pace};
use crate::effects::writers;
use crate::store::{disk, small};

/// What the name of the folder below the backups begins with, where those of an upgrade are in one that is called as the release. It
/// is this instance's alone.
const BY_HAND: &str = "by-hand-";

/// As those of upgrades; no upgrade has this number.
fn id(at: Timestamp) -> String {
    format!("{}-000000", at.unix_nanos() / 1_000_000)
}

fn folder_of_all(dialect: &dyn Dialect) -> PathBuf {
    dialect.paths().backups.join(format!("{BY_HAND}{}", dialect.instance()))
}

fn folder(dialect: &dyn Dialect, at: Timestamp) -> PathBuf {
    folder_of_all(dialect).join(format!("snapshot-{}-preupgrade", id(at)))
}

/// A backup that is taken by hand.
struct Wanted<'a> {
    dialect: &'a dyn Dialect,
    at: Timestamp,
    of: &'a Installed,
    data: Data,
}

impl<'a> Wanted<'a> {
    fn new(dialect: &'a dyn Dialect, at: Timestamp, of: &'a Installed) -> Result<Self, Failure> {
        let data = Data::of(dialect, &of.folder).map_err(|error| Failure::transient(error.to_string()))?;
        Ok(Self { dialect, at, of, data })
    }

    fn folder(&self) -> PathBuf {
        folder(self.dialect, self.at)
    }

    fn head(&self, killed: bool) -> Head {
        let not_included = self.dialect.beyond_snapshots(&|path| small::read(path).ok());
        Head { killed, not_included, ..Head::by_hand(&id(self.at), self.of, &self.data, self.at) }
    }

    fn cost(&self, method: &Method) -> Result<Cost, Failure> {
        let cost = match &method.takes {
            Some(command) => Cost::by_command(&self.data, command),
            None => Cost::of(&self.data, &folder_of_all(self.dialect), Path::new("")),
        };
        cost.map_err(|error| Failure::transient(error.to_string()))
    }

    /// Nothing is put back from it by itself: what a command takes needs no room here.
    fn require_room(&self, how: &How<'_>) -> Result<(), Failure> {
        let to = folder_of_all(self.dialect);
        disk::make_folders_durably(&to, snapshot::PRIVATE)
            .map_err(|error| Failure::transient(format!("{} cannot be made: {error}", to.display())))?;
        if how.method.takes.is_some() {
            return Ok(());
        }
        let (cost, limits) = (self.cost(how.method)?, how.limits);
        cost.require_room(&self.data, &to, limits, "a backup").map_err(|error| Failure::transient(error.to_string()))
    }

    /// Whether a command that takes it could do so.
    async fn check(&self, how: &How<'_>) -> Result<(), Failure> {
        let Some(command) = &how.method.takes else { return Ok(()) };
        let checked = command.check(&self.data, &id(self.at)).await;
        checked.map_err(|error| Failure::transient(error.to_string()))
    }

    /// Takes it, while no node runs.
    async fn end(&self, how: &How<'_>, cancelled: &AtomicBool) -> Result<(), Failure> {
        let (to, head) = (self.folder(), self.head(how.killed));
        match &how.method.takes {
            Some(command) => {
                let taken = command.take(Snapshot { data: &self.data, to: &to }, &head).await;
                taken.map_err(|error| Failure::transient(error.to_string()))
            }
            None => self.copy(|snapshot| snapshot.take_as(&head, cancelled)),
        }
    }

    fn copy<T>(&self, how: impl FnOnce(Snapshot<'_>) -> std::io::Result<T>) -> Result<T, Failure> {
        let to = self.folder();
        how(Snapshot { data: &self.data, to: &to }).map_err(|error| {
            Failure::transient(format!("{} cannot be copied to {}: {error}", self.data.described(), to.display()))
        })
    }
}

/// How one is taken.
pub(super) struct How<'a> {
    pub(super) limits: Limits,
    pub(super) method: &'a Method,
    /// Whether the node had to be killed.
    pub(super) killed: bool,
}

/// A part of it: ahead, while the node runs; or the end of it.
pub(super) async fn take(
    dialect: &dyn Dialect,
    (at, of, last): (Timestamp, &Installed, bool),
    how: How<'_>,
    cancelled: &AtomicBool,
) -> Result<(), Failure> {
    let wanted = Wanted::new(dialect, at, of)?;
    if last {
        return wanted.end(&how, cancelled).await;
    }
    wanted.require_room(&how)?;
    let done = match &how.method.takes {
        Some(_) => wanted.check(&how).await.map(|()| None),
        None => {
            wanted.copy(|snapshot| pace::gently(snapshot.data, cancelled, |pace| snapshot.prepare(cancelled, pace)))
        }
    };
    // For no longer than for an upgrade.
    let done = done.and_then(|left| {
        wanted.cost(how.method)?.within(how.limits, left).map_err(|error| Failure::transient(error.to_string()))
    });
    if done.is_err() {
        snapshot::discard(&wanted.folder());
    }
    done
}

/// Removes what a backup was that somebody was killed in: whoever begins has none under way.
pub(super) fn sweep(dialect: &dyn Dialect) {
    let entries = std::fs::read_dir(folder_of_all(dialect)).into_iter().flatten().flatten();
    for name in entries.map(|entry| entry.file_name().to_string_lossy().into_owned()) {
        if let Some((whole, _)) = name.split_once(".partial") {
            snapshot::discard(&folder_of_all(dialect).join(whole.trim_start_matches('.')));
        }
    }
}

impl Shell {
    /// Begins one, and says which.
    pub(super) fn back_up(&mut self) -> control::Answer {
        Data::now(&*self.dialect).map_err(|error| format!("no backup is taken now: {error}"))?;
        if let Some(why) = self.agent.cannot_back_up() {
            return Err(format!("no backup is taken now: {why}"));
        }
        if self.unwritable.is_some() {
            return Err("the journal cannot be written: see the log".to_owned());
        }
        self.waiting.push_back(Event::BackUp);
        self.settle();
        let Some(at) = self.agent.backup_under_way() else {
            return Err("no backup is taken now: see the log".to_owned());
        };
        let id = id(at);
        self.backed_up = json!({ "id": id, "state": "taking" });
        Ok(json!({ "id": id }))
    }

    /// Notes how it goes, for whoever asks.
    pub(super) fn note_backup(&mut self, event: &Event) {
        let Some(Action::Backup { at, last, .. }) = self.agent.in_flight() else { return };
        let (id, folder) = (id(*at), folder(&*self.dialect, *at));
        self.backed_up = match event {
            Event::Done(_) if *last => {
                tracing::info!(id, "a backup was taken");
                json!({ "id": id, "state": "done" })
            }
            Event::Failed(failure) => {
                tracing::error!(id, why = failure.reason, "no backup could be taken; the node runs on");
                json!({ "id": id, "state": "failed", "why": failure.reason })
            }
            Event::Cancelled => {
                tracing::warn!(id, "the backup was given up for something that cannot wait");
                tokio::task::spawn_blocking(move || snapshot::discard(&folder));
                json!({ "id": id, "state": "failed", "why": "it was given up for something that cannot wait" })
            }
            _ => return,
        };
    }
}

/// Takes one of a node that does not run. Its id; durable when it returns.
pub async fn back_up_now(
    dialect: &dyn Dialect,
    shared: bool,
    allow_network_file_system: bool,
    limits: Limits,
    method: &Method,
) -> Result<String, StartError> {
    let instance = ByHand::take(dialect, shared, allow_network_file_system).await?;
    if let Some(who) = restoring::occupied(&instance.present) {
        return Err(StartError::Refused(format!(
            "its node runs without a supervisor ({who}): start that, or stop the node"
        )));
    }
    sweep(dialect);
    let journal = Journal::replay(&instance.records).unwrap_or_default();
    let Some(of) = journal.runs() else {
        return Err(StartError::Refused("an upgrade is under way: start, and wait until it is over".to_owned()));
    };
    let data = Data::of(dialect, &of.folder).map_err(|error| StartError::Refused(error.to_string()))?;
    match writers::told(&writers::who_stay(&data, None)) {
        Some(others) if !limits.may_be_written => return Err(StartError::Refused(others)),
        Some(others) => tracing::warn!("{others}"),
        None => {}
    }
    let wanted = Wanted { dialect, at: clock::now().wall, of, data };
    let how = How { limits, method, killed: false };
    let taken = async {
        wanted.require_room(&how)?;
        wanted.check(&how).await?;
        wanted.end(&how, &AtomicBool::new(false)).await?;
        // Where a supervisor runs, it does this later, beside the node.
        seal(&wanted.folder(), &mut |_| Ok(()))
            .map_err(|error| Failure::transient(format!("it is taken, but cannot be listed: {error}")))
    };
    taken
        .await
        .map(|_| id(wanted.at))
        .map_err(|failure| std::io::Error::other(failure.reason))
        .map_err(state("no backup could be taken".to_owned()))
}
