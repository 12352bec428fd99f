//! Start a node: only what was proven, when what it needs is there, and beside nothing that an earlier one has left.
//!
//! Where nothing has to be asked or waited for, a start is one call. Else it is prepared beside the loop, and dropped when it
//! is not wanted any more.

use std::path::PathBuf;
use std::time::Duration;

use omnivisor_core::agent::Event;
use omnivisor_core::dialect::{Answered, CommandSpec, Dialect, Preparation, StartReason};
use omnivisor_core::journal::Phase;
use omnivisor_core::release::{Installed, Release, Version};
use omnivisor_core::supervisor::{Exit, LaunchKey, Seen, Wanted};
use rustix::process::Signal;
use tokio::task::JoinHandle;

use super::claim::{self, NodeThere};
use super::{Shell, adopt, present};
use crate::effects::group::{Group, Kin};
use crate::effects::notify::Told;
use crate::effects::process::{self, Main, Node, ProcessId};
use crate::effects::roll_call::{self, LaunchRecord, Readiness};
use crate::effects::{digest, needed};
use crate::store::disk;
use crate::store::lock::{Lock, LockError};
use crate::store::small;

/// What is being done before a start.
pub(super) struct Preparing {
    key: LaunchKey,
    why: StartReason,
    task: JoinHandle<()>,
}

/// How that ended.
pub(super) enum Prepared {
    /// It has not ended: this is waited for.
    Waits(String),
    /// What is there is not what was proven, but it has been proven now.
    Replaced(Installed),
    /// It can be started.
    Ready(Option<Answered>),
    /// It cannot, and why.
    Failed(String),
}

/// Why a node was not started.
enum NoStart {
    /// It cannot be.
    Failed(String),
    /// What an earlier one has left behind has to end first.
    InTheWay,
}

impl Shell {
    pub(super) fn start_node(&mut self, key: &LaunchKey) {
        self.launch += 1;
        self.ending.drain(..).for_each(|watch| watch.abort());
        let why = self.start_reason();
        let begun = self.is_proven(key).and_then(|is_proven| {
            let read = |path: &std::path::Path| small::read(path).ok();
            let first = self.dialect.prepare(&key.installed, why, &read).map_err(|error| error.to_string())?;
            Ok((is_proven, first))
        });
        match begun {
            Err(error) => self.not_started(error),
            Ok((true, first)) if first == Preparation::default() => self.launch_now(key, why, None),
            Ok((is_proven, first)) => self.prepare_start(key, why, is_proven, first),
        }
    }

    fn start_reason(&self) -> StartReason {
        match self.agent.journal().phase() {
            Phase::Probing { plan, deaths, .. } => StartReason::Switched {
                height: plan.to.trigger.height(),
                // The first start of a supervisor may not be the release's first one.
                again: *deaths > 0 || self.supervisor.starts_again() || self.launch == 1,
            },
            _ if self.supervisor.starts_again() => StartReason::Failed,
            _ => StartReason::First,
        }
    }

    /// Whether the executables are those that were proven. What has not changed since it was looked at last is not read again.
    fn is_proven(&self, key: &LaunchKey) -> Result<bool, String> {
        let folder = &key.installed.folder;
        let read = |path: &std::path::Path| small::read(path).ok();
        let executables = self.dialect.executables(folder, &read).map_err(|error| error.to_string())?;
        let found = digest::of_executables_if_changed(&executables).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => format!("{error}; put the executable of {} back", key.installed.release),
            _ => error.to_string(),
        })?;
        let accepted = self.accepted.as_ref().is_some_and(|it| it.folder == *folder && it.digest == found);
        if found == key.installed.digest || accepted {
            return Ok(true);
        }
        match self.agent.may_be_replaced(folder) {
            true => Ok(false),
            false => Err(format!("{} was changed since it was proven, in the middle of an upgrade", folder.display())),
        }
    }

    /// Asks who it is, waits for what it needs, and puts the dialect's question.
    fn prepare_start(&mut self, key: &LaunchKey, why: StartReason, is_proven: bool, first: Preparation) {
        if !is_proven {
            let folder = key.installed.folder.display();
            tracing::warn!(%folder, "the executable was changed since it was proven: it is asked who it is");
        }
        let (dialect, known) = (self.dialect.clone(), key.installed.clone());
        let announced = match self.agent.journal().phase() {
            Phase::Probing { plan, .. } => Some(plan.to.release.version.clone()),
            _ => None,
        };
        let (launch, prepared) = (self.launch, self.prepared.0.clone());
        let task = tokio::spawn(async move {
            let result = if is_proven {
                for needed in &first.needed {
                    needed::wait_for(needed, |what| drop(prepared.send((launch, Prepared::Waits(what))))).await;
                }
                match &first.question {
                    None => Prepared::Ready(None),
                    Some(question) => match needed::ask(question).await {
                        Ok(answered) => Prepared::Ready(Some(answered)),
                        Err(why) => Prepared::Failed(why),
                    },
                }
            } else {
                prove_again(&*dialect, known, announced).await
            };
            let _ = prepared.send((launch, result));
        });
        self.preparing = Some(Preparing { key: key.clone(), why, task });
    }

    /// Whether a new node that is being judged has ended, and nobody has said so yet.
    pub(super) fn has_died_unseen(&self) -> bool {
        matches!(self.agent.journal().phase(), Phase::Probing { .. }) && self.is_dying()
    }

    /// Whether a main process of the running node has ended, heard of or not.
    pub(super) fn is_dying(&self) -> bool {
        let has_ended = |node: &Node| node.mains().iter().any(|main| !main.id().is_alive());
        self.supervisor.is_running() && self.node.as_ref().is_some_and(has_ended)
    }

    /// Asks what is left of the node to end, or makes it.
    pub(super) fn end_group(&mut self, kill: bool) {
        let Some(group) = &self.group else { return };
        let left = group.members();
        if !left.is_empty() {
            let pids: Vec<i32> = left.iter().map(|process| process.pid).collect();
            tracing::warn!(?pids, "processes that the node left behind are {}", if kill { "killed" } else { "ended" });
        }
        group.signal(&left, if kill { Signal::KILL } else { Signal::TERM });
        let watch = group.clone().watch_empty(kill, self.tagged());
        self.ending.push(watch);
    }

    /// A start that is being prepared and is not wanted any more has not happened.
    pub(super) fn drop_preparation_unless(&mut self, wanted: &Wanted) {
        let is_wanted = |it: &Preparing| matches!(wanted, Wanted::Running(key, _) if *key == it.key);
        if let Some(dropped) = self.preparing.take_if(|it| !is_wanted(it)) {
            dropped.task.abort();
            self.launch += 1; // what it may have sent already is late news
            self.supervisor.observe(crate::clock::now().monotonic, Seen::NotYet);
        }
    }

    pub(super) fn prepared(&mut self, launch: u64, prepared: Prepared) {
        if launch != self.launch {
            return;
        }
        let Some(preparing) = self.preparing.take() else { return };
        match prepared {
            Prepared::Waits(what) => {
                self.why_down = Some(what);
                self.preparing = Some(preparing);
            }
            Prepared::Ready(answered) => self.launch_now(&preparing.key, preparing.why, answered.as_ref()),
            Prepared::Failed(error) => self.not_started(error),
            Prepared::Replaced(installed) => {
                // It runs even if that cannot be recorded now: a full disk is no reason to stay down.
                self.accepted = Some(installed.clone());
                self.waiting.push_back(Event::Replaced(installed));
                self.observe(launch, Seen::NotYet);
            }
        }
    }

    fn not_started(&mut self, error: String) {
        tracing::error!(error, "the node cannot be started");
        let exit = Exit::NotStarted(error);
        self.observe(self.launch, Seen::Exited { exit, others: false, group_empty: true });
    }

    fn launch_now(&mut self, key: &LaunchKey, why: StartReason, answered: Option<&Answered>) {
        let read = |path: &std::path::Path| small::read(path).ok();
        let commands = self.dialect.commands(&key.installed, why, answered, &read);
        let start = commands.map_err(|error| NoStart::Failed(error.to_string())).and_then(|commands| {
            self.take_node_lock()?;
            self.take_home_locks()?;
            Ok(commands)
        });
        let commands = match start {
            Ok(commands) => commands,
            Err(NoStart::Failed(error)) => return self.not_started(error),
            Err(NoStart::InTheWay) => return self.observe(self.launch, Seen::Stragglers),
        };
        self.prick_ears();
        let (mains, failure) = self.start_each(key, &commands);
        if mains.is_empty() {
            self.node = None;
            return self.not_started(failure.unwrap_or_else(|| "it has no process".to_owned()));
        }
        let node = Node::new(mains, self.kin.clone());
        self.group = Some(node.group());
        node.watch(&self.tagged());
        self.node = Some(node);
        match failure {
            None => self.observe(self.launch, Seen::Started),
            Some(error) => {
                tracing::error!(error, "the node cannot be started whole");
                let exit = Exit::NotStarted(error);
                self.observe(self.launch, Seen::Exited { exit, others: true, group_empty: false });
            }
        }
    }

    /// Starts one after the other; those that were started, and why the next one was not.
    fn start_each(&self, key: &LaunchKey, commands: &[CommandSpec]) -> (Vec<Main>, Option<String>) {
        let mut mains: Vec<Main> = Vec::new();
        for spec in commands {
            let before: Vec<ProcessId> = mains.iter().map(Main::id).collect();
            match self.start_one(key, &commands[0], spec, &before) {
                Ok(main) => {
                    let (pid, name) = (main.id().pid, main.name());
                    tracing::info!(pid, release = %key.installed.release, "the {name} is started");
                    mains.push(main);
                }
                Err(error) => return (mains, Some(format!("{}: {error}", spec.program.display()))),
            }
        }
        (mains, None)
    }

    fn start_one(
        &self,
        key: &LaunchKey,
        first: &CommandSpec,
        spec: &CommandSpec,
        before: &[ProcessId],
    ) -> std::io::Result<Main> {
        let file = self.dialect.paths().state.join(present::LAUNCH);
        let session = process::Stat::of(std::process::id().cast_signed()).map_or(0, |stat| stat.session);
        let told = self.ears.told(self.waits_for_ready());
        let record = |process| {
            let mut processes = before.to_vec();
            processes.push(process);
            let launch = LaunchRecord {
                process: processes.remove(0),
                session,
                boot_id: process::boot_id(),
                folder: key.installed.folder.clone(),
                arguments: first.arguments.iter().map(|it| it.to_string_lossy().into_owned()).collect(),
                others: processes,
                cgroup: self.kin.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned()),
                readiness: match told {
                    Told::At(path) => Some(Readiness { socket: path.to_owned(), said: false }),
                    Told::Passed | Told::Nothing => None,
                },
            };
            // The next supervisor finds the node by its mark and its lock, too: a full disk is no reason to stay down.
            if let Err(error) = launch.write(&file) {
                tracing::warn!(path = %file.display(), %error, "the node's start cannot be noted");
                // Nor must it find an earlier one's, whose end would make a straggler of this one.
                let _ = disk::remove_file(&file);
            }
        };
        let locks: Vec<&Lock> = self.node_lock.iter().chain(self.home_locks.iter().map(|(_, lock)| lock)).collect();
        let mut tries = 0;
        loop {
            match self.launcher.start(spec, &self.kin, &locks, told, record) {
                // It was written a moment ago, and a child that has not executed yet still has it open.
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy && tries < 40 => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return result,
            }
        }
    }

    /// The node's lock, to be inherited. After an adoption it is the adopted node's, and may still be held by what that has
    /// left behind: that is found, and has to end first.
    fn take_node_lock(&mut self) -> Result<(), NoStart> {
        if self.node_lock.is_some() {
            return Ok(());
        }
        let path = self.dialect.paths().state.join(present::NODE_LOCK);
        match Lock::try_take(&path) {
            Ok(lock) => {
                self.node_lock = Some(lock);
                Ok(())
            }
            // Nobody may be seen to hold it: one that forks and ends all the time is here and there.
            Err(LockError::Held { .. }) => {
                let left = roll_call::holders(&path, &self.kin.mark);
                Err(self.end_first(left, path))
            }
            Err(error) => Err(NoStart::Failed(error.to_string())),
        }
    }

    /// Those in the node's homes, to be inherited, too: no other instance starts a node on one of them as long as this one's
    /// lives, with or without its supervisor.
    fn take_home_locks(&mut self) -> Result<(), NoStart> {
        let homes = claim::homes(&*self.dialect);
        self.home_locks.retain(|(home, _)| homes.contains(home));
        for home in homes {
            if self.home_locks.iter().any(|(locked, _)| *locked == home) {
                continue;
            }
            match claim::lock_for_node(&*self.dialect, &home) {
                Ok(lock) => self.home_locks.push((home, lock)),
                Err(NodeThere::Ours(left, lock)) => return Err(self.end_first(left, lock)),
                Err(NodeThere::Another(error)) => return Err(NoStart::Failed(error.to_string())),
            }
        }
        Ok(())
    }

    /// What is in the way is the node from now on, until it is gone.
    fn end_first(&mut self, left: Vec<ProcessId>, lock: PathBuf) -> NoStart {
        let pids: Vec<i32> = left.iter().map(|process| process.pid).collect();
        let held = lock.display();
        tracing::warn!(?pids, %held, "processes of an earlier node are still there and are ended first");
        self.why_down = Some(format!("{held} is held by processes of an earlier node {pids:?}, which are ended first"));
        self.group = Some(Group::of(left, Kin { lock, ..self.kin.clone() }));
        NoStart::InTheWay
    }
}

/// Asks what is there who it is. What it has to be: the same program. The version may be any, as somebody wanted it, unless one
/// was announced.
async fn prove_again(dialect: &dyn Dialect, known: Installed, announced: Option<Version>) -> Prepared {
    let cannot = |why: String| {
        Prepared::Failed(format!("the executable was changed since it was proven, and cannot be accepted: {why}"))
    };
    match adopt::prove(dialect, &known.folder).await {
        Ok(Ok(found))
            if announced.as_ref().is_some_and(|announced| !dialect.same_version(announced, &found.release.version)) =>
        {
            cannot(format!("it is version {}", found.release.version))
        }
        Ok(Ok(found)) => match dialect.same_program(&known.identity, &found.identity) {
            Ok(()) => {
                let release = Release { name: known.release.name, ..found.release };
                Prepared::Replaced(Installed { release, ..found })
            }
            Err((active, new)) => cannot(format!("it calls itself {new}, and {active} runs here")),
        },
        Ok(Err(why)) => cannot(why),
        Err(error) => cannot(error.to_string()),
    }
}
