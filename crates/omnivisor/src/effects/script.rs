//! Which script a process executes. The kernel says of a script only which interpreter it is run by.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// What interpreters are called, without their version. What edits or shows a script has its path among its arguments, too.
const INTERPRETERS: [&str; 13] =
    ["ash", "bash", "busybox", "dash", "ksh", "lua", "node", "perl", "php", "python", "ruby", "sh", "zsh"];

/// How much of a name the kernel keeps.
const COMM: usize = 15;

/// The script that this process executes, and its arguments; also when its file has been deleted or replaced since.
/// `arguments` are the process's, without the first.
pub fn of(pid: i32, arguments: &[OsString]) -> Option<(PathBuf, Vec<OsString>)> {
    // What the first line of the script says for the interpreter comes before the script's name.
    let at = arguments.iter().position(|argument| !argument.as_bytes().starts_with(b"-"))?;
    let script = Path::new(&arguments[at]);
    let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
    // The kernel calls it like its script; unless `env`, say, has looked for the interpreter.
    let name = script.file_name()?.as_bytes();
    if comm != &name[..name.len().min(COMM)] && !is_interpreter(pid) {
        return None;
    }
    let folder = if script.is_absolute() { PathBuf::new() } else { fs::read_link(format!("/proc/{pid}/cwd")).ok()? };
    let path = folder.join(script).components().filter(|part| *part != Component::CurDir).collect();
    Some((path, arguments[at + 1..].to_vec()))
}

fn is_interpreter(pid: i32) -> bool {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = exe.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let name = name.trim_end_matches(" (deleted)").trim_end_matches(|it: char| it.is_ascii_digit() || it == '.');
    INTERPRETERS.contains(&name)
}
