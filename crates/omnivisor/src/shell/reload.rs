//! Take over a change of the dialect's configuration while the node runs. A bad one is refused, and the last good one stays in
//! force.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use omnivisor_core::agent::Policy;
use omnivisor_core::dialect::Dialect;
use omnivisor_core::supervisor::RestartPolicy;

use super::Shell;
use crate::store::small;

/// An editor that writes in place, or deletes first, is done after this; what is wrong then is wrong.
const SETTLED: Duration = Duration::from_millis(200);

/// How a configuration is read anew.
pub struct Reload {
    /// The file.
    pub file: PathBuf,
    /// What was in it when it was read last; what has not changed is no news.
    pub known: Option<Vec<u8>>,
    /// Reads it; the error says what is wrong with it.
    pub load: Box<dyn Fn() -> Result<Reloaded, String> + Send>,
}

/// What a configuration amounts to.
pub struct Reloaded {
    /// How the instance speaks.
    pub dialect: Arc<dyn Dialect>,
    /// How upgrades are done.
    pub policy: Policy,
    /// When the node is started again.
    pub restarts: RestartPolicy,
    /// What an operator should know of it.
    pub warnings: Vec<String>,
}

impl Shell {
    pub(super) async fn reload(&mut self) {
        let Some(reload) = &mut self.reload else { return };
        let contents = small::read(&reload.file).ok();
        if contents.is_some() && contents == reload.known {
            return;
        }
        reload.known = contents;
        let mut loaded = (reload.load)();
        if loaded.is_err() {
            tokio::time::sleep(SETTLED).await;
            reload.known = small::read(&reload.file).ok();
            loaded = (reload.load)();
        }
        let file = reload.file.display();
        match loaded {
            Err(error) => {
                if self.refused_configuration.as_ref() != Some(&error) {
                    tracing::warn!(%file, error, "the configuration was changed and cannot be used: the last one stays in force");
                }
                self.refused_configuration = Some(error);
            }
            Ok(Reloaded { dialect, policy, restarts, warnings }) => {
                self.refused_configuration = None;
                tracing::info!(%file, "the configuration was changed, and is in force");
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                self.restarts = restarts.on_failure;
                self.supervisor.follow(restarts);
                self.agent.follow(policy);
                self.dialect = dialect;
                self.listen_again(None);
                self.waiting.push_back(omnivisor_core::agent::Event::Timeout);
            }
        }
    }
}
