//! What is left to the last pass, where files are copied by reference: what is large and written to, so that it stays in one piece.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fiemap::{Fiemap, FiemapExtentFlags};
use omnivisor::effects::data::Data;
use omnivisor::effects::snapshot::Snapshot;
use omnivisor_testkit::mounts::Ground;

use super::{NEVER, assert_same};
use crate::random::Random;

const LARGE: usize = 20 << 20;
const PAGE: u64 = 4096;

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
    assert!((20..180).contains(&left) && later <= Duration::from_millis(10), "{left} take {later:?}");
    scene.snapshot().take(&NEVER).unwrap();
    let is_whole = |name: &String| fs::metadata(scene.to.join(name)).unwrap().len() == LARGE as u64 + 3;
    assert!(files.iter().all(is_whole));
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
