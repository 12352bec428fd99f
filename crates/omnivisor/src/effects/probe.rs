//! Look once at everything that a new node has to show: side by side, each look within its time.

mod command;
mod http;
mod json;
mod tcp;

use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use omnivisor_core::health::{Answer, Check, HealthProbe, Sighting};

use super::http::{Http, HttpError};

/// What a page may have. A probe asks for a word or a number.
const LONGEST_PAGE: u64 = 1024 * 1024;

/// Takes all looks of this probe of the node whose home this is. Each takes at most `rhythm.timeout`, and whatever it meets, it is
/// seen or failed.
pub async fn sample(probe: &HealthProbe, home: &Path) -> Vec<Sighting> {
    let asker = Asker::of(&probe.checks);
    let timeout = probe.rhythm.timeout;
    let looks = probe
        .checks
        .iter()
        .map(|check| async { Sighting { check: check.clone(), answer: look(check, &asker, home, timeout).await } });
    together(looks).await
}

async fn look(check: &Check, asker: &Asker, home: &Path, timeout: Duration) -> Result<Answer, String> {
    match check {
        Check::Command(argv) => command::look(argv, home, timeout).await,
        Check::Http(page) => http::look(page, asker.http()?, timeout).await,
        Check::Tcp { host, port } => tcp::look(host, *port, timeout).await,
        Check::Json(value) => json::look(value, asker.http()?, timeout).await,
        Check::Notify => Ok(Answer::Done), // it comes by itself
    }
}

/// What pages are asked for with, for one sample: what it keeps is memory.
struct Asker(Option<Result<Http, HttpError>>);

impl Asker {
    fn of(checks: &[Check]) -> Self {
        let urls = checks.iter().filter_map(|check| match check {
            Check::Http(page) => Some(&page.url),
            Check::Json(value) => Some(&value.url),
            _ => None,
        });
        let secure: Vec<bool> = urls.map(|url| url.scheme() == "https").collect();
        Self((!secure.is_empty()).then(|| Http::direct(secure.contains(&true))))
    }

    fn http(&self) -> Result<&Http, String> {
        match &self.0 {
            Some(Ok(http)) => Ok(http),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("no page is asked for".to_owned()),
        }
    }
}

/// An error without the address, which is said before it.
fn reason(error: HttpError) -> String {
    match error {
        HttpError::Transport { reason, .. } => reason,
        HttpError::Status { status, .. } => format!("it answered {status}"),
        HttpError::TooLarge { limit, .. } => format!("it answers with more than {} KiB", limit / 1024),
    }
}

/// All of these at the same time, on this thread; what came of them, in order.
async fn together<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<(Pin<Box<_>>, Option<T>)> = futures.map(|future| (Box::pin(future), None)).collect();
    poll_fn(|context| {
        for (future, done) in pending.iter_mut().filter(|(_, done)| done.is_none()) {
            if let Poll::Ready(it) = future.as_mut().poll(context) {
                *done = Some(it);
            }
        }
        if pending.iter().all(|(_, done)| done.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    pending.into_iter().filter_map(|(_, done)| done).collect()
}
