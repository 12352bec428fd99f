//! A web server on the loopback that serves what a test tells it to, well or badly. Its answers are in `response`.
//!
//! HTTP/1.1 with one request for each connection; no HEAD, no request bodies, no names but 127.0.0.1 and localhost.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use rustls::ServerConfig;

pub use crate::response::Answer;
use crate::response::{Stop, send_busy, send_not_found};
use crate::tls::{Authority, Wire};

/// More connections than any test has at once; one more is told that the server is busy.
const MOST_CONNECTIONS: usize = 64;

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, usually.
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// What follows the question mark, or nothing.
    pub query: String,
    /// Names and values as sent.
    pub headers: Vec<(String, String)>,
    /// When it came.
    pub at: Instant,
}

impl Request {
    /// The value of a header; the case of the name does not matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    authority: Option<Authority>,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Upstream {
    /// A server without encryption.
    pub fn http() -> Self {
        Self::start(None)
    }

    /// A server with a certificate of an authority of its own, see [`Self::ca_pem_path`].
    pub fn https() -> Self {
        Self::start(Some(Authority::new()))
    }

    fn start(authority: Option<Authority>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let acceptor = std::thread::spawn({
            let (shared, tls) = (shared.clone(), authority.as_ref().map(Authority::config));
            move || shared.accept(&listener, tls)
        });
        Self { address, authority, shared, acceptor: Some(acceptor) }
    }

    /// The address of a path, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// The port it listens at.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The certificate of the authority in a file, for SSL_CERT_FILE. Only an https server has one.
    pub fn ca_pem_path(&self) -> PathBuf {
        self.authority.as_ref().expect("an https server").pem_path()
    }

    /// Answers so from now on to requests of this path.
    pub fn serve(&self, path: &str, answer: Answer) {
        let steps: Vec<_> = answer.steps().into_iter().map(Arc::new).collect();
        assert!(!steps.is_empty(), "an empty sequence answers nothing");
        self.shared.routes.lock().unwrap().insert(path.to_owned(), Route { steps, given: 0 });
    }

    /// Answers 404 from now on to requests of this path.
    pub fn withdraw(&self, path: &str) {
        self.shared.routes.lock().unwrap().remove(path);
    }

    /// Answers so from now on to every request, whatever is served; `None` ends that.
    pub fn serve_instead(&self, answer: Option<Answer>) {
        *self.shared.instead.lock().unwrap() = answer.map(Arc::new);
    }

    /// Answers so from now on to requests of paths that are not served.
    pub fn serve_rest(&self, answer: Answer) {
        *self.shared.rest.lock().unwrap() = Some(Arc::new(answer));
    }

    /// How many requests of this path came, served or not.
    pub fn requests(&self, path: &str) -> usize {
        self.shared.requests.lock().unwrap().iter().filter(|request| request.path == path).count()
    }

    /// The latest request of this path.
    pub fn last_request(&self, path: &str) -> Option<Request> {
        self.shared.requests.lock().unwrap().iter().rfind(|request| request.path == path).cloned()
    }

    /// Every request that came, of whatever path.
    pub fn all_requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stop.set();
        // Wakes the acceptor, which then closes all connections.
        TcpStream::connect(self.address).ok();
        let ended = self.acceptor.take().unwrap().join();
        if !std::thread::panicking() {
            ended.expect("the server did not panic");
        }
    }
}

#[derive(Debug)]
struct Route {
    steps: Vec<Arc<Answer>>,
    given: usize,
}

#[derive(Debug, Default)]
struct Shared {
    routes: Mutex<HashMap<String, Route>>,
    instead: Mutex<Option<Arc<Answer>>>,
    rest: Mutex<Option<Arc<Answer>>>,
    requests: Mutex<Vec<Request>>,
    stop: Stop,
}

impl Shared {
    /// Accepts until stopped, and returns when no thread is left.
    fn accept(self: &Arc<Self>, listener: &TcpListener, tls: Option<Arc<ServerConfig>>) {
        let mut connections: Vec<(TcpStream, JoinHandle<()>)> = Vec::new();
        for socket in listener.incoming() {
            if self.stop.is_set() {
                break;
            }
            let Ok(socket) = socket else { continue };
            connections.retain(|(_, thread)| !thread.is_finished());
            let busy = connections.len() >= MOST_CONNECTIONS;
            let Ok(ours) = socket.try_clone() else { continue };
            let (shared, tls) = (self.clone(), tls.clone());
            let thread = std::thread::spawn(move || {
                let mut wire = Wire::new(socket, tls);
                // An error is a peer that left; clients of these tests do so on purpose.
                if shared.talk(&mut wire, busy).and_then(|()| wire.finish()).is_err() {
                    wire.socket().shutdown(Shutdown::Both).ok();
                }
                wire.socket().shutdown(Shutdown::Write).ok();
            });
            connections.push((ours, thread));
        }
        for (socket, _) in &connections {
            socket.shutdown(Shutdown::Both).ok();
        }
        for (_, thread) in connections {
            thread.join().expect("a connection did not panic");
        }
    }

    fn talk(&self, wire: &mut Wire, busy: bool) -> io::Result<()> {
        let request = read_request(&mut BufReader::new(&mut *wire))?;
        if busy {
            return send_busy(wire);
        }
        let instead = self.instead.lock().unwrap().clone();
        let answer = instead.or_else(|| self.next_step(&request.path)).or_else(|| self.rest.lock().unwrap().clone());
        self.requests.lock().unwrap().push(request.clone());
        match answer {
            Some(answer) => answer.send(&request, wire, &self.stop)?,
            None => send_not_found(wire)?,
        }
        wire.flush()
    }

    fn next_step(&self, path: &str) -> Option<Arc<Answer>> {
        let mut routes = self.routes.lock().unwrap();
        let route = routes.get_mut(path)?;
        let step = route.given.min(route.steps.len() - 1);
        route.given += 1;
        Some(route.steps[step].clone())
    }
}

/// The head of a request; its body, if it has one, is left to be read.
pub(crate) fn read_request(reader: &mut impl BufRead) -> io::Result<Request> {
    let at = Instant::now();
    let mut line = || {
        let mut text = String::new();
        match reader.read_line(&mut text)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ => Ok(text.trim_end().to_owned()),
        }
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request =
        Request { method: method.to_owned(), path: path.to_owned(), query: query.to_owned(), headers: Vec::new(), at };
    loop {
        let text = line()?;
        match text.split_once(':') {
            Some((name, value)) => request.headers.push((name.to_owned(), value.trim().to_owned())),
            None => return Ok(request),
        }
    }
}

#[cfg(test)]
mod tests;
