//! Whether Nymvisor would start from what is on the disk: its own check, with every key it requires. What it would
//! then do is not looked at, and neither is its config.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::installation::{Installation, probe};

const BUILD_INFO: [&str; 9] = [
    "binary_name",
    "build_timestamp",
    "build_version",
    "commit_sha",
    "commit_timestamp",
    "commit_branch",
    "rustc_version",
    "rustc_channel",
    "cargo_profile",
];

impl Installation {
    /// Fails unless Nymvisor would accept this installation and start the node; the version it would start.
    #[track_caller]
    pub fn assert_nymvisor_would_start(&self) -> String {
        self.nymvisor_would_start().unwrap_or_else(|reason| panic!("nymvisor would not start: {reason}"))
    }

    /// The version Nymvisor would start, or why it would not.
    pub fn nymvisor_would_start(&self) -> Result<String, String> {
        let current = self.current();
        fs::read_link(&current).map_err(|error| format!("{} is no symlink: {error}", current.display()))?;
        fs::canonicalize(&current).map_err(|error| format!("{} dangles: {error}", current.display()))?;

        let info = read(&current.join("upgrade-info.json"))?;
        check_upgrade_info(&info).map_err(|error| format!("current/upgrade-info.json: {error}"))?;
        let installed = read(&self.current_version())?;
        check_current_version(&installed).map_err(|error| format!("current-version.json: {error}"))?;
        same(&info, &installed, "current/upgrade-info.json", "current-version.json")?;
        let details = normal(&installed["binaryDetails"]);
        if !info["binaryDetails"].is_null() && normal(&info["binaryDetails"]) != details {
            return Err(format!("binaryDetails differ: {} and {details}", info["binaryDetails"]));
        }

        let answered = probe(&current.join("bin").join(&self.daemon));
        check_build_info(&answered).map_err(|error| format!("build info of the binary: {error}"))?;
        if normal(&answered) != details {
            return Err(format!("the binary says {answered}, current-version.json {details}"));
        }

        let plan = read(&self.plan())?;
        check_plan(&plan).map_err(|error| format!("upgrade-plan.json: {error}"))?;
        same(&plan["current"], &installed, "current of the plan", "current-version.json")?;

        if fs::symlink_metadata(self.history()).is_ok() {
            check_history(&read(&self.history())?).map_err(|error| format!("upgrade-history.json: {error}"))?;
        }
        text(object(&installed)?, "version").map(str::to_owned)
    }
}

fn read(path: &Path) -> Result<Value, String> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}

fn same(left: &Value, right: &Value, left_is: &str, right_is: &str) -> Result<(), String> {
    for key in ["name", "version"] {
        if left[key] != right[key] {
            return Err(format!("{key} is {} in {left_is}, {} in {right_is}", left[key], right[key]));
        }
    }
    Ok(())
}

/// The ten fields alone: unknown keys are ignored, and the last field has a default.
fn normal(details: &Value) -> Value {
    let mut fields: Map<_, _> = BUILD_INFO.iter().map(|key| ((*key).to_owned(), details[key].clone())).collect();
    fields.insert("cargo_triple".to_owned(), details.get("cargo_triple").cloned().unwrap_or("unknown".into()));
    fields.into()
}

fn check_plan(plan: &Value) -> Result<(), String> {
    let plan = object(plan)?;
    check_upgrade_info(key(plan, "current")?).map_err(|error| format!("current: {error}"))?;
    for (index, entry) in list(plan, "queuedUp")?.iter().enumerate() {
        check_upgrade_info(entry).map_err(|error| format!("queuedUp {index}: {error}"))?;
    }
    Ok(())
}

fn check_history(history: &Value) -> Result<(), String> {
    for (index, entry) in list(object(history)?, "history")?.iter().enumerate() {
        let entry = object(entry)?;
        moment(entry, "performedAt")?;
        check_upgrade_info(key(entry, "info")?).map_err(|error| format!("entry {index}: {error}"))?;
    }
    Ok(())
}

fn check_current_version(version: &Value) -> Result<(), String> {
    let version = object(version)?;
    text(version, "name")?;
    text(version, "version")?;
    moment(version, "upgradeTime")?;
    check_build_info(key(version, "binaryDetails")?)
}

fn check_upgrade_info(info: &Value) -> Result<(), String> {
    let info = object(info)?;
    key(info, "manual")?.as_bool().ok_or("manual is neither true nor false")?;
    for name in ["name", "notes", "version"] {
        text(info, name)?;
    }
    moment(info, "upgradeTime")?;
    if !key(info, "publishDate")?.is_null() {
        moment(info, "publishDate")?;
    }
    for (platform, download) in object(key(info, "platforms")?)? {
        check_download(download).map_err(|error| format!("platform {platform}: {error}"))?;
    }
    match info.get("binaryDetails") {
        None | Some(Value::Null) => Ok(()),
        Some(details) => check_build_info(details),
    }
}

fn check_download(download: &Value) -> Result<(), String> {
    let download = object(download)?;
    hex::decode(text(download, "checksum")?).map_err(|error| format!("checksum: {error}"))?;
    if !matches!(text(download, "checksumAlgorithm")?, "sha256" | "sha512") {
        return Err("checksumAlgorithm is unknown".to_owned());
    }
    // Enough to tell an absolute address from a path.
    text(download, "url")?.contains("://").then_some(()).ok_or_else(|| "url is not absolute".to_owned())
}

fn check_build_info(details: &Value) -> Result<(), String> {
    let details = object(details)?;
    for name in BUILD_INFO {
        text(details, name)?;
    }
    details.get("cargo_triple").map_or(Ok(()), |_| text(details, "cargo_triple").map(|_| ()))
}

fn object(value: &Value) -> Result<&Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("{value} is no object"))
}

fn key<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a Value, String> {
    object.get(name).ok_or_else(|| format!("{name} is missing"))
}

fn list<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a Vec<Value>, String> {
    key(object, name)?.as_array().ok_or_else(|| format!("{name} is no list"))
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    key(object, name)?.as_str().ok_or_else(|| format!("{name} is no text"))
}

fn moment(object: &Map<String, Value>, name: &str) -> Result<(), String> {
    OffsetDateTime::parse(text(object, name)?, &Rfc3339).map(|_| ()).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests;
