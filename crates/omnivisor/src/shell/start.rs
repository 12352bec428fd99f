//! Begin to supervise: take the lock, read the journal or adopt what is there, call the roll, take over a live node.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use omnivisor_core::agent::{Agent, Event, Policy};
use omnivisor_core::dialect::{Dialect, Mirrored};
use omnivisor_core::journal::{Adoption, Journal, Record};
use omnivisor_core::release::{Algorithm, Identity, Installed, Release, ReleaseName, Version};
use omnivisor_core::supervisor::{LaunchKey, RestartPolicy, Seen, Supervisor};
use tokio::sync::{mpsc, watch};

use super::poll::known;
use super::{Shell, report};
use crate::clock;
use crate::effects::process::{Group, Launcher, Node, ProcessId};
use crate::effects::roll_call::{self, LaunchRecord, RollCall, Sought};
use crate::effects::{activate, digest, preflight};
use crate::store::journal_file::{JournalFile, OpenError};
use crate::store::lock::{self, Lock, LockError};
use crate::store::{atomic, journal_file, small};

/// Held by the supervisor.
const SUPERVISOR_LOCK: &str = "supervisor.lock";
/// Held by the supervisor, too, in the node's home: instances may share a home by mistake.
const HOME_LOCK: &str = "omnivisor.lock";
/// Held by the node.
pub(super) const NODE_LOCK: &str = "node.lock";
/// What was started last.
pub(super) const LAUNCH: &str = "launch.json";
/// Everything that ever happened.
const JOURNAL: &str = "journal";
/// Says that there was a journal.
const ADOPTED: &str = "adopted";

/// How long a lock whose holder is dead may still be held.
const ORPHANED_LOCK: Duration = Duration::from_secs(5);

/// How long after a first failed mirror the next try is; doubled each time, up to the second.
const MIRROR_AGAIN: Duration = Duration::from_secs(5);
const MIRROR_SELDOM: Duration = Duration::from_secs(300);

/// Why an instance cannot be supervised.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody does already.
    #[error("this instance is supervised already, by {0}")]
    AlreadyRunning(String),
    /// The peer does.
    #[error("the node (process {node}) is run by {name} (process {peer}): stop that first")]
    Peer {
        /// The node.
        node: i32,
        /// Its supervisor.
        peer: i32,
        /// What that is called.
        name: String,
    },
    /// The locks would be no guarantee.
    #[error("{path} is on {kind}, where locks are no guarantee that the node runs once", path = .path.display())]
    FileSystem {
        /// The state folder.
        path: PathBuf,
        /// The file system.
        kind: &'static str,
    },
    /// There is nothing to run.
    #[error("there is no release to run: {0}")]
    NothingToRun(String),
    /// The state folder cannot be used.
    #[error("{what}")]
    State {
        /// What was attempted.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A lock cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
}

fn state(what: String) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::State { what, source }
}

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
        let paths = dialect.paths().clone();
        make_state_folder(&paths.state)?;
        if let Some(kind) = lock::unreliable_file_system(&paths.state).filter(|_| !self.allow_network_file_system) {
            return Err(StartError::FileSystem { path: paths.state, kind });
        }
        let mut supervisor_lock = be_the_one(&paths.state.join(SUPERVISOR_LOCK)).await?;
        let holder = format!("process {}\n", std::process::id());
        if let Err(error) = supervisor_lock.sign(&holder) {
            // It is held all the same; whoever finds it held will not know by whom.
            tracing::warn!(%error, "the supervisor's lock cannot be signed");
        }
        let home_lock = lock_home(&paths.beside, dialect.instance()).await?;
        sweep(&*dialect);

        let launch = LaunchRecord::read(&paths.state.join(LAUNCH));
        let mark = format!("{}:{}", dialect.instance(), paths.state.display());
        let node_lock_path = paths.state.join(NODE_LOCK);
        let node_lock = match Lock::try_take(&node_lock_path) {
            Ok(lock) => Some(lock),
            Err(LockError::Held { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let executable = dialect.executable(Path::new("")).file_name().unwrap_or_default().to_owned();
        let roll = roll_call::call(&Sought {
            launch: launch.as_ref(),
            mark: &mark,
            releases: &paths.releases,
            executable: &executable,
            home: &paths.home,
            shared: self.shared,
            held_lock: node_lock.is_none().then_some(node_lock_path.as_path()),
        });
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
            _locks: [supervisor_lock, home_lock],
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
fn unknown(folder: PathBuf) -> Installed {
    let release = Release { name: ReleaseName::genesis(), version: Version::new("unknown"), digest: None };
    #[allow(clippy::expect_used, reason = "thirty-two bytes are a SHA-256")]
    let digest = omnivisor_core::release::Digest::new(Algorithm::Sha256, &[0; 32]).expect("has its length");
    Installed { release, folder, digest, identity: Identity::default() }
}

/// Takes the supervisor's lock. A holder that is dead has left it to a child that had not executed yet, and which ends as
/// soon as it sees that: that is waited for.
async fn be_the_one(path: &Path) -> Result<Lock, StartError> {
    let end = clock::now().monotonic + ORPHANED_LOCK;
    loop {
        match Lock::try_take(path) {
            Ok(lock) => return Ok(lock),
            Err(LockError::Held { holder, .. }) => {
                // One that has not signed yet is about to.
                let pid = holder.rsplit_once("process ").and_then(|(_, pid)| pid.parse().ok());
                let alive = pid.is_some_and(|pid| ProcessId::of(pid).is_some());
                if alive || clock::now().monotonic >= end {
                    return Err(StartError::AlreadyRunning(holder));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Two instances of one home would run two nodes on the same keys.
async fn lock_home(beside: &Path, instance: &str) -> Result<Lock, StartError> {
    fs::create_dir_all(beside).map_err(state(format!("{} cannot be made", beside.display())))?;
    let mut lock = be_the_one(&beside.join(HOME_LOCK)).await.map_err(|error| match error {
        StartError::AlreadyRunning(holder) => StartError::AlreadyRunning(format!("{holder}, on the same home")),
        error => error,
    })?;
    let _ = lock.sign(&format!("instance {instance}, process {}\n", std::process::id()));
    Ok(lock)
}

fn make_state_folder(path: &Path) -> Result<(), StartError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(state(format!("the state folder {} cannot be made", path.display())))
}

/// Removes what a crash left half made.
fn sweep(dialect: &dyn Dialect) {
    let paths = dialect.paths();
    for folder in [&paths.state, &paths.beside] {
        atomic::sweep(folder);
    }
    // Others may be writing where instances share files; then it is theirs to sweep.
    let Ok(_lock) = Lock::try_take(&paths.shared_lock) else { return };
    atomic::sweep(&paths.releases);
    for entry in fs::read_dir(paths.releases.join("upgrades")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let adding = name.strip_prefix(".omnivisor-add-").and_then(|pid| pid.parse().ok());
        if adding.is_some_and(|pid| ProcessId::of(pid).is_none()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The journal; or, where there never was one, a new one of what is installed; or, where it cannot be believed, none, what
/// the link names, and why.
async fn open_journal(
    dialect: &dyn Dialect,
    running: Option<PathBuf>,
) -> Result<(Option<JournalFile>, Vec<Record>, Option<String>), StartError> {
    let folder = &dialect.paths().state;
    let (path, marker) = (folder.join(JOURNAL), folder.join(ADOPTED));
    let degraded = match journal_file::JournalFile::open(&path) {
        Ok((mut journal, mut records)) if !records.is_empty() && Journal::replay(&records).is_ok() => {
            mark_adopted(&marker)?;
            set_aside_unreadable(dialect);
            if let Some(record) = taken_over(dialect, &records).await? {
                report::tell_one(&record);
                journal
                    .append(std::slice::from_ref(&record))
                    .map_err(state("the journal cannot be written".to_owned()))?;
                records.push(record);
            }
            return Ok((Some(journal), records, None));
        }
        Ok(_) => format!("the journal {} contradicts itself", path.display()),
        Err(OpenError::Missing(_)) if !marker.exists() => {
            let record = find_installed(dialect, running).await?;
            set_aside_unreadable(dialect);
            if let Record::Adopted { installed, .. } = &record {
                requeue_unfinished(dialect, installed);
            }
            let journal = JournalFile::create(&path, std::slice::from_ref(&record))
                .map_err(state(format!("the journal {} cannot be made", path.display())))?;
            mark_adopted(&marker)?;
            return Ok((Some(journal), vec![record], None));
        }
        Err(error) => anyhow::Error::from(error).chain().map(ToString::to_string).collect::<Vec<_>>().join(": "),
    };
    let record = find_installed(dialect, running).await?;
    let hint = format!("{degraded}. To begin anew from what runs now, move {} away and start again", folder.display());
    Ok((None, vec![record, Record::Held], Some(hint)))
}

/// Begins the journal of an instance that was just made; false if there is one, or if `found` says that another tool had
/// been there: then the first run adopts what is there.
pub fn initialise(dialect: &dyn Dialect, adopted: &Record, found: bool) -> io::Result<bool> {
    let folder = &dialect.paths().state;
    let (path, marker) = (folder.join(JOURNAL), folder.join(ADOPTED));
    if found || marker.exists() || path.exists() {
        return Ok(false);
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    JournalFile::create(&path, std::slice::from_ref(adopted))?;
    mark_adopted(&marker).map_err(io::Error::other)?;
    Ok(true)
}

/// Whether another tool ran this instance meanwhile, and upgraded it: then its release, proven, is the one to run. An older
/// one must not be started on what that has left.
async fn taken_over(dialect: &dyn Dialect, records: &[Record]) -> Result<Option<Record>, StartError> {
    let Ok(journal) = Journal::replay(records) else { return Ok(None) };
    let (Some(shown), Some((adopted, _))) = (journal.shown(), journal.adopted()) else { return Ok(None) };
    let since = journal.last_commit().map_or(adopted, |committed| committed.max(adopted));
    let Some(folder) = dialect.moved(&|path| small::read(path).ok(), shown, since) else { return Ok(None) };
    let installed = prove(dialect, &folder).await?.map_err(|why| {
        StartError::NothingToRun(format!(
            "another tool has installed {} meanwhile, which cannot run: {why}",
            folder.display()
        ))
    })?;
    Ok(Some(Record::TakenOver { installed, at: clock::now().wall }))
}

/// Proves the executable of a folder; or says why that cannot be done.
pub(super) async fn prove(dialect: &dyn Dialect, folder: &Path) -> Result<Result<Installed, String>, StartError> {
    let executable = dialect.executable(folder);
    if !executable.is_file() {
        return Ok(Err(format!("{} is not there", executable.display())));
    }
    let (version, identity) = match preflight::identify(dialect, &executable).await {
        Ok(said) => said,
        Err(failure) => return Ok(Err(failure.reason)),
    };
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = ReleaseName::parse_installed(&name).map_err(|error| StartError::NothingToRun(error.to_string()))?;
    let digest = digest::of_executable(&executable).map_err(state("the executable cannot be read".to_owned()))?;
    let release = Release { name, version, digest: None };
    Ok(Ok(Installed { release, folder: folder.to_owned(), digest, identity }))
}

fn mark_adopted(marker: &Path) -> Result<(), StartError> {
    if marker.exists() {
        return Ok(());
    }
    atomic::replace(marker, b"there is a journal beside this\n", 0o600)
        .map_err(state(format!("{} cannot be written", marker.display())))
}

/// A plan that a crash of its writer left half written would stop every upgrade for ever, and a history the way back to the
/// peer: they are kept beside new ones.
fn set_aside_unreadable(dialect: &dyn Dialect) {
    for path in dialect.unreadable(&|path| small::read(path).ok()) {
        let aside = path.with_extension(format!("json.unreadable-{}", clock::now().wall.unix_nanos() / 1_000_000));
        match fs::rename(&path, &aside) {
            Ok(()) => {
                tracing::warn!(path = %path.display(), aside = %aside.display(), "a file cannot be read; it is kept there, and made anew");
            }
            Err(error) => tracing::error!(path = %path.display(), %error, "a file cannot be read or moved away"),
        }
    }
}

/// An upgrade that another tool was committing when it was killed has left its queue and was not done: it would be lost.
fn requeue_unfinished(dialect: &dyn Dialect, adopted: &Installed) {
    match activate::requeue(dialect, adopted) {
        Ok(names) => names.iter().for_each(|name| {
            tracing::warn!(name, "an upgrade was begun here and not finished by another tool: it is queued again");
        }),
        Err(error) => tracing::warn!(%error, "an upgrade that another tool has not finished cannot be queued again"),
    }
}

async fn find_installed(dialect: &dyn Dialect, running: Option<PathBuf>) -> Result<Record, StartError> {
    let installed = adopt_installation(dialect, running).await?;
    Ok(Record::Adopted { installed, at: clock::now().wall, adoption: Adoption::Found })
}

/// What another tool left installed, proven: what runs, else what the link names, else what the files name.
pub async fn adopt_installation(dialect: &dyn Dialect, running: Option<PathBuf>) -> Result<Installed, StartError> {
    let paths = dialect.paths();
    let link = fs::read_link(&paths.link).ok().map(|target| {
        let target: PathBuf = paths.releases.join(target).components().collect();
        target
    });
    let found = dialect.found(&|path| small::read(path).ok(), link.as_deref());
    let mut reasons = Vec::new();
    for folder in running.into_iter().chain(found.folders) {
        match prove(dialect, &folder).await? {
            Ok(installed) => return Ok(installed),
            Err(why) => reasons.push(why),
        }
    }
    if found.upgraded {
        reasons.push("upgrades were done here, so the first release is not started instead".to_owned());
    }
    Err(StartError::NothingToRun(reasons.join("; ")))
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
