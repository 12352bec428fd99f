//! The environment variables of Nymvisor, and the ones that people mean instead of them.

use std::ffi::{OsStr, OsString};

use super::{ConfigError, Fragment, Warning, boolean, component, count, duration, path, polling_rate, url, wrong};

/// How the documentation spells [`DOWNLOAD`] once, which is also what Cosmovisor calls it.
const DOWNLOAD_ALIAS: &str = "DAEMON_ALLOW_DOWNLOAD_BINARIES";
const DOWNLOAD: &str = "DAEMON_ALLOW_BINARIES_DOWNLOAD";

/// Names that mean something to Cosmovisor only, and what comes closest here.
const COSMOVISOR: &[(&str, Option<&str>)] = &[
    ("DAEMON_DOWNLOAD_MUST_HAVE_CHECKSUM", Some("DAEMON_ENFORCE_DOWNLOAD_CHECKSUM")),
    ("DAEMON_SHUTDOWN_GRACE", Some("DAEMON_SHUTDOWN_GRACE_PERIOD")),
    ("DAEMON_POLL_INTERVAL", Some("NYMVISOR_UPSTREAM_POLLING_RATE")),
    ("DAEMON_DATA_BACKUP_DIR", Some("DAEMON_BACKUP_DATA_DIRECTORY")),
    ("DAEMON_BACKUP_DATA_DIR", Some("DAEMON_BACKUP_DATA_DIRECTORY")),
    ("UNSAFE_SKIP_BACKUP", Some("DAEMON_UNSAFE_SKIP_BACKUP")),
    ("COSMOVISOR_DISABLE_LOGS", Some("NYMVISOR_DISABLE_LOGS")),
    ("DAEMON_RESTART_DELAY", None),
    ("DAEMON_PREUPGRADE_MAX_RETRIES", None),
    ("DAEMON_GRPC_ADDRESS", None),
    ("DAEMON_RPC_ADDRESS", None),
    ("DAEMON_DATA_DIR", None),
    ("DAEMON_LOG_BUFFER_SIZE", None),
];

impl Fragment {
    /// Reads the variables that are Nymvisor's. One that is set must be right, even if nothing would come of it.
    pub fn from_env(vars: impl Iterator<Item = (OsString, OsString)>) -> Result<(Self, Vec<Warning>), ConfigError> {
        let mut fragment = Self::default();
        let mut warnings = Vec::new();
        let mut alias = None;
        for (name, value) in vars {
            let name = name.to_string_lossy();
            if name == DOWNLOAD_ALIAS {
                alias = Some(value);
            } else if !fragment.take(&name, &value)? {
                warnings.extend(unknown(&name));
            }
        }
        if let Some(value) = alias {
            if fragment.allow_binaries_download.is_none() {
                fragment.allow_binaries_download = Some(boolean(DOWNLOAD_ALIAS, text(DOWNLOAD_ALIAS, &value)?)?);
                warnings.push(Warning(format!("{DOWNLOAD_ALIAS} is set; it is read as {DOWNLOAD}, which is its name")));
            } else {
                warnings.push(Warning(format!("{DOWNLOAD_ALIAS} is ignored, because {DOWNLOAD} is set too")));
            }
        }
        Ok((fragment, warnings))
    }

    /// Takes one variable. False if it is not one of Nymvisor's.
    fn take(&mut self, name: &str, value: &OsStr) -> Result<bool, ConfigError> {
        let text = || text(name, value);
        match name {
            "NYMVISOR_CONFIG_PATH" => self.config_path = Some(path(name, value)?),
            "NYMVISOR_ID" => self.id = Some(component(name, text()?)?),
            "NYMVISOR_UPSTREAM_BASE_UPGRADE_URL" => self.upstream_base_upgrade_url = Some(url(name, text()?)?),
            "NYMVISOR_UPSTREAM_POLLING_RATE" => self.upstream_polling_rate = Some(polling_rate(name, text()?)?),
            "NYMVISOR_DISABLE_LOGS" => self.disable_logs = Some(boolean(name, text()?)?),
            "NYMVISOR_UPGRADE_DATA_DIRECTORY" => self.upgrade_data_directory = Some(path(name, value)?),
            "DAEMON_NAME" => self.name = Some(component(name, text()?)?),
            "DAEMON_HOME" => self.home = Some(path(name, value)?),
            "DAEMON_ABSOLUTE_UPSTREAM_UPGRADE_URL" => self.absolute_upstream_upgrade_url = Some(url(name, text()?)?),
            DOWNLOAD => self.allow_binaries_download = Some(boolean(name, text()?)?),
            "DAEMON_ENFORCE_DOWNLOAD_CHECKSUM" => self.enforce_download_checksum = Some(boolean(name, text()?)?),
            "DAEMON_RESTART_AFTER_UPGRADE" => self.restart_after_upgrade = Some(boolean(name, text()?)?),
            "DAEMON_RESTART_ON_FAILURE" => self.restart_on_failure = Some(boolean(name, text()?)?),
            "DAEMON_FAILURE_RESTART_DELAY" => self.failure_restart_delay = Some(duration(name, text()?)?),
            "DAEMON_MAX_STARTUP_FAILURES" => self.max_startup_failures = Some(count(name, text()?)?),
            "DAEMON_STARTUP_PERIOD_DURATION" => self.startup_period_duration = Some(duration(name, text()?)?),
            "DAEMON_SHUTDOWN_GRACE_PERIOD" => self.shutdown_grace_period = Some(duration(name, text()?)?),
            "DAEMON_BACKUP_DATA_DIRECTORY" => self.backup_data_directory = Some(path(name, value)?),
            "DAEMON_UNSAFE_SKIP_BACKUP" => self.unsafe_skip_backup = Some(boolean(name, text()?)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn text<'a>(name: &str, value: &'a OsStr) -> Result<&'a str, ConfigError> {
    value.to_str().ok_or_else(|| wrong(name, &value.to_string_lossy(), "it is not UTF-8", "text in UTF-8"))
}

fn unknown(name: &str) -> Option<Warning> {
    if let Some((_, instead)) = COSMOVISOR.iter().find(|(cosmovisor, _)| *cosmovisor == name) {
        let instead = match instead {
            Some(instead) => format!("{instead} is what comes closest"),
            None => "there is nothing like it".to_owned(),
        };
        return Some(Warning(format!("{name} is ignored: it belongs to Cosmovisor; here {instead}")));
    }
    ["DAEMON_", "NYMVISOR_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        .then(|| Warning(format!("{name} is ignored: no setting has this name")))
}
