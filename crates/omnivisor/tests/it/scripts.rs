//! Nodes that are scripts: what a killed Nymvisor has left of one is known by the script, and not by its interpreter.

use std::fs;
use std::path::Path;

use omnivisor_testkit::{Behaviour, Options, executable, wait_until};

use crate::world::{SOON, World, options};

/// A script that says who it is, and else notes its process and stays.
fn script(world: &World, interpreter: &str, to: &Path) {
    let pids = world.sandbox.path().join("pids");
    let text = format!(
        "#!{interpreter}\nfor it in \"$@\"; do if [ \"$it\" = build-info ]; then echo '{}'; exit 0; fi; done\n\
         trap 'exit 0' INT TERM\n(while :; do sleep 0.05; done) &\necho $$ >> '{}'\nwhile :; do sleep 0.05; done\n",
        Behaviour::new("1.0.0").details(),
        pids.display(),
    );
    executable::script(to, &text);
}

/// Every process of such a script that was ever started.
fn started(world: &World) -> Vec<u32> {
    let text = fs::read_to_string(world.sandbox.path().join("pids")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

/// A world whose node is such a script, which Nymvisor has started and left behind; and the node.
fn left_behind(interpreter: &str) -> (World, u32) {
    // What a shell starts in the background ignores SIGINT.
    let options = Options { shutdown_grace_period: "300ms".to_owned(), ..options() };
    let world = World::with(Behaviour::new("1.0.0"), options);
    script(&world, interpreter, &world.sandbox.path().join("script"));
    let binary = world.installation.binary("genesis");
    fs::rename(world.sandbox.path().join("script"), binary).unwrap();
    let mut peer = world.run_by_nymvisor("\"$0\" run & wait");
    let pid = wait_until("the node runs", SOON, || started(&world).first().copied());
    let output = world.omnivisor(&["stop"]);
    assert_eq!(output.status.code(), Some(1), "Nymvisor is at work");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is run by nymvisor"), "{output:?}");
    peer.kill9();
    assert!(is_alive(pid), "it is left behind");
    (world, pid)
}

/// What looks at a script, or changes it, is no node. This one waits for what comes before.
fn reader(world: &World) -> std::process::Child {
    let mut command = std::process::Command::new("cat");
    command.arg("-").arg(world.installation.binary("genesis"));
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap()
}

#[test]
fn a_script_that_nymvisor_has_left_is_stopped_whatever_became_of_its_file() {
    for interpreter in ["/bin/sh", "/bin/sh -u", "/usr/bin/env sh"] {
        for became in ["there", "deleted", "replaced"] {
            eprintln!("{interpreter}, {became}");
            let (world, pid) = left_behind(interpreter);
            let mut reader = reader(&world);
            let binary = world.installation.binary("genesis");
            match became {
                "deleted" => fs::remove_file(&binary).unwrap(),
                "replaced" => {
                    fs::remove_file(&binary).unwrap();
                    executable::copy(&world.minted(&Behaviour::new("1.0.0")), &binary);
                }
                _ => {}
            }
            let output = world.omnivisor(&["stop"]);
            let ended = reader.try_wait().unwrap();
            reader.kill().unwrap();
            reader.wait().unwrap();
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.contains(&format!("its node (process {pid})")), "{said}");
            wait_until("it is gone", SOON, || (!is_alive(pid)).then_some(()));
            assert_eq!(ended, None, "what reads the file is no node");
        }
    }
}

/// Else there would be two nodes.
#[test]
fn a_script_that_nymvisor_has_left_is_taken_over() {
    for interpreter in ["/bin/sh", "/usr/bin/env sh"] {
        let (world, pid) = left_behind(interpreter);
        let _supervised = world.start();
        world.wait_for_status("the node is known", |status| status["node"]["pid"] == pid);
        assert_eq!(started(&world), [pid]);
        assert_eq!(world.omnivisor(&["stop"]).status.code(), Some(0));
        wait_until("it is gone", SOON, || (!is_alive(pid)).then_some(()));
        assert_eq!(started(&world), [pid]);
    }
}
