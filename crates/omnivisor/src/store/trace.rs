//! What is done to the disk, as it is done: for tests, which fail a call, kill the program at it, or keep it in order to ask
//! what the disk may hold if the power goes. A release keeps nothing, and cannot be made to fail.

use std::io;
use std::path::{Path, PathBuf};

/// One call that has changed what a disk holds, or made that durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is what its function in `disk` says")]
pub enum Call {
    MakeFile { path: PathBuf },
    Write { path: PathBuf, at: u64, bytes: Vec<u8> },
    Copy { path: PathBuf },
    Flush { path: PathBuf },
    FlushFolder { path: PathBuf },
    FlushAll { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Exchange { one: PathBuf, other: PathBuf },
    Link { path: PathBuf, target: PathBuf },
    HardLink { path: PathBuf, file: PathBuf },
    MakePipe { path: PathBuf },
    MakeFolder { path: PathBuf },
    Remove { path: PathBuf },
}

impl Call {
    /// What is done.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::MakeFile { .. } => "make",
            Self::Write { .. } => "write",
            Self::Copy { .. } => "copy",
            Self::Flush { .. } => "flush",
            Self::FlushFolder { .. } => "flush-folder",
            Self::FlushAll { .. } => "flush-all",
            Self::Rename { .. } => "rename",
            Self::Exchange { .. } => "exchange",
            Self::Link { .. } => "link",
            Self::HardLink { .. } => "hard-link",
            Self::MakePipe { .. } => "make-pipe",
            Self::MakeFolder { .. } => "make-folder",
            Self::Remove { .. } => "remove",
        }
    }

    /// What it is done to.
    pub fn path(&self) -> &Path {
        match self {
            Self::Rename { to, .. } => to,
            Self::Exchange { other, .. } => other,
            Self::MakeFile { path }
            | Self::Write { path, .. }
            | Self::Copy { path }
            | Self::Flush { path }
            | Self::FlushFolder { path }
            | Self::FlushAll { path }
            | Self::Link { path, .. }
            | Self::HardLink { path, .. }
            | Self::MakePipe { path }
            | Self::MakeFolder { path }
            | Self::Remove { path } => path,
        }
    }

    /// The same name for the same call in every run: its verb, and the last part of its path, without what differs.
    pub fn name(&self) -> String {
        let name = self.path().file_name().unwrap_or_default().to_string_lossy();
        format!("{} {}", self.verb(), lasting(&name))
    }
}

/// A file's name without the writer's number, and without digests.
fn lasting(name: &str) -> String {
    let name = match name.strip_suffix(super::atomic::UNFINISHED) {
        Some(hidden) => {
            let name = hidden.strip_prefix('.').unwrap_or(hidden);
            let writer = name.rsplit_once('.').filter(|(_, writer)| writer.starts_with(|it: char| it.is_ascii_digit()));
            writer.map_or(name, |(name, _)| name)
        }
        None => name,
    };
    let mut lasting = String::new();
    for part in name.split_inclusive(|letter: char| !letter.is_ascii_hexdigit()) {
        let digits = part.trim_end_matches(|letter: char| !letter.is_ascii_hexdigit());
        match digits.len() >= 12 {
            true => lasting.extend(["#", &part[digits.len()..]]),
            false => lasting.push_str(part),
        }
    }
    lasting
}

/// Makes the call, unless a test wants it to fail.
#[cfg(debug_assertions)]
pub(super) fn perform<T>(call: impl FnOnce() -> Call, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let call = call();
    crate::checkpoint::pass(&call.name())?;
    let result = make()?;
    recording::keep(call);
    Ok(result)
}

/// Makes the call.
#[cfg(not(debug_assertions))]
pub(super) fn perform<T>(_: impl FnOnce() -> Call, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    make()
}

#[cfg(debug_assertions)]
pub use recording::Recording;

#[cfg(debug_assertions)]
mod recording {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, PoisonError};

    use super::Call;

    static UNDER_WAY: Mutex<Vec<(PathBuf, Vec<Call>)>> = Mutex::new(Vec::new());

    /// Keeps every call on what is in one folder, in order, whichever thread makes it.
    pub struct Recording(PathBuf);

    impl Recording {
        /// Begins.
        pub fn of(folder: &Path) -> Self {
            UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner).push((folder.to_owned(), Vec::new()));
            Self(folder.to_owned())
        }

        /// Ends, and says what was done.
        pub fn end(self) -> Vec<Call> {
            let mut all = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
            let position = all.iter().position(|(folder, _)| *folder == self.0);
            position.map_or(Vec::new(), |position| all.swap_remove(position).1)
        }
    }

    /// A copy is kept as what it amounts to: a new file, and all its bytes.
    pub(super) fn keep(call: Call) {
        let mut all = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = all.iter_mut().find(|(folder, _)| call.path().starts_with(folder));
        let Some((_, calls)) = kept else { return };
        if let Call::Copy { path } = call {
            let bytes = fs::read(&path).unwrap_or_default();
            calls.push(Call::MakeFile { path: path.clone() });
            calls.push(Call::Write { path, at: 0, bytes });
        } else {
            calls.push(call);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_the_same_name_in_every_run() {
        let name = |path: &str| Call::Flush { path: path.into() }.name();
        assert_eq!(name("/a/.current.4711-3.omnivisor-new"), "flush current");
        assert_eq!(name("/a/.upgrade-plan.json.4711-12.omnivisor-new"), "flush upgrade-plan.json");
        assert_eq!(name("/a/nym-node.omnivisor-new"), "flush nym-node");
        assert_eq!(name("/staging/0123456789abcdef"), "flush #");
        assert_eq!(name("/upgrades/2024.9@0123456789ab"), "flush 2024.9@#");
        assert_eq!(name("/state/journal"), "flush journal");
    }
}
