//! Looks at the outside world all the time, and at nothing else: processes, links, files, and what the control socket says.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use omnivisor_testkit::{NodeLog, executable, sha256_hex, wait_until};
use serde_json::Value;

use crate::world::{SOON, World};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// How long no node may run without a reason, on a machine that is busy.
const UNEXPLAINED: Duration = Duration::from_secs(10);

/// How much of what was done is told.
const LAST: usize = 12;

/// What both sides know.
struct Shared {
    ends: AtomicBool,
    looks: AtomicUsize,
    /// What the key file holds: a number that only grows.
    key: AtomicU64,
    broken: Mutex<Option<String>>,
    begun: Instant,
    done: Mutex<Vec<String>>,
    /// The digests of all executables that were ever published.
    published: Mutex<Vec<String>>,
}

pub(super) struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub(super) fn begin(world: &World) -> Self {
        let shared = Arc::new(Shared {
            ends: AtomicBool::new(false),
            looks: AtomicUsize::new(0),
            key: AtomicU64::new(0),
            broken: Mutex::new(None),
            begun: Instant::now(),
            done: Mutex::new(Vec::new()),
            published: Mutex::new(vec![sha256_hex(&world.installation.binary("genesis"))]),
        });
        let installation = &world.installation;
        let look = Look {
            current: installation.current(),
            files: vec![installation.plan(), installation.history(), installation.current_version()],
            key: installation.daemon_home().join("data/id.pem"),
            history: installation.history(),
            runtime: world.sandbox.runtime(),
            log: world.sandbox.node_log(),
            arguments: format!("run\0--home\0{}\0", installation.daemon_home().display()).into_bytes(),
            digests: BTreeMap::new(),
            unexplained: None,
        };
        fs::write(&look.key, written(0)).unwrap();
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || look.again_and_again(&shared)
        });
        Self { shared, thread: Some(thread) }
    }

    /// What was done, for whoever has to find out why something is broken.
    pub(super) fn note(&self, what: &str) {
        self.shared.done.lock().unwrap().push(format!("{:.2} s: {what}", self.shared.begun.elapsed().as_secs_f32()));
    }

    pub(super) fn publish(&self, info: &Value) {
        let platforms = info["platforms"].as_object().unwrap();
        let digests = platforms.values().map(|platform| platform["checksum"].as_str().unwrap().to_owned());
        self.shared.published.lock().unwrap().extend(digests);
    }

    /// Which invariant was broken first, if one was.
    pub(super) fn broken(&self) -> Option<String> {
        assert!(self.thread.as_ref().is_none_or(|thread| !thread.is_finished()), "the watcher has ended");
        self.shared.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything is over: the peer itself could go on.
    pub(super) fn settled(&self, world: &World) {
        omnivisor_testkit::wait_until("Nymvisor would start", crate::world::SOON, || {
            world.installation.nymvisor_would_start().ok()
        });
    }

    pub(super) fn story(&self) -> String {
        let done = self.shared.done.lock().unwrap_or_else(PoisonError::into_inner);
        format!("what was done last: {:#?}", &done[done.len().saturating_sub(LAST)..])
    }

    /// How often it has looked.
    pub(super) fn end(mut self) -> usize {
        self.shared.ends.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.shared.looks.load(Ordering::SeqCst)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
    }
}

/// The same length always.
fn written(key: u64) -> String {
    format!("{key:020}")
}

struct Look {
    current: PathBuf,
    files: Vec<PathBuf>,
    key: PathBuf,
    history: PathBuf,
    runtime: PathBuf,
    log: NodeLog,
    /// What follows the name of a node on its command line, and of nothing else.
    arguments: Vec<u8>,
    /// Of executables, by path and time of change.
    digests: BTreeMap<(PathBuf, SystemTime), String>,
    /// Since when no node runs, and nobody says why.
    unexplained: Option<Instant>,
}

impl Look {
    fn again_and_again(mut self, shared: &Shared) {
        while !shared.ends.load(Ordering::SeqCst) {
            let mut broken = self.files_parse().and(self.key_grows(shared)).and(self.link_is_whole(shared));
            // The log is long, and seldom tells more.
            if shared.looks.fetch_add(1, Ordering::SeqCst).is_multiple_of(5) {
                broken = broken.and(self.one_node_runs()).and(self.history_has_each_once());
            }
            if let Err(what) = broken {
                let when = shared.begun.elapsed().as_secs_f32();
                shared.broken.lock().unwrap().get_or_insert(format!("after {when:.2} s: {what}"));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Whatever is there can be read by the peer at every instant.
    fn files_parse(&self) -> Result<(), String> {
        for path in &self.files {
            match fs::read(path) {
                Ok(bytes) => {
                    serde_json::from_slice::<Value>(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("{}: {error}", path.display())),
            }
        }
        Ok(())
    }

    /// What a signer has written is never taken back.
    fn key_grows(&self, shared: &Shared) -> Result<(), String> {
        let key = shared.key.load(Ordering::SeqCst);
        let found = fs::read_to_string(&self.key).map_err(|error| format!("{}: {error}", self.key.display()))?;
        if found != written(key) {
            return Err(format!("the key file holds {found:?}, and {key} was written"));
        }
        shared.key.store(key + 1, Ordering::SeqCst);
        // In place, as there may be no room for another file.
        let file = fs::OpenOptions::new().write(true).open(&self.key);
        file.and_then(|file| file.write_all_at(written(key + 1).as_bytes(), 0))
            .map_err(|error| format!("{}: {error}", self.key.display()))
    }

    /// `current` is a release that somebody has published, whole.
    fn link_is_whole(&mut self, shared: &Shared) -> Result<(), String> {
        let folder = fs::canonicalize(&self.current)
            .map_err(|error| format!("{} leads nowhere: {error}", self.current.display()))?;
        let (executable, info) = (folder.join("bin/nym-node"), folder.join("upgrade-info.json"));
        let bytes = fs::read(&info).map_err(|error| format!("{}: {error}", info.display()))?;
        serde_json::from_slice::<Value>(&bytes).map_err(|error| format!("{}: {error}", info.display()))?;
        let changed = fs::metadata(&executable).and_then(|it| it.modified());
        let changed = changed.map_err(|error| format!("{}: {error}", executable.display()))?;
        let digest = self.digests.entry((executable.clone(), changed)).or_insert_with(|| sha256_hex(&executable));
        match shared.published.lock().unwrap().contains(digest) {
            true => Ok(()),
            false => Err(format!("{} is nothing that was published", executable.display())),
        }
    }

    /// At most one node; and one, unless there is a reason.
    fn one_node_runs(&mut self) -> Result<(), String> {
        let running = self.log.running();
        let seen = self.nodes();
        // Those that were seen one after the other ran at once only if they still do.
        if running.len() > 1 || seen.len() > 1 && seen.iter().all(|pid| self.is_node(*pid)) {
            return Err(format!("more than one node runs: {running:?}, {seen:?}"));
        }
        let status = omnivisor_testkit::status(&self.runtime);
        let explained = status.as_ref().is_none_or(|status| {
            status["node"]["why"].is_string()
                || matches!(status["upgrade"]["phase"].as_str(), Some("switching" | "undoing"))
        });
        if running.len() == 1 || explained {
            self.unexplained = None;
            return Ok(());
        }
        match self.unexplained.get_or_insert_with(Instant::now).elapsed() > UNEXPLAINED {
            true => Err(format!("no node runs, and nobody says why: {:#}", status.unwrap_or_default())),
            false => Ok(()),
        }
    }

    /// Who has the command line of a node on this home, whatever is logged.
    fn nodes(&self) -> Vec<u32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| self.is_node(*pid)).collect()
    }

    fn is_node(&self, pid: u32) -> bool {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let name = line.iter().position(|byte| *byte == 0).map_or(line.len(), |end| end + 1);
        line[name..] == self.arguments
    }

    fn history_has_each_once(&self) -> Result<(), String> {
        let Ok(bytes) = fs::read(&self.history) else { return Ok(()) };
        let history: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let entries = history["history"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<&str> = entries.iter().filter_map(|entry| entry["info"]["name"].as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("{} is in the history twice", pair[0])),
            None => Ok(()),
        }
    }
}

/// Whoever sees nothing finds everything well.
#[test]
fn the_watcher_sees_what_is_broken() {
    type Break = fn(&World);
    let second_node: Break = |world| {
        if world.sandbox.node_log().running().len() > 1 {
            return;
        }
        let mut second = std::process::Command::new(world.installation.binary("genesis"));
        second.arg("run").arg("--home").arg(world.installation.daemon_home());
        second.env("FAKE_NODE_LOG", world.sandbox.node_log_path());
        let mut second = second.spawn().unwrap();
        std::thread::spawn(move || second.wait()); // killed with the sandbox
    };
    let no_node: Break = |world| fs::write(world.sandbox.node_log_path(), "").unwrap();
    let older_key: Break = |world| fs::write(world.installation.daemon_home().join("data/id.pem"), written(0)).unwrap();
    let no_link: Break = |world| drop(fs::remove_file(world.installation.current()));
    let other_release: Break = |world| executable::script(&world.installation.binary("genesis"), "#!/bin/sh\n");
    let half_a_file: Break = |world| fs::write(world.installation.plan(), "{").unwrap();
    let twice: Break = |world| {
        let entry = serde_json::json!({ "info": { "name": "2030.1" } });
        fs::write(world.installation.history(), serde_json::json!({ "history": [entry, entry] }).to_string()).unwrap();
    };
    for (breaks, says) in [
        (second_node, "more than one node runs"),
        (no_node, "no node runs, and nobody says why"),
        (older_key, "the key file holds"),
        (no_link, "leads nowhere"),
        (other_release, "nothing that was published"),
        (half_a_file, "upgrade-plan.json: EOF"),
        (twice, "2030.1 is in the history twice"),
    ] {
        let world = World::new();
        fs::create_dir_all(world.installation.daemon_home().join("data")).unwrap();
        let watcher = Watcher::begin(&world);
        let _supervised = world.run();
        world.wait_for("1.0.0");
        wait_until("it has looked", SOON, || (watcher.shared.looks.load(Ordering::SeqCst) > 10).then_some(()));
        assert_eq!(watcher.broken(), None);
        breaks(&world);
        let mut broke = Instant::now();
        let broken = wait_until(says, SOON, || {
            // A supervisor that has just started mends its link and its files once, before anybody has looked.
            if broke.elapsed() > Duration::from_secs(1) {
                breaks(&world);
                broke = Instant::now();
            }
            watcher.broken()
        });
        assert!(broken.contains(says), "{broken}");
    }
}
