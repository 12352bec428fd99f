//! What breaks Nymvisor, item by item of the list of its defects (N1 …), and what has to happen instead.

mod add_upgrade;
mod announcements;
mod backups;
mod coming_back;
mod commit;
mod configuration;
mod home;
mod init;
mod init_again;
mod instances;
mod link;
mod node;
mod plan_file;
mod preparation;
mod replaced;
mod signals;
mod upstream;

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, SystemTime};

use omnivisor_testkit::{Answer, Behaviour, NodeLog, sha256_hex, upgrade_info, wait_until};
use serde_json::Value;

use crate::world::{ANNOUNCEMENT, SOON, World, timestamp};

/// So far away that no test meets it.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

fn running_pid(log: &NodeLog) -> u32 {
    match log.running().as_slice() {
        [only] => only.pid,
        other => panic!("not one node runs but {other:?}"),
    }
}

/// Fails unless this node, and no other, is alive.
#[track_caller]
fn assert_still(world: &World, pid: u32) {
    assert_eq!(running_pid(&world.log()), pid, "another node runs now");
    world.log().assert_never_double();
}

/// Returns when something that upstream announces now has been dealt with: the next question is answered with
/// it, and the one after is asked when that answer was done with.
fn wait_for_polls(world: &World) {
    let before = world.upstream.requests(ANNOUNCEMENT);
    wait_until("two more polls", SOON, || (world.upstream.requests(ANNOUNCEMENT) >= before + 2).then_some(()));
}

fn wait_for_time(time: SystemTime) {
    wait_until("a time", SOON, || (SystemTime::now() > time).then_some(()));
}

fn wait_for_request(world: &World, path: &str) {
    wait_until(&format!("a request of {path}"), SOON, || (world.upstream.requests(path) > 0).then_some(()));
}

/// What is said of an announced upgrade, once it is this.
fn wait_for_standing(world: &World, name: &str, part: &str) -> String {
    let mut said = String::new();
    let status = world.wait_for_status(&format!("{name}: …{part}…"), |status| {
        standing(status, name).is_some_and(|standing| standing.contains(part))
    });
    said.push_str(&standing(&status, name).unwrap());
    said
}

fn standing(status: &Value, name: &str) -> Option<String> {
    let announced = status["announced"].as_array()?;
    let it = announced.iter().find(|it| it["name"] == name)?;
    Some(it["standing"].as_str()?.to_owned())
}

/// An upgrade whose executable is placed by hand, as an entry for the queue; the executable is in its place.
fn placed(world: &World, name: &str, version: &str, time: &str) -> Value {
    let behaviour = Behaviour::new(version);
    let entry = upgrade_info(name, version, time, None, Some(behaviour.details()));
    world.installation.place_upgrade(&entry, Some(&world.minted(&behaviour)));
    entry
}

/// An announcement that is served; `change` makes it wrong.
fn publish_changed(world: &World, name: &str, version: &str, change: impl FnOnce(&mut Value)) -> Value {
    let executable = world.minted(&Behaviour::new(version));
    let path = format!("/download/{name}");
    let digest = sha256_hex(&executable);
    world.upstream.serve(&path, Answer::File(executable));
    let details = Behaviour::new(version).details();
    let (url, now) = (world.upstream.url(&path), timestamp(Duration::ZERO));
    let mut info = upgrade_info(name, version, &now, Some((&url, &digest)), Some(details));
    change(&mut info);
    world.upstream.serve(ANNOUNCEMENT, Answer::Json(info.clone()));
    info
}

fn queued(world: &World) -> Vec<String> {
    let plan = world.plan();
    let queue = plan["queuedUp"].as_array().unwrap();
    queue.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}

/// An entry of the queue.
fn queued_entry(world: &World, name: &str) -> Value {
    let plan = world.plan();
    let entry = plan["queuedUp"].as_array().unwrap().iter().find(|entry| entry["name"] == name).cloned();
    entry.unwrap_or_else(|| panic!("{name} is not queued: {plan:#}"))
}

/// Takes every entry off the queue, as an editor does.
fn empty_the_queue(world: &World) {
    let mut plan = world.plan();
    plan["queuedUp"] = Value::Array(Vec::new());
    fs::write(world.installation.plan(), serde_json::to_vec_pretty(&plan).unwrap()).unwrap();
}

fn add_upgrade(world: &World, name: &str, behaviour: &Behaviour, more: &[&str]) -> Output {
    let executable = world.minted(behaviour);
    let arguments = ["add-upgrade", executable.to_str().unwrap(), "--upgrade-name", name];
    world.nymvisor(&[&arguments, more].concat()).output().unwrap()
}

#[track_caller]
fn assert_done(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Everything below a folder, without following links.
fn tree(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(tree(&entry.path()));
        }
        found.push(entry.path());
    }
    found
}
