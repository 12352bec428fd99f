//! What is durable: files that are replaced whole, locks, the journal; and how files of others are read.
//!
//! Every call that changes a disk is in `disk`, and nowhere else.

pub mod atomic;
pub mod disk;
pub mod journal_file;
pub mod lock;
pub mod small;
pub mod trace;
