//! A simulated shell, disk and node around the real agent and the real supervisor, in which everything can fail, be
//! disturbed and crash. It follows the shell's contract to the letter; what it checks at every step is what must never be.

#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    reason = "each test crate uses a part; a panic is a failed test"
)]

mod actions;
mod lab;
mod scenario;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use omnivisor_core::agent::{Action, Agent, Ending, Event, Outcome, Policy, Rollback};
use omnivisor_core::formats::journal;
use omnivisor_core::health::{Answer, Check, HealthProbe, Rhythm, Sighting};
use omnivisor_core::journal::{Adoption, Journal, Phase, Record};
use omnivisor_core::plan::{Failure, Step, Undo};
use omnivisor_core::release::{Algorithm, Digest, Installed};
use omnivisor_core::schedule::{Announcement, Trigger};
use omnivisor_core::supervisor::{Exit, LaunchKey, Order, RestartPolicy, Seen, Supervisor};
use omnivisor_core::time::Now;

pub use self::lab::{Lab, asked};
pub use self::scenario::{Disturbance, Fault, Health, Scenario};
pub use self::words::{agreed, announce, at, brief, installed, name, on_command, release};

pub const OLD: &str = "1.0.0";
pub const NEW: &str = "2.0.0";
pub const NEWER: &str = "3.0.0";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// As the release of this version left it.
    Of(&'static str),
    Torn,
}

fn known(version: &str) -> &'static str {
    [OLD, NEW, NEWER].into_iter().find(|known| *known == version).unwrap()
}

#[derive(Clone, Debug)]
pub struct Node {
    pub version: String,
    dies_at: Option<(Duration, Exit)>,
}

/// A crash of the supervisor.
pub struct Crash;

/// The points at which the supervisor dies, counted from the previous crash.
pub struct Fuse {
    crashes: VecDeque<usize>,
    burnt: usize,
}

impl Fuse {
    pub fn new(crashes: &[usize]) -> Self {
        Self { crashes: crashes.iter().copied().collect(), burnt: 0 }
    }

    fn burn(&mut self) -> Result<(), Crash> {
        self.burnt += 1;
        if self.crashes.front() == Some(&self.burnt) {
            self.crashes.pop_front();
            self.burnt = 0;
            return Err(Crash);
        }
        Ok(())
    }

    pub fn is_spent(&self) -> bool {
        self.crashes.is_empty()
    }
}

pub struct World {
    pub scenario: Scenario,
    pub clock: Duration,
    pub link: String,
    pub data: Data,
    snapshots: BTreeMap<u64, Data>,
    pub node: Option<Node>,
    pub journal: Vec<Record>,
    pub queue: Vec<Announcement>,
    pub script: Vec<String>,
    /// Whether `script` is written: it is what takes the time.
    pub told: bool,
    attempts: BTreeMap<Step, usize>,
    undo_failures: usize,
    died_once: bool,
    turn: usize,
    pub starts: Vec<String>,
    /// When the data was copied ahead, for which plan.
    pub precopies: Vec<(u64, Duration)>,
    /// What backups that were taken by hand hold.
    pub backups: Vec<Data>,
    pub ended: Option<Ending>,
    /// How often a run ended because of a switch.
    pub switched: usize,
    /// When the old node stands at the height that its network has agreed on.
    height_at: Duration,
    pub phase: Phase,
    pub held: bool,
}

fn given_up() -> Event {
    Event::GivenUp(Failure::transient("the journal cannot be written"))
}

impl World {
    pub fn new(scenario: Scenario) -> Self {
        let adopted = Record::Adopted {
            installed: installed(&release(OLD, 0)),
            at: at(Duration::from_secs(100)),
            adoption: if scenario.parked { Adoption::Found } else { Adoption::Initialised },
        };
        Self {
            clock: Duration::from_secs(100),
            link: OLD.to_owned(),
            data: Data::Of(OLD),
            snapshots: BTreeMap::new(),
            node: None,
            journal: vec![adopted],
            queue: vec![match &scenario {
                Scenario { manual: true, .. } => on_command(NEW),
                Scenario { consensus: true, .. } => agreed(NEW),
                _ => announce(NEW, 90 + scenario.due_in),
            }],
            script: Vec::new(),
            told: true,
            attempts: BTreeMap::new(),
            undo_failures: 0,
            died_once: false,
            turn: 0,
            starts: Vec::new(),
            precopies: Vec::new(),
            backups: Vec::new(),
            ended: None,
            switched: 0,
            height_at: Duration::from_secs(160),
            phase: Phase::Idle,
            held: false,
            scenario,
        }
    }

    pub fn policy(&self) -> Policy {
        let command = Check::Command(vec!["probe".to_owned()]);
        let second = Duration::from_secs(1);
        Policy {
            probe: HealthProbe {
                window: Duration::from_secs(60),
                deaths: 2,
                answers: self.scenario.consensus,
                checks: if self.scenario.probe_command { vec![command] } else { Vec::new() },
                rhythm: Rhythm { interval: 5 * second, timeout: 5 * second, failures: 2 },
            },
            rollback: if self.scenario.consensus { Rollback::Hold } else { Rollback::Auto },
            stop_delay: Duration::from_secs(if self.scenario.consensus { 3 } else { 0 }),
            snapshot: !self.scenario.no_snapshot,
            retry: Duration::from_secs(10),
            retry_most: Duration::from_secs(3600),
            recheck: Duration::from_secs(if self.scenario.consensus { 10 } else { 1200 }),
            rechecks: if self.scenario.consensus { u32::MAX } else { 3 },
            end_after_switch: self.scenario.end_after_switch,
            lead: self.scenario.lead,
        }
    }

    fn restart_policy(&self) -> RestartPolicy {
        RestartPolicy {
            on_failure: !self.scenario.no_restarts,
            delay: Duration::from_secs(10),
            startup_period: Duration::from_secs(60),
            max_startup_failures: 5,
            grace: Duration::from_secs(10),
            zero_is_done: !self.scenario.consensus,
        }
    }

    /// What the node that runs says of its network; nothing if none does.
    fn said(&self) -> Option<Event> {
        if !self.scenario.consensus {
            return Some(Event::Announced(self.queue.clone()));
        }
        let node = self.node.as_ref()?;
        let accepted = self.queue.iter().filter(|it| it.release.version.as_str() > node.version.as_str());
        let ready = self.clock >= self.height_at;
        Some(Event::Announced(
            accepted
                .map(|it| Announcement { trigger: Trigger::AtHeight { height: 1000, ready }, ..it.clone() })
                .collect(),
        ))
    }

    pub fn now(&self) -> Now {
        Now { monotonic: self.clock, wall: at(self.clock) }
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        if self.told {
            self.script.push(format!("{:>6}s  {}", self.clock.as_secs() - 100, line()));
        }
    }

    /// The supervisor crashed: what it knew is gone, what is on disk stays, the node as the scenario says.
    pub fn crash(&mut self) {
        self.say(|| "CRASH of the supervisor".to_owned());
        if self.scenario.node_dies_with_us {
            self.node = None;
        }
    }

    /// One life of the supervisor: from its start to its end, or to the moment at which nothing more happens by itself.
    pub fn live(&mut self, fuse: &mut Fuse) -> Result<(), Crash> {
        self.ended = None;
        // What is replayed is what the bytes say.
        if self.told {
            let mut bytes = journal::MAGIC.to_vec();
            bytes.extend(journal::encode(&self.journal));
            let decoded = journal::decode(&bytes).unwrap();
            assert_eq!(decoded.records, self.journal, "the journal survives its file format");
            // And what it amounts to survives being summed up, also through the file format.
            let journal = Journal::replay(&self.journal).unwrap();
            if let Some(summary) = journal.summary() {
                bytes.truncate(journal::MAGIC.len());
                bytes.extend(journal::encode(std::slice::from_ref(&summary)));
                let again = Journal::replay(&journal::decode(&bytes).unwrap().records).unwrap();
                assert_eq!(again, journal, "a summary says the same");
            }
        }
        let (mut agent, mut effects) = Agent::recover(&self.journal, self.policy(), self.now()).unwrap();
        let mut supervisor = Supervisor::new(self.restart_policy());
        let mut events: VecDeque<Event> = VecDeque::new();
        if self.node.is_some() && agent.expects_no_node() {
            effects.action = None;
            events.push_back(given_up());
        }
        if let Some(node) = &self.node {
            let key = LaunchKey { installed: self.find(&agent, &node.version.clone()), generation: 0 };
            let report = supervisor.observe(self.clock, Seen::Adopted(key)).unwrap();
            events.push_back(Event::Node(report));
        }
        events.extend(self.said());
        if self.scenario.consensus && self.node.is_some() {
            events.push_back(Event::NodeAnswered);
        }
        let mut in_flight: Option<Action> = None;
        let patience = if self.scenario.consensus { 1200 } else { 3 * 3600 };
        let deadline = self.clock + Duration::from_secs(patience);

        for _ in 0..3000 {
            for record in std::mem::take(&mut effects.records) {
                fuse.burn()?;
                self.say(|| format!("journal  {}", brief(&record)));
                if matches!(record, Record::Committed { .. }) {
                    supervisor.forgive();
                }
                self.journal.push(record);
            }
            fuse.burn()?;
            let is_given_up = events.iter().any(|event| matches!(event, Event::GivenUp(_)));
            let wanted = agent.instead().filter(|_| is_given_up).unwrap_or_else(|| agent.wanted());
            while let Some(order) = supervisor.reconcile(self.clock, &wanted) {
                self.obey(&order, &mut supervisor, &mut events);
                fuse.burn()?;
            }
            if agent.awaits_down() && supervisor.is_down() && !is_given_up && !events.contains(&Event::NodeDown) {
                events.push_back(Event::NodeDown);
            }
            if effects.cancel {
                self.say(|| "cancel".to_owned());
                in_flight = None;
                events.push_back(Event::Cancelled);
            }
            if let Some(action) = effects.action.take() {
                assert!(in_flight.is_none(), "at most one action is in flight");
                in_flight = Some(action);
            }
            self.phase = agent.journal().phase().clone();
            self.held = agent.journal().held();
            assert_eq!(supervisor.is_down(), self.node.is_none(), "what is believed of the node is true");

            if let Some(ending) = agent.ending()
                && supervisor.is_down()
                && in_flight.is_none()
            {
                self.ended = Some(ending.clone());
                if *ending == Ending::Switched {
                    assert!(matches!(self.phase, Phase::Probing { .. }), "the switch is made:\n{}", self.tell());
                    self.switched += 1;
                }
                self.say(|| format!("the run ends: {ending:?}"));
                return Ok(());
            }

            self.turn += 1;
            if let Some(found) = self.scenario.disturbances.iter().position(|(turn, _)| *turn == self.turn) {
                let (_, disturbance) = self.scenario.disturbances.remove(found);
                if let (Disturbance::GiveUp, Phase::Switching { plan, .. }) = (disturbance, self.phase.clone()) {
                    // It is done, or not; nobody could write it down. The old node is run, and then it can be written.
                    if let Some(action) = in_flight.take() {
                        self.act(&action, fuse)?;
                    }
                    self.snapshots.remove(&plan.number);
                    fuse.burn()?;
                    let instead = agent.instead();
                    while let Some(wanted) = &instead
                        && let Some(order) = supervisor.reconcile(self.clock, wanted)
                    {
                        self.obey(&order, &mut supervisor, &mut events);
                        fuse.burn()?;
                    }
                    events.push_front(given_up());
                }
                self.disturb(disturbance, &mut supervisor, &mut events);
            }
            let event = if let Some(event) = events.pop_front() {
                event
            } else if let Some(action) = in_flight.take() {
                fuse.burn()?;
                let event = self.act(&action, fuse)?;
                fuse.burn()?;
                event
            } else if let Some(event) = self.sleep(&agent, &mut supervisor, deadline) {
                event
            } else {
                let shown = agent.journal().shown().unwrap();
                if matches!(self.phase, Phase::Idle | Phase::Preparing { .. } | Phase::Staged { .. }) {
                    assert_eq!(shown.release.version.as_str(), self.link, "believes what is true:\n{}", self.tell());
                }
                return Ok(());
            };
            effects = agent.step(self.now(), event);
        }
        panic!("did not settle:\n{}", self.tell());
    }

    /// Sleeps until the next thing that happens by itself.
    fn sleep(&mut self, agent: &Agent, supervisor: &mut Supervisor, deadline: Duration) -> Option<Event> {
        let timeouts = agent.timeouts();
        let wall = timeouts.wall.map(|wall| self.clock + wall.since(at(self.clock)));
        let dies = self.node.as_ref().and_then(|node| node.dies_at.as_ref()).map(|(at, _)| *at);
        let height =
            Some(self.height_at).filter(|at| self.scenario.consensus && self.node.is_some() && *at > self.clock);
        let next = [timeouts.monotonic, wall, dies, supervisor.timeout(), height].into_iter().flatten().min()?;
        // Retries go on for ever; what the node itself waits for is always waited for, unless it, too, goes on for ever: what a
        // network has agreed on is started again and again.
        let is_endless = self.scenario.consensus && matches!(self.phase, Phase::Probing { .. });
        if next > deadline && (is_endless || (dies.is_none() && supervisor.timeout().is_none())) {
            return None;
        }
        self.clock = self.clock.max(next);
        if dies == Some(next) {
            let (_, exit) = self.node.take()?.dies_at?;
            return Some(self.exit(supervisor, exit));
        }
        if height == Some(next) {
            return self.said();
        }
        Some(Event::Timeout)
    }

    fn exit(&mut self, supervisor: &mut Supervisor, exit: Exit) -> Event {
        self.say(|| format!("node     ended with {exit}"));
        match supervisor.observe(self.clock, Seen::Exited { exit, others: false, group_empty: true }) {
            Some(report) => Event::Node(report),
            None => Event::Timeout,
        }
    }

    fn obey(&mut self, order: &Order, supervisor: &mut Supervisor, events: &mut VecDeque<Event>) {
        match order {
            Order::Start(key) => {
                let version = key.installed.release.version.to_string();
                assert!(self.node.is_none(), "two nodes:\n{}", self.tell());
                assert_ne!(self.data, Data::Torn, "started on torn data:\n{}", self.tell());
                // A node migrates what an older one left; what a newer one left it cannot read. Without snapshots no
                // release here migrates, as there would be no way back.
                if self.scenario.consensus {
                    let Data::Of(before) = self.data else { unreachable!() };
                    assert!(before <= version.as_str(), "an old node after the height:\n{}", self.tell());
                    self.data = Data::Of(known(&version));
                } else if !self.scenario.no_snapshot {
                    let Data::Of(before) = self.data else { unreachable!() };
                    assert!(before <= version.as_str(), "an old node on migrated data:\n{}", self.tell());
                    let kept = before == version || self.snapshots.values().any(|data| *data == self.data);
                    assert!(kept, "no way back:\n{}", self.tell());
                    self.data = Data::Of(known(&version));
                }
                // While only the link is owed the old node runs already; and before that, if the switch is given up.
                let journal = Journal::replay(&self.journal).unwrap();
                let owed = match journal.phase() {
                    Phase::Undoing { owed, .. } | Phase::NeedsHuman { owed, .. } => owed.as_slice(),
                    _ => &[],
                };
                let is_active = journal.active().is_some_and(|active| active.release.version.as_str() == version);
                let is_given_up = matches!(journal.phase(), Phase::Switching { .. });
                let link_is_owed = (owed == [Undo::Reactivate] || is_given_up) && is_active;
                assert!(version == self.link || link_is_owed, "not what is active:\n{}", self.tell());
                self.say(|| format!("node     {version} starts"));
                self.starts.push(version.clone());
                let soon = self.clock + Duration::from_secs(1);
                let dies_at = match self.scenario.health {
                    _ if version == OLD => None,
                    Health::Dies => Some((soon, Exit::Signal(11))),
                    Health::DiesOnce if !std::mem::replace(&mut self.died_once, true) => Some((soon, Exit::Code(1))),
                    Health::Ends => Some((soon, Exit::Code(0))),
                    _ => None,
                };
                self.node = Some(Node { version, dies_at });
                events.extend(supervisor.observe(self.clock, Seen::Started).map(Event::Node));
                if self.scenario.consensus {
                    events.extend(self.said());
                    events.push_back(Event::NodeAnswered);
                }
            }
            Order::AskMain => {
                self.say(|| "node     asked to end".to_owned());
                self.node = None;
                let event = self.exit(supervisor, Exit::Code(0));
                assert_eq!(event, Event::Timeout, "a stop that was asked for is no failure");
            }
            Order::AskGroup | Order::Kill => {
                self.node = None;
                supervisor.observe(self.clock, Seen::GroupEmpty);
            }
        }
    }

    fn disturb(&mut self, disturbance: Disturbance, supervisor: &mut Supervisor, events: &mut VecDeque<Event>) {
        self.say(|| format!("OUTSIDE  {disturbance:?}"));
        match disturbance {
            Disturbance::Withdraw => self.queue.clear(),
            Disturbance::Supersede => self.queue.iter_mut().for_each(|it| it.release = release(NEW, 2)),
            Disturbance::Postpone if self.scenario.consensus => {
                // Nobody goes back from a height that was reached.
                if self.clock < self.height_at {
                    self.height_at = self.clock + Duration::from_secs(600);
                }
            }
            Disturbance::Postpone => self.queue.iter_mut().for_each(|it| {
                it.trigger = Trigger::At(at(self.clock + Duration::from_secs(1800)));
            }),
            Disturbance::Preempt => self.queue.push(announce(NEWER, 1)),
            Disturbance::Hold => return events.push_back(Event::Hold),
            Disturbance::HoldAndResume => return events.extend([Event::Hold, Event::Resume]),
            Disturbance::Stop => return events.push_back(Event::StopRequested),
            Disturbance::Approve => {
                return events.extend(self.queue.first().map(|it| Event::Approve(it.release.clone())));
            }
            Disturbance::Replace => {
                let journal = Journal::replay(&self.journal).unwrap();
                let active = journal.active().unwrap().clone();
                let digest = Digest::new(Algorithm::Sha256, &[9; 32]).unwrap();
                return events.push_back(Event::Replaced(Installed { digest, ..active }));
            }
            Disturbance::GiveUp => return,
            Disturbance::BackUp => return events.push_back(Event::BackUp),
            // What a network has agreed on has no way back that would be right.
            Disturbance::RollBack if self.scenario.consensus => return,
            Disturbance::RollBack => {
                return events.push_back(Event::RollBack { restore: !self.scenario.no_snapshot });
            }
            Disturbance::NodeDies | Disturbance::NodeEnds => {
                if self.node.take().is_some() {
                    let exit = if disturbance == Disturbance::NodeDies { Exit::Signal(9) } else { Exit::Code(0) };
                    let event = self.exit(supervisor, exit);
                    events.push_back(event);
                }
                return;
            }
        }
        events.extend(self.said());
    }

    fn find(&self, agent: &Agent, version: &str) -> Installed {
        let journal = agent.journal();
        let known = [journal.runs(), journal.active(), journal.shown()];
        let found = known.into_iter().flatten().find(|it| it.release.version.as_str() == version);
        found.cloned().unwrap_or_else(|| installed(&release(version, 1)))
    }

    pub fn tell(&self) -> String {
        format!("{:#?}\n{}", self.scenario, self.script.join("\n"))
    }
}
