//! The lines that fake daemons write, read by `node_log`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::node_log::Kind;
use crate::process;

/// The log at `$FAKE_NODE_LOG`; without the variable nothing is logged.
pub(crate) struct Log<'a> {
    file: Option<File>,
    path: Option<PathBuf>,
    version: &'a str,
    kind: Option<Kind>,
}

impl<'a> Log<'a> {
    /// `kind` tells processes of one version apart.
    pub(crate) fn open(version: &'a str, kind: Option<Kind>) -> Self {
        Self::at(std::env::var_os("FAKE_NODE_LOG").map(PathBuf::from), version, kind)
    }

    /// The log at this path.
    pub(crate) fn at(path: Option<PathBuf>, version: &'a str, kind: Option<Kind>) -> Self {
        let file = path.as_ref().map(|path| OpenOptions::new().append(true).create(true).open(path).unwrap());
        Self { file, path, version, kind }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> Option<&PathBuf> {
        self.path.as_ref()
    }

    /// One line in one write, so that the lines of two nodes do not mix.
    pub(crate) fn write(&self, event: &str, mut fields: Value) {
        let Some(mut file) = self.file.as_ref() else { return };
        let now = clock_gettime(ClockId::Monotonic);
        fields["event"] = event.into();
        fields["pid"] = std::process::id().into();
        fields["version"] = self.version.into();
        fields["mono_ns"] = (now.tv_sec * 1_000_000_000 + now.tv_nsec).into();
        if let Some(kind) = self.kind {
            fields["kind"] = json!(kind);
        }
        file.write_all(format!("{fields}\n").as_bytes()).unwrap();
    }

    /// It runs, with these arguments.
    pub(crate) fn start(&self, args: &[String]) {
        self.write("start", json!({"args": args, "started": process::started(std::process::id())}));
    }

    /// It ends with this code, which is handed back.
    pub(crate) fn exit(&self, code: i32) -> i32 {
        self.write("exit", json!({"code": code}));
        code
    }
}
