//! Run a supervisor until it ends: its runtime, its signals, its control socket, and how its end is said.

use std::env;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;

use super::{Outcome, Trouble, log};
use crate::control;
use crate::exit::Exit;
use crate::handover::{self, Leaving};
use crate::shell::{Finish, Signals, Start, StartError};

/// How long what is still at work may take when all is over.
const LINGER: Duration = Duration::from_secs(1);

/// Keeps the signals until they are listened to: the first thing that a run does, as no thread may be there before.
pub(super) fn hold_signals() -> anyhow::Result<()> {
    Signals::hold().context("cannot hold the signals")
}

pub(super) fn run(start: Start) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // A thread that has nothing to do is memory and a wake-up.
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .context("cannot begin to work")?;
    let finish = runtime.block_on(supervise(start));
    if let Ok(Some(leaving)) = finish {
        log::end(); // what is not written yet would be lost
        let error = leaving.execute();
        return Err(Trouble::from(
            anyhow::Error::new(error).context("neither the new executable nor this one can be executed"),
        ));
    }
    // A thread that hangs in the kernel, on a disk or a name server, must not keep us from ending.
    runtime.shutdown_timeout(LINGER);
    finish.map(|_| Exit::Success)
}

/// Until the run is over; or until something is to take its place.
async fn supervise(start: Start) -> Result<Option<Leaving>, Trouble> {
    let (id, state) = (start.dialect.instance().to_owned(), start.dialect.paths().state.clone());
    let mut signals = Signals::listen().context("cannot listen to signals")?;
    let handed = handover::handed();
    let is_handed = handed.is_some();
    let begun = tokio::select! {
        biased;
        // Where a node was handed over, it has to be stopped first.
        signal = signals.ended(), if !is_handed => {
            tracing::info!("{signal}: nothing was started yet, the supervisor ends");
            return Ok(None);
        }
        begun = start.begin(handed) => begun,
    };
    let shell = begun.map_err(|error| match error {
        StartError::AlreadyRunning(_) => {
            Trouble::new(Exit::AlreadyRunning, error).hint("`omnivisor status` shows it, `omnivisor stop` ends it")
        }
        StartError::Peer { .. } | StartError::HomeInUse { .. } => Trouble::new(Exit::AlreadyRunning, error),
        StartError::FileSystem { .. } => Trouble::from(error)
            .hint("`allow-network-file-system = true` in omnivisor.toml, if only this machine ever runs this node"),
        error => error.into(),
    })?;
    handover::settled();
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
    let finish = shell.run(signals, commands).await;
    drop(sender);
    match (server, &finish) {
        (Some(server), Ok(Finish::Replaced(_))) => server.hand_over().await,
        (Some(server), _) => server.close().await,
        (None, _) => {}
    }
    match finish {
        Ok(Finish::Ended) => Ok(None),
        Ok(Finish::Replaced(leaving)) => Ok(Some(*leaving)),
        // Said by `main`, too: where nothing is logged, it is all that is ever said.
        Err((exit, why)) => Err(Trouble::new(exit, anyhow::Error::msg(why))),
    }
}
