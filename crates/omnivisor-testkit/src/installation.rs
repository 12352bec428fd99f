//! An installation as Nymvisor leaves it, written by hand from the description of its formats. Whether Nymvisor could
//! go on with what became of it is in `start_check`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::executable;
pub use crate::options::Options;
use crate::options::config_toml;
use crate::sandbox::Sandbox;
use crate::wire::pretty;

/// Where everything of one installation is.
#[derive(Clone, Debug)]
pub struct Installation {
    pub(crate) daemon: String,
    instance: PathBuf,
    data: PathBuf,
    daemon_home: PathBuf,
    backups: PathBuf,
}

impl Installation {
    /// What `nymvisor init` leaves, with its defaults.
    pub fn nymvisor(sandbox: &Sandbox, id: &str, daemon: &str, genesis: &Path) -> Self {
        Self::nymvisor_with(sandbox, id, daemon, genesis, &Options::default())
    }

    /// What `nymvisor init` leaves when it is given these options.
    pub fn nymvisor_with(sandbox: &Sandbox, id: &str, daemon: &str, genesis: &Path, options: &Options) -> Self {
        let installation = Self::at(sandbox, id, daemon, options);
        let details = options.build_info.clone().unwrap_or_else(|| probe(genesis));
        let version = details["build_version"].as_str().expect("build info has a version");
        let mut info = upgrade_info("genesis", version, "1970-01-01T00:00:00Z", None, Some(details.clone()));
        info["manual"] = true.into();

        let genesis_dir = installation.data.join("genesis");
        for folder in [genesis_dir.join("bin"), installation.instance.join("config"), installation.backups.clone()] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::create_dir_all(installation.current_version().parent().unwrap()).unwrap();
        fs::write(genesis_dir.join("upgrade-info.json"), pretty(&info)).unwrap();
        fs::write(installation.plan(), pretty(&json!({"current": info, "queuedUp": []}))).unwrap();
        executable::copy(genesis, &genesis_dir.join("bin").join(daemon));
        let current_version = json!({
            "name": "genesis",
            "version": version,
            "upgradeTime": "1970-01-01T00:00:00Z",
            "binaryDetails": details,
        });
        fs::write(installation.current_version(), pretty(&current_version)).unwrap();
        symlink(&genesis_dir, installation.current()).unwrap();
        let mut config = fs::OpenOptions::new();
        let mut config = config.write(true).create_new(true).mode(0o600).open(installation.config()).unwrap();
        config.write_all(config_toml(id, daemon, &installation.daemon_home, options).as_bytes()).unwrap();
        installation
    }

    /// Where an installation with these options is, whoever makes it: nothing is written.
    pub fn at(sandbox: &Sandbox, id: &str, daemon: &str, options: &Options) -> Self {
        let root = sandbox.nym_home().join(".nym/nymvisors");
        let daemon_home = options.daemon_home.clone().unwrap_or_else(|| sandbox.daemon_home());
        Self {
            daemon: daemon.to_owned(),
            instance: root.join("instances").join(id),
            data: options.data_directory.clone().unwrap_or_else(|| root.join("data").join(daemon)),
            backups: options.backup_directory.clone().unwrap_or_else(|| daemon_home.join("nymvisor/backups")),
            daemon_home,
        }
    }

    /// The instance's folder.
    pub fn instance_dir(&self) -> &Path {
        &self.instance
    }

    /// The instance's config.toml.
    pub fn config(&self) -> PathBuf {
        self.instance.join("config/config.toml")
    }

    /// The upgrade data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The daemon's home.
    pub fn daemon_home(&self) -> &Path {
        &self.daemon_home
    }

    /// upgrade-plan.json.
    pub fn plan(&self) -> PathBuf {
        self.data.join("upgrade-plan.json")
    }

    /// upgrade-history.json, which is not there before the first upgrade.
    pub fn history(&self) -> PathBuf {
        self.data.join("upgrade-history.json")
    }

    /// The `current` symlink.
    pub fn current(&self) -> PathBuf {
        self.data.join("current")
    }

    /// current-version.json.
    pub fn current_version(&self) -> PathBuf {
        self.daemon_home.join("nymvisor/current-version.json")
    }

    /// Where backups go, in a folder for each upgrade.
    pub fn backups(&self) -> &Path {
        &self.backups
    }

    /// The folder of an upgrade, or of `genesis`.
    pub fn upgrade_dir(&self, name: &str) -> PathBuf {
        if name == "genesis" { self.data.join(name) } else { self.data.join("upgrades").join(name) }
    }

    /// The binary of an upgrade, or of `genesis`.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.upgrade_dir(name).join("bin").join(&self.daemon)
    }

    /// Writes the folder of an upgrade, with or without its binary, and leaves the plan alone.
    pub fn place_upgrade(&self, entry: &Value, binary: Option<&Path>) {
        let name = entry["name"].as_str().unwrap();
        fs::create_dir_all(self.upgrade_dir(name)).unwrap();
        fs::write(self.upgrade_dir(name).join("upgrade-info.json"), pretty(entry)).unwrap();
        if let Some(binary) = binary {
            fs::create_dir_all(self.upgrade_dir(name).join("bin")).unwrap();
            executable::copy(binary, &self.binary(name));
        }
    }

    /// Puts an entry into the queue as the peer does: the plan is emptied and written in place.
    pub fn queue(&self, entry: Value) {
        let text = self.plan_with(entry);
        fs::write(self.plan(), text).unwrap();
    }

    /// Puts an entry into the queue as a careful editor does: a new file takes the place of the plan.
    pub fn queue_by_rename(&self, entry: Value) {
        let beside = self.data.join("upgrade-plan.json.new");
        fs::write(&beside, self.plan_with(entry)).unwrap();
        fs::rename(beside, self.plan()).unwrap();
    }

    fn plan_with(&self, entry: Value) -> String {
        let mut plan: Value = serde_json::from_slice(&fs::read(self.plan()).unwrap()).unwrap();
        let queue = plan["queuedUp"].as_array_mut().unwrap();
        queue.push(entry);
        queue.sort_by_key(|entry| OffsetDateTime::parse(entry["upgradeTime"].as_str().unwrap(), &Rfc3339).unwrap());
        pretty(&plan)
    }
}

/// An upgrade as an upstream announces it; `url` is where this platform's binary is, and its SHA-256 in hex.
pub fn upgrade_info(
    name: &str,
    version: &str,
    upgrade_time: &str,
    url: Option<(&str, &str)>,
    build_info: Option<Value>,
) -> Value {
    let mut info = json!({
        "manual": false,
        "name": name,
        "notes": "",
        "publishDate": null,
        "version": version,
        "platforms": {},
        "upgradeTime": upgrade_time,
    });
    if let Some((url, checksum)) = url {
        let download = json!({"checksum": checksum, "checksumAlgorithm": "sha256", "url": url});
        info["platforms"][platform()] = download;
    }
    if let Some(build_info) = build_info {
        info["binaryDetails"] = build_info;
    }
    info
}

/// The key of this platform in an announcement.
pub fn platform() -> String {
    format!("{}-{}", std::env::consts::OS.replace("macos", "darwin"), std::env::consts::ARCH)
}

/// What a binary answers when it is asked for its build info.
pub(crate) fn probe(binary: &Path) -> Value {
    let output = Command::new(binary)
        .args(["--no-banner", "build-info", "--output=json"])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", binary.display()));
    assert!(output.status.success(), "{} has no build info: {output:?}", binary.display());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in {output:?}"))
}
