//! The supervisor is replaced while its node runs on: by one that is well, by some that are not, and with signals in between.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use omnivisor_testkit::{Behaviour, Options, Supervised, VegaOptions, executable, wait_until};

use crate::vega::world::{NEW, OLD, World as VegaWorld, installing};
use crate::world::{SOON, World, omnivisor_exe, options};

const SIGTERM: i32 = 15;

/// Where the supervisor's executable is, which is replaced.
fn place(sandbox: &omnivisor_testkit::Sandbox) -> PathBuf {
    let folder = sandbox.path().join("bin");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("omnivisor");
    executable::copy(omnivisor_exe(), &path);
    path
}

/// What of a node must not change.
#[derive(Debug, PartialEq)]
struct Life {
    pid: u32,
    started: String,
    streams: Vec<PathBuf>,
}

impl Life {
    fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let started = stat.split_whitespace().nth(21).unwrap().to_owned();
        let streams = (0..3).map(|number| fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap()).collect();
        Self { pid, started, streams }
    }
}

/// A node of Nym whose supervisor was started from a copy, by its name as a link.
struct Replaceable {
    world: World,
    path: PathBuf,
}

impl Replaceable {
    fn new() -> Self {
        Self::with(Behaviour::new("1.0.0"), options())
    }

    fn with(behaviour: Behaviour, options: Options) -> Self {
        let world = World::with(behaviour, options);
        let path = place(&world.sandbox);
        Self { world, path }
    }

    /// `nymvisor run run`, started by a link, with what a test wants to go wrong.
    fn run(&self, misbehave: &str) -> Supervised {
        let link = self.path.with_file_name("nymvisor");
        let _ = std::os::unix::fs::symlink("omnivisor", &link);
        let before = self.world.log().starts().len();
        let mut command = self.world.sandbox.omnivisor(&link, "nymvisor");
        command.args(["run", "run", "--home", self.world.installation.daemon_home().to_str().unwrap()]);
        command.env("OMNIVISOR_RETRY_DELAY", "200ms").env("OMNIVISOR_RETRY_MOST", "1s");
        command.env("OMNIVISOR_MISBEHAVE", misbehave);
        let supervised = self.world.sandbox.spawn(command);
        wait_until("the node is started", SOON, || (self.world.log().starts().len() > before).then_some(()));
        self.world.wait_for_status("it says so", |status| status["node"]["state"] == "running");
        supervised
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.sandbox.omnivisor(omnivisor_exe(), "omnivisor");
        command.args(arguments);
        command
    }

    fn reexec(&self, arguments: &[&str]) -> Output {
        self.command(&[&["reexec"], arguments].concat()).output().unwrap()
    }

    /// An own verb that is started, and whose words do not matter.
    fn quiet(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Orders a replacement that has been decided on, and waits for somebody who is connected and asks nothing: for a second,
    /// or until that is dropped.
    fn leave(&self, supervised: &Supervised) -> (UnixStream, Child) {
        let silent = UnixStream::connect(self.world.sandbox.runtime().join("nym-node-default.sock")).unwrap();
        let order = self.quiet(&["reexec"]);
        let leaves = || supervised.stderr().contains("takes over; the node runs on").then_some(());
        wait_until("it is about to be replaced", SOON, leaves);
        (silent, order)
    }

    fn history(&self) -> String {
        String::from_utf8(self.command(&["history"]).output().unwrap().stdout).unwrap()
    }

    fn supervisor(&self) -> u64 {
        self.world.status().unwrap()["supervisor"].as_u64().unwrap()
    }
}

/// A new file in the place of one that is executed.
fn renew(path: &Path) {
    fs::remove_file(path).unwrap();
    executable::copy(omnivisor_exe(), path);
}

fn inode(path: impl AsRef<Path>) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().ino()
}

/// The children of a process, zombies, too, whichever of its threads has started them.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

#[track_caller]
fn said(output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{text}");
    text
}

#[track_caller]
fn refused(output: &Output, why: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(why), "{why} in {text}");
}

#[test]
fn a_new_executable_takes_over_in_place_and_the_node_does_not_notice() {
    let it = Replaceable::new();
    let mut supervised = it.run("");
    let life = Life::of(it.world.wait_for("1.0.0"));
    // Twice, since one that took over has to be replaceable, too.
    for _ in 0..2 {
        renew(&it.path);
        let text = said(&it.reexec(&[]));
        assert!(text.contains("omnivisor 0.1.0 has taken the place of 0.1.0; the node was not touched"), "{text}");
        assert_eq!(inode(format!("/proc/{}/exe", supervised.pid())), inode(&it.path), "the new file runs");
        assert_eq!(it.supervisor(), u64::from(supervised.pid()), "in the same process");
        assert_eq!(Life::of(it.world.wait_for("1.0.0")), life);
        wait_until("nobody but the node is its child", SOON, || {
            (children(supervised.pid()) == [life.pid]).then_some(())
        });
    }
    let environment = fs::read(format!("/proc/{}/environ", life.pid)).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("OMNIVISOR_HANDOVER"));
    assert_eq!(it.history().matches("omnivisor 0.1.0 replaced 0.1.0 in place").count(), 2, "{}", it.history());
    let comm = fs::read_to_string(format!("/proc/{}/comm", supervised.pid())).unwrap();
    assert_eq!(comm.trim(), "nymvisor", "it is called what it was called");

    // It is its parent, so that it knows how it ends,
    let killed = rustix::process::Pid::from_raw(life.pid.cast_signed()).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    wait_until("it says so", SOON, || supervised.stderr().contains("the node ended with signal 9").then_some(()));
    let next = wait_until("another one runs", SOON, || {
        it.world.log().running().iter().map(|it| it.pid).find(|pid| *pid != life.pid)
    });
    wait_until("no zombie is left", SOON, || (children(supervised.pid()) == [next]).then_some(()));
    // it upgrades it,
    it.world.publish("2024.2", &Behaviour::new("2.0.0"));
    it.world.wait_for_commit("2.0.0");
    // nobody else takes its place,
    let second =
        it.world.nymvisor(&["run", "run", "--home", it.world.installation.daemon_home().to_str().unwrap()]).output();
    assert_eq!(second.unwrap().status.code(), Some(12));
    // and it ends it.
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert!(it.world.log().running().is_empty());
    it.world.log().assert_never_double();
}

#[test]
fn the_pair_of_vega_runs_on_too() {
    let world = VegaWorld::with(VegaOptions { ..installing().with_data_node() });
    let path = place(&world.sandbox);
    let mut command = world.surrounded(&path, "vegavisor");
    command.args(["run", "--home", world.installation.home().to_str().unwrap()]);
    let supervised = world.sandbox.spawn(command);
    world.wait_for(OLD);
    world.wait_for_status("they run", |status| status["node"]["state"] == "running");
    let lives: Vec<Life> = world.log().running().iter().map(|it| Life::of(it.pid)).collect();
    renew(&path);
    said(&world.omnivisor(&["reexec", "--home", world.installation.home().to_str().unwrap()]));
    assert_eq!(world.status().unwrap()["supervisor"], supervised.pid());
    assert_eq!(world.log().running().iter().map(|it| Life::of(it.pid)).collect::<Vec<_>>(), lives);
    world.publish(NEW, &omnivisor_testkit::VegaBehaviour::new(NEW));
    world.accept(NEW);
    world.reach();
    world.wait_for(NEW);
    world.log().assert_never_double();
}

#[test]
fn what_cannot_take_over_is_refused_and_everything_goes_on() {
    let it = Replaceable::new();
    let supervised = it.run("");
    let life = Life::of(it.world.wait_for("1.0.0"));
    let script = it.path.with_file_name("script");
    executable::script(&script, "#!/bin/sh\necho '{}'\n");
    let cut = it.path.with_file_name("cut");
    fs::write(&cut, &fs::read(omnivisor_exe()).unwrap()[..5000]).unwrap();
    fs::set_permissions(&cut, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (with, why) in [
        ("/nowhere/omnivisor", "/nowhere/omnivisor cannot be opened"),
        ("/bin/true", "/bin/true cannot take over: it does not say that it is omnivisor"),
        ("/bin/false", "/bin/false cannot take over: it ended with exit code 1"),
        (cut.to_str().unwrap(), "cannot take over: it"),
        (script.to_str().unwrap(), "cannot take over: it"),
    ] {
        refused(&it.reexec(&["--with", with]), why);
    }
    // The configuration has become one that cannot be used: then nobody could begin.
    let config = it.world.installation.config();
    let good = fs::read_to_string(&config).unwrap();
    fs::write(&config, "nonsense").unwrap();
    refused(&it.reexec(&[]), "cannot take over: it ended with exit code 1: Error: cannot use the configuration");
    fs::write(&config, good).unwrap();
    assert_eq!(it.supervisor(), u64::from(supervised.pid()));
    assert_eq!(Life::of(it.world.wait_for("1.0.0")), life);
    assert_eq!(it.history().lines().count(), 2, "nothing was recorded: {}", it.history());
}

#[test]
fn one_that_gives_no_answer_is_refused_after_its_time() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release does not misbehave");
    }
    let it = Replaceable::new();
    let supervised = it.run("check:hang");
    let life = Life::of(it.world.wait_for("1.0.0"));
    let mut waiting = it.command(&["reexec"]).stderr(Stdio::piped()).spawn().unwrap();
    // The node is supervised meanwhile, and there is one replacement at a time.
    wait_until("it is asked", SOON, || supervised.stderr().contains("is asked whether").then_some(()));
    refused(&it.reexec(&["--with", "/bin/true"]), "a replacement is under way already");
    wait_until("it is given up", SOON, || waiting.try_wait().unwrap());
    refused(&waiting.wait_with_output().unwrap(), "it did not end within 10s");
    assert_eq!(Life::of(it.world.wait_for("1.0.0")), life);
}

#[test]
fn one_that_goes_wrong_when_it_takes_over_leaves_the_old_one_in_charge() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release does not misbehave");
    }
    let cases = [
        ("hang", "it had not begun within 5s", true),
        ("panic", "it panicked", true),
        ("exit", "it ended before it had begun", false),
        ("abort", "it ended before it had begun", false),
    ];
    std::thread::scope(|scope| {
        for (how, why, in_place) in cases {
            scope.spawn(move || goes_wrong(how, why, in_place));
        }
    });
}

fn goes_wrong(how: &str, why: &str, in_place: bool) {
    let it = Replaceable::new();
    let mut supervised = it.run(&format!("replacement:{how}"));
    let life = Life::of(it.world.wait_for("1.0.0"));
    let old = inode(&it.path);
    renew(&it.path);
    refused(&it.reexec(&[]), why);
    let supervisor = u32::try_from(it.supervisor()).unwrap();
    assert_eq!(supervisor == supervised.pid(), in_place, "{how}");
    assert_eq!(inode(format!("/proc/{supervisor}/exe")), old, "{how}: the old one, although it is deleted");
    assert_eq!(Life::of(it.world.wait_for("1.0.0")), life, "{how}");
    let history = it.history();
    assert!(history.lines().last().unwrap().contains("goes on: 0.1.0 was to replace it and failed"), "{history}");
    assert_eq!(history.lines().count(), 3, "{history}");
    assert!(supervised.stderr().contains("was to take over and failed"), "{}", supervised.stderr());
    let left: Vec<u32> = children(supervisor).into_iter().filter(|pid| *pid != life.pid).collect();
    wait_until(&format!("{how}: no guardian is left of {left:?}"), SOON, || {
        children(supervisor).iter().all(|pid| *pid == life.pid).then_some(())
    });
    // It is as able as before.
    it.world.publish("2024.2", &Behaviour::new("2.0.0"));
    it.world.wait_for_commit("2.0.0");
    let asked = Instant::now();
    assert_eq!(it.command(&["stop"]).output().unwrap().status.code(), Some(0));
    wait_until("it has ended", SOON, || it.world.log().running().is_empty().then_some(()));
    wait_until("and its supervisor", SOON, || (!Path::new(&format!("/proc/{supervisor}/exe")).exists()).then_some(()));
    assert!(asked.elapsed() < Duration::from_secs(8), "{how}: {:?}: it waits for nobody", asked.elapsed());
    if in_place {
        assert_eq!(supervised.wait(SOON).code(), Some(0));
    }
    it.world.log().assert_never_double();
}

#[test]
fn while_an_upgrade_is_at_work_it_is_refused() {
    let it = Replaceable::new();
    let _supervised = it.run("");
    let info = it.world.publish("stalls", &Behaviour::new("2.0.0"));
    it.world
        .upstream
        .serve("/download/stalls", omnivisor_testkit::Answer::Stall { after_bytes: 1000, of_bytes: 1_000_000 });
    it.world.upstream.serve(crate::world::ANNOUNCEMENT, omnivisor_testkit::Answer::Json(info));
    wait_until("the download has begun", SOON, || it.world.upstream.last_request("/download/stalls"));
    refused(&it.reexec(&[]), "an upgrade is at work");
}

#[test]
fn a_signal_at_any_instant_of_it_ends_the_node_and_the_run() {
    let tries: u64 = if std::env::var_os("OMNIVISOR_LONG").is_some() { 100 } else { 10 };
    let (next, came) = (AtomicU64::new(0), [const { AtomicU64::new(0) }; 3]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= tries {
                        return;
                    }
                    // All of it takes some hundred milliseconds: every part of that is hit.
                    let after = Duration::from_micros(number * 600_000 / tries + number * 7919 % 5000);
                    came[signalled(after)].fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    let [before, between, behind] = came.map(AtomicU64::into_inner);
    println!("{tries} signals were heard: {before} while it was asked, {between} in the exec, {behind} after it");
}

#[test]
fn a_signal_that_came_before_the_exec_is_heard_after_it() {
    let it = Replaceable::new();
    let mut supervised = it.run("");
    let (silent, mut order) = it.leave(&supervised);
    supervised.signal(SIGTERM);
    drop(silent);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert!(it.world.log().running().is_empty());
    let said = supervised.stderr();
    assert!(said.contains("in the place of omnivisor") && said.contains("SIGTERM"), "{said}");
    order.kill().ok();
    order.wait().unwrap();
}

#[test]
fn a_signal_to_one_that_hangs_is_heard_by_the_one_that_goes_on() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release does not misbehave");
    }
    let it = Replaceable::new();
    let mut supervised = it.run("replacement:hang");
    renew(&it.path);
    let mut order = it.quiet(&["reexec"]);
    let exe = format!("/proc/{}/exe", supervised.pid());
    wait_until("the new one is executed", SOON, || (inode(&exe) == inode(&it.path)).then_some(()));
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert!(it.world.log().running().is_empty());
    order.kill().ok();
    order.wait().unwrap();
}

#[test]
fn one_that_cannot_be_executed_in_the_end_changes_nothing() {
    let it = Replaceable::new();
    let supervised = it.run("");
    let life = Life::of(it.world.wait_for("1.0.0"));
    renew(&it.path);
    let (silent, mut order) = it.leave(&supervised);
    fs::set_permissions(&it.path, std::os::unix::fs::PermissionsExt::from_mode(0o0)).unwrap();
    drop(silent);
    let status = it.world.wait_for_status("it goes on", |status| status["replacement"]["failed"].is_string());
    assert_eq!(status["replacement"]["failed"], "it cannot be executed: Permission denied (os error 13)");
    assert_eq!(it.supervisor(), u64::from(supervised.pid()));
    assert_eq!(Life::of(it.world.wait_for("1.0.0")), life);
    let ended = wait_until("the order is answered", SOON, || order.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
}

/// Whether the signal came before the run was left, in between, or when the new image had begun.
fn signalled(after: Duration) -> usize {
    let it = Replaceable::new();
    let mut supervised = it.run("");
    let mut order = it.quiet(&["reexec"]);
    std::thread::sleep(after); // an instant is what is wanted
    let said = supervised.stderr();
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0), "{after:?}: {}", supervised.stderr());
    assert!(it.world.log().running().is_empty(), "{after:?}");
    assert_eq!(it.world.log().of("exit").len(), 1, "{after:?}: the node ended as it was asked to");
    order.kill().ok();
    order.wait().unwrap();
    ["takes over; the node runs on", "in the place of"].iter().filter(|words| said.contains(*words)).count()
}
