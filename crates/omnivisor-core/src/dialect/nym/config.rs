//! How one instance is configured, whatever it was read from.
//!
//! [`Config`] is complete and checked; a [`Fragment`] is what the environment or the command line says, laid over it. The
//! environment's names are in `env`, the file in `text`, the printed forms in
//! `print`. Which file is the right one, and what the
//! arguments are called, is not known here.

mod env;
mod print;
mod text;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

pub use text::MARKER;

/// What a duration looks like, for errors.
const DURATION_HELP: &str = "a duration such as `10s` or `1h 30m`";

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The file is not TOML, or a value is of the wrong kind.
    #[error("cannot read the configuration: {0}")]
    Toml(#[from] toml::de::Error),
    /// Something is missing that cannot be guessed.
    #[error("cannot use the configuration: {key} is missing or empty; it has to be {right}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What would be right.
        right: &'static str,
    },
    /// A value cannot be used.
    #[error("cannot use {place} = {value:?}: {reason}; it has to be {right}")]
    Value {
        /// The key of the file or the name of the variable.
        place: String,
        /// What it is set to.
        value: String,
        /// Why that is wrong.
        reason: String,
        /// What would be right.
        right: &'static str,
    },
}

/// Something that was understood, but probably not meant so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The configuration of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the instance is called; also the folder of its configuration.
    pub id: String,
    /// Where announcements of all daemons are, `<daemon>/upgrade-info.json` below it.
    pub upstream_base_upgrade_url: Url,
    /// How often it is asked for a new one.
    pub upstream_polling_rate: Duration,
    /// Whether the supervisor is silent.
    pub disable_logs: bool,
    /// The upgrade data directory, if it is not the usual one.
    pub upgrade_data_directory: Option<PathBuf>,
    /// The daemon's name, which is also its executable's file name.
    pub name: String,
    /// The daemon's home.
    pub home: PathBuf,
    /// Where the daemon's announcements are, if not below the base.
    pub absolute_upstream_upgrade_url: Option<Url>,
    /// Whether executables may be downloaded.
    pub allow_binaries_download: bool,
    /// Whether a download must have been announced with a checksum.
    pub enforce_download_checksum: bool,
    /// Whether the daemon is started again after an upgrade.
    pub restart_after_upgrade: bool,
    /// Whether the daemon is started again after it failed.
    pub restart_on_failure: bool,
    /// How long to wait before that.
    pub failure_restart_delay: Duration,
    /// How many failures in a row may happen while it starts.
    pub max_startup_failures: usize,
    /// How long it counts as starting.
    pub startup_period_duration: Duration,
    /// How long it may take to stop.
    pub shutdown_grace_period: Duration,
    /// Where backups are put, if not below the daemon's home.
    pub backup_data_directory: Option<PathBuf>,
    /// Whether upgrades are done without a backup.
    pub unsafe_skip_backup: bool,
}

/// What one source says of a configuration; the rest it leaves as it is. The fields are those of [`Config`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are explained at Config")]
pub struct Fragment {
    /// Which file to read or to write; no part of the configuration itself.
    pub config_path: Option<PathBuf>,
    pub id: Option<String>,
    pub upstream_base_upgrade_url: Option<Url>,
    pub upstream_polling_rate: Option<Duration>,
    pub disable_logs: Option<bool>,
    pub upgrade_data_directory: Option<PathBuf>,
    pub name: Option<String>,
    pub home: Option<PathBuf>,
    pub absolute_upstream_upgrade_url: Option<Url>,
    pub allow_binaries_download: Option<bool>,
    pub enforce_download_checksum: Option<bool>,
    pub restart_after_upgrade: Option<bool>,
    pub restart_on_failure: Option<bool>,
    pub failure_restart_delay: Option<Duration>,
    pub max_startup_failures: Option<usize>,
    pub startup_period_duration: Option<Duration>,
    pub shutdown_grace_period: Option<Duration>,
    pub backup_data_directory: Option<PathBuf>,
    pub unsafe_skip_backup: Option<bool>,
}

impl Fragment {
    /// The arguments of `init` that say something else than the environment does, each with the variable that says it.
    pub fn differing(&self, environment: &Self) -> Vec<(&'static str, &'static str)> {
        fn differ<T: PartialEq>(flag: Option<&T>, variable: Option<&T>) -> bool {
            flag.zip(variable).is_some_and(|(flag, variable)| flag != variable)
        }
        macro_rules! differing {
            ($($field:ident: $flag:literal, $variable:literal;)*) => {{
                let mut found = Vec::new();
                $(if differ(self.$field.as_ref(), environment.$field.as_ref()) {
                    found.push(($flag, $variable));
                })*
                found
            }};
        }
        differing! {
            id: "--id", "NYMVISOR_ID";
            upstream_base_upgrade_url: "--upstream-base-upgrade-url", "NYMVISOR_UPSTREAM_BASE_UPGRADE_URL";
            upstream_polling_rate: "--upstream-polling-rate", "NYMVISOR_UPSTREAM_POLLING_RATE";
            disable_logs: "--disable-nymvisor-logs", "NYMVISOR_DISABLE_LOGS";
            upgrade_data_directory: "--upgrade-data-directory", "NYMVISOR_UPGRADE_DATA_DIRECTORY";
            home: "--daemon-home", "DAEMON_HOME";
            absolute_upstream_upgrade_url:
                "--daemon-absolute-upstream-upgrade-url", "DAEMON_ABSOLUTE_UPSTREAM_UPGRADE_URL";
            allow_binaries_download: "--allow-download-upgrade-binaries", "DAEMON_ALLOW_BINARIES_DOWNLOAD";
            enforce_download_checksum: "--enforce-download-checksum", "DAEMON_ENFORCE_DOWNLOAD_CHECKSUM";
            restart_after_upgrade: "--restart-daemon-after-upgrade", "DAEMON_RESTART_AFTER_UPGRADE";
            restart_on_failure: "--restart-daemon-on-failure", "DAEMON_RESTART_ON_FAILURE";
            failure_restart_delay: "--on-failure-daemon-restart-delay", "DAEMON_FAILURE_RESTART_DELAY";
            max_startup_failures: "--max-daemon-startup-failures", "DAEMON_MAX_STARTUP_FAILURES";
            startup_period_duration: "--startup-period-duration", "DAEMON_STARTUP_PERIOD_DURATION";
            shutdown_grace_period: "--daemon-shutdown-grace-period", "DAEMON_SHUTDOWN_GRACE_PERIOD";
            backup_data_directory: "--daemon-backup-data-directory", "DAEMON_BACKUP_DATA_DIRECTORY";
            unsafe_skip_backup: "--unsafe-skip-backup", "DAEMON_UNSAFE_SKIP_BACKUP";
        }
    }
}

impl Config {
    /// A new instance, with the documented defaults. Nymvisor's own for `restart_on_failure` is false, against its
    /// documentation.
    pub fn new(name: &str, home: &Path, id: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            id: component("nymvisor.id", id)?,
            upstream_base_upgrade_url: url("the default", "https://nymtech.net/.wellknown/")?,
            upstream_polling_rate: Duration::from_secs(60 * 60),
            disable_logs: false,
            upgrade_data_directory: None,
            name: component("daemon.name", name)?,
            home: path("daemon.home", home.as_os_str())?,
            absolute_upstream_upgrade_url: None,
            allow_binaries_download: true,
            enforce_download_checksum: true,
            restart_after_upgrade: true,
            restart_on_failure: true,
            failure_restart_delay: Duration::from_secs(10),
            max_startup_failures: 10,
            startup_period_duration: Duration::from_secs(120),
            shutdown_grace_period: Duration::from_secs(10),
            backup_data_directory: None,
            unsafe_skip_backup: false,
        })
    }

    /// Lays a fragment over this: what it says counts.
    pub fn apply(&mut self, fragment: Fragment) {
        fn set<T>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        set(&mut self.id, fragment.id);
        set(&mut self.upstream_base_upgrade_url, fragment.upstream_base_upgrade_url);
        set(&mut self.upstream_polling_rate, fragment.upstream_polling_rate);
        set(&mut self.disable_logs, fragment.disable_logs);
        set(&mut self.upgrade_data_directory, fragment.upgrade_data_directory.map(Some));
        set(&mut self.name, fragment.name);
        set(&mut self.home, fragment.home);
        set(&mut self.absolute_upstream_upgrade_url, fragment.absolute_upstream_upgrade_url.map(Some));
        set(&mut self.allow_binaries_download, fragment.allow_binaries_download);
        set(&mut self.enforce_download_checksum, fragment.enforce_download_checksum);
        set(&mut self.restart_after_upgrade, fragment.restart_after_upgrade);
        set(&mut self.restart_on_failure, fragment.restart_on_failure);
        set(&mut self.failure_restart_delay, fragment.failure_restart_delay);
        set(&mut self.max_startup_failures, fragment.max_startup_failures);
        set(&mut self.startup_period_duration, fragment.startup_period_duration);
        set(&mut self.shutdown_grace_period, fragment.shutdown_grace_period);
        set(&mut self.backup_data_directory, fragment.backup_data_directory.map(Some));
        set(&mut self.unsafe_skip_backup, fragment.unsafe_skip_backup);
    }

    /// Makes the directories absolute, so that they do not move with the working directory.
    pub fn resolve_against(&mut self, cwd: &Path) {
        // Going over the components drops every `.`; `..` stays, as only the disk knows what it means behind a link.
        let directories = [&mut self.upgrade_data_directory, &mut self.backup_data_directory].into_iter().flatten();
        for directory in directories.chain([&mut self.home]) {
            *directory = cwd.join(&*directory).components().collect();
        }
    }
}

fn wrong(place: &str, value: &str, reason: impl fmt::Display, right: &'static str) -> ConfigError {
    let value = value.chars().take(200).collect();
    ConfigError::Value { place: place.to_owned(), value, reason: reason.to_string(), right }
}

/// Reads a truth value: `true`, `t`, `1`, `false`, `f` or `0`, in either case.
pub fn boolean(place: &str, value: &str) -> Result<bool, ConfigError> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Ok(true),
        "false" | "f" | "0" => Ok(false),
        _ => Err(wrong(place, value, "it is neither true nor false", "`true` or `false` (or t, f, 1, 0)")),
    }
}

/// Reads a number that is not negative.
pub fn count(place: &str, value: &str) -> Result<usize, ConfigError> {
    value.parse().map_err(|error| wrong(place, value, error, "a whole number such as `10`"))
}

/// Reads a duration.
pub fn duration(place: &str, value: &str) -> Result<Duration, ConfigError> {
    humantime::parse_duration(value).map_err(|error| wrong(place, value, error, DURATION_HELP))
}

/// Reads how often upstream is asked: no more than every second.
pub fn polling_rate(place: &str, value: &str) -> Result<Duration, ConfigError> {
    match duration(place, value)? {
        rate if rate.is_zero() => {
            Err(wrong(place, value, "upstream would be asked without a pause", "at least `1s`, `1h` is usual"))
        }
        rate => Ok(rate),
    }
}

/// Reads an absolute address.
pub fn url(place: &str, value: &str) -> Result<Url, ConfigError> {
    let refuse = |reason: &dyn fmt::Display| {
        Err(wrong(place, value, reason, "an absolute address such as `https://nymtech.net/.wellknown/`"))
    };
    match Url::parse(value) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url),
        Ok(_) => refuse(&"only http and https can be asked"),
        Err(error) => refuse(&error),
    }
}

/// Reads a path. It must be Unicode, because the configuration file has to hold it.
pub fn path(place: &str, value: &std::ffi::OsStr) -> Result<PathBuf, ConfigError> {
    const RIGHT: &str = "a path in UTF-8";
    match value.to_str() {
        Some("") => Err(wrong(place, "", "it is empty", RIGHT)),
        Some(text) if text.contains('\0') => Err(wrong(place, text, "it contains a zero byte", RIGHT)),
        Some(text) => Ok(PathBuf::from(text)),
        None => Err(wrong(place, &value.to_string_lossy(), "it is not UTF-8", RIGHT)),
    }
}

/// Reads an id or a name, which is used as a file name too.
pub fn component(place: &str, value: &str) -> Result<String, ConfigError> {
    let reason = match value {
        "" => "it is empty",
        "." | ".." => "that is a folder of its own",
        _ if value.contains('/') => "it contains a path separator",
        _ if value.chars().any(char::is_control) => "it contains a control character",
        _ => return Ok(value.to_owned()),
    };
    Err(wrong(place, value, reason, "a plain name that can be a file's, such as `nym-node`"))
}
