//! Archives that somebody else has made: those of good will are read, the others are refused, and nothing of them is left.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use omnivisor::effects::backup::{Backup, Kind, list, unpack};
use tar::{Builder, EntryType, Header};

use super::Place;

const NAME: &str = "backup-2024-01-01-000000000-preupgrade.tar.gz";

fn header(kind: EntryType, name: &[u8], target: &[u8], size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_cksum();
    header
}

type Made = Builder<GzEncoder<File>>;

/// An archive that Nymvisor could have made, by its name.
fn made(place: &Place, make: impl FnOnce(&mut Made)) -> Backup {
    let path = place.backups().join("2024.9").join(NAME);
    let mut builder = Builder::new(GzEncoder::new(File::create(&path).unwrap(), Compression::fast()));
    make(&mut builder);
    builder.into_inner().unwrap().finish().unwrap();
    let backup = list(&place.backups()).pop().unwrap();
    assert_eq!((backup.kind, backup.id.as_str()), (Kind::Nymvisor, NAME.trim_end_matches(".tar.gz")));
    backup
}

fn add(to: &mut Made, kind: EntryType, name: &str, target: &str, contents: &str) {
    let header = header(kind, name.as_bytes(), target.as_bytes(), contents.len() as u64);
    to.append(&header, contents.as_bytes()).unwrap();
}

#[track_caller]
fn refused(place: &Place, backup: &Backup, expected: &str) {
    let to = place.path("unpacked");
    let before = everything(place);
    let error = unpack(backup, &to, &mut |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains(expected), "{expected}: {error}");
    assert!(!to.exists(), "{expected}: something of it is left");
    assert_eq!(everything(place), before, "{expected}");
}

fn everything(place: &Place) -> Vec<PathBuf> {
    let mut all = vec![place.path("")];
    let mut looked = 0;
    while let Some(path) = all.get(looked).cloned() {
        looked += 1;
        if path.is_dir() {
            all.extend(fs::read_dir(path).unwrap().map(|it| it.unwrap().path()));
        }
    }
    all
}

#[test]
fn an_archive_that_leads_elsewhere_is_refused_whole() {
    let (file, folder, link) = (EntryType::Regular, EntryType::Directory, EntryType::Symlink);
    type Written<'a> = (EntryType, &'a str, &'a str, &'a str);
    let cases: [(&str, &[Written<'_>]); 14] = [
        ("is absolute", &[(file, "/tmp/omnivisor-hostile", "", "x")]),
        ("leads upwards", &[(file, "a/../../x", "", "x")]),
        ("leads upwards", &[(EntryType::Link, "a", "../x", "")]),
        ("is absolute", &[(EntryType::Link, "a", "/etc/passwd", "")]),
        ("leads through what is no folder", &[(link, "a", "..", ""), (file, "a/x", "", "x")]),
        ("leads through what is no folder", &[(link, "a", "/etc", ""), (EntryType::Link, "b", "a/passwd", "")]),
        ("leads through what is no folder", &[(file, "a", "", "x"), (file, "a/x", "", "x")]),
        ("is a name of what is no file", &[(link, "a", "/etc/passwd", ""), (EntryType::Link, "b", "a", "")]),
        ("there is another one of this name", &[(link, "a", "/tmp", ""), (folder, "a/", "", "")]),
        ("there is another one of this name", &[(file, "a", "", "x"), (file, "./a", "", "y")]),
        ("is a device", &[(EntryType::Char, "a", "", "")]),
        ("is a device", &[(EntryType::Block, "a", "", "")]),
        ("keeps parts of other backups", &[(EntryType::Symlink, "core", "/a/.omnivisor-parts/7-10-core", "")]),
        ("of a kind that is not known", &[(EntryType::new(b'V'), "a", "", "")]),
    ];
    for (expected, members) in cases {
        let place = Place::new();
        let backup = made(&place, |to| {
            add(to, file, "good", "", "good");
            members.iter().for_each(|(kind, name, target, contents)| add(to, *kind, name, target, contents));
        });
        refused(&place, &backup, expected);
    }
}

#[test]
fn an_archive_that_is_cut_or_odd_is_refused_whole() {
    let place = Place::new();
    let backup = made(&place, |to| add(to, EntryType::Regular, "a", "", &"text".repeat(5000)));
    let good = fs::read(&backup.path).unwrap();
    for length in [0, 5, good.len() / 2, good.len() - 1] {
        fs::write(&backup.path, &good[..length]).unwrap();
        refused(&place, &backup, "");
    }
    // The end of the compressed file is there, and that of the archive is not.
    let raw = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(File::create(&backup.path).unwrap(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap();
    };
    let member = header(EntryType::Regular, b"a", b"", 3);
    let mut block = member.as_bytes().to_vec();
    block.extend(b"abc");
    block.resize(1024, 0);
    raw(&block);
    refused(&place, &backup, "cut short");
    raw(&block[..515]);
    refused(&place, &backup, "cut short");
    raw(&[&block[..], &[0; 1024], b"more"].concat());
    refused(&place, &backup, "stands behind its end");
    let mut wrong = block.clone();
    wrong[0] = b'b';
    raw(&wrong);
    refused(&place, &backup, "not what it was when it was written");
    // What would need any amount of memory.
    raw(header(EntryType::XHeader, b"x", b"", 1 << 40).as_bytes());
    refused(&place, &backup, "what stands before a member is too long");
    raw(header(EntryType::GNULongName, b"x", b"", 1 << 40).as_bytes());
    refused(&place, &backup, "what stands before a member is too long");
    let mut many = Vec::new();
    for number in 0..3 {
        let record = |length: usize| format!("{length} SCHILY.xattr.user.{number}={}\n", "x".repeat(2 << 20));
        let length = (2 << 20) + 100;
        let record =
            (length - 100..length).map(record).find(|it| it.len().to_string() == it.split(' ').next().unwrap());
        let record = record.unwrap();
        many.extend_from_slice(header(EntryType::XHeader, b"x", b"", record.len() as u64).as_bytes());
        many.extend_from_slice(record.as_bytes());
        many.resize(many.len().next_multiple_of(512), 0);
    }
    raw(&[&many[..], &block, &[0; 1024]].concat());
    refused(&place, &backup, "what stands before a member is too long");
    let mut endless = header(EntryType::XHeader, b"x", b"", 29).as_bytes().to_vec();
    endless.extend_from_slice(b"29 size=18446744073709551615\n");
    endless.resize(1024, 0);
    raw(&[&endless[..], &block, &[0; 1024]].concat());
    refused(&place, &backup, "cannot be as long as it says");
    raw(&[&block[..], &[0; 1024]].concat());
    unpack(&backup, &place.path("unpacked"), &mut |_| Ok(())).unwrap();
    assert_eq!(fs::read(place.path("unpacked/a")).unwrap(), b"abc");
}

#[test]
fn an_archive_that_does_not_name_its_folders_is_read() {
    let place = Place::new();
    let backup = made(&place, |to| {
        add(to, EntryType::Regular, "./a/b/c", "", "x");
        add(to, EntryType::Directory, "a/", "", "");
        add(to, EntryType::Regular, "a/d", "", "y");
        add(to, EntryType::Directory, "./", "", "");
    });
    let to = place.unpacked(&backup);
    assert_eq!(fs::read(to.join("a/b/c")).unwrap(), b"x");
    let modified = |name: &str| fs::metadata(to.join(name)).unwrap().modified().unwrap();
    let first_second = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
    assert_eq!(modified("a"), first_second, "also where something was put into it later");
    assert!(Path::new(&to).join("a/d").exists());
}
