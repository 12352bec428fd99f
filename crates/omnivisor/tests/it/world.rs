//! A sandbox with an installation as Nymvisor leaves it, a fake node, a fake upstream, and the real binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use omnivisor_testkit::{
    Answer, Behaviour, Installation, NodeLog, Options, Sandbox, Supervised, Upstream, executable, mint, sha256_hex,
    upgrade_info, wait_until,
};
use serde_json::Value;

/// Machines are noisy: a condition that holds in milliseconds is waited for this long.
pub const SOON: Duration = Duration::from_secs(30);

/// Where the upstream announces.
pub const ANNOUNCEMENT: &str = "/nym-node/upgrade-info.json";

pub fn omnivisor_exe() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_omnivisor"))
}

/// The fake node without a behaviour.
pub fn template() -> PathBuf {
    let path = omnivisor_exe().with_file_name("examples").join("fake_node");
    assert!(path.exists(), "build the examples first: cargo build -p omnivisor --examples");
    path
}

pub struct World {
    pub upstream: Upstream,
    pub installation: Installation,
    pub sandbox: Sandbox,
}

/// Options with times that a test can wait for.
pub fn options() -> Options {
    Options {
        polling_rate: "1s".to_owned(),
        restart_on_failure: true,
        failure_restart_delay: "300ms".to_owned(),
        startup_period_duration: "1s".to_owned(),
        shutdown_grace_period: "5s".to_owned(),
        max_startup_failures: 5,
        ..Options::default()
    }
}

impl World {
    /// An installation of version 1.0.0 that runs well, and an upstream that announces nothing.
    pub fn new() -> Self {
        Self::with(Behaviour::new("1.0.0"), options())
    }

    pub fn with(genesis: Behaviour, options: Options) -> Self {
        Self::within(Sandbox::new(), genesis, options)
    }

    /// The same, in this sandbox.
    pub fn within(sandbox: Sandbox, genesis: Behaviour, options: Options) -> Self {
        let upstream = Upstream::http();
        let executable = minted(&sandbox, &genesis);
        let base_url = upstream.url("/");
        let options = Options { base_url, ..options };
        let installation = Installation::nymvisor_with(&sandbox, "nym-node-default", "nym-node", &executable, &options);
        Self { upstream, installation, sandbox }
    }

    /// A supervisor of 1.0.0 that has switched to this one, and looks for a long time whether it is well.
    pub fn on_trial(&self, release: &Behaviour) -> Supervised {
        let mut command = self.run_command();
        command.env("OMNIVISOR_PROBE_WINDOW", "10m");
        let supervised = self.sandbox.spawn(command);
        self.wait_for("1.0.0");
        self.publish("2024.2", release);
        self.wait_for_status("it is probed", |status| status["upgrade"]["phase"] == "probing");
        supervised
    }

    /// `nymvisor <arguments>`, not started yet.
    pub fn nymvisor(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.omnivisor(omnivisor_exe(), "nymvisor");
        command.args(arguments);
        command.env("OMNIVISOR_RETRY_DELAY", "200ms").env("OMNIVISOR_RETRY_MOST", "1s");
        command
    }

    /// `nymvisor run run`, started, with a node that runs.
    pub fn run(&self) -> Supervised {
        let before = self.log().starts().len();
        let supervised = self.start();
        wait_until("the node is started", SOON, || (self.log().starts().len() > before).then_some(()));
        supervised
    }

    /// Started again after a crash; the node may be alive, or be started anew.
    pub fn run_again(&self) -> Supervised {
        let supervised = self.start();
        wait_until("the supervisor answers", SOON, || self.status());
        supervised
    }

    /// `nymvisor run run --home <the daemon's>`, not started yet.
    pub fn run_command(&self) -> Command {
        self.nymvisor(&["run", "run", "--home", self.installation.daemon_home().to_str().unwrap()])
    }

    /// `nymvisor run run`, started.
    pub fn start(&self) -> Supervised {
        self.sandbox.spawn(self.run_command())
    }

    /// Runs the node as Nymvisor does, through a parent of this name, on which `"$0" run` runs the active release; the shell
    /// script says what becomes of that.
    pub fn run_by_nymvisor(&self, script: &str) -> Supervised {
        let folder = self.sandbox.path().join("peer");
        if !folder.exists() {
            std::fs::create_dir(&folder).unwrap();
            let shell = std::fs::canonicalize("/bin/sh").unwrap();
            executable::copy(&shell, &folder.join("nymvisor"));
        }
        let mut command: Command = self.sandbox.omnivisor(&folder.join("nymvisor"), "nymvisor");
        command.arg("-c").arg(script).arg(self.installation.current().join("bin/nym-node"));
        self.sandbox.spawn(command)
    }

    pub fn log(&self) -> NodeLog {
        self.sandbox.node_log()
    }

    /// An executable of this behaviour.
    pub fn minted(&self, behaviour: &Behaviour) -> PathBuf {
        minted(&self.sandbox, behaviour)
    }

    /// Announces it on the upstream, for now.
    pub fn publish(&self, name: &str, behaviour: &Behaviour) -> Value {
        self.publish_for(name, behaviour, &timestamp(Duration::ZERO))
    }

    /// Announces it on the upstream.
    pub fn publish_for(&self, name: &str, behaviour: &Behaviour, time: &str) -> Value {
        let executable = self.minted(behaviour);
        let path = format!("/download/{name}");
        let digest = sha256_hex(&executable);
        self.upstream.serve(&path, Answer::File(executable));
        let url = self.upstream.url(&path);
        let info = upgrade_info(name, &behaviour.version, time, Some((&url, &digest)), Some(behaviour.details()));
        self.upstream.serve(ANNOUNCEMENT, Answer::Json(info.clone()));
        info
    }

    /// Waits until exactly one node runs, of this version.
    pub fn wait_for(&self, version: &str) -> u32 {
        wait_until(&format!("one node of version {version} runs"), SOON, || {
            let running = self.log().running();
            match running.as_slice() {
                [only] if only.version == version => Some(only.pid),
                _ => None,
            }
        })
    }

    /// Waits until Nymvisor's own start check passes with this version as the one that is installed.
    pub fn wait_for_files(&self, version: &str) {
        wait_until(&format!("the files say {version}"), SOON, || {
            (self.installation.nymvisor_would_start().ok()? == version).then_some(())
        });
    }

    /// Waits until the upgrade to this version is committed.
    pub fn wait_for_commit(&self, version: &str) {
        wait_until(&format!("{version} is committed"), SOON, || {
            let history = std::fs::read_to_string(self.installation.history()).ok()?;
            let history: Value = serde_json::from_str(&history).ok()?;
            let entries = history["history"].as_array()?.clone();
            entries.iter().any(|entry| entry["info"]["version"] == version).then_some(())
        });
        self.wait_for_files(version);
    }

    /// What `omnivisor status --json` says.
    pub fn status(&self) -> Option<Value> {
        omnivisor_testkit::status(&self.sandbox.runtime())
    }

    /// Waits for a status of which this is true.
    pub fn wait_for_status(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, SOON, || self.status().filter(|status| condition(status)))
    }

    /// Runs one of omnivisor's own verbs.
    pub fn omnivisor(&self, arguments: &[&str]) -> Output {
        self.sandbox.omnivisor(omnivisor_exe(), "omnivisor").args(arguments).output().unwrap()
    }

    pub fn plan(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.installation.plan()).unwrap()).unwrap()
    }
}

fn minted(sandbox: &Sandbox, behaviour: &Behaviour) -> PathBuf {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = sandbox.path().join("minted");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("nym-node-{}-{number}", behaviour.version));
    mint(&template(), &path, behaviour);
    path
}

/// The time so long from now, in RFC 3339.
pub fn timestamp(from_now: Duration) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap() + from_now;
    omnivisor_core::time::Timestamp::from_unix_nanos(now.as_nanos() as i128).to_string()
}
