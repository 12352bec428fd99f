//! The journal on disk: appended, flushed, and as long as it may have to become.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use omnivisor_core::formats::journal::{self, DecodeError, Decoded};
use omnivisor_core::journal::Record;
use omnivisor_core::time::Timestamp;

use super::atomic;
use super::disk::Written;

/// Kept free ahead of the last record, so that a full disk cannot stop the records of an upgrade under way. An upgrade
/// with an undo writes about 8 KiB.
const ROOM: usize = 64 * 1024;

/// A dozen upgrades, or a month of failed tries: read in a millisecond, and seldom enough.
const LONG: usize = 256 * 1024;

/// What the first record of a journal takes.
const MADE: usize = 4 * 1024;

/// Why a journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there.
    #[error("there is no journal at {}", .0.display())]
    Missing(PathBuf),
    /// It is there, and cannot be opened or read.
    #[error("the journal {path} cannot be opened", path = .path.display())]
    Unopenable {
        /// The journal.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is there, and cannot be believed.
    #[error("the journal {path} cannot be believed", path = .path.display())]
    Undecodable {
        /// The journal.
        path: PathBuf,
        /// Why.
        #[source]
        source: DecodeError,
    },
}

/// What a journal says, without touching it; none if there is none that can be believed.
pub fn peek(path: &Path) -> Option<Vec<Record>> {
    read(path).ok().filter(|records| !records.is_empty())
}

/// What a journal says, without touching it.
pub fn read(path: &Path) -> Result<Vec<Record>, OpenError> {
    decoded(path).map(|it| it.records)
}

/// The same, and when each record was written, as far as that is known.
pub fn read_with_times(path: &Path) -> Result<Vec<(Record, Option<Timestamp>)>, OpenError> {
    decoded(path).map(|it| it.records.into_iter().zip(it.written).collect())
}

fn decoded(path: &Path) -> Result<Decoded, OpenError> {
    let bytes = fs::read(path).map_err(|source| unopenable(path, source))?;
    journal::decode(&bytes).map_err(|source| OpenError::Undecodable { path: path.to_owned(), source })
}

fn unopenable(path: &Path, source: io::Error) -> OpenError {
    match source.kind() {
        io::ErrorKind::NotFound => OpenError::Missing(path.to_owned()),
        _ => OpenError::Unopenable { path: path.to_owned(), source },
    }
}

/// An open journal.
#[derive(Debug)]
pub struct JournalFile {
    path: PathBuf,
    file: Written,
    end: usize,
    length: usize,
    /// Its end when it was made: it is long when it has grown by [`LONG`] since.
    made: usize,
    /// Whether what it said when it was opened is durable, under its name.
    is_settled: bool,
}

impl JournalFile {
    /// Makes a journal that begins with `first`. It is there whole, and durable, when this returns, or not at all.
    pub fn create(path: &Path, first: &[Record]) -> io::Result<Self> {
        let mut bytes = journal::MAGIC.to_vec();
        bytes.extend(holdable(journal::encode(first))?);
        let end = bytes.len();
        bytes.resize(end + ROOM, 0);
        atomic::replace(path, &bytes, 0o600)?;
        let file = Written::open(path)?;
        Ok(Self { path: path.to_owned(), file, end, length: bytes.len(), made: end, is_settled: true })
    }

    /// Opens a journal; a torn tail is cut. What it says is [settled](Self::settle), if that can be done.
    pub fn open(path: &Path) -> Result<(Self, Vec<Record>), OpenError> {
        let unopenable = |source| unopenable(path, source);
        // A journal is a file of ours: what stands there as a link was put there by somebody else.
        let file = Written::open(path).map_err(unopenable)?;
        let bytes = fs::read(path).map_err(unopenable)?;
        let decoded =
            journal::decode(&bytes).map_err(|source| OpenError::Undecodable { path: path.to_owned(), source })?;
        let made = MADE.min(decoded.end);
        let (end, length) = (decoded.end, bytes.len());
        let mut journal = Self { path: path.to_owned(), file, end, length, made, is_settled: false };
        if let Err(error) = journal.settle() {
            tracing::warn!(path = %path.display(), %error, "the journal cannot be flushed: until it can, nothing is recorded");
        }
        if decoded.torn {
            tracing::warn!(path = %path.display(), "the last record of the journal was torn by a crash and is cut");
            journal.zero(decoded.end, bytes.len()).and_then(|()| journal.file.flush_data()).map_err(unopenable)?;
        }
        Ok((journal, decoded.records))
    }

    /// Makes durable what it says, whoever has written it: a supervisor may have been killed between writing to it, or writing it anew, and
    /// the flush of that, and what was read is acted upon.
    pub fn settle(&mut self) -> io::Result<()> {
        if !self.is_settled {
            self.file.flush_data().and_then(|()| atomic::flush_folder_of(&self.path))?;
            self.is_settled = true;
        }
        Ok(())
    }

    /// Appends all of `records`, which are written now; they are durable when it returns. After an error none of them is there.
    pub fn append(&mut self, records: &[Record], now: Timestamp) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.settle()?;
        let bytes = holdable(journal::encode_at(records, now))?;
        if self.end + bytes.len() + ROOM / 2 > self.length {
            // Only what has to fit is needed now; the room ahead is for later, and may be had later.
            let length = self.length.max(self.end + bytes.len()) + ROOM;
            let grown = self.zero(self.length, length).map(|()| self.length = length);
            if self.end + bytes.len() > self.length {
                grown?;
            }
        }
        let written = self.file.write_at(&bytes, self.end as u64).and_then(|()| self.file.flush_data());
        if let Err(error) = written {
            let _ = self.zero(self.end, self.end + bytes.len());
            return Err(error);
        }
        self.end += bytes.len();
        Ok(())
    }

    /// Whether it has grown so much that it should be summed up.
    pub fn is_long(&self) -> bool {
        self.end > self.made + LONG
    }

    /// What has this journal's name now.
    pub fn reopened(&self) -> Result<Self, OpenError> {
        Self::open(&self.path).map(|(journal, _)| journal)
    }

    /// This journal anew, with one record that stands for all; this one stays what it is until that is there. After an error
    /// either of them may have the name: see [`Self::reopened`].
    pub fn rewritten(&self, summary: &Record) -> io::Result<Self> {
        Self::create(&self.path, std::slice::from_ref(summary))
    }

    fn zero(&self, from: usize, to: usize) -> io::Result<()> {
        self.file.write_at(&vec![0; to.saturating_sub(from)], from as u64)
    }
}

/// What is longer would not be taken for a record when it is read, but for the torn end of the journal.
fn holdable(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    match bytes.len() <= journal::LONGEST {
        true => Ok(bytes),
        false => Err(io::Error::other(format!("a record of {} bytes is longer than a journal can hold", bytes.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("omnivisor-journal-{name}-{}", std::process::id()))
    }

    #[test]
    fn what_was_appended_is_read_back_across_many_openings() {
        let path = path("grows");
        let _ = fs::remove_file(&path);
        assert!(matches!(JournalFile::open(&path), Err(OpenError::Missing(_))));
        let mut all = vec![Record::Held];
        drop(JournalFile::create(&path, &all).unwrap());
        for round in 0..400 {
            let (mut journal, records) = JournalFile::open(&path).unwrap();
            assert_eq!(records, all);
            let record = Record::Died { reason: "x".repeat(round) };
            journal.append(&[record.clone(), Record::Resumed], Timestamp::EPOCH).unwrap();
            all.extend([record, Record::Resumed]);
        }
        assert!(fs::metadata(&path).unwrap().len() > ROOM as u64);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_record_of_any_length_is_followed_by_others_or_refused() {
        let path = path("large");
        let mut all = vec![Record::Held];
        let mut journal = JournalFile::create(&path, &all).unwrap();
        for kilobytes in [1, 60, 65, 150, 300, 1000] {
            let record = Record::Died { reason: "x".repeat(kilobytes << 10) };
            for record in [record, Record::Resumed] {
                journal.append(std::slice::from_ref(&record), Timestamp::EPOCH).unwrap();
                all.push(record);
            }
        }
        let too_long = Record::Died { reason: "x".repeat(journal::LONGEST) };
        let refused = journal.append(&[too_long], Timestamp::EPOCH).unwrap_err().to_string();
        assert!(refused.contains("longer than a journal can hold"), "{refused}");
        journal.append(&[Record::Held], Timestamp::EPOCH).unwrap();
        all.push(Record::Held);
        assert_eq!(JournalFile::open(&path).unwrap().1, all);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_long_journal_is_written_anew() {
        let path = path("long");
        let mut journal = JournalFile::create(&path, &[Record::Held]).unwrap();
        let mut records = 0;
        while !journal.is_long() {
            journal.append(&[Record::Died { reason: "x".repeat(5000) }], Timestamp::EPOCH).unwrap();
            records += 1;
        }
        assert!(records > 40, "{records}");
        let mut anew = journal.rewritten(&Record::Resumed).unwrap();
        assert!(!anew.is_long());
        anew.append(&[Record::Held], Timestamp::EPOCH).unwrap();
        assert_eq!(JournalFile::open(&path).unwrap().1, [Record::Resumed, Record::Held]);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_upgrade_under_way_is_recorded_without_growing_the_file() {
        let path = path("room");
        let mut journal = JournalFile::create(&path, &[Record::Held]).unwrap();
        let before = fs::metadata(&path).unwrap().len();
        for _ in 0..20 {
            journal.append(&[Record::Died { reason: "x".repeat(1000) }], Timestamp::EPOCH).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), before);
        fs::remove_file(path).unwrap();
    }
}
