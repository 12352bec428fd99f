//! What is meant of a backup: all of it, or some paths with what is in them.

use std::path::{Path, PathBuf};

/// What is meant. A folder on the way to it is, too, without the rest of what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Only(Option<Vec<PathBuf>>);

impl Only {
    /// These paths, below the top of the backup; none is all of it.
    pub fn of(paths: &[PathBuf]) -> Self {
        Self((!paths.is_empty()).then(|| paths.to_vec()))
    }

    /// Whether nothing is left out.
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this is meant, or on the way to it.
    pub fn has(&self, path: &Path) -> bool {
        let is_meant = |only: &PathBuf| path.starts_with(only) || only.starts_with(path);
        self.0.as_ref().is_none_or(|paths| paths.iter().any(is_meant))
    }

    /// Whether this is a folder on the way to what is meant, and not meant itself.
    pub fn leads_to(&self, path: &Path) -> bool {
        self.0.as_ref().is_some_and(|paths| !paths.iter().any(|only| path.starts_with(only)))
    }

    /// The same, and these.
    pub fn and(&self, more: Vec<PathBuf>) -> Self {
        Self(self.0.as_ref().map(|paths| [paths.as_slice(), &more].concat()))
    }

    /// What is meant of it in a folder at its top, and nothing else.
    pub fn within(&self, folder: &Path) -> Self {
        let all = [folder.to_owned()];
        let paths = self.0.as_deref().unwrap_or(&all).iter();
        let whole = |path: &PathBuf| if folder.starts_with(path) { folder.to_owned() } else { path.clone() };
        Self(Some(paths.map(whole).filter(|path| path.starts_with(folder)).collect()))
    }

    /// What is meant of what is in a folder at its top.
    pub fn below(&self, folder: &Path) -> Self {
        let Some(paths) = &self.0 else { return Self(None) };
        if paths.iter().any(|path| folder.starts_with(path)) {
            return Self(None);
        }
        Self(Some(paths.iter().filter_map(|path| path.strip_prefix(folder).ok()).map(Path::to_owned).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_is_below_a_path_or_on_the_way_to_it() {
        let only = Only::of(&["core/config".into(), "data/db/one".into()]);
        for path in ["", "core", "core/config", "core/config/node.toml", "data", "data/db", "data/db/one/x"] {
            assert!(only.has(Path::new(path)), "{path}");
        }
        for path in ["core/configured", "core/state", "data/db/other", "more"] {
            assert!(!only.has(Path::new(path)), "{path}");
        }
        assert_eq!(only.below(Path::new("core")), Only::of(&["config".into()]));
        assert!(only.below(Path::new("core/config/more")).is_all());
        assert_eq!(only.within(Path::new("core")), Only::of(&["core/config".into()]));
        assert_eq!(Only::default().within(Path::new("core")), Only::of(&["core".into()]));
        let nothing = only.below(Path::new("more"));
        assert!(!nothing.is_all() && !nothing.has(Path::new("x")) && !nothing.has(Path::new("")));
        assert!(Only::of(&[]).is_all() && Only::default().has(Path::new("any")));
    }
}
