//! A sandbox with an installation as Vega Visor leaves it, fake nodes, a fake GitHub, and the real binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use omnivisor_testkit::{
    AutoInstall, FakeGitHub, Kind, NodeLog, RunConfig, Sandbox, Supervised, VegaBehaviour, VegaInstallation,
    VegaOptions, wait_until,
};
use serde_json::{Value, json};

use crate::world::{SOON, omnivisor_exe};

/// The release that runs at first.
pub const OLD: &str = "v0.74.0";
/// The one that the network agrees on.
pub const NEW: &str = "v0.75.0";
/// For which block.
pub const HEIGHT: u64 = 1000;
/// The asset that it is in.
pub const ASSET: &str = "vega-linux-amd64.zip";

/// The fake node without a behaviour.
pub fn template() -> PathBuf {
    let path = omnivisor_exe().with_file_name("examples").join("fake_vega");
    assert!(path.exists(), "build the examples first: cargo build -p omnivisor --examples");
    path
}

/// Vega Visor's defaults, with delays that a test can wait for.
pub fn options() -> VegaOptions {
    VegaOptions {
        restarts_delay_seconds: 1,
        stop_signal_timeout_seconds: 5,
        ..VegaOptions::new(template(), VegaBehaviour::new(OLD))
    }
}

/// And releases from GitHub.
pub fn installing() -> VegaOptions {
    VegaOptions { auto_install: Some(AutoInstall::default()), ..options() }
}

pub struct World {
    pub github: FakeGitHub,
    pub installation: VegaInstallation,
    pub sandbox: Sandbox,
}

impl World {
    pub fn with(options: VegaOptions) -> Self {
        Self::within(Sandbox::new(), options)
    }

    pub fn within(sandbox: Sandbox, options: VegaOptions) -> Self {
        let installation = VegaInstallation::new(&sandbox, options);
        Self { github: FakeGitHub::new(), installation, sandbox }
    }

    /// A home whose releases are placed by hand.
    pub fn new() -> Self {
        Self::with(options())
    }

    /// The first release, with another run-config.toml. Not while it runs.
    pub fn change_run_config(&self, change: impl FnOnce(&mut RunConfig)) {
        let mut run = self.installation.run_config("genesis");
        change(&mut run);
        self.installation.place("genesis", &run, &VegaBehaviour::new(OLD));
    }

    /// `vegavisor <arguments>`, not started yet.
    pub fn visor(&self, arguments: &[&str]) -> Command {
        let mut command = self.surrounded(omnivisor_exe(), "vegavisor");
        command.args(arguments);
        command
    }

    /// A program with the surroundings of a supervisor of this world.
    pub fn surrounded(&self, program: &Path, argv0: &str) -> Command {
        let mut command = self.sandbox.omnivisor(program, argv0);
        command.env("OMNIVISOR_GITHUB_API", self.github.api_url()).env("OMNIVISOR_GITHUB_WEB", self.github.web_url());
        command.env("OMNIVISOR_RETRY_DELAY", "200ms").env("OMNIVISOR_RETRY_MOST", "1s");
        command.env("OMNIVISOR_SNAPSHOT_RESERVE", "16MiB");
        command.env("OMNIVISOR_PROBE_WINDOW", "1s").env("OMNIVISOR_VEGA_POSTGRES_PATIENCE", "0s");
        command
    }

    /// `vegavisor run --home <home>`, not started yet.
    pub fn run_command(&self) -> Command {
        self.visor(&["run", "--home", self.installation.home().to_str().unwrap()])
    }

    /// The same, started.
    pub fn start(&self) -> Supervised {
        self.sandbox.spawn(self.run_command())
    }

    /// The same, with nodes that run.
    pub fn run(&self) -> Supervised {
        let supervised = self.start();
        wait_until("the supervisor answers, and core runs", SOON, || {
            self.status().filter(|status| status["node"]["state"] == "running")
        });
        supervised
    }

    /// Publishes a release that answers so, as the asset that is looked for; its digest is told.
    pub fn publish(&self, tag: &str, behaviour: &VegaBehaviour) {
        let asset = self.installation.asset(behaviour);
        self.github.publish(tag, &[(ASSET, &asset, true)]);
    }

    /// The network agrees.
    pub fn accept(&self, tag: &str) {
        self.installation.control_core(|control| {
            control["accepted"] = json!({ "tag": tag, "height": HEIGHT });
        });
    }

    /// Core stands at the height.
    pub fn reach(&self) {
        self.installation.control_core(|control| control["ready"] = json!(true));
    }

    pub fn log(&self) -> NodeLog {
        self.sandbox.node_log()
    }

    /// Waits until one core of this version runs, and one data node if there is one.
    pub fn wait_for(&self, version: &str) {
        wait_until(&format!("the nodes of version {version} run"), SOON, || {
            let of = |kind| {
                let running = self.log().running_of(kind);
                matches!(running.as_slice(), [only] if only.version == version)
            };
            let data_node = !self.installation.data_node_home().exists() || of(Kind::Datanode);
            (of(Kind::Core) && data_node).then_some(())
        });
    }

    /// Waits until the upgrade to this version is committed.
    pub fn wait_for_commit(&self, version: &str) {
        self.wait_for_status(&format!("{version} is committed"), |status| {
            status["active"]["version"] == version && status["upgrade"]["phase"] == "idle"
        });
    }

    pub fn status(&self) -> Option<Value> {
        omnivisor_testkit::status(&self.sandbox.runtime())
    }

    pub fn wait_for_status(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, SOON, || self.status().filter(|status| condition(status)))
    }

    pub fn wait_for_phase(&self, phase: &str) -> Value {
        self.wait_for_status(phase, |status| status["upgrade"]["phase"] == phase)
    }

    pub fn omnivisor(&self, arguments: &[&str]) -> Output {
        self.sandbox.omnivisor(omnivisor_exe(), "omnivisor").args(arguments).output().unwrap()
    }
}

/// What the supervisor has said so far; Vega Visor logs to standard output.
pub fn said(supervised: &Supervised) -> String {
    format!("{}{}", supervised.stdout(), supervised.stderr())
}

/// Waits for a line with all these words.
#[track_caller]
pub fn wait_for_line(supervised: &Supervised, words: &[&str]) {
    wait_until(&format!("a line with {words:?}"), SOON, || {
        said(supervised).lines().find(|line| words.iter().all(|word| line.contains(word))).map(|_| ())
    });
}

/// Ends a process as the kernel does when memory is short.
pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
