//! Instances of one daemon on one machine: they share the data directory, and nothing else (N7).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use omnivisor_testkit::{
    Answer, Behaviour, Installation, NodeLog, Options, Sandbox, Supervised, Upstream, mint, sha256_hex, upgrade_info,
    wait_until,
};
use serde_json::{Value, json};

use super::{WEEK, assert_done, running_pid};
use crate::world::{SOON, World, omnivisor_exe, template, timestamp};

/// An instance that `omnivisor` itself makes, with a home, an upstream and a log of its own.
pub(super) struct Instance<'a> {
    pub sandbox: &'a Sandbox,
    pub upstream: &'a Upstream,
    pub id: &'static str,
}

impl Instance<'_> {
    pub(super) fn home(&self) -> PathBuf {
        self.sandbox.path().join(format!("home-{}", self.id))
    }

    fn log_path(&self) -> PathBuf {
        self.sandbox.path().join(format!("node-{}.log", self.id))
    }

    pub(super) fn log(&self) -> NodeLog {
        NodeLog::new(&self.log_path())
    }

    pub(super) fn installation(&self) -> Installation {
        let options = Options { daemon_home: Some(self.home()), ..Options::default() };
        Installation::at(self.sandbox, self.id, "nym-node", &options)
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.omnivisor(omnivisor_exe(), "nymvisor");
        command.args(arguments).env("FAKE_NODE_LOG", self.log_path());
        command.env("OMNIVISOR_RETRY_DELAY", "200ms").env("OMNIVISOR_RETRY_MOST", "1s");
        command
    }

    pub(super) fn init(&self, genesis: &Behaviour) -> Output {
        let executable = self.minted(genesis);
        let (home, url) = (self.home(), self.upstream.url(&self.announcement()));
        let mut command = self.command(&["init", executable.to_str().unwrap(), "--id", self.id]);
        command.arg("--daemon-home").arg(home).args(["--daemon-absolute-upstream-upgrade-url", &url]);
        command.args(["--upstream-polling-rate", "1s", "--startup-period-duration", "500ms"]);
        command.args(["--restart-daemon-on-failure", "--on-failure-daemon-restart-delay", "300ms"]);
        command.output().unwrap()
    }

    /// Starts the supervisor, and waits until its node runs.
    pub(super) fn run(&self) -> Supervised {
        let before = self.log().starts().len();
        let mut command = self.command(&["run", "run", "--home"]);
        command.arg(self.home()).env("NYMVISOR_ID", self.id);
        let supervised = self.sandbox.spawn(command);
        wait_until("the node is started", SOON, || (self.log().starts().len() > before).then_some(()));
        supervised
    }

    fn announcement(&self) -> String {
        format!("/{}/upgrade-info.json", self.id)
    }

    fn minted(&self, behaviour: &Behaviour) -> PathBuf {
        let path = self.sandbox.path().join(format!("nym-node-{}-{}", self.id, behaviour.version));
        if !path.exists() {
            mint(&template(), &path, behaviour);
        }
        path
    }

    pub(super) fn publish(&self, version: &str, from_now: Duration) {
        let behaviour = Behaviour::new(version);
        let executable = self.minted(&behaviour);
        let path = format!("/download/{version}");
        let (url, digest) = (self.upstream.url(&path), sha256_hex(&executable));
        self.upstream.serve(&path, Answer::File(executable));
        let name = format!("up-{version}");
        let info = upgrade_info(&name, version, &timestamp(from_now), Some((&url, &digest)), Some(behaviour.details()));
        self.upstream.serve(&self.announcement(), Answer::Json(info));
    }

    pub(super) fn status(&self) -> Option<Value> {
        let mut command = self.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
        let output = command.args(["status", "--json", "--id", self.id]).output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    pub(super) fn wait_for_status(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, SOON, || self.status().filter(|status| condition(status)))
    }

    pub(super) fn wait_for_commit(&self, version: &str) {
        self.wait_for_status(&format!("{} is on {version}", self.id), |status| {
            status["active"]["version"] == version && status["upgrade"]["phase"] == "idle"
        });
        self.assert_runs(version);
    }

    /// Waits until Nymvisor would start this version.
    pub(super) fn wait_for_files(&self, version: &str) {
        wait_until("the files to agree", SOON, || {
            (self.installation().nymvisor_would_start().ok()? == version).then_some(())
        });
    }

    pub(super) fn wait_for_empty_queue(&self) {
        wait_until("an empty queue", SOON, || self.queue().is_empty().then_some(()));
    }

    #[track_caller]
    fn assert_runs(&self, version: &str) {
        running_pid(&self.log());
        assert_eq!(self.log().running()[0].version, version, "{}", self.id);
        self.log().assert_never_double();
    }

    fn wait_for_polls(&self) {
        let path = self.announcement();
        let before = self.upstream.requests(&path);
        wait_until("two more polls", SOON, || (self.upstream.requests(&path) >= before + 2).then_some(()));
    }

    fn queue(&self) -> Vec<Value> {
        let plan: Value = serde_json::from_slice(&std::fs::read(self.installation().plan()).unwrap()).unwrap();
        plan["queuedUp"].as_array().unwrap().clone()
    }
}

pub(super) fn end(mut supervised: Supervised) {
    supervised.signal(15);
    assert_eq!(supervised.wait(SOON).code(), Some(0), "{}", supervised.stderr());
}

fn two<'a>(sandbox: &'a Sandbox, upstream: &'a Upstream) -> [Instance<'a>; 2] {
    ["a", "b"].map(|id| Instance { sandbox, upstream, id })
}

/// A upgrades now, B in a week: neither moves the other, and each is itself again after a restart.
fn check_that_each_goes_its_own_way(a: &Instance<'_>, b: &Instance<'_>, [of_a, of_b]: [Supervised; 2]) {
    b.publish("2.0.0", WEEK);
    b.wait_for_status("b is ready", |status| status["upgrade"]["phase"] == "staged");
    let pid = running_pid(&b.log());
    a.publish("2.0.0", Duration::ZERO);
    a.wait_for_commit("2.0.0");
    b.wait_for_polls();
    assert_eq!(running_pid(&b.log()), pid, "a's upgrade moved b");
    assert!(!of_b.stderr().contains("the upgrade is dropped"), "not even for a moment: upstream may be gone by then");
    b.assert_runs("1.0.0");
    assert_eq!(b.queue().len(), 1, "what b waits for is queued still");

    end(of_a);
    end(of_b);
    let (of_a, of_b) = (a.run(), b.run());
    a.assert_runs("2.0.0");
    b.assert_runs("1.0.0");
    b.wait_for_status("b waits again", |status| status["upgrade"]["phase"] == "staged");
    a.wait_for_polls();
    b.wait_for_polls();
    a.assert_runs("2.0.0");
    b.assert_runs("1.0.0");
    assert_eq!(b.queue().len(), 1, "what b waits for is queued still");

    let pid = running_pid(&a.log());
    b.publish("2.0.0", Duration::ZERO);
    b.wait_for_commit("2.0.0");
    b.wait_for_empty_queue();
    assert_eq!(running_pid(&a.log()), pid, "b's upgrade moved a");
    for instance in [a, b] {
        instance.wait_for_files("2.0.0");
        instance.log().assert_never_double();
    }
    end(of_a);
    end(of_b);
}

/// N7
#[test]
fn two_instances_of_a_daemon_upgrade_each_at_its_own_time() {
    let (sandbox, upstream) = (Sandbox::new(), Upstream::http());
    let [a, b] = two(&sandbox, &upstream);
    assert_done(&a.init(&Behaviour::new("1.0.0")));
    assert_done(&b.init(&Behaviour::new("1.0.0")));
    let supervised = [a.run(), b.run()];
    check_that_each_goes_its_own_way(&a, &b, supervised);
}

/// N7
#[test]
fn an_instance_that_is_made_while_another_runs_is_moved_by_it_just_as_little() {
    let (sandbox, upstream) = (Sandbox::new(), Upstream::http());
    let [a, b] = two(&sandbox, &upstream);
    assert_done(&a.init(&Behaviour::new("1.0.0")));
    let of_a = a.run();
    assert_done(&b.init(&Behaviour::new("1.0.0")));
    let of_b = b.run();
    check_that_each_goes_its_own_way(&a, &b, [of_a, of_b]);
}

/// N7
#[test]
fn an_upgrade_for_everybody_is_done_by_one_that_the_other_does_not_know_of() {
    let (sandbox, upstream) = (Sandbox::new(), Upstream::http());
    let [a, b] = two(&sandbox, &upstream);
    assert_done(&a.init(&Behaviour::new("1.0.0")));
    let of_a = a.run();
    assert_done(&b.init(&Behaviour::new("1.0.0")));
    let executable = a.minted(&Behaviour::new("2.0.0"));
    let mut command = a.command(&["add-upgrade", executable.to_str().unwrap(), "--upgrade-name", "up1", "--now"]);
    assert_done(&command.env("NYMVISOR_ID", a.id).output().unwrap());
    a.wait_for_commit("2.0.0");
    let of_b = b.run();
    b.wait_for_commit("2.0.0");
    b.wait_for_empty_queue();
    [of_a, of_b].into_iter().for_each(end);
}

/// N7
#[test]
fn an_upgrade_for_everybody_is_done_by_each() {
    let (sandbox, upstream) = (Sandbox::new(), Upstream::http());
    let [a, b] = two(&sandbox, &upstream);
    assert_done(&a.init(&Behaviour::new("1.0.0")));
    assert_done(&b.init(&Behaviour::new("1.0.0")));
    let supervised = [a.run(), b.run()];
    let executable = a.minted(&Behaviour::new("2.0.0"));
    let mut command = a.command(&["add-upgrade", executable.to_str().unwrap(), "--upgrade-name", "up1", "--now"]);
    assert_done(&command.env("NYMVISOR_ID", a.id).output().unwrap());
    for instance in [&a, &b] {
        instance.wait_for_commit("2.0.0");
        assert_eq!(instance.log().starts().len(), 2);
    }
    a.wait_for_empty_queue();
    supervised.into_iter().for_each(end);
}

/// N7: as Nymvisor leaves two instances after the first has upgraded: the link, the plan and the history are the first one's,
/// and the second cannot start any more. It is its own release that runs again, on its own data.
#[test]
fn an_instance_that_the_upgrade_of_another_has_broken_runs_its_own_release_again() {
    let world = World::new();
    let next = Behaviour::new("2.0.0");
    let entry = upgrade_info("up1", "2.0.0", "2024-01-01T00:00:00Z", None, Some(next.details()));
    world.installation.place_upgrade(&entry, Some(&world.minted(&next)));
    let write = |path: PathBuf, value: &Value| fs::write(path, serde_json::to_vec_pretty(value).unwrap()).unwrap();
    // The second instance: a configuration and a home of its own.
    let home = world.sandbox.path().join("second");
    fs::create_dir_all(home.join("nymvisor")).unwrap();
    fs::copy(world.installation.current_version(), home.join("nymvisor/current-version.json")).unwrap();
    let folder = world.installation.instance_dir().with_file_name("second").join("config");
    fs::create_dir_all(&folder).unwrap();
    let config = fs::read_to_string(world.installation.config()).unwrap();
    let config = config.replace("nym-node-default", "second");
    let config = config.replace(world.installation.daemon_home().to_str().unwrap(), home.to_str().unwrap());
    fs::write(folder.join("config.toml"), config).unwrap();
    // The first one's upgrade, as Nymvisor commits it.
    let version = json!({"name": "up1", "version": "2.0.0", "upgradeTime": entry["upgradeTime"], "binaryDetails": next.details()});
    write(world.installation.current_version(), &version);
    write(world.installation.plan(), &json!({"current": entry, "queuedUp": []}));
    let performed = json!({"performedAt": "2024-01-01T00:00:01Z", "info": entry});
    write(world.installation.history(), &json!({"history": [performed]}));
    fs::remove_file(world.installation.current()).unwrap();
    std::os::unix::fs::symlink(world.installation.upgrade_dir("up1"), world.installation.current()).unwrap();

    for (id, expected) in [("second", "1.0.0"), ("nym-node-default", "2.0.0")] {
        let log = world.sandbox.path().join(format!("{id}.log"));
        let mut run = world.nymvisor(&["run", "run"]);
        run.env("NYMVISOR_ID", id).env("FAKE_NODE_LOG", &log);
        let supervised = world.sandbox.spawn(run);
        let log = NodeLog::new(&log);
        wait_until(&format!("{id} runs"), SOON, || log.last_start());
        assert_eq!(log.last_start().unwrap().version, expected, "{id}");
        end(supervised);
    }
    let link = fs::read_link(world.installation.current()).unwrap();
    assert_eq!(link, world.installation.upgrade_dir("up1"), "nobody moves it without an upgrade");
}
