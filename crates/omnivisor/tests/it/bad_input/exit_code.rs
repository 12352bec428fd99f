//! How a run ends when nobody ends it.

use omnivisor_testkit::{Behaviour, Options};

use super::impatient;
use crate::world::{SOON, World};

#[test]
fn the_exit_code_says_how_the_node_ended() {
    let dies = |exit_code| Behaviour { exit_after_ms: Some(20), exit_code, ..Behaviour::new("1.0.0") };
    let restarts = |restart_on_failure| Options {
        restart_on_failure,
        failure_restart_delay: "20ms".to_owned(),
        max_startup_failures: 3,
        startup_period_duration: "30s".to_owned(),
        ..impatient()
    };
    let signal = Behaviour { die_of_signal: Some(9), ..Behaviour::new("1.0.0") };
    for (what, behaviour, options, code, starts, words) in [
        ("it is done", dies(0), restarts(true), 0, 1, "ended by itself with exit code 0"),
        ("it is done, without restarts", dies(0), restarts(false), 0, 1, "ended by itself with exit code 0"),
        ("it fails for ever", dies(3), restarts(true), 11, 3, "exit code 3 and is not started again"),
        ("it is killed for ever", signal, restarts(true), 11, 3, "signal 9 and is not started again"),
        ("it fails, without restarts", dies(3), restarts(false), 10, 1, "exit code 3 and is not started again"),
    ] {
        let world = World::with(behaviour, options);
        let mut supervised = world.start();
        assert_eq!(supervised.wait(SOON).code(), Some(code), "{what}");
        assert_eq!(world.log().starts().len(), starts, "{what}");
        assert!(supervised.stderr().contains(words), "{what}: {}", supervised.stderr());
    }
}
