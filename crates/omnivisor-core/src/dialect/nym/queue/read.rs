//! What a queue says to one instance.

use serde_json::Value;

use super::{Context, Observed, Refused, time_for};
use crate::dialect::nym::files::{Lenient, PlanFile, UpgradeInfo};
use crate::release::{Digest, Release, ReleaseName, Version};
use crate::schedule::{Announcement, Origin, Source, Trigger};
use crate::time::Timestamp;

/// It is written into every record and message about the release; real ones have some twenty bytes.
const LONGEST_VERSION: usize = 200;

/// Reads the queue for one instance. What is meant for others only is passed over.
pub fn announcements(plan: &PlanFile, ctx: &Context) -> Observed {
    let mut observed = Observed::default();
    for (index, entry) in plan.queued_up.iter().enumerate() {
        match entry {
            Lenient::Malformed { raw, reason } => {
                let name = raw.get("name").and_then(Value::as_str).map(short);
                let name = name.unwrap_or_else(|| format!("entry {} of queuedUp", index + 1));
                observed.refused.push(Refused { name, reason: reason.clone() });
            }
            Lenient::Known(info) => {
                let Some(time) = time_for(info, &ctx.instance) else { continue };
                match announcement(info, time, ctx) {
                    Ok(announcement) => observed.announcements.push(announcement),
                    Err(reason) => observed.refused.push(Refused { name: short(&info.name), reason }),
                }
            }
        }
    }
    observed
}

fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

fn announcement(info: &UpgradeInfo, time: Timestamp, ctx: &Context) -> Result<Announcement, String> {
    let own = info.omnivisor.as_ref();
    let origin = if own.is_some_and(|own| own.allow_older) {
        Origin::LocalDowngrade
    } else if is_local(info) {
        Origin::Local
    } else {
        Origin::Upstream
    };
    Ok(Announcement {
        release: release(info, ctx)?,
        trigger: match own.is_some_and(|own| own.approval) {
            true => Trigger::OnCommand { ends: false },
            false if info.manual => Trigger::OnCommand { ends: true },
            false => Trigger::At(time),
        },
        published: info.publish_date.map(|stamp| stamp.0),
        origin,
        source: source(info, ctx),
        expected: info.binary_details.as_ref().map(|details| details.expected_identity()).unwrap_or_default(),
        without_snapshot: own.is_some_and(|own| own.skip_backup),
    })
}

/// Whether somebody on this machine queued it, here or with Nymvisor: they place the executable, so nothing can be
/// downloaded.
pub(super) fn is_local(info: &UpgradeInfo) -> bool {
    info.platforms.is_empty() && upstream(info).is_none()
}

pub(super) fn upstream(info: &UpgradeInfo) -> Option<&str> {
    info.omnivisor.as_ref()?.upstream.as_deref()
}

pub(super) fn release(info: &UpgradeInfo, ctx: &Context) -> Result<Release, String> {
    let name = ReleaseName::parse(&info.name).map_err(|error| error.to_string())?;
    if info.version.trim().is_empty() {
        return Err("its version is empty, so no executable could be told to be the right one".to_owned());
    }
    if info.version.len() > LONGEST_VERSION {
        return Err(format!("its version is longer than {LONGEST_VERSION} bytes, which no executable's is"));
    }
    let announced = match info.download(&ctx.platform) {
        // What is wrong with a build is said by its source.
        Some((_, build)) => build.ok().and_then(|build| build.digest().ok().flatten()),
        None => None,
    };
    let placed = || info.omnivisor.as_ref().and_then(|own| own.digest.as_deref()).map(Digest::parse).transpose();
    let digest = match announced {
        Some(digest) => Some(digest),
        None => placed().map_err(|error| format!("the digest in its `omnivisor` part cannot be used: {error}"))?,
    };
    Ok(Release { name, version: Version::new(&info.version), digest })
}

fn source(info: &UpgradeInfo, ctx: &Context) -> Source {
    let placed = |why: String| Source::Placed { why };
    let Some((key, build)) = info.download(&ctx.platform) else {
        if is_local(info) {
            return placed("it was queued on this machine, without a build to download".to_owned());
        }
        let others: Vec<String> = info.platforms.keys().map(|key| short(key)).collect();
        let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        return placed(format!("no build for {} (there are: {others})", ctx.platform));
    };
    let usable = build.and_then(|build| {
        let digest = build.digest().map_err(|error| format!("its checksum cannot be used: {error}"))?;
        Ok((digest, build.address()?))
    });
    match usable {
        Err(reason) => placed(format!("the build for {key} cannot be downloaded: {reason}")),
        Ok(_) if !ctx.allow_download => placed("downloads are disabled (DAEMON_ALLOW_BINARIES_DOWNLOAD)".to_owned()),
        Ok((None, _)) if ctx.enforce_checksum => {
            placed("it has no checksum and DAEMON_ENFORCE_DOWNLOAD_CHECKSUM demands one".to_owned())
        }
        Ok((_, url)) => Source::Download { url: url.to_string() },
    }
}
