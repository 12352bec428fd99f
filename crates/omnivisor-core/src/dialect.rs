//! x
pub mod nym;
