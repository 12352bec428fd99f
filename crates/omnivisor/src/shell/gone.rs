//! Notice that the upstream of Nymvisor is gone, and not only away: then an operator hears where releases are to be had.

use std::path::{Path, PathBuf};

use omnivisor_core::time::Timestamp;

use crate::clock;
use crate::effects::http::{HttpError, StatusCode};
use crate::effects::poll::PollError;
use crate::store::{atomic, disk, small};

/// What an upstream is not there for so often in a row is no accident: half a day, at the usual rate.
const ROUNDS: u32 = 12;

/// Since when it is gone, for whoever asks later.
const FILE_NAME: &str = "upstream-gone";

/// How the upstream was found lately.
pub(super) struct Gone {
    file: PathBuf,
    rounds: u32,
    since: Option<Timestamp>,
}

impl Gone {
    /// As an earlier run has found it, with its state in this folder.
    pub(super) fn of(state: &Path) -> Self {
        let file = state.join(FILE_NAME);
        let since = since(&file);
        Self { rounds: if since.is_some() { ROUNDS } else { 0 }, file, since }
    }

    /// Looks at one more answer. That there is none says nothing: the network may be down.
    pub(super) fn look(&mut self, answer: &Result<Vec<u8>, PollError>) {
        let missing = match answer {
            Ok(answer) => answer.trim_ascii_start().starts_with(b"<"),
            Err(PollError::Http(HttpError::Status { status: StatusCode::NOT_FOUND | StatusCode::GONE, .. })) => true,
            Err(_) => return,
        };
        if !missing {
            return self.does_not_matter();
        }
        self.rounds = self.rounds.saturating_add(1);
        let since = *self.since.get_or_insert_with(|| clock::now().wall);
        if self.rounds == ROUNDS {
            // Only for whoever asks: without it nothing goes wrong.
            let _ = atomic::replace(&self.file, format!("{since}\n").as_bytes(), 0o644);
        }
    }

    /// It is there, or is not asked any more.
    pub(super) fn does_not_matter(&mut self) {
        self.rounds = 0;
        if self.since.take().is_some() {
            let _ = disk::remove_file(&self.file);
        }
    }

    /// What an operator can do about it.
    pub(super) fn advice(&self) -> Option<String> {
        self.since.filter(|_| self.rounds >= ROUNDS).map(advice)
    }
}

fn since(file: &Path) -> Option<Timestamp> {
    let text = String::from_utf8(small::read(file).ok()?).ok()?;
    Timestamp::parse(text.trim()).ok()
}

fn advice(since: Timestamp) -> String {
    format!(
        "the upstream has answered with \"not found\", or a page, and no announcement, since {since}: Nym publishes its releases on \
         GitHub, and `[nym] github = \"nymtech/nym\"` in omnivisor.toml takes them from there"
    )
}

/// What an operator should know of the upstream of the instance with this state folder, as its supervisor has found it.
pub fn upstream_gone(state: &Path) -> Option<String> {
    since(&state.join(FILE_NAME)).map(advice)
}
