//! What a Nym binary says of itself: the ten fields it prints for `--no-banner build-info --output=json`.
//!
//! The same shape is `binaryDetails` in the files. Running the binary is not done here; its output is passed in.

use serde::{Deserialize, Serialize};

use crate::release::Identity;

/// How much of an unreadable output an error shows.
const EXCERPT: usize = 200;

/// The value of a field that a binary left out.
const UNKNOWN: &str = "unknown";

/// Why an output is not build information.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildInfoError {
    /// Nothing but blanks was printed.
    #[error("the binary printed nothing where its build information as one JSON object was expected")]
    Empty,
    /// Something else was printed.
    #[error("the binary did not print its build information as one JSON object: {reason}; it printed \"{excerpt}\"")]
    Unreadable {
        /// What the JSON reader says.
        reason: String,
        /// The beginning of the output, escaped.
        excerpt: String,
    },
}

/// The build information of a Nym binary, as it is written in JSON. Keys that are not known are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "an object with the ten fields of the build information")]
#[allow(missing_docs, reason = "the fields are named by the format and mean what their names say")]
pub struct BuildInfo {
    pub binary_name: String,
    pub build_timestamp: String,
    pub build_version: String,
    pub commit_sha: String,
    pub commit_timestamp: String,
    pub commit_branch: String,
    pub rustc_version: String,
    pub rustc_channel: String,
    pub cargo_profile: String,
    /// Older binaries do not print it.
    #[serde(default = "unknown")]
    pub cargo_triple: String,
}

fn unknown() -> String {
    UNKNOWN.to_owned()
}

impl BuildInfo {
    /// Reads what a binary printed: one JSON object. A banner may stand before it, as some print one that asks for nothing
    /// else; nothing but blanks may follow.
    pub fn parse(stdout: &[u8]) -> Result<Self, BuildInfoError> {
        if stdout.trim_ascii().is_empty() {
            return Err(BuildInfoError::Empty);
        }
        let whole = |bytes| serde_json::from_slice(bytes);
        whole(stdout)
            .or_else(|error| whole(behind_banner(stdout).ok_or(error)?))
            .map_err(|error| BuildInfoError::Unreadable { reason: error.to_string(), excerpt: excerpt(stdout) })
    }

    /// One line of JSON, keys in the documented order, without the newline after it.
    pub fn to_json_line(&self) -> String {
        // Written by hand because it cannot fail: strings are the only values there are.
        let fields: Vec<String> = self
            .fields()
            .into_iter()
            .map(|(key, value)| format!("\"{key}\":{}", serde_json::Value::from(value)))
            .collect();
        format!("{{{}}}", fields.join(","))
    }

    /// The text form, to be printed with a newline after it: it begins with an empty line and then ends with one. The
    /// triple is not part of it.
    pub fn to_text(&self) -> String {
        let labels = [
            ("Binary Name:", &self.binary_name),
            ("Build Timestamp:", &self.build_timestamp),
            ("Build Version:", &self.build_version),
            ("Commit SHA:", &self.commit_sha),
            ("Commit Date:", &self.commit_timestamp),
            ("Commit Branch:", &self.commit_branch),
            ("rustc Version:", &self.rustc_version),
            ("rustc Channel:", &self.rustc_channel),
            ("cargo Profile:", &self.cargo_profile),
        ];
        let lines: String = labels.iter().map(|(label, value)| format!("{label:<20}{value}\n")).collect();
        format!("\n{lines}")
    }

    /// Everything the binary says, for comparing it with what was expected.
    pub fn to_identity(&self) -> Identity {
        self.fields().into_iter().collect()
    }

    /// What another binary has to say to be this one. A triple that nobody knows cannot be demanded.
    pub fn expected_identity(&self) -> Identity {
        let known = |(field, value): &(&str, &str)| *field != "cargo_triple" || !matches!(*value, "" | UNKNOWN);
        self.fields().into_iter().filter(known).collect()
    }

    /// Puts the information together again; `None` if it does not even say which binary of which version it is.
    pub fn from_identity(identity: &Identity) -> Option<Self> {
        let field = |name| identity.get(name).unwrap_or(UNKNOWN).to_owned();
        Some(Self {
            binary_name: identity.get("binary_name")?.to_owned(),
            build_timestamp: field("build_timestamp"),
            build_version: identity.get("build_version")?.to_owned(),
            commit_sha: field("commit_sha"),
            commit_timestamp: field("commit_timestamp"),
            commit_branch: field("commit_branch"),
            rustc_version: field("rustc_version"),
            rustc_channel: field("rustc_channel"),
            cargo_profile: field("cargo_profile"),
            cargo_triple: field("cargo_triple"),
        })
    }

    fn fields(&self) -> [(&'static str, &str); 10] {
        [
            ("binary_name", &self.binary_name),
            ("build_timestamp", &self.build_timestamp),
            ("build_version", &self.build_version),
            ("commit_sha", &self.commit_sha),
            ("commit_timestamp", &self.commit_timestamp),
            ("commit_branch", &self.commit_branch),
            ("rustc_version", &self.rustc_version),
            ("rustc_channel", &self.rustc_channel),
            ("cargo_profile", &self.cargo_profile),
            ("cargo_triple", &self.cargo_triple),
        ]
    }
}

/// What begins with the first line after the first one that begins an object.
fn behind_banner(stdout: &[u8]) -> Option<&[u8]> {
    let at = stdout.windows(2).position(|pair| pair == b"\n{")?;
    Some(&stdout[at + 1..])
}

/// The beginning of something unreadable, made safe to print on one line.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    // No character takes more than four bytes, so this many are enough and a huge input costs nothing.
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(EXCERPT * 4)]);
    let mut escaped = head.trim().chars().flat_map(char::escape_debug);
    let mut text: String = escaped.by_ref().take(EXCERPT - 1).collect();
    match escaped.next() {
        Some(_) => text.push('…'),
        None if bytes.len() > EXCERPT * 4 => text.push('…'),
        None => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_and_has_no_control_characters() {
        let long = b"<html>\x1b[31m\n".repeat(1000);
        let text = excerpt(&long);
        assert_eq!(text.chars().count(), EXCERPT);
        assert!(text.starts_with("<html>\\u{1b}[31m\\n<html>"), "{text}");
        assert!(text.ends_with('…'));
        assert_eq!(excerpt(b" short\n"), "short");
        assert_eq!(excerpt(&[0xff, b'a']), "\u{fffd}a");
    }
}
