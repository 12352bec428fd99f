//! A snapshot in passes: whatever is done to a home before, between and during them, the copy is exactly what is there when the
//! last one is taken.

mod later;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use omnivisor::effects::backup::Only;
use omnivisor::effects::data::Data;
use omnivisor::effects::snapshot::Snapshot;
use omnivisor::effects::snapshot::later::Later;
use omnivisor::effects::snapshot::pass::{Pass, Passed, Rules};
use omnivisor::effects::snapshot::seen::Seen;
use omnivisor_core::time::Timestamp;
use omnivisor_testkit::wait_until;
use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};

use crate::random::Random;
use crate::world::SOON;

static NEVER: AtomicBool = AtomicBool::new(false);

/// Everything that has to be the same.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub mode: u32,
    pub owner: (u32, u32),
    /// Not of a folder that may not be the same: the root.
    pub modified: i128,
    pub what: What,
    pub attribute: Option<Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    Folder,
    /// Its bytes, and the first of its names.
    File(Vec<u8>, PathBuf),
    Link(PathBuf),
    Pipe,
}

pub(super) const ATTRIBUTE: &str = "user.omnivisor-test";

pub(super) fn tree(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut paths = vec![PathBuf::new()];
    let (mut found, mut looked) = (Vec::new(), 0);
    while let Some(path) = paths.get(looked).cloned() {
        looked += 1;
        let kind = fs::symlink_metadata(root.join(&path)).unwrap();
        if kind.is_dir() {
            paths.extend(fs::read_dir(root.join(&path)).unwrap().map(|it| path.join(it.unwrap().file_name())));
        }
        if !kind.file_type().is_socket() && path != Path::new("") {
            found.push((path, kind));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut tree = BTreeMap::new();
    for (path, kind) in found {
        let full = root.join(&path);
        let what = if kind.is_dir() {
            What::Folder
        } else if kind.is_symlink() {
            What::Link(fs::read_link(&full).unwrap())
        } else if kind.is_file() {
            let name = first.entry(kind.ino()).or_insert_with(|| path.clone());
            What::File(fs::read(&full).unwrap(), name.clone())
        } else {
            What::Pipe
        };
        let mut value = vec![0; 100];
        let length = lgetxattr(&full, ATTRIBUTE, &mut value).ok();
        let entry = Entry {
            mode: kind.permissions().mode(),
            owner: (kind.uid(), kind.gid()),
            modified: i128::from(kind.mtime()) * 1_000_000_000 + i128::from(kind.mtime_nsec()),
            what,
            attribute: length.map(|length| value[..length].to_vec()),
        };
        tree.insert(path, entry);
    }
    tree
}

#[track_caller]
pub(super) fn assert_same(home: &Path, copy: &Path, when: &str) {
    let (wanted, found) = (tree(home), tree(copy));
    let differ: Vec<_> =
        wanted.keys().chain(found.keys()).filter(|path| wanted.get(*path) != found.get(*path)).collect();
    let shown = |tree: &BTreeMap<PathBuf, Entry>| differ.first().map(|path| format!("{:?}", tree.get(*path)));
    assert!(differ.is_empty(), "{when}: {differ:?} differ: {:?} was copied as {:?}", shown(&wanted), shown(&found));
}

/// A home that somebody works in.
pub(super) struct Home<'a> {
    pub root: &'a Path,
    pub random: Random,
    pub made: u64,
}

impl Home<'_> {
    /// A path, and perhaps nothing is there.
    fn any(&mut self, wanted: impl Fn(&fs::Metadata) -> bool) -> Option<PathBuf> {
        let (mut paths, mut looked) = (vec![self.root.to_owned()], 0);
        while let Some(path) = paths.get(looked).cloned() {
            looked += 1;
            if path.is_dir() && !path.is_symlink() {
                paths.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        paths.remove(0);
        paths.retain(|path| wanted(&fs::symlink_metadata(path).unwrap()));
        (!paths.is_empty()).then(|| self.random.one_of(&paths))
    }

    fn new_path(&mut self) -> PathBuf {
        self.made += 1;
        let folder = self
            .any(fs::Metadata::is_dir)
            .filter(|_| !self.made.is_multiple_of(3))
            .unwrap_or_else(|| self.root.to_owned());
        folder.join(format!("n{}", self.made))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = usize::try_from(self.random.below(20_000)).unwrap();
        let byte = u8::try_from(self.random.below(256)).unwrap();
        vec![byte; length]
    }

    pub fn change(&mut self) {
        let file = self.any(fs::Metadata::is_file);
        let bytes = self.bytes();
        match (self.random.below(14), file) {
            (0..3, _) | (_, None) => fs::write(self.new_path(), bytes).unwrap(),
            (3, Some(file)) => fs::write(file, bytes).unwrap(),
            (4 | 5, Some(file)) => {
                let length = fs::metadata(&file).unwrap().len().max(1);
                File::options().write(true).open(file).unwrap().write_at(b"x", self.random.below(length)).unwrap();
            }
            (6, Some(file)) => File::options().append(true).open(file).unwrap().write_all(b"appended").unwrap(),
            (7, _) => fs::create_dir(self.new_path()).unwrap(),
            (8, Some(file)) => fs::hard_link(file, self.new_path()).unwrap(),
            (9, _) => symlink("nowhere", self.new_path()).unwrap(),
            (10, _) => {
                let any = self.any(|_| true).unwrap();
                let to = self.new_path();
                if !to.starts_with(&any) {
                    fs::rename(any, to).unwrap();
                }
            }
            (11, _) => {
                let any = self.any(|_| true).unwrap();
                if any.is_dir() && !any.is_symlink() { fs::remove_dir_all(any) } else { fs::remove_file(any) }.unwrap();
            }
            (12, Some(file)) => {
                fs::set_permissions(
                    &file,
                    fs::Permissions::from_mode(0o600 + u32::try_from(self.random.below(64)).unwrap()),
                )
                .unwrap();
                // Where there are such things.
                let _ = lsetxattr(&file, ATTRIBUTE, &bytes[..bytes.len().min(20)], XattrFlags::empty());
            }
            (_, Some(file)) => {
                let length = fs::metadata(&file).unwrap().len() / 2;
                let file = File::options().write(true).open(file).unwrap();
                file.set_len(length).unwrap();
                file.set_len(length + 100_000).unwrap(); // a hole
            }
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_unix_nanos(i128::try_from(since.as_nanos()).unwrap())
}

/// Waits until what is changed from now on gets another time stamp.
fn let_the_clock_tick(beside: &Path) {
    let stamp = || {
        fs::write(beside, "").unwrap();
        let kind = fs::metadata(beside).unwrap();
        (kind.mtime(), kind.mtime_nsec())
    };
    let before = stamp();
    wait_until("the clock of files ticks", SOON, || (stamp() != before).then_some(()));
}

fn pass(home: &Path, to: &Path, seen: &Seen, rules: Rules, is_last: bool) -> Passed {
    pass_but(home, to, seen, rules, is_last, &mut Later::default())
}

fn pass_but(home: &Path, to: &Path, seen: &Seen, rules: Rules, is_last: bool, later: &mut Later) -> Passed {
    Pass {
        home,
        name: "",
        to,
        apart: &[],
        only: &Only::default(),
        seen,
        begun: now(),
        is_last,
        rules,
        cancelled: &NEVER,
        later,
        pace: &mut |_| Ok(()),
    }
    .take()
    .unwrap()
}

/// What a pass has seen, as the next one reads it.
fn as_seen(mut passed: Passed, file: &Path) -> Seen {
    passed.notes.write(file).unwrap();
    Seen::read(file).unwrap()
}

/// On tmpfs the time of a file says little.
fn has_passes(folder: &Path) -> bool {
    let kind = rustix::fs::statfs(folder).unwrap().f_type;
    let has = kind != 0x0102_1994;
    if !has {
        println!("skipped: {} is on tmpfs, where a snapshot has one pass", folder.display());
    }
    has
}

#[test]
fn whatever_changes_during_the_passes_the_copy_is_what_is_there_at_the_end() {
    for seed in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let (root, to) = (folder.path().join("home"), folder.path().join("backups/1.0/snapshot"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let apart = [root.join("apart")];
        fs::create_dir(&apart[0]).unwrap();
        fs::write(apart[0].join("x"), "x").unwrap();
        let home = std::cell::RefCell::new(Home { root: &root, random: Random(seed), made: 0 });
        (0..30).for_each(|_| home.borrow_mut().change());
        let data = Data::in_one(&root, &apart);
        let snapshot = Snapshot { data: &data, to: &to };
        for _ in 0..3 {
            // A node that works while it is copied.
            snapshot
                .prepare(&NEVER, &mut |_| {
                    home.borrow_mut().change();
                    Ok(())
                })
                .unwrap();
            (0..5).for_each(|_| home.borrow_mut().change());
        }
        snapshot.take(&NEVER).unwrap();
        if apart[0].exists() {
            fs::remove_dir_all(&apart[0]).unwrap();
        }
        assert_same(&root, &to, &format!("seed {seed}"));
        let beside = fs::read_dir(to.parent().unwrap()).unwrap().count();
        assert_eq!(beside, 2, "nothing but its manifest is left beside it");
    }
}

/// Each pass but the first copies what has changed, and nothing else.
#[test]
fn what_has_not_changed_is_not_copied_again() {
    let folder = tempfile::tempdir().unwrap();
    if !has_passes(folder.path()) {
        return;
    }
    let rules = Rules { tick: 0, ..Rules::default() };
    for seed in 0..40 {
        let (root, to) = (folder.path().join(format!("home-{seed}")), folder.path().join(format!("copy-{seed}")));
        fs::create_dir(&root).unwrap();
        let mut home = Home { root: &root, random: Random(seed), made: 0 };
        (0..60).for_each(|_| home.change());
        let mut seen = Seen::default();
        for number in 0..4 {
            let_the_clock_tick(&folder.path().join("tick"));
            let passed = pass(&root, &to, &seen, rules, false);
            let files = passed.files;
            assert_same(&root, &to, &format!("seed {seed}, pass {number}"));
            seen = as_seen(passed, &folder.path().join("seen"));
            let_the_clock_tick(&folder.path().join("tick"));
            let idle = pass(&root, &to, &seen, rules, true);
            let found = (idle.files, idle.copied.count, idle.copied.touched.len());
            assert_eq!(found, (files, 0, 0), "seed {seed}, pass {number}");
            (0..4).for_each(|_| home.change());
            let last = pass(&root, &to, &seen, rules, true);
            assert_same(&root, &to, &format!("seed {seed}, last pass {number}"));
            assert_eq!(last.files, pass(&root, &to, &Seen::default(), rules, true).files, "seed {seed}");
        }
    }
}

/// Two writes within one tick of a coarse clock look like one.
#[test]
fn a_clock_that_ticks_too_seldom_hides_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (home, file) = (folder.path().join("home"), folder.path().join("home/file"));
    fs::create_dir(&home).unwrap();
    let coarse = Rules { granularity: 1_000_000_000_000_000, ..Rules::default() };
    for (rules, is_exact) in [(coarse, true), (Rules { tick: 0, ..coarse }, false)] {
        fs::write(&file, "one").unwrap();
        let to = folder.path().join(format!("copy-{is_exact}"));
        let_the_clock_tick(&folder.path().join("tick"));
        let passed = pass(&home, &to, &Seen::default(), rules, false);
        fs::write(&file, "two").unwrap();
        let seen = as_seen(passed, &folder.path().join("seen"));
        pass(&home, &to, &seen, rules, true);
        assert_eq!(fs::read(to.join("file")).unwrap() == b"two", is_exact, "{rules:?}");
    }
}

/// Writes a byte into a mapped page for each line that it reads.
const WRITER: &str = "import mmap, sys\n\
    file = open(sys.argv[1], 'r+b')\n\
    page = mmap.mmap(file.fileno(), 4096)\n\
    for line in sys.stdin:\n\
    \x20   page[0] = ord(line[0])\n\
    \x20   print(flush=True)\n";

/// A page that is dirty already is written to without a new time stamp.
#[test]
fn what_is_written_through_a_mapping_is_not_missed() {
    let folder = tempfile::tempdir().unwrap();
    if !has_passes(folder.path()) {
        return;
    }
    let is_exact = |rules: Rules, number: usize| {
        let home = folder.path().join(format!("home-{number}"));
        let (file, to) = (home.join("file"), folder.path().join(format!("copy-{number}")));
        fs::create_dir(&home).unwrap();
        fs::write(&file, vec![b'-'; 4096]).unwrap();
        let mut command = Command::new("python3");
        let mut writer =
            command.arg("-c").arg(WRITER).arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let (mut to_writer, mut from_writer) = (writer.stdin.take()?, BufReader::new(writer.stdout.take()?));
        let mut write = |byte: &str| {
            to_writer.write_all(byte.as_bytes()).unwrap();
            from_writer.read_line(&mut String::new()).unwrap();
        };
        write("1\n");
        let_the_clock_tick(&folder.path().join("tick"));
        let passed = pass(&home, &to, &Seen::default(), rules, false);
        write("2\n");
        drop(to_writer);
        writer.wait().unwrap();
        let seen = as_seen(passed, &folder.path().join("seen"));
        pass(&home, &to, &seen, rules, true);
        Some(fs::read(to.join("file")).unwrap()[0] == b'2')
    };
    let rules = Rules { tick: 0, ..Rules::default() };
    let Some(first) = is_exact(rules, 0) else { return println!("skipped: no python3") };
    assert!(first && (1..5).all(|number| is_exact(rules, number) == Some(true)));
    // Unless the kernel happens to write the page just then.
    let careless = Rules { cleans: false, ..rules };
    assert!((5..15).any(|number| is_exact(careless, number) == Some(false)), "the rule is for nothing");
}

/// Its copy is written to where it differs, and nowhere else; and a hole stays one.
#[test]
fn of_a_large_file_the_blocks_that_differ_are_copied() {
    let folder = tempfile::tempdir().unwrap();
    let (home, to) = (folder.path().join("home"), folder.path().join("copy"));
    fs::create_dir(&home).unwrap();
    let file = File::create(home.join("large")).unwrap();
    file.set_len(100 << 20).unwrap();
    file.write_at(b"begin", 0).unwrap();
    file.write_at(&[7; 100_000], 40 << 20).unwrap();
    let blocks = || fs::metadata(to.join("large")).unwrap().blocks();
    let first = pass(&home, &to, &Seen::default(), Rules::default(), false);
    let seen = as_seen(first, &folder.path().join("seen"));
    assert_same(&home, &to, "first");
    let inode = fs::metadata(to.join("large")).unwrap().ino();
    assert!(blocks() < 4096, "its holes are copied: {}", blocks());
    for (at, bytes) in [(41 << 20, "middle"), (100 << 20, "appended"), ((100 << 20) - 3, "over the old end")] {
        file.write_at(bytes.as_bytes(), at).unwrap();
        pass(&home, &to, &seen, Rules::default(), true);
        assert_same(&home, &to, bytes);
        assert_eq!(fs::metadata(to.join("large")).unwrap().ino(), inode, "it is the same file");
    }
    assert!(blocks() < 8192, "{}", blocks());
    file.set_len(90 << 20).unwrap();
    pass(&home, &to, &seen, Rules::default(), true);
    assert_same(&home, &to, "shorter");
}

/// What was a link to a folder is a folder by now: nothing is written to where the link led.
#[test]
fn what_is_copied_at_once_goes_into_no_folder_that_a_link_leads_to() {
    let folder = tempfile::tempdir().unwrap();
    let (home, to) = (folder.path().join("home"), folder.path().join("copy"));
    fs::create_dir_all(home.join("real")).unwrap();
    fs::write(home.join("real/file"), "of the real folder").unwrap();
    symlink("real", home.join("link")).unwrap();
    let rules = Rules { tick: 0, ..Rules::default() };
    let_the_clock_tick(&folder.path().join("tick"));
    let seen = as_seen(pass(&home, &to, &Seen::default(), rules, false), &folder.path().join("seen"));
    fs::remove_file(home.join("link")).unwrap();
    fs::create_dir(home.join("link")).unwrap();
    fs::write(home.join("link/file"), "another one").unwrap();
    pass(&home, &to, &seen, rules, true);
    assert_same(&home, &to, "the last pass");
}

/// One name of a file looks as it did, and its other one is in a folder that was moved: no file was changed by that.
#[test]
fn a_file_with_several_names_is_one_file_in_the_copy_also_if_one_was_moved() {
    let folder = tempfile::tempdir().unwrap();
    let (home, to) = (folder.path().join("home"), folder.path().join("copy"));
    fs::create_dir_all(home.join("before")).unwrap();
    fs::write(home.join("before/one"), "text").unwrap();
    fs::hard_link(home.join("before/one"), home.join("two")).unwrap();
    let rules = Rules { tick: 0, ..Rules::default() };
    let_the_clock_tick(&folder.path().join("tick"));
    let seen = as_seen(pass(&home, &to, &Seen::default(), rules, false), &folder.path().join("seen"));
    fs::rename(home.join("before"), home.join("after")).unwrap();
    pass(&home, &to, &seen, rules, true);
    assert_same(&home, &to, "the last pass");
    let inode = |path: &str| fs::metadata(to.join(path)).unwrap().ino();
    assert_eq!(inode("after/one"), inode("two"));
}
