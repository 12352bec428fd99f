//! A release of the sample node: this very executable with a trailer, called by the name `sample-node`.
//!
//! The trailer is `<json><length of the json, 8 bytes LE><"OVSAMPLE">`. What a node does is in `node`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use omnivisor_core::dialect::nym::build_info::BuildInfo;
use serde::{Deserialize, Serialize};

/// What the executable has to be called to be a sample node.
pub const NAME: &str = "sample-node";

const MAGIC: &[u8] = b"OVSAMPLE";
/// The length and the magic.
const TAIL: usize = 16;
/// A trailer has a version and a word.
const LONGEST: u64 = 1024;

/// A release of the sample node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Its version.
    pub version: String,
    /// Whether it dies at its start, after it has rewritten the data.
    pub sick: bool,
}

impl Sample {
    /// One that works.
    pub(super) fn well(version: &str) -> Self {
        Self { version: version.to_owned(), sick: false }
    }

    /// One that does not.
    pub(super) fn sick(version: &str) -> Self {
        Self { version: version.to_owned(), sick: true }
    }

    /// The release that this process runs, if it runs one.
    pub fn own() -> Option<Self> {
        read(&mut File::open("/proc/self/exe").ok()?).ok().flatten()
    }

    /// What it says of itself.
    pub(super) fn build_info(&self) -> BuildInfo {
        let text = str::to_owned;
        BuildInfo {
            binary_name: text(NAME),
            build_timestamp: text("2026-01-01T00:00:00Z"),
            build_version: self.version.clone(),
            commit_sha: text("0000000"),
            commit_timestamp: text("2026-01-01T00:00:00Z"),
            commit_branch: text("demo"),
            rustc_version: text(env!("CARGO_PKG_RUST_VERSION")),
            rustc_channel: text("stable"),
            cargo_profile: text(if cfg!(debug_assertions) { "debug" } else { "release" }),
            cargo_triple: text("unknown"),
        }
    }

    /// Its executable, made of `program`.
    pub(super) fn executable(&self, program: &[u8]) -> io::Result<Vec<u8>> {
        let json = serde_json::to_vec(self)?;
        let length = (json.len() as u64).to_le_bytes();
        Ok([program, &json, &length, MAGIC].concat())
    }
}

fn read(file: &mut (impl Read + Seek)) -> io::Result<Option<Sample>> {
    let mut tail = [0_u8; TAIL];
    let whole = file.seek(SeekFrom::End(0))?;
    let Some(end) = whole.checked_sub(TAIL as u64) else { return Ok(None) };
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut tail)?;
    let Some((length, MAGIC)) = tail.split_first_chunk::<8>() else { return Ok(None) };
    let length = u64::from_le_bytes(*length);
    let Some(begin) = end.checked_sub(length).filter(|_| length <= LONGEST) else { return Ok(None) };
    file.seek(SeekFrom::Start(begin))?;
    Ok(serde_json::from_reader(file.take(length)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn what_is_behind_an_executable_is_read_back() {
        let sample = Sample::sick("1.2.0");
        let executable = sample.executable(b"program").unwrap();
        assert!(executable.starts_with(b"program{"));
        assert_eq!(read(&mut Cursor::new(executable)).unwrap(), Some(sample));
    }

    #[test]
    fn a_file_without_a_whole_trailer_is_no_sample() {
        let long = [&b"{}"[..], &u64::MAX.to_le_bytes(), MAGIC].concat();
        for bytes in [&b""[..], b"short", b"a file that is longer than a tail is", &long] {
            assert_eq!(read(&mut Cursor::new(bytes)).unwrap(), None);
        }
    }
}
