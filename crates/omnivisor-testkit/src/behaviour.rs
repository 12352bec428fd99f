//! How a fake node behaves, and how that is written into its executable. What it then does is in `fake_node`.
//!
//! The behaviour is a trailer behind the executable: `<padding><json><length of json, 8 bytes LE><"FAKENODE">`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::build_info::default_build_info;
use crate::executable;

const MAGIC: &[u8; 8] = b"FAKENODE";
const TAIL: u64 = 16;

/// What a fake node is and does; the default is a well-behaved nym-node 1.0.0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Behaviour {
    /// Its `binary_name`.
    pub name: String,
    /// Its `build_version`, and the schema it knows.
    pub version: String,
    /// Its `commit_sha`.
    pub commit: String,
    /// Bytes that cannot be compressed, to make the file big.
    pub padding: u64,
    /// What it answers to `build-info`.
    pub build_info: BuildInfoAnswer,
    /// Ends by itself after so long.
    pub exit_after_ms: Option<u64>,
    /// The code it then ends with, and the code of the `fail` command.
    pub exit_code: i32,
    /// Dies of this signal (at once, or after `exit_after_ms`) instead of exiting.
    pub die_of_signal: Option<i32>,
    /// Logs SIGINT and SIGTERM and goes on.
    pub ignore_stop: bool,
    /// How long a graceful stop takes.
    pub linger_ms: u64,
    /// Never healthy.
    pub sick: bool,
    /// Moves older data to its own schema.
    pub migrates: bool,
    /// A process it starts and forgets.
    pub grandchild: Option<Grandchild>,
    /// Lines it writes to stdout at start.
    pub stdout_lines: u32,
}

/// What a fake node answers to `build-info`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum BuildInfoAnswer {
    /// Its build info.
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
    /// Its build info with another `binary_name`.
    OtherName(String),
    /// Its build info with another `build_version`.
    OtherVersion(String),
    /// A banner, although asked for none, and then its build info.
    BannerFirst,
    /// Its build info, but only if it is asked without `--no-banner`, which it does not know.
    KnowsNoBanner,
    /// Its build info without `cargo_triple`, as old programs answer.
    NoTriple,
}

/// A process a fake node starts and forgets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grandchild {
    /// Survives SIGINT, SIGTERM and SIGHUP.
    pub ignore_term: bool,
    /// Leaves the session, and so the process group, of the node.
    pub own_session: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::new("1.0.0")
    }
}

impl Behaviour {
    /// A well-behaved nym-node of this version.
    pub fn new(version: &str) -> Self {
        Self {
            name: "nym-node".to_owned(),
            version: version.to_owned(),
            commit: "abc".to_owned(),
            padding: 0,
            build_info: BuildInfoAnswer::Ok,
            exit_after_ms: None,
            exit_code: 0,
            die_of_signal: None,
            ignore_stop: false,
            linger_ms: 0,
            sick: false,
            migrates: false,
            grandchild: None,
            stdout_lines: 0,
        }
    }

    /// The build info of an honest node of this name, version and commit.
    pub fn details(&self) -> Value {
        let mut details = default_build_info(&self.name, &self.version);
        details["commit_sha"] = Value::from(self.commit.as_str());
        details
    }

    /// The behaviour of the running program.
    pub(crate) fn own() -> Option<Self> {
        read_trailer(&mut File::open("/proc/self/exe").ok()?).ok()?.map(|trailer| trailer.behaviour)
    }
}

/// Makes an executable with this behaviour out of a template, which may have been minted itself.
pub fn mint(template: &Path, to: &Path, behaviour: &Behaviour) {
    let mut file =
        File::open(template).unwrap_or_else(|error| panic!("no template at {}: {error}", template.display()));
    let program = match read_trailer(&mut file).unwrap() {
        Some(trailer) => trailer.begins_at,
        None => file.metadata().unwrap().len(),
    };
    file.seek(SeekFrom::Start(0)).unwrap();
    executable::write(to, |sink| {
        io::copy(&mut file.take(program), sink)?;
        write_padding(sink, behaviour)?;
        let json = serde_json::to_vec(behaviour)?;
        sink.write_all(&json)?;
        sink.write_all(&(json.len() as u64).to_le_bytes())?;
        sink.write_all(MAGIC)
    });
}

struct Trailer {
    behaviour: Behaviour,
    begins_at: u64,
}

fn read_trailer(file: &mut File) -> io::Result<Option<Trailer>> {
    let whole = file.metadata()?.len();
    let Some(end) = whole.checked_sub(TAIL) else { return Ok(None) };
    let mut tail = [0; TAIL as usize];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut tail)?;
    let (length, magic) = tail.split_first_chunk::<8>().unwrap();
    if magic != MAGIC {
        return Ok(None);
    }
    let length = u64::from_le_bytes(*length);
    let json_at = end.checked_sub(length).ok_or(io::ErrorKind::InvalidData)?;
    file.seek(SeekFrom::Start(json_at))?;
    let mut json = Vec::new();
    file.take(length).read_to_end(&mut json)?;
    let behaviour: Behaviour = serde_json::from_slice(&json)?;
    let begins_at = json_at.checked_sub(behaviour.padding).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some(Trailer { behaviour, begins_at }))
}

/// A xorshift seeded by the version, so that two versions share no padding and the same one is always the same.
fn write_padding(sink: &mut impl Write, behaviour: &Behaviour) -> io::Result<()> {
    let mut state =
        behaviour.version.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |seed, byte| seed.rotate_left(8) ^ u64::from(byte));
    let mut left = behaviour.padding;
    let mut chunk = [0_u8; 64 * 1024];
    while left > 0 {
        for word in chunk.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let count = left.min(chunk.len() as u64);
        sink.write_all(&chunk[..usize::try_from(count).unwrap()])?;
        left -= count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_behaviour_is_read_back_and_stripped_when_minted_again() {
        let folder = tempfile::tempdir().unwrap();
        let (template, first, second) =
            (folder.path().join("template"), folder.path().join("first"), folder.path().join("second"));
        std::fs::write(&template, b"program").unwrap();

        let behaviour = Behaviour { padding: 100_000, ..Behaviour::new("2.0.1") };
        mint(&template, &first, &behaviour);
        let trailer = read_trailer(&mut File::open(&first).unwrap()).unwrap().unwrap();
        assert_eq!((trailer.behaviour, trailer.begins_at), (behaviour, 7));
        assert_eq!(std::fs::metadata(&first).unwrap().permissions().mode() & 0o7777, 0o755);

        let other = Behaviour::new("3.0.0");
        mint(&first, &second, &other);
        let trailer = read_trailer(&mut File::open(&second).unwrap()).unwrap().unwrap();
        assert_eq!((trailer.behaviour, trailer.begins_at), (other, 7));
        assert!(std::fs::read(&second).unwrap().starts_with(b"program{"));
    }

    #[test]
    fn a_file_without_a_trailer_has_none() {
        let folder = tempfile::tempdir().unwrap();
        for content in ["", "short", "a file that is longer than the tail is"] {
            let path = folder.path().join("file");
            std::fs::write(&path, content).unwrap();
            assert!(read_trailer(&mut File::open(&path).unwrap()).unwrap().is_none());
        }
    }
}
