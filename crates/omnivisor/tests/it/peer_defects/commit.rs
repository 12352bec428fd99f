//! The states in which a crash of Nymvisor leaves its files (N4 a to e), made by hand, and where they have to lead.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use omnivisor_testkit::{Answer, Behaviour, upgrade_info};
use serde_json::{Value, json};

use super::{assert_done, queued};
use crate::world::{ANNOUNCEMENT, SOON, World, options, timestamp};

/// An installation on which Nymvisor was about to commit the upgrade `up1` to 2.0.0: fetched, proven, due.
pub(super) struct Broken {
    pub(super) world: World,
    entry: Value,
}

impl Broken {
    fn new() -> Self {
        Self::after(|_| {})
    }

    /// The same, after something else was done with the installation.
    pub(super) fn after(before: impl FnOnce(&World)) -> Self {
        let world = World::with(Behaviour::new("1.0.0"), options());
        before(&world);
        let behaviour = Behaviour::new("2.0.0");
        let executable = world.minted(&behaviour);
        let digest = omnivisor_testkit::sha256_hex(&executable);
        let url = world.upstream.url("/download/up1");
        let past = "2024-01-01T00:00:00Z";
        let entry = upgrade_info("up1", "2.0.0", past, Some((&url, &digest)), Some(behaviour.details()));
        world.installation.place_upgrade(&entry, Some(&executable));
        world.installation.queue(entry.clone());
        Self { world, entry }
    }

    pub(super) fn write(&self, path: std::path::PathBuf, value: &Value) {
        fs::write(path, serde_json::to_vec_pretty(value).unwrap()).unwrap();
    }

    /// The steps of Nymvisor's commit, in its order.
    pub(super) fn current_version(&self) -> &Self {
        let details = Behaviour::new("2.0.0").details();
        let time = &self.entry["upgradeTime"];
        let version = json!({"name": "up1", "version": "2.0.0", "upgradeTime": time, "binaryDetails": details});
        self.write(self.world.installation.current_version(), &version);
        self
    }

    pub(super) fn plan(&self) -> &Self {
        self.write(self.world.installation.plan(), &json!({"current": self.entry, "queuedUp": []}));
        self
    }

    pub(super) fn history(&self) -> &Self {
        self.history_at("2024-01-01T00:00:01Z")
    }

    pub(super) fn history_now(&self) -> &Self {
        self.history_at(&timestamp(Duration::ZERO))
    }

    fn history_at(&self, time: &str) -> &Self {
        let performed = json!({"performedAt": time, "info": self.entry});
        self.write(self.world.installation.history(), &json!({"history": [performed]}));
        self
    }

    pub(super) fn unlink(&self) -> &Self {
        fs::remove_file(self.world.installation.current()).unwrap();
        self
    }

    /// All of it.
    pub(super) fn link(&self) -> &Self {
        self.unlink();
        symlink(self.world.installation.upgrade_dir("up1"), self.world.installation.current()).unwrap();
        self
    }

    /// The old node runs, and the upgrade that was not finished is not lost: it waits for a person.
    fn ends_well_with_the_old_one(&self) {
        self.ends_well("1.0.0", true);
    }

    /// Exactly one node runs, of this version; everything agrees with it; and then it can be upgraded.
    fn ends_well(&self, version: &str, waits: bool) {
        let world = &self.world;
        let mut supervised = world.run();
        world.wait_for(version);
        world.wait_for_files(version);
        supervised.signal(15);
        assert_eq!(supervised.wait(SOON).code(), Some(0));
        assert_eq!(world.installation.assert_nymvisor_would_start(), version);

        let _supervised = world.run();
        world.wait_for(version);
        assert_eq!(queued(world).contains(&"up1".to_owned()), waits, "{:?}", queued(world));
        if waits {
            // The operator is asked, because nobody knows why it was not done.
            super::wait_for_standing(world, "up1", "omnivisor upgrade up1");
            assert_done(&world.omnivisor(&["upgrade", "up1"]));
            world.wait_for_commit("2.0.0");
        }
        world.publish("2024.9", &Behaviour::new("9.0.0"));
        world.wait_for_commit("9.0.0");
        world.wait_for("9.0.0");
        world.log().assert_never_double();
        assert_eq!(world.installation.assert_nymvisor_would_start(), "9.0.0");
    }
}

pub(super) fn cut(path: &std::path::Path, to: usize) {
    let bytes = fs::read(path).unwrap_or_default();
    fs::write(path, &bytes[..to.min(bytes.len())]).unwrap();
}

/// N4 a
#[test]
fn a_truncated_current_version_leads_to_the_release_that_is_linked() {
    for length in [0, 20] {
        let broken = Broken::new();
        cut(&broken.world.installation.current_version(), length);
        broken.ends_well_with_the_old_one();
    }
}

/// N4 b
#[test]
fn a_truncated_plan_leads_to_the_release_that_is_linked_and_is_kept_aside() {
    for length in [0, 300] {
        let broken = Broken::new();
        broken.current_version().plan();
        cut(&broken.world.installation.plan(), length);
        broken.ends_well_with_the_old_one();
    }
}

/// N4 c
#[test]
fn a_truncated_history_leads_to_one_release_and_is_written_again() {
    for length in [0, 30] {
        let broken = Broken::new();
        broken.current_version().plan().history();
        cut(&broken.world.installation.history(), length);
        broken.ends_well_with_the_old_one();
    }
}

/// N4 d: everything is written, and `current` names the old release still.
#[test]
fn files_that_are_ahead_of_the_link_lead_to_the_release_that_ran_last() {
    let broken = Broken::new();
    broken.current_version().plan().history();
    broken.ends_well_with_the_old_one();
}

/// N4 d, e: the link is gone, the queue is empty, the files say the new release.
#[test]
fn a_missing_link_leads_to_the_release_that_the_files_name() {
    let broken = Broken::new();
    broken.current_version().plan().history().unlink();
    broken.ends_well("2.0.0", false);
}

/// N4 e: the link is gone, and no upgrade was ever done.
#[test]
fn a_missing_link_leads_to_the_first_release_where_no_other_ever_ran() {
    let broken = Broken::new();
    super::empty_the_queue(&broken.world);
    broken.unlink();
    broken.ends_well("1.0.0", false);
}

/// N4 e
#[test]
fn a_link_that_leads_nowhere_leads_to_the_release_that_the_files_name() {
    let broken = Broken::new();
    broken.current_version().plan().history().unlink();
    symlink("/nowhere/upgrades/up1", broken.world.installation.current()).unwrap();
    broken.ends_well("2.0.0", false);
}

/// N4: once omnivisor has run here, none of the files decides anything.
#[test]
fn whatever_becomes_of_the_files_the_release_that_was_committed_is_started() {
    let world = World::new();
    let mut supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    world.upstream.serve(ANNOUNCEMENT, Answer::Status(404, Vec::new()));
    let files = &world.installation;
    let removed: [(&str, &dyn Fn()); 6] = [
        ("current", &|| fs::remove_file(files.current()).unwrap()),
        ("current leads nowhere", &|| {
            fs::remove_file(files.current()).unwrap();
            symlink("/nowhere", files.current()).unwrap();
        }),
        ("plan", &|| cut(&files.plan(), 0)),
        ("history", &|| cut(&files.history(), 0)),
        ("current-version", &|| cut(&files.current_version(), 10)),
        ("everything", &|| {
            for path in [files.current(), files.plan(), files.history(), files.current_version()] {
                fs::remove_file(path).unwrap();
            }
        }),
    ];
    for (what, remove) in removed {
        eprintln!("{what}");
        supervised.signal(15);
        assert_eq!(supervised.wait(SOON).code(), Some(0));
        remove();
        supervised = world.run();
        world.wait_for("2.0.0");
        world.wait_for_files("2.0.0");
    }
    world.publish_for("2024.3", &Behaviour::new("3.0.0"), &timestamp(Duration::ZERO));
    world.wait_for_commit("3.0.0");
}
