//! How nym, vega and cosmos say the same things.
//!
//! A dialect never does anything: it says what to look at and what that means, where things are, what to run, and how to
//! tell that it is well. The shell does it. So each is tested with fixtures alone: bytes in, announcements out; state in,
//! files out.

pub mod nym;
pub mod vega;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::github;
use crate::health::{HealthProbe, Patience};
use crate::release::{Identity, Installed, Release, Version};
use crate::schedule::Announcement;
use crate::time::Timestamp;

/// Gives the contents of a file, if it can be read.
pub type Read<'a> = &'a dyn Fn(&Path) -> Option<Vec<u8>>;

/// Something in the outside world that says what is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watch {
    /// A file: look again whenever it may have changed.
    File(PathBuf),
    /// An address: ask every so often.
    Url {
        /// What to ask.
        url: String,
        /// How often.
        every: Duration,
    },
    /// The releases of a repository on GitHub: ask every so often which there are.
    Releases {
        /// The repository's owner.
        owner: String,
        /// The repository.
        repository: String,
        /// The file of a release that describes it.
        file: &'static str,
        /// What the queue calls the place.
        place: String,
        /// How often.
        every: Duration,
    },
    /// The node that runs, at its [`ReleaseSource::endpoint`].
    Node {
        /// How often.
        every: Duration,
        /// How often once the height that its network has agreed on is near.
        near: Duration,
    },
}

/// Where a node answers what its network has agreed on, by HTTP on a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The socket.
    pub socket: PathBuf,
    /// The HTTP path there.
    pub path: String,
    /// An address at which the node says how high it is, if there is one.
    pub height: Option<String>,
}

/// A symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where it points to.
    pub target: PathBuf,
    /// When it was made.
    pub made: Timestamp,
}

/// Something that was seen and cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it calls itself.
    pub name: String,
    /// Why not, in one sentence.
    pub reason: String,
}

/// What the queue says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// What can be followed, in the queue's order.
    pub announcements: Vec<Announcement>,
    /// What cannot.
    pub refused: Vec<Refused>,
}

/// A file to be replaced whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorFile {
    /// Which.
    pub path: PathBuf,
    /// By what.
    pub contents: Contents,
}

/// What a mirror file consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// These bytes; the mode is 0644.
    Bytes(Vec<u8>),
    /// A symbolic link to there.
    Link(PathBuf),
}

/// What an upstream's answer changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// The queue as it is to be now, if it is to be another one.
    pub queue: Option<Vec<u8>>,
    /// What an operator should read: (whether it is a warning, text).
    pub news: Vec<(bool, String)>,
}

/// What was seen cannot be understood at all.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be used: {reason}")]
pub struct DialectError {
    /// What was read.
    pub what: String,
    /// Why it cannot be used.
    pub reason: String,
}

/// What may not be installed again, and what everything new must be above.
pub struct Limits<'a> {
    /// The highest version that was ever healthy here.
    pub floor: &'a Version,
    /// Whether a release failed here.
    pub denied: &'a dyn Fn(&Release) -> bool,
}

/// When is there something new?
pub trait ReleaseSource {
    /// What to look at. A file is the queue.
    fn watches(&self) -> Vec<Watch>;
    /// What the queue, or the node, says; none if it cannot know yet.
    fn announced(&self, said: &[u8], read: Read<'_>) -> Result<Option<Observed>, DialectError>;
    /// Where the node of this release is asked, if it can be.
    fn endpoint(&self, running: &Installed, read: Read<'_>) -> Option<Endpoint>;
    /// What is asked there; `id` is a number that no other question has.
    fn question(&self, id: u64) -> Vec<u8>;
    /// How high the node says it is.
    fn height(&self, said: &[u8]) -> Option<u64>;
    /// How long it may give no answer.
    fn patience(&self) -> Patience;
    /// Which of a repository's releases is followed, if any is.
    fn follows<'a>(&self, releases: &'a [github::Release]) -> Option<&'a github::Release>;
    /// What it changes in the queue that these, and no others, are the newest releases of a repository: what was announced
    /// of one that is not among them, or is not one that is followed, is withdrawn.
    fn prune(&self, queue: &[u8], place: &str, releases: &[github::Release]) -> Result<Merge, DialectError>;
    /// What such a release, with the file that describes it, announces: as an upstream would answer.
    fn announcement_of(&self, release: &github::Release, described: &[u8]) -> Result<Vec<u8>, DialectError>;
    /// What an upstream's answer changes in the queue.
    fn merge(&self, queue: &[u8], answer: &[u8], url: &str, limits: &Limits<'_>) -> Result<Merge, DialectError>;
}

/// Where is it?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Our own state: journal and locks. Never rolled back.
    pub state: PathBuf,
    /// The folder that holds all releases; instances may share it.
    pub releases: PathBuf,
    /// The link that other tools read. Ours only to write.
    pub link: PathBuf,
    /// The queue.
    pub queue: PathBuf,
    /// What is locked while a file that instances share is changed.
    pub shared_lock: PathBuf,
    /// The node's home, or its supervisor's where the node has several.
    pub home: PathBuf,
    /// A folder on the home's file system that is the supervisor's, and no part of a snapshot.
    pub beside: PathBuf,
    /// Where snapshots go.
    pub backups: PathBuf,
    /// What is no part of a snapshot, and stays where it is in a restore.
    pub apart: Vec<PathBuf>,
}

/// One of the folders that hold a node's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// What it is called in a snapshot; empty where it is the only one.
    pub name: &'static str,
    /// Where it is.
    pub path: PathBuf,
}

/// What homes are called in a snapshot that holds several. What has anything else at its top is of one home, whose own files these are.
pub const HOMES: [&str; 3] = ["core", "consensus", "data-node"];

/// What mirror files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The release that runs, or ran last.
    pub shown: Installed,
    /// When it was committed, if it was.
    pub committed: Option<Timestamp>,
    /// Whether the link points to nothing, or to that release already.
    pub linked: bool,
    /// Releases that this instance is done with, one way or the other.
    pub settled: Vec<Release>,
}

/// Where are things?
pub trait Layout {
    /// Everything that has a fixed place.
    fn paths(&self) -> &Paths;
    /// The folder of the release the installation began with.
    fn genesis_folder(&self) -> PathBuf;
    /// The usual folder of a release.
    fn release_folder(&self, release: &Release) -> PathBuf;
    /// The executables of the release in this folder, the main one first; there is at least one. An error says what is
    /// wrong with a folder that does not say what they are.
    fn executables(&self, folder: &Path, read: Read<'_>) -> Result<Vec<PathBuf>, DialectError>;
    /// What a process is to this installation, by its executable's resolved path and its arguments: the folder of the release
    /// that it is of, and which of the main processes it is. None, if it is no node's. `link` is where the link points to.
    fn recognise(
        &self,
        executable: &Path,
        arguments: &[OsString],
        link: Option<&Path>,
        read: Read<'_>,
    ) -> Option<(PathBuf, usize)>;
    /// The files beside the executables of a release that is installed while `from` runs, by their paths in its folder.
    fn side_files(
        &self,
        from: &Installed,
        release: &Release,
        read: Read<'_>,
    ) -> Result<Vec<(PathBuf, Vec<u8>)>, DialectError>;
    /// The folders below which each folder may be a release's.
    fn shelves(&self) -> Vec<PathBuf>;
    /// Where this instance makes a release's folder before it has its name: on the same file system.
    fn staging(&self) -> PathBuf;
    /// Whether an executable may be moved into a release's folder that others have made already; else a folder appears whole.
    fn fills_folders(&self) -> bool;
    /// The folders that two nodes must never use at a time; a lock is kept in each that is there.
    fn homes(&self, read: Read<'_>) -> Vec<PathBuf>;
    /// The folders that a snapshot of the data holds of a node whose release is in this folder; or why it is not known where all of it is.
    /// Its home, unless it has several.
    fn roots(&self, _release: &Path, _read: Read<'_>) -> Result<Vec<Root>, DialectError> {
        Ok(vec![Root { name: "", path: self.paths().home.clone() }])
    }
    /// Whether a file, by its path in a snapshot, must never go back to an earlier state.
    fn is_monotonic(&self, path: &Path) -> bool;
    /// Where that is of which something is kept of a node whose release is in this folder, where an upgrade that its network has agreed on
    /// has to be done without a snapshot: as much as is known. None, unless it is a node of such a network.
    fn essential_roots(&self, _release: &Path, _read: Read<'_>) -> Vec<Root> {
        Vec::new()
    }
    /// Whether a file, by its path in a snapshot, is kept then: what says what was signed, and configuration, but no keys. Of a folder,
    /// whether any may be in it.
    fn is_essential(&self, _path: &Path) -> bool {
        false
    }
    /// Which file of those, by its path in a snapshot, says what was signed: that it is not kept is said.
    fn signer_state(&self) -> Option<&Path> {
        None
    }
    /// What belongs to the node and is in no snapshot of its homes, so that it does not go back with them; one phrase each.
    fn beyond_snapshots(&self, _read: Read<'_>) -> Vec<String> {
        Vec::new()
    }
    /// The files that other tools expect, rewritten whole; `read` gives a file's present contents. Those of the release's
    /// folder come first, the link last.
    fn mirror(&self, state: &Mirrored, read: Read<'_>) -> Result<Vec<MirrorFile>, DialectError>;
    /// Those of the files that keep what others have written, and that are there and make no sense.
    fn unreadable(&self, read: Read<'_>) -> Vec<PathBuf>;
}

/// A program to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandSpec {
    /// What people call it, such as `node`.
    pub name: &'static str,
    /// Its executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// Why a node is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartReason {
    /// It does not run yet.
    First,
    /// It was switched to, and has not shown yet that it is well.
    Switched {
        /// The height at which its network has agreed to switch, if it was one.
        height: Option<u64>,
        /// Whether it has run since.
        again: bool,
    },
    /// It failed.
    Failed,
}

/// Something that a node needs from outside before it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    /// What people call it, such as `PostgreSQL`.
    pub name: String,
    /// Where it listens.
    pub place: Place,
    /// How long it is waited for; then the node is started all the same.
    pub patience: Duration,
}

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this host and port.
    Tcp(String, u16),
    /// At this socket.
    Unix(PathBuf),
}

/// What is done before a node is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preparation {
    /// Waited for, one after the other.
    pub needed: Vec<Needed>,
    /// Run, and its answer given to [`Launch::commands`].
    pub question: Option<CommandSpec>,
}

/// What a program answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Whether it ended with exit code 0.
    pub success: bool,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
}

/// What runs, and how is it asked to stop?
pub trait Launch {
    /// What is done first.
    fn prepare(&self, active: &Installed, why: StartReason, read: Read<'_>) -> Result<Preparation, DialectError>;
    /// The node's main processes, in the order in which they are started.
    fn commands(
        &self,
        active: &Installed,
        why: StartReason,
        answered: Option<&Answered>,
        read: Read<'_>,
    ) -> Result<Vec<CommandSpec>, DialectError>;
    /// How many main processes a node has, as the installation is now.
    fn main_processes(&self, read: Read<'_>) -> usize;
    /// Whether a node that runs with other arguments is to be replaced.
    fn insists_on_arguments(&self) -> bool;
    /// The signal that asks a main process to end.
    fn stop_signal(&self) -> i32;
    /// Whether what was asked for is the long-running node, and not a short command.
    fn is_long_running(&self) -> bool;
}

/// Is it the right one, and is it well?
pub trait Health {
    /// The arguments with which an executable says who it is: the first that it does not refuse.
    fn identify_arguments(&self) -> Vec<Vec<String>>;
    /// What it said: version and identity.
    fn identify(&self, stdout: &[u8]) -> Result<(Version, Identity), DialectError>;
    /// Whether the version that an executable says it is, is the one that was announced.
    fn same_version(&self, announced: &Version, said: &Version) -> bool;
    /// Whether what was found installed is run even if it does not say who it is.
    fn accepts_silence(&self) -> bool;
    /// Whether a new executable is of the same program as the one that runs: else both names.
    fn same_program(&self, active: &Identity, new: &Identity) -> Result<(), (String, String)>;
    /// How a new release proves itself.
    fn probe(&self) -> &HealthProbe;
}

/// All of it.
pub trait Dialect: ReleaseSource + Layout + Launch + Health + Send + Sync {
    /// What the instance is called.
    fn instance(&self) -> &str;
    /// What the executables of the tools are called that this dialect is taken over from.
    fn peers(&self) -> &[&str];
    /// The folder of the release that another tool, or a person, has installed meanwhile, in place of what was shown.
    fn moved(&self, read: Read<'_>, link: Option<&Link>, ours: &Ours) -> Option<PathBuf>;
    /// What another tool left: the release that is installed, as far as its files tell. `folders` are there, below the shelves.
    fn found(&self, read: Read<'_>, link: Option<&Path>, folders: &[PathBuf]) -> Found;
    /// The queue with those upgrades put back that another tool took off it and did not finish, and their names; none if
    /// there are none.
    fn unfinished(&self, read: Read<'_>, ours: &Ours) -> Option<(Vec<u8>, Vec<String>)>;
}

/// What is known of an instance without the files that other tools write, too; to tell their doings from ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ours {
    /// The release that the files name if nobody but us has changed them.
    pub shown: Installed,
    /// When we changed that last; the beginning of time on the first day, when nothing is ours yet.
    pub since: Timestamp,
    /// Every release that we have run here, well or not: the files may name one of these because we ended before they were
    /// brought up to date.
    pub ran: Vec<Release>,
    /// What an upgrade that was not finished has switched to already, perhaps: what names it may be our own work.
    pub under_way: Option<Release>,
}

impl Ours {
    /// Whether we have run this release.
    pub fn has_run(&self, name: &str, version: &str) -> bool {
        self.ran.iter().any(|release| release.name.as_str() == name && release.version.as_str() == version)
    }
}

/// What the files of an installation say of the release that is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it may be, the likeliest first.
    pub folders: Vec<PathBuf>,
    /// Whether an upgrade was ever done: then the first release is no fallback.
    pub upgraded: bool,
    /// What an operator can do if none of them can be run.
    pub advice: Option<String>,
}
