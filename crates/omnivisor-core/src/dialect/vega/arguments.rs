//! A node's arguments, looked at as the nodes themselves do (go-flags): `--flag value` or `--flag=value`, matched whole.
//!
//! Nothing behind `--` is a flag, and a word that looks like a flag is no value. Of a flag that is given twice the last
//! one counts.

mod history;

use std::iter::Peekable;
use std::path::PathBuf;
use std::slice;

pub use self::history::{SegmentError, latest_segment_arguments, parse_latest_segment};

/// Which snapshot core is to begin with.
pub const SNAPSHOT_HEIGHT: &str = "--snapshot.load-from-block-height";

/// Where a node has its files, core and data node alike.
pub const HOME: &str = "--home";

/// Where the consensus engine has its files.
pub const TENDERMINT_HOME: &str = "--tendermint-home";

/// The value of a flag; it may be empty.
pub fn value_of(arguments: &[String], flag: &str) -> Option<String> {
    Flags::of(arguments).filter(|(name, _)| *name == flag).filter_map(|(_, value)| value).last()
}

/// Whether a flag is given, with or without a value.
pub fn has_flag(arguments: &[String], flag: &str) -> bool {
    Flags::of(arguments).any(|(name, _)| name == flag)
}

/// Core's arguments with the height to begin at, unless they say one themselves.
pub fn with_snapshot_height(arguments: &[String], height: u64) -> Vec<String> {
    let mut with = arguments.to_vec();
    if !has_flag(arguments, SNAPSHOT_HEIGHT) {
        // Behind a `--` nobody would look at it.
        let end = arguments.iter().position(|word| word == "--").unwrap_or(arguments.len());
        with.splice(end..end, [SNAPSHOT_HEIGHT.to_owned(), height.to_string()]);
    }
    with
}

/// Core's home; none is the usual place, `vega` in each of the user's XDG folders.
pub fn core_home(arguments: &[String]) -> Option<PathBuf> {
    home(arguments)
}

/// The data node's home; none is the usual place, which is core's.
pub fn data_node_home(arguments: &[String]) -> Option<PathBuf> {
    home(arguments)
}

/// The consensus engine's home; none is the usual place, `.cometbft` in the user's home. Unlike in the others, core
/// replaces variables in it: `variable` gives their values.
pub fn tendermint_home(arguments: &[String], variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let home = value_of(arguments, TENDERMINT_HOME).filter(|home| !home.is_empty())?;
    Some(PathBuf::from(expanded(&home, variable)))
}

/// What that usual place is. A variable that is not set is nothing, as for core itself.
pub fn usual_tendermint_home(variable: impl Fn(&str) -> Option<String>) -> PathBuf {
    PathBuf::from(expanded("$HOME/.cometbft", variable))
}

fn home(arguments: &[String]) -> Option<PathBuf> {
    value_of(arguments, HOME).filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// The flags among the arguments, each with its value.
struct Flags<'a>(Peekable<slice::Iter<'a, String>>);

impl<'a> Flags<'a> {
    fn of(arguments: &'a [String]) -> Self {
        Self(arguments.iter().peekable())
    }
}

impl<'a> Iterator for Flags<'a> {
    type Item = (&'a str, Option<String>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let word = self.0.next()?;
            if word == "--" {
                return None;
            }
            if !looks_like_flag(word) {
                continue;
            }
            return Some(match word.split_once('=') {
                Some((name, value)) => (name, Some(unquoted(value))),
                // It may also be a flag without a value, and what follows a word of its own: then nobody asks for it.
                None => (word, self.0.peek().filter(|next| is_value(next)).map(|next| unquoted(next))),
            });
        }
    }
}

fn looks_like_flag(word: &str) -> bool {
    let behind = word.strip_prefix("--").or(word.strip_prefix('-'));
    behind.is_some_and(|name| !name.is_empty() && !name.starts_with('-'))
}

fn is_value(word: &str) -> bool {
    word != "--" && !looks_like_flag(word)
}

/// A value in double quotes is taken out of them.
fn unquoted(value: &str) -> String {
    // Go's own escapes are more than JSON's; no path needs them.
    let inner = value.starts_with('"').then(|| serde_json::from_str(value).ok()).flatten();
    inner.unwrap_or_else(|| value.to_owned())
}

/// Replaces `$name` and `${name}`, as a shell does; a variable that is not set by nothing.
fn expanded(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (name, behind) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, behind)) => (name, behind),
            None => {
                let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_';
                rest.split_at(rest.find(|it| !is_part(it)).unwrap_or(rest.len()))
            }
        };
        match name {
            "" if rest.len() == behind.len() => result.push('$'),
            "" => {}
            name => result.push_str(&variable(name).unwrap_or_default()),
        }
        rest = behind;
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_as_core_does() {
        let variable = |name: &str| (name != "UNSET").then(|| format!("<{name}>"));
        for (text, expected) in [
            ("$HOME/x", "<HOME>/x"),
            ("${HOME}x", "<HOME>x"),
            ("$HOMEx", "<HOMEx>"),
            ("$HOME$HOME", "<HOME><HOME>"),
            ("$UNSET/x", "/x"),
            ("$_x", "<_x>"),
            ("${}x", "x"),
            ("$", "$"),
            ("a$", "a$"),
            ("$é", "$é"),
            ("/plain", "/plain"),
            ("", ""),
        ] {
            assert_eq!(expanded(text, variable), expected, "{text}");
        }
    }
}
