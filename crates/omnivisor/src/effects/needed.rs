//! What has to be there, or to be asked, before a node is started.

use std::time::{Duration, Instant};

use omnivisor_core::dialect::{Answered, CommandSpec, Needed, Place};
use tokio::net::{TcpStream, UnixStream};

use super::run_command::{self, CommandError};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// One look takes no longer.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a question may take: what is asked reads a database that its last user may not have closed yet.
const ANSWER: Duration = Duration::from_secs(30);

/// Waits until somebody listens there, or until patience is over. Whoever is `told` learns what is waited for, if it is.
pub async fn wait_for(needed: &Needed, told: impl Fn(String)) {
    let begun = Instant::now();
    let mut said = false;
    loop {
        let why = match tokio::time::timeout(CONNECT, connect(&needed.place)).await {
            Ok(Ok(())) => {
                if said {
                    tracing::info!("{} is there", needed.name);
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        let (name, place) = (&needed.name, place(&needed.place));
        if begun.elapsed() >= needed.patience {
            let patience = humantime::format_duration(needed.patience);
            tracing::error!(why, "{name} at {place} is not there after {patience}: the node is started without it");
            return;
        }
        if !said {
            let patience = humantime::format_duration(needed.patience);
            tracing::warn!(why, "{name} at {place} is not there yet: the node waits for it, for {patience} at most");
            told(format!("it waits for {name} at {place}: {why}"));
            said = true;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn connect(place: &Place) -> std::io::Result<()> {
    match place {
        Place::Tcp(host, port) => TcpStream::connect((host.as_str(), *port)).await.map(drop),
        Place::Unix(path) => UnixStream::connect(path).await.map(drop),
    }
}

fn place(place: &Place) -> String {
    match place {
        Place::Tcp(host, port) => format!("{host}:{port}"),
        Place::Unix(path) => path.display().to_string(),
    }
}

/// Runs a question; an answer that is a failure is one, too. The error is that there was none.
pub async fn ask(question: &CommandSpec) -> Result<Answered, String> {
    let asked = || format!("{} was asked ({})", question.program.display(), question.name);
    match run_command::run(&question.program, &question.arguments, &[], ANSWER).await {
        Ok(stdout) => Ok(Answered { success: true, stdout }),
        Err(CommandError::Failed { stdout, .. }) => Ok(Answered { success: false, stdout }),
        Err(error) => Err(format!("{}: {error}", asked())),
    }
}
