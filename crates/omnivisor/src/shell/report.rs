//! Say what is, what will be, and why: in the log, once for each change, and to whoever asks.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnivisor_core::agent::{Action, Agent, Standing};
use omnivisor_core::dialect::Refused;
use omnivisor_core::journal::{Journal, Phase, Record};
use omnivisor_core::plan::{FailureKind, Undo};
use omnivisor_core::release::Version;
use omnivisor_core::schedule::{Announcement, Trigger};
use omnivisor_core::supervisor::{Endurance, Exit, Report, Supervisor, Wanted};
use serde_json::{Value, json};

use super::Shell;
use crate::clock;
use crate::effects::essentials;

/// What was said last, so that it is said once.
#[derive(Debug, Default)]
pub(super) struct Told {
    queue: Option<String>,
    refused: Vec<Refused>,
    standings: BTreeMap<String, String>,
    clock: bool,
}

impl Told {
    pub(super) fn queue_is_fine(&mut self) {
        if self.queue.take().is_some() {
            tracing::info!("the upgrade plan can be read again");
        }
    }

    pub(super) fn queue_is_wrong(&mut self, path: &Path, error: &str) {
        if self.queue.as_deref() != Some(error) {
            tracing::warn!(path = %path.display(), error, "the upgrade plan cannot be read: what it said before stays");
            self.queue = Some(error.to_owned());
        }
    }

    pub(super) fn refused(&mut self, refused: &[Refused]) {
        for it in refused.iter().filter(|it| !self.refused.contains(it)) {
            tracing::warn!(name = it.name, reason = it.reason, "an entry of the upgrade plan cannot be followed");
        }
        self.refused = refused.to_vec();
    }

    pub(super) fn clock(&mut self, agent: &Agent) {
        let doubt = clock_doubt(agent);
        if doubt.is_some() != self.clock {
            self.clock = doubt.is_some();
            match doubt {
                Some(doubt) => tracing::warn!("{doubt}"),
                None => tracing::info!("the calendar clock is believed again"),
            }
        }
    }

    pub(super) fn standings(&mut self, agent: &Agent) {
        let now = clock::now();
        let mut standings = BTreeMap::new();
        for announced in agent.announced() {
            let text = describe(&agent.standing(now, announced), announced);
            let release = announced.release.to_string();
            if self.standings.get(&release) != Some(&text) {
                match agent.standing(now, announced) {
                    Standing::Missing(_) => tracing::warn!(release, "{text}"),
                    _ => tracing::info!(release, "{text}"),
                }
            }
            standings.insert(release, text);
        }
        self.standings = standings;
    }
}

/// What is said of a calendar clock that is not believed.
fn clock_doubt(agent: &Agent) -> Option<String> {
    let (until, by) = agent.doubts_the_clock()?;
    let left = until.saturating_sub(clock::now().monotonic);
    let round = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs()));
    Some(format!(
        "the calendar clock has jumped ahead by {}: what has become due by that waits for it to be set right, for {} at most",
        round(by),
        round(left)
    ))
}

/// Whether nothing more will be done about it.
pub(super) fn is_settled(standing: &Standing) -> bool {
    matches!(standing, Standing::Installed | Standing::Denied(_))
}

pub(super) fn describe(standing: &Standing, announced: &Announcement) -> String {
    match standing {
        Standing::Installed => "installed".to_owned(),
        Standing::Denied(why) => format!("failed here and is not installed again: {why}"),
        Standing::NotNewer(version) => format!("not followed: {version} ran here, and this is not newer"),
        Standing::Unfit(why) => {
            let name = &announced.release.name;
            format!("given up until it is announced differently, or `omnivisor upgrade {name}`: {why}")
        }
        Standing::Missing(why) => format!("waits for its executable to be placed: {why}"),
        Standing::RetryAt(at, why) if announced.trigger.is_ready() => {
            format!("the node stands at its height and waits for it; tried again at {at}: {why}")
        }
        Standing::RetryAt(at, why) => format!("tried again at {at}: {why}"),
        Standing::Waiting => {
            let without = if announced.without_snapshot { ", without a snapshot" } else { "" };
            format!("will be switched to {}{without}", announced.trigger)
        }
        Standing::WaitsForApproval if matches!(announced.trigger, Trigger::OnCommand { .. }) => {
            format!("is prepared, and waits for `omnivisor upgrade {}`", announced.release.name)
        }
        Standing::WaitsForApproval => format!(
            "was already due when this installation was taken over: is prepared, and waits for `omnivisor upgrade {}`",
            announced.release.name
        ),
    }
}

/// What is shown of something that is announced and cannot be followed.
pub(super) fn refused(refused: &Refused) -> Value {
    let standing = format!("cannot be followed: {}", refused.reason);
    json!({ "name": refused.name, "version": null, "due": null, "standing": standing })
}

/// Logs what was found at the start.
pub(super) fn tell_one(record: &Record) {
    if let Record::TakenOver { installed, .. } = record {
        tracing::warn!(release = %installed.release, "another tool was at work here meanwhile: this is the active release now");
    }
}

/// Logs what was written.
pub(super) fn tell(records: &[Record], agent: &Agent) {
    for record in records {
        match record {
            Record::Adopted { installed, .. } => tracing::info!(release = %installed.release, "adopted"),
            Record::Planned(plan) => {
                tracing::info!(from = %plan.from.release, to = %plan.to.release, trigger = %plan.to.trigger, "upgrade planned");
            }
            Record::Started(step) => tracing::info!(%step, "upgrade"),
            Record::Staged(staged) => tracing::info!(release = %staged.release, digest = %staged.digest, "ready"),
            Record::Rescheduled(trigger) => tracing::info!("the upgrade is wanted {trigger}"),
            Record::Cancelled(why) => tracing::info!(why = why.as_str(), "the upgrade is dropped"),
            Record::Failed { step, kind, reason, .. } => {
                match kind {
                    FailureKind::Transient => {
                        tracing::warn!(%step, reason, "the upgrade failed and is tried again later")
                    }
                    FailureKind::Permanent => tracing::error!(%step, reason, "the upgrade failed"),
                }
                if let Phase::Undoing { plan, owed, .. } = agent.journal().phase()
                    && owed.contains(&Undo::Stop)
                    && !owed.contains(&Undo::Restore)
                {
                    let (to, from) = (&plan.to.release, &plan.from.release);
                    tracing::warn!(
                        "there is no snapshot to go back to: {from} goes on with the data as {to} has left it"
                    );
                }
            }
            Record::Died { reason } => tracing::warn!(reason, "the new node died"),
            Record::Undone(undo) => tracing::info!(%undo, "undone"),
            Record::UndoFailed { reason } => match agent.journal().phase() {
                Phase::NeedsHuman { .. } => tracing::error!(
                    reason,
                    "the upgrade cannot be taken back, and nothing more happens by itself; hint: mend the cause, then `omnivisor resume`"
                ),
                _ => tracing::warn!(reason, "taking the upgrade back failed and is tried again"),
            },
            Record::Committed { .. } => {
                let release = agent.journal().active().map(|active| active.release.to_string()).unwrap_or_default();
                tracing::info!(release, "the upgrade is done: the new node is well");
            }
            Record::RolledBack => {
                let release = agent.journal().active().map(|active| active.release.to_string()).unwrap_or_default();
                tracing::warn!(release, "the upgrade was taken back: the old release is active again");
            }
            Record::RollbackOrdered { restore, .. } => {
                let data = if *restore { "with its data" } else { "but its data stays" };
                tracing::warn!("an operator takes the upgrade back, {data}");
            }
            Record::RestoreOrdered { backup, .. } => tracing::warn!(backup, "data is put back from a backup"),
            Record::Restored { .. } => tracing::info!("the data is put back"),
            Record::Held => tracing::info!("no automatic upgrades until `omnivisor resume`"),
            Record::Resumed => tracing::info!("automatic upgrades go on"),
            Record::Approved(release) => tracing::info!(%release, "an operator wants this upgrade now"),
            Record::TakenOver { .. } => tell_one(record),
            Record::Replaced { installed, .. } => tracing::warn!(
                release = %installed.release, digest = %installed.digest,
                "the executable was replaced by hand; it says who it is, and is the active release's from now on"
            ),
            Record::Began { .. } | Record::Summed(_) => {}
        }
    }
}

/// Logs what happened to the node.
pub(super) fn tell_node(report: &Report, supervisor: &Supervisor, wanted: &Wanted) {
    match report {
        Report::Up => {}
        Report::Finished => tracing::info!("the node ended by itself with exit code 0"),
        Report::Died(exit) => {
            let unexpected = if *exit == Exit::Code(0) { ", which is not expected of a node" } else { "" };
            let wait = supervisor.restarts_at().map(|at| at.saturating_sub(clock::now().monotonic));
            match wait.map(|wait| Duration::from_secs(rounded_up(wait))) {
                Some(wait) => tracing::warn!(
                    "the node ended with {exit}{unexpected}; it is started again in {}",
                    humantime::format_duration(wait)
                ),
                None => {
                    tracing::warn!(
                        "the node ended with {exit}{unexpected}; what is left of it ends first, then it is started again"
                    );
                }
            }
        }
        Report::GaveUp(exit) if matches!(wanted, Wanted::Running(_, Endurance::ForEver)) => tracing::error!(
            "the node ended with {exit}, which is once too often; nothing else can be run, so it is started again all the \
             same, after pauses that grow"
        ),
        Report::GaveUp(exit) => tracing::error!("the node ended with {exit} and is not started again"),
    }
}

/// Why no node runs after this; none if one does.
pub(super) fn why_down(report: &Report) -> Option<String> {
    match report {
        Report::Up => None,
        Report::Finished => Some("it ended by itself with exit code 0".to_owned()),
        Report::Died(exit @ (Exit::NotStarted(_) | Exit::Hung(_)))
        | Report::GaveUp(exit @ (Exit::NotStarted(_) | Exit::Hung(_))) => Some(exit.to_string()),
        Report::Died(exit) | Report::GaveUp(exit) => Some(format!("it ended with {exit}")),
    }
}

/// In whole seconds, and never less than it is.
fn rounded_up(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0))
}

impl Shell {
    /// What `omnivisor status` shows.
    pub(super) fn status(&self) -> Value {
        let now = clock::now();
        let journal = self.agent.journal();
        let mut announced: Vec<Value> = self
            .agent
            .announced()
            .iter()
            .map(|announced| {
                let standing = self.agent.standing(now, announced);
                json!({
                    "name": announced.release.name.as_str(),
                    "version": announced.release.version.as_str(),
                    "due": announced.trigger.due().map(|due| due.to_string()),
                    "dueInSeconds": announced.trigger.due().map(|due| due.since(now.wall).as_secs()),
                    "withoutSnapshot": announced.without_snapshot,
                    "waitsForTime": standing == Standing::Waiting && !journal.held(),
                    "standing": match standing {
                        Standing::Waiting if journal.held() => "waits for `omnivisor resume`".to_owned(),
                        standing => describe(&standing, announced),
                    },
                })
            })
            .collect();
        announced.extend(self.told.refused.iter().map(refused));
        let state = match &self.supervisor {
            supervisor if supervisor.is_running() => "running",
            supervisor if supervisor.is_down() => "down",
            _ if self.preparing.is_some() => "starting",
            _ => "ending",
        };
        let again = self.supervisor.restarts_at().map(|at| rounded_up(at.saturating_sub(now.monotonic)));
        let running = self.node.as_ref().filter(|_| self.supervisor.is_running());
        let essentials = self.essentials();
        json!({
            "instance": self.dialect.instance(),
            "supervisor": std::process::id(),
            "supervisorVersion": env!("CARGO_PKG_VERSION"),
            "replacement": self.replacement.as_ref().map(super::replace::Replacement::shown),
            "node": {
                "state": state,
                "why": self.why_down(state),
                "againInSeconds": again,
                "pid": running.and_then(|node| node.mains().first()).map(|main| main.id().pid),
                "processes": running.map_or_else(Vec::new, |node| {
                    node.mains().iter().map(|main| json!({ "name": main.name(), "pid": main.id().pid })).collect()
                }),
                "release": journal.runs().map(|installed| json!({
                    "name": installed.release.name.as_str(),
                    "version": installed.release.version.as_str(),
                    "folder": installed.folder,
                })),
            },
            "active": journal.active().map(|active| json!({
                "name": active.release.name.as_str(),
                "version": active.release.version.as_str(),
            })),
            "backup": self.backed_up,
            "rollback": self.making_ready.said(),
            "essentials": essentials,
            "signerState": essentials.as_ref().map(|folder| essentials::is_signed(&*self.dialect, folder)),
            "upgrade": phase(journal.phase(), self.agent.lacks(), self.agent.in_flight()),
            "unwritable": self.unwritable(),
            "silent": self.heard.silent,
            "unheard": self.unheard(),
            "refusedConfiguration": self.refused_configuration,
            "held": journal.held(),
            "endsAfterSwitch": self.ends_after_switch,
            "clock": clock_doubt(&self.agent),
            "degraded": self.degraded,
            "failed": failed(journal),
            "announced": announced,
        })
    }
}

impl Shell {
    /// Where that is which was kept in place of the snapshot of the last upgrade.
    fn essentials(&self) -> Option<PathBuf> {
        let journal = self.agent.journal();
        let plan = match journal.phase() {
            Phase::Probing { plan, .. } => plan,
            _ => journal.may_roll_back()?,
        };
        let folder = essentials::folder(&*self.dialect, plan);
        folder.is_dir().then_some(folder)
    }

    /// What keeps the node from running, if it does not.
    fn why_down(&self, state: &str) -> Option<String> {
        let backup = self.agent.is_down_for_backup().then(|| "a backup is being taken".to_owned());
        backup.or_else(|| self.why_down.clone()).or_else(|| self.unwritable()).filter(|_| state != "running")
    }
}

/// What was taken back, unless it is older than what runs: nobody wonders about that any more.
fn failed(journal: &Journal) -> Vec<Value> {
    let is_older = |version: &Version| {
        let active = journal.active().map(|active| &active.release.version);
        active.is_some_and(|active| version.precedence(active) == Some(Ordering::Less))
    };
    let denied = journal.denied().filter(|(release, _)| !is_older(&release.version));
    let said = denied.map(
        |(release, why)| json!({ "name": release.name.as_str(), "version": release.version.as_str(), "why": why }),
    );
    said.collect()
}

/// `lacks` is what a new release has not shown yet.
fn phase(phase: &Phase, lacks: Option<String>, in_flight: Option<&Action>) -> Value {
    let to = |plan: &omnivisor_core::plan::UpgradePlan| plan.to.release.to_string();
    match phase {
        Phase::Idle => json!({ "phase": "idle" }),
        Phase::Preparing { plan, step } => json!({ "phase": "preparing", "step": step.as_str(), "to": to(plan) }),
        Phase::Staged { plan, .. } => {
            let is_copied = matches!(in_flight, Some(Action::Precopy(_) | Action::Arm(..))) && plan.snapshot;
            let doing = is_copied.then_some("the data is copied ahead, and the node runs on until that is done");
            json!({ "phase": "staged", "to": to(plan), "doing": doing })
        }
        Phase::Switching { plan, step, .. } => json!({ "phase": "switching", "step": step.as_str(), "to": to(plan) }),
        Phase::Probing { plan, deaths, .. } => {
            json!({ "phase": "probing", "to": to(plan), "deaths": deaths, "waitsFor": lacks })
        }
        Phase::Undoing { plan, reason, .. } => json!({ "phase": "undoing", "to": to(plan), "why": reason }),
        Phase::NeedsHuman { plan, reason, .. } => json!({ "phase": "needs-human", "to": to(plan), "why": reason }),
        Phase::Restoring { backup, .. } => json!({ "phase": "restoring", "why": format!("from {backup}") }),
    }
}
