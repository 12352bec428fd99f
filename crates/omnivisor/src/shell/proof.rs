//! Only what was proven is started: an executable that a person has replaced by hand is asked who it is first.

use omnivisor_core::agent::Event;
use omnivisor_core::journal::Phase;
use omnivisor_core::release::{Installed, Release};
use omnivisor_core::supervisor::{Exit, LaunchKey, Seen};

use super::{Shell, adopt};
use crate::effects::digest;

impl Shell {
    /// Whether the executable is the one that was proven. One that has not changed since it was looked at last is not read
    /// again.
    pub(super) fn is_proven(&self, key: &LaunchKey) -> Result<bool, String> {
        let executable = self.dialect.executable(&key.installed.folder);
        let found = digest::of_executable_if_changed(&executable).map_err(|error| error.to_string())?;
        if found == key.installed.digest {
            return Ok(true);
        }
        match self.agent.journal().phase() {
            Phase::Idle | Phase::Preparing { .. } | Phase::Staged { .. } => Ok(false),
            _ => Err(format!("{} was changed since it was proven, in the middle of an upgrade", executable.display())),
        }
    }

    /// Asks the executable who it is. What it has to be: the same program. The version may be any: somebody wanted it.
    pub(super) fn prove_again(&self, key: &LaunchKey) {
        let executable = self.dialect.executable(&key.installed.folder);
        tracing::warn!(path = %executable.display(), "the executable was changed since it was proven: it is asked who it is");
        let (dialect, known) = (self.dialect.clone(), key.installed.clone());
        let (launch, proofs) = (self.launch, self.proofs.0.clone());
        tokio::spawn(async move {
            let proof = match adopt::prove(&*dialect, &known.folder).await {
                Ok(Ok(found)) => match dialect.same_program(&known.identity, &found.identity) {
                    Ok(()) => {
                        let release = Release { name: known.release.name, ..found.release };
                        Ok(Installed { release, ..found })
                    }
                    Err((active, new)) => Err(format!("it calls itself {new}, and {active} runs here")),
                },
                Ok(Err(why)) => Err(why),
                Err(error) => Err(error.to_string()),
            };
            let _ = proofs.send((launch, proof));
        });
    }

    /// The answer has come: what is there is the active release's executable now, or it is not started.
    pub(super) fn proven_again(&mut self, launch: u64, proof: Result<Installed, String>) {
        if launch != self.launch {
            return;
        }
        match proof {
            Ok(installed) => self.waiting.push_back(Event::Replaced(installed)),
            Err(why) => {
                let error = format!("the executable was changed since it was proven, and cannot be accepted: {why}");
                tracing::error!(error, "the node cannot be started");
                self.observe(launch, Seen::Exited { exit: Exit::NotStarted(error), others: false, group_empty: true });
            }
        }
    }
}
