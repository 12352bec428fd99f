//! What is in config.toml and run-config.toml, what is not, and what should not be.

use std::fs;
use std::path::Path;

use omnivisor_testkit::{Kind, VegaBehaviour, VegaOptions};

use super::calm::Calm;
use super::world::{ASSET, NEW, OLD, World, installing, options, said};
use crate::world::SOON;

/// A world with this configuration.
fn configured(text: &str) -> World {
    let world = World::with(options());
    fs::write(world.installation.config(), text).unwrap();
    world
}

#[track_caller]
fn has_line(said: &str, words: &[&str]) {
    assert!(said.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?} in {said}");
}

// V13
/// The examples of Vega's documentation, as an operator copies them.
#[test]
fn keys_that_are_left_out_take_their_documented_defaults_and_that_is_said() {
    let asset = "[autoInstall]\nenabled = true\n[autoInstall.asset]\nname = \"vega-linux-amd64.zip\"\n";
    let mut calm = Calm::begin(configured(&format!("{asset}binaryName = \"vega\"\n")));
    let said = said(&calm.supervised);
    for (key, taken, peer) in [
        ("maxNumberOfFirstConnectionRetries", "175000", "0"),
        ("maxNumberOfRestartConnectionRetries", "10", "0"),
        ("maxNumberOfRestarts", "3", "0"),
        ("restartsDelaySeconds", "5", "0"),
        ("stopSignalTimeoutSeconds", "15", "0"),
        ("autoInstall.repositoryOwner", "\"vegaprotocol\"", "nothing"),
        ("autoInstall.repository", "\"vega\"", "nothing"),
    ] {
        has_line(&said, &[key, "is left out", &format!("{taken} is taken"), &format!("Vega Visor takes {peer}")]);
    }
    assert!(!said.contains("stopDelaySeconds is left out"), "its default is what Vega Visor takes: {said}");
    // A visor with these numbers at 0 would have ended by now, or would at the height.
    calm.world.publish(NEW, &VegaBehaviour::new(NEW));
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    let mut calm = calm.switches_to(NEW);
    super::world::kill(calm.world.log().last_start_of(Kind::Core).unwrap().pid);
    calm.wait_for_line("it is started again after the delay", 0, &["the node ended with signal 9", "again in"]);
    omnivisor_testkit::wait_until("it is started again", SOON, || (calm.world.log().starts().len() == 3).then_some(()));
    assert_eq!(calm.supervised.try_wait(), None);
}

// V13
#[test]
fn without_any_key_nothing_is_downloaded_and_all_else_is_as_documented() {
    let mut calm = Calm::begin(configured("# nothing is set here\n[upgradeFolders]\n"));
    calm.world.accept(NEW);
    calm.wait_for_standing("nothing is downloaded", NEW, &["no executable at"]);
    assert_eq!(calm.world.github.api_requests(), 0);
    calm.world.installation.place_release(NEW, &VegaBehaviour::new(NEW));
    calm.wait_until_staged(NEW);
    calm.switches_to(NEW);
}

// V27
#[test]
fn keys_that_mean_nothing_are_named_with_what_to_write_instead() {
    let text = r#"
maxNumberOfRestart = 1
restartDelaySeconds = 7
name = "visor"

[upgradeFolders]
"v9.9.9" = "whatever"

[autoInstal]
enabled = true

[autoInstall]
enabled = true
stopSignalTimeoutSeconds = 99
repositoryOwner = "vegaprotocol"
repository = "vega"
  [autoInstall.assets]
  assset_name = "vega-linux-amd64.zip"
  binary_name = "vega"
"#;
    let mut calm = Calm::begin(configured(text));
    let said = said(&calm.supervised);
    for words in [
        &["line 2", "maxNumberOfRestart is ignored", "write maxNumberOfRestarts"][..],
        &["line 3", "restartDelaySeconds is ignored", "write restartsDelaySeconds"],
        &["line 4", "name is ignored", "it belongs into run-config.toml"],
        &["line 9", "autoInstal is ignored", "write autoInstall"],
        &["line 14", "stopSignalTimeoutSeconds is ignored", "belongs above the first [table]"],
        &["line 17", "autoInstall.assets is ignored", "write [autoInstall.asset] with name = \"vega-linux-amd64.zip\""],
    ] {
        has_line(&said, words);
    }
    assert!(!said.contains("v9.9.9"), "a tag may be called as it likes: {said}");
    // With what it means today it would fail at the upgrade; here it is what was meant.
    calm.world.publish(NEW, &VegaBehaviour::new(NEW));
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    assert_eq!(calm.world.github.downloads(NEW, ASSET), 1);
    // One that comes with a change is named, too.
    let more = format!("stopDelaySecond = 3\n{text}");
    calm.check("a change", &["stopDelaySecond is ignored", "write stopDelaySeconds"], |world| {
        fs::write(world.installation.config(), &more).unwrap();
    });
    calm.wait_until_staged(NEW);
    calm.switches_to(NEW);
}

// V27
#[test]
fn keys_of_a_run_config_that_mean_nothing_are_named() {
    let world = World::new();
    let path = world.installation.genesis().join("run-config.toml");
    let text = fs::read_to_string(&path).unwrap().replace("httpPath", "httpsPath");
    fs::write(&path, text).unwrap();
    let calm = Calm::begin(world);
    has_line(&said(&calm.supervised), &["run-config.toml", "vega.rpc.httpsPath is ignored", "write vega.rpc.httpPath"]);
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused_before_anything_is_started() {
    for (text, words) in [
        ("", "it is empty"),
        ("<html>", "it looks like HTML"),
        ("{\"a\": 1}", "it looks like JSON"),
        ("maxNumberOfRestarts = \"many\"", "it is a text"),
        ("maxNumberOfRestarts = -3", "it is negative"),
        ("restartsDelaySeconds = 5\nRestartsDelaySeconds = 6", "stands there twice"),
        ("[upgradeFolders]\n\"v1.0.0\" = \"/etc\"", "it is no folder below the home"),
        ("[upgradeFolders]\nv1.0.0 = \"x\"", "in quotes"),
        ("[autoInstall]\nrepository = \"a/b\"", "cannot be a part of an address"),
    ] {
        let world = configured(text);
        let output = world.run_command().output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}: {complaint}");
        assert!(complaint.starts_with("Error: ") && complaint.contains(words), "{text}: {complaint}");
        assert!(complaint.contains("config.toml"), "{text}: {complaint}");
        assert!(world.log().events().is_empty(), "{text}");
    }
}

/// Where the release does not say it, core is asked where it listens, however that is said.
#[test]
fn an_empty_socket_path_is_that_of_core_itself() {
    let sections = |socket: &Path, path: &str| {
        format!("[Admin]\n  [Admin.Server]\n    SocketPath = \"{}\"\n    HTTPPath = \"{path}\"\n", socket.display())
    };
    for what in ["its file", "its arguments", "its defaults", "its file and its arguments"] {
        let rpc = Some((String::new(), String::new()));
        let world = World::with(VegaOptions { rpc, ..installing() });
        let core = world.installation.core_config();
        let elsewhere = world.sandbox.path().join("elsewhere.sock");
        let mut arguments = world.installation.run_config("genesis").core_args;
        match what {
            "its file" => fs::write(&core, sections(&elsewhere, "/admin")).unwrap(),
            "its defaults" => fs::write(&core, "[API]\n").unwrap(),
            _ => {
                // The arguments count over the file.
                let other = world.sandbox.path().join("nobody.sock");
                fs::write(&core, sections(&other, "/nowhere")).unwrap();
                let path = elsewhere.to_str().unwrap().to_owned();
                arguments.extend(["--admin.server.socket-path".to_owned(), path]);
                arguments.extend(["--admin.server.http-path".to_owned(), "/other".to_owned()]);
            }
        }
        let mut config = world.installation.run_config("genesis");
        config.core_args = arguments;
        fs::write(world.installation.genesis().join("run-config.toml"), config.to_toml()).unwrap();
        world.publish(NEW, &VegaBehaviour::new(NEW));
        let mut calm = Calm::begin(world);
        calm.world.accept(NEW);
        calm.wait_until_staged(NEW);
        calm.switches_to(NEW);
    }
}

#[test]
fn a_socket_where_core_does_not_listen_is_reported_before_anything_is_started() {
    for (socket, path, words) in [
        ("nobody.sock", "/rpc", &["socketPath is", "nobody.sock", "where core has", "vega.sock"][..]),
        ("vega.sock", "/elsewhere", &["httpPath is \"/elsewhere\", where core has \"/rpc\""]),
    ] {
        let world = World::new();
        let mut config = world.installation.run_config("genesis");
        config.socket_path = world.sandbox.path().join(socket).to_str().unwrap().to_owned();
        config.http_path = path.to_owned();
        fs::write(world.installation.genesis().join("run-config.toml"), config.to_toml()).unwrap();
        let mut calm = Calm::begin(world);
        calm.wait_for_line("it is started", 0, &["the core is started"]);
        let said = said(&calm.supervised);
        let (before, _) = said.split_once("the core is started").unwrap();
        has_line(
            before,
            &[&["core cannot be asked for upgrades", "leave it empty there to take core's"], words].concat(),
        );
        calm.undisturbed("it is said, and the node runs");
        assert_eq!(calm.world.status().unwrap()["active"]["version"], OLD);
    }
}
