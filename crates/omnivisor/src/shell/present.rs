//! What of an instance's node is there, whoever started it. Starts and stops nothing.

use std::path::{Path, PathBuf};

use omnivisor_core::dialect::Dialect;

use super::claim::StartError;
use crate::effects::activate;
use crate::effects::cgroup::Cgroup;
use crate::effects::group::Kin;
use crate::effects::roll_call::{self, LaunchRecord, Peer, RollCall, Sought};
use crate::store::lock::{self, Inherited, Lock, LockError};
use crate::store::small;

/// Held by the node.
pub(super) const NODE_LOCK: &str = "node.lock";
/// What was started last.
pub(super) const LAUNCH: &str = "launch.json";

/// What was found.
pub(super) struct Present {
    /// What was started last, in this boot.
    pub(super) launch: Option<LaunchRecord>,
    /// How the node's processes are known, wherever they have gone.
    pub(super) kin: Kin,
    /// The node's lock, if no process of a node holds it.
    pub(super) node_lock: Option<Lock>,
    /// Who is there.
    pub(super) roll: RollCall,
}

impl Present {
    /// Looks. `shared` says whether other instances use the same release folders. Where there is no state folder yet, none is
    /// made.
    pub(super) fn find(dialect: &dyn Dialect, shared: bool, inherited: &mut Inherited) -> Result<Self, StartError> {
        let paths = dialect.paths();
        let launch = LaunchRecord::read(&paths.state.join(LAUNCH));
        let kin = kin(dialect, launch.as_ref());
        let lock_path = paths.state.join(NODE_LOCK);
        let taken = inherited.take(&lock_path).map_or_else(|| Lock::try_take(&lock_path), Ok);
        let (node_lock, held) = match taken {
            Ok(lock) => (Some(lock), false),
            Err(LockError::Held { .. }) => (None, true),
            Err(_) if !paths.state.exists() => (None, false),
            Err(error) => return Err(error.into()),
        };
        let roll = call(dialect, launch.as_ref(), &kin, shared, held.then_some(lock_path.as_path()));
        Ok(Self { launch, kin, node_lock, roll })
    }

    /// Who is there, for somebody who only wants to know: makes no file, and takes no lock, not for a moment.
    pub(super) fn look(dialect: &dyn Dialect, shared: bool) -> RollCall {
        let paths = dialect.paths();
        let (launch, lock) = (LaunchRecord::read(&paths.state.join(LAUNCH)), paths.state.join(NODE_LOCK));
        let held = lock::is_held(&lock).then_some(lock.as_path());
        call(dialect, launch.as_ref(), &kin(dialect, launch.as_ref()), shared, held)
    }

    /// An error if another tool's supervisor is at work here: then nothing is touched.
    pub(super) fn refuse_peer(&self) -> Result<(), StartError> {
        match &self.roll.peer {
            None => Ok(()),
            Some(Peer { process, name, node }) => {
                Err(StartError::Peer { node: *node, peer: *process, name: name.clone() })
            }
        }
    }
}

/// The mark of the processes of this instance's node.
pub(super) fn mark(dialect: &dyn Dialect) -> String {
    format!("{}:{}", dialect.instance(), dialect.paths().state.display())
}

/// How the processes of what was launched last are known: by the cgroup that it was put into, else by the one that it would be.
fn kin(dialect: &dyn Dialect, launch: Option<&LaunchRecord>) -> Kin {
    let mark = mark(dialect);
    let recorded = launch.and_then(|launch| Cgroup::at(launch.cgroup.as_deref()?));
    let cgroup = recorded.or_else(|| Cgroup::existing(dialect.instance(), &mark));
    Kin { mark, lock: dialect.paths().state.join(NODE_LOCK), cgroup }
}

fn call(
    dialect: &dyn Dialect,
    launch: Option<&LaunchRecord>,
    kin: &Kin,
    shared: bool,
    held_lock: Option<&Path>,
) -> RollCall {
    let expected = dialect.main_processes(&|path| small::read(path).ok());
    let link = activate::read_link(dialect);
    let link = link.as_ref().map(|link| link.target.as_path());
    let recorded = launch.and_then(|launch| launch.cgroup.clone());
    let mut cgroups: Vec<PathBuf> = kin.cgroup.iter().map(|cgroup| cgroup.path().to_owned()).chain(recorded).collect();
    cgroups.dedup();
    roll_call::call(&Sought { launch, mark: &kin.mark, cgroups: &cgroups, dialect, expected, link, shared, held_lock })
}
