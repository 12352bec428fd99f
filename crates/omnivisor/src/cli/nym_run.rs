//! `nymvisor run`: supervise the node; or run a short command of its executable.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use omnivisor_core::agent::{Policy, Rollback};
use omnivisor_core::dialect::nym::config::Config;
use omnivisor_core::dialect::{Dialect, Launch as _};
use omnivisor_core::journal::Journal;
use omnivisor_core::release::Installed;
use omnivisor_core::supervisor::RestartPolicy;
use tokio::sync::mpsc;

use super::nym::Loaded;
use super::{Outcome, Trouble};
use crate::control;
use crate::effects::process::MARK;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::shell::{JOURNAL, Signals, Start, StartError, adopt_installation};
use crate::store::journal_file;

/// A release that is wrong three times within the hour is not asked about a fourth time.
const RECHECK: std::time::Duration = std::time::Duration::from_secs(20 * 60);
const RECHECKS: u32 = 3;

/// How long what is still at work may take when all is over.
const LINGER: std::time::Duration = std::time::Duration::from_secs(1);

/// Runs the daemon.
#[derive(Args)]
pub(super) struct Run {
    /// What the daemon is run with
    #[arg(trailing_var_arg = true)]
    daemon_args: Vec<OsString>,
}

pub(super) fn run(run: Run) -> Outcome {
    let loaded = Loaded::find()?;
    let settings = loaded.settings()?;
    let dialect = loaded.dialect(&settings, run.daemon_args);
    loaded.log(!dialect.is_long_running());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // A thread that has nothing to do is memory and a wake-up.
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .build()
        .context("cannot begin to work")?;
    if !dialect.is_long_running() {
        return runtime.block_on(short_command(&dialect));
    }
    let config = &loaded.config;
    let start = Start {
        policy: policy(&settings, &dialect, config),
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
        reload: None,
        dialect: Arc::new(dialect),
    };
    let outcome = runtime.block_on(supervise(start));
    // A thread that hangs in the kernel, on a disk or a name server, must not keep us from ending.
    runtime.shutdown_timeout(LINGER);
    outcome
}

pub(super) fn policy(settings: &Settings, dialect: &impl Dialect, config: &Config) -> Policy {
    Policy {
        probe: dialect.probe().clone(),
        rollback: Rollback::Auto,
        stop_delay: std::time::Duration::ZERO,
        snapshot: !config.unsafe_skip_backup,
        end_after_switch: !config.restart_after_upgrade,
        retry: settings.retry,
        retry_most: settings.retry_most,
        recheck: RECHECK.min(settings.retry_most),
        rechecks: RECHECKS,
    }
}

async fn supervise(start: Start) -> Outcome {
    let (id, state) = (start.dialect.instance().to_owned(), start.dialect.paths().state.clone());
    let mut signals = Signals::listen().context("cannot listen to signals")?;
    let begun = tokio::select! {
        begun = start.begin() => begun,
        signal = signals.ended() => {
            tracing::info!("{signal}: nothing was started yet, the supervisor ends");
            return Ok(Exit::Success);
        }
    };
    let shell = begun.map_err(|error| match error {
        StartError::AlreadyRunning(_) => {
            Trouble::new(Exit::AlreadyRunning, error).hint("`omnivisor status` shows it, `omnivisor stop` ends it")
        }
        StartError::Peer { .. } => Trouble::new(Exit::AlreadyRunning, error),
        StartError::FileSystem { .. } => Trouble::from(error)
            .hint("`allow-network-file-system = true` in omnivisor.toml, if only this machine ever runs this node"),
        error => error.into(),
    })?;
    let (sender, commands) = mpsc::channel(8);
    let server = match control::runtime_folder(|name| env::var_os(name)) {
        None => {
            tracing::warn!("no control socket: neither OMNIVISOR_RUNTIME_DIR nor XDG_RUNTIME_DIR is set");
            None
        }
        Some(folder) => control::Server::open(&folder, &id, &state, sender.clone())
            .inspect_err(|error| {
                tracing::warn!(folder = %folder.display(), %error, "no control socket; OMNIVISOR_RUNTIME_DIR names another folder");
            })
            .ok(),
    };
    let outcome = shell.run(signals, commands).await;
    drop((server, sender));
    // Said by `main`, too: where nothing is logged, it is all that is ever said.
    outcome.map(|()| Exit::Success).map_err(|(exit, why)| Trouble::new(exit, anyhow::Error::msg(why)))
}

/// Executes the active release's executable in our place: no lock, no poll, no upgrade, its own exit code.
async fn short_command(dialect: &omnivisor_core::dialect::nym::Nym) -> Outcome {
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
