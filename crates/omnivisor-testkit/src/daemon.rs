//! What all fake daemons do: a log, a lock, data that remember who wrote them, signals, an end. What makes each of them
//! a node of its own kind is in `fake_node` and `fake_vega`.

pub(crate) mod grandchild;
mod log;
mod signals;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::{Value, json};
use signal_hook::consts::SIGQUIT;

pub(crate) use log::Log;
pub(crate) use signals::Signals;

/// The exit code of a daemon that finds data newer than itself.
pub const REFUSED: i32 = 70;

/// How it ends by itself.
pub(crate) struct End {
    /// Never, if there is neither this nor a signal.
    pub(crate) after_ms: Option<u64>,
    pub(crate) code: i32,
    /// Dies of this one instead.
    pub(crate) signal: Option<i32>,
}

/// What becomes of a signal that asks it to stop.
pub(crate) struct Stop {
    /// Nothing, unless it is SIGQUIT.
    pub(crate) ignored: bool,
    pub(crate) linger_ms: u64,
    pub(crate) code: i32,
}

/// Until something ends it; the code to exit with. `stop` is asked at each signal.
pub(crate) fn live(log: &Log<'_>, signals: &mut Signals, end: &End, stop: impl Fn() -> Stop) -> i32 {
    let dies = end.after_ms.or(end.signal.map(|_| 0));
    let mut deadline = dies.map(|after| Instant::now() + Duration::from_millis(after));
    let mut stopping = None;
    while let Some(signal) = signals.next(deadline) {
        log.write("signal", json!({"signal": signal}));
        let stop = stop();
        if stopping.is_none() && (!stop.ignored || signal == SIGQUIT) {
            stopping = Some(stop.code);
            deadline = Some(Instant::now() + Duration::from_millis(stop.linger_ms));
        }
    }
    match (stopping, end.signal) {
        (Some(code), _) => code,
        (None, Some(signal)) => {
            log.write("dies", json!({"signal": signal}));
            die_of(signal);
            end.code
        }
        (None, None) => end.code,
    }
}

/// The arguments, which are text.
pub(crate) fn arguments() -> Vec<String> {
    std::env::args_os().skip(1).map(OsString::into_string).map(Result::unwrap).collect()
}

/// The value of `--name value` or `--name=value`.
pub(crate) fn flag<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    args.iter().enumerate().find_map(|(index, word)| match word.strip_prefix(name)? {
        "" => args.get(index + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    })
}

/// Says what it was told, for commands that mean nothing to it.
pub(crate) fn echo(args: &[String], code: i32) -> i32 {
    println!("args: {}", args.join(" "));
    code
}

/// JSON without an end, until the reader goes away, which Rust programs see as an error and not as SIGPIPE.
pub(crate) fn never_stop_writing(begin: &str) -> i32 {
    let mut stdout = std::io::stdout().lock();
    let mut chunk = begin.as_bytes().to_vec();
    loop {
        if stdout.write_all(&chunk).and_then(|()| stdout.flush()).is_err() {
            return 1;
        }
        chunk.clear();
        chunk.resize(64 * 1024, b'a');
    }
}

pub(crate) fn sleep_for_good() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// A lock that only one may hold; to be kept until the end. `None` if another has it.
pub(crate) fn lock(path: impl AsRef<Path>) -> Option<File> {
    let file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| file)
}

/// Opens data whose schema is noted in this file; false if it is newer than this version.
pub(crate) fn take_state(state: &Path, version: &str, migrates: bool) -> bool {
    let schema = fs::read(state)
        .ok()
        .map(|bytes| serde_json::from_slice::<Value>(&bytes).unwrap()["schema"].as_str().unwrap().to_owned());
    if schema.as_deref().is_some_and(|schema| numbers(schema) > numbers(version)) {
        return false;
    }
    if schema.is_none() || migrates {
        fs::create_dir_all(state.parent().unwrap()).unwrap();
        replace(state, &json!({"schema": version}).to_string());
    }
    true
}

/// Writes a file so that whoever reads it sees all of it, also after a power cut.
pub(crate) fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("beside");
    let mut file = File::create(&beside).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.sync_all().unwrap();
    fs::rename(&beside, path).unwrap();
    File::open(path.parent().unwrap()).unwrap().sync_all().unwrap();
}

fn numbers(version: &str) -> Vec<u64> {
    version.trim_start_matches('v').split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

fn die_of(signal: i32) {
    // A test has no use for a core dump in its folder.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).ok();
    signal_hook::low_level::emulate_default_handler(signal).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_found_as_a_flag() {
        let args = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (text, found) in [
            ("start --home /x", Some("/x")),
            ("start --home=/x --other", Some("/x")),
            ("start --tendermint-home /y --home /x", Some("/x")),
            ("start --homeless /y", None),
            ("start --home", None),
        ] {
            assert_eq!(flag(&args(text), "--home"), found, "{text}");
        }
    }

    #[test]
    fn data_of_a_newer_version_are_refused_and_left() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state/node/state.json");
        for (version, taken) in [
            ("v0.74.0", true),
            ("v0.74.10", true),
            ("v0.74.9", false),
            ("v0.75.0-preview.1", true),
            ("v0.74.10", false),
        ] {
            assert_eq!(take_state(&state, version, true), taken, "{version}");
        }
        assert_eq!(fs::read_to_string(state).unwrap(), r#"{"schema":"v0.75.0-preview.1"}"#);
    }
}
