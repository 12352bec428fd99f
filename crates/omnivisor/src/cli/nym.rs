//! The commands of Nymvisor, and how their instance is found.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Parser, Subcommand, ValueEnum};
use omnivisor_core::dialect::Layout as _;
use omnivisor_core::dialect::nym::config::{self, Config, Fragment, Warning};
use omnivisor_core::dialect::nym::platform::platform_key;
use omnivisor_core::dialect::nym::{self, Nym};

use super::{Outcome, Trouble, build_info, env_file, log, nym_add_upgrade, nym_init, nym_run, output};
use crate::exit::Exit;
use crate::settings::Settings;
use crate::shell::{Start, upstream_gone};

/// Runs a Nym daemon and upgrades it: a drop-in for Nymvisor.
#[derive(Parser)]
#[command(name = "nymvisor", version = build_info::VERSION.as_str())]
pub(super) struct Nymvisor {
    /// Path pointing to an env file that configures the nymvisor and overrides any preconfigured values
    #[arg(short, long, global = true)]
    config_env_file: Option<PathBuf>,
    #[command(subcommand)]
    command: NymCommand,
}

#[derive(Subcommand)]
enum NymCommand {
    /// Initialise a nymvisor instance with persistent Config.toml file
    Init(Box<nym_init::Init>),
    /// Run the associated daemon with the preconfigured settings
    Run(nym_run::Run),
    /// Show build information of this binary
    BuildInfo {
        /// How to print it
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    /// Show build information of the associated daemon
    DaemonBuildInfo {
        /// How to print it
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    /// Queues up another upgrade for the associated daemon
    AddUpgrade(nym_add_upgrade::AddUpgrade),
    /// Show configuration options being used by this instance of nymvisor
    Config {
        /// How to print it
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

impl Format {
    pub(super) fn print_config(self, config: &Config) {
        output::result(&match self {
            Self::Text => config.to_text(),
            Self::Json => config.to_json_line(),
        });
    }
}

pub(super) fn run(nymvisor: Nymvisor) -> Outcome {
    if let Some(file) = &nymvisor.config_env_file {
        env_file::apply(file)?;
    }
    match nymvisor.command {
        NymCommand::BuildInfo { output } => build_info::build_info(output),
        NymCommand::DaemonBuildInfo { output } => build_info::daemon_build_info(output),
        NymCommand::Init(init) => nym_init::init(*init),
        NymCommand::Run(run) => nym_run::run(run),
        NymCommand::AddUpgrade(add) => nym_add_upgrade::add_upgrade(&add),
        NymCommand::Config { output } => {
            let loaded = Loaded::find()?;
            loaded.log(false);
            // What is wrong with our own settings is none of what is asked for.
            match loaded.settings() {
                Ok(Settings { releases: Some(releases), .. }) => {
                    tracing::info!("releases are taken from github.com/{}/{}", releases.owner, releases.repository);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!("{error:#}"),
            }
            if let Some(gone) = upstream_gone(&loaded.state()) {
                tracing::warn!("{gone}");
            }
            output.print_config(&loaded.config);
            Ok(Exit::Success)
        }
    }
}

/// What a run would begin with.
pub(super) fn start(nymvisor: Nymvisor) -> Result<Start, Trouble> {
    if let Some(file) = &nymvisor.config_env_file {
        env_file::apply(file)?;
    }
    let NymCommand::Run(run) = nymvisor.command else { return Err(anyhow!("this is no run").into()) };
    let loaded = Loaded::find()?;
    let settings = loaded.settings()?;
    let dialect = loaded.dialect(&settings, run.daemon_args);
    nym_run::start(&loaded, &settings, dialect)
}

/// The home that everything of Nymvisor is below.
pub(super) fn home() -> anyhow::Result<PathBuf> {
    env::var_os("NYM_HOME_DIR")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
        .or_else(env::home_dir)
        .ok_or_else(|| anyhow!("there is no home directory: set HOME or NYM_HOME_DIR"))
}

/// An instance's configuration, as the file and the environment have it.
pub(super) struct Loaded {
    pub(super) home: PathBuf,
    pub(super) file: PathBuf,
    pub(super) config: Config,
    warnings: Vec<Warning>,
}

impl Loaded {
    /// Finds the configuration: by its path, by the instance's id, or because there is only one.
    pub(super) fn find() -> Result<Self, Trouble> {
        Self::find_instance(None)
    }

    /// The same; but an id that was said counts over the environment.
    pub(super) fn find_instance(id: Option<&str>) -> Result<Self, Trouble> {
        let home = home()?;
        let (mut fragment, mut warnings) = Fragment::from_env(env::vars_os())?;
        if let Some(id) = id {
            fragment.config_path = None;
            fragment.id = Some(config::component("--id", id)?);
        }
        let file = match (&fragment.config_path, &fragment.id) {
            (Some(path), _) => path.clone(),
            (None, Some(id)) => nym::config_file(&home, id),
            (None, None) => only_instance(&home)?,
        };
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read the configuration {}", file.display()));
        let text = text.map_err(|error| {
            let missing =
                error.downcast_ref::<std::io::Error>().is_some_and(|it| it.kind() == std::io::ErrorKind::NotFound);
            let hint =
                if missing { "`nymvisor init` makes an instance" } else { "is this the user that made the instance?" };
            Trouble::from(error).hint(hint)
        })?;
        let (mut config, said) =
            Config::from_toml(&text).with_context(|| format!("cannot use the configuration {}", file.display()))?;
        warnings.extend(said);
        let from_environment = fragment.upgrade_data_directory.is_some();
        config.apply(fragment);
        config.resolve_against(&env::current_dir()?);
        // The variable names what `init` was given; what that made of it is in the file, unless it is Nymvisor's.
        if from_environment && let Some(folder) = own_data_directory(&config).filter(|folder| is_data(folder)) {
            config.upgrade_data_directory = Some(folder);
        }
        Ok(Self { home, file, config, warnings })
    }

    /// A configuration that is not on disk yet.
    pub(super) fn of(home: PathBuf, file: PathBuf, config: Config) -> Self {
        Self { home, file, config, warnings: Vec::new() }
    }

    /// Begins to log, unless it is configured not to, and says what is odd about the configuration.
    pub(super) fn log(&self, silent: bool) {
        log::begin(log::Stream::Stderr, silent || self.config.disable_logs);
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }

    /// What is odd about it.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.warnings.iter().map(ToString::to_string)
    }

    /// The other instances that share the data directory.
    pub(super) fn siblings(&self) -> Vec<String> {
        let mine = nym::data_directory(&self.home, &self.config);
        instances(&self.home)
            .into_iter()
            .filter_map(|(_, file)| Config::from_toml(&fs::read_to_string(file).ok()?).ok())
            .map(|(config, _)| config)
            .filter(|config| config.id != self.config.id && nym::data_directory(&self.home, config) == mine)
            .map(|config| config.id)
            .collect()
    }

    /// The state folders of this instance and of those that share its data directory.
    pub(super) fn states(&self) -> Vec<PathBuf> {
        let ids = self.siblings().into_iter().chain([self.config.id.clone()]);
        ids.map(|id| nym::instance_folder(&self.home, &id).join("data/omnivisor")).collect()
    }

    fn state(&self) -> PathBuf {
        nym::instance_folder(&self.home, &self.config.id).join("data/omnivisor")
    }

    /// Our own settings, which are beside the configuration.
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        Ok(Settings::read(&self.file.with_file_name("omnivisor.toml"), |name| env::var_os(name))?)
    }

    /// The dialect of this instance, for a node with these arguments.
    pub(super) fn dialect(&self, settings: &Settings, arguments: Vec<OsString>) -> Nym {
        let platform = platform_key(env::consts::OS, env::consts::ARCH);
        let probe = settings.probe(self.config.startup_period_duration);
        let nym = Nym::new(&self.home, self.config.clone(), &platform, self.siblings(), probe, arguments);
        let source = settings.releases.as_ref().map(|releases| releases.source(&nym.paths().state));
        nym.following(source)
    }
}

/// Where the releases of a new instance with a custom upgrade data directory are: in a folder of that which has the daemon's
/// name, as the documentation of Nymvisor has it. None if they are in the directory itself, as Nymvisor puts them there.
pub(super) fn own_data_directory(config: &Config) -> Option<PathBuf> {
    let named = config.upgrade_data_directory.as_ref()?;
    (!is_data(named)).then(|| named.join(&config.name))
}

/// Whether there is an installation in this upgrade data directory.
fn is_data(folder: &Path) -> bool {
    ["genesis", "current", "upgrade-plan.json"].iter().any(|name| folder.join(name).symlink_metadata().is_ok())
}

/// The instances there are: id and configuration file.
fn instances(home: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(nym::nymvisors(home).join("instances")).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut all: Vec<_> = ids.map(|id| (id.clone(), nym::config_file(home, &id))).collect();
    all.retain(|(_, file)| file.is_file());
    all.sort();
    all
}

fn only_instance(home: &Path) -> Result<PathBuf, Trouble> {
    let mut all = instances(home);
    let folder = nym::nymvisors(home).join("instances");
    match all.len() {
        1 => Ok(all.remove(0).1),
        0 => Err(Trouble::from(anyhow!("there is no instance in {}", folder.display()))
            .hint("`nymvisor init` makes one; NYMVISOR_CONFIG_PATH names a configuration elsewhere")),
        _ => {
            let ids: Vec<_> = all.into_iter().map(|(id, _)| id).collect();
            let error = anyhow!("there is more than one instance in {}: {}", folder.display(), ids.join(", "));
            Err(Trouble::from(error).hint("say which with NYMVISOR_ID or NYMVISOR_CONFIG_PATH"))
        }
    }
}
