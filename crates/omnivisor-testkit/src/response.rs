//! The answers an upstream can give, good and bad, and how each is put on the wire. Who asks for what is in `upstream`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::tls::Wire;
use crate::upstream::Request;

/// What is answered to a request of one path.
#[derive(Clone, Debug)]
pub enum Answer {
    /// 200 (or 206 if a range is asked for) and these bytes.
    Body {
        /// The Content-Type.
        content_type: String,
        /// What is sent.
        bytes: Vec<u8>,
    },
    /// 200 and this document.
    Json(Value),
    /// 200 (or 206 if a range is asked for) and what is in the file at that time.
    File(PathBuf),
    /// This status and these bytes.
    Status(u16, Vec<u8>),
    /// This status, these headers and these bytes.
    Full {
        /// The number.
        status: u16,
        /// Names and values, beside the length.
        headers: Vec<(String, String)>,
        /// What is sent.
        bytes: Vec<u8>,
    },
    /// One or the other, by what a header of the request is. Neither is a sequence.
    When {
        /// The header's name, in any case.
        header: String,
        /// What it has to be; `None`: not there.
        is: Option<String>,
        /// What is answered if it is that.
        then: Box<Answer>,
        /// What is answered if it is not.
        otherwise: Box<Answer>,
    },
    /// 302 to this place.
    Redirect(String),
    /// 302 to itself.
    RedirectLoop,
    /// Promises `of_bytes`, sends `after_bytes` zeros and then nothing more until the server is dropped.
    Stall {
        /// How many are sent.
        after_bytes: u64,
        /// How many are promised.
        of_bytes: u64,
    },
    /// Promises all of `bytes`, sends the first `after` and closes the connection. Ranges are not honoured.
    CutAt {
        /// What is promised.
        bytes: Vec<u8>,
        /// How many are sent.
        after: usize,
    },
    /// A chunked body that does not end before the peer closes.
    Endless,
    /// 200 and these bytes, so many in a second.
    Slow {
        /// What is sent.
        bytes: Vec<u8>,
        /// How fast.
        per_second: u64,
    },
    /// Accepts and never answers.
    Hang,
    /// Something that is not HTTP.
    Garbage,
    /// One after the other; the last one repeats.
    Sequence(Vec<Answer>),
}

impl Answer {
    /// Bytes without a meaning, such as a binary.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Body { content_type: "application/octet-stream".to_owned(), bytes: bytes.into() }
    }

    /// A status with headers and nothing else.
    pub fn with_headers(status: u16, headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self::Full { status, headers, bytes: Vec::new() }
    }

    /// A document with an ETag: who has it already is answered 304.
    pub fn tagged(etag: &str, document: &Value) -> Self {
        let headers = [("Content-Type", "application/json; charset=utf-8"), ("ETag", etag)];
        let whole = Self::with_headers(200, &headers);
        Self::When {
            header: "If-None-Match".to_owned(),
            is: Some(etag.to_owned()),
            then: Box::new(Self::with_headers(304, &headers[1..])),
            otherwise: Box::new(whole.with_bytes(document.to_string())),
        }
    }

    /// The same with other contents, if it has some of its own.
    fn with_bytes(self, bytes: impl Into<Vec<u8>>) -> Self {
        match self {
            Self::Full { status, headers, .. } => Self::Full { status, headers, bytes: bytes.into() },
            other => other,
        }
    }

    /// The answers to give one after the other.
    pub(crate) fn steps(self) -> Vec<Self> {
        match self {
            Self::Sequence(answers) => answers.into_iter().flat_map(Self::steps).collect(),
            single => vec![single],
        }
    }

    /// Puts it on the wire. An error is a peer that went away or a server that stops.
    pub(crate) fn send(&self, request: &Request, wire: &mut Wire, stop: &Stop) -> io::Result<()> {
        match self {
            Self::Body { content_type, bytes } => send_range(wire, request, content_type, &mut io::Cursor::new(bytes)),
            Self::Json(value) => {
                send(wire, "200 OK", &[("Content-Type", "application/json")], &serde_json::to_vec(value)?)
            }
            Self::File(path) => send_file(wire, request, path),
            Self::Status(code, bytes) => {
                send(wire, &format!("{code} As-Told"), &[("Content-Type", "text/plain")], bytes)
            }
            Self::Full { status, headers, bytes } => {
                let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                send(wire, &format!("{status} As-Told"), &headers, bytes)
            }
            Self::When { header, is, then, otherwise } => {
                let answer = if request.header(header) == is.as_deref() { then } else { otherwise };
                answer.send(request, wire, stop)
            }
            Self::Redirect(place) => send(wire, "302 Found", &[("Location", place)], b""),
            Self::RedirectLoop => send(wire, "302 Found", &[("Location", &request.path)], b""),
            Self::Stall { after_bytes, of_bytes } => {
                head(wire, "200 OK", &[], *of_bytes)?;
                io::copy(&mut io::repeat(0).take(*after_bytes), wire)?;
                wire.flush()?;
                wait_for_peer(wire)
            }
            Self::CutAt { bytes, after } => {
                head(wire, "200 OK", &[], bytes.len() as u64)?;
                wire.write_all(&bytes[..*after])?;
                wire.flush()?;
                // Not the end of a TLS session but of the connection.
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Self::Endless => {
                wire.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                let chunk = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
                loop {
                    wire.write_all(&chunk)?;
                }
            }
            Self::Slow { bytes, per_second } => send_slowly(wire, bytes, *per_second, stop),
            Self::Hang => wait_for_peer(wire),
            Self::Garbage => wire.write_all(b"\x16\x00 this is not HTTP \xff\xfe\r\n\r\n"),
            Self::Sequence(_) => unreachable!("a sequence is taken apart when it is served"),
        }
    }
}

/// The page of a path that is not served.
pub(crate) fn send_not_found(wire: &mut Wire) -> io::Result<()> {
    send(
        wire,
        "404 Not Found",
        &[("Content-Type", "text/html")],
        b"<!doctype html><title>404</title><h1>Not Found</h1>\n",
    )
}

/// The page of a server that has too many connections.
pub(crate) fn send_busy(wire: &mut Wire) -> io::Result<()> {
    send(wire, "503 Service Unavailable", &[], b"")
}

fn head(wire: &mut Wire, status: &str, headers: &[(&str, &str)], length: u64) -> io::Result<()> {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    wire.write_all((text + "\r\n").as_bytes())
}

fn send(wire: &mut Wire, status: &str, headers: &[(&str, &str)], bytes: &[u8]) -> io::Result<()> {
    head(wire, status, headers, bytes.len() as u64)?;
    wire.write_all(bytes)
}

fn send_file(wire: &mut Wire, request: &Request, path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(mut file) => send_range(wire, request, "application/octet-stream", &mut file),
        Err(_) => send_not_found(wire),
    }
}

/// All of it, or what `Range: bytes=N-` asks for; other forms of ranges are answered with all of it.
fn send_range(
    wire: &mut Wire,
    request: &Request,
    content_type: &str,
    source: &mut (impl Read + Seek),
) -> io::Result<()> {
    let length = source.seek(SeekFrom::End(0))?;
    let from = request
        .header("range")
        .and_then(|range| range.trim().strip_prefix("bytes=")?.strip_suffix('-')?.parse::<u64>().ok());
    let begin = from.unwrap_or(0);
    if from.is_some() && begin >= length {
        return send(wire, "416 Range Not Satisfiable", &[("Content-Range", &format!("bytes */{length}"))], b"");
    }
    let (status, range) = match from {
        None => ("200 OK", None),
        Some(_) => ("206 Partial Content", Some(format!("bytes {begin}-{}/{length}", length - 1))),
    };
    let mut headers = vec![("Content-Type", content_type), ("Accept-Ranges", "bytes")];
    headers.extend(range.as_deref().map(|range| ("Content-Range", range)));
    head(wire, status, &headers, length - begin)?;
    source.seek(SeekFrom::Start(begin))?;
    // No more than promised, should the file grow meanwhile.
    io::copy(&mut source.take(length - begin), wire).map(|_| ())
}

fn send_slowly(wire: &mut Wire, bytes: &[u8], per_second: u64, stop: &Stop) -> io::Result<()> {
    const STEPS: u64 = 20;
    head(wire, "200 OK", &[("Content-Type", "application/octet-stream")], bytes.len() as u64)?;
    // A rate below the number of steps is a byte at a time, less often.
    let step = (per_second / STEPS).max(1);
    let pause = Duration::from_secs(1).mul_f64(step as f64 / per_second.max(1) as f64);
    for part in bytes.chunks(usize::try_from(step).unwrap()) {
        wire.write_all(part)?;
        wire.flush()?;
        if stop.wait(pause) {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    Ok(())
}

/// Until the peer closes, or the server its socket.
fn wait_for_peer(wire: &mut Wire) -> io::Result<()> {
    let mut sink = [0; 1024];
    while wire.socket().read(&mut sink)? > 0 {}
    Err(io::ErrorKind::ConnectionAborted.into())
}

/// Says that the server stops.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub(crate) fn set(&self) {
        *self.stopped.lock().unwrap() = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.stopped.lock().unwrap()
    }

    /// Waits for it, but no longer than so; says whether it is set.
    fn wait(&self, limit: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap();
        *self.changed.wait_timeout_while(stopped, limit, |stopped| !*stopped).unwrap().0
    }
}
