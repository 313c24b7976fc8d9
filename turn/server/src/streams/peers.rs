//! Connections of peers (RFC 6062).

use std::io::{self, Read};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Registry};
use rustc_hash::FxHashMap;
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};
use zynk_turn_core::{FiveTuple, PeerConnectionKey};

use super::stream::{ReadOutcome, stuck_since, write_out};
use super::{
    PeerRoute, READ_BYTES_PER_TURN, SPLICE_WAITING_MAX, STUCK_TIMEOUT, StreamEvent, Streams, peer_token,
};

/// All connections of peers of one worker.
#[derive(Debug, Default)]
pub(super) struct Peers {
    slab: Slab<Peer>,
    by_key: FxHashMap<PeerConnectionKey, usize>,
    readable: Vec<usize>,
    dirty: Vec<usize>,
}

#[derive(Debug)]
struct Peer {
    socket: TcpStream,
    key: PeerConnectionKey,
    is_connecting: bool,
    /// The client's stream that it is one with; until then nothing is read.
    client: Option<FiveTuple>,
    outbound: Vec<u8>,
    sent: usize,
    stuck_since: Option<Instant>,
    /// To be closed when all has left.
    is_closing: bool,
    /// There is more to read, but the client does not take it.
    is_held: bool,
    is_readable: bool,
    is_dirty: bool,
}

impl Peers {
    pub(super) fn on_event(&mut self, index: usize, event: &mio::event::Event) {
        if event.is_readable() || event.is_error() || event.is_read_closed() {
            self.mark_readable(index);
        }
        if event.is_writable() || event.is_error() {
            self.mark_dirty(index);
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.readable.is_empty()
    }

    /// Reads on after the client took what waited for it.
    pub(super) fn resume(&mut self, key: PeerConnectionKey) {
        if let Some(index) = self.by_key.get(&key).copied()
            && self.slab.get(index).is_some_and(|peer| peer.is_held)
        {
            self.mark_readable(index);
        }
    }

    fn insert(&mut self, registry: &Registry, mut peer: Peer) -> io::Result<()> {
        let entry = self.slab.vacant_entry();
        let index = entry.key();
        registry.register(&mut peer.socket, peer_token(index), Interest::READABLE | Interest::WRITABLE)?;
        self.by_key.insert(peer.key, index);
        entry.insert(peer);
        Ok(())
    }

    fn remove(&mut self, index: usize) -> Option<Peer> {
        let peer = self.slab.try_remove(index)?;
        self.by_key.remove(&peer.key);
        self.readable.retain(|known| *known != index);
        self.dirty.retain(|known| *known != index);
        Some(peer)
    }

    fn mark_readable(&mut self, index: usize) {
        if let Some(peer) = self.slab.get_mut(index)
            && !peer.is_readable
        {
            peer.is_readable = true;
            self.readable.push(index);
        }
    }

    fn mark_dirty(&mut self, index: usize) {
        if let Some(peer) = self.slab.get_mut(index)
            && !peer.is_dirty
        {
            peer.is_dirty = true;
            self.dirty.push(index);
        }
    }
}

impl Peer {
    fn new(socket: TcpStream, key: PeerConnectionKey, is_connecting: bool) -> Self {
        let _ = socket.set_nodelay(true);
        Self {
            socket,
            key,
            is_connecting,
            client: None,
            outbound: Vec::new(),
            sent: 0,
            stuck_since: None,
            is_closing: false,
            is_held: false,
            is_readable: false,
            is_dirty: false,
        }
    }

    fn waiting(&self) -> usize {
        self.outbound.len() - self.sent
    }
}

impl Streams {
    /// Connects from a relay's address.
    pub(crate) fn connect_peer(
        &mut self,
        registry: &Registry,
        key: PeerConnectionKey,
        route: PeerRoute,
    ) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(route.local), Type::STREAM, Some(Protocol::TCP))?;
        // The relay listens at the same address.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&route.local.into())?;
        match socket.connect(&route.peer.into()) {
            Err(error)
                if error.raw_os_error() != Some(EINPROGRESS) && error.kind() != io::ErrorKind::WouldBlock =>
            {
                return Err(error);
            }
            _ => {}
        }
        self.peers.insert(registry, Peer::new(TcpStream::from_std(socket.into()), key, true))
    }

    /// Keeps a connection that a peer made.
    pub(crate) fn adopt_peer(
        &mut self,
        registry: &Registry,
        key: PeerConnectionKey,
        socket: TcpStream,
    ) -> io::Result<()> {
        self.peers.insert(registry, Peer::new(socket, key, false))
    }

    /// Makes a client's stream and a peer's connection one.
    pub(crate) fn splice(&mut self, five_tuple: FiveTuple, key: PeerConnectionKey) {
        let stream = self.by_tuple.get(&five_tuple).and_then(|key| self.slab.get_mut(*key));
        let index = self.peers.by_key.get(&key).copied();
        let (Some(stream), Some(index)) = (stream, index) else { return };
        stream.peer = Some(key);
        let early = stream.take_inbound();
        if let Some(peer) = self.peers.slab.get_mut(index) {
            peer.client = Some(five_tuple);
            peer.outbound.extend_from_slice(&early);
        }
        self.peers.mark_readable(index);
        self.peers.mark_dirty(index);
    }

    /// Closes a peer's connection when what waits for it has left.
    pub(crate) fn close_peer(&mut self, key: PeerConnectionKey) {
        let Some(index) = self.peers.by_key.get(&key).copied() else { return };
        if let Some(peer) = self.peers.slab.get_mut(index) {
            peer.is_closing = true;
            peer.client = None;
        }
        self.peers.mark_dirty(index);
    }

    /// Reads from a client's stream what goes through to its peer.
    pub(super) fn read_spliced(&mut self, key: usize) {
        let Some(stream) = self.slab.get_mut(key) else { return };
        if stream.is_closing {
            // The peer has gone; what it said before is still on its way, and what comes is nobody's.
            let outcome = stream.read(&mut self.chunk, READ_BYTES_PER_TURN);
            let _ = stream.take_inbound();
            if outcome == ReadOutcome::More {
                self.mark_readable(key);
            }
            return;
        }
        let index = stream.peer.and_then(|peer| self.peers.by_key.get(&peer).copied());
        let Some((index, peer)) = index.and_then(|index| Some((index, self.peers.slab.get_mut(index)?)))
        else {
            return self.close(key);
        };
        if peer.waiting() >= SPLICE_WAITING_MAX {
            // Read on when the peer has taken something: see `flush_peers`.
            stream.is_held = true;
            return;
        }
        let outcome = stream.read(&mut self.chunk, READ_BYTES_PER_TURN);
        peer.outbound.extend_from_slice(&stream.take_inbound());
        self.peers.mark_dirty(index);
        match outcome {
            ReadOutcome::More => self.mark_readable(key),
            ReadOutcome::Drained => {}
            ReadOutcome::Closed | ReadOutcome::Invalid => {
                if let Some(peer) = self.peers.slab.get_mut(index) {
                    peer.is_closing = true;
                }
                self.close(key);
            }
        }
    }

    pub(super) fn read_peers(&mut self, on_event: &mut impl FnMut(StreamEvent<'_>)) {
        for index in std::mem::take(&mut self.peers.readable) {
            let Some(peer) = self.peers.slab.get_mut(index) else { continue };
            peer.is_readable = false;
            // Before the connection is spliced, what the peer says waits in the kernel.
            let Some(client) = peer.client else { continue };
            let stream_key = self.by_tuple.get(&client).copied();
            let Some((stream_key, stream)) = stream_key.and_then(|key| Some((key, self.slab.get_mut(key)?)))
            else {
                continue;
            };
            if stream.waiting() >= SPLICE_WAITING_MAX {
                peer.is_held = true;
                continue;
            }
            peer.is_held = false;
            let mut again = true;
            let ended = match peer.socket.read(&mut self.chunk) {
                Ok(0) => true,
                Ok(count) => {
                    stream.push(self.chunk.get(..count).unwrap_or_default());
                    false
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    again = false;
                    false
                }
                Err(error) => error.kind() != io::ErrorKind::Interrupted,
            };
            if ended {
                let key = peer.key;
                stream.is_closing = true;
                self.peers.remove(index);
                on_event(StreamEvent::PeerClosed { connection: key });
            } else if again {
                self.peers.mark_readable(index);
            }
            self.mark_dirty(stream_key);
        }
        self.finish_connecting(on_event);
    }

    /// Tells of connections that are there, or failed.
    fn finish_connecting(&mut self, on_event: &mut impl FnMut(StreamEvent<'_>)) {
        let ready: Vec<usize> = self
            .peers
            .dirty
            .iter()
            .copied()
            .filter(|index| self.peers.slab.get(*index).is_some_and(|peer| peer.is_connecting))
            .collect();
        for index in ready {
            let Some(peer) = self.peers.slab.get_mut(index) else { continue };
            let failed = !matches!(peer.socket.take_error(), Ok(None));
            let key = peer.key;
            if failed {
                self.peers.remove(index);
                on_event(StreamEvent::PeerClosed { connection: key });
            } else if peer.socket.peer_addr().is_ok() {
                peer.is_connecting = false;
                on_event(StreamEvent::PeerConnected { connection: key });
            }
        }
    }

    /// Closes peers' connections that take nothing for too long.
    pub(super) fn expire_peers(&mut self, now: Instant) {
        let is_stuck = |peer: &Peer| {
            peer.stuck_since.is_some_and(|since| now.saturating_duration_since(since) >= STUCK_TIMEOUT)
        };
        let over: Vec<_> =
            self.peers.slab.iter().filter(|(_, peer)| is_stuck(peer)).map(|(index, _)| index).collect();
        for index in over {
            let client = self.peers.remove(index).and_then(|peer| peer.client);
            // The client's stream ends with it, and with that the core hears of it.
            if let Some(key) = client.and_then(|client| self.by_tuple.get(&client).copied()) {
                self.close(key);
            }
        }
    }

    pub(super) fn flush_peers(&mut self, now: Instant) {
        for index in std::mem::take(&mut self.peers.dirty) {
            let Some(peer) = self.peers.slab.get_mut(index) else { continue };
            peer.is_dirty = false;
            if peer.is_connecting {
                if peer.is_closing {
                    self.peers.remove(index);
                }
                continue;
            }
            let before = peer.waiting();
            let result = write_out(&mut peer.socket, &peer.outbound, &mut peer.sent);
            if peer.sent == peer.outbound.len() {
                peer.outbound = Vec::new();
                peer.sent = 0;
            } else if peer.sent > 64 * 1024 {
                peer.outbound.drain(..peer.sent);
                peer.sent = 0;
            }
            let waiting = peer.waiting();
            peer.stuck_since = stuck_since(peer.stuck_since, before, waiting, waiting == 0, now);
            let client = peer.client;
            let failed = result.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
            if failed || (peer.is_closing && waiting == 0) {
                self.peers.remove(index);
                // A client whose stream is held would never hear of it; one that is read finds no peer, and is closed.
                if let Some(key) = client.and_then(|client| self.by_tuple.get(&client).copied()) {
                    self.mark_readable(key);
                }
            } else if waiting < SPLICE_WAITING_MAX
                && let Some(key) = client.and_then(|client| self.by_tuple.get(&client).copied())
                && let Some(stream) = self.slab.get_mut(key)
                && std::mem::take(&mut stream.is_held)
            {
                self.mark_readable(key);
            }
        }
    }
}

/// The kernel's word for a connection in the making.
const EINPROGRESS: i32 = 115;

/// Takes a connection that waits at a relay's listener.
pub(crate) fn accept(listener: &mio::net::TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, peer) = listener.accept()?;
    Ok((socket, SocketAddr::new(peer.ip().to_canonical(), peer.port())))
}
