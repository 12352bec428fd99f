//! What a fake nym-node tells of itself over HTTP and to whoever has started it: as much as a probe asks for.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::behaviour::{Height, Serves};
use crate::upstream::read_request;

/// So often the height grows.
const BLOCK: Duration = Duration::from_millis(50);

/// Listens, and answers from then on.
pub(super) fn begin(serves: &Serves) {
    let listener = TcpListener::bind(&serves.address).unwrap();
    let (serves, begun) = (serves.clone(), Instant::now());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serves = serves.clone();
            // An error is a peer that left, which it may do at any time.
            std::thread::spawn(move || answer(&stream, &serves, begun).ok());
        }
    });
}

/// `READY=1`, to whoever has said where.
pub(super) fn say_ready() {
    let path = std::env::var_os("NOTIFY_SOCKET").expect("somebody wants to know");
    UnixDatagram::unbound().unwrap().send_to(b"STATUS=at work\nREADY=1\n", path).unwrap();
}

fn answer(stream: &TcpStream, serves: &Serves, begun: Instant) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let request = read_request(&mut reader)?;
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    reader.by_ref().take(length).read_to_end(&mut Vec::new())?;
    let height = match serves.height {
        Height::Hangs => {
            reader.fill_buf()?;
            return Ok(());
        }
        Height::Stands => 7,
        Height::Grows => begun.elapsed().as_millis() / BLOCK.as_millis(),
    };
    let (status, page) = match (request.method.as_str(), request.path.as_str()) {
        ("POST", _) => (200, json!({"jsonrpc": "2.0", "id": 1, "result": {"height": height as u64}})),
        (_, "/status") => (200, json!({"result": {"sync_info": {"latest_block_height": height.to_string()}}})),
        _ => (serves.status, json!({})),
    };
    let (page, mut writer) = (page.to_string(), stream);
    let length = page.len();
    write!(writer, "HTTP/1.1 {status} As Told\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{page}")
}
