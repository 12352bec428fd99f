//! What a real file system holds after a power cut. The program is held before every call of a story that changes a disk;
//! then, and in the midst of the call, the disk that it works on (an ext4 in a file on an XFS) is copied by reference,
//! without what the kernel has not written yet. Each copy is mounted at the same place, and the program is started on it.
//!
//! Of copies that hold the same files, the first one stands for all. Needs root, loop devices, and `mkfs.xfs` of xfsprogs;
//! where that cannot be had, it says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use aws_lc_rs::digest::{Context, SHA256};
use omnivisor_testkit::mounts::{Ground, Mounted, reflink};
use omnivisor_testkit::{Sandbox, wait_until};

use super::harness::{Scene, Story, kill_nodes, leftovers, said, wait_for_the_end};
use super::{nym, vega};
use crate::world::SOON;

/// How many disks at a time in the long form, each with a telling of its own.
const DISKS: u64 = 2;

/// How many images of one telling are recovered in the short form.
const SHORT: usize = 3;

/// Of a call that is made more often than this, as of each chunk of a download, one in so many is taken from then on.
const OFTEN: usize = 12;

/// So many lost ones say enough of one disk.
const ENOUGH: usize = 5;

#[test]
fn nym_after_a_power_cut_in_an_upgrade_the_new_node_runs_once() {
    cut(&nym::Upgrade);
}

#[test]
fn nym_after_a_power_cut_in_an_undo_the_old_node_runs_once() {
    cut(&nym::UndoOf3);
}

// V3, V8
#[test]
fn vega_after_a_power_cut_in_an_upgrade_the_new_pair_runs_once() {
    cut(&vega::Upgrade);
}

/// A disk at some moment.
struct Image {
    when: String,
    disk: PathBuf,
    /// The log of the nodes, which is not on that disk.
    log: Vec<u8>,
}

/// What became of the images of one disk.
#[derive(Default)]
struct Count {
    taken: usize,
    mounted: usize,
    different: usize,
    lost: Vec<String>,
}

fn cut(story: &dyn Story) {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let begin = Instant::now();
    let long = std::env::var_os("OMNIVISOR_LONG").is_some();
    let counts: Result<Vec<Count>, String> = std::thread::scope(|scope| {
        let disks = if long { 0..DISKS } else { 1..2 };
        let disks: Vec<_> = disks.map(|seed| scope.spawn(move || one_disk(story, seed, long))).collect();
        disks.into_iter().map(|disk| disk.join().unwrap()).collect()
    });
    let counts = match counts {
        Ok(counts) => counts,
        Err(why) => return println!("skipped: no crash images of {}: {why}", story.name()),
    };
    let sum = |of: fn(&Count) -> usize| counts.iter().map(of).sum::<usize>();
    let lost: Vec<&String> = counts.iter().flat_map(|count| &count.lost).collect();
    println!(
        "power cuts in {}: {} images, {} mounted, {} different ones recovered from, {} lost, {} s",
        story.name(),
        sum(|count| count.taken),
        sum(|count| count.mounted),
        sum(|count| count.different),
        lost.len(),
        begin.elapsed().as_secs()
    );
    assert!(lost.is_empty(), "{lost:#?}");
}

fn one_disk(story: &dyn Story, seed: u64, long: bool) -> Result<Count, String> {
    let ground = Ground::new()?;
    let at = ground.disk();
    let disk = ground.make_ext4("disk")?;
    let mounted = Mounted::new(&disk, &at)?;
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
    // Dropped before the disk, also in a panic: its processes are on it.
    let scene = story.begin_in(Sandbox::on(&at));
    let mut images = film(&*scene, story.name(), Camera::new(&ground, &disk, &scene.sandbox().node_log_path(), seed));
    drop(mounted);
    let mut count = Count { taken: images.len(), ..Count::default() };
    if !long {
        let every = (images.len() / SHORT).max(1);
        let mut index = 0;
        images.retain(|_| {
            index += 1;
            index % every == every / 2
        });
    }
    let mut seen = BTreeSet::new();
    for image in images {
        let disk = Mounted::new(&image.disk, &at).unwrap_or_else(|why| panic!("{}: {why}", image.when));
        count.mounted += 1;
        if seen.insert(digest(&scene.folders())) {
            count.different += 1;
            count.lost.extend(recover(&*scene, &image).err());
        }
        drop(disk);
        fs::remove_file(&image.disk).unwrap();
        if count.lost.len() >= ENOUGH {
            break;
        }
    }
    Ok(count)
}

/// Tells the story, held before each call, and takes images of it.
fn film(scene: &dyn Scene, name: &str, camera: Camera) -> Vec<Image> {
    // What was there before has been there for long.
    rustix::fs::syncfs(File::open(scene.sandbox().path()).unwrap()).unwrap();
    let gate = scene.sandbox().runtime().join("gate");
    let listener = UnixListener::bind(&gate).unwrap();
    let images = std::thread::scope(|scope| {
        let taken = scope.spawn(move || keep_gate(&listener, camera));
        let mut command = scene.command();
        command.env("OMNIVISOR_CHECKPOINT_GATE", &gate);
        let mut supervised = scene.sandbox().spawn(command);
        let told = catch_unwind(AssertUnwindSafe(|| wait_for_the_end(scene, name)));
        // Then nobody is at the gate; if nobody ever was, there is this one.
        supervised.kill9();
        let _ = UnixStream::connect(&gate);
        let images = taken.join().unwrap();
        told.map(|()| images).unwrap_or_else(|why| std::panic::resume_unwind(why))
    });
    kill_nodes(scene);
    images
}

fn keep_gate(listener: &UnixListener, mut camera: Camera) -> Vec<Image> {
    let mut gate = BufReader::new(listener.accept().unwrap().0);
    let (mut call, mut counts) = (String::new(), BTreeMap::<String, usize>::new());
    while gate.read_line(&mut call).is_ok_and(|length| length > 0) {
        let name = call.trim();
        let count = counts.entry(name.to_owned()).or_default();
        *count += 1;
        let taken = *count <= OFTEN || *count % OFTEN == 0;
        if taken {
            camera.take(&format!("before {name}"));
            camera.disturb(name);
        }
        // It may have been killed.
        let _ = gate.get_mut().write_all(b"\n");
        if taken {
            camera.take(&format!("in {name}"));
        }
        call.clear();
    }
    camera.take("at the end");
    camera.images
}

/// Takes the images.
struct Camera {
    disk: File,
    /// Is on the disk, and means nothing.
    beside: File,
    mounted_at: File,
    folder: PathBuf,
    log: PathBuf,
    seed: u64,
    images: Vec<Image>,
}

impl Camera {
    fn new(ground: &Ground, disk: &Path, log: &Path, seed: u64) -> Self {
        Self {
            disk: File::open(disk).unwrap(),
            beside: File::create(ground.disk().join("beside")).unwrap(),
            mounted_at: File::open(ground.disk()).unwrap(),
            folder: ground.image(""),
            log: log.to_owned(),
            seed,
            images: Vec::new(),
        }
    }

    fn take(&mut self, when: &str) {
        let number = self.images.len();
        let disk = self.folder.join(format!("{number}"));
        reflink(&self.disk, &disk);
        // After the image: what it holds was logged by then.
        let log = fs::read(&self.log).unwrap_or_default();
        let whole = log.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.images.push(Image { when: format!("image {number}, {when}"), disk, log: log[..whole].to_vec() });
    }

    /// Lets the kernel write at some moments what it may write at any. Never on the first disk, where nothing becomes
    /// durable but what the program flushes.
    fn disturb(&mut self, name: &str) {
        if self.seed == 0 {
            return;
        }
        match self.random() % 8 {
            // Names become durable, and what is in the files need not.
            0..3 => {
                self.beside.write_all(b".").unwrap();
                self.beside.sync_all().unwrap();
                self.take(&format!("before {name}, and the names are written"));
            }
            3 => {
                rustix::fs::syncfs(&self.mounted_at).unwrap();
                self.take(&format!("before {name}, and all is written"));
            }
            _ => {}
        }
    }

    /// A xorshift.
    fn random(&mut self) -> u64 {
        let mut state = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.seed = state | 1;
        state >> 33
    }
}

/// Starts the program after the power cut; an error says what is wrong then.
fn recover(scene: &dyn Scene, image: &Image) -> Result<(), String> {
    let (sandbox, when) = (scene.sandbox(), &image.when);
    for entry in fs::read_dir(sandbox.runtime()).unwrap().flatten() {
        fs::remove_file(entry.path()).or_else(|_| fs::remove_dir_all(entry.path())).unwrap();
    }
    fs::write(sandbox.node_log_path(), &image.log).unwrap();
    let mut supervised = None;
    let lived = catch_unwind(AssertUnwindSafe(|| {
        scene.check_files(when);
        let history = scene.history().output().unwrap();
        assert!(history.status.success(), "{when}: {history:?}");
        let first = supervised.insert(sandbox.spawn(scene.command()));
        wait_for_the_end(scene, when);
        scene.log().assert_never_double();
        assert!(scene.log().of("refused").is_empty(), "{when}: a node was started on newer data");
        scene.check_end(when);
        first.signal(15);
        assert_eq!(first.wait(SOON).code(), Some(0), "{when}");
        assert!(scene.log().running().is_empty(), "{when}: a node runs on");
        // Not earlier: one that is alive may be in the middle of writing a file.
        let left = leftovers(scene.folders());
        // Whoever lists a snapshot is waited for a second and no more, and a flush may take longer; the next start removes what that leaves.
        let is_list = |path: &PathBuf| path.to_string_lossy().contains("-preupgrade.mtree.");
        assert!(left.iter().all(is_list), "{when}: {left:?} is left");
        if !left.is_empty() {
            let again = supervised.insert(sandbox.spawn(scene.command()));
            wait_until(&format!("{when}: {left:?} is removed"), SOON, || {
                leftovers(scene.folders()).is_empty().then_some(())
            });
            again.signal(15);
            assert_eq!(again.wait(SOON).code(), Some(0), "{when}");
        }
    }));
    let said = supervised.as_ref().map(said).unwrap_or_default();
    drop(supervised);
    kill_nodes(scene);
    lived.map_err(|why| format!("{}\n{said}", why.downcast_ref::<String>().cloned().unwrap_or_default()))
}

/// Of all names, modes and bytes in these folders.
fn digest(folders: &[PathBuf]) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    let mut left = folders.to_vec();
    while let Some(path) = left.pop() {
        let kind = fs::symlink_metadata(&path).unwrap();
        context.update(format!("{}\0{:o}\0{}\0", path.display(), kind.permissions().mode(), kind.len()).as_bytes());
        if kind.is_dir() {
            let mut entries: Vec<PathBuf> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            entries.sort();
            left.extend(entries);
        } else if kind.is_symlink() {
            context.update(fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes());
        } else if kind.is_file() {
            context.update(&fs::read(&path).unwrap());
        }
    }
    context.finish().as_ref().to_vec()
}
