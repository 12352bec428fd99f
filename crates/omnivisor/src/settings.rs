//! What no peer has a word for: `omnivisor.toml`, beside the dialect's own configuration, and its variables.
//!
//! Each key has a variable; the variable counts. A key that is not known is an error: it is one that does nothing.

mod backup;
mod nym;
mod probe;
mod snapshot;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnivisor_core::health::HealthProbe;
use serde::Deserialize;
use url::Url;

use self::backup::BackupTable;
use self::nym::NymTable;
pub use self::nym::Releases;
pub use self::probe::ProbeSettings;
use self::probe::ProbeTable;
use self::snapshot::SnapshotTable;
pub use self::snapshot::Snapshots;
use crate::effects::backup::keep::Keep;
use crate::effects::github::{GitHub, GitHubError, Token};

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    #[serde(default)]
    probe: ProbeTable,
    #[serde(default)]
    retry: RetryTable,
    #[serde(default)]
    restart: RestartTable,
    #[serde(default)]
    github: GitHubTable,
    #[serde(default)]
    vega: VegaTable,
    #[serde(default)]
    nym: NymTable,
    #[serde(default)]
    snapshot: SnapshotTable,
    #[serde(default)]
    backup: BackupTable,
    allow_network_file_system: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RetryTable {
    delay: Option<String>,
    most: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RestartTable {
    healthy: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct GitHubTable {
    api: Option<String>,
    web: Option<String>,
    token_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct VegaTable {
    restart_silent: Option<bool>,
    postgres_patience: Option<String>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("the settings {path} cannot be read", path = .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no such file.
    #[error("the settings {path} make no sense", path = .path.display())]
    Unparsable {
        /// Which.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value makes no sense.
    #[error("{place} = {value:?} makes no sense: {right} would be right")]
    Value {
        /// The key or the variable.
        place: String,
        /// What was said.
        value: String,
        /// What could be said.
        right: &'static str,
    },
    /// A table makes no sense.
    #[error("{place} makes no sense: {why}")]
    Table {
        /// Its key.
        place: String,
        /// Why.
        why: String,
    },
}

/// The settings of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What a new release has to show.
    pub probe: ProbeSettings,
    /// How long after a first failure to prepare a release the next try is.
    pub retry: Duration,
    /// The longest time between two tries.
    pub retry_most: Duration,
    /// How long a node has to run for its earlier failures to be forgotten; none: as long as the dialect says.
    pub healthy: Option<Duration>,
    /// Where GitHub's API is, or that of a server that speaks like it.
    pub github_api: Url,
    /// Where its pages are.
    pub github_web: Url,
    /// The file that its token is in.
    pub github_token_file: Option<PathBuf>,
    /// Whether a node of Vega that gives no answer any more is restarted.
    pub restart_silent: bool,
    /// How long a data node's PostgreSQL is waited for before a start.
    pub postgres_patience: Duration,
    /// Where a node of Nym has its releases from; none: from its configured upstream.
    pub releases: Option<Releases>,
    /// How its data is copied aside before a switch.
    pub snapshots: Snapshots,
    /// What becomes of the copies.
    pub keep: Keep,
    /// Whether a file system on which locks are no guarantee may be used.
    pub allow_network_file_system: bool,
}

impl Settings {
    /// Reads the settings: `$OMNIVISOR_CONFIG`, or `beside`, or none; and over them the variables.
    pub fn read(beside: &Path, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, SettingsError> {
        let named = variable("OMNIVISOR_CONFIG").map(PathBuf::from);
        let path = named.as_deref().unwrap_or(beside);
        let file = match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|error| SettingsError::Unparsable { path: path.to_owned(), source: Box::new(error) })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => File::default(),
            Err(source) => return Err(SettingsError::Unreadable { path: path.to_owned(), source }),
        };
        Self::resolve(file, variable)
    }

    fn resolve(file: File, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, SettingsError> {
        let said = |name: &str, key: &str, in_file: Option<String>| match variable(name) {
            Some(value) => Some((name.to_owned(), value.to_string_lossy().into_owned())),
            None => in_file.map(|value| (key.to_owned(), value)),
        };
        let retry = said("OMNIVISOR_RETRY_DELAY", "retry.delay", file.retry.delay).map(duration).transpose()?;
        let retry_most = said("OMNIVISOR_RETRY_MOST", "retry.most", file.retry.most).map(duration).transpose()?;
        let allowed = said(
            "OMNIVISOR_ALLOW_NETWORK_FILE_SYSTEM",
            "allow-network-file-system",
            file.allow_network_file_system.map(|allowed| allowed.to_string()),
        );
        let healthy = said("OMNIVISOR_RESTART_HEALTHY", "restart.healthy", file.restart.healthy);
        let api = said("OMNIVISOR_GITHUB_API", "github.api", file.github.api);
        let web = said("OMNIVISOR_GITHUB_WEB", "github.web", file.github.web);
        let token_file = said("OMNIVISOR_GITHUB_TOKEN_FILE", "github.token-file", file.github.token_file);
        let silent = file.vega.restart_silent.map(|restart| restart.to_string());
        let silent = said("OMNIVISOR_VEGA_RESTART_SILENT", "vega.restart-silent", silent);
        let postgres = said("OMNIVISOR_VEGA_POSTGRES_PATIENCE", "vega.postgres-patience", file.vega.postgres_patience);
        let second = Duration::from_secs(1);
        Ok(Self {
            probe: ProbeSettings::resolve(file.probe, &variable, said)?,
            retry: retry.unwrap_or(10 * second),
            retry_most: retry_most.unwrap_or(3600 * second),
            healthy: healthy.map(duration).transpose()?,
            github_api: address(api, GitHub::API)?,
            github_web: address(web, GitHub::WEB)?,
            github_token_file: token_file.map(|(_, path)| path.into()),
            restart_silent: silent.map(boolean).transpose()?.unwrap_or(false),
            postgres_patience: postgres.map(duration).transpose()?.unwrap_or(60 * second),
            releases: Releases::resolve(file.nym, said)?,
            snapshots: Snapshots::resolve(file.snapshot, said)?,
            keep: backup::resolve(file.backup, said)?,
            allow_network_file_system: allowed.map(boolean).transpose()?.unwrap_or(false),
        })
    }

    /// GitHub, as it is set. A token that cannot be used is none, with a warning: what is public is had without one.
    pub fn github(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<GitHub, GitHubError> {
        let token = Token::find(variable, self.github_token_file.as_deref()).unwrap_or_else(|error| {
            tracing::warn!("{error}; GitHub is asked without a token");
            None
        });
        GitHub::new(self.github_api.clone(), self.github_web.clone(), token)
    }

    /// The probe of an instance whose dialect says that a node starts for `startup`.
    pub fn probe(&self, startup: Duration) -> HealthProbe {
        self.probe.probe(startup)
    }
}

fn duration((place, value): (String, String)) -> Result<Duration, SettingsError> {
    humantime::parse_duration(&value).map_err(|_| SettingsError::Value { place, value, right: "30s or 1h 30m" })
}

fn address(said: Option<(String, String)>, usual: &str) -> Result<Url, SettingsError> {
    let (place, value) = said.unwrap_or_else(|| ("github".to_owned(), usual.to_owned()));
    let url = Url::parse(&value).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or(SettingsError::Value { place, value, right: "an address such as https://github.example.org/api/v3" })
}

fn count((place, value): (String, String)) -> Result<u32, SettingsError> {
    let wrong = |value| SettingsError::Value { place, value, right: "a whole number from 1 on" };
    value.parse().ok().filter(|count| *count > 0).ok_or_else(|| wrong(value))
}

fn boolean((place, value): (String, String)) -> Result<bool, SettingsError> {
    value.parse().map_err(|_| SettingsError::Value { place, value, right: "true or false" })
}

#[cfg(test)]
mod tests {
    use omnivisor_core::health::{Check, Expected, JsonCheck};
    use serde_json::json;

    use super::*;

    fn resolve(text: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
        let file = toml::from_str(text).map_err(|error| error.to_string())?;
        let find = |name: &str| variables.iter().find(|(it, _)| *it == name).map(|(_, value)| value.into());
        Settings::resolve(file, find).map_err(|error| error.to_string())
    }

    #[test]
    fn a_variable_counts_over_the_file_and_the_file_over_the_default() {
        let text = "[probe]\nwindow = '1m'\ndeaths = 3\ncommand = ['/bin/check', 'a b']";
        let settings = resolve(text, &[("OMNIVISOR_PROBE_WINDOW", "5s")]).unwrap();
        assert_eq!(settings.probe.window, Some(Duration::from_secs(5)));
        assert_eq!(settings.probe.deaths, 3);
        assert_eq!(settings.probe.checks, [Check::Command(vec!["/bin/check".to_owned(), "a b".to_owned()])]);
        assert_eq!(settings.retry, Duration::from_secs(10));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, variables, expected) in [
            ("[probe]\nwindow = 'soon'", vec![], "probe.window"),
            ("", vec![("OMNIVISOR_RETRY_DELAY", "10")], "OMNIVISOR_RETRY_DELAY"),
            ("[probe]\ndeaths = 0", vec![], "probe.deaths"),
            ("[prob]\nwindow = '1s'", vec![], "prob"),
        ] {
            let error = resolve(text, &variables).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
    /// The checks that these settings ask for.
    fn checks(text: &str, variables: &[(&str, &str)]) -> Vec<Check> {
        resolve(text, variables).unwrap().probe.checks
    }

    #[test]
    fn checks_of_every_kind_are_asked_for_in_the_file_and_by_variables() {
        let names = |checks: &[Check]| checks.iter().map(ToString::to_string).collect::<Vec<_>>();
        let file = "[probe]\nhttp = ['http://127.0.0.1:1/a', { url = 'https://node/b', status = [204] }]\ntcp = '[::1]:5'\n\
                    notify = true\ncommand = ['x']";
        let expected = ["x", "http://127.0.0.1:1/a", "https://node/b", "[::1]:5", "NOTIFY_SOCKET"];
        assert_eq!(names(&checks(file, &[])), expected);
        let variables = [
            ("OMNIVISOR_PROBE_COMMAND", ""),
            ("OMNIVISOR_PROBE_HTTP", "http://h/1 http://h/2"),
            ("OMNIVISOR_PROBE_TCP", "node:1"),
            ("OMNIVISOR_PROBE_NOTIFY", "false"),
        ];
        assert_eq!(names(&checks(file, &variables)), ["http://h/1", "http://h/2", "node:1"]);
    }

    #[test]
    fn values_of_a_node_are_asked_for_by_call_or_by_page() {
        let file = "[probe]\ninterval = '2s'\n[[probe.json]]\nurl = 'http://h/status'\npointer = '/result/height'\n\
                    advances = true\n[[probe.json]]\nurl = 'http://h'\nmethod = 'status'\nequals = false\nparams = { a = 1 }";
        let [Check::Json(page), Check::Json(call)] = &checks(file, &[])[..] else { panic!("two") };
        assert_eq!((page.request(), &page.pointer[..]), (None, "/result/height"));
        assert_eq!(page.expected, Expected::Advances { within: Duration::from_secs(6) });
        assert!(call.request().unwrap().contains(r#""method":"status","params":{"a":1}"#));
        assert_eq!(call.expected, Expected::Equals(json!(false)));
        let url = ("OMNIVISOR_PROBE_JSON_URL", "http://v");
        let within = [("OMNIVISOR_PROBE_JSON_ADVANCES", "true"), ("OMNIVISOR_PROBE_JSON_WITHIN", "1m")];
        let [Check::Json(JsonCheck { expected, .. })] = &checks(file, &[&[url], &within[..]].concat())[..] else {
            panic!("one")
        };
        assert_eq!(*expected, Expected::Advances { within: Duration::from_secs(60) });
        for (said, value) in [("synced", json!("synced")), ("3", json!(3)), ("\"3\"", json!("3"))] {
            let [Check::Json(one)] = &checks("", &[url, ("OMNIVISOR_PROBE_JSON_EQUALS", said)])[..] else {
                panic!("one")
            };
            assert_eq!(one.expected, Expected::Equals(value));
        }
    }

    #[test]
    fn a_check_that_makes_no_sense_is_named() {
        let json = |rest: &str| format!("[probe.json]\nurl = 'http://h'\n{rest}");
        for (text, key) in [
            ("[probe]\nhttp = 'node'".to_owned(), "probe.http"),
            ("[probe]\nhttp = 7".to_owned(), "probe.http"),
            ("[probe]\nhttp = { url = 'http://h', status = [1] }".to_owned(), "probe.http.status"),
            ("[probe]\nhttp = { url = 'http://h', state = 1 }".to_owned(), "state"),
            ("[probe]\nhttp = ['http://h', 'ftp://h']".to_owned(), "probe.http[1]"),
            ("[probe]\ntcp = 'node'".to_owned(), "probe.tcp"),
            ("[probe]\ntcp = '::1:80'".to_owned(), "probe.tcp"),
            ("[probe]\ntcp = 'node:0'".to_owned(), "probe.tcp"),
            ("[probe]\ntcp = 80".to_owned(), "probe.tcp"),
            ("[probe]\nnotify = 'maybe'".to_owned(), "notify"),
            (json(""), "probe.json.equals"),
            (json("equals = 1\nadvances = true"), "probe.json.equals"),
            (json("equals = 1\nwithin = '1s'"), "probe.json.within"),
            (json("advances = true\nwithin = 'soon'"), "probe.json.within"),
            (json("advances = true\npointer = 'a.b'"), "probe.json.pointer"),
            (json("equals = 1\nparams = []"), "probe.json.params"),
            (json("equals = 1\nmethod = 'm'\nparams = 1"), "probe.json.params"),
            (json("equal = 1"), "equal"),
            ("[[probe.json]]\nequals = 1".to_owned(), "probe.json[0]"),
        ] {
            let error = resolve(&text, &[]).unwrap_err();
            assert!(error.contains(key), "{text}: {error}");
        }
        let lonely = resolve("", &[("OMNIVISOR_PROBE_JSON_POINTER", "/a")]).unwrap_err();
        assert!(lonely.contains("OMNIVISOR_PROBE_JSON_URL"), "{lonely}");
    }
}
