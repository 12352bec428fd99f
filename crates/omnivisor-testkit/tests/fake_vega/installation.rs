//! Installations that Vega Visor would start, and those it would not.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{PermissionsExt, symlink};

use omnivisor_testkit::{RunConfig, VegaBehaviour, VersionAnswer, wire};

use crate::World;

#[test]
fn a_new_installation_would_start() {
    let world = World::new();
    let made = &world.installation;
    assert_eq!(made.assert_visor_would_start(), "v0.74.0");
    made.assert_visor_would_start_from(&made.genesis(), "v0.74.0");
    assert_eq!(fs::read_link(made.current()).unwrap(), made.genesis());
    for file in [made.config(), made.genesis().join("run-config.toml"), made.home().join("vX.X.X/run-config.toml")] {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(made.socket().as_os_str().len() <= 107, "as long as a socket's path may be");
    let run_config = fs::read_to_string(made.genesis().join("run-config.toml")).unwrap();
    assert!(run_config.contains(&format!("args = [\"datanode\", \"start\", \"--home\", {:?}]", made.data_node_home())));
    assert!(fs::read_to_string(made.core_config()).unwrap().contains(&format!("SocketPath = {:?}", made.socket())));
}

#[test]
fn releases_are_placed_where_the_operator_has_them() {
    let world = World::with(|mut options| {
        options.upgrade_folders.insert("v0.75.0".to_owned(), "next".to_owned());
        options
    });
    let made = &world.installation;
    let mapped = made.place_release("v0.75.0", &VegaBehaviour::new("v0.75.0"));
    assert_eq!(mapped, made.home().join("next"));
    fs::remove_file(made.current()).unwrap();
    symlink(&mapped, made.current()).unwrap();
    made.assert_visor_would_start_from(&mapped, "v0.75.0");

    let broken = VegaBehaviour { version_answer: VersionAnswer::Exit(1), ..VegaBehaviour::new("v0.76.0") };
    let unmapped = made.place_release("v0.76.0", &broken);
    assert_eq!(unmapped, made.home().join("v0.76.0"));
    fs::remove_file(made.current()).unwrap();
    symlink(&unmapped, made.current()).unwrap();
    assert!(made.visor_would_start().unwrap_err().contains("does not say its version"));
}

#[test]
fn without_a_current_it_would_start_the_first_release() {
    let world = World::new();
    let made = &world.installation;
    let genesis = (fs::canonicalize(made.genesis()).unwrap(), "v0.74.0".to_owned());
    fs::remove_file(made.current()).unwrap();
    assert_eq!(made.visor_would_start(), Ok(genesis.clone()));
    symlink(made.home().join("gone"), made.current()).unwrap();
    assert_eq!(made.visor_would_start(), Ok(genesis), "and if it dangles");
    fs::remove_file(made.genesis().join("run-config.toml")).unwrap();
    assert!(made.visor_would_start().unwrap_err().contains("neither current nor genesis"));
}

#[test]
fn what_it_cannot_read_or_run_would_not_start() {
    let world = World::new();
    let made = &world.installation;
    let run_config_path = made.genesis().join("run-config.toml");
    for (path, text, reason) in [
        (made.config(), "", "is empty"),
        (made.config(), "<html>", "looks like HTML"),
        (made.config(), "{}", "looks like JSON"),
        (made.config(), "maxNumberOfRestarts = '3'", "expected i64"),
        (made.config(), "[upgradeFolders]\na = 1", "expected a string"),
        (run_config_path.clone(), "name = \"x\"\n[vega", "TOML parse error"),
        (run_config_path.clone(), "name = \"x\"\n", "is no regular file"),
        (run_config_path.clone(), "[vega.binary]\npath = 'vega'\nargs = [1]", "expected a string"),
    ] {
        let good = fs::read_to_string(&path).unwrap();
        fs::write(&path, text).unwrap();
        let found = made.visor_would_start().expect_err(text);
        assert!(found.contains(reason), "{text}: {found}");
        fs::write(&path, good).unwrap();
    }
    // Go does not mind the case of keys, and nothing that it does not know.
    fs::write(made.config(), "MAXNUMBEROFRESTARTS = 3\nunknown = 1\n").unwrap();
    fs::write(&run_config_path, "[Vega.Binary]\nPath = 'vega'\n").unwrap();
    assert_eq!(made.assert_visor_would_start(), "v0.74.0");

    let example = RunConfig::example("genesis", true);
    fs::write(&run_config_path, example.to_toml()).unwrap();
    assert!(made.visor_would_start().unwrap_err().contains("vega data-node"));
    fs::remove_file(made.genesis().join("vega")).unwrap();
    fs::create_dir(made.genesis().join("vega")).unwrap();
    assert!(made.visor_would_start().unwrap_err().contains("is no regular file"));
}

#[test]
fn an_asset_holds_the_executable_and_nothing_else() {
    let world = World::new();
    let behaviour = VegaBehaviour { padding: 100_000, ..VegaBehaviour::new("v0.75.0") };
    let executable = world.installation.minted(&behaviour);
    let asset = world.installation.asset(&behaviour);
    let mut archive = zip::ZipArchive::new(Cursor::new(asset)).unwrap();
    assert_eq!(archive.len(), 1);
    let mut file = archive.by_index(0).unwrap();
    assert_eq!((file.name().unwrap().as_ref(), file.unix_mode()), ("vega", Some(0o100_755)));
    let unpacked = world.sandbox.path().join("unpacked");
    std::io::copy(&mut file, &mut fs::File::create(&unpacked).unwrap()).unwrap();
    assert_eq!(wire::sha256_hex(&unpacked), wire::sha256_hex(&executable));
}

#[test]
#[should_panic(expected = "unknown field `reddy`")]
fn a_misspelt_control_fails_the_test() {
    World::new().installation.control_core(|control| control["reddy"] = true.into());
}
