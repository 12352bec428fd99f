//! The configuration as `config.toml`, read and written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{Config, ConfigError, Warning, duration, path, polling_rate, url, wrong};

/// The first line of the files that this program writes. Others may be Nymvisor's, which escapes values as if for HTML.
pub const MARKER: &str = "# written by omnivisor, scheme 1";

/// What Nymvisor writes for certain characters.
const HTML: [(&str, char); 7] =
    [("&amp;", '&'), ("&lt;", '<'), ("&gt;", '>'), ("&quot;", '"'), ("&#x27;", '\''), ("&#x3D;", '='), ("&#x60;", '`')];

/// The keys of the file, in its order, which is also the order in which they are printed as JSON.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct File {
    pub(super) nymvisor: NymvisorTable,
    pub(super) daemon: DaemonTable,
    #[serde(flatten, skip_serializing)]
    pub(super) unknown: BTreeMap<String, IgnoredAny>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct NymvisorTable {
    pub(super) id: Option<String>,
    pub(super) upstream_base_upgrade_url: Option<String>,
    pub(super) upstream_polling_rate: Option<String>,
    pub(super) disable_logs: Option<bool>,
    pub(super) upgrade_data_directory: Option<String>,
    #[serde(flatten, skip_serializing)]
    pub(super) unknown: BTreeMap<String, IgnoredAny>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct DaemonTable {
    pub(super) name: Option<String>,
    pub(super) home: Option<String>,
    pub(super) absolute_upstream_upgrade_url: Option<String>,
    pub(super) allow_binaries_download: Option<bool>,
    pub(super) enforce_download_checksum: Option<bool>,
    pub(super) restart_after_upgrade: Option<bool>,
    pub(super) restart_on_failure: Option<bool>,
    pub(super) failure_restart_delay: Option<String>,
    pub(super) max_startup_failures: Option<usize>,
    pub(super) startup_period_duration: Option<String>,
    pub(super) shutdown_grace_period: Option<String>,
    pub(super) backup_data_directory: Option<String>,
    pub(super) unsafe_skip_backup: Option<bool>,
    #[serde(flatten, skip_serializing)]
    pub(super) unknown: BTreeMap<String, IgnoredAny>,
}

/// The scheme of a file that this program has written; none if it is Nymvisor's, of whatever age.
fn scheme(text: &str) -> Option<&str> {
    let begin = MARKER.trim_end_matches(|character: char| character.is_ascii_digit());
    text.lines().next()?.trim_end().strip_prefix(begin)
}

/// How the strings of a file are to be understood.
struct Strings {
    escaped: bool,
    warnings: Vec<Warning>,
}

impl Strings {
    /// The value of a key; an empty one counts as absent.
    fn get(&mut self, key: &str, value: Option<String>) -> Option<String> {
        let written = value.filter(|value| !value.is_empty())?;
        let value = if self.escaped { unescape(&written) } else { return Some(written) };
        if value != written {
            let warning = format!("{key} = {written:?} is read as {value:?}, because Nymvisor escapes what it writes");
            self.warnings.push(Warning(warning));
        }
        Some(value)
    }

    fn parsed<T>(
        &mut self,
        key: &str,
        value: Option<String>,
        parse: impl Fn(&str, &str) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        self.get(key, value).map(|value| parse(key, &value)).transpose()
    }
}

/// Takes back the escapes, once: what was escaped twice was meant to look escaped.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let (length, character) = HTML
            .iter()
            .find(|(escape, _)| rest.starts_with(escape))
            .map_or((1, '&'), |(escape, character)| (escape.len(), *character));
        plain.push(character);
        rest = &rest[length..];
    }
    plain + rest
}

impl Config {
    /// Reads a file, this program's or Nymvisor's. What it leaves out is as documented; what it has too much is a warning.
    pub fn from_toml(text: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        let File { nymvisor, daemon, unknown } = toml::from_str(text)?;
        let scheme = scheme(text);
        let mut strings = Strings { escaped: scheme.is_none(), warnings: Vec::new() };
        if let Some(scheme) = scheme.filter(|scheme| *scheme != "1") {
            let scheme: String = scheme.chars().take(20).collect();
            let warning =
                format!("the file is of scheme {scheme:?}, which this version does not know: read like scheme 1");
            strings.warnings.push(Warning(warning));
        }
        let tables = [("", unknown), ("nymvisor.", nymvisor.unknown), ("daemon.", daemon.unknown)];
        for (table, unknown) in &tables {
            for key in unknown.keys() {
                strings.warnings.push(Warning(format!("{table}{key} is ignored: no setting has this name")));
            }
        }

        let missing = |key, right| ConfigError::Missing { key, right };
        let id = strings.get("nymvisor.id", nymvisor.id);
        let id = id.ok_or_else(|| missing("nymvisor.id", "what the instance is called, such as 'nym-node-default'"))?;
        let name = strings.get("daemon.name", daemon.name);
        let name = name.ok_or_else(|| missing("daemon.name", "the file name of the executable, such as 'nym-node'"))?;
        let home = strings.get("daemon.home", daemon.home);
        let home = home.ok_or_else(|| missing("daemon.home", "the directory with the daemon's own data"))?;
        let mut config = Self::new(&name, Path::new(&home), &id)?;

        let directory = |key: &str, value: &str| path(key, value.as_ref());
        config.apply(super::Fragment {
            upstream_base_upgrade_url: strings.parsed(
                "nymvisor.upstream_base_upgrade_url",
                nymvisor.upstream_base_upgrade_url,
                url,
            )?,
            upstream_polling_rate: strings.parsed(
                "nymvisor.upstream_polling_rate",
                nymvisor.upstream_polling_rate,
                polling_rate,
            )?,
            disable_logs: nymvisor.disable_logs,
            upgrade_data_directory: strings.parsed(
                "nymvisor.upgrade_data_directory",
                nymvisor.upgrade_data_directory,
                directory,
            )?,
            absolute_upstream_upgrade_url: strings.parsed(
                "daemon.absolute_upstream_upgrade_url",
                daemon.absolute_upstream_upgrade_url,
                url,
            )?,
            allow_binaries_download: daemon.allow_binaries_download,
            enforce_download_checksum: daemon.enforce_download_checksum,
            restart_after_upgrade: daemon.restart_after_upgrade,
            restart_on_failure: daemon.restart_on_failure,
            failure_restart_delay: strings.parsed(
                "daemon.failure_restart_delay",
                daemon.failure_restart_delay,
                duration,
            )?,
            max_startup_failures: daemon.max_startup_failures,
            startup_period_duration: strings.parsed(
                "daemon.startup_period_duration",
                daemon.startup_period_duration,
                duration,
            )?,
            shutdown_grace_period: strings.parsed(
                "daemon.shutdown_grace_period",
                daemon.shutdown_grace_period,
                duration,
            )?,
            backup_data_directory: strings.parsed(
                "daemon.backup_data_directory",
                daemon.backup_data_directory,
                directory,
            )?,
            unsafe_skip_backup: daemon.unsafe_skip_backup,
            ..super::Fragment::default()
        });
        Ok((config, strings.warnings))
    }

    /// Writes the file. Nymvisor can read it, too: it has exactly its keys, and comments. Fails only if a path is not
    /// UTF-8.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let home = quoted_path("daemon.home", Some(&self.home))?;
        let data = quoted_path("nymvisor.upgrade_data_directory", self.upgrade_data_directory.as_deref())?;
        let backups = quoted_path("daemon.backup_data_directory", self.backup_data_directory.as_deref())?;
        let time = |duration| quoted(&human(duration));
        let failures = i64::try_from(self.max_startup_failures).unwrap_or(i64::MAX).to_string();
        let entries = [
            ("What this instance is called.", "id", quoted(&self.id)),
            (
                "Announcements are read from <this>/<daemon name>/upgrade-info.json.",
                "upstream_base_upgrade_url",
                quoted(self.upstream_base_upgrade_url.as_str()),
            ),
            ("How often. At least '1s'.", "upstream_polling_rate", time(self.upstream_polling_rate)),
            ("Whether to print no log of our own; the daemon's stays.", "disable_logs", self.disable_logs.to_string()),
            ("Where executables and the plan are kept; empty: the usual place.", "upgrade_data_directory", data),
            ("The daemon's name, and the file name of its executable.", "name", quoted(&self.name)),
            ("The directory with the daemon's own data.", "home", home),
            (
                "The full address of the announcements, if it is not made of the base above.",
                "absolute_upstream_upgrade_url",
                quoted(self.absolute_upstream_upgrade_url.as_ref().map_or("", Url::as_str)),
            ),
            (
                "Whether executables may be downloaded. If not, they have to be placed by hand.",
                "allow_binaries_download",
                self.allow_binaries_download.to_string(),
            ),
            (
                "Whether a download without a checksum is refused. A checksum that is given is always checked.",
                "enforce_download_checksum",
                self.enforce_download_checksum.to_string(),
            ),
            (
                "Whether to start the daemon again after an upgrade, instead of ending.",
                "restart_after_upgrade",
                self.restart_after_upgrade.to_string(),
            ),
            ("Whether to start it again after a failure.", "restart_on_failure", self.restart_on_failure.to_string()),
            ("How long to wait before that.", "failure_restart_delay", time(self.failure_restart_delay)),
            ("How many failures in a row while it starts are too many.", "max_startup_failures", failures),
            ("For how long it counts as starting.", "startup_period_duration", time(self.startup_period_duration)),
            (
                "How long it may take to stop before it is killed.",
                "shutdown_grace_period",
                time(self.shutdown_grace_period),
            ),
            ("Where backups are put; empty: below the daemon's home.", "backup_data_directory", backups),
            ("Whether to upgrade without a backup.", "unsafe_skip_backup", self.unsafe_skip_backup.to_string()),
        ];
        let mut text = format!("{MARKER}\n");
        for (comment, key, value) in entries {
            match key {
                "id" => text.push_str("\n[nymvisor]\n"),
                "name" => text.push_str("\n[daemon]\n"),
                _ => text.push('\n'),
            }
            // Writing into a string cannot fail.
            let _ = writeln!(text, "# {comment}\n{key} = {value}");
        }
        Ok(text)
    }
}

/// A duration as both programs write it.
pub(super) fn human(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// A path for people to read.
pub(super) fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn quoted_path(key: &str, path: Option<&Path>) -> Result<String, ConfigError> {
    let Some(path) = path else { return Ok(quoted("")) };
    let text = path.to_str().ok_or_else(|| wrong(key, &lossy(path), "it is not UTF-8", "a path in UTF-8"))?;
    Ok(quoted(text))
}

/// A TOML string: in single quotes if it can be, as Nymvisor writes it.
fn quoted(text: &str) -> String {
    if !text.contains('\'') && !text.chars().any(char::is_control) {
        return format!("'{text}'");
    }
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_taken_back_once() {
        for (written, meant) in [
            ("&amp;lt;", "&lt;"),
            ("a&#x3D;b&amp;c", "a=b&c"),
            ("&#x27;&#x60;&quot;&lt;&gt;", "'`\"<>"),
            ("a&b &unknown; &#x3d;", "a&b &unknown; &#x3d;"),
            ("&", "&"),
            ("ü&amp;ü", "ü&ü"),
            ("", ""),
        ] {
            assert_eq!(unescape(written), meant, "{written}");
        }
    }

    #[test]
    fn strings_that_need_it_are_escaped() {
        assert_eq!(quoted("/a\\b\"c"), "'/a\\b\"c'");
        assert_eq!(quoted("it's \\ \"x\"\n"), r#""it's \\ \"x\"\u000A""#);
    }
}
