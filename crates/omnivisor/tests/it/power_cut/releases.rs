//! A release is fetched from a server, and its folder appears, whole; the files for other tools follow.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnivisor::effects::fetch::{fetch, locate, publish};
use omnivisor::effects::github::GitHub;
use omnivisor::effects::{activate, asset, digest};
use omnivisor::shell::sweep;
use omnivisor::store::{atomic, small};
use omnivisor_core::dialect::nym::Nym;
use omnivisor_core::dialect::vega::{Extra, Surroundings, Vega};
use omnivisor_core::dialect::{Dialect, Layout, Mirrored, nym, vega};
use omnivisor_core::health::{HealthProbe, Rhythm};
use omnivisor_core::plan::UpgradePlan;
use omnivisor_core::release::{Algorithm, Identity, Installed, Release, ReleaseName, Version};
use omnivisor_core::schedule::{Announcement, Asset, Origin, Source, Trigger};
use omnivisor_core::time::Timestamp;
use omnivisor_testkit::{Answer, FakeGitHub, Upstream, default_build_info, zip_of};

use super::{Case, read};
use crate::vega::world::ASSET;

const OLD: &[u8] = b"the old executable";
/// Of more than one block.
const NEW: &[u8] = &[b'n'; 1300];

fn probe() -> HealthProbe {
    HealthProbe {
        window: Duration::from_secs(1),
        deaths: 1,
        answers: false,
        checks: Vec::new(),
        rhythm: Rhythm::default(),
    }
}

fn installed(name: &str, version: &str, bytes: &[u8], folder: PathBuf) -> Installed {
    let digest = digest::of_bytes(Algorithm::Sha256, bytes);
    let release = Release {
        name: ReleaseName::parse_installed(name).unwrap(),
        version: Version::new(version),
        digest: Some(digest.clone()),
    };
    Installed { release, folder, digest, identity: Identity::default() }
}

fn plan(from: Installed, to: &Installed, source: Source) -> UpgradePlan {
    let to = Announcement {
        release: to.release.clone(),
        trigger: Trigger::At(Timestamp::EPOCH),
        published: None,
        origin: Origin::Local,
        source,
        expected: Identity::default(),
        without_snapshot: false,
    };
    UpgradePlan { number: 1, begun: Timestamp::EPOCH, from, to, snapshot: false }
}

fn fetched(dialect: &dyn Dialect, plan: &UpgradePlan, github: &GitHub) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(fetch(dialect, plan, github)).map_err(|failure| failure.reason)
}

fn published(dialect: &dyn Dialect, release: &Release) -> Result<(), String> {
    let located = locate(dialect, release).map_err(|error| error.to_string())?;
    let located = located.ok_or_else(|| "it is not there any more".to_owned())?;
    publish(dialect, &located).map_err(|error| error.to_string())
}

/// The release of `plan` comes into its folder, which is whole whenever it is there.
fn arrives(
    each: &dyn Fn(&Case<'_>),
    name: &'static str,
    prepare: &dyn Fn(&Path),
    dialect_at: &dyn Fn(&Path) -> Box<dyn Dialect>,
    plan_at: &dyn Fn(&Path) -> UpgradePlan,
    github: &GitHub,
) {
    let is_whole = |dialect: &dyn Dialect, release: &Release| -> Result<bool, String> {
        let folder = dialect.release_folder(release);
        let there = read(&folder);
        // A folder that others may have made means nothing before its executable is in it.
        let executables = dialect.executables(&folder, &|path| small::read(path).ok());
        let executable = match executables {
            Ok(all) => all[0].clone(),
            Err(_) if there.is_empty() && !folder.exists() => return Ok(false),
            Err(error) => return Err(format!("a folder that is not whole: {error}")),
        };
        match fs::read(&executable) {
            Ok(bytes) if bytes == NEW => Ok(true),
            Ok(bytes) => Err(format!("{} bytes of {} stand in its place", bytes.len(), NEW.len())),
            Err(_) if dialect.fills_folders() => Ok(false),
            Err(_) if !folder.exists() => Ok(false),
            Err(error) => Err(format!("a folder that is not whole: {error}")),
        }
    };
    each(&Case {
        name,
        prepare: Box::new(prepare),
        steps: vec![
            Box::new(|root| fetched(&*dialect_at(root), &plan_at(root), github).unwrap()),
            Box::new(|root| published(&*dialect_at(root), &plan_at(root).to.release).unwrap()),
        ],
        check: Box::new(|root, steps| {
            let (dialect, plan) = (dialect_at(root), plan_at(root));
            let release = &plan.to.release;
            if !is_whole(&*dialect, release)? && steps == 2 {
                return Err("it was published, and is not there".to_owned());
            }
            fetched(&*dialect, &plan, github)?;
            published(&*dialect, release)?;
            if !is_whole(&*dialect, release)? {
                return Err("it is not there in the end".to_owned());
            }
            sweep(&*dialect);
            asset::sweep(&*dialect);
            let left = read(root).into_keys().find(|path| path.to_string_lossy().ends_with(atomic::UNFINISHED));
            left.map_or(Ok(()), |path| Err(format!("{} is left", path.display())))
        }),
        again: true,
        strict: false,
    });
}

fn nym_at(root: &Path) -> Nym {
    let mut config = nym::config::Config::new("nym-node", &root.join("home"), "it").unwrap();
    config.enforce_download_checksum = true;
    Nym::new(root, config, "linux-x86_64", Vec::new(), probe(), Vec::<OsString>::new())
}

pub(super) fn nym(each: &dyn Fn(&Case<'_>)) {
    let upstream = Upstream::http();
    upstream.serve("/new", Answer::Body { content_type: "application/octet-stream".to_owned(), bytes: NEW.to_vec() });
    let github = GitHub::new(GitHub::API.parse().unwrap(), GitHub::WEB.parse().unwrap(), None).unwrap();
    let old = |root: &Path| installed("genesis", "1.0.0", OLD, nym_at(root).genesis_folder());
    let new = |root: &Path| installed("2024.2", "2.0.0", NEW, nym_at(root).paths().releases.join("upgrades/2024.2"));
    let prepare = |root: &Path| {
        let genesis = nym_at(root).genesis_folder();
        fs::create_dir_all(genesis.join("bin")).unwrap();
        fs::write(genesis.join("bin/nym-node"), OLD).unwrap();
        fs::create_dir_all(nym_at(root).paths().releases.join("upgrades")).unwrap();
    };
    arrives(
        each,
        "a release of Nym is downloaded, and its executable appears",
        &prepare,
        &|root| Box::new(nym_at(root)),
        &|root| plan(old(root), &new(root), Source::Download { url: upstream.url("/new") }),
        &github,
    );

    let described = |installed: Installed| {
        let info = default_build_info("nym-node", installed.release.version.as_str());
        let fields = info.as_object().unwrap().iter();
        let identity =
            fields.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect();
        Installed { identity, ..installed }
    };
    let mirrored = |shown: Installed, committed: Option<i128>| Mirrored {
        shown,
        committed: committed.map(|second| Timestamp::from_unix_nanos(second * 1_000_000_000)),
        linked: true,
        settled: Vec::new(),
    };
    let before = |root: &Path| mirrored(described(old(root)), None);
    let after = |root: &Path| mirrored(described(new(root)), Some(1_700_000_000));
    let says = |root: &Path, returned: bool| -> Result<(), String> {
        let releases = nym_at(root).paths().releases.clone();
        let text = |name: &str| fs::read_to_string(releases.join(name)).unwrap_or_default();
        let version = root.join("home/nymvisor/current-version-info.json");
        let version = version.to_str().unwrap();
        for name in [version, "upgrade-history.json", "upgrade-plan.json"] {
            if !text(name).is_empty() || returned {
                serde_json::from_str::<serde_json::Value>(&text(name)).map_err(|error| format!("{name}: {error}"))?;
            }
        }
        let upgrades = text("upgrade-history.json").matches("\"performedAt\"").count();
        if upgrades > 1 || (returned && upgrades == 0) {
            return Err(format!("{upgrades} upgrades are in the history"));
        }
        let link = fs::read_link(releases.join("current")).map_err(|error| format!("the link is gone: {error}"))?;
        let may = [old(root).folder, new(root).folder];
        let may = if returned { &may[1..] } else { &may[..] };
        if !may.contains(&link) {
            return Err(format!("the link points to {}", link.display()));
        }
        if returned && !text(version).contains("2.0.0") {
            return Err("another version is named".to_owned());
        }
        Ok(())
    };
    each(&Case {
        name: "the files that Nymvisor expects say what was installed",
        prepare: Box::new(|root| {
            prepare(root);
            fs::create_dir_all(new(root).folder.join("bin")).unwrap();
            fs::write(new(root).folder.join("bin/nym-node"), NEW).unwrap();
            activate::mirror(&nym_at(root), &before(root)).unwrap();
        }),
        steps: vec![Box::new(|root| {
            activate::mirror(&nym_at(root), &after(root)).unwrap();
        })],
        check: Box::new(|root, steps| {
            says(root, steps == 1)?;
            activate::mirror(&nym_at(root), &after(root)).map_err(|error| error.to_string())?;
            sweep(&nym_at(root));
            says(root, true)
        }),
        // They are looked at again at every start: what was written and not flushed by one that was killed needs no more.
        again: false,
        strict: false,
    });
}

pub(super) fn vega(each: &dyn Fn(&Case<'_>)) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("vega"), NEW).unwrap();
    let server = FakeGitHub::of("vegaprotocol", "vega");
    server.publish("v0.75.0", &[(ASSET, &zip_of(&folder.path().join("vega")), true)]);
    let github = GitHub::new(server.api_url().parse().unwrap(), server.web_url().parse().unwrap(), None).unwrap();
    let config = vega::config::Config::parse(&vega::config::Config::template(ASSET), ASSET).unwrap().0;
    let vega_at = |root: &Path| {
        let extra = Extra { probe: probe(), restart_silent: false, postgres_patience: Duration::ZERO };
        let surroundings = Surroundings {
            config: root.join("config"),
            temporary: root.join("tmp"),
            variables: std::collections::BTreeMap::new(),
        };
        Vega::new(&root.join("home"), config.clone(), extra, surroundings)
    };
    let old = |root: &Path| installed("genesis", "v0.74.0", OLD, root.join("home/genesis"));
    let new = |root: &Path| {
        let mut new = installed("v0.75.0", "v0.75.0", NEW, root.join("home/v0.75.0"));
        new.release.digest = None;
        new
    };
    let asset = Asset {
        owner: "vegaprotocol".to_owned(),
        repository: "vega".to_owned(),
        tag: "v0.75.0".to_owned(),
        name: ASSET.to_owned(),
        binary: Some("vega".to_owned()),
    };
    arrives(
        each,
        "a release of Vega is downloaded and unpacked, and its folder appears",
        &|root| {
            let genesis = root.join("home/genesis");
            fs::create_dir_all(&genesis).unwrap();
            fs::create_dir_all(root.join("home/.omnivisor")).unwrap();
            fs::write(genesis.join("vega"), OLD).unwrap();
            let run = "name = \"genesis\"\n[vega]\n[vega.binary]\npath = \"vega\"\nargs = [\"start\"]\n\
                       [vega.rpc]\nsocketPath = \"/tmp/vega.sock\"\nhttpPath = \"/rpc\"\n";
            fs::write(genesis.join("run-config.toml"), run).unwrap();
        },
        &|root| Box::new(vega_at(root)),
        &|root| plan(old(root), &new(root), Source::Asset(Box::new(asset.clone()))),
        &github,
    );
}
