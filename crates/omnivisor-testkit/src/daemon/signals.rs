//! The signals that stop a daemon, as something that can be waited for.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};

/// Each through its own pipe.
pub(crate) struct Signals([(i32, UnixStream); 3]);

impl Signals {
    pub(crate) fn register() -> Self {
        Self([SIGINT, SIGTERM, SIGQUIT].map(|signal| {
            let (reads, writes) = UnixStream::pair().unwrap();
            signal_hook::low_level::pipe::register(signal, writes).unwrap();
            (signal, reads)
        }))
    }

    /// The next signal, or `None` at the deadline.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Option<i32> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.map(|left| Timespec::try_from(left).unwrap());
            let mut ends = self.0.each_ref().map(|(_, end)| PollFd::new(end, PollFlags::IN));
            let ready = match poll(&mut ends, timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result.unwrap(),
            };
            if ready == 0 {
                return None;
            }
            let first = ends.iter().position(|end| !end.revents().is_empty()).unwrap();
            let (signal, end) = &mut self.0[first];
            end.read_exact(&mut [0]).unwrap();
            return Some(*signal);
        }
    }
}
