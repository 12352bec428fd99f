//! Archives as releases have them, and every kind that no release has. What is evil is made by hand, byte by byte.

use std::io::{Cursor, Write as _};
use std::os::unix::fs::PermissionsExt;

use ::zip::write::SimpleFileOptions;
use ::zip::{CompressionMethod, ZipWriter};
use omnivisor_core::plan::FailureKind;
use tempfile::TempDir;

use self::by_hand::{Entry, archive_of};
use super::*;

mod by_hand;
mod mutations;

const SMALL: Limits = Limits { entries: 10, bytes: 1 << 20 };

/// A folder with an archive in it, and an empty one beside that.
struct Place {
    folder: TempDir,
}

impl Place {
    fn with(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("archive"), bytes).unwrap();
        fs::create_dir(folder.path().join("into")).unwrap();
        Self { folder }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("into")
    }

    fn unpack(&self, limits: &Limits) -> Result<Vec<PathBuf>, UnpackError> {
        let result = unpack(&self.folder.path().join("archive"), &self.target(), limits, &AtomicBool::new(false));
        assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), 2, "nothing is beside the folder");
        if result.is_err() {
            assert_eq!(fs::read_dir(self.target()).unwrap().count(), 0, "nothing is left in it: {result:?}");
        }
        result
    }

    fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.target().join(path)).unwrap().permissions().mode() & 0o7777
    }
}

/// An archive as the tools of the field make it.
fn ordinary() -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    zip.start_file("vega", options.unix_permissions(0o775)).unwrap();
    zip.write_all(&b"an executable".repeat(50_000)).unwrap();
    zip.add_directory("docs", options.unix_permissions(0o700)).unwrap();
    zip.start_file("docs/README", options.unix_permissions(0o600)).unwrap();
    zip.write_all(b"read me").unwrap();
    zip.start_file("lib/empty", options.compression_method(CompressionMethod::Stored)).unwrap();
    zip.finish().unwrap().into_inner()
}

#[test]
fn an_ordinary_archive_is_unpacked_whole_with_modes_of_our_own() {
    let place = Place::with(&ordinary());
    let files = place.unpack(&Limits::RELEASE).unwrap();
    assert_eq!(files, ["vega", "docs/README", "lib/empty"].map(PathBuf::from));
    assert_eq!(fs::read(place.target().join("vega")).unwrap(), b"an executable".repeat(50_000));
    assert_eq!(fs::read(place.target().join("docs/README")).unwrap(), b"read me");
    assert_eq!(fs::read(place.target().join("lib/empty")).unwrap(), b"");
    for (path, mode) in [("vega", 0o755), ("docs", 0o755), ("docs/README", 0o644), ("lib", 0o755)] {
        assert_eq!(place.mode(path), mode, "{path}");
    }
}

#[test]
fn an_entry_without_a_mode_can_be_executed_and_never_as_somebody_else() {
    let place = Place::with(&archive_of(&[Entry::of("plain"), Entry { mode: 0o107_755, ..Entry::of("setuid") }]));
    place.unpack(&SMALL).unwrap();
    assert_eq!((place.mode("plain"), place.mode("setuid")), (0o755, 0o755));
}

/// V9
#[test]
fn what_it_is_is_told_by_its_first_bytes() {
    for (first, format) in [
        (&b"PK\x03\x04\x14\x00"[..], Format::Zip),
        (b"PK\x05\x06", Format::Zip),
        (b"PK\x01\x02", Format::Raw),
        (b"PK", Format::Raw),
        (b"", Format::Raw),
        (b"\x7fELF", Format::Raw),
        (b"#!/bin/sh", Format::Raw),
        (b"\x1f\x8b", Format::Raw),
    ] {
        assert_eq!(Format::of(first), format, "{first:?}");
    }
}

#[test]
fn what_is_no_archive_is_the_executable_itself() {
    let place = Place::with(b"\x7fELF and so on");
    assert_eq!(place.unpack(&SMALL).unwrap(), [PathBuf::from("archive")]);
    assert_eq!(fs::read(place.target().join("archive")).unwrap(), b"\x7fELF and so on");
    assert_eq!(place.mode("archive"), 0o755);
    let large = Place::with(&vec![b'x'; (1 << 20) + 1]);
    assert!(matches!(large.unpack(&SMALL), Err(UnpackError::TooLarge { .. })));
}

#[test]
fn an_archive_without_a_file_is_refused() {
    let empty = ZipWriter::new(Cursor::new(Vec::new())).finish().unwrap().into_inner();
    assert!(empty.starts_with(b"PK\x05\x06"));
    assert!(matches!(Place::with(&empty).unpack(&SMALL), Err(UnpackError::Nothing { .. })));
    let folder = archive_of(&[Entry { data: Vec::new(), ..Entry::of("folder/") }]);
    assert!(matches!(Place::with(&folder).unpack(&SMALL), Err(UnpackError::Nothing { .. })));
}

#[test]
fn one_odd_entry_and_the_whole_archive_is_refused() {
    let cases = [
        (Entry::of("../x"), Refusal::Upwards),
        (Entry::of("a/../../x"), Refusal::Upwards),
        (Entry::of("/abs"), Refusal::Absolute),
        (Entry::of("..\\x"), Refusal::Backslash),
        (Entry::of(""), Refusal::Nameless),
        (Entry::of("./"), Refusal::Ambiguous),
        (Entry::of(&"x".repeat(256)), Refusal::Long),
        (Entry { mode: 0o120_777, data: b"/etc".to_vec(), ..Entry::of("link") }, Refusal::Link),
        (Entry { mode: 0o020_666, ..Entry::of("null") }, Refusal::Special),
        (Entry { mode: 0o010_666, ..Entry::of("pipe") }, Refusal::Special),
        (Entry { flags: 1, ..Entry::of("secret") }, Refusal::Encrypted),
        (Entry::of("good"), Refusal::Duplicate("good".to_owned())),
        (Entry::of("Good"), Refusal::Duplicate("good".to_owned())),
        (Entry::of("./good"), Refusal::Duplicate("good".to_owned())),
        (Entry::of("good/below"), Refusal::FileAndFolder("good".to_owned())),
    ];
    for (odd, expected) in cases {
        let name = odd.name.clone();
        let place = Place::with(&archive_of(&[Entry::of("good"), odd]));
        match place.unpack(&SMALL) {
            Err(error @ UnpackError::Entry { .. }) => {
                assert_eq!(error.failure().kind, FailureKind::Permanent);
                let UnpackError::Entry { why, .. } = error else { continue };
                assert_eq!(why, expected, "{name:?}");
            }
            other => panic!("{name:?}: {other:?}"),
        }
    }
}

#[test]
fn an_unknown_compression_is_refused() {
    for method in [9, 12, 14, 93, 95, 99, 1234] {
        let place = Place::with(&archive_of(&[Entry { method, ..Entry::of("x") }]));
        assert!(matches!(place.unpack(&SMALL), Err(UnpackError::Damaged { .. })), "{method}");
    }
}

#[test]
fn wrong_bytes_are_noticed() {
    let bad_sum = archive_of(&[Entry { sum: Some(7), ..Entry::of("x") }]);
    assert!(matches!(Place::with(&bad_sum).unpack(&SMALL), Err(UnpackError::Damaged { .. })));
    let longer = archive_of(&[Entry { size: Some(99), ..Entry::of("x") }]);
    assert!(matches!(Place::with(&longer).unpack(&SMALL), Err(UnpackError::Damaged { .. })));
    let whole = ordinary();
    for length in (4..whole.len()).step_by(7) {
        let error = Place::with(&whole[..length]).unpack(&SMALL).unwrap_err();
        assert!(matches!(error, UnpackError::Damaged { .. }), "{length}: {error}");
    }
}

#[test]
fn something_before_or_after_the_archive_is_no_way_around() {
    let mut archive = ordinary();
    archive.splice(0..0, *b"PK\x03\x04");
    assert!(matches!(Place::with(&archive).unpack(&SMALL), Err(UnpackError::Damaged { .. })));
    let place = Place::with(&[ordinary(), archive_of(&[Entry::of("other")])].concat());
    if let Ok(files) = place.unpack(&SMALL) {
        assert_eq!(files.len(), 3, "the first of two is read, and nothing of the other");
    }
}

/// V21
#[test]
fn a_bomb_is_not_inflated() {
    const MIB: usize = 1 << 20;
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    zip.start_file("zeros", options).unwrap();
    for _ in 0..32 {
        zip.write_all(&[0; MIB]).unwrap();
    }
    let honest = zip.finish().unwrap().into_inner();
    assert!(honest.len() < MIB / 16);
    assert!(matches!(Place::with(&honest).unpack(&SMALL), Err(UnpackError::TooLarge { .. })));

    let lying = by_hand::with_sizes(honest, 100);
    let error = Place::with(&lying).unpack(&SMALL).unwrap_err();
    assert!(matches!(error, UnpackError::Damaged { .. } | UnpackError::TooLarge { .. }), "{error}");

    // Many that are small enough alone.
    let many: Vec<Entry> =
        (0..5).map(|number| Entry { data: vec![0; MIB / 4], ..Entry::of(&format!("{number}")) }).collect();
    assert!(matches!(Place::with(&archive_of(&many)).unpack(&SMALL), Err(UnpackError::TooLarge { .. })));
    assert_eq!(Place::with(&archive_of(&many[..4])).unpack(&SMALL).unwrap().len(), 4);
}

#[test]
fn never_more_than_the_limit_is_written_whatever_was_claimed() {
    let place = Place::with(b"");
    let (archive, into, cancelled) = (place.folder.path().join("archive"), place.target(), AtomicBool::new(false));
    let mut writer = Writer::new(&archive, &into, &SMALL, &cancelled);
    writer.file(Path::new("first"), true, &mut io::repeat(0).take(1000)).unwrap();
    let more = writer.file(Path::new("more"), true, &mut io::repeat(0).take(8 * SMALL.bytes));
    assert!(matches!(more, Err(UnpackError::TooLarge { .. })));
    let written: u64 = ["first", "more"].map(|name| fs::metadata(into.join(name)).unwrap().len()).iter().sum();
    assert!(written <= SMALL.bytes, "{written}");
}

#[test]
fn too_many_entries_are_refused_before_the_first_is_written() {
    let many: Vec<Entry> = (0..20_001).map(|number| Entry::of(&number.to_string())).collect();
    let error = Place::with(&archive_of(&many)).unpack(&Limits::RELEASE).unwrap_err();
    assert!(matches!(error, UnpackError::TooMany { limit: 20_000, .. }), "{error}");
    // Few entries that make many folders.
    let deep: Vec<Entry> = (0..4).map(|number| Entry::of(&format!("{number}/a/b/c"))).collect();
    assert!(matches!(Place::with(&archive_of(&deep)).unpack(&SMALL), Err(UnpackError::TooMany { .. })));
}

#[test]
fn nothing_is_unpacked_over_what_is_there() {
    let place = Place::with(&ordinary());
    fs::write(place.target().join("mine"), "kept").unwrap();
    let archive = place.folder.path().join("archive");
    let result = unpack(&archive, &place.target(), &SMALL, &AtomicBool::new(false));
    assert!(matches!(result, Err(UnpackError::NotEmpty { .. })));
    assert_eq!(fs::read(place.target().join("mine")).unwrap(), b"kept");
    let missing = unpack(&archive, &place.folder.path().join("nowhere"), &SMALL, &AtomicBool::new(false));
    assert_eq!(missing.unwrap_err().failure().kind, FailureKind::Transient);
}

#[test]
fn it_ends_when_it_is_cancelled() {
    let place = Place::with(&ordinary());
    let archive = place.folder.path().join("archive");
    let result = unpack(&archive, &place.target(), &SMALL, &AtomicBool::new(true));
    assert!(matches!(result, Err(UnpackError::Cancelled)));
    assert_eq!(fs::read_dir(place.target()).unwrap().count(), 0);

    // And in the middle of a file.
    let cancelled = AtomicBool::new(false);
    struct CancelsAfterOne<'a>(&'a AtomicBool);
    impl Read for CancelsAfterOne<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            Ok(buffer.len())
        }
    }
    let into = place.target();
    let mut writer = Writer::new(&archive, &into, &SMALL, &cancelled);
    let result = writer.file(Path::new("x"), true, &mut CancelsAfterOne(&cancelled));
    assert!(matches!(result, Err(UnpackError::Cancelled)));
}

#[test]
fn more_than_the_disk_has_room_for_is_not_begun() {
    let place = Place::with(&archive_of(&[Entry { size: Some(u32::MAX - 1), ..Entry::of("x") }]));
    let everything = Limits { entries: 10, bytes: u64::MAX };
    let (archive, into, cancelled) = (place.folder.path().join("archive"), place.target(), AtomicBool::new(false));
    let writer = Writer::new(&archive, &into, &everything, &cancelled);
    let error = writer.expect(1 << 60, 1).unwrap_err();
    assert!(matches!(error, UnpackError::NoSpace(_)), "{error}");
    assert_eq!(error.failure().kind, FailureKind::Transient);
    assert!(place.unpack(&everything).is_err());
}
