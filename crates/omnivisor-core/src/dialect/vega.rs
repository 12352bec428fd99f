//! The Vega dialect: Vega Visor's home, core's own word, a pair of core and data node.
//!
//! Absent here: reading or writing any file, asking core, looking at the environment.

pub mod admin;
pub mod arguments;
pub mod config;
mod launch;
pub mod node_config;
pub mod run_config;
mod source;
mod tables;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::config::Config;
use self::node_config::{CoreConfig, DataNodeConfig};
use self::run_config::RunConfig;
use super::{Contents, Dialect, DialectError, Found, Layout, Link, MirrorFile, Mirrored, Ours, Paths, Read, Root};
use crate::health::HealthProbe;
use crate::release::{Installed, Release, ReleaseName};

/// The folder of our own state in Vega Visor's home.
pub const STATE_FOLDER: &str = ".omnivisor";

/// Keys: a node that goes back to one that was replaced signs with what its network does not know any more. And what says what they have
/// signed: a node that goes back in that signs twice.
const MONOTONIC: &str = "wallets.encrypted";

/// And what such files of the consensus engine begin with.
const SIGNER: &str = "priv_validator";

/// A folder of keys.
const WALLETS: &str = "wallets";

/// What the consensus engine has signed, in its home; and the folder that it is in.
const SIGNED: [&str; 2] = ["data/priv_validator_state.json", "data"];

/// The same in a snapshot.
const SIGNER_STATE: &str = "consensus/data/priv_validator_state.json";

/// The folder of configuration in each home.
const CONFIG: &str = "config";

/// What the names of keys end in that stand among it: the key that peers know the consensus engine by, and those of a server.
const KEYS: [&str; 3] = ["node_key.json", ".key", ".pem"];

/// How much of a text from outside is said to people.
const LONGEST_SHOWN: usize = 200;

/// The beginning of a text from outside, made safe to print on one line.
fn excerpt(text: &str) -> String {
    let mut shown = String::new();
    for (index, character) in text.trim().chars().enumerate() {
        match character {
            _ if index == LONGEST_SHOWN => return shown + "…",
            '"' | '\'' | '\\' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

/// What the operator has set beyond Vega Visor's own files.
#[derive(Clone, Debug)]
pub struct Extra {
    /// How a new release shows that it is well.
    pub probe: HealthProbe,
    /// Whether a core that gives no answer any more is restarted.
    pub restart_silent: bool,
    /// How long PostgreSQL is waited for before a start.
    pub postgres_patience: Duration,
}

/// What the dialect has to know of the surroundings.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// `$XDG_CONFIG_HOME`, or what stands for it.
    pub config: PathBuf,
    /// Where temporary files go: core's socket, if nobody says otherwise.
    pub temporary: PathBuf,
    /// The variables that the nodes will have.
    pub variables: BTreeMap<String, String>,
}

/// One home of Vega Visor.
#[derive(Clone, Debug)]
pub struct Vega {
    instance: String,
    config: Config,
    extra: Extra,
    surroundings: Surroundings,
    paths: Paths,
}

impl Vega {
    /// The home in this folder, which is absolute.
    pub fn new(home: &Path, config: Config, extra: Extra, surroundings: Surroundings) -> Self {
        let state = home.join(STATE_FOLDER);
        let name = home.file_name().map_or_else(|| "vega".to_owned(), |name| name.to_string_lossy().into_owned());
        let paths = Paths {
            releases: home.to_owned(),
            link: home.join("current"),
            queue: state.join("queue"),
            shared_lock: state.join("shared.lock"),
            home: home.to_owned(),
            beside: state.clone(),
            backups: state.join("backups"),
            apart: vec![state.clone()],
            state,
        };
        Self { instance: name, config, extra, surroundings, paths }
    }

    /// Vega Visor's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What a release's folder says of what it runs.
    fn run_config(&self, folder: &Path, read: Read<'_>) -> Result<RunConfig, DialectError> {
        let path = folder.join(run_config::FILE_NAME);
        let bytes = read(&path).ok_or_else(|| wrong(&path, "it cannot be read"))?;
        let (config, _) = RunConfig::parse(&String::from_utf8_lossy(&bytes)).map_err(|error| wrong(&path, error))?;
        Ok(config)
    }

    /// The same, if somebody has written there what it is to be.
    fn filled(&self, folder: &Path, read: Read<'_>) -> Result<RunConfig, DialectError> {
        let run = self.run_config(folder, read)?;
        match run.unfilled() {
            None => Ok(run),
            Some(reason) => Err(wrong(&folder.join(run_config::FILE_NAME), reason)),
        }
    }

    /// What the linked release runs; where there is no link, the first one.
    fn current_run_config(&self, read: Read<'_>) -> Option<RunConfig> {
        let linked = self.run_config(&self.paths.link, read);
        linked.or_else(|_| self.run_config(&self.genesis_folder(), read)).ok()
    }

    fn core_config(&self, run: &RunConfig, read: Read<'_>) -> Result<CoreConfig, DialectError> {
        let path = node_config::core_config_file(&run.vega.args, &self.surroundings.config);
        let text = read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        CoreConfig::parse(text.as_deref(), &run.vega.args, &self.surroundings.temporary)
            .map_err(|error| wrong(&path, error))
    }

    /// The data node's own configuration, if there is a data node.
    fn data_node_config(&self, run: &RunConfig, read: Read<'_>) -> Option<Result<DataNodeConfig, DialectError>> {
        let args = &run.data_node.as_ref()?.args;
        let path = node_config::data_node_config_file(args, &self.surroundings.config);
        let text = read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Some(DataNodeConfig::parse(text.as_deref(), args).map_err(|error| wrong(&path, error)))
    }

    /// What an operator should know of this home before anything of it is started, one sentence each.
    pub fn complaints(&self, read: Read<'_>) -> Vec<String> {
        let mut said = Vec::new();
        let path = self.paths.link.join(run_config::FILE_NAME);
        let text = read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if let Some(Ok((_, warnings))) = text.as_deref().map(RunConfig::parse) {
            said.extend(warnings.iter().map(|warning| format!("{}: {warning}", path.display())));
        }
        let Some(run) = self.current_run_config(read) else { return said };
        match self.core_config(&run, read) {
            Ok(core) => said.extend(node_config::mismatch(&run.rpc, &core)),
            Err(error) => said.push(error.to_string()),
        }
        match self.data_node_config(&run, read) {
            Some(Ok(data_node)) if data_node.embedded => said.push(embedded("upgrades are held")),
            Some(Err(error)) => said.push(error.to_string()),
            _ => {}
        }
        said
    }

    /// The file that nobody has filled in yet, and what stands there, if that is what would be run.
    pub fn unfilled(&self, read: Read<'_>) -> Option<(PathBuf, String)> {
        let linked = self.run_config(&self.paths.link, read).map(|run| (self.paths.link.clone(), run));
        let (folder, run) = linked
            .or_else(|_| self.run_config(&self.genesis_folder(), read).map(|run| (self.genesis_folder(), run)))
            .ok()?;
        Some((folder.join(run_config::FILE_NAME), run.unfilled()?))
    }

    /// Why this home cannot be upgraded, if that is so.
    fn held(&self, read: Read<'_>) -> Option<String> {
        let data_node = self.data_node_config(&self.current_run_config(read)?, read)?.ok()?;
        data_node.embedded.then(|| embedded("it is not upgraded"))
    }
}

/// What is said of a data node that has its database below itself.
pub fn embedded(consequence: &str) -> String {
    format!(
        "the data node is configured to use embedded PostgreSQL ([SQLStore] UseEmbedded), which is not supported here and would \
         make an upgrade fail: {consequence}; set it to false and run PostgreSQL yourself"
    )
}

fn wrong(path: &Path, error: impl std::fmt::Display) -> DialectError {
    DialectError { what: path.display().to_string(), reason: error.to_string() }
}

impl Layout for Vega {
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
        self.paths.releases.join(self.config.upgrade_folder(&release.name))
    }

    /// Core's, and the data node's where that is another file. A template does not say: what is in its folder is no release
    /// that a node could be stopped for.
    fn executables(&self, folder: &Path, read: Read<'_>) -> Result<Vec<PathBuf>, DialectError> {
        let run = self.filled(folder, read)?;
        let mut executables = vec![run.vega.executable(folder)];
        if let Some(data_node) = &run.data_node {
            executables.push(data_node.executable(folder));
        }
        executables.dedup();
        Ok(executables)
    }

    fn recognise(
        &self,
        executable: &Path,
        arguments: &[OsString],
        link: Option<&Path>,
        read: Read<'_>,
    ) -> Option<(PathBuf, usize)> {
        let arguments: Vec<String> = arguments.iter().map(|it| it.to_string_lossy().into_owned()).collect();
        let role = launch::role(&arguments)?;
        let is_of = |folder: &Path| {
            let executables = self.executables(folder, read).unwrap_or_default();
            executables.iter().any(|it| it == executable)
        };
        // What is below the home is this home's, whatever its folder says by now.
        let below = executable.parent().filter(|_| executable.starts_with(&self.paths.releases));
        let below = below.and_then(|folder| {
            let mut folders = folder.ancestors().take_while(|folder| **folder != self.paths.releases);
            folders.clone().find(|folder| is_of(folder)).or_else(|| folders.next())
        });
        if let Some(folder) = below.filter(|folder| !folder.starts_with(&self.paths.state)) {
            return Some((folder.to_owned(), role));
        }
        // An executable elsewhere may be several homes'; the node is the one that uses this one's.
        let folder = link.filter(|folder| is_of(folder))?;
        let run = self.run_config(folder, read).ok()?;
        let of = |arguments: &[String]| match role {
            launch::CORE => arguments::core_home(arguments),
            _ => arguments::data_node_home(arguments),
        };
        let own = if role == launch::CORE { Some(&run.vega) } else { run.data_node.as_ref() };
        (of(&own?.args) == of(&arguments)).then(|| (folder.to_owned(), role))
    }

    fn side_files(
        &self,
        from: &Installed,
        release: &Release,
        read: Read<'_>,
    ) -> Result<Vec<(PathBuf, Vec<u8>)>, DialectError> {
        let path = from.folder.join(run_config::FILE_NAME);
        let current = read(&path).ok_or_else(|| wrong(&path, "it cannot be read"))?;
        let binary = self.config.auto_install.asset.binary();
        let text = RunConfig::for_release(&String::from_utf8_lossy(&current), release.name.as_str(), binary);
        let text = text.map_err(|error| wrong(&path, error))?;
        Ok(vec![(run_config::FILE_NAME.into(), text.into_bytes())])
    }

    fn shelves(&self) -> Vec<PathBuf> {
        vec![self.paths.releases.clone()]
    }

    fn staging(&self) -> PathBuf {
        self.paths.state.join("staging")
    }

    fn fills_folders(&self) -> bool {
        false
    }

    /// Core's, the consensus engine's, and the data node's.
    fn homes(&self, read: Read<'_>) -> Vec<PathBuf> {
        let Some(run) = self.current_run_config(read) else { return Vec::new() };
        let usual = self.surroundings.config.join("vega");
        let variable = |name: &str| self.surroundings.variables.get(name).cloned();
        let mut homes = vec![arguments::core_home(&run.vega.args).unwrap_or_else(|| usual.clone())];
        homes.extend(arguments::tendermint_home(&run.vega.args, variable));
        if let Some(data_node) = &run.data_node {
            homes.push(arguments::data_node_home(&data_node.args).unwrap_or(usual));
        }
        homes
    }

    /// Core's, the consensus engine's, and the data node's, where their arguments say all of them: what is not said, or by a variable,
    /// depends on who runs it. A data node's PostgreSQL is [beyond](Layout::beyond_snapshots) them.
    fn roots(&self, release: &Path, read: Read<'_>) -> Result<Vec<Root>, DialectError> {
        let unknown = |reason: String| DialectError { what: "the node's data".to_owned(), reason };
        let run = self.run_config(release, read)?;
        let data_node = run.data_node.iter().map(|it| ("data-node", &it.args, arguments::HOME));
        let said =
            [("core", &run.vega.args, arguments::HOME), ("consensus", &run.vega.args, arguments::TENDERMINT_HOME)];
        said.into_iter()
            .chain(data_node)
            .map(|(name, args, flag)| {
                let path = arguments::value_of(args, flag).map(PathBuf::from);
                let is_whole = |path: &PathBuf| path.is_absolute() && !path.to_string_lossy().contains('$');
                match path.filter(is_whole) {
                    Some(path) => Ok(Root { name, path }),
                    None => Err(unknown(format!("the home of {name} is not given by a whole path, with {flag}"))),
                }
            })
            .collect()
    }

    fn is_monotonic(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name == MONOTONIC || name.starts_with(SIGNER) || path.iter().any(|name| name == WALLETS)
    }

    /// All of the homes that are said, by whatever; of those that are not, the user's own folder of configurations stands for their
    /// [`CONFIG`], and `.cometbft` is that of the consensus engine.
    fn essential_roots(&self, release: &Path, read: Read<'_>) -> Vec<Root> {
        let Ok(run) = self.run_config(release, read) else { return Vec::new() };
        let usual = self.surroundings.config.join("vega");
        let variable = |name: &str| self.surroundings.variables.get(name).cloned();
        let root = |said: Option<PathBuf>, name, unsaid| match said {
            Some(path) => Root { name, path },
            None => Root { name: unsaid, path: usual.clone() },
        };
        let mut roots = vec![root(arguments::core_home(&run.vega.args), "core", "core/config")];
        let consensus = arguments::tendermint_home(&run.vega.args, variable);
        let consensus = consensus.unwrap_or_else(|| arguments::usual_tendermint_home(variable));
        roots.push(Root { name: "consensus", path: consensus });
        let data_node = run.data_node.iter().map(|it| arguments::data_node_home(&it.args));
        roots.extend(data_node.map(|said| root(said, "data-node", "data-node/config")));
        roots.retain(|root| root.path.is_absolute());
        roots
    }

    /// Keys are left out: no upgrade changes them, none of them ever goes back, and whoever has one more copy has one more to guard.
    fn is_essential(&self, path: &Path) -> bool {
        let below: PathBuf = path.iter().skip(1).collect();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_key = || self.is_monotonic(path) || KEYS.iter().any(|ending| name.ends_with(ending));
        SIGNED.iter().any(|signed| below == Path::new(signed)) || below.starts_with(CONFIG) && !is_key()
    }

    fn signer_state(&self) -> Option<&Path> {
        Some(Path::new(SIGNER_STATE))
    }

    fn beyond_snapshots(&self, read: Read<'_>) -> Vec<String> {
        let has_data_node = self.current_run_config(read).is_some_and(|run| run.data_node.is_some());
        has_data_node.then(|| "the data node's PostgreSQL may have been migrated".to_owned()).into_iter().collect()
    }

    /// Vega Visor has one file that says what was done: the link.
    fn mirror(&self, state: &Mirrored, _: Read<'_>) -> Result<Vec<MirrorFile>, DialectError> {
        let contents = Contents::Link(state.shown.folder.clone());
        Ok(vec![MirrorFile { path: self.paths.link.clone(), contents }])
    }

    fn unreadable(&self, _: Read<'_>) -> Vec<PathBuf> {
        Vec::new()
    }
}

impl Dialect for Vega {
    fn instance(&self) -> &str {
        &self.instance
    }

    fn peers(&self) -> &[&str] {
        &["visor"] // and vegavisor
    }

    /// The link is all that Vega Visor, or a person, changes. An older one came with an old image of the disk: that is no act.
    /// And the whole home may be somewhere else now, with its releases: Vega Visor would begin with the first one.
    fn moved(&self, read: Read<'_>, link: Option<&Link>, ours: &Ours) -> Option<PathBuf> {
        let (shown, is_release) = (&ours.shown.folder, |folder: &Path| self.run_config(folder, read).is_ok());
        let linked = link.filter(|link| link.target != *shown && link.made > ours.since && is_release(&link.target));
        let by_us = ours.under_way.as_ref().map(|release| self.release_folder(release));
        let linked = linked.map(|link| link.target.clone()).filter(|folder| Some(folder) != by_us.as_ref());
        let gone = !shown.starts_with(&self.paths.releases) && !is_release(shown);
        let here = shown.file_name().filter(|_| gone).map(|name| self.paths.releases.join(name));
        linked.or(here.filter(|folder| is_release(folder)))
    }

    /// A link that is missing or leads nowhere means the first release to Vega Visor, whatever ran here last. Here it does so
    /// only where there is no other.
    fn found(&self, read: Read<'_>, link: Option<&Path>, folders: &[PathBuf]) -> Found {
        let is_release = |folder: &Path| self.run_config(folder, read).is_ok_and(|run| run.unfilled().is_none());
        let mut releases: Vec<&PathBuf> = folders.iter().filter(|folder| is_release(folder)).collect();
        releases.sort();
        let genesis = self.genesis_folder();
        if let Some(link) = link.filter(|link| self.run_config(link, read).is_ok()) {
            return Found { folders: vec![link.to_owned()], upgraded: link != genesis, advice: None };
        }
        if releases.iter().all(|folder| **folder == genesis) {
            return Found { folders: vec![genesis], upgraded: false, advice: None };
        }
        let names: Vec<_> =
            releases.iter().filter_map(|folder| folder.file_name()).map(|it| it.to_string_lossy()).collect();
        let (how, remedy) = match folders.contains(&self.paths.link) {
            true => ("is a folder, no link", "move it away, and make it a link"),
            false => ("leads to no release", "make it a link"),
        };
        let advice = format!(
            "{} {how}, and there is more than one release that could be meant ({}): {remedy} to the one that ran last",
            self.paths.link.display(),
            names.join(", ")
        );
        Found { folders: Vec::new(), upgraded: true, advice: Some(advice) }
    }

    fn unfinished(&self, _: Read<'_>, _: &Ours) -> Option<(Vec<u8>, Vec<String>)> {
        None // nothing is queued here: core says again what it has said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_and_has_no_control_characters() {
        let shown = excerpt(&"<html>\x1b[31m\n".repeat(1000));
        assert!(shown.starts_with("<html>\\u{1b}[31m\\n<html>") && shown.ends_with('…'), "{shown}");
        assert!(shown.len() < 2 * LONGEST_SHOWN, "{shown}");
        assert_eq!(excerpt(" \"short\"\n"), "\"short\"");
    }
}
