//! The system calls that no safe crate offers: the only unsafe code of the program.

#![allow(unsafe_code, reason = "each block says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use tokio::io::unix::AsyncFd;

/// What a child does between fork and exec: says that it is there, and waits until it may go on.
pub struct Gate {
    /// The child writes its process id here, four bytes in native order.
    pub ready: OwnedFd,
    /// The child reads one byte from here before it executes anything; end of file means that its parent is gone.
    pub go: OwnedFd,
    /// The other end of `go`. The child has a copy and must close it, or it would wait for itself for ever.
    pub go_sender: RawFd,
    /// Descriptors that the program is to inherit: the node's locks.
    pub inherit: Vec<OwnedFd>,
}

/// Puts `gate` in front of what `command` executes.
pub fn hold_at_gate(command: &mut Command, gate: Gate) {
    let Gate { ready, go, go_sender, inherit } = gate;
    let wait = move || {
        // SAFETY: the descriptor is this process's own copy of the parent's end, made by fork; nothing else uses it here.
        unsafe { rustix::io::close(go_sender) };
        for lock in &inherit {
            fcntl_setfd(lock, FdFlags::empty())?;
        }
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        rustix::io::write(&ready, &pid.to_ne_bytes())?;
        loop {
            match rustix::io::read(&go, &mut [0_u8]) {
                Ok(1) => return Ok(()),
                // The parent is gone, so nobody is left to be told of an error.
                // SAFETY: ends this process without running anything of its parent's.
                Ok(_) => unsafe { libc::_exit(1) },
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are made: close, fcntl, getpid, write, read and _exit; nothing is allocated, no lock is taken, and errors carry a number only.
    unsafe { command.pre_exec(wait) };
}

/// A descriptor whose readability can be awaited.
pub fn awaitable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, so it stays open for as long as it is registered.
    unsafe { AsyncFd::register(fd) }.map_err(Into::into)
}

/// The number of a descriptor, for [`Gate::go_sender`].
pub fn number(fd: impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}
