//! An agent by itself, for what is said of one step.

use std::time::Duration;

use omnivisor_core::agent::{Agent, Effects, Event, Outcome, Standing};
use omnivisor_core::journal::{Adoption, Record};
use omnivisor_core::schedule::Announcement;
use omnivisor_core::time::Now;

use super::{OLD, Scenario, World, at, installed, name, release};

const S: fn(u64) -> Duration = Duration::from_secs;

/// An agent that runs [`OLD`], adopted at 100 s, with what it has written so far.
pub struct Lab {
    pub agent: Agent,
    pub records: Vec<Record>,
    pub clock: Duration,
}

impl Lab {
    pub fn new() -> Self {
        let installed = installed(&release(OLD, 0));
        let adopted = Record::Adopted { installed, at: at(S(100)), adoption: Adoption::Initialised };
        let records = vec![adopted];
        let policy = World::new(Scenario::default()).policy();
        let (agent, _) = Agent::recover(&records, policy, Now { monotonic: S(100), wall: at(S(100)) }).unwrap();
        Self { agent, records, clock: S(100) }
    }

    pub fn now(&self) -> Now {
        Now { monotonic: self.clock, wall: at(self.clock) }
    }

    pub fn step(&mut self, event: Event) -> Effects {
        let effects = self.agent.step(self.now(), event);
        self.records.extend(effects.records.iter().cloned());
        effects
    }

    pub fn done(&mut self) -> Effects {
        self.step(Event::Done(Outcome::Nothing))
    }

    /// Announces a release and prepares it until it is staged.
    pub fn stage(&mut self, announced: &Announcement) -> Effects {
        let effects = self.step(Event::Announced(vec![announced.clone()]));
        assert_eq!(asked(&effects), "Fetch");
        assert_eq!(asked(&self.done()), "Preflight");
        self.step(Event::Done(Outcome::Proven(installed(&announced.release))))
    }

    pub fn standing(&self, announced: &Announcement) -> Standing {
        self.agent.standing(self.now(), announced)
    }
}

pub fn asked(effects: &Effects) -> String {
    effects.action.as_ref().map_or_else(String::new, name)
}
