//! Signals to the node, questions to executables, and counting failures.

use std::os::unix::process::CommandExt;
use std::time::Duration;

use omnivisor_testkit::{
    Behaviour, BuildInfoAnswer, Grandchild, Installation, Options, Sandbox, Upstream, executable, wait_until, wire,
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::running_pid;
use crate::world::{SOON, World, options};

/// A node that takes a while to stop, so that whoever wants to ask it twice can.
fn slow_to_stop() -> Behaviour {
    Behaviour { linger_ms: 400, ..Behaviour::new("1.0.0") }
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed()).unwrap()
}

/// N37: Ctrl-C on a terminal is a SIGINT to everybody in its foreground group.
#[test]
fn a_signal_to_the_supervisors_whole_group_reaches_the_node_once() {
    for signal in [Signal::INT, Signal::TERM, Signal::QUIT] {
        let world = World::with(slow_to_stop(), options());
        let mut command = world.run_command();
        command.process_group(0);
        let mut supervised = world.sandbox.spawn(command);
        let node = world.wait_for("1.0.0");
        kill_process_group(pid(supervised.pid()), signal).unwrap();
        assert_eq!(supervised.wait(SOON).code(), Some(0), "{signal:?}");
        assert_eq!(world.log().signals_of(node), [Signal::INT.as_raw()], "{signal:?}");
        assert_eq!(world.log().of("exit").len(), 1, "it was waited for");
    }
}

/// N37: `systemctl stop` with the usual `KillMode` is a SIGTERM to each process of the unit.
#[test]
fn a_sigterm_to_everybody_is_one_sigint_to_the_node() {
    let world = World::with(Behaviour { linger_ms: 1500, ..Behaviour::new("1.0.0") }, options());
    let mut supervised = world.run();
    let node = world.wait_for("1.0.0");
    for process in [supervised.pid(), node] {
        kill_process(pid(process), Signal::TERM).unwrap();
    }
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    let mut signals = world.log().signals_of(node);
    signals.sort_unstable();
    assert_eq!(signals, [Signal::INT.as_raw(), Signal::TERM.as_raw()], "what it was sent, and what it is asked with");
    assert!(world.log().running().is_empty());
}

/// N37, V23
#[test]
fn what_the_node_started_ends_with_it_on_a_stop() {
    for ignore_term in [false, true] {
        let grandchild = Some(Grandchild { ignore_term, ..Grandchild::default() });
        let node = Behaviour { grandchild, ..Behaviour::new("1.0.0") };
        let world = World::with(node, Options { shutdown_grace_period: "500ms".to_owned(), ..options() });
        let mut supervised = world.run();
        wait_until("a grandchild", SOON, || (world.log().grandchildren().len() == 1).then_some(()));
        supervised.signal(15);
        assert_eq!(supervised.wait(SOON).code(), Some(0));
        assert!(world.log().grandchildren().is_empty(), "ignores SIGTERM: {ignore_term}");
        assert_eq!(world.log().signals_of(world.log().starts()[0].pid), [Signal::INT.as_raw()]);
    }
}

/// N38: a stop while an executable is asked leaves no process behind.
#[test]
fn an_executable_that_does_not_answer_is_ended_with_whoever_asks_it() {
    let hangs = Behaviour { build_info: BuildInfoAnswer::Hang, ..Behaviour::new("2.0.0") };
    let world = World::new();
    let mut supervised = world.run();
    let node = running_pid(&world.log());
    world.publish("up1", &hangs);
    let asked = || {
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let program = std::fs::read_link(entry.path().join("exe")).ok()?;
            let below = program.starts_with(world.installation.data().join("upgrades"));
            below.then(|| entry.file_name().to_string_lossy().into_owned())
        })
    };
    wait_until("it is asked", SOON, || asked().next());
    supervised.signal(15);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert_eq!(asked().collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(world.log().signals_of(node), [Signal::INT.as_raw()]);
}

/// N51
#[test]
fn a_failure_after_a_long_run_does_not_count() {
    let dies = |after| Behaviour { exit_after_ms: Some(after), exit_code: 1, ..Behaviour::new("1.0.0") };
    let once = Options {
        max_startup_failures: 1,
        startup_period_duration: "200ms".to_owned(),
        failure_restart_delay: "10ms".to_owned(),
        ..options()
    };
    let world = World::with(dies(500), once.clone());
    let mut supervised = world.run();
    wait_until("four starts", SOON, || (world.log().starts().len() >= 4).then_some(()));
    assert_eq!(supervised.try_wait(), None, "{}", supervised.stderr());
    let world = World::with(dies(1), Options { startup_period_duration: "1m".to_owned(), ..once });
    let mut supervised = world.run();
    assert_eq!(supervised.wait(Duration::from_secs(30)).code(), Some(11), "one at the start is one too many");
    assert_eq!(world.log().starts().len(), 1);
}

/// N51: a node that dies at once and late, by turns.
#[test]
fn a_long_run_takes_the_failures_before_it_off_the_count() {
    let (sandbox, upstream) = (Sandbox::new(), Upstream::http());
    let details = wire::compact(&Behaviour::new("1.0.0").details());
    let node = sandbox.path().join("node");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *build-info*) echo '{details}'; exit 0;; esac\n\
         echo run >> \"$0.runs\"\n[ $(($(wc -l < \"$0.runs\") % 2)) = 1 ] || sleep 0.7\nexit 1\n"
    );
    executable::script(&node, &script);
    let twice = Options {
        max_startup_failures: 2,
        startup_period_duration: "400ms".to_owned(),
        failure_restart_delay: "10ms".to_owned(),
        ..options()
    };
    let installation = Installation::nymvisor_with(&sandbox, "nym-node-default", "nym-node", &node, &twice);
    let runs = installation.binary("genesis").with_file_name("nym-node.runs");
    let world = World { upstream, installation, sandbox };
    let mut supervised = world.start();
    wait_until("seven runs", SOON, || {
        assert_eq!(supervised.try_wait(), None, "{}", supervised.stderr());
        (std::fs::read_to_string(&runs).ok()?.lines().count() >= 7).then_some(())
    });
}
