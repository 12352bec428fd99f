//! Nym's releases on GitHub: which of them is followed, and the announcement that is made of its `hashes.json`.
//!
//! Source of the format: what the action `nym-hash-releases` of Nym's repository adds to a release: for each file its SHA-256,
//! and what the file answers to `build-info`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::build_info::BuildInfo;
use super::files::{Stamp, UpgradeInfo};
use super::platform::platform_key;
use crate::github::{Asset, Release};
use crate::release::Digest;

/// What describes a release.
pub const FILE_NAME: &str = "hashes.json";

/// What everything is built for that does not say so.
const PUBLISHED_FOR: &str = "linux-x86_64";
/// How many names are listed of a release that has not the one that is wanted.
const NAMED: usize = 20;

/// A repository whose releases are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitHubSource {
    /// Its owner.
    pub owner: String,
    /// Its name.
    pub repository: String,
    /// What a release's tag looks like; one `*` stands for anything.
    pub tag: String,
    /// Whether what its makers do not call ready is followed, too.
    pub pre_releases: bool,
    /// How long after its publication a release is switched to.
    pub wait: Duration,
    /// Whether a person has to say so.
    pub approval: bool,
}

/// The file, as far as it is looked at. Beside the files, it says of which release it is; that of a build of one's own does not.
#[derive(Deserialize)]
#[serde(expecting = "an object with assets")]
struct Hashes {
    tag_name: Option<String>,
    assets: BTreeMap<String, Value>,
}

/// What it says of one file.
#[derive(Deserialize)]
#[serde(expecting = "an object with sha256 and details")]
struct Entry {
    sha256: String,
    details: BuildInfo,
}

impl GitHubSource {
    /// What a queue names as the place that a release was announced at.
    pub fn place(&self) -> String {
        format!("github:{}/{}", self.owner, self.repository)
    }

    /// The part of a tag that the `*` stands for, if it is one of those that are followed.
    fn matched<'a>(&self, tag: &'a str) -> Option<&'a str> {
        match self.tag.split_once('*') {
            Some((before, after)) => tag.strip_prefix(before)?.strip_suffix(after),
            None => (tag == self.tag).then_some(tag),
        }
    }

    /// Whether a release is one that may be followed.
    pub fn may_follow(&self, release: &Release) -> bool {
        let is_ready = !release.draft && (self.pre_releases || !release.prerelease);
        is_ready && release.published_at.is_some() && self.matched(&release.tag).is_some()
    }

    /// The release that is followed: of those that may be, the one with the highest numbers in its tag, and of several the
    /// latest. What mends an older series is published after a newer one.
    pub fn follows<'a>(&self, releases: &'a [Release]) -> Option<&'a Release> {
        let candidates = releases.iter().filter(|release| self.may_follow(release));
        let ranked = candidates
            .filter_map(|release| Some(((numbers(self.matched(&release.tag)?), release.published_at?), release)));
        ranked.max_by(|(one, _), (other, _)| one.cmp(other)).map(|(_, release)| release)
    }

    /// What is announced of the daemon's file in a release. An error says why nothing can be.
    pub fn announcement(&self, release: &Release, hashes: &[u8], daemon: &str) -> Result<UpgradeInfo, String> {
        let tag = &release.tag;
        let Hashes { tag_name, mut assets } = serde_json::from_slice(hashes).map_err(|error| error.to_string())?;
        if let Some(other) = tag_name.filter(|name| name != tag) {
            return Err(format!("it is that of another release, {other:?}"));
        }
        let Some(entry) = assets.remove(daemon) else {
            let names: Vec<String> = assets.into_keys().take(NAMED).collect();
            return Err(format!("it has nothing of {daemon}, but of: {}", names.join(", ")));
        };
        let Entry { sha256, details } =
            Entry::deserialize(entry).map_err(|error| format!("what it says of {daemon} makes no sense: {error}"))?;
        let digest = Digest::parse(&format!("sha256:{sha256}"))
            .map_err(|error| format!("the sha256 that it gives of {daemon} is none: {error}"))?;
        let asset = release.assets.iter().find(|asset| asset.name == daemon);
        let asset = asset.ok_or_else(|| format!("the release has no file {daemon}"))?;
        if let Some(other) = asset.digest.as_ref().filter(|other| **other != digest) {
            return Err(format!("it says that {daemon} is {digest}, but GitHub has a file that is {other}"));
        }
        let url = download_url(asset).ok_or_else(|| format!("GitHub does not say where {daemon} is"))?;
        let published = release.published_at.ok_or("the release is not published")?;
        let build = json!({ "url": url, "checksum": sha256.to_lowercase(), "checksumAlgorithm": "sha256" });
        Ok(UpgradeInfo {
            // Nymvisor knows no better word for what must not be done by itself.
            manual: self.approval,
            name: tag.clone(),
            notes: format!("made from {FILE_NAME} of {} {tag}", self.place()),
            publish_date: Some(Stamp(published)),
            version: details.build_version.clone(),
            platforms: [(platform(&details.cargo_triple), build)].into(),
            upgrade_time: Stamp(published.plus(self.wait)),
            binary_details: Some(details),
            omnivisor: None,
            extra: Map::new(),
        })
    }
}

fn download_url(asset: &Asset) -> Option<String> {
    asset.download_url.as_ref().map(ToString::to_string)
}

/// The key of what is built for this triple.
fn platform(triple: &str) -> String {
    let mut parts = triple.split('-');
    let (arch, os) = (parts.next(), parts.find(|part| matches!(*part, "linux" | "darwin" | "windows" | "freebsd")));
    match (arch, os) {
        (Some(arch), Some("darwin")) => platform_key("macos", arch),
        (Some(arch), Some(os)) => platform_key(os, arch),
        _ => PUBLISHED_FOR.to_owned(),
    }
}

/// The numbers that a version begins with: 2025 and 8 of `v2025.8-tourist`.
fn numbers(version: &str) -> Vec<u64> {
    let version = version.trim_start_matches('v');
    let end = version.find(|it: char| it != '.' && !it.is_ascii_digit()).unwrap_or(version.len());
    version[..end].split('.').map_while(|part| part.parse().ok()).collect()
}
