//! Begin to supervise: take the lock, read the journal or adopt what is there, call the roll, take over a live node.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use omnivisor_core::agent::{Agent, Event, Policy};
use omnivisor_core::dialect::{Dialect, Mirrored, StartReason};
use omnivisor_core::journal::{Beginning, Record};
use omnivisor_core::release::{Algorithm, Identity, Installed, Release, ReleaseName, Version};
use omnivisor_core::supervisor::{LaunchKey, RestartPolicy, Seen, Supervisor};
use tokio::sync::{mpsc, watch};

use super::adopt::open_journal;
use super::claim::{StartError, claim, inherited_home_locks, state};
use super::poll::known;
use super::present::Present;
use super::reload::Reload;
use super::replace::Replacement;
use super::sweep::sweep;
use super::{Shell, back_up, report, restoring};
use crate::clock;
use crate::effects::activate::{self, ActivateError};
use crate::effects::asset;
use crate::effects::backup::keep::Keep;
use crate::effects::cgroup::Cgroup;
use crate::effects::children;
use crate::effects::github::GitHub;
use crate::effects::group::{Group, Kin};
use crate::effects::process::{Launcher, Main, Node};
use crate::effects::roll_call::{LaunchRecord, RollCall, Runner};
use crate::effects::snapshot::{Limits, Method};
use crate::handover::{Handed, NodeHanded};
use crate::store::lock::Inherited;
use crate::store::small;

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
    /// How the dialect's configuration is read anew when it changes, if it is.
    pub reload: Option<Reload>,
    /// Where releases on GitHub are asked for.
    pub github: GitHub,
    /// What a snapshot may cost.
    pub limits: Limits,
    /// How it is taken.
    pub method: Method,
    /// What becomes of it.
    pub keep: Keep,
    /// Whether a file system on which locks are no guarantee may be used.
    pub allow_network_file_system: bool,
}

impl Start {
    /// Takes the instance over. If an upgrade was under way, it goes on with it; otherwise nothing is started or stopped
    /// before [`Shell::run`].
    ///
    /// `handed` is what an earlier image of this supervisor has passed on.
    pub async fn begin(self, handed: Option<Handed>) -> Result<Shell, StartError> {
        let dialect = self.dialect;
        let (mut inherited, orphans, handed) = match handed {
            Some(Handed { locks, from, failed, order, node, orphans }) => {
                (locks, orphans, Some((Replacement { from, failed, order }, node)))
            }
            None => (Inherited::default(), None, None),
        };
        let locks = claim(&*dialect, self.allow_network_file_system, &mut inherited).await?;
        sweep(&*dialect);
        back_up::sweep(&*dialect);
        asset::sweep(&*dialect);
        take_orphans(orphans);

        let present = Present::find(&*dialect, self.shared, &mut inherited)?;
        let home_locks = inherited_home_locks(&*dialect, &mut inherited);
        present.refuse_peer()?;
        let occupied = restoring::occupied(&present);
        let Present { launch, kin, node_lock, roll } = present;

        let (mut journal, mut records, degraded) = open_journal(&dialect, roll.folder().cloned()).await?;
        restoring::go_on(&*dialect, occupied, journal.as_mut(), &mut records)?;
        if let Some(why) = &degraded {
            tracing::error!(why, "DEGRADED: the node is run as the link says, and no upgrade is done");
        }
        if let Some(doubt) = self.policy.probe.doubt() {
            tracing::warn!("{doubt}");
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
            github: Arc::new(self.github),
            limits: self.limits,
            method: self.method,
            keep: self.keep,
            calm: super::keep::calm(),
            backed_up: serde_json::Value::Null,
            launch: 0,
            node: None,
            group: None,
            ending: Vec::new(),
            node_lock,
            home_locks,
            kin: Kin { cgroup: make_cgroup(&*dialect, &kin.mark), ..kin.clone() },
            restarts: self.restarts.on_failure,
            ends_after_switch,
            waiting: std::collections::VecDeque::new(),
            unwritable: None,
            seen: mpsc::unbounded_channel(),
            prepared: mpsc::unbounded_channel(),
            preparing: None,
            accepted: None,
            results: mpsc::unbounded_channel(),
            action: super::act::InFlight::default(),
            ahead: super::ahead::Ahead::default(),
            making_ready: super::ready::MakingReady::default(),
            mirrored,
            mirror_done,
            known,
            asked: watch::channel(None).0,
            news: mpsc::unbounded_channel(),
            heard: super::node_watch::Heard::default(),
            ears: super::notify::Ears::default(),
            reload: self.reload,
            refused_configuration: None,
            told: report::Told::default(),
            why_down: None,
            locks,
            checked: mpsc::unbounded_channel(),
            replacing: None,
            replacement: None,
            dialect,
        };
        let (replacement, node) = handed.map_or((None, None), |(replacement, node)| (Some(replacement), node));
        let found = shell.take_over(roll, launch.as_ref(), &kin, node.as_ref());
        shell.listen_again(launch.as_ref());
        let recorded = shell.record(&effects.records);
        recorded.map_err(state("the journal cannot be written".to_owned()))?;
        report::tell(&effects.records, &shell.agent);
        shell.note_beginning(replacement.as_ref().map_or(found, Replacement::beginning));
        shell.replacement = replacement;
        shell.drop_copies(&records);
        super::ready::sweep(&*shell.dialect);
        if shell.degraded.is_none() {
            super::sweep::sweep_parts(&*shell.dialect);
        }
        if shell.agent.expects_no_node() && !shell.supervisor.is_down() {
            shell.was_given_up();
        } else if let Some(action) = effects.action {
            // The processes first, as always: what is to be done may need the node to be gone.
            shell.supervise();
            shell.act(action);
        }
        Ok(shell)
    }
}

impl Shell {
    /// Takes over what is alive.
    fn take_over(
        &mut self,
        roll: RollCall,
        launch: Option<&LaunchRecord>,
        kin: &Kin,
        handed: Option<&NodeHanded>,
    ) -> Beginning {
        let own = handed.and_then(|handed| match self.inherit_node(handed, kin) {
            Ok(node) => Some((node, handed.folder.clone())),
            Err(error) => {
                tracing::warn!(%error, "the node that was handed over is looked for");
                None
            }
        });
        // What is no child of ours is known by its lock, which must be nobody's but its own.
        let is_ours = own.is_some() && handed.is_some_and(|handed| handed.ours);
        let somebody_is_there = !roll.mains.is_empty() || !roll.stragglers.is_empty();
        if somebody_is_there && !is_ours {
            self.node_lock = None;
        }
        let folder = roll.folder().cloned();
        let adopted = own.or_else(|| {
            folder.and_then(|folder| match self.adopt_node(&roll.mains, &folder, kin) {
                Ok(node) => Some((node, folder)),
                Err(error) => {
                    tracing::warn!(%error, "the node ended while it was being taken over");
                    None
                }
            })
        });
        let mut left = roll.stragglers;
        let (seen, how) = match adopted {
            Some((node, folder)) => {
                let installed = self.known(&folder).unwrap_or_else(|| unknown(folder));
                let pids: Vec<i32> = node.mains().iter().map(|main| main.id().pid).collect();
                let same = self.has_same_arguments(&installed, launch, pids[0]);
                tracing::info!(?pids, release = %installed.release, "the node is alive and is taken over");
                self.group = Some(node.group());
                node.watch(&self.tagged());
                self.node = Some(node);
                let key = LaunchKey { installed, generation: if same { 0 } else { u64::MAX } };
                (Seen::Adopted(key), Beginning::TookOver)
            }
            None => {
                left.extend(roll.mains.iter().map(|main| main.process));
                left.retain(|process| process.is_alive());
                if left.is_empty() {
                    return Beginning::Started;
                }
                let pids: Vec<i32> = left.iter().map(|process| process.pid).collect();
                tracing::warn!(?pids, "processes of an earlier node are still there and are ended first");
                self.group = Some(Group::of(left, kin.clone()));
                (Seen::Stragglers, Beginning::Cleared)
            }
        };
        if let Some(report) = self.supervisor.observe(clock::now().monotonic, seen) {
            self.waiting.push_back(Event::Node(report));
        }
        how
    }

    /// For `omnivisor history`; nothing depends on it, so that a full disk is no reason not to begin.
    fn note_beginning(&mut self, how: Beginning) {
        let (at, version) = (clock::now().wall, env!("CARGO_PKG_VERSION").to_owned());
        if let Err(error) = self.record(&[Record::Began { at, version, how }]) {
            tracing::warn!(%error, "that a supervisor has begun cannot be recorded");
        }
    }
}

impl Shell {
    /// All of its main processes, or none.
    fn adopt_node(&self, mains: &[Runner], folder: &Path, kin: &Kin) -> io::Result<Node> {
        let names = self.names(folder);
        let name = |role: usize| names.get(role).copied().unwrap_or("node");
        let mains = mains.iter().enumerate().map(|(role, main)| Main::adopt(name(role), main.process));
        Ok(Node::new(mains.collect::<io::Result<_>>()?, kin.clone()))
    }

    /// One that belongs to this very process; main processes may have ended since it was handed over, and then that is seen.
    fn inherit_node(&self, handed: &NodeHanded, kin: &Kin) -> io::Result<Node> {
        if handed.mains.is_empty() {
            return Err(io::Error::other("it has no process"));
        }
        let names = self.names(&handed.folder);
        let mains = handed.mains.iter().enumerate().map(|(role, main)| {
            let name = names.get(role).copied().unwrap_or("node");
            if handed.ours { Main::inherit(name, *main) } else { Main::adopt(name, *main) }
        });
        let kin = if handed.ours { &self.kin } else { kin };
        Ok(Node::new(mains.collect::<io::Result<_>>()?, kin.clone()))
    }

    /// What the main processes of a release are called.
    fn names(&self, folder: &Path) -> Vec<&'static str> {
        let installed = self.known(folder).unwrap_or_else(|| unknown(folder.to_owned()));
        let commands = self.dialect.commands(&installed, StartReason::First, None, &|path| small::read(path).ok());
        commands.unwrap_or_default().iter().map(|spec| spec.name).collect()
    }

    /// What the journal knows of the release in this folder.
    fn known(&self, folder: &Path) -> Option<Installed> {
        let journal = self.agent.journal();
        let known = [journal.runs(), journal.active(), journal.shown()];
        known.into_iter().flatten().find(|it| it.folder == folder).cloned()
    }

    /// Whether the node that runs was started as it would be now; one that was started otherwise is not the one that is wanted.
    fn has_same_arguments(&self, installed: &Installed, launch: Option<&LaunchRecord>, pid: i32) -> bool {
        let Some(launch) = launch.filter(|launch| launch.process.pid == pid && self.dialect.insists_on_arguments())
        else {
            return true;
        };
        let commands = self.dialect.commands(installed, StartReason::First, None, &|path| small::read(path).ok());
        let Some(first) = commands.ok().and_then(|commands| commands.into_iter().next()) else { return true };
        launch.arguments == first.arguments.iter().map(|it| it.to_string_lossy().into_owned()).collect::<Vec<_>>()
    }
}

/// What a node leaves behind comes to us from now on.
fn take_orphans(before: Option<bool>) {
    match children::take_orphans(before) {
        Ok(true) => {}
        Ok(false) => {
            tracing::debug!("not every orphan that comes to us is the node's: they are known by their mark only")
        }
        Err(error) => {
            tracing::warn!(%error, "what the node leaves behind does not come to us: it is known by its mark only")
        }
    }
}

/// A cgroup for the nodes that are started, where the hierarchy is ours to change. One that cannot be made is no reason to stay
/// down.
fn make_cgroup(dialect: &dyn Dialect, mark: &str) -> Option<Cgroup> {
    let made = Cgroup::make(dialect.instance(), mark)?;
    made.inspect_err(|error| tracing::warn!(%error, "the node has no cgroup of its own")).ok()
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
                        tracing::warn!(%error, "the files for other tools cannot be written; tried again");
                        if matches!(error, ActivateError::NoLink(_)) {
                            done.send_replace(Some(state)); // no end of a run has to wait for a person
                        }
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
