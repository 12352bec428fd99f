//! A journal that version 1 wrote is read for ever: every kind of record, byte for byte.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test reads its fixture, and a panic is a failure"
)]

mod world;

use std::time::Duration;

use omnivisor_core::formats::journal::{MAGIC, decode, encode};
use omnivisor_core::journal::{Adoption, Beginning, CancelReason, Journal, Record};
use omnivisor_core::plan::{FailureKind, Step, Undo, UpgradePlan};
use omnivisor_core::schedule::{Announcement, Asset, Origin, Source, Trigger};
use world::{NEW, OLD, agreed, announce, at, installed, release};

/// What the first version wrote.
const FIRST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/journal-1.bin");
/// With what has come since.
const SECOND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/journal-1b.bin");
/// And then.
const THIRD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/journal-1c.bin");

/// One life with every record that the first version knew.
fn first_records() -> Vec<Record> {
    let mut records = records();
    let summary = Journal::replay(&records).unwrap().summary().unwrap();
    records.push(summary);
    records
}

/// And with every one there is.
fn every_record() -> Vec<Record> {
    let mut records = second_records();
    records.pop();
    let summary = Journal::replay(&records).unwrap();
    for how in [
        Beginning::Started,
        Beginning::TookOver,
        Beginning::Cleared,
        Beginning::Replaced("0.1.0".to_owned()),
        Beginning::Returned("0.2.0".to_owned()),
    ] {
        records.push(Record::Began { at: at(Duration::from_secs(1)), version: "0.1.0".to_owned(), how });
    }
    assert_eq!(Journal::replay(&records).unwrap(), summary, "who supervises changes nothing");
    records.push(summary.summary().unwrap());
    records
}

/// With those of the second.
fn second_records() -> Vec<Record> {
    let mut records = records();
    let from = installed(&release(OLD, 0));
    let now = at(Duration::from_secs(1));
    let asset = Asset {
        owner: "vegaprotocol".to_owned(),
        repository: "vega".to_owned(),
        tag: "v0.74.0".to_owned(),
        name: "vega-linux-amd64.zip".to_owned(),
        binary: Some("vega".to_owned()),
    };
    let agreed = Announcement { source: Source::Asset(Box::new(asset)), ..agreed(NEW) };
    records.extend([
        Record::Replaced { installed: from.clone(), at: now },
        Record::Planned(UpgradePlan { number: 7, begun: now, from, to: agreed, snapshot: false }),
        Record::Rescheduled(Trigger::OnCommand { ends: false }),
        Record::Rescheduled(Trigger::AtHeight { height: 1000, ready: true }),
        Record::Cancelled(CancelReason::Withdrawn),
    ]);
    let summary = Journal::replay(&records).unwrap().summary().unwrap();
    records.push(summary);
    records
}

fn records() -> Vec<Record> {
    let now = at(Duration::from_secs(1));
    let from = installed(&release(OLD, 0));
    let mut from = from;
    from.identity = [("binary_name", "nym-node"), ("build_version", OLD)].into_iter().collect();
    let mut to = announce(NEW, 5);
    to.published = Some(now);
    to.expected = [("build_version", NEW)].into_iter().collect();
    let staged = installed(&to.release);
    let plan = |number, to: &Announcement| {
        Record::Planned(UpgradePlan { number, begun: now, from: from.clone(), to: to.clone(), snapshot: true })
    };
    let placed = Announcement {
        source: Source::Placed { why: "queued here".to_owned() },
        origin: Origin::LocalDowngrade,
        trigger: Trigger::OnCommand { ends: true },
        ..to.clone()
    };
    let failed = |step, kind| Record::Failed { step, kind, reason: "because".to_owned(), at: now };
    let mut records = vec![
        Record::Adopted { installed: from.clone(), at: now, adoption: Adoption::Found },
        Record::Held,
        Record::Resumed,
        plan(1, &placed),
        Record::Cancelled(CancelReason::Withdrawn),
        plan(2, &placed),
        Record::Cancelled(CancelReason::Superseded),
        plan(3, &placed),
        Record::Cancelled(CancelReason::Preempted),
        plan(4, &to),
        Record::Rescheduled(Trigger::At(now)),
        failed(Step::Fetch, FailureKind::Transient),
        Record::Approved(to.release.clone()),
        plan(5, &to),
        Record::Started(Step::Preflight),
        Record::Staged(staged.clone()),
        Record::Started(Step::Stop),
        Record::Started(Step::Snapshot),
        Record::Started(Step::Activate),
        Record::Started(Step::Probe),
        Record::Died { reason: "signal 11".to_owned() },
        failed(Step::Probe, FailureKind::Permanent),
        Record::Undone(Undo::Stop),
        Record::UndoFailed { reason: "no space".to_owned() },
        Record::Undone(Undo::Restore),
        Record::Undone(Undo::Reactivate),
        Record::RolledBack,
        Record::Approved(to.release.clone()),
        plan(6, &to),
        Record::Started(Step::Preflight),
        Record::Staged(staged),
        Record::Started(Step::Stop),
        Record::Started(Step::Snapshot),
        Record::Started(Step::Activate),
        Record::Started(Step::Probe),
        Record::Committed { at: now },
    ];
    records.push(Record::TakenOver { installed: from.clone(), at: now });
    records
}

#[test]
fn a_journal_of_version_1_is_read_and_written_as_ever() {
    for (path, records) in [(FIRST, first_records()), (SECOND, second_records()), (THIRD, every_record())] {
        let mut bytes = MAGIC.to_vec();
        records.iter().for_each(|record| bytes.extend(encode(std::slice::from_ref(record))));
        // For a fixture that is new; one that was released is never written again.
        if std::env::var_os("OMNIVISOR_WRITE_FIXTURE").is_some() && !std::path::Path::new(path).exists() {
            std::fs::write(path, &bytes).unwrap();
        }
        let fixture = std::fs::read(path).unwrap();
        assert_eq!(decode(&fixture).unwrap().records, records, "what was written is read");
        assert!(fixture == bytes, "what is written is what was written: a change is a new version");
    }
}
