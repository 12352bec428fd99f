//! What never ends by itself is ended, without a restart and without the node noticing. Slow: the real time-outs run out.

use omnivisor_testkit::{Answer, Behaviour, BuildInfoAnswer, Options, wait_until};

use super::{AT_LAST, Calm, announced, impatient};
use crate::world::{ANNOUNCEMENT, World, timestamp};

/// Four worlds wait at once, so that the time-outs run out side by side.
#[test]
fn whatever_hangs_is_given_up_and_what_is_right_afterwards_is_followed() {
    let (mut upstream, mut download, mut binary) = (Calm::new(), Calm::new(), Calm::new());
    let now = timestamp(std::time::Duration::ZERO);

    // N38: what is installed does not say who it is, and nothing was ever run here.
    let hangs = |version| Behaviour { build_info: BuildInfoAnswer::Hang, ..Behaviour::new(version) };
    let build_info = Some(hangs("1.0.0").details());
    let adopts = World::with(hangs("1.0.0"), Options { build_info, ..impatient() });
    let mut adopting = adopts.start();

    // Once only: what is tried after it would hang for as long again.
    let once = |answer| Answer::Sequence(vec![answer, Answer::Status(503, Vec::new())]);
    upstream.world.upstream.serve(ANNOUNCEMENT, once(Answer::Hang));
    let executable = download.world.minted(&Behaviour::new("2.0.0"));
    let info = announced(&download.world, "2024.2", "2.0.0", &now, &executable);
    let stall = Answer::Stall { after_bytes: 100_000, of_bytes: 1_000_000 };
    download.world.upstream.serve("/download/2024.2", once(stall));
    download.world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
    binary.world.publish("hangs", &hangs("2.0.0"));

    assert_eq!(adopting.wait(AT_LAST).code(), Some(1), "{}", adopting.stderr());
    let genesis = adopts.installation.binary("genesis");
    let said = adopting.stderr();
    for words in
        ["there is no release to run", genesis.to_str().unwrap(), "build information", "did not end within 20s"]
    {
        assert!(said.contains(words), "{words} in {said}");
    }
    assert!(adopts.log().starts().is_empty());

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
