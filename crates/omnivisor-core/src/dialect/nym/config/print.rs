//! The configuration as `config` prints it, as text and as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use url::Url;

use super::Config;
use super::text::{DaemonTable, File, NymvisorTable, human, lossy};

impl Config {
    /// The text form, to be printed with a newline after it: it begins with an empty line and then ends with one. The
    /// polling rate is not part of it.
    pub fn to_text(&self) -> String {
        let custom = |path: &Option<PathBuf>| format!("\"{}\"", path.as_deref().map_or(String::new(), lossy));
        let lines = [
            ("id:", self.id.clone()),
            ("daemon name:", self.name.clone()),
            ("daemon home:", lossy(&self.home)),
            ("upstream base upgrade url:", self.upstream_base_upgrade_url.to_string()),
            ("disable nymvisor logs:", self.disable_logs.to_string()),
            ("CUSTOM upgrade data directory", custom(&self.upgrade_data_directory)),
            (
                "upstream absolute upgrade url:",
                format!("\"{}\"", self.absolute_upstream_upgrade_url.as_ref().map_or("", Url::as_str)),
            ),
            ("allow binaries download:", self.allow_binaries_download.to_string()),
            ("enforce download checksum:", self.enforce_download_checksum.to_string()),
            ("restart after upgrade:", self.restart_after_upgrade.to_string()),
            ("restart on failure:", self.restart_on_failure.to_string()),
            ("on failure restart delay:", human(self.failure_restart_delay)),
            ("max startup failures:", self.max_startup_failures.to_string()),
            ("startup period duration:", human(self.startup_period_duration)),
            ("shutdown grace period:", human(self.shutdown_grace_period)),
            ("CUSTOM backup data directory", custom(&self.backup_data_directory)),
            ("UNSAFE skip backups", self.unsafe_skip_backup.to_string()),
        ];
        let lines: String = lines.iter().map(|(label, value)| format!("{label:<35}{value}\n")).collect();
        format!("\n{lines}")
    }

    /// One line of JSON, without the newline after it.
    #[allow(clippy::expect_used, reason = "only a map with keys that are not text could fail; there is none")]
    pub fn to_json_line(&self) -> String {
        let file = File {
            nymvisor: NymvisorTable {
                id: Some(self.id.clone()),
                upstream_base_upgrade_url: Some(self.upstream_base_upgrade_url.to_string()),
                upstream_polling_rate: Some(human(self.upstream_polling_rate)),
                disable_logs: Some(self.disable_logs),
                upgrade_data_directory: self.upgrade_data_directory.as_deref().map(lossy),
                unknown: BTreeMap::new(),
            },
            daemon: DaemonTable {
                name: Some(self.name.clone()),
                home: Some(lossy(&self.home)),
                absolute_upstream_upgrade_url: self.absolute_upstream_upgrade_url.as_ref().map(Url::to_string),
                allow_binaries_download: Some(self.allow_binaries_download),
                enforce_download_checksum: Some(self.enforce_download_checksum),
                restart_after_upgrade: Some(self.restart_after_upgrade),
                restart_on_failure: Some(self.restart_on_failure),
                failure_restart_delay: Some(human(self.failure_restart_delay)),
                max_startup_failures: Some(self.max_startup_failures),
                startup_period_duration: Some(human(self.startup_period_duration)),
                shutdown_grace_period: Some(human(self.shutdown_grace_period)),
                backup_data_directory: self.backup_data_directory.as_deref().map(lossy),
                unsafe_skip_backup: Some(self.unsafe_skip_backup),
                unknown: BTreeMap::new(),
            },
            unknown: BTreeMap::new(),
        };
        serde_json::to_string(&file).expect("plain data can be written as JSON")
    }
}
