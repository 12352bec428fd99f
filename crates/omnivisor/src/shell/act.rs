//! Carry out one action of the agent, beside the loop, and report how it ended.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use omnivisor_core::agent::{Action, Event, Outcome};
use omnivisor_core::dialect::Dialect;
use omnivisor_core::plan::{Failure, UpgradePlan};
use tokio::sync::Notify;

use super::{Shell, back_up};
use crate::checkpoint;
use crate::clock;
use crate::effects::backup::manifest::{self, Head};
use crate::effects::backup::{self, Kind};
use crate::effects::data::Data;
use crate::effects::github::GitHub;
use crate::effects::group::Group;
use crate::effects::restore::{Restore, Source, UNDO};
use crate::effects::snapshot::{Limits, Method, Snapshot, command, pace};
use crate::effects::{activate, essentials, fetch, parts, preflight, probe, snapshot, space, writers};
use crate::store::small;

/// What was copied ahead of a height is ended there if that was not longer ago: twice as long as between two passes.
const RECENT: Duration = Duration::from_secs(3600);

/// Why none can be ended there.
const NOT_AHEAD: &str = "nothing that was copied ahead can be used: there is none, or it was copied more than an hour ago, or before the machine \
                         was started, or was being brought up to date at this moment";

/// And if that takes no longer, but for the flush: the network does not wait.
const AT_HEIGHT: Duration = Duration::from_secs(10);

/// Between two looks whether it does.
const LOOK: Duration = Duration::from_millis(20);

/// How an action is asked to end early.
#[derive(Default)]
struct Cancel {
    flag: AtomicBool,
    told: Notify,
}

impl Cancel {
    /// An error when it is.
    fn wanted(&self) -> std::io::Result<()> {
        if self.flag.load(Ordering::Relaxed) { Err(std::io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}

/// The action that is being carried out.
#[derive(Default)]
pub(super) struct InFlight {
    ticket: u64,
    cancel: Option<Arc<Cancel>>,
}

impl InFlight {
    /// Asks it to end early; it reports how it ended all the same.
    pub(super) fn cancel(&self) {
        if let Some(cancel) = &self.cancel {
            cancel.flag.store(true, Ordering::Relaxed);
            cancel.told.notify_one();
        }
    }

    /// Whether it has not reported yet how it ended.
    pub(super) fn is_under_way(&self) -> bool {
        self.cancel.is_some()
    }

    /// Whether this is the result that is waited for.
    pub(super) fn landed(&mut self, ticket: u64) -> bool {
        ticket == self.ticket && self.cancel.take().is_some()
    }
}

impl Shell {
    /// Begins an action. All of it happens on a thread of its own: hashing and copying must not keep us from the node.
    pub(super) fn act(&mut self, action: Action) {
        let was_killed = self.supervisor.was_killed();
        if matches!(action, Action::Snapshot(_)) && was_killed {
            tracing::warn!("the node had to be killed: its data is copied as it left it");
        }
        // Where no node runs, whatever is copied ahead is copied in the outage, too.
        let is_down = self.supervisor.is_down();
        let cancel = Arc::new(Cancel::default());
        self.action.ticket += 1;
        self.action.cancel = Some(cancel.clone());
        let (ticket, results, dialect) = (self.action.ticket, self.results.0.clone(), self.dialect.clone());
        let node = self.group.clone();
        let rolls_back = self.making_ready.is_under_way();
        let (github, limits, method) = (self.github.clone(), self.limits, self.method.clone());
        let with = With { github, limits, method, node, is_down, was_killed, rolls_back };
        let runtime = tokio::runtime::Handle::current();
        let name = name(&action);
        tokio::task::spawn_blocking(move || {
            checkpoint::reach(&format!("before-{name}"));
            let event = runtime.block_on(async {
                tokio::select! {
                    biased;
                    event = carry_out(&dialect, &action, &with, &cancel) => event,
                    () = cancel.told.notified() => Event::Cancelled,
                }
            });
            checkpoint::reach(&format!("after-{name}"));
            let _ = results.send((ticket, event));
        });
    }
}

fn name(action: &Action) -> &'static str {
    match action {
        Action::Fetch(_) => "fetch",
        Action::Preflight(_) => "preflight",
        Action::Precopy(_) => "precopy",
        Action::Backup { .. } => "backup",
        Action::Arm(..) => "arm",
        Action::Snapshot(_) => "snapshot",
        Action::Activate(..) => "activate",
        Action::Restore(_) => "restore",
        Action::Reactivate(_) => "reactivate",
        Action::Sample(_) => "sample",
    }
}

/// What an action is carried out with.
struct With {
    github: Arc<GitHub>,
    limits: Limits,
    method: Method,
    /// What belongs to the node.
    node: Option<Group>,
    /// Whether no node runs.
    is_down: bool,
    /// Whether the last one had to be killed.
    was_killed: bool,
    /// Whether an operator has ordered a rollback, which waits for a copy.
    rolls_back: bool,
}

async fn carry_out(shared: &Arc<dyn Dialect>, action: &Action, with: &With, cancel: &Cancel) -> Event {
    let dialect = &**shared;
    let result = match action {
        Action::Fetch(plan) => fetch::fetch(dialect, plan, &with.github).await.map(|()| Outcome::Nothing),
        Action::Preflight(plan) => {
            preflight::preflight(dialect, plan, with.limits, &with.method).await.map(Outcome::Proven)
        }
        Action::Backup { at, of, last } => {
            let how = back_up::How { limits: with.limits, method: &with.method, killed: with.was_killed };
            match if *last { Ok(()) } else { is_alone(dialect, &of.folder, with) } {
                Ok(()) => back_up::take(dialect, (*at, of, *last), how, &cancel.flag).await.map(|()| Outcome::Nothing),
                Err(failure) => Err(failure),
            }
        }
        Action::Precopy(plan) => copy_ahead(dialect, plan, with, cancel).map(|()| Outcome::Nothing),
        Action::Arm(..) if with.rolls_back => {
            Err(Failure::transient("what a rollback puts back is being made ready, and that comes first"))
        }
        Action::Arm(plan, staged) => preflight::arm(dialect, plan, staged, with.limits, &with.method)
            .await
            .and_then(|()| last_copy_ahead(dialect, plan, with, cancel))
            .map(|()| Outcome::Nothing),
        Action::Snapshot(plan) => {
            let taken = take_snapshot(dialect, plan, with, cancel).await;
            if let Err(failure) = &taken
                && cancel.wanted().is_ok()
            {
                go_without(dialect, plan, failure);
            }
            taken.map(|()| Outcome::Nothing)
        }
        Action::Activate(plan, staged) => has_way_back(dialect, plan).and_then(|()| {
            fall_back(shared, plan, with);
            point_link(dialect, &staged.folder)
        }),
        Action::Reactivate(plan) => point_link(dialect, &plan.from.folder),
        Action::Restore(plan) => restore(dialect, plan, cancel).map(|()| Outcome::Nothing),
        Action::Sample(_) => Ok(Outcome::Sampled(probe::sample(dialect.probe(), &dialect.paths().home).await)),
    };
    match result {
        Ok(outcome) => Event::Done(outcome),
        Err(_) if cancel.flag.load(Ordering::Relaxed) => Event::Cancelled,
        Err(failure) => Event::Failed(failure),
    }
}

fn has_snapshot(dialect: &dyn Dialect, plan: &UpgradePlan) -> bool {
    let snapshot = snapshot::folder(dialect, plan);
    if snapshot.is_symlink() { command::is_whole(&snapshot) } else { parts::is_whole(&snapshot) }
}

/// The snapshot of a switch that was given up is none of what the node has done since.
fn has_way_back(dialect: &dyn Dialect, plan: &UpgradePlan) -> Result<(), Failure> {
    // What its network has agreed on is done without one, too.
    if !plan.snapshot || plan.is_agreed() || has_snapshot(dialect, plan) {
        return Ok(());
    }
    let snapshot = snapshot::folder(dialect, plan);
    if let Err(error) = snapshot::void(&snapshot, &dialect.paths().home) {
        tracing::warn!(path = %snapshot.display(), %error, "a snapshot that is none cannot be made void");
    }
    snapshot::discard(&snapshot);
    Err(Failure::transient(format!("the snapshot {} is gone, without which there is no way back", snapshot.display())))
}

/// Where there is no snapshot of what cannot be put off, though they are wanted, the least of it is kept; whatever becomes of that.
fn fall_back(dialect: &Arc<dyn Dialect>, plan: &UpgradePlan, with: &With) {
    let is_wanted = with.method.falls_back && !plan.to.without_snapshot;
    if plan.is_agreed() && is_wanted && !has_snapshot(&**dialect, plan) {
        essentials::keep(dialect, plan, with.was_killed);
    }
}

/// What a network has agreed on is done without a snapshot, if none can be taken: says so, and leaves nothing of one.
fn go_without(dialect: &dyn Dialect, plan: &UpgradePlan, failure: &Failure) {
    let Some(height) = plan.to.trigger.height() else { return };
    tracing::error!(
        why = failure.reason,
        height,
        "no snapshot of the data is taken; the network has agreed on the upgrade, which goes on"
    );
    if let Err(error) = void_snapshot(dialect, plan) {
        tracing::warn!(%error, "what there is of a snapshot cannot be made void");
    }
}

/// Makes what was copied of this upgrade no snapshot any more, in a moment; its removal goes on behind.
pub(super) fn void_snapshot(dialect: &dyn Dialect, plan: &UpgradePlan) -> std::io::Result<()> {
    let snapshot = snapshot::folder(dialect, plan);
    snapshot::void(&snapshot, &dialect.paths().home)?;
    tokio::task::spawn_blocking(move || snapshot::discard(&snapshot));
    Ok(())
}

/// Copies most of it while the node runs, if there is room, and if it is not in vain.
fn copy_ahead(dialect: &dyn Dialect, plan: &UpgradePlan, with: &With, cancel: &Cancel) -> Result<(), Failure> {
    let is_at_height = plan.to.trigger.height().is_some();
    // Before the switch of others that is looked at once more.
    let looked = if is_at_height { is_alone(dialect, &plan.from.folder, with) } else { Ok(()) };
    let room = preflight::has_room(dialect, plan, with.limits, &with.method);
    if room.is_err() && is_at_height {
        // It would hold what the node writes over, on a disk that has no room for it.
        snapshot::discard(&snapshot::folder(dialect, plan));
    }
    let looked = looked.and(room).and_then(|()| within_limit(dialect, plan, with, None));
    let copied = looked.and_then(|()| pass_ahead(dialect, plan, with, cancel));
    if let Err(failure) = &copied
        && !cancel.flag.load(Ordering::Relaxed)
    {
        let then = if is_at_height { "in half an hour, if that is before the height" } else { "before the switch" };
        tracing::warn!(why = failure.reason, "the data cannot be copied ahead; it is tried again {then}");
    }
    copied.map(|_| ())
}

/// What has changed since the data was copied ahead, before the node is stopped; and whether the rest is too much. Where the node
/// is down, or stands still at its height, all that takes time belongs to the outage.
fn last_copy_ahead(dialect: &dyn Dialect, plan: &UpgradePlan, with: &With, cancel: &Cancel) -> Result<(), Failure> {
    if !plan.snapshot || with.is_down || plan.to.trigger.is_ready() {
        return Ok(());
    }
    is_alone(dialect, &plan.from.folder, with)?;
    within_limit(dialect, plan, with, None)?;
    let left = pass_ahead(dialect, plan, with, cancel)?;
    // That may have taken hours, where nothing was copied before.
    is_alone(dialect, &plan.from.folder, with)?;
    within_limit(dialect, plan, with, left)
}

/// Whether nobody but the node writes to its data.
fn is_alone(dialect: &dyn Dialect, release: &Path, with: &With) -> Result<(), Failure> {
    match writers::told(&writers::who_stay(&data(dialect, release)?, with.node.as_ref())) {
        None => Ok(()),
        Some(others) if with.limits.may_be_written => {
            tracing::warn!("{others}; snapshot.other-writers allows it");
            Ok(())
        }
        Some(others) => Err(Failure::transient(format!("{others}; end it, or set snapshot.other-writers"))),
    }
}

/// Whether the outage is expected to be short enough, with what is `left` to the last pass, if that is known.
fn within_limit(
    dialect: &dyn Dialect,
    plan: &UpgradePlan,
    with: &With,
    left: Option<snapshot::Left>,
) -> Result<(), Failure> {
    if with.limits.outage.is_none() {
        return Ok(()); // nothing has to be looked at
    }
    let cost = snapshot::cost(dialect, plan, &with.method).map_err(|error| Failure::transient(error.to_string()))?;
    cost.within(with.limits, left).map_err(|error| Failure::transient(error.to_string()))
}

fn pass_ahead(
    dialect: &dyn Dialect,
    plan: &UpgradePlan,
    with: &With,
    cancel: &Cancel,
) -> Result<Option<snapshot::Left>, Failure> {
    if with.method.takes.is_some() {
        return Ok(None); // there is nothing to be copied
    }
    let by_reference = plan.to.trigger.height().is_some();
    copy(dialect, plan, |snapshot| {
        pace::gently(snapshot.data, &cancel.flag, |pace| {
            snapshot.prepare(&cancel.flag, &mut |bytes| match bytes {
                1.. if by_reference => Err(std::io::Error::other("a file of it cannot be copied by reference")),
                bytes => pace(bytes),
            })
        })
    })
}

/// Does it, and says that it is cancelled as soon as somebody does so, or it takes longer than an upgrade at a height may wait for.
fn in_time(cancel: &Cancel, work: impl FnOnce(&AtomicBool) -> std::io::Result<()>) -> std::io::Result<()> {
    let (late, begun) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        let (done, ends) = mpsc::channel::<()>();
        let late = &late;
        std::thread::Builder::new().name("deadline".to_owned()).spawn_scoped(scope, move || {
            while ends.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Timeout) {
                if cancel.wanted().is_err() || begun.elapsed() > AT_HEIGHT {
                    late.store(true, Ordering::Relaxed);
                }
            }
        })?;
        let worked = work(late);
        drop(done);
        let too_long = || std::io::Error::other(format!("it takes longer than {} s", AT_HEIGHT.as_secs()));
        worked.map_err(|error| if begun.elapsed() > AT_HEIGHT { too_long() } else { error })
    })
}

async fn take_snapshot(dialect: &dyn Dialect, plan: &UpgradePlan, with: &With, cancel: &Cancel) -> Result<(), Failure> {
    if !plan.snapshot {
        return Ok(());
    }
    let data = data(dialect, &plan.from.folder)?;
    let not_included = dialect.beyond_snapshots(&|path| small::read(path).ok());
    let head = Head { killed: with.was_killed, not_included, ..Head::of(plan, &data, clock::now().wall) };
    if let Some(command) = &with.method.takes {
        let to = snapshot::folder(dialect, plan);
        let taken = command.take(Snapshot { data: &data, to: &to }, &head).await;
        return taken.map_err(|error| Failure::transient(format!("no snapshot could be taken: {error}")));
    }
    copy(dialect, plan, |snapshot| match plan.to.trigger.height() {
        // All that takes time is done before: the network does not wait.
        Some(_) if !snapshot.is_prepared(RECENT) => Err(std::io::Error::other(NOT_AHEAD)),
        // What is left of it is removed beside the new node.
        Some(_) => in_time(cancel, |cancelled| snapshot.end_as(&head, cancelled)),
        None => snapshot.take_as(&head, &cancel.flag),
    })
}

fn copy<T>(
    dialect: &dyn Dialect,
    plan: &UpgradePlan,
    how: impl FnOnce(Snapshot<'_>) -> std::io::Result<T>,
) -> Result<T, Failure> {
    let (data, to) = (data(dialect, &plan.from.folder)?, snapshot::folder(dialect, plan));
    how(Snapshot { data: &data, to: &to }).map_err(|error| {
        Failure::transient(format!("{} cannot be copied to {}: {error}", data.described(), to.display()))
    })
}

fn data(dialect: &dyn Dialect, release: &Path) -> Result<Data, Failure> {
    Data::of(dialect, release).map_err(|error| Failure::transient(error.to_string()))
}

fn point_link(dialect: &dyn Dialect, folder: &Path) -> Result<Outcome, Failure> {
    activate::link(&dialect.paths().link, folder)
        .map(|()| Outcome::Nothing)
        .map_err(|error| Failure::transient(error.to_string()))
}

fn restore(dialect: &dyn Dialect, plan: &UpgradePlan, cancel: &Cancel) -> Result<(), Failure> {
    let (data, work) = (data(dialect, &plan.from.folder)?, restore_folder(dialect, &plan.id()));
    let restore = Restore { data: &data, work: &work, is_monotonic: &|path| dialect.is_monotonic(path) };
    // What was kept for this: a bad release may have filled the disk.
    for folder in data.parts.values().chain([&dialect.paths().beside]) {
        if let Err(error) = space::give_room(folder) {
            tracing::warn!(%error, "the room that was kept for an undo cannot be given");
        }
    }
    let snapshot = snapshot::folder(dialect, plan);
    let is_others = |head: &Head| !head.is_of(&data);
    if let Ok(other) = manifest::head(&manifest::beside(&snapshot))
        && is_others(&other)
        && !restore.is_ready()
    {
        return Err(Failure::transient(format!("the snapshot {} is one of {}", snapshot.display(), other.described())));
    }
    let found = backup::find(&dialect.paths().backups, &plan.id()).ok();
    let found = found.filter(|it| it.kind != Kind::Folder && !it.head.as_ref().is_some_and(is_others));
    let is_folder = snapshot.is_dir() && !snapshot.is_symlink();
    let each = &mut |_| cancel.wanted();
    let prepared = match &found {
        Some(found) if !is_folder && !restore.is_ready() => {
            restore.prepare(&Source::Made(&|to, each| backup::unpack(found, to, each)), &[], each)
        }
        // What it holds is about to be the node's own data; what it is replaced by is kept.
        _ => restore.prepare(&Source::GivenUp(&snapshot), &[], each),
    };
    prepared
        .and_then(|()| restore.put_in_place())
        .map_err(|error| Failure::transient(format!("the data in {} cannot be put back: {error}", data.described())))
}

/// Where a restore works: beside the data, and apart from it. Only there is a rename enough.
pub(super) fn restore_folder(dialect: &dyn Dialect, id: &str) -> std::path::PathBuf {
    dialect.paths().beside.join(format!("{UNDO}{id}"))
}
