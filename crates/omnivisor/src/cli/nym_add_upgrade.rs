//! `nymvisor add-upgrade`: queue a release whose executable is on this machine.
//!
//! The executable is in its place, whole, before anything tells a running supervisor of it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use omnivisor_core::dialect::Layout;
use omnivisor_core::dialect::nym::build_info::BuildInfo;
use omnivisor_core::dialect::nym::config::{self, ConfigError};
use omnivisor_core::dialect::nym::files::{Lenient, PlanFile, UpgradeInfo};
use omnivisor_core::dialect::nym::{Nym, queue};
use omnivisor_core::release::{Algorithm, Digest, Release, ReleaseName, Version};
use omnivisor_core::time::Timestamp;
use serde_json::{Value, json};

use super::nym::{Format, Loaded};
use super::nym_init::{build_info, copy_executable};
use super::{Outcome, Trouble, nym_run, output};
use crate::clock;
use crate::control;
use crate::effects::digest;
use crate::exit::Exit;
use crate::store::lock::Lock;
use crate::store::{atomic, disk};

/// Nymvisor's default.
const DELAY: Duration = Duration::from_secs(15 * 60);
/// How long a running supervisor may take to see what was queued; it sees it in milliseconds, and settles what it is doing first.
const NOTICED: Duration = Duration::from_secs(5);
/// How long somebody else may take to change the plan.
const PATIENCE: Duration = Duration::from_secs(10);

/// Queues an upgrade.
#[derive(Args)]
pub(super) struct AddUpgrade {
    /// Path to the new executable
    daemon_binary: PathBuf,
    /// What the upgrade is called
    #[arg(long)]
    upgrade_name: String,
    /// Replace an upgrade of this name; allow an older version
    #[arg(long)]
    force: bool,
    /// Only add the executable to an upgrade that is announced already
    #[arg(long, conflicts_with_all = ["now", "publish_date", "upgrade_time", "upgrade_delay"])]
    add_binary: bool,
    /// Upgrade at once
    #[arg(long, conflicts_with_all = ["upgrade_time", "upgrade_delay"])]
    now: bool,
    /// Take no snapshot of the data before it: the switch waits for no copy, and there is no data to go back to
    #[arg(long, conflicts_with = "add_binary")]
    skip_backup: bool,
    /// When it was published (RFC 3339) [default: now]
    #[arg(long, value_parser = Timestamp::parse)]
    publish_date: Option<Timestamp>,
    /// When to upgrade (RFC 3339) [default: in 15 minutes]
    #[arg(long, value_parser = Timestamp::parse, conflicts_with = "upgrade_delay")]
    upgrade_time: Option<Timestamp>,
    /// How long to wait before the upgrade, such as 1h 30m
    #[arg(long, value_parser = delay)]
    upgrade_delay: Option<Duration>,
    /// How to print what was queued
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

fn delay(text: &str) -> Result<Duration, ConfigError> {
    config::duration("--upgrade-delay", text)
}

pub(super) fn add_upgrade(add: &AddUpgrade) -> Outcome {
    let loaded = Loaded::find()?;
    loaded.log(true);
    let name = ReleaseName::parse(&add.upgrade_name)?;
    let settings = loaded.settings()?;
    let dialect = loaded.dialect(&settings, Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot begin to work")?;

    let source = fs::canonicalize(&add.daemon_binary)
        .with_context(|| format!("cannot find the executable {}", add.daemon_binary.display()))?;
    let details = runtime.block_on(asked_copy(&dialect, &source))?;
    let digest = digest::of_file(Algorithm::Sha256, &source)?;
    let release = Release { name: name.clone(), version: Version::new(&details.build_version), digest: None };
    let folder = dialect.release_folder(&release);
    check_program(&dialect, &details)?;
    if !add.add_binary {
        check_release(&dialect, Release { digest: Some(digest.clone()), ..release.clone() })?;
    }
    if !add.force {
        check_version(&dialect, &release.version)?;
    }

    let now = clock::now().wall;
    let due =
        if add.now { now } else { add.upgrade_time.unwrap_or_else(|| now.plus(add.upgrade_delay.unwrap_or(DELAY))) };
    let mut new = UpgradeInfo::local(&add.upgrade_name, details, now, add.publish_date, due);
    if add.skip_backup {
        new.omnivisor.get_or_insert_default().skip_backup = true;
    }
    let entry = for_everybody(new.clone(), &loaded);
    let described = folder.join(UpgradeInfo::FILE_NAME);
    if !add.add_binary && described.exists() && !add.force {
        let error = anyhow!("there is an upgrade {:?} already: {}", add.upgrade_name, described.display());
        return Err(Trouble::from(error).hint("choose another name, or --force to replace it"));
    }
    // Everything is refused that would be refused later, before anything is copied. Then the executable, what describes it,
    // and only then the plan, which is what a running supervisor looks at.
    let path = &dialect.paths().queue;
    edit(add, &mut read_plan(path)?.1, &entry, &digest)?;
    place(add, &dialect, &source, &folder, &digest, &loaded.states())?;
    if !add.add_binary {
        atomic::replace(&described, &new.to_bytes(), 0o644)
            .with_context(|| format!("cannot describe the upgrade in {}", folder.display()))?;
    }
    let lock = Lock::take_shared_within(&dialect.paths().shared_lock, PATIENCE)?;
    let info = loop {
        let (bytes, mut plan) = read_plan(path)?;
        let info = edit(add, &mut plan, &entry, &digest)?;
        let replaced = atomic::replace_if(path, Some(&bytes), &plan.to_bytes(), 0o644);
        if replaced.with_context(|| format!("cannot write the upgrade plan {}", path.display()))? {
            break info;
        }
    };
    drop(lock);
    let became = add.now.then(|| what_became(&dialect, &info));
    output::result(&match add.output {
        Format::Json => {
            let mut said = json!({
                "name": info.name,
                "version": info.version,
                "upgradeTime": info.upgrade_time.to_string(),
                "digest": digest.to_string(),
            });
            if let Some(became) = became {
                said["became"] = became.into();
            }
            said.to_string()
        }
        Format::Text => {
            let left = output::time_left(info.upgrade_time.0.since(now).as_secs());
            let became = became.map(|became| format!("\n{became}")).unwrap_or_default();
            format!("{} ({}) is queued for {}, {left}{became}", info.version, info.name, info.upgrade_time)
        }
    });
    Ok(Exit::Success)
}

/// What a running supervisor makes of an upgrade that is wanted now; or that there is none.
fn what_became(dialect: &Nym, info: &UpgradeInfo) -> String {
    let folder = control::runtime_folder(|name| env::var_os(name));
    let running = folder.map_or_else(Vec::new, |folder| control::running(&folder));
    let Some(instance) = running.into_iter().find(|it| it.state == dialect.paths().state) else {
        return "no supervisor of this instance was found: it is done at the next start".to_owned();
    };
    let end = Instant::now() + NOTICED;
    while Instant::now() < end {
        if let Ok(Ok(status)) = control::ask(&instance.socket, control::Command::Status)
            && let Some(became) = in_status(&status, info)
        {
            return became;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    format!("the supervisor (process {}) has not noticed it yet: see `omnivisor status`", instance.pid)
}

fn in_status(status: &Value, info: &UpgradeInfo) -> Option<String> {
    let release = format!("{} ({})", info.version, info.name);
    let upgrade = &status["upgrade"];
    let phase = upgrade["phase"].as_str()?;
    let announced = status["announced"].as_array()?.iter().find(|it| it["name"] == info.name.as_str());
    let standing = announced.and_then(|announced| announced["standing"].as_str());
    if upgrade["to"] == release.as_str() {
        let ends = if status["endsAfterSwitch"] == true { ", and the run ends then" } else { "" };
        return Some(match (phase, status["held"] == true) {
            ("preparing" | "staged", true) => {
                format!("automatic upgrades are on hold: it is prepared, and {}", standing.unwrap_or("waits"))
            }
            ("preparing", false) => {
                format!("it is being prepared; the node runs on, and is switched as soon as it is ready{ends}")
            }
            ("staged", false) => format!("it is ready, and is switched to now{ends}"),
            ("undoing" | "needs-human", _) => format!("it failed: {}", upgrade["why"].as_str().unwrap_or_default()),
            _ => "it is being switched to".to_owned(),
        });
    }
    if status["active"]["name"] == info.name.as_str() && status["active"]["version"] == info.version.as_str() {
        return Some("it runs".to_owned());
    }
    // Before its turn comes it waits for a moment.
    standing.filter(|standing| !standing.starts_with("will be switched to")).map(str::to_owned)
}

/// Where instances share the plan, each is named: one that is done must not take the entry from another that it does not
/// know of, because that was made later.
fn for_everybody(mut info: UpgradeInfo, loaded: &Loaded) -> UpgradeInfo {
    let siblings = loaded.siblings();
    if !siblings.is_empty() {
        let all = siblings.into_iter().chain([loaded.config.id.clone()]);
        let time = info.upgrade_time;
        info.omnivisor.get_or_insert_default().instances = Some(all.map(|id| (id, time)).collect());
    }
    info
}

fn read_plan(path: &Path) -> Result<(Vec<u8>, PlanFile), Trouble> {
    let cannot = || format!("cannot read the upgrade plan {}", path.display());
    let bytes = fs::read(path).with_context(cannot);
    let parsed = bytes.and_then(|bytes| Ok((PlanFile::parse(&bytes).with_context(cannot)?, bytes)));
    match parsed {
        Ok((plan, bytes)) => Ok((bytes, plan)),
        Err(error) => Err(Trouble::from(error).hint("mend it, or move it away: `nymvisor run` makes a new one")),
    }
}

/// Puts the upgrade, or the executable's digest, into the plan; returns the entry.
fn edit(add: &AddUpgrade, plan: &mut PlanFile, new: &UpgradeInfo, digest: &Digest) -> Result<UpgradeInfo, Trouble> {
    if !add.add_binary {
        queue::add_local(plan, new.clone(), Some(digest), add.force, add.force)?;
        return Ok(new.clone());
    }
    let queued = plan.queued_up.iter_mut().find_map(|entry| match entry {
        Lenient::Known(info) if info.name == add.upgrade_name => Some(info),
        _ => None,
    });
    let queued = queued.ok_or_else(|| {
        Trouble::from(anyhow!("no upgrade {:?} is queued to add the executable to", add.upgrade_name))
            .hint("without --add-binary it is queued as a new one")
    })?;
    if queued.version != new.version {
        return Err(anyhow!("the executable is version {}, and {} is announced", new.version, queued.version).into());
    }
    queued.omnivisor.get_or_insert_default().digest = Some(digest.to_string());
    Ok(queued.clone())
}

/// Asks a copy of the executable who it is: the operator's file is not changed, not even made executable.
async fn asked_copy(dialect: &Nym, source: &Path) -> anyhow::Result<BuildInfo> {
    let folder = dialect.paths().releases.join("upgrades").join(format!(".omnivisor-add-{}", std::process::id()));
    disk::make_folders(&folder, 0o777).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let copy = folder.join(source.file_name().unwrap_or_default());
    let asked = match copy_executable(source, &copy) {
        Ok(()) => build_info(&copy).await,
        Err(error) => Err(error),
    };
    let _ = disk::remove(&folder);
    asked.with_context(|| format!("{} cannot be queued", source.display()))
}

fn check_program(dialect: &Nym, details: &BuildInfo) -> anyhow::Result<()> {
    let Some(active) = nym_run::active(dialect) else { return Ok(()) };
    match active.identity.get("binary_name") {
        Some(name) if name != details.binary_name => {
            bail!("the executable calls itself {}, and {name} runs here", details.binary_name)
        }
        _ => Ok(()),
    }
}

/// What failed here, and what ran here before, is taken off the queue again: the operator would wait for it in vain. Where
/// instances share the queue it may be meant for another one.
fn check_release(dialect: &Nym, release: Release) -> Result<(), Trouble> {
    let Some(journal) = nym_run::journal_in(&dialect.paths().state) else { return Ok(()) };
    if !dialect.context().siblings.is_empty() {
        return Ok(());
    }
    if let Some(why) = journal.denies(&release) {
        let error = anyhow!("{release} failed here and is not installed again: {why}");
        return Err(Trouble::from(error).hint("choose another name to try the same executable once more"));
    }
    let runs = journal.active().is_some_and(|active| active.release.name == release.name);
    if !runs && journal.committed().any(|committed| *committed == release) {
        let error = anyhow!("{release} ran here before, and would not be installed again");
        return Err(Trouble::from(error).hint("choose another name to go back to it, with --force if it is older"));
    }
    Ok(())
}

/// An older version would be queued and never followed.
fn check_version(dialect: &Nym, version: &Version) -> Result<(), Trouble> {
    let Some(journal) = nym_run::journal_in(&dialect.paths().state) else { return Ok(()) };
    let newer = journal.committed().find(|it| version.precedence(&it.version) == Some(std::cmp::Ordering::Less));
    newer.map_or(Ok(()), |newer| {
        let error = anyhow!("the executable is version {version}, and {} ran here", newer.version);
        Err(Trouble::from(error).hint("--force allows a way back"))
    })
}

/// Puts the executable into its folder, unless it is there. One that a node runs from is never replaced.
fn place(
    add: &AddUpgrade,
    dialect: &Nym,
    source: &Path,
    folder: &Path,
    digest: &Digest,
    states: &[PathBuf],
) -> Result<(), Trouble> {
    let (target, paths) = (dialect.executable(folder), dialect.paths());
    if target.exists() {
        let linked = fs::read_link(&paths.link).is_ok_and(|link| paths.releases.join(link) == folder);
        // Of this instance or of another one that shares the releases; and what it would go back to.
        let mut journals = states.iter().filter_map(|state| nym_run::journal_in(state));
        let runs = linked
            || journals.any(|journal| {
                [journal.active(), journal.shown()].into_iter().flatten().any(|installed| installed.folder == folder)
            });
        let same = digest::of_file(Algorithm::Sha256, &target)? == *digest;
        // What only others run can still be queued for this one.
        if same && (!runs || add.add_binary || !dialect.context().siblings.is_empty()) {
            return Ok(());
        }
        if runs && (same || add.force) {
            let error = anyhow!("{} is what a node runs from", target.display());
            return Err(Trouble::from(error).hint("choose another name"));
        }
        if !add.force {
            let error = anyhow!("{} is there already, and is another executable", target.display());
            return Err(Trouble::from(error).hint("choose another name, or --force to replace it"));
        }
    }
    let bin = target.parent().unwrap_or(folder);
    disk::make_folders_durably(bin, 0o777).with_context(|| format!("cannot make the folder {}", bin.display()))?;
    copy_executable(source, &target)?;
    Ok(())
}
