//! Whatever takes a question and gives no answer is given up at last, and whatever is too large is never taken whole.

use std::time::Duration;

use omnivisor_testkit::{Answer, FakeGitHub, VegaBehaviour, VersionAnswer, wait_until};

use super::calm::Calm;
use super::world::{ASSET, NEW, World, installing};

/// The longest time-out of a transfer is 30 s.
const AT_LAST: Duration = Duration::from_secs(90);

/// What a debug build takes for itself is some 30 MB.
const MOST_MEMORY_KIB: u64 = 90_000;

/// Announces it while it hangs, waits until that is said, mends it, and switches.
fn check(what: &str, words: &[&str], hangs: impl FnOnce(&World)) {
    let mut calm = Calm::begin(World::with(installing().with_data_node()));
    hangs(&calm.world);
    calm.world.accept(NEW);
    wait_until(&format!("{words:?} is said of {what}"), AT_LAST, || {
        let said = calm.supervised.stdout();
        said.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
    });
    calm.undisturbed(what);
    calm.world.github.mend_api();
    calm.world.publish(NEW, &VegaBehaviour::new(NEW));
    // The next try may have begun already, and hangs for as long.
    wait_until("it is prepared", AT_LAST, || {
        calm.world.status().filter(|status| status["upgrade"]["phase"] == "staged").map(drop)
    });
    calm.wait_until_staged(NEW);
    calm.switches_to(NEW);
}

// V11, V21
#[test]
fn whatever_hangs_is_given_up_while_the_node_runs_and_tried_again() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            check("a server that stalls", &["tried again", "operation timed out"], |world| {
                let asset = world.installation.asset(&VegaBehaviour::new(NEW));
                world.github.publish(NEW, &[(ASSET, &asset, true)]);
                let of_bytes = asset.len() as u64;
                let stall = Answer::Stall { after_bytes: 100_000, of_bytes };
                world.github.web.serve(&FakeGitHub::storage_path(NEW, ASSET), stall);
            });
        });
        scope.spawn(|| {
            check("an API that hangs", &["the usual address is taken"], |world| {
                world.publish(NEW, &VegaBehaviour::new(NEW));
                world.github.api.serve_instead(Some(Answer::Hang));
            });
        });
        scope.spawn(|| {
            check("an executable that hangs", &["tried again", "did not end within 20s"], |world| {
                let version_answer = VersionAnswer::Hang;
                world.publish(NEW, &VegaBehaviour { version_answer, ..VegaBehaviour::new(NEW) });
            });
        });
        scope.spawn(|| {
            check("an executable that never stops talking", &["tried again", "printed more than 64 KiB"], |world| {
                let version_answer = VersionAnswer::Huge;
                world.publish(NEW, &VegaBehaviour { version_answer, ..VegaBehaviour::new(NEW) });
            });
        });
    });
}

// V21
#[test]
fn a_large_asset_is_never_held_in_memory() {
    let mut calm = Calm::begin(World::with(installing()));
    calm.check("200 MB of nothing", &["tried again", "neither an ELF executable nor a script"], |world| {
        world.github.publish(NEW, &[(ASSET, &vec![0; 200_000_000], true)]);
        world.accept(NEW);
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", calm.supervised.pid())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let most: u64 = most.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(most < MOST_MEMORY_KIB, "{most} KiB");
    calm.world.publish(NEW, &VegaBehaviour::new(NEW));
    calm.wait_until_staged(NEW);
    calm.switches_to(NEW);
}
