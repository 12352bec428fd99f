//! An upgrade of core and data node as Vega Visor does it, step by step: stop, list the releases, list the assets,
//! download, unpack, write the run-config, relink, ask the binary's version, start. For comparison only; as fast as these
//! steps can be: nothing waits for a tick.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use omnivisor_testkit::measure::{gone, pidfd};
use omnivisor_testkit::{FakeGitHub, Kind, RunConfig, Sandbox, VegaInstallation, VegaOptions, wait_until};
use rustix::process::{Signal, pidfd_send_signal};

use super::{ASSET, SOON};

pub struct VisorWay {
    sandbox: Sandbox,
    pub installation: VegaInstallation,
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    core: Child,
    data_node: Child,
}

impl VisorWay {
    pub fn new(options: VegaOptions) -> Self {
        let sandbox = Sandbox::new();
        let installation = VegaInstallation::new(&sandbox, options);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (core, data_node) = start(&sandbox, &installation, &installation.run_config("genesis"));
        let this = Self { sandbox, installation, runtime, http: reqwest::Client::new(), core, data_node };
        this.first_word();
        this
    }

    /// When the first of the two that run now has begun to execute.
    fn first_word(&self) -> u64 {
        let of = |kind, pid| {
            wait_until("the node runs", SOON, || {
                self.sandbox.node_log().last_start_of(kind).filter(|start| start.pid == pid)
            })
            .mono_ns
        };
        of(Kind::Core, self.core.id()).min(of(Kind::Datanode, self.data_node.id()))
    }

    fn get(&self, url: &str) -> Vec<u8> {
        let request = self.http.get(url).header("Accept", "application/octet-stream");
        self.runtime.block_on(async { request.send().await.unwrap().bytes().await.unwrap().to_vec() })
    }

    /// From the end of the last old process to the first new one.
    pub fn upgrade(&mut self, github: &FakeGitHub, tag: &str) -> Duration {
        let mut ended = 0;
        for child in [&mut self.core, &mut self.data_node] {
            let process = pidfd(child.id());
            pidfd_send_signal(&process, Signal::TERM).unwrap();
            ended = ended.max(gone(&process));
            child.wait().unwrap();
        }
        let releases = self.json(&github.api.url(&github.list_path()));
        let release = releases.as_array().unwrap().iter().find(|release| release["tag_name"] == tag).unwrap();
        let asset = release["assets"].as_array().unwrap().iter().find(|asset| asset["name"] == ASSET).unwrap();
        // It asks for the list of the release's assets, which is answered like the release.
        self.json(&github.api.url(&github.tag_path(tag)));
        let bytes = self.get(asset["url"].as_str().unwrap());

        let folder = self.installation.folder(tag);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(ASSET), &bytes).unwrap();
        zip::ZipArchive::new(Cursor::new(bytes)).unwrap().extract(&folder).unwrap();
        let run_config = self.installation.run_config(tag);
        fs::write(folder.join("run-config.toml"), run_config.to_toml()).unwrap();
        fs::remove_file(self.installation.current()).unwrap();
        symlink(&folder, self.installation.current()).unwrap();
        for _ in [Kind::Core, Kind::Datanode] {
            let output = Command::new(self.executable()).args(["version", "--output", "json"]).output().unwrap();
            let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(told["version"], tag);
        }
        (self.core, self.data_node) = start(&self.sandbox, &self.installation, &run_config);
        Duration::from_nanos(self.first_word() - ended)
    }

    fn json(&self, url: &str) -> serde_json::Value {
        serde_json::from_slice(&self.get(url)).unwrap()
    }

    fn executable(&self) -> PathBuf {
        self.installation.current().join("vega")
    }
}

impl Drop for VisorWay {
    fn drop(&mut self) {
        for child in [&mut self.core, &mut self.data_node] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

fn start(sandbox: &Sandbox, installation: &VegaInstallation, run_config: &RunConfig) -> (Child, Child) {
    let spawn = |args: &[String]| {
        let mut command = Command::new(installation.current().join("vega"));
        command.args(args).current_dir(sandbox.path()).env("FAKE_NODE_LOG", sandbox.node_log_path());
        command.spawn().unwrap()
    };
    let (_, data_node_args) = run_config.data_node.as_ref().unwrap();
    (spawn(&run_config.core_args), spawn(data_node_args))
}
