//! Our own files: versioned types of their own, converted to and from the core's words.
//!
//! What is on disk is a promise: a journal written by any released version is read for ever. The types of the core are
//! never serialized themselves, so that they may change.

pub mod journal;
mod records;
mod summary;
