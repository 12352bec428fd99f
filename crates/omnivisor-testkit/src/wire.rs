//! JSON in the peers' order of keys, and digests. `serde_json` sorts the keys of a `Value`; turning its own ordering on
//! for these tests would turn it on for the program under test as well. No reading of files back: see `start_check`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;

/// One order for every object of the formats: no two kinds disagree about it. Others come after, sorted by name.
const KEY_ORDER: [&str; 29] = [
    "manual",
    "name",
    "notes",
    "publishDate",
    "version",
    "platforms",
    "upgradeTime",
    "binaryDetails",
    "current",
    "queuedUp",
    "performedAt",
    "info",
    "binary_name",
    "build_timestamp",
    "build_version",
    "commit_sha",
    "commit_timestamp",
    "commit_branch",
    "rustc_version",
    "rustc_channel",
    "cargo_profile",
    "cargo_triple",
    "result",
    "error",
    "id",
    "VegaReleaseTag",
    "UpgradeBlockHeight",
    "from_height",
    "to_height",
];

/// Two blanks of indentation and no newline at the end, as the files are written.
pub fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(&Ordered(value)).unwrap()
}

/// One line without blanks, as build info is answered.
pub fn compact(value: &Value) -> String {
    serde_json::to_string(&Ordered(value)).unwrap()
}

/// The SHA-256 of a file in lower-case hex.
pub fn sha256_hex(path: &Path) -> String {
    let mut file = File::open(path).unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match file.read(&mut chunk).unwrap() {
            0 => return hex::encode(context.finish()),
            count => context.update(&chunk[..count]),
        }
    }
}

struct Ordered<'a>(&'a Value);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(object) => {
                let mut entries: Vec<_> = object.iter().collect();
                entries.sort_by_key(|(key, _)| KEY_ORDER.iter().position(|known| known == key).unwrap_or(usize::MAX));
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, &Ordered(value))?;
                }
                map.end()
            }
            Value::Array(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(&Ordered(item))?;
                }
                list.end()
            }
            plain => plain.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_come_in_the_order_of_the_peer() {
        let value = json!({"queuedUp": [], "current": {"version": "1", "name": "n", "manual": true, "other": 1}});
        assert_eq!(compact(&value), r#"{"current":{"manual":true,"name":"n","version":"1","other":1},"queuedUp":[]}"#);
        assert_eq!(pretty(&json!({"name": 1})), "{\n  \"name\": 1\n}");
    }
}
