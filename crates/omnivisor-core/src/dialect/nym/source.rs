//! What an upstream, or GitHub, says of releases, and what that changes in the queue.

use super::files::{PlanFile, UpgradeInfo};
use super::{Nym, hashes, queue, wrong};
use crate::dialect::{DialectError, Endpoint, Limits, Merge, Observed, Read, ReleaseSource, Watch};
use crate::github;
use crate::health::Patience;
use crate::release::Installed;

/// How much of a name from outside is said to people.
const LONGEST_NAME: usize = 200;

impl ReleaseSource for Nym {
    fn watches(&self) -> Vec<Watch> {
        let every = self.config.upstream_polling_rate;
        let upstream = match &self.github {
            None => Watch::Url { url: self.upstream(), every },
            Some(github) => Watch::Releases {
                owner: github.owner.clone(),
                repository: github.repository.clone(),
                file: hashes::FILE_NAME,
                place: github.place(),
                every,
            },
        };
        vec![Watch::File(self.paths.queue.clone()), upstream]
    }

    fn announced(&self, said: &[u8], _: Read<'_>) -> Result<Option<Observed>, DialectError> {
        let plan = PlanFile::parse(said).map_err(|error| wrong("the upgrade plan", error))?;
        Ok(Some(queue::announcements(&plan, &self.context)))
    }

    fn endpoint(&self, _: &Installed, _: Read<'_>) -> Option<Endpoint> {
        None // a node of Nym says nothing of releases
    }

    fn question(&self, _: u64) -> Vec<u8> {
        Vec::new()
    }

    fn height(&self, _: &[u8]) -> Option<u64> {
        None
    }

    fn patience(&self) -> Patience {
        Patience { first: u64::MAX, again: u64::MAX, restart: false }
    }

    fn follows<'a>(&self, releases: &'a [github::Release]) -> Option<&'a github::Release> {
        self.github.as_ref()?.follows(releases)
    }

    fn prune(&self, queue: &[u8], place: &str, releases: &[github::Release]) -> Result<Merge, DialectError> {
        let Some(source) = &self.github else { return Ok(Merge::default()) };
        let mut plan = PlanFile::parse(queue).map_err(|error| wrong("the upgrade plan", error))?;
        let followed = |name: &str| releases.iter().any(|release| release.tag == name && source.may_follow(release));
        let withdrawn = queue::withdraw(&mut plan, place, &self.context, |info| !followed(&info.name));
        let news = withdrawn.iter().map(|name| (true, taken_back(name))).collect();
        Ok(Merge { queue: (!withdrawn.is_empty()).then(|| plan.to_bytes()), news })
    }

    fn announcement_of(&self, release: &github::Release, described: &[u8]) -> Result<Vec<u8>, DialectError> {
        let what = format!("{} of the release {}", hashes::FILE_NAME, release.tag);
        let source = self.github.as_ref().ok_or_else(|| wrong(&what, "no repository is followed"))?;
        let info = source.announcement(release, described, &self.config.name);
        info.map(|info| info.to_bytes()).map_err(|error| wrong(&what, error))
    }

    fn merge(&self, queue: &[u8], answer: &[u8], url: &str, limits: &Limits<'_>) -> Result<Merge, DialectError> {
        let answer = UpgradeInfo::parse(answer).map_err(|error| wrong("the upstream's answer", error))?;
        let mut plan = PlanFile::parse(queue).map_err(|error| wrong("the upgrade plan", error))?;
        let approval = self.github.as_ref().is_some_and(|github| github.approval && github.place() == url);
        let from = queue::Upstream { place: url, approval };
        let merged = queue::merge_upstream(&mut plan, &answer, from, &self.context, limits.floor, limits.denied);
        let what = format!("{} ({})", answer.version, answer.name);
        let mut news: Vec<_> = merged.withdrawn.iter().map(|name| (true, taken_back(name))).collect();
        match &merged.outcome {
            queue::Outcome::Added => {
                news.push((false, format!("upstream announces {what} for {}", answer.upgrade_time)));
            }
            queue::Outcome::Updated => news.push((false, format!("upstream corrected its announcement of {what}"))),
            queue::Outcome::Denied => news.push((true, format!("upstream announces {what}, which has failed here"))),
            queue::Outcome::Refused(why) => {
                // A name that is none may be of any length.
                let name: String = answer.name.chars().take(LONGEST_NAME).collect();
                news.push((true, format!("upstream announces {name:?}, which cannot be followed: {why}")));
            }
            queue::Outcome::NotNewer if answer.version != limits.floor.as_str() => {
                let floor = limits.floor;
                news.push((true, format!("upstream announces {what}, which is not newer than {floor}: not followed")));
            }
            queue::Outcome::KeptLocal | queue::Outcome::Unchanged | queue::Outcome::NotNewer => {}
        }
        Ok(Merge { queue: merged.changed().then(|| plan.to_bytes()), news })
    }
}

fn taken_back(name: &str) -> String {
    format!("upstream withdrew the upgrade {name}")
}
