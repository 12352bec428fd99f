//! What core says of its next upgrade, asked for at its admin endpoint: one JSON-RPC call over HTTP on a Unix socket.
//!
//! Keys are matched in any case, as Go does. An answer that Vega Visor would have died of is an error here. Asking is not
//! done here.

use std::fmt;

use serde_json::{Map, Value};

use super::excerpt;
use crate::release::ReleaseName;

/// The content type that a request must have; with another one the answer is 415.
pub const CONTENT_TYPE: &str = "application/json";

/// An answer has some 150 bytes, and an error's text some more. No more than this has to be read.
pub const LARGEST_ANSWER: usize = 64 * 1024;

/// What core says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which release the network has agreed on.
    pub accepted: Accepted,
    /// Whether core and data node have done everything, and wait to be stopped. Stays so until they are.
    pub ready: bool,
}

/// Which release the network has agreed on. It may think better of it until it is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Core has seen no block yet since it was started, and cannot know.
    Unknown,
    /// None.
    Nothing,
    /// This one.
    Release {
        /// Its tag as it was voted for, with or without a `v`; safe to be a folder.
        tag: ReleaseName,
        /// The block at which it takes over, never 0.
        height: u64,
    },
}

/// Why an answer says nothing that could be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// Nothing but blanks came.
    #[error("core's admin endpoint gave an empty answer")]
    Empty,
    /// It is not JSON: the page of another server, or a text of the endpoint about the request itself.
    #[error("core's admin endpoint did not answer with JSON: {reason}; it answered \"{excerpt}\"")]
    NotJson {
        /// What the JSON reader says.
        reason: String,
        /// Its beginning, escaped.
        excerpt: String,
    },
    /// It is JSON of another form.
    #[error("core's admin endpoint gave a strange answer: {what} is not {right}; it answered \"{excerpt}\"")]
    Strange {
        /// Which part.
        what: &'static str,
        /// What it should be.
        right: &'static str,
        /// The answer's beginning, escaped.
        excerpt: String,
    },
    /// The call failed in core.
    #[error("core could not say what its upgrade status is: {0}")]
    Refused(String),
    /// Neither a result nor an error.
    #[error("core's admin endpoint answered with no result")]
    NoResult,
    /// Ready for what?
    #[error("core says that it is ready to be upgraded, and names no release")]
    ReadyForNothing,
    /// No release can be called so.
    #[error("core names the release \"{tag}\", which cannot be one: {reason}")]
    Tag {
        /// How it is called, escaped.
        tag: String,
        /// Why that cannot be.
        reason: String,
    },
    /// A release without a block, or the reverse.
    #[error("core names the release \"{tag}\" and the block {height}, which do not go together")]
    Height {
        /// The tag.
        tag: String,
        /// The block.
        height: u64,
    },
}

/// The body of a request, which has to be POSTed with [`CONTENT_TYPE`]. The answer has the same `id`; nobody looks at it.
pub fn request(id: u64) -> Vec<u8> {
    format!(r#"{{"method":"protocolupgrade.UpgradeStatus","params":[null],"id":{id}}}"#).into_bytes()
}

/// Reads an answer, whatever its HTTP status was.
pub fn interpret(body: &[u8]) -> Result<Status, AdminError> {
    let text = String::from_utf8_lossy(body);
    if text.trim().is_empty() {
        return Err(AdminError::Empty);
    }
    let not_json =
        |error: serde_json::Error| AdminError::NotJson { reason: error.to_string(), excerpt: excerpt(&text) };
    let answer: Value = serde_json::from_slice(body).map_err(not_json)?;
    let strange = |(what, right)| AdminError::Strange { what, right, excerpt: excerpt(&text) };
    let (result, error) = envelope(&answer).map_err(strange)?;
    match (error, result) {
        (Value::Null, Value::Null) => Err(AdminError::NoResult),
        (Value::Null, result) => judge(status(result).map_err(strange)?),
        (Value::String(error), _) => Err(AdminError::Refused(excerpt(error))),
        (error, _) => Err(AdminError::Refused(excerpt(&error.to_string()))),
    }
}

/// What a part of the answer is called, and what it should have been.
type Odd = (&'static str, &'static str);

fn envelope(answer: &Value) -> Result<(&Value, &Value), Odd> {
    let answer = answer.as_object().ok_or(("it", "an object"))?;
    Ok((field(answer, "result")?, field(answer, "error")?))
}

/// The status as it is told.
struct Told<'a> {
    /// A release's tag and height.
    release: Option<(&'a str, u64)>,
    ready: bool,
}

fn status(result: &Value) -> Result<Told<'_>, Odd> {
    let result = result.as_object().ok_or(("result", "an object"))?;
    let ready = match field(result, "ReadyToUpgrade")? {
        Value::Null => false,
        ready => ready.as_bool().ok_or(("ReadyToUpgrade", "a truth value"))?,
    };
    let release = match field(result, "AcceptedReleaseInfo")? {
        Value::Null => return Ok(Told { release: None, ready }),
        release => release.as_object().ok_or(("AcceptedReleaseInfo", "an object"))?,
    };
    let tag = match field(release, "VegaReleaseTag")? {
        Value::Null => "",
        tag => tag.as_str().ok_or(("VegaReleaseTag", "a text"))?,
    };
    let height = match field(release, "UpgradeBlockHeight")? {
        Value::Null => 0,
        height => height.as_u64().ok_or(("UpgradeBlockHeight", "a whole number"))?,
    };
    Ok(Told { release: Some((tag, height)), ready })
}

fn judge(Told { release, ready }: Told<'_>) -> Result<Status, AdminError> {
    let accepted = match release {
        None => Accepted::Unknown,
        Some(("", 0)) => Accepted::Nothing,
        Some((tag, height)) if tag.is_empty() || height == 0 => {
            return Err(AdminError::Height { tag: excerpt(tag), height });
        }
        Some((tag, height)) => Accepted::Release { tag: checked(tag)?, height },
    };
    match accepted {
        Accepted::Unknown | Accepted::Nothing if ready => Err(AdminError::ReadyForNothing),
        accepted => Ok(Status { accepted, ready }),
    }
}

fn checked(tag: &str) -> Result<ReleaseName, AdminError> {
    let wrong = |reason: &dyn fmt::Display| AdminError::Tag { tag: excerpt(tag), reason: reason.to_string() };
    semver::Version::parse(trimmed(tag)).map_err(|error| wrong(&format_args!("it is no version: {error}")))?;
    ReleaseName::parse(tag).map_err(|error| wrong(&error))
}

/// Whether an executable that prints this version is the release with this tag. Core takes a tag with or without `v`; the
/// executable always prints one.
pub fn is_version_of(printed: &str, tag: &str) -> bool {
    let version = |text| semver::Version::parse(trimmed(text));
    match (version(printed), version(tag)) {
        (Ok(printed), Ok(tag)) => printed == tag,
        _ => printed == tag,
    }
}

/// The tag without the letter that core does not look at.
fn trimmed(tag: &str) -> &str {
    tag.strip_prefix(['v', 'V']).unwrap_or(tag)
}

/// The value of a key in any case; null if there is none.
fn field<'a>(object: &'a Map<String, Value>, name: &'static str) -> Result<&'a Value, Odd> {
    let mut matching = object.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
    match (matching.next(), matching.next()) {
        (None, _) => Ok(&Value::Null),
        (Some((_, value)), None) => Ok(value),
        // Go would take the last one; which one was meant nobody knows.
        (Some(_), Some(_)) => Err((name, "there only once")),
    }
}
