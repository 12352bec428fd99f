//! Vega Visor's own configuration, `config.toml`.
//!
//! A key that is left out takes its documented default, where Vega Visor takes zero or nothing; that is said. What cannot
//! be meant is an error, what probably is not meant so a warning. Reading the file, and watching it, is not done here.

mod outdated;
mod source;

use std::collections::BTreeMap;
use std::time::Duration;

use self::source::Source;
pub use super::tables::{ConfigError, Warning};
use crate::release::ReleaseName;

/// What the file is called.
pub const FILE_NAME: &str = "config.toml";

const FIRST_CONNECTION_RETRIES: &str = "maxNumberOfFirstConnectionRetries";
const RESTART_CONNECTION_RETRIES: &str = "maxNumberOfRestartConnectionRetries";
const RESTARTS: &str = "maxNumberOfRestarts";
const RESTARTS_DELAY: &str = "restartsDelaySeconds";
const STOP_DELAY: &str = "stopDelaySeconds";
const STOP_TIMEOUT: &str = "stopSignalTimeoutSeconds";
const UPGRADE_FOLDERS: &str = "upgradeFolders";
const AUTO_INSTALL: &str = "autoInstall";
const ENABLED: &str = "autoInstall.enabled";
const OWNER: &str = "autoInstall.repositoryOwner";
const REPOSITORY: &str = "autoInstall.repository";
const ASSET_NAME: &str = "autoInstall.asset.name";
const BINARY_NAME: &str = "autoInstall.asset.binaryName";

const KNOWN: [&str; 12] = [
    FIRST_CONNECTION_RETRIES,
    RESTART_CONNECTION_RETRIES,
    RESTARTS,
    RESTARTS_DELAY,
    STOP_DELAY,
    STOP_TIMEOUT,
    UPGRADE_FOLDERS,
    ENABLED,
    OWNER,
    REPOSITORY,
    ASSET_NAME,
    BINARY_NAME,
];

/// How Vega Visor is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How often core's endpoint is tried in vain, every two seconds, before the node has ever failed.
    pub first_connection_retries: u64,
    /// And after it has.
    pub restart_connection_retries: u64,
    /// How often the node is started again.
    pub restarts: u64,
    /// How long to wait before that.
    pub restarts_delay: Duration,
    /// How long to wait before a node that is ready for its upgrade is stopped.
    pub stop_delay: Duration,
    /// How long it may take to stop.
    pub stop_timeout: Duration,
    /// The folders of releases, by tag, that are not called like their tag; below the home.
    pub upgrade_folders: BTreeMap<String, String>,
    /// Where releases come from.
    pub auto_install: AutoInstall,
}

/// Where releases come from that nobody has placed by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoInstall {
    /// Whether they are downloaded at all.
    pub enabled: bool,
    /// The owner of the repository.
    pub owner: String,
    /// The repository.
    pub repository: String,
    /// Which of a release's files it is.
    pub asset: Asset,
}

/// The file of a release that holds the executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Its name.
    pub name: String,
    /// The executable in the archive; none if the file is the executable.
    pub binary_name: Option<String>,
}

impl Asset {
    /// The executable's path in the release's folder.
    pub fn binary(&self) -> &str {
        self.binary_name.as_deref().unwrap_or(&self.name)
    }
}

/// The name under which Vega publishes its program for an operating system and a processor, as Rust names them.
pub fn asset_name(os: &str, arch: &str) -> String {
    let os = if os == "macos" { "darwin" } else { os };
    let arch = match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("vega-{os}-{arch}.zip")
}

impl Config {
    /// Reads the file. `asset_name` is the file that Vega publishes for this machine.
    ///
    /// Without a table `[autoInstall]` nothing is downloaded: nobody asked for it. With one that does not say whether it
    /// is enabled, it is: that is the documented default, whoever writes the table wants it, and what is downloaded is
    /// proven before a node is stopped for it.
    pub fn parse(text: &str, asset_name: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        let mut source = Source::open(text)?;
        let config = Self {
            first_connection_retries: source.count(FIRST_CONNECTION_RETRIES, 175_000)?,
            restart_connection_retries: source.count(RESTART_CONNECTION_RETRIES, 10)?,
            restarts: source.count(RESTARTS, 3)?,
            restarts_delay: source.seconds(RESTARTS_DELAY, 5)?,
            stop_delay: source.seconds(STOP_DELAY, 0)?,
            stop_timeout: source.seconds(STOP_TIMEOUT, 15)?,
            upgrade_folders: source.upgrade_folders()?,
            auto_install: source.auto_install(asset_name)?,
        };
        Ok((config, source.warnings(asset_name)))
    }

    /// What `init` writes.
    pub fn template(asset_name: &str) -> String {
        format!(
            r#"maxNumberOfFirstConnectionRetries = 175000
maxNumberOfRestartConnectionRetries = 10
maxNumberOfRestarts = 3
restartsDelaySeconds = 5
stopDelaySeconds = 0
stopSignalTimeoutSeconds = 15

[upgradeFolders]
  "vX.X.X" = "vX.X.X"

[autoInstall]
  enabled = true
  repositoryOwner = "vegaprotocol"
  repository = "vega"
  [autoInstall.asset]
    name = "{asset_name}"
    binaryName = "vega"
"#
        )
    }

    /// The folder of a release, below the home.
    pub fn upgrade_folder<'a>(&'a self, tag: &'a ReleaseName) -> &'a str {
        self.upgrade_folders.get(tag.as_str()).map_or(tag.as_str(), String::as_str)
    }
}
