//! One node whatever was killed, closed or damaged: found by the next supervisor, and by one of two only.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use omnivisor_testkit::{Behaviour, Supervised, executable, wait_until};

use crate::world::{SOON, World};

const SIGTERM: i32 = 15;

/// Waits until one of them gives up, with its exit code and the process of the other one.
fn assert_one_is_refused(both: &mut [Supervised; 2]) {
    let (at, code) = wait_until("one of them gives up", SOON, || {
        both.iter_mut().enumerate().find_map(|(at, it)| it.try_wait().map(|status| (at, status.code())))
    });
    let said = format!("{}{}", both[at].stdout(), both[at].stderr());
    assert_eq!(code, Some(12), "{said}");
    let other = both[1 - at].pid();
    assert!(said.contains("supervised already") && said.contains(&format!("process {other}")), "{said}");
}

#[test]
fn of_two_that_are_started_together_after_a_kill_one_takes_the_node_over() {
    let world = World::new();
    let mut first = world.run();
    let pid = world.wait_for("1.0.0");
    for _ in 0..10 {
        first.kill9();
        let mut both = [world.start(), world.start()];
        assert_one_is_refused(&mut both);
        world.wait_for_status("the other has it", |status| status["node"]["pid"] == pid);
        assert_eq!(world.log().starts().len(), 1);
        first = both.into_iter().find_map(|mut it| it.try_wait().is_none().then_some(it)).unwrap();
    }
    first.signal(SIGTERM);
    assert_eq!(first.wait(SOON).code(), Some(0));
}

#[test]
fn of_two_visors_that_are_started_together_after_a_kill_one_takes_the_nodes_over() {
    use crate::vega::world::{OLD, World, options};
    let world = World::with(options().with_data_node());
    let mut first = world.run();
    world.wait_for(OLD);
    for _ in 0..10 {
        first.kill9();
        let mut both = [world.start(), world.start()];
        assert_one_is_refused(&mut both);
        world.wait_for_status("the other has them", |status| status["node"]["state"] == "running");
        assert_eq!(world.log().starts().len(), 2);
        first = both.into_iter().find_map(|mut it| it.try_wait().is_none().then_some(it)).unwrap();
    }
    first.signal(SIGTERM);
    assert_eq!(first.wait(SOON).code(), Some(0));
    world.log().assert_never_double();
}

/// Whoever can open a lock can hold it, and keep the node down.
#[test]
fn nobody_else_can_hold_the_locks() {
    let world = World::new();
    let _supervised = world.run();
    let state = world.installation.instance_dir().join("data/omnivisor");
    let home = world.sandbox.daemon_home().join("nymvisor");
    let locks = ["supervisor.lock", "node.lock"].map(|name| state.join(name));
    for lock in locks.into_iter().chain(["omnivisor.lock", "omnivisor-node.lock"].map(|name| home.join(name))) {
        let mode =
            fs::metadata(&lock).unwrap_or_else(|error| panic!("{}: {error}", lock.display())).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", lock.display());
    }
}

/// Closes every descriptor but the first three, as Python and Node.js do, and runs the program in `$REAL`.
const WRAPPERS: [(&str, &str); 2] = [
    (
        "bash",
        "for it in /proc/$$/fd/*; do it=${it##*/}; [ $it -gt 2 ] && eval \"exec $it>&-\"; done\n\"$REAL\" \"$@\" &\n\
         trap 'kill -INT $!' INT TERM\nwait\nwait\n",
    ),
    (
        "python3",
        "import os, signal, subprocess, sys\nos.closerange(3, 256)\n\
         child = subprocess.Popen([os.environ['REAL']] + sys.argv[1:])\n\
         for it in (signal.SIGINT, signal.SIGTERM): signal.signal(it, lambda *_: child.send_signal(signal.SIGINT))\n\
         sys.exit(child.wait())\n",
    ),
];

#[test]
fn a_wrapper_that_closes_descriptors_changes_nothing() {
    for (interpreter, text) in WRAPPERS {
        if Command::new(interpreter).arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("skipped: no {interpreter}");
            continue;
        }
        let world = World::new();
        let real = world.sandbox.path().join("real");
        let binary = world.installation.binary("genesis");
        fs::rename(&binary, &real).unwrap();
        executable::script(&binary, &format!("#!/usr/bin/env {interpreter}\n{text}"));
        let start = || {
            let mut command = world.run_command();
            command.env("REAL", &real);
            world.sandbox.spawn(command)
        };
        let mut first = start();
        let pid = world.wait_for("1.0.0");
        let wrapper =
            world.wait_for_status("it answers", |status| status["node"]["pid"].is_u64())["node"]["pid"].clone();
        first.kill9();
        let mut second = start();
        world.wait_for_status("the node is known", |status| status["node"]["pid"] == wrapper);
        assert_eq!(world.wait_for("1.0.0"), pid, "{interpreter}");
        assert_eq!(world.log().starts().len(), 1, "{interpreter}");
        second.signal(SIGTERM);
        assert_eq!(second.wait(SOON).code(), Some(0), "{interpreter}: {}", second.stderr());
        assert!(world.log().running().is_empty(), "{interpreter}");
        world.log().assert_never_double();
    }
}

/// The node has the supervisor's own output, and nothing in between: it writes on, as long as somebody reads that.
#[test]
fn the_output_of_a_node_whose_supervisor_is_killed_is_undisturbed() {
    let world = World::new();
    let binary = world.installation.binary("genesis");
    let details = Behaviour::new("1.0.0").details();
    let text = format!(
        "#!/bin/sh\nfor it in \"$@\"; do if [ \"$it\" = build-info ]; then echo '{details}'; exit 0; fi; done\n\
         trap 'echo ends; exit 0' INT\nn=0\nwhile :; do n=$((n+1)); echo out $n || echo lost >> lost; echo err $n >&2 || echo lost >> lost; sleep 0.02; done\n",
    );
    executable::script(&binary, &text);
    let mut first = world.start();
    let pid = world.wait_for_status("it runs", |status| status["node"]["pid"].is_u64())["node"]["pid"].clone();
    let targets = [0, 1, 2].map(|fd| fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap());
    let own = [1, 2].map(|fd| fs::read_link(format!("/proc/{}/fd/{fd}", first.pid())).unwrap());
    assert_eq!((targets[0].as_path(), &targets[1..]), (Path::new("/dev/null"), own.as_slice()), "nothing in between");
    first.kill9();
    let count = |it: &Supervised| (it.stdout().matches("out ").count(), it.stderr().matches("err ").count());
    let before = count(&first);
    wait_until("it writes on", SOON, || {
        let now = count(&first);
        (now.0 > before.0 + 3 && now.1 > before.1 + 3).then_some(())
    });
    let mut second = world.run_again();
    assert_eq!(world.status().unwrap()["node"]["pid"], pid);
    second.signal(SIGTERM);
    assert_eq!(second.wait(SOON).code(), Some(0));
    assert!(first.stdout().contains("ends") && !world.sandbox.path().join("lost").exists());
}

/// The CRC of a frame, written down a second time.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn frame(version: u8, payload: &str) -> Vec<u8> {
    let mut head = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
    head.extend([0, version, 0, 0]);
    let crc = crc32(&[head.as_slice(), payload.as_bytes()].concat());
    [head.as_slice(), &crc.to_le_bytes(), payload.as_bytes()].concat()
}

/// Where the last record ends.
fn end(journal: &[u8]) -> usize {
    journal.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

fn put(journal: &mut [u8], bytes: &[u8]) {
    let at = end(journal);
    journal[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A journal that a newer version has written, or whose beginning is gone: the node that is installed runs, and a person learns
/// of it.
#[test]
fn a_journal_of_a_newer_version_is_not_guessed_at() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("a newer file", |journal| journal[18] = b'2'),
        ("a newer frame", |journal| put(journal, &frame(2, r#"{"record":"held"}"#))),
        ("a record of the future", |journal| put(journal, &frame(1, r#"{"record":"levitated"}"#))),
        ("torn in its first line", |journal| journal.truncate(7)),
    ];
    for (what, damage) in damages {
        let world = World::new();
        let mut first = world.run();
        first.signal(SIGTERM);
        first.wait(SOON);
        let path = world.installation.instance_dir().join("data/omnivisor/journal");
        let mut journal = fs::read(&path).unwrap();
        damage(&mut journal);
        fs::write(&path, &journal).unwrap();
        let _second = world.run();
        world.wait_for("1.0.0");
        let status = world.wait_for_status("it answers", |_| true);
        assert!(status["degraded"].is_string(), "{what}: {status}");
        let shown = world.omnivisor(&["status"]);
        assert!(String::from_utf8_lossy(&shown.stdout).contains("DEGRADED"), "{what}: {shown:?}");
        assert_eq!(fs::read(&path).unwrap(), journal, "{what}: it is left alone");
    }
}

/// A power cut leaves a part of the last record: it never was.
#[test]
fn a_record_that_is_torn_at_any_place_is_cut_and_nothing_is_degraded() {
    let record = frame(1, r#"{"record":"held"}"#);
    let world = World::new();
    let mut supervised = world.run();
    let path = world.installation.instance_dir().join("data/omnivisor/journal");
    for length in [1, 4, 6, 8, 11, 12, 13, record.len() - 1] {
        supervised.kill9();
        let mut journal = fs::read(&path).unwrap();
        put(&mut journal, &record[..length]);
        fs::write(&path, &journal).unwrap();
        supervised = world.run_again();
        let status = world.status().unwrap();
        assert_eq!((&status["degraded"], &status["held"]), (&serde_json::Value::Null, &false.into()), "{length}");
    }
    supervised.kill9();
    let mut journal = fs::read(&path).unwrap();
    put(&mut journal, &record);
    fs::write(&path, &journal).unwrap();
    let _whole = world.run_again();
    assert_eq!(world.status().unwrap()["held"], true, "the whole of it counts");
    assert_eq!(world.log().starts().len(), 1);
}

/// The nodes that run are taken over, whatever became of what is known of them.
#[test]
fn a_visor_with_a_bad_journal_takes_its_nodes_over_all_the_same() {
    use crate::vega::world::{OLD, World, options};
    type Damage = fn(&Path);
    fn change(path: &Path, how: impl FnOnce(&mut Vec<u8>)) {
        let mut journal = fs::read(path).unwrap();
        how(&mut journal);
        fs::write(path, &journal).unwrap();
    }
    let damages: [(&str, Damage, bool); 5] = [
        ("lost", |path| fs::remove_file(path).unwrap(), true),
        ("torn at its end", |path| change(path, |it| put(it, &frame(1, r#"{"record":"held"}"#)[..9])), false),
        ("corrupt in its middle", |path| change(path, |it| it[60] ^= 1), true),
        (
            "with a record of the future",
            |path| change(path, |it| put(it, &frame(1, r#"{"record":"levitated"}"#))),
            true,
        ),
        ("of a newer version", |path| change(path, |it| it[18] = b'2'), true),
    ];
    for (what, damage, degraded) in damages {
        let world = World::with(options().with_data_node());
        let mut first = world.run();
        world.wait_for(OLD);
        first.kill9();
        damage(&world.installation.home().join(".omnivisor/journal"));
        let mut second = world.run();
        let status = world.status().unwrap();
        assert_eq!(status["degraded"].is_string(), degraded, "{what}: {status}");
        assert_eq!(status["active"]["version"], OLD, "{what}");
        assert_eq!(world.log().starts().len(), 2, "{what}: core and data node were started once");
        second.signal(SIGTERM);
        assert_eq!(second.wait(SOON).code(), Some(0), "{what}: {}", second.stdout());
        assert!(world.log().running().is_empty(), "{what}");
    }
}

/// A small disk for the state folder alone; none, with a word, where nothing may be mounted.
fn small_disk(at: &Path) -> Option<impl Drop> {
    struct Mounted(std::path::PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            Command::new("umount").arg("-l").arg(&self.0).status().ok();
        }
    }
    fs::create_dir_all(at).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=256k,mode=700", "omnivisor-test"];
    let is_root = rustix::process::geteuid().is_root();
    if !is_root || !Command::new("mount").args(mount).arg(at).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: nothing can be mounted here");
        return None;
    }
    Some(Mounted(at.to_owned()))
}

fn fill(folder: &Path) {
    let mut ballast = fs::File::create(folder.join("ballast")).unwrap();
    while std::io::Write::write_all(&mut ballast, &[0; 4096]).is_ok() {}
}

#[test]
fn a_full_disk_keeps_no_node_down() {
    let world = World::new();
    let state = world.installation.instance_dir().join("data/omnivisor");
    let Some(disk) = small_disk(&state) else { return };
    // Where there never was a journal,
    fill(&state);
    let mut first = world.run();
    let pid = world.wait_for("1.0.0");
    let status = world.wait_for_status("it answers", |_| true);
    assert!(status["degraded"].as_str().is_some_and(|why| why.contains("make room")), "{status}");
    first.kill9();
    let mut second = world.run_again();
    assert_eq!(world.status().unwrap()["node"]["pid"], pid, "it is found without a record");
    second.signal(SIGTERM);
    assert_eq!(second.wait(SOON).code(), Some(0));
    // and where there is one.
    fs::remove_file(state.join("ballast")).unwrap();
    let mut third = world.run();
    assert!(world.wait_for_status("it answers", |_| true)["degraded"].is_null());
    third.kill9();
    fill(&state);
    let mut fourth = world.run_again();
    assert!(world.status().unwrap()["degraded"].is_null(), "it has room of its own");
    assert_eq!(world.log().starts().len(), 2);
    fourth.signal(SIGTERM);
    assert_eq!(fourth.wait(SOON).code(), Some(0));
    world.log().assert_never_double();
    drop((world, disk));
}
