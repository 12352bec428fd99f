//! What an upgrade of a core and a data node of Vega costs: the reaction to the node's word, and the outage. `just bench`.
//!
//! Measured from outside, on the released binary, with fake nodes that say when they begin to execute. Beside it stands the
//! same upgrade done in Vega Visor's way (its steps, in its order, from its documentation and code): the download inside the
//! outage. Both get the same asset of the same server, which sends as fast as a line of 100 Mbit/s.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark prints, and a panic is its failure"
)]

mod visor_way;

use std::path::{Path, PathBuf};
use std::time::Duration;

use omnivisor_testkit::measure::{gone, head, mono_ns, pidfd, row, spread};
use omnivisor_testkit::{
    Answer, AutoInstall, FakeGitHub, Kind, Sandbox, Supervised, VegaBehaviour, VegaInstallation, VegaOptions,
    wait_until,
};
use serde_json::{Value, json};

const ROUNDS: u64 = 11;
const SOON: Duration = Duration::from_secs(60);
const ASSET: &str = "vega-linux-amd64.zip";
/// 100 Mbit/s.
const LINE: u64 = 12_500_000;
/// Bytes that do not shrink: a small asset, for Vega's own are about 60 MB.
const PADDING: u64 = 10_000_000;

fn exe() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_omnivisor"))
}

fn options() -> VegaOptions {
    let template: PathBuf = exe().with_file_name("examples").join("fake_vega");
    assert!(template.exists(), "build the examples first: cargo build --release -p omnivisor --examples");
    VegaOptions {
        auto_install: Some(AutoInstall::default()),
        ..VegaOptions::new(template, VegaBehaviour::new("v0.1.0")).with_data_node()
    }
}

struct Bench {
    sandbox: Sandbox,
    github: FakeGitHub,
    installation: VegaInstallation,
}

impl Bench {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let installation = VegaInstallation::new(&sandbox, options());
        Self { sandbox, github: FakeGitHub::new(), installation }
    }

    fn run(&self) -> Supervised {
        let mut command = self.sandbox.omnivisor(exe(), "vegavisor");
        command.args(["run", "--home", self.installation.home().to_str().unwrap()]);
        command.env("OMNIVISOR_GITHUB_API", self.github.api_url());
        command.env("OMNIVISOR_GITHUB_WEB", self.github.web_url());
        command.env("OMNIVISOR_PROBE_WINDOW", "1s").env("OMNIVISOR_VEGA_POSTGRES_PATIENCE", "0s");
        let supervised = self.sandbox.spawn(command);
        self.wait_for("the nodes run", |status| status["node"]["state"] == "running");
        supervised
    }

    fn wait_for(&self, what: &str, condition: impl Fn(&Value) -> bool) {
        wait_until(what, SOON, || {
            let output = self.sandbox.omnivisor(exe(), "omnivisor").args(["status", "--json"]).output().unwrap();
            let status = serde_json::from_slice(&output.stdout).ok()?;
            condition(&status).then_some(())
        });
    }

    /// Publishes it on a line that is not endlessly fast.
    fn publish(&self, tag: &str) {
        let behaviour = VegaBehaviour { padding: PADDING, ..VegaBehaviour::new(tag) };
        let bytes = self.installation.asset(&behaviour);
        self.github.publish(tag, &[(ASSET, &bytes, true)]);
        let storage = FakeGitHub::storage_path(tag, ASSET);
        self.github.web.serve(&storage, Answer::Slow { bytes, per_second: LINE });
    }

    /// From the node's word to the signal, and from the end of the last old process to the first new one.
    fn upgrade(&self, tag: &str, height: u64) -> (Duration, Duration) {
        self.installation.control_core(|control| {
            control["ready"] = json!(false);
            control["accepted"] = json!({ "tag": tag, "height": height });
        });
        self.wait_for("staged", |status| status["upgrade"]["phase"] == "staged");
        let log = self.sandbox.node_log();
        let kinds = [Kind::Core, Kind::Datanode];
        let old = kinds.map(|kind| log.last_start_of(kind).unwrap().pid);
        let watched = old.map(pidfd);
        let said = mono_ns();
        self.installation.control_core(|control| control["ready"] = json!(true));
        let ended = watched.iter().map(gone).max().unwrap();
        let signal = log.of("signal").into_iter().find(|logged| logged.pid == old[0]).unwrap().mono_ns;
        let starts = kinds.map(|kind| {
            wait_until("the new nodes run", SOON, || log.last_start_of(kind).filter(|start| start.version == tag))
                .mono_ns
        });
        self.wait_for("committed", |status| status["active"]["version"] == tag && status["upgrade"]["phase"] == "idle");
        log.assert_never_double();
        (
            Duration::from_nanos(signal.saturating_sub(said)),
            Duration::from_nanos(starts[0].min(starts[1]).saturating_sub(ended)),
        )
    }
}

fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let ours = Bench::new();
    let supervised = ours.run();
    let mut theirs = visor_way::VisorWay::new(options());
    let (mut reactions, mut outages, mut compared) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let tag = format!("v0.{}.0", round + 1);
        ours.publish(&tag);
        let (reaction, outage) = ours.upgrade(&tag, round * 1000);
        reactions.push(reaction);
        outages.push(outage);
        compared.push(theirs.upgrade(&ours.github, &tag));
    }
    drop(supervised);
    head();
    row("ReadyToUpgrade is true -> core is sent SIGTERM", "300 ms", &spread(reactions));
    row("outage of the pair: last old process gone -> first new one executes", "10 ms", &spread(outages));
    row("  the same in Vega Visor's way, beside it (10 MB at 100 Mbit/s)", "", &spread(compared));
}
