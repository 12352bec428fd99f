//! The story of Vega: the upgrade of a pair at its height; and the same killed at any moment.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use omnivisor_testkit::mounts::Ground;
use omnivisor_testkit::{Kind, Sandbox, VegaBehaviour, VegaOptions, wait_until};
use serde_json::Value;
use tempfile::TempDir;

use super::harness::{Scene, Story, kill_nodes, leftovers};
use super::known::{self, Known};
use crate::vega::snapshots;
use crate::vega::world::{HEIGHT, NEW, OLD, World, installing};
use crate::world::{SOON, omnivisor_exe};

/// To the release that the network has agreed on.
pub struct Upgrade;

impl Story for Upgrade {
    fn name(&self) -> &'static str {
        "an upgrade of Vega"
    }

    fn known(&self) -> Known {
        known::VEGA_UPGRADE
    }

    fn begin_in(&self, sandbox: Sandbox) -> Box<dyn Scene> {
        Box::new(Vega { world: at_the_height(sandbox), comes: None, _place: None })
    }
}

/// To the same release, with a snapshot: the height comes when the data was copied ahead, or that has failed.
pub struct UpgradeWithSnapshot {
    /// A file system that clones.
    pub ground: Ground,
}

impl Story for UpgradeWithSnapshot {
    fn name(&self) -> &'static str {
        "an upgrade of Vega with a snapshot"
    }

    fn known(&self) -> Known {
        known::VEGA_UPGRADE_WITH_SNAPSHOT
    }

    fn begin(&self) -> Box<dyn Scene> {
        let place = tempfile::tempdir_in(self.ground.image("")).unwrap();
        let world = taken_over(Sandbox::on(place.path()), installing());
        for home in [world.installation.core_home(), world.installation.tendermint_home()] {
            std::fs::create_dir_all(home.join("data")).unwrap();
            std::fs::write(home.join("data/blocks"), "old").unwrap();
        }
        world.accept(NEW);
        Box::new(Vega { world, comes: Some(Cell::new(None)), _place: Some(place) })
    }

    fn begin_in(&self, _: Sandbox) -> Box<dyn Scene> {
        self.begin()
    }
}

/// How long a release is staged before its height comes, whether or not anything was copied.
const COPIED: Duration = Duration::from_millis(700);

struct Vega {
    world: World,
    /// Since when it is waited for the height, if that is to come.
    comes: Option<Cell<Option<Instant>>>,
    _place: Option<TempDir>,
}

impl Vega {
    /// Brings the height, in its time.
    fn reach_if_due(&self, status: &Value) {
        let Some(since) = self.comes.as_ref().filter(|_| status["upgrade"]["phase"] == "staged") else { return };
        let begun = since.get().unwrap_or_else(Instant::now);
        since.set(Some(begun));
        if snapshots::is_copied_ahead(&self.world) || begun.elapsed() > COPIED {
            self.world.reach();
        }
    }

    /// What there is of snapshots, or in place of one, is whole.
    fn check_backups(&self, when: &str) {
        if self.comes.is_some() {
            let data = self.world.installation.tendermint_home().join("data/blocks");
            assert_eq!(std::fs::read_to_string(data).unwrap(), "old", "{when}: the data itself");
        }
        for backup in snapshots::backups(&self.world) {
            let (damaged, folder) = (&backup["damaged"], PathBuf::from(backup["path"].as_str().unwrap()));
            assert!(damaged.is_null(), "{when}: {backup:#}");
            if backup["kind"] == "essentials" {
                for file in ["core/config/node/config.toml", "consensus/data/priv_validator_state.json"] {
                    assert!(std::fs::read(folder.join(file)).is_ok_and(|it| !it.is_empty()), "{when}: {file}");
                }
                continue;
            }
            let held = std::fs::read_to_string(folder.join("consensus/data/blocks"));
            assert!(
                held.as_ref().is_ok_and(|it| it == "old") && folder.join("core/data/blocks").is_file(),
                "{when}: {held:?}"
            );
        }
    }

    fn kinds(&self) -> &'static [Kind] {
        if self.world.installation.data_node_home().exists() { &[Kind::Core, Kind::Datanode] } else { &[Kind::Core] }
    }
}

/// A pair that was taken over and stopped, and whose network is at the height of an upgrade when it starts again.
fn at_the_height(sandbox: Sandbox) -> World {
    let world = taken_over(sandbox, installing().with_data_node());
    world.accept(NEW);
    world.reach();
    world
}

/// What was taken over and stopped, with a new release on GitHub.
fn taken_over(sandbox: Sandbox, options: VegaOptions) -> World {
    let world = World::within(sandbox, options);
    world.publish(NEW, &VegaBehaviour::new(NEW));
    let mut supervised = world.run();
    world.wait_for(OLD);
    supervised.signal(15);
    supervised.wait(SOON);
    world
}

/// Fails unless Vega Visor would start one of the two; whether it is the new one.
#[track_caller]
fn visor_would_start_the_new_one(world: &World, when: &str) -> bool {
    let (_, version) = world.installation.visor_would_start().unwrap_or_else(|why| panic!("{when}: {why}"));
    assert!(version == OLD || version == NEW, "{when}: {version}");
    version == NEW
}

impl Scene for Vega {
    fn sandbox(&self) -> &Sandbox {
        &self.world.sandbox
    }

    fn command(&self) -> Command {
        let mut command = self.world.run_command();
        command.env("OMNIVISOR_PROBE_WINDOW", "300ms");
        command.env("OMNIVISOR_RETRY_DELAY", "100ms").env("OMNIVISOR_RETRY_MOST", "300ms");
        command
    }

    fn history(&self) -> Command {
        let mut command = self.world.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
        command.args(["history", "--home"]).arg(self.world.installation.home());
        command
    }

    fn release(&self) -> &'static str {
        NEW
    }

    fn is_over(&self, status: &Value) -> Result<(), String> {
        self.reach_if_due(status);
        let said = |what: &str| Err(format!("{what}; {status:#}"));
        if status["upgrade"]["phase"] != "idle" || status["active"]["version"] != NEW {
            return said("the upgrade is not over");
        }
        for kind in self.kinds().iter().copied() {
            match self.world.log().running_of(kind).as_slice() {
                [only] if only.version == NEW => {}
                running => return said(&format!("{running:?} runs")),
            }
        }
        match self.world.installation.visor_would_start() {
            Ok((_, version)) if version == NEW => Ok(()),
            other => said(&format!("vegavisor would start {other:?}")),
        }
    }

    fn check_files(&self, when: &str) {
        visor_would_start_the_new_one(&self.world, when);
    }

    fn check_end(&self, when: &str) {
        assert_eq!(self.world.installation.assert_visor_would_start(), NEW, "{when}");
        // The first one, whoever started it; those after the commit need it no more.
        let mut starts = self.world.log().starts().into_iter();
        let core = starts.find(|start| start.kind == Some(Kind::Core) && start.version == NEW).unwrap();
        let flag = ["--snapshot.load-from-block-height".to_owned(), HEIGHT.to_string()];
        assert!(core.args.windows(2).any(|pair| pair == flag), "{when}: {:?}", core.args);
        self.check_backups(when);
    }

    fn folders(&self) -> Vec<PathBuf> {
        vec![self.world.installation.home().to_owned()]
    }
}

// V1, V3, V8
#[test]
fn vega_killed_again_and_again_at_any_moment_the_new_pair_runs_once() {
    for nodes_die_too in [false, true] {
        let scene = Vega { world: at_the_height(Sandbox::new()), comes: None, _place: None };
        let world = &scene.world;
        let mut new = false;
        // It is not waited for anything here: whatever it does at that moment is what it is killed in.
        for life in [30, 400, 2300, 2500, 150, 800, 2200, 90, 600] {
            let mut supervised = world.start();
            std::thread::sleep(Duration::from_millis(life));
            supervised.kill9();
            let when = format!("after {life} ms, and the nodes die, too: {nodes_die_too}");
            let is_new = visor_would_start_the_new_one(world, &when);
            assert!(is_new || !new, "{when}: it went back");
            new = is_new;
            if nodes_die_too {
                kill_nodes(&scene);
            }
        }
        let _again = world.start();
        wait_until("at last", SOON, || scene.is_over(&world.status()?).ok());
        world.log().assert_never_double();
        assert!(world.log().of("refused").is_empty(), "no node on newer data");
        scene.check_end("at last");
        assert!(leftovers(scene.folders()).is_empty(), "{:?}", leftovers(scene.folders()));
    }
}
