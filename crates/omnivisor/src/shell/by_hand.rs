//! Work on an instance by hand while nothing supervises it: its locks are taken, and what is known of it is read.

use std::fs;
use std::os::unix::fs::MetadataExt;

use omnivisor_core::dialect::Dialect;
use omnivisor_core::journal::Record;

use super::adopt::{Known, known};
use super::claim::{StartError, claim};
use super::present::Present;
use crate::store::lock::{Inherited, Lock};

/// An instance that is nobody else's meanwhile.
pub(super) struct ByHand {
    /// What its journal says.
    pub(super) records: Vec<Record>,
    /// Who may be at work on its homes.
    pub(super) present: Present,
    _locks: Vec<Lock>,
}

impl ByHand {
    /// Takes it.
    pub(super) async fn take(
        dialect: &dyn Dialect,
        shared: bool,
        allow_network_file_system: bool,
    ) -> Result<Self, StartError> {
        be_its_user(dialect)?;
        let locks = claim(dialect, allow_network_file_system, &mut Inherited::default()).await?;
        let present = Present::find(dialect, shared, &mut Inherited::default())?;
        present.refuse_peer()?;
        match known(&dialect.paths().state) {
            Known::Believed(records) => Ok(Self { records, present, _locks: locks }),
            Known::Nothing => Err(StartError::NothingToRun("this instance was never run here".to_owned())),
            Known::Degraded(why) => Err(StartError::NothingToRun(why)),
        }
    }
}

/// What root makes only root may read: the supervisor, which is another user's, would not find it.
fn be_its_user(dialect: &dyn Dialect) -> Result<(), StartError> {
    let us = rustix::process::geteuid();
    let owner = fs::metadata(&dialect.paths().state).map_or(us.as_raw(), |it| it.uid());
    match us.is_root() && owner != us.as_raw() {
        true => Err(StartError::Refused(format!(
            "{} is run by user {owner}, who could not read what root makes: say it as that user (`sudo -u '#{owner}' …`)",
            dialect.instance()
        ))),
        false => Ok(()),
    }
}
