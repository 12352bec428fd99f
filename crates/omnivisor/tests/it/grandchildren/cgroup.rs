//! A cgroup that is delegated to the supervisor: it tells of those that nothing else betrays.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use omnivisor_testkit::{Grandchild, Supervised, wait_until};
use rustix::fs::{XattrFlags, setxattr};
use rustix::process::{Pid, Signal, kill_process};

use super::{escaped, left, wait_for_grandchild, world_with};
use crate::world::{SOON, World, omnivisor_exe};

const SIGTERM: i32 = 15;

/// A mount namespace with a cgroup hierarchy in it, and a cgroup of this test's own.
struct Hierarchy {
    keeper: Child,
    /// The test's cgroup, as it is called in that namespace.
    folder: PathBuf,
}

impl Hierarchy {
    /// None, with a word, where this process may not make one.
    fn new(world: &World, delegated: bool) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: not root");
            return None;
        }
        let mount = world.sandbox.path().join("hierarchy");
        fs::create_dir(&mount).unwrap();
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg("mount -t cgroup2 none \"$0\" && mkdir \"$0/$1\" && exec cat")
            .arg(&mount)
            .arg(format!("omnivisor-test-{}-{delegated}", std::process::id()))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let folder = mount.join(format!("omnivisor-test-{}-{delegated}", std::process::id()));
        let is_there = |keeper: &Child| seen_by(keeper, &folder).join("cgroup.procs").exists();
        let made = wait_until("the hierarchy", SOON, || {
            let ended = keeper.try_wait().unwrap().is_some();
            (ended || is_there(&keeper)).then_some(!ended)
        });
        if !made {
            eprintln!("skipped: no cgroups can be made here");
            return None;
        }
        let hierarchy = Self { keeper, folder };
        if delegated {
            let folder = seen_by(&hierarchy.keeper, &hierarchy.folder);
            if let Err(error) = setxattr(folder, "user.delegate", b"1", XattrFlags::empty()) {
                eprintln!("skipped: this kernel's cgroups have no attributes ({error})");
                return None;
            }
        }
        Some(hierarchy)
    }

    /// The supervisor of this world, within.
    fn start(&self, world: &World) -> Supervised {
        let mut command = world.sandbox.omnivisor(Path::new("nsenter"), "nsenter");
        command.env("OMNIVISOR_RETRY_DELAY", "200ms").env("OMNIVISOR_RETRY_MOST", "1s");
        command.arg("--mount").arg("--target").arg(self.keeper.id().to_string());
        command.args(["sh", "-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&self.folder);
        command.arg(omnivisor_exe()).args(["nym", "run", "run", "--home"]).arg(world.installation.daemon_home());
        world.sandbox.spawn(command)
    }

    /// What was made below the test's cgroup.
    fn below(&self) -> Vec<String> {
        let entries = fs::read_dir(seen_by(&self.keeper, &self.folder)).unwrap().flatten();
        let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        folders.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        let folder = seen_by(&self.keeper, &self.folder);
        fs::write(folder.join("cgroup.kill"), "1").ok();
        let remove = || {
            for below in fs::read_dir(&folder).into_iter().flatten().flatten() {
                fs::remove_dir(below.path()).ok();
            }
            fs::remove_dir(&folder).is_ok()
        };
        let begun = std::time::Instant::now();
        while folder.exists() && !remove() && begun.elapsed() < SOON {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        self.keeper.kill().ok();
        self.keeper.wait().ok();
    }
}

fn seen_by(keeper: &Child, path: &Path) -> PathBuf {
    Path::new(&format!("/proc/{}/root", keeper.id())).join(path.strip_prefix("/").unwrap())
}

/// Neither its group, its environment nor its descriptors say whose it is, and its parent is gone.
fn unknown() -> Grandchild {
    Grandchild { no_descriptors: true, ignore_term: true, ..escaped() }
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn what_hides_from_everything_else_is_found_in_the_cgroup_by_the_next_supervisor() {
    let world = world_with(unknown());
    let Some(hierarchy) = Hierarchy::new(&world, true) else { return };
    let mut first = hierarchy.start(&world);
    let pid = world.wait_for("1.0.0");
    wait_for_grandchild(&world, false);
    let group = hierarchy.below();
    assert!(matches!(group.as_slice(), [only] if only.starts_with("omnivisor-node-nym-node-default-")), "{group:?}");
    let launch = world.installation.instance_dir().join("data/omnivisor/launch.json");
    assert!(fs::read_to_string(launch).unwrap().contains(&group[0]));

    // Beside a node that is alive: taken over, and it ends with that.
    first.kill9();
    let mut second = hierarchy.start(&world);
    world.wait_for_status("the node is known", |status| status["node"]["pid"] == pid);
    second.signal(SIGTERM);
    assert_eq!(second.wait(SOON).code(), Some(0), "{}", second.stderr());
    assert_eq!(left(&world), Vec::<i32>::new(), "{}", second.stderr());
    assert_eq!(hierarchy.below(), Vec::<String>::new(), "nothing is left of it");

    // And alone: it ends before another node is started.
    let mut third = hierarchy.start(&world);
    let pid = world.wait_for("1.0.0");
    wait_until("its grandchild", SOON, || (world.log().of("grandchild").len() == 2).then_some(()));
    let stray = wait_until("only one", SOON, || left(&world).first().copied().filter(|_| left(&world).len() == 1));
    third.kill9();
    kill(pid);
    let fourth = hierarchy.start(&world);
    wait_until("another one is started", SOON, || (world.log().starts().len() == 3).then_some(()));
    assert!(!left(&world).contains(&stray), "{}", fourth.stderr());
    assert!(fourth.stderr().contains("are ended first"), "{}", fourth.stderr());
    world.log().assert_never_double();
    drop((fourth, hierarchy));
}

#[test]
fn a_hierarchy_that_is_not_delegated_is_left_alone() {
    let world = world_with(Grandchild::default());
    let Some(hierarchy) = Hierarchy::new(&world, false) else { return };
    let mut supervised = hierarchy.start(&world);
    world.wait_for("1.0.0");
    assert_eq!(hierarchy.below(), Vec::<String>::new());
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    drop((supervised, hierarchy));
}
