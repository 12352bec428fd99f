//! `init` after an `init` that was interrupted: nothing has to be deleted by hand (N43).

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use omnivisor_testkit::{Behaviour, Sandbox, Upstream, mint, sha256_hex};

use super::instances::{Instance, end};
use super::{assert_done, tree};
use crate::world::{SOON, template};

fn instance<'a>(sandbox: &'a Sandbox, upstream: &'a Upstream) -> Instance<'a> {
    Instance { sandbox, upstream, id: "it" }
}

/// `init` is done, from whatever is there; then Nymvisor would start it, and so do we.
fn ends_well(instance: &Instance<'_>, what: &str) {
    let output = instance.init(&Behaviour::new("1.0.0"));
    assert_eq!(output.status.code(), Some(0), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    let installation = instance.installation();
    match installation.nymvisor_would_start() {
        Ok(version) => assert_eq!(version, "1.0.0", "{what}"),
        Err(reason) => panic!("{what}: {reason}"),
    }
    let supervised = instance.run();
    instance.wait_for_status(what, |status| status["active"]["version"] == "1.0.0" && status["degraded"].is_null());
    instance.wait_for_files("1.0.0");
    end(supervised);
    assert_eq!(instance.log().starts().len(), 1, "{what}");
    let left: Vec<_> = tree(&instance.sandbox.nym_home())
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(".omnivisor-new"))
        .collect();
    assert!(left.is_empty(), "{what}: {left:?}");
}

/// The pieces of a genesis release that a killed `init` may leave.
fn leave(instance: &Instance<'_>, executable: &[u8], suffix: &str) {
    let binary = instance.installation().binary("genesis");
    fs::create_dir_all(binary.parent().unwrap()).unwrap();
    let path = binary.with_file_name(format!("nym-node{suffix}"));
    fs::write(&path, executable).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// N43
#[test]
fn half_an_executable_does_not_keep_init_from_being_repeated() {
    for (what, length, suffix) in [
        ("nothing of it", Some(0), ""),
        ("its beginning", Some(20_000), ""),
        ("half of it", None, ""),
        ("half of an unfinished one", None, ".omnivisor-new"),
    ] {
        let (sandbox, upstream) = (Sandbox::new(), Upstream::http());
        let instance = instance(&sandbox, &upstream);
        let good = sandbox.path().join("good");
        mint(&template(), &good, &Behaviour::new("1.0.0"));
        let whole = fs::read(&good).unwrap();
        leave(&instance, &whole[..length.unwrap_or(whole.len() / 2)], suffix);
        ends_well(&instance, what);
        assert_eq!(sha256_hex(&instance.installation().binary("genesis")), sha256_hex(&good), "{what}");
    }
}

/// N43: Nymvisor writes the description and the plan before it copies the executable.
#[test]
fn a_description_without_an_executable_does_not_keep_init_from_being_repeated() {
    for (what, version, cut) in [
        ("whole", "1.0.0", None),
        ("of another version", "0.9.0", None),
        ("empty", "1.0.0", Some(0)),
        ("half", "1.0.0", Some(100)),
    ] {
        let (sandbox, upstream) = (Sandbox::new(), Upstream::http());
        let instance = instance(&sandbox, &upstream);
        let installation = instance.installation();
        let details = Behaviour::new(version).details();
        let time = "1970-01-01T00:00:00Z";
        let mut info = omnivisor_testkit::upgrade_info("genesis", version, time, None, Some(details));
        info["manual"] = true.into();
        installation.place_upgrade(&info, None);
        let plan = serde_json::json!({"current": info, "queuedUp": []});
        fs::write(installation.plan(), omnivisor_testkit::wire::pretty(&plan)).unwrap();
        if let Some(length) = cut {
            for path in [installation.plan(), installation.upgrade_dir("genesis").join("upgrade-info.json")] {
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..length]).unwrap();
            }
        }
        ends_well(&instance, what);
    }
}

/// N43: where something was installed already, nothing is replaced: the executable may be somebody's only one.
#[test]
fn an_executable_of_a_finished_installation_is_never_replaced_by_init() {
    let (sandbox, upstream) = (Sandbox::new(), Upstream::http());
    let instance = instance(&sandbox, &upstream);
    assert_done(&instance.init(&Behaviour::new("1.0.0")));
    let binary = instance.installation().binary("genesis");
    fs::write(&binary, "not any more").unwrap();
    let refused = |output: Output| {
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(binary.to_str().unwrap()), "{said}");
        assert_eq!(fs::read(&binary).unwrap(), b"not any more");
    };
    refused(instance.init(&Behaviour::new("1.0.0")));
    // Nor where another tool's link is all that says so.
    fs::remove_dir_all(instance.installation().instance_dir()).unwrap();
    refused(instance.init(&Behaviour::new("1.0.0")));
    fs::remove_file(instance.installation().current()).unwrap();
    symlink(Path::new("genesis"), instance.installation().current()).unwrap();
    refused(instance.init(&Behaviour::new("1.0.0")));
}

/// N43: killed wherever it writes something.
#[test]
fn init_that_was_killed_anywhere_can_be_repeated() {
    if !cfg!(debug_assertions) {
        return println!("skipped: a release has no checkpoints");
    }
    let mut killed = 0;
    // Every call that changes a disk in the long form.
    for nth in (1..).step_by(if std::env::var_os("OMNIVISOR_LONG").is_some() { 1 } else { 4 }) {
        let (sandbox, upstream) = (Sandbox::new(), Upstream::http());
        let instance = instance(&sandbox, &upstream);
        let executable = sandbox.path().join("node");
        mint(&template(), &executable, &Behaviour::new("1.0.0"));
        let mut command: Command = instance.command(&["init", executable.to_str().unwrap(), "--id", "it"]);
        command.arg("--daemon-home").arg(instance.home());
        command.env("OMNIVISOR_CHECKPOINT", format!("*:{nth}"));
        let mut supervised = sandbox.spawn(command);
        if supervised.wait(SOON).code() == Some(0) {
            break;
        }
        assert_eq!(supervised.died_of(), Some(9), "*:{nth}: {}", supervised.stderr());
        killed += 1;
        ends_well(&instance, &format!("*:{nth}"));
    }
    assert!(killed >= 10, "only {killed} calls were reached");
}
