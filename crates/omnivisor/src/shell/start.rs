//! Begin to supervise: take the lock, read the journal or adopt what is there, call the roll, take over a live node.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use omnivisor_core::agent::{Agent, Event, Policy};
use omnivisor_core::dialect::{Dialect, Mirrored};
use omnivisor_core::release::{Algorithm, Identity, Installed, Release, ReleaseName, Version};
use omnivisor_core::supervisor::{LaunchKey, RestartPolicy, Seen, Supervisor};
use tokio::sync::{mpsc, watch};

use super::adopt::open_journal;
use super::claim::{StartError, claim, state};
use super::poll::known;
use super::present::Present;
use super::sweep::sweep;
use super::{Shell, report};
use crate::clock;
use crate::effects::activate;
use crate::effects::process::{Group, Launcher, Node};
use crate::effects::roll_call::{LaunchRecord, RollCall};

/// How long after a first failed mirror the next try is; doubled each time, up to the second.
const MIRROR_AGAIN: Duration = Duration::from_secs(5);
const MIRROR_SELDOM: Duration = Duration::from_secs(300);

/// What a supervised instance needs to be told.
pub struct Start {
    /// How it speaks.
    pub dialect: Arc<dyn Dialect>,
    /// How upgrades are done.
    pub policy: Policy,
    /// When the node is started again.
    pub restarts: RestartPolicy,
    /// Whether other instances use the same release folders.
    pub shared: bool,
    /// Whether a file system on which locks are no guarantee may be used.
    pub allow_network_file_system: bool,
}

impl Start {
    /// Takes the instance over. If an upgrade was under way, it goes on with it; otherwise nothing is started or stopped
    /// before [`Shell::run`].
    pub async fn begin(self) -> Result<Shell, StartError> {
        let dialect = self.dialect;
        let locks = claim(&*dialect, self.allow_network_file_system).await?;
        sweep(&*dialect);

        let Present { launch, mark, node_lock, roll } = Present::find(&*dialect, self.shared)?;
        if let (Some(main), Some((peer, name))) = (&roll.main, &roll.peer) {
            return Err(StartError::Peer { node: main.process.pid, peer: *peer, name: name.clone() });
        }

        let (journal, records, degraded) =
            open_journal(&*dialect, roll.main.as_ref().map(|main| main.folder.clone())).await?;
        if let Some(why) = &degraded {
            tracing::error!(why, "DEGRADED: the node is run as the link says, and no upgrade is done");
        }
        let now = clock::now();
        let ends_after_switch = self.policy.end_after_switch;
        let (agent, effects) = Agent::recover(&records, self.policy, now).map_err(|error| StartError::State {
            what: "the journal contradicts itself".to_owned(),
            source: io::Error::other(error),
        })?;

        let launcher = Launcher::new().map_err(state("no thread can be started".to_owned()))?;
        let mirrored = watch::channel(None).0;
        let mirror_done = watch_mirror(dialect.clone(), &mirrored);
        let known =
            watch::channel(known(&agent).ok_or_else(|| StartError::NothingToRun("the journal is empty".to_owned()))?).0;
        let mut shell = Shell {
            agent,
            supervisor: Supervisor::new(self.restarts),
            journal,
            degraded,
            launcher,
            launch: 0,
            node: None,
            group: None,
            node_lock,
            mark,
            restarts: self.restarts.on_failure,
            ends_after_switch,
            waiting: std::collections::VecDeque::new(),
            unwritable: false,
            seen: mpsc::unbounded_channel(),
            proofs: mpsc::unbounded_channel(),
            results: mpsc::unbounded_channel(),
            action: super::act::InFlight::default(),
            mirrored,
            mirror_done,
            known,
            told: report::Told::default(),
            _locks: locks,
            dialect,
        };
        shell.take_over(roll, launch.as_ref());
        let recorded = shell.record(&effects.records);
        recorded.map_err(state("the journal cannot be written".to_owned()))?;
        report::tell(&effects.records, &shell.agent);
        if let Some(action) = effects.action {
            // The processes first, as always: what is to be done may need the node to be gone.
            shell.supervise();
            shell.act(action);
        }
        Ok(shell)
    }
}

impl Shell {
    /// Takes over what is alive.
    fn take_over(&mut self, roll: RollCall, launch: Option<&LaunchRecord>) {
        let adopted = roll.main.and_then(|main| match Node::adopt(main.process) {
            Ok(node) => Some((node, main.folder)),
            Err(error) => {
                tracing::warn!(%error, "the node ended while it was being taken over");
                None
            }
        });
        let seen = match adopted {
            Some((node, folder)) => {
                let journal = self.agent.journal();
                let known = [journal.runs(), journal.active(), journal.shown()];
                let installed = known.into_iter().flatten().find(|it| it.folder == folder).cloned();
                let installed = installed.unwrap_or_else(|| unknown(folder));
                // One that was started with other arguments is not the one that is wanted.
                let spec = self.dialect.command(&installed);
                let arguments: Vec<_> = spec.arguments.iter().map(|it| it.to_string_lossy().into_owned()).collect();
                let same = launch.is_none_or(|launch| launch.process != node.id() || launch.arguments == arguments);
                tracing::info!(pid = node.id().pid, release = %installed.release, "the node is alive and is taken over");
                self.group = Some(node.group());
                if let Err(error) = node.watch(self.tagged()) {
                    tracing::error!(%error, "the node cannot be watched");
                }
                self.node = Some(node);
                Seen::Adopted(LaunchKey { installed, generation: if same { 0 } else { u64::MAX } })
            }
            None if roll.stragglers.is_empty() => return,
            None => {
                let pids: Vec<i32> = roll.stragglers.iter().map(|process| process.pid).collect();
                tracing::warn!(?pids, "processes of an earlier node are still there and are ended first");
                self.group = Some(Group::Only(roll.stragglers));
                Seen::Stragglers
            }
        };
        if let Some(report) = self.supervisor.observe(clock::now().monotonic, seen) {
            self.waiting.push_back(Event::Node(report));
        }
    }
}

/// A release that runs and that nobody knows: it is to be replaced.
pub(super) fn unknown(folder: PathBuf) -> Installed {
    let release = Release { name: ReleaseName::genesis(), version: Version::new("unknown"), digest: None };
    #[allow(clippy::expect_used, reason = "thirty-two bytes are a SHA-256")]
    let digest = omnivisor_core::release::Digest::new(Algorithm::Sha256, &[0; 32]).expect("has its length");
    Installed { release, folder, digest, identity: Identity::default() }
}

/// Keeps the files for other tools as they should be; what is to be in them last counts.
fn watch_mirror(
    dialect: Arc<dyn Dialect>,
    wanted: &watch::Sender<Option<Mirrored>>,
) -> watch::Receiver<Option<Mirrored>> {
    let (done, watched) = watch::channel(None);
    let mut wanted = wanted.subscribe();
    tokio::spawn(async move {
        while wanted.changed().await.is_ok() {
            let mut pause = MIRROR_AGAIN;
            loop {
                let Some(state) = wanted.borrow_and_update().clone() else { break };
                let (dialect, mirrored) = (dialect.clone(), state.clone());
                let result = tokio::task::spawn_blocking(move || activate::mirror(&*dialect, &mirrored)).await;
                match result {
                    Ok(Ok(written)) => {
                        if written > 0 {
                            tracing::debug!(written, "the files for other tools are brought up to date");
                        }
                        done.send_replace(Some(state));
                        break;
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "the files for other tools cannot be written; tried again")
                    }
                    Err(error) => tracing::error!(%error, "the files for other tools could not be written"),
                }
                if tokio::time::timeout(pause, wanted.changed()).await.is_err() {
                    pause = (pause * 2).min(MIRROR_SELDOM);
                }
            }
        }
    });
    watched
}
