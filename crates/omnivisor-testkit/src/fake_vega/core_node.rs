//! A fake core node: its admin endpoint and its statistics. What the endpoint answers is in `admin`.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::admin;
use super::control::{Control, Rpc};
use super::http::{self, Reply, Response};
use super::running;
use crate::daemon::flag;
use crate::node_log::Kind;
use crate::peer_toml;
use crate::vega_behaviour::VegaBehaviour;

/// How often it is looked whether there shall be a socket now.
const LOOK: Duration = Duration::from_millis(5);

/// `start`: returns the exit code once something ends the node.
pub(super) fn run(behaviour: &VegaBehaviour, args: &[String]) -> i32 {
    let version = behaviour.version.clone();
    running::run(Kind::Core, behaviour, args, |home, control| {
        let config = peer_toml::read(&home.join("config/node/config.toml"))?;
        let server = config.get("admin").and_then(|admin| admin.get("server"));
        let setting = |name: &str| server.and_then(|server| server.get(name)).and_then(toml::Value::as_str);
        let socket = flag(args, "--admin.server.socket-path").or(setting("socketpath")).map(PathBuf::from);
        // Vega's own defaults.
        let socket = socket.unwrap_or_else(|| std::env::temp_dir().join("vega.sock"));
        let http_path = flag(args, "--admin.server.http-path").or(setting("httppath")).unwrap_or("/rpc").to_owned();
        if let Some(port) = control.rest_port {
            serve_statistics(port, home.to_owned(), version.clone())?;
        }
        let core = Core { home: home.to_owned(), version, http_path };
        let late = Duration::from_millis(control.rpc_after_ms);
        Ok(Socket::serve(socket, late, core))
    })
}

struct Core {
    home: PathBuf,
    version: String,
    http_path: String,
}

impl Core {
    fn control(&self) -> Control {
        Control::read(&self.home, &self.version)
    }
}

/// The admin socket; its file goes with it.
struct Socket(PathBuf);

impl Socket {
    fn serve(path: PathBuf, late: Duration, core: Core) -> Self {
        let socket = Self(path.clone());
        thread::spawn(move || {
            thread::sleep(late);
            while core.control().rpc == Rpc::Refuse {
                thread::sleep(LOOK);
            }
            let listener = listen(&path).unwrap_or_else(|error| {
                eprintln!("vega: cannot listen at {}: {error}", path.display());
                std::process::exit(1)
            });
            let core = Arc::new(core);
            for stream in listener.incoming().flatten() {
                let core = core.clone();
                let answer = move |request: &_, body: &[u8]| {
                    admin::answer(&core.control(), &core.version, &core.http_path, request, body)
                };
                thread::spawn(move || http::talk(&stream, answer));
            }
        });
        socket
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

/// What a predecessor that was killed has left is in the way.
fn listen(path: &Path) -> io::Result<UnixListener> {
    fs::remove_file(path).ok();
    UnixListener::bind(path)
}

fn serve_statistics(port: u16, home: PathBuf, version: String) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| format!("port {port}: {error}"))?;
    let begin = Instant::now();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (home, version) = (home.clone(), version.clone());
            let answer = move |request: &crate::upstream::Request, _: &[u8]| {
                if (request.method.as_str(), request.path.as_str()) != ("GET", "/statistics") {
                    return Reply::Http(Response::not_found());
                }
                let control = Control::read(&home, &version);
                let grown = begin.elapsed().as_millis() as u64 * control.blocks_per_second / 1000;
                let height = (control.height + grown).to_string();
                let statistics = json!({"statistics": {"blockHeight": height}});
                Reply::Http(Response::json(&statistics.to_string()))
            };
            thread::spawn(move || http::talk(&stream, answer));
        }
    });
    Ok(())
}
