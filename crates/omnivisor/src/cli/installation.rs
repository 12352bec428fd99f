//! An installation as its files have it, whoever made it: what can be said of it, and done to it, without a supervisor.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use omnivisor_core::agent::Policy;
use omnivisor_core::dialect::Dialect;
use omnivisor_core::dialect::vega::STATE_FOLDER;

use super::own::{self, Missing};
use super::{Trouble, env_file, log, nym, nym_run, vega};
use crate::control::Instance;
use crate::effects::backup::keep::Keep;
use crate::effects::snapshot::{Limits, Method};
use crate::store::small;

/// Which installation is meant.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Which {
    /// The instance, if there is more than one
    #[arg(long, conflicts_with = "home")]
    pub(super) id: Option<String>,
    /// The home of Vega Visor, if it is one of those
    #[arg(long)]
    pub(super) home: Option<PathBuf>,
}

impl Which {
    /// Whether it may be this running one.
    pub(super) fn is(&self, instance: &Instance) -> bool {
        match (&self.id, &self.home) {
            (Some(id), _) => instance.id == *id,
            (None, Some(home)) => {
                let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
                instance.state.parent().is_some_and(|folder| resolved(folder) == resolved(home))
            }
            (None, None) => true,
        }
    }

    /// What was said, for people.
    pub(super) fn described(&self) -> String {
        let home = self.home.as_ref().map(|home| home.display().to_string());
        self.id.clone().or(home).unwrap_or_default()
    }
}

/// An installation.
pub(super) struct Installation {
    /// Its dialect.
    pub(super) dialect: Arc<dyn Dialect>,
    /// The file that configures it.
    pub(super) config: PathBuf,
    /// How it is upgraded.
    pub(super) policy: Policy,
    /// How long a node may take to end.
    pub(super) grace: Duration,
    /// Whether others share its releases.
    pub(super) shared: bool,
    /// What a snapshot may cost.
    pub(super) limits: Limits,
    /// How it is taken.
    pub(super) method: Method,
    /// Whether it may be on a network file system.
    pub(super) allow_network_file_system: bool,
    /// What becomes of its backups.
    pub(super) keep: Keep,
    /// The command that runs it.
    pub(super) run: &'static str,
    /// Why no snapshots are taken of it, where its dialect takes them only under conditions.
    pub(super) without: Option<String>,
    /// What is odd about it, one sentence each.
    pub(super) notes: Vec<String>,
}

impl Installation {
    /// Of the instance that runs, if it is not said which is meant: the one that all other verbs are about then. Else, where none runs, of
    /// what is installed; several have to be told apart.
    pub(super) fn meant(which: &Which, env_file: Option<&Path>, logged: bool) -> Result<Self, Trouble> {
        // Who says it by Nymvisor's own variables means that one.
        let said = ["NYMVISOR_ID", "NYMVISOR_CONFIG_PATH"].iter().any(|name| std::env::var_os(name).is_some());
        if env_file.is_some() || which.home.is_some() || which.id.is_none() && said {
            return Self::find(which, env_file, logged);
        }
        let running = match own::find(which) {
            Ok(instance) => instance,
            Err(Missing { error, several: true }) => return Err(error.into()),
            Err(Missing { several: false, .. }) => return Self::find(which, None, logged),
        };
        let is_vega = running.state.file_name().is_some_and(|name| name == STATE_FOLDER);
        let home = running.state.parent().filter(|_| is_vega).map(Path::to_owned);
        let id = home.is_none().then(|| running.id.clone());
        let id_of = running.id;
        match Self::find(&Which { id, home }, None, logged) {
            Ok(found) => Ok(found),
            // Its configuration may be elsewhere.
            Err(trouble) => match Self::find(which, None, logged) {
                Ok(found) if found.dialect.instance() == id_of => Ok(found),
                _ => Err(trouble),
            },
        }
    }

    /// Reads it, and begins to log if that is wanted.
    pub(super) fn find(which: &Which, env_file: Option<&Path>, logged: bool) -> Result<Self, Trouble> {
        if let Some(file) = env_file {
            env_file::apply(file)?;
        }
        match &which.home {
            Some(home) => Self::of_vega(home, logged),
            None => Self::of_nym(which.id.as_deref(), logged),
        }
    }

    fn of_nym(id: Option<&str>, logged: bool) -> Result<Self, Trouble> {
        let loaded = nym::Loaded::find_instance(id)?;
        if logged {
            loaded.log(true);
        }
        let settings = loaded.settings()?;
        let dialect = loaded.dialect(&settings, Vec::new());
        let mut notes: Vec<String> = loaded.warnings().collect();
        if !loaded.config.restart_on_failure {
            notes.push(
                "restart_on_failure is false: a node that fails ends the run with exit code 10 and is not started again; an \
                 upgrade is taken back at its first death"
                    .to_owned(),
            );
        }
        Ok(Self {
            policy: nym_run::policy(&settings, &dialect, &loaded.config),
            grace: loaded.config.shutdown_grace_period,
            shared: !dialect.context().siblings.is_empty(),
            limits: settings.snapshots.limits,
            method: settings.snapshots.method,
            allow_network_file_system: settings.allow_network_file_system,
            keep: settings.keep,
            run: "nymvisor run …",
            without: None,
            config: loaded.file,
            notes,
            dialect: Arc::new(dialect),
        })
    }

    fn of_vega(home: &Path, logged: bool) -> Result<Self, Trouble> {
        let home = std::path::absolute(home).with_context(|| format!("cannot find the home {}", home.display()))?;
        let loaded = vega::Loaded::read(&home)?;
        if logged {
            log::begin(log::Stream::Stderr, true);
        }
        let dialect = loaded.dialect();
        let read = |path: &Path| small::read(path).ok();
        let mut notes = loaded.warnings.clone();
        notes.extend(dialect.complaints(&read));
        notes.extend(dialect.unfilled(&read).map(|(path, why)| format!("{}: {why}", path.display())));
        Ok(Self {
            policy: loaded.policy(&dialect),
            grace: loaded.restarts().grace,
            shared: false,
            limits: loaded.settings.snapshots.limits,
            method: loaded.settings.snapshots.method.clone(),
            allow_network_file_system: loaded.settings.allow_network_file_system,
            keep: loaded.settings.keep,
            run: "vegavisor run --home …",
            without: loaded.without_snapshots(&dialect),
            config: vega::Loaded::config_file(&home),
            notes,
            dialect: Arc::new(dialect),
        })
    }
}
