//! A fake data node, and what it says of its history. It keeps none: both are what the test says.

use std::path::Path;

use serde_json::json;

use super::control::{Control, SegmentAnswer};
use super::{running, wants_json};
use crate::daemon::{Log, flag, sleep_for_good};
use crate::node_log::Kind;
use crate::vega_behaviour::VegaBehaviour;
use crate::wire;

/// `datanode start`: returns the exit code once something ends the node.
pub(super) fn run(behaviour: &VegaBehaviour, args: &[String]) -> i32 {
    running::run(Kind::Datanode, behaviour, args, |_, _| Ok(()))
}

/// `network-history latest-history-segment`.
pub(super) fn answer_segment(behaviour: &VegaBehaviour, args: &[String]) -> i32 {
    Log::open(&behaviour.version, Some(Kind::Datanode)).write("segment", json!({"args": args}));
    // The default home, which is asked without `--home`, is as good as empty.
    let home = flag(args, "--home").map(Path::new);
    let control = home.map(|home| Control::read(home, &behaviour.version)).unwrap_or_default();
    let segment = match control.segment_answer {
        SegmentAnswer::Ok => control.segment,
        SegmentAnswer::None => None,
        SegmentAnswer::Hang => sleep_for_good(),
        SegmentAnswer::Fail => return fail(args, "failed to open the index: resource temporarily unavailable"),
    };
    let Some(segment) = segment else { return fail(args, "no history segments found") };
    let mut fields = json!({"history_segment_id": format!("Qm{}", segment.to)});
    for (name, height) in [("from_height", segment.from), ("to_height", segment.to)] {
        // Go leaves out what is zero.
        if height != 0 {
            fields[name] = height.into();
        }
    }
    if segment.from > 1 {
        fields["previous_history_segment_id"] = format!("Qm{}", segment.from - 1).into();
    }
    let segment = wire::compact(&json!({"LatestSegment": fields}));
    if wants_json(args) {
        println!("{segment}");
    } else {
        println!("Latest segment to use data {segment}\n");
    }
    0
}

fn fail(args: &[String], reason: &str) -> i32 {
    if wants_json(args) {
        println!("{}", json!({"error": reason}));
    } else {
        eprintln!("{reason}");
    }
    1
}
