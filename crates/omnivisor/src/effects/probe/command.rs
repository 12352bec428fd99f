//! Run the command that says whether a node is well, once.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use omnivisor_core::health::Answer;

use crate::effects::run_command;

/// Runs it; the node's home is in `DAEMON_HOME`.
pub(super) async fn look(argv: &[String], home: &Path, timeout: Duration) -> Result<Answer, String> {
    let Some((program, arguments)) = argv.split_first() else { return Ok(Answer::Done) };
    let environment = [("DAEMON_HOME", home.as_os_str() as &OsStr)];
    let run = run_command::run(Path::new(program), arguments, &environment, timeout).await;
    run.map(|_| Answer::Done).map_err(|error| error.to_string())
}
