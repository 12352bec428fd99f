//! `omnivisor backup now`: ask the supervisor for a backup, and wait for it; or take it, where none runs.

use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::Value;

use super::super::installation::Installation;
use super::super::own::{self, Missing};
use super::super::{Outcome, Trouble, output};
use super::Whose;
use crate::control::{self, Command, Instance};
use crate::exit::Exit;
use crate::shell::{StartError, back_up_now};

/// Between two looks for how it goes.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn run(whose: &Whose) -> Outcome {
    match own::find(&whose.running()?) {
        Ok(instance) => ask(&instance),
        Err(Missing { error, several: true }) => Err(error.into()),
        Err(Missing { several: false, .. }) => take(whose),
    }
}

fn ask(instance: &Instance) -> Outcome {
    let asked = |command| {
        control::ask(&instance.socket, command)
            .with_context(|| format!("the supervisor of {} (process {}) gives no answer", instance.id, instance.pid))
    };
    let begun = asked(Command::Backup)?.map_err(|error| anyhow!("{}: {error}", instance.id))?;
    loop {
        std::thread::sleep(LOOK);
        let status = asked(Command::Status)?.map_err(|error| anyhow!("{}: {error}", instance.id))?;
        let backup = &status["backup"];
        if backup["id"] != begun["id"] {
            return Err(anyhow!("{}: what became of the backup is not known: see the log", instance.id).into());
        }
        match backup["state"].as_str() {
            Some("taking") => {}
            Some("done") => return Ok(done(&backup["id"])),
            _ => return Err(anyhow!("{}: no backup was taken: {}", instance.id, text(&backup["why"])).into()),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn done(id: &Value) -> Exit {
    output::result(&format!("{} was taken; `omnivisor backup list` shows it", text(id)));
    Exit::Success
}

/// Where no supervisor runs.
fn take(whose: &Whose) -> Outcome {
    let installation = whose.find(true)?;
    let Installation { dialect, shared, allow_network_file_system: allow, limits, method, .. } = installation;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot begin to work")?;
    let id = runtime.block_on(back_up_now(&*dialect, shared, allow, limits, &method)).map_err(|error| match error {
        StartError::AlreadyRunning(_) => Trouble::new(Exit::AlreadyRunning, error),
        error => error.into(),
    })?;
    Ok(done(&Value::String(id)))
}
