//! The `run-config.toml` of a new release, made from the one of the release before.

use toml_edit::{Array, DocumentMut, Item, TableLike, Value};

use super::{ConfigError, FILE_NAME, RunConfig};

impl RunConfig {
    /// The text for a release of this name whose one executable, core and data node at once, is `binary`. All else stays
    /// as a person wrote it: comments, keys that are not known, arguments. Only the words that make the executable a data
    /// node are put in front of the data node's arguments where they are missing, as they are in an installation whose
    /// data node was a program of its own.
    pub fn for_release(current: &str, name: &str, binary: &str) -> Result<String, ConfigError> {
        // Says what is wrong, and that every table is one and no key there twice.
        Self::parse(current)?;
        let mut document: DocumentMut = current
            .parse()
            .map_err(|error: toml_edit::TomlError| ConfigError::Toml { file: FILE_NAME, reason: error.to_string() })?;
        let root = document.as_table_mut();
        set(root, "name", name);
        for program in ["vega", "data_node"] {
            let Some(table) = child(root, program).and_then(|table| child(table, "binary")) else { continue };
            set(table, "path", binary);
            if program == "data_node" {
                make_data_node(table);
            }
        }
        Ok(document.to_string())
    }
}

/// The key as the file spells it.
fn spelt(table: &dyn TableLike, key: &str) -> String {
    let mut keys = table.iter().map(|(written, _)| written);
    keys.find(|written| written.eq_ignore_ascii_case(key)).unwrap_or(key).to_owned()
}

fn child<'a>(table: &'a mut dyn TableLike, key: &str) -> Option<&'a mut dyn TableLike> {
    let key = spelt(table, key);
    table.get_mut(&key)?.as_table_like_mut()
}

/// Sets a text, and keeps what stands around it.
fn set(table: &mut dyn TableLike, key: &str, text: &str) {
    let key = spelt(table, key);
    match table.get_mut(&key).and_then(Item::as_value_mut) {
        Some(value) => {
            let decor = value.decor().clone();
            *value = Value::from(text);
            *value.decor_mut() = decor;
        }
        None => {
            table.insert(&key, toml_edit::value(text));
        }
    }
}

fn make_data_node(binary: &mut dyn TableLike) {
    let key = spelt(binary, "args");
    if binary.get(&key).is_none() {
        binary.insert(&key, toml_edit::value(Array::new()));
    }
    let Some(args) = binary.get_mut(&key).and_then(Item::as_array_mut) else { return };
    let missing: &[&str] = match args.get(0).and_then(Value::as_str) {
        Some("datanode") => return,
        Some("start" | "node") => &["datanode"],
        _ => &["datanode", "start"],
    };
    // The new words stand where the first one stood, and like it.
    let (first, second) = places(args);
    if let Some(old) = args.get_mut(0)
        && second.len() == 1
    {
        old.decor_mut().set_prefix(&*second);
    }
    for (index, word) in missing.iter().enumerate() {
        let prefix = if index == 0 { &first } else { &second };
        args.insert_formatted(index, Value::from(*word).decorated(prefix.as_str(), ""));
    }
}

/// What stands before the first element of a list, without its comments, and what before the others.
fn places(args: &Array) -> (String, String) {
    let written = args.get(0).and_then(|old| old.decor().prefix()?.as_str()).unwrap_or_default();
    match written.rsplit_once('\n') {
        Some((_, indent)) => (format!("\n{indent}"), format!("\n{indent}")),
        None => (written.to_owned(), " ".to_owned()),
    }
}
