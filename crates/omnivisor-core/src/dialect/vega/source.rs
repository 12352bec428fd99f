//! What core says of the network, and where the release that it names comes from.

use std::time::Duration;

use super::admin::{self, Accepted};
use super::{Vega, node_config};
use crate::dialect::{DialectError, Endpoint, Limits, Merge, Observed, Read, Refused, ReleaseSource, Watch};
use crate::github;
use crate::health::Patience;
use crate::release::{Identity, Installed, Release, Version};
use crate::schedule::{Announcement, Asset, Origin, Source, Trigger};

/// As often as Vega Visor asks.
const EVERY: Duration = Duration::from_secs(2);
/// A block takes about a second; whoever stands at the height is kept waiting for a tenth of that on average.
const NEAR: Duration = Duration::from_millis(200);

impl ReleaseSource for Vega {
    fn watches(&self) -> Vec<Watch> {
        vec![Watch::Node { every: EVERY, near: NEAR }]
    }

    fn announced(&self, said: &[u8], read: Read<'_>) -> Result<Option<Observed>, DialectError> {
        let status = admin::interpret(said)
            .map_err(|error| DialectError { what: "core's answer".to_owned(), reason: error.to_string() })?;
        let (tag, height) = match status.accepted {
            Accepted::Unknown => return Ok(None),
            Accepted::Nothing => return Ok(Some(Observed::default())),
            Accepted::Release { tag, height } => (tag, height),
        };
        if let Some(reason) = self.held(read) {
            let refused = Refused { name: tag.to_string(), reason };
            return Ok(Some(Observed { announcements: Vec::new(), refused: vec![refused] }));
        }
        let announcement = Announcement {
            source: self.source_of(&tag.to_string()),
            release: Release { version: Version::new(tag.as_str()), name: tag, digest: None },
            trigger: Trigger::AtHeight { height, ready: status.ready },
            published: None,
            origin: Origin::Network,
            expected: Identity::default(),
            without_snapshot: false,
        };
        Ok(Some(Observed { announcements: vec![announcement], refused: Vec::new() }))
    }

    fn follows<'a>(&self, _: &'a [github::Release]) -> Option<&'a github::Release> {
        None
    }

    fn prune(&self, _: &[u8], _: &str, _: &[github::Release]) -> Result<Merge, DialectError> {
        Ok(Merge::default())
    }

    fn announcement_of(&self, _: &github::Release, _: &[u8]) -> Result<Vec<u8>, DialectError> {
        Err(DialectError {
            what: "a list of releases".to_owned(),
            reason: "core says which release is next".to_owned(),
        })
    }

    fn merge(&self, _: &[u8], _: &[u8], _: &str, _: &Limits<'_>) -> Result<Merge, DialectError> {
        Ok(Merge::default()) // there is no queue
    }

    fn endpoint(&self, running: &Installed, read: Read<'_>) -> Option<Endpoint> {
        let run = self.run_config(&running.folder, read).ok()?;
        let core = self.core_config(&run, read).ok()?;
        let (socket, path) = core.endpoint(&run.rpc);
        Some(Endpoint { socket, path, height: core.statistics_url() })
    }

    fn question(&self, id: u64) -> Vec<u8> {
        admin::request(id)
    }

    fn height(&self, said: &[u8]) -> Option<u64> {
        node_config::height(said)
    }

    fn patience(&self) -> Patience {
        Patience {
            first: self.config.first_connection_retries,
            again: self.config.restart_connection_retries,
            restart: self.extra.restart_silent,
        }
    }
}

impl Vega {
    fn source_of(&self, tag: &str) -> Source {
        let auto = &self.config.auto_install;
        if !auto.enabled {
            return Source::Placed {
                why: "nothing is downloaded here ([autoInstall] enabled = false in config.toml)".to_owned(),
            };
        }
        Source::Asset(Box::new(Asset {
            owner: auto.owner.clone(),
            repository: auto.repository.clone(),
            tag: tag.to_owned(),
            name: auto.asset.name.clone(),
            binary: auto.asset.binary_name.clone(),
        }))
    }
}
