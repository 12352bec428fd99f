//! What of an instance's node is there, whoever started it. Starts and stops nothing.

use std::path::Path;

use omnivisor_core::dialect::Dialect;

use super::claim::StartError;
use crate::effects::roll_call::{self, LaunchRecord, RollCall, Sought};
use crate::store::lock::{Lock, LockError};

/// Held by the node.
pub(super) const NODE_LOCK: &str = "node.lock";
/// What was started last.
pub(super) const LAUNCH: &str = "launch.json";

/// What was found.
pub(super) struct Present {
    /// What was started last, in this boot.
    pub(super) launch: Option<LaunchRecord>,
    /// The mark of the node's processes.
    pub(super) mark: String,
    /// The node's lock, if no process of a node holds it.
    pub(super) node_lock: Option<Lock>,
    /// Who is there.
    pub(super) roll: RollCall,
}

impl Present {
    /// Looks. `shared` says whether other instances use the same release folders. Where there is no state folder yet, none is
    /// made.
    pub(super) fn find(dialect: &dyn Dialect, shared: bool) -> Result<Self, StartError> {
        let paths = dialect.paths();
        let launch = LaunchRecord::read(&paths.state.join(LAUNCH));
        let mark = format!("{}:{}", dialect.instance(), paths.state.display());
        let lock_path = paths.state.join(NODE_LOCK);
        let (node_lock, held) = match Lock::try_take(&lock_path) {
            Ok(lock) => (Some(lock), false),
            Err(LockError::Held { .. }) => (None, true),
            Err(_) if !paths.state.exists() => (None, false),
            Err(error) => return Err(error.into()),
        };
        let executable = dialect.executable(Path::new("")).file_name().unwrap_or_default().to_owned();
        let roll = roll_call::call(&Sought {
            launch: launch.as_ref(),
            mark: &mark,
            releases: &paths.releases,
            executable: &executable,
            home: &paths.home,
            shared,
            held_lock: held.then_some(lock_path.as_path()),
        });
        Ok(Self { launch, mark, node_lock, roll })
    }
}
