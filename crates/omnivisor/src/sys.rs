//! The system calls that no safe crate offers: the only unsafe code of the program.

#![allow(unsafe_code, reason = "each block says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
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
        empty_mask()?;
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
    // SAFETY: between fork and exec only async-signal-safe calls are made: sigprocmask, close, fcntl, getpid, write, read and _exit; nothing is allocated, no lock is taken, and errors carry a number only.
    unsafe { command.pre_exec(wait) };
}

/// Gives what `command` executes an empty signal mask: a supervisor blocks what ends it, and a child would never hear that.
pub fn unblock_signals(command: &mut Command) {
    // SAFETY: between fork and exec one async-signal-safe call is made; nothing is allocated, and errors carry a number only.
    unsafe { command.pre_exec(empty_mask) };
}

fn empty_mask() -> io::Result<()> {
    let empty = set_of(&[]);
    // SAFETY: the set is initialised, and the old one is not asked for.
    match unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Blocks `signals` in this thread and in those that it makes from now on, so that they wait to be read; one that was
/// ignored is not ignored any more.
pub fn block_signals(signals: &[i32]) -> io::Result<()> {
    let set = set_of(signals);
    // SAFETY: the set is initialised, and the old one is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    for signal in signals {
        // SAFETY: the default action has no code of ours that could run at the wrong time.
        if unsafe { libc::signal(*signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A descriptor from which these signals are read while they are blocked. Close-on-exec, not blocking.
pub fn signal_descriptor(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = set_of(signals);
    // SAFETY: the set is initialised; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The signal that is read next; none if none is waiting.
pub fn read_signal(fd: &OwnedFd) -> Option<i32> {
    let mut told = [0_u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(fd, &mut told) {
        // Its first field is the signal's number.
        Ok(length) if length == told.len() => Some(i32::from_ne_bytes([told[0], told[1], told[2], told[3]])),
        _ => None,
    }
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: a set is plain numbers, of which zero is one; it is made empty before it is used.
    let mut set = unsafe { std::mem::zeroed::<libc::sigset_t>() };
    // SAFETY: the set is ours; a number that is no signal is refused, and changes nothing.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in signals {
        // SAFETY: as above.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    set
}

/// Lets what `command` executes inherit these descriptors, which have to stay open until then.
pub fn pass_on(command: &mut Command, descriptors: Vec<RawFd>) {
    let inherit = move || {
        for descriptor in &descriptors {
            // SAFETY: it takes a number and changes a flag; a number that is no descriptor is refused.
            if unsafe { libc::fcntl(*descriptor, libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec one async-signal-safe call is made; nothing is allocated, and errors carry a number only.
    unsafe { command.pre_exec(inherit) };
}

/// Takes a descriptor that this process was started with, which its children do not inherit from now on. None if it is not
/// there, or one of the three that everybody has. To be called at the very start, and once for each: nobody else may own it.
pub fn inherited(descriptor: RawFd) -> Option<OwnedFd> {
    // SAFETY: it takes a number and changes a flag; a number that is no descriptor is refused.
    if descriptor < 3 || unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: it is open, and was opened before this process began: nothing in it owns it yet.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Takes a variable out of the environment. To be called before there is any other thread.
pub fn remove_variable(name: &str) {
    // SAFETY: no other thread can read the environment meanwhile, as there is none.
    unsafe { std::env::remove_var(name) };
}

/// A descriptor whose readability can be awaited.
pub fn awaitable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, so it stays open for as long as it is registered.
    unsafe { AsyncFd::register(fd) }.map_err(Into::into)
}

/// Writes the dirty pages of a file, and waits for that: whoever writes to it through a mapping after that changes its time stamp.
/// Nothing is durable.
pub fn clean_pages(file: impl AsFd) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the call takes numbers only, and the descriptor is open for as long as it is borrowed.
    match unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), 0, 0, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Begins to write the dirty pages of a file, and does not wait for that. Nothing is durable.
pub fn start_writing(file: impl AsFd) -> io::Result<()> {
    // SAFETY: the call takes numbers only, and the descriptor is open for as long as it is borrowed.
    match unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// From now on this thread is served by a disk when nobody else wants to be, if the disk's scheduler knows of that.
pub fn use_idle_disk_only() -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1; // which is a thread
    const THIS: libc::c_int = 0;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    // SAFETY: the call takes numbers only. The C library has no function for it.
    match unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, THIS, CLASS_IDLE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The number of a descriptor, for [`Gate::go_sender`].
pub fn number(fd: impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}

/// Takes one datagram from a socket that tells who sends (`SO_PASSCRED`): how long it is, and the sender's process and user. The
/// process is 0 where it is out of sight, in a namespace of its own. Descriptors that come with it are closed. Never waits.
pub fn receive_from(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<(usize, Option<(i32, u32)>)> {
    const LENGTH: u32 = size_of::<libc::ucred>() as u32;
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // Aligned as a header has to be, and with no room for anything but the sender.
    let mut control = [0_u64; 8];
    // SAFETY: a message header is plain numbers and pointers, of which zero is one; what is needed of it is set below.
    let mut message = unsafe { std::mem::zeroed::<libc::msghdr>() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut vector, 1);
    message.msg_control = (&raw mut control).cast();
    // SAFETY: it computes with a number.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(LENGTH) } as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header points to two buffers of ours, of the lengths that it says, that outlive the call.
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the header is as the kernel has left it, and its control buffer is still there.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: it is null, or points to a whole header in the control buffer, which is aligned for it.
    let sender = unsafe { first.as_ref() }.filter(|first| {
        // SAFETY: it computes with a number.
        let whole = unsafe { libc::CMSG_LEN(LENGTH) } as _;
        (first.cmsg_level, first.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) && first.cmsg_len >= whole
    });
    let sender = sender.map(|_| {
        // SAFETY: the header says that a whole sender follows it, and any bytes are one.
        let sender = unsafe { libc::CMSG_DATA(first).cast::<libc::ucred>().read_unaligned() };
        (sender.pid, sender.uid)
    });
    Ok((length, sender))
}
