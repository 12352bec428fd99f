//! A PostgreSQL of one test's own: a cluster in the sandbox, on a free port and on a socket, run by a user who is not root.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use omnivisor_testkit::{Sandbox, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::world::SOON;

/// Its only user.
const USER: &str = "tester";

/// The programs of PostgreSQL's Debian package, of the newest version that is installed.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions
        .map(|entry| entry.path())
        .filter(|path| path.join("bin/initdb").is_file())
        .max_by_key(|path| number(path))?;
    Some(newest.join("bin"))
}

/// Whom PostgreSQL runs as: it refuses root.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let ids = |name: &str| {
        let fields: Vec<&str> = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').collect();
        Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
    };
    ids("postgres").or_else(|| ids("nobody"))
}

/// A cluster, which may run.
pub struct Cluster {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    server: Option<Child>,
}

impl Cluster {
    /// One that does not run yet; none, and that is said, where PostgreSQL is not installed.
    pub fn made_in(sandbox: &Sandbox) -> Option<Self> {
        let Some(programs) = programs() else {
            // Not by a macro: what those print is only shown of a test that fails.
            let mut out = std::io::stderr();
            writeln!(out, "skipped: PostgreSQL is not installed (Debian's package `postgresql`)").unwrap();
            return None;
        };
        let folder = sandbox.path().join("pg");
        fs::create_dir(&folder).unwrap();
        if let Some((user, group)) = unprivileged() {
            // Whoever runs it has to come through to what is his.
            fs::set_permissions(sandbox.path(), fs::Permissions::from_mode(0o711)).unwrap();
            chown(&folder, Some(user), Some(group)).unwrap();
        }
        let cluster = Self { programs, folder, port: free_port(), server: None };
        let made = cluster
            .command("initdb")
            .args(["--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8", "--username", USER, "--pgdata"])
            .arg(cluster.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        Some(cluster)
    }

    /// The folder of its socket.
    pub fn socket_folder(&self) -> &Path {
        &self.folder
    }

    /// The number in its port and in its socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin").current_dir(&self.folder);
        command.stdin(Stdio::null());
        if let Some((user, group)) = unprivileged() {
            command.uid(user).gid(group);
        }
        command
    }

    /// Starts it, and waits until it answers.
    pub fn start(&mut self) {
        let log = fs::File::create(self.folder.join("log")).unwrap();
        let server = self
            .command("postgres")
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-p", &self.port.to_string(), "-k"])
            .arg(&self.folder)
            .arg("-D")
            .arg(self.data())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(server);
        wait_until("PostgreSQL answers", SOON, || {
            let ended = self.server.as_mut().unwrap().try_wait().unwrap();
            let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "PostgreSQL ended with {ended:?}: {}", log());
            let ready = self.command("pg_isready").arg("-q").args(self.place()).status().unwrap();
            ready.success().then_some(())
        });
    }

    fn place(&self) -> Vec<String> {
        ["-h", "127.0.0.1", "-U", USER, "-d", "postgres", "-p", &self.port.to_string()].map(str::to_owned).to_vec()
    }

    /// The server's process, and when it was started.
    pub fn process(&self) -> (u32, String) {
        let pid = self.server.as_ref().unwrap().id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let behind_name = stat.rsplit_once(')').unwrap().1;
        let started = behind_name.split_ascii_whitespace().nth(19).unwrap().to_owned();
        (pid, started)
    }

    /// A session, as a data node has some.
    pub fn session(&self) -> Session {
        let mut psql = self.command("psql");
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]).args(self.place());
        let mut client = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (client.stdin.take().unwrap(), BufReader::new(client.stdout.take().unwrap()));
        Session { client, input, output }
    }

    /// What a session of a moment is told.
    pub fn answer(&self, question: &str) -> String {
        self.session().ask(question)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        // At once, and its children with it.
        let _ = kill_process(Pid::from_child(&server), Signal::QUIT);
        let begun = Instant::now();
        while server.try_wait().is_ok_and(|ended| ended.is_none()) {
            if begun.elapsed() > Duration::from_secs(10) {
                let _ = server.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// One connection.
pub struct Session {
    client: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    /// The one line that it answers; nothing, if the connection is gone.
    pub fn ask(&mut self, question: &str) -> String {
        let mut line = String::new();
        if writeln!(self.input, "{question};").is_ok() {
            self.output.read_line(&mut line).unwrap();
        }
        line.trim().to_owned()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
