//! See whether somebody accepts connections.

use std::time::Duration;

use omnivisor_core::health::Answer;
use tokio::net::TcpStream;

/// Connects, and hangs up without a word.
pub(super) async fn look(host: &str, port: u16, timeout: Duration) -> Result<Answer, String> {
    let connect = tokio::time::timeout(timeout, TcpStream::connect((host, port))).await;
    let slow = |_| format!("no connection within {}", humantime::format_duration(timeout));
    let stream = connect.map_err(slow)?.map_err(|error| error.to_string())?;
    // A port of this machine that nobody listens on may be the very one that the connection was given: then it is its own peer.
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(own), Ok(peer)) if own == peer => Err("nobody listens there".to_owned()),
        _ => Ok(Answer::Done),
    }
}
