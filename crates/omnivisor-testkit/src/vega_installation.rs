//! An installation as Vega Visor and its operator leave it, written by hand from the description of its formats: the
//! visor's home, and those of the core node, its consensus engine and the data node. Whether Vega Visor could go on
//! with what became of it is in `visor_check`.

use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;
use zip::write::SimpleFileOptions;

use crate::fake_vega::control;
use crate::minting::mint;
use crate::sandbox::Sandbox;
use crate::vega_behaviour::VegaBehaviour;
pub use crate::vega_options::{AutoInstall, RunConfig, VegaOptions};
use crate::vega_options::{config_toml, quoted};

/// Where everything of one installation is.
#[derive(Clone, Debug)]
pub struct VegaInstallation {
    sandbox: PathBuf,
    home: PathBuf,
    options: VegaOptions,
}

impl VegaInstallation {
    /// What `vegavisor init` and an operator leave, with `current` at `genesis`.
    pub fn new(sandbox: &Sandbox, options: VegaOptions) -> Self {
        let installation = Self::at(sandbox, options);
        let options = &installation.options;
        installation.make_core_home();
        installation.make_tendermint_home();
        if options.data_node {
            installation.make_data_node_home();
        }
        installation.place("genesis", &installation.run_config("genesis"), &options.genesis);
        let example = installation.home.join("vX.X.X");
        fs::create_dir_all(&example).unwrap();
        private(&example.join("run-config.toml"), &RunConfig::example("vX.X.X", options.data_node).to_toml());
        private(&installation.config(), &config_toml(options));
        symlink(installation.genesis(), installation.current()).unwrap();
        installation
    }

    /// Where an installation with these options is, whoever makes it: nothing is written.
    pub fn at(sandbox: &Sandbox, options: VegaOptions) -> Self {
        let home = options.home.clone().unwrap_or_else(|| sandbox.path().join("visor"));
        Self { sandbox: sandbox.path().to_owned(), home, options }
    }

    /// The visor's home.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The visor's config.toml.
    pub fn config(&self) -> PathBuf {
        self.home.join("config.toml")
    }

    /// The `current` symlink.
    pub fn current(&self) -> PathBuf {
        self.home.join("current")
    }

    /// The folder of the first release.
    pub fn genesis(&self) -> PathBuf {
        self.home.join("genesis")
    }

    /// The folder of the release of this tag, whether there is one or not.
    pub fn folder(&self, tag: &str) -> PathBuf {
        self.home.join(self.options.upgrade_folders.get(tag).map_or(tag, String::as_str))
    }

    /// The core node's home.
    pub fn core_home(&self) -> PathBuf {
        self.sandbox.join("vega")
    }

    /// The core node's config.toml.
    pub fn core_config(&self) -> PathBuf {
        self.core_home().join("config/node/config.toml")
    }

    /// The home of the core node's consensus engine.
    pub fn tendermint_home(&self) -> PathBuf {
        self.sandbox.join("tendermint")
    }

    /// The data node's home.
    pub fn data_node_home(&self) -> PathBuf {
        self.sandbox.join("data-node")
    }

    /// The data node's config.toml.
    pub fn data_node_config(&self) -> PathBuf {
        self.data_node_home().join("config/data-node/config.toml")
    }

    /// The admin socket; as short as the sandbox is.
    pub fn socket(&self) -> PathBuf {
        self.sandbox.join("vega.sock")
    }

    /// The file with the passphrase of the node's wallet.
    pub fn passphrase(&self) -> PathBuf {
        self.core_home().join("passphrase")
    }

    /// Changes what core nodes of this home do; see [`control`](crate::fake_vega::control) for what there is.
    #[track_caller]
    pub fn control_core(&self, change: impl FnOnce(&mut Value)) {
        control::change(&self.core_home(), change);
    }

    /// Changes what data nodes of this home do.
    #[track_caller]
    pub fn control_data_node(&self, change: impl FnOnce(&mut Value)) {
        control::change(&self.data_node_home(), change);
    }

    /// The run-config.toml of a release with this name, as an operator writes it.
    pub fn run_config(&self, name: &str) -> RunConfig {
        let path = |path: PathBuf| path.to_str().expect("a sandbox's paths are text").to_owned();
        let core_args = self.options.core_args.clone().unwrap_or_else(|| {
            let (home, tendermint) = (path(self.core_home()), path(self.tendermint_home()));
            let passphrase = path(self.passphrase());
            let words = ["start", "--home", &home, "--tendermint-home", &tendermint, "--nodewallet-passphrase-file"];
            words.into_iter().chain([passphrase.as_str()]).map(str::to_owned).collect()
        });
        let data_node_args = self.options.data_node_args.clone().unwrap_or_else(|| {
            ["datanode", "start", "--home", &path(self.data_node_home())].map(str::to_owned).to_vec()
        });
        let (socket_path, http_path) =
            self.options.rpc.clone().unwrap_or_else(|| (path(self.socket()), "/rpc".to_owned()));
        RunConfig {
            name: name.to_owned(),
            core_path: "vega".to_owned(),
            core_args,
            socket_path,
            http_path,
            data_node: self.options.data_node.then(|| ("vega".to_owned(), data_node_args)),
        }
    }

    /// The folder of a release, with its run-config.toml and its executable, placed by hand.
    pub fn place_release(&self, tag: &str, behaviour: &VegaBehaviour) -> PathBuf {
        self.place(self.folder(tag), &self.run_config(tag), behaviour)
    }

    /// A folder of the visor's home, with these two.
    pub fn place(&self, folder: impl AsRef<Path>, run_config: &RunConfig, behaviour: &VegaBehaviour) -> PathBuf {
        let folder = self.home.join(folder);
        fs::create_dir_all(&folder).unwrap();
        private(&folder.join("run-config.toml"), &run_config.to_toml());
        mint(&self.options.template, &folder.join("vega"), behaviour);
        folder
    }

    /// An executable of this behaviour, outside of the installation.
    pub fn minted(&self, behaviour: &VegaBehaviour) -> PathBuf {
        let folder = self.sandbox.join("minted");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("vega-{}-{}", behaviour.version, behaviour.hash));
        mint(&self.options.template, &path, behaviour);
        path
    }

    /// The asset of a release of this behaviour.
    pub fn asset(&self, behaviour: &VegaBehaviour) -> Vec<u8> {
        zip_of(&self.minted(behaviour))
    }

    fn make_core_home(&self) {
        fs::create_dir_all(self.core_config().parent().unwrap()).unwrap();
        let socket = quoted(self.socket().to_str().unwrap());
        let config = format!(
            "[Admin]\n  Level = \"Info\"\n  [Admin.Server]\n    SocketPath = {socket}\n    HTTPPath = \"/rpc\"\n\n\
             [API]\n  Level = \"Info\"\n  Port = 3002\n"
        );
        fs::write(self.core_config(), config).unwrap();
        private(&self.passphrase(), "a passphrase\n");
    }

    fn make_tendermint_home(&self) {
        let home = self.tendermint_home();
        for folder in ["config", "data"] {
            fs::create_dir_all(home.join(folder)).unwrap();
        }
        fs::write(home.join("config/config.toml"), "moniker = \"node\"\n").unwrap();
        private(
            &home.join("data/priv_validator_state.json"),
            "{\n  \"height\": \"1\",\n  \"round\": 0,\n  \"step\": 3\n}",
        );
    }

    fn make_data_node_home(&self) {
        fs::create_dir_all(self.data_node_config().parent().unwrap()).unwrap();
        let config = "ChainID = \"test\"\n\n[SQLStore]\n  UseEmbedded = false\n  [SQLStore.ConnectionConfig]\n    \
                      Host = \"127.0.0.1\"\n    Port = 5432\n    SocketDir = \"/tmp\"\n";
        fs::write(self.data_node_config(), config).unwrap();
    }
}

/// An asset as the releases have them: a zip with this executable as `vega`.
pub fn zip_of(executable: &Path) -> Vec<u8> {
    let mut source = fs::File::open(executable).unwrap_or_else(|error| panic!("{}: {error}", executable.display()));
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    // Size is nothing to a test, time is.
    let options = SimpleFileOptions::default().unix_permissions(0o755).compression_level(Some(1));
    archive.start_file("vega", options).unwrap();
    std::io::copy(&mut source, &mut archive).unwrap();
    archive.finish().unwrap().into_inner()
}

/// A file that only its owner reads, as Vega's own are.
fn private(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
