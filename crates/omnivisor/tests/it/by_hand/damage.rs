//! What is found to be damaged is known from then on: it counts for nothing, and nothing goes back to it without a word.

use std::fs;
use std::path::PathBuf;

use omnivisor_testkit::{Behaviour, wait_until};
use serde_json::Value;

use super::restore::{CHANGED, Scene, said, some};
use crate::world::{SOON, World};

impl Scene {
    fn listing(&self) -> Vec<Value> {
        serde_json::from_slice(&self.world.omnivisor(&["backup", "list", "--json"]).stdout).unwrap()
    }

    fn pruned(&self) -> String {
        let mut command = self.world.sandbox.omnivisor(crate::world::omnivisor_exe(), "omnivisor");
        command.args(["backup", "prune"]).env("OMNIVISOR_BACKUP_KEEP", "1");
        said(&command.output().unwrap())
    }
}

/// An archive that cannot be read to its end takes the place of no good one, whoever has found that out.
#[test]
fn an_archive_that_is_found_to_be_damaged_counts_for_none() {
    for found_by in ["verify", "restore"] {
        let scene = Scene::new();
        let mut command = scene.world.run_command();
        command.env("OMNIVISOR_BACKUP_ARCHIVE_AFTER", "0s");
        let supervised = scene.world.sandbox.spawn(command);
        scene.world.wait_for("2.0.0");
        for _ in 0..2 {
            let output = scene.world.omnivisor(&["backup", "now"]);
            assert!(output.status.success(), "{}", said(&output));
        }
        let all = wait_until("all are archives", SOON, || {
            let all = scene.listing();
            (all.len() == 3 && all.iter().all(|it| it["kind"] == "tar.zst")).then_some(all)
        });
        super::restore::stop(supervised);
        for newest in &all[..2] {
            let (id, path) = (newest["id"].as_str().unwrap(), PathBuf::from(newest["path"].as_str().unwrap()));
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
            let arguments = if found_by == "verify" { &["backup", "verify", id][..] } else { &["restore", id] };
            let output = scene.world.omnivisor(arguments);
            assert!(!output.status.success() && said(&output).contains("damaged"), "{found_by}: {}", said(&output));
        }
        let differs: Vec<_> = scene.listing().iter().map(|it| it["differs"].is_string()).collect();
        assert_eq!(differs, [true, true, false], "{found_by}");
        // But for what an upgrade would be taken back with, nothing keeps the third one.
        assert_eq!(scene.pruned(), "nothing has to go\n", "{found_by}");
        let refused = scene.world.omnivisor(&["backup", "remove", all[0]["id"].as_str().unwrap(), "--dry-run"]);
        assert!(refused.status.success(), "{found_by}: the third one is good: {}", said(&refused));
        let gone = scene.world.omnivisor(&["backup", "remove", &scene.id, "--force"]);
        assert!(gone.status.success(), "{found_by}: {}", said(&gone));
        let refused = scene.world.omnivisor(&["backup", "remove", all[0]["id"].as_str().unwrap()]);
        let why = "no other one of this home is known to be good";
        assert!(!refused.status.success() && said(&refused).contains(why), "{found_by}: {}", said(&refused));
    }
}

#[test]
fn a_rollback_goes_back_to_no_data_that_is_known_to_be_damaged() {
    let scene = Scene::new();
    let path = PathBuf::from(scene.listing()[0]["path"].as_str().unwrap());
    fs::write(path.join("data/db/1"), "rot").unwrap();
    let verified = scene.world.omnivisor(&["backup", "verify", &scene.id]);
    assert!(!verified.status.success(), "{}", said(&verified));
    assert!(said(&verified).contains("differences in"), "{}", said(&verified));
    let rollback = |why: &str| {
        let refused = scene.world.omnivisor(&["rollback"]);
        assert!(!refused.status.success() && said(&refused).contains("is not good"), "{why}: {}", said(&refused));
        assert!(said(&refused).contains("--keep-data"), "{why}: {}", said(&refused));
    };
    rollback("while nothing runs");
    assert_eq!(scene.found(), some(CHANGED));
    let _supervised = scene.world.run();
    rollback("beside a node");
    assert_eq!(scene.world.status().unwrap()["active"]["version"], "2.0.0");
    assert!(scene.world.omnivisor(&["rollback", "--keep-data"]).status.success());
    scene.world.wait_for("1.0.0");
}

/// It would be asked of the release before, and forgotten with it.
#[test]
fn another_upgrade_is_not_ordered_while_one_is_at_work() {
    let world = World::new();
    let _supervised = world.on_trial(&Behaviour::new("2.0.0"));
    world.publish_for("2024.3", &Behaviour::new("3.0.0"), &crate::world::timestamp(SOON * 100));
    let refused = wait_until("it is announced", SOON, || {
        let output = world.omnivisor(&["upgrade", "2024.3"]);
        (!said(&output).contains("no upgrade")).then_some(output)
    });
    assert!(!refused.status.success(), "{}", said(&refused));
    assert!(said(&refused).contains("2.0.0 (2024.2) is at work: say it again"), "{}", said(&refused));
}
