//! The digests of files and of what streams by.
//!
//! What was read once need not be read again while the file's stamp stays what it was: a node that is started a second time
//! is not kept down for as long as a hundred megabytes take to read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256, SHA512};
use omnivisor_core::release::{Algorithm, Digest};

/// What changes whenever a file is replaced or written to, as far as a file system tells: device, inode, size, and the times of
/// the last change of its contents and of itself, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([i128; 5]);

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let of = file.metadata()?;
        let time = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let (contents, itself) = (time(of.mtime(), of.mtime_nsec()), time(of.ctime(), of.ctime_nsec()));
        Ok(Self([of.dev().into(), of.ino().into(), of.size().into(), contents, itself]))
    }
}

/// The SHA-256 of the files that were read through [`of_executable`].
static READ: Mutex<BTreeMap<PathBuf, (Stamp, Digest)>> = Mutex::new(BTreeMap::new());

/// The digest of a release's executables, read anew: of one its SHA-256, of several that of their SHA-256s, a line each.
pub fn of_executables(paths: &[PathBuf]) -> io::Result<Digest> {
    of_all(paths, of_executable)
}

/// The same; but what has not changed since it was read last is not read again.
pub fn of_executables_if_changed(paths: &[PathBuf]) -> io::Result<Digest> {
    of_all(paths, of_executable_if_changed)
}

fn of_all(paths: &[PathBuf], of: fn(&Path) -> io::Result<Digest>) -> io::Result<Digest> {
    if let [only] = paths {
        return of(only);
    }
    let lines = paths.iter().map(|path| Ok(format!("{}\n", of(path)?.to_hex()))).collect::<io::Result<String>>()?;
    Ok(of_bytes(Algorithm::Sha256, lines.as_bytes()))
}

/// The SHA-256 of an executable, read anew; remembered for [`of_executable_if_changed`].
fn of_executable(path: &Path) -> io::Result<Digest> {
    let before = File::open(path).and_then(|file| Stamp::of(&file)).map_err(|error| named(path, &error))?;
    let digest = of_file(Algorithm::Sha256, path)?;
    READ.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), (before, digest.clone()));
    Ok(digest)
}

/// The SHA-256 of an executable; read only if it has changed since it was read last.
fn of_executable_if_changed(path: &Path) -> io::Result<Digest> {
    let now = File::open(path).and_then(|file| Stamp::of(&file)).map_err(|error| named(path, &error))?;
    let known = READ.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
    match known {
        Some((stamp, digest)) if stamp == now => Ok(digest),
        _ => of_executable(path),
    }
}

/// The digest of a file.
pub fn of_file(algorithm: Algorithm, path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path).map_err(|error| named(path, &error))?;
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer).map_err(|error| named(path, &error))? {
            0 => return hasher.finish(),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{} cannot be read: {error}", path.display()))
}

/// The digest of some bytes.
pub fn of_bytes(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    #[allow(clippy::expect_used, reason = "a hash function gives as many bytes as it says")]
    hasher.finish().expect("of its algorithm's length")
}

/// A digest of what is still coming.
pub struct Hasher(Algorithm, Context);

impl Hasher {
    /// Of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        let function = match algorithm {
            Algorithm::Sha256 => &SHA256,
            Algorithm::Sha512 => &SHA512,
        };
        Self(algorithm, Context::new(function))
    }

    /// These bytes come next.
    pub fn update(&mut self, bytes: &[u8]) {
        self.1.update(bytes);
    }

    /// That was all.
    pub fn finish(self) -> io::Result<Digest> {
        Digest::new(self.0, self.1.finish().as_ref()).ok_or_else(|| io::Error::other("a digest of another length"))
    }
}
