//! End a node whose supervisor is gone, as its supervisor would: asked first, then made to, with all that it has left behind.

use std::time::Duration;

use omnivisor_core::dialect::Dialect;
use omnivisor_core::supervisor::{LaunchKey, Order, RestartPolicy, Seen, Supervisor, Wanted};
use rustix::process::Signal;
use tokio::sync::mpsc;

use super::claim::{StartError, claim, state};
use super::present::Present;
use super::start::unknown;
use super::survey::supervisor;
use crate::clock;
use crate::effects::cgroup::Cgroup;
use crate::effects::group::Group;
use crate::effects::process::{Main, Node};
use crate::store::lock::Inherited;

/// What is left after the first time may have been started meanwhile; what is left after this often is started by somebody.
const ROUNDS: usize = 5;

/// What was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The node's main process, if that was there.
    pub main: Option<i32>,
    /// How many others were found at first.
    pub others: usize,
    /// Whether it had to be killed.
    pub killed: bool,
}

/// Who has an instance that nobody seems to supervise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// A supervisor that cannot be asked from here: what it says of itself.
    Supervisor(String),
    /// A node without one: its first main process.
    Node(i32),
}

/// Looks, and changes nothing; none if nothing runs.
pub fn look_for_orphan(dialect: &dyn Dialect, shared: bool) -> Option<Left> {
    let supervisor = supervisor(dialect).map(Left::Supervisor);
    supervisor.or_else(|| Some(Left::Node(Present::look(dialect, shared).mains.first()?.process.pid)))
}

/// Ends whatever is left of an instance's node, and returns when the last process is gone; none if nothing is there. Nobody can
/// begin to supervise it meanwhile; somebody who does already, or a peer that runs the node, is an error.
pub async fn end_orphan(
    dialect: &dyn Dialect,
    shared: bool,
    grace: Duration,
    allow_network_file_system: bool,
) -> Result<Option<Ended>, StartError> {
    // Where we never were, nothing is left behind.
    let _locks = match dialect.paths().state.exists() {
        true => Some(claim(dialect, allow_network_file_system, &mut Inherited::default()).await?),
        false => None,
    };
    let present = Present::find(dialect, shared, &mut Inherited::default())?;
    present.refuse_peer()?;
    let (roll, kin) = (present.roll, present.kin);
    let mut ended = Ended { main: None, others: roll.stragglers.len(), killed: false };
    let policy = RestartPolicy {
        on_failure: false,
        delay: Duration::ZERO,
        startup_period: Duration::ZERO,
        max_startup_failures: 1,
        grace,
        zero_is_done: true,
    };
    // Its own end first, which may be the end of the others; then what is left of them.
    if let Some(first) = roll.mains.first() {
        ended.main = Some(first.process.pid);
        let mains = roll.mains.iter().map(|main| Main::adopt("node", main.process));
        let node =
            Node::new(mains.collect::<Result<_, _>>().map_err(state("the node cannot be watched".to_owned()))?, kin);
        let (sender, seen) = mpsc::unbounded_channel();
        node.watch(&sender);
        let mut supervisor = Supervisor::new(policy);
        let key = LaunchKey { installed: unknown(first.folder.clone()), generation: 0 };
        supervisor.observe(clock::now().monotonic, Seen::Adopted(key));
        press(&mut supervisor, Some(&node), &node.group(), dialect.stop_signal(), (sender, seen)).await;
        ended.killed |= supervisor.was_killed();
    }
    for _ in 0..ROUNDS {
        let present = Present::find(dialect, shared, &mut Inherited::default())?;
        present.refuse_peer()?;
        let (roll, kin) = (present.roll, present.kin);
        let left: Vec<_> = roll.mains.iter().map(|main| main.process).chain(roll.stragglers).collect();
        if left.is_empty() {
            kin.cgroup.iter().for_each(Cgroup::remove);
            return Ok((ended.main.is_some() || ended.others > 0).then_some(ended));
        }
        let mut supervisor = Supervisor::new(policy);
        supervisor.observe(clock::now().monotonic, Seen::Stragglers);
        let signal = dialect.stop_signal();
        press(&mut supervisor, None, &Group::of(left, kin), signal, mpsc::unbounded_channel()).await;
        ended.killed |= supervisor.was_killed();
    }
    Err(StartError::State {
        what: format!("processes of {} are there again and again", dialect.instance()),
        source: std::io::Error::other("something starts them anew"),
    })
}

/// Follows the supervisor's orders until nothing is left.
async fn press(
    supervisor: &mut Supervisor,
    node: Option<&Node>,
    group: &Group,
    signal: i32,
    (sender, mut seen): (mpsc::UnboundedSender<Seen>, mpsc::UnboundedReceiver<Seen>),
) {
    loop {
        while let Some(order) = supervisor.reconcile(clock::now().monotonic, &Wanted::Stopped) {
            match order {
                Order::Start(_) => {}
                Order::AskMain => {
                    if let Some(Err(error)) = node.map(|node| node.signal(signal)) {
                        tracing::error!(%error, "the node cannot be asked to end");
                    }
                }
                Order::AskGroup | Order::Kill => {
                    let kill = order == Order::Kill;
                    group.signal(&group.members(), if kill { Signal::KILL } else { Signal::TERM });
                    group.clone().watch_empty(kill, sender.clone());
                }
            }
        }
        if supervisor.is_down() {
            return;
        }
        let wait = supervisor.timeout().map(|at| at.saturating_sub(clock::now().monotonic));
        tokio::select! {
            Some(it) = seen.recv() => {
                supervisor.observe(clock::now().monotonic, it);
            }
            () = tokio::time::sleep(wait.unwrap_or(Duration::from_secs(1))) => {}
        }
    }
}
