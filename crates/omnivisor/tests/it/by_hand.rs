//! What an operator does by hand: takes an upgrade back, and puts data back.

mod backup_now;
mod backups;
mod damage;
mod links;
mod restore;
mod rollback;
