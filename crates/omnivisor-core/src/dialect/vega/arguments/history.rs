//! Asking a data node for its latest history segment: the height that a core must not begin behind.

use serde::Deserialize;

use super::{HOME, value_of};
use crate::dialect::vega::excerpt;

/// What a data node prints instead of a segment if it has none.
const NO_SEGMENTS: &str = "no history segments found";

/// Why nobody knows the latest segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The data node says why.
    #[error("the data node could not say which its latest history segment is: {0}")]
    Refused(String),
    /// It printed something else.
    #[error("the data node did not print its latest history segment: {reason}; it printed \"{excerpt}\"")]
    Unreadable {
        /// What is wrong with it.
        reason: String,
        /// Its beginning, escaped.
        excerpt: String,
    },
}

/// The arguments with which the data node's executable prints its latest history segment; made of those it runs with.
pub fn latest_segment_arguments(data_node: &[String]) -> Vec<String> {
    // Vega's one executable has to be told that it is a data node; an old one of its own has not.
    let program = data_node.first().filter(|word| *word == "datanode").cloned();
    let mut arguments: Vec<String> = program.into_iter().collect();
    arguments.extend(["network-history", "latest-history-segment", "--output", "json"].map(str::to_owned));
    if let Some(home) = value_of(data_node, HOME).filter(|home| !home.is_empty()) {
        arguments.extend([HOME.to_owned(), home]);
    }
    arguments
}

#[derive(Deserialize)]
struct Output {
    #[serde(rename = "LatestSegment")]
    segment: Option<Segment>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Segment {
    /// Left out where it is 0.
    #[serde(default)]
    to_height: u64,
}

/// Reads what was printed: the height up to which there are segments; none if there are none.
pub fn parse_latest_segment(stdout: &[u8], exit_ok: bool) -> Result<Option<u64>, SegmentError> {
    let text = String::from_utf8_lossy(stdout);
    let unreadable = |reason: String| SegmentError::Unreadable { reason, excerpt: excerpt(&text) };
    if !exit_ok && text.contains(NO_SEGMENTS) {
        return Ok(None);
    }
    // Something else may have been printed before it.
    let last_line = || text.trim().lines().next_back().unwrap_or_default();
    let output = serde_json::from_str(&text).or_else(|error| serde_json::from_str(last_line()).map_err(|_| error));
    match output {
        Ok(Output { error: Some(error), .. }) if error == NO_SEGMENTS => Ok(None),
        Ok(Output { error: Some(error), .. }) => Err(SegmentError::Refused(excerpt(&error))),
        Ok(_) if !exit_ok => Err(unreadable("it failed and did not say why".to_owned())),
        Ok(Output { segment: Some(segment), .. }) => Ok(Some(segment.to_height)),
        Ok(Output { segment: None, .. }) => Err(unreadable("there is no segment in it".to_owned())),
        Err(error) => Err(unreadable(error.to_string())),
    }
}
