//! What Nymvisor has left: the release that it installed, on the first day and when it was gone back to meanwhile, and the
//! upgrade that it was committing when it ended.

use std::path::{Path, PathBuf};

use super::Nym;
use super::files::{CurrentVersionFile, HistoryFile, Lenient, PlanFile, UpgradeInfo};
use crate::dialect::{Found, Layout, Link, Ours, Read};
use crate::release::ReleaseName;

impl Nym {
    fn version_file(&self, read: Read<'_>) -> Option<CurrentVersionFile> {
        let bytes = read(&self.config.home.join("nymvisor").join(CurrentVersionFile::FILE_NAME))?;
        CurrentVersionFile::parse(&bytes).ok()
    }

    fn history_file(&self, read: Read<'_>) -> HistoryFile {
        let bytes = read(&self.paths.releases.join(HistoryFile::FILE_NAME));
        bytes.and_then(|bytes| HistoryFile::parse(&bytes).ok()).unwrap_or_default()
    }

    /// The folder of a release of this name, if it can be one's.
    fn folder_of(&self, name: &str) -> Option<PathBuf> {
        match ReleaseName::parse_installed(name) {
            Ok(name) if name == ReleaseName::genesis() => Some(self.genesis_folder()),
            Ok(name) => Some(self.paths.releases.join("upgrades").join(name.as_str())),
            Err(_) => None,
        }
    }

    /// Nymvisor runs what the link names, and moves it last. Where the link is gone, or is another instance's, too, the file in
    /// the daemon's home counts: that is this instance's alone. A crash of ours may have left either behind, so what they name
    /// has to be something that never ran here, or the peer's own entry in the history has to name it, of a time that we know
    /// nothing of.
    pub(super) fn taken_over_meanwhile(&self, read: Read<'_>, link: Option<&Link>, ours: &Ours) -> Option<PathBuf> {
        let shown = &ours.shown;
        let version = self.version_file(read).filter(|version| {
            version.name != shown.release.name.as_str() || version.version != shown.release.version.as_str()
        });
        let history = self.history_file(read);
        let theirs = |name: &str, version: Option<&str>| {
            history.history.iter().filter_map(Lenient::known).any(|entry| {
                entry.omnivisor_instance.is_none()
                    && entry.performed_at.0 > ours.since
                    && entry.info.name == name
                    && version.is_none_or(|version| entry.info.version == version)
            })
        };
        let named = |name: &str| ReleaseName::parse(name).ok().and_then(|name| self.folder_of(name.as_str()));
        let said = version.as_ref().filter(|version| theirs(&version.name, Some(&version.version)));
        let linked = link.map(|link| &link.target).filter(|_| self.context.siblings.is_empty());
        let shelf = self.paths.releases.join("upgrades");
        let is_release = |folder: &&PathBuf| **folder == shown.folder || folder.parent() == Some(&shelf);
        let Some(linked) = linked.filter(is_release) else { return named(&said?.name) };
        if *linked == shown.folder {
            // What the file is ahead with was being committed, see `left_unfinished`; unless it is this release made anew.
            return said.filter(|said| said.name == shown.release.name.as_str()).map(|_| linked.clone());
        }
        let name = linked.file_name()?.to_str()?;
        let is_new = |version: &CurrentVersionFile| version.name == name && !ours.has_run(name, &version.version);
        (version.as_ref().is_some_and(is_new) || theirs(name, None)).then(|| named(name))?
    }

    /// The release that is installed, as far as the files tell, on the first day.
    pub(super) fn installed_by_nymvisor(&self, read: Read<'_>, link: Option<&Path>) -> Found {
        let version = self.version_file(read);
        let plan = read(&self.paths.queue).and_then(|bytes| PlanFile::parse(&bytes).ok());
        let history = self.history_file(read);
        let last = history.history.iter().filter_map(Lenient::known).next_back();

        // Nymvisor writes current-version, plan and history before it changes the link, and starts only what the link says.
        // Where instances share the link it may be another one's; what this one was last used with it has said itself, and
        // the history knows whether that was finished.
        let finished = version.as_ref().filter(|version| {
            let mut done = history.history.iter().filter_map(Lenient::known);
            version.name == ReleaseName::genesis().as_str()
                || done.any(|entry| entry.info.name == version.name && entry.info.version == version.version)
        });
        let own =
            finished.filter(|_| !self.context.siblings.is_empty()).and_then(|version| self.folder_of(&version.name));
        let mut folders: Vec<PathBuf> = own.into_iter().collect();
        folders.extend(link.map(Path::to_owned).filter(|link| !folders.contains(link)));
        let names = [
            version.as_ref().map(|version| version.name.as_str()),
            plan.as_ref().map(|plan| plan.current.name.as_str()),
            last.map(|entry| entry.info.name.as_str()),
        ];
        for folder in names.into_iter().flatten().filter_map(|name| self.folder_of(name)) {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        let named_upgrade = folders.iter().any(|folder| *folder != self.genesis_folder());
        let upgraded = named_upgrade || !history.history.is_empty();
        if folders.is_empty() && !upgraded {
            folders.push(self.genesis_folder());
        }
        Found { folders, upgraded, advice: None }
    }

    /// Nymvisor writes current-version and plan, in this order, before it changes the link: a name in either that is not
    /// what runs is an upgrade that it was committing when it ended. What ran here before is none: then we ended before the
    /// files were brought up to date; and neither is what was done before we did anything: then somebody has put an old file back.
    pub(super) fn left_unfinished(&self, read: Read<'_>, ours: &Ours) -> Option<(Vec<u8>, Vec<String>)> {
        if !self.context.siblings.is_empty() {
            return None; // the names may be another instance's
        }
        let info_of = |folder: &Path| UpgradeInfo::parse(&read(&Self::info_file(folder))?).ok();
        let mut plan = match read(&self.paths.queue) {
            Some(bytes) => PlanFile::parse(&bytes).ok()?,
            None => PlanFile::new(info_of(&ours.shown.folder)?),
        };
        let history = self.history_file(read);
        let is_old = |info: &UpgradeInfo| {
            let mut done = history.history.iter().filter_map(Lenient::known);
            done.any(|entry| entry.performed_at.0 <= ours.since && entry.info.name == info.name)
        };
        let current = plan.current.clone();
        let version = self.version_file(read).map(|version| version.name);
        let mut names = Vec::new();
        for name in [Some(current.name.clone()), version].into_iter().flatten() {
            let queued = plan.queued_up.iter().filter_map(Lenient::known).any(|info| info.name == name);
            if name == ours.shown.release.name.as_str() || queued || ReleaseName::parse(&name).is_err() {
                continue;
            }
            let info = if current.name == name {
                Some(current.clone())
            } else {
                self.folder_of(&name).and_then(|folder| info_of(&folder))
            };
            let info = info.filter(|info| info.name == name && !ours.has_run(&name, &info.version) && !is_old(info));
            if let Some(info) = info {
                plan.queued_up.insert(0, Lenient::Known(info));
                names.push(name);
            }
        }
        (!names.is_empty()).then(|| (plan.to_bytes(), names))
    }
}
