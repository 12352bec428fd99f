//! The JSON files of a Nymvisor data directory, read and written as Nymvisor does: two blanks, no newline at the end.
//!
//! [`UpgradeInfo`] announces one release, [`PlanFile`] queues them, [`HistoryFile`] remembers them, [`CurrentVersionFile`]
//! says what a daemon's home was last used with. Keys that are not known are kept; an element of a list that cannot be
//! read is kept as it is ([`Lenient`]) and rejects nothing else. Reading and writing the disk is not done here.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use url::Url;

use super::build_info::{BuildInfo, excerpt};
use super::platform::ANY;
use crate::release::{Algorithm, Digest, DigestError};
use crate::time::Timestamp;

/// No file of this kind has a reason to be larger: a history of some nine hundred upgrades fits.
pub const LARGEST: usize = 1024 * 1024;

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is too large to be what it is said to be.
    #[error("cannot read {what}: it has {size} bytes, and {LARGEST} are the most that are read")]
    TooLarge {
        /// Which file it should be.
        what: &'static str,
        /// How many bytes it has.
        size: usize,
    },
    /// It is not JSON, or not of the right form.
    #[error("cannot read {what}: {reason}; it begins with \"{excerpt}\"")]
    Unreadable {
        /// Which file it should be.
        what: &'static str,
        /// What the JSON reader says.
        reason: String,
        /// Its beginning, escaped.
        excerpt: String,
    },
}

/// A time as these files write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub Timestamp);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Timestamp::parse(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

/// An element of a list: either what it should be, or what it is, with the reason why that is not it.
#[derive(Clone, Debug, PartialEq)]
pub enum Lenient<T> {
    /// It could be read.
    Known(T),
    /// It could not; it is written back as it was.
    Malformed {
        /// What stands there.
        raw: Value,
        /// What is wrong with it.
        reason: String,
    },
}

impl<T> Lenient<T> {
    /// What was read, if it could be.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(known) => Some(known),
            Self::Malformed { .. } => None,
        }
    }
}

impl<T: Serialize> Serialize for Lenient<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(known) => known.serialize(serializer),
            Self::Malformed { raw, .. } => raw.serialize(serializer),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Value::deserialize(deserializer)?;
        Ok(match T::deserialize(&raw) {
            Ok(known) => Self::Known(known),
            Err(error) => Self::Malformed { raw, reason: error.to_string() },
        })
    }
}

/// Where the build for one platform is, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object with checksum, checksumAlgorithm and url")]
pub struct DownloadUrl {
    /// Hexadecimal digits of either case; empty if there is no checksum.
    #[serde(default)]
    pub checksum: String,
    /// `sha256` or `sha512`.
    #[serde(default)]
    pub checksum_algorithm: String,
    /// An absolute address.
    pub url: String,
}

impl DownloadUrl {
    /// The digest that the file must have, if one is given.
    pub fn digest(&self) -> Result<Option<Digest>, DigestError> {
        if self.checksum.trim().is_empty() {
            return Ok(None);
        }
        let algorithm = Algorithm::parse(&self.checksum_algorithm)
            .ok_or_else(|| DigestError::Algorithm(self.checksum_algorithm.chars().take(200).collect()))?;
        Digest::from_hex(algorithm, &self.checksum).map(Some)
    }

    /// The address, or a sentence saying why it cannot be used.
    pub fn address(&self) -> Result<Url, String> {
        let shown = || self.url.chars().take(200).collect::<String>();
        let url = Url::parse(&self.url).map_err(|error| format!("its url {:?} is not an address: {error}", shown()))?;
        match url.scheme() {
            "http" | "https" => Ok(url),
            scheme => Err(format!("its url {:?} is of the kind {scheme}, only http and https are followed", shown())),
        }
    }
}

/// What only this program writes into an entry; Nymvisor does not look at it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub struct Own {
    /// The instances that are to follow the entry, each with its time. Absent: every instance, at `upgradeTime`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<BTreeMap<String, Stamp>>,
    /// The address of the announcement it was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// The digest of the executable that was placed for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Whether a person asked for a version that is older than the ones before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_older: bool,
    /// Whether a person wants no snapshot before this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_backup: bool,
    /// Whether a person has to say when, and the run goes on then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approval: bool,
    /// What is not known.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// `upgrade-info.json`: one release, and when it is to be switched to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object that describes an upgrade")]
pub struct UpgradeInfo {
    /// Whether somebody has to say when.
    pub manual: bool,
    /// Its name, and the name of its folder.
    pub name: String,
    /// For people. Nymvisor demands it, which helps nobody.
    #[serde(default)]
    pub notes: String,
    /// When it was published. Nymvisor demands the key.
    #[serde(default)]
    pub publish_date: Option<Stamp>,
    /// What the executable must say its version is.
    pub version: String,
    /// The builds by platform, unread: an odd one must not hide the others. See [`UpgradeInfo::download`].
    pub platforms: BTreeMap<String, Value>,
    /// When it is to be switched to.
    pub upgrade_time: Stamp,
    /// What the executable must say of itself.
    #[serde(default)]
    pub binary_details: Option<BuildInfo>,
    /// What this program added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omnivisor: Option<Own>,
    /// What is not known.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl UpgradeInfo {
    /// The release that an installation begins with.
    pub fn genesis(build_info: BuildInfo) -> Self {
        Self {
            manual: true,
            name: "genesis".to_owned(),
            notes: String::new(),
            publish_date: None,
            version: build_info.build_version.clone(),
            platforms: BTreeMap::new(),
            upgrade_time: Stamp(Timestamp::EPOCH),
            binary_details: Some(build_info),
            omnivisor: None,
            extra: Map::new(),
        }
    }

    /// A release whose executable somebody has placed here, as `add-upgrade` describes it.
    pub fn local(
        name: &str,
        build_info: BuildInfo,
        now: Timestamp,
        publish: Option<Timestamp>,
        upgrade_time: Timestamp,
    ) -> Self {
        Self {
            manual: false,
            name: name.to_owned(),
            notes: "manually added via 'add-upgrade' command".to_owned(),
            publish_date: Some(Stamp(publish.unwrap_or(now))),
            upgrade_time: Stamp(upgrade_time),
            ..Self::genesis(build_info)
        }
    }

    /// The build for a platform, or else the one for any: under which key, and what stands there or why it is unreadable.
    pub fn download(&self, platform: &str) -> Option<(&str, Result<DownloadUrl, String>)> {
        let (key, raw) = self.platforms.get_key_value(platform).or_else(|| self.platforms.get_key_value(ANY))?;
        Some((key, DownloadUrl::deserialize(raw).map_err(|error| error.to_string())))
    }

    /// Leaves out the builds that Nymvisor cannot read, because it then reads nothing of a file; but not that of `kept`, of
    /// which is to be said what is wrong with it.
    pub fn drop_odd_builds(&mut self, kept: Option<&str>) {
        let is_read = |raw: &Value| {
            let Ok(build) = DownloadUrl::deserialize(raw) else { return false };
            let lower = matches!(build.checksum_algorithm.as_str(), "sha256" | "sha512");
            let whole = ["checksum", "checksumAlgorithm"].iter().all(|key| raw.get(key).is_some());
            whole && lower && build.digest().is_ok() && build.address().is_ok()
        };
        self.platforms.retain(|key, raw| is_read(raw) || kept.is_some_and(|kept| key == kept || key == ANY));
    }
}

/// `upgrade-plan.json`: what is active and what is to come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object with current and queuedUp")]
pub struct PlanFile {
    /// The active release.
    pub current: UpgradeInfo,
    /// The next ones, the earliest first.
    pub queued_up: Vec<Lenient<UpgradeInfo>>,
    /// What is not known.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl PlanFile {
    /// A plan with nothing to come.
    pub fn new(current: UpgradeInfo) -> Self {
        Self { current, queued_up: Vec::new(), extra: Map::new() }
    }
}

/// One upgrade that was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object with performedAt and info")]
pub struct HistoryEntry {
    /// When.
    pub performed_at: Stamp,
    /// Which.
    pub info: UpgradeInfo,
    /// By which instance; only this program says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omnivisor_instance: Option<String>,
    /// What is not known.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// `upgrade-history.json`: what was done, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "an object with history")]
pub struct HistoryFile {
    /// The upgrades.
    pub history: Vec<Lenient<HistoryEntry>>,
    /// What is not known.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// `current-version.json` in a daemon's home: what it was last used with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object that describes a version")]
pub struct CurrentVersionFile {
    /// The release's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When it was planned.
    pub upgrade_time: Stamp,
    /// What its executable says of itself.
    pub binary_details: BuildInfo,
    /// What is not known.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn read<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, FileError> {
    if bytes.len() > LARGEST {
        return Err(FileError::TooLarge { what, size: bytes.len() });
    }
    // How deep a value may be nested is limited by the reader itself.
    serde_json::from_slice(bytes).map_err(|error| FileError::Unreadable {
        what,
        reason: error.to_string(),
        excerpt: excerpt(bytes),
    })
}

macro_rules! file {
    ($type:ty, $name:literal) => {
        impl $type {
            /// What the file is called.
            pub const FILE_NAME: &'static str = $name;

            /// Reads the file's content.
            pub fn parse(bytes: &[u8]) -> Result<Self, FileError> {
                read(Self::FILE_NAME, bytes)
            }

            /// The file's content, as Nymvisor would write it.
            #[allow(clippy::expect_used, reason = "only a map with keys that are not text could fail; there is none")]
            pub fn to_bytes(&self) -> Vec<u8> {
                serde_json::to_vec_pretty(self).expect("plain data can be written as JSON")
            }
        }
    };
}

file!(UpgradeInfo, "upgrade-info.json");
file!(PlanFile, "upgrade-plan.json");
file!(HistoryFile, "upgrade-history.json");
file!(CurrentVersionFile, "current-version.json");
