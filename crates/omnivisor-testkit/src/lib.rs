//! What omnivisor's tests stand on: fake nodes, a fake upstream, a fake GitHub, a sandbox and installations left by the peers.
//!
//! Nothing here is shipped, and nothing here uses omnivisor's own code: a test that reads a file through the code that
//! wrote it proves little. There are no tests of omnivisor in this crate either, only of what is in it.

// For tests only: a panic is how a test fails, and what a fake node prints is its behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

pub mod behaviour;
mod build_info;
mod daemon;
pub mod executable;
pub mod fake_node;
pub mod fake_vega;
pub mod github;
pub mod installation;
pub mod measure;
pub mod minting;
pub mod mounts;
pub mod node_log;
mod options;
mod peer_toml;
mod process;
mod response;
pub mod sandbox;
mod start_check;
pub mod status;
pub mod supervised;
mod tls;
pub mod upstream;
pub mod vega_behaviour;
pub mod vega_installation;
mod vega_options;
mod visor_check;
pub mod wire;

pub use behaviour::{Behaviour, BuildInfoAnswer, Grandchild, Height, Serves};
pub use build_info::default_build_info;
pub use github::FakeGitHub;
pub use installation::{Installation, Options, upgrade_info};
pub use minting::mint;
pub use node_log::{Event, Kind, NodeLog, Running};
pub use sandbox::{Sandbox, wait_until};
pub use status::status;
pub use supervised::Supervised;
pub use upstream::{Answer, Request, Upstream};
pub use vega_behaviour::{VegaBehaviour, VersionAnswer};
pub use vega_installation::{AutoInstall, RunConfig, VegaInstallation, VegaOptions, zip_of};
pub use wire::sha256_hex;
