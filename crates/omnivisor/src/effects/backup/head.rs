//! Which snapshot it is: what stands in the first lines of a manifest, and is all of it that is written in an outage.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use omnivisor_core::dialect::Root;
use omnivisor_core::plan::UpgradePlan;
use omnivisor_core::release::{Installed, Release};
use omnivisor_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::effects::data::Data;

/// The first line.
pub(super) const MAGIC: &str = "#mtree";
/// What the line of the head begins with; its version is in it.
pub(super) const HEAD: &str = "# omnivisor-snapshot/1 ";

/// A path for people, with a limit: all that is said in a manifest is one line of it.
pub fn shortened(path: &Path) -> String {
    const LONGEST: usize = 500;
    let text = path.to_string_lossy();
    match text.chars().count() > LONGEST {
        true => format!("{}…", text.chars().take(LONGEST).collect::<String>()),
        false => text.into_owned(),
    }
}

/// A release, as a manifest names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfRelease {
    /// What it is called.
    pub name: String,
    /// What it says of itself.
    pub version: String,
    /// Of its executables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Which snapshot it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// `<begun ms>-<number>`, as its upgrade.
    pub id: String,
    /// When it was taken: RFC 3339.
    pub taken: String,
    /// The home that it was taken of.
    pub home: String,
    /// The folders that it holds, by their names in it, where the data is in several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roots: BTreeMap<String, String>,
    /// What ran until then.
    pub from: OfRelease,
    /// What was to run then.
    pub to: OfRelease,
    /// How it was taken: `copy`, or by an operator's `command`.
    pub method: String,
    /// How many entries there are, once that has been counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// How many bytes its files have, once they have been counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Whether the node had to be killed, so that its data is as it left it.
    #[serde(default)]
    pub killed: bool,
    /// What of the home is not in it, a sentence each.
    #[serde(default)]
    pub not_included: Vec<String>,
    /// What is there where a command has taken it, but is no part of it: paths below the home.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<String>,
    /// What has to be at the top of what a command has taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

impl From<&Release> for OfRelease {
    fn from(release: &Release) -> Self {
        let digest = release.digest.as_ref().map(ToString::to_string);
        Self { name: release.name.as_str().to_owned(), version: release.version.to_string(), digest }
    }
}

impl Head {
    /// Of a backup that is taken by hand of this data, while this is what runs.
    pub fn by_hand(id: &str, of: &Installed, data: &Data, taken: Timestamp) -> Self {
        let of = OfRelease { digest: Some(of.digest.to_string()), ..(&of.release).into() };
        Self {
            id: id.to_owned(),
            taken: taken.to_string(),
            home: data.home.display().to_string(),
            roots: data.named(),
            from: of.clone(),
            to: of,
            method: "copy".to_owned(),
            ..Self::default()
        }
    }

    /// Of the snapshot that an upgrade takes of this data.
    pub fn of(plan: &UpgradePlan, data: &Data, taken: Timestamp) -> Self {
        Self {
            id: plan.id(),
            taken: taken.to_string(),
            home: data.home.display().to_string(),
            roots: data.named(),
            from: OfRelease { digest: Some(plan.from.digest.to_string()), ..(&plan.from.release).into() },
            to: (&plan.to.release).into(),
            method: "copy".to_owned(),
            ..Self::default()
        }
    }

    /// Whether it is one of this data: however that was written then, and also where nothing is any more that was called so.
    pub fn is_of(&self, data: &Data) -> bool {
        let id = |path: &Path| std::fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
        let is_same = |then: &str, now: &Path| {
            let then = Path::new(then);
            then == now || then.as_os_str().is_empty() || id(then).is_none_or(|then| id(now) == Some(then))
        };
        let is_there = |root: &Root| self.roots.get(root.name).is_some_and(|then| is_same(then, &root.path));
        is_same(&self.home, &data.home)
            && match data.one() {
                Some(_) => self.roots.is_empty(),
                None => self.roots.len() == data.roots.len() && data.roots.iter().all(is_there),
            }
    }

    /// Whether a person has ordered it.
    pub fn is_by_hand(&self) -> bool {
        self.from == self.to
    }

    /// What it was taken of, for people.
    pub fn described(&self) -> String {
        match self.roots.is_empty() {
            true => self.home.clone(),
            false => self.roots.values().cloned().collect::<Vec<_>>().join(", "),
        }
    }

    /// When it was taken.
    pub fn taken(&self) -> Option<Timestamp> {
        Timestamp::parse(&self.taken).ok()
    }

    /// A manifest with no entries yet.
    pub fn to_bytes(&self) -> Vec<u8> {
        format!("{MAGIC}\n{}\n", self.line()).into_bytes()
    }

    pub(super) fn line(&self) -> String {
        format!("{HEAD}{}", serde_json::to_string(self).unwrap_or_default())
    }
}
