//! TOML as Vega's programs read it: a key may be written in any case, and what is not known is passed over.
//!
//! [`Document`] gives the values by the path of their key; everything that is wrong names the file, the line, the key and
//! what would be right. What nobody asked for is found by `unknown`.

mod unknown;

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) use unknown::Unknown;

use super::excerpt;

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is nothing in it, as in the moment in which an editor saves it.
    #[error("cannot read {file}: it is empty")]
    Empty {
        /// Which file it should be.
        file: &'static str,
    },
    /// It is something else, such as an error page that was saved under its name.
    #[error("cannot read {file}: it looks like {looks}, and has to be TOML")]
    Foreign {
        /// Which file it should be.
        file: &'static str,
        /// What it looks like.
        looks: &'static str,
    },
    /// It is not TOML.
    #[error("cannot read {file}: {reason}")]
    Toml {
        /// Which file it should be.
        file: &'static str,
        /// What the TOML reader says.
        reason: String,
    },
    /// Something is missing that cannot be guessed.
    #[error("cannot use {file}: {key} is missing or empty; it has to be {right}")]
    Missing {
        /// Which file.
        file: &'static str,
        /// The key.
        key: &'static str,
        /// What would be right.
        right: &'static str,
    },
    /// A key is written twice, in two spellings.
    #[error("cannot use {file}: {key} stands there twice, in two spellings; one of them has to go")]
    Twice {
        /// Which file.
        file: &'static str,
        /// The key.
        key: String,
    },
    /// A value cannot be used.
    #[error("cannot use {place}: {key} = {value}: {reason}; it has to be {right}")]
    Value {
        /// Which file and line, or which argument.
        place: String,
        /// The key.
        key: String,
        /// What it is set to, as it is written.
        value: String,
        /// Why that is wrong.
        reason: String,
        /// What would be right.
        right: &'static str,
    },
}

/// Something that was understood, but probably not meant so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub(super) String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One file.
pub(super) struct Document<'a> {
    /// What it is called, for people.
    pub(super) file: &'static str,
    text: &'a str,
    root: DeTable<'a>,
    /// Whether it may hold passwords, so that nothing of it is shown.
    secret: bool,
}

/// A value, and the path of its key as the file spells it.
pub(super) struct Found<'d, 'a> {
    pub(super) path: String,
    pub(super) value: &'d Spanned<DeValue<'a>>,
}

impl<'a> Document<'a> {
    /// Reads a file that has no secrets: an error shows the line.
    pub(super) fn parse(file: &'static str, text: &'a str) -> Result<Self, ConfigError> {
        Self::read(file, text, false)
    }

    /// Reads a file that may hold passwords: an error says the line's number only.
    pub(super) fn parse_secret(file: &'static str, text: &'a str) -> Result<Self, ConfigError> {
        Self::read(file, text, true)
    }

    fn read(file: &'static str, text: &'a str, secret: bool) -> Result<Self, ConfigError> {
        match text.trim_start_matches('\u{feff}').trim_start().chars().next() {
            None => return Err(ConfigError::Empty { file }),
            Some('<') => return Err(ConfigError::Foreign { file, looks: "HTML" }),
            Some('{') => return Err(ConfigError::Foreign { file, looks: "JSON" }),
            Some(_) => {}
        }
        let root = DeTable::parse(text).map_err(|error| {
            let reason = match error.span().filter(|_| secret) {
                Some(span) => format!("line {}: it is not TOML", line_of(text, &span)),
                None if secret => "it is not TOML".to_owned(),
                None => error.to_string(),
            };
            ConfigError::Toml { file, reason }
        })?;
        Ok(Self { file, text, root: root.into_inner(), secret })
    }

    /// The value at a path such as `autoInstall.asset.name`.
    pub(super) fn get(&self, path: &str) -> Result<Option<Found<'_, 'a>>, ConfigError> {
        let mut table = &self.root;
        let mut written = String::new();
        let mut parts = path.split('.').peekable();
        while let Some(part) = parts.next() {
            let mut matching = table.iter().filter(|(key, _)| key.get_ref().eq_ignore_ascii_case(part));
            let Some((key, value)) = matching.next() else { return Ok(None) };
            join(&mut written, key.get_ref());
            if matching.next().is_some() {
                return Err(ConfigError::Twice { file: self.file, key: written });
            }
            let found = Found { path: written, value };
            if parts.peek().is_none() {
                return Ok(Some(found));
            }
            table = self.table(&found)?;
            written = found.path;
        }
        Ok(None)
    }

    /// Whether there is such a table.
    pub(super) fn has_table(&self, path: &str) -> Result<bool, ConfigError> {
        self.get(path)?.map(|found| self.table(&found)).transpose().map(|table| table.is_some())
    }

    fn table<'d>(&self, found: &Found<'d, 'a>) -> Result<&'d DeTable<'a>, ConfigError> {
        let right = || self.wrong_kind(found, "a table");
        found.value.get_ref().as_table().ok_or_else(right)
    }

    /// A text; an empty one is given as such.
    pub(super) fn text(&self, path: &str) -> Result<Option<String>, ConfigError> {
        self.read_as(path, "a text in quotes", |value| value.as_str().map(str::to_owned))
    }

    /// A truth value.
    pub(super) fn boolean(&self, path: &str) -> Result<Option<bool>, ConfigError> {
        self.read_as(path, "`true` or `false`, without quotes", DeValue::as_bool)
    }

    /// A whole number between zero and `most`.
    pub(super) fn number(&self, path: &str, most: u64, right: &'static str) -> Result<Option<u64>, ConfigError> {
        let Some(found) = self.get(path)? else { return Ok(None) };
        let Some(integer) = found.value.get_ref().as_integer() else { return Err(self.wrong_kind(&found, right)) };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX);
        match u64::try_from(number) {
            Ok(number) if number <= most => Ok(Some(number)),
            Ok(_) => Err(self.wrong(&found, format!("more than {most} makes no sense"), right)),
            Err(_) if number < 0 => Err(self.wrong(&found, "it is negative", right)),
            Err(_) => Err(self.wrong(&found, "it is too large", right)),
        }
    }

    /// A list of texts.
    pub(super) fn list(&self, path: &str) -> Result<Option<Vec<String>>, ConfigError> {
        self.read_as(path, "a list of texts, such as [\"start\", \"--home\", \"/var/lib/vega\"]", |value| {
            value.as_array()?.iter().map(|element| element.get_ref().as_str().map(str::to_owned)).collect()
        })
    }

    /// The entries of a table whose keys mean nothing to a program, in the order of the file.
    pub(super) fn entries(&self, path: &str) -> Result<Vec<(String, Found<'_, 'a>)>, ConfigError> {
        let Some(found) = self.get(path)? else { return Ok(Vec::new()) };
        let mut entries: Vec<_> = self.table(&found)?.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let entry = |(key, value): (&Spanned<_>, _)| {
            let key: &std::borrow::Cow<'_, str> = key.get_ref();
            (key.to_string(), Found { path: format!("{}.{key:?}", found.path), value })
        };
        Ok(entries.into_iter().map(entry).collect())
    }

    fn read_as<T>(
        &self,
        path: &str,
        right: &'static str,
        read: impl FnOnce(&DeValue<'a>) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(found) = self.get(path)? else { return Ok(None) };
        read(found.value.get_ref()).map(Some).ok_or_else(|| self.wrong_kind(&found, right))
    }

    /// The error for a value that is of another kind than it has to be.
    pub(super) fn wrong_kind(&self, found: &Found<'_, 'a>, right: &'static str) -> ConfigError {
        let kind = match found.value.get_ref() {
            DeValue::String(_) => "it is a text",
            DeValue::Integer(_) => "it is a number",
            DeValue::Float(_) => "it is a number with a fraction",
            DeValue::Boolean(_) => "it is a truth value",
            DeValue::Datetime(_) => "it is a time",
            DeValue::Array(_) => "it is a list, or one of its elements is of another kind",
            DeValue::Table(_) => "it is a table",
        };
        self.wrong(found, kind, right)
    }

    /// The error for a value that cannot be used.
    pub(super) fn wrong(&self, found: &Found<'_, 'a>, reason: impl fmt::Display, right: &'static str) -> ConfigError {
        let span = found.value.span();
        ConfigError::Value {
            place: self.place(&span),
            key: found.path.clone(),
            value: if self.secret { "…".to_owned() } else { excerpt(self.text.get(span).unwrap_or_default()) },
            reason: reason.to_string(),
            right,
        }
    }

    /// The error for the value at a path, which has to be there.
    pub(super) fn wrong_at(&self, path: &str, reason: impl fmt::Display, right: &'static str) -> ConfigError {
        match self.get(path) {
            Ok(Some(found)) => self.wrong(&found, reason, right),
            Ok(None) => ConfigError::Value {
                place: self.file.to_owned(),
                key: path.to_owned(),
                value: "\"\"".to_owned(),
                reason: reason.to_string(),
                right,
            },
            Err(error) => error,
        }
    }

    fn place(&self, span: &Range<usize>) -> String {
        format!("{}, line {}", self.file, line_of(self.text, span))
    }
}

/// The number of the line that something begins in.
fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1
}

/// Puts another key behind a path.
fn join(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}
