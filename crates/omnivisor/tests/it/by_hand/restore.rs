//! `omnivisor restore`: the data is as the backup has it, or as it was; and nothing runs on half of both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use omnivisor_testkit::{Behaviour, Options, Supervised, wait_until};

use crate::bad_input::disk::Disk;
use crate::world::{SOON, World, omnivisor_exe, options};

/// After an upgrade from 1.0.0 to 2.0.0 the node was stopped; there is a snapshot of before, and a key that is newer than that.
pub(super) struct Scene {
    pub(super) world: World,
    pub(super) id: String,
}

pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

pub(super) fn stop(mut supervised: Supervised) {
    supervised.signal(15);
    supervised.wait(SOON);
}

impl Scene {
    pub(super) fn new() -> Self {
        Self::of(World::new())
    }

    fn of(world: World) -> Self {
        let home = world.installation.daemon_home().to_owned();
        for (path, text) in [("data/db/1", "old"), ("data/db/2", "old"), ("config/x.toml", "old"), ("data/id.pem", "1")]
        {
            fs::create_dir_all(home.join(path).parent().unwrap()).unwrap();
            fs::write(home.join(path), text).unwrap();
        }
        let supervised = world.run();
        world.publish("2024.2", &Behaviour::new("2.0.0"));
        world.wait_for_commit("2.0.0");
        let id = wait_until("a backup is listed, and its list written", SOON, || {
            let output = world.omnivisor(&["backup", "list", "--json"]);
            let list: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            list[0]["id"].as_str().filter(|_| list[0]["sealed"] == true).map(str::to_owned)
        });
        stop(supervised);
        for (path, text) in [("data/db/2", "new"), ("data/db/3", "new"), ("config/x.toml", "new"), ("data/id.pem", "2")]
        {
            fs::write(home.join(path), text).unwrap();
        }
        fs::remove_file(home.join("data/db/1")).unwrap();
        Self { world, id }
    }

    pub(super) fn home(&self) -> &Path {
        self.world.installation.daemon_home()
    }

    pub(super) fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.home().join(path)).ok()
    }

    /// What is there of what was changed: two files of a database and one that was added, a configuration, a key.
    pub(super) fn found(&self) -> [Option<String>; 5] {
        ["data/db/1", "data/db/2", "data/db/3", "config/x.toml", "data/id.pem"].map(|path| self.read(path))
    }

    pub(super) fn restore(&self, arguments: &[&str]) -> Output {
        self.world.omnivisor(&[&["restore", &self.id], arguments].concat())
    }

    fn kept(&self, path: &str) -> Option<String> {
        let works = fs::read_dir(self.home().join("nymvisor")).unwrap().flatten().map(|it| it.path());
        works.into_iter().find_map(|work| fs::read_to_string(work.join("replaced").join(path)).ok())
    }
}

/// What a file holds in the home, and in what is put back and what was replaced.
fn everywhere(scene: &Scene, path: &str) -> Vec<String> {
    let works = fs::read_dir(scene.home().join("nymvisor")).unwrap().flatten().map(|it| it.path());
    let works: Vec<PathBuf> = works.flat_map(|work| [work.join("copy"), work.join("replaced")]).collect();
    let roots = works.into_iter().chain([scene.home().to_owned()]);
    roots.filter_map(|root| fs::read_to_string(root.join(path)).ok()).collect()
}

pub(super) fn some(texts: [&str; 5]) -> [Option<String>; 5] {
    texts.map(|text| (!text.is_empty()).then(|| text.to_owned()))
}

const BACK: [&str; 5] = ["old", "old", "", "old", "2"];
pub(super) const CHANGED: [&str; 5] = ["", "new", "new", "new", "2"];

#[test]
fn the_data_goes_back_as_a_whole_but_for_keys_and_what_it_replaces_is_kept() {
    let scene = Scene::new();
    let output = scene.restore(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("the data of 1.0.0") && said(&output).contains("rollback --keep-data"));
    assert_eq!(scene.found(), some(BACK));
    assert_eq!(scene.kept("data/db/3").as_deref(), Some("new"));
    let list = said(&scene.world.omnivisor(&["backup", "list"]));
    assert!(list.contains("kept: what a restore has replaced") && list.contains("prune --replaced"), "{list}");
    let pruned = |arguments: &[&str]| said(&scene.world.omnivisor(&[&["backup", "prune"], arguments].concat()));
    assert!(pruned(&[]).contains("nothing has to go"), "nothing else removes it");
    assert!(pruned(&["--replaced", "--dry-run"]).contains("would remove what a restore has replaced"));
    assert_eq!(scene.kept("data/db/3").as_deref(), Some("new"));
    assert!(pruned(&["--replaced"]).contains("removed what a restore has replaced"));
    assert_eq!(scene.kept("data/db/3"), None);
    let left = fs::read_dir(scene.home().join("nymvisor")).unwrap().flatten();
    assert!(left.into_iter().all(|it| !it.file_name().to_string_lossy().starts_with("restored-")));
    assert!(!said(&scene.world.omnivisor(&["backup", "list"])).contains("replaced"));
    let _supervised = scene.world.run();
    scene.world.wait_for("2.0.0");
    let history = said(&scene.world.omnivisor(&["history"]));
    assert!(history.contains(&format!("data is put back from {}", scene.id)), "{history}");
    assert!(history.contains("the data is put back\n"), "{history}");
}

#[test]
fn only_what_is_asked_for_goes_back() {
    let scene = Scene::new();
    for (wrong, why) in [("data/id.pem", "must never go back"), ("../x", "no path below"), ("/etc", "no path below")] {
        let refused = scene.restore(&["--path", wrong]);
        assert!(!refused.status.success() && said(&refused).contains(why), "{}", said(&refused));
    }
    assert_eq!(scene.found(), some(CHANGED));
    let output = scene.restore(&["--path", "data/db"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(scene.found(), some(["old", "old", "", "new", "2"]));
}

/// And nothing else of the backup has to be good, or to fit.
#[test]
fn what_is_not_asked_for_may_be_damaged() {
    let scene = Scene::new();
    let list: serde_json::Value =
        serde_json::from_slice(&scene.world.omnivisor(&["backup", "list", "--json"]).stdout).unwrap();
    fs::write(Path::new(list[0]["path"].as_str().unwrap()).join("data/db/2"), "bad").unwrap();
    let refused = scene.restore(&[]);
    assert!(!refused.status.success() && said(&refused).contains("data/db/2"), "{}", said(&refused));
    assert!(said(&refused).contains("--path"), "what can be done is said: {}", said(&refused));
    assert_eq!(scene.found(), some(CHANGED));
    let output = scene.restore(&["--path", "config", "--path", "data/db/1"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(scene.found(), some(["old", "new", "new", "old", "2"]));
    let _supervised = scene.world.run();
    scene.world.wait_for("2.0.0");
}

#[test]
fn a_node_that_runs_with_or_without_its_supervisor_keeps_its_data() {
    let scene = Scene::new();
    let mut supervised = scene.world.run();
    let refused = scene.restore(&[]);
    assert_eq!(refused.status.code(), Some(12), "{}", said(&refused));
    supervised.signal(9);
    supervised.wait(SOON);
    let refused = scene.restore(&[]);
    assert_eq!(refused.status.code(), Some(12), "{}", said(&refused));
    assert!(said(&refused).contains("the node runs"), "{}", said(&refused));
    assert_eq!(scene.found(), some(CHANGED));
    assert!(scene.world.omnivisor(&["stop"]).status.success(), "a node without a supervisor is waited for");

    let _supervised = scene.world.run();
    let stopped = scene.world.omnivisor(&["stop", "--wait"]);
    assert!(stopped.status.success() && said(&stopped).contains("has ended"), "{}", said(&stopped));
    let restored = scene.restore(&[]);
    assert!(restored.status.success(), "{}", said(&restored));
    assert_eq!(scene.found(), some(BACK));
}

/// What root makes there its supervisor could not read.
#[test]
fn root_does_no_work_by_hand_on_what_another_user_runs() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: it is about root");
    }
    let scene = Scene::new();
    let state = scene.world.installation.instance_dir().join("data/omnivisor");
    std::os::unix::fs::chown(&state, Some(12345), None).unwrap();
    for arguments in [&["restore", &scene.id][..], &["backup", "now"], &["rollback"]] {
        let refused = scene.world.omnivisor(arguments);
        assert!(!refused.status.success(), "{arguments:?}");
        assert!(said(&refused).contains("say it as that user (`sudo -u '#12345' …`)"), "{}", said(&refused));
    }
    assert_eq!(scene.found(), some(CHANGED));
}

/// It is said where there is none, or several, or one that nothing can be believed of.
#[test]
fn what_is_no_backup_is_not_put_back() {
    let scene = Scene::new();
    let refused = scene.world.omnivisor(&["restore", "no-such-backup"]);
    assert!(!refused.status.success() && said(&refused).contains("there is no backup"), "{}", said(&refused));
    let list: serde_json::Value =
        serde_json::from_slice(&scene.world.omnivisor(&["backup", "list", "--json"]).stdout).unwrap();
    let path = PathBuf::from(list[0]["path"].as_str().unwrap());
    if path.is_dir() {
        fs::remove_file(format!("{}.mtree", path.display())).unwrap();
        let refused = scene.restore(&[]);
        assert!(!refused.status.success() && said(&refused).contains("no manifest"), "{}", said(&refused));
        fs::rename(&path, path.with_extension("away")).unwrap();
        fs::create_dir(&path).unwrap();
        let refused = scene.restore(&["--unverified"]);
        assert!(!refused.status.success() && said(&refused).contains("there is nothing in"), "{}", said(&refused));
        assert_eq!(scene.found(), some(CHANGED));
        fs::remove_dir(&path).unwrap();
        fs::rename(path.with_extension("away"), &path).unwrap();
        let believed = scene.restore(&["--unverified"]);
        assert!(believed.status.success(), "{}", said(&believed));
        assert_eq!(scene.found(), some(BACK));
    }
}

#[test]
fn what_cannot_be_put_back_is_known_before_anything_is_ordered() {
    let scene = Scene::new();
    for (path, why) in
        [("nix", "nix is not in it"), ("data/db/3", "data/db/3 is not in it"), ("nymvisor", "is not in it")]
    {
        let output = scene.restore(&["--path", path]);
        assert!(!output.status.success() && said(&output).contains(why), "{path}: {}", said(&output));
        assert!(said(&output).contains("nothing was changed"), "{path}: {}", said(&output));
    }
    let key = scene.home().join("data/id.pem");
    fs::rename(&key, scene.home().join("elsewhere")).unwrap();
    let output = scene.restore(&[]);
    assert!(!output.status.success() && said(&output).contains("a person has to decide"), "{}", said(&output));
    assert!(said(&output).contains("nothing was changed"), "{}", said(&output));
    fs::rename(scene.home().join("elsewhere"), &key).unwrap();
    assert_eq!(scene.found(), some(CHANGED));
    let _supervised = scene.world.run();
    scene.world.wait_for("2.0.0");
}

#[test]
fn what_a_restore_had_copied_when_it_was_killed_before_its_order_is_removed_by_the_next_start() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let scene = Scene::new();
    let mut command = scene.world.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
    command.args(["restore", &scene.id]).env("OMNIVISOR_CHECKPOINT", "rename complete");
    assert!(!command.output().unwrap().status.success());
    let left = || {
        let names = fs::read_dir(scene.home().join("nymvisor")).unwrap().flatten().map(|it| it.file_name());
        names.filter(|name| name.to_string_lossy().starts_with("restored-")).count()
    };
    assert_eq!(left(), 1);
    let _supervised = scene.world.run();
    scene.world.wait_for("2.0.0");
    wait_until("it is removed", SOON, || (left() == 0).then_some(()));
    assert_eq!(scene.found(), some(CHANGED));
}

/// As the peer makes it: the entries of the home, without its own folder.
#[test]
fn an_archive_of_the_peer_is_put_back() {
    let scene = Scene::new();
    let backups = scene.world.installation.backups().join("2024.1");
    fs::create_dir_all(&backups).unwrap();
    let elsewhere = scene.world.sandbox.path().join("elsewhere");
    for (path, text) in [("data/db/1", "old"), ("data/db/2", "old"), ("config/x.toml", "old"), ("data/id.pem", "1")] {
        fs::create_dir_all(elsewhere.join(path).parent().unwrap()).unwrap();
        fs::write(elsewhere.join(path), text).unwrap();
    }
    let archive = backups.join("backup-2024-01-02-030405678-preupgrade.tar.gz");
    let made =
        Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&elsewhere).args(["data", "config"]).status();
    assert!(made.unwrap().success());
    let output = scene.world.omnivisor(&["restore", "backup-2024-01-02-030405678-preupgrade"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(scene.found(), some(BACK));
}

/// Wherever it is killed: the next start runs on all of the old data or on all of the new, and never before one of them is there.
#[test]
fn a_restore_that_is_killed_is_gone_on_with_by_the_next_start_or_was_never_begun() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let mut seen = std::collections::BTreeSet::new();
    for point in ["rename complete", "restore-before-renames", "rename db", "rename cleared", "rename config"] {
        let scene = Scene::new();
        let mut command = scene.world.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
        let killed = command.args(["restore", &scene.id]).env("OMNIVISOR_CHECKPOINT", point).output().unwrap();
        assert!(!killed.status.success(), "{point}: {}", said(&killed));
        let _supervised = scene.world.run();
        scene.world.wait_for("2.0.0");
        let found = scene.found();
        assert!(found == some(BACK) || found == some(CHANGED), "{point}: {found:?}");
        seen.insert(found == some(BACK));
        let status = scene.world.wait_for_status("it is over", |status| status["upgrade"]["phase"] == "idle");
        assert_eq!(status["active"]["version"], "2.0.0");
    }
    assert_eq!(seen.len(), 2, "both were seen");
}

/// The second one is about less; what the first one has moved away is back all the same.
#[test]
fn a_restore_of_some_paths_ends_one_of_all_that_was_interrupted() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let scene = Scene::new();
    let mut command = scene.world.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
    let killed = command.args(["restore", &scene.id]).env("OMNIVISOR_CHECKPOINT", "rename cleared").output().unwrap();
    assert!(!killed.status.success(), "{}", said(&killed));
    assert_ne!(scene.found(), some(BACK), "it was interrupted half way");
    let output = scene.restore(&["--path", "data/db"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(scene.found(), some(BACK));
}

/// What has to be copied has to fit before anything is moved.
#[test]
fn a_restore_that_does_not_fit_changes_nothing() {
    let Some(disk) = Disk::new(160) else { return };
    let place = Options { daemon_home: Some(disk.folder.join("home")), ..options() };
    let scene = Scene::of(World::with(Behaviour::new("1.0.0"), place));
    let ballast = disk.fill();
    let work = || fs::read_dir(scene.home().join("nymvisor")).unwrap().count();
    let before = work();
    let output = scene.restore(&[]);
    assert!(!output.status.success());
    for words in ["cannot be made ready, and nothing was changed", "are needed for what is put back", "bytes free"] {
        assert!(said(&output).contains(words), "{words} in {}", said(&output));
    }
    assert_eq!((scene.found(), work()), (some(CHANGED), before));
    let verified = scene.world.omnivisor(&["backup", "verify", &scene.id]);
    assert!(verified.status.success(), "{}", said(&verified));

    fs::remove_file(ballast).unwrap();
    let output = scene.restore(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(scene.found(), some(BACK));
    drop((scene, disk));
}

/// Renames fail, too, on a disk that is full, or broken. A person is called, and nobody starts a node until all is in place.
#[test]
fn a_restore_that_fails_half_way_keeps_both_and_starts_nothing() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    for point in ["restore-before-renames", "rename db", "rename cleared", "rename config"] {
        let scene = Scene::new();
        let fails = |command: &mut Command| {
            command.env("OMNIVISOR_CHECKPOINT", point).env("OMNIVISOR_FAULT", "ENOSPC*");
        };
        let mut command = scene.world.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
        fails(command.args(["restore", &scene.id]));
        let failed = command.output().unwrap();
        assert!(!failed.status.success(), "{point}");
        for words in ["no node is started on that. Nothing is lost", "No space left", "and start again"] {
            assert!(said(&failed).contains(words), "{point}: {words} in {}", said(&failed));
        }

        let starts = scene.world.log().starts().len();
        let mut command = scene.world.nymvisor(&["run", "run"]);
        fails(&mut command);
        let mut supervised = scene.world.sandbox.spawn(command);
        assert!(!supervised.wait(SOON).success(), "{point}");
        assert!(supervised.stderr().contains("Nothing is lost"), "{point}: {}", supervised.stderr());
        assert_eq!(scene.world.log().starts().len(), starts, "{point}: no node on half of the data");
        let mut both = everywhere(&scene, "data/db/2");
        both.sort();
        assert_eq!(both, ["new", "old"], "{point}");

        let _supervised = scene.world.run();
        assert_eq!(scene.found(), some(BACK), "{point}");
        assert_eq!(scene.kept("data/db/3").as_deref(), Some("new"), "{point}");
    }
}

/// Whoever cannot believe the journal sees by the folders that data is half put back, by hand or by an undo; what is in place is no
/// reason to stay down.
#[test]
fn without_a_journal_no_node_is_started_on_half_of_the_data_either() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    for is_undo in [false, true] {
        let scene = Scene::new();
        let world = &scene.world;
        let mut killed = if is_undo {
            let ordered = world.omnivisor(&["rollback"]);
            assert!(ordered.status.success(), "{}", said(&ordered));
            world.run_command()
        } else {
            let mut command = world.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
            command.args(["restore", &scene.id]);
            command
        };
        killed.env("OMNIVISOR_CHECKPOINT", "rename db");
        assert!(!world.sandbox.spawn(killed).wait(SOON).success());
        let journal = world.installation.instance_dir().join("data/omnivisor/journal");
        let believed = fs::read(&journal).unwrap();
        fs::write(&journal, &believed[..7]).unwrap();

        let starts = world.log().starts().len();
        let mut refused = world.start();
        assert!(!refused.wait(SOON).success(), "undo: {is_undo}");
        for words in ["the journal cannot be believed", "/copy, what was there in", "and start again"] {
            assert!(refused.stderr().contains(words), "undo: {is_undo}: {words} in {}", refused.stderr());
        }
        assert_eq!(world.log().starts().len(), starts, "undo: {is_undo}: no node on half of the data");

        // Once it is all in place the folder, which stays, is no reason any more.
        fs::write(&journal, &believed).unwrap();
        let mut supervised = world.run();
        world.wait_for_status("it is over", |status| status["upgrade"]["phase"] == "idle");
        supervised.signal(15);
        supervised.wait(SOON);
        fs::write(&journal, &believed[..7]).unwrap();
        let _supervised = world.run();
        assert_eq!(scene.found(), some(BACK), "undo: {is_undo}");
    }
}
