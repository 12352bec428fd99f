//! The fake Vega node and the installation around it, from outside: what a test of a supervisor relies on.

#![allow(clippy::unwrap_used, missing_docs, reason = "a panic is a failed test")]

mod admin;
mod installation;
mod running;

use std::path::Path;
use std::time::Duration;

use omnivisor_testkit::{Kind, NodeLog, Sandbox, Supervised, VegaBehaviour, VegaInstallation, VegaOptions, wait_until};

const SOON: Duration = Duration::from_secs(30);

const SIGTERM: i32 = 15;

fn template() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_fake-vega"))
}

/// An installation of v0.74.0 with a data node. Nothing supervises it: the tests start what they want.
struct World {
    installation: VegaInstallation,
    sandbox: Sandbox,
}

impl World {
    fn new() -> Self {
        Self::with(|options| options)
    }

    fn with(change: impl FnOnce(VegaOptions) -> VegaOptions) -> Self {
        let sandbox = Sandbox::new();
        let options = VegaOptions::new(template(), VegaBehaviour::default()).with_data_node();
        Self { installation: VegaInstallation::new(&sandbox, change(options)), sandbox }
    }

    fn log(&self) -> NodeLog {
        self.sandbox.node_log()
    }

    /// Starts a release in this folder, as its run-config.toml says.
    fn start_from(&self, folder: &Path, kind: Kind) -> Supervised {
        let run_config = self.installation.run_config("any");
        let args = match kind {
            Kind::Core => run_config.core_args,
            Kind::Datanode => run_config.data_node.unwrap().1,
        };
        let starts = self.log().starts().len();
        let mut command = self.sandbox.omnivisor(&folder.join("vega"), "vega");
        command.args(args);
        let running = self.sandbox.spawn(command);
        wait_until("it says that it runs", SOON, || (self.log().starts().len() > starts).then_some(()));
        running
    }

    fn start(&self, kind: Kind) -> Supervised {
        self.start_from(&self.installation.current(), kind)
    }

    fn wait_for_socket(&self) {
        let socket = self.installation.socket();
        wait_until("somebody listens", SOON, || std::os::unix::net::UnixStream::connect(&socket).ok());
    }
}
