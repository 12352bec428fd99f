//! Let another executable take this supervisor's place while the node runs on.
//!
//! It is asked first, beside the loop, whether it could take over, and so is the executable that runs now, which has to be able to
//! go on if the new one fails. Then, with nothing under way, the run is left, and its end executes the new one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use omnivisor_core::agent::Agent;
use omnivisor_core::journal::{Beginning, Phase};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::adopt::{self, Known};
use super::{Shell, Start};
use crate::clock;
use crate::control::Answer;
use crate::effects::run_command;
use crate::handover::{self, Leaving, NodeHanded};
use crate::store::small;

/// How long an executable may take to say whether it could take over: it reads some files.
const CHECK: Duration = Duration::from_secs(10);

/// What an executable says that could take over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CouldTakeOver {
    /// Its version.
    pub omnivisor: String,
    /// Why it would not believe the journal, if that is so.
    pub degraded: Option<String>,
}

/// How this image of the supervisor came to be.
pub(super) struct Replacement {
    pub(super) from: String,
    pub(super) failed: Option<String>,
    pub(super) order: u64,
}

impl Replacement {
    pub(super) fn beginning(&self) -> Beginning {
        match &self.failed {
            Some(why) => {
                tracing::error!(why, "omnivisor {} was to take over and failed: this one goes on", self.from);
                Beginning::Returned(self.from.clone())
            }
            None => {
                tracing::info!("in the place of omnivisor {}; the node was not touched", self.from);
                Beginning::Replaced(self.from.clone())
            }
        }
    }

    /// As the status shows it.
    pub(super) fn shown(&self) -> Value {
        json!({ "order": self.order, "from": self.from, "failed": self.failed })
    }
}

/// An order to be replaced that is being looked at.
pub(super) struct Replacing {
    new: std::os::fd::OwnedFd,
    answer: oneshot::Sender<Answer>,
    leaving: Option<Leaving>,
}

/// What the new executable and the old one have answered.
pub(super) type Checked = Result<CouldTakeOver, String>;

/// Whether this program could supervise this instance as it is now. Reads only: takes no lock and makes no file.
pub fn could_take_over(start: &Start) -> Result<CouldTakeOver, String> {
    let paths = start.dialect.paths();
    let read = |path: &Path| small::read(path).ok();
    let degraded = match adopt::known(&paths.state) {
        Known::Nothing => return Err(format!("there is no journal in {}", paths.state.display())),
        Known::Degraded(why) => Some(why),
        Known::Believed(records) => {
            let now = clock::now();
            Agent::recover(&records, start.policy.clone(), now).map_err(|error| error.to_string())?;
            None
        }
    };
    if let Some(path) = start.dialect.unreadable(&read).first() {
        return Err(format!("{} cannot be read", path.display()));
    }
    if let Some(queue) = read(&paths.queue) {
        let announced = start.dialect.announced(&queue, &read);
        announced.map_err(|error| format!("{} cannot be read: {error}", paths.queue.display()))?;
    }
    Ok(CouldTakeOver { omnivisor: env!("CARGO_PKG_VERSION").to_owned(), degraded })
}

impl Shell {
    /// Begins to be replaced by this executable, or by what is where this one was started from.
    pub(super) fn replace(&mut self, with: Option<PathBuf>, answer: oneshot::Sender<Answer>) {
        if let Some(why) = self.not_now() {
            return drop(answer.send(Err(why)));
        }
        let path = with.or_else(started_from).unwrap_or_default();
        let opened = handover::open_executable(&path).and_then(|new| {
            let (new_path, own) = (handover::path_of(&new), handover::own_executable()?);
            Ok((new, new_path, own))
        });
        let (new, new_path, own) = match opened {
            Ok(opened) => opened,
            Err(error) => return drop(answer.send(Err(format!("{} cannot be opened: {error}", path.display())))),
        };
        tracing::info!(path = %path.display(), "is asked whether it could take over");
        let (sender, shown, degraded) = (self.checked.0.clone(), path.display().to_string(), self.degraded.is_some());
        tokio::spawn(async move {
            let own_path = handover::path_of(&own);
            let checked = match ask(&new_path).await {
                Err(why) => Err(format!("{shown} cannot take over: {why}")),
                Ok(CouldTakeOver { degraded: Some(why), .. }) if !degraded => {
                    Err(format!("{shown} would not believe the journal: {why}"))
                }
                Ok(new) => match ask(&own_path).await {
                    Ok(_) => Ok(new),
                    Err(why) => Err(format!("if {shown} failed, the executable that runs now could not go on: {why}")),
                },
            };
            let _ = sender.send(checked);
        });
        self.replacing = Some(Replacing { new, answer, leaving: None });
    }

    /// Both have answered.
    pub(super) fn checked(&mut self, checked: Checked) {
        let Some(Replacing { new, answer, .. }) = self.replacing.take() else { return };
        self.settle();
        let order = u64::try_from(clock::now().wall.unix_nanos() / 1000).unwrap_or_default();
        let prepared = checked.and_then(|new| match self.not_now() {
            Some(why) => Err(why),
            None => Ok(new),
        });
        let prepared = prepared.and_then(|it| {
            let duplicate = new.try_clone().map_err(|error| error.to_string())?;
            let leaving = Leaving::prepare(duplicate, &it.omnivisor, order, self.all_locks(), self.node_handed());
            Ok((it.omnivisor, leaving.map_err(|error| format!("the guardian cannot be started: {error}"))?))
        });
        match prepared {
            Err(why) => {
                tracing::warn!(why, "this supervisor is not replaced");
                let _ = answer.send(Err(why));
            }
            Ok((to, leaving)) => {
                tracing::info!("omnivisor {to} takes over; the node runs on");
                if let Some(node) = &self.node {
                    node.release();
                }
                let (unused, _) = oneshot::channel();
                let _ = answer.send(Ok(json!({ "order": order, "from": env!("CARGO_PKG_VERSION"), "to": to })));
                self.replacing = Some(Replacing { new, answer: unused, leaving: Some(leaving) });
            }
        }
    }

    /// What the run is left with, if it is.
    pub(super) fn leaving(&mut self) -> Option<Leaving> {
        self.replacing.as_mut()?.leaving.take()
    }

    /// Why this supervisor cannot be replaced at the moment.
    fn not_now(&self) -> Option<String> {
        let phase = self.agent.journal().phase();
        let rests =
            matches!(phase, Phase::Idle | Phase::Preparing { .. } | Phase::Staged { .. } | Phase::NeedsHuman { .. });
        let supervisor = &self.supervisor;
        let why = if self.agent.ending().is_some() {
            "the run is ending"
        } else if self.replacing.is_some() {
            "a replacement is under way already"
        } else if !rests || self.agent.in_flight().is_some() {
            "an upgrade is at work: try again when `omnivisor status` says `idle` or `staged`"
        } else if self.making_ready.is_under_way() {
            "what a rollback puts back is being made ready: try again when that is done"
        } else if self.unwritable.is_some() {
            "the journal cannot be written, and what takes over has to: see `omnivisor status`"
        } else if self.preparing.is_some()
            || supervisor.timeout().is_some()
            || !(supervisor.is_running() || supervisor.is_down())
            || self.is_dying()
        {
            "the node is being started or stopped: try again in a moment"
        } else {
            return None;
        };
        Some(why.to_owned())
    }

    fn all_locks(&self) -> impl Iterator<Item = &crate::store::lock::Lock> {
        self.locks.iter().chain(&self.node_lock).chain(self.home_locks.iter().map(|(_, lock)| lock))
    }

    fn node_handed(&self) -> Option<NodeHanded> {
        let node = self.node.as_ref().filter(|_| self.supervisor.is_running())?;
        Some(NodeHanded {
            folder: self.agent.journal().runs()?.folder.clone(),
            mains: node.mains().iter().map(|main| main.id()).collect(),
            ours: node.mains().iter().all(|main| main.is_ours()),
        })
    }
}

/// The path that this program was started from, whatever is there now.
fn started_from() -> Option<PathBuf> {
    let path = std::fs::read_link("/proc/self/exe").ok()?;
    Some(path.to_str().map_or(path.clone(), |text| PathBuf::from(text.trim_end_matches(" (deleted)"))))
}

/// Asks an executable whether it could take over. It is called by our own name: the tools that we stand in for know no such
/// verb, and start nothing.
async fn ask(executable: &Path) -> Checked {
    let form = handover::FORM.to_string();
    let ours = [handover::CHECK_VERB, "--form", &form, "--"].map(std::ffi::OsString::from);
    let arguments: Vec<std::ffi::OsString> = ours.into_iter().chain(std::env::args_os()).collect();
    let said = run_command::run_called("omnivisor", executable, arguments, CHECK).await;
    let said = said.map_err(|error| error.to_string())?;
    serde_json::from_slice(&said).map_err(|_| "it does not say that it is omnivisor".to_owned())
}
