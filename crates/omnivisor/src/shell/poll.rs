//! Ask upstreams every so often, and bring what they say into the queue; the queue's change is what the agent hears of.

use std::sync::Arc;
use std::time::Duration;

use omnivisor_core::agent::Agent;
use omnivisor_core::dialect::{Dialect, Watch};
use omnivisor_core::release::{Release, Version};
use tokio::sync::watch;

use super::Shell;
use crate::effects::{http, poll};

/// However often it is configured: nobody's upstream is asked faster.
const LEAST: Duration = Duration::from_millis(100);

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
            Watch::File(_) => None,
        });
        urls.map(|(url, every)| {
            let (dialect, known) = (self.dialect.clone(), self.known.subscribe());
            tokio::spawn(async move {
                loop {
                    ask_upstream(&dialect, &url, &known).await;
                    tokio::time::sleep(every.max(LEAST)).await;
                }
            })
        })
        .collect()
    }
}

async fn ask_upstream(dialect: &Arc<dyn Dialect>, url: &str, known: &watch::Receiver<Known>) {
    let answer = match poll::ask(url).await {
        Ok(answer) => answer,
        Err(error) => return tracing::warn!(%error, "upstream cannot be asked; the node runs on"),
    };
    // The plan can be read by everybody: what may be secret in the address is not written there.
    let (dialect, place, known) = (dialect.clone(), http::shown(url), known.borrow().clone());
    let merged = tokio::task::spawn_blocking(move || {
        let denied = |release: &Release| known.denied.contains(release);
        let limits = omnivisor_core::dialect::Limits { floor: &known.floor, denied: &denied };
        poll::merge(&*dialect, &answer, &place, &limits)
    });
    match merged.await {
        Ok(Ok(merge)) => merge.news.iter().for_each(|(warning, news)| match warning {
            true => tracing::warn!("{news}"),
            false => tracing::info!("{news}"),
        }),
        Ok(Err(error)) => {
            let url = http::shown(url);
            tracing::warn!(url, %error, "what upstream answers changes nothing; the node runs on");
        }
        Err(error) => tracing::error!(%error, "upstream's answer could not be looked at"),
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
