//! What a fake Vega node is. What it does is said while it runs, in `control`; how this gets into the executable is in
//! `minting`.

use serde::{Deserialize, Serialize};

use crate::minting::Minted;

/// What a fake Vega node is; the default is v0.74.0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VegaBehaviour {
    /// Its version, and the schema it knows.
    pub version: String,
    /// Its commit.
    pub hash: String,
    /// Bytes that cannot be compressed, to make the file big.
    pub padding: u64,
    /// What it answers to `version`.
    pub version_answer: VersionAnswer,
}

/// What a fake Vega node answers to `version`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionAnswer {
    /// Its version and commit.
    #[default]
    Ok,
    /// Nothing, ever.
    Hang,
    /// A line that is not JSON.
    Rubbish,
    /// JSON that never ends.
    Huge,
    /// Nothing but this exit code.
    Exit(i32),
    /// Another version.
    OtherVersion(String),
}

impl Default for VegaBehaviour {
    fn default() -> Self {
        Self::new("v0.74.0")
    }
}

impl VegaBehaviour {
    /// A well-behaved node of this version.
    pub fn new(version: &str) -> Self {
        Self { version: version.to_owned(), hash: "abc".to_owned(), padding: 0, version_answer: VersionAnswer::Ok }
    }
}

impl Minted for VegaBehaviour {
    const MAGIC: &'static [u8; 8] = b"FAKEVEGA";

    fn version(&self) -> &str {
        &self.version
    }

    fn padding(&self) -> u64 {
        self.padding
    }
}
