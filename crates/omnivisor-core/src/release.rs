//! What can be installed: a release's name, version, digest and how its executable names itself.
//!
//! Everything here is parsed once, where it enters; a [`ReleaseName`] that exists is safe to use as a folder's name.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a text cannot name a release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} cannot be the name of an upgrade: {reason}")]
pub struct NameError {
    name: String,
    reason: &'static str,
}

/// The name of a release, which is also the name of its folder: one plain path component.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseName(String);

impl ReleaseName {
    /// A folder's name may have 255 bytes on every Linux file system; what is left is for our own suffixes.
    const LONGEST: usize = 128;

    /// Takes a name that came from outside.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let refuse = |reason| Err(NameError { name: name.chars().take(200).collect(), reason });
        match name {
            "" => return refuse("it is empty"),
            "genesis" => return refuse("that is the folder of the first release"),
            "current" => return refuse("that is the link to the active release"),
            _ => {}
        }
        if name.len() > Self::LONGEST {
            return refuse("it is longer than 128 bytes");
        }
        if name.starts_with('.') {
            return refuse("it starts with a dot");
        }
        if name.contains(['/', '\\']) {
            return refuse("it contains a path separator");
        }
        if name.chars().any(char::is_control) {
            return refuse("it contains a control character");
        }
        if name.trim() != name {
            return refuse("it starts or ends with a blank");
        }
        Ok(Self(name.to_owned()))
    }

    /// The release an installation began with, which no announcement can name.
    pub fn genesis() -> Self {
        Self("genesis".to_owned())
    }

    /// Takes a name that this program or its predecessor wrote: `genesis` is one.
    pub fn parse_installed(name: &str) -> Result<Self, NameError> {
        if name == "genesis" { Ok(Self::genesis()) } else { Self::parse(name) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReleaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A version as its binary spells it. Ordered by semantic versioning where both sides can be read so (a leading `v` and
/// missing trailing numbers are allowed), else not at all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(String);

impl Version {
    /// Any text is a version; whether it can be compared is another matter.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Which of the two is the later one, by semantic versioning; `None` when they cannot be compared.
    pub fn precedence(&self, other: &Self) -> Option<Ordering> {
        if self == other {
            return Some(Ordering::Equal);
        }
        Some(semantic(&self.0)?.cmp_precedence(&semantic(&other.0)?))
    }
}

fn semantic(text: &str) -> Option<semver::Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let missing = 3_usize.checked_sub(numbers.split('.').count())?;
    semver::Version::parse(&format!("{numbers}{}{rest}", ".0".repeat(missing))).ok()
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hash functions that digests of this field use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-2, 256 bits.
    Sha256,
    /// SHA-2, 512 bits.
    Sha512,
}

impl Algorithm {
    /// Reads `sha256` or `sha512`, in either case.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "sha256" => Some(Self::Sha256),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    /// Its name, as files write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many bytes a digest has.
    pub fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// Why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The hash function is not one that is known here.
    #[error("unknown checksum algorithm {0:?} (sha256 and sha512 are known)")]
    Algorithm(String),
    /// Not hexadecimal, or of the wrong length.
    #[error("{text:?} is not a {algorithm} checksum: {digits} hexadecimal digits are expected")]
    Digits {
        /// What was given, cut to a readable length.
        text: String,
        /// The hash function's name.
        algorithm: &'static str,
        /// How many digits it takes.
        digits: usize,
    },
}

/// The digest of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

impl Digest {
    /// Takes what a hash function gave; `None` if it has not that function's length.
    pub fn new(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        (bytes.len() == algorithm.length()).then(|| Self { algorithm, bytes: bytes.to_vec() })
    }

    /// Reads hexadecimal digits of either case.
    pub fn from_hex(algorithm: Algorithm, text: &str) -> Result<Self, DigestError> {
        let wrong = || DigestError::Digits {
            text: text.chars().take(200).collect(),
            algorithm: algorithm.as_str(),
            digits: algorithm.length() * 2,
        };
        let bytes = hex::decode(text.trim()).map_err(|_| wrong())?;
        Self::new(algorithm, &bytes).ok_or_else(wrong)
    }

    /// Reads `sha256:<hex>`, the form in which [`Display`](fmt::Display) writes it.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let (name, digits) = text.split_once(':').unwrap_or(("", text));
        let algorithm =
            Algorithm::parse(name).ok_or_else(|| DigestError::Algorithm(name.chars().take(200).collect()))?;
        Self::from_hex(algorithm, digits)
    }

    /// Which hash function made it.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digest in lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex::encode(&self.bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.to_hex())
    }
}

/// A version of the node that can be installed. Two are the same release when name, version and digest agree: a re-issue
/// under the same name is another release.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release {
    /// What the upgrade is called, and its folder.
    pub name: ReleaseName,
    /// What its executable says its version is.
    pub version: Version,
    /// The digest it was announced with, if it was announced with one.
    pub digest: Option<Digest>,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.version, self.name)
    }
}

/// What an executable says of itself, field by field (for Nym: the ten fields of its build information).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity(BTreeMap<String, String>);

impl Identity {
    /// One field's value.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }

    /// All fields, in the order of their names.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(field, value)| (field.as_str(), value.as_str()))
    }

    /// The fields that `expected` names and that are missing or different here: (field, expected, found).
    pub fn differences<'a>(&'a self, expected: &'a Self) -> Vec<(&'a str, &'a str, Option<&'a str>)> {
        expected
            .fields()
            .filter(|(field, value)| self.get(field) != Some(value))
            .map(|(field, value)| (field, value, self.get(field)))
            .collect()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Identity {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(fields: I) -> Self {
        Self(fields.into_iter().map(|(field, value)| (field.into(), value.into())).collect())
    }
}

/// A release that is on this machine's disk and was proven: what ran, or will run, and from where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Installed {
    /// Which release it is.
    pub release: Release,
    /// The folder it is in, resolved: never the `current` link.
    pub folder: PathBuf,
    /// SHA-256 of its executable, taken when it was proven.
    pub digest: Digest,
    /// What the executable said of itself when it was proven.
    pub identity: Identity,
}

impl Installed {
    /// The release's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_plain_path_component() {
        for good in ["2024.5-ragusa", "nym-binaries-v2024.5-ragusa", "up 1", "v1.2.3+x", "größer"] {
            assert!(ReleaseName::parse(good).is_ok(), "{good}");
        }
        let long = "x".repeat(129);
        for bad in [
            "", ".", "..", "../x", "a/b", "/abs", "a\\b", "a\0b", "a\nb", "genesis", "current", ".hidden", " x", "x ",
            &long,
        ] {
            assert!(ReleaseName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(ReleaseName::parse_installed("genesis").is_ok());
        assert!(ReleaseName::parse_installed("..").is_err());
    }

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let newer = |a: &str, b: &str| Version::new(a).precedence(&Version::new(b));
        assert_eq!(newer("1.10.0", "1.9.0"), Some(Ordering::Greater));
        assert_eq!(newer("v2.0", "1.99.99"), Some(Ordering::Greater));
        assert_eq!(newer("2.0.0-rc.1", "2.0.0"), Some(Ordering::Less));
        assert_eq!(newer("2024.5", "2024.5.0"), Some(Ordering::Equal));
        assert_eq!(newer("banana", "banana"), Some(Ordering::Equal));
        assert_eq!(newer("banana", "1.0.0"), None);
        assert_eq!(newer("1.2.3.4", "1.2.3"), None);
    }

    #[test]
    fn a_digest_has_its_functions_length() {
        let hex = "AB".repeat(32);
        let digest = Digest::from_hex(Algorithm::Sha256, &hex).unwrap();
        assert_eq!(digest.to_hex(), hex.to_lowercase());
        assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
        for bad in ["", "abc", "zz", &"ab".repeat(31), &"ab".repeat(64)] {
            assert!(Digest::from_hex(Algorithm::Sha256, bad).is_err(), "{bad}");
        }
        assert!(Digest::parse("md5:00").is_err());
    }

    #[test]
    fn identities_differ_only_where_something_was_expected() {
        let found: Identity = [("a", "1"), ("b", "2")].into_iter().collect();
        let expected: Identity = [("b", "3"), ("c", "4")].into_iter().collect();
        assert_eq!(found.differences(&expected), [("b", "3", Some("2")), ("c", "4", None)]);
        assert!(found.differences(&Identity::default()).is_empty());
    }
}
