//! `vegavisor init`: make a home to be filled in. Can be repeated after it was interrupted.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use clap::Args;
use omnivisor_core::dialect::vega::config::Config;
use omnivisor_core::dialect::vega::embedded;
use omnivisor_core::dialect::vega::node_config::{self, DataNodeConfig};
use omnivisor_core::dialect::vega::run_config::{self, RunConfig};

use super::vega::{Loaded, asset_name, surroundings};
use super::{Outcome, Trouble, output};
use crate::exit::Exit;
use crate::store::{atomic, small};

/// The folders that Vega Visor makes: the first release, and an example of the next one.
const FOLDERS: [&str; 2] = ["genesis", "vX.X.X"];

/// Makes a home.
#[derive(Args)]
pub(super) struct Init {
    /// Also with a data node
    #[arg(long)]
    with_data_node: bool,
}

pub(super) fn init(init: &Init, home: &Path) -> Outcome {
    let config = Loaded::config_file(home);
    if config.exists() {
        let error = anyhow!("there is a home already: {}", config.display());
        return Err(Trouble::from(error).hint("change its files, or choose another --home"));
    }
    if init.with_data_node {
        refuse_embedded()?;
    }
    let cannot = |path: &Path| format!("cannot make {}", path.display());
    for folder in FOLDERS {
        let folder = home.join(folder);
        fs::create_dir_all(&folder).with_context(|| cannot(&folder))?;
        atomic::sweep(&folder);
        let path = folder.join(run_config::FILE_NAME);
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let text = RunConfig::template(&name, init.with_data_node);
        atomic::replace(&path, text.as_bytes(), 0o600).with_context(|| cannot(&path))?;
        output::result(&format!("{}: what this release runs; to be filled in", path.display()));
    }
    // The last of them says that all of them are there.
    atomic::sweep(home);
    atomic::replace(&config, Config::template(&asset_name()).as_bytes(), 0o600).with_context(|| cannot(&config))?;
    output::result(&format!("{}: how it is run and upgraded", config.display()));
    output::result(&format!(
        "Next: put the executable into {}, fill in its run-config.toml, then `vegavisor run --home {}`",
        home.join(FOLDERS[0]).display(),
        home.display()
    ));
    Ok(Exit::Success)
}

/// A data node that has its database below itself cannot be upgraded: not even begun with, where its usual home says so.
fn refuse_embedded() -> Result<(), Trouble> {
    let path = node_config::data_node_config_file(&[], &surroundings().config);
    let Ok(bytes) = small::read(&path) else { return Ok(()) };
    let config = DataNodeConfig::parse(Some(&String::from_utf8_lossy(&bytes)), &[])
        .with_context(|| format!("cannot use the data node's configuration {}", path.display()))?;
    match config.embedded {
        true => Err(Trouble::from(anyhow!("{}: {}", path.display(), embedded("no home is made for it")))),
        false => Ok(()),
    }
}
