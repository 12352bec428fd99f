//! What an upgrade and a quiet night cost: outage, flushes, reaction, wake-ups, memory, size. `just bench`.
//!
//! Everything is measured from outside, on the released binary, with a fake node that says when it begins to execute. The
//! outage stands beside the same upgrade done in Nymvisor's way (its steps, in its order, from its documentation and code),
//! in the same run and in turn.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark prints, and a panic is its failure"
)]

mod nymvisor_way;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use omnivisor_testkit::measure::{calendar, calls_before_exec, gone, head, mono_ns, pidfd, row, spread};
use omnivisor_testkit::{
    Answer, Behaviour, Installation, Options, Sandbox, Supervised, Upstream, mint, sha256_hex, upgrade_info, wait_until,
};
use rustix::process::Pid;

const ROUNDS: usize = 21;
const SOON: Duration = Duration::from_secs(60);
/// The loop, the launcher, the watch of the plan, the writer of the log.
const THREADS: usize = 4;

fn exe() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_omnivisor"))
}

fn template() -> PathBuf {
    let path = exe().with_file_name("examples").join("fake_node");
    assert!(path.exists(), "build the examples first: cargo build --release -p omnivisor --examples");
    path
}

struct Bench {
    sandbox: Sandbox,
    upstream: Upstream,
    installation: Installation,
    minted: usize,
}

impl Bench {
    fn new(upstream: Upstream, polling_rate: &str) -> Self {
        let sandbox = Sandbox::new();
        let genesis = sandbox.path().join("genesis-node");
        mint(&template(), &genesis, &Behaviour::new("1.0.0"));
        let options = Options {
            base_url: upstream.url("/"),
            polling_rate: polling_rate.to_owned(),
            restart_on_failure: true,
            startup_period_duration: "200ms".to_owned(),
            ..Options::default()
        };
        let installation = Installation::nymvisor_with(&sandbox, "nym-node-default", "nym-node", &genesis, &options);
        Self { sandbox, upstream, installation, minted: 1 }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.omnivisor(exe(), "nymvisor");
        command.args(arguments);
        if self.upstream.url("/").starts_with("https") {
            command.env("SSL_CERT_FILE", self.upstream.ca_pem_path());
        }
        command
    }

    fn run(&self) -> Supervised {
        let supervised = self.sandbox.spawn(self.command(&["run", "run"]));
        wait_until("the node runs", SOON, || self.sandbox.node_log().last_start());
        wait_until("the supervisor has settled", SOON, || self.status());
        supervised
    }

    fn status(&self) -> Option<serde_json::Value> {
        let output = self.sandbox.omnivisor(exe(), "omnivisor").args(["status", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    fn wait_idle(&self, version: &str) {
        wait_until("the upgrade is committed", SOON, || {
            let status = self.status()?;
            (status["upgrade"]["phase"] == "idle" && status["active"]["version"] == version).then_some(())
        });
    }

    fn next(&mut self) -> (String, PathBuf) {
        self.minted += 1;
        let version = format!("{}.0.0", self.minted);
        let path = self.sandbox.path().join(format!("node-{version}"));
        mint(&template(), &path, &Behaviour::new(&version));
        (version, path)
    }

    /// One upgrade by `add-upgrade --now`; from the plan's change to the signal, and from the old node's end to the new one.
    fn upgrade(&mut self) -> (Duration, Duration) {
        let (version, path) = self.next();
        let old = self.sandbox.node_log().last_start().unwrap();
        let watched = pidfd(old.pid);
        let name = format!("up-{version}");
        let output =
            self.command(&["add-upgrade", path.to_str().unwrap(), "--upgrade-name", &name, "--now"]).output().unwrap();
        let queued = mono_ns();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ended = gone(&watched);
        let start = wait_until("the new node runs", SOON, || {
            self.sandbox.node_log().last_start().filter(|start| start.version == version)
        });
        let signal = self.sandbox.node_log().of("signal").into_iter().rfind(|it| it.pid == old.pid).unwrap();
        self.wait_idle(&version);
        let reaction = Duration::from_nanos(signal.mono_ns.saturating_sub(queued));
        (reaction, Duration::from_nanos(start.mono_ns - ended))
    }
}

fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    head();
    let size = fs::metadata(exe()).unwrap().len();
    row("stripped binary", "10 MB", &format!("{:.2} MB", size as f64 / 1e6));
    outage();
    flushes();
    reaction();
    memory();
    wakeups();
}

fn outage() {
    let mut ours = Bench::new(Upstream::http(), "1h");
    let supervised = ours.run();
    let mut theirs = nymvisor_way::NymvisorWay::of(&template(), Sandbox::new(), None);
    let (mut outages, mut reactions, mut compared) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (reaction, outage) = ours.upgrade();
        reactions.push(reaction);
        outages.push(outage);
        compared.push(theirs.upgrade());
    }
    drop(supervised);
    row("outage of an upgrade, empty home: old process gone -> new one executes", "10 ms", &spread(outages));
    row("  the same in Nymvisor's way, beside it", "", &spread(compared));
    row("add-upgrade --now has returned -> old node is asked to end", "", &spread(reactions));
}

/// Counts flushes between the end of the old node and the exec of the new one, with strace.
fn flushes() {
    let what = "flushes to disk inside the outage";
    let installed = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if installed.is_err() {
        return row(what, "6", "skipped: strace is not installed");
    }
    let mut bench = Bench::new(Upstream::http(), "1h");
    let supervised = bench.run();
    let trace = bench.sandbox.path().join("trace");
    let mut strace = Command::new("strace")
        .args([
            "-f",
            "-y",
            "-ttt",
            "-e",
            "trace=fsync,fdatasync,syncfs,sync_file_range,msync,sync,execve",
            "-e",
            "signal=none",
        ])
        .args(["-o", trace.to_str().unwrap(), "-p", &supervised.pid().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("strace is attached", SOON, || {
        let status = fs::read_to_string(format!("/proc/{}/status", supervised.pid())).ok()?;
        (!status.contains("TracerPid:\t0")).then_some(())
    });
    let old = bench.sandbox.node_log().last_start().unwrap();
    let watched = pidfd(old.pid);
    // Calendar time of the old node's end, as the trace has it.
    let ended = std::thread::spawn(move || {
        gone(&watched);
        calendar()
    });
    bench.upgrade();
    let ended = ended.join().unwrap();
    let _ =
        rustix::process::kill_process(Pid::from_raw(strace.id().cast_signed()).unwrap(), rustix::process::Signal::INT);
    strace.wait().unwrap();
    let trace = fs::read_to_string(trace).unwrap();
    let calls = calls_before_exec(&trace, ended);
    row(what, "6", &format!("{} ({})", calls.len(), calls.join(", ")));
}

/// From a change of the plan to the first thing done about it that somebody else can see: the download is asked for.
fn reaction() {
    let mut bench = Bench::new(Upstream::http(), "1h");
    let supervised = bench.run();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let (version, path) = bench.next();
        let asked = format!("/{version}");
        bench.upstream.serve(&asked, Answer::File(path.clone()));
        let url = bench.upstream.url(&asked);
        let info = upgrade_info(
            &format!("up-{version}"),
            &version,
            "1990-01-01T00:00:00Z",
            Some((&url, &sha256_hex(&path))),
            None,
        );
        let mut info = info;
        info["upgradeTime"] = omnivisor_core::time::Timestamp::from_unix_nanos(
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i128,
        )
        .to_string()
        .into();
        let written = Instant::now();
        bench.installation.queue(info);
        let request = wait_until("the download is asked for", SOON, || bench.upstream.last_request(&asked));
        times.push(request.at.saturating_duration_since(written));
        bench.wait_idle(&version);
    }
    drop(supervised);
    row("a change of upgrade-plan.json -> the download is asked for", "20 ms", &spread(times));
}

fn memory() {
    let mut bench = Bench::new(Upstream::https(), "1s");
    let supervised = bench.run();
    let (version, path) = bench.next();
    bench.upstream.serve("/node", Answer::File(path.clone()));
    let url = bench.upstream.url("/node");
    let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let time = omnivisor_core::time::Timestamp::from_unix_nanos(soon.as_nanos() as i128).to_string();
    let info = upgrade_info("up", &version, &time, Some((&url, &sha256_hex(&path))), None);
    bench.upstream.serve("/nym-node/upgrade-info.json", Answer::Json(info));
    bench.wait_idle(&version);
    // What the upgrade needed is given back when its threads have ended.
    let pid = supervised.pid();
    wait_until("the worker threads have ended", SOON, || {
        (fs::read_dir(format!("/proc/{pid}/task")).unwrap().count() <= THREADS).then_some(())
    });
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mb = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
    };
    row("anonymous memory after an https poll and an upgrade over https", "3 MB", &format!("{:.2} MB", mb("RssAnon")));
    row("resident memory, the same", "12 MB", &format!("{:.2} MB", mb("VmRSS")));
    row("  its highest", "", &format!("{:.2} MB", mb("VmHWM")));
}

fn wakeups() {
    const WATCHED: Duration = Duration::from_secs(90);
    let bench = Bench::new(Upstream::http(), "1h");
    let supervised = bench.run();
    let pid = supervised.pid();
    wait_until("the worker threads have ended", SOON, || {
        (fs::read_dir(format!("/proc/{pid}/task")).unwrap().count() <= THREADS).then_some(())
    });
    let switches = || -> u64 {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        tasks
            .flatten()
            .map(|task| {
                let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                let voluntary = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
                voluntary.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0)
            })
            .sum()
    };
    let before = switches();
    std::thread::sleep(WATCHED);
    let per_30 = (switches() - before) as f64 * 30.0 / WATCHED.as_secs_f64();
    row("wake-ups in 30 s, all threads, nothing to do", "1", &format!("{per_30:.2} (over 90 s)"));
}
