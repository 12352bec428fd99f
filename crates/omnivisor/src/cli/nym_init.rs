//! `nymvisor init`: make an instance. Can be repeated, also after it was interrupted, and changes nothing that runs.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use omnivisor_core::dialect::nym::build_info::BuildInfo;
use omnivisor_core::dialect::nym::config::{self, Config, Fragment};
use omnivisor_core::dialect::nym::files::{CurrentVersionFile, HistoryFile};
use omnivisor_core::dialect::nym::{self, Nym, first_files};
use omnivisor_core::dialect::{Contents, Health, Layout, Mirrored};
use omnivisor_core::journal::{Adoption, Record};
use omnivisor_core::release::{Algorithm, Installed, Release, ReleaseName, Version};

use super::nym::{Format, Loaded, home, own_data_directory};
use super::{Outcome, Trouble, log, nym_run};
use crate::clock;
use crate::effects::{activate, digest, preflight};
use crate::exit::Exit;
use crate::shell;
use crate::store::{atomic, disk, small};

/// Makes an instance.
#[derive(Args)]
pub(super) struct Init {
    /// Path to the daemon's executable
    daemon_binary: PathBuf,
    /// What the instance is called [default: <daemon>-default]
    #[arg(long)]
    id: Option<String>,
    /// Where announcements are, <daemon>/upgrade-info.json below it
    #[arg(long)]
    upstream_base_upgrade_url: Option<String>,
    /// How often it is asked, such as 1h
    #[arg(long)]
    upstream_polling_rate: Option<String>,
    /// Log nothing
    #[arg(long)]
    disable_nymvisor_logs: bool,
    /// Where releases and plans are kept
    #[arg(long)]
    upgrade_data_directory: Option<OsString>,
    /// The daemon's home
    #[arg(long)]
    daemon_home: Option<OsString>,
    /// Where this daemon's announcement is
    #[arg(long)]
    daemon_absolute_upstream_upgrade_url: Option<String>,
    /// Whether releases may be downloaded
    #[arg(long, value_name = "true|false")]
    allow_download_upgrade_binaries: Option<String>,
    /// Whether a download must have a checksum
    #[arg(long, value_name = "true|false")]
    enforce_download_checksum: Option<String>,
    /// Whether the daemon is started after an upgrade
    #[arg(long, value_name = "true|false")]
    restart_daemon_after_upgrade: Option<String>,
    /// Restart the daemon when it fails
    #[arg(long)]
    restart_daemon_on_failure: bool,
    /// How long to wait before that
    #[arg(long)]
    on_failure_daemon_restart_delay: Option<String>,
    /// How many failures at the start are too many
    #[arg(long)]
    max_daemon_startup_failures: Option<String>,
    /// How long the daemon counts as starting
    #[arg(long)]
    startup_period_duration: Option<String>,
    /// How long the daemon may take to stop
    #[arg(long)]
    daemon_shutdown_grace_period: Option<String>,
    /// Where backups go
    #[arg(long)]
    daemon_backup_data_directory: Option<OsString>,
    /// Upgrade without a backup
    #[arg(long)]
    unsafe_skip_backup: bool,
    /// How to print the configuration
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Init {
    fn fragment(&self) -> Result<Fragment, config::ConfigError> {
        fn read<T>(
            flag: &str,
            value: Option<&String>,
            reader: impl Fn(&str, &str) -> Result<T, config::ConfigError>,
        ) -> Result<Option<T>, config::ConfigError> {
            value.map(|value| reader(flag, value)).transpose()
        }
        let path = |flag: &str, value: Option<&OsString>| value.map(|value| config::path(flag, value)).transpose();
        let absolute = "--daemon-absolute-upstream-upgrade-url";
        Ok(Fragment {
            config_path: None,
            id: read("--id", self.id.as_ref(), config::component)?,
            upstream_base_upgrade_url: read(
                "--upstream-base-upgrade-url",
                self.upstream_base_upgrade_url.as_ref(),
                config::url,
            )?,
            upstream_polling_rate: read(
                "--upstream-polling-rate",
                self.upstream_polling_rate.as_ref(),
                config::polling_rate,
            )?,
            disable_logs: self.disable_nymvisor_logs.then_some(true),
            upgrade_data_directory: path("--upgrade-data-directory", self.upgrade_data_directory.as_ref())?,
            name: None,
            home: path("--daemon-home", self.daemon_home.as_ref())?,
            absolute_upstream_upgrade_url: read(
                absolute,
                self.daemon_absolute_upstream_upgrade_url.as_ref(),
                config::url,
            )?,
            allow_binaries_download: read(
                "--allow-download-upgrade-binaries",
                self.allow_download_upgrade_binaries.as_ref(),
                config::boolean,
            )?,
            enforce_download_checksum: read(
                "--enforce-download-checksum",
                self.enforce_download_checksum.as_ref(),
                config::boolean,
            )?,
            restart_after_upgrade: read(
                "--restart-daemon-after-upgrade",
                self.restart_daemon_after_upgrade.as_ref(),
                config::boolean,
            )?,
            restart_on_failure: self.restart_daemon_on_failure.then_some(true),
            failure_restart_delay: read(
                "--on-failure-daemon-restart-delay",
                self.on_failure_daemon_restart_delay.as_ref(),
                config::duration,
            )?,
            max_startup_failures: read(
                "--max-daemon-startup-failures",
                self.max_daemon_startup_failures.as_ref(),
                config::count,
            )?,
            startup_period_duration: read(
                "--startup-period-duration",
                self.startup_period_duration.as_ref(),
                config::duration,
            )?,
            shutdown_grace_period: read(
                "--daemon-shutdown-grace-period",
                self.daemon_shutdown_grace_period.as_ref(),
                config::duration,
            )?,
            backup_data_directory: path("--daemon-backup-data-directory", self.daemon_backup_data_directory.as_ref())?,
            unsafe_skip_backup: self.unsafe_skip_backup.then_some(true),
        })
    }
}

pub(super) fn init(init: Init) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot begin to work")?;
    let (environment, warnings) = Fragment::from_env(env::vars_os())?;
    let flags = init.fragment().map_err(|error| Trouble::new(Exit::Usage, error))?;
    log::begin(log::Stream::Stderr, environment.disable_logs.or(flags.disable_logs).unwrap_or(false));
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));

    let details = runtime.block_on(build_info(&init.daemon_binary))?;
    let home = home()?;
    // The environment counts over the arguments, as the documentation of Nymvisor has it.
    let said = |environment: &Option<String>, flag: &Option<String>| environment.clone().or_else(|| flag.clone());
    let id = said(&environment.id, &flags.id).unwrap_or_else(|| format!("{}-default", details.binary_name));
    let name = environment.name.clone().unwrap_or_else(|| details.binary_name.clone());
    let daemon_home = environment.home.clone().or_else(|| flags.home.clone());
    let daemon_home = daemon_home.ok_or_else(|| {
        Trouble::from(anyhow!("the daemon's home is not known")).hint("say it with --daemon-home or DAEMON_HOME")
    })?;
    let mut config = Config::new(&name, &daemon_home, &id)?;
    flags.differing(&environment).iter().for_each(|(flag, variable)| {
        tracing::warn!("{variable} is set, and counts over {flag}");
    });
    let file = environment.config_path.clone().unwrap_or_else(|| nym::config_file(&home, &id));
    config.apply(flags);
    config.apply(environment);
    config.resolve_against(&env::current_dir()?);
    if let Some(folder) = own_data_directory(&config) {
        config.upgrade_data_directory = Some(folder);
    }
    let loaded = Loaded::of(home, file, config);
    make(&loaded, &init.daemon_binary, &details)?;
    init.output.print_config(&loaded.config);
    Ok(Exit::Success)
}

/// Asks an executable for its build information.
pub(super) async fn build_info(executable: &Path) -> anyhow::Result<BuildInfo> {
    let executable =
        fs::canonicalize(executable).with_context(|| format!("cannot find the executable {}", executable.display()))?;
    let asked = preflight::ask(&executable, nym::identify_arguments()).await;
    let stdout = asked.map_err(|failure| anyhow!("{}", failure.reason))?;
    BuildInfo::parse(&stdout).with_context(|| format!("cannot use what {} says of itself", executable.display()))
}

/// Makes everything that is not there yet. Each file appears whole; what is there already is not changed, but the
/// configuration.
fn make(loaded: &Loaded, binary: &Path, details: &BuildInfo) -> Result<(), Trouble> {
    let settings = loaded.settings()?;
    let dialect = loaded.dialect(&settings, Vec::new());
    let paths = dialect.paths();
    let genesis = dialect.genesis_folder();
    let executable = dialect.executable(&genesis);
    let folders = [
        executable.parent().unwrap_or(&genesis).to_owned(),
        paths.releases.join("upgrades"),
        loaded.config.home.join("nymvisor"),
        loaded.file.parent().unwrap_or(Path::new(".")).to_owned(),
    ];
    for folder in folders {
        disk::make_folders_durably(&folder, 0o777)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    disk::make_folders_durably(&paths.backups, 0o700)
        .with_context(|| format!("cannot make the folder {}", paths.backups.display()))?;

    shell::sweep(&dialect);
    if let Some(folder) = loaded.file.parent() {
        atomic::sweep(folder);
    }
    let was_there = paths.link.symlink_metadata().is_ok();
    let unfinished = nothing_ran(&dialect, &loaded.states());
    place_genesis(&dialect, binary, details, unfinished)?;
    let unreadable = dialect.unreadable(&|path| small::read(path).ok());
    for file in first_files(&dialect, details) {
        let Contents::Bytes(bytes) = file.contents else { continue };
        if !file.path.exists() || (unfinished && unreadable.contains(&file.path)) {
            atomic::replace(&file.path, &bytes, 0o644)
                .with_context(|| format!("cannot write {}", file.path.display()))?;
        }
    }
    let (version, identity) = dialect.identify(details.to_json_line().as_bytes())?;
    let installed = Installed {
        release: Release { name: ReleaseName::genesis(), version, digest: None },
        digest: digest::of_file(Algorithm::Sha256, &executable)?,
        folder: genesis,
        identity,
    };
    let at = clock::now().wall;
    let adopted = Record::Adopted { installed: installed.clone(), at, adoption: Adoption::Initialised };
    let new = shell::initialise(&dialect, &adopted, was_there && dialect.context().siblings.is_empty())
        .with_context(|| format!("cannot make the state folder {}", paths.state.display()))?;
    if new || is_half_made(&dialect) {
        let mirrored = Mirrored { shown: installed, linked: true, committed: None, settled: Vec::new() };
        activate::mirror(&dialect, &mirrored).context("cannot write the files of the first release")?;
    }
    let text = loaded.config.to_toml()?;
    atomic::replace(&loaded.file, text.as_bytes(), 0o600)
        .with_context(|| format!("cannot write the configuration {}", loaded.file.display()))?;
    Ok(())
}

/// Whether no installation was ever finished here: what is there was left by an `init` that was interrupted, Nymvisor's or
/// ours.
fn nothing_ran(dialect: &Nym, states: &[PathBuf]) -> bool {
    let paths = dialect.paths();
    let of_nymvisor = [paths.beside.join(CurrentVersionFile::FILE_NAME), paths.releases.join(HistoryFile::FILE_NAME)];
    let ours = states.iter().flat_map(|state| [state.join("journal"), state.join("adopted")]);
    paths.link.symlink_metadata().is_err() && !of_nymvisor.into_iter().chain(ours).any(|path| path.exists())
}

/// Whether the journal begins with the first release and goes no further, and what follows from it is not all there.
fn is_half_made(dialect: &Nym) -> bool {
    let paths = dialect.paths();
    let version = paths.beside.join(CurrentVersionFile::FILE_NAME);
    let is_first = || {
        let journal = nym_run::journal_in(&paths.state)?;
        Some(journal.last_commit().is_none() && journal.shown()?.release.name == ReleaseName::genesis())
    };
    (paths.link.symlink_metadata().is_err() || !version.exists()) && is_first() == Some(true)
}

/// Copies the executable to its place, or sees that what is there is of the same build. Where everything is `unfinished`,
/// one that does not answer is the rest of an interrupted copy, and is replaced.
fn place_genesis(dialect: &Nym, binary: &Path, details: &BuildInfo, unfinished: bool) -> Result<(), Trouble> {
    let executable = dialect.executable(&dialect.genesis_folder());
    if executable.exists() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let there = match runtime.block_on(build_info(&executable)) {
            Err(error) if unfinished => {
                tracing::warn!("what an interrupted init has left is replaced: {error:#}");
                return Ok(copy_executable(binary, &executable)?);
            }
            there => there?,
        };
        if there != *details {
            let error = anyhow!(
                "{} is there already, of version {}, not {}",
                executable.display(),
                Version::new(there.build_version),
                details.build_version
            );
            return Err(Trouble::from(error).hint("a newer version is added with `nymvisor add-upgrade`"));
        }
        return Ok(());
    }
    copy_executable(binary, &executable)?;
    Ok(())
}

/// Copies an executable; it is there whole, executable and durable when this returns, or not at all.
pub(super) fn copy_executable(from: &Path, to: &Path) -> anyhow::Result<()> {
    atomic::replace_by_copy(to, from, 0o755)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}
