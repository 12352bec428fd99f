//! `omnivisor adopt`: take over an installation of Nymvisor without starting anything, or show what that would do.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use omnivisor_core::dialect::Dialect;
use serde_json::Value;

use super::nym::Loaded;
use super::{Outcome, Trouble, env_file, nym_run, output};
use crate::exit::Exit;
use crate::shell;

/// What is to be taken over.
#[derive(Args)]
pub(super) struct Adopt {
    /// The instance, if there is more than one
    #[arg(long)]
    id: Option<String>,
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
    if let Some(file) = &adopt.config_env_file {
        env_file::apply(file)?;
    }
    let loaded = Loaded::find_instance(adopt.id.as_deref())?;
    let settings = loaded.settings()?;
    let dialect = Arc::new(loaded.dialect(&settings, Vec::new()));
    let (shared, allow) = (!dialect.context().siblings.is_empty(), settings.allow_network_file_system);
    let policy = nym_run::policy(&settings, &*dialect, &loaded.config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot begin to work")?;
    let mut survey = runtime.block_on(shell::survey(&*dialect, policy, shared, allow));
    let mut notes: Vec<String> = loaded.warnings().collect();
    if !loaded.config.restart_on_failure {
        notes.push(
            "restart_on_failure is false: a node that fails ends the run with exit code 10 and is not started again; an upgrade \
             is taken back at its first death"
                .to_owned(),
        );
    }
    survey["config"] = Value::from(loaded.file.display().to_string());
    survey["notes"] = Value::from(notes);
    let ready = survey["ready"] == true;
    let done = ready && !adopt.dry_run && survey["takenOver"] == false;
    if done {
        runtime.block_on(shell::adopt(&(dialect as Arc<dyn Dialect>), shared, allow))?;
    }
    output::result(&if adopt.json { survey.to_string() } else { describe(&survey, done) });
    if ready || (adopt.dry_run && survey["obstacles"].as_array().is_some_and(Vec::is_empty)) {
        return Ok(Exit::Success);
    }
    Err(Trouble::from(anyhow!("{} cannot be taken over as it is", loaded.config.id))
        .hint("what stands in the way is listed above; nothing was changed"))
}

/// The survey for people. Nothing of what it lists was done unless `done`.
fn describe(survey: &Value, done: bool) -> String {
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
        Value::Null => "node        does not run; `nymvisor run …` starts it".to_owned(),
        pid if survey["first"].is_string() => format!("node        runs (process {pid})"),
        pid => format!("node        runs (process {pid}); `nymvisor run …` takes it over, undisturbed"),
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
            "Nothing was changed. `omnivisor adopt` or the first `nymvisor run …` does it.".to_owned()
        }
        (false, false, false) => "Nothing was changed.".to_owned(),
    });
    lines.join("\n")
}
