//! An upgrade of an empty home as Nymvisor does it, step by step: stop, back up, lock, prove, write its files in place,
//! relink, prove again, start. For comparison only; as fast as these steps can be (no tar and no gzip of nothing; else those of
//! the system, each in a process of its own).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use omnivisor_testkit::measure::{mono_ns, pidfd};
use omnivisor_testkit::{Behaviour, NodeLog, Sandbox, mint, wait_until};

pub struct NymvisorWay {
    sandbox: Sandbox,
    template: PathBuf,
    home: PathBuf,
    packs: bool,
    child: Child,
    number: usize,
}

impl NymvisorWay {
    /// In this sandbox, whose home is empty, or with another one, which is packed.
    pub fn of(template: &Path, sandbox: Sandbox, other: Option<&Path>) -> Self {
        let (home, packs) = (other.map_or_else(|| sandbox.daemon_home(), Path::to_owned), other.is_some());
        fs::create_dir_all(sandbox.path().join("nymvisor/backups")).unwrap();
        let genesis = sandbox.path().join("genesis");
        fs::create_dir_all(genesis.join("bin")).unwrap();
        mint(template, &genesis.join("bin/nym-node"), &Behaviour::new("1.0.0"));
        std::os::unix::fs::symlink(&genesis, sandbox.path().join("current")).unwrap();
        let child = start(&sandbox, &home);
        let mut this = Self { sandbox, template: template.to_owned(), home, packs, child, number: 1 };
        this.wait();
        this
    }

    fn log(&self) -> NodeLog {
        self.sandbox.node_log()
    }

    fn wait(&mut self) -> u64 {
        let pid = self.child.id();
        wait_until("the node runs", Duration::from_secs(60), || {
            self.log().last_start().filter(|start| start.pid == pid).map(|start| start.mono_ns)
        })
    }

    pub fn upgrade(&mut self) -> Duration {
        self.number += 1;
        let root = self.sandbox.path().to_owned();
        let folder = root.join(format!("upgrades/up-{}", self.number));
        fs::create_dir_all(folder.join("bin")).unwrap();
        let executable = folder.join("bin/nym-node");
        mint(&self.template, &executable, &Behaviour::new(&format!("{}.0.0", self.number)));

        let old = pidfd(self.child.id());
        rustix::process::pidfd_send_signal(&old, rustix::process::Signal::INT).unwrap();
        self.child.wait().unwrap();
        let ended = mono_ns();
        let backup = root.join("nymvisor/backups").join(format!("up-{}", self.number));
        fs::create_dir_all(&backup).unwrap();
        let archive = backup.join("backup-preupgrade.tar.gz");
        if self.packs {
            let mut tar = Command::new("tar");
            tar.arg("-czf").arg(&archive).arg("-C").arg(&self.home).args(["--exclude", "./nymvisor", "."]);
            assert!(tar.status().unwrap().success());
        } else {
            File::create(&archive).unwrap();
        }
        let lock = File::create(root.join("upgrade.lock")).unwrap();
        lock.try_lock().unwrap();
        prove(&executable);
        let json = vec![b'x'; 900];
        for file in ["current-version.json", "upgrade-plan.json", "upgrade-history.json"] {
            fs::write(root.join(file), &json).unwrap();
        }
        fs::remove_file(root.join("current")).unwrap();
        std::os::unix::fs::symlink(&folder, root.join("current")).unwrap();
        fs::remove_file(root.join("upgrade.lock")).unwrap();
        drop(lock);
        fs::read(root.join("upgrade-plan.json")).unwrap();
        prove(&root.join("current/bin/nym-node"));
        self.child = start(&self.sandbox, &self.home);
        Duration::from_nanos(self.wait() - ended)
    }
}

impl Drop for NymvisorWay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn prove(executable: &Path) {
    let output =
        Command::new(executable).args(["--no-banner", "build-info", "--output=json"]).stdin(Stdio::null()).output();
    assert!(output.unwrap().status.success());
}

fn start(sandbox: &Sandbox, home: &Path) -> Child {
    let mut command = Command::new(sandbox.path().join("current/bin/nym-node"));
    command.arg("run").env("FAKE_NODE_LOG", sandbox.node_log_path()).env("DAEMON_HOME", home);
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}
