//! The journal's bytes.
//!
//! ```text
//! file   = "OMNIVISOR-JOURNAL-1\n" frame* zeros
//! frame  = length:u32le flags:u8 version:u8 place:u16le crc:u32le payload
//! ```
//!
//! `length` is the payload's, `crc` is CRC-32 (IEEE) over length, flags, version, place and payload; the payload is one JSON
//! object. `place` is how many records of the same append stand before it: a power cut may leave the end of an append without
//! its beginning, and that is no damage. Flag 1 marks a record that a version which does not know it may skip. The file is as long as was preallocated;
//! the zeros after the last frame are its end.

use serde::Serialize;

use crate::journal::Record;
use crate::time::Timestamp;

use super::records::{KNOWN, RecordDto};

/// How a journal begins.
pub const MAGIC: &[u8] = b"OMNIVISOR-JOURNAL-1\n";

const HEAD: usize = 12;
const VERSION: u8 = 1;
const OPTIONAL: u8 = 1;

/// A record has two releases and a reason in it: some kilobytes. A length above this is no length.
pub const LONGEST: usize = 1 << 20;

/// What was found in a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The records, in order.
    pub records: Vec<Record>,
    /// When each of them was written, as far as it says so.
    pub written: Vec<Option<Timestamp>>,
    /// Where the next frame goes: what is after it is zeros, or the torn tail of a write that never finished.
    pub end: usize,
    /// Whether something torn stands there.
    pub torn: bool,
    /// How many optional records of a later version were skipped (and are kept).
    pub skipped: usize,
}

/// Why a journal cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not a journal, or of a version that does not say so like this one.
    #[error("it does not begin like a journal")]
    NotAJournal,
    /// Whole frames follow a broken one: not a torn write, but damage.
    #[error("the record at byte {offset} is damaged, and whole records follow it")]
    Damaged {
        /// Where the broken frame begins.
        offset: usize,
    },
    /// A record that must be understood is not.
    #[error("the record at byte {offset} was written by a later version, which this one ({reason}) cannot do without")]
    TooNew {
        /// Where its frame begins.
        offset: usize,
        /// What is not understood.
        reason: String,
    },
    /// A record is whole and makes no sense.
    #[error("the record at byte {offset} cannot be read: {reason}")]
    Unreadable {
        /// Where its frame begins.
        offset: usize,
        /// Why.
        reason: String,
    },
}

/// What is appended together, as frames, which do not say when.
pub fn encode(records: &[Record]) -> Vec<u8> {
    frames(records, None)
}

/// The same, and those that have no time of their own say when it was written: for people, as nothing depends on it.
pub fn encode_at(records: &[Record], at: Timestamp) -> Vec<u8> {
    frames(records, Some(at))
}

fn frames(records: &[Record], at: Option<Timestamp>) -> Vec<u8> {
    let frames = records.iter().enumerate().flat_map(|(place, record)| {
        // Without it every other record means the same.
        let flags = if matches!(record, Record::Began { .. }) { OPTIONAL } else { 0 };
        frame(flags, VERSION, u16::try_from(place).unwrap_or(u16::MAX), &payload(record, at))
    });
    frames.collect()
}

/// One record as a JSON object, with the time when it was written, if it has none of its own.
pub fn payload(record: &Record, written: Option<Timestamp>) -> Vec<u8> {
    let dto = RecordDto::from(record);
    let timed = Timed { record: &dto, written: written.filter(|_| record.at().is_none()).map(|at| at.to_string()) };
    // A map with string keys and strings in it: there is nothing in it that JSON cannot say.
    serde_json::to_vec(&timed).unwrap_or_default()
}

#[derive(Serialize)]
struct Timed<'a> {
    #[serde(flatten)]
    record: &'a RecordDto,
    #[serde(skip_serializing_if = "Option::is_none")]
    written: Option<String>,
}

fn frame(flags: u8, version: u8, place: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let place = place.to_le_bytes();
    let fixed = [length[0], length[1], length[2], length[3], flags, version, place[0], place[1]];
    let mut frame = Vec::with_capacity(HEAD + payload.len());
    frame.extend_from_slice(&fixed);
    frame.extend_from_slice(&crc(&fixed, payload).to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn crc(fixed: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(fixed);
    hasher.update(payload);
    hasher.finalize()
}

struct Frame<'a> {
    flags: u8,
    version: u8,
    place: u16,
    payload: &'a [u8],
}

/// The whole frame at the beginning of `bytes`, if there is one.
fn whole(bytes: &[u8]) -> Option<Frame<'_>> {
    let (fixed, rest) = bytes.split_at_checked(8)?;
    let (sum, rest) = rest.split_at_checked(4)?;
    let length = usize::try_from(u32::from_le_bytes(fixed[..4].try_into().ok()?)).ok()?;
    if length == 0 || length > LONGEST {
        return None;
    }
    let payload = rest.get(..length)?;
    (crc(fixed, payload).to_le_bytes() == sum).then(|| Frame {
        flags: fixed[4],
        version: fixed[5],
        place: u16::from_le_bytes([fixed[6], fixed[7]]),
        payload,
    })
}

/// Reads a journal file.
pub fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let (records, written) = (Vec::new(), Vec::new());
    let mut decoded = Decoded { records, written, end: MAGIC.len(), torn: false, skipped: 0 };
    if !bytes.starts_with(MAGIC) {
        return Err(DecodeError::NotAJournal);
    }
    while let Some(frame) = whole(&bytes[decoded.end..]) {
        match read(&frame) {
            Ok((record, written)) => {
                decoded.records.push(record);
                decoded.written.push(written);
            }
            // Its sum is right, so it is as it was written: of a later version, if it is not understood.
            Err(_) if frame.flags & OPTIONAL != 0 => decoded.skipped += 1,
            Err(Reading::Unknown(reason)) => return Err(DecodeError::TooNew { offset: decoded.end, reason }),
            Err(Reading::Wrong(reason)) => return Err(DecodeError::Unreadable { offset: decoded.end, reason }),
        }
        decoded.end += HEAD + frame.payload.len();
    }
    let tail = &bytes[decoded.end..];
    let last = tail.iter().rposition(|byte| *byte != 0);
    decoded.torn = last.is_some();
    // One append was under way at most: the first record of another one cannot follow what is torn.
    let another = |skip: usize| whole(&tail[skip..]).is_some_and(|frame| frame.place == 0);
    if (1..=last.unwrap_or(0)).any(another) {
        return Err(DecodeError::Damaged { offset: decoded.end });
    }
    Ok(decoded)
}

enum Reading {
    Unknown(String),
    Wrong(String),
}

fn read(frame: &Frame<'_>) -> Result<(Record, Option<Timestamp>), Reading> {
    if frame.version != VERSION {
        return Err(Reading::Unknown(format!("format {VERSION}, not {}", frame.version)));
    }
    let value: serde_json::Value =
        serde_json::from_slice(frame.payload).map_err(|error| Reading::Wrong(error.to_string()))?;
    let kind = value.get("record").and_then(serde_json::Value::as_str).unwrap_or_default();
    if !KNOWN.contains(&kind) {
        return Err(Reading::Unknown(format!("which knows no {kind:?}")));
    }
    // Nothing depends on it: one that cannot be read is none.
    let written = value.get("written").and_then(serde_json::Value::as_str).and_then(|at| Timestamp::parse(at).ok());
    let dto: RecordDto = serde_json::from_value(value).map_err(|error| Reading::Wrong(error.to_string()))?;
    let record = dto.read().map_err(Reading::Wrong)?;
    let written = record.at().or(written);
    Ok((record, written))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        frames.iter().for_each(|frame| bytes.extend_from_slice(frame));
        bytes.resize(bytes.len() + 500, 0);
        bytes
    }

    #[test]
    fn a_torn_tail_is_cut_wherever_the_write_stopped() {
        let whole = [encode(&[Record::Held]), encode(&[Record::Resumed])];
        let last = encode(&[Record::Died { reason: "x".repeat(40) }]);
        for cut in 0..last.len() {
            let mut bytes = journal(&whole);
            let end = MAGIC.len() + whole[0].len() + whole[1].len();
            bytes[end..end + cut].copy_from_slice(&last[..cut]);
            let decoded = decode(&bytes).unwrap();
            assert_eq!(decoded.records, [Record::Held, Record::Resumed], "cut at {cut}");
            assert_eq!((decoded.end, decoded.torn), (end, cut > 0), "cut at {cut}");
        }
    }

    #[test]
    fn a_record_without_a_time_of_its_own_says_when_it_was_written() {
        let [then, now] = [1, 2].map(|seconds| Timestamp::EPOCH.plus(std::time::Duration::from_secs(seconds)));
        let records = [Record::Held, Record::Committed { at: then }];
        let frames = [encode_at(&records, now), encode(&[Record::Resumed])];
        let decoded = decode(&journal(&frames)).unwrap();
        assert_eq!(decoded.records, [Record::Held, Record::Committed { at: then }, Record::Resumed]);
        assert_eq!(decoded.written, [Some(now), Some(then), None]);
        let odd = frame(0, VERSION, 0, br#"{"record":"held","written":"when it was dark"}"#);
        assert_eq!(decode(&journal(&[odd])).unwrap().written, [None]);
    }

    #[test]
    fn damage_in_the_middle_is_not_taken_for_a_torn_tail() {
        let frames = [encode(&[Record::Held]), encode(&[Record::Resumed]), encode(&[Record::Held])];
        let good = journal(&frames);
        for at in MAGIC.len()..MAGIC.len() + frames[0].len() + frames[1].len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            assert!(decode(&bytes).is_err(), "byte {at}");
        }
    }

    /// Blocks reach a disk in any order.
    #[test]
    fn the_end_of_an_append_without_its_beginning_is_cut_and_is_no_damage() {
        let before = encode(&[Record::Held]);
        let last = encode(&[Record::Died { reason: "x".repeat(40) }, Record::Resumed, Record::Held]);
        for torn in 1..encode(&[Record::Died { reason: "x".repeat(40) }]).len() {
            let mut bytes = journal(&[before.clone(), last.clone()]);
            let end = MAGIC.len() + before.len();
            bytes[end..end + torn].fill(0);
            let decoded = decode(&bytes).unwrap();
            assert_eq!((decoded.records, decoded.end), (vec![Record::Held], end), "the first {torn} bytes are lost");
        }
    }

    #[test]
    fn what_a_later_version_wrote_is_skipped_only_if_it_says_so() {
        for payload in [&br#"{"record":"weather","sky":"blue"}"#[..], br#"{"record":"began","how":"twice"}"#] {
            let optional = frame(OPTIONAL, VERSION, 0, payload);
            let decoded = decode(&journal(&[encode(&[Record::Held]), optional, encode(&[Record::Resumed])])).unwrap();
            assert_eq!((decoded.records.len(), decoded.skipped), (2, 1));
        }
        for required in [frame(0, VERSION, 0, br#"{"record":"weather"}"#), frame(0, VERSION + 1, 0, b"\x01\x02")] {
            let error = decode(&journal(&[required, encode(&[Record::Held])])).unwrap_err();
            assert!(matches!(error, DecodeError::TooNew { .. }), "{error}");
        }
    }

    #[test]
    fn rubbish_is_an_error_and_never_a_panic() {
        assert_eq!(decode(b""), Err(DecodeError::NotAJournal));
        assert_eq!(decode(b"{}"), Err(DecodeError::NotAJournal));
        let wrong = frame(0, VERSION, 0, br#"{"record":"started","step":"dance"}"#);
        assert!(matches!(decode(&journal(&[wrong])), Err(DecodeError::Unreadable { .. })));
        let mut huge = MAGIC.to_vec();
        huge.extend_from_slice(&[0xff; 64]);
        assert!(decode(&huge).unwrap().torn);
    }
}
