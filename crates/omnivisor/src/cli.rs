//! The command line: which dialect is spoken, and one file per verb.
//!
//! The dialect is fixed by the name the program is called by, or by the first word, before any variable is read: the same
//! variables mean different things to different dialects.

mod adopt;
mod backup;
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
mod plan;
mod reexec;
mod restore;
mod rollback;
mod supervise;
mod vega;
mod vega_init;
mod vega_run;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Parser, Subcommand};

use crate::demo::sample;
use crate::exit::Exit;
use crate::handover;

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

/// What a command line says, in the dialect that it is in.
enum Spoken {
    Nym(nym::Nymvisor),
    Vega(vega::VegaVisor),
    Omnivisor(Verb),
}

impl Spoken {
    fn parse(arguments: &[OsString]) -> Result<Self, Trouble> {
        match called(arguments) {
            "nymvisor" => nym::Nymvisor::try_parse_from(arguments).map(Self::Nym),
            "vegavisor" | "visor" => vega::VegaVisor::try_parse_from(arguments).map(Self::Vega),
            _ => Omnivisor::try_parse_from(arguments).map(|parsed| match parsed.verb {
                Verb::Nym(nymvisor) => Self::Nym(nymvisor),
                Verb::Vega(visor) => Self::Vega(visor),
                verb => Self::Omnivisor(verb),
            }),
        }
        .map_err(usage)
    }

    fn run(self) -> Outcome {
        match self {
            Self::Nym(nymvisor) | Self::Omnivisor(Verb::Nym(nymvisor)) => nym::run(nymvisor),
            Self::Vega(visor) | Self::Omnivisor(Verb::Vega(visor)) => vega::run(&visor),
            Self::Omnivisor(Verb::Demo) => demo::demo(),
            Self::Omnivisor(Verb::Own(own)) => own::run(&own),
        }
    }
}

/// What the program is called by.
fn called(arguments: &[OsString]) -> &str {
    arguments.first().map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or_default()
}

/// Runs the command line; prints what went wrong.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    handover::receive();
    // A release of the demo's node is this executable, too.
    let sample = if called(&arguments) == sample::NAME { sample::Sample::own() } else { None };
    let outcome = match sample {
        Some(sample) => demo::node(&sample, &arguments),
        None => Spoken::parse(&arguments).and_then(Spoken::run),
    };
    log::end();
    match outcome {
        Ok(exit) => exit,
        Err(trouble) => {
            // If this image was to take over, the one before it goes on.
            handover::go_back(&trouble.to_string());
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
