//! The stories of Nym: an upgrade that migrates the data, and the undo of one that is sick.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::Command;

use omnivisor_testkit::{Behaviour, Options, Sandbox, wait_until};
use serde_json::Value;

use super::harness::{Scene, Story};
use super::known::{self, Known};
use crate::by_command::commands;
use crate::world::{SOON, World, omnivisor_exe, options};

const OLD: &str = "1.0.0";
/// What the upgrade is called.
const RELEASE: &str = "2024.9";

/// To 2.0.0, which runs well.
pub struct Upgrade;

impl Story for Upgrade {
    fn name(&self) -> &'static str {
        "an upgrade of Nym"
    }

    fn known(&self) -> Known {
        known::NYM_UPGRADE
    }

    fn begin_in(&self, sandbox: Sandbox) -> Box<dyn Scene> {
        let behaviour = Behaviour { migrates: true, ..Behaviour::new("2.0.0") };
        Box::new(Nym::announced(sandbox, &behaviour, "300ms", "2.0.0"))
    }
}

/// To 3.0.0, which ends at once, and back.
pub struct UndoOf3;

impl Story for UndoOf3 {
    fn name(&self) -> &'static str {
        "an undo of Nym"
    }

    fn known(&self) -> Known {
        known::NYM_UNDO
    }

    fn begins_as(&self) -> Option<&'static dyn Story> {
        Some(&Upgrade)
    }

    fn begin_in(&self, sandbox: Sandbox) -> Box<dyn Scene> {
        let behaviour = Behaviour { exit_after_ms: Some(10), exit_code: 1, migrates: true, ..Behaviour::new("3.0.0") };
        // However slow the machine is, it ends before it has shown that it is well.
        Box::new(Nym::announced(sandbox, &behaviour, "20s", OLD))
    }
}

/// The same, where an operator's command takes the snapshot: what goes back is a copy, and what it has taken for nothing is removed.
pub struct UndoByCommand;

impl Story for UndoByCommand {
    fn name(&self) -> &'static str {
        "an undo of Nym from what a command has taken"
    }

    fn known(&self) -> Known {
        known::NYM_UNDO_BY_COMMAND
    }

    fn begins_as(&self) -> Option<&'static dyn Story> {
        Some(&UndoOf3)
    }

    fn begin_in(&self, sandbox: Sandbox) -> Box<dyn Scene> {
        let behaviour = Behaviour { exit_after_ms: Some(10), exit_code: 1, migrates: true, ..Behaviour::new("3.0.0") };
        let mut nym = Nym::announced(sandbox, &behaviour, "20s", OLD);
        nym.take_by_command();
        Box::new(nym)
    }
}

struct Nym {
    world: World,
    window: &'static str,
    /// What it announced.
    announced: Value,
    /// What runs in the end.
    last: &'static str,
    /// How often the node has signed.
    signed: Cell<u32>,
    /// Where a command puts its snapshots, if one takes them.
    taken: Option<PathBuf>,
}

impl Nym {
    fn announced(sandbox: Sandbox, behaviour: &Behaviour, window: &'static str, last: &'static str) -> Self {
        let options =
            Options { polling_rate: "300ms".to_owned(), failure_restart_delay: "50ms".to_owned(), ..options() };
        let world = World::within(sandbox, Behaviour::new(OLD), options);
        let data = world.sandbox.daemon_home().join("data");
        std::fs::create_dir_all(&data).unwrap();
        let mut nym = Self { world, window, announced: Value::Null, last, signed: Cell::default(), taken: None };
        nym.sign();
        let mut supervised = nym.world.run();
        supervised.signal(15);
        supervised.wait(SOON);
        nym.announced = nym.world.publish(RELEASE, behaviour);
        nym
    }

    fn take_by_command(&mut self) {
        let folder = self.world.sandbox.path().join("taken");
        std::fs::create_dir(&folder).unwrap();
        let command = commands::install(&self.world.sandbox.path().join("command"));
        let text = commands::settings(&command, &folder, "");
        std::fs::write(self.world.installation.config().with_file_name("omnivisor.toml"), text).unwrap();
        self.taken = Some(folder);
    }

    /// What a command has taken, and no backup leads to.
    fn taken_for_nothing(&self) -> Vec<PathBuf> {
        let there = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|it| it.path());
        let backups = there(self.world.installation.backups().to_owned()).flat_map(there);
        let kept: Vec<PathBuf> = backups.filter_map(|it| std::fs::read_link(it).ok()).collect();
        self.taken.iter().cloned().flat_map(there).filter(|taken| !kept.contains(taken)).collect()
    }

    fn key(&self) -> PathBuf {
        self.world.sandbox.daemon_home().join("data/id.pem")
    }

    /// How often the history has an upgrade.
    fn performed(&self) -> usize {
        let history = std::fs::read_to_string(self.world.installation.history()).unwrap_or_default();
        history.matches("\"performedAt\"").count()
    }
}

impl Scene for Nym {
    fn sandbox(&self) -> &Sandbox {
        &self.world.sandbox
    }

    fn command(&self) -> Command {
        let mut command = self.world.run_command();
        command.env("OMNIVISOR_PROBE_WINDOW", self.window);
        command.env("OMNIVISOR_RETRY_DELAY", "100ms").env("OMNIVISOR_RETRY_MOST", "300ms");
        command
    }

    fn history(&self) -> Command {
        let mut command = self.world.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
        command.arg("history");
        command
    }

    fn release(&self) -> &'static str {
        RELEASE
    }

    fn is_over(&self, status: &Value) -> Result<(), String> {
        let said = |what: &str| Err(format!("{what}; {status:#}"));
        if status["upgrade"]["phase"] != "idle" || status["active"]["version"] != self.last {
            return said("the upgrade is not over");
        }
        let is_undo = self.last == OLD;
        if is_undo && status["failed"][0]["version"] != self.announced["version"] {
            return said("it was not taken back");
        }
        match self.world.log().running().as_slice() {
            [only] if only.version == self.last => {}
            running => return said(&format!("{running:?} runs")),
        }
        match self.world.installation.nymvisor_would_start() {
            Ok(version) if version == self.last => {}
            other => return said(&format!("nymvisor would start {other:?}")),
        }
        match self.performed() == usize::from(!is_undo) {
            false => said("the history is not written"),
            true if !self.world.plan()["queuedUp"].as_array().is_some_and(Vec::is_empty) => {
                said("the queue is not empty")
            }
            true => Ok(()),
        }
    }

    /// Between two of its files Nymvisor itself would not start either: none of them is missing or half written.
    fn check_files(&self, when: &str) {
        let installation = &self.world.installation;
        for path in [installation.plan(), installation.current_version(), installation.history()] {
            if let Ok(bytes) = std::fs::read(&path) {
                let read: Result<Value, _> = serde_json::from_slice(&bytes);
                assert!(read.is_ok(), "{when}: {} is {:?}", path.display(), String::from_utf8_lossy(&bytes));
            } else {
                assert_eq!(path, installation.history(), "{when}: it is gone");
            }
        }
        let target = std::fs::canonicalize(installation.current()).unwrap_or_else(|why| panic!("{when}: {why}"));
        let answered = Command::new(target.join("bin/nym-node")).args(["build-info", "--output=json"]).output();
        let answered = answered.unwrap_or_else(|why| panic!("{when}: {} is not whole: {why}", target.display()));
        assert!(answered.status.success(), "{when}: {answered:?}");
        if let Err(why) = installation.nymvisor_would_start() {
            let differ = [" is \"", "binaryDetails differ", "the binary says"].iter().any(|it| why.contains(it));
            assert!(differ, "{when}: nymvisor would not start: {why}");
        }
    }

    fn sign(&self) {
        self.signed.set(self.signed.get() + 1);
        std::fs::write(self.key(), self.signed.get().to_string()).unwrap();
    }

    fn check_end(&self, when: &str) {
        assert_eq!(self.world.installation.assert_nymvisor_would_start(), self.last, "{when}");
        assert_eq!(std::fs::read_to_string(self.key()).unwrap(), self.signed.get().to_string(), "{when}: the key");
        assert_eq!(self.performed(), usize::from(self.last != OLD), "{when}");
        let what =
            || format!("{when}: nothing is left of what was taken for nothing, but {:?}", self.taken_for_nothing());
        wait_until(&what(), SOON, || self.taken_for_nothing().is_empty().then_some(()));
    }

    fn folders(&self) -> Vec<PathBuf> {
        vec![self.world.sandbox.nym_home(), self.world.sandbox.daemon_home()]
    }
}
