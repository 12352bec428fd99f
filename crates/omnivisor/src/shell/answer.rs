//! Answer what an operator asks through the control socket. What was asked for is on disk before it is answered.

use omnivisor_core::agent::{Event, Standing};
use omnivisor_core::journal::Phase;
use omnivisor_core::schedule::Trigger;

use super::Shell;
use super::rollback::{may_roll_back, to_be_copied};
use crate::clock;
use crate::control::{self, Asked};

impl Shell {
    pub(super) fn answer(&mut self, asked: Asked) {
        let Asked { command, answer } = asked;
        let command = match command {
            control::Command::Reexec { with } => return self.replace(with, answer), // answered when that has been checked
            command => command,
        };
        let asked_to_record = !matches!(command, control::Command::Status | control::Command::Stop);
        let result = match command {
            control::Command::Status => Ok(self.status()),
            control::Command::Stop => {
                self.stop("an operator says stop");
                Ok(serde_json::Value::Null)
            }
            control::Command::Hold => {
                self.waiting.push_back(Event::Hold);
                let ahead = self.agent.announced().iter().find_map(|it| Some((it.trigger.height()?, &it.release)));
                Ok(ahead.map_or(
                    serde_json::Value::Null,
                    |(height, release)| serde_json::json!({ "height": height, "name": release.name.as_str() }),
                ))
            }
            control::Command::Resume if self.degraded.is_some() => {
                Err(format!("this run is degraded: {}", self.degraded.clone().unwrap_or_default()))
            }
            control::Command::Resume => {
                self.waiting.push_back(Event::Resume);
                Ok(serde_json::Value::Null)
            }
            control::Command::Upgrade { name } => self.approve(&name),
            control::Command::Backup => self.back_up(),
            control::Command::Rollback { keep_data } => self.roll_back(keep_data),
            control::Command::Reexec { .. } => Ok(serde_json::Value::Null),
        };
        self.settle(); // what was asked for is on disk before it is answered
        let result = match asked_to_record && self.unwritable.is_some() {
            true => Err("the journal cannot be written, so this is not done yet: see the log".to_owned()),
            false => result,
        };
        let _ = answer.send(result);
    }

    fn roll_back(&mut self, keep_data: bool) -> control::Answer {
        if let Some(why) = &self.degraded {
            return Err(format!("this run is degraded, nothing is taken back: {why}"));
        }
        if self.agent.ending().is_some() {
            return Err("the run is ending: order it once more when it has ended".to_owned());
        }
        let plan = may_roll_back(&*self.dialect, self.agent.journal(), keep_data)?;
        let restore = plan.snapshot && !keep_data;
        let copied = restore.then(|| to_be_copied(&*self.dialect, &plan)).flatten();
        let answer = serde_json::json!({
            "from": plan.to.release.version.as_str(),
            "to": plan.from.release.version.as_str(),
            "restoresData": restore,
            "madeReadyFrom": copied.as_ref().map(|from| &from.path),
        });
        match copied {
            Some(from) => self.make_ready(&plan, from)?,
            None => {
                self.making_ready.give_up();
                self.waiting.push_back(Event::RollBack { restore });
            }
        }
        Ok(answer)
    }

    fn approve(&mut self, name: &str) -> control::Answer {
        if let Some(why) = &self.degraded {
            return Err(format!("this run is degraded, no upgrade is done: {why}"));
        }
        let mut found = self.agent.announced().iter().filter(|it| it.release.name.as_str() == name);
        match (found.next(), found.next()) {
            (Some(announced), None) => {
                let release = announced.release.clone();
                match self.agent.standing(clock::now(), announced) {
                    Standing::Installed => return Err(format!("{release} is installed, or ran here before")),
                    Standing::NotNewer(version) => {
                        return Err(format!(
                            "{version} ran here, and {release} is older; `nymvisor add-upgrade --force` allows a way back"
                        ));
                    }
                    _ => {}
                }
                // What was asked for then would be asked of the release before.
                let phase = self.agent.journal().phase();
                if let Phase::Switching { plan, .. } | Phase::Probing { plan, .. } = phase
                    && plan.to.release != release
                {
                    return Err(format!(
                        "an upgrade to {} is at work: say it again when that is over",
                        plan.to.release
                    ));
                }
                let height = announced.trigger.height().filter(|_| !announced.trigger.is_ready());
                let ends = self.ends_after_switch || announced.trigger == (Trigger::OnCommand { ends: true });
                let answer = serde_json::json!({ "name": name, "version": release.version.as_str(), "endsAfterSwitch": ends, "height": height });
                self.waiting.push_back(Event::Approve(release));
                Ok(answer)
            }
            (Some(_), Some(_)) => Err(format!("more than one upgrade is announced as {name:?}")),
            (None, _) => {
                let mut denied = self.agent.journal().denied();
                Err(match denied.find(|(release, _)| release.name.as_str() == name) {
                    Some((release, why)) => format!("{release} failed here and is not installed again: {why}"),
                    None => format!("no upgrade {name:?} is announced; `omnivisor status` lists those that are"),
                })
            }
        }
    }
}
