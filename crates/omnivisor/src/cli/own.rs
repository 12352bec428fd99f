//! The verbs that every dialect has: they find the running instance by itself, and ask it.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Subcommand;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use super::installation::{Installation, Which};
use super::{Outcome, Trouble, adopt, backup, env_file, history, output, plan, reexec, restore, rollback};
use crate::control::{self, Command, Instance};
use crate::exit::Exit;
use crate::shell::{Left, end_orphan, look_for_orphan};

/// Verbs of our own.
#[derive(Subcommand)]
pub(super) enum Own {
    /// Take over an installation of Nymvisor or Vega Visor, or show what that would do
    Adopt(adopt::Adopt),
    /// Show what runs, what will be done, and why
    Status {
        #[command(flatten)]
        which: Which,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    Plan(plan::Plan),
    History(history::History),
    /// See what there is to go back to, and whether it is good
    #[command(subcommand)]
    Backup(backup::Backup),
    /// Stop the node, and end its supervisor; or what a supervisor that was killed has left
    Stop {
        #[command(flatten)]
        which: Which,
        /// The env file that the instance is run with, if there is one
        #[arg(short, long)]
        config_env_file: Option<PathBuf>,
        /// Wait until the node and its supervisor have ended
        #[arg(long)]
        wait: bool,
    },
    /// Do no automatic upgrades until `resume`, also after a restart
    Hold(Which),
    /// Go on with automatic upgrades, and with an undo that was stuck
    Resume(Which),
    Rollback(rollback::Rollback),
    Restore(restore::Restore),
    Reexec(reexec::Reexec),
    #[command(hide = true)]
    CheckReplacement(reexec::Check),
    #[command(hide = true)]
    GuardReplacement(reexec::Guard),
    /// Switch to an announced release now, although it waits for a person
    Upgrade {
        /// The upgrade's name
        name: String,
        #[command(flatten)]
        which: Which,
    },
}

pub(super) fn run(own: &Own) -> Outcome {
    let (which, command) = match own {
        Own::Adopt(verb) => return adopt::run(verb),
        Own::History(verb) => return history::run(verb),
        Own::Plan(verb) => return plan::run(verb),
        Own::Rollback(verb) => return rollback::run(verb),
        Own::Restore(verb) => return restore::run(verb),
        Own::Backup(verb) => return backup::run(verb),
        Own::CheckReplacement(verb) => return reexec::check(verb),
        Own::GuardReplacement(verb) => return reexec::guard(verb),
        Own::Reexec(verb) => (&verb.which, verb.command()?),
        Own::Status { which, .. } => (which, Command::Status),
        Own::Stop { which, config_env_file, .. } => {
            if let Some(file) = config_env_file {
                env_file::apply(file)?;
            }
            (which, Command::Stop)
        }
        Own::Hold(which) => (which, Command::Hold),
        Own::Resume(which) => (which, Command::Resume),
        Own::Upgrade { name, which } => (which, Command::Upgrade { name: name.clone() }),
    };
    let instance = match find(which) {
        Err(Missing { error, several: false }) if matches!(own, Own::Stop { .. }) => return stop_orphan(which, error),
        Err(Missing { error, several: false }) => return Err(Trouble::from(error).hint(instead(which))),
        found => found.map_err(|missing| missing.error)?,
    };
    // Before it is asked, or another process may have its number by then.
    let supervisor = Pid::from_raw(instance.pid.cast_signed()).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let answer = control::ask(&instance.socket, command)
        .with_context(|| format!("the supervisor of {} (process {}) gives no answer", instance.id, instance.pid))?;
    let value = answer.map_err(|error| anyhow!("{}: {error}", instance.id))?;
    match own {
        Own::Status { json: true, .. } => output::result(&value.to_string()),
        Own::Status { .. } => output::result(&describe(&value)),
        Own::Adopt(_)
        | Own::Backup(_)
        | Own::History(_)
        | Own::Plan(_)
        | Own::Rollback(_)
        | Own::Restore(_)
        | Own::CheckReplacement(_)
        | Own::GuardReplacement(_) => {}
        Own::Reexec(_) => return reexec::followed(&instance, &value),
        Own::Stop { wait: false, .. } => output::result(&format!("{} is stopping", instance.id)),
        Own::Stop { .. } => {
            let end = match supervisor {
                Some(Ok(supervisor)) => {
                    retry_on_intr(|| poll(&mut [PollFd::new(&supervisor, PollFlags::IN)], None)).map(drop)
                }
                None | Some(Err(Errno::SRCH)) => Ok(()), // it has ended already
                Some(Err(error)) => Err(error),
            };
            end.with_context(|| {
                format!("{} is stopping, and cannot be waited for (process {})", instance.id, instance.pid)
            })?;
            let left = Installation::find(which, None, false).ok();
            if let Some(Left::Node(pid)) = left.and_then(|it| look_for_orphan(&*it.dialect, it.shared)) {
                let error =
                    anyhow!("the supervisor of {} has ended, and its node (process {pid}) runs on", instance.id);
                return Err(Trouble::from(error).hint("`omnivisor stop` ends it"));
            }
            output::result(&format!("{} has ended", instance.id));
        }
        Own::Hold(_) => {
            let halts = value["height"].as_u64().map(|height| {
                let name = value["name"].as_str().unwrap_or_default();
                format!(
                    "\nits network has agreed on an upgrade at height {height}: the node will halt there and not be switched, until \
                     `omnivisor resume` or `omnivisor upgrade {name}`"
                )
            });
            output::result(&format!(
                "{} does no automatic upgrades until `omnivisor resume`{}",
                instance.id,
                halts.unwrap_or_default()
            ));
        }
        Own::Resume(_) => output::result(&format!("{} goes on", instance.id)),
        Own::Upgrade { name, .. } if value["height"].is_u64() => output::result(&format!(
            "{} prepares {name} at once; it is switched to at height {}, when the node is ready, and not before",
            instance.id, value["height"]
        )),
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

/// Why no running instance could be chosen.
pub(super) struct Missing {
    pub(super) error: anyhow::Error,
    /// Whether that is because there are several.
    pub(super) several: bool,
}

/// The running instance that is meant.
pub(super) fn find(which: &Which) -> Result<Instance, Missing> {
    let Some(folder) = control::runtime_folder(|name| env::var_os(name)) else {
        let error = anyhow!("there is no folder for running instances: set XDG_RUNTIME_DIR or OMNIVISOR_RUNTIME_DIR");
        return Err(Missing { error, several: false });
    };
    find_in(control::running(&folder), which, folder)
}

/// What there is where no supervisor is seen, and what to do.
fn instead(which: &Which) -> String {
    const NOT_SEEN: &str = "one that another user runs, or with another OMNIVISOR_RUNTIME_DIR, is not seen from here";
    let found = Installation::find(which, None, false).ok();
    let left = found.as_ref().and_then(|it| Some((it, look_for_orphan(&*it.dialect, it.shared)?)));
    match left {
        Some((it, Left::Node(pid))) => format!(
            "the node of {} (process {pid}) runs on without a supervisor: `{}` takes it over, `omnivisor stop` ends it",
            it.dialect.instance(),
            it.run
        ),
        Some((it, Left::Supervisor(holder))) => {
            format!("{} is supervised by {holder}: {NOT_SEEN}", it.dialect.instance())
        }
        None => format!("`nymvisor run …` or `vegavisor run …` starts one; {NOT_SEEN}"),
    }
}

/// No supervisor answers; but its node may be there.
fn stop_orphan(which: &Which, not_running: anyhow::Error) -> Outcome {
    // What is said of the search for an installation must not hide what was asked for.
    let installation = match Installation::find(which, None, true) {
        Ok(installation) => installation,
        Err(trouble) if which.home.is_some() => return Err(trouble),
        Err(trouble) => {
            let hint = format!("whether it has left a node behind cannot be found out: {trouble}");
            return Err(Trouble::from(not_running).hint(hint));
        }
    };
    let Installation { dialect, shared, grace, allow_network_file_system: allow, .. } = installation;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot begin to work")?;
    let ended = runtime.block_on(end_orphan(&*dialect, shared, grace, allow))?;
    let id = dialect.instance();
    let Some(ended) = ended else {
        return Err(not_running.context(format!("no node of {id} runs, and no supervisor")).into());
    };
    let what = match (ended.main, ended.others) {
        (Some(pid), _) => format!("its node (process {pid}) had none"),
        (None, 1) => "a process of an earlier node was left".to_owned(),
        (None, others) => format!("{others} processes of an earlier node were left"),
    };
    let how = if ended.killed { "had to be killed" } else { "ended when asked" };
    output::result(&format!("{id} has no supervisor; {what}, and {how}"));
    Ok(Exit::Success)
}

fn find_in(mut running: Vec<Instance>, which: &Which, folder: PathBuf) -> Result<Instance, Missing> {
    let names = |running: &[Instance]| running.iter().map(|it| it.id.clone()).collect::<Vec<_>>().join(", ");
    let all = names(&running);
    running.retain(|instance| which.is(instance));
    let error = match running.len() {
        1 => return Ok(running.remove(0)),
        0 if all.is_empty() => anyhow!("no instance is running (none has its socket in {})", folder.display()),
        0 => anyhow!("no instance {} is running; these are: {all}", which.described()),
        _ => anyhow!("more than one instance is running: say which with --id or --home ({all})"),
    };
    Err(Missing { error, several: running.len() > 1 })
}

/// What the node does, and why not.
fn node(node: &Value) -> String {
    let state = node["state"].as_str().unwrap_or("-");
    if let Some(pid) = node["pid"].as_i64() {
        return format!("{state} (process {pid})");
    }
    let why = node["why"].as_str().map_or(String::new(), |why| format!(": {why}"));
    let again = node["againInSeconds"].as_u64();
    let again = again.map_or(String::new(), |seconds| format!("; started again {}", output::time_left(seconds)));
    format!("{state}{why}{again}")
}

/// The status for people.
fn describe(status: &Value) -> String {
    let text = |pointer: &str| match status.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let mut lines = vec![
        format!(
            "instance    {} (supervisor: process {}, omnivisor {})",
            text("/instance"),
            text("/supervisor"),
            text("/supervisorVersion")
        ),
        format!("node        {}", node(&status["node"])),
        format!("release     {} ({})", text("/active/version"), text("/active/name")),
    ];
    let mut upgrade = text("/upgrade/phase");
    for (pointer, before) in [("/upgrade/step", ", step "), ("/upgrade/to", ", to "), ("/upgrade/why", ": ")] {
        if status.pointer(pointer).is_some() {
            upgrade.push_str(&format!("{before}{}", text(pointer)));
        }
    }
    if status.pointer("/upgrade/waitsFor").is_some_and(Value::is_string) {
        upgrade.push_str(&format!("; not shown yet: {}", text("/upgrade/waitsFor")));
    }
    if status.pointer("/upgrade/doing").is_some_and(Value::is_string) {
        upgrade.push_str(&format!("; {}", text("/upgrade/doing")));
    }
    if status.pointer("/upgrade/phase").is_some_and(|phase| phase == "needs-human") {
        upgrade.push_str("; mend that, then say `omnivisor resume`");
    }
    lines.push(format!("upgrade     {upgrade}"));
    if status.pointer("/backup/state").is_some_and(|state| state == "taking") {
        lines.push(format!("backup      {} is being taken", text("/backup/id")));
    } else if status.pointer("/backup/state").is_some_and(|state| state == "failed") {
        lines.push(format!("backup      {} was NOT TAKEN: {}", text("/backup/id"), text("/backup/why")));
    }
    if status["rollback"].is_object() {
        let how = match status["rollback"]["state"] == "failed" {
            true => format!("CANNOT be begun: {}", text("/rollback/why")),
            false => format!("what it puts back is copied from {}; the node runs until then", text("/rollback/from")),
        };
        lines.push(format!("rollback    {how}"));
    }
    if status["essentials"].is_string() {
        lines.push(match status["signerState"] == false {
            true => format!(
                "essentials  no snapshot was taken; CONFIGURATION ONLY is in {}, and no signer state: its manifest says why",
                text("/essentials")
            ),
            false => format!(
                "essentials  no snapshot was taken; signer state and configuration are in {}",
                text("/essentials")
            ),
        });
    }
    if status["held"] == true {
        lines.push("held        no automatic upgrades until `omnivisor resume`".to_owned());
    }
    if status["unwritable"].is_string() {
        lines.push(format!("UNWRITABLE  {}; nothing is begun until it can", text("/unwritable")));
    }
    if status["silent"].is_string() {
        lines.push(format!("SILENT      {}", text("/silent")));
    }
    if status["unheard"].is_string() {
        lines.push(format!("UNHEARD     {}", text("/unheard")));
    }
    if status["refusedConfiguration"].is_string() {
        let why = text("/refusedConfiguration");
        lines.push(format!("REFUSED     the configuration as it is now; the last good one is in force: {why}"));
    }
    if status["clock"].is_string() {
        lines.push(format!("clock       {}", text("/clock")));
    }
    if status["degraded"].is_string() {
        lines.push(format!("DEGRADED    {}", text("/degraded")));
    }
    for failed in status["failed"].as_array().into_iter().flatten() {
        let get = |key: &str| failed[key].as_str().unwrap_or("-");
        lines.push(format!("failed      {} ({}): is not installed again: {}", get("version"), get("name"), get("why")));
    }
    for announced in status["announced"].as_array().into_iter().flatten() {
        let get = |key: &str| announced[key].as_str().unwrap_or("-");
        // Beside another time, or what a person has to do, it would be taken for when that is.
        let due = announced["dueInSeconds"].as_u64().filter(|_| announced["waitsForTime"] == true);
        let left = due.filter(|seconds| *seconds > 0);
        let left = left.map_or(String::new(), |seconds| format!(" ({})", output::time_left(seconds)));
        lines.push(format!("announced   {} ({}): {}{left}", get("version"), get("name"), get("standing")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_time_that_is_left_is_shown_of_what_waits_for_it_only() {
        let shown = |waits: bool, standing: &str| {
            let announced = json!({
                "name": "2025.1", "version": "1.1.0", "dueInSeconds": 90, "waitsForTime": waits, "standing": standing,
            });
            let text = describe(&json!({ "announced": [announced] }));
            text.lines().last().unwrap_or_default().to_owned()
        };
        let waiting = shown(true, "will be switched to at noon");
        assert_eq!(waiting, "announced   1.1.0 (2025.1): will be switched to at noon (in 1m 30s)");
        let tried_again = shown(false, "tried again at eleven: no room");
        assert_eq!(tried_again, "announced   1.1.0 (2025.1): tried again at eleven: no room");
    }
}
