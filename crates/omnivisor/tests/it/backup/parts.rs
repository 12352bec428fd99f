//! Backups of several homes of which one has its part elsewhere: they are exactly as those of homes that are in one place, and can be put
//! back wherever a home is by now.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use omnivisor::effects::backup::archive::{Format, archive};
use omnivisor::effects::backup::entry::{Walk, What};
use omnivisor::effects::backup::manifest::Head;
use omnivisor::effects::backup::seal::seal;
use omnivisor::effects::backup::{Backup, find, manifest, unpack};
use omnivisor::effects::data::Data;
use omnivisor::effects::parts;
use omnivisor::effects::restore::{Restore, Source, aside};
use omnivisor::effects::snapshot::{self, Snapshot};
use omnivisor_core::dialect::Root;

use super::{NEVER, Place, fill, looked_at};
use crate::passes::assert_same;

const ID: &str = "1800000000000-000002";

/// Which homes are elsewhere; that is known by whoever has looked at the mounts.
fn data(place: &Place, elsewhere: &[&'static str]) -> Data {
    let root = |name| Root { name, path: place.path(name) };
    let parts = |name: &&'static str| (*name, place.path(name).join(parts::PARTS));
    Data {
        home: place.path("visor"),
        roots: ["core", "consensus"].map(root).into(),
        apart: ["core", "consensus"].map(|name| place.path(name).join(parts::PARTS)).into(),
        parts: elsewhere.iter().map(parts).collect(),
    }
}

fn filled() -> Place {
    let place = Place::new();
    for name in ["core", "consensus"] {
        fill(&place.path(name));
    }
    fs::create_dir(place.path("visor")).unwrap();
    place
}

fn to(place: &Place) -> PathBuf {
    place.backups().join(format!("2024.9/snapshot-{ID}-preupgrade"))
}

fn taken(place: &Place, data: &Data) -> Backup {
    let head = Head {
        id: ID.to_owned(),
        taken: "2027-01-15T08:00:00Z".to_owned(),
        home: data.home.display().to_string(),
        roots: data.named(),
        method: "copy".to_owned(),
        ..Head::default()
    };
    Snapshot { data, to: &to(place) }.take_as(&head, &NEVER).unwrap();
    seal(&to(place), &mut |_| Ok(())).unwrap();
    find(&place.backups(), ID).unwrap()
}

/// How many parts there are in a home.
fn count(place: &Place, name: &str) -> usize {
    fs::read_dir(place.path(name).join(parts::PARTS)).map_or(0, Iterator::count)
}

/// What a manifest lists, without the line that says which backup it is.
fn listed(path: &Path) -> Vec<String> {
    let text = fs::read(manifest::beside(path)).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn the_list_and_the_archive_of_a_backup_are_the_same_wherever_its_homes_are() {
    let place = filled();
    // Whoever makes it changes when its home was modified.
    fs::create_dir(place.path("consensus").join(parts::PARTS)).unwrap();
    let whole = taken(&place, &data(&place, &[]));
    let list = listed(&whole.path);
    archive(&whole, Format::Zst, &mut |_| Ok(())).unwrap();
    let whole = find(&place.backups(), ID).unwrap();
    let packed = fs::read(&whole.path).unwrap();
    fs::remove_file(&whole.path).unwrap();
    fs::remove_file(manifest::beside(&whole.path)).unwrap();

    let apart = taken(&place, &data(&place, &["consensus"]));
    assert!(to(&place).join("consensus").is_symlink() && to(&place).join("core").is_dir());
    // The folder that holds them was made at another time.
    assert_eq!(listed(&apart.path)[1..], list[1..]);
    assert!(looked_at(&apart).is_good());
    archive(&apart, Format::Zst, &mut |_| Ok(())).unwrap();
    let apart = find(&place.backups(), ID).unwrap();
    assert!(fs::read(&apart.path).unwrap() == packed, "another archive");
    assert_eq!(count(&place, "consensus"), 0, "the part goes with the folder that was packed");
}

/// From what was taken where a home was before to where it is by now, from folders and from archives.
#[test]
fn what_was_taken_of_homes_in_one_place_goes_back_to_another_one() {
    let everywhere: [&[&'static str]; 3] = [&[], &["consensus"], &["consensus", "core"]];
    for (then, now) in everywhere.iter().flat_map(|then| everywhere.map(|now| (then, now))) {
        for how in ["given up", "kept", "copied", "unpacked"] {
            let place = filled();
            let backup = taken(&place, &data(&place, then));
            for name in ["core", "consensus"] {
                copied(&place.path(name), &place.path(&format!("{name}-then")));
                let _ = fs::remove_dir_all(place.path(&format!("{name}-then")).join(parts::PARTS));
                fs::write(place.path(name).join("data/state.json"), "new").unwrap();
                fs::write(place.path(name).join("data/more"), "new").unwrap();
            }
            let backup = if how == "unpacked" {
                archive(&backup, Format::Gz, &mut |_| Ok(())).unwrap();
                find(&place.backups(), ID).unwrap()
            } else {
                backup
            };
            let (data, work) = (data(&place, now), place.path("visor/restore"));
            let restore = Restore { data: &data, work: &work, is_monotonic: &|_| false };
            let make = |to: &Path, each: omnivisor::effects::snapshot::Each<'_>| unpack(&backup, to, each);
            let to = to(&place);
            let source = match how {
                "given up" => Source::GivenUp(&to),
                "kept" => Source::Kept(&to),
                _ => Source::Made(&make),
            };
            restore.prepare(&source, &[], &mut |_| Ok(())).unwrap();
            for name in ["core", "consensus"] {
                let link = work.join("copy").join(name).is_symlink();
                assert_eq!(link, now.contains(&name), "{then:?} to {now:?}, {how}: {name}");
            }
            restore.put_in_place().unwrap();
            for name in ["core", "consensus"] {
                let ours = place.path(name).join(parts::PARTS);
                let replaced = work.join("replaced").join(name);
                assert_eq!(
                    fs::read_to_string(replaced.join("data/more")).unwrap(),
                    "new",
                    "{then:?} to {now:?}, {how}"
                );
                assert_eq!(replaced.is_symlink(), now.contains(&name));
                let _ = fs::remove_dir_all(ours);
                assert_same(&place.path(&format!("{name}-then")), &place.path(name), how);
            }
        }
    }
}

#[test]
fn passes_begin_anew_where_a_home_has_moved_or_a_part_is_gone() {
    let place = filled();
    let take_pass = |data: &Data| Snapshot { data, to: &to(&place) }.prepare(&AtomicBool::new(false), &mut |_| Ok(()));
    let partial = PathBuf::from(format!("{}.partial", to(&place).display()));
    let gone = |_: &Path| fs::remove_dir_all(fs::read_link(partial.join("consensus")).unwrap()).unwrap();
    let nothing = |_: &Path| {};
    type Then<'a> = &'a dyn Fn(&Path);
    let cases: [(&[&'static str], &[&'static str], Then<'_>); 5] = [
        (&[], &["consensus"], &nothing),
        (&["consensus"], &[], &nothing),
        (&["consensus"], &["core"], &nothing),
        (&["consensus"], &["consensus"], &gone),
        (&["consensus"], &["consensus"], &nothing),
    ];
    for (then, now, change) in cases {
        let (then, now) = (data(&place, then), data(&place, now));
        take_pass(&then).unwrap();
        change(&partial);
        let backup = taken(&place, &now);
        assert!(looked_at(&backup).is_good());
        for name in ["core", "consensus"] {
            let link = to(&place).join(name);
            assert_eq!(link.is_symlink(), now.parts.contains_key(name));
            assert_eq!(count(&place, name), usize::from(link.is_symlink()), "no part is left behind");
            assert_same(&fs::canonicalize(&link).unwrap(), &without_ours(&place, name), name);
        }
        parts::remove(&to(&place)).unwrap();
        fs::remove_file(manifest::beside(&to(&place))).unwrap();
        assert_eq!((count(&place, "core"), count(&place, "consensus")), (0, 0));
    }
}

fn copied(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// A home as a copy has it.
fn without_ours(place: &Place, name: &str) -> PathBuf {
    let copy = place.path("as-it-is");
    let _ = fs::remove_dir_all(&copy);
    copied(&place.path(name), &copy);
    let _ = fs::remove_dir_all(copy.join(parts::PARTS));
    copy
}

/// Whoever moves a folder that a restore works in to another disk leaves a link, and a node may make one.
#[test]
fn what_a_link_in_place_of_a_work_folder_leads_to_stays() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    fs::create_dir_all(at("elsewhere/replaced")).unwrap();
    for name in ["precious", "cleared"] {
        fs::write(at("elsewhere").join(name), "").unwrap();
    }
    symlink(at("elsewhere"), at("restored-1")).unwrap();
    assert_eq!(aside::all(folder.path()), []);
    parts::remove_work(&at("restored-1")).unwrap();
    assert!(!at("restored-1").is_symlink() && at("elsewhere/precious").exists());
}

/// What a node, or an archive that somebody else has made, puts where a link of ours could be.
#[test]
fn no_other_link_is_followed_or_removes_anything() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    let part = at("home/.omnivisor-parts/7-10-consensus");
    fs::create_dir_all(&part).unwrap();
    fs::create_dir_all(at("other/7-10-consensus")).unwrap();
    let cases = [
        (part.clone(), true),
        (at("other/7-10-consensus"), false),
        (PathBuf::from(".omnivisor-parts/7-10-consensus"), false),
        (at("home/.omnivisor-parts/x-0a-consensus"), false),
        (at("home/.omnivisor-parts/7-consensus"), false),
        (at("home/.omnivisor-parts/7-x-consensus"), false),
        (at("home/.omnivisor-parts/7-10-core"), false),
        (at("home/.omnivisor-parts/../.omnivisor-parts/7-10-consensus"), false),
        (at("home/.omnivisor-parts/-5-0a-consensus"), false),
        (at("home/.omnivisor-parts"), false),
    ];
    for (target, is_ours) in &cases {
        fs::create_dir(at("copy")).unwrap();
        let link = at("copy/consensus");
        symlink(target, &link).unwrap();
        assert_eq!(parts::of(&link).is_some(), *is_ours, "{}", target.display());
        if !is_ours {
            parts::remove(&at("copy")).unwrap();
            assert!(part.is_dir() && at("other/7-10-consensus").is_dir(), "{}", target.display());
        } else {
            fs::remove_dir_all(at("copy")).unwrap();
        }
    }
    // A deeper one is a node's own.
    fs::create_dir_all(at("copy/core")).unwrap();
    symlink(&part, at("copy/consensus")).unwrap();
    symlink(&part, at("copy/core/consensus")).unwrap();
    let found: BTreeSet<_> = parts::all(&at("copy")).unwrap().into_iter().map(|(_, part)| part).collect();
    assert_eq!(found, BTreeSet::from([part.clone()]));
    // And so is one at the top of what holds one home, whatever it is called.
    fs::write(at("copy/config.toml"), "").unwrap();
    assert!(parts::all(&at("copy")).unwrap().is_empty() && parts::missing(&at("copy")).is_none());
    let listed: Vec<_> = Walk::of(&at("copy")).map(|it| it.unwrap()).collect();
    assert!(listed.iter().any(|it| matches!(&it.what, What::Link { target } if *target == part)), "{listed:?}");
    let copied = at("copied");
    snapshot::copy_tree(&at("copy"), &copied, &[], &mut |_| Ok(())).unwrap();
    assert_eq!(fs::read_link(copied.join("consensus")).unwrap(), part);
    snapshot::flush_tree(&copied).unwrap();
    parts::remove(&copied).unwrap();
    assert!(part.is_dir());
    fs::remove_file(at("copy/config.toml")).unwrap();
    // A link in place of the folder of ours leads to what is none of ours.
    fs::rename(at("home/.omnivisor-parts"), at("moved")).unwrap();
    symlink(at("moved"), at("home/.omnivisor-parts")).unwrap();
    parts::remove(&at("copy")).unwrap();
    assert!(!at("copy").exists() && at("moved/7-10-consensus").is_dir());
}
