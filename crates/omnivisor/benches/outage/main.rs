//! How long a node is down for an upgrade, over sizes and shapes of its home, and what the copy costs it while it still runs.
//! `just bench-outage`, which writes docs/outage.md and its plot; with `OMNIVISOR_BENCH=short` a quick look that writes nothing.
//!
//! Everything is measured from outside, on the released binary, with a fake node that changes its home at its end. Nymvisor's
//! way (stop, then tar and gzip) stands beside it, in the same run, on the same home and file system.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark prints, and a panic is its failure"
)]

mod homes;
#[path = "../main_job/nymvisor_way.rs"]
mod nymvisor_way;
mod plot;
mod scene;
mod slow_down;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnivisor_testkit::Sandbox;
use omnivisor_testkit::mounts::Ground;

use homes::{GIB, MIB, Shape};
use nymvisor_way::NymvisorWay;
use scene::{How, Outage, Scene};
use table::{Cell, Table};

/// Sparse; it has to hold the largest home, and its archive.
const XFS: u64 = 16 << 30;
/// So many of the files are changed: one in a hundred of ten thousand, and as many of more.
const CHANGED: u64 = 100;

fn exe() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_omnivisor"))
}

fn template() -> PathBuf {
    let path = exe().with_file_name("examples").join("fake_node");
    assert!(path.exists(), "build the examples first: cargo build --release -p omnivisor --examples");
    path
}

fn many(count: u64, bytes: u64) -> Shape {
    Shape::Files { count, size: bytes / count / 4096 * 4096, one_in: (count / CHANGED).max(1) }
}

/// Of the larger one as many bytes are changed as of the one of a quarter of its size.
fn fewer_changed(shape: Shape) -> Shape {
    match shape {
        Shape::Files { count, size, one_in } => Shape::Files { count, size, one_in: one_in * 4 },
        other => other,
    }
}

/// Those that take long last.
fn shapes(short: bool) -> [Vec<Shape>; 2] {
    if short {
        let size = 256 * MIB;
        let one = Shape::OneFile { size, places: None };
        return [vec![Shape::Empty, many(2_500, size), one, Shape::LevelDb { size }], vec![many(25_000, 100 * MIB)]];
    }
    [
        vec![
            Shape::Empty,
            many(10_000, GIB),
            Shape::OneFile { size: GIB, places: None },
            Shape::OneFile { size: GIB, places: Some(16) },
            Shape::LevelDb { size: GIB },
            many(10_000, 4 * GIB),
            fewer_changed(many(10_000, 4 * GIB)),
        ],
        vec![many(250_000, 1000 * MIB), Shape::LevelDb { size: 4 * GIB }],
    ]
}

fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let short = std::env::var("OMNIVISOR_BENCH").is_ok_and(|value| value == "short");
    let only = std::env::args().skip(1).find(|it| !it.starts_with('-')).unwrap_or_default();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("outage");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let is_all = !short && only.is_empty() && std::env::var_os("OMNIVISOR_SHAPE").is_none();
    let mut table = Table::begin(&folder, is_all.then_some(docs));
    if "outage".contains(&only) {
        let ground = Ground::within(&folder, XFS);
        if let Err(why) = &ground {
            table.note(&format!("Nothing on XFS: {why}."));
        }
        for shapes in shapes(short) {
            on("ext4", &folder, &mut table, &shapes);
            if let Ok(ground) = &ground {
                on("XFS", &ground.image(""), &mut table, &shapes);
            }
        }
    }
    if "slow-down".contains(&only) {
        slow_down(&folder, &mut table, short);
    }
    if "memory".contains(&only) {
        memory(&folder, &mut table, short);
    }
    table.end();
    fs::remove_dir_all(&folder).unwrap();
}

/// A new folder; it is removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(below: &Path, name: &str) -> Self {
        let path = below.join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn on(file_system: &'static str, folder: &Path, table: &mut Table, shapes: &[Shape]) {
    let wanted = std::env::var("OMNIVISOR_SHAPE").unwrap_or_default();
    // Theirs is the same whatever is changed: measured once a home.
    let mut theirs: Option<((u64, u64), Duration)> = None;
    let name = |shape: &Shape| format!("{file_system}, {}, {}", shape.name(), table::size(shape.bytes()));
    for shape in shapes.iter().copied().filter(|shape| name(shape).contains(&wanted)) {
        let place = Place::new(folder, "place");
        let mut scene = Scene::new(&place.0, shape);
        // What was written within two seconds is copied once more.
        std::thread::sleep(Duration::from_secs(3));
        let large = shape.bytes() > GIB;
        let warm =
            best((0..if large || shape.files() > 100_000 { 1 } else { 3 }).map(|_| scene.upgrade(How::Warm)).collect());
        // To copy so much ahead takes minutes each time, and tells nothing new.
        let mut once = |how| (!large).then(|| scene.upgrade(how));
        let (cold, slow) = (once(How::Cold), once(How::SlowFlushes));
        let home = (shape.files(), shape.bytes());
        let took = match theirs {
            Some((of, took)) if of == home => took,
            _ => their_way(folder, &scene),
        };
        theirs = Some((home, took));
        table.add(Cell { file_system, shape, warm, cold, slow, theirs: took });
        if file_system == "XFS" && matches!(shape, Shape::OneFile { places: None, .. }) {
            scene.keeps = true;
            scene.upgrade(How::Warm);
            scene.keeps = false;
            table.later_ones(shape, &scene.upgrade(How::Warm), &scene.upgrade(How::Warm));
        }
    }
}

fn their_way(folder: &Path, scene: &Scene) -> Duration {
    let place = Place::new(folder, "theirs");
    NymvisorWay::of(&template(), Sandbox::on(&place.0), Some(&scene.sandbox.daemon_home())).upgrade()
}

/// The one in the middle.
fn best(mut all: Vec<Outage>) -> Outage {
    all.sort_by_key(|it| it.took);
    all.swap_remove(all.len() / 2)
}

fn memory(folder: &Path, table: &mut Table, short: bool) {
    let count = if short { 100_000 } else { 1_000_000 };
    let shape = Shape::Files { count, size: 8, one_in: count / 100 };
    let place = Place::new(folder, "place");
    let outage = Scene::new(&place.0, shape).upgrade(How::Warm);
    table.memory(count, &outage);
}

fn slow_down(folder: &Path, table: &mut Table, short: bool) {
    let pairs = if short { 3 } else { 9 };
    let place = Place::new(folder, "place");
    let size = if short { 128 * MIB } else { 256 * MIB };
    for shape in [Shape::OneFile { size, places: None }, many(size / MIB * 10, size)] {
        for is_paced in [true, false] {
            let found = slow_down::measure(&place.0, shape, is_paced, pairs);
            table.slow_down(shape, is_paced, &found);
        }
    }
}
