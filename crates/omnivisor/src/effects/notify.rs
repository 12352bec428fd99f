//! The socket at which a node says that it is ready, as services say it to systemd (`sd_notify`): `READY=1` in a datagram. All
//! else that can be said there is not listened to.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// The variable that names it.
pub const VARIABLE: &str = "NOTIFY_SOCKET";

/// The longest path that a socket can have.
pub const LONGEST: usize = 107;

/// What a message may have; systemd takes as much.
const MESSAGE: usize = 4096;

/// What a node is told of where it can say that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// What we were told ourselves: nobody here listens, and perhaps somebody else does.
    Passed,
    /// Here.
    At(&'a Path),
    /// Nothing: it would be here, and cannot be.
    Nothing,
}

/// Who has sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The process, which may be gone; 0 if it cannot be seen from here.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// The socket; its file is removed when it is dropped.
pub struct NotifySocket {
    socket: AsyncFd<OwnedFd>,
    path: PathBuf,
}

impl NotifySocket {
    /// Opens it, in the place of one that an earlier supervisor has left. Only this user can write to it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        sockopt::set_socket_passcred(&socket, true)?; // before anybody can send anything
        let _ = std::fs::remove_file(path);
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::fs::chmod(path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        Ok(Self { socket: sys::awaitable(socket)?, path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until something was sent, or may have been.
    pub async fn readable(&self) {
        if self.socket.readable().await.is_err() {
            std::future::pending::<()>().await; // the runtime ends
        }
    }

    /// The next message, if there is one: who says so, and whether that is that the node is ready.
    pub fn receive(&self) -> Option<(Option<Sender>, bool)> {
        let mut bytes = [0_u8; MESSAGE];
        let received = self.socket.try_io(Interest::READABLE, |socket| sys::receive_from(socket, &mut bytes)).ok()?;
        let (length, sender) = received;
        let says_ready = bytes[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1");
        Some((sender.map(|(pid, uid)| Sender { pid, uid }), says_ready))
    }

    /// What was sent up to now counts no more.
    pub fn forget(&self) {
        // As many as a queue can hold, many times over: somebody may send faster than this.
        (0..10_000).find(|_| self.receive().is_none());
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[tokio::test]
    async fn who_says_that_it_is_ready_is_known_and_what_was_said_before_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify.sock");
        drop(UnixDatagram::bind(&path).unwrap()); // left by somebody who was killed
        let socket = NotifySocket::open(&path).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        let own = Sender { pid: std::process::id().cast_signed(), uid: rustix::process::geteuid().as_raw() };
        assert_eq!(socket.receive(), None);
        for (text, is_ready) in [
            ("READY=1", true),
            ("STATUS=x\nREADY=1\nMAINPID=1", true),
            ("READY=0", false),
            ("NOTREADY=1", false),
            ("READY=11", false),
            ("", false),
            (&"x".repeat(10_000), false),
        ] {
            sender.send_to(text.as_bytes(), &path).unwrap();
            socket.readable().await;
            assert_eq!(socket.receive(), Some((Some(own), is_ready)), "{text:.20}");
        }
        sender.send_to(b"READY=1", &path).unwrap();
        socket.forget();
        assert_eq!(socket.receive(), None);
        drop(socket);
        assert!(!path.exists());
    }
}
