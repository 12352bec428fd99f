//! What is done in the world: each module carries out one kind of action of the core, and decides nothing.

pub mod activate;
pub mod admin;
pub mod asset;
pub mod backup;
pub mod cgroup;
pub mod children;
pub mod digest;
pub mod fetch;
pub mod github;
pub mod group;
pub mod http;
pub mod needed;
pub mod notify;
pub mod poll;
pub mod preflight;
pub mod probe;
pub mod process;
pub mod releases;
pub mod restore;
pub mod roll_call;
pub mod run_command;
pub mod script;
pub mod snapshot;
pub mod space;
pub mod unpack;
pub mod watch;
