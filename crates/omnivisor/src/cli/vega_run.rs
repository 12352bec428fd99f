//! `vegavisor run`: supervise core and data node.

use std::env;
use std::path::Path;

use anyhow::anyhow;

use super::vega::Loaded;
use super::{Outcome, Trouble, log, supervise};
use crate::effects::essentials;
use crate::shell::{Reload, Start};
use crate::store::small;

pub(super) fn run(home: &Path) -> Outcome {
    supervise::hold_signals()?;
    let loaded = Loaded::read(home)?;
    log::begin(log::Stream::Stdout, false);
    let (start, warnings) = start(home, loaded)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    tracing::info!(home = %home.display(), instance = start.dialect.instance(), "begins");
    supervise::run(start)
}

/// What a run begins with, and what an operator should know of it.
pub(super) fn start(home: &Path, loaded: Loaded) -> Result<(Start, Vec<String>), Trouble> {
    let settings = loaded.settings.clone();
    if let Some((path, why)) = loaded.dialect().unfilled(&|path| small::read(path).ok()) {
        return Err(Trouble::from(anyhow!("nothing can be run yet: {}: {why}", path.display())));
    }
    if let Some(why) = loaded.without_snapshots(&loaded.dialect()) {
        match settings.snapshots.method.falls_back {
            true if !essentials::is_found(&loaded.dialect()) => tracing::warn!(
                why,
                "no snapshots are taken, and of an upgrade configuration only is kept: no signer state can be read"
            ),
            true => tracing::info!(
                why,
                "no snapshots are taken, and of an upgrade only signer state and configuration are kept"
            ),
            false => tracing::info!(why, "no snapshots are taken"),
        }
    }
    let reloaded = loaded.reloaded();
    let again = home.to_owned();
    let start = Start {
        policy: reloaded.policy,
        restarts: reloaded.restarts,
        shared: false,
        allow_network_file_system: settings.allow_network_file_system,
        github: settings.github(|name| env::var_os(name))?,
        limits: settings.snapshots.limits,
        method: settings.snapshots.method.clone(),
        keep: settings.keep,
        reload: Some(Reload {
            file: Loaded::config_file(&again),
            known: small::read(&Loaded::config_file(&again)).ok(),
            load: Box::new(move || match Loaded::read(&again) {
                Ok(loaded) => Ok(loaded.reloaded()),
                Err(trouble) => Err(trouble.to_string()),
            }),
        }),
        dialect: reloaded.dialect,
    };
    Ok((start, reloaded.warnings))
}
