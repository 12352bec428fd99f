//! As much of an HTTP/1.1 server as Go's answers to a supervisor show: one connection, one request after the other. No
//! chunked bodies, no HTTP/1.0, no pages longer than memory.

use std::io::{self, BufRead, BufReader, Read, Write};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::upstream::{Request, read_request};

/// More than any request of a supervisor has.
const LONGEST_BODY: usize = 1 << 20;

/// What is answered to a request.
pub(super) enum Reply {
    /// In form.
    Http(Response),
    /// These bytes, and no more.
    Raw(&'static [u8]),
    /// A page that begins so and does not end.
    Endless(&'static [u8]),
    /// Nothing, for as long as the peer waits.
    Hang,
    /// Nothing, and the connection is closed.
    HangUp,
}

/// A page with its head.
#[derive(Debug, PartialEq)]
pub(super) struct Response {
    pub(super) status: &'static str,
    pub(super) content_type: Option<&'static str>,
    pub(super) nosniff: bool,
    pub(super) body: String,
}

impl Response {
    /// 200 and this document.
    pub(super) fn json(body: &str) -> Self {
        Self { status: "200 OK", content_type: Some("application/json"), nosniff: false, body: body.to_owned() }
    }

    /// An error and what is to say of it.
    pub(super) fn text(status: &'static str, body: impl Into<String>) -> Self {
        Self { status, content_type: Some("text/plain; charset=utf-8"), nosniff: false, body: body.into() }
    }

    /// What Go says of a path that it does not serve.
    pub(super) fn not_found() -> Self {
        Self { nosniff: true, ..Self::text("404 Not Found", "404 page not found\n") }
    }

    /// All of it, with the headers in the order in which Go writes them.
    fn to_wire(&self, request: &Request, closes: bool) -> String {
        let mut text = format!("HTTP/1.1 {}\r\n", self.status);
        if let Some(content_type) = self.content_type {
            text += &format!("Content-Type: {content_type}\r\n");
        }
        if self.nosniff {
            text += "X-Content-Type-Options: nosniff\r\n";
        }
        let now = OffsetDateTime::now_utc().format(&Rfc2822).unwrap().replace("+0000", "GMT");
        text += &format!("Date: {now}\r\nContent-Length: {}\r\n", self.body.len());
        text += if closes { "Connection: close\r\n\r\n" } else { "\r\n" };
        text + if request.method == "HEAD" { "" } else { &self.body }
    }
}

/// Answers the requests of one connection until it ends, one way or the other.
pub(super) fn talk<S>(stream: &S, answer: impl Fn(&Request, &[u8]) -> Reply)
where
    for<'a> &'a S: Read + Write,
{
    // An error is a peer that left; supervisors may do so at any time.
    converse(stream, answer).ok();
}

fn converse<S>(stream: &S, answer: impl Fn(&Request, &[u8]) -> Reply) -> io::Result<()>
where
    for<'a> &'a S: Read + Write,
{
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    while !reader.fill_buf()?.is_empty() {
        let request = match read_request(&mut reader) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return writer.write_all(refusal("400 Bad Request").as_bytes());
            }
            other => other?,
        };
        if request.header("host").is_none() {
            return writer.write_all(refusal("400 Bad Request: missing required Host header").as_bytes());
        }
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; LONGEST_BODY.min(length)];
        reader.read_exact(&mut body)?;
        match answer(&request, &body) {
            Reply::Http(response) => {
                let closes = request.header("connection").is_some_and(|word| word.eq_ignore_ascii_case("close"));
                writer.write_all(response.to_wire(&request, closes).as_bytes())?;
                if closes {
                    return Ok(());
                }
            }
            Reply::Raw(bytes) => return writer.write_all(bytes),
            Reply::Endless(begin) => {
                writer.write_all(begin)?;
                loop {
                    writer.write_all(&[b'a'; 64 * 1024])?;
                }
            }
            Reply::Hang => {
                io::copy(&mut reader, &mut io::sink())?;
            }
            Reply::HangUp => return Ok(()),
        }
    }
    Ok(())
}

/// What Go says of what is no request, after which it hangs up.
fn refusal(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n{status}")
}
