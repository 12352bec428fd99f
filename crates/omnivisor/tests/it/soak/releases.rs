//! What is published in a round.

use std::time::Duration;

use omnivisor_testkit::{Answer, Behaviour, BuildInfoAnswer};

use super::Soak;
use crate::world::{ANNOUNCEMENT, timestamp};

/// When a release is due whose time has not come; a clock may jump further than that.
const FAR_OFF: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Release {
    Good,
    Migrating,
    /// Good, but it has to be killed.
    Stubborn,
    /// Good, but not due before a month has passed.
    FarOff,
    DiesAtOnce,
    DiesInItsWindow,
    OtherVersion,
    OtherDigest,
    NoExecutable,
}

impl Release {
    /// Good ones as often as all others.
    pub(super) const ALL: [Self; 10] = [
        Self::Good,
        Self::Good,
        Self::Migrating,
        Self::Stubborn,
        Self::FarOff,
        Self::DiesAtOnce,
        Self::DiesInItsWindow,
        Self::OtherVersion,
        Self::OtherDigest,
        Self::NoExecutable,
    ];

    pub(super) fn is_good(self) -> bool {
        matches!(self, Self::Good | Self::Migrating | Self::Stubborn | Self::FarOff)
    }

    fn behaviour(self, version: &str) -> Behaviour {
        let well = Behaviour::new(version);
        match self {
            Self::Good | Self::FarOff | Self::OtherDigest | Self::NoExecutable => well,
            Self::Migrating => Behaviour { migrates: true, ..well },
            Self::Stubborn => Behaviour { ignore_stop: true, ..well },
            Self::DiesAtOnce => Behaviour { exit_after_ms: Some(1), exit_code: 1, migrates: true, ..well },
            Self::DiesInItsWindow => Behaviour { exit_after_ms: Some(100), exit_code: 3, migrates: true, ..well },
            Self::OtherVersion => Behaviour { build_info: BuildInfoAnswer::OtherVersion("7.7.7".to_owned()), ..well },
        }
    }
}

impl Soak {
    pub(super) fn publish(&mut self, kind: Release, version: &str, name: &str) {
        let due = if kind == Release::FarOff { FAR_OFF } else { Duration::ZERO };
        let mut info = self.world.publish_for(name, &kind.behaviour(version), &timestamp(due));
        self.watcher.publish(&info);
        match kind {
            Release::OtherDigest => {
                for platform in info["platforms"].as_object_mut().unwrap().values_mut() {
                    platform["checksum"] = "00".repeat(32).into();
                }
                self.world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
            }
            Release::NoExecutable => self.world.upstream.withdraw(&format!("/download/{name}")),
            _ => {}
        }
    }
}
