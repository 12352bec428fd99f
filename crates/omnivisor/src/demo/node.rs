//! What a sample node does: says who it is, or runs. A node that runs counts its beats, keeps the count in its home, and
//! ends when it is asked to, or when its demo is gone.

use std::cmp::Ordering;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use omnivisor_core::release::Version;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::FOLDER;
use super::events::{Data, Notes, What, now};
use super::sample::Sample;
use super::stage;

/// From one beat to the next.
pub const BEAT: Duration = Duration::from_millis(20);
/// From one look after the demo, and one writing down of the beats, to the next.
const LOOK: Duration = Duration::from_millis(100);

/// Does what a sample node is told by its arguments; gives what it has to print.
pub fn main(sample: &Sample, arguments: &[OsString]) -> anyhow::Result<Option<String>> {
    let words: Vec<&str> = arguments.iter().skip(1).filter_map(|it| it.to_str()).collect();
    let folder = env::var_os(FOLDER).map(PathBuf::from).ok_or_else(|| anyhow!("a sample node runs in a demo only"))?;
    if stage::is_gone(&folder) {
        // Nobody looks any more: with 0, which a supervisor does not answer with another start.
        return Ok(None);
    }
    let notes = Notes::open(&folder, &sample.version).context("a sample node cannot note anything")?;
    match words.as_slice() {
        ["--no-banner", "build-info", "--output=json"] | ["build-info", "--output=json"] => {
            notes.event(What::Asked)?;
            Ok(Some(sample.build_info().to_json_line()))
        }
        ["run", "--home", home] => run(sample, notes, &folder, Path::new(home)).map(|()| None),
        _ => Err(anyhow!("a sample node knows `build-info --output=json` and `run --home <folder>`")),
    }
}

fn run(sample: &Sample, notes: Notes, folder: &Path, home: &Path) -> anyhow::Result<()> {
    notes.event(What::Started)?;
    let file = home.join("data/count.json");
    let found = read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mine = Version::new(sample.version.as_str());
    if let Some(data) = &found
        && Version::new(data.version.as_str()).precedence(&mine) == Some(Ordering::Greater)
    {
        notes.event(What::Refused)?;
        bail!("the data were written by {}, which {} does not understand", data.version, sample.version);
    }
    let count = found.as_ref().map_or(0, |data| data.count);
    notes.event(What::Found(found))?;
    let data = Data { version: sample.version.clone(), count };
    write(&file, &data).with_context(|| format!("cannot write {}", file.display()))?;
    notes.event(What::Rewrote)?;
    if sample.sick {
        notes.event(What::Died)?;
        bail!("this release is sick");
    }
    live(data, notes, folder, &file)
}

/// Beats until it is asked to end. What may take long, which is writing, is done by a thread of its own.
fn live(mut data: Data, notes: Notes, folder: &Path, file: &Path) -> anyhow::Result<()> {
    let gone = Arc::new(Notify::new());
    let (beats, noted) = mpsc::channel();
    let clerk = Clerk { beats: noted, gone: gone.clone(), folder: folder.to_owned(), file: file.to_owned(), notes };
    let clerk = std::thread::Builder::new().spawn(move || clerk.work()).context("cannot begin a thread")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot begin to work")?;
    runtime
        .block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut beat = tokio::time::interval(BEAT);
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    _ = interrupt.recv() => return Ok(()),
                    _ = terminate.recv() => return Ok(()),
                    () = gone.notified() => return Ok(()),
                    _ = beat.tick() => {
                        data.count += 1;
                        let _ = beats.send((now(), data.clone()));
                    }
                }
            }
        })
        .map_err(|error: io::Error| anyhow!(error).context("cannot listen to signals"))?;
    drop(beats);
    let notes = clerk.join().map_err(|_| anyhow!("the thread that notes has panicked"))?;
    // A demo that is gone may have taken the folder with it.
    let left = write(file, &data).and_then(|()| notes.event(What::Stopped(data)));
    if stage::is_gone(folder) { Ok(()) } else { left.context("cannot write the last count") }
}

/// Writes down the beats, keeps the count in the home, and looks after the demo.
struct Clerk {
    beats: mpsc::Receiver<(Duration, Data)>,
    gone: Arc<Notify>,
    folder: PathBuf,
    file: PathBuf,
    notes: Notes,
}

impl Clerk {
    fn work(self) -> Notes {
        let mut next = now() + LOOK;
        let (mut times, mut last) = (Vec::new(), None);
        loop {
            let over = match self.beats.recv_timeout(next.saturating_sub(now())) {
                Ok((at, data)) => {
                    times.push(at);
                    last = Some(data);
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            if !over && now() < next {
                continue;
            }
            // What cannot be written is missed by the demo, which says so.
            let _ = self.notes.beats(&times);
            let _ = last.take().map(|data| write(&self.file, &data));
            times.clear();
            if over {
                return self.notes;
            }
            if stage::is_gone(&self.folder) {
                self.gone.notify_one();
            }
            next = now() + LOOK;
        }
    }
}

fn read(file: &Path) -> anyhow::Result<Option<Data>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whole, or not at all; whether it outlives the machine does not matter here.
fn write(file: &Path, data: &Data) -> io::Result<()> {
    let unfinished = file.with_extension("new");
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let writer = File::create(&unfinished)?;
    serde_json::to_writer(&writer, data)?;
    fs::rename(&unfinished, file)
}
