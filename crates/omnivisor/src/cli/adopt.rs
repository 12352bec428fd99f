//! `omnivisor adopt`: take over an installation of Nymvisor or Vega Visor without starting anything, or show what that would do.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::Value;

use super::installation::{Installation, Which};
use super::{Outcome, Trouble, output};
use crate::exit::Exit;
use crate::shell;

/// What is to be taken over.
#[derive(Args)]
pub(super) struct Adopt {
    #[command(flatten)]
    which: Which,
    /// The env file that the instance is run with, if there is one
    #[arg(short, long)]
    config_env_file: Option<PathBuf>,
    /// Change nothing: show what would be done
    #[arg(long)]
    dry_run: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(adopt: &Adopt) -> Outcome {
    let installation = Installation::find(&adopt.which, adopt.config_env_file.as_deref(), false)?;
    let Installation { dialect, policy, shared, allow_network_file_system: allow, .. } = installation;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot begin to work")?;
    let mut survey = runtime.block_on(shell::survey(&*dialect, policy, shared, allow));
    survey["config"] = Value::from(installation.config.display().to_string());
    survey["notes"] = Value::from(installation.notes);
    let ready = survey["ready"] == true;
    let done = ready && !adopt.dry_run && survey["takenOver"] == false;
    if done {
        runtime.block_on(shell::adopt(&dialect, shared, allow))?;
    }
    output::result(&if adopt.json { survey.to_string() } else { describe(&survey, installation.run, done) });
    if ready || (adopt.dry_run && survey["obstacles"].as_array().is_some_and(Vec::is_empty)) {
        return Ok(Exit::Success);
    }
    Err(Trouble::from(anyhow!("{} cannot be taken over as it is", dialect.instance()))
        .hint("what stands in the way is listed above; nothing was changed"))
}

/// The survey for people. Nothing of what it lists was done unless `done`.
fn describe(survey: &Value, run: &str, done: bool) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let list = |key: &str| survey[key].as_array().cloned().unwrap_or_default();
    let mut lines = vec![
        format!("instance    {} ({})", text(&survey["instance"]), text(&survey["config"])),
        format!("home        {}", text(&survey["home"])),
        format!("releases    {}", text(&survey["releases"])),
    ];
    let release = &survey["release"];
    lines.push(match release {
        Value::Null => "release     none that could be run".to_owned(),
        _ => format!(
            "release     {} ({}), in {}",
            text(&release["version"]),
            text(&release["name"]),
            text(&release["folder"])
        ),
    });
    lines.push(match &survey["node"]["pid"] {
        Value::Null => format!("node        does not run; `{run}` starts it"),
        pid if survey["first"].is_string() => format!("node        runs (process {pid})"),
        pid => format!("node        runs (process {pid}); `{run}` takes it over, undisturbed"),
    });
    for pid in list("left") {
        lines.push(format!("left over   process {pid} of an earlier node is ended before a node is started"));
    }
    for upgrade in list("announced") {
        let version = upgrade["version"].as_str().map_or(String::new(), |version| format!("{version} "));
        lines.push(format!("announced   {version}({}): {}", text(&upgrade["name"]), text(&upgrade["standing"])));
    }
    for name in list("queuedAgain") {
        lines.push(format!("queue       {}: begun by another tool and not finished; queued again", text(&name)));
    }
    for path in list("setAside") {
        lines.push(format!("set aside   {}: cannot be read; kept beside a new one", text(&path)));
    }
    for path in list("written") {
        lines.push(format!("write       {}", text(&path)));
    }
    if survey["takenOver"] == false {
        lines.push(format!("make        {} (the journal and the locks)", text(&survey["state"])));
    }
    for note in list("notes") {
        lines.push(format!("note        {}", text(&note)));
    }
    if let Some(first) = survey["first"].as_str() {
        lines.push(format!("FIRST       {first}"));
    }
    for obstacle in list("obstacles") {
        lines.push(format!("IN THE WAY  {}", text(&obstacle)));
    }
    lines.push(match (done, survey["takenOver"] == true, survey["ready"] == true) {
        (true, ..) => "This was done: the installation is taken over.".to_owned(),
        (false, true, _) => "It was taken over before; nothing was changed.".to_owned(),
        (false, false, true) => {
            format!("Nothing was changed. `omnivisor adopt` or the first `{run}` does it.")
        }
        (false, false, false) => "Nothing was changed.".to_owned(),
    });
    lines.join("\n")
}
