//! Executables written so that they can be run at once. Which bytes they hold is the caller's affair.
//!
//! A file that any process holds open for writing cannot be executed (ETXTBSY), and tests run on threads of one process
//! which fork all the time: a child forked while a file is being written holds it too until it executes something. So
//! the writing is left to a child of ours, and this process never holds such a file open.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Copies an executable; mode 0755, and there at once and whole.
pub fn copy(from: &Path, to: &Path) {
    let mut source = std::fs::File::open(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    write(to, |sink| io::copy(&mut source, sink).map(|_| ()));
}

/// Writes an executable from a text, for daemons that are shell scripts.
pub fn script(to: &Path, text: &str) {
    write(to, |sink| sink.write_all(text.as_bytes()));
}

/// Writes an executable through `fill` to a name beside `to` and renames it; mode 0755.
pub fn write(to: &Path, fill: impl FnOnce(&mut ChildStdin) -> io::Result<()>) {
    let name = to.file_name().expect("an executable has a file name").to_string_lossy();
    let beside = to.with_file_name(format!(".{name}.minting"));
    let mut child = cat_into(&beside);
    let filled = fill(child.stdin.as_mut().unwrap());
    drop(child.stdin.take());
    let status = child.wait().unwrap();
    assert!(status.success(), "cannot write {}", beside.display());
    filled.unwrap_or_else(|error| panic!("cannot fill {}: {error}", beside.display()));
    std::fs::rename(&beside, to).unwrap_or_else(|error| panic!("cannot write {}: {error}", to.display()));
}

fn cat_into(path: &Path) -> Child {
    Command::new("/bin/sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("/bin/sh runs")
}
