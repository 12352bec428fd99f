//! What is durable: files that are replaced whole, locks, the journal; and how files of others are read.
//!
//! Every durable write of the program goes through here, except the bulk data of a release and of a snapshot, which their
//! effects flush themselves before their names appear.

pub mod atomic;
pub mod journal_file;
pub mod lock;
pub mod small;
