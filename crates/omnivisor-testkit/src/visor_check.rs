//! What Vega Visor would start from what is on the disk, by its own rules: those of a start, not those of an upgrade.
//! The nodes' own configuration is not looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::peer_toml;
use crate::vega_installation::VegaInstallation;
use files::{Config, RunConfig};

impl VegaInstallation {
    /// Fails unless Vega Visor would start a release; its version.
    #[track_caller]
    pub fn assert_visor_would_start(&self) -> String {
        self.visor_would_start().unwrap_or_else(|reason| panic!("vegavisor would not start: {reason}")).1
    }

    /// Fails unless Vega Visor would start the release in this folder, of this version.
    #[track_caller]
    pub fn assert_visor_would_start_from(&self, folder: &Path, version: &str) {
        let found = self.visor_would_start().unwrap_or_else(|reason| panic!("vegavisor would not start: {reason}"));
        assert_eq!(found, (fs::canonicalize(folder).unwrap(), version.to_owned()));
    }

    /// The folder that Vega Visor would start from and the version it would find there, or why it would not start. If
    /// there is no run-config.toml behind `current`, that is the first release.
    pub fn visor_would_start(&self) -> Result<(PathBuf, String), String> {
        typed::<Config>(&self.config())?;
        let current = if exists(&self.current().join("run-config.toml"))? {
            self.current()
        } else if exists(&self.genesis().join("run-config.toml"))? {
            self.genesis()
        } else {
            return Err("neither current nor genesis has a run-config.toml".to_owned());
        };
        let run_config = typed::<RunConfig>(&current.join("run-config.toml"))?;
        let core = regular(&current.join(&run_config.vega.binary.path))?;
        if let Some(data_node) = &run_config.data_node {
            regular(&current.join(&data_node.binary.path))?;
        }
        let folder = fs::canonicalize(&current).map_err(|error| format!("{}: {error}", current.display()))?;
        Ok((folder, version_of(&core)?))
    }
}

fn typed<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    peer_toml::read(path)?.try_into().map_err(|error: toml::de::Error| format!("{}: {error}", path.display()))
}

/// Through links; what dangles does not exist.
fn exists(path: &Path) -> Result<bool, String> {
    path.try_exists().map_err(|error| format!("{}: {error}", path.display()))
}

/// The executable, which need not be one yet: Vega Visor makes it so.
fn regular(path: &Path) -> Result<PathBuf, String> {
    match fs::metadata(path) {
        Err(error) => Err(format!("{}: {error}", path.display())),
        Ok(found) if !found.is_file() => Err(format!("{} is no regular file", path.display())),
        Ok(_) => Ok(path.to_owned()),
    }
}

fn version_of(binary: &Path) -> Result<String, String> {
    let output = Command::new(binary)
        .args(["version", "--output", "json"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", binary.display()))?;
    let said: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    let version = said.as_ref().and_then(|said| said["version"].as_str());
    version.map(str::to_owned).ok_or_else(|| format!("{} does not say its version: {output:?}", binary.display()))
}

/// The files with their names in lower case. What is left out is nothing, as in Go.
#[allow(dead_code, reason = "of most of it, it matters only that it can be read")]
mod files {
    use std::collections::HashMap;

    use serde::Deserialize;

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub(super) struct RunConfig {
        name: String,
        pub(super) vega: Node,
        pub(super) data_node: Option<Node>,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub(super) struct Node {
        pub(super) binary: Binary,
        rpc: Rpc,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub(super) struct Binary {
        pub(super) path: String,
        args: Vec<String>,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Rpc {
        socketpath: String,
        httppath: String,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub(super) struct Config {
        maxnumberoffirstconnectionretries: i64,
        maxnumberofrestartconnectionretries: i64,
        maxnumberofrestarts: i64,
        restartsdelayseconds: i64,
        stopdelayseconds: i64,
        stopsignaltimeoutseconds: i64,
        upgradefolders: HashMap<String, String>,
        autoinstall: AutoInstall,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct AutoInstall {
        enabled: bool,
        repositoryowner: String,
        repository: String,
        asset: Asset,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Asset {
        name: String,
        binaryname: Option<String>,
    }
}
