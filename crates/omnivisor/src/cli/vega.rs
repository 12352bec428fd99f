//! The commands of Vega Visor, and how its home is read.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, Parser, Subcommand};
use omnivisor_core::agent::{Policy, Rollback};
use omnivisor_core::dialect::vega::config::{self, Config};
use omnivisor_core::dialect::vega::{Extra, Surroundings, Vega};
use omnivisor_core::dialect::{Health, Layout};
use omnivisor_core::health::HealthProbe;
use omnivisor_core::supervisor::RestartPolicy;

use super::{Outcome, Trouble, build_info, output, vega_init, vega_run};
use crate::effects::data::Data;
use crate::effects::github::Token;
use crate::effects::snapshot::has_honest_times;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::shell::{Reloaded, Start};
use crate::store::small;

/// How long a new release has to run, and to have answered: its first blocks are behind it then.
const WINDOW: Duration = Duration::from_secs(60);
/// A pair that ran for so long is well: what failed before is forgotten. Vega Visor never forgets.
const HEALTHY: Duration = Duration::from_secs(10 * 60);

/// Runs a core node of Vega, and its data node, and upgrades them: a drop-in for Vega Visor.
#[derive(Parser)]
#[command(name = "vegavisor", display_name = "vegavisor", disable_version_flag = true)]
pub(super) struct VegaVisor {
    #[command(flatten)]
    home: Home,
    #[command(subcommand)]
    command: VegaCommand,
}

#[derive(Args)]
struct Home {
    /// Path to visor home folder
    #[arg(long, global = true)]
    home: Option<PathBuf>,
}

#[derive(Subcommand)]
enum VegaCommand {
    /// Initialise the home folder
    Init(vega_init::Init),
    /// Run the nodes, and upgrade them
    Run,
    /// Show the version
    Version {
        /// How to print it
        #[arg(long, value_enum, default_value = "human")]
        output: VersionFormat,
    },
}

/// How a version is printed.
#[derive(Clone, Copy, clap::ValueEnum)]
enum VersionFormat {
    /// For people
    Human,
    /// For programs
    Json,
}

impl Home {
    fn find(&self) -> Result<PathBuf, Trouble> {
        let home = self.home.as_deref().ok_or_else(|| {
            Trouble::new(Exit::Usage, anyhow!("the home is not known")).hint("say it with --home <path>")
        })?;
        Ok(std::path::absolute(home).with_context(|| format!("cannot find the home {}", home.display()))?)
    }
}

/// What a run would begin with.
pub(super) fn start(visor: &VegaVisor) -> Result<Start, Trouble> {
    let VegaCommand::Run = visor.command else { return Err(anyhow!("this is no run").into()) };
    let home = visor.home.find()?;
    Ok(vega_run::start(&home, Loaded::read(&home)?)?.0)
}

pub(super) fn run(visor: &VegaVisor) -> Outcome {
    match &visor.command {
        VegaCommand::Init(init) => vega_init::init(init, &visor.home.find()?),
        VegaCommand::Run => vega_run::run(&visor.home.find()?),
        VegaCommand::Version { output } => {
            let (version, hash) = (env!("CARGO_PKG_VERSION"), build_info::commit());
            output::result(&match output {
                VersionFormat::Human => format!("omnivisor (as Vega Visor) v{version} ({hash})"),
                // In Vega Visor's order: some read it with other tools than a JSON reader.
                VersionFormat::Json => {
                    let [version, hash] = [format!("v{version}"), hash.to_owned()].map(serde_json::Value::from);
                    format!(r#"{{"version":{version},"hash":{hash}}}"#)
                }
            });
            Ok(Exit::Success)
        }
    }
}

/// The file that Vega publishes for this machine.
pub(super) fn asset_name() -> String {
    config::asset_name(env::consts::OS, env::consts::ARCH)
}

/// What the environment says that matters to the nodes' own configurations.
pub(super) fn surroundings() -> Surroundings {
    let home = env::home_dir().unwrap_or_default();
    let config = env::var_os("XDG_CONFIG_HOME").filter(|folder| Path::new(folder).is_absolute());
    Surroundings {
        config: config.map_or_else(|| home.join(".config"), PathBuf::from),
        temporary: env::temp_dir(),
        variables: env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name != Token::VARIABLE)
            .collect(),
    }
}

/// A home as its files are now.
pub(super) struct Loaded {
    pub(super) home: PathBuf,
    pub(super) config: Config,
    pub(super) settings: Settings,
    /// What is odd about the configuration.
    pub(super) warnings: Vec<String>,
}

impl Loaded {
    pub(super) fn config_file(home: &Path) -> PathBuf {
        home.join(config::FILE_NAME)
    }

    /// Reads the home.
    pub(super) fn read(home: &Path) -> Result<Self, Trouble> {
        let file = Self::config_file(home);
        let text = std::fs::read_to_string(&file).map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let trouble = Trouble::from(
                anyhow::Error::new(error).context(format!("cannot read the configuration {}", file.display())),
            );
            if missing { trouble.hint("`vegavisor init --home …` makes a home") } else { trouble }
        })?;
        let (config, said) = Config::parse(&text, &asset_name())
            .with_context(|| format!("cannot use the configuration {}", file.display()))?;
        let settings = Settings::read(&home.join("omnivisor.toml"), |name| env::var_os(name))?;
        let mut warnings: Vec<String> = said.iter().map(|warning| format!("{}: {warning}", file.display())).collect();
        if settings.releases.is_some() {
            warnings.push("[nym] in omnivisor.toml does nothing for a home of Vega Visor".to_owned());
        }
        Ok(Self { home: home.to_owned(), config, settings, warnings })
    }

    pub(super) fn dialect(&self) -> Vega {
        let settings = &self.settings;
        let probe = HealthProbe { answers: true, ..settings.probe(WINDOW) };
        let extra =
            Extra { probe, restart_silent: settings.restart_silent, postgres_patience: settings.postgres_patience };
        Vega::new(&self.home, self.config.clone(), extra, surroundings())
    }

    /// What is decided by a network is done as soon as it can be, tried for as long as it has to be, and never taken back.
    pub(super) fn policy(&self, dialect: &Vega) -> Policy {
        Policy {
            probe: dialect.probe().clone(),
            rollback: Rollback::Hold,
            stop_delay: self.config.stop_delay,
            snapshot: self.settings.snapshots.wanted && self.without_snapshots(dialect).is_none(),
            lead: self.settings.snapshots.lead,
            end_after_switch: false,
            retry: self.settings.retry,
            retry_most: self.settings.retry_most,
            recheck: self.settings.retry,
            rechecks: u32::MAX,
        }
    }

    /// Why no snapshots are taken, where not all of the node's data can be copied aside in a moment: Vega Visor copies nothing, and an
    /// upgrade that a network has agreed on must not wait for it.
    pub(super) fn without_snapshots(&self, dialect: &Vega) -> Option<String> {
        let snapshots = &self.settings.snapshots;
        if let Some((path, why)) = dialect.unfilled(&|path| small::read(path).ok()) {
            return Some(format!("nothing can be run yet: {}: {why}", path.display()));
        }
        match Data::now(dialect) {
            _ if !snapshots.wanted => Some("snapshot.method is \"none\"".to_owned()),
            _ if snapshots.method.takes.is_some() => {
                Some("a snapshot.command takes one home, and there are several".to_owned())
            }
            _ if snapshots.lead.is_zero() => Some("snapshot.lead is 0".to_owned()),
            Ok(data) => without(&data, &dialect.paths().backups),
            Err(error) => Some(error.to_string()),
        }
    }

    pub(super) fn restarts(&self) -> RestartPolicy {
        RestartPolicy {
            on_failure: self.config.restarts > 0,
            delay: self.config.restarts_delay,
            startup_period: self.settings.healthy.unwrap_or(HEALTHY),
            max_startup_failures: u32::try_from(self.config.restarts.saturating_add(1)).unwrap_or(u32::MAX),
            grace: self.config.stop_timeout,
            zero_is_done: false,
        }
    }

    /// Everything that a running supervisor takes over from it.
    pub(super) fn reloaded(self) -> Reloaded {
        let (restarts, dialect) = (self.restarts(), self.dialect());
        let policy = self.policy(&dialect);
        let mut warnings = self.warnings;
        warnings.extend(dialect.complaints(&|path| small::read(path).ok()));
        Reloaded { dialect: Arc::new(dialect), policy, restarts, warnings }
    }
}

/// Why this data cannot be copied aside in a moment.
fn without(data: &Data, backups: &Path) -> Option<String> {
    if let Err(error) = data.may_have_parts() {
        return Some(error.to_string());
    }
    if let Some(root) = data.roots.iter().find(|root| !has_honest_times(&root.path)) {
        return Some(format!("the file system of {} does not tell what has changed", root.path.display()));
    }
    let root = data.not_cloned(backups)?;
    Some(format!("{} cannot be copied by reference on its file system", root.path.display()))
}
