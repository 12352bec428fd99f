//! A journal that version 1 wrote is read for ever: every kind of record, byte for byte.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test reads its fixture, and a panic is a failure"
)]

mod world;

use std::time::Duration;

use omnivisor_core::formats::journal::{MAGIC, decode, encode};
use omnivisor_core::journal::{Adoption, CancelReason, Journal, Record};
use omnivisor_core::plan::{FailureKind, Step, Undo, UpgradePlan};
use omnivisor_core::schedule::{Origin, Source, Trigger};
use world::{NEW, OLD, announce, at, installed, release};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/journal-1.bin");

/// One life with every record there is.
fn every_record() -> Vec<Record> {
    let now = at(Duration::from_secs(1));
    let from = installed(&release(OLD, 0));
    let mut from = from;
    from.identity = [("binary_name", "nym-node"), ("build_version", OLD)].into_iter().collect();
    let mut to = announce(NEW, 5);
    to.published = Some(now);
    to.expected = [("build_version", NEW)].into_iter().collect();
    let staged = installed(&to.release);
    let plan = |number, to: &omnivisor_core::schedule::Announcement| {
        Record::Planned(UpgradePlan { number, begun: now, from: from.clone(), to: to.clone(), snapshot: true })
    };
    let placed = omnivisor_core::schedule::Announcement {
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
    records.push(Record::Replaced { installed: from.clone(), at: now });
    let summary = Journal::replay(&records).unwrap().summary().unwrap();
    records.push(summary);
    records
}

#[test]
fn a_journal_of_version_1_is_read_and_written_as_ever() {
    let records = every_record();
    let mut bytes = MAGIC.to_vec();
    records.iter().for_each(|record| bytes.extend(encode(record)));
    if std::env::var_os("OMNIVISOR_WRITE_FIXTURE").is_some() {
        std::fs::write(FIXTURE, &bytes).unwrap();
    }
    let fixture = std::fs::read(FIXTURE).unwrap();
    assert_eq!(decode(&fixture).unwrap().records, records, "what was written is read");
    assert!(fixture == bytes, "what is written is what was written: a change is a new version");
}
