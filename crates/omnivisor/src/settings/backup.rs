//! What becomes of backups: what they are packed as, and how many stay.

use std::time::Duration;

use omnivisor_core::retention::Retention;
use serde::Deserialize;

use super::snapshot::size;
use super::{SettingsError, count, duration};
use crate::effects::backup::archive::Format;
use crate::effects::backup::keep::Keep;

/// A release that is bad in a way that no probe sees is taken back by a person, and mostly on the first day.
const AFTER: Duration = Duration::from_secs(24 * 3600);

/// The last good one, the one before it, and one for bad luck.
const COUNT: u32 = 3;

/// The table as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct BackupTable {
    archive: Option<String>,
    archive_after: Option<String>,
    keep: Option<Number>,
    keep_for: Option<String>,
    keep_bytes: Option<String>,
}

/// `3` or `"all"`
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u32),
    Word(String),
}

/// `said` prefers a variable to what stands in the file, and says where it found it.
pub(super) fn resolve(
    table: BackupTable,
    said: impl Fn(&str, &str, Option<String>) -> Option<(String, String)>,
) -> Result<Keep, SettingsError> {
    let keep = table.keep.map(|keep| match keep {
        Number::Number(number) => number.to_string(),
        Number::Word(word) => word,
    });
    let archive = said("OMNIVISOR_BACKUP_ARCHIVE", "backup.archive", table.archive);
    let after = said("OMNIVISOR_BACKUP_ARCHIVE_AFTER", "backup.archive-after", table.archive_after);
    let keep = said("OMNIVISOR_BACKUP_KEEP", "backup.keep", keep);
    let keep_for = said("OMNIVISOR_BACKUP_KEEP_FOR", "backup.keep-for", table.keep_for);
    let keep_bytes = said("OMNIVISOR_BACKUP_KEEP_BYTES", "backup.keep-bytes", table.keep_bytes);
    Ok(Keep {
        archive: archive.map(format).transpose()?.unwrap_or(Some(Format::Zst)),
        after: after.map(duration).transpose()?.unwrap_or(AFTER),
        retention: Retention {
            count: match keep {
                Some((_, word)) if word == "all" => None,
                Some(said) => Some(count(said)?),
                None => Some(COUNT),
            },
            age: keep_for.map(duration).transpose()?,
            bytes: keep_bytes.map(size).transpose()?,
        },
    })
}

fn format((place, value): (String, String)) -> Result<Option<Format>, SettingsError> {
    match value.as_str() {
        "zst" => Ok(Some(Format::Zst)),
        "gz" => Ok(Some(Format::Gz)),
        "none" => Ok(None),
        _ => Err(SettingsError::Value { place, value, right: "zst, gz or none" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_careful_and_what_makes_no_sense_is_named() {
        let read = |text: &str| {
            let table = toml::from_str(text).map_err(|error| error.to_string())?;
            resolve(table, |_, key, value| value.map(|value| (key.to_owned(), value)))
                .map_err(|error| error.to_string())
        };
        let usual = read("").unwrap();
        assert_eq!((usual.archive, usual.after, usual.retention.count), (Some(Format::Zst), AFTER, Some(3)));
        assert_eq!((usual.retention.age, usual.retention.bytes), (None, None));
        let other = read("archive = 'none'\nkeep = 'all'\nkeep-for = '90d'\nkeep-bytes = '1GiB'").unwrap();
        assert_eq!((other.archive, other.retention.count), (None, None));
        assert_eq!(other.retention.bytes, Some(1 << 30));
        assert_eq!(read("keep = 5").unwrap().retention.count, Some(5));
        for (text, named) in [("keep = 0", "backup.keep"), ("archive = 'zip'", "backup.archive"), ("kep = 1", "kep")] {
            let error = read(text).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
