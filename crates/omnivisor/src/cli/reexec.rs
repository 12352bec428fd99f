//! `omnivisor reexec`: let another executable take a running supervisor's place; and what that is asked before.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::Value;

use super::installation::Which;
use super::{Outcome, Spoken, Trouble, nym, output, vega};
use crate::checkpoint;
use crate::control::{self, Command, Instance};
use crate::exit::Exit;
use crate::handover::{self, CHECK_VERB};
use crate::shell::could_take_over;

/// The new executable has five seconds to begin, and then the old one, or its guardian, has to.
const ANSWER: Duration = Duration::from_secs(20);
/// Between two looks for it.
const LOOK: Duration = Duration::from_millis(50);

/// Let another executable take the supervisor's place; the node runs on untouched
#[derive(Args)]
pub(super) struct Reexec {
    /// The executable; else what is now where the supervisor was started from
    #[arg(long)]
    with: Option<PathBuf>,
    #[command(flatten)]
    pub(super) which: Which,
}

impl Reexec {
    /// The order.
    pub(super) fn command(&self) -> Result<Command, Trouble> {
        let with = self.with.as_ref().map(std::path::absolute).transpose().context("cannot find the executable")?;
        Ok(Command::Reexec { with })
    }
}

/// Waits until the new image, or the old one, says what became of the order.
pub(super) fn followed(instance: &Instance, answer: &Value) -> Outcome {
    let begun = Instant::now();
    let (id, from, to) = (&instance.id, &answer["from"], &answer["to"]);
    let shown = |version: &Value| version.as_str().unwrap_or_default().to_owned();
    let (from, to) = (shown(from), shown(to));
    while begun.elapsed() < ANSWER {
        let status = status(instance).filter(|status| status["replacement"]["order"] == answer["order"]);
        let Some(status) = status else {
            std::thread::sleep(LOOK);
            continue;
        };
        return match status["replacement"]["failed"].as_str() {
            None => {
                output::result(&format!(
                    "{id}: omnivisor {to} has taken the place of {from}; the node was not touched"
                ));
                Ok(Exit::Success)
            }
            Some(why) => Err(Trouble::from(anyhow!("{id}: omnivisor {to} could not take over: {why}"))
                .hint(format!("omnivisor {from} goes on, the node was not touched; the log says more"))),
        };
    }
    let patience = humantime::format_duration(ANSWER);
    Err(Trouble::from(anyhow!("{id}: no supervisor has said within {patience} what became of it"))
        .hint("`omnivisor status`, and the log, say what runs"))
}

/// What whoever supervises this instance now says; nobody may, for a moment.
fn status(instance: &Instance) -> Option<Value> {
    let running = control::running(&control::runtime_folder(|name| env::var_os(name))?);
    let running = running.into_iter().find(|it| it.state == instance.state)?;
    control::ask(&running.socket, Command::Status).ok()?.ok()
}

/// Say whether this executable could take over from a supervisor that was started with these arguments
#[derive(Args)]
pub(super) struct Check {
    /// The form of what would be handed over
    #[arg(long)]
    form: u32,
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Reads what a run would read, and says whether it could begin.
pub(super) fn check(check: &Check) -> Outcome {
    checkpoint::misbehave("check");
    if check.form != handover::FORM {
        return Err(anyhow!("omnivisor {} cannot read what would be handed over", env!("CARGO_PKG_VERSION")).into());
    }
    let start = match Spoken::parse(&check.arguments)? {
        Spoken::Nym(nymvisor) => nym::start(nymvisor)?,
        Spoken::Vega(visor) => vega::start(&visor)?,
        Spoken::Omnivisor(_) => return Err(anyhow!("{CHECK_VERB} is asked about a run only").into()),
    };
    let could = could_take_over(&start).map_err(anyhow::Error::msg)?;
    output::result(&serde_json::to_string(&could)?);
    Ok(Exit::Success)
}

/// Guard a supervisor that is being replaced
#[derive(Args)]
pub(super) struct Guard {
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

pub(super) fn guard(guard: &Guard) -> Outcome {
    handover::guard(guard.arguments.clone())
        .context("the supervisor has ended, and its guardian cannot take its place")?;
    Ok(Exit::Success)
}
