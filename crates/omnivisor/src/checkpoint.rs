//! Named points at which a test makes this program die or fail, so that recovery is tested where it matters.
//!
//! | variable | what |
//! |---|---|
//! | `OMNIVISOR_CHECKPOINT=name` (or `name:3`: when it is reached for the third time) | where; `*` is every call that changes a disk |
//! | `OMNIVISOR_FAULT` | `KILL`, the default: SIGKILL. `ENOSPC`, `EIO` or `EACCES`: the call that is about to be made fails with it; with a `*` behind it, so does every later call that changes a disk |
//! | `OMNIVISOR_CHECKPOINT_GATE=socket` | before each call that changes a disk its name is written there, a line each, and an answer of one byte waited for |
//! | `OMNIVISOR_CHECKPOINTS_REACHED=file` | each name that is reached is written there, a line each |
//! | `OMNIVISOR_MISBEHAVE=name:how` | at `replacement` (an image that is to take over) or `check` (one that is asked whether it could): `hang`, `panic`, `exit`, `abort` |
//!
//! The points are those of [`reach`], and every call of [`store::disk`](crate::store::disk), by the name that it has there. Debug builds only: a
//! release cannot be told to die.

use std::io;

/// Says that the point called `name` was reached, at which no call can fail.
pub fn reach(name: &str) {
    #[cfg(debug_assertions)]
    let _ = armed::pass(name, false);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// Says that the point called `name` was reached, at which a call is about to be made that may fail.
pub fn pass(name: &str) -> io::Result<()> {
    #[cfg(debug_assertions)]
    return armed::pass(name, true);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        Ok(())
    }
}

/// Goes wrong at the point called `name`, if a test wants it: never in a release.
pub fn misbehave(name: &str) {
    #[cfg(debug_assertions)]
    armed::misbehave(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::fs::{File, OpenOptions};
    use std::io::{self, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::{Mutex, OnceLock, PoisonError};

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

    struct Wanted {
        name: String,
        times: usize,
        /// None: it dies.
        error: Option<Errno>,
        /// Whether all that comes after it fails, too.
        lasts: bool,
        reached: AtomicUsize,
        failing: AtomicBool,
    }

    #[allow(clippy::panic, clippy::exit, reason = "that is what is asked for")]
    pub(super) fn misbehave(name: &str) {
        let wanted = std::env::var("OMNIVISOR_MISBEHAVE").unwrap_or_default();
        match wanted.split_once(':') {
            Some((at, "hang")) if at == name => loop {
                std::thread::park();
            },
            Some((at, "panic")) if at == name => panic!("as a test wants it"),
            Some((at, "exit")) if at == name => std::process::exit(1),
            Some((at, "abort")) if at == name => std::process::abort(),
            _ => {}
        }
    }

    pub(super) fn pass(name: &str, may_fail: bool) -> io::Result<()> {
        static REACHED: OnceLock<Option<File>> = OnceLock::new();
        static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
        let kept = REACHED.get_or_init(|| {
            let path = std::env::var_os("OMNIVISOR_CHECKPOINTS_REACHED")?;
            OpenOptions::new().append(true).create(true).open(path).ok()
        });
        if let Some(mut kept) = kept.as_ref() {
            let _ = kept.write_all(format!("{name}\n").as_bytes());
        }
        if may_fail {
            wait_at_gate(name);
        }
        let Some(wanted) = WANTED.get_or_init(wanted) else { return Ok(()) };
        let hit = (wanted.name == name || wanted.name == "*" && may_fail)
            && wanted.reached.fetch_add(1, Ordering::SeqCst) + 1 == wanted.times;
        let fails = hit || wanted.failing.load(Ordering::SeqCst);
        if hit {
            wanted.failing.store(wanted.lasts, Ordering::SeqCst);
        }
        match wanted.error {
            Some(error) if fails && may_fail => Err(error.into()),
            None if hit => {
                let _ = kill_process(getpid(), Signal::KILL);
                loop {
                    std::thread::park();
                }
            }
            _ => Ok(()),
        }
    }

    fn wait_at_gate(name: &str) {
        static GATE: OnceLock<Option<Mutex<UnixStream>>> = OnceLock::new();
        let gate = GATE.get_or_init(|| {
            let path = std::env::var_os("OMNIVISOR_CHECKPOINT_GATE")?;
            UnixStream::connect(path).ok().map(Mutex::new)
        });
        if let Some(gate) = gate {
            let mut gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever has gone away wants nothing any more.
            let _ = gate.write_all(format!("{name}\n").as_bytes()).and_then(|()| gate.read_exact(&mut [0]));
        }
    }

    fn wanted() -> Option<Wanted> {
        let text = std::env::var("OMNIVISOR_CHECKPOINT").ok()?;
        let (name, times) = text.rsplit_once(':').unwrap_or((&text, "1"));
        let fault = std::env::var("OMNIVISOR_FAULT").unwrap_or_else(|_| "KILL".to_owned());
        let error = match fault.trim_end_matches('*') {
            "ENOSPC" => Some(Errno::NOSPC),
            "EIO" => Some(Errno::IO),
            "EACCES" => Some(Errno::ACCESS),
            _ => None,
        };
        Some(Wanted {
            name: name.to_owned(),
            times: times.parse().ok()?,
            error,
            lasts: fault.ends_with('*'),
            reached: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
        })
    }
}
