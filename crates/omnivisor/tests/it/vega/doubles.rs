//! No key of a validator is used twice at a time, whatever an operator starts beside what runs.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use omnivisor_testkit::{RunConfig, Supervised, VegaBehaviour, VegaInstallation, VegaOptions, wait_until};

use super::world::{OLD, World, options, said};
use crate::world::SOON;

const SIGTERM: i32 = 15;

/// `vegavisor run` at this home.
fn run(world: &World, home: &Path) -> Supervised {
    world.sandbox.spawn(world.visor(&["run", "--home", home.to_str().unwrap()]))
}

/// Fails unless this supervisor ends because another one is at work, and says who and where.
#[track_caller]
fn assert_refused(second: &mut Supervised, words: &[&str]) {
    let ended = second.wait(SOON);
    let said = said(second);
    assert_eq!(ended.code(), Some(12), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

// V2
#[test]
fn a_second_supervisor_of_a_home_is_refused_by_whatever_way_it_comes() {
    let world = World::with(options().with_data_node());
    let first = world.run();
    world.wait_for(OLD);
    let pids: Vec<u32> = world.log().running().iter().map(|running| running.pid).collect();
    let home = world.installation.home().to_owned();
    let link = world.sandbox.path().join("link");
    symlink(&home, &link).unwrap();
    let relative = Path::new(home.file_name().unwrap());
    for way in [home.as_path(), relative, link.as_path()] {
        let mut second = run(&world, way);
        assert_refused(&mut second, &["supervised already", &format!("process {}", first.pid())]);
    }
    let now: Vec<u32> = world.log().running().iter().map(|running| running.pid).collect();
    assert_eq!(now, pids);
    assert_eq!(world.log().starts().len(), 2);
    world.log().assert_never_double();
}

/// Which home another installation has in common with the first one.
#[derive(Clone, Copy, Debug)]
enum Shared {
    Core,
    Tendermint,
    DataNode,
}

/// Another visor's home, whose nodes share this one of their homes with the first.
fn sharing(world: &World, shared: Shared) -> VegaInstallation {
    let home = world.sandbox.path().join("another-visor");
    let other = VegaInstallation::at(&world.sandbox, VegaOptions { home: Some(home), ..options().with_data_node() });
    let run = world.installation.run_config("genesis");
    let own = |name: &str| -> PathBuf {
        let path = world.sandbox.path().join(name);
        std::fs::create_dir_all(path.join("config")).unwrap();
        path
    };
    let moved = |args: &mut Vec<String>, flag: &str, to: PathBuf| {
        let at = args.iter().position(|word| word == flag).unwrap() + 1;
        args[at] = to.to_str().unwrap().to_owned();
    };
    let RunConfig { mut core_args, data_node, .. } = run.clone();
    let (data_node_path, mut data_node_args) = data_node.unwrap();
    if !matches!(shared, Shared::Core) {
        let home = own("another-core");
        std::fs::create_dir_all(home.join("config/node")).unwrap();
        let socket = world.sandbox.path().join("another.sock");
        std::fs::write(home.join("config/node/config.toml"), format!("[Admin.Server]\n  SocketPath = {socket:?}\n"))
            .unwrap();
        moved(&mut core_args, "--home", home);
    }
    if !matches!(shared, Shared::Tendermint) {
        moved(&mut core_args, "--tendermint-home", own("another-tendermint"));
    }
    if !matches!(shared, Shared::DataNode) {
        moved(&mut data_node_args, "--home", own("another-data-node"));
    }
    let run = RunConfig {
        core_args,
        socket_path: String::new(),
        http_path: String::new(),
        data_node: Some((data_node_path, data_node_args)),
        ..run
    };
    std::fs::create_dir_all(other.home()).unwrap();
    std::fs::copy(world.installation.config(), other.config()).unwrap();
    other.place("genesis", &run, &VegaBehaviour::new(OLD));
    symlink(other.genesis(), other.current()).unwrap();
    other
}

// V2
#[test]
fn two_visors_whose_nodes_have_a_home_in_common_never_run_both() {
    for shared in [Shared::Core, Shared::Tendermint, Shared::DataNode] {
        let world = World::with(options().with_data_node());
        let other = sharing(&world, shared);
        let mut first = world.run();
        world.wait_for(OLD);
        let common = match shared {
            Shared::Core => world.installation.core_home(),
            Shared::Tendermint => world.installation.tendermint_home(),
            Shared::DataNode => world.installation.data_node_home(),
        };
        let common = common.to_str().unwrap();
        let mut second = run(&world, other.home());
        assert_refused(&mut second, &["on the same home", common]);
        assert_eq!(world.log().starts().len(), 2, "{shared:?}");

        // Nor beside nodes that a supervisor has left behind.
        first.kill9();
        let mut second = run(&world, other.home());
        assert_refused(&mut second, &[common]);
        assert_eq!(world.log().starts().len(), 2, "{shared:?}: {}", said(&second));
        world.log().assert_never_double();

        // Whose they are, he takes them over; and when they are gone, the other one may.
        let mut again = world.run();
        assert_eq!(world.log().starts().len(), 2, "{}", said(&again));
        again.signal(SIGTERM);
        assert_eq!(again.wait(SOON).code(), Some(0));
        let _second = run(&world, other.home());
        wait_until("the other pair runs", SOON, || (world.log().running().len() == 2).then_some(()));
        assert_eq!(world.log().starts().len(), 4);
        world.log().assert_never_double();
    }
}

// V2
#[test]
fn two_visors_that_have_no_home_in_common_do_not_mind_each_other() {
    let world = World::with(options().with_data_node());
    let other = sharing(&world, Shared::Core);
    // A name that begins alike is another name.
    let mut run_config = world.installation.run_config("genesis");
    let beside = format!("{}-2", world.installation.core_home().to_str().unwrap());
    std::fs::create_dir_all(Path::new(&beside).join("config/node")).unwrap();
    let socket = world.sandbox.path().join("another.sock");
    let config = format!("[Admin.Server]\n  SocketPath = {socket:?}\n");
    std::fs::write(Path::new(&beside).join("config/node/config.toml"), config).unwrap();
    run_config.core_args = ["start", "--home", &beside].map(str::to_owned).to_vec();
    run_config.socket_path = String::new();
    run_config.data_node = None;
    other.place("genesis", &run_config, &VegaBehaviour::new(OLD));
    let mut first = world.run();
    world.wait_for(OLD);
    first.kill9();
    let _second = run(&world, other.home());
    wait_until("three run", SOON, || (world.log().running().len() == 3).then_some(()));
    let again = world.run();
    assert_eq!(world.log().starts().len(), 3, "{}", said(&again));
    world.log().assert_never_double();
}
