//! A node that has to run on, whatever is wrong with the rest of the world.

use omnivisor_testkit::{Supervised, wait_until};

use super::world::{OLD, World, said};
use crate::world::SOON;

/// A supervised pair (or a core alone) of [`OLD`] that nobody may stop.
pub struct Calm {
    pub world: World,
    pub supervised: Supervised,
    pids: Vec<u32>,
}

impl Calm {
    /// Starts the supervisor of a world.
    pub fn begin(world: World) -> Self {
        let supervised = world.run();
        Self::with(world, supervised)
    }

    /// Takes a supervisor that was started already.
    pub fn with(world: World, supervised: Supervised) -> Self {
        world.wait_for(OLD);
        let pids = running(&world);
        Self { world, supervised, pids }
    }

    /// How much was said so far.
    pub fn so_far(&self) -> usize {
        self.supervised.stdout().len()
    }

    /// What was said after the first `before` bytes.
    pub fn said_since(&self, before: usize) -> String {
        self.supervised.stdout().get(before..).unwrap_or_default().to_owned()
    }

    /// Waits until a line after the first `before` bytes of what the supervisor says has all these words.
    #[track_caller]
    pub fn wait_for_line(&self, what: &str, before: usize, words: &[&str]) {
        wait_until(&format!("a line with {words:?} about {what}"), SOON, || {
            let said = self.said_since(before);
            said.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
        });
    }

    /// Does something wrong, and sees that one line about it has all these words, and that the node does not notice.
    #[track_caller]
    pub fn check(&mut self, what: &str, words: &[&str], wrong: impl FnOnce(&World)) {
        let before = self.so_far();
        wrong(&self.world);
        self.wait_for_line(what, before, words);
        self.undisturbed(what);
    }

    /// Sees that what ran at first still runs, and was never even asked to stop.
    #[track_caller]
    pub fn undisturbed(&mut self, what: &str) {
        assert_eq!(self.supervised.try_wait(), None, "{what}: the supervisor has ended: {}", said(&self.supervised));
        let log = self.world.log();
        assert_eq!(running(&self.world), self.pids, "{what}: other nodes run, or none: {:#?}", log.story());
        for pid in &self.pids {
            assert_eq!(log.signals_of(*pid), [0_i32; 0], "{what}: the node was asked to stop");
        }
    }

    /// Waits until status says all these words of the release with this tag.
    #[track_caller]
    pub fn wait_for_standing(&self, what: &str, tag: &str, words: &[&str]) {
        self.world.wait_for_status(&format!("{words:?} is said of {tag} ({what})"), |status| {
            let announced = status["announced"].as_array().into_iter().flatten();
            let standing = announced.filter(|it| it["name"] == tag).filter_map(|it| it["standing"].as_str());
            standing.into_iter().any(|standing| words.iter().all(|word| standing.contains(word)))
        });
    }

    /// Waits until the release with this tag is prepared, and sees that the node does not notice.
    #[track_caller]
    pub fn wait_until_staged(&mut self, tag: &str) {
        self.world.wait_for_status(&format!("{tag} is prepared"), |status| {
            let to = status["upgrade"]["to"].as_str().unwrap_or_default();
            status["upgrade"]["phase"] == "staged" && to.split_whitespace().next() == Some(tag)
        });
        self.undisturbed(tag);
    }

    /// Reaches the height, and sees that the node of this version runs and is believed.
    #[track_caller]
    pub fn switches_to(mut self, version: &str) -> Self {
        self.undisturbed("before the height");
        self.world.reach();
        self.world.wait_for(version);
        self.world.wait_for_commit(version);
        assert_eq!(self.supervised.try_wait(), None, "without a restart");
        self.world.log().assert_never_double();
        self.pids = running(&self.world);
        self
    }
}

fn running(world: &World) -> Vec<u32> {
    let mut pids: Vec<u32> = world.log().running().into_iter().map(|node| node.pid).collect();
    pids.sort_unstable();
    pids
}
