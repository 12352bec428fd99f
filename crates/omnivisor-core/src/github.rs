//! A release as GitHub's API tells of it. What is not needed is not looked at, and what is odd is left out.
//!
//! Source of the format: <https://docs.github.com/en/rest/releases/releases>, version 2022-11-28 of the API.

use serde_json::{Map, Value};
use url::Url;

use crate::release::Digest;
use crate::time::Timestamp;

/// A release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The tag that it was made of.
    pub tag: String,
    /// Whether its makers do not call it ready.
    pub prerelease: bool,
    /// Whether it is not public yet.
    pub draft: bool,
    /// When it was made public.
    pub published_at: Option<Timestamp>,
    /// What can be downloaded.
    pub assets: Vec<Asset>,
}

/// A file of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asset {
    /// The file's name.
    pub name: String,
    /// Where the API has it.
    pub api_url: Option<Url>,
    /// Where everybody can download it, if it is public.
    pub download_url: Option<Url>,
    /// How many bytes it has.
    pub size: Option<u64>,
    /// The digest that GitHub made of it, if it did, by a function that is known here.
    pub digest: Option<Digest>,
}

impl Release {
    /// Reads an answer that is one release; the error says what is wrong with it.
    pub fn parse(answer: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
        Self::of(&value).ok_or_else(|| "it is no release with a tag_name".to_owned())
    }

    /// Reads an answer that is a list of releases. What is no release in it is left out.
    pub fn parse_list(answer: &[u8]) -> Result<Vec<Self>, String> {
        let value: Value = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
        let list = value.as_array().ok_or("it is no list of releases")?;
        Ok(list.iter().filter_map(Self::of).collect())
    }

    fn of(value: &Value) -> Option<Self> {
        let release = value.as_object()?;
        let assets = release.get("assets").and_then(Value::as_array);
        Some(Self {
            tag: text(release, "tag_name")?.to_owned(),
            prerelease: flag(release, "prerelease"),
            draft: flag(release, "draft"),
            published_at: text(release, "published_at").and_then(|text| Timestamp::parse(text).ok()),
            assets: assets.into_iter().flatten().filter_map(Asset::of).collect(),
        })
    }
}

impl Asset {
    /// One that is still being uploaded is none.
    fn of(value: &Value) -> Option<Self> {
        let asset = value.as_object()?;
        if text(asset, "state").is_some_and(|state| state != "uploaded") {
            return None;
        }
        let address = |key| text(asset, key).and_then(|text| Url::parse(text).ok());
        Some(Self {
            name: text(asset, "name")?.to_owned(),
            api_url: address("url"),
            download_url: address("browser_download_url").filter(|url| matches!(url.scheme(), "http" | "https")),
            size: asset.get("size").and_then(Value::as_u64),
            digest: text(asset, "digest").and_then(|text| Digest::parse(text).ok()),
        })
    }
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key)?.as_str()
}

fn flag(object: &Map<String, Value>, key: &str) -> bool {
    object.get(key).and_then(Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn digest() -> String {
        format!("sha256:{}", "ab".repeat(32))
    }

    fn release() -> Value {
        json!({
            "url": "https://api.github.com/repos/o/r/releases/1",
            "id": 1,
            "tag_name": "v0.79.0",
            "name": "0.79.0",
            "draft": false,
            "prerelease": true,
            "published_at": "2026-01-02T03:04:05Z",
            "body": "notes",
            "assets": [
                {
                    "url": "https://api.github.com/repos/o/r/releases/assets/7",
                    "id": 7,
                    "name": "vega-linux-amd64.zip",
                    "content_type": "application/x-zip-compressed",
                    "state": "uploaded",
                    "size": 1234,
                    "digest": digest(),
                    "browser_download_url": "https://github.com/o/r/releases/download/v0.79.0/vega-linux-amd64.zip",
                },
                {"name": "old.zip", "state": "uploaded", "digest": null},
                {"name": "new.zip", "digest": "sha3-256:00"},
                {"name": "half.zip", "state": "open", "size": 3},
                {"size": 3},
                7,
            ],
        })
    }

    #[test]
    fn a_release_is_read_as_the_api_gives_it() {
        let read = Release::parse(release().to_string().as_bytes()).unwrap();
        assert_eq!((read.tag.as_str(), read.prerelease, read.draft), ("v0.79.0", true, false));
        assert_eq!(read.published_at, Timestamp::parse("2026-01-02T03:04:05Z").ok());
        let names: Vec<_> = read.assets.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["vega-linux-amd64.zip", "old.zip", "new.zip"]);
        let first = &read.assets[0];
        assert_eq!(first.digest.as_ref().map(ToString::to_string), Some(digest()));
        assert_eq!(first.size, Some(1234));
        assert!(first.api_url.as_ref().unwrap().path().ends_with("/assets/7"));
        assert!(first.download_url.as_ref().unwrap().path().ends_with("vega-linux-amd64.zip"));
        assert!(read.assets[1..].iter().all(|it| it.digest.is_none() && it.size.is_none()));
    }

    #[test]
    fn a_list_is_read_without_what_is_no_release_in_it() {
        let list = json!([release(), {"name": "none"}, null, {"tag_name": "v2"}]);
        let read = Release::parse_list(list.to_string().as_bytes()).unwrap();
        assert_eq!(read.iter().map(|it| it.tag.as_str()).collect::<Vec<_>>(), ["v0.79.0", "v2"]);
        assert!(Release::parse_list(b"{}").is_err());
        assert!(Release::parse_list(b"<html>").is_err());
        assert!(Release::parse(b"[]").is_err());
    }

    #[test]
    fn nesting_without_an_end_is_an_error() {
        assert!(Release::parse("[".repeat(1 << 20).as_bytes()).is_err());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
            "(sha256|sha512|):[0-9a-fé]{0,70}".prop_map(Value::from),
        ];
        let keys = prop::sample::select(vec![
            "tag_name",
            "assets",
            "name",
            "url",
            "digest",
            "size",
            "state",
            "published_at",
            "draft",
            "prerelease",
        ]);
        leaf.prop_recursive(4, 40, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(keys.clone().prop_map(str::to_owned), inner, 0..8)
                    .prop_map(|object| Value::Object(object.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_json_is_read_or_refused(value in any_json()) {
            let text = value.to_string();
            let _ = Release::parse(text.as_bytes());
            let _ = Release::parse_list(text.as_bytes());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Release::parse(&bytes);
            let _ = Release::parse_list(&bytes);
        }
    }
}
