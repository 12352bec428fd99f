//! Whether, when and within which limits a node's data is copied aside before a switch.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::probe::words;
use super::{SettingsError, duration};
use crate::effects::snapshot::{Limits, Method, SnapshotCommand};

/// A home of 140 GB at 40 MB/s.
const LEAD: Duration = Duration::from_secs(3600);

/// The node is down meanwhile. A file system takes a snapshot in less than a second; a disk that is busy may take some.
const PATIENCE: Duration = Duration::from_secs(60);

/// The table as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct SnapshotTable {
    method: Option<String>,
    lead: Option<String>,
    reserve: Option<String>,
    outage_limit: Option<String>,
    other_writers: Option<String>,
    command: Option<Vec<String>>,
    command_timeout: Option<String>,
    folder: Option<String>,
}

/// How an instance wants its snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshots {
    /// Whether it wants any, as far as its dialect lets it choose.
    pub wanted: bool,
    /// How long before a switch the data begins to be copied ahead.
    pub lead: Duration,
    /// What is refused.
    pub limits: Limits,
    /// How they are taken.
    pub method: Method,
}

impl Snapshots {
    /// `said` prefers a variable to what stands in the file, and says where it found it.
    pub(super) fn resolve(
        table: SnapshotTable,
        said: impl Fn(&str, &str, Option<String>) -> Option<(String, String)>,
    ) -> Result<Self, SettingsError> {
        let method = said("OMNIVISOR_SNAPSHOT_METHOD", "snapshot.method", table.method);
        let lead = said("OMNIVISOR_SNAPSHOT_LEAD", "snapshot.lead", table.lead);
        let reserve = said("OMNIVISOR_SNAPSHOT_RESERVE", "snapshot.reserve", table.reserve);
        let outage = said("OMNIVISOR_SNAPSHOT_OUTAGE_LIMIT", "snapshot.outage-limit", table.outage_limit);
        let writers = said("OMNIVISOR_SNAPSHOT_OTHER_WRITERS", "snapshot.other-writers", table.other_writers);
        let argv = match said("OMNIVISOR_SNAPSHOT_COMMAND", "snapshot.command", None) {
            Some((_, line)) => words(&line),
            None => table.command.unwrap_or_default(),
        };
        let timeout = said("OMNIVISOR_SNAPSHOT_COMMAND_TIMEOUT", "snapshot.command-timeout", table.command_timeout);
        let patience = timeout.map(duration).transpose()?.unwrap_or(PATIENCE);
        let folder = said("OMNIVISOR_SNAPSHOT_FOLDER", "snapshot.folder", table.folder).map(|(_, folder)| folder);
        let way = method.map(way).transpose()?.unwrap_or(Way::Copied);
        // What a subvolume was taken with removes it, too, when another way has been chosen since.
        let removes = match (way, folder) {
            (Way::Btrfs, None) => {
                return Err(lacks("btrfs", "a snapshot.folder that snapshots go to, on the same Btrfs"));
            }
            (Way::Zfs, _) => Some(Arc::new(SnapshotCommand::zfs(patience))),
            (Way::Taken, _) | (_, None) => command(argv, patience)?,
            (_, Some(folder)) if !Path::new(&folder).is_absolute() => {
                let place = "snapshot.folder".to_owned();
                return Err(SettingsError::Value {
                    place,
                    value: folder,
                    right: "a whole path, such as /srv/snapshots,",
                });
            }
            (_, Some(folder)) => Some(Arc::new(SnapshotCommand::btrfs(&folder, patience))),
        };
        let takes = removes.clone().filter(|_| matches!(way, Way::Taken | Way::Btrfs | Way::Zfs));
        if way == Way::Taken && takes.is_none() {
            return Err(lacks("command", "a snapshot.command that is to be called"));
        }
        Ok(Self {
            wanted: way != Way::None,
            lead: lead.map(duration).transpose()?.unwrap_or(LEAD),
            limits: Limits {
                reserve: reserve.map(size).transpose()?,
                outage: outage.map(duration).transpose()?,
                may_be_written: writers.map(writers_allowed).transpose()?.unwrap_or(false),
            },
            method: Method { takes, removes, falls_back: way != Way::None },
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    None,
    Copied,
    Taken,
    Btrfs,
    Zfs,
}

fn lacks(method: &str, what: &str) -> SettingsError {
    SettingsError::Table { place: "snapshot".to_owned(), why: format!("method = \"{method}\" needs {what}") }
}

fn way((place, value): (String, String)) -> Result<Way, SettingsError> {
    match value.as_str() {
        "auto" => Ok(Way::Copied),
        "command" => Ok(Way::Taken),
        "btrfs" => Ok(Way::Btrfs),
        "zfs" => Ok(Way::Zfs),
        "none" => Ok(Way::None),
        _ => Err(SettingsError::Value { place, value, right: "auto, btrfs, zfs, command or none" }),
    }
}

/// Its path has to be whole: what else it would be depends on where somebody has started us.
fn command(argv: Vec<String>, patience: Duration) -> Result<Option<Arc<SnapshotCommand>>, SettingsError> {
    let mut argv = argv.into_iter();
    let Some(program) = argv.next() else { return Ok(None) };
    if !Path::new(&program).is_absolute() {
        let place = "snapshot.command".to_owned();
        return Err(SettingsError::Value {
            place,
            value: program,
            right: "a whole path, such as /usr/local/sbin/snapshot,",
        });
    }
    Ok(Some(Arc::new(SnapshotCommand::new(program.into(), argv.collect(), patience))))
}

fn writers_allowed((place, value): (String, String)) -> Result<bool, SettingsError> {
    match value.as_str() {
        "refuse" => Ok(false),
        "warn" => Ok(true),
        _ => Err(SettingsError::Value { place, value, right: "refuse or warn" }),
    }
}

/// A number of bytes, as people write it.
pub(super) fn size((place, value): (String, String)) -> Result<u64, SettingsError> {
    let digits = value.find(|it: char| !it.is_ascii_digit()).unwrap_or(value.len());
    let unit = match value[digits..].trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let bytes = value[..digits].parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    bytes.ok_or(SettingsError::Value { place, value, right: "20GiB or 500MiB" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_with_a_unit() {
        let read = |text: &str| size(("key".to_owned(), text.to_owned())).ok();
        assert_eq!(read("0"), Some(0));
        assert_eq!(read("10GiB"), Some(10 << 30));
        assert_eq!(read("500 MiB"), Some(500 << 20));
        for wrong in ["", "GiB", "10GB", "-1", "1.5GiB", "99999999999TiB"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
