//! What /proc says about a process. Nothing here signals one except [`kill_if`].

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// When a process was started, in ticks since boot, which with its id names it for good; `None` if it is no more
/// or only waits to be reaped.
pub(crate) fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything; what follows the last one is numbers: state, ppid, …
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    // Field 22 of the line; the state was field 3.
    fields.nth(18)?.parse().ok()
}

/// Whether a process has a variable in its environment whose value is a path below `folder`.
pub(crate) fn has_variable_below(pid: u32, variable: &str, folder: &Path) -> bool {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ.split(|byte| *byte == 0).any(|entry| {
        entry
            .strip_prefix(variable.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="))
            .is_some_and(|value| Path::new(std::ffi::OsStr::from_bytes(value)).starts_with(folder))
    })
}

/// Every process but this one.
pub(crate) fn all() -> Vec<u32> {
    let own = std::process::id();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .collect()
}

/// Kills a process if `condition` holds for it; says whether it held. The process is pinned first, so that none which
/// got the same id meanwhile is hit.
pub(crate) fn kill_if(pid: u32, condition: impl FnOnce(u32) -> bool) -> bool {
    let Some(pinned) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(pinned) = pidfd_open(pinned, PidfdFlags::empty()) else { return false };
    condition(pid) && pidfd_send_signal(pinned, Signal::KILL).is_ok()
}
