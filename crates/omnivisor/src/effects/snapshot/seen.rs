//! What the passes of a snapshot have seen of each file, in sixteen bytes: so much as is needed to know that it has not changed.
//!
//! Kept beside the copy, in a file that the next pass reads, whoever takes that: a supervisor that was killed goes on from there.
//! One that stands from before the machine's last start is not believed: what a power cut has left of a file may look as it did
//! before a change that the copy of it has already.
//!
//! Form: [`MAGIC`], then the boot's id, then pairs of numbers (the path, the stamp), little-endian, in ascending order, then the CRC-32 of all that.
//! Whatever else is there is nothing, and all is copied again.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, Read};
use std::mem;
use std::path::Path;

use crc32fast::Hasher;
use omnivisor_core::time::Timestamp;
use rustix::fs::Stat;

use super::pass::Rules;
use crate::effects::process;
use crate::store::atomic;

/// The first bytes of the file, with its version.
const MAGIC: &[u8; 16] = b"omnivisor-seen/2";

/// A path and a stamp.
const PAIR: usize = 16;

/// What ends the file.
const CRC: usize = 4;

/// So many pairs are read and written at a time.
const PAIRS: usize = 4096;

/// About so many places have the same first bits.
const SAME_BITS: usize = 8;

/// A path below the home, as a number. Two paths of a million have the same one once in forty million homes; and then it would
/// take the same stamp, too, to be misled.
#[derive(Clone, Default)]
pub struct Place(DefaultHasher);

impl Place {
    /// What is called so in this folder.
    pub fn join(&self, name: &[u8]) -> Self {
        let mut below = self.0.clone();
        below.write(name);
        below.write_u8(b'/');
        Self(below)
    }

    /// Different for different paths, as far as anybody can tell.
    pub fn number(&self) -> u64 {
        self.0.finish()
    }
}

/// What says that a file has changed, as a number; none if it may change and look the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(Option<u64>);

impl Stamp {
    /// Of a file as it was looked at in a pass that began then.
    pub fn of(stat: &Stat, begun: Timestamp, rules: Rules) -> Self {
        let changed = nanos(stat.st_ctime, stat.st_ctime_nsec).max(nanos(stat.st_mtime, stat.st_mtime_nsec));
        let settled = begun.unix_nanos() - rules.tick > changed;
        Self(settled.then(|| Self::number(stat, rules)))
    }

    /// What a file looks like now.
    pub fn number(stat: &Stat, rules: Rules) -> u64 {
        let mut hasher = DefaultHasher::new();
        for part in [stat.st_dev, stat.st_ino, stat.st_size.cast_unsigned(), u64::from(stat.st_mode)] {
            hasher.write_u64(part);
        }
        for time in [nanos(stat.st_mtime, stat.st_mtime_nsec), nanos(stat.st_ctime, stat.st_ctime_nsec)] {
            // A division of so long numbers takes longer than all the rest.
            hasher.write_i128(if rules.granularity > 1 { time - time % rules.granularity } else { time });
        }
        hasher.finish()
    }
}

pub(super) fn nanos(seconds: i64, nanos: u64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

/// What a pass sees of every file.
#[derive(Debug, Default)]
pub struct Notes(Vec<(u64, u64)>);

impl Notes {
    /// Notes it. What may look the same and be another is not noted.
    pub fn note(&mut self, place: &Place, stamp: Stamp) {
        self.0.extend(stamp.0.map(|stamp| (place.number(), stamp)));
    }

    /// Together with those of another pass. The first ones are not copied: of many files they take much memory.
    pub fn and(&mut self, other: &mut Self) {
        if self.0.is_empty() {
            mem::swap(&mut self.0, &mut other.0);
        } else {
            self.0.append(&mut other.0);
        }
    }

    /// Writes it, durably: after what was copied, or it would promise too much.
    pub fn write(&mut self, path: &Path) -> io::Result<()> {
        self.0.sort_unstable();
        let boot = boot().unwrap_or_default();
        let mut crc = Hasher::new();
        let mut piece: Vec<u8> = [MAGIC.as_slice(), boot.as_bytes()].concat();
        atomic::replace_by(path, 0o600, |file| {
            for pairs in self.0.chunks(PAIRS) {
                piece.extend(
                    pairs.iter().flat_map(|(place, stamp)| [place.to_le_bytes(), stamp.to_le_bytes()]).flatten(),
                );
                if pairs.len() == PAIRS {
                    crc.update(&piece);
                    file.push(&piece)?;
                    piece.clear();
                }
            }
            crc.update(&piece);
            piece.extend(crc.finalize().to_le_bytes());
            file.push(&piece)
        })
    }
}

/// What the pass before has seen of every file.
#[derive(Debug, Default)]
pub struct Seen {
    /// In ascending order.
    pairs: Vec<(u64, u64)>,
    /// Where those begin whose places have the same first bits, and where the last of them end: numbers of places are spread
    /// evenly, so that a few of them follow. A search through all of them would wait for memory at each of its steps.
    starts: Vec<usize>,
    /// How many bits that are.
    bits: u32,
}

impl Seen {
    fn of(pairs: Vec<(u64, u64)>) -> Self {
        let bits = (pairs.len() / SAME_BITS + 1).next_power_of_two().trailing_zeros();
        let mut starts = Vec::with_capacity((1 << bits) + 1);
        for (at, (place, _)) in pairs.iter().enumerate() {
            starts.resize(starts.len().max(first(*place, bits) + 1), at);
        }
        starts.resize((1 << bits) + 1, pairs.len());
        Self { pairs, starts, bits }
    }

    /// Whether what is at this place looks as it did.
    pub fn is_same(&self, place: &Place, stat: &Stat, rules: Rules) -> bool {
        self.stamp(place.number()).is_some_and(|stamp| stamp == Stamp::number(stat, rules))
    }

    fn stamp(&self, place: u64) -> Option<u64> {
        let at = first(place, self.bits);
        let pairs = self.pairs.get(*self.starts.get(at)?..*self.starts.get(at + 1)?)?;
        pairs.iter().find(|(path, _)| *path == place).map(|(_, stamp)| *stamp)
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// What stands in this file, if that is whole and of this life of the machine.
    pub fn read(path: &Path) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let length = usize::try_from(file.metadata().ok()?.len()).ok()?;
        let mut piece: Vec<u8> = [MAGIC.as_slice(), boot()?.as_bytes()].concat();
        let mut left = length.checked_sub(piece.len() + CRC).filter(|left| left.is_multiple_of(PAIR))?;
        let mut read = |piece: &mut Vec<u8>, length: usize| {
            piece.resize(length, 0);
            file.read_exact(piece).ok()
        };
        let wanted = piece.clone();
        read(&mut piece, wanted.len())?;
        let mut crc = Hasher::new();
        crc.update(&piece);
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let mut seen = Vec::new();
        (piece == wanted && seen.try_reserve_exact(left / PAIR).is_ok()).then_some(())?;
        while left > 0 {
            read(&mut piece, left.min(PAIRS * PAIR))?;
            crc.update(&piece);
            seen.extend(piece.chunks_exact(PAIR).map(|pair| (number(&pair[..8]), number(&pair[8..]))));
            left -= piece.len();
        }
        read(&mut piece, CRC)?;
        (crc.finalize().to_le_bytes() == piece.as_slice()).then_some(())?;
        seen.is_sorted().then(|| Self::of(seen))
    }
}

/// The first bits of a place.
fn first(place: u64, bits: u32) -> usize {
    usize::try_from(place.checked_shr(u64::BITS - bits).unwrap_or_default()).unwrap_or_default()
}

/// None where the kernel does not say: then nothing is believed.
fn boot() -> Option<String> {
    Some(process::boot_id()).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_place_is_found_however_the_others_are_spread() {
        type Spread = fn(u64) -> u64;
        let spreads: [Spread; 3] =
            [|number| number, |number| number << 50, |number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15)];
        for (spread, count) in spreads.into_iter().flat_map(|spread| [0, 1, 7, 8, 9, 3000].map(|count| (spread, count)))
        {
            let mut pairs: Vec<_> = (1..=count).map(|number| (spread(number), number)).collect();
            pairs.sort_unstable();
            let seen = Seen::of(pairs);
            assert!((1..=count).all(|number| seen.stamp(spread(number)) == Some(number)), "of {count}");
            for other in [spread(0), spread(count + 1), u64::MAX] {
                assert_eq!(seen.stamp(other), None, "of {count}");
            }
        }
        assert_eq!(Seen::default().stamp(7), None);
    }

    #[test]
    fn what_was_seen_is_read_whole_and_not_after_the_machine_was_started_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seen");
        Notes(vec![(7, 8), (1, 2)]).write(&path).unwrap();
        assert_eq!(Seen::read(&path).map(|it| it.pairs), Some(vec![(1, 2), (7, 8)]));

        let many: Vec<_> = (0..3 * PAIRS as u64 + 1).map(|number| (number, number * 7)).collect();
        for length in [0, 1, PAIRS - 1, PAIRS, PAIRS + 1, many.len()] {
            Notes(many[..length].to_vec()).write(&path).unwrap();
            assert_eq!(Seen::read(&path).map(|it| it.pairs), Some(many[..length].to_vec()));
        }

        let mut bytes = fs::read(&path).unwrap();
        let whole = bytes.clone();
        bytes[MAGIC.len()] ^= 1;
        let end = bytes.len() - 4;
        let crc = crc32fast::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        assert!(Seen::read(&path).is_none(), "of another life of the machine");
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(Seen::read(&path).is_none(), "torn");
        for at in [MAGIC.len() + boot().unwrap().len() + 1, whole.len() / 2, whole.len() - 1] {
            let mut other = whole.clone();
            other[at] ^= 1;
            fs::write(&path, other).unwrap();
            assert!(Seen::read(&path).is_none(), "another byte at {at}");
        }
    }
}
