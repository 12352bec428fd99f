//! Run a short command: its own process group, a time limit, a limit on what it may print.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::children::{self, Role};
use super::github::Token;
use super::process::MARK;
use crate::sys;

/// What a command may print: build information is half a kilobyte, a probe's answer a few.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// The mark of what is run here, and of what that leaves behind: nobody takes it for the node's.
const NOBODYS: &str = "a short command";

/// What a failed command's complaint is cut to.
const COMPLAINT: usize = 500;

/// Why a command gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("it cannot be executed: {0}")]
    Start(#[source] std::io::Error),
    /// It took too long and was killed.
    #[error("it did not end within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// It printed too much and was killed.
    #[error("it printed more than 64 KiB")]
    TooMuch,
    /// It said that it failed.
    #[error("it ended with {ending}{complaint}")]
    Failed {
        /// Its exit code or signal.
        ending: String,
        /// What it wrote to its standard error, cut.
        complaint: String,
        /// What it wrote to its standard output.
        stdout: Vec<u8>,
    },
}

/// Runs `program` and returns its standard output if it exits with 0. Neither it nor anything of its group outlives this,
/// also when the future is dropped.
pub async fn run(
    program: &Path,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    environment: &[(&str, &OsStr)],
    timeout: Duration,
) -> Result<Vec<u8>, CommandError> {
    let mut command = Command::new(program);
    command.args(arguments);
    run_prepared(command, environment, timeout).await
}

/// The same for a program that is called by another name than its path.
pub async fn run_called(
    name: &str,
    program: &Path,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    timeout: Duration,
) -> Result<Vec<u8>, CommandError> {
    let mut command = Command::new(program);
    command.arg0(name).args(arguments);
    run_prepared(command, &[], timeout).await
}

async fn run_prepared(
    mut command: Command,
    environment: &[(&str, &OsStr)],
    timeout: Duration,
) -> Result<Vec<u8>, CommandError> {
    command.envs(environment.iter().copied()).env(MARK, NOBODYS);
    command.env_remove(Token::VARIABLE); // nothing that is run here has any business with it
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    sys::unblock_signals(command.as_std_mut());
    let mut child = spawn(&mut command).await.map_err(CommandError::Start)?;
    let _group = KillGroup(child.id());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (printed, complaint) = tokio::join!(limited(stdout), limited(stderr));
        let printed = printed.ok_or(CommandError::TooMuch)?;
        let status = child.wait().await.map_err(CommandError::Start)?;
        if status.success() {
            return Ok(printed);
        }
        let ending = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (_, Some(signal)) => format!("signal {signal}"),
            _ => "an unknown status".to_owned(),
        };
        Err(CommandError::Failed { ending, complaint: excerpt(&complaint.unwrap_or_default()), stdout: printed })
    };
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(CommandError::TimedOut(timeout)))
}

/// An executable that was written a moment ago may still be open for writing in a child that has forked and not executed
/// yet; that is over in milliseconds.
async fn spawn(command: &mut Command) -> std::io::Result<tokio::process::Child> {
    let mut start = || children::start(Role::Helper, || command.spawn(), tokio::process::Child::id);
    for _ in 0..40 {
        match start() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            result => return result,
        }
    }
    start()
}

/// All of it, or none if there is too much.
async fn limited(source: Option<impl AsyncRead + Unpin>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(source) = source {
        let _ = source.take(OUTPUT_LIMIT + 1).read_to_end(&mut bytes).await;
    }
    (bytes.len() as u64 <= OUTPUT_LIMIT).then_some(bytes)
}

fn excerpt(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let text: String = text.trim().chars().take(COMPLAINT).flat_map(char::escape_debug).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

/// Kills what is left of a command's group.
struct KillGroup(Option<u32>);

impl Drop for KillGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
