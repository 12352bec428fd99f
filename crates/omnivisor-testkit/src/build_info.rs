//! The ten-field build info a node answers with. What a fake node makes of it on purpose is in `behaviour`.

use serde_json::{Value, json};

/// The build info of a node of this name and version; the other eight fields are always the same.
pub fn default_build_info(name: &str, version: &str) -> Value {
    json!({
        "binary_name": name,
        "build_timestamp": "2024-01-01T00:00:00Z",
        "build_version": version,
        "commit_sha": "abc",
        "commit_timestamp": "2024-01-01T00:00:00Z",
        "commit_branch": "HEAD",
        "rustc_version": "1.80.0",
        "rustc_channel": "stable",
        "cargo_profile": "release",
        "cargo_triple": "x86_64-unknown-linux-gnu",
    })
}
