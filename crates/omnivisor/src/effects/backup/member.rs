//! Read a tar archive member by member.
//!
//! The headers are the tar crate's. The rest is ours, as that reads extended attributes with a line feed in them wrongly, keeps a
//! header of any length in memory, and takes a file that is cut short for its end. What is odd is an error, never skipped.

use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::entry::{Entry, What};

const BLOCK: u64 = 512;

/// So much may stand before a member: each of its extended attributes has up to 64 KiB.
const BEFORE: u64 = 4 << 20;

/// So long may a name be that stands before its member.
const NAME: u64 = 64 << 10;

/// So many pieces may a file with holes have.
const PIECES: usize = 1 << 20;

/// So much is read at a time.
const AT_A_TIME: usize = 256 << 10;

/// A member of an archive; its contents are to be read before the next one is.
#[derive(Debug)]
pub struct Member {
    /// What it says. Its path is a plain one, below the root.
    pub entry: Entry,
    /// Of a file with holes, where its pieces are, and how long each is.
    pieces: Option<Vec<(u64, u64)>>,
}

/// A part of a file's contents.
pub enum Part<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// So many zeros.
    Zeros(u64),
}

/// An archive that is being read.
pub struct Members<R> {
    from: R,
    /// How much of the present member is still to be read, and what fills its last block.
    left: u64,
    filling: u64,
    ended: bool,
    buffer: Vec<u8>,
}

/// What stands before a member.
#[derive(Default)]
struct Before {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<(i64, u32)>,
    attributes: Vec<(CString, Vec<u8>)>,
}

impl<R: Read> Members<R> {
    /// Of an archive that is not compressed, or not any more.
    pub fn new(from: R) -> Self {
        Self { from, left: 0, filling: 0, ended: false, buffer: vec![0; AT_A_TIME] }
    }

    /// The next member; none when the archive was read to its end, and ends as it should.
    pub fn advance(&mut self) -> io::Result<Option<Member>> {
        // What a header says that is no number, or too large a one.
        let is_nonsense = |error: &io::Error| error.kind() == io::ErrorKind::Other && error.raw_os_error().is_none();
        self.next().map_err(|error| if is_nonsense(&error) { damaged(&error.to_string()) } else { error })
    }

    fn next(&mut self) -> io::Result<Option<Member>> {
        let mut before = Before::default();
        // Of all extended headers of a member together.
        let mut left = BEFORE;
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size()?;
            let kind = header.entry_type();
            match kind {
                EntryType::GNULongName => before.path = Some(self.name(size)?),
                EntryType::GNULongLink => before.target = Some(self.name(size)?),
                EntryType::XHeader => {
                    before.read(&self.whole(size, left)?, true)?;
                    left -= size;
                }
                EntryType::XGlobalHeader => Before::default().read(&self.whole(size, BEFORE)?, false)?,
                _ => return self.member(&header, before).map(Some),
            }
        }
    }

    /// What is in a file, in order.
    pub fn contents(&mut self, member: &Member, each: &mut dyn FnMut(Part<'_>) -> io::Result<()>) -> io::Result<()> {
        let What::File { bytes } = member.entry.what else { return Ok(()) };
        let whole = [(0, bytes)];
        let mut at = 0;
        for (offset, length) in member.pieces.as_deref().unwrap_or(&whole) {
            if *offset > at {
                each(Part::Zeros(offset - at))?;
            }
            let mut left = *length;
            while left > 0 {
                let most = usize::try_from(left).map_or(AT_A_TIME, |left| left.min(AT_A_TIME));
                let read = self.from.read(&mut self.buffer[..most])?;
                if read == 0 {
                    return Err(cut_short());
                }
                each(Part::Bytes(&self.buffer[..read]))?;
                left -= read as u64;
                self.left -= read as u64;
            }
            at = offset + length;
        }
        if bytes > at {
            each(Part::Zeros(bytes - at))?;
        }
        Ok(())
    }

    fn member(&mut self, header: &Header, before: Before) -> io::Result<Member> {
        let bytes = before.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
        let path = plain(&bytes)?;
        let odd = |why: &str| odd(&path, why);
        let mut size = header.entry_size()?;
        if let Some(said) = before.size {
            size = said;
        }
        let target = || {
            let bytes = before.target.clone().or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
            bytes.filter(|bytes| !bytes.is_empty() && !bytes.contains(&0)).ok_or_else(|| odd("it points to nothing"))
        };
        let mut pieces = None;
        let mut stored = 0;
        let what = match header.entry_type() {
            // In the oldest form a slash is what makes a folder.
            EntryType::Regular if bytes.ends_with(b"/") => What::Folder,
            EntryType::Regular | EntryType::Continuous => {
                stored = size;
                What::File { bytes: size }
            }
            EntryType::GNUSparse => {
                let (found, real) = self.sparse(header)?;
                if found.iter().map(|(_, length)| length).sum::<u64>() != size {
                    return Err(odd("its pieces are not as long as it says"));
                }
                stored = size;
                pieces = Some(found);
                What::File { bytes: real }
            }
            EntryType::Directory => What::Folder,
            EntryType::Symlink => What::Link { target: PathBuf::from(OsStr::from_bytes(&target()?)) },
            EntryType::Link => What::Again { first: plain(&target()?)?, bytes: 0 },
            EntryType::Fifo => What::Pipe,
            EntryType::Char | EntryType::Block => return Err(odd("it is a device")),
            other => return Err(odd(&format!("it is of a kind that is not known, {:?}", char::from(other.as_byte())))),
        };
        if stored == 0 && size > 0 {
            return Err(odd("it is no file, and has contents"));
        }
        self.left = stored;
        self.filling =
            stored.checked_next_multiple_of(BLOCK).ok_or_else(|| odd("it cannot be as long as it says"))? - stored;
        let modified = before
            .modified
            .map_or_else(|| header.mtime().map(|seconds| (i64::try_from(seconds).unwrap_or_default(), 0)), Ok)?;
        let entry = Entry {
            what,
            mode: header.mode()? & 0o7777,
            uid: before.uid.map_or_else(|| header.uid(), Ok)?,
            gid: before.gid.map_or_else(|| header.gid(), Ok)?,
            modified,
            names: 0,
            attributes: before.attributes,
            path,
        };
        Ok(Member { entry, pieces })
    }

    /// Where the pieces of a file with holes are, and how long it is.
    fn sparse(&mut self, header: &Header) -> io::Result<(Vec<(u64, u64)>, u64)> {
        let wrong = || damaged("a file with holes makes no sense");
        let gnu = header.as_gnu().ok_or_else(wrong)?;
        let real = gnu.real_size()?;
        let mut pieces = Vec::new();
        let mut end = 0;
        let mut add = |piece: &GnuSparseHeader| -> io::Result<()> {
            if piece.is_empty() {
                return Ok(());
            }
            let (offset, length) = (piece.offset()?, piece.length()?);
            let after = offset.checked_add(length).filter(|after| offset >= end && *after <= real).ok_or_else(wrong)?;
            end = after;
            pieces.push((offset, length));
            if pieces.len() > PIECES { Err(damaged("a file has too many holes")) } else { Ok(()) }
        };
        gnu.sparse.iter().try_for_each(&mut add)?;
        let mut goes_on = gnu.is_extended();
        while goes_on {
            let mut more = GnuExtSparseHeader::new();
            self.from.read_exact(more.as_mut_bytes()).map_err(at_its_end)?;
            more.sparse().iter().try_for_each(&mut add)?;
            goes_on = more.is_extended();
        }
        Ok((pieces, real))
    }

    /// The next header; none at the end.
    fn header(&mut self) -> io::Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        self.from.read_exact(header.as_mut_bytes()).map_err(at_its_end)?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            self.end()?;
            return Ok(None);
        }
        let sum = |block: &[u8]| block.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let bytes = header.as_bytes();
        // The eight bytes of the sum itself count as blanks.
        if sum(&bytes[..148]) + sum(&bytes[156..]) + 8 * 32 != header.cksum()? {
            return Err(damaged("a header is not what it was when it was written"));
        }
        Ok(Some(header))
    }

    /// Reads on to the very end: what is compressed shows only there whether it is whole.
    fn end(&mut self) -> io::Result<()> {
        self.ended = true;
        loop {
            match self.from.read(&mut self.buffer)? {
                0 => return Ok(()),
                read if self.buffer[..read].iter().all(|byte| *byte == 0) => {}
                _ => return Err(damaged("something stands behind its end")),
            }
        }
    }

    /// Passes over what of a member was not read.
    fn skip(&mut self) -> io::Result<()> {
        let mut left = std::mem::take(&mut self.left) + std::mem::take(&mut self.filling);
        while left > 0 {
            let most = usize::try_from(left).map_or(AT_A_TIME, |left| left.min(AT_A_TIME));
            let read = self.from.read(&mut self.buffer[..most])?;
            if read == 0 {
                return Err(cut_short());
            }
            left -= read as u64;
        }
        Ok(())
    }

    fn name(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut name = self.whole(size, NAME)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn whole(&mut self, size: u64, most: u64) -> io::Result<Vec<u8>> {
        if size > most {
            return Err(damaged("what stands before a member is too long"));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.from.read_exact(&mut bytes).map_err(at_its_end)?;
        self.filling = size.next_multiple_of(BLOCK) - size;
        Ok(bytes)
    }
}

impl Before {
    /// Reads the records of an extended header, each `<length> <key>=<value>\n`, whatever is in the value.
    fn read(&mut self, mut rest: &[u8], is_of_member: bool) -> io::Result<()> {
        let wrong = || damaged("an extended header makes no sense");
        while !rest.is_empty() {
            let blank = rest.iter().take(12).position(|byte| *byte == b' ').ok_or_else(wrong)?;
            let length: usize = str::from_utf8(&rest[..blank]).ok().and_then(|it| it.parse().ok()).ok_or_else(wrong)?;
            let record = rest.get(blank + 1..length).and_then(|it| it.strip_suffix(b"\n")).ok_or_else(wrong)?;
            rest = &rest[length..];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let text = || str::from_utf8(value).map_err(|_| wrong());
            let number = || text()?.parse::<u64>().map_err(|_| wrong());
            match key {
                b"comment" | b"hdrcharset" | b"atime" | b"ctime" | b"uname" | b"gname" => {}
                // What is said of all members is never of a name.
                _ if !is_of_member => return Err(damaged("something is said of all members that is not understood")),
                b"path" => self.path = Some(value.to_owned()),
                b"linkpath" => self.target = Some(value.to_owned()),
                b"size" => self.size = Some(number()?),
                b"uid" => self.uid = Some(number()?),
                b"gid" => self.gid = Some(number()?),
                b"mtime" => self.modified = Some(time(text()?).ok_or_else(wrong)?),
                _ => match key.strip_prefix(b"SCHILY.xattr.") {
                    Some(name) => {
                        let name = CString::new(plain_key(name)).map_err(|_| wrong())?;
                        self.attributes.push((name, value.to_owned()));
                    }
                    // Holes in a form that is not read here: what follows is not the file.
                    None if key.starts_with(b"GNU.sparse.") => {
                        return Err(damaged("it has a file with holes in a form that is not read here"));
                    }
                    None => tracing::debug!(key = %String::from_utf8_lossy(key), "not understood, and not needed"),
                },
            }
        }
        self.attributes.sort_unstable();
        Ok(())
    }
}

/// The name of an attribute as GNU tar writes it: a record's key has no `=`.
fn plain_key(key: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::with_capacity(key.len()), key);
    while let [first, after @ ..] = rest {
        (rest, _) = match after {
            [b'3', b'D', after @ ..] if *first == b'%' => (after, plain.push(b'=')),
            [b'2', b'5', after @ ..] if *first == b'%' => (after, plain.push(b'%')),
            _ => (after, plain.push(*first)),
        };
    }
    plain
}

/// Seconds, with a fraction or without.
fn time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.bytes().any(|digit| !digit.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}")[..9].parse().ok()?;
    let seconds: i64 = whole.parse().ok()?;
    match whole.starts_with('-') && nanos > 0 {
        true => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        false => Some((seconds, nanos)),
    }
}

/// A path below the root, if it is one.
fn plain(bytes: &[u8]) -> io::Result<PathBuf> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err(odd(path, "its path leads upwards")),
            Component::RootDir | Component::Prefix(_) => return Err(odd(path, "its path is absolute")),
        }
    }
    if bytes.contains(&0) || bytes.is_empty() {
        return Err(odd(path, "it has no name"));
    }
    Ok(plain)
}

fn odd(path: &Path, why: &str) -> io::Error {
    let name: String = path.to_string_lossy().chars().take(200).collect();
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive is refused because of its member {name:?}: {why}"))
}

pub(super) fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive is damaged: {why}"))
}

fn at_its_end(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => cut_short(),
        _ => error,
    }
}

fn cut_short() -> io::Error {
    damaged("it is cut short")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_keys_are_read_as_others_write_them() {
        assert_eq!(time("5"), Some((5, 0)));
        assert_eq!(time("5.25"), Some((5, 250_000_000)));
        assert_eq!(time("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(time("1700000000.123456789999"), Some((1_700_000_000, 123_456_789)));
        assert_eq!(time("1.-5"), None);
        assert_eq!(plain_key(b"user.a%3Db%25%3"), b"user.a=b%%3");
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for name in ["/etc/passwd", "../x", "a/../../x", "a\0b", ""] {
            assert!(plain(name.as_bytes()).is_err(), "{name:?}");
        }
        assert_eq!(plain(b"./a//b/.").unwrap(), Path::new("a/b"));
        assert_eq!(plain(b"./").unwrap(), Path::new(""));
    }
}
