//! What is copied ahead of a switch, what that may cost, and what becomes of it when nothing comes of the switch.

mod large;

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use omnivisor_testkit::{Answer, Behaviour, Supervised, wait_until};

use crate::world::{ANNOUNCEMENT, SOON, World, timestamp};

fn run_with(world: &World, variables: &[(&str, &str)]) -> Supervised {
    let mut command = world.run_command();
    command.envs(variables.iter().copied());
    let supervised = world.sandbox.spawn(command);
    world.wait_for("1.0.0");
    supervised
}

/// What is below the backups, by what it is called.
fn copies(world: &World) -> Vec<PathBuf> {
    let upgrades = fs::read_dir(world.installation.backups()).into_iter().flatten().flatten();
    upgrades.flat_map(|it| fs::read_dir(it.path()).into_iter().flatten().flatten()).map(|it| it.path()).collect()
}

fn empty_queue(world: &World) {
    let mut plan = world.plan();
    plan["queuedUp"] = serde_json::json!([]);
    fs::write(world.installation.plan(), plan.to_string()).unwrap();
}

fn has_passes(world: &World) -> bool {
    let kind = rustix::fs::statfs(world.installation.daemon_home()).unwrap().f_type;
    if kind == 0x0102_1994 {
        println!("skipped: on tmpfs nothing is copied ahead");
    }
    kind != 0x0102_1994
}

/// Its time may be past by then: whoever looks has to know what is waited for.
#[test]
fn while_the_data_is_copied_ahead_the_status_says_so() {
    let world = World::new();
    if !has_passes(&world) {
        return;
    }
    let data = world.installation.daemon_home().join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("big"), vec![7; 128 << 20]).unwrap();
    let _supervised = run_with(&world, &[("OMNIVISOR_SNAPSHOT_RESERVE", "1MiB")]);
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    let doing =
        |status: &serde_json::Value| status["upgrade"]["doing"].as_str().is_some_and(|it| it.contains("copied ahead"));
    world.wait_for_status("it says what is done", doing);
    world.wait_for_commit("2.0.0");
    assert!(world.status().is_some_and(|status| status["upgrade"]["phase"] == "idle" && !doing(&status)));
}

#[test]
fn the_data_is_copied_before_the_switch_is_due_and_goes_with_the_release() {
    let world = World::new();
    if !has_passes(&world) {
        return;
    }
    let mut supervised = run_with(&world, &[("OMNIVISOR_SNAPSHOT_LEAD", "2h")]);
    let big = world.installation.daemon_home().join("data/big");
    fs::write(&big, vec![7; 3_000_000]).unwrap();
    world.publish_for("2024.2", &Behaviour::new("2.0.0"), &timestamp(Duration::from_secs(3600)));
    let copied = || copies(&world).into_iter().find(|path| path.to_string_lossy().ends_with(".partial"));
    let copy =
        wait_until("it is copied ahead", SOON, || copied().filter(|it| it.with_extension("partial-seen").exists()));
    // What was stamped a moment before is copied once more in the next pass.
    let is_whole = || (fs::metadata(copy.join("data/big")).ok()?.len() == 3_000_000).then_some(());
    wait_until("it is copied whole", SOON, is_whole);
    let status = world.status().unwrap();
    assert_eq!(status["upgrade"]["phase"], "staged", "{status:#}");
    // Another supervisor goes on from it.
    supervised.signal(9);
    supervised.wait(SOON);
    let _supervised = run_with(&world, &[("OMNIVISOR_SNAPSHOT_LEAD", "2h")]);
    world.wait_for_status("it is staged", |status| status["upgrade"]["phase"] == "staged");
    wait_until("it is there", SOON, is_whole);
    // Withdrawn: what was copied for it is in nobody's way.
    world.upstream.serve(ANNOUNCEMENT, Answer::Status(404, Vec::new()));
    wait_until("the copy is removed", SOON, || {
        // A poll that was under way may queue it once more.
        if world.plan()["queuedUp"][0].is_object() {
            empty_queue(&world);
        }
        copies(&world).is_empty().then_some(())
    });
}

#[test]
fn what_was_copied_ahead_by_one_who_was_killed_is_removed_if_nothing_came_of_it() {
    let world = World::new();
    if !has_passes(&world) {
        return;
    }
    let mut supervised = run_with(&world, &[("OMNIVISOR_SNAPSHOT_LEAD", "2h")]);
    world.publish_for("2024.2", &Behaviour::new("2.0.0"), &timestamp(Duration::from_secs(3600)));
    wait_until("it is copied ahead", SOON, || (copies(&world).len() == 2).then_some(()));
    supervised.signal(9);
    supervised.wait(SOON);
    // It is withdrawn, and then whoever drops it is killed before the copy is removed.
    world.upstream.serve(ANNOUNCEMENT, Answer::Status(404, Vec::new()));
    empty_queue(&world);
    let _supervised = run_with(&world, &[]);
    wait_until("the copy is removed", SOON, || copies(&world).is_empty().then_some(()));
}

#[test]
fn too_little_room_or_too_long_an_outage_is_refused_before_the_stop() {
    for (variable, value, reason) in [
        ("OMNIVISOR_SNAPSHOT_RESERVE", "4096TiB", "are needed for a snapshot (with 4294967296 MiB left for others)"),
        ("OMNIVISOR_SNAPSHOT_OUTAGE_LIMIT", "1ms", "snapshot.outage-limit is 1ms"),
    ] {
        let world = World::new();
        if !has_passes(&world) {
            return;
        }
        let _supervised = run_with(&world, &[(variable, value)]);
        let pid = world.wait_for("1.0.0");
        world.publish("2024.2", &Behaviour::new("2.0.0"));
        let status = world.wait_for_status("it is refused", |status| {
            status["announced"][0]["standing"].as_str().is_some_and(|it| it.contains("tried again"))
        });
        assert!(status["announced"][0]["standing"].as_str().unwrap().contains(reason), "{status:#}");
        assert_eq!(world.wait_for("1.0.0"), pid, "the old node runs on");
        assert_eq!(world.log().signals_of(pid), [0_i32; 0]);
    }
}

#[test]
fn one_upgrade_is_done_without_a_copy_where_a_person_says_so() {
    let world = World::new();
    let _supervised = world.run();
    for (version, name, more) in [("2.0.0", "2024.2", Some("--skip-backup")), ("3.0.0", "2024.3", None)] {
        let binary = world.minted(&Behaviour::new(version));
        let mut command = world.nymvisor(&["add-upgrade", binary.to_str().unwrap(), "--upgrade-name", name, "--now"]);
        let output = command.args(more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        world.wait_for_commit(version);
        let copies = copies(&world).into_iter().filter(|path| path.to_string_lossy().contains(name)).count();
        assert_eq!(copies > 0, more.is_none(), "{name}");
    }
    let (binary, time) = (world.minted(&Behaviour::new("4.0.0")), timestamp(Duration::from_secs(3600)));
    let mut command = world.nymvisor(&["add-upgrade", binary.to_str().unwrap(), "--upgrade-name", "2024.4"]);
    let output = command.args(["--upgrade-time", &time, "--skip-backup"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    world.wait_for_status("it waits", |status| status["announced"][0]["withoutSnapshot"] == true);
    let plan = world.omnivisor(&["plan"]);
    let plan = String::from_utf8_lossy(&plan.stdout);
    assert!(plan.contains("4.0.0 (2024.4): will be switched to at") && plan.contains(", without a snapshot"), "{plan}");
}

/// Whoever reads the log has to know what the old release goes on with.
#[test]
fn an_undo_without_a_copy_says_what_becomes_of_the_data() {
    let world = World::new();
    let supervised = world.run();
    let dies = Behaviour { exit_after_ms: Some(50), exit_code: 3, ..Behaviour::new("2.0.0") };
    let binary = world.minted(&dies);
    let mut command = world.nymvisor(&["add-upgrade", binary.to_str().unwrap(), "--upgrade-name", "2024.2", "--now"]);
    let output = command.arg("--skip-backup").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    world.wait_for_status("it is over", |status| status["failed"][0]["version"] == "2.0.0");
    world.wait_for("1.0.0");
    wait_until("it is said", SOON, || {
        let said = supervised.stderr();
        let goes_on = said.contains("there is no snapshot to go back to: 1.0.0");
        (goes_on && said.contains("goes on with the data as 2.0.0")).then_some(())
    });
}

/// As long as somebody else writes to the data each try fails; what was copied is not copied for each of them.
#[test]
fn a_try_that_may_be_tried_again_leaves_what_it_copied_to_the_next_one() {
    let world = World::new();
    if !has_passes(&world) {
        return;
    }
    let big = world.installation.daemon_home().join("data/big");
    fs::create_dir_all(big.parent().unwrap()).unwrap();
    fs::write(&big, vec![7; 3_000_000]).unwrap();
    let written = SystemTime::now();
    let _supervised = run_with(&world, &[("OMNIVISOR_SNAPSHOT_LEAD", "2h")]);
    // What has been changed just now is copied once more in any case.
    wait_until("it is old enough", SOON, || (written.elapsed().ok()? > Duration::from_millis(2500)).then_some(()));
    world.publish_for("2024.2", &Behaviour::new("2.0.0"), &timestamp(Duration::from_secs(3600)));
    let named = |ending: &str| copies(&world).into_iter().find(|path| path.to_string_lossy().ends_with(ending));
    wait_until("it is copied ahead", SOON, || named(".partial-seen"));
    let copied =
        |folder: &Path| fs::metadata(folder.join("data/big")).map(|it| (it.ino(), it.ctime(), it.ctime_nsec()));
    let first = named(".partial").unwrap();
    let before = copied(&first).unwrap();

    let writer = Writer::of(&big);
    let output = world.omnivisor(&["upgrade", "2024.2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    world.wait_for_status("it is refused", |status| status.to_string().contains("open to write to it"));
    wait_until("another try has it", SOON, || named(".partial").filter(|path| *path != first));
    drop(writer);
    world.wait_for_commit("2.0.0");
    assert_eq!(copied(&named("-preupgrade").unwrap()).unwrap(), before, "it was not copied again");
}

/// Somebody else who has a file of the node's data open to write to it, until this is dropped.
struct Writer(std::process::Child);

impl Writer {
    fn of(file: &Path) -> Self {
        let line = format!("exec 3>>'{}'; echo; read -r _", file.display());
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", &line]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn while_somebody_else_writes_to_the_data_no_copy_of_it_is_begun_unless_that_is_allowed() {
    for (value, is_refused) in [("refuse", true), ("warn", false)] {
        let world = World::new();
        let _supervised = run_with(&world, &[("OMNIVISOR_SNAPSHOT_OTHER_WRITERS", value)]);
        let pid = world.wait_for("1.0.0");
        // The node's own files are no reason, nor is what is only read.
        let data = world.installation.daemon_home().join("data/database");
        wait_until("the node has opened its data", SOON, || data.with_file_name("state.json").exists().then_some(()));
        let _writer = Writer::of(&data);
        let backup = world.omnivisor(&["backup", "now"]);
        let said = String::from_utf8_lossy(&backup.stderr).into_owned();
        assert_eq!(!backup.status.success() && said.contains("open to write to it"), is_refused, "{said}");
        world.publish("2024.2", &Behaviour::new("2.0.0"));
        if !is_refused {
            world.wait_for("2.0.0");
            continue;
        }
        let status = world.wait_for_status("it is refused", |status| {
            status["announced"][0]["standing"].as_str().is_some_and(|it| it.contains("tried again"))
        });
        let standing = status["announced"][0]["standing"].as_str().unwrap();
        assert!(standing.contains("(sh) has ") && standing.contains("data/database open to write to it"), "{standing}");
        assert_eq!(world.wait_for("1.0.0"), pid, "the old node runs on");
        assert_eq!(world.log().signals_of(pid), [0_i32; 0]);
    }
}
