//! The table `[probe]`: what a new release has to show, and its variables.

use std::ffi::OsString;
use std::time::Duration;

use omnivisor_core::health::{Call, Check, Expected, HealthProbe, HttpCheck, JsonCheck, Rhythm};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::{SettingsError, boolean, count, duration};

/// A value that is to grow may stand still for so many intervals, unless it is said otherwise: a block may come late.
const INTERVALS: u32 = 3;

/// The table as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ProbeTable {
    window: Option<String>,
    deaths: Option<u32>,
    command: Option<Vec<String>>,
    http: Option<Value>,
    tcp: Option<Value>,
    json: Option<Value>,
    notify: Option<bool>,
    interval: Option<String>,
    timeout: Option<String>,
    failures: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct HttpTable {
    url: String,
    #[serde(default)]
    status: Vec<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct JsonTable {
    url: String,
    method: Option<String>,
    params: Option<Value>,
    #[serde(default)]
    pointer: String,
    equals: Option<Value>,
    advances: Option<bool>,
    within: Option<String>,
}

/// The probe as it is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSettings {
    /// How long a new release has to stay alive; none: as long as the dialect says.
    pub window: Option<Duration>,
    /// How often it may die meanwhile.
    pub deaths: u32,
    /// What has to be true of it.
    pub checks: Vec<Check>,
    /// How often that is looked at.
    pub rhythm: Rhythm,
}

impl ProbeSettings {
    /// `said` prefers a variable to what stands in the file, and says where it found it.
    pub(super) fn resolve(
        table: ProbeTable,
        variable: impl Fn(&str) -> Option<OsString>,
        said: impl Fn(&str, &str, Option<String>) -> Option<(String, String)>,
    ) -> Result<Self, SettingsError> {
        let variable = |name: &str| variable(name).map(|value| value.to_string_lossy().into_owned());
        let text = |number: Option<u32>| number.map(|number| number.to_string());
        let usual = Rhythm::default();
        let window = said("OMNIVISOR_PROBE_WINDOW", "probe.window", table.window).map(duration).transpose()?;
        let deaths = said("OMNIVISOR_PROBE_DEATHS", "probe.deaths", text(table.deaths)).map(count).transpose()?;
        let failures =
            said("OMNIVISOR_PROBE_FAILURES", "probe.failures", text(table.failures)).map(count).transpose()?;
        let interval = said("OMNIVISOR_PROBE_INTERVAL", "probe.interval", table.interval).map(duration).transpose()?;
        let timeout = said("OMNIVISOR_PROBE_TIMEOUT", "probe.timeout", table.timeout).map(duration).transpose()?;
        let notify = table.notify.map(|notify| notify.to_string());
        let notify = said("OMNIVISOR_PROBE_NOTIFY", "probe.notify", notify).map(boolean).transpose()?;
        let rhythm = Rhythm {
            interval: interval.unwrap_or(usual.interval),
            timeout: timeout.unwrap_or(usual.timeout),
            failures: failures.unwrap_or(usual.failures),
        };
        let argv: Option<Vec<String>> = match variable("OMNIVISOR_PROBE_COMMAND") {
            Some(line) => Some(words(&line)),
            None => table.command,
        };
        let mut checks: Vec<Check> = argv.filter(|argv| !argv.is_empty()).map(Check::Command).into_iter().collect();
        for (place, value) in each("OMNIVISOR_PROBE_HTTP", "probe.http", variable, table.http) {
            checks.push(Check::Http(http(place, value)?));
        }
        for (place, value) in each("OMNIVISOR_PROBE_TCP", "probe.tcp", variable, table.tcp) {
            checks.push(tcp(place, &value)?);
        }
        match json_of_variables(&variable)? {
            Some(table) => checks.extend(json(JSON_VARIABLE, table, rhythm)?),
            None => {
                for (place, value) in several("probe.json", table.json.unwrap_or(Value::Array(Vec::new()))) {
                    let table = read(&place, value)?;
                    checks.extend(json(&format!("{place}."), table, rhythm)?);
                }
            }
        }
        checks.extend(notify.unwrap_or(false).then_some(Check::Notify));
        Ok(Self { window, deaths: deaths.unwrap_or(2), checks, rhythm })
    }

    /// For an instance whose dialect says that a node starts for `startup`.
    pub(super) fn probe(&self, startup: Duration) -> HealthProbe {
        HealthProbe {
            window: self.window.unwrap_or(startup),
            deaths: self.deaths,
            answers: false,
            checks: self.checks.clone(),
            rhythm: self.rhythm,
        }
    }
}

pub(super) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// One thing, or a list of them, and where each stands.
fn several(key: &str, value: Value) -> Vec<(String, Value)> {
    match value {
        Value::Array(list) => {
            let place = |(index, value)| (format!("{key}[{index}]"), value);
            list.into_iter().enumerate().map(place).collect()
        }
        one => vec![(key.to_owned(), one)],
    }
}

/// What the variable lists, divided by blanks; without it, what stands in the file.
fn each(
    name: &str,
    key: &str,
    variable: impl Fn(&str) -> Option<String>,
    in_file: Option<Value>,
) -> Vec<(String, Value)> {
    match variable(name) {
        Some(line) => words(&line).into_iter().map(|word| (name.to_owned(), Value::String(word))).collect(),
        None => several(key, in_file.unwrap_or(Value::Array(Vec::new()))),
    }
}

fn read<T: DeserializeOwned>(place: &str, value: Value) -> Result<T, SettingsError> {
    let why = |error: serde_json::Error| SettingsError::Table { place: place.to_owned(), why: error.to_string() };
    serde_json::from_value(value).map_err(why)
}

fn wrong(place: impl Into<String>, value: impl ToString, right: &'static str) -> SettingsError {
    SettingsError::Value { place: place.into(), value: value.to_string(), right }
}

fn address(place: &str, text: &str) -> Result<Url, SettingsError> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| wrong(place, text, "an address such as http://127.0.0.1:8080/health"))
}

fn http(place: String, value: Value) -> Result<HttpCheck, SettingsError> {
    if let Value::String(text) = &value {
        return Ok(HttpCheck { url: address(&place, text)?, status: Vec::new() });
    }
    let HttpTable { url, status } = read(&place, value)?;
    if let Some(status) = status.iter().find(|status| !(100..600).contains(*status)) {
        return Err(wrong(format!("{place}.status"), status, "what a server answers, from 100 to 599,"));
    }
    Ok(HttpCheck { url: address(&format!("{place}.url"), &url)?, status })
}

fn tcp(place: String, value: &Value) -> Result<Check, SettingsError> {
    let parse = || {
        let (host, port) = value.as_str()?.rsplit_once(':')?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bare.or(Some(host).filter(|host| !host.contains([':', '[', ']', '/'])))?;
        let port = port.parse().ok().filter(|port| *port > 0)?;
        (!host.is_empty()).then(|| Check::Tcp { host: host.to_owned(), port })
    };
    let said = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    parse().ok_or_else(|| wrong(place, said, "a host and its port, such as 127.0.0.1:26656 or [::1]:26656,"))
}

/// What the names of these variables begin with.
const JSON_VARIABLE: &str = "OMNIVISOR_PROBE_JSON_";

/// The check that the variables say, if they say one: then it is the only one of its kind.
fn json_of_variables(variable: &impl Fn(&str) -> Option<String>) -> Result<Option<JsonTable>, SettingsError> {
    let said = |key: &str| variable(&format!("{JSON_VARIABLE}{key}"));
    let others = ["METHOD", "PARAMS", "POINTER", "EQUALS", "ADVANCES", "WITHIN"];
    let Some(url) = said("URL") else {
        return match others.into_iter().find_map(|key| Some((key, said(key)?))) {
            None => Ok(None),
            Some((key, value)) => Err(wrong(
                format!("{JSON_VARIABLE}{key}"),
                value,
                "nothing without OMNIVISOR_PROBE_JSON_URL, which says who is asked,",
            )),
        };
    };
    let params = said("PARAMS").map(|text| {
        let value = serde_json::from_str(&text);
        value.map_err(|_| wrong(format!("{JSON_VARIABLE}PARAMS"), text, "JSON such as [] or {\"height\": \"1\"}"))
    });
    let advances = said("ADVANCES").map(|text| boolean((format!("{JSON_VARIABLE}ADVANCES"), text)));
    Ok(Some(JsonTable {
        url,
        method: said("METHOD"),
        params: params.transpose()?,
        pointer: said("POINTER").unwrap_or_default(),
        equals: said("EQUALS").map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text))),
        advances: advances.transpose()?,
        within: said("WITHIN"),
    }))
}

/// `before` and a field's name are its key, or its variable. None without an address: an empty variable asks for nothing.
fn json(before: &str, table: JsonTable, rhythm: Rhythm) -> Result<Option<Check>, SettingsError> {
    let place = |key: &str| match before {
        JSON_VARIABLE => format!("{before}{}", key.to_uppercase()),
        _ => format!("{before}{key}"),
    };
    if table.url.is_empty() && before == JSON_VARIABLE {
        return Ok(None);
    }
    let url = address(&place("url"), &table.url)?;
    let call = match (table.method, table.params) {
        (None, None) => None,
        (None, Some(params)) => return Err(wrong(place("params"), params, "nothing without a method")),
        (Some(_), Some(params)) if !params.is_array() && !params.is_object() => {
            return Err(wrong(place("params"), params, "a list or a table"));
        }
        (Some(method), params) => Some(Call { method, params: params.unwrap_or(Value::Array(Vec::new())) }),
    };
    if !table.pointer.is_empty() && !table.pointer.starts_with('/') {
        return Err(wrong(place("pointer"), table.pointer, "a JSON pointer such as /sync_info/latest_block_height"));
    }
    let within = table.within.map(|within| duration((place("within"), within))).transpose()?;
    let expected = match (table.equals, table.advances.unwrap_or(false), within) {
        (Some(_), false, Some(_)) => {
            return Err(wrong(place("within"), "…", "nothing without advances, whose time it is,"));
        }
        (Some(value), false, None) => Expected::Equals(value),
        (None, true, within) => Expected::Advances { within: within.unwrap_or(rhythm.interval * INTERVALS) },
        (Some(value), true, _) => return Err(wrong(place("equals"), value, "either this or advances = true")),
        (None, false, _) => return Err(wrong(place("equals"), "", "either this or advances = true")),
    };
    Ok(Some(Check::Json(JsonCheck { url, call, pointer: table.pointer, expected })))
}
