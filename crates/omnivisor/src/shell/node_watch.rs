//! Ask the node that runs what its network has agreed on: seldom, and often once the height is near; and notice that it
//! gives no answer.

use std::sync::Arc;
use std::time::Duration;

use omnivisor_core::agent::Event;
use omnivisor_core::dialect::{Dialect, Endpoint, Observed, Watch};
use omnivisor_core::health::Silence;
use omnivisor_core::journal::Phase;
use omnivisor_core::release::Installed;
use omnivisor_core::supervisor::Seen;
use tokio::sync::{mpsc, watch};

use super::Shell;
use crate::clock;
use crate::effects::admin::{self, Admin, NoAnswer};
use crate::store::small;

/// So many blocks before the height it is near: about a minute, which a slow disk or a busy core may take for a round.
const NEAR: u64 = 60;

/// What has not answered for so long after its start is worth a warning. It may be at work on old blocks for days.
const UNHEARD: Duration = Duration::from_secs(60);

/// The node that is to be asked.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) launch: u64,
    pub(super) installed: Installed,
    /// Whether it was started after a failure.
    pub(super) again: bool,
    pub(super) dialect: Arc<dyn Dialect>,
}

/// What came of it.
pub(super) enum News {
    /// It has answered.
    Said(Vec<u8>),
    /// It has not, for longer than it may, and why.
    Silent(String),
    /// It never has since it was started, and why; whether that is to be said.
    Unheard(String, bool),
}

/// What is kept of the node's answers.
#[derive(Default)]
pub(super) struct Heard {
    /// What was told to the agent last.
    observed: Option<Observed>,
    /// Why the last answer could not be used.
    odd: Option<String>,
    /// Why the node is taken for silent.
    pub(super) silent: Option<String>,
    /// The last launch that has answered.
    answered: Option<u64>,
    /// The launch that never has, and why.
    unheard: Option<(u64, String)>,
}

/// How long a launch has not answered for the first time.
struct FirstAnswer {
    since: Duration,
    /// Whether there is nothing more to be said of it.
    told: bool,
    /// What was said of it last.
    why: Option<String>,
}

impl FirstAnswer {
    fn new(now: Duration) -> Self {
        Self { since: now, told: false, why: None }
    }

    /// It answered.
    fn came(&mut self) {
        *self = Self { told: true, why: None, ..*self };
    }

    /// It did not; the news, if that is any. Where it cannot even be asked, waiting is no use.
    fn missed(&mut self, now: Duration, why: &str, can_be_asked: bool) -> Option<News> {
        let say = !self.told && (!can_be_asked || now.saturating_sub(self.since) >= UNHEARD);
        self.told |= say;
        let changed = self.why.as_deref() != Some(why);
        self.why = Some(why.to_owned());
        (say || changed).then(|| News::Unheard(why.to_owned(), say))
    }
}

impl Shell {
    /// Begins to ask, if the dialect knows of something to ask.
    pub(super) fn ask_node(&mut self) {
        let pace = self.dialect.watches().into_iter().find_map(|watch| match watch {
            Watch::Node { every, near } => Some((every, near)),
            Watch::File(_) | Watch::Url { .. } | Watch::Releases { .. } => None,
        });
        if let Some(pace) = pace {
            tokio::spawn(ask(pace, self.asked.subscribe(), self.news.0.clone()));
        }
    }

    /// Tells whoever asks which node runs.
    pub(super) fn publish_node(&mut self) {
        let running = self.supervisor.is_running().then(|| self.agent.journal().runs().cloned()).flatten();
        let asked = running.map(|installed| Asked {
            launch: self.launch,
            installed,
            again: self.supervisor.starts_again(),
            dialect: self.dialect.clone(),
        });
        let key = |asked: &Option<Asked>| {
            asked.as_ref().map(|it| (it.launch, it.again, it.installed.clone(), Arc::as_ptr(&it.dialect).cast::<()>()))
        };
        self.asked.send_if_modified(|old| {
            let changed = key(old) != key(&asked);
            if changed {
                *old = asked;
            }
            changed
        });
    }

    /// Why the node that runs has never answered, if it has not.
    pub(super) fn unheard(&self) -> Option<&str> {
        let unheard = self.heard.unheard.as_ref().filter(|(launch, _)| *launch == self.launch);
        unheard.filter(|_| self.supervisor.is_running()).map(|(_, why)| why.as_str())
    }

    pub(super) fn hear(&mut self, launch: u64, news: News) {
        if launch != self.launch {
            return; // of a node that is gone
        }
        match news {
            News::Silent(why) => {
                tracing::error!(why, "the node gives no answer: nobody can say whether it follows its network");
                self.heard.silent = Some(why.clone());
                if self.dialect.patience().restart {
                    self.observe(launch, Seen::Hung(format!("no answer to any question ({why})")));
                }
            }
            News::Unheard(..) if self.heard.answered == Some(launch) => {}
            News::Unheard(why, say) => {
                if say && self.heard.silent.is_none() {
                    tracing::warn!("core has not answered yet: {why}; upgrades cannot be seen until it does");
                }
                self.heard.unheard = Some((launch, why));
            }
            News::Said(bytes) => {
                if self.heard.answered.replace(launch) != Some(launch) {
                    tracing::info!("core answers");
                    self.heard.unheard = None;
                }
                if self.heard.silent.take().is_some() {
                    tracing::info!("the node answers again");
                }
                if matches!(self.agent.journal().phase(), Phase::Probing { .. }) {
                    self.waiting.push_back(Event::NodeAnswered);
                }
                match self.dialect.announced(&bytes, &|path| small::read(path).ok()) {
                    Ok(None) => self.heard.odd = None,
                    Ok(Some(observed)) => {
                        self.heard.odd = None;
                        if self.heard.observed.as_ref() != Some(&observed) {
                            self.told.refused(&observed.refused);
                            self.waiting.push_back(Event::Announced(observed.announcements.clone()));
                            self.heard.observed = Some(observed);
                        }
                    }
                    Err(error) => {
                        let error = error.to_string();
                        if self.heard.odd.as_ref() != Some(&error) {
                            tracing::warn!(error, "what the node answers changes nothing; it runs on");
                            self.heard.odd = Some(error);
                        }
                    }
                }
            }
        }
    }
}

/// Asks for as long as the supervisor lives.
async fn ask(
    (every, near): (Duration, Duration),
    mut asked: watch::Receiver<Option<Asked>>,
    news: mpsc::UnboundedSender<(u64, News)>,
) {
    let (mut launch, mut silence, mut accepted) = (0, Silence::default(), None);
    let mut first = FirstAnswer::new(clock::now().monotonic);
    let mut connection = Admin::default();
    loop {
        let Some(now) = asked.borrow_and_update().clone() else {
            if asked.changed().await.is_err() {
                return;
            }
            continue;
        };
        if now.launch != launch {
            (launch, silence, accepted) = (now.launch, Silence::default(), None);
            first = FirstAnswer::new(clock::now().monotonic);
            connection = Admin::default();
        }
        let read = |path: &std::path::Path| small::read(path).ok();
        let endpoint = now.dialect.endpoint(&now.installed, &read);
        let answer = match &endpoint {
            Some(endpoint) => connection.ask(endpoint, now.dialect.question(admin::next_id())).await,
            None => {
                Err(NoAnswer { why: "its configuration does not say where it can be asked".to_owned(), hangs: false })
            }
        };
        match answer {
            Ok(bytes) => {
                silence.answered();
                first.came();
                if let Ok(Some(observed)) = now.dialect.announced(&bytes, &read) {
                    accepted = observed.announcements.first().and_then(|it| it.trigger.height());
                }
                let _ = news.send((launch, News::Said(bytes)));
            }
            Err(NoAnswer { why, hangs }) => {
                tracing::debug!(why, "the node gives no answer");
                if let Some(unheard) = first.missed(clock::now().monotonic, &why, endpoint.is_some()) {
                    let _ = news.send((launch, unheard));
                }
                if hangs {
                    silence.listens();
                }
                if silence.failed(&now.dialect.patience(), now.again) {
                    let _ = news.send((launch, News::Silent(why)));
                }
            }
        }
        let pause = match (accepted, &endpoint) {
            (Some(height), Some(endpoint)) if is_near(&*now.dialect, endpoint, height).await => near,
            _ => every,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = asked.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Whether the node stands close to this height. One that does not say how high it is may stand anywhere.
async fn is_near(dialect: &dyn Dialect, endpoint: &Endpoint, height: u64) -> bool {
    let Some(url) = &endpoint.height else { return true };
    let said = admin::height(url).await;
    said.and_then(|said| dialect.height(&said)).is_none_or(|now| now.saturating_add(NEAR) >= height)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_answers_is_said_after_a_minute_and_once() {
        let second = Duration::from_secs;
        let said = |news: Option<News>| match news {
            Some(News::Unheard(why, say)) => Some((why, say)),
            _ => None,
        };
        let mut first = FirstAnswer::new(second(100));
        assert_eq!(said(first.missed(second(102), "a", true)), Some(("a".to_owned(), false)));
        assert_eq!(said(first.missed(second(104), "a", true)), None);
        assert_eq!(said(first.missed(second(159), "b", true)), Some(("b".to_owned(), false)));
        assert_eq!(said(first.missed(second(160), "b", true)), Some(("b".to_owned(), true)));
        assert_eq!(said(first.missed(second(900), "b", true)), None);

        let mut nowhere = FirstAnswer::new(second(100));
        assert_eq!(said(nowhere.missed(second(100), "a", false)), Some(("a".to_owned(), true)), "at once");
        assert_eq!(said(nowhere.missed(second(900), "a", false)), None);

        let mut answered = FirstAnswer::new(second(100));
        answered.came();
        assert_eq!(
            said(answered.missed(second(900), "a", true)),
            Some(("a".to_owned(), false)),
            "silence is another matter"
        );
    }
}
