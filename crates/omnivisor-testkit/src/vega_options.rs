//! The options of a Vega installation, and the files that Vega Visor would make of them. Where they are put is in
//! `vega_installation`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::vega_behaviour::VegaBehaviour;

/// What there is besides what Vega Visor's `init` makes, and what differs from it.
#[derive(Clone, Debug)]
pub struct VegaOptions {
    /// The program `fake_vega` without a behaviour.
    pub template: PathBuf,
    /// What runs first.
    pub genesis: VegaBehaviour,
    /// Whether there is a data node, too.
    pub data_node: bool,
    /// The visor's home; `None` is `visor` in the sandbox.
    pub home: Option<PathBuf>,
    /// The core node's arguments; `None` are those of an operator with this installation.
    pub core_args: Option<Vec<String>>,
    /// The data node's arguments; `None` are those of an operator with this installation.
    pub data_node_args: Option<Vec<String>>,
    /// `[vega.rpc]` in run-config.toml, as `(socketPath, httpPath)`; `None` is what the core node has.
    pub rpc: Option<(String, String)>,
    /// `maxNumberOfFirstConnectionRetries`.
    pub first_connection_retries: u64,
    /// `maxNumberOfRestartConnectionRetries`.
    pub restart_connection_retries: u64,
    /// `maxNumberOfRestarts`.
    pub restarts: u64,
    /// `restartsDelaySeconds`.
    pub restarts_delay_seconds: u64,
    /// `stopDelaySeconds`.
    pub stop_delay_seconds: u64,
    /// `stopSignalTimeoutSeconds`.
    pub stop_signal_timeout_seconds: u64,
    /// `[upgradeFolders]`: tags and the folders of their releases.
    pub upgrade_folders: BTreeMap<String, String>,
    /// `[autoInstall]`; `None` is not enabled. Unlike Vega Visor's own default, this one never leaves the machine.
    pub auto_install: Option<AutoInstall>,
}

/// Where Vega Visor gets releases from. The default is its own.
#[derive(Clone, Debug)]
pub struct AutoInstall {
    /// `repositoryOwner`.
    pub owner: String,
    /// `repository`.
    pub repository: String,
    /// `name` of the asset.
    pub asset: String,
    /// `binaryName` in the asset; `None` says nothing.
    pub binary: Option<String>,
}

impl Default for AutoInstall {
    fn default() -> Self {
        Self {
            owner: "vegaprotocol".to_owned(),
            repository: "vega".to_owned(),
            asset: "vega-linux-amd64.zip".to_owned(),
            binary: Some("vega".to_owned()),
        }
    }
}

impl VegaOptions {
    /// A core node of this behaviour, and Vega Visor's defaults.
    pub fn new(template: impl Into<PathBuf>, genesis: VegaBehaviour) -> Self {
        Self {
            template: template.into(),
            genesis,
            data_node: false,
            home: None,
            core_args: None,
            data_node_args: None,
            rpc: None,
            first_connection_retries: 175_000,
            restart_connection_retries: 10,
            restarts: 3,
            restarts_delay_seconds: 5,
            stop_delay_seconds: 0,
            stop_signal_timeout_seconds: 15,
            upgrade_folders: BTreeMap::from([("vX.X.X".to_owned(), "vX.X.X".to_owned())]),
            auto_install: None,
        }
    }

    /// With a data node.
    pub fn with_data_node(self) -> Self {
        Self { data_node: true, ..self }
    }
}

/// The visor's config.toml, in the form of the encoder that it uses.
pub(crate) fn config_toml(options: &VegaOptions) -> String {
    let mut text = format!(
        "maxNumberOfFirstConnectionRetries = {}\nmaxNumberOfRestartConnectionRetries = {}\nmaxNumberOfRestarts = {}\n\
         restartsDelaySeconds = {}\nstopDelaySeconds = {}\nstopSignalTimeoutSeconds = {}\n\n[upgradeFolders]\n",
        options.first_connection_retries,
        options.restart_connection_retries,
        options.restarts,
        options.restarts_delay_seconds,
        options.stop_delay_seconds,
        options.stop_signal_timeout_seconds,
    );
    for (tag, folder) in &options.upgrade_folders {
        text += &format!("  {} = {}\n", quoted(tag), quoted(folder));
    }
    let install = options.auto_install.clone().unwrap_or_default();
    text += &format!(
        "\n[autoInstall]\n  enabled = {}\n  repositoryOwner = {}\n  repository = {}\n  \
         [autoInstall.asset]\n    name = {}\n",
        options.auto_install.is_some(),
        quoted(&install.owner),
        quoted(&install.repository),
        quoted(&install.asset),
    );
    text + &install.binary.map_or(String::new(), |binary| format!("    binaryName = {}\n", quoted(&binary)))
}

/// A release's run-config.toml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunConfig {
    /// `name`.
    pub name: String,
    /// `path` of the core node's executable.
    pub core_path: String,
    /// Its `args`.
    pub core_args: Vec<String>,
    /// `socketPath`.
    pub socket_path: String,
    /// `httpPath`.
    pub http_path: String,
    /// `path` and `args` of the data node.
    pub data_node: Option<(String, Vec<String>)>,
}

impl RunConfig {
    /// What `init` writes, which cannot run as it is.
    pub fn example(name: &str, data_node: bool) -> Self {
        let args = || ["arg1", "arg2", "..."].map(str::to_owned).to_vec();
        Self {
            name: name.to_owned(),
            core_path: "vega".to_owned(),
            core_args: args(),
            socket_path: String::new(),
            http_path: String::new(),
            data_node: data_node.then(|| ("vega data-node".to_owned(), args())),
        }
    }

    /// In the form of the encoder that Vega Visor uses.
    pub fn to_toml(&self) -> String {
        let binary = |section: &str, path: &str, args: &[String]| {
            let args: Vec<_> = args.iter().map(|arg| quoted(arg)).collect();
            format!("  [{section}.binary]\n    path = {}\n    args = [{}]\n", quoted(path), args.join(", "))
        };
        let mut text = format!("name = {}\n\n[vega]\n", quoted(&self.name));
        text += &binary("vega", &self.core_path, &self.core_args);
        text += &format!(
            "  [vega.rpc]\n    socketPath = {}\n    httpPath = {}\n",
            quoted(&self.socket_path),
            quoted(&self.http_path)
        );
        if let Some((path, args)) = &self.data_node {
            text += "\n[data_node]\n";
            text += &binary("data_node", path, args);
        }
        text
    }
}

/// Text for both: what JSON escapes, TOML escapes alike.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_those_of_init() {
        let options = VegaOptions {
            auto_install: Some(AutoInstall::default()),
            ..VegaOptions::new("", VegaBehaviour::default())
        };
        assert_eq!(
            config_toml(&options),
            "maxNumberOfFirstConnectionRetries = 175000\nmaxNumberOfRestartConnectionRetries = 10\n\
             maxNumberOfRestarts = 3\nrestartsDelaySeconds = 5\nstopDelaySeconds = 0\nstopSignalTimeoutSeconds = 15\n\n\
             [upgradeFolders]\n  \"vX.X.X\" = \"vX.X.X\"\n\n\
             [autoInstall]\n  enabled = true\n  repositoryOwner = \"vegaprotocol\"\n  repository = \"vega\"\n  \
             [autoInstall.asset]\n    name = \"vega-linux-amd64.zip\"\n    binaryName = \"vega\"\n"
        );
        assert_eq!(
            RunConfig::example("genesis", true).to_toml(),
            "name = \"genesis\"\n\n[vega]\n  [vega.binary]\n    path = \"vega\"\n    \
             args = [\"arg1\", \"arg2\", \"...\"]\n  [vega.rpc]\n    socketPath = \"\"\n    httpPath = \"\"\n\n\
             [data_node]\n  [data_node.binary]\n    path = \"vega data-node\"\n    \
             args = [\"arg1\", \"arg2\", \"...\"]\n"
        );
    }
}
