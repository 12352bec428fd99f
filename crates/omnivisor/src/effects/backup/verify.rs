//! See whether a backup still is what its manifest says.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use omnivisor_core::release::Algorithm;

use super::entry::{Entry, Walk, What, named};
use super::manifest::{self, Listed, Reader};
use super::member::{Members, Part};
use super::{Backup, Kind, Only, contents, open};
use crate::effects::digest::Hasher;

/// So many differences are told; the others are counted.
const TOLD: usize = 20;

/// Of two times.
const TIME: &str = "was modified at another time";

/// What was seen.
#[derive(Debug, Default)]
pub struct Verified {
    /// How many entries were looked at.
    pub entries: u64,
    /// How many bytes of contents.
    pub bytes: u64,
    /// Whether there was a manifest to compare them with.
    pub compared: bool,
    /// What differs, the first few of it.
    pub differs: Vec<String>,
    /// How much differs.
    pub different: u64,
}

impl Verified {
    /// Whether all is as it has to be.
    pub fn is_good(&self) -> bool {
        self.different == 0
    }

    fn note(&mut self, path: &Path, how: &str) {
        self.different += 1;
        if self.differs.len() < TOLD {
            self.differs.push(format!("{}: {how}", shown(path)));
        }
    }
}

/// Reads all of it and compares it with its manifest. An archive of Nymvisor has none: it is read to its end. `each` is told of
/// every so many bytes, and may end it. What cannot be read at all is an error.
pub fn verify(backup: &Backup, each: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<Verified> {
    if let Some(why) = &backup.damaged {
        return Err(io::Error::new(io::ErrorKind::InvalidData, why.clone()));
    }
    if let Some((root, apart)) = backup.tree() {
        return tree(Walk::of(&root).without(apart), &manifest::beside(&backup.path), &Only::default(), each);
    }
    let manifest = (backup.kind != Kind::Nymvisor).then(|| manifest::beside(&backup.path));
    archive(&backup.path, backup.kind, manifest.as_deref(), each)
}

/// How many bytes the files have that are meant, by the list of a backup, or as they are where it has none yet; none of an archive without a
/// list.
pub fn size(backup: &Backup, only: &Only) -> io::Result<Option<u64>> {
    let mut bytes = 0;
    if !backup.sealed && backup.tree().is_none() {
        return Ok(None);
    }
    contents::tell(backup, only, &mut |listed| match listed.entry.what {
        What::File { bytes: more } | What::Again { bytes: more, .. } => {
            bytes = u64::saturating_add(bytes, more);
            Ok(())
        }
        _ => Ok(()),
    })?;
    Ok(Some(bytes))
}

/// Compares a folder with a manifest, or with what stands there of what is meant.
pub fn tree(
    mut walk: Walk,
    manifest: &Path,
    only: &Only,
    each: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<Verified> {
    let mut verified = Verified { compared: true, ..Verified::default() };
    let (mut entries, mut bytes) = (0, 0);
    let mut found = || {
        // What is not meant may be there all the same, as a folder that nothing is in.
        let Some(entry) = walk.find(|it| it.as_ref().map_or(true, |it| only.has(&it.path))).transpose()? else {
            return Ok(None);
        };
        entries += 1;
        let listed = listed(&walk, entry, &mut |read| {
            bytes += read;
            each(read)
        })?;
        Ok(Some(listed))
    };
    compare(&mut Reader::open(manifest)?, &mut found, only, false, &mut |path, how| {
        verified.note(path, how);
        Ok(())
    })?;
    Ok(Verified { entries, bytes, ..verified })
}

/// Compares an archive with a manifest, if there is one.
pub fn archive(
    path: &Path,
    kind: Kind,
    manifest: Option<&Path>,
    each: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<Verified> {
    let mut members = Members::new(open(path, kind)?);
    let mut verified = Verified { compared: manifest.is_some(), ..Verified::default() };
    let (mut entries, mut bytes) = (0, 0);
    let mut found = || {
        loop {
            let Some(member) = members.advance()? else { return Ok(None) };
            entries += 1;
            let mut digest = Digested::default();
            members.contents(&member, &mut |part| {
                let length = digest.update(&part);
                bytes += length;
                each(length)
            })?;
            if !member.entry.path.as_os_str().is_empty() {
                let digest = digest.of(&member.entry)?;
                return Ok(Some(Listed::new(member.entry, digest)));
            }
        }
    };
    match manifest {
        Some(manifest) => {
            compare(&mut Reader::open(manifest)?, &mut found, &Only::default(), true, &mut |path, how| {
                verified.note(path, how);
                Ok(())
            })?
        }
        None => while found()?.is_some() {},
    }
    Ok(Verified { entries, bytes, ..verified })
}

/// The digest of contents that come in parts.
pub(super) struct Digested(Hasher);

impl Default for Digested {
    fn default() -> Self {
        Self(Hasher::new(Algorithm::Sha256))
    }
}

impl Digested {
    /// How long the part is.
    pub(super) fn update(&mut self, part: &Part<'_>) -> u64 {
        const NOTHING: &[u8] = &[0; 64 << 10];
        match part {
            Part::Bytes(bytes) => {
                self.0.update(bytes);
                bytes.len() as u64
            }
            Part::Zeros(length) => {
                let mut left = *length;
                while left > 0 {
                    let some = usize::try_from(left).map_or(NOTHING.len(), |left| left.min(NOTHING.len()));
                    self.0.update(&NOTHING[..some]);
                    left -= some as u64;
                }
                *length
            }
        }
    }

    /// None of what has no contents of its own.
    pub(super) fn of(self, entry: &Entry) -> io::Result<Option<String>> {
        matches!(entry.what, What::File { .. }).then(|| self.0.finish().map(|digest| digest.to_hex())).transpose()
    }
}

/// An entry of a tree, with the digest of its contents, which are read for it.
pub fn listed(walk: &Walk, entry: Entry, each: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<Listed> {
    if !matches!(entry.what, What::File { .. }) {
        each(0)?;
        return Ok(Listed::new(entry, None));
    }
    let path = walk.full(&entry.path);
    let mut file = File::open(&path).map_err(|error| named(&path, error))?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer).map_err(|error| named(&path, error))?;
        each(read as u64)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    let digest = hasher.finish()?.to_hex();
    Ok(Listed::new(entry, Some(digest)))
}

/// Goes through both side by side; `differs` is told of each difference, and may end it. An archive has no root, and says
/// nothing but its name of one more name of a file.
pub(super) fn compare(
    expected: &mut Reader,
    found: &mut dyn FnMut() -> io::Result<Option<Listed>>,
    only: &Only,
    is_archive: bool,
    differs: &mut dyn FnMut(&Path, &str) -> io::Result<()>,
) -> io::Result<()> {
    // Of files whose first name is not meant: what stands in the list there, and then which other name is the first.
    let (mut unmeant, mut now_first) = (HashMap::new(), HashMap::new());
    let mut next_expected = || -> io::Result<Option<Listed>> {
        loop {
            let Some(mut listed) = expected.advance()? else { return Ok(None) };
            if is_archive && listed.entry.path.as_os_str().is_empty() {
                continue;
            }
            if !only.has(&listed.entry.path) {
                if matches!(listed.entry.what, What::File { .. } | What::Pipe) && listed.entry.names > 1 {
                    unmeant.insert(listed.entry.path, (listed.entry.what, listed.digest));
                }
                continue;
            }
            if let What::Again { first, .. } = &mut listed.entry.what {
                if let Some((what, digest)) = unmeant.remove(first.as_path()) {
                    now_first.insert(first.clone(), listed.entry.path.clone());
                    (listed.entry.what, listed.digest) = (what, digest);
                } else if let Some(path) = now_first.get(first.as_path()) {
                    first.clone_from(path);
                }
            }
            return Ok(Some(listed));
        }
    };
    // An archive is not read any further than is meant: what comes behind that may be damaged.
    let is_all_seen = |one: &Option<Listed>| one.is_none() && is_archive && !only.is_all();
    let mut one = next_expected()?;
    let mut other = if is_all_seen(&one) { None } else { found()? };
    loop {
        match (one, other) {
            (None, None) => return Ok(()),
            (Some(wanted), Some(there)) if wanted.entry.path == there.entry.path => {
                // What else is in a folder on the way may have changed its time.
                let differences = difference(&wanted, &there, is_archive);
                for how in differences.into_iter().filter(|how| *how != TIME || !only.leads_to(&wanted.entry.path)) {
                    differs(&wanted.entry.path, how)?;
                }
                one = next_expected()?;
                other = if is_all_seen(&one) { None } else { found()? };
            }
            (Some(wanted), there) if there.as_ref().is_none_or(|there| wanted.entry.path < there.entry.path) => {
                differs(&wanted.entry.path, "is missing")?;
                (one, other) = (next_expected()?, there);
            }
            (wanted, Some(there)) => {
                differs(&there.entry.path, "is not in the manifest")?;
                (one, other) = (wanted, found()?);
            }
            (wanted, None) => (one, other) = (wanted, None),
        }
    }
}

fn difference(wanted: &Listed, there: &Listed, is_archive: bool) -> Vec<&'static str> {
    let (one, other) = (&wanted.entry, &there.entry);
    if let (What::Again { first: one, .. }, What::Again { first: other, .. }) = (&one.what, &other.what)
        && (is_archive || one != other)
    {
        return if one == other { Vec::new() } else { vec!["is a name of another file"] };
    }
    let checks = [
        (
            one.what != other.what,
            match (&one.what, &other.what) {
                (What::File { .. }, What::File { .. }) => "has another size",
                (What::Link { .. }, What::Link { .. }) => "points elsewhere",
                _ => "is of another kind",
            },
        ),
        (wanted.digest != there.digest && one.what == other.what, "has other contents"),
        (one.mode != other.mode, "has another mode"),
        ((one.uid, one.gid) != (other.uid, other.gid), "has another owner"),
        (one.modified != other.modified, TIME),
        (wanted.attributes != there.attributes, "has other extended attributes"),
    ];
    checks.into_iter().filter(|(differs, _)| *differs).map(|(_, how)| how).collect()
}

fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() { ".".to_owned() } else { path.display().to_string() }
}
