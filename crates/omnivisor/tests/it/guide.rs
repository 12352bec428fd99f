//! The commands of the guide for operators of Nymvisor, run as they are written there: the way in, the way back, and in again.

use std::path::Path;
use std::process::Command;

use omnivisor_testkit::{Behaviour, executable, wait_until};

use crate::world::{SOON, World, omnivisor_exe};

const GUIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/nymvisor.md");

/// Stands for Nymvisor: runs what `current` names and ends it with a SIGINT.
const PEER: &str = "#!/bin/sh\n\"$DATA/current/bin/nym-node\" \"$@\" &\nnode=$!\n\
    trap 'kill -INT $node; wait $node; exit 0' INT TERM\nwait $node\n";

/// Stands for the service manager, with one unit: `nymvisor run run`.
const SYSTEMCTL: &str = "#!/bin/sh -eu\ncase $1 in\n\
    start) setsid nymvisor run run >>\"$UNIT.log\" 2>&1 </dev/null & echo $! >\"$UNIT\" ;;\n\
    stop) kill \"$(cat \"$UNIT\")\"; while kill -0 \"$(cat \"$UNIT\")\" 2>/dev/null; do sleep 0.02; done ;;\nesac\n";

/// The block of this name, as it is written.
fn block(guide: &str, name: &str) -> String {
    let from = guide.find(&format!("<!-- tested: {name} -->\n```sh\n")).unwrap_or_else(|| panic!("no block {name}"));
    let text = guide[from..].split_once("```sh\n").unwrap().1;
    text.split_once("```").unwrap().0.to_owned()
}

struct Shell<'a> {
    world: &'a World,
    /// What the blocks before have set: the shell of a reader stays open.
    said: String,
}

impl Shell<'_> {
    fn run(&mut self, text: &str) -> String {
        let (world, bin) = (self.world, self.world.sandbox.path().join("bin"));
        let mut command: Command = world.sandbox.omnivisor(Path::new("/bin/sh"), "sh");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        command.args(["-eu", "-c", &format!("{}{text}", self.said)]).env("PATH", path);
        command.env("UNIT", world.sandbox.path().join("unit")).env("DATA", world.installation.data());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}\n{said}{}", String::from_utf8_lossy(&output.stderr));
        self.said +=
            &text.lines().filter(|line| is_assignment(line)).map(|line| format!("{line}\n")).collect::<String>();
        said
    }
}

fn is_assignment(line: &str) -> bool {
    line.split_once('=').is_some_and(|(name, _)| name.chars().all(|letter| letter.is_ascii_uppercase()))
}

#[test]
fn the_commands_of_the_guide_lead_in_and_back_and_in_again() {
    let guide = std::fs::read_to_string(GUIDE).unwrap();
    let world = World::new();
    let bin = world.sandbox.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    executable::script(&bin.join("nymvisor"), PEER);
    executable::script(&bin.join("systemctl"), SYSTEMCTL);
    let mut shell = Shell { world: &world, said: String::new() };
    shell.run("systemctl start nymvisor");
    let first = world.wait_for("1.0.0");

    // The two places that a reader has to fill in.
    let look = block(&guide, "look");
    let (usual_bin, usual_exe) = ("BIN=/usr/local/bin ", "OMNIVISOR=$PWD/target/release/omnivisor ");
    assert!(look.contains(usual_bin) && look.contains(usual_exe), "{look}");
    let look = look.replace(usual_bin, &format!("BIN={} ", bin.display()));
    let look = look.replace(usual_exe, &format!("OMNIVISOR={} ", omnivisor_exe().display()));
    let said = shell.run(&look);
    assert!(said.contains("release     1.0.0 (genesis)") && said.contains("Nothing was changed."), "{said}");
    assert_eq!(world.wait_for("1.0.0"), first, "it was not disturbed");

    let said = shell.run(&block(&guide, "in"));
    assert!(said.contains("id:                                nym-node-default\n"), "{said}");
    world.wait_for_status("it runs", |status| status["node"]["state"] == "running");
    let said = shell.run(&block(&guide, "look again"));
    assert!(said.contains("release     1.0.0 (genesis)"), "{said}");
    world.publish("2024.2", &Behaviour::new("2.0.0"));
    world.wait_for_commit("2.0.0");
    world.wait_for_status("it is idle", |status| status["upgrade"]["phase"] == "idle");

    let said = shell.run(&block(&guide, "back"));
    assert!(said.contains("upgrade     idle"), "{said}");
    assert_eq!(world.installation.assert_nymvisor_would_start(), "2.0.0");
    let peers = world.wait_for("2.0.0");
    assert!(world.status().is_none(), "that is Nymvisor's node");

    let said = shell.run(&block(&guide, "in again"));
    assert!(said.contains("release     2.0.0 (2024.2)"), "{said}");
    wait_until("it is ours again", SOON, || world.status().filter(|status| status["node"]["state"] == "running"));
    assert_ne!(world.wait_for("2.0.0"), peers);
    shell.run("systemctl stop nymvisor");
    assert!(world.log().running().is_empty());
    world.log().assert_never_double();
}

/// Every block with commands is one that the test above runs.
#[test]
fn the_guide_shows_no_command_that_is_not_tested() {
    let guide = std::fs::read_to_string(GUIDE).unwrap();
    let blocks = guide.matches("```sh\n").count();
    let tested = ["look", "in", "look again", "back", "in again"];
    assert_eq!(blocks, tested.len());
    tested.iter().for_each(|name| assert!(!block(&guide, name).is_empty()));
}

/// Every test that the guide names is there, under that name.
#[test]
fn each_promise_of_nymvisors_documentation_names_tests_that_exist() {
    let guide = std::fs::read_to_string(GUIDE).unwrap();
    let (_, promises) = guide.split_once("| it promises | shown by |\n|---|---|\n").unwrap();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("../omnivisor-core/tests");
    let rows: Vec<&str> = promises.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 40, "{} promises", rows.len());
    for row in rows {
        let shown_by = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for name in shown_by.split(", ") {
            let (crate_name, path) = name.trim_matches('`').split_once(' ').unwrap_or_else(|| panic!("{row}"));
            let (module, test) = path.rsplit_once("::").unwrap_or_else(|| panic!("{row}"));
            let module = format!("{}.rs", module.replace("::", "/"));
            let file = match crate_name {
                "it" => tests.join("it").join(module),
                "core" => core.join(module),
                other => panic!("{other} in {row}"),
            };
            let source = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert!(source.contains(&format!("#[test]\nfn {test}(")), "{} has no test {test}", file.display());
        }
    }
}
