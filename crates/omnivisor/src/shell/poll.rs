//! Ask upstreams every so often, and bring what they say into the queue; the queue's change is what the agent hears of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use omnivisor_core::agent::Agent;
use omnivisor_core::dialect::{Dialect, Watch};
use omnivisor_core::release::{Release, Version};
use tokio::sync::watch;

use super::Shell;
use super::gone::Gone;
use crate::effects::poll::PollError;
use crate::effects::releases::Releases;
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
        let places = self.dialect.watches().into_iter().filter_map(|watch| match watch {
            Watch::Url { url, every } => Some((Upstream::Address(url), every)),
            Watch::Releases { owner, repository, file, place, every } => {
                let releases = Releases::new(self.github.clone(), owner, repository, file);
                Some((Upstream::GitHub { releases, place }, every))
            }
            Watch::File(_) | Watch::Node { .. } => None,
        });
        places
            .map(|(mut upstream, every)| {
                let (dialect, known) = (self.dialect.clone(), self.known.subscribe());
                tokio::spawn(async move {
                    let mut said = Said::default();
                    let mut gone = Gone::of(&dialect.paths().state);
                    loop {
                        let answer = upstream.ask(&*dialect).await;
                        match upstream {
                            Upstream::Address(_) => gone.look(&answer),
                            Upstream::GitHub { .. } => gone.does_not_matter(),
                        }
                        let mut news = take_back(&dialect, &upstream).await;
                        news.extend(take_in(&dialect, answer, upstream.place(), &known).await);
                        said.round(news, gone.advice());
                        tokio::time::sleep(every.max(LEAST)).await;
                    }
                })
            })
            .collect()
    }
}

/// Somewhere that announcements are made.
enum Upstream {
    /// An address that answers with one.
    Address(String),
    /// A repository of releases.
    GitHub { releases: Releases, place: String },
}

impl Upstream {
    async fn ask(&mut self, dialect: &dyn Dialect) -> Result<Vec<u8>, PollError> {
        match self {
            Self::Address(url) => poll::ask(url).await,
            Self::GitHub { releases, .. } => releases.ask(dialect).await,
        }
    }

    /// What the queue calls it, which everybody can read: what may be secret in an address is not written there.
    fn place(&self) -> String {
        match self {
            Self::Address(url) => http::shown(url),
            Self::GitHub { place, .. } => place.clone(),
        }
    }
}

/// What was said of the last answers, and when: an upstream that is gone for a month is not worth a line an hour.
#[derive(Default)]
struct Said(BTreeMap<String, Instant>);

impl Said {
    /// Says what is new of this round, and once a day what is not.
    fn round(&mut self, mut news: Vec<(bool, String)>, advice: Option<String>) {
        news.extend(advice.map(|advice| (true, advice)));
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

/// Takes off the queue what was announced of releases that are no more, whatever became of the one that is followed.
async fn take_back(dialect: &Arc<dyn Dialect>, upstream: &Upstream) -> Vec<(bool, String)> {
    let Upstream::GitHub { releases, place } = upstream else { return Vec::new() };
    let Some(listed) = releases.listed().map(<[_]>::to_vec) else { return Vec::new() };
    let (dialect, place) = (dialect.clone(), place.clone());
    let pruned = tokio::task::spawn_blocking(move || poll::prune(&*dialect, &place, &listed));
    match pruned.await {
        Ok(Ok(merge)) => merge.news,
        Ok(Err(error)) => vec![(true, format!("what is no more on GitHub cannot be taken off the queue: {error}"))],
        Err(error) => vec![(true, format!("the releases of GitHub could not be looked at: {error}"))],
    }
}

/// Brings an answer into the queue; what an operator should read of it, and whether it is a warning.
async fn take_in(
    dialect: &Arc<dyn Dialect>,
    answer: Result<Vec<u8>, PollError>,
    place: String,
    known: &watch::Receiver<Known>,
) -> Vec<(bool, String)> {
    let warning = |text: String| vec![(true, text)];
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return warning(format!("upstream cannot be asked; the node runs on: {error}")),
    };
    let (dialect, from, known) = (dialect.clone(), place.clone(), known.borrow().clone());
    let merged = tokio::task::spawn_blocking(move || {
        let denied = |release: &Release| known.denied.contains(release);
        let limits = omnivisor_core::dialect::Limits { floor: &known.floor, denied: &denied };
        poll::merge(&*dialect, &answer, &from, &limits)
    });
    match merged.await {
        Ok(Ok(merge)) => merge.news,
        Ok(Err(error)) => {
            warning(format!("what upstream ({place}) answers changes nothing; the node runs on: {error}"))
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
