//! Homes to be copied, and what a node changes in them at its end.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// What a table of LevelDB has.
const TABLE: u64 = 2 * MIB;
/// What is changed of a file in place: a page of a database.
const PAGE: u64 = 4096;
/// Tables that are written and removed.
const MERGED: u64 = 4;
const APPENDED: u64 = MIB;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Empty,
    /// So many files, of this size each; one in so many of them is changed.
    Files {
        count: u64,
        size: u64,
        one_in: u64,
    },
    /// One file, of which a hundredth is changed in place: in so many places, or as many as there are pages in that.
    OneFile {
        size: u64,
        places: Option<u64>,
    },
    /// Tables that are written once, and a log that grows.
    LevelDb {
        size: u64,
    },
}

/// What was changed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changed {
    pub files: u64,
    pub bytes: u64,
}

impl Shape {
    pub fn files(self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Files { count, .. } => count,
            Self::OneFile { .. } => 1,
            Self::LevelDb { size } => size / TABLE + 2,
        }
    }

    pub fn bytes(self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Files { count, size, .. } => count * size,
            Self::OneFile { size, .. } | Self::LevelDb { size } => size,
        }
    }

    pub fn name(self) -> String {
        match self {
            Self::Empty => "nothing".to_owned(),
            Self::Files { count, .. } => format!("{} files", grouped(count)),
            Self::OneFile { places: None, .. } => "one file, changed in place".to_owned(),
            Self::OneFile { places: Some(places), .. } => format!("one file, changed in {places} places"),
            Self::LevelDb { .. } => "LevelDB-like".to_owned(),
        }
    }

    /// Fills a folder, durably.
    pub fn make(self, home: &Path) {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        match self {
            Self::Empty => {}
            Self::Files { count, size, .. } => {
                (0..count).for_each(|number| noise.write(&many(home, number), size));
            }
            Self::OneFile { size, .. } => noise.write(&home.join("data.mdb"), size),
            Self::LevelDb { size } => {
                (0..size / TABLE).for_each(|number| noise.write(&table(home, number), TABLE));
                noise.write(&home.join("db/000001.log"), APPENDED);
                fs::write(home.join("db/MANIFEST-000002"), "manifest\n").unwrap();
            }
        }
        flush(home);
    }

    /// Does what a node does before it ends, as for the `round`th time, and flushes it.
    pub fn change(self, home: &Path, round: u64) -> Changed {
        let mut noise = Noise(round.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1);
        let changed = match self {
            Self::Empty => Changed::default(),
            Self::Files { count, size, one_in } => {
                let numbers = (round % one_in..count).step_by(usize::try_from(one_in).unwrap());
                let files = numbers.map(|number| noise.write(&many(home, number), size)).count() as u64;
                Changed { files, bytes: files * size }
            }
            Self::OneFile { size, places } => {
                let file = File::options().write(true).open(home.join("data.mdb")).unwrap();
                let pages = size / PAGE / 100;
                let places = places.unwrap_or(pages);
                let each = pages / places;
                for _ in 0..places {
                    let at = noise.next() % (size / PAGE - each) * PAGE;
                    file.write_all_at(&noise.bytes(each * PAGE), at).unwrap();
                }
                Changed { files: 1, bytes: places * each * PAGE }
            }
            Self::LevelDb { size } => {
                let tables = size / TABLE;
                for number in 0..MERGED {
                    fs::remove_file(table(home, round * MERGED + number)).unwrap();
                    noise.write(&table(home, tables + round * MERGED + number), TABLE);
                }
                for (name, bytes) in [("000001.log", APPENDED), ("MANIFEST-000002", 100)] {
                    let mut file = File::options().append(true).open(home.join("db").join(name)).unwrap();
                    file.write_all(&noise.bytes(bytes)).unwrap();
                }
                Changed { files: MERGED + 2, bytes: MERGED * TABLE + APPENDED + 100 }
            }
        };
        flush(home);
        changed
    }
}

fn many(home: &Path, number: u64) -> PathBuf {
    home.join(format!("{}", number / 250)).join(format!("{number}.dat"))
}

fn table(home: &Path, number: u64) -> PathBuf {
    home.join(format!("db/{:06}.ldb", number + 10))
}

pub fn flush(folder: &Path) {
    rustix::fs::syncfs(File::open(folder).unwrap()).unwrap();
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A xorshift, of which six bits of each byte are kept: what gzip can make a little smaller, as it can real data.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        let words = (0..length.div_ceil(8)).flat_map(|_| (self.next() & 0x3f3f_3f3f_3f3f_3f3f).to_le_bytes());
        words.take(usize::try_from(length).unwrap()).collect()
    }

    fn write(&mut self, path: &Path, length: u64) {
        let mut file = match File::create(path) {
            Ok(file) => file,
            Err(_) => {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                File::create(path).unwrap()
            }
        };
        let mut left = length;
        while left > 0 {
            let piece = left.min(MIB);
            file.write_all(&self.bytes(piece)).unwrap();
            left -= piece;
        }
    }
}
