//! Get a release's executable onto this disk, digest checked, while the node runs.
//!
//! It comes into a staging folder of this instance first; only what was proven is moved into the release's folder, and a
//! file that is there already is never touched: a node may be running from it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnivisor_core::dialect::Dialect;
use omnivisor_core::plan::Failure;
use omnivisor_core::release::{Algorithm, Digest, Release};
use omnivisor_core::schedule::{Announcement, Source};

use super::digest::{self, Hasher};
use super::http::{HeaderMap, Http, HttpError, shown, transport};
use super::{snapshot, space};
use crate::checkpoint;
use crate::store::atomic;

/// The largest executable that is believed to be one: Nym's have 100 MB.
const LARGEST: u64 = 2 << 30;

/// After so many more bytes the room on the disk is looked at again: a quarter of what is left free for others.
const LOOK: u64 = 4 << 20;

/// A download that has not ended after so long would never end.
const LONGEST: Duration = Duration::from_secs(6 * 3600);

/// Where a release's executable is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The folder it is in, and will run from.
    pub folder: PathBuf,
    /// Where the executable is now.
    pub executable: PathBuf,
    /// Whether it still has to be moved into the folder.
    pub staged: bool,
}

/// Where this instance stages a release: beside the releases, so that a rename is enough to publish it.
fn staging(dialect: &dyn Dialect, release: &Release) -> PathBuf {
    let key = digest::of_bytes(Algorithm::Sha256, format!("{release} {:?}", release.digest).as_bytes());
    staging_root(dialect).join(&key.to_hex()[..16])
}

/// The folder of everything that this instance stages.
pub fn staging_root(dialect: &dyn Dialect) -> PathBuf {
    dialect.paths().releases.join("upgrades").join(format!(".omnivisor-{}", dialect.instance()))
}

/// Looks for the release on this disk. Reads whole files; the error is an unreadable one.
pub fn locate(dialect: &dyn Dialect, release: &Release) -> io::Result<Option<Located>> {
    for folder in folders(dialect, release) {
        let executable = dialect.executable(&folder);
        if executable.is_file() && is_it(&executable, release)? {
            return Ok(Some(Located { folder, executable, staged: false }));
        }
    }
    let executable = dialect.executable(&staging(dialect, release));
    if !executable.is_file() || !is_it(&executable, release)? {
        return Ok(None);
    }
    // The first folder that nothing stands in the way in.
    let free = folders(dialect, release).into_iter().find(|folder| !dialect.executable(folder).exists());
    Ok(free.map(|folder| Located { folder, executable, staged: true }))
}

/// Where a release may be: its own folder, or if that holds another executable of the same name, one beside it.
fn folders(dialect: &dyn Dialect, release: &Release) -> Vec<PathBuf> {
    let folder = dialect.release_folder(release);
    let mut folders = vec![folder.clone()];
    if let (Some(digest), Some(name)) = (&release.digest, folder.file_name()) {
        let mut name = name.to_owned();
        name.push(format!("@{}", &digest.to_hex()[..12]));
        folders.push(folder.with_file_name(name));
    }
    folders
}

fn is_it(executable: &Path, release: &Release) -> io::Result<bool> {
    match &release.digest {
        Some(digest) => Ok(digest::of_file(digest.algorithm(), executable)? == *digest),
        None => Ok(true),
    }
}

/// Makes sure that the release's executable is on this disk.
pub async fn fetch(dialect: &dyn Dialect, announced: &Announcement) -> Result<(), Failure> {
    let release = &announced.release;
    if locate(dialect, release).map_err(|error| Failure::transient(error.to_string()))?.is_some() {
        return Ok(());
    }
    let url = match &announced.source {
        Source::Download { url } => url,
        Source::Placed { why } => {
            let executable = dialect.executable(&dialect.release_folder(release));
            return Err(if executable.exists() {
                let expected = release.digest.as_ref().map_or_else(String::new, ToString::to_string);
                Failure::permanent(format!("{} is not the announced executable ({expected})", executable.display()))
            } else {
                Failure::transient(format!("there is no executable at {}, and {why}", executable.display()))
            });
        }
    };
    let executable = dialect.executable(&staging(dialect, release));
    let _ = fs::remove_dir_all(staging_root(dialect)); // what was staged for another release is not wanted any more
    tracing::info!(release = %release, url = shown(url), "downloading");
    let wanted = Download { digest: release.digest.as_ref(), ..Download::of(url) };
    let result = download(&wanted, &executable).await;
    if result.is_err() {
        let _ = fs::remove_dir_all(staging_root(dialect));
    }
    result
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
    fs::create_dir_all(&folder).map_err(cannot)?;
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
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&path)?;
        let mut hasher = Hasher::new(algorithm);
        while let Some(chunk) = queue.blocking_recv() {
            hasher.update(&chunk);
            file.write_all(&chunk)?;
        }
        file.sync_all()?;
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
    checkpoint::reach("fetch-before-rename");
    fs::rename(&unfinished, to).and_then(|()| atomic::flush_folder(&folder)).map_err(cannot)
}

fn failure(error: HttpError) -> Failure {
    Failure::transient(error.to_string())
}

/// Moves a staged executable into its release's folder; durable when it returns. A file that is there is not replaced.
pub fn publish(dialect: &dyn Dialect, located: &Located) -> io::Result<()> {
    if !located.staged {
        return Ok(());
    }
    let target = dialect.executable(&located.folder);
    let bin = target.parent().unwrap_or(&target).to_owned();
    fs::create_dir_all(&bin)?;
    fs::set_permissions(&located.executable, fs::Permissions::from_mode(0o755))?;
    checkpoint::reach("publish-before-rename");
    let cwd = rustix::fs::CWD;
    rustix::fs::renameat_with(cwd, &located.executable, cwd, &target, rustix::fs::RenameFlags::NOREPLACE)?;
    checkpoint::reach("publish-after-rename");
    for folder in bin.ancestors().take(3) {
        atomic::flush_folder(folder)?;
    }
    Ok(())
}

/// Removes what was staged: it is no good.
pub fn discard(dialect: &dyn Dialect) {
    let _ = snapshot::remove(&staging_root(dialect));
}
