//! `build-info` and `daemon-build-info`: what this program, and the one it runs, say of themselves, in Nymvisor's forms.

use std::sync::LazyLock;

use anyhow::Context;
use omnivisor_core::dialect::nym::build_info::BuildInfo;

use super::nym::{Format, Loaded};
use super::{Outcome, nym_init, nym_run, output};
use crate::exit::Exit;
use crate::shell::adopt_installation;

/// What `nymvisor -V` prints behind the name.
pub(super) static VERSION: LazyLock<String> = LazyLock::new(|| own().to_text());

/// The commit it was built from.
pub(super) fn commit() -> &'static str {
    env!("OMNIVISOR_BUILD_COMMIT_SHA")
}

/// This program. It says its own name, by whatever name it was called.
fn own() -> BuildInfo {
    BuildInfo {
        binary_name: env!("CARGO_PKG_NAME").to_owned(),
        build_timestamp: env!("OMNIVISOR_BUILD_TIMESTAMP").to_owned(),
        build_version: env!("CARGO_PKG_VERSION").to_owned(),
        commit_sha: commit().to_owned(),
        commit_timestamp: env!("OMNIVISOR_BUILD_COMMIT_TIMESTAMP").to_owned(),
        commit_branch: env!("OMNIVISOR_BUILD_COMMIT_BRANCH").to_owned(),
        rustc_version: env!("OMNIVISOR_BUILD_RUSTC_VERSION").to_owned(),
        rustc_channel: env!("OMNIVISOR_BUILD_RUSTC_CHANNEL").to_owned(),
        cargo_profile: env!("OMNIVISOR_BUILD_PROFILE").to_owned(),
        cargo_triple: env!("OMNIVISOR_BUILD_TRIPLE").to_owned(),
    }
}

pub(super) fn build_info(format: Format) -> Outcome {
    print(format, &own())
}

/// Asks the executable that runs, or would run.
pub(super) fn daemon_build_info(format: Format) -> Outcome {
    let loaded = Loaded::find()?;
    loaded.log(true);
    let dialect = loaded.dialect(&loaded.settings()?, Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot begin to work")?;
    let details = runtime.block_on(async {
        let folder = match nym_run::active(&dialect) {
            Some(installed) => installed.folder,
            None => adopt_installation(&dialect, None).await?.folder,
        };
        nym_init::build_info(&dialect.executable(&folder)).await
    })?;
    print(format, &details)
}

fn print(format: Format, details: &BuildInfo) -> Outcome {
    output::result(&match format {
        Format::Text => details.to_text(),
        Format::Json => details.to_json_line(),
    });
    Ok(Exit::Success)
}
