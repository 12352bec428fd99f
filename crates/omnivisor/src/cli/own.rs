//! The verbs that every dialect has: they find the running instance by itself, and ask it.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Outcome, output};
use crate::control::{self, Command, Instance};
use crate::exit::Exit;

/// Verbs of our own.
#[derive(Subcommand)]
pub(super) enum Own {
    /// Show what runs, what will be done, and why
    Status {
        #[command(flatten)]
        which: Which,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop the node, and end its supervisor
    Stop(Which),
    /// Do no automatic upgrades until `resume`, also after a restart
    Hold(Which),
    /// Go on with automatic upgrades, and with an undo that was stuck
    Resume(Which),
    /// Switch to an announced release now, although it waits for a person
    Upgrade {
        /// The upgrade's name
        name: String,
        #[command(flatten)]
        which: Which,
    },
}

/// Which instance is meant.
#[derive(Args)]
pub(super) struct Which {
    /// The instance, if more than one is running
    #[arg(long)]
    id: Option<String>,
}

pub(super) fn run(own: &Own) -> Outcome {
    let (which, command) = match own {
        Own::Status { which, .. } => (which, Command::Status),
        Own::Stop(which) => (which, Command::Stop),
        Own::Hold(which) => (which, Command::Hold),
        Own::Resume(which) => (which, Command::Resume),
        Own::Upgrade { name, which } => (which, Command::Upgrade { name: name.clone() }),
    };
    let instance = find(which)?;
    let answer = control::ask(&instance.socket, command).with_context(|| {
        format!("the supervisor of {} (process {}) gives no answer within 10 s", instance.id, instance.pid)
    })?;
    let value = answer.map_err(|error| anyhow!("{}: {error}", instance.id))?;
    match own {
        Own::Status { json: true, .. } => output::result(&value.to_string()),
        Own::Status { .. } => output::result(&describe(&value)),
        Own::Stop(_) => output::result(&format!("{} is stopping", instance.id)),
        Own::Hold(_) => output::result(&format!("{} does no automatic upgrades until `omnivisor resume`", instance.id)),
        Own::Resume(_) => output::result(&format!("{} goes on", instance.id)),
        Own::Upgrade { name, .. } => {
            let ends = match value["endsAfterSwitch"] == true {
                true => "; the run ends then, with 0, and the next start runs it",
                false => "",
            };
            output::result(&format!("{} switches to {name} as soon as it is ready{ends}", instance.id))
        }
    }
    Ok(Exit::Success)
}

fn find(which: &Which) -> anyhow::Result<Instance> {
    let folder = control::runtime_folder(|name| env::var_os(name)).ok_or_else(|| {
        anyhow!("there is no folder for running instances: set XDG_RUNTIME_DIR or OMNIVISOR_RUNTIME_DIR")
    })?;
    find_in(control::running(&folder), which.id.as_deref(), folder)
}

fn find_in(mut running: Vec<Instance>, id: Option<&str>, folder: PathBuf) -> anyhow::Result<Instance> {
    let names = |running: &[Instance]| running.iter().map(|it| it.id.clone()).collect::<Vec<_>>().join(", ");
    if running.is_empty() {
        return Err(anyhow!("no instance is running (none has its socket in {})", folder.display()));
    }
    let all = names(&running);
    if let Some(id) = id {
        running.retain(|instance| instance.id == id);
    }
    match running.len() {
        1 => Ok(running.remove(0)),
        0 => Err(anyhow!("no instance {} is running; these are: {all}", id.unwrap_or_default())),
        _ => Err(anyhow!("more than one instance is running: say which with --id ({all})")),
    }
}

/// The status for people.
fn describe(status: &Value) -> String {
    let text = |pointer: &str| match status.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let mut lines = vec![
        format!("instance    {} (supervisor: process {})", text("/instance"), text("/supervisor")),
        format!("node        {} (process {})", text("/node/state"), text("/node/pid")),
        format!("release     {} ({})", text("/active/version"), text("/active/name")),
    ];
    let mut upgrade = text("/upgrade/phase");
    for (pointer, before) in [("/upgrade/step", ", step "), ("/upgrade/to", ", to "), ("/upgrade/why", ": ")] {
        if status.pointer(pointer).is_some() {
            upgrade.push_str(&format!("{before}{}", text(pointer)));
        }
    }
    lines.push(format!("upgrade     {upgrade}"));
    if status["held"] == true {
        lines.push("held        no automatic upgrades until `omnivisor resume`".to_owned());
    }
    if status["degraded"].is_string() {
        lines.push(format!("DEGRADED    {}", text("/degraded")));
    }
    for announced in status["announced"].as_array().into_iter().flatten() {
        let get = |key: &str| announced[key].as_str().unwrap_or("-");
        lines.push(format!("announced   {} ({}): {}", get("version"), get("name"), get("standing")));
    }
    lines.join("\n")
}
