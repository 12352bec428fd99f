//! `omnivisor rollback`: take back the last upgrade, or the one that is being probed.

use anyhow::{Context, anyhow};
use clap::Args;

use super::installation::{Installation, Which};
use super::own::{self, Missing};
use super::{Outcome, Trouble, output};
use crate::control::{self, Command};
use crate::exit::Exit;
use crate::shell::{StartError, order_rollback};

/// Go back to the release that ran before, with its data
#[derive(Args)]
pub(super) struct Rollback {
    /// Leave the data as the new release has left it
    #[arg(long)]
    keep_data: bool,
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(rollback: &Rollback) -> Outcome {
    let keep_data = rollback.keep_data;
    let instance = match own::find(&rollback.which) {
        Err(Missing { error, several: true }) => return Err(error.into()),
        Err(Missing { several: false, .. }) => return order(rollback),
        Ok(instance) => instance,
    };
    let answer = control::ask(&instance.socket, Command::Rollback { keep_data })
        .with_context(|| format!("the supervisor of {} (process {}) gives no answer", instance.id, instance.pid))?;
    let value = answer.map_err(|error| anyhow!("{}: {error}", instance.id))?;
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let data = said(value["restoresData"] == true);
    if let Some(from) = value["madeReadyFrom"].as_str() {
        output::result(&format!(
            "{} goes back from {} to {}, {data}, as soon as that is copied from {from}: the node runs until then. \
             `omnivisor status` shows it; if the supervisor ends before, say it again",
            instance.id,
            text("from"),
            text("to")
        ));
        return Ok(Exit::Success);
    }
    output::result(&format!(
        "{} goes back from {} to {}, {data}; `omnivisor status` shows it",
        instance.id,
        text("from"),
        text("to")
    ));
    Ok(Exit::Success)
}

fn said(restores: bool) -> &'static str {
    match restores {
        true => "with the data as it was before the upgrade; what the newer one has made of it is kept aside",
        false => "and its data stays as it is",
    }
}

/// Where no supervisor runs, the next start does it first.
fn order(rollback: &Rollback) -> Outcome {
    let installation = Installation::find(&rollback.which, None, true)?;
    let Installation { dialect, shared, allow_network_file_system: allow, run, .. } = installation;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot begin to work")?;
    let ordered = runtime.block_on(order_rollback(&*dialect, shared, allow, rollback.keep_data));
    let plan = ordered.map_err(|error| match error {
        StartError::AlreadyRunning(_) => Trouble::new(Exit::AlreadyRunning, error),
        error => error.into(),
    })?;
    let data = said(plan.snapshot && !rollback.keep_data);
    let (id, from, to) = (dialect.instance(), &plan.to.release.version, &plan.from.release.version);
    output::result(&format!("{id} goes back from {from} to {to} at its next start (`{run}`), {data}"));
    Ok(Exit::Success)
}
