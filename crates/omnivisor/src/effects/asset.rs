//! Get a release from GitHub: the file that its release has, what is in it, and the files that belong beside it.
//!
//! All of it is made in a folder that nobody looks at, and has its name there when it is whole.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use omnivisor_core::dialect::Dialect;
use omnivisor_core::plan::{Failure, UpgradePlan};
use omnivisor_core::schedule::Asset;

use super::fetch::{self, Download};
use super::github::{GitHub, How};
use super::http;
use super::unpack::{self, Limits};
use crate::checkpoint;
use crate::store::{atomic, disk, small};

/// How many names are listed of an archive that has not the one that is wanted.
const NAMES: usize = 20;

/// The folder in the staging folder that the file itself comes into.
const ARCHIVE: &str = "asset";

/// What the name of a folder that is not whole ends in.
const PART: &str = "part";

/// Makes the release's folder at `to`, in the staging folder; durable when it returns.
pub async fn fetch(
    dialect: &dyn Dialect,
    plan: &UpgradePlan,
    asset: &Asset,
    github: &GitHub,
    to: &Path,
) -> Result<(), Failure> {
    let Asset { owner, repository, tag, name, .. } = asset;
    let located =
        github.asset_source(owner, repository, tag, name).await.map_err(|error| with_cause(&error, error.failure()))?;
    if located.how == How::Generated {
        tracing::warn!(
            url = http::shown(&located.url),
            "the API gives no answer: the usual address is taken, without a digest"
        );
    } else if located.digest.is_none() {
        tracing::warn!(
            url = http::shown(&located.url),
            "no digest is published for it: only what it says of itself is checked"
        );
    }
    tracing::info!(release = %plan.to.release, url = http::shown(&located.url), "downloading");
    let archive = dialect.staging().join(ARCHIVE).join(name);
    let wanted = Download {
        headers: located.headers.clone(),
        digest: located.digest.as_ref(),
        size: located.size,
        ..Download::of(&located.url)
    };
    fetch::download(&wanted, &archive).await?;
    checkpoint::reach("asset-before-unpack");

    let part = to.with_extension(PART);
    let cannot = |error: io::Error| Failure::transient(format!("{} cannot be made: {error}", part.display()));
    if part.exists() {
        disk::remove(&part).map_err(cannot)?;
    }
    disk::make_folders(&part, 0o777).map_err(cannot)?;
    let (from, into) = (archive.clone(), part.clone());
    let unpacked =
        tokio::task::spawn_blocking(move || unpack::unpack(&from, &into, &Limits::RELEASE, &AtomicBool::new(false)));
    let files = unpacked.await.map_err(|error| Failure::transient(error.to_string()))?;
    let files = files.map_err(|error| with_cause(&error, error.failure()))?;
    let binary = binary_of(asset, &part, &files)?;
    checkpoint::reach("asset-before-side-files");
    let side_files = dialect.side_files(&plan.from, &plan.to.release, &|path| small::read(path).ok());
    for (path, bytes) in side_files.map_err(|error| Failure::transient(error.to_string()))? {
        let own = path.display();
        if part.join(&path) == binary {
            return Err(Failure::permanent(format!("{name} holds an executable called {own}")));
        }
        if part.join(&path).is_dir() {
            return Err(Failure::permanent(format!(
                "{name} holds a folder called {own}, where a file of ours has to be"
            )));
        }
        let path = part.join(&path);
        atomic::replace(&path, &bytes, 0o600).map_err(cannot)?;
    }
    disk::rename(&part, to).and_then(|()| atomic::flush_folder_of(to)).map_err(cannot)?;
    let _ = disk::remove(&dialect.staging().join(ARCHIVE));
    Ok(())
}

/// Removes what a fetch that was killed left half made. Not while one is under way.
pub fn sweep(dialect: &dyn Dialect) {
    for entry in std::fs::read_dir(dialect.staging()).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if name == ARCHIVE || path.extension().is_some_and(|it| it == PART) {
            let _ = disk::remove(&path);
        } else {
            atomic::sweep(&path);
        }
    }
}

/// The executable that is wanted. A file that is no archive is the executable, whatever its name promises.
fn binary_of(asset: &Asset, folder: &Path, files: &[PathBuf]) -> Result<PathBuf, Failure> {
    let wanted = folder.join(asset.binary.as_deref().unwrap_or(&asset.name));
    if wanted.is_file() {
        return Ok(wanted);
    }
    if let [only] = files
        && *only == Path::new(&asset.name)
    {
        let renamed = disk::rename(&folder.join(only), &wanted).and_then(|()| disk::flush_folder(folder));
        renamed.map_err(|error| Failure::transient(format!("{} cannot be made: {error}", wanted.display())))?;
        return Ok(wanted);
    }
    let names: Vec<String> = files.iter().take(NAMES).map(|file| file.display().to_string()).collect();
    Err(Failure::permanent(format!(
        "{} of {} has no file {:?} in it; it has: {}",
        asset.name,
        asset.tag,
        wanted.strip_prefix(folder).unwrap_or(&wanted),
        names.join(", ")
    )))
}

/// A failure that says all its causes.
fn with_cause(error: &dyn std::error::Error, failure: Failure) -> Failure {
    let causes = std::iter::successors(error.source(), |error| error.source());
    let mut reason = failure.reason;
    for cause in causes.map(ToString::to_string) {
        if !reason.contains(&cause) {
            reason = format!("{reason}: {cause}");
        }
    }
    Failure { reason, ..failure }
}
