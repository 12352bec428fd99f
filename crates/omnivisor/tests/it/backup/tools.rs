//! Our archives and manifests are read by everybody's tools, and those that everybody's tools make are read by us.

use std::fs;
use std::path::Path;
use std::process::Command;

use omnivisor::effects::backup::archive::Format;
use omnivisor::effects::backup::{Kind, list, manifest};

use super::{Place, fill};
use crate::passes::assert_same;

/// The tool, if it is installed.
fn tool(name: &str) -> Option<Command> {
    let is_there = Command::new(name).arg("--version").output().is_ok();
    if !is_there {
        println!("skipped: no {name}");
    }
    is_there.then(|| Command::new(name))
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C").output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

#[test]
fn tar_and_bsdtar_get_out_of_our_archives_what_is_in_them() {
    for name in ["tar", "bsdtar"] {
        for format in [Format::Gz, Format::Zst] {
            let Some(mut tar) = tool(name) else { continue };
            if format == Format::Zst && tool("zstd").is_none() {
                continue;
            }
            let place = Place::new();
            fill(&place.home());
            if name == "bsdtar" {
                // It reads -1.5 as -0.5.
                let empty = fs::File::options().write(true).open(place.home().join("data/empty")).unwrap();
                empty.set_modified(std::time::UNIX_EPOCH).unwrap();
            }
            let backup = place.archived(format);
            let to = place.path("by-tar");
            fs::create_dir(&to).unwrap();
            tar.arg("-xpf").arg(&backup.path).arg("-C").arg(&to).arg("--xattrs");
            if name == "tar" {
                tar.args(["--xattrs-include=*", "--numeric-owner"]);
            }
            succeeds(&mut tar);
            assert_same(&place.home(), &to, name);
        }
    }
}

/// As Nymvisor's are: the entries of the home, and no folder above them.
#[test]
fn what_tar_makes_of_a_home_is_read() {
    for arguments in
        [&["--format=gnu"][..], &["--format=gnu", "--sparse"], &["--format=pax", "--xattrs"], &["--format=ustar"]]
    {
        let Some(mut tar) = tool("tar") else { return };
        let place = Place::new();
        fill(&place.home());
        if arguments.contains(&"--format=ustar") {
            // What that cannot hold.
            for name in fs::read_dir(place.home().join("data")).unwrap().map(|it| it.unwrap().file_name()) {
                if name.len() > 90 || name == "far" || name == "setuid" || name == "empty" {
                    let path = place.home().join("data").join(name);
                    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
                }
            }
        }
        let path = place.backups().join("2024.9/backup-2024-01-01-000000000-preupgrade.tar.gz");
        let names = fs::read_dir(place.home()).unwrap().map(|it| it.unwrap().file_name());
        succeeds(tar.arg("-czf").arg(&path).args(arguments).arg("-C").arg(place.home()).args(names));
        let backup = list(&place.backups()).pop().unwrap();
        assert_eq!(backup.kind, Kind::Nymvisor);
        let to = place.unpacked(&backup);
        // What that form does not hold is left out of the comparison.
        let exact = arguments.contains(&"--format=pax");
        if exact {
            assert_same(&place.home(), &to, "pax");
        } else {
            assert_same_contents(&place.home(), &to);
        }
    }
}

fn assert_same_contents(home: &Path, to: &Path) {
    let (mut wanted, mut found) = (crate::passes::tree(home), crate::passes::tree(to));
    for entry in wanted.values_mut().chain(found.values_mut()) {
        entry.modified /= 1_000_000_000;
        entry.attribute = None;
    }
    // Before 1970 these forms have nothing.
    for tree in [&mut wanted, &mut found] {
        tree.remove(Path::new("data/empty"));
    }
    let differ: Vec<_> = wanted.iter().filter(|(path, entry)| found.get(*path) != Some(entry)).collect();
    assert!(differ.is_empty() && wanted.len() == found.len(), "{differ:?}");
}

#[test]
fn mtree_and_bsdtar_read_our_manifests() {
    let place = Place::new();
    fill(&place.home());
    let backup = place.sealed();
    let manifest = manifest::beside(&backup.path);
    if let Some(mut mtree) = tool("mtree") {
        succeeds(mtree.arg("-p").arg(&backup.path).arg("-f").arg(&manifest));
        fs::write(backup.path.join("data/state.json"), "[]").unwrap();
        let mut mtree = Command::new("mtree");
        let output = mtree.arg("-p").arg(&backup.path).arg("-f").arg(&manifest).output().unwrap();
        assert!(!output.status.success(), "a change shows");
    }
    if let Some(mut bsdtar) = tool("bsdtar") {
        let said = succeeds(bsdtar.arg("-tf").arg(&manifest));
        assert!(said.contains("data/deep/again"), "{said}");
    }
}
