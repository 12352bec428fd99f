//! A journal that version 1 wrote is read for ever: every kind of record, byte for byte.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test reads its fixture, and a panic is a failure"
)]

mod world;

use std::collections::BTreeSet;
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

/// And with what a person orders.
const FOURTH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/journal-1d.bin");

/// One life with every record that the first version knew.
fn first_records() -> Vec<Record> {
    let mut records = records();
    let summary = Journal::replay(&records).unwrap().summary().unwrap();
    records.push(summary);
    records
}

/// And with every one there is.
fn every_record() -> Vec<Record> {
    let mut records = third_records();
    records.pop();
    let now = at(Duration::from_secs(1));
    let from = installed(&release(OLD, 0));
    let to = announce(NEW, 5);
    for (number, restore) in [(8, true), (9, false)] {
        records.extend([
            Record::Approved(to.release.clone()),
            Record::Planned(UpgradePlan { number, begun: now, from: from.clone(), to: to.clone(), snapshot: true }),
            Record::Started(Step::Preflight),
            Record::Staged(installed(&to.release)),
        ]);
        records.extend([Step::Stop, Step::Snapshot, Step::Activate, Step::Probe].map(Record::Started));
        records.extend([Record::Committed { at: now }, Record::RollbackOrdered { restore, at: now }]);
        let owed = [Undo::Stop, Undo::Restore, Undo::Reactivate];
        records.extend(owed.into_iter().filter(|it| restore || *it != Undo::Restore).map(Record::Undone));
        records.push(Record::RolledBack);
    }
    let restore = |version: Option<&str>, paths: &[&str]| Record::RestoreOrdered {
        backup: "1800000000000-000008".to_owned(),
        version: version.map(str::to_owned),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        work: "/home/nymvisor/restored-1".into(),
        at: now,
    };
    // As it was written before it told of what it puts back.
    records.extend([restore(None, &[]), Record::Restored { at: now }]);
    records.extend([restore(Some(OLD), &["data/db", "config"]), Record::Restored { at: now }]);
    records.push(Journal::replay(&records).unwrap().summary().unwrap());
    records
}

/// With what became of supervisors.
fn third_records() -> Vec<Record> {
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
    let all =
        [(FIRST, first_records()), (SECOND, second_records()), (THIRD, third_records()), (FOURTH, every_record())];
    for (path, records) in all {
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

/// A kind that is new has no number: this does not compile until it has one, and fails until it is in a fixture.
#[test]
fn every_kind_of_record_is_in_a_fixture() {
    let number = |record: &Record| match record {
        Record::Adopted { .. } => 0,
        Record::Planned(_) => 1,
        Record::Started(_) => 2,
        Record::Staged(_) => 3,
        Record::Rescheduled(_) => 4,
        Record::Cancelled(_) => 5,
        Record::Failed { .. } => 6,
        Record::Died { .. } => 7,
        Record::Undone(_) => 8,
        Record::UndoFailed { .. } => 9,
        Record::Committed { .. } => 10,
        Record::RolledBack => 11,
        Record::RollbackOrdered { .. } => 12,
        Record::RestoreOrdered { .. } => 13,
        Record::Restored { .. } => 14,
        Record::Held => 15,
        Record::Resumed => 16,
        Record::Approved(_) => 17,
        Record::TakenOver { .. } => 18,
        Record::Replaced { .. } => 19,
        Record::Began { .. } => 20,
        Record::Summed(_) => 21,
    };
    let numbers: BTreeSet<_> = every_record().iter().map(number).collect();
    assert_eq!(numbers, (0..22).collect());
}
