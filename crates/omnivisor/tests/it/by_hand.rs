//! What an operator does by hand: takes an upgrade back, and puts data back.

mod restore;
mod rollback;
