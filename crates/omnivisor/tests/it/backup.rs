//! Snapshots, what becomes of them, and what can be got out of them again: always exactly what was put in.

mod hostile;
mod kept;
mod parts;
mod tools;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use omnivisor::effects::backup::archive::{Format, archive};
use omnivisor::effects::backup::manifest::{Head, OfRelease};
use omnivisor::effects::backup::seal::seal;
use omnivisor::effects::backup::verify::{Verified, verify};
use omnivisor::effects::backup::{Backup, Kind, Only, find, list, manifest, unpack, unpack_some};
use omnivisor::effects::data::Data;
use omnivisor::effects::snapshot::Snapshot;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};

use crate::passes::{ATTRIBUTE, Home, assert_same};
use crate::random::Random;

static NEVER: AtomicBool = AtomicBool::new(false);

const ID: &str = "1800000000000-000001";

/// A home, and the backups of it.
pub(super) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(place.home()).unwrap();
        fs::create_dir_all(place.backups().join("2024.9")).unwrap();
        place
    }

    pub(super) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub(super) fn backups(&self) -> PathBuf {
        self.folder.path().join("backups")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A snapshot of the home, as an upgrade takes it.
    pub(super) fn snapshot(&self) -> Backup {
        let to = self.backups().join(format!("2024.9/snapshot-{ID}-preupgrade"));
        let home = self.home();
        let release = |version: &str| OfRelease { name: "2024.9".into(), version: version.into(), digest: None };
        let head = Head {
            id: ID.to_owned(),
            taken: "2027-01-15T08:00:00Z".to_owned(),
            home: home.display().to_string(),
            from: release("1"),
            to: release("2"),
            method: "copy".to_owned(),
            ..Head::default()
        };
        Snapshot { data: &Data::in_one(&home, &[]), to: &to }.take_as(&head, &NEVER).unwrap();
        self.found()
    }

    pub(super) fn sealed(&self) -> Backup {
        seal(&self.snapshot().path, &mut |_| Ok(())).unwrap();
        self.found()
    }

    pub(super) fn archived(&self, format: Format) -> Backup {
        archive(&self.sealed(), format, &mut |_| Ok(())).unwrap();
        self.found()
    }

    fn found(&self) -> Backup {
        find(&self.backups(), ID).unwrap()
    }

    /// Unpacks it somewhere.
    pub(super) fn unpacked(&self, backup: &Backup) -> PathBuf {
        let to = self.path("unpacked");
        unpack(backup, &to, &mut |_| Ok(())).unwrap();
        to
    }
}

#[test]
fn only_what_is_meant_is_unpacked_and_compared() {
    for format in [None, Some(Format::Zst), Some(Format::Gz)] {
        let place = Place::new();
        fill(&place.home());
        fs::create_dir_all(place.home().join("other/below")).unwrap();
        fs::write(place.home().join("other/below/file"), "1").unwrap();
        fs::write(place.home().join("other/beside"), "2").unwrap();
        let backup = format.map_or_else(|| place.sealed(), |format| place.archived(format));
        // What is not meant may be damaged, where that is not in the way.
        if format.is_none() {
            fs::write(backup.path.join("other/beside"), "3").unwrap();
        }
        // With a name of a file that is listed, and stands in an archive, as `a-first`.
        let only = [PathBuf::from("data"), "other/below".into(), "nowhere/at/all".into()];
        let to = place.path("some");
        unpack_some(&backup, &to, &Only::of(&only), &mut |_| Ok(())).unwrap();
        assert_same(&place.home().join("data"), &to.join("data"), &format!("{format:?}"));
        let names = |folder: &Path| -> Vec<_> {
            let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let first: &[&str] = if format.is_some() { &["a-first"] } else { &[] };
        assert_eq!(names(&to), [first, &["data", "other"]].concat(), "{format:?}");
        assert_eq!(
            (names(&to.join("other")), names(&to.join("other/below"))),
            (vec!["below".into()], vec!["file".into()])
        );

        if format.is_none() {
            let all = unpack(&backup, &place.path("all"), &mut |_| Ok(())).unwrap_err().to_string();
            assert!(all.contains("other/beside: has other contents"), "{all}");
            fs::write(backup.path.join("other/below/file"), "3").unwrap();
            let some = unpack_some(&backup, &place.path("again"), &Only::of(&only), &mut |_| Ok(())).unwrap_err();
            assert!(some.to_string().contains("other/below/file: has other contents"), "{some}");
        }
    }
}

/// All of it is refused, and so is what is damaged itself, or stands behind the end of what is cut short.
#[test]
fn what_stands_in_an_archive_before_its_damage_can_be_had() {
    for format in [Format::Zst, Format::Gz] {
        let place = Place::new();
        fill(&place.home());
        let mut random = Random(11);
        let noise: Vec<u8> = (0..1 << 19).flat_map(|_| random.below(u64::MAX).to_le_bytes()).collect();
        fs::write(place.home().join("noise"), &noise).unwrap();
        fs::write(place.home().join("z-last"), "1").unwrap();
        let backup = place.archived(format);
        let good = fs::read(&backup.path).unwrap();
        let cut_short = good[..good.len() / 2].to_vec();
        let mut changed = good.clone();
        changed[good.len() * 3 / 4..][..4096].fill(0);
        for (how, bytes, gone) in [("short", cut_short, "z-last"), ("changed", changed, "noise")] {
            fs::write(&backup.path, &bytes).unwrap();
            let (all, some) = (place.path("all"), place.path(how));
            let had = |path: &str, to: &Path| unpack_some(&backup, to, &Only::of(&[path.into()]), &mut |_| Ok(()));
            for error in [unpack(&backup, &all, &mut |_| Ok(())), had(gone, &all)].map(Result::unwrap_err) {
                assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{format:?}, {how}: {error}");
                assert!(!all.exists());
            }
            had("data", &some).unwrap();
            assert_same(&place.home().join("data"), &some.join("data"), &format!("{format:?}, {how}"));
        }
    }
}

fn looked_at(backup: &Backup) -> Verified {
    verify(backup, &mut |_| Ok(())).unwrap()
}

/// Whatever a home may hold.
pub(super) fn fill(home: &Path) {
    let path = |name: &str| home.join(name);
    fs::create_dir_all(path("data/deep")).unwrap();
    fs::write(path("data/state.json"), "{}").unwrap();
    fs::write(path("data/empty"), "").unwrap();
    fs::write(path("data/Name with # = \\ and\nall that"), "odd").unwrap();
    fs::write(home.join(OsStr::from_bytes(b"data/not \xff utf-8")), "bytes").unwrap();
    let long = format!("data/{}/{}", "l".repeat(200), "n".repeat(200));
    fs::create_dir(path(&long).parent().unwrap()).unwrap();
    fs::write(path(&long), "long").unwrap();
    let mut long_and_odd = vec![b'x'; 150];
    long_and_odd.push(0xfe);
    fs::write(home.join("data").join(OsStr::from_bytes(&long_and_odd)), "long").unwrap();
    fs::hard_link(path("data/state.json"), path("data/deep/again")).unwrap();
    fs::hard_link(path(&long), path("a-first")).unwrap();
    symlink("/etc/passwd", path("data/absolute")).unwrap();
    symlink("../nowhere", path("data/dangling")).unwrap();
    symlink("t".repeat(300), path("data/far")).unwrap();
    mknodat(CWD, path("data/pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let sparse = File::create(path("data/sparse")).unwrap();
    sparse.write_at(b"begin", 0).unwrap();
    sparse.write_at(&[9; 5000], (20 << 20) + 77).unwrap();
    sparse.set_len(30 << 20).unwrap();
    // Where there are such things; with bytes that are the end of a record elsewhere.
    let _ = lsetxattr(path("data/state.json"), ATTRIBUTE, b"a\nb=\0c", XattrFlags::empty());
    let _ = lsetxattr(path("data/deep"), "user.of=a%3Dfolder", b"\n", XattrFlags::empty());
    fs::write(path("data/setuid"), "").unwrap();
    fs::write(path("data/secret"), "").unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path("data/setuid"), Some(12345), Some(4_000_000_000)).unwrap();
        std::os::unix::fs::lchown(path("data/dangling"), Some(7), Some(8)).unwrap();
    }
    let mode = |name: &str, mode| fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    mode("data/setuid", 0o6755);
    mode("data/secret", 0o400);
    mode("data/pipe", 0o620);
    let before_1970 = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1500);
    File::options().write(true).open(path("data/empty")).unwrap().set_modified(before_1970).unwrap();
    mode("data/deep", 0o1500);
}

#[test]
fn what_comes_out_of_every_kind_of_backup_is_exactly_what_went_in() {
    for kind in [Kind::Folder, Kind::TarZst, Kind::TarGz] {
        let place = Place::new();
        fill(&place.home());
        let backup = match kind {
            Kind::Folder => place.sealed(),
            Kind::TarZst => place.archived(Format::Zst),
            _ => place.archived(Format::Gz),
        };
        assert_eq!((backup.kind, backup.sealed, backup.damaged.as_deref()), (kind, true, None));
        let verified = looked_at(&backup);
        assert!(verified.is_good() && verified.compared, "{verified:?}");
        let to = place.unpacked(&backup);
        assert_same(&place.home(), &to, kind.as_str());
        let sparse = fs::metadata(to.join("data/sparse")).unwrap();
        assert!(sparse.blocks() < 200, "{}: its holes take {} blocks", kind.as_str(), sparse.blocks());
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o700, "nobody else may look into it");
        let beside = fs::read_dir(place.backups().join("2024.9")).unwrap().count();
        assert_eq!(beside, 2, "the backup and its manifest, and nothing else");
    }
}

#[test]
fn whatever_a_home_has_become_its_archive_holds_it() {
    for seed in 0..12 {
        let place = Place::new();
        let root = place.home();
        let mut home = Home { root: &root, random: Random(seed), made: 0 };
        (0..60).for_each(|_| home.change());
        let backup = place.archived(if seed % 3 == 0 { Format::Gz } else { Format::Zst });
        let to = place.unpacked(&backup);
        assert_same(&root, &to, &format!("seed {seed}"));
    }
}

#[test]
fn a_backup_that_was_changed_is_told_from_a_good_one() {
    type Change = fn(&Path);
    let change: [(&str, Change); 6] = [
        ("data/deep/again: has other contents", |it| fs::write(it.join("data/state.json"), "[]").unwrap()),
        ("data/empty: has another size", |it| fs::write(it.join("data/empty"), "1").unwrap()),
        ("data/new: is not in the manifest", |it| fs::write(it.join("data/new"), "1").unwrap()),
        ("data/secret: is missing", |it| fs::remove_file(it.join("data/secret")).unwrap()),
        ("data/secret: has another mode", |it| {
            fs::set_permissions(it.join("data/secret"), fs::Permissions::from_mode(0o644)).unwrap();
        }),
        ("data/far: points elsewhere", |it| {
            fs::remove_file(it.join("data/far")).unwrap();
            symlink("x", it.join("data/far")).unwrap();
        }),
    ];
    for (expected, change) in change {
        let place = Place::new();
        fill(&place.home());
        let backup = place.sealed();
        change(&backup.path);
        let verified = looked_at(&backup);
        assert!(verified.differs.iter().any(|it| it == expected), "{expected}: {:?}", verified.differs);
        let refused = unpack(&backup, &place.path("unpacked"), &mut |_| Ok(())).unwrap_err().to_string();
        assert!(refused.contains("is not what its manifest says"), "{refused}");
        assert!(!place.path("unpacked").exists());
        archive(&backup, Format::Zst, &mut |_| Ok(())).unwrap_err();
        assert!(backup.path.is_dir(), "what may be the only one stays");
        let left: Vec<_> = fs::read_dir(backup.path.parent().unwrap()).unwrap().map(|it| it.unwrap().path()).collect();
        assert_eq!(left.len(), 3, "it, its list, what is known of it, and no half of an archive: {left:?}");
        let found = find(&place.backups(), ID).unwrap();
        assert_eq!((found.damaged, found.differs.as_deref()), (None, verified.differs.first().map(String::as_str)));
    }
}

#[test]
fn a_byte_that_was_changed_in_an_archive_or_its_manifest_shows() {
    for format in [Format::Zst, Format::Gz] {
        let place = Place::new();
        // In what compresses well a byte may be another one and mean the same.
        let mut random = Random(7);
        let noise: Vec<u8> = (0..10_000).flat_map(|_| random.below(u64::MAX).to_le_bytes()).collect();
        fs::write(place.home().join("noise"), noise).unwrap();
        let backup = place.archived(format);
        for path in [backup.path.clone(), manifest::beside(&backup.path)] {
            let good = fs::read(&path).unwrap();
            let length = good.len();
            let mut changed: Vec<Vec<u8>> = [length / 3, length / 2, length - 3]
                .map(|at| {
                    let mut bytes = good.clone();
                    bytes[at] ^= 4;
                    bytes
                })
                .into();
            changed.extend([length / 2, length - 1].map(|end| good[..end].to_vec()));
            for bytes in changed {
                fs::write(&path, &bytes).unwrap();
                let backup = list(&place.backups()).pop().unwrap();
                let is_good = verify(&backup, &mut |_| Ok(())).is_ok_and(|verified| verified.is_good());
                let at = bytes.iter().zip(&good).position(|(one, other)| one != other);
                assert!(!is_good, "{} at {at:?} of {length}, now {}", path.display(), bytes.len());
                unpack(&backup, &place.path("unpacked"), &mut |_| Ok(())).unwrap_err();
                assert!(!place.path("unpacked").exists());
            }
            fs::write(&path, &good).unwrap();
        }
        assert!(looked_at(&backup).is_good());
    }
}

#[test]
fn what_is_no_backup_is_listed_with_the_reason_and_what_is_being_made_is_not() {
    let place = Place::new();
    fill(&place.home());
    let backup = place.snapshot();
    assert!(!backup.sealed && backup.damaged.is_none(), "{backup:?}");
    let folder = place.backups().join("2024.9");
    for name in ["snapshot-1-1-preupgrade.partial", "snapshot-1-1-preupgrade.partial-removed"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    fs::write(folder.join(".backup-x.tar.zst.1-1.omnivisor-new"), "").unwrap();
    fs::write(folder.join("notes.txt"), "").unwrap();
    assert_eq!(list(&place.backups()).len(), 1);
    fs::create_dir(folder.join("snapshot-1-000002-preupgrade")).unwrap();
    fs::write(folder.join("backup-2024-01-01-000000000-preupgrade.tar.zst"), "").unwrap();
    fs::write(folder.join("backup-2024-01-01-000000000-preupgrade.tar.gz"), "").unwrap();
    let all = list(&place.backups());
    let damaged = all.iter().filter(|it| it.damaged.as_ref().is_some_and(|why| why.contains("has no manifest")));
    assert_eq!((all.len(), damaged.count()), (4, 2), "{all:#?}");
    let kind = |kind| all.iter().filter(|it| it.kind == kind).count();
    assert_eq!([Kind::Folder, Kind::TarZst, Kind::TarGz, Kind::Nymvisor].map(kind), [2, 1, 0, 1]);
    assert_eq!(find(&place.backups(), "18").unwrap().id, ID);
    assert!(find(&place.backups(), "1").unwrap_err().to_string().contains("may be each of"));
    assert!(find(&place.backups(), "7").unwrap_err().to_string().contains("there is no backup"));
}
