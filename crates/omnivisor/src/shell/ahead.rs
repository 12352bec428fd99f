//! What becomes of the data that was copied ahead of a switch, when nothing comes of the switch: it goes, or the next try of the same
//! release goes on with it.
//!
//! A failure that may pass, such as a stranger who has the data open, is followed by another try: to copy everything once more for
//! that would keep a disk busy all day. So the copy stays, as long as the disk has as much free as any copy leaves, until the
//! release is withdrawn, is given up, or another one is tried. Whoever is killed meanwhile leaves it to the next start, which removes it.

use std::io;
use std::path::{Path, PathBuf};

use omnivisor_core::agent::Agent;
use omnivisor_core::journal::{Phase, Record};
use omnivisor_core::plan::{FailureKind, UpgradePlan};
use omnivisor_core::release::Release;

use super::Shell;
use crate::effects::{snapshot, space};

/// What was copied ahead of upgrades that are over.
#[derive(Default)]
pub(super) struct Ahead {
    /// Goes when nobody copies any more.
    dropped: Vec<PathBuf>,
    /// For the next try of this release.
    kept: Option<(Release, PathBuf)>,
}

impl Shell {
    /// Notes what becomes of what was copied ahead, by these records.
    pub(super) fn follow_copies(&mut self, records: &[Record], before: &Agent) {
        if let Phase::Preparing { plan, .. } | Phase::Staged { plan, .. } | Phase::Switching { plan, .. } =
            before.journal().phase()
            && records.iter().any(is_over)
        {
            let is_switching = matches!(before.journal().phase(), Phase::Switching { .. });
            let may_pass =
                records.iter().any(|record| matches!(record, Record::Failed { kind: FailureKind::Transient, .. }));
            let copy = snapshot::folder(&*self.dialect, plan);
            if may_pass && !is_switching && self.has_reserve(&copy) {
                self.drop_kept();
                self.ahead.kept = Some((plan.to.release.clone(), copy));
            } else {
                self.ahead.dropped.push(copy);
            }
        }
        for record in records {
            if let Record::Planned(plan) = record {
                self.hand_on(plan);
            }
        }
        let announced = self.agent.announced();
        let is_announced =
            |(release, _): &(Release, PathBuf)| announced.iter().any(|announced| announced.release == *release);
        if self.ahead.kept.as_ref().is_some_and(|kept| !is_announced(kept) || !self.has_reserve(&kept.1)) {
            self.drop_kept();
        }
    }

    /// Drops what was copied ahead of every upgrade that was, as the one before us may have been killed before it could; also of one that
    /// is on trial, of which what there is of a snapshot is whole, or given up.
    pub(super) fn drop_copies(&mut self, records: &[Record]) {
        let is_on_trial = matches!(self.agent.journal().phase(), Phase::Probing { .. });
        let over = records.iter().filter_map(|record| match record {
            Record::Planned(plan) if is_on_trial || Some(plan.number) != self.agent.phase_number() => Some(plan),
            _ => None,
        });
        self.ahead.dropped.extend(over.map(|plan| snapshot::folder(&*self.dialect, plan)));
    }

    /// Drops what is kept; whether anything is still to be removed.
    pub(super) fn drop_kept(&mut self) -> bool {
        self.ahead.dropped.extend(self.ahead.kept.take().map(|(_, copy)| copy));
        !self.ahead.dropped.is_empty()
    }

    /// Removes what was dropped, beside the loop.
    pub(super) fn discard_dropped(&mut self) {
        if self.action.is_under_way() || self.ahead.dropped.is_empty() {
            return;
        }
        let dropped = std::mem::take(&mut self.ahead.dropped);
        tokio::task::spawn_blocking(move || dropped.iter().for_each(|snapshot| snapshot::discard(snapshot)));
    }

    fn hand_on(&mut self, plan: &UpgradePlan) {
        let Some((release, copy)) = self.ahead.kept.take() else { return };
        let is_handed_on = release == plan.to.release
            && plan.snapshot
            && match snapshot::hand_on(&copy, &snapshot::folder(&*self.dialect, plan)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(copy = %copy.display(), %error, "what was copied ahead is copied once more");
                    false
                }
                result => result.is_ok(),
            };
        if !is_handed_on {
            self.ahead.dropped.push(copy);
        }
    }

    /// Whether each disk that this copy is on has as much free as copies have to leave.
    fn has_reserve(&self, copy: &Path) -> bool {
        let has = |folder: &Path| {
            space::room(folder).is_none_or(|room| room.free >= space::reserve_of_a_copy(room, self.limits.reserve))
        };
        has(&self.dialect.paths().backups) && snapshot::parts_ahead(copy).iter().all(|part| has(part))
    }
}

fn is_over(record: &Record) -> bool {
    matches!(record, Record::Cancelled(_) | Record::Failed { .. } | Record::RollbackOrdered { .. })
}
