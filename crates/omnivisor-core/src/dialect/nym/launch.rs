//! How a daemon of Nym is run, asked who it is, and judged.

use std::ffi::OsString;

use super::build_info::BuildInfo;
use super::{Nym, wrong};
use crate::dialect::{Answered, CommandSpec, DialectError, Health, Launch, Preparation, Read, StartReason};
use crate::health::HealthProbe;
use crate::release::{Identity, Installed, Version};

/// SIGINT, the only signal that Nymvisor sends.
const SIGINT: i32 = 2;

impl Launch for Nym {
    fn prepare(&self, _: &Installed, _: StartReason, _: Read<'_>) -> Result<Preparation, DialectError> {
        Ok(Preparation::default())
    }

    fn commands(
        &self,
        active: &Installed,
        _: StartReason,
        _: Option<&Answered>,
        _: Read<'_>,
    ) -> Result<Vec<CommandSpec>, DialectError> {
        Ok(vec![self.command(active)])
    }

    fn main_processes(&self, _: Read<'_>) -> usize {
        1
    }

    fn insists_on_arguments(&self) -> bool {
        true
    }

    fn stop_signal(&self) -> i32 {
        SIGINT
    }

    fn is_long_running(&self) -> bool {
        runs_on(&self.arguments)
    }
}

/// Whether with these arguments it runs until somebody ends it.
pub(super) fn runs_on(arguments: &[OsString]) -> bool {
    match arguments.first() {
        Some(first) => first == "run" || first.to_string_lossy().starts_with('-'),
        None => true,
    }
}

impl Health for Nym {
    fn identify_arguments(&self) -> Vec<Vec<String>> {
        identify_arguments()
    }

    fn identify(&self, stdout: &[u8]) -> Result<(Version, Identity), DialectError> {
        let info = BuildInfo::parse(stdout).map_err(|error| wrong("its build information", error))?;
        Ok((Version::new(info.build_version.as_str()), info.to_identity()))
    }

    fn same_version(&self, announced: &Version, said: &Version) -> bool {
        announced == said
    }

    fn accepts_silence(&self) -> bool {
        false
    }

    fn same_program(&self, active: &Identity, new: &Identity) -> Result<(), (String, String)> {
        match (active.get("binary_name"), new.get("binary_name")) {
            (Some(active), new) if Some(active) != new => {
                Err((active.to_owned(), new.unwrap_or("something without a name").to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn probe(&self) -> &HealthProbe {
        &self.probe
    }
}

/// The arguments with which a daemon says who it is, as Nymvisor asks it; and for one that knows no `--no-banner`, as Nym's
/// releases are asked when their `hashes.json` is made.
pub fn identify_arguments() -> Vec<Vec<String>> {
    [&["--no-banner", "build-info", "--output=json"][..], &["build-info", "--output=json"][..]]
        .map(|arguments| arguments.iter().map(|argument| (*argument).to_owned()).collect())
        .to_vec()
}
