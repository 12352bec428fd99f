//! A folder of the data that is a link to another disk: what is there is in no backup, which is said, and no restore works through it.

use std::fs;
use std::os::unix::fs::symlink;

use omnivisor_testkit::wait_until;
use serde_json::Value;

use super::restore::{Scene, said};
use crate::world::SOON;

#[test]
fn what_a_link_out_of_the_home_leads_to_is_said_to_be_in_no_backup() {
    let scene = Scene::new();
    let (home, elsewhere) = (scene.home().to_owned(), scene.world.sandbox.path().join("elsewhere"));
    fs::create_dir_all(elsewhere.join("db")).unwrap();
    fs::write(elsewhere.join("db/1"), "1").unwrap();
    symlink(&elsewhere, home.join("more")).unwrap();
    symlink("data", home.join("inside")).unwrap();
    symlink(elsewhere.join("db/1"), home.join("file")).unwrap();

    let plan = scene.world.omnivisor(&["plan"]);
    let line = format!("NOT IN IT   {} leads out of the home", home.join("more").display());
    assert!(said(&plan).contains(&line) && said(&plan).matches("NOT IN IT").count() == 1, "{}", said(&plan));

    let taken = scene.world.omnivisor(&["backup", "now"]);
    assert!(taken.status.success(), "{}", said(&taken));
    let newest = wait_until("it is listed", SOON, || {
        let output = scene.world.omnivisor(&["backup", "list", "--json"]);
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        (all[0]["sealed"] == true && all[0]["id"] != scene.id.as_str()).then(|| all[0].clone())
    });
    let id = newest["id"].as_str().unwrap();
    let left_out = newest["manifest"]["not_included"].as_array().unwrap();
    let said_of = |name: &str| left_out.iter().filter(|it| it.as_str().unwrap().starts_with(name)).count();
    assert_eq!([said_of("more: what this link"), said_of("inside"), said_of("file")], [1, 0, 0], "{left_out:?}");
    let shown = said(&scene.world.omnivisor(&["backup", "show", id]));
    assert!(shown.contains("not in it: more: what this link leads to"), "{shown}");

    let refused = scene.world.omnivisor(&["restore", id, "--path", "more/db"]);
    assert!(!refused.status.success() && said(&refused).contains("more/db is not in it"), "{}", said(&refused));
    assert_eq!(fs::read_to_string(elsewhere.join("db/1")).unwrap(), "1");
}

/// Known before anything is moved: an order that can never be carried out would keep the node down.
#[test]
fn nothing_is_put_back_through_a_link() {
    let scene = Scene::new();
    let (data, elsewhere) = (scene.home().join("data"), scene.world.sandbox.path().join("elsewhere"));
    fs::rename(&data, &elsewhere).unwrap();
    symlink(&elsewhere, &data).unwrap();
    let refused = scene.restore(&["--path", "data/db"]);
    assert!(!refused.status.success(), "{}", said(&refused));
    for words in ["nothing was changed", "data is no folder, and may be a link to elsewhere"] {
        assert!(said(&refused).contains(words), "{words} in {}", said(&refused));
    }
    // All of it would put the folder in the link's place, with keys as they were then.
    for arguments in [&[][..], &["--path", "data"]] {
        let refused = scene.restore(arguments);
        assert!(!refused.status.success(), "{}", said(&refused));
        for words in ["nothing was changed", "data/id.pem must never go back", "or behind a link"] {
            assert!(said(&refused).contains(words), "{words} in {}", said(&refused));
        }
    }
    assert_eq!(fs::read_to_string(elsewhere.join("db/2")).unwrap(), "new");
    assert_eq!(fs::read_to_string(elsewhere.join("id.pem")).unwrap(), "2");
    let _supervised = scene.world.run();
    scene.world.wait_for("2.0.0");
}

/// A store of tickets may be a folder, whatever is in it is called.
#[test]
fn what_is_in_a_folder_that_is_called_as_a_key_stays() {
    let scene = Scene::new();
    let store = scene.home().join("data/ecash_store/deep");
    fs::create_dir_all(&store).unwrap();
    fs::write(store.join("spent"), "old").unwrap();
    fs::write(store.join("merged"), "old").unwrap();
    let taken = scene.world.omnivisor(&["backup", "now"]);
    assert!(taken.status.success(), "{}", said(&taken));
    fs::write(store.join("spent"), "new").unwrap();
    fs::write(store.join("more"), "new").unwrap();
    fs::remove_file(store.join("merged")).unwrap();
    fs::create_dir(store.join("empty")).unwrap();
    fs::write(scene.home().join("data/db/2"), "newer").unwrap();
    let all: Value = serde_json::from_slice(&scene.world.omnivisor(&["backup", "list", "--json"]).stdout).unwrap();
    let id = all[0]["id"].as_str().unwrap();
    let shown = said(&scene.world.omnivisor(&["backup", "show", id, "--path", "data/ecash_store"]));
    assert_eq!(shown.matches("(never put back)").count(), 4, "{shown}");
    let refused = scene.world.omnivisor(&["restore", id, "--path", "data/ecash_store/deep"]);
    assert!(!refused.status.success() && said(&refused).contains("must never go back"), "{}", said(&refused));
    let restored = scene.world.omnivisor(&["restore", id]);
    assert!(restored.status.success(), "{}", said(&restored));
    assert!(!store.join("merged").exists() && store.join("empty").exists(), "all of it is as it was left");
    let read = |name: &str| fs::read_to_string(store.join(name)).unwrap();
    assert_eq!([read("spent"), read("more"), scene.read("data/db/2").unwrap()], ["new", "new", "new"]);
}
