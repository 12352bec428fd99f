//! What the store does, and what a snapshot and a restore do with it.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use omnivisor::effects::backup::archive::REMOVED;
use omnivisor::effects::backup::manifest::Head;
use omnivisor::effects::data::Data;
use omnivisor::effects::essentials::Essentials;
use omnivisor::effects::restore::{Restore, Source};
use omnivisor::effects::{activate, snapshot};
use omnivisor::store::atomic;
use omnivisor::store::journal_file::JournalFile;
use omnivisor_core::dialect::Root;
use omnivisor_core::journal::Record;
use omnivisor_core::time::Timestamp;

use super::{Case, read};

pub(super) fn all(each: &dyn Fn(&Case<'_>)) {
    journal_appended(each);
    journal_made_and_summed_up(each);
    files_replaced(each);
    files_exchanged(each);
    link_replaced(each);
    snapshot_taken(each);
    essentials_kept(each);
    data_put_back(each);
    data_of_two_homes_put_back(each);
}

pub(super) fn is(found: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if found { Ok(()) } else { Err(what()) }
}

/// What is at `path` is one of these; after the step, the last.
pub(super) fn one_of(path: &Path, allowed: &[&str], returned: bool) -> Result<(), String> {
    let found = fs::read_to_string(path).ok();
    let allowed = if returned { &allowed[allowed.len() - 1..] } else { allowed };
    is(found.as_deref().is_some_and(|found| allowed.contains(&found)), || {
        format!("{} holds {found:?}, not one of {allowed:?}", path.display())
    })
}

/// Nothing half made outlives a recovery.
fn swept(folder: &Path) -> Result<(), String> {
    atomic::sweep(folder);
    let left: Vec<PathBuf> =
        read(folder).into_keys().filter(|path| path.to_string_lossy().ends_with(atomic::UNFINISHED)).collect();
    is(left.is_empty(), || format!("left: {left:?}"))
}

fn died(length: usize) -> Record {
    Record::Died { reason: "x".repeat(length) }
}

/// Records of all sizes, several at a time, and beyond the room that was made.
fn journal_appended(each: &dyn Fn(&Case<'_>)) {
    let appends =
        [vec![Record::Held], vec![died(700), Record::Resumed], vec![died(40_000)], vec![Record::Held, died(9)]];
    let open = RefCell::new(None);
    let appends = &appends;
    let after = |steps: usize| 1 + appends.iter().take(steps).map(Vec::len).sum::<usize>();
    // As every start does: what is there already is not done again.
    let step = |number: usize| {
        let (open, after) = (&open, &after);
        move |root: &Path| {
            let mut open = open.borrow_mut();
            if number == 0 {
                let (journal, there) = JournalFile::open(&root.join("journal")).unwrap();
                *open = Some((journal, there.len()));
            }
            let (journal, there) = open.as_mut().unwrap();
            let missing = appends[number].iter().skip(there.saturating_sub(after(number))).cloned();
            journal.append(&missing.collect::<Vec<_>>(), Timestamp::EPOCH).unwrap();
        }
    };
    each(&Case {
        name: "records are appended to the journal",
        prepare: Box::new(|root| drop(JournalFile::create(&root.join("journal"), &[died(20)]).unwrap())),
        steps: (0..appends.len()).map(|number| Box::new(step(number)) as _).collect(),
        check: Box::new(|root, steps| {
            let path = root.join("journal");
            let (mut journal, found) = JournalFile::open(&path).map_err(|error| format!("{error:?}"))?;
            let mut all = vec![died(20)];
            all.extend(appends.iter().flatten().cloned());
            is(all.starts_with(&found), || format!("{} records that were never written in this order", found.len()))?;
            is((after(steps)..=after(steps + 1)).contains(&found.len()), || {
                format!("{} records, of {} that were durable", found.len(), after(steps))
            })?;
            journal.append(&[Record::Resumed], Timestamp::EPOCH).map_err(|error| error.to_string())?;
            let again = JournalFile::open(&path).map_err(|error| format!("{error:?}"))?.1;
            is(again.len() == found.len() + 1 && again.starts_with(&found), || {
                "what is appended then is lost".to_owned()
            })
        }),
        again: true,
        strict: true,
    });
}

fn journal_made_and_summed_up(each: &dyn Fn(&Case<'_>)) {
    let open = RefCell::new(None);
    each(&Case {
        name: "a journal is made, and written anew",
        prepare: Box::new(|_| ()),
        // As every start does: what is there already is not done again.
        steps: vec![
            Box::new(|root| {
                let path = root.join("journal");
                let (journal, there) = match JournalFile::open(&path) {
                    Ok(opened) => opened,
                    Err(_) => (JournalFile::create(&path, &[Record::Held]).unwrap(), vec![Record::Held]),
                };
                *open.borrow_mut() = Some((journal, there));
            }),
            Box::new(|_| {
                if let Some((journal, there)) = open.borrow_mut().as_mut().filter(|(_, there)| *there == [Record::Held])
                {
                    *journal = journal.rewritten(&died(30)).unwrap();
                    *there = vec![died(30)];
                }
            }),
            Box::new(|_| {
                if let Some((journal, _)) = open.borrow_mut().as_mut().filter(|(_, there)| *there == [died(30)]) {
                    journal.append(&[Record::Resumed], Timestamp::EPOCH).unwrap();
                }
            }),
        ],
        check: Box::new(|root, steps| {
            let path = root.join("journal");
            if steps == 0 && !path.exists() {
                return swept(root);
            }
            let (_, found) = JournalFile::open(&path).map_err(|error| format!("{error:?}"))?;
            let states = [vec![Record::Held], vec![died(30)], vec![died(30), Record::Resumed]];
            let may = &states[steps.saturating_sub(1)..(steps + 1).min(states.len())];
            is(may.contains(&found), || format!("{found:?} after {steps} steps"))?;
            swept(root)
        }),
        again: true,
        strict: true,
    });
}

fn files_replaced(each: &dyn Fn(&Case<'_>)) {
    each(&Case {
        name: "a file is replaced, and a copy made of another",
        prepare: Box::new(|root| {
            fs::write(root.join("file"), "old").unwrap();
            fs::write(root.join("source"), "what is copied").unwrap();
        }),
        steps: vec![
            Box::new(|root| atomic::replace(&root.join("file"), b"something new", 0o600).unwrap()),
            Box::new(|root| {
                atomic::replace_by_copy(&root.join("copy"), &root.join("source"), 0o755).unwrap();
            }),
        ],
        check: Box::new(|root, steps| {
            one_of(&root.join("file"), &["old", "something new"], steps >= 1)?;
            let copy = root.join("copy");
            is(steps < 2 || copy.exists(), || "the copy is not there".to_owned())?;
            if copy.exists() {
                one_of(&copy, &["what is copied"], true)?;
            }
            swept(root)
        }),
        again: true,
        strict: true,
    });
}

fn files_exchanged(each: &dyn Fn(&Case<'_>)) {
    each(&Case {
        name: "a file that others write is made, and replaced if it is as it was",
        prepare: Box::new(|root| fs::write(root.join("plan.json"), "1").unwrap()),
        steps: vec![
            Box::new(|root| assert!(atomic::replace_if(&root.join("plan.json"), Some(b"1"), b"two", 0o644).unwrap())),
            Box::new(|root| assert!(atomic::replace_if(&root.join("history.json"), None, b"one", 0o644).unwrap())),
        ],
        check: Box::new(|root, steps| {
            one_of(&root.join("plan.json"), &["1", "two"], steps >= 1)?;
            let made = root.join("history.json");
            if steps == 2 || made.exists() {
                one_of(&made, &["one"], true)?;
            }
            swept(root)
        }),
        again: false,
        strict: true,
    });
}

fn link_replaced(each: &dyn Fn(&Case<'_>)) {
    let folder = |root: &Path, name: &str| root.join("upgrades").join(name);
    each(&Case {
        name: "the link is pointed to another release",
        prepare: Box::new(move |root| {
            for name in ["old", "new"] {
                fs::create_dir_all(folder(root, name)).unwrap();
            }
            std::os::unix::fs::symlink(folder(root, "old"), root.join("current")).unwrap();
        }),
        steps: vec![Box::new(move |root| activate::link(&root.join("current"), &folder(root, "new")).unwrap())],
        check: Box::new(move |root, steps| {
            let target = fs::read_link(root.join("current")).map_err(|error| format!("there is no link: {error}"))?;
            let is_new = target == folder(root, "new");
            is(is_new || (steps == 0 && target == folder(root, "old")), || format!("it points to {target:?}"))?;
            swept(root)
        }),
        again: true,
        strict: true,
    });
}

fn fill(home: &Path, files: usize) {
    fs::create_dir_all(home.join("data/empty")).unwrap();
    fs::create_dir_all(home.join("nymvisor")).unwrap();
    fs::write(home.join("nymvisor/apart"), "apart").unwrap();
    fs::write(home.join("data/db"), "old data").unwrap();
    fs::write(home.join("data/id.pem"), "key 1").unwrap();
    std::os::unix::fs::symlink("data/db", home.join("link")).unwrap();
    for file in 0..files {
        fs::write(home.join(format!("data/{file}")), format!("file {file}")).unwrap();
    }
}

/// A snapshot without what is ours.
fn taken(home: &Path, to: &Path) -> io::Result<()> {
    snapshot::Snapshot { data: &Data::in_one(home, &[home.join("nymvisor")]), to }.take(&AtomicBool::new(false))
}

fn snapshot_taken(each: &dyn Fn(&Case<'_>)) {
    // Few files are flushed one by one, more of them together.
    for (name, files) in [("a snapshot of few files is taken", 0), ("a snapshot of many files is taken", 11)] {
        let take = |root: &Path| {
            let (home, to) = (root.join("home"), root.join("backups/2.0/snapshot"));
            snapshot::prepare(to.parent().unwrap())?;
            taken(&home, &to)
        };
        each(&Case {
            name,
            prepare: Box::new(move |root| fill(&root.join("home"), files)),
            steps: vec![Box::new(move |root| take(root).unwrap())],
            check: Box::new(move |root, steps| {
                let whole = || {
                    let mut expected = read(&root.join("home"));
                    expected.retain(|path, _| !path.starts_with("nymvisor"));
                    let found = read(&root.join("backups/2.0/snapshot"));
                    is(found == expected, || format!("a snapshot that is not whole: {:?}", found.keys()))
                };
                if steps == 1 || root.join("backups/2.0/snapshot").exists() {
                    whole()?;
                }
                take(root).map_err(|error| format!("it cannot be taken again: {error}"))?;
                whole()?;
                let manifest = fs::read_to_string(root.join("backups/2.0/snapshot.mtree")).unwrap_or_default();
                is(manifest.starts_with("#mtree\n# omnivisor-snapshot/1 {") && manifest.ends_with("}\n"), || {
                    format!("its manifest is {manifest:?}")
                })?;
                let entries = fs::read_dir(root.join("backups/2.0")).into_iter().flatten().flatten();
                let names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
                is(names.len() == 2, || format!("something is left beside the snapshot: {names:?}"))
            }),
            again: true,
            strict: false,
        });
    }
}

/// In place of a snapshot.
fn essentials_kept(each: &dyn Fn(&Case<'_>)) {
    const TO: &str = "backups/2.0/essentials-1-000001";
    let take = |root: &Path| {
        let roots = ["core", "consensus"].map(|name| Root { name, path: root.join(name) }).to_vec();
        let data = Data { home: root.join("visor"), roots, apart: Vec::new(), parts: Default::default() };
        let is_essential = &|path: &Path| path.iter().nth(1).is_some_and(|below| below == "config");
        let essentials = Essentials { data: &data, is_essential, signed: None, to: &root.join(TO) };
        essentials.take_as(&Head::default(), &AtomicBool::new(false))
    };
    each(&Case {
        name: "signer state and configuration are kept",
        prepare: Box::new(|root| {
            for (file, text) in
                [("core/config/toml", "core"), ("consensus/config/a/toml", "engine"), ("core/db", "data")]
            {
                fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
                fs::write(root.join(file), text).unwrap();
            }
        }),
        steps: vec![Box::new(move |root| {
            take(root).unwrap();
        })],
        check: Box::new(move |root, steps| {
            let whole = || {
                for (file, text) in [("core/config/toml", "core"), ("consensus/config/a/toml", "engine")] {
                    one_of(&root.join(TO).join(file), &[text], true)?;
                }
                is(!root.join(TO).join("core/db").exists(), || "it holds data".to_owned())
            };
            if steps == 1 || root.join(TO).exists() {
                whole()?;
            }
            if steps == 1 {
                is(root.join(TO).with_extension("mtree").exists(), || "it has no manifest".to_owned())?;
            }
            take(root).map_err(|error| format!("it cannot be taken again: {error}"))?;
            whole()?;
            let names = fs::read_dir(root.join("backups/2.0")).unwrap().flatten().map(|it| it.file_name());
            // Half of one that was removed may be back: whoever sees to the backups removes it.
            let names: Vec<_> = names.filter(|it| !it.to_string_lossy().ends_with(REMOVED)).collect();
            is(names.len() == 2, || format!("something is left beside it: {names:?}"))
        }),
        again: true,
        strict: false,
    });
}

fn data_put_back(each: &dyn Fn(&Case<'_>)) {
    for is_given_up in [true, false] {
        data_put_back_from(is_given_up, each);
    }
}

fn data_put_back_from(is_given_up: bool, each: &dyn Fn(&Case<'_>)) {
    let restore = move |root: &Path| {
        let (home, snapshot) = (root.join("home"), root.join("snapshot"));
        let restore = Restore {
            data: &Data::in_one(&home, &[home.join("nymvisor")]),
            work: &home.join("nymvisor/restore"),
            is_monotonic: &|path| path.extension().is_some_and(|it| it == "pem"),
        };
        let source = if is_given_up { Source::GivenUp(&snapshot) } else { Source::Kept(&snapshot) };
        restore.prepare(&source, &[], &mut |_| Ok(())).and_then(|()| restore.put_in_place())
    };
    let is_back = |root: &Path| {
        let home = root.join("home");
        one_of(&home.join("data/db"), &["old data"], true)?;
        one_of(&home.join("data/id.pem"), &["key 2"], true)?;
        one_of(&home.join("nymvisor/apart"), &["apart"], true)?;
        let link = fs::read_link(home.join("link"));
        is(link.is_ok_and(|to| to == Path::new("data/db")), || "the link is not back".to_owned())?;
        is(home.join("data/empty").is_dir(), || "the empty folder is not back".to_owned())?;
        is(!home.join("data/new").exists() && !home.join("more").exists(), || "something new is there".to_owned())?;
        let replaced = read(&home.join("nymvisor/restore/replaced"));
        for text in ["migrated", "new", "more"] {
            let is_it = |entry: &super::Entry| *entry == super::Entry::File(text.into());
            is(replaced.values().any(is_it), || format!("{text:?} was not kept aside"))?;
        }
        Ok(())
    };
    each(&Case {
        name: match is_given_up {
            true => "the data of a snapshot is put back by renames",
            false => "the data of a snapshot that stays is put back",
        },
        prepare: Box::new(|root| {
            let home = root.join("home");
            fill(&home, 0);
            taken(&home, &root.join("snapshot")).unwrap();
            fs::write(home.join("data/db"), "migrated").unwrap();
            fs::write(home.join("data/id.pem"), "key 2").unwrap();
            fs::write(home.join("data/new"), "new").unwrap();
            fs::create_dir(home.join("more")).unwrap();
            fs::write(home.join("more/files"), "more").unwrap();
            fs::remove_dir(home.join("data/empty")).unwrap();
            fs::remove_file(home.join("link")).unwrap();
        }),
        steps: vec![Box::new(move |root| restore(root).unwrap())],
        check: Box::new(move |root, steps| {
            one_of(&root.join("home/data/id.pem"), &["key 2"], true)?;
            if steps == 1 {
                is_back(root)?;
            }
            restore(root).map_err(|error| format!("it cannot be done again: {error}"))?;
            is_back(root)
        }),
        again: true,
        strict: false,
    });
}

/// Of two homes, each with something that never goes back.
fn data_of_two_homes_put_back(each: &dyn Fn(&Case<'_>)) {
    let data = |root: &Path| {
        let roots = [("core", "core"), ("consensus", "tm")].map(|(name, path)| Root { name, path: root.join(path) });
        Data {
            home: root.join("visor"),
            roots: roots.into(),
            apart: vec![root.join("core/lock")],
            parts: Default::default(),
        }
    };
    let restore = move |root: &Path| {
        let (data, work) = (data(root), root.join("visor/restore"));
        let restore = Restore { data: &data, work: &work, is_monotonic: &|path| path.ends_with("data/signed") };
        let source = Source::GivenUp(&root.join("snapshot"));
        restore.prepare(&source, &[], &mut |_| Ok(())).and_then(|()| restore.put_in_place())
    };
    let stays = |root: &Path| {
        one_of(&root.join("tm/data/signed"), &["2"], true)?;
        one_of(&root.join("core/lock"), &["held"], true)
    };
    let is_back = move |root: &Path| {
        stays(root)?;
        one_of(&root.join("core/db"), &["old"], true)?;
        one_of(&root.join("tm/data/blocks"), &["old"], true)?;
        is(!root.join("core/more").exists(), || "something new is there".to_owned())?;
        one_of(&root.join("visor/restore/replaced/core/more"), &["new"], true)?;
        one_of(&root.join("visor/restore/replaced/consensus/data/blocks"), &["new"], true)
    };
    each(&Case {
        name: "the data of two homes is put back",
        prepare: Box::new(move |root| {
            for (path, text) in
                [("core/db", "old"), ("core/lock", "held"), ("tm/data/blocks", "old"), ("tm/data/signed", "1")]
            {
                fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
                fs::write(root.join(path), text).unwrap();
            }
            fs::create_dir(root.join("visor")).unwrap();
            let to = root.join("snapshot");
            snapshot::Snapshot { data: &data(root), to: &to }.take(&AtomicBool::new(false)).unwrap();
            for (path, text) in
                [("core/db", "new"), ("core/more", "new"), ("tm/data/blocks", "new"), ("tm/data/signed", "2")]
            {
                fs::write(root.join(path), text).unwrap();
            }
        }),
        steps: vec![Box::new(move |root| restore(root).unwrap())],
        check: Box::new(move |root, steps| {
            stays(root)?;
            if steps == 1 {
                is_back(root)?;
            }
            restore(root).map_err(|error| format!("it cannot be done again: {error}"))?;
            is_back(root)
        }),
        again: true,
        strict: false,
    });
}
