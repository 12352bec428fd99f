//! What core and data nodes have in common while they run: home, lock, data, end.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::control::{Control, Postgres};
use crate::daemon::{End, Log, REFUSED, Signals, Stop, flag, grandchild, live, lock, take_state};
use crate::node_log::Kind;
use crate::vega_behaviour::VegaBehaviour;

/// Runs a node until something ends it; the exit code. What `begin` gives is dropped when it ends.
pub(super) fn run<T>(
    kind: Kind,
    behaviour: &VegaBehaviour,
    args: &[String],
    begin: impl FnOnce(&Path, &Control) -> Result<T, String>,
) -> i32 {
    // Before the first line of the log, so that whoever waits for that line may send a signal at once.
    let mut signals = Signals::register();
    let log = Log::open(&behaviour.version, Some(kind));
    log.start(args);
    let failed = |reason: &str| {
        eprintln!("vega: {reason}");
        log.exit(1)
    };
    let Some(home) = flag(args, "--home").map(PathBuf::from).filter(|home| home.is_dir()) else {
        return failed("not initialised: no --home, or no such folder");
    };
    let (lock_file, state) = match kind {
        Kind::Core => (".core.lock", "state/node/fake.json"),
        Kind::Datanode => (".data-node.lock", "state/data-node/fake.json"),
    };
    let held = lock(home.join(lock_file));
    if held.is_none() {
        log.write("double", json!({}));
    }
    let control = Control::read(&home, &behaviour.version);
    if let Some(postgres) = &control.needs_postgres
        && let Err(error) = connect(postgres)
    {
        return failed(&format!("cannot connect to {postgres:?}: {error}"));
    }
    // It moves the data to its own schema, and there is no way back: so does Vega.
    if !take_state(&home.join(state), &behaviour.version, true) {
        log.write("refused", json!({}));
        return REFUSED;
    }
    let begun = match begin(&home, &control) {
        Ok(begun) => begun,
        Err(reason) => return failed(&reason),
    };
    if let Some(grandchild) = &control.grandchild {
        grandchild::start(grandchild);
    }
    let end = End { after_ms: control.exit_after_ms, code: control.exit_code, signal: control.die_of_signal };
    let code = live(&log, &mut signals, &end, || {
        let control = Control::read(&home, &behaviour.version);
        Stop { ignored: control.ignore_stop, linger_ms: control.linger_ms, code: control.stop_exit_code }
    });
    drop(begun);
    log.exit(code)
}

fn connect(postgres: &Postgres) -> std::io::Result<()> {
    match postgres {
        Postgres::Tcp { host, port } => TcpStream::connect((host.as_str(), *port)).map(|_| ()),
        Postgres::Unix { socket } => UnixStream::connect(socket).map(|_| ()),
    }
}
