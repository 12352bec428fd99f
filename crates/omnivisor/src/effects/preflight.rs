//! Prove an executable while the old node still runs, and see that the switch would have what it needs.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnivisor_core::dialect::Dialect;
use omnivisor_core::plan::{Failure, UpgradePlan};
use omnivisor_core::release::{Identity, Installed, Version};

use super::data::Data;
use super::run_command::{self, CommandError};
use super::snapshot::{Limits, Method};
use super::{activate, digest, fetch, snapshot, space};
use crate::store::{disk, small};

/// An executable that does not say who it is within this is not asked again: a cold start of 100 MB takes a second.
const ANSWER: Duration = Duration::from_secs(20);

/// Asks a release's executables who they are: all have to be of one version. What is said of the first is what counts.
pub async fn identify(dialect: &dyn Dialect, executables: &[PathBuf]) -> Result<(Version, Identity), Failure> {
    let mut first: Option<(Version, Identity)> = None;
    for executable in executables {
        let stdout = ask(executable, dialect.identify_arguments()).await?;
        let name = executable.display();
        let said = dialect.identify(&stdout).map_err(|error| Failure::permanent(format!("{name}: {error}")))?;
        match &first {
            Some((version, _)) if *version != said.0 => {
                return Err(Failure::permanent(format!(
                    "{name} is version {}, but the other one is {version}",
                    said.0
                )));
            }
            Some(_) => {}
            None => first = Some(said),
        }
    }
    first.ok_or_else(|| Failure::permanent("the release has no executable"))
}

/// What an executable answers to the first of these arguments that it does not refuse. What is said of a failure is what it
/// said to the first ones.
pub async fn ask(executable: &Path, ways: Vec<Vec<String>>) -> Result<Vec<u8>, Failure> {
    runs_here(executable)?;
    let name = executable.display();
    let mut refused = None;
    for arguments in ways {
        match run_command::run(executable, arguments, &[], ANSWER).await {
            Ok(stdout) => return Ok(stdout),
            Err(error @ CommandError::Failed { .. }) => {
                refused.get_or_insert(error);
            }
            Err(error @ CommandError::TimedOut(_)) => {
                return Err(Failure::permanent(format!("{name}, asked for its build information: {error}")));
            }
            Err(error) => return Err(Failure::permanent(format!("{name} does not say who it is: {error}"))),
        }
    }
    let why = refused.map_or_else(|| "it is not known how to ask it".to_owned(), |error| error.to_string());
    Err(Failure::permanent(format!("{name} does not say who it is: {why}")))
}

/// Proves what was fetched, publishes it into its folder, and sees that there is room for the rest.
pub async fn preflight(
    dialect: &dyn Dialect,
    plan: &UpgradePlan,
    limits: Limits,
    method: &Method,
) -> Result<Installed, Failure> {
    let release = &plan.to.release;
    let located = fetch::locate(dialect, release).map_err(|error| Failure::transient(error.to_string()))?;
    let located = located.ok_or_else(|| Failure::transient("what was fetched is not there any more"))?;
    let proven = prove(dialect, plan, &located.executables).await;
    if proven.is_err() && located.staged.is_some() {
        fetch::discard(dialect);
    }
    let identity = proven?;
    let digest = digest::of_executables(&located.executables).map_err(|error| Failure::transient(error.to_string()))?;
    fetch::publish(dialect, &located)
        .map_err(|error| Failure::transient(format!("{} cannot be filled: {error}", located.folder.display())))?;
    let installed = Installed { release: release.clone(), folder: located.folder, digest, identity };
    activate::describe(dialect, &installed).map_err(|error| Failure::transient(error.to_string()))?;
    can_switch(dialect, plan, limits, method).await?;
    Ok(installed)
}

async fn prove(dialect: &dyn Dialect, plan: &UpgradePlan, executables: &[PathBuf]) -> Result<Identity, Failure> {
    for executable in executables {
        let name = executable.display();
        let metadata = fs::metadata(executable).map_err(|error| Failure::transient(format!("{name}: {error}")))?;
        let mode = metadata.permissions().mode();
        if mode & 0o111 == 0 {
            // The peers do so, too: what is placed in a release's folder is meant to be executed.
            disk::set_mode(executable, mode | 0o111)
                .map_err(|error| Failure::transient(format!("{name} cannot be made executable: {error}")))?;
        }
    }
    let (version, identity) = identify(dialect, executables).await?;
    let name = executables[0].display();
    let announced = &plan.to.release.version;
    if !dialect.same_version(announced, &version) {
        return Err(Failure::permanent(format!("{name} is version {version}, but {announced} was announced")));
    }
    if let Err((active, new)) = dialect.same_program(&plan.from.identity, &identity) {
        return Err(Failure::permanent(format!("{name} calls itself {new}, but {active} runs here")));
    }
    if let Some((field, expected, found)) = identity.differences(&plan.to.expected).first() {
        let found = found.unwrap_or("nothing");
        return Err(Failure::permanent(format!("{name} says {field} = {found}, but {expected} was announced")));
    }
    Ok(identity)
}

/// The last look before the outage.
pub async fn arm(
    dialect: &dyn Dialect,
    plan: &UpgradePlan,
    staged: &Installed,
    limits: Limits,
    method: &Method,
) -> Result<(), Failure> {
    let executables = dialect
        .executables(&staged.folder, &|path| small::read(path).ok())
        .map_err(|error| Failure::permanent(error.to_string()))?;
    let found =
        digest::of_executables_if_changed(&executables).map_err(|error| Failure::transient(error.to_string()))?;
    if found != staged.digest {
        let name = staged.folder.display();
        return Err(Failure::permanent(format!(
            "{name} was changed since it was proven ({found}, not {})",
            staged.digest
        )));
    }
    can_switch(dialect, plan, limits, method).await
}

/// Whether everything from the stop on has the room and the rights it needs.
async fn can_switch(dialect: &dyn Dialect, plan: &UpgradePlan, limits: Limits, method: &Method) -> Result<(), Failure> {
    let paths = dialect.paths();
    let writable = |folder: &Path| {
        rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
            .map_err(|error| Failure::transient(format!("{} cannot be written to: {error}", folder.display())))
    };
    writable(&paths.releases)?;
    if fs::symlink_metadata(&paths.link).is_ok_and(|it| !it.is_symlink()) {
        let link = paths.link.display();
        return Err(Failure::transient(format!("{link} is no link, so it cannot be switched: move it away")));
    }
    // A node that stands at its height does not wait for such a look.
    if !plan.snapshot || plan.to.trigger.is_ready() {
        return Ok(());
    }
    unless_agreed(plan, can_snapshot(dialect, plan, limits, method, writable).await)
}

/// What is only wanted of an upgrade that its network has agreed on does not stop it: to stay down is worse.
fn unless_agreed(plan: &UpgradePlan, looked: Result<(), Failure>) -> Result<(), Failure> {
    match looked {
        Err(failure) if plan.to.trigger.height().is_some() => {
            tracing::error!(why = failure.reason, "the upgrade may have to be done without a snapshot of the data");
            Ok(())
        }
        looked => looked,
    }
}

async fn can_snapshot(
    dialect: &dyn Dialect,
    plan: &UpgradePlan,
    limits: Limits,
    method: &Method,
    writable: impl Fn(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let backups = dialect.paths().backups.join(plan.to.release.name.as_str());
    let data = Data::of(dialect, &plan.from.folder).map_err(|error| Failure::transient(error.to_string()))?;
    for folder in data.parts.values().chain([&dialect.paths().beside]) {
        disk::make_folders(folder, snapshot::PRIVATE)
            .and_then(|()| space::keep_room(folder))
            .map_err(|error| Failure::transient(format!("no room can be kept in {}: {error}", folder.display())))?;
    }
    snapshot::prepare(&backups)
        .map_err(|error| Failure::transient(format!("{} cannot be made: {error}", backups.display())))?;
    writable(&backups)?;
    data.roots.iter().try_for_each(|root| writable(&root.path))?;
    has_room(dialect, plan, limits, method)?;
    match &method.takes {
        Some(command) => command
            .check(&data, &plan.id())
            .await
            .map_err(|error| Failure::transient(format!("no snapshot could be taken: {error}"))),
        None => Ok(()),
    }
}

/// Whether the snapshot fits, with what has to stay free.
pub fn has_room(dialect: &dyn Dialect, plan: &UpgradePlan, limits: Limits, method: &Method) -> Result<(), Failure> {
    let cost = snapshot::cost(dialect, plan, method).map_err(|error| Failure::transient(error.to_string()))?;
    let place = cost.place(dialect.paths());
    let what = if cost.command.is_some() { "an undo, which copies what a command has taken" } else { "a snapshot" };
    let data = Data::of(dialect, &plan.from.folder).map_err(|error| Failure::transient(error.to_string()))?;
    cost.require_room(&data, place, limits, what)
        .map_err(|error| Failure::transient(format!("{error}; snapshot.reserve says how much stays")))
}

/// Refuses an executable for another machine before it is executed, and says so.
fn runs_here(executable: &Path) -> Result<(), Failure> {
    const HERE: Option<(u16, &str)> = match std::env::consts::ARCH.as_bytes() {
        b"x86_64" => Some((62, "x86-64")),
        b"aarch64" => Some((183, "AArch64")),
        b"arm" => Some((40, "ARM")),
        b"riscv64" => Some((243, "RISC-V")),
        _ => None,
    };
    let name = executable.display();
    let mut head = [0_u8; 20];
    let read = fs::File::open(executable).and_then(|mut file| file.read(&mut head));
    let read = read.map_err(|error| Failure::transient(format!("{name} cannot be read: {error}")))?;
    match &head[..read] {
        [0x7f, b'E', b'L', b'F', ..] if read == head.len() => {
            // e_machine, in the byte order of the fifth byte of e_ident.
            let bytes = [head[18], head[19]];
            let machine = if head[5] == 2 { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
            match HERE {
                Some((here, called)) if here != machine => Err(Failure::permanent(format!(
                    "{name} is built for another machine (ELF machine {machine}; this is {called}, {here})"
                ))),
                _ => Ok(()),
            }
        }
        [b'#', b'!', ..] => Ok(()),
        _ => Err(Failure::permanent(format!("{name} is neither an ELF executable nor a script"))),
    }
}
