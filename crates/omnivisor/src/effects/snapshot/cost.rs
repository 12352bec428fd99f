//! What a snapshot costs: where it goes, how it is copied, the room it needs, and how long the node will be down for it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnivisor_core::dialect::{Dialect, Paths};
use omnivisor_core::plan::UpgradePlan;

use super::{LITTLE, Method, PARTIAL, SnapshotCommand, beside, later};
use crate::effects::data::Data;
use crate::effects::space::{self, NoSpace};

/// What a copy by reference needs beside its names: nothing that grows with the data.
const BY_REFERENCE: u64 = 64 << 20;

/// A switch whose snapshot has nothing to copy: six flushes, a rename, a start. These and the following are what `just bench-outage`
/// finds on two processors and a disk that writes 400 to 700 MB in a second, and somewhat more.
const SWITCH: Duration = Duration::from_millis(10);

/// A file that has not changed is looked at.
const LOOK: Duration = Duration::from_micros(2);

/// A file that has changed is made anew.
const FILE: Duration = Duration::from_micros(100);

/// Bytes in a second that are copied and flushed.
const SPEED: u64 = 300 << 20;

/// What may be spent on a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that have to stay free on the disk that plain copies go to; none: a tenth of it, and 10 GiB at least.
    pub reserve: Option<u64>,
    /// The longest outage that is expected and gone into; none: any.
    pub outage: Option<Duration>,
    /// Whether others than the node may have the data open to write to it.
    pub may_be_written: bool,
}

/// Where the snapshot of an upgrade is: below the backups, by the release's name, as the peer has it.
pub fn folder(dialect: &dyn Dialect, plan: &UpgradePlan) -> PathBuf {
    let name = format!("snapshot-{}-preupgrade", plan.id());
    dialect.paths().backups.join(plan.to.release.name.as_str()).join(name)
}

/// What a snapshot needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Whether files are copied by reference.
    pub by_reference: bool,
    /// Bytes that are still to be written.
    pub bytes: u64,
    /// What is copied, in bytes.
    pub data: u64,
    /// Files, folders and links.
    pub entries: u64,
    /// Whether most of it is copied while the node runs.
    pub ahead: bool,
    /// Whether it stays a folder.
    pub is_kept: bool,
    /// How long an operator's command may take, where that takes the snapshot; then `bytes` are what an undo would have to copy.
    pub command: Option<Duration>,
}

/// What the snapshot of an upgrade still needs. Walks the data, and sees that all of it can be read.
pub fn cost(dialect: &dyn Dialect, plan: &UpgradePlan, method: &Method) -> io::Result<Cost> {
    let data = Data::of(dialect, &plan.from.folder)?;
    match &method.takes {
        Some(command) => Cost::by_command(&data, command),
        None => Cost::of(&data, &dialect.paths().backups, &beside(&folder(dialect, plan), PARTIAL)),
    }
}

/// Room that it needs on one file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needed<'a> {
    /// A folder there, which may not be there yet.
    pub folder: &'a Path,
    /// So many bytes.
    pub bytes: u64,
    /// And so many that have to stay free.
    pub reserve: u64,
}

impl Cost {
    /// That of a copy to `partial`, which may hold some of it already, in the folder `backups`.
    pub fn of(data: &Data, backups: &Path, partial: &Path) -> io::Result<Self> {
        data.may_have_parts()?;
        let there = data.survey()?;
        let by_reference = data.not_cloned(backups).is_none();
        let copied = if partial.is_dir() { space::survey(partial, &[]).map_or(0, |it| it.bytes) } else { 0 };
        let bytes = match by_reference {
            true => BY_REFERENCE,
            false => there.bytes.saturating_sub(data.survey_of_parts()?.bytes).saturating_sub(copied),
        };
        let ahead = super::have_honest_times(data);
        let is_kept = data.one().is_none();
        Ok(Self { by_reference, bytes, data: there.bytes, entries: there.entries, ahead, is_kept, command: None })
    }

    /// That of one which a command takes: nothing, until it is put back, which is a copy.
    pub fn by_command(data: &Data, command: &SnapshotCommand) -> io::Result<Self> {
        let there = data.survey()?;
        let by_reference = data.roots.iter().all(|root| super::is_btrfs(&root.path));
        let bytes = if by_reference { BY_REFERENCE } else { there.bytes };
        let (data, entries) = (there.bytes, there.entries);
        let command = Some(command.patience);
        Ok(Self { by_reference, bytes, data, entries, ahead: true, is_kept: false, command })
    }

    /// Which folder's disk the bytes are needed on.
    pub fn place<'a>(&self, paths: &'a Paths) -> &'a Path {
        if self.command.is_some() { &paths.beside } else { &paths.backups }
    }

    /// Where it needs room: in this folder, and on the file systems of the homes that are on others. Of these there is a copy by reference,
    /// whatever the rest is.
    pub fn needed<'a>(&self, data: &'a Data, folder: &'a Path, limits: Limits) -> Vec<Needed<'a>> {
        let parts = Self { by_reference: true, bytes: BY_REFERENCE, ..*self };
        let elsewhere = data.parts.values().map(|it| (it.as_path(), parts));
        let all = [(folder, *self)].into_iter().chain(elsewhere);
        all.map(|(folder, it)| Needed { folder, bytes: it.bytes, reserve: it.reserve(folder, limits) }).collect()
    }

    /// Sees that there is room for it there.
    pub fn require_room(&self, data: &Data, folder: &Path, limits: Limits, what: &str) -> Result<(), NoSpace> {
        let mut all = self.needed(data, folder, limits).into_iter();
        all.try_for_each(|it| space::require_beside(it.folder, it.bytes, it.reserve, what))
    }

    /// How long the switch will take with so much that is left to it, from the end of the old node to the start of the new one.
    pub fn outage(&self, left: Left) -> Duration {
        self.command.map_or_else(|| left.outage(self.by_reference), |patience| SWITCH + patience)
    }

    /// What has to stay free beside it. A copy by reference takes none at first; that of several homes is kept as it is, and holds whatever is
    /// written over later.
    pub fn reserve(&self, folder: &Path, limits: Limits) -> u64 {
        match space::room(folder) {
            Some(room) if !self.by_reference || self.is_kept => space::reserve_of_a_copy(room, limits.reserve),
            _ => 0,
        }
    }

    /// The same if it changes as much as is left to the last pass at most.
    pub fn left_at_most(&self) -> Left {
        let later = if self.by_reference { later::AT_MOST } else { Duration::ZERO };
        match self.ahead {
            true => {
                Left { files: self.entries, changed: LITTLE.1.min(self.entries), bytes: LITTLE.0.min(self.data), later }
            }
            false => self.left(),
        }
    }

    /// What the last pass will be about if the node changes little between two passes; all of it, where no pass can be taken before.
    pub fn left(&self) -> Left {
        match self.ahead {
            true => Left { files: self.entries, changed: 0, bytes: 0, later: Duration::ZERO },
            false => Left { files: self.entries, changed: self.entries, bytes: self.data, later: Duration::ZERO },
        }
    }

    /// Whether the outage is expected to be short enough, with what is `left` to the last pass, if that is known.
    pub fn within(&self, limits: Limits, left: Option<Left>) -> Result<(), TooLong> {
        let Some(limit) = limits.outage else { return Ok(()) };
        let expected = self.outage(left.unwrap_or_else(|| self.left()));
        if expected <= limit { Ok(()) } else { Err(TooLong { expected, limit }) }
    }
}

/// The node would be down for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the outage is expected to take {expected}, and snapshot.outage-limit is {limit}: `omnivisor plan` says why",
    expected = humantime::format_duration(*.expected),
    limit = humantime::format_duration(*.limit)
)]
pub struct TooLong {
    /// For so long, as far as is known.
    pub expected: Duration,
    /// For so long it may be.
    pub limit: Duration,
}

/// What is left to the last pass, while no node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Files that are looked at.
    pub files: u64,
    /// Those that have changed.
    pub changed: u64,
    /// What these hold, in bytes.
    pub bytes: u64,
    /// How long those take that are not copied ahead, as they can be copied by reference in a moment.
    pub later: Duration,
}

impl Left {
    /// How long the switch will take, from the end of the old node to the start of the new one: an estimate for a small machine.
    pub fn outage(&self, by_reference: bool) -> Duration {
        let times = |each: Duration, count: u64| each.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        let copied = if by_reference { Duration::ZERO } else { Duration::from_millis(self.bytes * 1000 / SPEED) };
        SWITCH + times(LOOK, self.files) + times(FILE, self.changed) + copied + self.later
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_grows_with_what_has_changed_and_hardly_with_what_has_not() {
        let outage =
            |files, changed, bytes| Left { files, changed, bytes, later: Duration::ZERO }.outage(false).as_millis();
        assert_eq!(outage(0, 0, 0), 10);
        assert_eq!(outage(10_000, 100, 30 << 20), 10 + 20 + 10 + 100);
        assert_eq!(outage(1_000_000, 0, 0), 2010);
        let later = Duration::from_millis(3);
        assert_eq!(Left { files: 0, changed: 0, bytes: 1 << 40, later }.outage(true), SWITCH + later);
    }
}
