//! What taking an installation over would find and do. Changes nothing.

use std::fs;
use std::path::PathBuf;

use omnivisor_core::agent::{Agent, Event, Policy};
use omnivisor_core::dialect::{Contents, Dialect, Mirrored, Ours};
use omnivisor_core::journal::{Adoption, Journal, Record};
use omnivisor_core::time::Timestamp;
use serde_json::{Value, json};

use super::adopt::{self, Known};
use super::claim::SUPERVISOR_LOCK;
use super::present::Present;
use super::report;
use crate::clock;
use crate::effects::roll_call;
use crate::store::{lock, small};

/// Looks, and says what it found, as JSON: `ready` says whether a supervisor could begin now; `first` what an
/// operator has to do before, and `obstacles` why it cannot be done.
pub async fn survey(dialect: &dyn Dialect, policy: Policy, shared: bool, allow_network_file_system: bool) -> Value {
    let paths = dialect.paths();
    let read = |path: &std::path::Path| small::read(path).ok();
    let mut obstacles = Vec::new();
    let kind = lock::unreliable_file_system(paths.state.ancestors().find(|path| path.exists()).unwrap_or(&paths.state));
    if let Some(kind) = kind.filter(|_| !allow_network_file_system) {
        obstacles.push(format!("{} is on {kind}, where locks are no guarantee", paths.state.display()));
    }
    let supervisor = supervisor(dialect);
    if let Some(holder) = &supervisor {
        obstacles.push(format!("this instance is supervised already, by {holder}"));
    }
    let unreadable: Vec<PathBuf> = dialect.unreadable(&read);
    let readable = |path: &std::path::Path| read(path).filter(|_| !unreadable.iter().any(|it| it == path));
    let mut roll = Present::look(dialect, shared);
    // While no node runs, its supervisor keeps the node's lock for it.
    if supervisor.is_some() {
        let lock = paths.state.join(SUPERVISOR_LOCK);
        let lock = fs::canonicalize(&lock).unwrap_or(lock);
        roll.stragglers.retain(|process| !roll_call::holds(process.pid, &lock));
    }
    let first = roll.peer.as_ref().map(|peer| {
        format!("stop {} (process {}), which runs the node (process {})", peer.name, peer.process, peer.node)
    });

    let known = adopt::known(&paths.state);
    let taken_over = matches!(known, Known::Believed(_));
    let running = roll.folder().cloned();
    if let Known::Degraded(why) = &known {
        obstacles.push(adopt::with_hint(why, &paths.state));
    }
    let mut since = Timestamp::EPOCH; // nothing is ours on the first day
    let records = match known {
        Known::Believed(mut records) => {
            since = adopt::ours(&records).map_or(since, |ours| ours.since);
            match adopt::taken_over(dialect, &records, &readable).await {
                Ok(record) => records.extend(record),
                Err(error) => obstacles.push(error.to_string()),
            }
            records
        }
        Known::Nothing | Known::Degraded(_) => match adopt::adopt_installation(dialect, running).await {
            Ok(installed) => {
                vec![Record::Adopted { installed, at: clock::now().wall, adoption: Adoption::Found }]
            }
            Err(error) => {
                obstacles.push(error.to_string());
                Vec::new()
            }
        },
    };
    let journal = Journal::replay(&records).unwrap_or_default();
    let ours = adopt::ours(&records).map(|ours| Ours { since, ..ours });
    let unfinished = ours.and_then(|ours| dialect.unfinished(&readable, &ours));
    let queue = unfinished.as_ref().map(|(queue, _)| queue.clone()).or_else(|| readable(&paths.queue));
    json!({
        "instance": dialect.instance(),
        "home": paths.home,
        "state": paths.state,
        "releases": paths.releases,
        "ready": obstacles.is_empty() && first.is_none(),
        "first": first,
        "obstacles": obstacles,
        "takenOver": taken_over,
        "supervisor": supervisor,
        "node": roll.mains.first().map(|main| json!({ "pid": main.process.pid, "folder": main.folder })),
        "left": roll.stragglers.iter().map(|process| process.pid).collect::<Vec<_>>(),
        "release": journal.shown().map(|shown| json!({
            "name": shown.release.name.as_str(),
            "version": shown.release.version.as_str(),
            "folder": shown.folder,
            "digest": shown.digest.to_string(),
        })),
        "announced": queue.map_or_else(Vec::new, |queue| announced(dialect, &records, policy, &queue)),
        "queuedAgain": unfinished.map_or_else(Vec::new, |(_, names)| names),
        "setAside": unreadable,
        "written": written(dialect, &journal, &readable),
    })
}

/// Who holds the supervisor's lock, if anybody does.
pub(super) fn supervisor(dialect: &dyn Dialect) -> Option<String> {
    let path = dialect.paths().state.join(SUPERVISOR_LOCK);
    lock::is_held(&path).then(|| lock::holder(&path))
}

/// What would become of each announced upgrade.
fn announced(dialect: &dyn Dialect, records: &[Record], policy: Policy, queue: &[u8]) -> Vec<Value> {
    let now = clock::now();
    let read = |path: &std::path::Path| small::read(path).ok();
    let (Ok(Some(observed)), Ok((mut agent, _))) =
        (dialect.announced(queue, &read), Agent::recover(records, policy, now))
    else {
        return Vec::new();
    };
    agent.step(now, Event::Announced(observed.announcements));
    let announced = agent.announced().iter().map(|announced| {
        json!({
            "name": announced.release.name.as_str(),
            "version": announced.release.version.as_str(),
            "due": announced.trigger.due().map(|due| due.to_string()),
            "standing": report::describe(&agent.standing(now, announced), announced),
        })
    });
    announced.chain(observed.refused.iter().map(report::refused)).collect()
}

/// The files for other tools that say something else than what is there.
fn written(
    dialect: &dyn Dialect,
    journal: &Journal,
    read: &dyn Fn(&std::path::Path) -> Option<Vec<u8>>,
) -> Vec<PathBuf> {
    let Some(shown) = journal.shown() else { return Vec::new() };
    let mirrored = Mirrored { shown: shown.clone(), committed: None, linked: true, settled: Vec::new() };
    let files = dialect.mirror(&mirrored, read).unwrap_or_default().into_iter();
    let changes = files.filter(|file| match &file.contents {
        Contents::Bytes(_) => true,
        Contents::Link(target) => fs::read_link(&file.path).ok().as_ref() != Some(target),
    });
    changes.map(|file| file.path).collect()
}
