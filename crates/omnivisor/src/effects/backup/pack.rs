//! Write a tar archive, in the format of POSIX.1-2001: names relative to the home and without a folder above them, as Nymvisor's
//! backups have them, in the order of [`Walk`](super::entry::Walk). Times to the nanosecond, extended attributes and whatever is too
//! long stand in extended headers; holes are written as zeros, and become holes again when it is unpacked.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use tar::{EntryType, Header};

use super::entry::{Entry, Walk, What, named};

const BLOCK: usize = 512;

/// So much is read at a time.
const AT_A_TIME: usize = 256 << 10;

/// The largest number in the seven and the eleven octal digits of a header.
const SEVEN: u64 = 0o7_777_777;
const ELEVEN: u64 = 0o77_777_777_777;

/// Writes everything in a folder; `each` is told of every so many bytes that were read, and may end it.
pub fn pack<W: Write>(root: &Path, mut to: W, each: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<W> {
    let mut walk = Walk::of(root);
    let mut buffer = vec![0; AT_A_TIME];
    while let Some(entry) = walk.next().transpose()? {
        if entry.path.as_os_str().is_empty() {
            continue;
        }
        to.write_all(&headers(&entry)?)?;
        if let What::File { bytes } = entry.what {
            let path = walk.full(&entry.path);
            contents(&path, bytes, &mut to, &mut buffer, each).map_err(|error| named(&path, error))?;
        }
        each(0)?;
    }
    to.write_all(&[0; 2 * BLOCK])?;
    Ok(to)
}

fn contents(
    path: &Path,
    bytes: u64,
    to: &mut impl Write,
    buffer: &mut [u8],
    each: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<()> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut file = File::options().read(true).custom_flags(flags).open(path)?;
    let mut left = bytes;
    loop {
        let read = file.read(buffer)?;
        if read == 0 {
            break;
        }
        left = left.checked_sub(read as u64).ok_or_else(changed)?;
        to.write_all(&buffer[..read])?;
        each(read as u64)?;
    }
    if left > 0 {
        return Err(changed());
    }
    let filling = usize::try_from(bytes % BLOCK as u64).unwrap_or_default();
    if filling > 0 { to.write_all(&[0; BLOCK][filling..]) } else { Ok(()) }
}

fn changed() -> io::Error {
    io::Error::other("it has changed while it was read")
}

/// All that stands before the contents of an entry.
fn headers(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut header = Header::new_ustar();
    let mut records = Vec::new();
    let mut name = entry.path.as_os_str().as_bytes().to_vec();
    let mut size = 0;
    let mut target = None;
    header.set_entry_type(match &entry.what {
        What::Folder => {
            name.push(b'/');
            EntryType::Directory
        }
        What::File { bytes } => {
            size = *bytes;
            EntryType::Regular
        }
        What::Again { first, .. } => {
            target = Some(first);
            EntryType::Link
        }
        What::Link { target: said } => {
            target = Some(said);
            EntryType::Symlink
        }
        What::Pipe => EntryType::Fifo,
    });
    let long = |text: &[u8]| text.len() > 100;
    let plain = |text: &[u8]| str::from_utf8(text).is_ok();
    let target = target.map(|it| it.as_os_str().as_bytes());
    if [Some(name.as_slice()), target].into_iter().flatten().any(|text| long(text) && !plain(text)) {
        record(&mut records, b"hdrcharset", b"BINARY");
    }
    let fields = header.as_ustar_mut().ok_or_else(|| io::Error::other("the header is of another kind"))?;
    if long(&name) {
        record(&mut records, b"path", &name);
    }
    let short = name.len().min(100);
    fields.name[..short].copy_from_slice(&name[..short]);
    if let Some(target) = target {
        if long(target) {
            record(&mut records, b"linkpath", target);
        }
        let short = target.len().min(100);
        fields.linkname[..short].copy_from_slice(&target[..short]);
    }
    for (key, value, most) in [(&b"size"[..], size, ELEVEN), (b"uid", entry.uid, SEVEN), (b"gid", entry.gid, SEVEN)] {
        if value > most {
            record(&mut records, key, value.to_string().as_bytes());
        }
    }
    record(&mut records, b"mtime", time(entry.modified).as_bytes());
    if !matches!(entry.what, What::Again { .. }) {
        for (key, value) in &entry.attributes {
            record(&mut records, &[&b"SCHILY.xattr."[..], &escaped_key(key.as_bytes())].concat(), value);
        }
    }
    header.set_mode(entry.mode);
    header.set_uid(entry.uid);
    header.set_gid(entry.gid);
    header.set_size(size);
    header.set_mtime(u64::try_from(entry.modified.0).unwrap_or_default().min(ELEVEN));
    header.set_cksum();

    let mut before = Header::new_ustar();
    before.set_entry_type(EntryType::XHeader);
    before.set_path("PaxHeader")?;
    before.set_mode(0o600);
    before.set_size(records.len() as u64);
    before.set_cksum();
    records.resize(records.len().next_multiple_of(BLOCK), 0);
    Ok([before.as_bytes().as_slice(), &records, header.as_bytes()].concat())
}

/// `<length> <key>=<value>\n`, where the length is that of all of it.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend(length.to_string().as_bytes());
    records.push(b' ');
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

fn time((seconds, nanos): (i64, u32)) -> String {
    match seconds < 0 && nanos > 0 {
        true => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
        false => format!("{seconds}.{nanos:09}"),
    }
}

/// As GNU tar does it: a record's key has no `=`.
fn escaped_key(key: &[u8]) -> Vec<u8> {
    let escape = |byte: &u8| match byte {
        b'=' => b"%3D".to_vec(),
        b'%' => b"%25".to_vec(),
        other => vec![*other],
    };
    key.iter().flat_map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for length in [0, 1, 85, 86, 87, 88, 89, 90, 984, 985, 986, 987, 9980, 9985] {
            let mut records = Vec::new();
            record(&mut records, b"key", &vec![b'x'; length]);
            let said = String::from_utf8_lossy(&records).split(' ').next().unwrap().parse::<usize>().unwrap();
            assert_eq!(said, records.len());
        }
    }

    #[test]
    fn a_time_before_1970_is_negative() {
        assert_eq!(time((-2, 500_000_000)), "-1.500000000");
        assert_eq!(time((-1, 500_000_000)), "-0.500000000");
        assert_eq!(time((-3, 0)), "-3.000000000");
        assert_eq!(time((7, 5)), "7.000000005");
    }
}
