//! How `config.toml` is read, value by value.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path};
use std::time::Duration;

use super::outdated::outdated;
use super::{
    ASSET_NAME, AUTO_INSTALL, Asset, AutoInstall, BINARY_NAME, ConfigError, ENABLED, FILE_NAME, KNOWN, OWNER,
    REPOSITORY, UPGRADE_FOLDERS, Warning,
};
use crate::dialect::vega::STATE_FOLDER;
use crate::dialect::vega::tables::Document;
use crate::release::ReleaseName;

/// A longer delay than a year is a slip of the unit.
const LONGEST_DELAY: u64 = 366 * 24 * 60 * 60;

/// As many as Go's `int` holds: people write it for "without a limit".
const MOST: u64 = i64::MAX as u64;

const TAG: &str = "a release's tag in quotes, and in quotes a folder below the home, such as \"v0.74.0\" = \"v0.74.0\"";

/// The file, and what is to be said about it.
pub(super) struct Source<'a> {
    document: Document<'a>,
    warnings: Vec<Warning>,
}

impl<'a> Source<'a> {
    pub(super) fn open(text: &'a str) -> Result<Self, ConfigError> {
        Ok(Self { document: Document::parse(FILE_NAME, text)?, warnings: Vec::new() })
    }

    /// All there is to be said, once everything was read.
    pub(super) fn warnings(mut self, asset_name: &str) -> Vec<Warning> {
        for unknown in self.document.unknown(&KNOWN, &[UPGRADE_FOLDERS]) {
            self.warnings.push(outdated(&unknown, asset_name).unwrap_or_else(|| unknown.misspelt(&KNOWN)));
        }
        self.warnings
    }

    fn left_out(&mut self, key: &str, taken: impl fmt::Display, peer: &str) {
        let warning = format!("{FILE_NAME}: {key} is left out: {taken} is taken, where Vega Visor takes {peer}");
        self.warnings.push(Warning(warning));
    }

    fn number(&mut self, key: &str, default: u64, most: u64) -> Result<u64, ConfigError> {
        if let Some(number) = self.document.number(key, most, "a whole number that is not negative, such as 3")? {
            return Ok(number);
        }
        if default != 0 {
            self.left_out(key, default, "0");
        }
        Ok(default)
    }

    pub(super) fn count(&mut self, key: &str, default: u64) -> Result<u64, ConfigError> {
        self.number(key, default, MOST)
    }

    pub(super) fn seconds(&mut self, key: &str, default: u64) -> Result<Duration, ConfigError> {
        self.number(key, default, LONGEST_DELAY).map(Duration::from_secs)
    }

    pub(super) fn upgrade_folders(&self) -> Result<BTreeMap<String, String>, ConfigError> {
        let mut folders = BTreeMap::new();
        for (tag, found) in self.document.entries(UPGRADE_FOLDERS)? {
            // `v0.74.0` without quotes is a table `v0` with a table `74`.
            let Some(folder) = found.value.get_ref().as_str() else {
                return Err(self.document.wrong_kind(&found, TAG));
            };
            ReleaseName::parse(&tag).map_err(|error| self.document.wrong(&found, error, TAG))?;
            let folder = folder_below_home(folder).map_err(|reason| self.document.wrong(&found, reason, TAG))?;
            folders.insert(tag, folder);
        }
        Ok(folders)
    }

    pub(super) fn auto_install(&mut self, asset_name: &str) -> Result<AutoInstall, ConfigError> {
        let enabled = match self.document.boolean(ENABLED)? {
            Some(enabled) => enabled,
            None if !self.document.has_table(AUTO_INSTALL)? => false,
            None => {
                self.left_out(ENABLED, "true", "false");
                true
            }
        };
        const REPOSITORY_NAME: &str = "one name as GitHub allows it: letters, digits, `-`, `_` and `.`";
        let name = |key, default: &str, source: &mut Self| {
            let value = source.or_default(key, default, enabled)?;
            let plain = |it: char| it.is_ascii_alphanumeric() || "-_.".contains(it);
            if value.chars().all(plain) && value.chars().any(|it| it != '.') {
                return Ok(value);
            }
            Err(source.document.wrong_at(key, "it cannot be a part of an address", REPOSITORY_NAME))
        };
        Ok(AutoInstall {
            enabled,
            owner: name(OWNER, "vegaprotocol", self)?,
            repository: name(REPOSITORY, "vega", self)?,
            asset: self.asset(asset_name, enabled)?,
        })
    }

    fn asset(&mut self, usual: &str, enabled: bool) -> Result<Asset, ConfigError> {
        let is_named = self.document.text(ASSET_NAME)?.is_some_and(|name| !name.is_empty());
        let name = self.or_default(ASSET_NAME, usual, enabled)?;
        if plain_components(&name).is_none_or(|parts| parts.len() != 1 || name.contains('/')) {
            return Err(self.document.wrong_at(ASSET_NAME, "it is no file's name", "the name of a release's file"));
        }
        let binary_name = self.document.text(BINARY_NAME)?.filter(|name| !name.is_empty());
        let binary_name = match binary_name {
            Some(name) => match plain_components(&name) {
                Some(parts) => Some(parts.join("/")),
                None => {
                    let right = "the path of the executable in the archive, such as \"vega\"";
                    return Err(self.document.wrong_at(BINARY_NAME, "it leads out of the release's folder", right));
                }
            },
            // An archive is never the executable itself.
            None if !is_named || name.to_ascii_lowercase().ends_with(".zip") => {
                if is_named && enabled {
                    self.left_out(BINARY_NAME, "\"vega\"", "the archive itself for the executable");
                }
                Some("vega".to_owned())
            }
            None => None,
        };
        Ok(Asset { name, binary_name })
    }

    /// A text that is not empty, or its default, which is said if anything comes of it.
    fn or_default(&mut self, key: &str, default: &str, matters: bool) -> Result<String, ConfigError> {
        if let Some(text) = self.document.text(key)?.filter(|text| !text.is_empty()) {
            return Ok(text);
        }
        if matters {
            self.left_out(key, format_args!("{default:?}"), "nothing, and fails at the upgrade");
        }
        Ok(default.to_owned())
    }
}

/// The path of a folder below the home, without what changes nothing.
fn folder_below_home(folder: &str) -> Result<String, &'static str> {
    let parts = plain_components(folder).ok_or("it is no folder below the home")?;
    match parts[..] {
        ["current", ..] => Err("that is the link to the active release"),
        [STATE_FOLDER, ..] => Err("that is where the supervisor keeps its state"),
        _ => Ok(parts.join("/")),
    }
}

/// The components of a relative path that does not lead upwards; none if it is another one.
fn plain_components(path: &str) -> Option<Vec<&str>> {
    if path.chars().any(char::is_control) {
        return None;
    }
    let mut parts = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!parts.is_empty()).then_some(parts)
}
