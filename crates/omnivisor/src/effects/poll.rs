//! Ask an upstream every so often, and bring what it says into the queue.

use std::time::Duration;

use omnivisor_core::dialect::{Dialect, DialectError, Limits, Merge};
use omnivisor_core::github::Release;

use super::github::GitHubError;
use super::http::{Http, HttpError};
use crate::checkpoint;
use crate::store::atomic;
use crate::store::lock::{Lock, LockError};
use crate::store::small;

/// The largest announcement: build information and notes are kilobytes.
pub(super) const LARGEST: u64 = 1 << 20;
/// All of it within this.
pub(super) const ANSWER: Duration = Duration::from_secs(60);
/// How long somebody else may take to change the queue.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often somebody who takes no lock may be faster.
const TRIES: usize = 50;

/// Why an upstream's answer changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// There was none.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// GitHub has none.
    #[error(transparent)]
    GitHub(#[from] GitHubError),
    /// It is not what it should be, or the queue is not.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// Somebody else is changing the queue.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The queue cannot be read or written.
    #[error("{path} cannot be read or written: {source}", path = .path.display())]
    Queue {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Asks once.
pub async fn ask(url: &str) -> Result<Vec<u8>, PollError> {
    Ok(Http::new()?.get_small(url, LARGEST, ANSWER).await?)
}

/// Brings an answer into the queue, entry by entry: what somebody else wrote there stays. Durable when it returns.
pub fn merge(dialect: &dyn Dialect, answer: &[u8], url: &str, limits: &Limits<'_>) -> Result<Merge, PollError> {
    change(dialect, |queue| dialect.merge(queue, answer, url, limits))
}

/// Withdraws what was announced of releases that are no more. Durable when it returns.
pub fn prune(dialect: &dyn Dialect, place: &str, releases: &[Release]) -> Result<Merge, PollError> {
    change(dialect, |queue| dialect.prune(queue, place, releases))
}

fn change(dialect: &dyn Dialect, how: impl Fn(&[u8]) -> Result<Merge, DialectError>) -> Result<Merge, PollError> {
    let path = &dialect.paths().queue;
    let _lock = Lock::take_shared_within(&dialect.paths().shared_lock, PATIENCE)?;
    let wrong = |source| PollError::Queue { path: path.clone(), source };
    for _ in 0..TRIES {
        let queue = small::read(path).map_err(wrong)?;
        let merge = how(&queue)?;
        let Some(merged) = &merge.queue else { return Ok(merge) };
        checkpoint::reach("poll-before-queue");
        if atomic::replace_if(path, Some(&queue), merged, 0o644).map_err(wrong)? {
            return Ok(merge);
        }
    }
    Err(wrong(std::io::Error::other("somebody else writes it as fast as we do")))
}
