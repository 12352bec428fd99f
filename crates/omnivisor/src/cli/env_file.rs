//! `-c FILE`: variables from a file, laid over the environment, so that the node inherits them, too.

use std::path::Path;

use anyhow::{Context, anyhow};

use super::Trouble;

/// Sets every variable of the file in this process's environment; none, if it cannot be read to its end. To be called before
/// any thread is started, as the environment is not to be changed beside one.
pub(super) fn apply(path: &Path) -> Result<(), Trouble> {
    let shown = path.display();
    let entries = dotenvy::from_path_iter(path).with_context(|| format!("cannot read the env file {shown}"))?;
    let mut last: Option<String> = None;
    for entry in entries {
        let (name, _) = entry.map_err(|error| match error {
            // The line itself is not shown: it may hold a secret.
            dotenvy::Error::LineParse(..) => {
                let place = last.take().map_or("its first line".to_owned(), |name| format!("what follows {name}"));
                Trouble::from(anyhow!("cannot use the env file {shown}: {place} makes no sense"))
                    .hint("a line is NAME=value; what has blanks or # in it is put in quotes")
            }
            error => anyhow::Error::new(error).context(format!("cannot read the env file {shown}")).into(),
        })?;
        last = Some(name);
    }
    dotenvy::from_path_override(path).with_context(|| format!("cannot read the env file {shown}"))?;
    Ok(())
}
