//! What is chosen and what is left out, and what a manifest says of that.

use std::os::unix::fs::symlink;

use super::*;

/// What is chosen of a home in this folder, of which all that is in `config` is meant; and what is left out.
fn chosen(home: &Path) -> (Vec<String>, Vec<String>) {
    let roots = [Root { name: "core", path: home.to_owned() }];
    let is_essential = |path: &Path| path.starts_with("core/config");
    let Chosen { files, left_out, bytes } = choose(&roots, &is_essential);
    assert!(files.len() <= FILES && bytes <= BYTES);
    (files.iter().map(|it| it.below.display().to_string()).collect(), left_out)
}

fn write(path: &Path, bytes: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, vec![b'x'; bytes]).unwrap();
}

#[test]
fn the_smallest_come_first_and_what_is_too_much_is_left_out() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("config");
    write(&home.path().join("state/data"), 1);
    for number in 0..20 {
        write(&config.join(format!("large-{number:02}")), 1 << 20);
    }
    write(&config.join("larger"), (1 << 20) + 1);
    write(&config.join("node/config.toml"), 10);
    write(&config.join("a/b/c/d/config.toml"), 10);
    write(&config.join("a/b/c/d/e/config.toml"), 10);
    let (files, left_out) = chosen(home.path());
    assert_eq!(files[..2], ["core/config/a/b/c/d/config.toml", "core/config/node/config.toml"]);
    // With the two there is room for fifteen of these.
    assert_eq!((files.len(), files[16].as_str()), (17, "core/config/large-14"));
    assert_eq!(left_out.len(), 7, "{left_out:?}");
    for said in ["core/config/larger: it has 1048577 bytes", "core/config/a/b/c/d/e: it is too deep"] {
        assert!(left_out.iter().any(|it| it.starts_with(said)), "{said}: {left_out:?}");
    }
}

#[test]
fn no_link_leads_to_the_data_or_in_a_circle() {
    let home = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let config = elsewhere.path().join("etc");
    write(&config.join("config.toml"), 1);
    write(&elsewhere.path().join("secrets.toml"), 1);
    write(&home.path().join("data/db"), 1);
    symlink(&config, home.path().join("config")).unwrap();
    symlink(elsewhere.path().join("secrets.toml"), config.join("secrets.toml")).unwrap();
    symlink(home.path().join("data"), config.join("data")).unwrap();
    symlink(&config, config.join("again")).unwrap();
    symlink("nowhere", config.join("gone")).unwrap();
    let (files, left_out) = chosen(home.path());
    assert_eq!(files, ["core/config/config.toml", "core/config/secrets.toml"]);
    assert_eq!(left_out.len(), 3, "{left_out:?}");
}

/// However long and odd the names are that it has to say.
#[test]
fn a_manifest_can_be_read_whatever_was_left_out() {
    let home = tempfile::tempdir().unwrap();
    let (core, to) = (home.path().join("core"), home.path().join("backups/2.0/essentials-1-000001"));
    let odd = "\u{1}".repeat(254);
    let below = [&odd; 4].into_iter().fold(core.join("config"), |path, odd| path.join(odd));
    write(&core.join("config/config.toml"), 1);
    for number in 0..=NAMED {
        let path = below.join(format!("{}{number}", &odd[..240]));
        write(&path, usize::try_from(LARGEST).unwrap() + 1);
    }
    let roots = vec![Root { name: "core", path: core }];
    let data = Data { home: home.path().to_owned(), roots, apart: Vec::new(), parts: BTreeMap::new() };
    let essentials = Essentials { data: &data, is_essential: &|_| true, signed: None, to: &to };
    let kept = essentials.take_as(&Head::default(), &AtomicBool::new(false)).unwrap();
    assert_eq!((kept.files, kept.left_out), (1, NAMED + 1));
    let said = manifest::head(&manifest::beside(&to)).unwrap().not_included;
    assert_eq!((said.len(), said[NAMED].as_str()), (NAMED + 1, "and 1 more"));
    assert!(said[0].starts_with("core/config/\u{1}") && said[0].ends_with('…'), "{}", said[0]);
}

#[test]
fn that_nothing_is_kept_of_what_was_signed_is_said_first_and_why() {
    const SIGNED: &str = "consensus/data/state.json";
    let home = tempfile::tempdir().unwrap();
    let (core, consensus) = (home.path().join("core"), home.path().join("consensus"));
    let to = home.path().join("backups/2.0/essentials-1-000001");
    let state = consensus.join("data/state.json");
    let take = |names: &[&'static str]| {
        let roots = names.iter().map(|name| Root { name, path: home.path().join(name) }).collect();
        let data = Data { home: home.path().to_owned(), roots, apart: Vec::new(), parts: BTreeMap::new() };
        let essentials = Essentials { data: &data, is_essential: &|_| true, signed: Some(Path::new(SIGNED)), to: &to };
        let kept = essentials.take_as(&Head::default(), &AtomicBool::new(false)).unwrap();
        let head = manifest::head(&manifest::beside(&to)).unwrap();
        assert_eq!(head.not_included.first(), kept.unsigned.as_ref());
        assert_eq!(described(Some(&head)).contains("only, no signer state"), kept.unsigned.is_some());
        kept.unsigned.unwrap_or_default()
    };
    write(&core.join("config.toml"), 1);
    assert_eq!(take(&["core"]), "consensus: no signer state is kept (it is not known where its home is)");
    let gone = take(&["core", "consensus"]);
    let why = format!("no signer state of {} is kept (consensus: No such file", consensus.display());
    assert!(gone.starts_with(&format!("consensus: {why}")), "{gone}");
    fs::create_dir_all(state.parent().unwrap()).unwrap();
    assert!(take(&["core", "consensus"]).ends_with("(consensus/data/state.json: it is not there)"));
    write(&state, usize::try_from(LARGEST).unwrap() + 1);
    assert!(take(&["core", "consensus"]).ends_with("(consensus/data/state.json: it has 1048577 bytes)"));
    fs::write(&state, "{}").unwrap();
    assert_eq!(take(&["core", "consensus"]), "");
}

#[test]
fn what_is_cut_stays_text() {
    for length in 0..3 {
        let mut text = format!("{}{}", "x".repeat(length), "€".repeat(200));
        cut(&mut text);
        assert!(text.len() <= SHOWN + '…'.len_utf8() && text.ends_with("€…"), "{text}");
    }
    let mut short = "short".to_owned();
    cut(&mut short);
    assert_eq!(short, "short");
}

#[test]
fn many_files_are_bounded() {
    let home = tempfile::tempdir().unwrap();
    for number in 0..FILES + 5 {
        write(&home.path().join(format!("config/{number}")), 1);
    }
    let (files, left_out) = chosen(home.path());
    assert_eq!((files.len(), left_out.len()), (FILES, 5));
    assert_eq!(chosen(&home.path().join("gone")).0, Vec::<String>::new());
}
