//! The secret that gives more rights, and more questions in an hour. It is shown to the API, and to nobody else.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::effects::http::HeaderValue;

/// The longest file that is believed to hold one: the longest tokens have 255 bytes.
const LONGEST: u64 = 4096;

/// Why there is no token although somebody wants one to be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its file cannot be read.
    #[error("the file with GitHub's token, {path}, cannot be read: {source}", path = .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else can read it.
    #[error(
        "the file with GitHub's token, {path}, can be read by others (its mode is {mode:04o}): make it 0600, and the token a new one",
        path = .path.display()
    )]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is something else.
    #[error("what is in {0} is no token of GitHub: one word of letters, digits and marks is expected")]
    NoToken(String),
}

/// A token. It is not printed by any means.
#[derive(Clone)]
pub struct Token(HeaderValue);

impl Token {
    /// The variable that it is looked for in first.
    pub const VARIABLE: &str = "GITHUB_TOKEN";

    /// Looks for it in `$GITHUB_TOKEN`, else in the file, if one is named. An empty one is none.
    pub fn find(variable: impl Fn(&str) -> Option<OsString>, file: Option<&Path>) -> Result<Option<Self>, TokenError> {
        if let Some(text) = variable(Self::VARIABLE).filter(|text| !text.is_empty()) {
            let from = || format!("${}", Self::VARIABLE);
            let text = text.to_str().ok_or_else(|| TokenError::NoToken(from()))?;
            return Self::parse(text).map(Some).ok_or_else(|| TokenError::NoToken(from()));
        }
        let Some(path) = file else { return Ok(None) };
        let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Open { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).map_err(unreadable)?;
        Self::parse(&text).map(Some).ok_or_else(|| TokenError::NoToken(path.display().to_string()))
    }

    /// Takes what may be one.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }

    /// As it is sent.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SECRET: &str = "ghp_0123456789";

    fn nothing(_: &str) -> Option<OsString> {
        None
    }

    fn file(text: &str, mode: u32) -> tempfile::TempPath {
        let file = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn sent(token: &Token) -> String {
        token.header().to_str().unwrap().to_owned()
    }

    #[test]
    fn the_variable_comes_first_and_an_empty_one_is_none() {
        let path = file("from_file\n", 0o600);
        let from = |value: &'static str| Token::find(move |_| Some(value.into()), Some(&path)).unwrap().unwrap();
        assert_eq!(sent(&from(SECRET)), format!("Bearer {SECRET}"));
        assert_eq!(sent(&from("")), "Bearer from_file");
        assert_eq!(sent(&Token::find(nothing, Some(&path)).unwrap().unwrap()), "Bearer from_file");
        assert!(Token::find(nothing, None).unwrap().is_none());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_its_mode() {
        for mode in [0o644, 0o640, 0o604, 0o660, 0o601] {
            let error = Token::find(nothing, Some(&file(SECRET, mode))).unwrap_err();
            assert!(matches!(error, TokenError::Open { mode: found, .. } if found == mode), "{error}");
            assert!(error.to_string().contains(&format!("{mode:04o}")) && !error.to_string().contains(SECRET));
        }
        assert!(Token::find(nothing, Some(&file(SECRET, 0o400))).unwrap().is_some());
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_repeated() {
        for text in ["", "two words", "line\nline", "a\0b", "schlüssel"] {
            let error = Token::find(nothing, Some(&file(text, 0o600))).unwrap_err().to_string();
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
        let odd = Token::find(|_| Some("two words".into()), None).unwrap_err().to_string();
        assert!(odd.contains("$GITHUB_TOKEN") && !odd.contains("two words"), "{odd}");
        assert!(Token::find(nothing, Some(Path::new("/nowhere"))).is_err());
    }

    #[test]
    fn it_is_never_printed() {
        let token = Token::parse(SECRET).unwrap();
        for text in [format!("{token}"), format!("{token:?}"), format!("{:?}", token.header())] {
            assert!(!text.contains(SECRET), "{text}");
        }
    }
}
