//! ICE-TCP, passive side (RFC 6544): clients whose network drops UDP connect here.
//!
//! ```text
//!   client ──► acceptor thread: first frame (a STUN request whose user fragment names the worker)
//!                  │ socket and bytes
//!                  ▼
//!              worker thread: frames in and out, until the socket falls silent
//! ```

mod acceptor;
mod budget;
mod connections;
mod framing;

pub(crate) use acceptor::{Acceptor, AcceptorConfig, AcceptorStats, SocketSender};
pub(crate) use budget::ConnectionPermit;
pub(crate) use connections::{Connections, ConnectionsStats};

use std::net::SocketAddr;

/// A socket that named its worker.
#[derive(Debug)]
pub(crate) struct AcceptedSocket {
    pub(crate) stream: std::net::TcpStream,
    pub(crate) source: SocketAddr,
    /// Everything read so far, from the first frame's length on.
    pub(crate) received: Vec<u8>,
    /// Held as long as the connection lives.
    pub(crate) permit: ConnectionPermit,
}
