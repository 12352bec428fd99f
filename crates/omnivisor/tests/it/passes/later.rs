//! What is left to the last pass, where files are copied by reference: what is large and written to, so that it stays in one piece.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fiemap::{Fiemap, FiemapExtentFlags};
use omnivisor::effects::data::Data;
use omnivisor::effects::snapshot::Snapshot;
use omnivisor::effects::snapshot::later::Later;
use omnivisor::effects::snapshot::pass::Rules;
use omnivisor::effects::snapshot::seen::Seen;
use omnivisor_testkit::mounts::Ground;

use super::{NEVER, as_seen, assert_same, let_the_clock_tick, pass, pass_but};
use crate::random::Random;

const LARGE: usize = 20 << 20;
const PAGE: u64 = 4096;
/// All of it takes no longer.
const TEN: Duration = Duration::from_millis(10);

struct Scene {
    home: PathBuf,
    to: PathBuf,
    data: Data,
}

impl Scene {
    fn new(folder: &Path) -> Self {
        let (home, to) = (folder.join("home"), folder.join("backups/1.0/snapshot"));
        fs::create_dir_all(&home).unwrap();
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        Self { data: Data::in_one(&home, &[]), home, to }
    }

    fn on_xfs() -> Option<(Self, Ground)> {
        match Ground::new() {
            Ok(ground) => Some((Self::new(&ground.image("scene")), ground)),
            Err(why) => {
                println!("skipped: {why}");
                None
            }
        }
    }

    fn file(&self, name: &str) -> File {
        let path = self.home.join(name);
        fs::write(&path, vec![7; LARGE]).unwrap();
        let file = File::options().read(true).write(true).open(path).unwrap();
        file.sync_all().unwrap();
        file
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Snapshot { data: &self.data, to: &self.to }
    }

    fn prepare(&self) -> Duration {
        self.snapshot().prepare(&NEVER, &mut |_| Ok(())).unwrap().unwrap().later
    }

    fn is_copied(&self, name: &str) -> bool {
        self.to.with_file_name("snapshot.partial").join(name).exists()
    }
}

fn change(file: &File, pages: u64, random: &mut Random) {
    for _ in 0..pages {
        file.write_all_at(&[9; PAGE as usize], random.below(LARGE as u64 / PAGE) * PAGE).unwrap();
    }
    file.sync_all().unwrap();
}

/// In how many pieces it is, and whether any of them is shared.
fn pieces(file: &File) -> (usize, bool) {
    let all: Vec<_> = Fiemap::new(file).map(Result::unwrap).collect();
    (all.len(), all.iter().any(|it| it.fe_flags.contains(FiemapExtentFlags::SHARED)))
}

fn was_written_hours_ago(file: &File) {
    file.set_modified(SystemTime::now() - Duration::from_hours(2)).unwrap();
}

#[test]
fn what_is_written_to_stays_in_one_piece_until_its_node_is_stopped() {
    let Some((scene, _ground)) = Scene::on_xfs() else { return };
    let (written, still) = (scene.file("written"), scene.file("still"));
    fs::write(scene.home.join("small"), "small").unwrap();
    was_written_hours_ago(&still);
    let mut random = Random(7);
    for _ in 0..3 {
        assert!(scene.prepare() > Duration::ZERO);
        assert_eq!(["written", "still", "small"].map(|name| scene.is_copied(name)), [false, true, true]);
        change(&written, 100, &mut random);
        assert_eq!(pieces(&written), (1, false));
    }
    // Somebody writes to the other one, too: from then on it is left as it is.
    change(&still, 10, &mut random);
    scene.prepare();
    assert_eq!(["written", "still", "small"].map(|name| scene.is_copied(name)), [false, false, true]);
    change(&still, 100, &mut random);
    let (count, is_shared) = pieces(&still);
    // Beside a page that it has written elsewhere XFS keeps room for a while, where others go, too; else it were two hundred.
    assert!(count < 80 && !is_shared, "{count} {is_shared}");
    scene.snapshot().take(&NEVER).unwrap();
    assert_same(&scene.home, &scene.to, "the snapshot");
    assert_eq!([pieces(&written).1, pieces(&still).1], [true, true], "the snapshot is by reference");
}

#[test]
fn what_is_in_many_pieces_is_copied_ahead_and_so_is_what_takes_too_long_together() {
    let Some((scene, _ground)) = Scene::on_xfs() else { return };
    let many = File::create(scene.home.join("many pieces")).unwrap();
    (0..LARGE as u64 / PAGE).step_by(2).for_each(|page| many.write_all_at(&[7; PAGE as usize], page * PAGE).unwrap());
    many.sync_all().unwrap();
    assert_eq!(scene.prepare(), Duration::ZERO);
    assert!(scene.is_copied("many pieces"));

    let files: Vec<_> = (0..200).map(|number| format!("{number}")).collect();
    for name in &files {
        let file = File::create(scene.home.join(name)).unwrap();
        file.write_all_at(b"end", LARGE as u64).unwrap();
    }
    let later = scene.prepare();
    let left = files.iter().filter(|name| !scene.is_copied(name)).count();
    assert!((20..180).contains(&left) && later <= TEN, "{left} take {later:?}");
    scene.snapshot().take(&NEVER).unwrap();
    for name in &files {
        let mut end = [0; 4];
        let read = File::open(scene.to.join(name)).unwrap().read_at(&mut end, LARGE as u64).unwrap();
        assert_eq!(&end[..read], b"end", "{name}");
    }
}

/// It looks as it did in the pass before, and its folder, too.
#[test]
fn what_was_left_is_copied_in_the_last_pass_also_if_nothing_has_changed() {
    let Some((scene, _ground)) = Scene::on_xfs() else { return };
    let (to, beside) = (scene.to.as_path(), scene.to.with_file_name("beside"));
    fs::create_dir(scene.home.join("below")).unwrap();
    ["database", "below/database"].iter().for_each(|name| drop(scene.file(name)));
    fs::write(scene.home.join("small"), "small").unwrap();
    let rules = Rules { tick: 0, ..Rules::default() };
    let (mut seen, mut found) = (Seen::default(), Vec::new());
    for _ in 0..2 {
        let_the_clock_tick(&beside);
        let mut later = Later::at_most(TEN);
        seen = as_seen(pass_but(&scene.home, to, &seen, rules, false, &mut later), &beside);
        found.push(["database", "below/database", "small"].map(|name| to.join(name).exists()));
    }
    assert_eq!(found, [[false, false, true]; 2]);
    let last = pass(&scene.home, to, &seen, rules, true);
    assert_same(&scene.home, to, "the last pass");
    assert_eq!(last.copied.count, 2, "the rest looks as it did");
}

/// Each takes its time, though there is nothing in it.
#[test]
fn no_more_holes_are_left_than_there_is_time_for() {
    let Some((scene, _ground)) = Scene::on_xfs() else { return };
    for number in 0..150 {
        File::create(scene.home.join(format!("{number}"))).unwrap().set_len(LARGE as u64).unwrap();
    }
    let later = scene.prepare();
    let left = (0..150).filter(|number| !scene.is_copied(&number.to_string())).count();
    assert!(left == 100 && later <= TEN, "{left} take {later:?}");
}

/// As with a quota that has room for each, and none for both: that is found while the node runs, and not when it was stopped for it. Here
/// the folder of one is gone when both are tried.
#[test]
fn what_cannot_be_copied_together_is_copied_ahead() {
    let Some((scene, _ground)) = Scene::on_xfs() else { return };
    ["one", "other"].iter().for_each(|name| fs::create_dir(scene.home.join(name)).unwrap());
    let files = ["one/database", "other/database"];
    files.iter().for_each(|name| drop(scene.file(name)));
    let partial = scene.to.with_file_name("snapshot.partial");
    let mut begun: Vec<PathBuf> = Vec::new();
    let mut told = |_| {
        let there = fs::read_dir(&partial).unwrap().map(|it| it.unwrap().path());
        let new: Vec<_> = there.filter(|path| !begun.contains(path)).collect();
        match begun.as_slice() {
            [first] if first.exists() => fs::remove_dir(first).unwrap(),
            _ => {}
        }
        begun.extend(new);
        Ok(())
    };
    let left = scene.snapshot().prepare(&NEVER, &mut told).unwrap().unwrap();
    assert_eq!((begun.len(), left.later), (2, Duration::ZERO));
    assert_eq!(files.map(|name| scene.is_copied(name)), [true, true]);
    scene.snapshot().take(&NEVER).unwrap();
    assert_same(&scene.home, &scene.to, "the snapshot");
}

/// To copy its bytes would take long, so it is not left to the last pass.
#[test]
fn where_nothing_is_copied_by_reference_all_is_copied_ahead() {
    let ground = match Ground::new() {
        Ok(ground) => ground,
        Err(why) => return println!("skipped: {why}"),
    };
    let image = ground.make_ext4("ext4").unwrap();
    let disk = omnivisor_testkit::mounts::Mounted::new(&image, &ground.disk()).unwrap();
    let scene = Scene::new(disk.path());
    scene.file("written");
    assert_eq!(scene.prepare(), Duration::ZERO);
    assert!(scene.is_copied("written"));
}
