//! What the supervisor does to its own signals is no business of what it starts.

use std::fs;

use omnivisor_testkit::{Behaviour, executable, wait_until};

use crate::world::{SOON, World, omnivisor_exe};

const SIGTERM: i32 = 15;

#[test]
fn what_is_started_blocks_and_ignores_no_signal() {
    let world = World::new();
    let folder = world.sandbox.path().to_owned();
    // Both kinds of children: the one that is asked who it is, and the node.
    let seen = |name: &str| folder.join(name);
    let text = format!(
        "#!/bin/sh\nsignals() {{ grep ^Sig /proc/self/status > '{folder}/'$1.new; mv '{folder}/'$1.new '{folder}/'$1; }}\n\
         for it in \"$@\"; do if [ \"$it\" = build-info ]; then signals asked; echo '{info}'; exit 0; fi; done\n\
         signals node\ntrap 'echo > {folder}/ended; exit 0' INT\nwhile :; do sleep 0.05; done\n",
        folder = folder.display(),
        info = Behaviour::new("1.0.0").details(),
    );
    executable::script(&world.installation.binary("genesis"), &text);
    // As `nohup` and a background job of a shell start it.
    let mut command = world.sandbox.omnivisor("/bin/sh".as_ref(), "sh");
    command.args(["-c", "trap '' HUP INT QUIT; exec \"$0\" nym run run --home \"$1\""]);
    command.arg(omnivisor_exe()).arg(world.installation.daemon_home());
    let mut supervised = world.sandbox.spawn(command);
    for name in ["asked", "node"] {
        let status = wait_until(name, SOON, || fs::read_to_string(seen(name)).ok());
        for mask in ["SigBlk:", "SigIgn:"] {
            let line = status.lines().find_map(|line| line.strip_prefix(mask)).unwrap();
            let signals = u64::from_str_radix(line.trim(), 16).unwrap();
            // Those above are the C library's own, and whoever runs the tests may ignore one.
            assert_eq!(signals & 0x7fff_ffff, 0, "{name} has {mask}{line}");
        }
    }
    supervised.signal(SIGTERM);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert!(seen("ended").exists(), "the node heard that it was to end");
}
