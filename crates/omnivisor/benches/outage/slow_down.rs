//! What the copy of a home costs the node that runs beside it: a writer that flushes small writes all the time, alone and beside the
//! first passes of a snapshot, by turns.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use omnivisor::effects::data::Data;
use omnivisor::effects::snapshot::{Snapshot, pace};

use crate::homes::{MIB, Shape, flush};
use crate::scene::drop_page_cache;

const ALONE: Duration = Duration::from_secs(3);

/// Medians over the pairs.
#[derive(Clone, Copy, Debug)]
pub struct SlowDown {
    /// Flushed writes in a second.
    pub alone: f64,
    pub beside: f64,
    /// What each pair was slowed by: 0 to 1.
    pub slower: f64,
    /// Megabytes in a second.
    pub copied: f64,
}

/// In this folder.
pub fn measure(folder: &Path, shape: Shape, is_paced: bool, pairs: usize) -> SlowDown {
    let home = folder.join("home");
    fs::create_dir(&home).unwrap();
    shape.make(&home);
    std::thread::sleep(Duration::from_secs(3)); // what was written just now is copied twice
    let (written, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let found = std::thread::scope(|scope| {
        scope.spawn(|| write(&folder.join("written"), &written, &over));
        let found: Vec<_> = (0..pairs).map(|_| pair(&home, folder, is_paced, &written, shape)).collect();
        over.store(true, Ordering::Relaxed);
        found
    });
    fs::remove_dir_all(&home).unwrap();
    let median = |of: fn(&SlowDown) -> f64| {
        let mut all: Vec<f64> = found.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    SlowDown {
        alone: median(|it| it.alone),
        beside: median(|it| it.beside),
        slower: median(|it| it.slower),
        copied: median(|it| it.copied),
    }
}

fn write(path: &Path, written: &AtomicU64, over: &AtomicBool) {
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    while !over.load(Ordering::Relaxed) {
        file.write_all(&[b'x'; 200]).unwrap();
        file.sync_data().unwrap();
        written.fetch_add(1, Ordering::Relaxed);
    }
}

fn pair(home: &Path, folder: &Path, is_paced: bool, written: &AtomicU64, shape: Shape) -> SlowDown {
    drop_page_cache();
    let rate = |work: &mut dyn FnMut()| {
        let (begun, before) = (Instant::now(), written.load(Ordering::Relaxed));
        work();
        ((written.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64(), begun.elapsed())
    };
    let (alone, _) = rate(&mut || std::thread::sleep(ALONE));
    let to = folder.join("copy");
    let data = Data::in_one(home, &[]);
    let snapshot = Snapshot { data: &data, to: &to };
    let never = AtomicBool::new(false);
    let (beside, took) = rate(&mut || {
        if is_paced {
            pace::gently(&data, &never, |pace| snapshot.prepare(&never, pace)).unwrap();
        } else {
            snapshot.prepare(&never, &mut |_| Ok(())).unwrap();
        }
    });
    omnivisor::effects::snapshot::discard(&to);
    flush(folder);
    std::thread::sleep(Duration::from_secs(1)); // the disk is told of what was removed
    let copied = shape.bytes() as f64 / MIB as f64 / took.as_secs_f64();
    SlowDown { alone, beside, slower: 1.0 - beside / alone, copied }
}
