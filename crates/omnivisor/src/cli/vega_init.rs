//! `vegavisor init`: make a home to be filled in. Can be repeated after it was interrupted.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, anyhow};
use clap::Args;
use omnivisor_core::dialect::vega::config::{self, Config};
use omnivisor_core::dialect::vega::node_config::{self, DataNodeConfig};
use omnivisor_core::dialect::vega::run_config::{self, RunConfig};
use omnivisor_core::dialect::vega::{STATE_FOLDER, embedded};

use super::vega::{Loaded, asset_name, surroundings};
use super::{Outcome, Trouble, output};
use crate::exit::Exit;
use crate::store::{atomic, disk, small};

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
    if let Some(what) = in_the_way(home)? {
        return Err(Trouble::from(anyhow!(what)).hint("change its files, or choose another --home"));
    }
    if init.with_data_node {
        refuse_embedded()?;
    }
    let cannot = |path: &Path| format!("cannot make {}", path.display());
    for folder in FOLDERS {
        let folder = home.join(folder);
        disk::make_folders_durably(&folder, 0o777).with_context(|| cannot(&folder))?;
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

/// What is there already and was not left by an `init` that was interrupted: nobody's files are written over.
fn in_the_way(home: &Path) -> Result<Option<String>, Trouble> {
    let entries = match fs::read_dir(home) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.with_context(|| format!("cannot read the folder {}", home.display()))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read the folder {}", home.display()))?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if FOLDERS.contains(&name.as_str()) {
            let filled_in = path.join(run_config::FILE_NAME);
            let templates = [false, true].map(|with_data_node| RunConfig::template(&name, with_data_node));
            let is_ours = |bytes: &[u8]| templates.iter().any(|template| template.as_bytes() == bytes);
            match small::read(&filled_in) {
                Ok(bytes) if is_ours(&bytes) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => return Ok(Some(format!("there is a home already: {}", filled_in.display()))),
            }
        } else if [config::FILE_NAME, "current", STATE_FOLDER].contains(&name.as_str()) {
            return Ok(Some(format!("there is a home already: {}", path.display())));
        } else if name != "lost+found" && !name.ends_with(atomic::UNFINISHED) {
            return Ok(Some(format!("{} is not empty: there is {name} in it", home.display())));
        }
    }
    Ok(None)
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
