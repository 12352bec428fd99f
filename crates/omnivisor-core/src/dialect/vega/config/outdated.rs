//! Keys of `config.toml` that an older Vega Visor knew, or its documentation made up, and what is written instead today.

use crate::dialect::vega::tables::{Unknown, Warning};

/// Says how it is written today, if a key was right for an older Vega Visor or is one of another file. `usual` is the
/// asset's name where the key does not say one.
pub(super) fn outdated(unknown: &Unknown<'_, '_>, usual: &str) -> Option<Warning> {
    let path = unknown.path.to_ascii_lowercase();
    let text_of = |names: &[&str]| {
        let table = unknown.value.as_table()?;
        let inner = table.iter().find(|(key, _)| key.get_ref().eq_ignore_ascii_case("vega"));
        let inner = inner.and_then(|(_, value)| value.get_ref().as_table()).unwrap_or(table);
        let value = inner.iter().find(|(key, _)| names.iter().any(|name| key.get_ref().eq_ignore_ascii_case(name)));
        value.and_then(|(_, value)| value.get_ref().as_str()).filter(|text| !text.is_empty())
    };
    let asset = || {
        let name = text_of(&["asset_name", "assset_name", "name"]).unwrap_or(usual);
        let binary = text_of(&["binary_name", "binaryName"]).unwrap_or("vega");
        format!("write [autoInstall.asset] with name = {name:?} and binaryName = {binary:?}")
    };
    let instead = match path.as_str() {
        "autoinstall.assets" => {
            format!("that form is outdated, and the data node is part of vega now; {}", asset())
        }
        "autoinstall.asset.vega" => asset(),
        "autoinstall.asset.data_node" | "autoinstall.data_node" => {
            "the data node is part of vega now and needs no asset of its own; leave it out".to_owned()
        }
        "autoinstall.asset.asset_name" | "autoinstall.asset.assset_name" => {
            "that name is outdated; write name".to_owned()
        }
        "autoinstall.asset.binary_name" => "that name is outdated; write binaryName".to_owned(),
        "name" | "vega" | "data_node" => "it belongs into run-config.toml".to_owned(),
        _ => return None,
    };
    Some(unknown.ignored(&instead))
}
