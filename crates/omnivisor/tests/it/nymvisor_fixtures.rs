//! A tree in which every kind of file is as Nymvisor writes it, literally: after one upgrade by Nymvisor, with another one
//! queued for later. It is gone on with, and can be gone back to.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use omnivisor_testkit::{Answer, Behaviour, Installation, Options, Sandbox, Upstream, mint, sha256_hex, wire};
use serde_json::{Value, json};

use crate::world::{ANNOUNCEMENT, SOON, World, template};

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../fixtures/nymvisor/", $name))
    };
}

const CONFIG: &str = fixture!("config.toml");
const GENESIS: &str = fixture!("genesis/upgrade-info.json");
const ACTIVE: &str = fixture!("upgrades/2024.1-magura/upgrade-info.json");
const QUEUED: &str = fixture!("upgrades/2099.1-nougat/upgrade-info.json");
const PLAN: &str = fixture!("upgrade-plan.json");
const HISTORY: &str = fixture!("upgrade-history.json");
const VERSION: &str = fixture!("current-version.json");

/// The behaviours of which the fixtures tell.
fn behaviours() -> [Behaviour; 3] {
    [
        ("1.0.0", "0c9f3a1e5d7b2846f1a3c5e7092b4d6f8a1c3e50"),
        ("1.1.0", "7b1d2f4a6c8e0931b5d7f9a2c4e6081a3c5e7f92"),
        ("9.0.0", "abc"),
    ]
    .map(|(version, commit)| Behaviour { commit: commit.to_owned(), ..Behaviour::new(version) })
}

/// The tree, with what it needs around it, and what its placeholders stand for.
struct Tree {
    world: World,
    checksum: String,
}

impl Tree {
    fn new() -> Self {
        let (sandbox, upstream) = (Sandbox::new(), Upstream::http());
        let daemon_home = Some(sandbox.nym_home().join(".nym/nym-nodes/it's mine"));
        let options = Options { daemon_home, ..Options::default() };
        let installation = Installation::at(&sandbox, "nym-node-default", "nym-node", &options);
        let [genesis, active, queued] = behaviours();
        for (name, behaviour) in [("genesis", &genesis), ("2024.1-magura", &active)] {
            fs::create_dir_all(installation.upgrade_dir(name).join("bin")).unwrap();
            mint(&template(), &installation.binary(name), behaviour);
        }
        let download = sandbox.path().join("download");
        mint(&template(), &download, &queued);
        let tree = Self { checksum: sha256_hex(&download), world: World { upstream, installation, sandbox } };
        tree.world.upstream.serve("/download/2099.1-nougat", Answer::File(download));
        let files = &tree.world.installation;
        for (path, text, mode) in [
            (files.config(), CONFIG, 0o600),
            (files.upgrade_dir("genesis").join("upgrade-info.json"), GENESIS, 0o644),
            (files.upgrade_dir("2024.1-magura").join("upgrade-info.json"), ACTIVE, 0o644),
            (files.upgrade_dir("2099.1-nougat").join("upgrade-info.json"), QUEUED, 0o644),
            (files.plan(), PLAN, 0o644),
            (files.history(), HISTORY, 0o644),
            (files.current_version(), VERSION, 0o644),
        ] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, tree.meant(text)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir_all(files.backups()).unwrap();
        symlink(files.upgrade_dir("2024.1-magura"), files.current()).unwrap();
        tree
    }

    /// A fixture with what its placeholders stand for.
    fn meant(&self, fixture: &str) -> String {
        fixture
            .replace("@HOME@", self.world.sandbox.nym_home().to_str().unwrap())
            .replace("@UPSTREAM@", self.world.upstream.url("").as_str())
            .replace("@CHECKSUM@", &self.checksum)
    }

    fn value(&self, fixture: &str) -> Value {
        serde_json::from_str(&self.meant(fixture)).unwrap()
    }

    /// `nymvisor run run`, with times that a test can wait for.
    fn run(&self) -> omnivisor_testkit::Supervised {
        let mut command = self.world.run_command();
        command.env("NYMVISOR_UPSTREAM_POLLING_RATE", "1s").env("DAEMON_STARTUP_PERIOD_DURATION", "500ms");
        self.world.sandbox.spawn(command)
    }

    #[track_caller]
    fn assert_as_written(&self, path: &Path, fixture: &str) {
        assert_eq!(fs::read_to_string(path).unwrap(), self.meant(fixture), "{}", path.display());
    }

    /// The entry that Nymvisor has queued is in the queue still, with every key as it wrote it.
    #[track_caller]
    fn assert_queued(&self) {
        let (plan, written) = (self.world.plan(), self.value(QUEUED));
        let queue = plan["queuedUp"].as_array().unwrap();
        let entry = queue.iter().find(|entry| entry["name"] == "2099.1-nougat");
        let entry = entry.unwrap_or_else(|| panic!("it is gone: {plan:#}"));
        for (key, value) in written.as_object().unwrap() {
            assert_eq!(entry[key], *value, "{key}");
        }
    }
}

#[test]
fn the_fixtures_are_of_the_form_that_they_are_examples_of() {
    let tree = Tree::new();
    for (text, one_order) in
        [(GENESIS, true), (ACTIVE, true), (QUEUED, false), (PLAN, false), (HISTORY, true), (VERSION, true)]
    {
        let pretty = wire::pretty(&serde_json::from_str(text).unwrap());
        // The order of the platforms is anybody's.
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(|line| line.trim_end_matches(',').to_owned()).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(text), sorted(&pretty));
        assert!(!one_order || text == pretty, "{text}");
        assert!(text.starts_with("{\n  \"") && text.ends_with('}'), "two blanks, and no newline at the end");
    }
    let [genesis, active, _] = behaviours();
    assert_eq!(tree.value(GENESIS)["binaryDetails"], genesis.details());
    assert_eq!(tree.value(VERSION)["binaryDetails"], active.details());
    assert_eq!(tree.world.installation.assert_nymvisor_would_start(), "1.1.0");
}

#[test]
fn a_configuration_of_nymvisor_is_printed_as_it_was_meant() {
    let tree = Tree::new();
    let output = tree.world.nymvisor(&["config", "-o", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = json!({
        "nymvisor": {
            "id": "nym-node-default", "upstream_base_upgrade_url": "https://nymtech.net/.wellknown/",
            "upstream_polling_rate": "1h", "disable_logs": false, "upgrade_data_directory": null,
        },
        "daemon": {
            "name": "nym-node", "home": tree.world.installation.daemon_home(),
            "absolute_upstream_upgrade_url": tree.world.upstream.url("/nym-node/upgrade-info.json?token=a&b=c"),
            "allow_binaries_download": true, "enforce_download_checksum": true, "restart_after_upgrade": true,
            "restart_on_failure": false, "failure_restart_delay": "10s", "max_startup_failures": 10,
            "startup_period_duration": "2m", "shutdown_grace_period": "10s", "backup_data_directory": null,
            "unsafe_skip_backup": false,
        },
    });
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), expected);
    let output = tree.world.nymvisor(&["config"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let home = format!("\ndaemon home:                       {}\n", tree.world.installation.daemon_home().display());
    assert!(text.contains(&home) && text.contains("\nrestart on failure:                false\n"), "{text}");
    tree.assert_as_written(&tree.world.installation.config(), CONFIG);
}

#[test]
fn what_nymvisor_left_is_gone_on_with_and_can_be_gone_back_to() {
    let tree = Tree::new();
    let (world, files) = (&tree.world, &tree.world.installation);
    let mut supervised = tree.run();
    let node = world.wait_for("1.1.0");
    world.wait_for_status("the queued one is ready", |status| status["upgrade"]["phase"] == "staged");
    assert_eq!(world.status().unwrap()["announced"][0]["due"], "2099-01-01T00:00:00+02:00");
    assert_eq!(world.upstream.last_request(ANNOUNCEMENT).unwrap().query, "token=a&b=c");
    assert_eq!(world.wait_for("1.1.0"), node);
    assert_eq!(files.assert_nymvisor_would_start(), "1.1.0");
    let info = |name: &str| files.upgrade_dir(name).join("upgrade-info.json");
    let unchanged = || {
        tree.assert_as_written(&files.config(), CONFIG);
        tree.assert_as_written(&info("genesis"), GENESIS);
        tree.assert_as_written(&info("2024.1-magura"), ACTIVE);
        tree.assert_as_written(&info("2099.1-nougat"), QUEUED);
    };
    unchanged();
    tree.assert_as_written(&files.history(), HISTORY);
    tree.assert_as_written(&files.current_version(), VERSION);
    assert_eq!(world.plan()["current"], tree.value(PLAN)["current"]);
    tree.assert_queued();

    world.publish("2026.2-oreo", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    world.wait_for("2.0.0");
    world.wait_for_status("the queued one is ready again", |status| status["upgrade"]["phase"] == "staged");
    tree.assert_queued();
    unchanged();
    // All of the peer's history, byte for byte, and one more entry behind it.
    let history = fs::read_to_string(files.history()).unwrap();
    let theirs = tree.meant(HISTORY);
    let theirs = theirs.strip_suffix("\n  ]\n}").unwrap();
    assert!(history.starts_with(&format!("{theirs},\n    {{\n      \"performedAt\": \"")), "{history}");
    assert!(history.ends_with("\n  ]\n}"), "{history}");
    let entries: Value = serde_json::from_str(&history).unwrap();
    assert_eq!(entries["history"].as_array().unwrap().len(), 2);

    supervised.signal(15);
    assert_eq!(supervised.wait(SOON).code(), Some(0), "{}", supervised.stderr());
    assert_eq!(files.assert_nymvisor_would_start(), "2.0.0");
    assert_eq!(fs::read_link(files.current()).unwrap(), files.upgrade_dir("2026.2-oreo"));
    tree.assert_queued();
    let starts: Vec<String> = world.log().starts().into_iter().map(|start| start.version).collect();
    assert_eq!(starts, ["1.1.0", "2.0.0"]);
}

#[test]
fn an_upgrade_can_be_added_to_what_nymvisor_left() {
    let tree = Tree::new();
    let (world, files) = (&tree.world, &tree.world.installation);
    let add = |name: &str, version: &str, more: &[&str]| {
        let executable = world.minted(&Behaviour::new(version));
        let arguments = ["add-upgrade", executable.to_str().unwrap(), "--upgrade-name", name];
        world.nymvisor(&[&arguments, more].concat()).output().unwrap()
    };
    // Before omnivisor has ever run here.
    let output = add("2098.1", "8.0.0", &["--upgrade-time", "2098-01-01T00:00:00Z"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(files.assert_nymvisor_would_start(), "1.1.0");
    let names = || {
        let plan = world.plan();
        let queue = plan["queuedUp"].as_array().unwrap().iter();
        queue.map(|entry| entry["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(), ["2098.1", "2099.1-nougat"], "the earliest first");
    assert_eq!(world.plan()["current"], tree.value(PLAN)["current"]);
    tree.assert_queued();
    let taken = add("2099.1-nougat", "8.1.0", &[]);
    assert_eq!(taken.status.code(), Some(1), "that name is taken");
    let running = add("2024.1-magura", "8.1.0", &["--force"]);
    assert_eq!(running.status.code(), Some(1), "that is what runs, though nothing of ours has said so");
    tree.assert_queued();

    let _supervised = tree.run();
    world.wait_for("1.1.0");
    assert_eq!(add("hot-fix", "1.1.1", &["--now"]).status.code(), Some(0));
    world.wait_for_commit("1.1.1");
    assert_eq!(names(), ["2098.1", "2099.1-nougat"]);
    tree.assert_queued();
}
