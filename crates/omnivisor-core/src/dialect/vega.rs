//! The formats of the Vega dialect: Vega Visor's files, the nodes' own, their arguments, and core's admin endpoint.
//!
//! Bytes in, values out. Absent here: reading or writing any of them.

pub mod admin;
pub mod arguments;
pub mod config;
pub mod node_config;
pub mod run_config;
mod tables;

/// The folder of our own state in Vega Visor's home.
pub const STATE_FOLDER: &str = ".omnivisor";

/// How much of a text from outside is said to people.
const LONGEST_SHOWN: usize = 200;

/// The beginning of a text from outside, made safe to print on one line.
fn excerpt(text: &str) -> String {
    let mut shown = String::new();
    for (index, character) in text.trim().chars().enumerate() {
        match character {
            _ if index == LONGEST_SHOWN => return shown + "…",
            '"' | '\'' | '\\' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_and_has_no_control_characters() {
        let shown = excerpt(&"<html>\x1b[31m\n".repeat(1000));
        assert!(shown.starts_with("<html>\\u{1b}[31m\\n<html>") && shown.ends_with('…'), "{shown}");
        assert!(shown.len() < 2 * LONGEST_SHOWN, "{shown}");
        assert_eq!(excerpt(" \"short\"\n"), "\"short\"");
    }
}
