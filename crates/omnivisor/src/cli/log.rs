//! The program's own log: where the peer's goes, from a thread of its own.

use std::env;
use std::io::IsTerminal;
use std::sync::Mutex;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Writes what is logged, from a thread of its own.
static LOG: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Writes what is still to be written; a reader that has stalled is waited for a second at most.
pub(super) fn end() {
    LOG.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
}

/// Where a log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// As Vega Visor's.
    Stdout,
    /// As Nymvisor's.
    Stderr,
}

/// Begins to log: coloured on a terminal only. What cannot be written is no error.
pub(super) fn begin(stream: Stream, silent: bool) {
    let said = env::var("RUST_LOG").ok().map(|text| text.parse::<Targets>().map_err(|error| (text, error)));
    let usual = || Targets::new().with_default(LevelFilter::INFO);
    let (level, wrong) = match said {
        _ if silent => (Targets::new().with_default(LevelFilter::OFF), None),
        None => (usual(), None),
        Some(Ok(level)) => (level, None),
        Some(Err(wrong)) => (usual(), Some(wrong)),
    };
    let is_terminal = match stream {
        Stream::Stdout => std::io::stdout().is_terminal(),
        Stream::Stderr => std::io::stderr().is_terminal(),
    };
    let colours = is_terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A reader that stalls (a stopped terminal, a stuck journal) must not stall the supervision: lines are dropped then.
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(1000);
    let (writer, guard) = match stream {
        Stream::Stdout => builder.finish(std::io::stdout()),
        Stream::Stderr => builder.finish(std::io::stderr()),
    };
    LOG.lock().unwrap_or_else(std::sync::PoisonError::into_inner).replace(guard);
    let layer = tracing_subscriber::fmt::layer()
        .compact()
        .with_target(false)
        .with_ansi(colours)
        .with_writer(writer)
        .log_internal_errors(false);
    let _ = tracing_subscriber::registry().with(layer).with(level).try_init();
    if let Some((text, error)) = wrong {
        tracing::warn!("RUST_LOG = {text:?} is ignored: {error}; right would be `debug` or `info,omnivisor=debug`");
    }
}
