//! The signals that end a run, and the one that does not.
//!
//! They are blocked, and read from a descriptor: what has come and was not read yet still waits after an exec, so none is
//! lost when the supervisor replaces itself.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::Signal;
use tokio::io::unix::AsyncFd;

use crate::sys;

const HEARD: [i32; 4] = [Signal::INT.as_raw(), Signal::TERM.as_raw(), Signal::QUIT.as_raw(), Signal::HUP.as_raw()];

/// What has come.
pub struct Signals(AsyncFd<OwnedFd>);

impl Signals {
    /// Keeps what comes from now on until it is listened to. To be called before any thread is made: one that does not block them
    /// would be ended by them, and everything with it.
    pub fn hold() -> io::Result<()> {
        sys::block_signals(&HEARD)
    }

    /// Listens to what has come since they were held.
    pub fn listen() -> io::Result<Self> {
        Ok(Self(sys::awaitable(sys::signal_descriptor(&HEARD)?)?))
    }

    /// Waits for one that ends the run, and names it. Cancel-safe.
    pub async fn ended(&mut self) -> &'static str {
        loop {
            let Ok(mut ready) = self.0.readable().await else { return std::future::pending().await };
            match sys::read_signal(self.0.get_ref()).and_then(Signal::from_named_raw) {
                Some(Signal::INT) => return "SIGINT",
                Some(Signal::TERM) => return "SIGTERM",
                Some(Signal::QUIT) => return "SIGQUIT",
                Some(Signal::HUP) => tracing::info!("SIGHUP: the terminal is gone, the node stays"),
                Some(_) => {}
                None => ready.clear_ready(),
            }
        }
    }
}
