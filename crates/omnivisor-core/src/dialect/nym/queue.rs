//! What the queue of an upgrade plan means for one instance, and how it changes.
//!
//! [`announcements`] reads it; [`merge_upstream`], [`add_local`] and [`settle`] change it; [`history_with`] notes what was
//! done. Several instances may share one data directory and so one queue: an entry that not all of them follow, or not at
//! the same time, lists the ones that do ([`Own::instances`]). Deciding what is done with an announcement is not done here.

mod read;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::files::{HistoryEntry, HistoryFile, Lenient, Own, PlanFile, Stamp, UpgradeInfo};
use crate::release::{Digest, NameError, Release, ReleaseName, Version};
use crate::time::Timestamp;

pub use crate::dialect::{Observed, Refused};
pub use read::announcements;
use read::{is_local, release, upstream};

/// For whom a queue is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The platform's key, see [`platform_key`](super::platform::platform_key).
    pub platform: String,
    /// This instance.
    pub instance: String,
    /// The other instances that share the data directory.
    pub siblings: Vec<String>,
    /// Whether anything may be downloaded.
    pub allow_download: bool,
    /// Whether what is downloaded must have been announced with a checksum.
    pub enforce_checksum: bool,
}

/// When an instance is to follow an entry; `None` if it is not to.
fn time_for(info: &UpgradeInfo, instance: &str) -> Option<Timestamp> {
    match info.omnivisor.as_ref().and_then(|own| own.instances.as_ref()) {
        Some(instances) => instances.get(instance).map(|stamp| stamp.0),
        None => Some(info.upgrade_time.0),
    }
}

/// The instances that an entry names. One that was for everybody names the siblings from now on, each at its time.
fn named<'a>(info: &'a mut UpgradeInfo, ctx: &Context) -> &'a mut BTreeMap<String, Stamp> {
    let everybody = info.upgrade_time;
    let own = info.omnivisor.get_or_insert_default();
    own.instances.get_or_insert_with(|| ctx.siblings.iter().map(|sibling| (sibling.clone(), everybody)).collect())
}

/// Sets the time for this instance only; the others keep theirs. `upgradeTime` stays the earliest one, for Nymvisor's sake.
fn set_time(info: &mut UpgradeInfo, time: Stamp, ctx: &Context) {
    if time_for(info, &ctx.instance) == Some(time.0) {
        return;
    }
    let shared = info.omnivisor.as_ref().is_some_and(|own| own.instances.is_some()) || !ctx.siblings.is_empty();
    if !shared {
        info.upgrade_time = time;
        return;
    }
    let instances = named(info, ctx);
    instances.insert(ctx.instance.clone(), time);
    info.upgrade_time = instances.values().min().copied().unwrap_or(time);
}

/// Takes this instance off an entry. False if nobody is left to follow it, so that the entry has to go.
fn leave(info: &mut UpgradeInfo, ctx: &Context) -> bool {
    // An instance that was made after this one was started is no known sibling, and has its place here all the same.
    let listed = info.omnivisor.as_ref().is_some_and(|own| own.instances.is_some());
    if ctx.siblings.is_empty() && !listed {
        return false;
    }
    let instances = named(info, ctx);
    instances.remove(&ctx.instance);
    let Some(earliest) = instances.values().min().copied() else { return false };
    info.upgrade_time = earliest;
    true
}

/// Takes this instance off every entry it follows and that `which` picks, and gives those entries' names.
fn leave_all(plan: &mut PlanFile, ctx: &Context, which: impl Fn(&UpgradeInfo) -> bool) -> Vec<String> {
    let mut names = Vec::new();
    plan.queued_up.retain_mut(|entry| match entry {
        Lenient::Known(info) if time_for(info, &ctx.instance).is_some() && which(info) => {
            names.push(info.name.clone());
            leave(info, ctx)
        }
        _ => true,
    });
    names
}

/// The earliest first, equal ones as they were; what could not be read is last, as it was.
fn sort(plan: &mut PlanFile) {
    plan.queued_up.sort_by_key(|entry| {
        let time = entry.known().map(|info| info.upgrade_time);
        (time.is_none(), time)
    });
}

/// What became of an announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is queued for this instance, and was not before.
    Added,
    /// It was queued, and has been corrected.
    Updated,
    /// It was queued as it is.
    Unchanged,
    /// Somebody on this machine has queued this release already, and theirs stays.
    KeptLocal,
    /// Its version is not above every one that was here, or cannot be compared with them.
    NotNewer,
    /// It is one that must not be installed again.
    Denied,
    /// It cannot be followed at all. Nothing was changed.
    Refused(String),
}

/// What a merge did to the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// With the announcement itself.
    pub outcome: Outcome,
    /// The names of the earlier announcements from there that are no longer made.
    pub withdrawn: Vec<String>,
}

impl Merged {
    /// Whether the plan is another one now and has to be written.
    pub fn changed(&self) -> bool {
        matches!(self.outcome, Outcome::Added | Outcome::Updated) || !self.withdrawn.is_empty()
    }
}

/// Where an announcement comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream<'a> {
    /// The place, as the queue names it.
    pub place: &'a str,
    /// Whether what is announced there waits for a person.
    pub approval: bool,
}

/// Takes over what is announced there now: queues it or corrects what is queued, and withdraws from this instance whatever
/// else was taken from there before. `floor` is the highest version that was ever here; `denied` knows what failed.
pub fn merge_upstream(
    plan: &mut PlanFile,
    answer: &UpgradeInfo,
    from: Upstream<'_>,
    ctx: &Context,
    floor: &Version,
    denied: &dyn Fn(&Release) -> bool,
) -> Merged {
    // Nobody out there may say what only this program and this machine's people say: that an older version is fine.
    let mut answer = UpgradeInfo { omnivisor: None, ..answer.clone() };
    answer.drop_odd_builds(Some(&ctx.platform));
    let answer = &answer;
    let release = match release(answer, ctx) {
        Ok(release) => release,
        Err(reason) => return Merged { outcome: Outcome::Refused(reason), withdrawn: Vec::new() },
    };
    let withdrawn = leave_all(plan, ctx, |info| upstream(info) == Some(from.place) && !is_release(info, answer));
    let outcome = if release.version.precedence(floor) != Some(Ordering::Greater) {
        Outcome::NotNewer
    } else if denied(&release) {
        Outcome::Denied
    } else {
        queue_answer(plan, answer, from, ctx)
    };
    let merged = Merged { outcome, withdrawn };
    if merged.changed() {
        sort(plan);
    }
    merged
}

fn is_release(info: &UpgradeInfo, other: &UpgradeInfo) -> bool {
    info.name == other.name && info.version == other.version
}

fn queue_answer(plan: &mut PlanFile, answer: &UpgradeInfo, from: Upstream<'_>, ctx: &Context) -> Outcome {
    let queued = plan.queued_up.iter_mut().find_map(|entry| match entry {
        Lenient::Known(info) if is_release(info, answer) => Some(info),
        _ => None,
    });
    let Some(queued) = queued else {
        let mut info = answer.clone();
        let own = info.omnivisor.insert(Own {
            upstream: Some(from.place.to_owned()),
            approval: from.approval,
            ..Own::default()
        });
        if !ctx.siblings.is_empty() {
            own.instances = Some([(ctx.instance.clone(), answer.upgrade_time)].into());
        }
        plan.queued_up.push(Lenient::Known(info));
        return Outcome::Added;
    };
    if is_local(queued) {
        return Outcome::KeptLocal;
    }
    let followed = time_for(queued, &ctx.instance).is_some();
    let mut next =
        UpgradeInfo { omnivisor: queued.omnivisor.clone(), upgrade_time: queued.upgrade_time, ..answer.clone() };
    let own = next.omnivisor.get_or_insert_default();
    own.approval = from.approval;
    // What Nymvisor queued has no address yet. With siblings, whoever took it first keeps the right to withdraw it.
    if own.upstream.is_none() || ctx.siblings.is_empty() {
        own.upstream = Some(from.place.to_owned());
    }
    set_time(&mut next, answer.upgrade_time, ctx);
    if *queued == next {
        return Outcome::Unchanged;
    }
    *queued = next;
    if followed { Outcome::Updated } else { Outcome::Added }
}

/// Takes this instance off what was announced at this place and that `which` picks, and gives its names.
pub fn withdraw(plan: &mut PlanFile, place: &str, ctx: &Context, which: impl Fn(&UpgradeInfo) -> bool) -> Vec<String> {
    let names = leave_all(plan, ctx, |info| upstream(info) == Some(place) && which(info));
    if !names.is_empty() {
        sort(plan);
    }
    names
}

/// Why a release cannot be queued by hand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// Its name cannot be used.
    #[error("cannot queue the upgrade: {0}")]
    Name(#[from] NameError),
    /// There is one of this name.
    #[error(
        "cannot queue the upgrade {name:?}: version {version} is already queued under this name; choose another name, or \
         --force to replace it"
    )]
    AlreadyQueued {
        /// The name of both.
        name: String,
        /// The version that is queued.
        version: String,
    },
}

/// Queues a release whose executable was placed on this machine, for every instance. With `force` it takes the place of
/// whatever is queued under its name.
pub fn add_local(
    plan: &mut PlanFile,
    mut info: UpgradeInfo,
    digest: Option<&Digest>,
    allow_older: bool,
    force: bool,
) -> Result<(), AddError> {
    ReleaseName::parse(&info.name)?;
    let same = |entry: &Lenient<UpgradeInfo>| entry.known().is_some_and(|queued| queued.name == info.name);
    if let Some(queued) = plan.queued_up.iter().find(|entry| same(entry)).and_then(Lenient::known)
        && !force
    {
        return Err(AddError::AlreadyQueued { name: info.name.clone(), version: queued.version.clone() });
    }
    plan.queued_up.retain(|entry| !same(entry));
    if digest.is_some() || allow_older {
        let own = info.omnivisor.get_or_insert_default();
        own.digest = digest.map(Digest::to_string);
        own.allow_older = allow_older;
    }
    plan.queued_up.push(Lenient::Known(info));
    sort(plan);
    Ok(())
}

/// Takes a release off the queue for this instance, because it has it or will never have it. True if the plan changed.
pub fn settle(plan: &mut PlanFile, name: &str, version: &str, ctx: &Context) -> bool {
    let changed = !leave_all(plan, ctx, |info| info.name == name && info.version == version).is_empty();
    if changed {
        sort(plan);
    }
    changed
}

/// The history with one more upgrade; `None` if it is in there already.
pub fn history_with(
    history: Option<HistoryFile>,
    performed_at: Timestamp,
    info: UpgradeInfo,
    instance: &str,
) -> Option<HistoryFile> {
    let mut history = history.unwrap_or_default();
    let noted = history
        .history
        .iter()
        .filter_map(Lenient::known)
        .any(|entry| entry.performed_at.0 == performed_at && is_release(&entry.info, &info));
    if noted {
        return None;
    }
    history.history.push(Lenient::Known(HistoryEntry {
        performed_at: Stamp(performed_at),
        info,
        omnivisor_instance: Some(instance.to_owned()),
        extra: serde_json::Map::new(),
    }));
    Some(history)
}
