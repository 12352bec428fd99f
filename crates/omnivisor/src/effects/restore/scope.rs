//! What a restore moves, and what stays where it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::effects::data::Data;

/// What is moved, and what is not.
pub(super) struct Scope<'a> {
    pub(super) data: &'a Data,
    /// These are not, wherever they are: what stands apart, and every monotonic file, live or in the snapshot.
    pub(super) kept: BTreeSet<PathBuf>,
    /// Only these are, if there are any.
    pub(super) only: Vec<PathBuf>,
}

/// What of an entry is moved.
pub(super) enum Moved {
    Nothing,
    /// Something of what is in it.
    Parts,
    All,
}

impl Scope<'_> {
    pub(super) fn has(&self, path: &Path) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| path.starts_with(only))
    }

    pub(super) fn of(&self, path: &Path, there: &Path) -> Moved {
        let is_folder = self.data.is_root(path) || fs::symlink_metadata(there).is_ok_and(|it| it.is_dir());
        if self.kept.contains(path) {
            Moved::Nothing
        } else if self.has(path) {
            let holds_kept = is_folder && self.kept.iter().any(|kept| kept.starts_with(path));
            if holds_kept || self.data.is_root(path) { Moved::Parts } else { Moved::All }
        } else if is_folder && self.only.iter().any(|only| only.starts_with(path)) {
            Moved::Parts
        } else {
            Moved::Nothing
        }
    }
}
