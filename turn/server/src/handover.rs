//! TURN over TLS on a port that is somebody else's: who accepts there hands connections over.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::commands::WorkerDoor;
use crate::server::TurnError;

/// The name of TURN in ALPN (RFC 7443).
pub const TURN_ALPN: &[u8] = b"stun.turn";

/// A client's connection, with its TLS handshake done.
#[derive(Debug)]
pub struct TlsClient {
    /// The connection; must not block.
    pub socket: TcpStream,
    /// The session.
    pub tls: rustls::ServerConnection,
    /// What came already, in the clear.
    pub received: Vec<u8>,
    /// Whose it is, as limits and logs count.
    pub client: SocketAddr,
}

/// Takes connections that others accepted. Clones share it, and do not keep the relay alive.
#[derive(Clone, Debug)]
pub struct TlsDoor {
    workers: Arc<[WorkerDoor]>,
    next: Arc<AtomicUsize>,
}

impl TlsDoor {
    pub(crate) fn new(workers: &[WorkerDoor]) -> Self {
        Self { workers: workers.into(), next: Arc::default() }
    }

    /// Hands a connection to a worker, where it counts against the same limits as those that the relay accepts itself. Fails,
    /// and closes it, if too many wait.
    pub fn hand_over(&self, client: TlsClient) -> Result<(), TurnError> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let worker = self.workers.get(next % self.workers.len().max(1)).ok_or(TurnError::Busy)?;
        worker.hand_over(client)
    }
}

/// Whether a connection that begins like this speaks TURN and not HTTP; none if it takes more to tell.
///
/// STUN begins with two bits that are 0 (RFC 8489, section 5), as no letter does. ChannelData begins with 0x40 to 0x7f
/// (RFC 8656, section 12.4), as methods of HTTP do; but its third byte is the high one of a length, where a letter would
/// be more than any datagram holds.
pub fn is_turn(first_bytes: &[u8]) -> Option<bool> {
    match first_bytes {
        [0..=0x3f, ..] => Some(true),
        [0x40..=0x7f, _, third, ..] => Some(!third.is_ascii_alphabetic()),
        [0x40..=0x7f, ..] | [] => None,
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turn_is_told_from_http() {
        for method in
            ["GET /", "POST /", "PUT /", "OPTIONS *", "HEAD /", "DELETE /", "PATCH /", "PRI * HTTP/2.0"]
        {
            assert_eq!(is_turn(method.as_bytes()), Some(false), "{method}");
            assert_eq!(is_turn(&method.as_bytes()[..2]), None);
        }
        let allocate = [0, 3, 0, 8, 0x21, 0x12, 0xa4, 0x42];
        let channel_data = [0x40, 0, 4, 0xb0, 0x80];
        let old_channel_data = [0x7f, 0xff, 0, 2, 1, 2];
        for turn in [&allocate[..], &channel_data, &old_channel_data] {
            assert_eq!(is_turn(turn), Some(true), "{turn:?}");
        }
        assert_eq!(is_turn(&[]), None);
        assert_eq!(is_turn(&allocate[..1]), Some(true));
        assert_eq!(is_turn(&[0x80, 1, 2, 3]), Some(false), "what is neither is the HTTP server's to refuse");
    }
}
