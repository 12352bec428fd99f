//! The Nym dialect: Nymvisor's files, folders and words.
//!
//! Absent here: reading or writing any of them.

pub mod build_info;
pub mod config;
pub mod files;
mod found;
pub mod hashes;
mod launch;
pub mod platform;
pub mod queue;
mod source;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use self::build_info::BuildInfo;
use self::config::Config;
use self::files::{CurrentVersionFile, HistoryFile, Lenient, PlanFile, UpgradeInfo};
use self::hashes::GitHubSource;
use self::queue::Context;
use super::{
    CommandSpec, Contents, Dialect, DialectError, Found, Layout, Link, MirrorFile, Mirrored, Ours, Paths, Read,
};
use crate::health::HealthProbe;
use crate::release::{Installed, Release, ReleaseName};

pub use self::launch::identify_arguments;

/// What a key store, a ticket store or a share is called in the homes of Nym's daemons. A key is never older than what was
/// signed with it, a ticket is spent once.
const MONOTONIC_ENDINGS: [&str; 5] = [".pem", ".key", ".dkg", ".share", ".secret"];
const MONOTONIC_PARTS: [&str; 5] = ["credential", "ecash", "ticket", "dkg_persistent_state", "keypair"];

/// One instance that speaks Nymvisor's dialect.
#[derive(Clone, Debug)]
pub struct Nym {
    config: Config,
    context: Context,
    paths: Paths,
    probe: HealthProbe,
    arguments: Vec<OsString>,
    github: Option<GitHubSource>,
}

/// The folder of everything Nymvisor has below a home: `<home>/.nym/nymvisors`.
pub fn nymvisors(home: &Path) -> PathBuf {
    home.join(".nym/nymvisors")
}

/// The folder of an instance.
pub fn instance_folder(home: &Path, id: &str) -> PathBuf {
    nymvisors(home).join("instances").join(id)
}

/// Where an instance's configuration is, unless it is said where it is.
pub fn config_file(home: &Path, id: &str) -> PathBuf {
    instance_folder(home, id).join("config/config.toml")
}

/// The upgrade data directory of a configuration: plan, history and releases.
pub fn data_directory(home: &Path, config: &Config) -> PathBuf {
    config.upgrade_data_directory.clone().unwrap_or_else(|| nymvisors(home).join("data").join(&config.name))
}

impl Nym {
    /// An instance of this configuration, below the home that holds `.nym`. `siblings` are the other instances that share
    /// its data directory; `arguments` are the node's.
    pub fn new(
        home: &Path,
        config: Config,
        platform: &str,
        siblings: Vec<String>,
        probe: HealthProbe,
        arguments: Vec<OsString>,
    ) -> Self {
        let instance = instance_folder(home, &config.id);
        let data = data_directory(home, &config);
        let own = config.home.join("nymvisor");
        let backups = config.backup_data_directory.clone().unwrap_or_else(|| own.join("backups"));
        let paths = Paths {
            state: instance.join("data/omnivisor"),
            link: data.join("current"),
            queue: data.join(PlanFile::FILE_NAME),
            shared_lock: data.join("upgrade.lock"),
            home: config.home.clone(),
            apart: vec![own.clone(), backups.clone(), data.clone(), nymvisors(home)],
            beside: own,
            backups,
            releases: data,
        };
        let context = Context {
            platform: platform.to_owned(),
            instance: config.id.clone(),
            siblings,
            allow_download: config.allow_binaries_download,
            enforce_checksum: config.enforce_download_checksum,
        };
        Self { config, context, paths, probe, arguments, github: None }
    }

    /// The same, with releases from a repository on GitHub in place of what the configured upstream announces.
    pub fn following(self, github: Option<GitHubSource>) -> Self {
        Self { github, ..self }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// For whom queues are read.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Where the upstream's announcement is: the absolute address, or `<base>/<daemon>/upgrade-info.json`.
    pub fn upstream(&self) -> String {
        match &self.config.absolute_upstream_upgrade_url {
            Some(url) => url.to_string(),
            None => {
                // As Nymvisor does it: the path is added to, a query stays behind it.
                let mut url = self.config.upstream_base_upgrade_url.clone();
                let base = url.path().trim_end_matches('/').to_owned();
                url.set_path(&format!("{base}/{}/{}", self.config.name, UpgradeInfo::FILE_NAME));
                url.to_string()
            }
        }
    }

    fn info_file(folder: &Path) -> PathBuf {
        folder.join(UpgradeInfo::FILE_NAME)
    }

    /// What describes a release: its file, or its entry of the queue, or what can be said without either. The details are
    /// always those that its executable gave.
    fn describe(&self, shown: &Installed, queue: Option<&PlanFile>, file: Option<UpgradeInfo>) -> UpgradeInfo {
        let is_it = |info: &UpgradeInfo| {
            info.name == shown.release.name.as_str() && info.version == shown.release.version.as_str()
        };
        let queued = || {
            let plan = queue?;
            let queued = plan.queued_up.iter().filter_map(Lenient::known).find(|info| is_it(info));
            queued.or_else(|| is_it(&plan.current).then_some(&plan.current)).cloned()
        };
        let details = BuildInfo::from_identity(&shown.identity).unwrap_or_default();
        let genesis = || UpgradeInfo {
            name: shown.release.name.to_string(),
            version: shown.release.version.to_string(),
            ..UpgradeInfo::genesis(details.clone())
        };
        let info = file.filter(is_it).or_else(queued).unwrap_or_else(genesis);
        let mut info = UpgradeInfo { binary_details: Some(details), omnivisor: None, ..info };
        info.drop_odd_builds(None);
        info
    }
}

fn wrong(what: &str, error: impl std::fmt::Display) -> DialectError {
    DialectError { what: what.to_owned(), reason: error.to_string() }
}

impl Layout for Nym {
    fn paths(&self) -> &Paths {
        &self.paths
    }

    fn genesis_folder(&self) -> PathBuf {
        self.paths.releases.join("genesis")
    }

    fn release_folder(&self, release: &Release) -> PathBuf {
        if release.name == ReleaseName::genesis() {
            return self.genesis_folder();
        }
        self.paths.releases.join("upgrades").join(release.name.as_str())
    }

    fn executables(&self, folder: &Path, _: Read<'_>) -> Result<Vec<PathBuf>, DialectError> {
        Ok(vec![self.executable(folder)])
    }

    /// Whoever is asked something is no node, nor is what a node has started for something else.
    fn recognise(
        &self,
        executable: &Path,
        arguments: &[OsString],
        _: Option<&Path>,
        _: Read<'_>,
    ) -> Option<(PathBuf, usize)> {
        let folder = executable.parent()?.parent()?;
        let is_shelved = folder.parent() == Some(&self.paths.releases.join("upgrades"));
        let is_one = is_shelved || folder == self.genesis_folder();
        let is_question = arguments.iter().any(|argument| argument == "build-info" || argument == "--version");
        (is_one && !is_question && launch::runs_on(arguments) && self.executable(folder) == executable)
            .then(|| (folder.to_owned(), 0))
    }

    /// What describes a release is written with the other files.
    fn side_files(&self, _: &Installed, _: &Release, _: Read<'_>) -> Result<Vec<(PathBuf, Vec<u8>)>, DialectError> {
        Ok(Vec::new())
    }

    fn shelves(&self) -> Vec<PathBuf> {
        vec![self.paths.releases.join("upgrades")]
    }

    fn staging(&self) -> PathBuf {
        self.paths.releases.join("upgrades").join(format!(".omnivisor-{}", self.config.id))
    }

    fn fills_folders(&self) -> bool {
        true
    }

    fn homes(&self, _: Read<'_>) -> Vec<PathBuf> {
        vec![self.paths.beside.clone()]
    }

    fn is_monotonic(&self, path: &Path) -> bool {
        // A store of tickets may be a folder, whatever is in it is called.
        path.iter().map(|name| name.to_string_lossy().to_lowercase()).any(|name| {
            MONOTONIC_ENDINGS.iter().any(|ending| name.ends_with(ending))
                || MONOTONIC_PARTS.iter().any(|part| name.contains(part))
        })
    }

    fn mirror(&self, state: &Mirrored, read: Read<'_>) -> Result<Vec<MirrorFile>, DialectError> {
        let shown = &state.shown;
        let queue = read(&self.paths.queue);
        let plan = queue.as_deref().and_then(|bytes| PlanFile::parse(bytes).ok());
        let info_file = Self::info_file(&shown.folder);
        let on_disk = read(&info_file).and_then(|bytes| UpgradeInfo::parse(&bytes).ok());
        let info = self.describe(shown, plan.as_ref(), on_disk.clone());

        let mut files = Vec::new();
        let mut put = |path: PathBuf, bytes: Vec<u8>| {
            if read(&path).as_deref() != Some(&bytes) {
                files.push(MirrorFile { path, contents: Contents::Bytes(bytes) });
            }
        };
        if on_disk.as_ref() != Some(&info) {
            put(info_file, info.to_bytes());
        }
        let version = CurrentVersionFile {
            name: info.name.clone(),
            version: info.version.clone(),
            upgrade_time: info.upgrade_time,
            binary_details: info.binary_details.clone().unwrap_or_default(),
            extra: serde_json::Map::new(),
        };
        // Nymvisor reads the first; its documentation names the second.
        for name in [CurrentVersionFile::FILE_NAME, "current-version-info.json"] {
            put(self.config.home.join("nymvisor").join(name), version.to_bytes());
        }

        // A plan that cannot be read is somebody's plan all the same: it is not replaced.
        let mut next = match (plan, &queue) {
            (Some(plan), _) => plan,
            (None, None) => PlanFile::new(info.clone()),
            (None, Some(_)) => return Ok(self.with_link(files, state)),
        };
        let shared = !self.context.siblings.is_empty();
        if !shared || state.linked {
            next.current = info.clone();
        }
        for release in &state.settled {
            queue::settle(&mut next, release.name.as_str(), release.version.as_str(), &self.context);
        }
        if queue.as_deref().and_then(|bytes| PlanFile::parse(bytes).ok()).as_ref() != Some(&next) {
            put(self.paths.queue.clone(), next.to_bytes());
        }

        if let Some(at) = state.committed {
            let path = self.paths.releases.join(HistoryFile::FILE_NAME);
            let history = match read(&path) {
                None => Some(None),
                Some(bytes) => HistoryFile::parse(&bytes).ok().map(Some),
            };
            let added = history.and_then(|history| queue::history_with(history, at, info, &self.context.instance));
            if let Some(history) = added {
                put(path, history.to_bytes());
            }
        }
        Ok(self.with_link(files, state))
    }

    fn unreadable(&self, read: Read<'_>) -> Vec<PathBuf> {
        let history = self.paths.releases.join(HistoryFile::FILE_NAME);
        let wrong = |path: &Path, right: fn(&[u8]) -> bool| read(path).is_some_and(|bytes| !right(&bytes));
        let plan = wrong(&self.paths.queue, |bytes| PlanFile::parse(bytes).is_ok()).then(|| self.paths.queue.clone());
        let history = wrong(&history, |bytes| HistoryFile::parse(bytes).is_ok()).then_some(history);
        plan.into_iter().chain(history).collect()
    }
}

impl Nym {
    /// The executable in a release's folder.
    pub fn executable(&self, folder: &Path) -> PathBuf {
        folder.join("bin").join(&self.config.name)
    }

    /// The daemon of this release, with the arguments of this instance.
    pub fn command(&self, active: &Installed) -> CommandSpec {
        CommandSpec { name: "node", program: self.executable(&active.folder), arguments: self.arguments.clone() }
    }

    /// Where instances share the link it is moved by an upgrade only, and not back and forth at every start.
    fn with_link(&self, mut files: Vec<MirrorFile>, state: &Mirrored) -> Vec<MirrorFile> {
        if self.context.siblings.is_empty() || state.linked {
            let contents = Contents::Link(state.shown.folder.clone());
            files.push(MirrorFile { path: self.paths.link.clone(), contents });
        }
        files
    }
}

impl Dialect for Nym {
    fn instance(&self) -> &str {
        &self.config.id
    }

    fn peers(&self) -> &[&str] {
        &["nymvisor"]
    }

    fn moved(&self, read: Read<'_>, link: Option<&Link>, ours: &Ours) -> Option<PathBuf> {
        self.taken_over_meanwhile(read, link, ours)
    }

    fn found(&self, read: Read<'_>, link: Option<&Path>, _: &[PathBuf]) -> Found {
        self.installed_by_nymvisor(read, link)
    }

    fn unfinished(&self, read: Read<'_>, ours: &Ours) -> Option<(Vec<u8>, Vec<String>)> {
        self.left_unfinished(read, ours)
    }
}

/// A new instance's first files: those that `init` writes, in the order in which they are to appear.
pub fn first_files(nym: &Nym, details: &BuildInfo) -> Vec<MirrorFile> {
    let info = UpgradeInfo::genesis(details.clone());
    vec![
        MirrorFile { path: Nym::info_file(&nym.genesis_folder()), contents: Contents::Bytes(info.to_bytes()) },
        MirrorFile { path: nym.paths.queue.clone(), contents: Contents::Bytes(PlanFile::new(info).to_bytes()) },
    ]
}
