//! Homes on two disks, of which each is flushed by itself, and a link on the one leads to what is on the other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use omnivisor::effects::backup::manifest::Head;
use omnivisor::effects::data::Data;
use omnivisor::effects::restore::{Restore, Source};
use omnivisor::effects::{parts, snapshot};
use omnivisor_core::dialect::Root;

use super::Case;
use super::cases::{is, one_of};
use super::model::SECOND;

pub(super) fn all(each: &dyn Fn(&Case<'_>)) {
    snapshot_taken(each);
    data_put_back(true, each);
    data_put_back(false, each);
}

fn consensus(root: &Path) -> PathBuf {
    root.join(SECOND).join("tm")
}

fn data(root: &Path) -> Data {
    let homes = [("core", root.join("core")), ("consensus", consensus(root))];
    Data {
        home: root.join("visor"),
        roots: homes.map(|(name, path)| Root { name, path }).into(),
        apart: vec![consensus(root).join(parts::PARTS)],
        parts: [("consensus", consensus(root).join(parts::PARTS))].into(),
    }
}

/// Old data, and what is signed.
fn fill(root: &Path) {
    let second = consensus(root);
    for (path, text) in [
        (root.join("core/db"), "old"),
        (root.join("core/gone"), "old"),
        (second.join("data/blocks"), "old"),
        (second.join("data/signed"), "1"),
        (second.join("config"), "old"),
    ] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::create_dir_all(root.join("visor/backups/2.0")).unwrap();
}

/// And what becomes of it.
fn migrate(root: &Path) {
    let second = consensus(root);
    fs::write(root.join("core/db"), "new").unwrap();
    fs::write(root.join("core/more"), "new").unwrap();
    fs::remove_file(root.join("core/gone")).unwrap();
    fs::write(second.join("data/blocks"), "new").unwrap();
    fs::write(second.join("data/more"), "new").unwrap();
    fs::write(second.join("data/signed"), "2").unwrap();
    fs::remove_file(second.join("config")).unwrap();
}

fn to(root: &Path) -> PathBuf {
    root.join("visor/backups/2.0/snapshot")
}

fn take(root: &Path) -> io::Result<()> {
    let data = data(root);
    let head = Head { home: data.home.display().to_string(), roots: data.named(), ..Head::default() };
    snapshot::Snapshot { data: &data, to: &to(root) }.take_as(&head, &AtomicBool::new(false))
}

/// What the next start does: nothing that is needed may be among it.
fn sweep(root: &Path) -> Result<(), String> {
    let orphans = parts::orphans(&data(root), [&root.join("visor/backups"), &root.join("visor")], 0);
    let removed = orphans.and_then(|orphans| orphans.iter().try_for_each(fs::remove_dir_all));
    removed.map_err(|error| format!("what nothing leads to cannot be removed: {error}"))
}

fn snapshot_taken(each: &dyn Fn(&Case<'_>)) {
    let is_whole = |root: &Path| {
        let to = to(root);
        one_of(&to.join("core/db"), &["old"], true)?;
        one_of(&to.join("core/gone"), &["old"], true)?;
        one_of(&to.join("consensus/data/blocks"), &["old"], true)?;
        one_of(&to.join("consensus/data/signed"), &["1"], true)?;
        one_of(&to.join("consensus/config"), &["old"], true)
    };
    each(&Case {
        name: "a snapshot of homes on two disks is taken",
        prepare: Box::new(fill),
        steps: vec![Box::new(|root| take(root).unwrap())],
        check: Box::new(move |root, steps| {
            sweep(root)?;
            if steps == 1 || to(root).exists() {
                is_whole(root)?;
            }
            take(root).map_err(|error| format!("it cannot be taken again: {error}"))?;
            sweep(root)?;
            is_whole(root)?;
            let left = fs::read_dir(consensus(root).join(parts::PARTS)).unwrap().count();
            is(left == 1, || format!("there are {left} parts"))
        }),
        again: true,
        strict: false,
    });
}

fn data_put_back(is_given_up: bool, each: &dyn Fn(&Case<'_>)) {
    let restore = move |root: &Path| {
        let (data, work) = (data(root), root.join("visor/restore"));
        let restore = Restore { data: &data, work: &work, is_monotonic: &|path| path.ends_with("data/signed") };
        let to = to(root);
        let source = if is_given_up { Source::GivenUp(&to) } else { Source::Kept(&to) };
        restore.prepare(&source, &[], &mut |_| Ok(())).and_then(|()| restore.put_in_place())
    };
    let is_back = |root: &Path| -> Result<(), String> {
        let (second, replaced) = (consensus(root), root.join("visor/restore/replaced"));
        one_of(&root.join("core/db"), &["old"], true)?;
        one_of(&root.join("core/gone"), &["old"], true)?;
        one_of(&second.join("data/blocks"), &["old"], true)?;
        one_of(&second.join("data/signed"), &["2"], true)?;
        one_of(&second.join("config"), &["old"], true)?;
        for new in [root.join("core/more"), second.join("data/more")] {
            is(!new.exists(), || format!("{} is there", new.display()))?;
        }
        for kept in ["core/db", "core/more", "consensus/data/blocks", "consensus/data/more"] {
            one_of(&replaced.join(kept), &["new"], true)?;
        }
        Ok(())
    };
    each(&Case {
        name: match is_given_up {
            true => "the data of homes on two disks is put back by renames",
            false => "the data of homes on two disks is put back, and the snapshot stays",
        },
        prepare: Box::new(|root| {
            fill(root);
            take(root).unwrap();
            migrate(root);
        }),
        steps: vec![Box::new(move |root| restore(root).unwrap())],
        check: Box::new(move |root, steps| {
            sweep(root)?;
            one_of(&consensus(root).join("data/signed"), &["2"], true)?;
            if steps == 1 {
                is_back(root)?;
            }
            restore(root).map_err(|error| format!("it cannot be done again: {error}"))?;
            sweep(root)?;
            is_back(root)?;
            if is_given_up { Ok(()) } else { one_of(&to(root).join("consensus/data/blocks"), &["old"], true) }
        }),
        again: true,
        strict: false,
    });
}
