//! The record that stands for all before it, as JSON.

use serde::{Deserialize, Serialize};

use super::records::{AnnouncementDto, InstalledDto, PlanDto, ReleaseDto, time};
use crate::journal::{Adoption, Attempts, Summary, Switched};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct SummaryDto {
    active: InstalledDto,
    adopted_at: String,
    found: bool,
    plans: u64,
    held: bool,
    last_commit: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    replaced: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<SwitchedDto>,
    committed: Vec<ReleaseDto>,
    denied: Vec<(ReleaseDto, String)>,
    attempts: Vec<(ReleaseDto, AttemptsDto)>,
    approved: Vec<ReleaseDto>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct AttemptsDto {
    of: AnnouncementDto,
    transient: u32,
    permanent: u32,
    last: String,
    reason: String,
}

impl From<&Summary> for SummaryDto {
    fn from(summary: &Summary) -> Self {
        Self {
            active: (&summary.active).into(),
            adopted_at: summary.adopted_at.to_string(),
            found: summary.adoption == Adoption::Found,
            plans: summary.plans,
            held: summary.held,
            last_commit: summary.last_commit.map(|at| at.to_string()),
            replaced: summary.replaced,
            last: summary.last.as_ref().map(Into::into),
            committed: summary.committed.iter().map(Into::into).collect(),
            denied: summary.denied.iter().map(|(release, why)| (release.into(), why.clone())).collect(),
            attempts: summary.attempts.iter().map(|(release, attempts)| (release.into(), attempts.into())).collect(),
            approved: summary.approved.iter().map(Into::into).collect(),
        }
    }
}

impl SummaryDto {
    pub(super) fn read(self) -> Result<Summary, String> {
        Ok(Summary {
            active: self.active.read()?,
            adopted_at: time(&self.adopted_at)?,
            adoption: if self.found { Adoption::Found } else { Adoption::Initialised },
            plans: self.plans,
            held: self.held,
            last_commit: self.last_commit.as_deref().map(time).transpose()?,
            replaced: self.replaced,
            last: self.last.map(SwitchedDto::read).transpose()?,
            committed: self.committed.into_iter().map(ReleaseDto::read).collect::<Result<_, _>>()?,
            denied: self
                .denied
                .into_iter()
                .map(|(release, why)| Ok::<_, String>((release.read()?, why)))
                .collect::<Result<_, _>>()?,
            attempts: self
                .attempts
                .into_iter()
                .map(|(release, attempts)| Ok::<_, String>((release.read()?, attempts.read()?)))
                .collect::<Result<_, _>>()?,
            approved: self.approved.into_iter().map(ReleaseDto::read).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Attempts> for AttemptsDto {
    fn from(attempts: &Attempts) -> Self {
        Self {
            of: (&attempts.of).into(),
            transient: attempts.transient,
            permanent: attempts.permanent,
            last: attempts.last.to_string(),
            reason: attempts.reason.clone(),
        }
    }
}

impl AttemptsDto {
    fn read(self) -> Result<Attempts, String> {
        Ok(Attempts {
            of: self.of.read()?,
            transient: self.transient,
            permanent: self.permanent,
            last: time(&self.last)?,
            reason: self.reason,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct SwitchedDto {
    plan: PlanDto,
    staged: InstalledDto,
    before: Option<String>,
}

impl From<&Switched> for SwitchedDto {
    fn from(Switched { plan, staged, before }: &Switched) -> Self {
        Self { plan: plan.into(), staged: staged.into(), before: before.map(|at| at.to_string()) }
    }
}

impl SwitchedDto {
    fn read(self) -> Result<Switched, String> {
        let before = self.before.as_deref().map(time).transpose()?;
        Ok(Switched { plan: self.plan.read()?, staged: self.staged.read()?, before })
    }
}
