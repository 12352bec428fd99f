//! `nymvisor run`: supervise the node; or run a short command of its executable.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use omnivisor_core::agent::{Policy, Rollback};
use omnivisor_core::dialect::nym::Nym;
use omnivisor_core::dialect::nym::config::Config;
use omnivisor_core::dialect::{Dialect, Launch as _};
use omnivisor_core::journal::Journal;
use omnivisor_core::release::Installed;
use omnivisor_core::supervisor::RestartPolicy;

use super::nym::Loaded;
use super::{Outcome, Trouble, supervise};
use crate::effects::process::MARK;
use crate::settings::Settings;
use crate::shell::{JOURNAL, Start, adopt_installation};
use crate::store::journal_file;

/// A release that is wrong three times within the hour is not asked about a fourth time.
const RECHECK: std::time::Duration = std::time::Duration::from_secs(20 * 60);
const RECHECKS: u32 = 3;

/// Runs the daemon.
#[derive(Args)]
pub(super) struct Run {
    /// What the daemon is run with
    #[arg(trailing_var_arg = true)]
    pub(super) daemon_args: Vec<OsString>,
}

pub(super) fn run(run: Run) -> Outcome {
    let loaded = Loaded::find()?;
    let settings = loaded.settings()?;
    let dialect = loaded.dialect(&settings, run.daemon_args);
    if dialect.is_long_running() {
        supervise::hold_signals()?;
    }
    loaded.log(!dialect.is_long_running());
    if !dialect.is_long_running() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot begin to work")?;
        return runtime.block_on(short_command(&dialect));
    }
    supervise::run(start(&loaded, &settings, dialect)?)
}

/// What a run begins with.
pub(super) fn start(loaded: &Loaded, settings: &Settings, dialect: Nym) -> Result<Start, Trouble> {
    let config = &loaded.config;
    Ok(Start {
        policy: policy(settings, &dialect, config),
        restarts: RestartPolicy {
            on_failure: config.restart_on_failure,
            delay: config.failure_restart_delay,
            startup_period: config.startup_period_duration,
            max_startup_failures: u32::try_from(config.max_startup_failures).unwrap_or(u32::MAX),
            grace: config.shutdown_grace_period,
            zero_is_done: true,
        },
        shared: !dialect.context().siblings.is_empty(),
        allow_network_file_system: settings.allow_network_file_system,
        github: settings.github(|name| env::var_os(name))?,
        limits: settings.snapshots.limits,
        method: settings.snapshots.method.clone(),
        keep: settings.keep,
        reload: None,
        dialect: Arc::new(dialect),
    })
}

pub(super) fn policy(settings: &Settings, dialect: &impl Dialect, config: &Config) -> Policy {
    Policy {
        probe: dialect.probe().clone(),
        rollback: Rollback::Auto,
        stop_delay: std::time::Duration::ZERO,
        snapshot: !config.unsafe_skip_backup && settings.snapshots.wanted,
        lead: settings.snapshots.lead,
        end_after_switch: !config.restart_after_upgrade,
        retry: settings.retry,
        retry_most: settings.retry_most,
        recheck: RECHECK.min(settings.retry_most),
        rechecks: RECHECKS,
    }
}

/// Executes the active release's executable in our place: no lock, no poll, no upgrade, its own exit code.
async fn short_command(dialect: &Nym) -> Outcome {
    let installed = match active(dialect) {
        Some(installed) => installed,
        None => adopt_installation(dialect, None).await?,
    };
    let spec = dialect.command(&installed);
    let error = std::process::Command::new(&spec.program)
        .args(&spec.arguments)
        .env(MARK, "a short command") // so that nobody takes it for the node
        .exec();
    Err(Trouble::from(anyhow::Error::new(error).context(format!("cannot execute {}", spec.program.display()))))
}

/// What runs, as the journal says, without touching it.
pub(super) fn active(dialect: &dyn Dialect) -> Option<Installed> {
    journal_in(&dialect.paths().state)?.shown().cloned()
}

/// What the journal in a state folder says, without touching it.
pub(super) fn journal_in(state: &Path) -> Option<Journal> {
    Journal::replay(&journal_file::peek(&state.join(JOURNAL))?).ok()
}
