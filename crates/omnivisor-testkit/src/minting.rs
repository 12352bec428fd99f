//! How what a fake daemon is gets into its executable. What it then does is in `fake_node` and `fake_vega`.
//!
//! It is a trailer behind the executable: `<padding><json><length of json, 8 bytes LE><magic, 8 bytes>`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::executable;

const TAIL: u64 = 16;

/// What can be written behind an executable.
pub trait Minted: Serialize + DeserializeOwned {
    /// The last bytes of the file, one word for each kind of daemon.
    const MAGIC: &'static [u8; 8];

    /// Its version, from which the padding is made.
    fn version(&self) -> &str;

    /// Bytes that cannot be compressed, to make the file big.
    fn padding(&self) -> u64;

    /// That of the running program.
    fn own() -> Option<Self> {
        read_trailer(&mut File::open("/proc/self/exe").ok()?).ok()?.map(|trailer| trailer.behaviour)
    }
}

/// Makes an executable with this behaviour out of a template, which may have been minted itself.
pub fn mint<B: Minted>(template: &Path, to: &Path, behaviour: &B) {
    let mut file =
        File::open(template).unwrap_or_else(|error| panic!("no template at {}: {error}", template.display()));
    let program = match read_trailer::<B>(&mut file).unwrap() {
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
        sink.write_all(B::MAGIC)
    });
}

struct Trailer<B> {
    behaviour: B,
    begins_at: u64,
}

fn read_trailer<B: Minted>(file: &mut File) -> io::Result<Option<Trailer<B>>> {
    let whole = file.metadata()?.len();
    let Some(end) = whole.checked_sub(TAIL) else { return Ok(None) };
    let mut tail = [0; TAIL as usize];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut tail)?;
    let (length, magic) = tail.split_first_chunk::<8>().unwrap();
    if magic != B::MAGIC {
        return Ok(None);
    }
    let length = u64::from_le_bytes(*length);
    let json_at = end.checked_sub(length).ok_or(io::ErrorKind::InvalidData)?;
    file.seek(SeekFrom::Start(json_at))?;
    let mut json = Vec::new();
    file.take(length).read_to_end(&mut json)?;
    let behaviour: B = serde_json::from_slice(&json)?;
    let begins_at = json_at.checked_sub(behaviour.padding()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some(Trailer { behaviour, begins_at }))
}

/// A xorshift seeded by the version, so that two versions share no padding and the same one is always the same.
fn write_padding(sink: &mut impl Write, behaviour: &impl Minted) -> io::Result<()> {
    let mut state =
        behaviour.version().bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |seed, byte| seed.rotate_left(8) ^ u64::from(byte));
    let mut left = behaviour.padding();
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
    use crate::behaviour::Behaviour;
    use crate::vega_behaviour::VegaBehaviour;
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
            assert!(read_trailer::<Behaviour>(&mut File::open(&path).unwrap()).unwrap().is_none());
        }
    }

    #[test]
    fn one_daemon_is_not_taken_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let (template, vega) = (folder.path().join("template"), folder.path().join("vega"));
        std::fs::write(&template, b"program").unwrap();
        mint(&template, &vega, &VegaBehaviour::new("v0.74.0"));
        assert!(read_trailer::<Behaviour>(&mut File::open(&vega).unwrap()).unwrap().is_none());
        assert!(read_trailer::<VegaBehaviour>(&mut File::open(&vega).unwrap()).unwrap().is_some());
    }
}
