//! What the world does of what the agent asks for, and what goes wrong with it.

use omnivisor_core::agent::{Action, Event, Outcome};
use omnivisor_core::health::{Answer, Check, Sighting};
use omnivisor_core::plan::{Failure, Step, Undo};

use super::{Crash, Data, Fuse, Health, World, installed, known, name};

impl World {
    /// Carries an action out, or fails it as the scenario says; how it ended.
    pub(super) fn act(&mut self, action: &Action, fuse: &mut Fuse) -> Result<Event, Crash> {
        self.say(|| format!("action   {}", name(action)));
        if let Action::Sample(_) = action {
            let look = |check: Check| match self.scenario.health {
                Health::FailsProbe => Sighting { check, answer: Err("the probe says no".to_owned()) },
                _ => Sighting { check, answer: Ok(Answer::Done) },
            };
            return Ok(Event::Done(Outcome::Sampled(self.policy().probe.checks.into_iter().map(look).collect())));
        }
        if let Action::Precopy(plan) = action {
            self.precopies.push((plan.number, self.clock));
            return Ok(match self.scenario.fault.filter(|fault| fault.step == Step::Arm) {
                Some(_) => Event::Failed(Failure::transient("no room for the copy")),
                None => Event::Done(Outcome::Nothing),
            });
        }
        if let Action::Backup { last, .. } = action {
            assert!(!last || self.node.is_none(), "a backup of live data:\n{}", self.tell());
            fuse.burn()?;
            if *last {
                self.backups.push(self.data);
            }
            return Ok(match self.scenario.fault.filter(|fault| fault.step == Step::Snapshot) {
                Some(_) => Event::Failed(Failure::transient("no room for the backup")),
                None => Event::Done(Outcome::Nothing),
            });
        }
        let step = match action {
            Action::Precopy(_) | Action::Backup { .. } => unreachable!("above"),
            Action::Fetch(_) => Step::Fetch,
            Action::Preflight(_) => Step::Preflight,
            Action::Arm(..) => Step::Arm,
            Action::Snapshot(_) => Step::Snapshot,
            Action::Activate(..) => Step::Activate,
            Action::Sample(_) => Step::Probe,
            Action::Restore(_) => return self.undo(Undo::Restore, action, fuse),
            Action::Reactivate(_) => return self.undo(Undo::Reactivate, action, fuse),
        };
        if let Action::Activate(plan, _) = action
            && plan.snapshot
            && plan.to.trigger.height().is_none()
            && !self.snapshots.contains_key(&plan.number)
        {
            return Ok(Event::Failed(Failure::transient("the snapshot is gone")));
        }
        let attempt = self.attempts.entry(step).or_default();
        *attempt += 1;
        let fault =
            self.scenario.fault.filter(|fault| fault.step == step && fault.attempt.is_none_or(|nth| nth == *attempt));
        if fault.is_none_or(|fault| fault.after_effect) {
            self.take(step, action, fuse)?;
        }
        Ok(match (fault, action) {
            (Some(fault), _) if fault.permanent => Event::Failed(Failure::permanent("fault")),
            (Some(_), _) => Event::Failed(Failure::transient("fault")),
            (None, Action::Preflight(plan)) => Event::Done(Outcome::Proven(installed(&plan.to.release))),
            (None, _) => Event::Done(Outcome::Nothing),
        })
    }

    fn take(&mut self, step: Step, action: &Action, fuse: &mut Fuse) -> Result<(), Crash> {
        let plan = action.plan().unwrap();
        match step {
            Step::Fetch | Step::Preflight | Step::Arm => {}
            Step::Snapshot => {
                assert!(self.node.is_none(), "a snapshot of live data:\n{}", self.tell());
                if self.snapshots.get(&plan.number) != Some(&self.data) {
                    self.snapshots.insert(plan.number, Data::Torn);
                    fuse.burn()?; // dies half way through the copy
                    self.snapshots.insert(plan.number, self.data);
                }
            }
            Step::Activate => {
                assert!(self.node.is_none(), "a switch under a running node:\n{}", self.tell());
                self.link = plan.to.release.version.to_string();
            }
            Step::Stop | Step::Probe => unreachable!("not an action"),
        }
        Ok(())
    }

    fn undo(&mut self, undo: Undo, action: &Action, fuse: &mut Fuse) -> Result<Event, Crash> {
        let harmless = undo == Undo::Reactivate; // the old node runs from its own folder
        assert!(self.node.is_none() || harmless, "an undo under a running node:\n{}", self.tell());
        if let Some((faulty, times)) = self.scenario.undo_fault
            && faulty == undo
            && self.undo_failures < times
        {
            self.undo_failures += 1;
            return Ok(Event::Failed(Failure::transient("undo fault")));
        }
        if undo == Undo::Restore {
            let snapshot = self.snapshots.get(&action.plan().unwrap().number).copied();
            let before = Data::Of(known(action.plan().unwrap().from.release.version.as_str()));
            assert_eq!(snapshot, Some(before), "restores a whole snapshot of old data:\n{}", self.tell());
            self.data = Data::Torn;
            fuse.burn()?;
            self.data = before;
        } else {
            self.link = action.plan().unwrap().from.release.version.to_string();
        }
        Ok(Event::Done(Outcome::Nothing))
    }
}
