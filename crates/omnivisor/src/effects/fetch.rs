//! Get a release's executable onto this disk, digest checked, while the node runs.
//!
//! It comes into a staging folder of this instance first; only what was proven is moved into the release's folder, and a
//! file that is there already is never touched: a node may be running from it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnivisor_core::dialect::Dialect;
use omnivisor_core::plan::{Failure, UpgradePlan};
use omnivisor_core::release::{Algorithm, Digest, Release};
use omnivisor_core::schedule::{Announcement, Source};

use super::digest::{self, Hasher};
use super::github::GitHub;
use super::http::{HeaderMap, Http, HttpError, shown, transport};
use super::{asset, space};
use crate::checkpoint;
use crate::store::disk::{self, Written};
use crate::store::{atomic, small};

/// The largest executable that is believed to be one: Nym's have 100 MB.
const LARGEST: u64 = 2 << 30;

/// After so many more bytes the room on the disk is looked at again: a quarter of what is left free for others.
const LOOK: u64 = 4 << 20;

/// A download that has not ended after so long would never end.
const LONGEST: Duration = Duration::from_secs(6 * 3600);

/// Where a release is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The folder it will run from.
    pub folder: PathBuf,
    /// Where its executables are now.
    pub executables: Vec<PathBuf>,
    /// The folder that it is still in, if it has to be moved.
    pub staged: Option<PathBuf>,
}

/// What tells one release from another of the same name.
fn key(release: &Release) -> String {
    let key = digest::of_bytes(Algorithm::Sha256, format!("{release} {:?}", release.digest).as_bytes());
    key.to_hex()[..16].to_owned()
}

/// Where this instance stages a release: on the same file system, so that a rename is enough to publish it.
fn staging(dialect: &dyn Dialect, release: &Release) -> PathBuf {
    dialect.staging().join(key(release))
}

/// Looks for the release on this disk. Reads whole files; the error is an unreadable one.
pub fn locate(dialect: &dyn Dialect, release: &Release) -> io::Result<Option<Located>> {
    for folder in folders(dialect, release) {
        if let Some(executables) = whole(dialect, &folder, release)? {
            return Ok(Some(Located { folder, executables, staged: None }));
        }
    }
    let staged = staging(dialect, release);
    let Some(executables) = whole(dialect, &staged, release)? else { return Ok(None) };
    // The first folder that nothing stands in the way in.
    let is_free = |folder: &PathBuf| match dialect.fills_folders() {
        true => executables_of(dialect, folder).is_some_and(|all| all.iter().all(|executable| !executable.exists())),
        false => folder.symlink_metadata().is_err(),
    };
    let free = folders(dialect, release).into_iter().find(is_free);
    Ok(free.map(|folder| Located { folder, executables, staged: Some(staged) }))
}

/// The executables of a folder, if it says what they are.
fn executables_of(dialect: &dyn Dialect, folder: &Path) -> Option<Vec<PathBuf>> {
    dialect.executables(folder, &|path| small::read(path).ok()).ok()
}

/// The executables of a folder, if all of them are there and are the release's.
fn whole(dialect: &dyn Dialect, folder: &Path, release: &Release) -> io::Result<Option<Vec<PathBuf>>> {
    let executables = executables_of(dialect, folder).filter(|all| all.iter().all(|executable| executable.is_file()));
    let Some(executables) = executables else { return Ok(None) };
    let is_it = match &release.digest {
        Some(digest) => digest::of_file(digest.algorithm(), &executables[0])? == *digest,
        None => true,
    };
    Ok(is_it.then_some(executables))
}

/// Where a release may be: its own folder, or if that holds something else of the same name, one beside it.
fn folders(dialect: &dyn Dialect, release: &Release) -> Vec<PathBuf> {
    let folder = dialect.release_folder(release);
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    let mark = release.digest.as_ref().map_or_else(|| key(release), Digest::to_hex);
    name.push(format!("@{}", &mark[..12]));
    vec![folder.clone(), folder.with_file_name(name)]
}

/// Makes sure that the release's executables are on this disk.
pub async fn fetch(dialect: &dyn Dialect, plan: &UpgradePlan, github: &GitHub) -> Result<(), Failure> {
    let announced = &plan.to;
    let release = &announced.release;
    if locate(dialect, release).map_err(|error| Failure::transient(error.to_string()))?.is_some() {
        return Ok(());
    }
    let url = match &announced.source {
        Source::Download { url } => url,
        Source::Asset(wanted) => {
            discard(dialect); // what was staged for another release is not wanted any more
            let result = asset::fetch(dialect, plan, wanted, github, &staging(dialect, release)).await;
            if result.is_err() {
                discard(dialect);
            }
            return result;
        }
        Source::Placed { why } => return Err(not_placed(dialect, release, why)),
    };
    let folder = staging(dialect, release);
    let executables = dialect.executables(&folder, &|path| small::read(path).ok());
    let executable = executables.map_err(|error| Failure::permanent(error.to_string()))?.swap_remove(0);
    discard(dialect); // what was staged for another release is not wanted any more
    tracing::info!(release = %release, url = shown(url), "downloading");
    let wanted = Download { digest: release.digest.as_ref(), ..Download::of(url) };
    let result = download(&wanted, &executable).await;
    if result.is_err() {
        discard(dialect);
    }
    result
}

/// Why nothing can come of this announcement before a person has placed its executable, if that is so. Only looks whether files
/// are there; where a release is a folder that has to be whole, that says too little.
pub fn missing(dialect: &dyn Dialect, announced: &Announcement) -> Option<String> {
    let Source::Placed { why } = &announced.source else { return None };
    let is_there = |folder: PathBuf| {
        executables_of(dialect, &folder).is_some_and(|all| all.iter().all(|executable| executable.is_file()))
    };
    if !dialect.fills_folders() || folders(dialect, &announced.release).into_iter().any(is_there) {
        return None;
    }
    Some(not_placed(dialect, &announced.release, why).reason)
}

/// Why what a person was to place is not there. Whoever is at it may not be done yet.
fn not_placed(dialect: &dyn Dialect, release: &Release, why: &str) -> Failure {
    let folder = dialect.release_folder(release);
    let executables = match dialect.executables(&folder, &|path| small::read(path).ok()) {
        Ok(executables) => executables,
        Err(error) if folder.is_dir() => return Failure::transient(error.to_string()),
        Err(_) => vec![folder],
    };
    match executables.iter().find(|executable| !executable.is_file()) {
        Some(missing) => Failure::transient(format!("there is no executable at {}, and {why}", missing.display())),
        None => {
            let expected = release.digest.as_ref().map_or_else(String::new, ToString::to_string);
            let there = executables.first().map_or_else(String::new, |it| it.display().to_string());
            Failure::permanent(format!("{there} is not the announced executable ({expected})"))
        }
    }
}

/// What is to be downloaded, and what it has to be.
#[derive(Clone, Debug)]
pub struct Download<'a> {
    /// Where it is.
    pub url: &'a str,
    /// What is said when it is asked for.
    pub headers: HeaderMap,
    /// Its digest, if it is known.
    pub digest: Option<&'a Digest>,
    /// How many bytes it has, if that is known.
    pub size: Option<u64>,
    /// No more bytes than these are taken.
    pub limit: u64,
}

impl<'a> Download<'a> {
    /// Whatever is there, if it is no larger than any executable.
    pub fn of(url: &'a str) -> Self {
        Self { url, headers: HeaderMap::new(), digest: None, size: None, limit: LARGEST }
    }
}

/// Downloads it to the file `to`, whose folder is made; durable when it returns. The file appears when it is whole and what it
/// has to be. After an error something unfinished may be beside it, for whoever owns the folder to remove.
pub async fn download(wanted: &Download<'_>, to: &Path) -> Result<(), Failure> {
    match tokio::time::timeout(LONGEST, receive(wanted, to)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::transient(format!("{} was not downloaded within six hours", shown(wanted.url)))),
    }
}

async fn receive(wanted: &Download<'_>, to: &Path) -> Result<(), Failure> {
    let Download { url, digest: expected, size, limit, .. } = *wanted;
    let folder = to.parent().unwrap_or(to).to_owned();
    let cannot = |error: io::Error| Failure::transient(format!("{} cannot be written: {error}", to.display()));
    disk::make_folders(&folder, 0o777).map_err(cannot)?;
    let http = Http::new().map_err(|error| Failure::transient(error.to_string()))?;
    let mut response = http.get_with(url, &wanted.headers).await.map_err(failure)?;
    let length = response.content_length().or(size);
    if length.is_some_and(|length| length > limit) {
        return Err(Failure::permanent(format!("{} is larger than any executable: {length:?} bytes", shown(url))));
    }
    let sized = |bytes| match size {
        // Some other page, or one half of it: the next try may find the right one.
        Some(size) if size != bytes => {
            Err(Failure::transient(format!("{} has {bytes} bytes, but {size} were announced", shown(url))))
        }
        _ => Ok(()),
    };
    length.map_or(Ok(()), sized)?;
    let room = |bytes| {
        space::require(&folder, bytes, "the download")
            .map_err(|error| Failure::transient(format!("{}: {error}", shown(url))))
    };
    room(length.unwrap_or(0))?;

    let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(atomic::UNFINISHED);
    let unfinished = to.with_file_name(name);
    // The disk is written by a thread of its own: a slow one must not keep the supervisor from its node.
    let (chunks, mut queue) = tokio::sync::mpsc::channel::<Vec<u8>>(8);
    let path = unfinished.clone();
    let writer = tokio::task::spawn_blocking(move || -> io::Result<Digest> {
        let mut file = Written::create(&path, 0o755)?;
        let mut hasher = Hasher::new(algorithm);
        while let Some(chunk) = queue.blocking_recv() {
            hasher.update(&chunk);
            file.push(&chunk)?;
        }
        file.flush()?;
        hasher.finish()
    });
    let (mut received, mut looked) = (0_u64, 0);
    let transfer: Result<(), Failure> = async {
        while let Some(chunk) = response.chunk().await.map_err(|error| failure(transport(url, &error)))? {
            received += chunk.len() as u64;
            if received > limit {
                return Err(Failure::permanent(format!("{} never ends", shown(url))));
            }
            if size.is_some_and(|size| received > size) {
                return sized(received);
            }
            // Whoever does not say how much is coming, or sends more, must not fill the disk that the node writes to.
            if received - looked > LOOK {
                looked = received;
                room(length.unwrap_or(0).saturating_sub(received))?;
            }
            checkpoint::reach("fetch-chunk");
            if chunks.send(chunk.to_vec()).await.is_err() {
                break; // the writer has failed, and says why
            }
        }
        Ok(())
    }
    .await;
    drop(chunks);
    let written = writer.await.map_err(|error| Failure::transient(error.to_string()))?;
    transfer?;
    let found = written.map_err(cannot)?;
    sized(received)?;
    if let Some(expected) = expected
        && found != *expected
    {
        let url = shown(url);
        return Err(Failure::permanent(format!("{url} has the digest {found}, but {expected} was announced")));
    }
    disk::rename(&unfinished, to).and_then(|()| disk::flush_folder(&folder)).map_err(cannot)
}

fn failure(error: HttpError) -> Failure {
    Failure::transient(error.to_string())
}

/// Moves a staged release to where it will run from; durable when it returns. Nothing that is there is replaced.
pub fn publish(dialect: &dyn Dialect, located: &Located) -> io::Result<()> {
    let Some(staged) = &located.staged else {
        // Whoever put it there may have been killed, or may not have flushed it.
        located.executables.iter().try_for_each(|executable| atomic::flush_folder_of(executable))?;
        return atomic::flush_folder_of(&located.folder);
    };
    for executable in &located.executables {
        disk::set_mode(executable, 0o755)?;
    }
    if !dialect.fills_folders() {
        atomic::rename_new(staged, &located.folder)?;
        return atomic::flush_folder_of(&located.folder);
    }
    for executable in &located.executables {
        let target = executable.strip_prefix(staged).map_or(located.folder.clone(), |it| located.folder.join(it));
        let bin = target.parent().unwrap_or(&target).to_owned();
        disk::make_folders_durably(&bin, 0o777)?;
        atomic::rename_new(executable, &target)?;
        disk::flush_folder(&bin)?;
    }
    Ok(())
}

/// Removes what was staged: it is no good.
pub fn discard(dialect: &dyn Dialect) {
    let _ = disk::remove(&dialect.staging());
}
