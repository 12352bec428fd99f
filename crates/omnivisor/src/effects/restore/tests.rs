//! A restore that is interrupted anywhere and taken again.

use std::sync::atomic::AtomicBool;

use super::*;

fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Interrupted after every number of renames and taken again, it ends with the same tree.
#[test]
fn the_old_data_is_back_but_a_key_stays_and_the_rest_is_kept_aside() {
    let root = std::env::temp_dir().join(format!("omnivisor-restore-{}", std::process::id()));
    let home = root.join("home");
    let read = |path: &str| fs::read_to_string(home.join(path)).ok();
    write(home.join("config/config.toml"), "old");
    write(home.join("data/db"), "old");
    write(home.join("data/keys/id.pem"), "key 1");
    write(home.join("data/keys/tickets.pem-wal"), "comes and goes");
    write(home.join("nymvisor/backups/x"), "apart");
    let data = Data::in_one(&home, &[home.join("nymvisor")]);
    let copy = root.join("snapshot");
    snapshot::Snapshot { data: &data, to: &copy }.take(&AtomicBool::new(false)).unwrap();
    assert!(!copy.join("nymvisor").exists());

    write(home.join("data/db"), "migrated");
    write(home.join("data/keys/id.pem"), "key 2");
    write(home.join("data/keys/other"), "new");
    write(home.join("new/file"), "new");
    fs::remove_file(home.join("config/config.toml")).unwrap();
    let work = home.join("nymvisor/restore");
    fs::remove_file(home.join("data/keys/tickets.pem-wal")).unwrap();
    let monotonic = |path: &Path| path.to_string_lossy().contains(".pem");
    let restore = Restore { data: &data, work: &work, is_monotonic: &monotonic };
    assert!(!restore.is_ready());
    for _ in 0..2 {
        restore.prepare(&Source::GivenUp(&copy), &[], &mut |_| Ok(())).unwrap();
        assert!(restore.is_ready() && !copy.exists(), "not a byte is copied");
        restore.put_in_place().unwrap();
        assert!(!restore.is_half_done().unwrap());
        assert_eq!(read("config/config.toml").as_deref(), Some("old"));
        assert_eq!(read("data/db").as_deref(), Some("old"));
        assert_eq!(read("data/keys/id.pem").as_deref(), Some("key 2"), "a key never goes back");
        assert_eq!(read("nymvisor/backups/x").as_deref(), Some("apart"));
        assert_eq!(read("data/keys/tickets.pem-wal"), None, "a database's side file stays away with its database");
        assert_eq!(read("new/file"), None);
        assert_eq!(read("data/keys/other"), None);
        let aside = work.join("replaced");
        assert_eq!(fs::read_to_string(aside.join("data/db")).unwrap(), "migrated");
        assert_eq!(fs::read_to_string(aside.join("new/file")).unwrap(), "new");
    }
    fs::remove_file(home.join("data/keys/id.pem")).unwrap();
    let refused = restore.put_in_place().unwrap_err();
    assert!(refused.to_string().contains("never go back"), "{refused}");
    fs::remove_dir_all(root).unwrap();
}
#[test]
fn only_what_is_asked_for_goes_back_and_the_snapshot_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (home, copy) = (folder.path().join("home"), folder.path().join("snapshot"));
    let read = |path: &str| fs::read_to_string(home.join(path)).ok();
    for path in ["config/config.toml", "data/db/1", "data/db/2", "data/other", "data/id.pem"] {
        write(home.join(path), "old");
    }
    let data = Data::in_one(&home, &[]);
    snapshot::Snapshot { data: &data, to: &copy }.take(&AtomicBool::new(false)).unwrap();
    for path in ["config/config.toml", "data/db/2", "data/db/3", "data/other", "data/id.pem"] {
        write(home.join(path), "new");
    }
    fs::remove_file(home.join("data/db/1")).unwrap();
    let work = folder.path().join("work");
    let monotonic = |path: &Path| path.to_string_lossy().contains(".pem");
    let restore = Restore { data: &data, work: &work, is_monotonic: &monotonic };
    let only = ["data/db".into(), "data/id.pem".into()];
    restore.prepare(&Source::Kept(&copy), &only, &mut |_| Ok(())).unwrap();
    restore.put_in_place().unwrap();
    let found = ["config/config.toml", "data/db/1", "data/db/2", "data/db/3", "data/other", "data/id.pem"].map(read);
    let found = found.each_ref().map(Option::as_deref);
    assert_eq!(found, [Some("new"), Some("old"), Some("old"), None, Some("new"), Some("new")]);
    assert_eq!(fs::read_to_string(work.join("replaced/data/db/3")).unwrap(), "new");
    assert!(copy.join("data/db/1").exists());
}

/// A person has put something there since all was moved aside: it is kept, too.
#[test]
fn nothing_that_is_there_is_ever_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let (home, copy, work) = (folder.path().join("home"), folder.path().join("snapshot"), folder.path().join("work"));
    write(home.join("data/db"), "old");
    let data = Data::in_one(&home, &[]);
    snapshot::Snapshot { data: &data, to: &copy }.take(&AtomicBool::new(false)).unwrap();
    write(home.join("data/db"), "new");
    let restore = Restore { data: &data, work: &work, is_monotonic: &|_| false };
    let make = |to: &Path, each: Each<'_>| snapshot::copy_tree(&copy, to, &[], each);
    restore.prepare(&Source::Made(&make), &[], &mut |_| Ok(())).unwrap();
    restore.set_aside(Path::new(""), &restore.scope().unwrap()).unwrap();
    atomic::replace(&work.join(CLEARED), b"", 0o600).unwrap();
    write(home.join("data"), "a person's");
    assert!(restore.is_half_done().unwrap());
    restore.put_in_place().unwrap();
    assert!(!restore.is_half_done().unwrap());
    assert_eq!(fs::read_to_string(home.join("data/db")).unwrap(), "old");
    assert_eq!(fs::read_to_string(work.join("replaced/data/db")).unwrap(), "new");
    assert_eq!(fs::read_to_string(work.join("replaced/data.1")).unwrap(), "a person's");
}

/// A folder that is a mount point, as each may be, is never moved itself.
#[test]
fn of_several_folders_each_is_put_back_where_it_is() {
    use omnivisor_core::dialect::Root;
    use std::os::unix::fs::MetadataExt;

    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    write(at("vega/state/db"), "old");
    write(at("tm/data/blocks"), "old");
    write(at("tm/data/signed"), "1");
    let root = |name, path: &str| Root { name, path: at(path) };
    let roots = vec![root("core", "vega"), root("consensus", "tm")];
    let apart = vec![at("visor"), at("vega/lock")];
    let data = Data { home: at("visor"), roots, apart, parts: Default::default() };
    let copy = at("copy");
    write(at("vega/lock"), "");
    snapshot::Snapshot { data: &data, to: &copy }.take(&AtomicBool::new(false)).unwrap();
    assert!(copy.join("consensus/data/blocks").is_file() && !copy.join("core/lock").exists());
    for (path, text) in
        [("vega/state/db", "new"), ("vega/more", "new"), ("tm/data/blocks", "new"), ("tm/data/signed", "2")]
    {
        write(at(path), text);
    }
    let inode = |path: &str| fs::metadata(at(path)).unwrap().ino();
    let before = (inode("vega"), inode("tm"), inode("vega/lock"));
    let work = at("visor/work");
    let monotonic = |path: &Path| path == Path::new("consensus/data/signed");
    let restore = Restore { data: &data, work: &work, is_monotonic: &monotonic };
    restore.prepare(&Source::Kept(&copy), &[], &mut |_| Ok(())).unwrap();
    for _ in 0..2 {
        restore.put_in_place().unwrap();
        assert!(!restore.is_half_done().unwrap());
        let read = |path: &str| fs::read_to_string(at(path)).unwrap();
        assert_eq!(
            (read("vega/state/db"), read("tm/data/blocks"), read("tm/data/signed")),
            ("old".into(), "old".into(), "2".into())
        );
        assert!(!at("vega/more").exists());
        assert_eq!(fs::read_to_string(work.join("replaced/core/more")).unwrap(), "new");
        assert_eq!(before, (inode("vega"), inode("tm"), inode("vega/lock")));
    }
}

#[test]
fn a_snapshot_on_another_file_system_is_copied_and_stays() {
    use std::os::unix::fs::MetadataExt;

    let memory = Path::new("/dev/shm");
    let folder = tempfile::tempdir().unwrap();
    let device = |path: &Path| fs::metadata(path).map(|it| it.dev()).ok();
    if device(memory).is_none() || device(memory) == device(folder.path()) {
        return;
    }
    let elsewhere = tempfile::tempdir_in(memory).unwrap();
    let (home, copy) = (folder.path().join("home"), elsewhere.path().join("snapshot"));
    write(home.join("data/db"), "old");
    let data = Data::in_one(&home, &[]);
    snapshot::Snapshot { data: &data, to: &copy }.take(&AtomicBool::new(false)).unwrap();
    write(home.join("data/db"), "new");
    let work = folder.path().join("work");
    let restore = Restore { data: &data, work: &work, is_monotonic: &|_| false };
    restore.prepare(&Source::GivenUp(&copy), &[], &mut |_| Ok(())).unwrap();
    restore.put_in_place().unwrap();
    assert_eq!(fs::read_to_string(home.join("data/db")).unwrap(), "old");
    assert!(copy.join("data/db").exists());
}
