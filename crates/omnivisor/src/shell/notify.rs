//! Hear a node say that it is ready, where its probe waits for that: from a process of its own, and in this life of it.
//!
//! Before each start everything that was sent is dropped, and nothing of an earlier node is alive then: what comes after that is
//! of this life. That it was said is noted in `launch.json`, as a node says it once: a supervisor that takes the node over later
//! reads it there. What is said while there is no supervisor is lost, and the node is then taken to have said nothing.

use std::path::PathBuf;

use omnivisor_core::agent::Event;
use omnivisor_core::dialect::Dialect;
use omnivisor_core::release::Algorithm;
use rustix::process::geteuid;

use super::{Shell, present};
use crate::control;
use crate::effects::digest;
use crate::effects::notify::{self, NotifySocket, Sender, Told};
use crate::effects::process::ProcessId;
use crate::effects::roll_call::{LaunchRecord, Readiness};

/// The socket in the state folder.
const FILE: &str = "notify.sock";

/// Messages in one turn of the loop: somebody who sends without an end must not keep us from the node.
const A_TURN: usize = 8;

/// Where a node says that it is ready.
#[derive(Default)]
pub(super) struct Ears {
    socket: Option<NotifySocket>,
    /// Whether the node that runs has said it.
    heard: bool,
}

impl Ears {
    /// What a node that is started now is told.
    pub(super) fn told(&self, is_wanted: bool) -> Told<'_> {
        match &self.socket {
            _ if !is_wanted => Told::Passed,
            Some(socket) => Told::At(socket.path()),
            None => Told::Nothing,
        }
    }

    /// Waits until something may have been said; for ever, where nobody listens.
    pub(super) async fn readable(&self) {
        match &self.socket {
            Some(socket) => socket.readable().await,
            None => std::future::pending().await,
        }
    }
}

impl Shell {
    /// Whether the probe waits for the node's word.
    pub(super) fn waits_for_ready(&self) -> bool {
        self.dialect.probe().waits_for_ready()
    }

    /// Before a start: what was said up to now is of an earlier life.
    pub(super) fn prick_ears(&mut self) {
        self.ears.heard = false;
        if !self.waits_for_ready() {
            self.ears.socket = None;
            return;
        }
        if self.ears.socket.is_none() {
            self.ears.socket = self.open_notify_socket(place(&*self.dialect));
        }
        if let Some(socket) = &self.ears.socket {
            socket.forget();
        }
    }

    /// After a node was taken over, or the configuration was: it goes on saying it where it was told. `launch` is its record.
    pub(super) fn listen_again(&mut self, launch: Option<&LaunchRecord>) {
        if !self.waits_for_ready() || self.ears.socket.is_some() {
            return;
        }
        let mains = self.node.iter().flat_map(|node| node.mains()).map(|main| main.id());
        let is_its = launch.is_some_and(|launch| mains.into_iter().any(|main| main == launch.process));
        let readiness = launch.filter(|_| is_its).and_then(|launch| launch.readiness.clone());
        let socket = readiness.as_ref().map(|it| it.socket.clone());
        self.ears.socket = self.open_notify_socket(socket.or_else(|| place(&*self.dialect)));
        if self.node.is_none() {
            return;
        }
        match readiness {
            Some(Readiness { said: false, .. }) => {}
            Some(Readiness { said: true, .. }) => self.is_ready(),
            // Nobody has told it where: it cannot be blamed.
            None => {
                tracing::warn!("the node was started without a NOTIFY_SOCKET: its READY=1 is not waited for");
                self.is_ready();
            }
        }
    }

    fn open_notify_socket(&self, place: Option<PathBuf>) -> Option<NotifySocket> {
        let Some(path) = place else {
            tracing::error!(
                "the node has no socket to say READY=1 to: the path of the state folder is too long for one, and there is no \
                 runtime folder; set OMNIVISOR_RUNTIME_DIR"
            );
            return None;
        };
        let open = NotifySocket::open(&path);
        open.inspect_err(|error| {
            tracing::error!(path = %path.display(), %error, "the socket to which the node is to say READY=1 cannot be made");
        })
        .ok()
    }

    fn is_ready(&mut self) {
        self.ears.heard = true;
        self.waiting.push_back(Event::NodeReady);
    }

    /// Something may have been said.
    pub(super) fn hear_ready(&mut self) {
        for _ in 0..A_TURN {
            let Some((sender, is_ready)) = self.ears.socket.as_ref().and_then(NotifySocket::receive) else { return };
            if !is_ready || self.ears.heard {
                continue;
            }
            if !sender.is_some_and(|sender| self.is_the_nodes(sender)) {
                tracing::warn!(?sender, "READY=1 was said by somebody who is none of the node's: it is not believed");
                continue;
            }
            tracing::info!("the node says that it is ready");
            self.note_ready();
            self.is_ready();
        }
    }

    /// Whether this is a process of the node that runs. One that is gone already, or is out of sight, is judged by its user.
    fn is_the_nodes(&self, sender: Sender) -> bool {
        let Some(group) = self.group.as_ref().filter(|_| self.supervisor.is_running()) else { return false };
        match ProcessId::of(sender.pid) {
            Some(process) => group.members().contains(&process),
            None => sender.uid == geteuid().as_raw() || sender.uid == 0,
        }
    }

    /// For whoever takes the node over. Where that cannot be written, it is as if it had not been said.
    fn note_ready(&self) {
        let file = self.dialect.paths().state.join(present::LAUNCH);
        let Some(mut launch) = LaunchRecord::read(&file) else { return };
        let Some(readiness) = &mut launch.readiness else { return };
        readiness.said = true;
        if let Err(error) = launch.write(&file) {
            tracing::warn!(path = %file.display(), %error, "that the node is ready cannot be noted");
        }
    }
}

/// The same for all supervisors of an instance: in the state folder, or, as the path of a socket has its limit, in the runtime
/// folder.
fn place(dialect: &dyn Dialect) -> Option<PathBuf> {
    let fits = |path: &PathBuf| path.as_os_str().len() <= notify::LONGEST;
    let state = &dialect.paths().state;
    let short = || {
        let folder = control::runtime_folder(|name| std::env::var_os(name))?;
        let digest = digest::of_bytes(Algorithm::Sha256, state.as_os_str().as_encoded_bytes()).to_hex();
        Some(folder.join(format!("notify-{}.sock", digest.get(..16)?)))
    };
    Some(state.join(FILE)).filter(fits).or_else(short).filter(fits)
}
