//! Ask GitHub which releases a repository has, and make of the one that is followed what an upstream would answer.

use std::sync::Arc;

use omnivisor_core::dialect::{Dialect, DialectError};
use omnivisor_core::github::Release;

use super::digest;
use super::github::{Fetched, GitHub};
use super::http::{Http, HttpError, shown};
use super::poll::{ANSWER, LARGEST, PollError};

/// A repository that is asked again and again.
pub struct Releases {
    github: Arc<GitHub>,
    owner: String,
    repository: String,
    /// The file of a release that describes it.
    file: &'static str,
    /// What there was at the last answer.
    listed: Option<Vec<Release>>,
    /// What was made of it.
    answer: Option<Vec<u8>>,
}

impl Releases {
    /// One that was not asked yet.
    pub fn new(github: Arc<GitHub>, owner: String, repository: String, file: &'static str) -> Self {
        Self { github, owner, repository, file, listed: None, answer: None }
    }

    /// What there is, as far as is known.
    pub fn listed(&self) -> Option<&[Release]> {
        self.listed.as_deref()
    }

    /// Asks once. What is as it was costs one small question.
    pub async fn ask(&mut self, dialect: &dyn Dialect) -> Result<Vec<u8>, PollError> {
        let asked = self.ask_anew(dialect).await;
        if asked.is_err() {
            // What could not be used is to be told again.
            self.github.forget(&self.owner, &self.repository);
        }
        asked
    }

    async fn ask_anew(&mut self, dialect: &dyn Dialect) -> Result<Vec<u8>, PollError> {
        let (owner, repository) = (&self.owner, &self.repository);
        let releases = match (self.github.releases(owner, repository).await?, &self.answer) {
            (Fetched::New(releases), _) => releases,
            (Fetched::Unchanged, Some(answer)) => return Ok(answer.clone()),
            (Fetched::Unchanged, None) => return Err(self.wrong("they are said to be as they never were")),
        };
        let releases = self.listed.insert(releases).clone();
        let Some(release) = dialect.follows(&releases) else {
            return Err(self.wrong(&format!("none of the {} newest is one that is followed", releases.len())));
        };
        let located = self.github.asset_of(owner, repository, release, self.file)?;
        let answer = Http::new()?.ask_small(&located.url, &located.headers, LARGEST, ANSWER).await?;
        if !answer.status.is_success() {
            return Err(HttpError::Status { url: shown(&located.url), status: answer.status }.into());
        }
        let has = located.digest.as_ref().map(|wanted| (wanted, digest::of_bytes(wanted.algorithm(), &answer.body)));
        if let Some((wanted, has)) = has.filter(|(wanted, has)| *wanted != has) {
            let (tag, file) = (&release.tag, self.file);
            return Err(self.wrong(&format!("{file} of {tag} should be {wanted}, and is {has}")));
        }
        let made = dialect.announcement_of(release, &answer.body)?;
        self.answer = Some(made.clone());
        Ok(made)
    }

    fn wrong(&self, reason: &str) -> PollError {
        let what = format!("what GitHub says of the releases of {}/{}", self.owner, self.repository);
        DialectError { what, reason: reason.to_owned() }.into()
    }
}
