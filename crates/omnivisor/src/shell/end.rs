//! How a run ends.

use std::time::Duration;

use omnivisor_core::agent::Ending;

use super::Shell;
use crate::effects::cgroup::Cgroup;
use crate::exit::Exit;

/// How long the last mirror files may take when a run ends.
const LAST_MIRROR: Duration = Duration::from_secs(10);

impl Shell {
    /// How the run ends, once all that has to be over is.
    pub(super) fn ended(&self) -> Option<Result<(), (Exit, String)>> {
        let ending = self.agent.ending()?;
        let waits = !self.waiting.is_empty() && self.unwritable.is_none();
        // What is done and cannot be recorded is in flight for the agent; the next start does it again.
        let is_acting =
            if self.unwritable.is_some() { self.action.is_under_way() } else { self.agent.in_flight().is_some() };
        if !self.supervisor.is_down() || is_acting || waits {
            return None;
        }
        Some(match ending {
            Ending::Stopped | Ending::Finished => Ok(()),
            Ending::Switched => {
                tracing::info!("the new release is in place; the next start runs it, and judges it");
                Ok(())
            }
            Ending::GaveUp(exit) if self.restarts => {
                Err((Exit::GaveUp, format!("the node failed too often while it started, the last time with {exit}")))
            }
            Ending::GaveUp(exit) => Err((
                Exit::NodeFailed,
                format!("the node ended with {exit}, and is configured not to be started again"),
            )),
        })
    }

    /// Ends it: the files for other tools are brought up to date first, if that can be done in time.
    pub(super) async fn end(mut self, outcome: Result<(), (Exit, String)>) -> Result<(), (Exit, String)> {
        let wanted = self.mirrored.borrow().clone();
        let mirrored = self.mirror_done.wait_for(|done| *done == wanted);
        if tokio::time::timeout(LAST_MIRROR, mirrored).await.is_err() {
            tracing::warn!("the files for other tools could not be brought up to date; the next start tries again");
        }
        self.kin.cgroup.iter().for_each(Cgroup::remove);
        let code = outcome.as_ref().map_or_else(|(exit, _)| exit.code(), |()| Exit::Success.code());
        tracing::info!(code, "the supervisor ends");
        outcome
    }
}
