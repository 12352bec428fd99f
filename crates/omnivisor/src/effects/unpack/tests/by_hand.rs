//! Zip archives put together byte by byte, so that they can be wrong in any way.

/// An entry; what is not said is as it should be.
pub(super) struct Entry {
    pub(super) name: String,
    /// With the bits that say what it is; zero is none.
    pub(super) mode: u32,
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) data: Vec<u8>,
    /// The length that is claimed.
    pub(super) size: Option<u32>,
    /// The CRC-32 that is claimed.
    pub(super) sum: Option<u32>,
}

impl Entry {
    /// Nine bytes, not compressed.
    pub(super) fn of(name: &str) -> Self {
        let data = b"some data".to_vec();
        Self { name: name.to_owned(), mode: 0, flags: 0, method: 0, data, size: None, sum: None }
    }

    /// What both headers of an entry have in common.
    fn fields(&self) -> Vec<u8> {
        let length = self.data.len() as u32;
        let mut bytes = Vec::new();
        for short in [20, self.flags, self.method, 0, 0x21] {
            bytes.extend(short.to_le_bytes());
        }
        for long in [self.sum.unwrap_or_else(|| crc32(&self.data)), length, self.size.unwrap_or(length)] {
            bytes.extend(long.to_le_bytes());
        }
        bytes.extend((self.name.len() as u16).to_le_bytes());
        bytes.extend(0_u16.to_le_bytes());
        bytes
    }
}

/// The archive of these entries.
pub(super) fn archive_of(entries: &[Entry]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let begin = archive.len() as u32;
        archive.extend(b"PK\x03\x04");
        archive.extend(entry.fields());
        archive.extend(entry.name.as_bytes());
        archive.extend(&entry.data);
        directory.extend(b"PK\x01\x02\x14\x03"); // made on Unix
        directory.extend(entry.fields());
        directory.extend([0; 6]);
        directory.extend((entry.mode << 16).to_le_bytes());
        directory.extend(begin.to_le_bytes());
        directory.extend(entry.name.as_bytes());
    }
    let begin = archive.len() as u32;
    let count = (entries.len() as u16).to_le_bytes();
    archive.extend(&directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend([count, count].concat());
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend(begin.to_le_bytes());
    archive.extend([0; 2]);
    archive
}

/// An archive of one entry, with another claim of its length.
pub(super) fn with_sizes(mut archive: Vec<u8>, size: u32) -> Vec<u8> {
    for (magic, at) in [(b"PK\x03\x04", 22), (b"PK\x01\x02", 24)] {
        let begin = archive.windows(4).position(|window| window == magic).unwrap() + at;
        archive[begin..begin + 4].copy_from_slice(&size.to_le_bytes());
    }
    archive
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    })
}
