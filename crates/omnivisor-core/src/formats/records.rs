//! One journal entry as JSON.
//!
//! Adding a field with a default, or a new kind of record, is compatible; anything else is not.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::summary::SummaryDto;
use crate::journal::{Adoption, Beginning, CancelReason, Record};
use crate::plan::{FailureKind, Step, Undo, UpgradePlan};
use crate::release::{Digest, Identity, Installed, Release, ReleaseName, Version};
use crate::schedule::{Announcement, Asset, Origin, Source, Trigger};
use crate::time::Timestamp;

#[derive(Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub(super) enum RecordDto {
    Adopted {
        installed: InstalledDto,
        at: String,
        found: bool,
    },
    Planned(Box<PlanDto>),
    Started {
        step: String,
    },
    Staged {
        installed: InstalledDto,
    },
    Rescheduled {
        due: Option<String>,
        #[serde(flatten)]
        more: TriggerDto,
    },
    Cancelled {
        why: String,
    },
    Failed {
        step: String,
        permanent: bool,
        reason: String,
        at: String,
    },
    Died {
        reason: String,
    },
    Undone {
        undo: String,
    },
    UndoFailed {
        reason: String,
    },
    Committed {
        at: String,
    },
    RolledBack,
    RollbackOrdered {
        restore: bool,
        at: String,
    },
    RestoreOrdered {
        backup: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        paths: Vec<String>,
        work: PathBuf,
        at: String,
    },
    Restored {
        at: String,
    },
    Held,
    Resumed,
    Approved {
        release: ReleaseDto,
    },
    TakenOver {
        installed: InstalledDto,
        at: String,
    },
    Replaced {
        installed: InstalledDto,
        at: String,
    },
    Began {
        at: String,
        version: String,
        how: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        from: String,
    },
    Summed(Box<SummaryDto>),
}

/// The names of [`RecordDto`]'s variants: what this version knows.
pub(super) const KNOWN: [&str; 22] = [
    "adopted",
    "planned",
    "started",
    "staged",
    "rescheduled",
    "cancelled",
    "failed",
    "died",
    "undone",
    "undo-failed",
    "committed",
    "rolled-back",
    "rollback-ordered",
    "restore-ordered",
    "restored",
    "held",
    "resumed",
    "approved",
    "taken-over",
    "replaced",
    "began",
    "summed",
];

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct PlanDto {
    number: u64,
    begun: String,
    from: InstalledDto,
    to: AnnouncementDto,
    snapshot: bool,
}

impl From<&UpgradePlan> for PlanDto {
    fn from(plan: &UpgradePlan) -> Self {
        Self {
            number: plan.number,
            begun: plan.begun.to_string(),
            from: (&plan.from).into(),
            to: (&plan.to).into(),
            snapshot: plan.snapshot,
        }
    }
}

impl PlanDto {
    pub(super) fn read(self) -> Result<UpgradePlan, String> {
        let Self { number, begun, from, to, snapshot } = self;
        Ok(UpgradePlan { number, begun: time(&begun)?, from: from.read()?, to: to.read()?, snapshot })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ReleaseDto {
    name: String,
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct InstalledDto {
    release: ReleaseDto,
    folder: PathBuf,
    digest: String,
    identity: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct AnnouncementDto {
    release: ReleaseDto,
    due: Option<String>,
    #[serde(flatten)]
    more: TriggerDto,
    published: Option<String>,
    origin: String,
    url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    placed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asset: Option<AssetDto>,
    expected: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    without_snapshot: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct AssetDto {
    owner: String,
    repository: String,
    tag: String,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    binary: Option<String>,
}

impl From<&Asset> for AssetDto {
    fn from(Asset { owner, repository, tag, name, binary }: &Asset) -> Self {
        let (owner, repository, tag) = (owner.clone(), repository.clone(), tag.clone());
        Self { owner, repository, tag, name: name.clone(), binary: binary.clone() }
    }
}

impl AssetDto {
    fn read(self) -> Asset {
        let Self { owner, repository, tag, name, binary } = self;
        Asset { owner, repository, tag, name, binary }
    }
}

fn identity(identity: &Identity) -> BTreeMap<String, String> {
    identity.fields().map(|(field, value)| (field.to_owned(), value.to_owned())).collect()
}

impl From<&Release> for ReleaseDto {
    fn from(release: &Release) -> Self {
        Self {
            name: release.name.to_string(),
            version: release.version.to_string(),
            digest: release.digest.as_ref().map(ToString::to_string),
        }
    }
}

impl ReleaseDto {
    pub(super) fn read(self) -> Result<Release, String> {
        Ok(Release {
            name: ReleaseName::parse_installed(&self.name).map_err(|error| error.to_string())?,
            version: Version::new(self.version),
            digest: self.digest.map(|text| digest(&text)).transpose()?,
        })
    }
}

impl From<&Installed> for InstalledDto {
    fn from(installed: &Installed) -> Self {
        Self {
            release: (&installed.release).into(),
            folder: installed.folder.clone(),
            digest: installed.digest.to_string(),
            identity: identity(&installed.identity),
        }
    }
}

impl InstalledDto {
    pub(super) fn read(self) -> Result<Installed, String> {
        Ok(Installed {
            release: self.release.read()?,
            folder: self.folder,
            digest: digest(&self.digest)?,
            identity: self.identity.into_iter().collect(),
        })
    }
}

impl From<&Announcement> for AnnouncementDto {
    fn from(announced: &Announcement) -> Self {
        let (url, placed, asset) = match &announced.source {
            Source::Download { url } => (Some(url.clone()), None, None),
            Source::Placed { why } => (None, Some(why.clone()), None),
            Source::Asset(asset) => (None, None, Some((&**asset).into())),
        };
        let origin = match announced.origin {
            Origin::Upstream => "upstream",
            Origin::Local => "local",
            Origin::LocalDowngrade => "local-downgrade",
            Origin::Network => "network",
        };
        Self {
            release: (&announced.release).into(),
            due: announced.trigger.due().map(|due| due.to_string()),
            more: announced.trigger.into(),
            published: announced.published.map(|at| at.to_string()),
            origin: origin.to_owned(),
            url,
            placed,
            asset,
            expected: identity(&announced.expected),
            without_snapshot: announced.without_snapshot,
        }
    }
}

impl AnnouncementDto {
    pub(super) fn read(self) -> Result<Announcement, String> {
        Ok(Announcement {
            release: self.release.read()?,
            trigger: trigger(self.due, self.more)?,
            published: self.published.as_deref().map(time).transpose()?,
            origin: match self.origin.as_str() {
                "upstream" => Origin::Upstream,
                "local" => Origin::Local,
                "local-downgrade" => Origin::LocalDowngrade,
                "network" => Origin::Network,
                other => return Err(format!("unknown origin {other:?}")),
            },
            source: match (self.url, self.asset) {
                (Some(url), _) => Source::Download { url },
                (None, Some(asset)) => Source::Asset(Box::new(asset.read())),
                (None, None) => Source::Placed { why: self.placed.unwrap_or_default() },
            },
            expected: self.expected.into_iter().collect(),
            without_snapshot: self.without_snapshot,
        })
    }
}

fn digest(text: &str) -> Result<Digest, String> {
    Digest::parse(text).map_err(|error| error.to_string())
}

pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).map_err(|error| error.to_string())
}

/// What is said of a trigger beside its time. Without a time and without any of this it waits for a command and then ends
/// the run: the only such trigger that the first version knew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct TriggerDto {
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ready: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    runs_on: bool,
}

impl From<Trigger> for TriggerDto {
    fn from(trigger: Trigger) -> Self {
        match trigger {
            Trigger::At(_) | Trigger::OnCommand { ends: true } => Self::default(),
            Trigger::OnCommand { ends: false } => Self { runs_on: true, ..Self::default() },
            Trigger::AtHeight { height, ready } => Self { height: Some(height), ready, ..Self::default() },
        }
    }
}

fn trigger(due: Option<String>, more: TriggerDto) -> Result<Trigger, String> {
    Ok(match (due, more.height) {
        (Some(due), _) => Trigger::At(time(&due)?),
        (None, Some(height)) => Trigger::AtHeight { height, ready: more.ready },
        (None, None) => Trigger::OnCommand { ends: !more.runs_on },
    })
}

fn step(name: &str) -> Result<Step, String> {
    Step::parse(name).ok_or_else(|| format!("unknown step {name:?}"))
}

impl From<&Record> for RecordDto {
    fn from(record: &Record) -> Self {
        match record {
            Record::Adopted { installed, at, adoption } => {
                Self::Adopted { installed: installed.into(), at: at.to_string(), found: *adoption == Adoption::Found }
            }
            Record::Planned(plan) => Self::Planned(Box::new(plan.into())),
            Record::Started(step) => Self::Started { step: step.to_string() },
            Record::Staged(installed) => Self::Staged { installed: installed.into() },
            Record::Rescheduled(trigger) => {
                Self::Rescheduled { due: trigger.due().map(|due| due.to_string()), more: (*trigger).into() }
            }
            Record::Cancelled(why) => Self::Cancelled { why: why.as_str().to_owned() },
            Record::Failed { step, kind, reason, at } => Self::Failed {
                step: step.to_string(),
                permanent: *kind == FailureKind::Permanent,
                reason: reason.clone(),
                at: at.to_string(),
            },
            Record::Died { reason } => Self::Died { reason: reason.clone() },
            Record::Undone(undo) => Self::Undone { undo: undo.to_string() },
            Record::UndoFailed { reason } => Self::UndoFailed { reason: reason.clone() },
            Record::Committed { at } => Self::Committed { at: at.to_string() },
            Record::RolledBack => Self::RolledBack,
            Record::RollbackOrdered { restore, at } => Self::RollbackOrdered { restore: *restore, at: at.to_string() },
            Record::RestoreOrdered { backup, version, paths, work, at } => Self::RestoreOrdered {
                backup: backup.clone(),
                version: version.clone(),
                paths: paths.clone(),
                work: work.clone(),
                at: at.to_string(),
            },
            Record::Restored { at } => Self::Restored { at: at.to_string() },
            Record::Held => Self::Held,
            Record::Resumed => Self::Resumed,
            Record::Approved(release) => Self::Approved { release: release.into() },
            Record::TakenOver { installed, at } => Self::TakenOver { installed: installed.into(), at: at.to_string() },
            Record::Replaced { installed, at } => Self::Replaced { installed: installed.into(), at: at.to_string() },
            Record::Began { at, version, how } => {
                let (how, from) = how.parts();
                Self::Began { at: at.to_string(), version: version.clone(), how: how.into(), from: from.into() }
            }
            Record::Summed(summary) => Self::Summed(Box::new((&**summary).into())),
        }
    }
}

impl RecordDto {
    pub(super) fn read(self) -> Result<Record, String> {
        Ok(match self {
            Self::Adopted { installed, at, found } => Record::Adopted {
                installed: installed.read()?,
                at: time(&at)?,
                adoption: if found { Adoption::Found } else { Adoption::Initialised },
            },
            Self::Planned(plan) => Record::Planned(plan.read()?),
            Self::Started { step: name } => Record::Started(step(&name)?),
            Self::Staged { installed } => Record::Staged(installed.read()?),
            Self::Rescheduled { due, more } => Record::Rescheduled(trigger(due, more)?),
            Self::Cancelled { why } => Record::Cancelled(
                CancelReason::ALL
                    .into_iter()
                    .find(|reason| reason.as_str() == why)
                    .ok_or_else(|| format!("unknown reason {why:?}"))?,
            ),
            Self::Failed { step: name, permanent, reason, at } => Record::Failed {
                step: step(&name)?,
                kind: if permanent { FailureKind::Permanent } else { FailureKind::Transient },
                reason,
                at: time(&at)?,
            },
            Self::Died { reason } => Record::Died { reason },
            Self::Undone { undo } => {
                Record::Undone(Undo::parse(&undo).ok_or_else(|| format!("unknown undo {undo:?}"))?)
            }
            Self::UndoFailed { reason } => Record::UndoFailed { reason },
            Self::Committed { at } => Record::Committed { at: time(&at)? },
            Self::RolledBack => Record::RolledBack,
            Self::RollbackOrdered { restore, at } => Record::RollbackOrdered { restore, at: time(&at)? },
            Self::RestoreOrdered { backup, version, paths, work, at } => {
                Record::RestoreOrdered { backup, version, paths, work, at: time(&at)? }
            }
            Self::Restored { at } => Record::Restored { at: time(&at)? },
            Self::Held => Record::Held,
            Self::Resumed => Record::Resumed,
            Self::Approved { release } => Record::Approved(release.read()?),
            Self::TakenOver { installed, at } => Record::TakenOver { installed: installed.read()?, at: time(&at)? },
            Self::Replaced { installed, at } => Record::Replaced { installed: installed.read()?, at: time(&at)? },
            Self::Began { at, version, how, from } => {
                let how = Beginning::parse(&how, from).ok_or_else(|| format!("unknown beginning {how:?}"))?;
                Record::Began { at: time(&at)?, version, how }
            }
            Self::Summed(summary) => Record::Summed(Box::new(summary.read()?)),
        })
    }
}
