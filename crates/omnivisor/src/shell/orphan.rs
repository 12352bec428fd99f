//! End a node whose supervisor is gone, as its supervisor would: asked first, then made to, with all that it has left behind.

use std::time::Duration;

use omnivisor_core::dialect::Dialect;
use omnivisor_core::supervisor::{LaunchKey, Order, RestartPolicy, Seen, Supervisor, Wanted};
use rustix::process::Signal;
use tokio::sync::mpsc;

use super::claim::{StartError, claim, state};
use super::present::Present;
use super::start::unknown;
use crate::clock;
use crate::effects::process::{Group, Node};

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
        true => Some(claim(dialect, allow_network_file_system).await?),
        false => None,
    };
    let roll = Present::find(dialect, shared)?.roll;
    if let (Some(main), Some((peer, name))) = (&roll.main, &roll.peer) {
        return Err(StartError::Peer { node: main.process.pid, peer: *peer, name: name.clone() });
    }
    let mut ended = Ended { main: None, others: roll.stragglers.len(), killed: false };
    let policy = RestartPolicy {
        on_failure: false,
        delay: Duration::ZERO,
        startup_period: Duration::ZERO,
        max_startup_failures: 1,
        grace,
        zero_is_done: true,
    };
    let (sender, mut seen) = mpsc::unbounded_channel();
    // Its own end first, which may be the end of the others; then what is left of them.
    if let Some(main) = roll.main {
        ended.main = Some(main.process.pid);
        let node = Node::adopt(main.process).map_err(state("the node cannot be watched".to_owned()))?;
        node.watch(sender.clone()).map_err(state("the node cannot be watched".to_owned()))?;
        let mut supervisor = Supervisor::new(policy);
        let key = LaunchKey { installed: unknown(main.folder), generation: 0 };
        supervisor.observe(clock::now().monotonic, Seen::Adopted(key));
        press(&mut supervisor, Some(&node), &node.group(), dialect.stop_signal(), (&sender, &mut seen)).await;
        ended.killed |= supervisor.was_killed();
    }
    let left = Present::find(dialect, shared)?.roll;
    let left: Vec<_> = left.main.iter().map(|main| main.process).chain(left.stragglers).collect();
    if !left.is_empty() {
        let mut supervisor = Supervisor::new(policy);
        supervisor.observe(clock::now().monotonic, Seen::Stragglers);
        press(&mut supervisor, None, &Group::Only(left), dialect.stop_signal(), (&sender, &mut seen)).await;
        ended.killed |= supervisor.was_killed();
    }
    Ok((ended.main.is_some() || ended.others > 0).then_some(ended))
}

/// Follows the supervisor's orders until nothing is left.
async fn press(
    supervisor: &mut Supervisor,
    node: Option<&Node>,
    group: &Group,
    signal: i32,
    (sender, seen): (&mpsc::UnboundedSender<Seen>, &mut mpsc::UnboundedReceiver<Seen>),
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
                    group.signal(if kill { Signal::KILL } else { Signal::TERM });
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
