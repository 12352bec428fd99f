//! The options of an installation and the config.toml they make. The other files of one are in `installation`.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// What differs from the defaults of Nymvisor. Durations are in its own form, such as `1h 30m`.
#[derive(Clone, Debug)]
pub struct Options {
    /// `upstream_base_upgrade_url`. Unlike Nymvisor's own default, this one never leaves the machine: nobody listens.
    pub base_url: String,
    /// `absolute_upstream_upgrade_url`.
    pub absolute_url: Option<String>,
    /// `upstream_polling_rate`.
    pub polling_rate: String,
    /// `disable_logs`.
    pub disable_logs: bool,
    /// `upgrade_data_directory`; `None` is the usual place.
    pub data_directory: Option<PathBuf>,
    /// `home`; `None` is the sandbox's.
    pub daemon_home: Option<PathBuf>,
    /// `allow_binaries_download`.
    pub allow_download: bool,
    /// `enforce_download_checksum`.
    pub enforce_checksum: bool,
    /// `restart_after_upgrade`.
    pub restart_after_upgrade: bool,
    /// `restart_on_failure`.
    pub restart_on_failure: bool,
    /// `failure_restart_delay`.
    pub failure_restart_delay: String,
    /// `max_startup_failures`.
    pub max_startup_failures: usize,
    /// `startup_period_duration`.
    pub startup_period_duration: String,
    /// `shutdown_grace_period`.
    pub shutdown_grace_period: String,
    /// `backup_data_directory`; `None` is the usual place.
    pub backup_directory: Option<PathBuf>,
    /// `unsafe_skip_backup`.
    pub unsafe_skip_backup: bool,
    /// The build info to write down; `None` asks the genesis binary for it, as Nymvisor does.
    pub build_info: Option<Value>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            base_url: "http://127.0.0.1:9/.wellknown/".to_owned(),
            absolute_url: None,
            polling_rate: "1h".to_owned(),
            disable_logs: false,
            data_directory: None,
            daemon_home: None,
            allow_download: true,
            enforce_checksum: true,
            restart_after_upgrade: true,
            restart_on_failure: false,
            failure_restart_delay: "10s".to_owned(),
            max_startup_failures: 10,
            startup_period_duration: "2m".to_owned(),
            shutdown_grace_period: "10s".to_owned(),
            backup_directory: None,
            unsafe_skip_backup: false,
            build_info: None,
        }
    }
}

/// The config.toml of an instance: every key the peer requires, in its form.
pub(crate) fn config_toml(id: &str, daemon: &str, home: &Path, options: &Options) -> String {
    let path = |path: &Option<PathBuf>| escape(path.as_deref().map_or("", |path| path.to_str().unwrap()));
    format!(
        "\n# The configuration of one supervisor, as its peer writes it.\n\n\
         [nymvisor]\n# Which instance this is.\nid = '{}'\n\n\
         upstream_base_upgrade_url = '{}'\nupstream_polling_rate = '{}'\ndisable_logs = {}\n\
         upgrade_data_directory = '{}'\n\n\
         [daemon]\n\n# What is run.\nname = '{}'\nhome = '{}'\n\n\
         absolute_upstream_upgrade_url = '{}'\nallow_binaries_download = {}\nenforce_download_checksum = {}\n\
         restart_after_upgrade = {}\nrestart_on_failure = {}\nfailure_restart_delay = '{}'\n\
         max_startup_failures = {}\nstartup_period_duration = '{}'\nshutdown_grace_period = '{}'\n\
         backup_data_directory = '{}'\nunsafe_skip_backup = {}\n\n",
        escape(id),
        escape(&options.base_url),
        options.polling_rate,
        options.disable_logs,
        path(&options.data_directory),
        escape(daemon),
        escape(home.to_str().unwrap()),
        escape(options.absolute_url.as_deref().unwrap_or_default()),
        options.allow_download,
        options.enforce_checksum,
        options.restart_after_upgrade,
        options.restart_on_failure,
        options.failure_restart_delay,
        options.max_startup_failures,
        options.startup_period_duration,
        options.shutdown_grace_period,
        path(&options.backup_directory),
        options.unsafe_skip_backup,
    )
}

/// The peer's template escapes values as if for HTML, which readers have to undo.
fn escape(value: &str) -> String {
    let mut escaped = String::new();
    for letter in value.chars() {
        match letter {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#x27;",
            '=' => escaped += "&#x3D;",
            '`' => escaped += "&#x60;",
            plain => escaped.push(plain),
        }
    }
    escaped
}
