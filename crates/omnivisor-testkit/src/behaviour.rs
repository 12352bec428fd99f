//! How a fake node behaves. What it then does is in `fake_node`, and how it gets into the executable in `minting`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::build_info::default_build_info;
use crate::minting::Minted;

/// What a fake node is and does; the default is a well-behaved nym-node 1.0.0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Behaviour {
    /// Its `binary_name`.
    pub name: String,
    /// Its `build_version`, and the schema it knows.
    pub version: String,
    /// Its `commit_sha`.
    pub commit: String,
    /// Bytes that cannot be compressed, to make the file big.
    pub padding: u64,
    /// What it answers to `build-info`.
    pub build_info: BuildInfoAnswer,
    /// Ends by itself after so long.
    pub exit_after_ms: Option<u64>,
    /// The code it then ends with, and the code of the `fail` command.
    pub exit_code: i32,
    /// Dies of this signal (at once, or after `exit_after_ms`) instead of exiting.
    pub die_of_signal: Option<i32>,
    /// Logs SIGINT and SIGTERM and goes on.
    pub ignore_stop: bool,
    /// How long a graceful stop takes.
    pub linger_ms: u64,
    /// What it runs with a shell when it is asked to stop, and waits for: as what a node writes at its end.
    pub at_stop: Option<String>,
    /// Never healthy.
    pub sick: bool,
    /// Moves older data to its own schema.
    pub migrates: bool,
    /// A process it starts and forgets.
    pub grandchild: Option<Grandchild>,
    /// Lines it writes to stdout at start.
    pub stdout_lines: u32,
    /// What it tells of itself over HTTP.
    pub serves: Option<Serves>,
    /// Says `READY=1` to its `NOTIFY_SOCKET`, which has to be there.
    pub says_ready: bool,
}

/// What a fake node tells of itself over HTTP: its height, as text in what `/status` answers and as a number to a JSON-RPC call of
/// any method, and a status of its own everywhere else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Serves {
    /// Where it listens.
    pub address: String,
    /// What it answers where nothing is.
    pub status: u16,
    /// What becomes of its height.
    pub height: Height,
}

/// What becomes of a fake node's height.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Height {
    /// Twenty more each second.
    Grows,
    /// Nothing.
    Stands,
    /// It is never said, nor is anything else.
    Hangs,
}

/// What a fake node answers to `build-info`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum BuildInfoAnswer {
    /// Its build info.
    #[default]
    Ok,
    /// Nothing, ever.
    Hang,
    /// A line that is not JSON.
    Rubbish,
    /// JSON that never ends.
    Huge,
    /// Nothing but this exit code.
    Exit(i32),
    /// Its build info with another `binary_name`.
    OtherName(String),
    /// Its build info with another `build_version`.
    OtherVersion(String),
    /// A banner, although asked for none, and then its build info.
    BannerFirst,
    /// Its build info, but only if it is asked without `--no-banner`, which it does not know.
    KnowsNoBanner,
    /// Its build info without `cargo_triple`, as old programs answer.
    NoTriple,
}

/// A process a fake node starts and forgets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grandchild {
    /// Survives SIGINT, SIGTERM and SIGHUP.
    pub ignore_term: bool,
    /// Leaves the session, and so the process group, of the node.
    pub own_session: bool,
    /// Is started by a process that ends at once, so that the node is not its parent.
    pub orphaned: bool,
    /// Has nothing in its environment.
    pub no_environment: bool,
    /// Closes every descriptor but the first three, and so has no lock.
    pub no_descriptors: bool,
    /// Starts another one of its kind every few milliseconds, and ends.
    pub forks: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::new("1.0.0")
    }
}

impl Behaviour {
    /// A well-behaved nym-node of this version.
    pub fn new(version: &str) -> Self {
        Self {
            name: "nym-node".to_owned(),
            version: version.to_owned(),
            commit: "abc".to_owned(),
            padding: 0,
            build_info: BuildInfoAnswer::Ok,
            exit_after_ms: None,
            exit_code: 0,
            die_of_signal: None,
            ignore_stop: false,
            linger_ms: 0,
            at_stop: None,
            sick: false,
            migrates: false,
            grandchild: None,
            stdout_lines: 0,
            serves: None,
            says_ready: false,
        }
    }

    /// The build info of an honest node of this name, version and commit.
    pub fn details(&self) -> Value {
        let mut details = default_build_info(&self.name, &self.version);
        details["commit_sha"] = Value::from(self.commit.as_str());
        details
    }
}

impl Minted for Behaviour {
    const MAGIC: &'static [u8; 8] = b"FAKENODE";

    fn version(&self) -> &str {
        &self.version
    }

    fn padding(&self) -> u64 {
        self.padding
    }
}
