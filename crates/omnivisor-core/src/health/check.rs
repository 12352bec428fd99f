//! What a node can be looked at for, as data, and what was seen of it.
//!
//! Absent here: looking. The shell does that, and says what it saw; whether that is good enough is said here.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use url::Url;

/// Values from outside are shown up to here.
const SHOWN: usize = 100;

/// One thing that is true of a node that is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// This program, with these arguments, exits with 0; no shell is involved.
    Command(Vec<String>),
    /// A GET is answered.
    Http(HttpCheck),
    /// Somebody accepts connections there.
    Tcp {
        /// A name or an address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// A document says something.
    Json(JsonCheck),
    /// The node has sent `READY=1` to its `NOTIFY_SOCKET`, in this life of it.
    Notify,
}

/// A page that has to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// Its address. Redirects are not followed.
    pub url: Url,
    /// The answers that are good; none for 200 to 299.
    pub status: Vec<u16>,
}

/// A value that a node tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonCheck {
    /// Who is asked.
    pub url: Url,
    /// What is called there by JSON-RPC; without it the document is had by a GET.
    pub call: Option<Call>,
    /// Where the value stands: an RFC 6901 pointer into the `result` of a call, else into the whole document.
    pub pointer: String,
    /// What it has to be.
    pub expected: Expected,
}

/// A method of a JSON-RPC server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub method: String,
    /// Its parameters: a list or an object.
    pub params: Value,
}

/// What a value has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This.
    Equals(Value),
    /// A whole number, or its digits as text (decimal, or hexadecimal after `0x`), that grows.
    Advances {
        /// It may stand still for so long.
        within: Duration,
    },
}

/// What a look has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// That it is so; or, for [`Check::Notify`], nothing: that is told by itself.
    Done,
    /// The status of an answer over HTTP.
    Status(u16),
    /// What stands where the pointer points to.
    Value(Value),
}

/// One look: at what, and what was seen, or why nothing was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// What was looked at.
    pub check: Check,
    /// What was seen, or why it failed.
    pub answer: Result<Answer, String>,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(argv) => f.write_str(&argv.join(" ")),
            Self::Http(HttpCheck { url, .. }) | Self::Json(JsonCheck { url, .. }) => f.write_str(&shown(url)),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Notify => f.write_str("NOTIFY_SOCKET"),
        }
    }
}

impl HttpCheck {
    /// Whether this answer is a good one.
    pub(super) fn judge(&self, status: u16) -> Result<(), String> {
        let (is_good, wanted) = match self.status.as_slice() {
            [] => ((200..300).contains(&status), "200 to 299".to_owned()),
            list => (list.contains(&status), list.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ")),
        };
        if is_good { Ok(()) } else { Err(format!("it answered {status}, and {wanted} is wanted")) }
    }
}

impl JsonCheck {
    /// What is sent; nothing for a GET.
    pub fn request(&self) -> Option<String> {
        let Call { method, params } = self.call.as_ref()?;
        Some(json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string())
    }

    /// The value in this answer; an error if there is none.
    pub fn read(&self, body: &[u8]) -> Result<Value, String> {
        let document: Value =
            serde_json::from_slice(body).map_err(|error| format!("its answer is no JSON: {error}"))?;
        let within = match (&self.call, document.get("error").filter(|error| !error.is_null())) {
            (None, _) => Some(&document),
            (Some(_), Some(error)) => return Err(format!("it answered with the error {}", cut(error))),
            (Some(_), None) => document.get("result"),
        };
        let within = within.ok_or("its answer has neither a result nor an error, and is none of JSON-RPC")?;
        let value = within.pointer(&self.pointer).cloned();
        value.ok_or_else(|| format!("nothing stands at {:?} in its answer", self.pointer))
    }
}

/// A height, or whatever else counts up.
pub(super) fn number(value: &Value) -> Option<u128> {
    match value {
        Value::Number(number) => number.as_u64().map(u128::from),
        Value::String(text) => match text.strip_prefix("0x") {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                u128::from_str_radix(digits, 16).ok()
            }
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

/// A value as it can be shown: not longer than a line.
pub(super) fn cut(value: &Value) -> String {
    let text = value.to_string();
    let shown: String = text.chars().filter(|it| !it.is_control()).take(SHOWN).collect();
    if shown.len() < text.len() { format!("{shown}…") } else { shown }
}

/// An address without what may be secret in it.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if !url.username().is_empty() || url.password().is_some() {
        let _ = url.set_username("");
        let _ = url.set_password(None);
    }
    if url.query().is_some() {
        url.set_query(Some("..."));
    }
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(call: bool, pointer: &str) -> JsonCheck {
        JsonCheck {
            url: Url::parse("http://127.0.0.1:26657/status").unwrap(),
            call: call.then(|| Call { method: "status".to_owned(), params: json!([]) }),
            pointer: pointer.to_owned(),
            expected: Expected::Equals(Value::Bool(false)),
        }
    }

    #[test]
    fn a_pointer_is_into_the_result_of_a_call_and_else_into_the_document() {
        let body = br#"{"jsonrpc":"2.0","id":-1,"result":{"sync_info":{"latest_block_height":"12"}}}"#;
        assert_eq!(check(true, "/sync_info/latest_block_height").read(body), Ok(json!("12")));
        assert_eq!(check(false, "/result/sync_info/latest_block_height").read(body), Ok(json!("12")));
        assert_eq!(check(false, "").read(b"7"), Ok(json!(7)));
        assert_eq!(check(true, "").read(br#"{"result":"0x1b4","error":null}"#), Ok(json!("0x1b4")));
    }

    #[test]
    fn an_answer_without_the_value_is_a_failure_that_says_why() {
        let deep = "[".repeat(100_000);
        for (call, body, why) in [
            (true, r#"{"error":{"code":-32601,"message":"no such method"}}"#, "no such method"),
            (true, r#"{"jsonrpc":"2.0","id":1}"#, "neither a result nor an error"),
            (true, "[]", "neither a result nor an error"),
            (true, r#"{"result":{}}"#, "nothing stands at"),
            (false, r#"{"result":null}"#, "nothing stands at"),
            (false, "", "no JSON"),
            (false, "<html>", "no JSON"),
            (false, "{\"a\":1", "no JSON"),
            (false, "{} {}", "no JSON"),
            (false, "\u{0}", "no JSON"),
            (false, &deep, "no JSON"),
        ] {
            let error = check(call, "/result/height").read(body.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{body:.60}: {error}");
        }
    }

    #[test]
    fn a_height_is_a_whole_number_or_its_digits() {
        for (value, height) in [
            (json!(12), Some(12)),
            (json!("12"), Some(12)),
            (json!("0x1b4"), Some(436)),
            (json!("340282366920938463463374607431768211455"), Some(u128::MAX)),
            (json!("340282366920938463463374607431768211456"), None),
            (json!(1.5), None),
            (json!(-1), None),
            (json!("+1"), None),
            (json!("0x+1"), None),
            (json!("0x"), None),
            (json!(""), None),
            (json!("12 "), None),
            (json!(null), None),
            (json!([12]), None),
        ] {
            assert_eq!(number(&value), height, "{value}");
        }
    }

    #[test]
    fn a_status_has_to_be_one_of_those_that_are_wanted() {
        let check = |status: &[u16]| HttpCheck { url: check(false, "").url, status: status.to_vec() };
        assert_eq!((check(&[]).judge(200), check(&[]).judge(299), check(&[401]).judge(401)), (Ok(()), Ok(()), Ok(())));
        for (list, status) in [(vec![], 199), (vec![], 302), (vec![], 503), (vec![204], 200)] {
            assert!(check(&list).judge(status).unwrap_err().contains("is wanted"), "{list:?} {status}");
        }
    }

    #[test]
    fn no_secret_of_an_address_is_shown_and_no_value_without_an_end() {
        let url = Url::parse("http://me:secret@127.0.0.1/x?token=secret").unwrap();
        let check = Check::Http(HttpCheck { url, status: Vec::new() });
        assert_eq!(check.to_string(), "http://127.0.0.1/x?...");
        assert!(cut(&json!("x".repeat(1000))).chars().count() <= SHOWN + 1);
        assert_eq!(Check::Tcp { host: "::1".to_owned(), port: 80 }.to_string(), "[::1]:80");
    }
}
