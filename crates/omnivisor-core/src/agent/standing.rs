//! Where each announced release stands, and whose turn it is.

use std::cmp::Ordering;

use super::Agent;
use crate::journal::Adoption;
use crate::plan::UpgradePlan;
use crate::release::Installed;
use crate::schedule::{Announcement, Origin, Trigger};
use crate::time::{Now, Timestamp};

/// Why an announced release is, or is not, about to be switched to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is what runs, or it ran well here before.
    Installed,
    /// It failed here.
    Denied(String),
    /// It is not newer than what ran well here (this version).
    NotNewer(String),
    /// It failed its checks as often as is tried.
    Unfit(String),
    /// Nobody has placed its executable yet, and why somebody has to.
    Missing(String),
    /// It could not be prepared; the next try is then.
    RetryAt(Timestamp, String),
    /// It will be switched to when its trigger fires.
    Waiting,
    /// It waits for a person: it was already due when this instance was taken over, or it asks for one.
    WaitsForApproval,
}

impl Agent {
    /// The announced release whose turn it is: the most urgent of those that may be tried now, the first of equals.
    pub(super) fn next(&self, now: Now) -> Option<&Announcement> {
        self.announced
            .iter()
            .filter(|announced| matches!(self.standing(now, announced), Standing::Waiting | Standing::WaitsForApproval))
            .min_by_key(|announced| self.urgency(announced))
    }

    /// Approved ones first, then by the time at which they are due, then those that wait for a person.
    pub(super) fn urgency(&self, announced: &Announcement) -> (u8, Option<Timestamp>) {
        if self.journal.approved(&announced.release) || announced.trigger.is_ready() {
            return (0, None);
        }
        match announced.trigger {
            Trigger::At(time) if !self.is_parked(announced) => (1, Some(time)),
            Trigger::AtHeight { .. } => (1, None),
            _ => (2, announced.trigger.due()),
        }
    }

    /// Whether it was already due when another tool's installation was taken over: the first start surprises nobody.
    pub(super) fn is_parked(&self, announced: &Announcement) -> bool {
        let Some((adopted, Adoption::Found)) = self.journal.adopted() else { return false };
        let due = announced.trigger.due();
        due.is_some_and(|due| due <= adopted && announced.published.unwrap_or(due) <= adopted)
    }

    pub(super) fn may_switch(&self, now: Now, plan: &UpgradePlan) -> bool {
        let (approved, due) = (self.journal.approved(&plan.to.release), self.is_due(now, &plan.to));
        match plan.to.trigger {
            // Before its height a release is of no network that there is: no person can want it there.
            Trigger::AtHeight { .. } => due && (approved || !self.journal.held()),
            Trigger::At(_) | Trigger::OnCommand { .. } => {
                approved || (!self.journal.held() && due && !self.is_parked(&plan.to))
            }
        }
    }

    fn is_due(&self, now: Now, announced: &Announcement) -> bool {
        let due = match announced.trigger {
            Trigger::At(due) => due,
            Trigger::OnCommand { .. } => return false,
            Trigger::AtHeight { ready, .. } => {
                return ready && self.ready_since.is_some_and(|since| now.monotonic >= since + self.policy.stop_delay);
            }
        };
        // Whoever queued it on this machine after the clock had jumped read the time off that clock.
        let said_since = announced.origin != Origin::Upstream
            && announced.published.is_some_and(|published| self.calendar.is_of_the_jump(now, published));
        self.calendar.has_come(now, due) || (said_since && due <= now.wall)
    }

    /// Where an announced release stands.
    pub fn standing(&self, now: Now, announced: &Announcement) -> Standing {
        let release = &announced.release;
        let approved = self.journal.approved(release);
        let same = |active: &Installed| {
            let digest = release.digest.as_ref();
            active.release.name == release.name
                && active.release.version == release.version
                && (digest.is_none() || digest == active.release.digest.as_ref() || digest == Some(&active.digest))
        };
        if self.journal.active().is_some_and(same) {
            return Standing::Installed;
        }
        if !approved {
            if let Some(why) = self.journal.denies(release) {
                return Standing::Denied(why.to_owned());
            }
            // A network that goes back to what it had has its reasons.
            if announced.origin != Origin::Network && self.journal.committed().any(|committed| committed == release) {
                return Standing::Installed;
            }
        }
        // Not even an approval goes back: it was given when the release was ahead. A downgrade is announced as one.
        if let Some(floor) = self.above(announced) {
            return Standing::NotNewer(floor);
        }
        let attempts = self.journal.attempts(announced);
        if let Some(attempts) = attempts.filter(|attempts| attempts.permanent >= self.policy.rechecks) {
            return Standing::Unfit(attempts.reason.clone());
        }
        // Trying would tell nothing that is not known, and be written down each time.
        if let Some(why) = self.missing.get(release) {
            return Standing::Missing(why.clone());
        }
        if let Some(attempts) = attempts.filter(|_| !self.appeared.contains(release)) {
            // Whatever failed: where it is tried for ever, a server is not to be asked for 100 MB every ten seconds.
            let failures = attempts.transient.saturating_add(attempts.permanent);
            let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(20));
            let backoff = self.policy.retry.saturating_mul(doubled).min(self.policy.retry_most);
            let delay = if attempts.permanent > 0 { backoff.max(self.policy.recheck) } else { backoff };
            // The node stands still: whoever mends what is wrong is not kept waiting; but a server is not asked in vain for
            // ever so often, either.
            let delay = if announced.trigger.is_ready() { backoff.min(self.policy.retry * 6) } else { delay };
            let next = attempts.last.plus(delay);
            // A clock that went back must not make us wait for longer than the delay.
            if now.wall < next && now.wall >= attempts.last {
                return Standing::RetryAt(next, attempts.reason.clone());
            }
        }
        let on_command = matches!(announced.trigger, Trigger::OnCommand { .. });
        if !approved && (on_command || self.is_parked(announced)) {
            return Standing::WaitsForApproval;
        }
        Standing::Waiting
    }

    /// The version that ran well here and that the announced one would have to be above, but is not.
    fn above(&self, announced: &Announcement) -> Option<String> {
        let version = &announced.release.version;
        let allowed = |order: Option<Ordering>| match announced.origin {
            Origin::Upstream => order == Some(Ordering::Greater),
            Origin::Local => order != Some(Ordering::Less),
            Origin::LocalDowngrade | Origin::Network => true,
        };
        self.journal
            .committed()
            .find(|committed| !allowed(version.precedence(&committed.version)))
            .map(|committed| committed.version.to_string())
    }
}
