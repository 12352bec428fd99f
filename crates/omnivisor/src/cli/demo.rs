//! `omnivisor demo`: see it work, without any set-up. And the program that its node is.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Context;

use super::output::{self, Screen};
use super::{Outcome, supervise};
use crate::demo::{self, sample};
use crate::exit::Exit;
use crate::shell::Signals;

/// How long a question that nobody answers any more may keep us from ending.
const LINGER: Duration = Duration::from_secs(1);

pub(super) fn demo() -> Outcome {
    supervise::hold_signals()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot begin to work")?;
    let screen = Screen::new();
    let outcome = runtime.block_on(async {
        let mut signals = Signals::listen().context("cannot listen to signals")?;
        demo::perform(&screen, signals.ended()).await
    });
    runtime.shutdown_timeout(LINGER);
    outcome?;
    Ok(Exit::Success)
}

/// What a sample node does.
pub(super) fn node(sample: &sample::Sample, arguments: &[OsString]) -> Outcome {
    if let Some(text) = demo::node(sample, arguments)? {
        output::result(&text);
    }
    Ok(Exit::Success)
}
