//! Take an instance for oneself: its lock, and those of its homes, so that nobody else supervises it, or runs a node on them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnivisor_core::dialect::Dialect;

use super::present;
use crate::clock;
use crate::effects::data::{HOME_LOCK, HOME_NODE_LOCK};
use crate::effects::process::ProcessId;
use crate::effects::roll_call;
use crate::store::lock::{self, Inherited, Lock, LockError};
use crate::store::{disk, small};

/// Held by the supervisor.
pub(super) const SUPERVISOR_LOCK: &str = "supervisor.lock";

/// How long a lock whose holder is dead may still be held.
const ORPHANED_LOCK: Duration = Duration::from_secs(5);

/// Why an instance cannot be supervised.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody does already.
    #[error("this instance is supervised already, by {0}")]
    AlreadyRunning(String),
    /// Its node runs.
    #[error("the node runs ({0}): `omnivisor stop` ends it")]
    NodeRuns(String),
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
    /// Another instance's node is on a home of this one's.
    #[error("the home {home} is used by a node of {holder}: stop that first", home = .home.display())]
    HomeInUse {
        /// The home.
        home: PathBuf,
        /// Whose node.
        holder: String,
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
    /// What was ordered cannot be done.
    #[error("{0}")]
    Refused(String),
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

pub(super) fn state(what: String) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::State { what, source }
}

/// Makes the state folder and takes every lock: nobody else supervises this instance, or its homes, until they are dropped.
/// Those that are inherited are taken from there.
pub(super) async fn claim(
    dialect: &dyn Dialect,
    allow_network_file_system: bool,
    inherited: &mut Inherited,
) -> Result<Vec<Lock>, StartError> {
    let paths = dialect.paths();
    make_state_folder(&paths.state)?;
    if let Some(kind) = lock::unreliable_file_system(&paths.state).filter(|_| !allow_network_file_system) {
        return Err(StartError::FileSystem { path: paths.state.clone(), kind });
    }
    let mut supervisor_lock = be_the_one(&paths.state.join(SUPERVISOR_LOCK), inherited).await?;
    let holder = format!("process {}\n", std::process::id());
    if let Err(error) = supervisor_lock.sign(&holder) {
        // It is held all the same; whoever finds it held will not know by whom.
        tracing::warn!(%error, "the supervisor's lock cannot be signed");
    }
    disk::make_folders_durably(&paths.beside, 0o777)
        .map_err(state(format!("{} cannot be made", paths.beside.display())))?;
    let mut locks = vec![supervisor_lock];
    for home in homes(dialect) {
        locks.push(lock_home(&home, dialect.instance(), inherited).await?);
        if inherited.has(&home.join(HOME_NODE_LOCK)) {
            continue; // ours, with the node or without
        }
        match lock_for_node(dialect, &home) {
            // Given back: nobody else starts a node here as long as the home is ours. What holds it is found by the roll-call; a
            // child of a killed supervisor that has not executed anything yet is about to end.
            Ok(_) | Err(NodeThere::Ours(..)) => {}
            Err(NodeThere::Another(error)) => return Err(error),
        }
    }
    Ok(locks)
}

/// The homes that are there, in one order, whatever the order of the arguments that name them; one that two nodes share is
/// locked once.
pub(super) fn homes(dialect: &dyn Dialect) -> Vec<PathBuf> {
    let homes = dialect.homes(&|path| small::read(path).ok());
    let mut homes: Vec<PathBuf> = homes.iter().filter_map(|home| fs::canonicalize(home).ok()).collect();
    homes.sort();
    homes.dedup();
    homes
}

/// What stands in the lock of a node of this instance.
fn signature(dialect: &dyn Dialect) -> String {
    format!("instance {}, whose state is in {}\n", dialect.instance(), dialect.paths().state.display())
}

/// Why a home is not free for a node to be started.
pub(super) enum NodeThere {
    /// These processes of this instance's node are on it, and hold this lock; some may not be seen.
    Ours(Vec<ProcessId>, PathBuf),
    /// Another instance's is, or nobody can tell.
    Another(StartError),
}

/// The locks in homes that a node inherits, as far as they were inherited.
pub(super) fn inherited_home_locks(dialect: &dyn Dialect, inherited: &mut Inherited) -> Vec<(PathBuf, Lock)> {
    let homes = homes(dialect).into_iter();
    homes.filter_map(|home| inherited.take(&home.join(HOME_NODE_LOCK)).map(|lock| (home, lock))).collect()
}

/// Takes the lock in a home that a node which is started on it inherits.
pub(super) fn lock_for_node(dialect: &dyn Dialect, home: &Path) -> Result<Lock, NodeThere> {
    let path = home.join(HOME_NODE_LOCK);
    match Lock::try_take(&path) {
        Ok(mut lock) => {
            // For people; and for us, if whoever holds it after our death says nothing else of itself.
            let _ = lock.sign(&signature(dialect));
            Ok(lock)
        }
        Err(LockError::Held { holder, .. }) => {
            let mark = present::mark(dialect);
            let says_so = holder == signature(dialect).trim();
            let ours = match says_so {
                true => roll_call::holders(&path, &mark),
                false => roll_call::marked_holders(&path, &mark),
            };
            match says_so || !ours.is_empty() {
                true => Err(NodeThere::Ours(ours, path)),
                false => Err(NodeThere::Another(StartError::HomeInUse { home: home.to_owned(), holder })),
            }
        }
        Err(error) => Err(NodeThere::Another(error.into())),
    }
}

/// Takes the supervisor's lock. A holder that is dead has left it to a child that had not executed yet, and which ends as
/// soon as it sees that: that is waited for.
async fn be_the_one(path: &Path, inherited: &mut Inherited) -> Result<Lock, StartError> {
    if let Some(lock) = inherited.take(path) {
        return Ok(lock);
    }
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
async fn lock_home(home: &Path, instance: &str, inherited: &mut Inherited) -> Result<Lock, StartError> {
    let mut lock = be_the_one(&home.join(HOME_LOCK), inherited).await.map_err(|error| match error {
        StartError::AlreadyRunning(holder) => {
            StartError::AlreadyRunning(format!("{holder}, on the same home ({})", home.display()))
        }
        error => error,
    })?;
    let _ = lock.sign(&format!("instance {instance}, process {}\n", std::process::id()));
    Ok(lock)
}

fn make_state_folder(path: &Path) -> Result<(), StartError> {
    disk::make_folders_durably(path, 0o700)
        .map_err(state(format!("the state folder {} cannot be made", path.display())))
}
