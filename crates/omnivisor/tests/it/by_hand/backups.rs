//! What there is to go back to, looked at and removed by hand.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use omnivisor_testkit::wait_until;
use serde_json::Value;

use super::restore::{CHANGED, Scene, said, some};
use crate::world::{SOON, omnivisor_exe};

const PEERS: &str = "backup-2024-01-02-030405678-preupgrade";

impl Scene {
    fn backup(&self, arguments: &[&str]) -> Output {
        self.world.omnivisor(&[&["backup"], arguments].concat())
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.backup(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        said(&output)
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.backup(arguments);
        assert!(!output.status.success(), "{arguments:?}: {}", said(&output));
        said(&output)
    }

    fn listed(&self) -> Vec<Value> {
        serde_json::from_str(&self.done(&["list", "--json"])).unwrap()
    }

    /// Where the upgrade's own backup is.
    fn path(&self) -> PathBuf {
        let one = self.listed().into_iter().find(|it| it["id"] == self.id.as_str()).unwrap();
        PathBuf::from(one["path"].as_str().unwrap())
    }

    /// The paths that are shown, with what else is said of each.
    fn shown(&self, arguments: &[&str]) -> BTreeMap<String, Value> {
        let lines = self.done(&[&["show", "--json"], arguments].concat());
        let entries = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        entries.map(|entry| (entry["path"].as_str().unwrap().to_owned(), entry)).collect()
    }

    /// An archive as the peer makes it.
    fn with_peers_archive(&self) -> PathBuf {
        let folder = self.world.installation.backups().join("2024.1");
        fs::create_dir_all(&folder).unwrap();
        let archive = folder.join(format!("{PEERS}.tar.gz"));
        let mut tar = Command::new("tar");
        tar.arg("-czf").arg(&archive).arg("-C").arg(self.home()).args(["data/db", "data/id.pem", "config/x.toml"]);
        assert!(tar.status().unwrap().success());
        archive
    }
}

#[test]
fn what_is_in_a_backup_is_shown_and_what_of_it_never_goes_back() {
    let scene = Scene::new();
    // With its list and without one.
    for is_listed in [true, false] {
        if !is_listed {
            let path = scene.path();
            fs::remove_file(format!("{}.mtree", path.display())).unwrap();
        }
        let all = scene.shown(&[&scene.id]);
        for path in ["", "data", "data/db", "data/db/1", "config/x.toml", "data/id.pem"] {
            assert_eq!(all[path]["never_put_back"], path == "data/id.pem", "{path}");
        }
        assert_eq!((&all["data/db/1"]["bytes"], &all["data/db"]["kind"]), (&3.into(), &"folder".into()));
        assert_eq!(all["data/db/1"]["sha256"].is_string(), is_listed);
        assert!(!all.contains_key("data/db/3"), "it came later");
        let some = scene.shown(&[&scene.id, "--path", "./data/db/", "--path", "config/x.toml"]);
        let paths: Vec<_> = some.keys().map(String::as_str).collect();
        assert_eq!(paths, ["config/x.toml", "data/db", "data/db/1", "data/db/2"]);
    }
    let text = scene.done(&["show", &scene.id]);
    assert!(text.starts_with("DAMAGED: it has no manifest"), "{text}");
    let row = |path: &str| text.lines().find(|line| line.contains(path)).unwrap_or_else(|| panic!("{path}: {text}"));
    assert!(row("data/db/").ends_with("  data/db/") && row("id.pem").ends_with("data/id.pem (never put back)"));
    assert!(row("data/db/1").contains("3 B") && row("MODIFIED").starts_with("MODE"), "{text}");
    assert!(scene.refused(&["show", &scene.id, "--path", "nix"]).contains("nix is not in"));
    assert!(scene.refused(&["show", "nix"]).contains("there is no backup"));

    scene.with_peers_archive();
    let peers = scene.shown(&[PEERS]);
    let paths: Vec<_> = peers.keys().map(String::as_str).collect();
    assert_eq!(paths, ["config/x.toml", "data/db", "data/db/2", "data/db/3", "data/id.pem"]);
    assert_eq!(peers["data/id.pem"]["never_put_back"], true);
}

/// Nor is it an error when whoever reads has enough.
#[test]
fn a_name_is_no_command_to_a_terminal() {
    let scene = Scene::new();
    let folder = scene.path();
    if folder.is_file() {
        return println!("skipped: it was packed already");
    }
    fs::remove_file(format!("{}.mtree", folder.display())).unwrap();
    fs::write(folder.join("data/\u{1b}[2J\nroot"), "").unwrap();
    for number in 0..3000 {
        fs::write(folder.join(format!("data/many-{number}")), "").unwrap();
    }
    let text = scene.done(&["show", &scene.id]);
    assert!(text.contains("data/\\u{1b}[2J\\nroot") && !text.contains('\u{1b}'), "{text}");
    let mut command = scene.world.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
    command.args(["backup", "show", &scene.id]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut shown = command.spawn().unwrap();
    drop(shown.stdout.take());
    let ended = shown.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", said(&ended));
}

/// A person says twice that the last good one is to go, or the one that an upgrade would be taken back with.
#[test]
fn a_backup_is_removed_by_its_name_unless_it_is_needed() {
    let scene = Scene::new();
    assert!(scene.refused(&["remove", "nix"]).contains("there is no backup"));
    for part in ["", &scene.id[..8]] {
        assert!(scene.refused(&["remove", part, "--force"]).contains(&format!("is named whole: {}", scene.id)));
    }
    let refused = scene.refused(&["remove", &scene.id]);
    assert!(refused.contains("what the last upgrade has left") && refused.contains("--force"), "{refused}");

    // The peer's, which nothing else removes.
    let archive = scene.with_peers_archive();
    assert!(scene.done(&["remove", PEERS, "--dry-run"]).contains("would remove backup-2024"));
    assert!(archive.exists());
    assert!(scene.done(&["remove", PEERS]).contains("removed backup-2024"));
    assert!(!archive.exists());

    // Two by hand: one that nobody has read yet is no reason to let the other one go.
    let newest = |scene: &Scene| scene.listed()[0].clone();
    scene.done(&["now"]);
    let first = newest(&scene);
    let (path, id) = (first["path"].as_str().unwrap(), first["id"].as_str().unwrap());
    scene.done(&["remove", &scene.id, "--force"]);
    let last_one = "no other one of this home is known to be good";
    assert!(scene.refused(&["remove", id]).contains(last_one));
    scene.done(&["now"]);
    let manifest = format!("{}.mtree", newest(&scene)["path"].as_str().unwrap());
    let text = fs::read_to_string(&manifest).unwrap();
    let head: String = text.split_inclusive('\n').take(2).collect();
    fs::write(&manifest, head).unwrap();
    assert!(scene.refused(&["remove", id]).contains(last_one));
    fs::write(&manifest, text).unwrap();
    scene.done(&["remove", id]);
    assert!(!Path::new(path).exists() && !Path::new(&format!("{path}.mtree")).exists());
    let last = newest(&scene);
    let (path, id) = (last["path"].as_str().unwrap(), last["id"].as_str().unwrap());
    assert!(scene.refused(&["remove", id]).contains(last_one));
    assert_eq!(scene.found(), some(CHANGED), "the data itself is not touched");

    // What is damaged may be good again; what is of another home is another's.
    let manifest = format!("{path}.mtree");
    let text = fs::read_to_string(&manifest).unwrap();
    let home = scene.home().display().to_string();
    let elsewhere = scene.world.sandbox.home().display().to_string();
    fs::write(&manifest, text.replace(&home, &elsewhere)).unwrap();
    let refused = scene.refused(&["remove", id, "--force"]);
    assert!(refused.contains(&format!("it is one of {elsewhere}")), "{refused}");
    fs::write(&manifest, text.replace(&home, "/else\\u001bwhere")).unwrap();
    let refused = scene.refused(&["remove", id]);
    assert!(refused.contains("it is one of /else\\u{1b}where, which is not there"), "{refused}");
    assert!(scene.done(&["remove", id, "--force", "--dry-run"]).contains("would remove"));
    fs::write(&manifest, "nothing").unwrap();
    assert!(scene.refused(&["remove", id]).contains("it may be good again"));
    scene.done(&["remove", id, "--force"]);
    assert!(scene.listed().is_empty() && !Path::new(path).exists());
}

#[test]
fn beside_a_supervisor_what_a_rollback_needs_stays() {
    let scene = Scene::new();
    let _supervised = scene.world.run();
    scene.world.wait_for("2.0.0");
    scene.done(&["now"]);
    let id = wait_until("two are listed", SOON, || {
        let all = scene.listed();
        let new = all.iter().find(|it| it["id"] != scene.id.as_str())?;
        (all.len() == 2).then(|| new["id"].as_str().unwrap().to_owned())
    });
    // Beside a supervisor that runs, too.
    assert!(scene.done(&["remove", &id]).contains("removed"));
    assert!(scene.refused(&["remove", &scene.id]).contains("the last upgrade"));
    let rolled_back = scene.world.omnivisor(&["rollback"]);
    assert!(rolled_back.status.success(), "{}", said(&rolled_back));
    scene.world.wait_for("1.0.0");
}

#[test]
fn what_was_replaced_is_listed_with_its_size_and_the_history_says_what_was_put_back() {
    let scene = Scene::new();
    assert!(scene.done(&["list", "--replaced"]).contains("nothing is kept that was replaced"));
    let output = scene.restore(&["--path", "data/db"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = scene.done(&["list", "--replaced"]);
    assert!(text.contains("what a restore has replaced") && text.trim_end().ends_with(" 6 B"), "{text}");
    let all: Vec<Value> = serde_json::from_str(&scene.done(&["list", "--replaced", "--json"])).unwrap();
    assert_eq!((all.len(), &all[0]["bytes"], &all[0]["by_hand"]), (1, &6.into(), &true.into()));
    let path = Path::new(all[0]["path"].as_str().unwrap());
    assert_eq!(fs::read_to_string(path.join("data/db/3")).unwrap(), "new");
    let history = said(&scene.world.omnivisor(&["history"]));
    let expected = format!("data is put back from {}, the data of 1.0.0: data/db\n", scene.id);
    assert!(history.contains(&expected), "{history}");
}
