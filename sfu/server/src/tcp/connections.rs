//! A worker's ICE-TCP connections.

use std::{
    collections::HashMap,
    io::{self, Read},
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::{Interest, Registry, Token, event::Event, net::TcpStream};
use slab::Slab;

use super::{
    AcceptedSocket, ConnectionPermit,
    framing::{FrameReader, FrameWriter},
};

/// A connection on which nothing arrived for so long is closed. Clients check their consent every 5 s
/// (RFC 7675, section 5.1) and give up after 30 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection that was never answered for so long is closed. The core answers nobody who is not
/// authenticated, so this one is nobody's.
const UNPROVED_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that took no byte for so long while some waited is closed: its client is gone, or so slow
/// that a new connection serves it better.
const STUCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The kernel's send buffer of one connection. Left to itself it grows to seconds of video, which would
/// arrive late instead of being dropped.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// Bytes read from one connection in one turn, so that one does not starve the others.
const READ_BYTES_PER_TURN: usize = 64 * 1024;

/// Counters and sizes of a worker's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionsStats {
    /// Connections now.
    pub(crate) connections: u64,
    /// Frames that found their connection's buffer full, or no connection.
    pub(crate) frames_dropped: u64,
    /// Connections that the client ended, or that failed.
    pub(crate) closed_by_client: u64,
    /// Connections closed for being silent, never answered, or stuck.
    pub(crate) closed_idle: u64,
    /// Connections closed for sending a frame over the bound.
    pub(crate) closed_invalid: u64,
}

/// All connections of one worker.
#[derive(Debug)]
pub(crate) struct Connections {
    slab: Slab<Connection>,
    by_source: HashMap<SocketAddr, usize>,
    /// Tokens from here on belong to connections.
    first_token: usize,
    /// Connections that may have more to read. Polls report them once only.
    readable: Vec<usize>,
    /// Connections with something to write that may take it.
    writable: Vec<usize>,
    /// Sources whose connection ended since the last [`Connections::next_closed`]. Bounded by the number of
    /// connections: a source is in it once for each connection that it had.
    closed: Vec<SocketAddr>,
    /// What one read returned.
    chunk: Vec<u8>,
    stats: ConnectionsStats,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    source: SocketAddr,
    /// Our end, as announced.
    destination: SocketAddr,
    reader: FrameReader,
    /// Bytes the acceptor read.
    received: Vec<u8>,
    writer: FrameWriter,
    received_at: Instant,
    adopted_at: Instant,
    /// The core has sent something: the client is authenticated.
    proved: bool,
    /// Since when bytes wait and none is taken.
    stuck_since: Option<Instant>,
    in_readable: bool,
    in_writable: bool,
    _permit: ConnectionPermit,
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug)]
enum Close {
    ByClient,
    Idle,
    Invalid,
}

impl Connections {
    pub(crate) fn new(first_token: usize) -> Self {
        Self {
            slab: Slab::new(),
            by_source: HashMap::new(),
            first_token,
            readable: Vec::new(),
            writable: Vec::new(),
            closed: Vec::new(),
            chunk: vec![0; READ_BYTES_PER_TURN],
            stats: ConnectionsStats::default(),
        }
    }

    /// Takes a socket over from the acceptor. `destination` is our end of it, as announced. A connection
    /// that had the same source before is dead, whether we heard of it or not.
    pub(crate) fn adopt(
        &mut self,
        registry: &Registry,
        socket: AcceptedSocket,
        destination: SocketAddr,
        now: Instant,
    ) -> io::Result<()> {
        if let Some(&old) = self.by_source.get(&socket.source) {
            self.close(old, Close::ByClient);
        }
        socket.stream.set_nodelay(true)?;
        socket2::SockRef::from(&socket.stream).set_send_buffer_size(SEND_BUFFER_BYTES)?;
        let mut stream = TcpStream::from_std(socket.stream);
        let entry = self.slab.vacant_entry();
        let key = entry.key();
        let token = Token(self.first_token + key);
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        entry.insert(Connection {
            stream,
            source: socket.source,
            destination,
            reader: FrameReader::default(),
            received: socket.received,
            writer: FrameWriter::default(),
            received_at: now,
            adopted_at: now,
            proved: false,
            stuck_since: None,
            in_readable: true,
            in_writable: false,
            _permit: socket.permit,
        });
        self.by_source.insert(socket.source, key);
        // The acceptor took the poll's report of the first bytes.
        self.readable.push(key);
        Ok(())
    }

    /// Notes what a poll reported.
    pub(crate) fn on_event(&mut self, event: &Event) {
        let Some(key) = event.token().0.checked_sub(self.first_token) else { return };
        let Some(connection) = self.slab.get_mut(key) else { return };
        if (event.is_readable() || event.is_error()) && !connection.in_readable {
            connection.in_readable = true;
            self.readable.push(key);
        }
        if event.is_writable() && !connection.in_writable && connection.writer.pending() > 0 {
            connection.in_writable = true;
            self.writable.push(key);
        }
    }

    /// Whether a turn left bytes unread.
    pub(crate) fn is_readable(&self) -> bool {
        !self.readable.is_empty()
    }

    /// Reads from each connection that has something, and hands out whole frames: source, our end of it,
    /// and the packet.
    pub(crate) fn read(&mut self, now: Instant, mut on_frame: impl FnMut(SocketAddr, SocketAddr, &[u8])) {
        for key in std::mem::take(&mut self.readable) {
            let Some(connection) = self.slab.get_mut(key) else { continue };
            connection.in_readable = false;
            match connection.read(&mut self.chunk, now, &mut on_frame) {
                Ok(true) => {
                    connection.in_readable = true;
                    self.readable.push(key);
                }
                Ok(false) => {}
                Err(reason) => self.close(key, reason),
            }
        }
    }

    /// Queues a packet for the connection from `destination`. Dropped and counted if there is none, or if
    /// its buffer is full.
    pub(crate) fn send(&mut self, destination: SocketAddr, packet: &[u8]) {
        let key = self.by_source.get(&destination).copied();
        let taken =
            key.and_then(|key| Some((key, self.slab.get_mut(key)?))).is_some_and(|(key, connection)| {
                connection.proved = true;
                let taken = connection.writer.push(packet);
                if !connection.in_writable && connection.stuck_since.is_none() {
                    connection.in_writable = true;
                    self.writable.push(key);
                }
                taken
            });
        if !taken {
            self.stats.frames_dropped += 1;
        }
    }

    /// Writes what connections take.
    pub(crate) fn flush(&mut self, now: Instant) {
        for key in std::mem::take(&mut self.writable) {
            let Some(connection) = self.slab.get_mut(key) else { continue };
            connection.in_writable = false;
            match connection.writer.flush(&mut connection.stream) {
                Ok(written) => {
                    connection.stuck_since = match (connection.writer.pending(), connection.stuck_since) {
                        (0, _) => None,
                        (_, Some(since)) if written == 0 => Some(since),
                        _ => Some(now),
                    };
                }
                Err(_) => self.close(key, Close::ByClient),
            }
        }
    }

    /// Closes what is idle, unproved or stuck. Cheap enough for once a second.
    pub(crate) fn expire(&mut self, now: Instant) {
        let expired: Vec<usize> = self
            .slab
            .iter()
            .filter(|(_, connection)| connection.is_expired(now))
            .map(|(key, _)| key)
            .collect();
        for key in expired {
            self.close(key, Close::Idle);
        }
    }

    /// The source of a connection that ended, once each.
    pub(crate) fn next_closed(&mut self) -> Option<SocketAddr> {
        self.closed.pop()
    }

    pub(crate) fn stats(&self) -> ConnectionsStats {
        ConnectionsStats { connections: self.slab.len() as u64, ..self.stats }
    }

    fn close(&mut self, key: usize, reason: Close) {
        let Some(connection) = self.slab.try_remove(key) else { return };
        self.by_source.remove(&connection.source);
        self.closed.push(connection.source);
        // The poll forgets the socket when it is closed. A key that is taken again may meet its old place
        // in these lists: it must not be read or written twice, nor missed.
        self.readable.retain(|readable| *readable != key);
        self.writable.retain(|writable| *writable != key);
        match reason {
            Close::ByClient => self.stats.closed_by_client += 1,
            Close::Idle => self.stats.closed_idle += 1,
            Close::Invalid => self.stats.closed_invalid += 1,
        }
    }
}

impl Connection {
    /// Reads once. Returns whether more may be there.
    fn read(
        &mut self,
        chunk: &mut [u8],
        now: Instant,
        on_frame: &mut impl FnMut(SocketAddr, SocketAddr, &[u8]),
    ) -> Result<bool, Close> {
        let (source, destination) = (self.source, self.destination);
        let mut on_frame = |frame: &[u8]| on_frame(source, destination, frame);
        if !self.received.is_empty() {
            let received = std::mem::take(&mut self.received);
            self.reader.feed(&received, &mut on_frame).map_err(|_| Close::Invalid)?;
        }
        loop {
            match self.stream.read(chunk) {
                Ok(0) => return Err(Close::ByClient),
                Ok(len) => {
                    self.received_at = now;
                    let bytes = chunk.get(..len).unwrap_or_default();
                    self.reader.feed(bytes, &mut on_frame).map_err(|_| Close::Invalid)?;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(_) => return Err(Close::ByClient),
            }
        }
    }

    fn is_expired(&self, now: Instant) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        since(self.received_at) >= IDLE_TIMEOUT
            || (!self.proved && since(self.adopted_at) >= UNPROVED_TIMEOUT)
            || self.stuck_since.is_some_and(|at| since(at) >= STUCK_TIMEOUT)
    }
}

#[cfg(test)]
mod tests;
