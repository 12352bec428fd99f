//! Whatever the bytes are: nothing outside of the folder, nothing over the limit, no panic, and nothing left by an error.

use proptest::prelude::*;

use super::*;

const TINY: Limits = Limits { entries: 8, bytes: 4096 };

/// One change of an archive.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    /// Bytes that mean something, over what is there.
    Stamp(prop::sample::Index, &'static [u8]),
}

fn change() -> impl Strategy<Value = Change> {
    let stamps = prop::sample::select(vec![
        &b"../"[..],
        b"/",
        b"\\",
        b"\0",
        b"PK\x01\x02",
        b"PK\x03\x04",
        b"PK\x05\x06",
        b"PK\x06\x06",
        b"PK\x06\x07",
        b"\xff\xff",
        b"\xff\xff\xff\xff",
        b"\x00\x00\xff\xa1",
    ]);
    prop_oneof![
        4 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => any::<prop::sample::Index>().prop_map(Change::Cut),
        1 => (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (any::<prop::sample::Index>(), 1_usize..40).prop_map(|(at, count)| Change::Remove(at, count)),
        4 => (any::<prop::sample::Index>(), stamps).prop_map(|(at, stamp)| Change::Stamp(at, stamp)),
    ]
}

fn changed(mut archive: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        if archive.is_empty() {
            break;
        }
        match change {
            Change::Set(at, byte) => {
                let at = at.index(archive.len());
                archive[at] = *byte;
            }
            Change::Cut(at) => archive.truncate(at.index(archive.len())),
            Change::Insert(at, bytes) => {
                let at = at.index(archive.len());
                archive.splice(at..at, bytes.iter().copied());
            }
            Change::Remove(at, count) => {
                let at = at.index(archive.len());
                archive.drain(at..(at + count).min(archive.len()));
            }
            Change::Stamp(at, stamp) => {
                let at = at.index(archive.len());
                let end = (at + stamp.len()).min(archive.len());
                archive.splice(at..end, stamp.iter().copied());
            }
        }
    }
    archive
}

fn small() -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    zip.start_file("bin/vega", options.unix_permissions(0o755)).unwrap();
    zip.write_all(&b"an executable ".repeat(40)).unwrap();
    zip.start_file("README", options.compression_method(CompressionMethod::Stored)).unwrap();
    zip.write_all(b"read me").unwrap();
    zip.add_directory("docs", options).unwrap();
    zip.finish().unwrap().into_inner()
}

/// Every file below the folder, and how long they are together; fails on anything but files and folders.
fn survey(folder: &Path) -> (u64, u64) {
    let (mut entries, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        assert!(kind.is_file() || kind.is_dir(), "{entry:?}");
        entries += 1;
        if kind.is_dir() {
            let (more, below) = survey(&entry.path());
            (entries, bytes) = (entries + more, bytes + below);
        } else {
            bytes += entry.metadata().unwrap().len();
        }
    }
    (entries, bytes)
}

#[track_caller]
fn check(bytes: &[u8]) {
    let place = Place::with(bytes);
    // That nothing is beside the folder, and nothing left in it by an error, is seen by `Place`.
    if let Ok(files) = place.unpack(&TINY) {
        let (entries, bytes) = survey(&place.target());
        assert!(entries <= TINY.entries && bytes <= TINY.bytes, "{entries} {bytes}");
        assert!(files.iter().all(|path| place.target().join(path).is_file()));
    }
    assert_eq!(fs::read(place.folder.path().join("archive")).unwrap(), bytes, "the archive is only read");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_archive_does_no_harm(changes in prop::collection::vec(change(), 1..6)) {
        check(&changed(small(), &changes));
    }

    #[test]
    fn any_bytes_do_no_harm(zip in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        check(&[if zip { &b"PK\x03\x04"[..] } else { b"" }, &bytes].concat());
    }

    #[test]
    fn any_entry_does_no_harm(
        name in "[./\\\\a-c\u{0}]{0,12}",
        mode in any::<u16>(),
        flags in any::<u16>(),
        size in prop::option::of(any::<u32>()),
    ) {
        let entry = Entry { mode: mode.into(), flags, size, ..Entry::of(&name) };
        check(&archive_of(&[Entry::of("a/b"), entry]));
    }
}
