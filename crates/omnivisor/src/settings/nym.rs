//! Where a node of Nym has its releases from, if not from the upstream that Nymvisor asks.

use std::path::Path;
use std::time::Duration;

use omnivisor_core::dialect::nym::hashes::GitHubSource;
use omnivisor_core::release::Algorithm;
use serde::Deserialize;

use super::{SettingsError, boolean, duration};
use crate::effects::digest;

/// What Nym calls the releases of its daemons.
const TAG: &str = "nym-binaries-v*";
/// How long others have to find out what is wrong with a release.
const COOL_DOWN: Duration = Duration::from_secs(48 * 3600);
/// Within which not all nodes of a network are down at once.
const SPREAD: Duration = Duration::from_secs(6 * 3600);

/// The table as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct NymTable {
    github: Option<String>,
    tag: Option<String>,
    channel: Option<String>,
    cool_down: Option<String>,
    spread: Option<String>,
    approval: Option<bool>,
}

/// A repository on GitHub that releases are followed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Releases {
    /// Its owner.
    pub owner: String,
    /// Its name.
    pub repository: String,
    /// What a release's tag looks like; one `*` stands for anything.
    pub tag: String,
    /// Whether what its makers do not call ready is followed, too.
    pub pre_releases: bool,
    /// How long after its publication a release is switched to at the earliest.
    pub cool_down: Duration,
    /// How much later it is at the latest.
    pub spread: Duration,
    /// Whether a person has to say so.
    pub approval: bool,
}

impl Releases {
    /// None, unless a repository is named. `said` prefers a variable to what stands in the file, and says where it found it.
    pub(super) fn resolve(
        table: NymTable,
        said: impl Fn(&str, &str, Option<String>) -> Option<(String, String)>,
    ) -> Result<Option<Self>, SettingsError> {
        let (tag_said, channel_said, cool_down_said) =
            (table.tag.clone(), table.channel.clone(), table.cool_down.clone());
        let tag = said("OMNIVISOR_NYM_TAG", "nym.tag", table.tag).map(pattern).transpose()?;
        let channel = said("OMNIVISOR_NYM_CHANNEL", "nym.channel", table.channel).map(channel).transpose()?;
        let cool_down = said("OMNIVISOR_NYM_COOL_DOWN", "nym.cool-down", table.cool_down).map(duration).transpose()?;
        let spread = said("OMNIVISOR_NYM_SPREAD", "nym.spread", table.spread).map(duration).transpose()?;
        let approval = table.approval.map(|approval| approval.to_string());
        let approval = said("OMNIVISOR_NYM_APPROVAL", "nym.approval", approval).map(boolean).transpose()?;
        let lonely = [("nym.tag", &tag_said), ("nym.channel", &channel_said), ("nym.cool-down", &cool_down_said)];
        let Some(named) = said("OMNIVISOR_NYM_GITHUB", "nym.github", table.github) else {
            return match lonely.into_iter().find_map(|(key, value)| Some((key, value.clone()?))) {
                Some((place, value)) => Err(SettingsError::Value {
                    place: place.to_owned(),
                    value,
                    right: "nothing without nym.github, which names the repository,",
                }),
                None => Ok(None),
            };
        };
        let (owner, repository) = repository(named)?;
        Ok(Some(Self {
            owner,
            repository,
            tag: tag.unwrap_or_else(|| TAG.to_owned()),
            pre_releases: channel.unwrap_or(false),
            cool_down: cool_down.unwrap_or(COOL_DOWN),
            spread: spread.unwrap_or(SPREAD),
            approval: approval.unwrap_or(true),
        }))
    }

    /// As the instance with this state folder follows it: each at a moment of its own, which stays the same.
    pub fn source(&self, state: &Path) -> GitHubSource {
        GitHubSource {
            owner: self.owner.clone(),
            repository: self.repository.clone(),
            tag: self.tag.clone(),
            pre_releases: self.pre_releases,
            wait: self.cool_down.saturating_add(self.spread.mul_f64(share(state))),
            approval: self.approval,
        }
    }
}

/// A number from 0 to 1 that every instance on every machine has one of.
fn share(state: &Path) -> f64 {
    // Containers and images that were copied may have one machine-id for all, and the name of a host is nobody else's there.
    let read = |path| std::fs::read(path).unwrap_or_default();
    let mut bytes = [read("/etc/machine-id"), read("/proc/sys/kernel/hostname")].concat();
    bytes.extend_from_slice(state.as_os_str().as_encoded_bytes());
    let digits = digest::of_bytes(Algorithm::Sha256, &bytes).to_hex();
    let number = digits.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default();
    f64::from(number) / f64::from(u32::MAX)
}

fn repository((place, value): (String, String)) -> Result<(String, String), SettingsError> {
    match value.split_once('/') {
        Some((owner, name)) if is_name(owner) && is_name(name) => Ok((owner.to_owned(), name.to_owned())),
        _ => Err(SettingsError::Value { place, value, right: "a repository such as nymtech/nym" }),
    }
}

/// Whether GitHub may have an owner or a repository of this name.
fn is_name(name: &str) -> bool {
    name.chars().all(|it| it.is_ascii_alphanumeric() || "-_.".contains(it)) && name.chars().any(|it| it != '.')
}

fn pattern((place, value): (String, String)) -> Result<String, SettingsError> {
    if value.is_empty() || value.matches('*').count() > 1 {
        return Err(SettingsError::Value { place, value, right: "a tag with one * in it, such as nym-binaries-v*," });
    }
    Ok(value)
}

/// Whether pre-releases are followed.
fn channel((place, value): (String, String)) -> Result<bool, SettingsError> {
    match value.as_str() {
        "stable" => Ok(false),
        "pre-release" => Ok(true),
        _ => Err(SettingsError::Value { place, value, right: "stable or pre-release" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Option<Releases>, String> {
        let table: NymTable = toml::from_str(text).map_err(|error| error.to_string())?;
        let said = |_: &str, key: &str, value: Option<String>| value.map(|value| (key.to_owned(), value));
        Releases::resolve(table, said).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_followed_unless_a_repository_is_named_and_then_a_person_decides() {
        assert_eq!(resolve("").unwrap(), None);
        let releases = resolve("github = 'nymtech/nym'").unwrap().unwrap();
        assert_eq!((releases.owner.as_str(), releases.repository.as_str()), ("nymtech", "nym"));
        assert!(releases.approval && !releases.pre_releases);
        assert_eq!(releases.cool_down, Duration::from_secs(48 * 3600));
    }

    #[test]
    fn what_makes_no_sense_is_named_with_what_would() {
        for (text, key, right) in [
            ("github = 'nym'", "nym.github", "nymtech/nym"),
            ("github = 'https://github.com/nymtech/nym'", "nym.github", "nymtech/nym"),
            ("github = 'a/b'\ntag = '*v*'", "nym.tag", "nym-binaries-v*"),
            ("github = 'a b/c'", "nym.github", "nymtech/nym"),
            ("github = 'a/..'", "nym.github", "nymtech/nym"),
            ("tag = 'v*'", "nym.tag", "nothing without nym.github"),
            ("channel = 'beta'", "nym.channel", "stable or pre-release"),
            ("cool-down = '2'", "nym.cool-down", "1h 30m"),
        ] {
            let error = resolve(text).unwrap_err();
            assert!(error.contains(key) && error.contains(right), "{error}");
        }
        assert!(resolve("chanel = 'stable'").unwrap_err().contains("chanel"));
    }

    #[test]
    fn an_instance_is_as_late_as_it_was_and_not_as_late_as_another_one() {
        let releases = resolve("github = 'a/b'\ncool-down = '10h'\nspread = '5h'").unwrap().unwrap();
        let hours = |count: u64| Duration::from_secs(count * 3600);
        let waits: Vec<_> = (0..20).map(|it| releases.source(Path::new(&format!("/{it}"))).wait).collect();
        assert!(waits.iter().all(|wait| *wait >= hours(10) && *wait <= hours(15)), "{waits:?}");
        let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!(*most - *least > hours(2), "{waits:?}");
        assert_eq!(releases.source(Path::new("/7")).wait, waits[7]);
    }
}
