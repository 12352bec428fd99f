//! The signals that end a run, and the one that does not.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens from the moment it is made: before that a signal would end the supervisor where it stands.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hangup: Signal,
}

impl Signals {
    /// Begins to listen.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one that ends the run, and names it. Cancel-safe.
    pub async fn ended(&mut self) -> &'static str {
        loop {
            tokio::select! {
                biased;
                Some(()) = self.interrupt.recv() => return "SIGINT",
                Some(()) = self.terminate.recv() => return "SIGTERM",
                Some(()) = self.quit.recv() => return "SIGQUIT",
                Some(()) = self.hangup.recv() => tracing::info!("SIGHUP: the terminal is gone, the node stays"),
            }
        }
    }
}
