//! What was found, beside its limits: printed as it is found, and written as docs/outage.md.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnivisor::effects::snapshot::Left;

use crate::homes::{GIB, MIB, Shape};
use crate::scene::Outage;
use crate::slow_down::SlowDown;

pub struct Cell {
    pub file_system: &'static str,
    pub shape: Shape,
    pub warm: Outage,
    pub cold: Option<Outage>,
    pub slow: Option<Outage>,
    pub theirs: Duration,
}

pub struct Table {
    /// Where it is written to after each row, so that a run which is interrupted has told what it found.
    docs: Option<PathBuf>,
    facts: String,
    cells: Vec<Cell>,
    limits: Vec<String>,
    notes: Vec<String>,
}

impl Table {
    pub fn begin(folder: &Path, docs: Option<PathBuf>) -> Self {
        let facts = facts(folder);
        println!("{facts}\n\n{HEAD}");
        Self { docs, facts, cells: Vec::new(), limits: Vec::new(), notes: Vec::new() }
    }

    pub fn add(&mut self, cell: Cell) {
        println!("{}   (ahead: {})", line(&cell), seconds(cell.warm.ahead));
        cell.slow.iter().flat_map(|slow| &slow.flushes).for_each(|flush| println!("    {flush}"));
        self.cells.push(cell);
        self.cells.sort_by_key(|cell| cell.file_system != "ext4");
        self.write(false);
    }

    /// Nothing more comes.
    pub fn end(&self) {
        self.judged().iter().for_each(|limit| println!("{limit}"));
        self.write(true);
        if self.docs.is_none() {
            println!("nothing is written");
        }
    }

    pub fn note(&mut self, note: &str) {
        println!("{note}");
        self.notes.push(note.to_owned());
    }

    fn limit(&mut self, line: String) {
        println!("{line}");
        self.limits.push(line);
        self.write(false);
    }

    pub fn memory(&mut self, count: u64, outage: &Outage) {
        let found = format!("{:.1} MB", outage.memory as f64 / 1e6);
        let what = format!("highest resident memory of the supervisor, an upgrade with {count} files");
        self.limit(judged(&what, "64 MB", &found, outage.memory <= 64_000_000));
    }

    pub fn slow_down(&mut self, shape: Shape, is_paced: bool, it: &SlowDown) {
        let home = shape.name();
        let found = format!(
            "{:.1} % ({:.0} to {:.0} flushed writes in a second), {:.0} MiB/s copied",
            it.slower * 100.0,
            it.alone,
            it.beside,
            it.copied
        );
        if is_paced {
            let what = format!("a node that flushes all the time is slowed by the copy of its home, {home}");
            self.limit(judged(&what, "10 %, at 40 MiB/s", &found, it.slower <= 0.10 && it.copied >= 40.0));
        } else {
            self.note(&format!("Without its pace the copy of {home} would slow that node by {found}."));
        }
    }

    /// An upgrade while the snapshot of the one before is still a folder, and one after that is gone.
    pub fn later_ones(&mut self, shape: Shape, within: &Outage, after: &Outage) {
        self.note(&format!(
            "The files of these homes are in few pieces, and no older snapshot shares them. As long as a snapshot on XFS is no archive yet \
            (`backup.archive-after`, a day), it does: whatever the node changes is written elsewhere, and its file stays in so many pieces. \
            {} of {}: an upgrade within that time {}, and the next one after it {}.",
            shape.name(),
            size(shape.bytes()),
            seconds(within.took),
            seconds(after.took)
        ));
    }

    /// What the cells say of their limits.
    fn judged(&self) -> Vec<String> {
        let (cells, mut all) = (&self.cells, Vec::new());
        for file_system in ["ext4", "XFS"] {
            let of = |wanted: &dyn Fn(&Shape) -> bool| {
                cells.iter().find(|cell| cell.file_system == file_system && wanted(&cell.shape))
            };
            let few = |bytes: std::ops::Range<u64>| {
                of(&move |it: &Shape| it.files() == 10_000 && bytes.contains(&it.bytes()))
            };
            let (one, four) = (few(GIB / 2..GIB + 1), few(3 * GIB..4 * GIB + 1));
            let four_less =
                of(&|it| matches!(it, Shape::Files { count: 10_000, size, one_in: 400 } if size * 10_000 > 3 * GIB));
            let mut check = |what: &str, limit: f64, unit: &str, found: Option<f64>| {
                if let Some(found) = found {
                    let what = format!("{file_system}: {what}");
                    all.push(judged(&what, &format!("{limit} {unit}"), &format!("{found:.1} {unit}"), found <= limit));
                }
            };
            let ms = |cell: &Cell| cell.warm.took.as_secs_f64() * 1e3;
            let [small, large] = if file_system == "ext4" { [60.0, 400.0] } else { [30.0, 30.0] };
            check("1 GiB in 10,000 files, one in a hundred changed", small, "ms", one.map(ms));
            let place = of(&|it| matches!(it, Shape::OneFile { places: None, .. }));
            check(
                "1 GiB file, a hundredth of its pages changed in place, wherever they are",
                large,
                "ms",
                place.map(ms),
            );
            let place = of(&|it| matches!(it, Shape::OneFile { places: Some(_), .. }));
            check("1 GiB file, as much changed in place in sixteen places", large, "ms", place.map(ms));
            let ratio = |four: Option<&Cell>| one.zip(four).map(|(one, four)| ms(four) / ms(one));
            check(
                "4 GiB in as many files as 1 GiB, one in a hundred changed: four times the bytes",
                1.5,
                "times",
                ratio(four),
            );
            check("4 GiB in as many files as 1 GiB, as many bytes changed", 1.5, "times", ratio(four_less));
            let many = of(&|it| it.files() == 250_000);
            let each = one.zip(many).map(|(one, many)| (ms(many) - ms(one)) * 1e3 / 240_000.0);
            check("each file more of 250,000 than of 10,000 (a hundred of either changed)", 2.0, "µs", each);
            let here = cells.iter().filter(|it| it.file_system == file_system);
            let most = here.filter_map(|it| it.slow.as_ref()).map(|slow| slow.flushes.len()).max();
            check("flushes in an outage", 10.0, "", most.map(|it| it as f64));
        }
        all
    }

    fn write(&self, is_over: bool) {
        let Some(docs) = &self.docs else { return };
        let mut text = INTRODUCTION.to_owned();
        let _ = write!(text, "{}\n\n![The outage over the size of the home](outage.svg)\n\n{HEAD}\n", self.facts);
        for cell in &self.cells {
            text += &(line(cell) + "\n");
        }
        text += "\n## Limits\n\n| what | limit | found | met |\n|---|---|---|---|\n";
        for limit in self.judged().iter().chain(&self.limits) {
            text += &(limit.clone() + "\n");
        }
        if !is_over {
            text += "\nThe run has not come to its end: what is not here was not measured in it.\n";
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        fs::write(docs.join("outage.md"), text).unwrap();
        fs::write(docs.join("outage.svg"), crate::plot::svg(&self.cells)).unwrap();
    }
}

fn judged(what: &str, limit: &str, found: &str, is_met: bool) -> String {
    format!("| {what} | {limit} | {found} | {} |", if is_met { "yes" } else { "**no**" })
}

const HEAD: &str = "| file system | home | size | files | changed at the stop | flushes | outage, warm | page cache dropped | \
    5 ms more for each flush | by `omnivisor plan` | stop, then tar and gzip |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

const INTRODUCTION: &str = "<!-- Written by `just bench-outage`. -->\n\n# How long an upgrade takes a node down\n\n\
    From the end of the old node to the start of the new one, with a snapshot of the home in between. Before the stop the home is \
    copied in passes while the node runs; in the outage is what has changed since the last one: the fake node changes it when it \
    is asked to stop, and flushes it, as real ones do. `warm` is the middle one of three (of one, above 1 GiB or 100,000 files). *Page cache \
    dropped*: between that change and the node's end. *5 ms more*: the supervisor ran under `strace --seccomp-bpf` with \
    `inject=fsync,fdatasync,syncfs,msync,sync:delay_enter=5000`, which also counted the flushes; being traced slows each of the many looks at \
    files, and is most of what that column has beyond 5 ms for each flush. *By `omnivisor plan`*: its formula for so much that is left to the last pass (of a file that has changed the size counts, as a pass knows no more). *Stop, then tar and gzip* is what \
    Nymvisor does, step by step, on the same home in the same run (once for homes of the same files).\n\n";

fn line(cell: &Cell) -> String {
    // A pass knows how large a file is that has changed, not how much of it has.
    let read = if matches!(cell.shape, Shape::OneFile { .. }) { cell.shape.bytes() } else { cell.warm.changed.bytes };
    let left = Left { files: cell.shape.files(), changed: cell.warm.changed.files, bytes: read, later: Duration::ZERO };
    format!(
        "| {} | {} | {} | {} | {} in {} | {} | {} | {} | {} | {} | {} |",
        cell.file_system,
        cell.shape.name(),
        size(cell.shape.bytes()),
        cell.shape.files(),
        size(cell.warm.changed.bytes),
        cell.warm.changed.files,
        cell.slow.as_ref().map_or("-".to_owned(), |slow| slow.flushes.len().to_string()),
        seconds(cell.warm.took),
        cell.cold.as_ref().map_or("-".to_owned(), |cold| seconds(cold.took)),
        cell.slow.as_ref().map_or("-".to_owned(), |slow| seconds(slow.took)),
        seconds(left.outage(cell.file_system == "XFS")),
        seconds(cell.theirs),
    )
}

pub fn size(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        bytes if bytes >= GIB => format!("{:.1} GiB", bytes as f64 / GIB as f64),
        bytes => format!("{:.1} MiB", bytes as f64 / MIB as f64),
    }
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.1} ms", time.as_secs_f64() * 1e3)
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

/// Of the machine, without its name.
fn facts(folder: &Path) -> String {
    let cores = std::thread::available_parallelism().unwrap();
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let memory = read("/proc/meminfo");
    let memory = memory.split_whitespace().nth(1).and_then(|it| it.parse::<u64>().ok()).unwrap_or_default() >> 20;
    let kind = rustix::fs::statfs(folder).unwrap().f_type;
    let kind = if kind == 0xef53 { "ext4".to_owned() } else { format!("{kind:#x}") };
    format!(
        "Measured on a virtual machine or not: {cores} cores, {memory} GiB of memory, Linux {}, {kind} on the machine's disk, \
         XFS with reflink in a file on that (loop device). Load when it began: {}.",
        read("/proc/sys/kernel/osrelease").split('-').next().unwrap_or_default(),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    )
    .replace("on a virtual machine or not", "here")
}
