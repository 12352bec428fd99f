//! What was announced, and when it is to be switched to.

use std::fmt;

use crate::release::{Identity, Release};
use crate::time::Timestamp;

/// What has to happen before the node may be stopped for an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trigger {
    /// The wall clock reaches this time; a time that has passed means at once.
    At(Timestamp),
    /// An operator says so: the release is prepared and announced, and then waits.
    OnCommand {
        /// Whether the run ends with the switch.
        ends: bool,
    },
    /// The node itself says so, at the height that its network has agreed on.
    AtHeight {
        /// The height, in blocks.
        height: u64,
        /// Whether the node has said so: it stands at that height and waits for its successor.
        ready: bool,
    },
}

impl Trigger {
    /// The time at which it fires by itself, if there is one.
    pub fn due(self) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(time),
            Self::OnCommand { .. } | Self::AtHeight { .. } => None,
        }
    }

    /// The height at which it fires, if it is one.
    pub fn height(self) -> Option<u64> {
        match self {
            Self::AtHeight { height, .. } => Some(height),
            Self::At(_) | Self::OnCommand { .. } => None,
        }
    }

    /// Whether the node has said that it waits for its successor.
    pub fn is_ready(self) -> bool {
        matches!(self, Self::AtHeight { ready: true, .. })
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(time) => write!(f, "at {time}"),
            Self::OnCommand { .. } => f.write_str("on command"),
            Self::AtHeight { height, ready: false } => write!(f, "at height {height}, when the node is ready"),
            Self::AtHeight { height, ready: true } => write!(f, "now: the node is ready at height {height}"),
        }
    }
}

/// Who announced a release. It decides what may go back: an upstream never, a person or the network if they say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A remote source. Only a version above every one that was ever committed here is followed.
    Upstream,
    /// Somebody on this machine. The same version again is a hot-fix; an older one is refused.
    Local,
    /// Somebody on this machine who explicitly asked for an older version.
    LocalDowngrade,
    /// The network that the node is part of. What it has agreed on is followed, whatever the version.
    Network,
}

/// Where the executable of a release comes from, if its folder does not hold one already.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// It is downloaded; the digest it must have is the release's.
    Download {
        /// An absolute `http` or `https` address.
        url: String,
    },
    /// It is a file of a release on GitHub.
    Asset(Box<Asset>),
    /// It cannot be downloaded: an executable must have been placed in the release's folder.
    Placed {
        /// Why there is nothing to download, for the error if nothing was placed either.
        why: String,
    },
}

/// A file of a release on GitHub, or on a server that speaks like it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asset {
    /// The repository's owner.
    pub owner: String,
    /// The repository.
    pub repository: String,
    /// The release's tag.
    pub tag: String,
    /// The file's name.
    pub name: String,
    /// The executable in the archive; none if the file is the executable itself.
    pub binary: Option<String>,
}

/// A release that somebody wants this node to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Which one.
    pub release: Release,
    /// When.
    pub trigger: Trigger,
    /// When it was made known, if the announcement says so.
    pub published: Option<Timestamp>,
    /// By whom.
    pub origin: Origin,
    /// From where.
    pub source: Source,
    /// What its executable must say of itself, beyond its version. May be empty.
    pub expected: Identity,
    /// Whether somebody wants this one without a snapshot before it: then there is no data to go back to.
    pub without_snapshot: bool,
}

impl Announcement {
    /// Whether preparing the one is preparing the other: what failed for the one fails for the other, too. When and by
    /// whom it was announced does not matter.
    pub fn is_prepared_like(&self, other: &Self) -> bool {
        self.release == other.release && self.source == other.source && self.expected == other.expected
    }
}
