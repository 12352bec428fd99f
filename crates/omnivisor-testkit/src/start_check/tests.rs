//! Installations that Nymvisor would start, and those it would not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::{Installation, Options, Sandbox, default_build_info, executable, upgrade_info, wire};

fn daemon(sandbox: &Sandbox, version: &str) -> PathBuf {
    let path = sandbox.path().join(format!("daemon-{version}"));
    executable::script(&path, &format!("#!/bin/sh\necho '{}'\n", default_build_info("nym-node", version)));
    path
}

#[test]
fn a_new_installation_would_start() {
    let sandbox = Sandbox::new();
    let made = Installation::nymvisor(&sandbox, "nym-node-default", "nym-node", &daemon(&sandbox, "1.0.0"));
    assert_eq!(made.assert_nymvisor_would_start(), "1.0.0");
    assert_eq!(fs::metadata(made.config()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_link(made.current()).unwrap(), made.upgrade_dir("genesis"));
    let plan = fs::read_to_string(made.plan()).unwrap();
    assert!(plan.starts_with("{\n  \"current\": {\n    \"manual\": true,\n    \"name\": \"genesis\",\n"));
    assert!(plan.ends_with("  },\n  \"queuedUp\": []\n}"), "{plan}");
    assert!(plan.contains("\"platforms\": {},"));
}

#[test]
fn options_are_written_down() {
    let sandbox = Sandbox::new();
    let options = Options {
        absolute_url: Some("https://localhost/?a=b&c".to_owned()),
        data_directory: Some(sandbox.path().join("elsewhere")),
        backup_directory: Some(sandbox.path().join("backups")),
        restart_on_failure: true,
        ..Options::default()
    };
    let made = Installation::nymvisor_with(&sandbox, "id", "node", &daemon(&sandbox, "1.0.0"), &options);
    assert!(sandbox.path().join("elsewhere/genesis/bin/node").is_file());
    let config = fs::read_to_string(made.config()).unwrap();
    assert!(config.contains("absolute_upstream_upgrade_url = 'https://localhost/?a&#x3D;b&amp;c'\n"), "{config}");
    assert!(config.contains("restart_on_failure = true\n"));
    let keys: Vec<_> = config.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key).collect();
    assert_eq!(keys.len(), 18, "{keys:?}");
}

#[test]
fn the_queue_is_sorted_and_keeps_nymvisor_content() {
    let sandbox = Sandbox::new();
    let made = Installation::nymvisor(&sandbox, "id", "nym-node", &daemon(&sandbox, "1.0.0"));
    let late = upgrade_info("late", "1.2.0", "2031-01-01T00:00:00+02:00", None, None);
    let early =
        upgrade_info("early", "1.1.0", "2030-01-01T00:00:00Z", Some(("https://localhost/x", &"0".repeat(64))), None);
    made.queue(late);
    made.queue_by_rename(early.clone());
    let plan: Value = serde_json::from_slice(&fs::read(made.plan()).unwrap()).unwrap();
    assert_eq!(plan["queuedUp"][0], early);
    made.place_upgrade(&early, Some(&daemon(&sandbox, "1.1.0")));
    assert!(made.binary("early").is_file());
    made.assert_nymvisor_would_start();
}

#[test]
fn what_does_not_agree_would_not_start() {
    let sandbox = Sandbox::new();
    let made = Installation::nymvisor(&sandbox, "id", "nym-node", &daemon(&sandbox, "1.0.0"));
    let spoiled = |path: PathBuf, pointer: &str, value: Option<Value>| {
        let good = fs::read_to_string(&path).unwrap();
        let mut json: Value = serde_json::from_str(&good).unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = json.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match value {
            Some(value) => parent.insert(key.to_owned(), value),
            None => parent.remove(key),
        };
        fs::write(&path, wire::pretty(&json)).unwrap();
        let reason = made.nymvisor_would_start().expect_err(pointer);
        fs::write(&path, good).unwrap();
        reason
    };
    let info = made.upgrade_dir("genesis").join("upgrade-info.json");
    assert!(spoiled(info.clone(), "/publishDate", None).contains("publishDate is missing"));
    assert!(spoiled(info.clone(), "/version", Some("2.0.0".into())).contains("version is"));
    assert!(spoiled(info, "/binaryDetails/commit_sha", Some("def".into())).contains("binaryDetails differ"));
    assert!(spoiled(made.current_version(), "/binaryDetails", None).contains("binaryDetails is missing"));
    assert!(spoiled(made.plan(), "/queuedUp", None).contains("queuedUp is missing"));
    assert!(spoiled(made.plan(), "/current/name", Some("other".into())).contains("current of the plan"));

    fs::write(made.history(), "{\"history\": [{}]}").unwrap();
    assert!(made.nymvisor_would_start().unwrap_err().contains("performedAt is missing"));
    fs::remove_file(made.history()).unwrap();

    made.assert_nymvisor_would_start();
    executable::copy(&daemon(&sandbox, "9.0.0"), &made.binary("genesis"));
    assert!(made.nymvisor_would_start().unwrap_err().contains("the binary says"));
    fs::remove_file(made.current()).unwrap();
    assert!(made.nymvisor_would_start().unwrap_err().contains("is no symlink"));
}
