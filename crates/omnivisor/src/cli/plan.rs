//! `omnivisor plan`: what the next upgrade will do to the node, and for how long; looked at, not done.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use omnivisor_core::agent::Rollback;
use serde_json::{Value, json};

use super::installation::{Installation, Which};
use super::own::{self, Missing};
use super::{Outcome, env_file, output};
use crate::control::{self, Command};
use crate::effects::data::Data;
use crate::effects::essentials;
use crate::effects::snapshot::{Cost, Left, Needed};
use crate::effects::space;
use crate::exit::Exit;

/// Show what an upgrade would copy, where to, whether that fits, and how long the node would be down
#[derive(Args)]
pub(super) struct Plan {
    #[command(flatten)]
    which: Which,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The env file that the instance is run with, if there is one
    #[arg(short, long)]
    config_env_file: Option<std::path::PathBuf>,
}

pub(super) fn run(plan: &Plan) -> Outcome {
    if let Some(file) = &plan.config_env_file {
        env_file::apply(file)?;
    }
    let announced = match own::find(&plan.which) {
        Err(Missing { error, several: true }) => return Err(error.into()),
        Err(Missing { several: false, .. }) => Value::Null,
        Ok(instance) => {
            let answer = control::ask(&instance.socket, Command::Status);
            answer.ok().and_then(Result::ok).unwrap_or_default()["announced"].clone()
        }
    };
    let installation = Installation::meant(&plan.which, None, false)?;
    let value = json!({
        "instance": installation.dialect.instance(),
        "snapshot": snapshot(&installation)?,
        "withoutSnapshot": installation.without,
        "essentials": installation.without.is_some() && installation.method.falls_back,
        "signerState": installation.without.as_ref().map(|_| essentials::is_found(&*installation.dialect)),
        "announced": announced,
    });
    output::result(&if plan.json { value.to_string() } else { describe(&value) });
    Ok(Exit::Success)
}

/// What the snapshot costs; null if none is taken.
fn snapshot(installation: &Installation) -> anyhow::Result<Value> {
    if !installation.policy.snapshot {
        return Ok(Value::Null);
    }
    let (paths, limits) = (installation.dialect.paths(), installation.limits);
    let data = Data::now(&*installation.dialect)?;
    let cost = match &installation.method.takes {
        Some(command) => Cost::by_command(&data, command),
        None => Cost::of(&data, &paths.backups, Path::new("")),
    };
    let cost = cost.with_context(|| format!("cannot look at {}", data.described()))?;
    let place = cost.place(paths);
    let links_out = data.links_out().with_context(|| format!("cannot look at {}", data.described()))?;
    let needed = cost.needed(&data, place, limits);
    let rooms: Vec<Value> = needed.into_iter().map(room).collect();
    let here = rooms.first().cloned().unwrap_or_default();
    let (least, most) = (cost.left(), cost.left_at_most());
    let millis = |left: Left| u64::try_from(cost.outage(left).as_millis()).unwrap_or(u64::MAX);
    Ok(json!({
        "method": match (cost.command, cost.by_reference) {
            (Some(_), _) => "command",
            (None, true) => "by-reference",
            (None, false) => "copy",
        },
        "home": paths.home,
        "roots": data.roots.iter().map(|root| &root.path).collect::<Vec<_>>(),
        "backups": paths.backups,
        "linksOut": links_out.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>(),
        "entries": cost.entries,
        "bytes": cost.data,
        "needs": here["needs"],
        "reserve": here["reserve"],
        "free": here["free"],
        "fits": rooms.iter().all(|room| room["fits"] == true),
        "rooms": rooms,
        "required": installation.policy.rollback == Rollback::Auto,
        "ahead": cost.ahead,
        "leadSeconds": installation.policy.lead.as_secs(),
        "outageMillis": millis(least),
        "outageMillisAtMost": millis(most),
        "changedAtMost": { "files": most.changed, "bytes": most.bytes },
        "outageLimitMillis": limits.outage.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
    }))
}

/// What there is of the room that is needed on one file system.
fn room(needed: Needed<'_>) -> Value {
    let Needed { folder, bytes, reserve } = needed;
    let room = space::room(folder);
    let fits = room.is_none_or(|room| room.free >= bytes.saturating_add(reserve));
    json!({ "folder": folder, "needs": bytes, "reserve": reserve, "free": room.map(|room| room.free), "fits": fits })
}

/// The plan for people.
fn describe(plan: &Value) -> String {
    let snapshot = &plan["snapshot"];
    let mut lines = vec![format!("instance    {}", plan["instance"].as_str().unwrap_or_default())];
    if snapshot.is_null() {
        let why = plan["withoutSnapshot"].as_str().map(|why| format!(" ({why})")).unwrap_or_default();
        lines.push(match plan["essentials"] == true {
            true => format!(
                "snapshot    {}, because {}: an upgrade that is taken back leaves the data as the new release has left it",
                match plan["signerState"] == false {
                    true => "CONFIGURATION ONLY, as no signer state can be read",
                    false => "signer state and configuration only",
                },
                plan["withoutSnapshot"].as_str().unwrap_or_default()
            ),
            false => format!(
                "snapshot    none is taken{why}: an upgrade that is taken back leaves the data as the new release has left it"
            ),
        });
        lines.push("outage      the node's own stop and start, and about 10ms between them".to_owned());
    } else {
        lines.extend(described(snapshot));
    }
    for announced in plan["announced"].as_array().into_iter().flatten() {
        let get = |key: &str| announced[key].as_str().unwrap_or("-");
        lines.push(format!("announced   {} ({}): {}", get("version"), get("name"), get("standing")));
    }
    lines.join("\n")
}

fn described(snapshot: &Value) -> Vec<String> {
    let text = |key: &str| snapshot[key].as_str().unwrap_or("-").to_owned();
    let size = |value: &Value| value.as_u64().map_or_else(|| "?".to_owned(), output::size);
    let time =
        |key: &str| humantime::format_duration(Duration::from_millis(snapshot[key].as_u64().unwrap_or_default()));
    let roots = snapshot["roots"].as_array().into_iter().flatten();
    let roots: Vec<&str> = roots.filter_map(Value::as_str).collect();
    let is_command = snapshot["method"] == "command";
    let method = match snapshot["method"].as_str() {
        Some("command") => "a command takes it",
        Some("by-reference") => "copied by reference, which takes next to no room",
        _ => "a plain copy",
    };
    let mut lines = vec![
        format!(
            "snapshot    {} ({} files and folders, {}): {method}",
            roots.join(", "),
            snapshot["entries"],
            size(&snapshot["bytes"])
        ),
        format!("goes to     {}", text("backups")),
    ];
    for link in snapshot["linksOut"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        lines.push(format!(
            "NOT IN IT   {} leads out of the home: what is there is not copied, and does not go back",
            output::readable(link)
        ));
    }
    for (index, room) in snapshot["rooms"].as_array().into_iter().flatten().enumerate() {
        let (needs, mut free, reserve) = (size(&room["needs"]), size(&room["free"]), size(&room["reserve"]));
        if index > 0 {
            let folder = room["folder"].as_str().unwrap_or("-");
            lines.push(format!("and to      {folder}: its home is on a file system of its own"));
            free = format!("there {free}");
        }
        lines.push(match room["fits"] == true {
            true if is_command => {
                format!("room        {free} free; an undo copies {needs} beside the data, and {reserve} have to stay free")
            }
            true => format!("room        {free} free; {needs} are needed, and {reserve} have to stay free"),
            false if snapshot["required"] == false => format!(
                "NO ROOM     {free} free, but {needs} are needed and {reserve} have to stay free: an upgrade is done \
                 without one, and keeps signer state and configuration only"
            ),
            false => format!(
                "NO ROOM     {free} free, but {needs} are needed and {reserve} have to stay free: no upgrade is begun until \
                 there is; `snapshot.reserve` in omnivisor.toml says how much stays"
            ),
        });
    }
    let changed = format!(
        "{} files with {} in them",
        snapshot["changedAtMost"]["files"],
        size(&snapshot["changedAtMost"]["bytes"])
    );
    lines.push(match snapshot["ahead"] == true {
        _ if is_command => format!(
            "outage      as long as the command takes, and the node's own stop and start; {} at most, or the old node goes on. It was \
             not asked now: `omnivisor backup now` tries it",
            time("outageMillis")
        ),
        true => format!(
            "outage      {} and the node's own stop and start, up to {} if {changed} change in the last moments: most is \
             copied while the node runs, and what has not changed is only looked at (2 µs each)",
            time("outageMillis"),
            time("outageMillisAtMost")
        ),
        false => format!(
            "outage      {} and the node's own stop and start: everything is copied while no node runs, as this file system \
             does not tell what has changed",
            time("outageMillis")
        ),
    });
    if let Some(limit) = snapshot["outageLimitMillis"].as_u64() {
        let then = if snapshot["required"] == true {
            "no upgrade is begun"
        } else {
            "an upgrade is done without one, and keeps signer state and configuration only"
        };
        let expected = snapshot["outageMillis"].as_u64().unwrap_or_default();
        let limit_said = humantime::format_duration(Duration::from_millis(limit));
        lines.push(match expected > limit {
            true => format!("TOO LONG    snapshot.outage-limit is {limit_said}, and {} is more: {then}", time("outageMillis")),
            false => format!("limit       within snapshot.outage-limit, {limit_said}; what has changed is counted once more before the stop"),
        });
    }
    lines
}
