//! The list of what a snapshot holds, beside it: `<snapshot>.mtree`, in the format of mtree(5), which `mtree` and `bsdtar` read.
//! Without one there is no snapshot.
//!
//! In an outage only its head is written: which snapshot this is. The entries follow when the new node is well: it is *sealed* then,
//! and its last line is a digest of all before it. What mtree has no words for stands in comments: [`HEAD`], [`SAME`], [`XATTR`]
//! and [`END`].

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use omnivisor_core::release::Algorithm;

use super::entry::{Entry, What};
use super::head::{HEAD, MAGIC};
pub use super::head::{Head, OfRelease, shortened};
use crate::effects::digest::Hasher;

/// Before an entry that is one more name of a file: the first one.
const SAME: &str = "# omnivisor-same ";
/// Before an entry that has extended attributes: the SHA-256 of them.
const XATTR: &str = "# omnivisor-xattr ";
/// The last line: how many entries there are, and the SHA-256 of all lines before it.
const END: &str = "# omnivisor-end ";
/// No line is longer: a path and a target of 4096 bytes each, every one of them escaped.
const LINE: u64 = 64 << 10;

/// The manifest of what is at this path.
pub fn beside(backup: &Path) -> PathBuf {
    let mut name = backup.as_os_str().to_owned();
    name.push(".mtree");
    PathBuf::from(name)
}

/// An entry of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What it says; without the attributes themselves.
    pub entry: Entry,
    /// The SHA-256 of a file's contents.
    pub digest: Option<String>,
    /// The SHA-256 of its attributes, if it has any.
    pub attributes: Option<String>,
}

impl Listed {
    /// An entry that was read, with the digest of its contents.
    pub fn new(mut entry: Entry, digest: Option<String>) -> Self {
        let attributes = attributes(&std::mem::take(&mut entry.attributes));
        if !matches!(entry.what, What::File { .. } | What::Again { .. }) {
            entry.names = 0; // a folder has as many as its file system likes
        }
        Self { entry, digest, attributes }
    }
}

/// The SHA-256 of extended attributes: of each name and value, with their lengths. None of none.
fn attributes(all: &[(std::ffi::CString, Vec<u8>)]) -> Option<String> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for (name, value) in all {
        for part in [name.as_bytes(), value] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    (!all.is_empty()).then(|| hasher.finish().map(|it| it.to_hex()).unwrap_or_default())
}

/// A manifest that is being written.
pub struct Writer<W: Write> {
    to: BufWriter<W>,
    hasher: Hasher,
    entries: u64,
}

impl<W: Write> Writer<W> {
    /// Begins it.
    pub fn new(to: W, head: &Head) -> io::Result<Self> {
        let mut writer =
            Self { to: BufWriter::with_capacity(256 << 10, to), hasher: Hasher::new(Algorithm::Sha256), entries: 0 };
        writer.line(MAGIC)?;
        writer.line(&head.line())?;
        Ok(writer)
    }

    /// The next entry.
    pub fn push(&mut self, listed: &Listed) -> io::Result<()> {
        let entry = &listed.entry;
        if let What::Again { first, .. } = &entry.what {
            self.line(&format!("{SAME}{}", escaped_path(first)))?;
        }
        if let Some(attributes) = &listed.attributes {
            self.line(&format!("{XATTR}{attributes}"))?;
        }
        let (kind, bytes) = match &entry.what {
            What::Folder => ("dir", None),
            What::File { bytes } | What::Again { bytes, .. } => ("file", Some(*bytes)),
            What::Link { .. } => ("link", None),
            What::Pipe => ("fifo", None),
        };
        let (seconds, nanos) = entry.modified;
        let mut line = escaped_path(&entry.path);
        let _ = write!(line, " type={kind} mode={:04o} uid={} gid={}", entry.mode, entry.uid, entry.gid);
        if let Some(bytes) = bytes {
            let _ = write!(line, " size={bytes} nlink={}", entry.names);
        }
        let _ = write!(line, " time={seconds}.{nanos:09}");
        if let What::Link { target } = &entry.what {
            let _ = write!(line, " link={}", escaped(target.as_os_str()));
        }
        if let Some(digest) = &listed.digest {
            let _ = write!(line, " sha256digest={digest}");
        }
        self.entries += 1;
        self.line(&line)
    }

    /// Ends it: from here on it is sealed.
    pub fn finish(mut self) -> io::Result<W> {
        let digest = self.hasher.finish()?.to_hex();
        writeln!(self.to, "{END}{} {digest}", self.entries)?;
        self.to.into_inner().map_err(io::IntoInnerError::into_error)
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        for part in [line.as_bytes(), b"\n"] {
            self.hasher.update(part);
            self.to.write_all(part)?;
        }
        Ok(())
    }
}

/// A manifest that is being read.
pub struct Reader {
    from: BufReader<File>,
    path: PathBuf,
    hasher: Hasher,
    head: Head,
    entries: u64,
    ended: bool,
}

impl Reader {
    /// Opens it, and reads its head.
    pub fn open(path: &Path) -> io::Result<Self> {
        let from =
            BufReader::with_capacity(256 << 10, File::open(path).map_err(|error| super::entry::named(path, error))?);
        let hasher = Hasher::new(Algorithm::Sha256);
        let mut reader = Self { from, path: path.to_owned(), hasher, head: Head::default(), entries: 0, ended: false };
        let first = reader.line()?.unwrap_or_default();
        if first != MAGIC.as_bytes() {
            return Err(reader.wrong("it is no manifest"));
        }
        let line = reader.line()?.unwrap_or_default();
        reader.hash(&first);
        reader.hash(&line);
        let json =
            line.strip_prefix(HEAD.as_bytes()).ok_or_else(|| reader.wrong("it is none that this version reads"))?;
        reader.head = serde_json::from_slice(json).map_err(|error| reader.wrong(&error.to_string()))?;
        Ok(reader)
    }

    /// Which snapshot it is of.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The next entry; none at the end of a whole list. A list that is not whole, or was changed, is an error there.
    pub fn advance(&mut self) -> io::Result<Option<Listed>> {
        let (mut same, mut attributes) = (None, None);
        while !self.ended {
            let Some(line) = self.line()? else {
                return Err(self.wrong(match self.entries {
                    0 => "it has no list of what is in the snapshot yet",
                    _ => "it is cut short",
                }));
            };
            if let Some(end) = line.strip_prefix(END.as_bytes()) {
                let hasher = std::mem::replace(&mut self.hasher, Hasher::new(Algorithm::Sha256));
                let expected = format!("{} {}", self.entries, hasher.finish()?.to_hex());
                if end != expected.as_bytes() || self.line()?.is_some() {
                    return Err(self.wrong("it was changed, or is damaged"));
                }
                self.ended = true;
                break;
            }
            self.hash(&line);
            if let Some(first) = line.strip_prefix(SAME.as_bytes()) {
                same = Some(path(first).ok_or_else(|| self.wrong("a line of it makes no sense"))?);
            } else if let Some(digest) = line.strip_prefix(XATTR.as_bytes()) {
                attributes = Some(String::from_utf8_lossy(digest).into_owned());
            } else {
                let listed =
                    listed(&line, same, attributes).ok_or_else(|| self.wrong("a line of it makes no sense"))?;
                self.entries += 1;
                return Ok(Some(listed));
            }
        }
        Ok(None)
    }

    /// A line, without its end.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        io::Read::take(&mut self.from, LINE).read_until(b'\n', &mut line)?;
        match line.pop() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) => Err(self.wrong("it is cut short")),
        }
    }

    fn hash(&mut self, line: &[u8]) {
        self.hasher.update(line);
        self.hasher.update(b"\n");
    }

    fn wrong(&self, why: &str) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the manifest {} cannot be used: {why}", self.path.display()),
        )
    }
}

/// Whether the manifest at this path has its list, by its last line: what stands in it is another matter.
pub fn is_sealed(path: &Path) -> bool {
    use std::io::{Read, Seek, SeekFrom};
    let last = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(200)))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        Ok(end)
    };
    let Ok(end) = last() else { return false };
    let Some(end) = end.strip_suffix(b"\n") else { return false };
    end.rsplit(|byte| *byte == b'\n').next().is_some_and(|line| line.starts_with(END.as_bytes()))
}

/// Reads the head of the manifest at this path.
pub fn head(path: &Path) -> io::Result<Head> {
    Ok(Reader::open(path)?.head)
}

/// `./a/b`, or `.` for the root.
fn escaped_path(path: &Path) -> String {
    match path.as_os_str().is_empty() {
        true => ".".to_owned(),
        false => format!("./{}", escaped(path.as_os_str())),
    }
}

/// As vis(3) has it: whatever is no plain letter as a backslash and three octal digits.
fn escaped(text: &OsStr) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.as_bytes() {
        match byte {
            b'#' | b'\\' | b'=' | b'*' | b'?' | b'[' | b']' | b'"' | b'\'' => {
                let _ = write!(escaped, "\\{byte:03o}");
            }
            0x21..=0x7e => escaped.push(char::from(*byte)),
            _ => {
                let _ = write!(escaped, "\\{byte:03o}");
            }
        }
    }
    escaped
}

fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        if *first == b'\\' {
            let digits = after.get(..3)?;
            let value = digits.iter().try_fold(0_u32, |value, digit| match digit {
                b'0'..=b'7' => Some(value * 8 + u32::from(digit - b'0')),
                _ => None,
            })?;
            bytes.push(u8::try_from(value).ok()?);
            rest = &after[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(bytes)
}

fn path(text: &[u8]) -> Option<PathBuf> {
    let bytes = match text {
        b"." => Vec::new(),
        text => unescaped(text.strip_prefix(b"./")?)?,
    };
    Some(PathBuf::from(OsStr::from_bytes(&bytes)))
}

/// The words of one line.
fn listed(line: &[u8], same: Option<PathBuf>, attributes: Option<String>) -> Option<Listed> {
    let mut words = line.split(|byte| *byte == b' ');
    let path = path(words.next()?)?;
    let (mut kind, mut mode, mut uid, mut gid, mut bytes) = ("", None, None, None, None);
    let (mut names, mut modified, mut target, mut digest) = (0, None, None, None);
    for word in words {
        let equals = word.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (&word[..equals], &word[equals + 1..]);
        if key == b"link" {
            target = Some(PathBuf::from(OsStr::from_bytes(&unescaped(value)?)));
            continue;
        }
        let value = str::from_utf8(value).ok()?;
        match key {
            b"type" => kind = value,
            b"mode" => mode = Some(u32::from_str_radix(value, 8).ok()?),
            b"uid" => uid = Some(value.parse().ok()?),
            b"gid" => gid = Some(value.parse().ok()?),
            b"size" => bytes = Some(value.parse().ok()?),
            b"nlink" => names = value.parse().ok()?,
            b"sha256digest" => digest = Some(value.to_owned()),
            b"time" => {
                let (seconds, nanos) = value.split_once('.')?;
                modified = Some((seconds.parse().ok()?, nanos.parse().ok()?));
            }
            _ => return None,
        }
    }
    let what = match (kind, same, bytes, target) {
        ("dir", None, None, None) => What::Folder,
        ("file", None, Some(bytes), None) => What::File { bytes },
        ("file", Some(first), Some(bytes), None) => What::Again { first, bytes },
        ("link", None, None, Some(target)) => What::Link { target },
        ("fifo", None, None, None) => What::Pipe,
        _ => return None,
    };
    let entry =
        Entry { path, what, mode: mode?, uid: uid?, gid: gid?, modified: modified?, names, attributes: Vec::new() };
    Some(Listed { entry, digest, attributes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_name_is_it_is_read_as_it_was_written() {
        for name in ["a", "a b", "ä#=\\x", "*?[]", "new\nline", "\"'", "./x", "...", "tab\t"] {
            let text = escaped(OsStr::new(name));
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
            assert_eq!(unescaped(text.as_bytes()).unwrap(), name.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unescaped(escaped(OsStr::from_bytes(&all)).as_bytes()).unwrap(), all);
        assert_eq!(unescaped(b"\\4"), None);
        assert_eq!(unescaped(b"\\777"), None);
    }
}
