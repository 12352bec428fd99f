//! Run the command that says whether a new node is well, once.

use std::ffi::OsStr;
use std::path::Path;

use omnivisor_core::health::CommandProbe;
use omnivisor_core::plan::Failure;

use super::run_command;

/// Runs it; the node's home is in `DAEMON_HOME`.
pub async fn sample(probe: &CommandProbe, home: &Path) -> Result<(), Failure> {
    let Some((program, arguments)) = probe.argv.split_first() else { return Ok(()) };
    let environment = [("DAEMON_HOME", home.as_os_str() as &OsStr)];
    match run_command::run(Path::new(program), arguments, &environment, probe.timeout).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::transient(format!("{}: {error}", probe.argv.join(" ")))),
    }
}
