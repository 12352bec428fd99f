//! What removes what a command has taken: the command that has taken it, when it is asked for that, and no other one.

use std::fs;

use omnivisor_testkit::wait_until;

use super::{Scene, commands, said, stop};
use crate::world::SOON;

/// Each command answers success for an id that it does not know.
#[test]
fn what_another_command_has_taken_stays_until_that_one_is_set_again() {
    let scene = Scene::new();
    let world = &scene.world;
    let id = scene.with_two()[1]["id"].as_str().unwrap().to_owned();
    let (taken, config) = (scene.taken().join(&id), world.installation.config().with_file_name("omnivisor.toml"));
    let another = commands::install_another(&scene.place());
    fs::write(&config, commands::settings(&another, &scene.taken(), "[backup]\nkeep = 1\n")).unwrap();
    for _ in 0..2 {
        let failed = world.omnivisor(&["backup", "prune"]);
        let why = format!("{} is still there", taken.display());
        assert!(!failed.status.success() && said(&failed).contains(&why), "{}", said(&failed));
        assert!(said(&failed).contains("another command has taken it"), "{}", said(&failed));
        assert!(taken.join("data/db/1").exists(), "nothing of it is gone");
    }
    let supervised = world.run();
    wait_until("the log says so, too", SOON, || supervised.stderr().contains("another command").then_some(()));
    stop(supervised);
    scene.set("[backup]\nkeep = 1\n");
    let tried = world.omnivisor(&["backup", "prune", "--dry-run"]);
    assert!(said(&tried).contains("would remove what a command has taken") && taken.exists(), "{}", said(&tried));
    let output = world.omnivisor(&["backup", "prune"]);
    assert!(output.status.success() && !taken.exists(), "{}", said(&output));
    assert!(!scene.names().iter().any(|name| name.contains(".partial")), "{:?}", scene.names());
    assert_eq!(scene.list().len(), 1);
}

/// By what has taken it; and nothing of which nobody knows whose it is.
#[test]
fn what_a_command_has_taken_is_removed_by_its_name() {
    let scene = Scene::new();
    let world = &scene.world;
    let all = scene.with_two();
    let [id, last] = [1, 0].map(|at| all[at]["id"].as_str().unwrap());
    let removed = world.omnivisor(&["backup", "remove", id]);
    assert!(removed.status.success() && !scene.taken().join(id).exists(), "{}", said(&removed));
    assert!(scene.calls("remove").contains(&id.to_owned()), "{:?}", scene.calls("remove"));
    assert!(!scene.names().iter().any(|name| name.contains(id)), "{:?}", scene.names());

    let manifest = format!("{}.mtree", all[0]["path"].as_str().unwrap());
    let text = fs::read_to_string(&manifest).unwrap();
    let another = text.replace(&scene.home().display().to_string(), "/elsewhere");
    for (text, why) in [(another.as_str(), "it is one of /elsewhere"), ("", "nothing says of which home")] {
        fs::write(&manifest, text).unwrap();
        let refused = world.omnivisor(&["backup", "remove", last, "--force"]);
        assert!(!refused.status.success() && said(&refused).contains(why), "{}", said(&refused));
        assert!(scene.taken().join(last).exists());
    }
    // One that somebody has removed already.
    fs::write(&manifest, text).unwrap();
    fs::remove_dir_all(scene.taken().join(last)).unwrap();
    let refused = world.omnivisor(&["backup", "remove", last]);
    assert!(!refused.status.success() && said(&refused).contains("is not there"), "{}", said(&refused));
    let removed = world.omnivisor(&["backup", "remove", last, "--force"]);
    assert!(removed.status.success(), "{}", said(&removed));
    assert!(scene.list().is_empty() && !scene.names().iter().any(|name| name.contains(last)), "{:?}", scene.names());
}
