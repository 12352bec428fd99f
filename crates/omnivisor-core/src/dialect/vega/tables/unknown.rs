//! What a file has too much, and what was probably meant.

use toml::de::{DeTable, DeValue};

use super::{Document, Warning, excerpt, join};

/// A key that nobody asks for.
pub(in crate::dialect::vega) struct Unknown<'d, 'a> {
    /// Its path, as it is written.
    pub(in crate::dialect::vega) path: String,
    /// Where it is: file and line.
    pub(in crate::dialect::vega) place: String,
    /// What it is set to.
    pub(in crate::dialect::vega) value: &'d DeValue<'a>,
}

impl Unknown<'_, '_> {
    /// A warning that it is ignored, and what to do instead.
    pub(in crate::dialect::vega) fn ignored(&self, instead: &str) -> Warning {
        Warning(format!("{}: {} is ignored: {instead}", self.place, excerpt(&self.path)))
    }

    /// A warning that says which of these keys was meant, as far as that can be told.
    pub(in crate::dialect::vega) fn misspelt(&self, known: &[&str]) -> Warning {
        match meant(&self.path, known) {
            Some(Meant::Elsewhere(path)) => match path.rsplit_once('.') {
                Some((table, key)) => self.ignored(&format!("{key} belongs into [{table}]")),
                None => self.ignored(&format!("{path} belongs above the first [table]")),
            },
            Some(Meant::Spelt(path)) => self.ignored(&format!("no setting has this name; write {path}")),
            None => self.ignored("no setting has this name"),
        }
    }
}

impl<'a> Document<'a> {
    /// The keys that none of these paths leads to, in the order of the file. What is in one of the `free` tables may be
    /// called as it likes. Below an unknown table nothing more is named.
    pub(in crate::dialect::vega) fn unknown(&self, known: &[&str], free: &[&str]) -> Vec<Unknown<'_, 'a>> {
        let mut found = Vec::new();
        self.collect(&self.root, &mut String::new(), known, free, &mut found);
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().map(|(_, unknown)| unknown).collect()
    }

    fn collect<'d>(
        &'d self,
        table: &'d DeTable<'a>,
        path: &mut String,
        known: &[&str],
        free: &[&str],
        found: &mut Vec<(usize, Unknown<'d, 'a>)>,
    ) {
        let length = path.len();
        for (key, value) in table {
            join(path, key.get_ref());
            let leads = |to: &&str| {
                let begin = to.get(..path.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(path));
                begin && matches!(to.as_bytes().get(path.len()), None | Some(b'.'))
            };
            // A quoted key with a dot is no path.
            if key.get_ref().contains('.') || !known.iter().chain(free).any(leads) {
                let span = key.span();
                let unknown = Unknown { path: path.clone(), place: self.place(&span), value: value.get_ref() };
                found.push((span.start, unknown));
            } else if let Some(inner) = value.get_ref().as_table()
                && !free.iter().any(|table| table.eq_ignore_ascii_case(path))
            {
                self.collect(inner, path, known, free, found);
            }
            path.truncate(length);
        }
    }
}

#[derive(Debug, PartialEq)]
enum Meant<'k> {
    /// This is its name, but it is in the wrong table.
    Elsewhere(&'k str),
    /// It is spelt like this one.
    Spelt(&'k str),
}

fn meant<'k>(path: &str, known: &[&'k str]) -> Option<Meant<'k>> {
    let (table, name) = split(path);
    let tables = known.iter().flat_map(|path| path.match_indices('.').map(|(at, _)| &path[..at]));
    let candidates: Vec<&'k str> = known.iter().copied().chain(tables).collect();
    if let Some(path) = candidates.iter().find(|candidate| split(candidate).1.eq_ignore_ascii_case(name)) {
        return Some(Meant::Elsewhere(path));
    }
    let name = name.to_lowercase();
    let distance = |candidate: &&'k str| {
        let (beside, other) = split(candidate);
        let letters = strsim::osa_distance(&name, &other.to_lowercase());
        // Less than half of it may be wrong.
        let close = letters * 2 < name.chars().count().max(other.chars().count());
        close.then_some((!beside.eq_ignore_ascii_case(table), letters))
    };
    let nearest = candidates.into_iter().filter_map(|candidate| Some((distance(&candidate)?, candidate))).min();
    nearest.map(|(_, path)| Meant::Spelt(path))
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_meant_and_one_of_the_same_table_first() {
        let known = ["restarts", "restartsDelay", "auto.enabled", "auto.asset.name", "auto.asset.binaryName"];
        for (path, expected) in [
            ("restart", Some(Meant::Spelt("restarts"))),
            ("RESTARTS_DELAY", Some(Meant::Spelt("restartsDelay"))),
            ("auto.enabeld", Some(Meant::Spelt("auto.enabled"))),
            ("auto.assets", Some(Meant::Spelt("auto.asset"))),
            ("auto.asset.binary_name", Some(Meant::Spelt("auto.asset.binaryName"))),
            ("auto.name", Some(Meant::Elsewhere("auto.asset.name"))),
            ("asset", Some(Meant::Elsewhere("auto.asset"))),
            ("auto.restarts", Some(Meant::Elsewhere("restarts"))),
            ("mode", None),
            ("", None),
            ("x.", None),
        ] {
            assert_eq!(meant(path, &known), expected, "{path}");
        }
    }
}
