//! Ask upstreams every so often, and bring what they say into the queue; the queue's change is what the agent hears of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use omnivisor_core::agent::Agent;
use omnivisor_core::dialect::{Dialect, Watch};
use omnivisor_core::release::{Release, Version};
use tokio::sync::watch;

use super::Shell;
use crate::effects::{http, poll};

/// However often it is configured: nobody's upstream is asked faster.
const LEAST: Duration = Duration::from_millis(100);

/// How soon what was said already is said again.
const AGAIN: Duration = Duration::from_secs(24 * 3600);

/// What the poll task has to know of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    floor: Version,
    denied: Vec<Release>,
}

impl Shell {
    /// Begins to ask.
    pub(super) fn poll(&self) -> Vec<tokio::task::JoinHandle<()>> {
        let urls = self.dialect.watches().into_iter().filter_map(|watch| match watch {
            Watch::Url { url, every } => Some((url, every)),
            Watch::File(_) | Watch::Node { .. } => None,
        });
        urls.map(|(url, every)| {
            let (dialect, known) = (self.dialect.clone(), self.known.subscribe());
            tokio::spawn(async move {
                let mut said = Said::default();
                loop {
                    said.round(ask_upstream(&dialect, &url, &known).await);
                    tokio::time::sleep(every.max(LEAST)).await;
                }
            })
        })
        .collect()
    }
}

/// What was said of the last answers, and when: an upstream that is gone for a month is not worth a line an hour.
#[derive(Default)]
struct Said(BTreeMap<String, Instant>);

impl Said {
    /// Says what is new of this round, and once a day what is not.
    fn round(&mut self, news: Vec<(bool, String)>) {
        self.0.retain(|text, _| news.iter().any(|(_, new)| new == text));
        for (warning, text) in news {
            let again = self.0.get(&text).is_some_and(|said| said.elapsed() < AGAIN);
            match warning {
                _ if again => tracing::debug!("{text}"),
                true => tracing::warn!("{text}"),
                false => tracing::info!("{text}"),
            }
            if !again {
                self.0.insert(text, Instant::now());
            }
        }
    }
}

/// Asks, and brings the answer into the queue; what an operator should read of it, and whether it is a warning.
async fn ask_upstream(dialect: &Arc<dyn Dialect>, url: &str, known: &watch::Receiver<Known>) -> Vec<(bool, String)> {
    let warning = |text: String| vec![(true, text)];
    let answer = match poll::ask(url).await {
        Ok(answer) => answer,
        Err(error) => return warning(format!("upstream cannot be asked; the node runs on: {error}")),
    };
    // The plan can be read by everybody: what may be secret in the address is not written there.
    let (dialect, place, known) = (dialect.clone(), http::shown(url), known.borrow().clone());
    let merged = tokio::task::spawn_blocking(move || {
        let denied = |release: &Release| known.denied.contains(release);
        let limits = omnivisor_core::dialect::Limits { floor: &known.floor, denied: &denied };
        poll::merge(&*dialect, &answer, &place, &limits)
    });
    match merged.await {
        Ok(Ok(merge)) => merge.news,
        Ok(Err(error)) => {
            let url = http::shown(url);
            warning(format!("what upstream ({url}) answers changes nothing; the node runs on: {error}"))
        }
        Err(error) => warning(format!("upstream's answer could not be looked at: {error}")),
    }
}

/// The highest version that ran well here, and what failed.
pub(super) fn known(agent: &Agent) -> Option<Known> {
    use std::cmp::Ordering;
    let journal = agent.journal();
    let active = journal.active()?.release.version.clone();
    let floor = journal.committed().map(|release| &release.version).fold(active, |highest, version| {
        match version.precedence(&highest) {
            Some(Ordering::Greater) => version.clone(),
            _ => highest,
        }
    });
    let denied = journal.denied().map(|(release, _)| release.clone()).collect();
    Some(Known { floor, denied })
}
