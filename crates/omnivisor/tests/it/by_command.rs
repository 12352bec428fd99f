//! Snapshots that an operator's command takes: what it answers is looked at before it is believed, and what goes back is a copy.

mod btrfs;
pub mod commands;
mod removed;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use omnivisor_testkit::{Behaviour, Supervised, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::world::{SOON, World};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

/// A world whose snapshots a command takes.
struct Scene {
    world: World,
}

impl Scene {
    fn new() -> Self {
        Self::of(World::new())
    }

    fn of(world: World) -> Self {
        let scene = Self { world };
        fs::create_dir(scene.taken()).unwrap();
        commands::install(&scene.place());
        scene.hook("");
        scene.set("");
        let home = scene.home();
        for (path, text) in [("data/db/1", "old"), ("data/db/2", "old"), ("data/id.pem", "1")] {
            fs::create_dir_all(home.join(path).parent().unwrap()).unwrap();
            fs::write(home.join(path), text).unwrap();
        }
        scene
    }

    /// These settings, and those of the command.
    fn set(&self, more: &str) {
        let config = self.world.installation.config();
        let text = commands::settings(&self.place().join("command"), &self.taken(), more);
        fs::write(config.with_file_name("omnivisor.toml"), text).unwrap();
    }

    /// What the command does first.
    fn hook(&self, shell: &str) {
        fs::write(self.place().join("hook"), shell).unwrap();
    }

    fn place(&self) -> PathBuf {
        self.world.sandbox.path().join("command")
    }

    fn taken(&self) -> PathBuf {
        self.world.sandbox.path().join("taken")
    }

    fn home(&self) -> PathBuf {
        self.world.installation.daemon_home().to_owned()
    }

    /// The ids with which it was called so.
    fn calls(&self, verb: &str) -> Vec<String> {
        let calls = fs::read_to_string(self.place().join("calls")).unwrap_or_default();
        calls.lines().filter_map(|line| line.strip_prefix(verb)?.strip_prefix(' ')).map(str::to_owned).collect()
    }

    fn list(&self) -> Vec<Value> {
        serde_json::from_slice(&self.world.omnivisor(&["backup", "list", "--json"]).stdout).unwrap()
    }

    /// What there is of backups, by name.
    fn names(&self) -> Vec<String> {
        let folders = fs::read_dir(self.world.installation.backups()).into_iter().flatten().flatten();
        let entries = folders.flat_map(|it| fs::read_dir(it.path()).into_iter().flatten().flatten());
        entries.map(|it| it.file_name().to_string_lossy().into_owned()).collect()
    }

    /// A supervisor with 2.0.0, which has migrated the data and is being probed.
    fn on_trial(&self) -> Supervised {
        let supervised = self.world.on_trial(&Behaviour { migrates: true, ..Behaviour::new("2.0.0") });
        self.world.wait_for("2.0.0");
        supervised
    }

    /// It dies again and again, until this is so.
    fn fails(&self, what: &str, until: impl Fn(&Value) -> bool) {
        wait_until(what, SOON, || {
            for node in self.world.log().running().iter().filter(|node| node.version == "2.0.0") {
                let _ = kill_process(Pid::from_raw(node.pid.cast_signed()).unwrap(), Signal::KILL);
            }
            self.world.status().filter(|status| until(status))
        });
    }

    /// Two backups by hand; nothing runs then.
    fn with_two(&self) -> Vec<Value> {
        let supervised = self.world.run();
        for _ in 0..2 {
            let output = self.world.omnivisor(&["backup", "now"]);
            assert!(output.status.success(), "{}", said(&output));
        }
        let all = self.sealed(2);
        stop(supervised);
        all
    }

    fn sealed(&self, count: usize) -> Vec<Value> {
        wait_until("they are listed", SOON, || {
            let all = self.list();
            (all.len() == count && all.iter().all(|it| it["sealed"] == true)).then_some(all)
        })
    }
}

fn stop(mut supervised: Supervised) {
    supervised.signal(15);
    supervised.wait(SOON);
}

#[test]
fn what_a_command_took_goes_back_by_itself_but_keys_do_not() {
    let scene = Scene::new();
    let (world, home) = (&scene.world, scene.home());
    let _supervised = scene.on_trial();
    fs::write(home.join("data/db/2"), "new").unwrap();
    fs::write(home.join("data/id.pem"), "2").unwrap();
    scene.fails("it has died too often", |status| status["failed"][0]["version"] == "2.0.0");
    world.wait_for("1.0.0");
    assert!(world.log().of("refused").is_empty(), "the old node finds its own data");
    let read = |path: &str| fs::read_to_string(home.join(path)).unwrap();
    assert_eq!((read("data/db/2"), read("data/id.pem")), ("old".to_owned(), "2".to_owned()));
    // What the home holds of ours went along with the snapshot, and neither came back nor is listed.
    assert!(scene.taken().join(&scene.calls("take")[0]).join("nymvisor").exists());
    let copies = fs::read_dir(home.join("nymvisor")).unwrap().flatten().filter(|it| it.path().join("copy").exists());
    assert!(copies.into_iter().all(|it| !it.path().join("copy/nymvisor").exists()));
    let all = scene.sealed(1);
    assert_eq!((&all[0]["kind"], &all[0]["damaged"]), (&Value::from("command"), &Value::Null), "{all:#?}");
    let manifest = fs::read_to_string(format!("{}.mtree", all[0]["path"].as_str().unwrap())).unwrap();
    assert!(manifest.contains("./data/db/2 ") && !manifest.contains("\n./nymvisor"), "{manifest}");
    world.log().assert_never_double();
}

#[test]
fn it_is_listed_verified_put_back_and_removed_like_any_other() {
    let scene = Scene::new();
    let world = &scene.world;
    let supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    for _ in 0..2 {
        let output = world.omnivisor(&["backup", "now"]);
        assert!(output.status.success(), "{}", said(&output));
    }
    let all = scene.sealed(3);
    assert!(all.iter().all(|it| it["kind"] == "command"), "{all:#?}");
    let id = |number: usize| all[number]["id"].as_str().unwrap().to_owned();
    let verified = world.omnivisor(&["backup", "verify", "--all"]);
    assert!(verified.status.success(), "{}", said(&verified));
    let rotten = scene.taken().join(id(0)).join("data/db/1");
    let (good, modified) = (fs::read(&rotten).unwrap(), fs::metadata(&rotten).unwrap().modified().unwrap());
    fs::write(&rotten, "rot").unwrap();
    let verified = world.omnivisor(&["backup", "verify"]);
    assert!(!verified.status.success() && said(&verified).contains("data/db/1"), "{}", said(&verified));
    stop(supervised);

    fs::write(scene.home().join("data/db/1"), "new").unwrap();
    let refused = world.omnivisor(&["restore", &id(0)]);
    assert!(!refused.status.success() && said(&refused).contains("data/db/1"), "{}", said(&refused));
    let output = world.omnivisor(&["restore", &id(1)]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(fs::read_to_string(scene.home().join("data/db/1")).unwrap(), "old");

    // What is not good counts for none, until it is again.
    fs::write(&rotten, good).unwrap();
    fs::File::options().write(true).open(&rotten).unwrap().set_modified(modified).unwrap();
    let verified = world.omnivisor(&["backup", "verify"]);
    assert!(verified.status.success(), "{}", said(&verified));

    // The first one is what the upgrade is taken back with.
    scene.set("[backup]\nkeep = 1\n");
    scene.hook("[ $2 != remove ]");
    let failed = world.omnivisor(&["backup", "prune"]);
    assert!(!failed.status.success(), "{}", said(&failed));
    assert!(scene.taken().join(id(1)).exists());
    assert!(scene.names().iter().any(|name| name.ends_with(".partial-removed")), "{:?}", scene.names());
    scene.hook("");
    let _supervised = world.run();
    wait_until("it is tried again", SOON, || {
        let is_gone = !scene.taken().join(id(1)).exists();
        (is_gone && !scene.names().iter().any(|name| name.contains(".partial"))).then_some(())
    });
    assert!(scene.taken().join(id(2)).exists() && scene.taken().join(id(0)).exists());
    assert_eq!(scene.list().len(), 2);
}

#[test]
fn a_command_that_could_not_take_one_is_known_before_the_stop() {
    let scene = Scene::new();
    let world = &scene.world;
    scene.hook("[ $2 != check ] || { echo no room on the pool >&2; exit 3; }");
    let _supervised = world.run();
    let pid = world.wait_for("1.0.0");
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_status("it is said why", |status| status.to_string().contains("no room on the pool"));
    assert_eq!(world.wait_for("1.0.0"), pid, "the node never noticed");
    assert_eq!(scene.calls("take"), Vec::<String>::new());
    scene.hook("");
    world.wait_for_commit("2.0.0");
}

#[test]
fn a_command_that_fails_when_the_node_is_down_leaves_the_old_node_running() {
    let scene = Scene::new();
    let world = &scene.world;
    scene.set("command-timeout = '1s'\n");
    scene.hook("[ $2 != take ] || { sleep 1000 & wait; }");
    let _supervised = world.run();
    let pid = world.wait_for("1.0.0");
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_status("it is given up", |status| status.to_string().contains("it did not end within 1s"));
    assert_ne!(world.wait_for("1.0.0"), pid);
    let id = scene.calls("take").remove(0);
    wait_until("what came of it is removed", SOON, || scene.calls("remove").contains(&id).then_some(()));
    wait_until("nothing is left of it", SOON, || scene.names().is_empty().then_some(()));
    assert_eq!(scene.list(), Vec::<Value>::new());
}

#[test]
fn what_is_no_snapshot_of_the_home_is_not_believed() {
    let scene = Scene::new();
    stop(scene.world.run());
    let home = scene.home();
    let part = scene.place().join("part");
    let copied = Command::new("cp").arg("-a").arg(&home).arg(&part).status().unwrap();
    assert!(copied.success());
    fs::remove_dir_all(part.join("data")).unwrap();
    let link = scene.place().join("link");
    std::os::unix::fs::symlink(&home, &link).unwrap();
    let say = |text: &str| format!("[ $2 != take ] || {{ {text}; exit 0; }}");
    let wrong = [
        (say("true"), "not one line"),
        (say("echo taken"), "not one line"),
        (say("echo /; echo /"), "not one line"),
        (say("echo /nowhere/at/all"), "cannot be found"),
        (say("echo \"$0\""), "not one line"),
        (say("readlink -f \"$0\""), "is no folder"),
        (say(&format!("echo '{}'", home.display())), "is the home itself"),
        (say(&format!("echo '{}'", link.display())), "is the home itself"),
        (say(&format!("echo '{}'", home.join("data").display())), "is a part of the home"),
        (say(&format!("echo '{}'", part.display())), "there is no data in it"),
        (say("echo it went wrong >&2; exit 4"), "exit code 4: it went wrong"),
    ];
    for (hook, why) in &wrong {
        scene.hook(hook);
        let output = scene.world.omnivisor(&["backup", "now"]);
        let said = said(&output);
        assert!(!output.status.success(), "{why}");
        // The shell's own name is a relative one only in some shells.
        assert!(said.contains(why) || why.contains("one line") && said.contains("is no folder"), "{why}: {said}");
        assert_eq!(scene.list(), Vec::<Value>::new(), "{why}");
    }
    scene.hook("");
    let _supervised = scene.world.run();
    wait_until("all of them are removed", SOON, || (scene.calls("remove").len() >= wrong.len()).then_some(()));
    wait_until("nothing is left of them", SOON, || scene.names().is_empty().then_some(()));
}

/// Whatever is mounted in a home would be an empty folder in a snapshot of what the home is on, also where it is of the same disk.
#[test]
fn a_home_in_which_something_is_mounted_is_none_of_which_one_could_be_taken() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: not root");
    }
    let scene = Scene::new();
    stop(scene.world.run());
    let (other, inside) = (scene.place().join("other"), scene.home().join("data/in side"));
    fs::create_dir(&other).unwrap();
    fs::create_dir(&inside).unwrap();
    let bound = Command::new("mount").arg("--bind").arg(&other).arg(&inside).status();
    if !bound.is_ok_and(|bound| bound.success()) {
        return println!("skipped: nothing can be mounted here");
    }
    let output = scene.world.omnivisor(&["backup", "now"]);
    assert!(Command::new("umount").arg(&inside).status().unwrap().success());
    assert!(
        !output.status.success() && said(&output).contains("a file system or a subvolume of its own"),
        "{}",
        said(&output)
    );
    assert_eq!(scene.calls("take"), Vec::<String>::new());
}

/// What was mounted may be mounted no more, or not yet: nothing goes back from an empty folder, and nothing of the snapshot is lost.
#[test]
fn a_folder_that_is_empty_or_gone_after_a_start_goes_back_nowhere_and_is_believed_again_when_it_is_there() {
    let scene = Scene::new();
    let world = &scene.world;
    let supervised = world.run();
    world.publish("2024.2", &Behaviour { migrates: true, ..Behaviour::new("2.0.0") });
    world.wait_for_commit("2.0.0");
    let id = scene.sealed(1)[0]["id"].as_str().unwrap().to_owned();
    stop(supervised);
    let (taken, away) = (scene.taken().join(&id), scene.place().join("away"));
    for is_empty in [true, false] {
        fs::rename(&taken, &away).unwrap();
        if is_empty {
            fs::create_dir(&taken).unwrap();
        }
        let supervised = world.run();
        wait_until("it is damaged", SOON, || {
            scene.list()[0]["damaged"].as_str()?.contains("is not there").then_some(())
        });
        let refused = world.omnivisor(&["rollback"]);
        assert!(!refused.status.success() && said(&refused).contains("cannot be believed"), "{}", said(&refused));
        stop(supervised);
        let refused = world.omnivisor(&["restore", &id]);
        assert!(!refused.status.success() && said(&refused).contains("cannot be believed"), "{}", said(&refused));
        let _ = fs::remove_dir(&taken);
        fs::rename(&away, &taken).unwrap();
    }
    let _supervised = world.run();
    assert_eq!((&scene.list()[0]["damaged"], &scene.list()[0]["sealed"]), (&Value::Null, &Value::Bool(true)));
    let output = world.omnivisor(&["rollback"]);
    assert!(output.status.success(), "{}", said(&output));
    world.wait_for("1.0.0");
    assert!(world.log().of("refused").is_empty(), "the old node finds its own data");
}

/// The snapshot that goes with an undo is not there when the undo is due: a person is called, and the data stays as it is.
#[test]
fn an_undo_whose_snapshot_is_not_there_moves_nothing() {
    let scene = Scene::new();
    let world = &scene.world;
    let _supervised = scene.on_trial();
    let taken = scene.taken().join(&scene.calls("take")[0]);
    fs::remove_dir_all(&taken).unwrap();
    fs::create_dir(&taken).unwrap();
    scene.fails("a person is called", |status| status["upgrade"]["phase"] == "needs-human");
    assert_eq!(fs::read_to_string(scene.home().join("data/db/1")).unwrap(), "old");
    assert!(world.log().running().is_empty(), "no node on data that has to go back");
}

/// What was copied ahead is in nobody's way, and neither is lost when the command then fails.
#[test]
fn a_command_that_is_set_over_a_copy_that_was_begun_takes_its_place() {
    let scene = Scene::new();
    let world = &scene.world;
    let settings = world.installation.config().with_file_name("omnivisor.toml");
    let by_command = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, "[snapshot]\nlead = '2h'\n").unwrap();
    let supervised = world.run();
    world.publish_for(
        "2024.2",
        &Behaviour::new("2.0.0"),
        &crate::world::timestamp(std::time::Duration::from_secs(3600)),
    );
    let copies = |ending: &str| scene.names().iter().filter(|name| name.ends_with(ending)).count();
    if rustix::fs::statfs(scene.home()).unwrap().f_type == 0x0102_1994 {
        return println!("skipped: on tmpfs nothing is copied ahead");
    }
    wait_until("it is copied ahead", SOON, || (copies(".partial-seen") == 1).then_some(()));
    stop(supervised);
    fs::write(&settings, by_command).unwrap();
    scene.hook("[ $2 != take ] || { [ -e failed ] || { touch failed; exit 5; }; }");
    let _supervised = world.run();
    world.wait_for_status("it is staged", |status| status["upgrade"]["phase"] == "staged");
    let output = world.omnivisor(&["upgrade", "2024.2"]);
    assert!(output.status.success(), "{}", said(&output));
    wait_until("both are removed", SOON, || {
        let id = scene.calls("take").first()?.clone();
        (scene.calls("remove").contains(&id) && copies(".partial-removed") == 0).then_some(())
    });
    world.wait_for("1.0.0");
}

/// Who is killed hard leaves a command at work, which must not undo what the next one takes.
#[test]
fn a_command_that_outlives_who_has_called_it_is_ended_before_it_is_called_again() {
    let scene = Scene::new();
    let world = &scene.world;
    scene.hook("[ $2 != take ] || [ -e slow ] || { touch slow; exec sleep 1000; }");
    let mut supervised = world.run();
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    wait_until("the command is at work", SOON, || scene.place().join("slow").exists().then_some(()));
    supervised.signal(9);
    supervised.wait(SOON);
    let _supervised = world.run_again();
    world.wait_for_commit("2.0.0");
    let takes = scene.calls("take");
    assert!(takes.len() == 2 && takes[0] == takes[1], "{takes:?}");
    let is_one = |pid: i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let wanted = format!("OMNIVISOR_SNAPSHOT_HOME={}", scene.home().display());
        environment.split(|byte| *byte == 0).any(|it| it == wanted.as_bytes())
    };
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|it| it.file_name().to_str()?.parse().ok());
    assert_eq!(pids.filter(|pid| is_one(*pid)).count(), 0, "nobody is at work on it any more");
}

/// Killed when the command has taken it: whoever comes next calls it again with the same id, and there is one of it.
#[test]
fn whoever_is_killed_beside_the_command_is_gone_on_for() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    for point in ["snapshot-commanded", "after-snapshot"] {
        let scene = Scene::new();
        let world = &scene.world;
        let mut command = world.run_command();
        command.env("OMNIVISOR_CHECKPOINT", point);
        let mut supervised = world.sandbox.spawn(command);
        world.wait_for("1.0.0");
        world.publish("2024.2", &Behaviour::new("2.0.0"));
        supervised.wait(SOON);
        let _supervised = world.run_again();
        world.wait_for_commit("2.0.0");
        let all = scene.sealed(1);
        let taken = scene.calls("take");
        assert!(taken.iter().all(|id| *id == all[0]["id"]), "{point}: {taken:?}");
        assert_eq!(fs::read_dir(scene.taken()).unwrap().count(), 1, "{point}");
        assert!(!scene.names().iter().any(|name| name.contains(".partial")), "{point}: {:?}", scene.names());
        world.log().assert_never_double();
    }
}

#[test]
fn settings_of_a_command_that_make_no_sense_are_told() {
    let scene = Scene::new();
    for (text, why) in [
        ("[snapshot]\nmethod = 'command'\n", "snapshot.command"),
        ("[snapshot]\nmethod = 'command'\ncommand = ['snapshot']\n", "a whole path"),
        ("[snapshot]\nmethod = 'lvm'\n", "auto, btrfs, zfs, command or none"),
        ("[snapshot]\nmethod = 'btrfs'\n", "snapshot.folder"),
        ("[snapshot]\nmethod = 'btrfs'\nfolder = 'snapshots'\n", "a whole path"),
    ] {
        fs::write(scene.world.installation.config().with_file_name("omnivisor.toml"), text).unwrap();
        let output = scene.world.omnivisor(&["plan"]);
        assert!(!output.status.success() && said(&output).contains(why), "{text}: {}", said(&output));
    }
    scene.set("command-timeout = '5s'\noutage-limit = '2s'\n");
    let told = said(&scene.world.omnivisor(&["plan"]));
    assert!(told.contains("a command takes it") && told.contains("TOO LONG    snapshot.outage-limit is 2s"), "{told}");
}
