//! How core and data node are run, asked who they are, and judged.
//!
//! A core that is started after an upgrade has to begin at the snapshot of the upgrade's height; one that is started again
//! beside a data node, where the data node's history ends. Vega Visor forgets the first when it is restarted, and remembers it
//! for too long when it is not.

use super::node_config::Database;
use super::{Vega, arguments};
use crate::dialect::{
    Answered, CommandSpec, DialectError, Health, Launch, Needed, Place, Preparation, Read, StartReason,
};
use crate::health::HealthProbe;
use crate::release::{Identity, Installed, Version};

/// SIGTERM, which Vega Visor sends.
const SIGTERM: i32 = 15;

/// The roles of the main processes.
pub(super) const CORE: usize = 0;
pub(super) const DATA_NODE: usize = 1;

/// What people call them.
const CORE_NAME: &str = "core";
const DATA_NODE_NAME: &str = "data node";

/// Which of the two runs with these arguments; none for one that only answers something.
pub(super) fn role(arguments: &[String]) -> Option<usize> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| !word.starts_with('-')).take(2).collect();
    match words.as_slice() {
        ["datanode", "start" | "node", ..] => Some(DATA_NODE),
        ["start" | "node", ..] => Some(CORE),
        _ => None,
    }
}

/// Whether the data node has to say where its history ends.
fn asks(why: StartReason) -> bool {
    matches!(why, StartReason::Failed | StartReason::Switched { again: true, .. })
}

impl Launch for Vega {
    fn prepare(&self, active: &Installed, why: StartReason, read: Read<'_>) -> Result<Preparation, DialectError> {
        let run = self.filled(&active.folder, read)?;
        let Some(data_node) = &run.data_node else { return Ok(Preparation::default()) };
        let config = self.data_node_config(&run, read).and_then(Result::ok).filter(|config| !config.embedded);
        let needed = config.map(|config| Needed {
            name: "PostgreSQL".to_owned(),
            place: match config.database {
                Database::Tcp { host, port } => Place::Tcp(host, port),
                Database::Socket(path) => Place::Unix(path),
            },
            patience: self.extra.postgres_patience,
        });
        let question = asks(why).then(|| CommandSpec {
            name: "the height of its latest history segment",
            program: data_node.executable(&active.folder),
            arguments: arguments::latest_segment_arguments(&data_node.args).into_iter().map(Into::into).collect(),
        });
        Ok(Preparation { needed: needed.into_iter().collect(), question })
    }

    fn commands(
        &self,
        active: &Installed,
        why: StartReason,
        answered: Option<&Answered>,
        read: Read<'_>,
    ) -> Result<Vec<CommandSpec>, DialectError> {
        let run = self.filled(&active.folder, read)?;
        let segment = match answered {
            None => None,
            Some(answered) => arguments::parse_latest_segment(&answered.stdout, answered.success).map_err(|error| {
                DialectError { what: "the data node's history".to_owned(), reason: error.to_string() }
            })?,
        };
        let height = match why {
            StartReason::First => None,
            StartReason::Failed => segment,
            // What is before the upgrade's height is for the release before.
            StartReason::Switched { height, .. } => height.max(segment),
        };
        let args = match height {
            Some(height) => arguments::with_snapshot_height(&run.vega.args, height),
            None => run.vega.args.clone(),
        };
        let spec = |name, program, args: Vec<String>| CommandSpec {
            name,
            program,
            arguments: args.into_iter().map(Into::into).collect(),
        };
        let mut commands = vec![spec(CORE_NAME, run.vega.executable(&active.folder), args)];
        if let Some(data_node) = run.data_node {
            commands.push(spec(DATA_NODE_NAME, data_node.executable(&active.folder), data_node.args));
        }
        Ok(commands)
    }

    fn main_processes(&self, read: Read<'_>) -> usize {
        if self.current_run_config(read).is_some_and(|run| run.data_node.is_some()) { 2 } else { 1 }
    }

    /// What an operator writes into `run-config.toml` is for the next start.
    fn insists_on_arguments(&self) -> bool {
        false
    }

    fn stop_signal(&self) -> i32 {
        SIGTERM
    }

    fn is_long_running(&self) -> bool {
        true
    }
}

impl Health for Vega {
    fn identify_arguments(&self) -> Vec<Vec<String>> {
        vec![["version", "--output", "json"].map(str::to_owned).to_vec()]
    }

    fn identify(&self, stdout: &[u8]) -> Result<(Version, Identity), DialectError> {
        #[derive(serde::Deserialize)]
        struct Said {
            version: String,
            #[serde(default)]
            hash: String,
        }
        let said: Said = serde_json::from_slice(stdout)
            .map_err(|error| DialectError { what: "its version".to_owned(), reason: error.to_string() })?;
        let identity = [("version", said.version.clone()), ("hash", said.hash)].into_iter().collect();
        Ok((Version::new(said.version), identity))
    }

    /// Core takes a tag with or without its `v` for the same.
    fn same_version(&self, announced: &Version, said: &Version) -> bool {
        super::admin::is_version_of(said.as_str(), announced.as_str())
    }

    /// Vega Visor asks nobody at its first start.
    fn accepts_silence(&self) -> bool {
        true
    }

    fn same_program(&self, _: &Identity, _: &Identity) -> Result<(), (String, String)> {
        Ok(()) // a version is all that it says
    }

    fn probe(&self) -> &HealthProbe {
        &self.extra.probe
    }
}
