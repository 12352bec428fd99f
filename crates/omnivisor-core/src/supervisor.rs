//! Keep the node's processes as they are wanted: start, restart with a delay, stop with a grace, give up.
//!
//! A node has one main process or several, which start, stop and fail together: when one ends, the others are asked to end,
//! with the same grace. Pure: told what happened to the processes, it answers with at most one [`Order`]. Absent here: any reason to want
//! something; that is the [`agent`](crate::agent)'s.

use std::time::Duration;

use crate::release::Installed;

/// What is to be true of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A node of this launch runs. One with another key is replaced.
    Running(LaunchKey, Endurance),
    /// No process of the node runs.
    Stopped,
}

/// What makes one launch of the node another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchKey {
    /// What runs, and from where.
    pub installed: Installed,
    /// Raised to replace a node by another one of the same release.
    pub generation: u64,
}

/// How long a node may be kept trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endurance {
    /// As often as is configured.
    AsConfigured,
    /// For ever, with pauses that grow: nothing else would be started instead of it.
    ForEver,
}

/// The longest pause of a node that is kept trying for ever.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// When a node that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Whether it is at all.
    pub on_failure: bool,
    /// How long after it ended.
    pub delay: Duration,
    /// A run shorter than this that ends in a failure counts.
    pub startup_period: Duration,
    /// So many of those in a row, and we give up. At least 1.
    pub max_startup_failures: u32,
    /// How long a stop may take before it is made to happen.
    pub grace: Duration,
    /// Whether a main process that ends by itself with exit code 0 is done. Else that is a failure like any other.
    pub zero_is_done: bool,
}

/// How the node's main process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was not our child, so nobody can tell. Counts as a failure.
    Unknown,
    /// It could not even be started, and why.
    NotStarted(String),
    /// It runs and does not answer, and why that is believed.
    Hung(String),
}

impl Exit {}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("an unknown exit status (it was not started by this supervisor)"),
            Self::NotStarted(why) => write!(f, "a failed start: {why}"),
            Self::Hung(why) => f.write_str(why),
        }
    }
}

/// What happened to the processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A node that was alive already was taken over.
    Adopted(LaunchKey),
    /// Processes of a node whose main process is gone are still there: nothing was started beside them.
    Stragglers,
    /// The start that was ordered is done: the node executes.
    Started,
    /// The start that was ordered was not made, and that is nobody's failure: something else is to be started.
    NotYet,
    /// A main process ended; whether others of the node are still there.
    Exited {
        /// How.
        exit: Exit,
        /// Whether another main process is still there.
        others: bool,
        /// Whether everything else is gone, too.
        group_empty: bool,
    },
    /// The node runs, and is to be treated as one that failed.
    Hung(String),
    /// The last process of the group is gone.
    GroupEmpty,
}

/// What the shell is to do to the processes. Each can be done twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start a node.
    Start(LaunchKey),
    /// Ask every main process to end.
    AskMain,
    /// Ask what is left of the group to end, and report when it has.
    AskGroup,
    /// End the whole group now, and report when it has.
    Kill,
}

/// What the agent has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The wanted node runs.
    Up,
    /// It ended although it was wanted, and will be started again unless wanted otherwise.
    Died(Exit),
    /// It ended by itself and well.
    Finished,
    /// It ended and will not be started again: too many failures, or restarts are off.
    GaveUp(Exit),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Down,
    /// Waiting to start `key` again.
    Backoff {
        key: LaunchKey,
        until: Duration,
    },
    Starting {
        key: LaunchKey,
    },
    Running {
        key: LaunchKey,
        since: Duration,
    },
    /// Being stopped. `then` is what happens when the last process is gone.
    Stopping {
        deadline: Duration,
        /// Whether the last main process is gone.
        main_gone: bool,
        asked: Asked,
        then: Then,
    },
    /// Ended for good, as long as `key` is what is wanted.
    Ended {
        key: LaunchKey,
    },
}

/// The last order that a stop has given; each is given once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Nobody,
    Main,
    Group,
    Kill,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Then {
    Down,
    Backoff { key: LaunchKey, until: Duration },
    Ended { key: LaunchKey },
}

/// Keeps one process group as it is wanted.
#[derive(Clone, Debug)]
pub struct Supervisor {
    policy: RestartPolicy,
    state: State,
    startup_failures: u32,
    /// How often it was started again beyond what is configured.
    beyond: u32,
    /// Whether the last start followed a failure.
    again: bool,
    unclean: bool,
}

impl Supervisor {
    /// One that knows of no process yet.
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, state: State::Down, startup_failures: 0, beyond: 0, again: false, unclean: false }
    }

    /// Whether no process of the node is there, and none is being started.
    pub fn is_down(&self) -> bool {
        matches!(self.state, State::Down | State::Backoff { .. } | State::Ended { .. })
    }

    /// Whether the node executes, as far as is known.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Whether the last stop had to be made to happen.
    pub fn was_killed(&self) -> bool {
        self.unclean
    }

    /// How restarts are done from now on; one that is waited for already keeps its time.
    pub fn follow(&mut self, policy: RestartPolicy) {
        self.policy = policy;
    }

    /// The node has shown that it is well: how often it failed before that does not matter any more.
    pub fn forgive(&mut self) {
        self.startup_failures = 0;
        self.beyond = 0;
    }

    /// Whether the start that was ordered last follows a failure of the same node.
    pub fn starts_again(&self) -> bool {
        self.again
    }

    /// When a restart that is waited for is due (monotonic).
    pub fn restarts_at(&self) -> Option<Duration> {
        match &self.state {
            State::Backoff { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// When [`reconcile`](Self::reconcile) is to be called even if nothing happens (monotonic).
    pub fn timeout(&self) -> Option<Duration> {
        match &self.state {
            State::Backoff { until, .. } => Some(*until),
            State::Stopping { deadline, asked, .. } if *asked < Asked::Kill => Some(*deadline),
            _ => None,
        }
    }

    /// Something happened to the processes.
    pub fn observe(&mut self, now: Duration, seen: Seen) -> Option<Report> {
        match (&self.state, seen) {
            (State::Down, Seen::Adopted(key)) => {
                self.state = State::Running { key, since: now };
                Some(Report::Up)
            }
            (State::Down | State::Starting { .. }, Seen::Stragglers) => {
                self.state = self.stopping(now, true, Then::Down);
                None
            }
            (State::Starting { .. }, Seen::NotYet) => {
                self.state = State::Down;
                None
            }
            (State::Starting { key }, Seen::Started) => {
                self.state = State::Running { key: key.clone(), since: now };
                Some(Report::Up)
            }
            (State::Starting { key }, Seen::Exited { exit, others, group_empty }) => {
                let key = key.clone();
                Some(self.ended(now, key, now, exit, others, group_empty))
            }
            (State::Running { key, since }, Seen::Exited { exit, others, group_empty }) => {
                let (key, since) = (key.clone(), *since);
                Some(self.ended(now, key, since, exit, others, group_empty))
            }
            (State::Running { key, since }, Seen::Hung(why)) => {
                let (key, since) = (key.clone(), *since);
                Some(self.ended(now, key, since, Exit::Hung(why), true, false))
            }
            (State::Stopping { then, .. }, Seen::Exited { group_empty: true, .. } | Seen::GroupEmpty) => {
                let then = then.clone();
                self.settle(then);
                None
            }
            (State::Stopping { deadline, asked, then, .. }, Seen::Exited { others: false, .. }) => {
                let (deadline, asked, then) = (*deadline, *asked, then.clone());
                self.state = State::Stopping { deadline, main_gone: true, asked, then };
                None
            }
            _ => None, // late news of a process that was already accounted for
        }
    }

    /// A main process ended although nobody asked it to: the node has failed, whatever else of it is there.
    fn ended(
        &mut self,
        now: Duration,
        key: LaunchKey,
        since: Duration,
        exit: Exit,
        others: bool,
        group_empty: bool,
    ) -> Report {
        let (report, then) = if exit == Exit::Code(0) && self.policy.zero_is_done {
            (Report::Finished, Then::Ended { key })
        } else {
            if now.saturating_sub(since) >= self.policy.startup_period {
                self.forgive();
            } else {
                self.startup_failures = self.startup_failures.saturating_add(1);
            }
            if !self.policy.on_failure || self.startup_failures >= self.policy.max_startup_failures.max(1) {
                (Report::GaveUp(exit), Then::Ended { key })
            } else {
                (Report::Died(exit), Then::Backoff { key, until: now + self.policy.delay })
            }
        };
        if group_empty {
            self.settle(then);
        } else {
            self.state = self.stopping(now, !others, then);
        }
        report
    }

    fn settle(&mut self, then: Then) {
        self.state = match then {
            Then::Down => State::Down,
            Then::Backoff { key, until } => State::Backoff { key, until },
            Then::Ended { key } => State::Ended { key },
        };
    }

    fn stopping(&self, now: Duration, main_gone: bool, then: Then) -> State {
        State::Stopping { deadline: now + self.policy.grace, main_gone, asked: Asked::Nobody, then }
    }

    /// What to do now so that `wanted` becomes true. Called after every event and at every timeout, until it answers
    /// `None`: there is nothing to do but wait.
    pub fn reconcile(&mut self, now: Duration, wanted: &Wanted) -> Option<Order> {
        match (&self.state, wanted) {
            (State::Down, Wanted::Running(key, _)) => Some(self.start(key)),
            (State::Backoff { key, .. } | State::Ended { key }, Wanted::Running(other, _)) if other != key => {
                self.forgive();
                Some(self.start(other))
            }
            (State::Ended { key }, Wanted::Running(_, Endurance::ForEver)) => {
                let pause = self.policy.delay.max(Duration::from_secs(1)) * 2_u32.saturating_pow(self.beyond.min(12));
                self.beyond = self.beyond.saturating_add(1);
                self.state = State::Backoff { key: key.clone(), until: now + pause.min(LONGEST_PAUSE) };
                None
            }
            (State::Backoff { key, until }, Wanted::Running(..)) if now >= *until => {
                let key = key.clone();
                let order = self.start(&key);
                self.again = true;
                Some(order)
            }
            (State::Backoff { .. } | State::Ended { .. }, Wanted::Stopped) => {
                self.state = State::Down;
                None
            }
            (State::Running { key, .. }, Wanted::Running(other, _)) if key == other => None,
            (State::Running { .. }, _) => {
                self.forgive();
                self.state = self.stopping(now, false, Then::Down);
                self.press(now)
            }
            (State::Stopping { .. }, _) => self.press(now),
            _ => None,
        }
    }

    /// The next order of a stop, if it is time for one.
    fn press(&mut self, now: Duration) -> Option<Order> {
        let State::Stopping { deadline, main_gone, asked, .. } = &mut self.state else { return None };
        let (next, order) = if now >= *deadline {
            (Asked::Kill, Order::Kill)
        } else if *main_gone {
            (Asked::Group, Order::AskGroup)
        } else {
            (Asked::Main, Order::AskMain)
        };
        if *asked >= next {
            return None;
        }
        *asked = next;
        self.unclean |= next == Asked::Kill;
        Some(order)
    }

    fn start(&mut self, key: &LaunchKey) -> Order {
        self.unclean = false;
        self.again = false;
        self.state = State::Starting { key: key.clone() };
        Order::Start(key.clone())
    }
}

#[cfg(test)]
mod tests;
