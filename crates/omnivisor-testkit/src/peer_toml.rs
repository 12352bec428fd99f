//! TOML as Vega reads it: nothing is known that looks like something else, and the case of keys does not matter.

use std::fs;
use std::path::Path;

use toml::{Table, Value};

/// A file with all keys in lower case.
pub(crate) fn read(path: &Path) -> Result<Table, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn parse(text: &str) -> Result<Table, String> {
    match text.bytes().next() {
        None => Err("the file is empty".to_owned()),
        Some(b'<') => Err("the file looks like HTML".to_owned()),
        Some(b'{') => Err("the file looks like JSON".to_owned()),
        Some(_) => text.parse().map(lower).map_err(|error: toml::de::Error| error.to_string()),
    }
}

fn lower(table: Table) -> Table {
    let lower_value = |value| match value {
        Value::Table(table) => Value::Table(lower(table)),
        other => other,
    };
    table.into_iter().map(|(key, value)| (key.to_lowercase(), lower_value(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_however_they_are_written() {
        let table = parse("[Admin.Server]\nsocketpath = '/X'\n").unwrap();
        assert_eq!(table["admin"]["server"]["socketpath"].as_str(), Some("/X"));
    }

    #[test]
    fn what_is_no_toml_is_refused() {
        for text in ["", "<html>", "{}", "a = ", "a"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
