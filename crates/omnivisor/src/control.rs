//! The control socket: how an operator's commands reach a running supervisor.
//!
//! One JSON object a line, one line each way: `{"version":1,"command":"status"}`. The socket is readable by its owner only,
//! and lives beside `<instance>.json`, which names it, in `$OMNIVISOR_RUNTIME_DIR`, `/run/omnivisor` (as root) or
//! `$XDG_RUNTIME_DIR/omnivisor`: the path of a socket is limited to 107 bytes, so it is never in a home.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::store::atomic;

/// A request is a line of some dozen bytes.
const LONGEST: u64 = 64 * 1024;
/// Somebody who connects and says nothing is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// An order may take a while: what a supervisor is to be replaced by is asked first, for ten seconds, and then what runs now.
const WORK: Duration = Duration::from_secs(30);

/// Who has asked something at the end of a run is answered within this.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What a supervisor can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// What is, what will be, and why.
    Status,
    /// End the run: the node, then the supervisor.
    Stop,
    /// No automatic upgrades.
    Hold,
    /// Go on with them, and with an undo that was stuck.
    Resume,
    /// Switch to this release now, although it waits for a person.
    Upgrade {
        /// Its name.
        name: String,
    },
    /// Take a backup of the node's data now.
    Backup,
    /// Take back the upgrade that is being probed, or the last one.
    Rollback {
        /// Whether the data stays as the new release has left it.
        #[serde(default)]
        keep_data: bool,
    },
    /// Let another executable take the supervisor's place, while the node runs on.
    Reexec {
        /// Its absolute path; none is where this one was started from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        with: Option<PathBuf>,
    },
}

#[derive(Serialize, Deserialize)]
struct Request {
    version: u32,
    #[serde(flatten)]
    command: Command,
}

/// The answer: what was asked for, or why not.
pub type Answer = Result<Value, String>;

/// A command, and where its answer goes.
pub struct Asked {
    /// What was asked.
    pub command: Command,
    /// Takes the answer.
    pub answer: oneshot::Sender<Answer>,
}

/// What `<instance>.json` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Instance {
    /// The instance's id.
    pub id: String,
    /// The supervisor's process.
    pub pid: u32,
    /// Its socket.
    pub socket: PathBuf,
    /// The instance's state folder, which no other instance has.
    pub state: PathBuf,
}

/// The folder of all running instances of this user; none if the system has no place for it.
pub fn runtime_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(folder) = variable("OMNIVISOR_RUNTIME_DIR") {
        return Some(folder.into());
    }
    if rustix::process::geteuid().is_root() {
        return Some("/run/omnivisor".into());
    }
    variable("XDG_RUNTIME_DIR").map(|folder| PathBuf::from(folder).join("omnivisor"))
}

/// An open control socket; its files are removed when it is dropped.
pub struct Server {
    files: Vec<PathBuf>,
    accepting: JoinHandle<()>,
    /// Closed when nobody who has connected is left without an answer, and nobody is accepted any more.
    answered: mpsc::Receiver<()>,
}

impl Server {
    /// Opens it, and forwards what is asked to `commands`.
    pub fn open(folder: &Path, id: &str, state: &Path, commands: mpsc::Sender<Asked>) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        atomic::sweep(folder);
        let name = free_name(folder, id, state);
        let (socket, file) = (folder.join(format!("{name}.sock")), folder.join(format!("{name}.json")));
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
        let instance =
            Instance { id: id.to_owned(), pid: std::process::id(), socket: socket.clone(), state: state.to_owned() };
        atomic::replace_in_memory(&file, &serde_json::to_vec(&instance)?, 0o600)?;
        let (open, answered) = mpsc::channel(1);
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let (commands, open) = (commands.clone(), open.clone());
                        tokio::spawn(async move {
                            let _ = serve(stream, commands).await;
                            drop(open);
                        });
                    }
                    // Out of descriptors, perhaps: it passes, but not at once.
                    Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
                }
            }
        });
        Ok(Self { files: vec![socket, file], accepting, answered })
    }

    /// Accepts nobody any more, and waits a moment until everybody who has connected is answered. Its files are gone before:
    /// the next supervisor makes its own meanwhile.
    pub async fn close(mut self) {
        self.remove_files();
        self.accepting.abort();
        let _ = tokio::time::timeout(LAST_ANSWERS, self.answered.recv()).await;
    }

    /// The same; but the files stay, for another image of this supervisor, which replaces them.
    pub async fn hand_over(mut self) {
        self.files.clear();
        self.close().await;
    }

    fn remove_files(&mut self) {
        for file in self.files.drain(..) {
            let _ = fs::remove_file(file);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.remove_files();
    }
}

/// The instance's id, or with a number if another instance of this id, of another home, is running.
fn free_name(folder: &Path, id: &str, state: &Path) -> String {
    let taken = |name: &str| {
        let other = fs::read(folder.join(format!("{name}.json"))).ok();
        let other = other.and_then(|bytes| serde_json::from_slice::<Instance>(&bytes).ok());
        other.is_some_and(|other| other.state != state && StdUnixStream::connect(&other.socket).is_ok())
    };
    let names = std::iter::once(id.to_owned()).chain((2..100).map(|number| format!("{id}-{number}")));
    names.into_iter().find(|name| !taken(name)).unwrap_or_else(|| id.to_owned())
}

async fn serve(mut stream: UnixStream, commands: mpsc::Sender<Asked>) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    tokio::time::timeout(PATIENCE, tokio::io::BufReader::new(reader.take(LONGEST)).read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<Request>(&line) {
        Err(error) => Err(format!("this is no request: {error}")),
        Ok(request) if request.version != 1 => Err(format!("version {} is not spoken here, 1 is", request.version)),
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            let asked = Asked { command: request.command, answer };
            let gone = || Err("the supervisor is ending".to_owned());
            match commands.send(asked).await {
                Ok(()) => match tokio::time::timeout(WORK, answered).await {
                    Ok(answer) => answer.unwrap_or_else(|_| gone()),
                    Err(_) => Err("it takes too long: see the log".to_owned()),
                },
                Err(_) => gone(),
            }
        }
    };
    let answer = match answer {
        Ok(value) => serde_json::json!({ "version": 1, "ok": value }),
        Err(error) => serde_json::json!({ "version": 1, "error": error }),
    };
    tokio::time::timeout(PATIENCE, writer.write_all(format!("{answer}\n").as_bytes())).await?
}

/// The instances that run, by what their files say.
pub fn running(folder: &Path) -> Vec<Instance> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|it| it == "json"));
    let mut all: Vec<Instance> = files.filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect();
    all.retain(|instance| StdUnixStream::connect(&instance.socket).is_ok());
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// Asks a running supervisor. Blocks.
pub fn ask(socket: &Path, command: Command) -> io::Result<Answer> {
    let patience = if matches!(command, Command::Reexec { .. }) { WORK } else { PATIENCE };
    let mut stream = StdUnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = serde_json::to_string(&Request { version: 1, command })?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST * 16)).read_line(&mut line)?;
    let answer: Value = serde_json::from_str(&line)?;
    Ok(match answer.get("error").and_then(Value::as_str) {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer.get("ok").cloned().unwrap_or(Value::Null)),
    })
}
