//! How streams begin: accepted here, or handed over by who accepted them.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Registry};
use zynk_net::{ProxyHeaderReader, is_trusted_balancer};
use zynk_turn_core::{FiveTuple, Transport};

use super::stream::{HeaderOutcome, Stream};
use super::{Streams, source_key};
use crate::handover::TlsClient;
use crate::tokens::{self, Kind};

/// Streams accepted in one turn, so that others are served too.
const ACCEPTS_PER_TURN: usize = 64;

impl Streams {
    /// Accepts what came.
    pub(crate) fn accept(&mut self, registry: &Registry, now: Instant) {
        for at in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                let Some(listener) = self.listeners.get_mut(at) else { break };
                if !listener.acceptable {
                    break;
                }
                match listener.listener.accept() {
                    Ok((socket, client)) => {
                        let transport = listener.transport;
                        self.adopt(registry, socket, client, transport, now);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => listener.acceptable = false,
                    // That client has gone.
                    Err(error) if is_of_one_connection(&error) => {}
                    // Descriptors are used up. Those who wait are not reported again, and the loop must not spin.
                    Err(error) => {
                        listener.acceptable = false;
                        listener.retries = true;
                        tracing::debug!(%error, "cannot accept a connection");
                    }
                }
            }
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let Ok(client) = self.handed_over.try_recv() else { break };
            self.adopt_client(registry, *client, now);
        }
    }

    fn adopt(
        &mut self,
        registry: &Registry,
        socket: TcpStream,
        client: SocketAddr,
        transport: Transport,
        now: Instant,
    ) {
        let names_client = is_trusted_balancer(&self.settings.balancers, client.ip());
        if !self.has_room(if names_client { None } else { Some(client) }) {
            return;
        }
        let tls = match (transport, &self.tls) {
            (Transport::Tls, Some(config)) => match rustls::ServerConnection::new(config.clone()) {
                Ok(tls) => Some(tls),
                Err(_) => return,
            },
            (Transport::Tls, None) => return,
            _ => None,
        };
        let Some(five_tuple) = five_tuple(&socket, client, transport) else { return };
        let Some(key) = self.insert(registry, Stream::new(socket, tls, five_tuple, 0, now)) else { return };
        match self.slab.get_mut(key) {
            Some(stream) if names_client => stream.header = Some(ProxyHeaderReader::default()),
            _ => self.begin(key),
        }
        self.mark_readable(key);
    }

    /// Goes on with a connection that somebody else accepted.
    fn adopt_client(&mut self, registry: &Registry, client: TlsClient, now: Instant) {
        let TlsClient { socket, tls, received, client } = client;
        if !self.has_room(Some(client)) {
            return;
        }
        let socket = TcpStream::from_std(socket);
        let Some(five_tuple) = five_tuple(&socket, client, Transport::Tls) else { return };
        let mut stream = Stream::new(socket, Some(tls), five_tuple, 0, now);
        stream.resume(received);
        let Some(key) = self.insert(registry, stream) else { return };
        self.begin(key);
        self.mark_readable(key);
        // The session may have something to say.
        self.mark_dirty(key);
    }

    /// Whether there may be one more, of this client if that is known.
    fn has_room(&mut self, client: Option<SocketAddr>) -> bool {
        let from_source = client.and_then(|client| self.per_source.get(&source_key(client))).copied();
        let has_room = self.slab.len() < self.settings.connections_max
            && from_source.unwrap_or(0) < self.settings.connections_per_source_max;
        if !has_room {
            self.stats.refused += 1;
        }
        has_room
    }

    fn insert(&mut self, registry: &Registry, mut stream: Stream) -> Option<usize> {
        let _ = stream.socket.set_nodelay(true);
        let entry = self.slab.vacant_entry();
        let key = entry.key();
        let token = tokens::token(Kind::Stream, key);
        registry.register(&mut stream.socket, token, Interest::READABLE | Interest::WRITABLE).ok()?;
        self.next_serial += 1;
        stream.serial = self.next_serial;
        entry.insert(stream);
        self.stats.accepted += 1;
        self.unproven.push_back((key, self.next_serial));
        self.bound_unproven();
        Some(key)
    }

    /// Whose the stream is, is known: it counts.
    fn begin(&mut self, key: usize) {
        let Some(stream) = self.slab.get(key) else { return };
        let five_tuple = stream.five_tuple;
        *self.per_source.entry(source_key(five_tuple.client)).or_insert(0) += 1;
        // The same addresses again: what was there before is dead.
        if let Some(old) = self.by_tuple.insert(five_tuple, key) {
            self.close(old);
            self.by_tuple.insert(five_tuple, key);
        }
    }

    /// Reads what a balancer puts in front of a stream, if one does. False if there is nothing to be read after it yet.
    pub(super) fn read_header(&mut self, key: usize) -> bool {
        let Some(stream) = self.slab.get_mut(key) else { return false };
        if stream.header.is_none() {
            return true;
        }
        match stream.read_header(&mut self.chunk) {
            HeaderOutcome::Incomplete => {
                stream.is_readable = false;
                return false;
            }
            HeaderOutcome::Whole(client) => {
                if let Some(client) = client {
                    stream.five_tuple.client = SocketAddr::new(client.ip().to_canonical(), client.port());
                }
                let client = stream.five_tuple.client;
                // It counts from here on, and is one of those that are there already.
                if self.per_source.get(&source_key(client)).copied().unwrap_or(0)
                    < self.settings.connections_per_source_max
                {
                    self.begin(key);
                    return true;
                }
                self.stats.refused += 1;
            }
            HeaderOutcome::Closed => {}
            HeaderOutcome::Invalid => {
                self.stats.closed_invalid += 1;
                tracing::debug!("a connection from a trusted balancer does not begin with a PROXY header");
            }
        }
        // Without having counted.
        self.slab.try_remove(key);
        self.dirty.retain(|known| *known != key);
        false
    }
}

fn five_tuple(socket: &TcpStream, client: SocketAddr, transport: Transport) -> Option<FiveTuple> {
    let server = socket.local_addr().ok()?;
    Some(FiveTuple {
        transport,
        server: SocketAddr::new(server.ip().to_canonical(), server.port()),
        client: SocketAddr::new(client.ip().to_canonical(), client.port()),
    })
}

/// Errors of `accept` that concern the connection it would have returned, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
