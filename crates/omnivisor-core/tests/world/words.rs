//! The releases of a world, and what it is told in.

use std::time::Duration;

use omnivisor_core::agent::Action;
use omnivisor_core::journal::Record;
use omnivisor_core::release::{Algorithm, Digest, Identity, Installed, Release, ReleaseName, Version};
use omnivisor_core::schedule::{Announcement, Origin, Source, Trigger};
use omnivisor_core::time::Timestamp;

pub fn release(version: &str, digest: u8) -> Release {
    Release {
        name: ReleaseName::parse(&format!("up-{version}")).unwrap(),
        version: Version::new(version),
        digest: Digest::new(Algorithm::Sha256, &[digest; 32]),
    }
}

pub fn installed(release: &Release) -> Installed {
    Installed {
        release: release.clone(),
        folder: format!("/releases/{}", release.name).into(),
        digest: Digest::new(Algorithm::Sha256, &[7; 32]).unwrap(),
        identity: Identity::default(),
    }
}

pub fn announce(version: &str, due: u64) -> Announcement {
    Announcement {
        release: release(version, 1),
        trigger: Trigger::At(at(Duration::from_secs(due))),
        published: None,
        origin: Origin::Upstream,
        source: Source::Download { url: "https://example.org/node".to_owned() },
        expected: Identity::default(),
        without_snapshot: false,
    }
}

/// What the network has agreed on.
pub fn agreed(version: &str) -> Announcement {
    let release = Release { digest: None, ..release(version, 1) };
    let trigger = Trigger::AtHeight { height: 1000, ready: false };
    Announcement { release, trigger, origin: Origin::Network, ..announce(version, 90) }
}

pub fn on_command(version: &str) -> Announcement {
    Announcement { trigger: Trigger::OnCommand { ends: true }, ..announce(version, 90) }
}

/// The world's calendar clock: nine hundred million seconds ahead of its other clock.
pub fn at(clock: Duration) -> Timestamp {
    Timestamp::EPOCH.plus(clock + Duration::from_secs(900_000_000))
}

pub fn name(action: &Action) -> String {
    let text = format!("{action:?}");
    text.split(['(', ' ']).next().unwrap_or_default().to_owned()
}

/// A record in one readable line.
pub fn brief(record: &Record) -> String {
    match record {
        Record::Adopted { installed, .. } => format!("Adopted {}", installed.release.version),
        Record::Planned(plan) => {
            format!(
                "Planned #{} {} -> {} {}",
                plan.number,
                plan.from.release.version,
                plan.to.release.version,
                match plan.to.trigger {
                    Trigger::At(_) => "at its time",
                    Trigger::OnCommand { .. } => "on command",
                    Trigger::AtHeight { ready: false, .. } => "at its height",
                    Trigger::AtHeight { ready: true, .. } => "at its height, which has come",
                }
            )
        }
        Record::Started(step) => format!("Started {step}"),
        Record::Staged(staged) => format!("Staged {}", staged.release.version),
        Record::Rescheduled(Trigger::AtHeight { ready: true, .. }) => "Rescheduled: the node is ready".to_owned(),
        Record::Rescheduled(_) => "Rescheduled".to_owned(),
        Record::Cancelled(why) => format!("Cancelled: {}", why.as_str()),
        Record::Failed { step, kind, reason, .. } => format!("Failed {step}, {kind:?}: {reason}"),
        Record::Died { reason } => format!("Died: {reason}"),
        Record::Undone(undo) => format!("Undone {undo}"),
        Record::UndoFailed { reason } => format!("UndoFailed: {reason}"),
        Record::Committed { .. } => "Committed".to_owned(),
        Record::Approved(release) => format!("Approved {}", release.version),
        Record::TakenOver { installed, .. } => format!("TakenOver {}", installed.release.version),
        Record::Replaced { installed, .. } => format!("Replaced {}", installed.release.version),
        Record::Began { how, .. } => format!("Began: {}", how.parts().0),
        Record::Summed(_) => "Summed".to_owned(),
        Record::RollbackOrdered { restore: true, .. } => "RollbackOrdered, with its data".to_owned(),
        Record::RollbackOrdered { restore: false, .. } => "RollbackOrdered, without its data".to_owned(),
        Record::RestoreOrdered { backup, .. } => format!("RestoreOrdered {backup}"),
        Record::Restored { .. } => "Restored".to_owned(),
        Record::RolledBack | Record::Held | Record::Resumed => format!("{record:?}"),
    }
}
