//! See to the backups, beside the loop: no upgrade ever waits for it. What is to be done is decided by the files that are there,
//! and begins when the journal has no node stopped or on trial; where that changes, it ends early, and goes on later.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use omnivisor_core::journal::{Journal, Phase};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::Shell;
use crate::clock;
use crate::effects::backup::keep::Spared;
use crate::sys;

/// Between two looks: something is old enough by then, or there may be room again.
const EVERY: Duration = Duration::from_secs(3600);

/// What it may take to end what it is at: it looks at every 64 KiB whether it has to.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks whether a command has to end.
const LOOK: Duration = Duration::from_millis(50);

/// The lowest priority that there is.
const LOWEST: i32 = 19;

/// What the keeper has to know of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Calm {
    /// None while no backup may be touched.
    spared: Option<Spared>,
    /// How many upgrades there were: another one is a reason to look.
    plans: u64,
    /// What became of the backup that was asked for last: one that was taken is another.
    backed_up: String,
}

impl Calm {
    /// As the journal has it.
    pub(super) fn of(journal: &Journal) -> Self {
        Self { spared: spared(journal), plans: journal.plans(), backed_up: String::new() }
    }
}

/// What is not to be touched now; none: nothing is.
pub fn spared(journal: &Journal) -> Option<Spared> {
    let under_way = match journal.phase() {
        Phase::Idle => None,
        Phase::Preparing { plan, .. } | Phase::Staged { plan, .. } => Some(plan.id()),
        _ => return None,
    };
    Some(Spared { under_way, way_back: journal.may_roll_back().map(|plan| plan.id()) })
}

/// The same for what a person removes: there may be no room for what an upgrade that is stuck, or a restore, still has to do, and nothing is
/// at work on the others then.
pub fn spared_by_hand(journal: &Journal) -> Option<Spared> {
    let under_way = match journal.phase() {
        Phase::NeedsHuman { plan, .. } => plan.id(),
        Phase::Restoring { backup, .. } => backup.clone(),
        _ => return spared(journal),
    };
    Some(Spared { under_way: Some(under_way), way_back: journal.may_roll_back().map(|plan| plan.id()) })
}

/// The keeper.
pub(super) struct Keeper {
    task: JoinHandle<()>,
    cancelled: Arc<AtomicBool>,
    is_busy: watch::Receiver<bool>,
}

impl Keeper {
    /// Ends it, and what it is at, so that nothing half made is left.
    pub(super) async fn end(mut self) {
        self.task.abort();
        self.cancelled.store(true, Ordering::Relaxed);
        let _ = tokio::time::timeout(PATIENCE, self.is_busy.wait_for(|is_busy| !is_busy)).await;
    }
}

impl Shell {
    /// Begins to keep.
    pub(super) fn keeper(&self) -> Keeper {
        let (mut calm, keep, command) = (self.calm.subscribe(), self.keep, self.method.removes.clone());
        let runtime = tokio::runtime::Handle::current();
        let paths = self.dialect.paths().clone();
        let (flag, (busy, is_busy)) = (Arc::new(AtomicBool::new(false)), watch::channel(false));
        let (cancelled, busy) = (flag.clone(), Arc::new(busy));
        let task = tokio::spawn(async move {
            while let Some(now) = next(&mut calm, |calm| calm.spared.is_some()).await {
                // One flag for all rounds: there is one at a time.
                cancelled.store(false, Ordering::Relaxed);
                let (done, mut is_done) = oneshot::channel();
                let (spared, flag) = (now.spared.clone().unwrap_or_default(), cancelled.clone());
                let (backups, home) = (paths.backups.clone(), paths.home.clone());
                let (command, runtime) = (command.clone(), runtime.clone());
                busy.send_replace(true);
                let at_work = busy.clone();
                let begun = std::thread::Builder::new().name("keeper".to_owned()).spawn(move || {
                    give_way();
                    // What fails is logged there, and tried again at the next look.
                    let by = command.map(|command| {
                        let (home, flag) = (home.clone(), flag.clone());
                        move |id: &str| runtime.block_on(unless(&flag, command.remove(&home, id)))
                    });
                    let by = by.as_ref().map(|by| by as &dyn Fn(&str) -> io::Result<()>);
                    let _ = keep.round(&backups, &home, &spared, clock::now().wall, by, &flag);
                    at_work.send_replace(false);
                    let _ = done.send(());
                });
                if let Err(error) = begun {
                    busy.send_replace(false);
                    tracing::warn!(%error, "no thread can be started that sees to the backups");
                }
                tokio::select! {
                    _ = &mut is_done => {
                        let _ = tokio::time::timeout(EVERY, next(&mut calm, |calm| *calm != now)).await;
                    }
                    _ = next(&mut calm, |it| *it != now) => {
                        cancelled.store(true, Ordering::Relaxed);
                        let _ = is_done.await;
                    }
                }
            }
        });
        Keeper { task, cancelled: flag, is_busy }
    }

    /// Tells the keeper what has changed.
    pub(super) fn calm(&self) {
        let calm = match self.degraded {
            Some(_) => Calm::default(),
            None if self.agent.is_down_for_backup() => Calm::default(),
            // What is read must not be packed and removed.
            None if self.making_ready.is_under_way() => Calm::default(),
            None => Calm { backed_up: self.backed_up.to_string(), ..Calm::of(self.agent.journal()) },
        };
        self.calm.send_if_modified(|old| std::mem::replace(old, calm.clone()) != calm);
    }
}

/// Gives it up as soon as this is set: what it has started ends with it.
async fn unless(cancelled: &AtomicBool, done: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let is_cancelled = async {
        while !cancelled.load(Ordering::Relaxed) {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        biased;
        () = is_cancelled => Err(io::ErrorKind::Interrupted.into()),
        done = done => done,
    }
}

/// Lets everybody else go first, as well as it can be done: this thread, and those that it makes.
pub fn give_way() {
    let _ = rustix::process::setpriority_process(None, LOWEST);
    let _ = sys::use_idle_disk_only();
}

/// The next state that is wanted; none when there are no more.
async fn next(calm: &mut watch::Receiver<Calm>, is_wanted: impl Fn(&Calm) -> bool) -> Option<Calm> {
    calm.wait_for(|calm| is_wanted(calm)).await.ok().map(|calm| calm.clone())
}

/// A watch that knows nothing yet.
pub(super) fn calm() -> watch::Sender<Calm> {
    watch::channel(Calm::default()).0
}
