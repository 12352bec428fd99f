//! The command line: which dialect is spoken, and one file per verb.
//!
//! The dialect is fixed by the name the program is called by, or by the first word, before any variable is read: the same
//! variables mean different things to different dialects.

mod adopt;
mod build_info;
mod demo;
mod env_file;
mod history;
mod installation;
mod log;
mod nym;
mod nym_add_upgrade;
mod nym_init;
mod nym_run;
mod output;
mod own;
mod supervise;
mod vega;
mod vega_init;
mod vega_run;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Parser, Subcommand};

use crate::demo::sample;
use crate::exit::Exit;

/// What went wrong, for `main` to print: once, with all its causes, and what to do where there is something to do.
#[derive(Debug)]
pub struct Trouble {
    exit: Exit,
    error: anyhow::Error,
    hint: Option<String>,
}

impl Trouble {
    fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl std::fmt::Display for Trouble {
    /// All of it in one line, for a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::new(Exit::Failure, error)
    }
}

type Outcome = Result<Exit, Trouble>;

/// Runs a network node and upgrades it with nobody watching.
#[derive(Parser)]
#[command(name = "omnivisor", version)]
struct Omnivisor {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// See it work: upgrades, an undo and a killed supervisor, in ten seconds, with a node and an upstream of its own
    Demo,
    /// Everything that `nymvisor` does, under its own commands
    Nym(nym::Nymvisor),
    /// Everything that `vegavisor` does, under its own commands
    Vega(vega::VegaVisor),
    #[command(flatten)]
    Own(own::Own),
}

/// Runs the command line; prints what went wrong.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let called = arguments.first().map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or_default();
    // A release of the demo's node is this executable, too.
    let sample = if called == sample::NAME { sample::Sample::own() } else { None };
    let outcome = if let Some(sample) = sample {
        demo::node(&sample, &arguments)
    } else if called == "nymvisor" {
        nym::Nymvisor::try_parse_from(&arguments).map_err(usage).and_then(nym::run)
    } else if called == "vegavisor" || called == "visor" {
        vega::VegaVisor::try_parse_from(&arguments).map_err(usage).and_then(vega::run)
    } else {
        Omnivisor::try_parse_from(&arguments).map_err(usage).and_then(|parsed| match parsed.verb {
            Verb::Demo => demo::demo(),
            Verb::Nym(nymvisor) => nym::run(nymvisor),
            Verb::Vega(visor) => vega::run(visor),
            Verb::Own(own) => own::run(&own),
        })
    };
    log::end();
    match outcome {
        Ok(exit) => exit,
        Err(trouble) => {
            output::trouble(&trouble.error, trouble.hint.as_deref());
            trouble.exit
        }
    }
}

/// Help and version are no trouble, but they end the program all the same.
fn usage(error: clap::Error) -> Trouble {
    let exit = if error.use_stderr() { Exit::Usage } else { Exit::Success };
    Trouble::new(exit, error)
}
