//! What is in run-config.toml is what the nodes get: each word, as it is written, and after an upgrade as well.

use std::fs;

use omnivisor_testkit::{Kind, VegaBehaviour, VegaOptions, executable, wait_until};

use super::calm::Calm;
use super::world::{HEIGHT, NEW, OLD, World, installing};
use crate::world::SOON;

/// Words that a shell, a template or a flag parser would have made something else of.
const ODD: [&str; 14] = [
    "",
    " ",
    "two words",
    "$HOME/${HOME}",
    "~",
    "*",
    "'single'",
    "\"double\"",
    "back\\slash",
    "line\nbreak",
    "größe",
    "--flag=value=value",
    "-x",
    "#",
];

#[test]
fn every_word_reaches_the_nodes_as_it_is_written() {
    let plain = World::with(installing().with_data_node());
    let with_odd = |mut args: Vec<String>| {
        args.extend(ODD.map(str::to_owned));
        args
    };
    // The homes are the sandbox's: the installation is written first, and its arguments then.
    let mut config = plain.installation.run_config("genesis");
    config.core_args = with_odd(config.core_args);
    config.core_args.extend(["--", "behind"].map(str::to_owned));
    let data_node = config.data_node.as_mut().unwrap();
    data_node.1 = with_odd(data_node.1.clone());
    let (core_args, data_node_args) = (config.core_args.clone(), data_node.1.clone());
    let path = plain.installation.genesis().join("run-config.toml");
    fs::write(&path, format!("# by hand\n{}# and this\n", config.to_toml())).unwrap();

    plain.publish(NEW, &VegaBehaviour::new(NEW));
    let mut calm = Calm::begin(plain);
    let started = |calm: &Calm, kind| calm.world.log().last_start_of(kind).unwrap().args;
    assert_eq!(started(&calm, Kind::Core), core_args);
    assert_eq!(started(&calm, Kind::Datanode), data_node_args);

    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    let calm = calm.switches_to(NEW);
    let mut expected = core_args;
    let end = expected.iter().position(|word| word == "--").unwrap();
    expected.splice(end..end, ["--snapshot.load-from-block-height".to_owned(), HEIGHT.to_string()]);
    assert_eq!(started(&calm, Kind::Core), expected);
    assert_eq!(started(&calm, Kind::Datanode), data_node_args);
    // What a person wrote is there in the next release as well, but for its name.
    let old = fs::read_to_string(path).unwrap();
    let new = fs::read_to_string(calm.world.installation.folder(NEW).join("run-config.toml")).unwrap();
    assert_eq!(new, old.replace("name = \"genesis\"", &format!("name = \"{NEW}\"")));
}

/// What an operator writes is for the next start, and for what is installed from then on.
#[test]
fn words_that_are_changed_while_the_nodes_run_are_those_of_the_next_start() {
    let mut calm = Calm::begin(World::with(installing().with_data_node()));
    let mut config = calm.world.installation.run_config("genesis");
    config.core_args.push("--added".to_owned());
    let path = calm.world.installation.genesis().join("run-config.toml");
    fs::write(path, config.to_toml()).unwrap();
    calm.undisturbed("a change of the words");
    super::world::kill(calm.world.log().last_start_of(Kind::Datanode).unwrap().pid);
    wait_until("both start again", SOON, || (calm.world.log().starts().len() == 4).then_some(()));
    calm.world.wait_for(OLD);
    assert_eq!(calm.world.log().last_start_of(Kind::Core).unwrap().args, config.core_args);
    let Calm { world, supervised, .. } = calm;
    world.publish(NEW, &VegaBehaviour::new(NEW));
    world.accept(NEW);
    let calm = Calm::with(world, supervised).switches_to(NEW);
    let core = calm.world.log().last_start_of(Kind::Core).unwrap();
    assert!(core.args.starts_with(&config.core_args), "{:?}", core.args);
}

// V25
/// A data node that was a program of its own is a word of vega's now; its other words stay.
#[test]
fn the_words_that_make_a_data_node_are_added_only_where_they_are_missing() {
    std::thread::scope(|scope| {
        for (before, added) in [
            (&["datanode", "start"][..], &[][..]),
            (&["datanode", "node"], &[]),
            (&["start"], &["datanode"]),
            (&["node"], &["datanode"]),
            (&[], &["datanode", "start"]),
        ] {
            scope.spawn(move || data_node_becomes(before, added));
        }
    });
}

fn data_node_becomes(before: &[&str], added: &[&str]) {
    let world = World::with(VegaOptions { ..installing().with_data_node() });
    let vega = world.installation.genesis().join("vega");
    // A data node of its own, which needs no word to be one.
    let script = format!(
        "#!/bin/sh\nvega='{}'\ncase \"$1\" in\nversion | datanode) exec \"$vega\" \"$@\" ;;\n\
         start | node) exec \"$vega\" datanode \"$@\" ;;\n*) exec \"$vega\" datanode start \"$@\" ;;\nesac\n",
        vega.display()
    );
    executable::script(&world.installation.genesis().join("data-node"), &script);
    let mut config = world.installation.run_config("genesis");
    let home = world.installation.data_node_home().to_str().unwrap().to_owned();
    let words = [before, &["--home", &home, "--chain-id", "datanode start"]].concat();
    let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    config.data_node = Some(("data-node".to_owned(), words.clone()));
    fs::write(world.installation.genesis().join("run-config.toml"), config.to_toml()).unwrap();

    world.publish(NEW, &VegaBehaviour::new(NEW));
    let mut calm = Calm::begin(world);
    calm.world.accept(NEW);
    calm.wait_until_staged(NEW);
    let calm = calm.switches_to(NEW);
    let started = calm.world.log().last_start_of(Kind::Datanode).unwrap();
    let expected: Vec<String> = added.iter().map(|word| (*word).to_owned()).chain(words).collect();
    assert_eq!((started.version.as_str(), started.args), (NEW, expected), "{before:?}");
    let exe = fs::read_link(format!("/proc/{}/exe", started.pid)).unwrap();
    assert_eq!(exe, calm.world.installation.folder(NEW).join("vega"), "{before:?}");
    assert!(calm.world.log().starts().iter().any(|start| start.version == OLD));
}
