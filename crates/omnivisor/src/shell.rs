//! The shell around the core: takes what happens in the world to the agent, and what the agent answers into the world.
//!
//! One loop, one order: records to disk, processes as they are wanted, then actions. Everything that takes long happens in
//! tasks that report back. Absent here: any decision.

mod act;
mod adopt;
mod ahead;
mod answer;
mod back_up;
mod by_hand;
mod claim;
mod end;
mod give_up;
mod gone;
mod keep;
mod launch;
mod node_watch;
mod notify;
mod orphan;
mod poll;
mod present;
mod ready;
mod reload;
mod replace;
mod report;
mod restoring;
mod rollback;
mod signals;
mod start;
mod survey;
mod sweep;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use omnivisor_core::agent::{Action, Agent, Event};
use omnivisor_core::dialect::{Dialect, Mirrored, Watch};
use omnivisor_core::journal::Record;
use omnivisor_core::release::{Installed, Release};
use omnivisor_core::schedule::Announcement;
use omnivisor_core::supervisor::{Order, Seen, Supervisor};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::clock::{self, Timer};
use crate::control::Asked;
use crate::effects::backup::keep::Keep;
use crate::effects::fetch;
use crate::effects::github::GitHub;
use crate::effects::group::{Group, Kin};
use crate::effects::process::{Launcher, Node};
use crate::effects::snapshot::{Limits, Method};
use crate::effects::watch::FileWatch;
use crate::exit::Exit;
use crate::handover::Leaving;
use crate::store::journal_file::JournalFile;
use crate::store::lock::Lock;
use crate::store::small;

pub use adopt::{JOURNAL, adopt, adopt_installation, initialise};
pub use back_up::back_up_now;
pub use claim::StartError;
pub use gone::upstream_gone;
pub use keep::{give_way, spared, spared_by_hand};
pub use orphan::{Ended, Left, end_orphan, look_for_orphan};
pub use reload::{Reload, Reloaded};
pub use replace::could_take_over;
pub use restoring::{Ordered, PutBack, put_back};
pub use rollback::order_rollback;
pub use signals::Signals;
pub use start::Start;
pub use survey::survey;
pub use sweep::sweep;

/// How long after a record could not be written the next try is.
const UNWRITABLE: Duration = Duration::from_secs(1);

/// Between two looks for executables that a person is to place.
const PLACED: Duration = Duration::from_secs(1);

/// How a run is over.
pub enum Finish {
    /// The node and the supervisor have ended as they should.
    Ended,
    /// Another executable is to take this one's place; the node runs on.
    Replaced(Box<Leaving>),
}

/// Both ends of what tasks report through.
type Channel<T> = (mpsc::UnboundedSender<T>, mpsc::UnboundedReceiver<T>);

/// One instance, being supervised.
pub struct Shell {
    dialect: Arc<dyn Dialect>,
    agent: Agent,
    supervisor: Supervisor,
    /// None if the journal could not be believed: then nothing is recorded, and no upgrade is done.
    journal: Option<JournalFile>,
    degraded: Option<String>,

    launcher: Launcher,
    github: Arc<GitHub>,
    /// What a snapshot may cost.
    limits: Limits,
    method: Method,
    keep: Keep,
    calm: watch::Sender<keep::Calm>,
    /// How the backup that was asked for last goes.
    backed_up: serde_json::Value,
    /// What the supervisor ordered last, counted: late news of an earlier launch is told by it.
    launch: u64,
    node: Option<Node>,
    group: Option<Group>,
    /// Those who see to its end.
    ending: Vec<AbortHandle>,
    node_lock: Option<Lock>,
    /// Those in the node's homes, which are inherited with it.
    home_locks: Vec<(PathBuf, Lock)>,
    /// How the node's processes are known, wherever they go.
    kin: Kin,
    /// Whether a node that fails is restarted at all.
    restarts: bool,
    /// Whether the run ends after a switch.
    ends_after_switch: bool,

    waiting: VecDeque<Event>,
    unwritable: Option<give_up::Unwritable>,
    seen: Channel<(u64, Seen)>,
    prepared: Channel<(u64, launch::Prepared)>,
    /// What is being done before a start.
    preparing: Option<launch::Preparing>,
    /// What a person has put in the place of the active release's executables, and what has been proven of it.
    accepted: Option<Installed>,
    results: Channel<(u64, Event)>,
    action: act::InFlight,
    ahead: ahead::Ahead,
    making_ready: ready::MakingReady,
    mirrored: watch::Sender<Option<Mirrored>>,
    mirror_done: watch::Receiver<Option<Mirrored>>,
    known: watch::Sender<poll::Known>,
    asked: watch::Sender<Option<node_watch::Asked>>,
    news: Channel<(u64, node_watch::News)>,
    heard: node_watch::Heard,
    ears: notify::Ears,
    reload: Option<Reload>,
    /// Why the configuration as it is now is not in force.
    refused_configuration: Option<String>,
    told: report::Told,
    /// Why the node ended last, or was not started, until one is up again.
    why_down: Option<String>,
    /// Held for life: nobody else supervises this instance, or its homes.
    locks: Vec<Lock>,
    checked: Channel<replace::Checked>,
    /// What is to take this supervisor's place, and is being asked whether it could.
    replacing: Option<replace::Replacing>,
    /// How this image of the supervisor came to be, if not by a start.
    replacement: Option<replace::Replacement>,
}

impl Shell {
    /// Runs until the node or an operator ends it; says why, where that is a failure. `commands` come from the control socket.
    pub async fn run(
        mut self,
        mut signals: Signals,
        mut commands: mpsc::Receiver<Asked>,
    ) -> Result<Finish, (Exit, String)> {
        let (mut monotonic, mut wall) = match (Timer::monotonic(), Timer::wall()) {
            (Ok(monotonic), Ok(wall)) => (monotonic, wall),
            (Err(error), _) | (_, Err(error)) => {
                return Err((Exit::Failure, format!("the supervisor cannot listen to its clocks: {error}")));
            }
        };
        let mut queue = self.queue().map(|path| FileWatch::new(&path));
        if queue.is_some() {
            self.look_at_queue();
        }
        let mut configuration = self.reload.as_ref().map(|reload| FileWatch::new(&reload.file));
        let mut looks = tokio::time::interval(PLACED);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let _poll = self.poll();
        let keeper = self.keeper();
        self.ask_node();
        loop {
            self.settle();
            if let Some(leaving) = self.leaving() {
                keeper.end().await;
                return Ok(Finish::Replaced(Box::new(leaving)));
            }
            if let Some(outcome) = self.ended() {
                keeper.end().await;
                return self.end(outcome).await.map(|()| Finish::Ended);
            }
            self.set_timers(&mut monotonic, &mut wall);
            tokio::select! {
                biased;
                signal = signals.ended() => self.stop(signal),
                Some((launch, seen)) = self.seen.1.recv() => self.observe(launch, seen),
                Some((launch, prepared)) = self.prepared.1.recv() => self.prepared(launch, prepared),
                Some((ticket, event)) = self.results.1.recv() => {
                    if self.action.landed(ticket) {
                        self.waiting.push_back(event);
                    }
                }
                Some(checked) = self.checked.1.recv() => self.checked(checked),
                Some(made) = self.making_ready.heard() => self.made_ready(made),
                Some(asked) = commands.recv() => self.answer(asked),
                Some((launch, news)) = self.news.1.recv() => self.hear(launch, news),
                () = self.ears.readable() => self.hear_ready(),
                () = changed(&mut queue) => self.look_at_queue(),
                () = changed(&mut configuration) => self.reload().await,
                _ = looks.tick(), if !self.agent.missing().is_empty() => self.look_for_placed(),
                () = monotonic.fired() => self.look_again(),
                () = wall.fired() => self.look_again(),
            }
        }
    }

    /// Once is enough, however long what is waiting has to wait.
    fn look_again(&mut self) {
        if !self.waiting.contains(&Event::Timeout) {
            self.waiting.push_back(Event::Timeout);
        }
    }

    /// The file that announcements are queued in, if there is one.
    fn queue(&self) -> Option<PathBuf> {
        self.dialect.watches().into_iter().find_map(|watch| match watch {
            Watch::File(path) => Some(path),
            Watch::Url { .. } | Watch::Releases { .. } | Watch::Node { .. } => None,
        })
    }

    /// Answers every event that is waiting, and makes the world as it is wanted.
    fn settle(&mut self) {
        if self.has_died_unseen() {
            return; // that is about to be heard, and comes first: what is dead is not well
        }
        loop {
            while let Some(event) = self.waiting.pop_front() {
                if !self.step(event) {
                    return;
                }
            }
            self.supervise();
            if self.waiting.is_empty() {
                break;
            }
        }
        self.publish();
        self.sum_up();
        self.discard_dropped();
    }

    /// Writes a long journal anew, as one record, while nothing is under way.
    fn sum_up(&mut self) {
        if !self.journal.as_ref().is_some_and(JournalFile::is_long) {
            return;
        }
        // Nobody could find it who comes after us.
        if self.drop_kept() {
            return;
        }
        let Some(journal) = &self.journal else { return };
        let Some(summary) = self.agent.journal().summary() else { return };
        match journal.rewritten(&summary) {
            Ok(rewritten) => self.journal = Some(rewritten),
            Err(error) => {
                tracing::warn!(%error, "the journal has become long and cannot be summed up");
                // It may have been replaced all the same: what is recorded from now on must be in the one that has the name.
                match journal.reopened() {
                    Ok(journal) => self.journal = Some(journal),
                    Err(error) => tracing::error!(%error, "the journal cannot be opened again"),
                }
            }
        }
    }

    /// One event, in the order of the contract. False if it could not be recorded: then nothing of it has happened.
    fn step(&mut self, event: Event) -> bool {
        let before = self.agent.clone();
        self.note_backup(&event);
        let effects = self.agent.step(clock::now(), event.clone());
        if let Err(error) = self.record(&effects.records) {
            self.agent = before;
            self.waiting.push_front(event);
            self.is_unwritable(&error);
            self.supervise_as(&self.wanted());
            return false;
        }
        if !effects.records.is_empty() {
            self.is_writable();
        }
        report::tell(&effects.records, &self.agent);
        self.follow_copies(&effects.records, &before);
        self.give_up_making_ready();
        if effects.records.iter().any(|record| matches!(record, Record::Committed { .. })) {
            self.supervisor.forgive();
        }
        self.supervise();
        if effects.cancel {
            self.action.cancel();
        }
        if let Some(action) = effects.action {
            self.act(action);
        }
        true
    }

    fn record(&mut self, records: &[Record]) -> std::io::Result<()> {
        match &mut self.journal {
            Some(journal) => journal.append(records, clock::now().wall),
            None => Ok(()),
        }
    }

    fn supervise(&mut self) {
        self.supervise_as(&self.wanted());
        if self.agent.awaits_down()
            && self.supervisor.is_down()
            && !self.has_given_up()
            && !self.waiting.contains(&Event::NodeDown)
        {
            self.waiting.push_back(Event::NodeDown);
        }
    }

    fn supervise_as(&mut self, wanted: &omnivisor_core::supervisor::Wanted) {
        if self.is_about_to_switch() {
            return;
        }
        self.drop_preparation_unless(wanted);
        while let Some(order) = self.supervisor.reconcile(clock::now().monotonic, wanted) {
            match order {
                Order::Start(key) => self.start_node(&key),
                Order::AskMain => {
                    let signal = self.dialect.stop_signal();
                    if let Some(Err(error)) = self.node.as_ref().map(|node| node.signal(signal)) {
                        tracing::error!(%error, "the node cannot be asked to end");
                    }
                }
                Order::AskGroup => self.end_group(false),
                Order::Kill => {
                    tracing::warn!("the node did not end within its grace period and is killed");
                    self.end_group(true);
                }
            }
        }
    }

    /// Whether nothing was started yet and the last look before a switch that is due is being taken: a node that was
    /// started now would be stopped before it could listen to signals. The look reads one executable and walks the home; a look that
    /// fails starts the old node.
    fn is_about_to_switch(&self) -> bool {
        // What the look has found may have to wait for a journal that cannot be written: the node does not.
        let is_looking = self.unwritable.is_none() && matches!(self.agent.in_flight(), Some(Action::Arm(..)));
        self.launch == 0 && self.supervisor.is_down() && is_looking
    }

    /// A sender whose messages carry the present launch.
    fn tagged(&self) -> mpsc::UnboundedSender<Seen> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let (launch, seen) = (self.launch, self.seen.0.clone());
        tokio::spawn(async move {
            while let Some(it) = receiver.recv().await {
                let _ = seen.send((launch, it));
            }
        });
        sender
    }

    fn observe(&mut self, launch: u64, seen: Seen) {
        if launch != self.launch {
            return;
        }
        let report = self.supervisor.observe(clock::now().monotonic, seen);
        if let Some(report) = report {
            report::tell_node(&report, &self.supervisor, &self.agent.wanted());
            self.why_down = report::why_down(&report);
            // Before what was heard meanwhile, and may say of a dead node that it is well; but in the order of its own news.
            let earlier = self.waiting.iter().rposition(|event| matches!(event, Event::Node(_)));
            self.waiting.insert(earlier.map_or(0, |last| last + 1), Event::Node(report));
        } else {
            self.waiting.push_back(Event::Timeout);
        }
    }

    fn stop(&mut self, why: &str) {
        tracing::info!("{why}: the node is stopped, then the supervisor ends");
        self.making_ready.give_up();
        // Before whatever waits for a journal that cannot be written: this needs no record.
        self.waiting.push_front(Event::StopRequested);
    }

    /// What of this a person still has to place.
    fn missing(&self, announced: &[Announcement]) -> BTreeMap<Release, String> {
        let missing = |it: &Announcement| Some((it.release.clone(), fetch::missing(&*self.dialect, it)?));
        announced.iter().filter_map(missing).collect()
    }

    /// Looks whether somebody has placed what was missing.
    fn look_for_placed(&mut self) {
        self.tell_missing(self.missing(self.agent.announced()));
    }

    /// Only if it is news: at a start the first event that says what is announced decides which release is started.
    fn tell_missing(&mut self, missing: BTreeMap<Release, String>) {
        if missing != *self.agent.missing() {
            self.waiting.push_back(Event::Missing(missing));
        }
    }

    /// Reads the queue, and tells the agent if it says something.
    fn look_at_queue(&mut self) {
        let path = &self.dialect.paths().queue;
        let observed = match small::read(path) {
            Ok(bytes) => {
                self.dialect.announced(&bytes, &|path| small::read(path).ok()).map_err(|error| error.to_string())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), "the upgrade plan is gone and is made anew");
                self.mirrored.send_modify(|_| {}); // to be looked at again
                return;
            }
            Err(error) => Err(error.to_string()),
        };
        match observed {
            Ok(None) => {}
            Ok(Some(observed)) => {
                self.told.queue_is_fine();
                self.told.refused(&observed.refused);
                // Of what was announced before, too: until the next event it still is.
                let mut missing = self.missing(self.agent.announced());
                missing.extend(self.missing(&observed.announcements));
                self.tell_missing(missing);
                self.waiting.push_back(Event::Announced(observed.announcements));
            }
            // Half written, perhaps: what it said before stays true until it says something else.
            Err(error) => self.told.queue_is_wrong(path, &error),
        }
    }

    fn set_timers(&mut self, monotonic: &mut Timer, wall: &mut Timer) {
        let now = clock::now();
        let timeouts = self.agent.timeouts();
        let retry = self.unwritable.as_ref().map(|_| now.monotonic + UNWRITABLE);
        let next = [timeouts.monotonic, self.supervisor.timeout(), retry].into_iter().flatten().min();
        let nanos = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
        let set = monotonic.set(next.map(nanos)).and_then(|()| wall.set(timeouts.wall.map(|wall| wall.unix_nanos())));
        if let Err(error) = set {
            tracing::error!(%error, "a timer cannot be set");
        }
    }

    /// Tells the mirror and the poll what they have to know.
    fn publish(&mut self) {
        self.calm();
        let journal = self.agent.journal();
        self.told.clock(&self.agent);
        self.told.standings(&self.agent);
        if let Some(shown) = journal.shown() {
            let now = clock::now();
            let settled = self.agent.announced().iter();
            let settled = settled.filter(|announced| report::is_settled(&self.agent.standing(now, announced)));
            let mirrored = Mirrored {
                shown: shown.clone(),
                linked: false, // looked at when it is written
                committed: journal.active_since().filter(|_| journal.active() == Some(shown)),
                settled: settled.map(|announced| announced.release.clone()).collect(),
            };
            self.mirrored.send_if_modified(|old| {
                let changed = old.as_ref() != Some(&mirrored);
                *old = Some(mirrored);
                changed
            });
        }
        self.publish_node();
        if let Some(known) = poll::known(&self.agent) {
            self.known.send_if_modified(|old| std::mem::replace(old, known.clone()) != known);
        }
    }
}

/// Waits until what is watched may have changed; for ever, if nothing is.
async fn changed(watch: &mut Option<FileWatch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}
