//! Keep what an operator cannot do without of a node's data: what says what was signed, and the configuration. For an upgrade that a
//! network has agreed on and no snapshot can be taken for: it is not waited for that.
//!
//! It is no snapshot. Nothing puts it back, and no rollback believes it: a person copies by hand what is needed of it. It stands beside
//! where the snapshot would, with a manifest of the same form, so that it is listed, compared and removed as backups are.
//!
//! It holds contents, owners (as root) and times of files; where one is a link, of what that leads to. Only its owner may look into
//! it: a configuration has passwords in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use omnivisor_core::dialect::{Dialect, Root};
use omnivisor_core::plan::UpgradePlan;

use super::backup::manifest::{self, Head};
use super::backup::{Backup, archive};
use super::data::Data;
use super::snapshot::PRIVATE;
use super::space;
use crate::clock;
use crate::store::disk::{self, Written};
use crate::store::{atomic, small};

/// What the name of its folder begins with; the upgrade's id follows.
pub const NAME: &str = "essentials-";

/// What the folder of configuration in a home is called.
const CONFIG: &str = "config";

/// What a manifest says first, and why, where what says what was signed is not in it.
const UNSIGNED: &str = "consensus: no signer state";

/// How a manifest calls it.
const METHOD: &str = "essentials";

/// What its name ends in until it is whole, and that of its manifest.
const UNFINISHED: [&str; 2] = [".partial", ".partial-mtree"];

/// The mode of its files.
const MODE: u32 = 0o600;

/// A configuration has a dozen of files with some kilobytes each, and a network's genesis some hundred. What is more is none, or
/// takes time that nobody has.
const FILES: usize = 1000;
const LARGEST: u64 = 1 << 20;
const BYTES: u64 = 16 << 20;

/// So deep may a folder be, counted from the name of its home, and a link to one; and so many entries are looked at. Who keeps something
/// else there pays for it with the rest.
const DEPTH: usize = 6;
const TOP: usize = 2;
const ENTRIES: usize = 10_000;

/// So much of what was left out is named in the manifest.
const NAMED: usize = 10;

/// And so many bytes of each: the line that they stand in has a limit, and a byte may become six there.
const SHOWN: usize = 300;

/// All of it takes some milliseconds, most of them for flushes, and ten times as long on a disk that is busy. Where it takes longer, the
/// node is started beside it.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where that of an upgrade is.
pub fn folder(dialect: &dyn Dialect, plan: &UpgradePlan) -> PathBuf {
    dialect.paths().backups.join(plan.to.release.name.as_str()).join(format!("{NAME}{}", plan.id()))
}

/// Whether a file or a folder of this name is the rest of one that was not finished.
pub fn is_unfinished(name: &str) -> bool {
    name.starts_with(NAME) && UNFINISHED.iter().any(|ending| name.ends_with(ending))
}

/// What is in one of these, for people.
pub fn described(head: Option<&Head>) -> &'static str {
    let said = head.and_then(|head| head.not_included.first());
    match said.is_some_and(|said| said.starts_with(UNSIGNED)) {
        true => "configuration only, no signer state",
        false => "signer state and configuration only",
    }
}

/// Whether what says what was signed is in the one that is in this folder.
pub fn is_signed(dialect: &dyn Dialect, folder: &Path) -> bool {
    dialect.signer_state().is_none_or(|below| folder.join(below).is_file())
}

/// Whether what says what was signed can be read now, by whoever asks.
pub fn is_found(dialect: &dyn Dialect) -> bool {
    let Some(signed) = dialect.signer_state() else { return true };
    let link = &dialect.paths().link;
    let release = if link.exists() { link.clone() } else { dialect.genesis_folder() };
    let roots = dialect.essential_roots(&release, &|path| small::read(path).ok());
    let paths = roots.iter().filter_map(|root| Some(root.path.join(signed.strip_prefix(root.name).ok()?)));
    paths.into_iter().any(|path| fs::File::open(path).is_ok())
}

/// Why it is not put back, and how that is done instead.
pub fn by_hand(kept: &Backup) -> String {
    let mut roots = kept.head.iter().flat_map(|head| &head.roots);
    // Where only the configuration is known, that is what is called so.
    let (from, to) = match roots.find(|(name, _)| kept.path.join(name).is_dir()) {
        Some((name, path)) if Path::new(name).ends_with(CONFIG) => (kept.path.join(name), PathBuf::from(path)),
        Some((name, path)) => (kept.path.join(name).join(CONFIG), Path::new(path).join(CONFIG)),
        None => (kept.path.clone(), PathBuf::from("<home>")),
    };
    format!(
        "{} is no backup: no snapshot was taken then, and it holds {}. Copy by hand what you need \
         of it, while nothing runs, as with `cp -r {}/. {}/`; but never an older priv_validator_state.json over a newer one: the node would \
         sign twice",
        kept.path.display(),
        described(kept.head.as_ref()),
        from.display(),
        to.display()
    )
}

/// Keeps it, while no node runs. Can be done again, and is taken anew then. Whatever becomes of it is said in the log, and is no reason not
/// to go on: nothing waits for it for longer than a moment. What is copied by then is finished behind.
pub fn keep(dialect: &Arc<dyn Dialect>, plan: &UpgradePlan, was_killed: bool) {
    let (dialect, plan, late) = (dialect.clone(), plan.clone(), Arc::new(AtomicBool::new(false)));
    let (done, is_done) = mpsc::channel();
    let at_work = late.clone();
    let begun = std::thread::Builder::new().name("essentials".to_owned()).spawn(move || {
        let to = folder(&*dialect, &plan);
        match of_upgrade(&*dialect, &plan, was_killed, &at_work) {
            Ok(Kept { files, bytes, left_out, unsigned: Some(why) }) => tracing::warn!(
                folder = %to.display(), files, bytes, left_out,
                "configuration only: {why}; so much is kept in place of a snapshot"
            ),
            Ok(Kept { files, bytes, left_out, unsigned: None }) => tracing::info!(
                folder = %to.display(), files, bytes, left_out,
                "signer state and configuration are kept in place of a snapshot"
            ),
            Err(error) => tracing::warn!(
                folder = %to.display(), %error,
                "signer state and configuration cannot be kept in place of a snapshot; the upgrade goes on without"
            ),
        }
        let _ = done.send(());
    });
    match begun {
        Err(error) => {
            tracing::warn!(%error, "no thread can be started that keeps signer state and configuration")
        }
        Ok(_) if is_done.recv_timeout(PATIENCE).is_err() => {
            late.store(true, Ordering::Relaxed);
            tracing::warn!("to keep signer state and configuration takes long: the upgrade does not wait for it");
        }
        Ok(_) => {}
    }
}

/// What is to be kept, and where.
pub struct Essentials<'a> {
    /// Where all of it is, of which something is kept.
    pub data: &'a Data,
    /// Which: [`Layout::is_essential`](omnivisor_core::dialect::Layout::is_essential).
    pub is_essential: &'a dyn Fn(&Path) -> bool,
    /// Which of it says what was signed: [`Layout::signer_state`](omnivisor_core::dialect::Layout::signer_state).
    pub signed: Option<&'a Path>,
    /// What it is called when it is whole.
    pub to: &'a Path,
}

/// What was kept.
#[derive(Debug)]
pub struct Kept {
    /// So many.
    pub files: usize,
    /// With so many bytes.
    pub bytes: u64,
    /// How much was not, for whatever reason.
    pub left_out: usize,
    /// Why what says what was signed is not there, if it should be.
    pub unsigned: Option<String>,
}

/// A file to be kept.
struct File {
    from: PathBuf,
    /// As it would stand in a snapshot.
    below: PathBuf,
    bytes: u64,
}

impl Essentials<'_> {
    /// Keeps it, with a manifest that has this head. Durable and complete when it returns; what is there already is replaced. On an error, and
    /// when it is `late` before all was copied, nothing is left of it.
    pub fn take_as(&self, head: &Head, late: &AtomicBool) -> io::Result<Kept> {
        self.take(head, late).inspect_err(|_| discard(self.to))
    }

    fn take(&self, head: &Head, late: &AtomicBool) -> io::Result<Kept> {
        let to = self.to;
        let Chosen { files, mut left_out, bytes } = choose(&self.data.roots, self.is_essential);
        let [partial, listed] = UNFINISHED.map(|ending| beside(to, ending));
        if let Some(above) = to.parent() {
            disk::make_folders(above, PRIVATE)?;
        }
        space::require(&partial, bytes, "what is kept in place of a snapshot").map_err(io::Error::other)?;
        disk::remove(&partial)?; // of a try that was killed
        disk::make_folder(&partial, PRIVATE)?;
        let (mut kept, mut bytes) = (Vec::new(), 0);
        for File { from, below, .. } in &files {
            let there = fs::metadata(from).and_then(|metadata| Ok((metadata, small::read(from)?)));
            match there {
                Ok((metadata, contents)) => {
                    write(&partial.join(below), &metadata, &contents)?;
                    kept.push(below.as_path());
                    bytes += contents.len() as u64;
                }
                Err(error) => left_out.push(format!("{}: {error}", below.display())),
            }
            // Behind each: what was read when nobody waited any more may be what the new node has written.
            if late.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "to read it takes too long"));
            }
        }
        if kept.is_empty() {
            let why = left_out.first().map_or_else(String::new, |it| format!(": {it}"));
            return Err(io::Error::other(format!("nothing of it can be found{why}")));
        }
        let unsigned = self.signed.filter(|signed| !kept.contains(signed));
        let unsigned = unsigned.map(|signed| unsigned_for(signed, &self.data.roots, &mut left_out));
        left_out.splice(..0, unsigned.clone());
        let outcome = Kept { files: kept.len(), bytes, left_out: left_out.len(), unsigned };
        if left_out.len() > NAMED {
            left_out.splice(NAMED.., [format!("and {} more", outcome.left_out - NAMED)]);
        }
        left_out.iter_mut().for_each(cut);
        let id = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let head = Head { id, method: METHOD.to_owned(), not_included: left_out, ..head.clone() };
        Written::create(&listed, MODE)?.push(&head.to_bytes())?;
        flush(to, &kept)?;
        if to.is_dir() {
            archive::remove_folder(to)?; // of a try before, since when the node may have gone on
        }
        // In this order: a manifest of nothing goes by itself, and a folder without one would stay.
        disk::rename(&listed, &manifest::beside(to))?;
        disk::rename(&partial, to)?;
        atomic::flush_folder_of(to)?;
        Ok(outcome)
    }
}

fn of_upgrade(dialect: &dyn Dialect, plan: &UpgradePlan, killed: bool, late: &AtomicBool) -> io::Result<Kept> {
    let roots = dialect.essential_roots(&plan.from.folder, &|path| small::read(path).ok());
    let data = Data { home: dialect.paths().home.clone(), roots, apart: Vec::new(), parts: BTreeMap::new() };
    let is_essential = &|path: &Path| dialect.is_essential(path);
    let head = Head { killed, ..Head::of(plan, &data, clock::now().wall) };
    let (signed, to) = (dialect.signer_state(), &folder(dialect, plan));
    Essentials { data: &data, is_essential, signed, to }.take_as(&head, late)
}

/// Why there is none of what says what was signed, which is so called in a snapshot, in place of what is said of it already.
fn unsigned_for(signed: &Path, roots: &[Root], left_out: &mut Vec<String>) -> String {
    let root = roots.iter().find(|root| signed.starts_with(root.name));
    // Each begins with a path: its own, or that of a folder above.
    let is_of_it = |said: &String| said.split_once(": ").is_some_and(|(path, _)| signed.starts_with(path));
    let why = match left_out.iter().position(is_of_it) {
        Some(at) => left_out.remove(at),
        None if root.is_none() => "it is not known where its home is".to_owned(),
        None => format!("{}: it is not there", signed.display()),
    };
    let of = root.map(|root| format!(" of {}", root.path.display())).unwrap_or_default();
    let mut said = format!("{UNSIGNED}{of} is kept ({why})");
    cut(&mut said);
    said
}

/// Makes durable what was made for this, of which these are the files: each by itself. A flush of the whole file system would take what the
/// node has written until it ended along, and who flushes the link meanwhile would wait for that.
fn flush(to: &Path, files: &[&Path]) -> io::Result<()> {
    let [partial, listed] = UNFINISHED.map(|ending| beside(to, ending));
    for file in files {
        disk::flush_file(&partial.join(file))?;
    }
    disk::flush_file(&listed)?;
    let folders: BTreeSet<&Path> = files.iter().flat_map(|file| file.ancestors().skip(1)).collect();
    for folder in folders.iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
        disk::flush_folder(&partial.join(folder))?;
    }
    disk::flush_folder(&partial)?;
    // That of the release and that of all backups may have been made, too.
    to.ancestors().skip(2).take(2).try_for_each(disk::flush_folder)
}

/// To the beginning of it.
fn cut(text: &mut String) {
    if text.len() > SHOWN {
        text.truncate(text.floor_char_boundary(SHOWN));
        text.push('…');
    }
}

fn write(to: &Path, from: &Metadata, contents: &[u8]) -> io::Result<()> {
    if let Some(above) = to.parent() {
        disk::make_folders(above, PRIVATE)?;
    }
    let mut written = Written::create_new(to, MODE)?;
    written.push(contents)?;
    let file = written.into_file();
    // As well as it can be done: what is in it counts.
    if rustix::process::geteuid().is_root() {
        let _ = fchown(&file, Some(from.uid()), Some(from.gid()));
    }
    let _ = from.modified().and_then(|at| file.set_modified(at));
    Ok(())
}

/// What is to be kept.
struct Chosen {
    files: Vec<File>,
    /// What is not, and why.
    left_out: Vec<String>,
    bytes: u64,
}

/// The files that are meant, the smallest first, as what was signed is among those; not more than there may be of them.
fn choose(roots: &[Root], is_essential: &dyn Fn(&Path) -> bool) -> Chosen {
    let (mut found, mut left_out) = (Vec::new(), Vec::new());
    let mut folders: Vec<(PathBuf, PathBuf)> =
        roots.iter().rev().map(|root| (root.path.clone(), root.name.into())).collect();
    let mut entries = 0;
    while let Some((folder, below)) = folders.pop() {
        let names = fs::read_dir(&folder)
            .and_then(|it| it.take(ENTRIES - entries).map(|it| Ok(it?.file_name())).collect::<io::Result<Vec<_>>>());
        let names = names.unwrap_or_else(|error| {
            left_out.push(format!("{}: {error}", below.display()));
            Vec::new()
        });
        entries += names.len();
        if entries >= ENTRIES {
            left_out.push(format!("{}: there is too much to look at", below.display()));
        }
        for name in names {
            let (path, below) = (folder.join(&name), below.join(&name));
            if !is_essential(&below) {
                continue;
            }
            let depth = below.iter().count();
            // A link deeper down may lead to all of the data.
            let is_far = |path: &Path| depth > DEPTH || depth > TOP && path.is_symlink();
            match fs::metadata(&path) {
                Ok(it) if it.is_dir() && !is_far(&path) => folders.push((path, below)),
                Ok(it) if it.is_dir() => left_out.push(format!("{}: it is too deep, or a link", below.display())),
                Ok(it) if it.is_file() && it.len() <= LARGEST => {
                    found.push(File { from: path, below, bytes: it.len() })
                }
                Ok(it) if it.is_file() => left_out.push(format!("{}: it has {} bytes", below.display(), it.len())),
                Ok(_) => {}
                Err(error) => left_out.push(format!("{}: {error}", below.display())),
            }
        }
    }
    found.sort_by(|one, other| (one.bytes, &one.below).cmp(&(other.bytes, &other.below)));
    let (mut files, mut bytes) = (Vec::new(), 0);
    for file in found {
        if files.len() < FILES && bytes + file.bytes <= BYTES {
            bytes += file.bytes;
            files.push(file);
        } else {
            left_out.push(format!("{}: there is too much", file.below.display()));
        }
    }
    Chosen { files, left_out, bytes }
}

/// Removes what there is of one that is not whole. As well as it can be done: what stays goes with the
/// [rest of backups](super::backup::keep).
fn discard(to: &Path) {
    for ending in UNFINISHED {
        if let Err(error) = disk::remove(&beside(to, ending)) {
            tracing::debug!(path = %to.display(), %error, "what is left of it is removed later");
        }
    }
}

fn beside(to: &Path, ending: &str) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
