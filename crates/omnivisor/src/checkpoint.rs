//! Named points at which a test makes this program die, so that recovery is tested where it matters.
//!
//! `OMNIVISOR_CHECKPOINT=name` (or `name:3`, for the third time it is reached) ends the process there by SIGKILL. Debug
//! builds only: a release cannot be told to die.

/// Says that the point called `name` was reached.
#[cfg(debug_assertions)]
pub fn reach(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static WANTED: OnceLock<Option<(String, usize)>> = OnceLock::new();
    static REACHED: AtomicUsize = AtomicUsize::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("OMNIVISOR_CHECKPOINT").ok()?;
        let (name, times) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), times.parse().ok()?))
    });
    if let Some((wanted, times)) = wanted
        && wanted == name
        && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == *times
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::thread::park();
    }
}

/// Says that the point called `name` was reached, which means nothing in a release.
#[cfg(not(debug_assertions))]
pub fn reach(_name: &str) {}
