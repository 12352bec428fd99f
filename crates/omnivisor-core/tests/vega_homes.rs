//! Where the data of a node of Vega is, and what of it never goes back, or is kept where no snapshot can be taken.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use omnivisor_core::dialect::vega::config::Config;
use omnivisor_core::dialect::vega::{Extra, Surroundings, Vega};
use omnivisor_core::dialect::{HOMES, Layout, Root};
use omnivisor_core::health::{HealthProbe, Rhythm};

/// Words as a list; no word has a blank.
fn words(text: &str) -> Vec<String> {
    text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn vega() -> Vega {
    let (config, temporary, variables) =
        ("/config".into(), "/tmp".into(), BTreeMap::from([("HOME".to_owned(), "/home/vega".to_owned())]));
    let surroundings = Surroundings { config, temporary, variables };
    let (config, _) = Config::parse("maxNumberOfRestarts = 3\n", "vega-linux-amd64.zip").unwrap();
    let rhythm = Rhythm::default();
    let probe = HealthProbe { window: Duration::from_secs(1), deaths: 2, answers: true, checks: Vec::new(), rhythm };
    let extra = Extra { probe, restart_silent: false, postgres_patience: Duration::ZERO };
    Vega::new(Path::new("/srv/visor"), config, extra, surroundings)
}

/// The first release's run-config.toml with these arguments.
fn run_config(core: &str, data_node: Option<&str>) -> String {
    let array = |line: &str| words(line).iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    let mut text = format!("name = \"genesis\"\n[vega.binary]\npath = \"vega\"\nargs = [{}]\n", array(core));
    text += "[vega.rpc]\nsocketPath = \"/run/vega.sock\"\nhttpPath = \"/rpc\"\n";
    if let Some(line) = data_node {
        text += &format!("[data_node.binary]\npath = \"vega\"\nargs = [{}]\n", array(line));
    }
    text
}

const CURRENT: &str = "/srv/visor/current";

fn reads(text: &str) -> impl Fn(&Path) -> Option<Vec<u8>> {
    |path| (path == Path::new(CURRENT).join("run-config.toml")).then(|| text.as_bytes().to_vec())
}

fn told(roots: &[Root]) -> Vec<String> {
    roots.iter().map(|root| format!("{} {}", root.name, root.path.display())).collect()
}

/// What a snapshot holds of homes that are given so, by the name that each has there; or why it is not known.
fn roots(core: &str, data_node: Option<&str>) -> Result<Vec<String>, String> {
    let text = run_config(core, data_node);
    let roots = vega().roots(Path::new(CURRENT), &reads(&text)).map_err(|error| error.to_string())?;
    Ok(told(&roots))
}

#[test]
fn a_snapshot_holds_every_home_that_is_said_or_none() {
    let core = "start --home /srv/vega --tendermint-home /srv/tm";
    assert_eq!(roots(core, None).unwrap(), ["core /srv/vega", "consensus /srv/tm"]);
    let all = roots(core, Some("datanode start --home=/srv/dn")).unwrap();
    assert_eq!(all, ["core /srv/vega", "consensus /srv/tm", "data-node /srv/dn"]);
    // By these names a copy of several is told from one of a single home.
    assert!(all.iter().map(|it| it.split(' ').next().unwrap()).eq(HOMES), "{all:?}");
    for (core, data_node, said) in [
        ("start --tendermint-home /srv/tm", None, "core"),
        ("start --home vega --tendermint-home /srv/tm", None, "core"),
        ("start --home /srv/vega", None, "consensus"),
        ("start --home /srv/vega --tendermint-home=$DISK/tm", None, "consensus"),
        ("start --home /srv/vega --tendermint-home=/srv/$NAME", None, "consensus"),
        (core, Some("datanode start"), "data-node"),
    ] {
        let why = roots(core, data_node).unwrap_err();
        assert!(why.contains(&format!("the home of {said} is not given by a whole path")), "{why}");
    }
}

/// Where no snapshot can be taken, nobody asks for whole paths: what is there is kept.
#[test]
fn something_is_kept_of_every_home_that_can_be_found() {
    let roots = |core: &str, data_node: Option<&str>| {
        let text = run_config(core, data_node);
        told(&vega().essential_roots(Path::new(CURRENT), &reads(&text)))
    };
    let core = "start --home /srv/vega --tendermint-home /srv/tm";
    assert_eq!(roots(core, None), ["core /srv/vega", "consensus /srv/tm"]);
    let all = roots(core, Some("datanode start --home=/srv/dn"));
    assert_eq!(all, ["core /srv/vega", "consensus /srv/tm", "data-node /srv/dn"]);
    // Of what is not said the usual places are known; a variable that is not set says none.
    assert_eq!(
        roots("start", Some("datanode start")),
        ["core/config /config/vega", "consensus /home/vega/.cometbft", "data-node/config /config/vega"]
    );
    assert_eq!(roots("start --tendermint-home=$HOME/tm", None)[1..], ["consensus /home/vega/tm"]);
    assert_eq!(
        roots("start --tendermint-home=$TM", Some("datanode start")),
        ["core/config /config/vega", "data-node/config /config/vega"]
    );
    assert_eq!(roots("start --home vega", None), ["consensus /home/vega/.cometbft"]);
    assert_eq!(told(&vega().essential_roots(Path::new("/srv/visor/gone"), &reads(""))), Vec::<String>::new());
}

#[test]
fn what_was_signed_and_configuration_is_kept_and_neither_keys_nor_data() {
    let is_essential = |path: &str| vega().is_essential(Path::new(path));
    assert!(vega().is_essential(vega().signer_state().unwrap()));
    for kept in [
        "core/config",
        "core/config/node/config.toml",
        "consensus/config/config.toml",
        "consensus/config/genesis.json",
        "consensus/data",
        "consensus/data/priv_validator_state.json",
        "data-node/config/data-node/config.toml",
    ] {
        assert!(is_essential(kept), "{kept}");
    }
    for left in [
        "core",
        "core/config/node/wallets.encrypted",
        "core/config/node/wallets/vega/x",
        "core/config/tls.key",
        "core/data/node/wallets/vega/x",
        "core/state/node/snapshots/x",
        "consensus/config/node_key.json",
        "consensus/config/priv_validator_key.json",
        "consensus/data/blockstore.db",
        "consensus/data/blockstore.db/config",
        "consensus/data/cs.wal/wal",
        "data-node/state/data-node/networkhistory/x",
        "passphrase",
    ] {
        assert!(!is_essential(left), "{left}");
    }
}

#[test]
fn what_has_signed_and_the_keys_never_go_back() {
    let is_monotonic = |path: &str| vega().is_monotonic(Path::new(path));
    for kept in [
        "consensus/data/priv_validator_state.json",
        "consensus/config/priv_validator_key.json",
        "core/data/node/wallets/vega/x",
        "core/data/node/wallets.encrypted",
    ] {
        assert!(is_monotonic(kept), "{kept}");
    }
    for data in
        ["consensus/data/blockstore.db/000001.ldb", "core/state/node/snapshots/x", "core/config/node/config.toml"]
    {
        assert!(!is_monotonic(data), "{data}");
    }
}
