//! What never ends by itself is ended, without a restart and without the node noticing. Slow: the real time-outs run out.

use omnivisor_testkit::{Answer, Behaviour, BuildInfoAnswer, wait_until};

use super::{AT_LAST, Calm, announced};
use crate::world::{ANNOUNCEMENT, timestamp};

/// Three worlds wait at once, so that the time-outs run out side by side.
#[test]
fn whatever_hangs_is_given_up_and_what_is_right_afterwards_is_followed() {
    let (mut upstream, mut download, mut binary) = (Calm::new(), Calm::new(), Calm::new());
    let now = timestamp(std::time::Duration::ZERO);

    // Once only: the poll after it would hang for as long again.
    let hang = Answer::Sequence(vec![Answer::Hang, Answer::Status(503, Vec::new())]);
    upstream.world.upstream.serve(ANNOUNCEMENT, hang);
    let executable = download.world.minted(&Behaviour::new("2.0.0"));
    let info = announced(&download.world, "2024.2", "2.0.0", &now, &executable);
    let stall = Answer::Stall { after_bytes: 100_000, of_bytes: 1_000_000 };
    download.world.upstream.serve("/download/2024.2", stall);
    download.world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
    binary.world.publish("hangs", &Behaviour { build_info: BuildInfoAnswer::Hang, ..Behaviour::new("2.0.0") });

    for (calm, what, words) in [
        (&mut binary, "a binary that hangs", ["the upgrade failed", "build information", "did not end within 20s"]),
        (&mut upstream, "an upstream that hangs", ["upstream cannot be asked", ANNOUNCEMENT, "timed out"]),
        (&mut download, "a download that stalls", ["tried again", "/download/2024.2", "timed out"]),
    ] {
        wait_until(what, AT_LAST, || {
            let said = calm.supervised.stderr();
            said.lines().find(|line| words.iter().all(|word| line.contains(word))).map(|_| ())
        });
        calm.undisturbed(what);
    }
    // The very same announcement, from the same place.
    download.world.upstream.serve("/download/2024.2", Answer::File(executable));
    download.world.wait_for_commit("2.0.0");
    upstream.follows_a_good_one("2.0.0");
    binary.follows_a_good_one("2.1.0");
}
