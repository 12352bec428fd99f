//! `init`, again and again.

use std::fs;
use std::time::Duration;

use omnivisor_testkit::{Behaviour, Sandbox, Upstream};

use super::instances::{Instance, end};
use super::{assert_done, running_pid};
use crate::world::World;

/// N10
#[test]
fn an_instance_that_is_made_runs_and_upgrades() {
    let (sandbox, upstream) = (Sandbox::new(), Upstream::http());
    let instance = Instance { sandbox: &sandbox, upstream: &upstream, id: "it" };
    assert_done(&instance.init(&Behaviour::new("1.0.0")));
    assert_eq!(instance.installation().assert_nymvisor_would_start(), "1.0.0");
    // Published before the first start: nothing was taken over from anybody, so nobody is to be surprised.
    instance.publish("2.0.0", Duration::ZERO);
    let supervised = instance.run();
    instance.wait_for_commit("2.0.0");
    end(supervised);
    assert_eq!(instance.installation().assert_nymvisor_would_start(), "2.0.0");
    assert!(fs::read_dir(sandbox.home()).unwrap().next().is_none(), "nothing outside the home that was said");
}

/// N10
#[test]
fn init_can_be_repeated_at_any_time_and_changes_nothing_that_runs() {
    let (sandbox, upstream) = (Sandbox::new(), Upstream::http());
    let instance = Instance { sandbox: &sandbox, upstream: &upstream, id: "it" };
    let genesis = Behaviour::new("1.0.0");
    assert_done(&instance.init(&genesis));
    assert_done(&instance.init(&genesis));
    let supervised = instance.run();
    instance.publish("2.0.0", Duration::ZERO);
    instance.wait_for_commit("2.0.0");
    instance.wait_for_files("2.0.0");
    instance.wait_for_empty_queue();
    let pid = running_pid(&instance.log());
    let plan = fs::read_to_string(instance.installation().plan()).unwrap();

    assert_done(&instance.init(&genesis));
    assert_eq!(instance.installation().assert_nymvisor_would_start(), "2.0.0");
    assert_eq!(fs::read_to_string(instance.installation().plan()).unwrap(), plan);
    assert_eq!(running_pid(&instance.log()), pid);
    end(supervised);

    assert_done(&instance.init(&genesis));
    assert_eq!(instance.installation().assert_nymvisor_would_start(), "2.0.0");
    // With another executable than the first one, as after a change of the configuration management.
    let other = instance.init(&Behaviour::new("2.0.0"));
    assert_eq!(other.status.code(), Some(1));
    let said = String::from_utf8(other.stderr).unwrap();
    assert!(said.contains("1.0.0") && said.contains("add-upgrade"), "{said}");
    assert_eq!(instance.installation().assert_nymvisor_would_start(), "2.0.0");
    let supervised = instance.run();
    instance.wait_for_commit("2.0.0");
    end(supervised);
}

/// N10: on what Nymvisor itself has made and upgraded.
#[test]
fn init_on_an_installation_of_nymvisor_keeps_its_release() {
    let world = World::new();
    let entry = super::placed(&world, "up1", "2.0.0", "2024-01-01T00:00:00Z");
    let files = &world.installation;
    let details = Behaviour::new("2.0.0").details();
    let version = serde_json::json!({
        "name": "up1", "version": "2.0.0", "upgradeTime": entry["upgradeTime"], "binaryDetails": details,
    });
    fs::write(files.current_version(), version.to_string()).unwrap();
    fs::write(files.plan(), serde_json::json!({"current": entry, "queuedUp": []}).to_string()).unwrap();
    fs::remove_file(files.current()).unwrap();
    std::os::unix::fs::symlink(files.upgrade_dir("up1"), files.current()).unwrap();
    assert_eq!(files.assert_nymvisor_would_start(), "2.0.0");

    let genesis = files.binary("genesis");
    let home = world.sandbox.daemon_home();
    let again = ["init", genesis.to_str().unwrap(), "--daemon-home", home.to_str().unwrap()];
    assert_done(&world.nymvisor(&again).output().unwrap());
    assert_eq!(files.assert_nymvisor_would_start(), "2.0.0");
    let supervised = world.run();
    world.wait_for("2.0.0");
    world.wait_for_files("2.0.0");
    end(supervised);
}

/// N34
#[test]
fn relative_folders_are_of_the_folder_in_which_init_was_run() {
    let (sandbox, upstream) = (Sandbox::new(), Upstream::http());
    let instance = Instance { sandbox: &sandbox, upstream: &upstream, id: "it" };
    let executable = sandbox.path().join("node");
    omnivisor_testkit::mint(&crate::world::template(), &executable, &Behaviour::new("1.0.0"));
    let mut init = instance.command(&["init", "./node", "--id", "it", "--daemon-home", "./own"]);
    init.args(["--upgrade-data-directory", "./updata", "--daemon-backup-data-directory", "backups"]);
    assert_done(&init.output().unwrap());
    // As the documentation has it, the daemon's name is added; Nymvisor finds it, as its configuration names all of it.
    assert!(sandbox.path().join("updata/nym-node/current/bin/nym-node").is_file());
    let elsewhere = sandbox.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let mut run = instance.command(&["run", "run"]);
    run.current_dir(&elsewhere);
    let supervised = sandbox.spawn(run);
    instance.wait_for_status("the node runs", |status| status["node"]["state"] == "running");
    running_pid(&instance.log());
    end(supervised);
    assert!(fs::read_dir(&elsewhere).unwrap().next().is_none());
    for folder in ["own/nymvisor", "updata/nym-node/genesis", "backups"] {
        assert!(sandbox.path().join(folder).is_dir(), "{folder}");
    }
}
