//! TCP connections to and from peers (RFC 6062): each gets a stream of its own from the client, and from then on bytes
//! go through as they are.
//!
//! ```text
//!  Connect ─► connecting ─► (peer answers) ─┬─► waiting for ConnectionBind ─► spliced
//!             peer connects ────────────────┘
//! ```

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use rustc_hash::FxHashMap;

use super::TurnServer;
use super::answer::{Proven, Request};
use crate::allocation::Answered;
use crate::io::{Event, FiveTuple, PeerConnectionKey, RelayKey, RelayProtocol};
use crate::outbox::Route;
use crate::stun::attribute::{CONNECTION_ID, XOR_PEER_ADDRESS};
use crate::stun::{Class, ErrorCode, IntegrityKey, Method, Writer};

/// How long a peer may take to answer, and a client to send ConnectionBind (RFC 6062, sections 5.2 and 5.3).
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections of one allocation at a time. More are refused: 447 to the client, a closed connection to the peer.
const CONNECTIONS_PER_ALLOCATION_MAX: usize = 32;

#[derive(Debug, Default)]
pub(super) struct PeerConnections {
    by_key: FxHashMap<PeerConnectionKey, PeerConnection>,
    by_id: FxHashMap<u32, PeerConnectionKey>,
    /// Which connection a client's stream carries.
    spliced: FxHashMap<FiveTuple, PeerConnectionKey>,
    drawn: u32,
}

#[derive(Debug)]
struct PeerConnection {
    allocation: usize,
    peer: SocketAddr,
    id: u32,
    state: ConnectionState,
}

#[derive(Debug)]
enum ConnectionState {
    /// The peer has not answered.
    Connecting {
        answered: Answered,
        key: IntegrityKey,
        until: Instant,
    },
    /// The client has not sent ConnectionBind.
    Unbound {
        until: Instant,
    },
    Spliced {
        five_tuple: FiveTuple,
    },
}

impl ConnectionState {
    fn until(&self) -> Option<Instant> {
        match self {
            Self::Connecting { until, .. } | Self::Unbound { until } => Some(*until),
            Self::Spliced { .. } => None,
        }
    }
}

impl PeerConnections {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.by_key.values().filter_map(|connection| connection.state.until()).min()
    }

    fn insert(&mut self, key: PeerConnectionKey, connection: PeerConnection) {
        self.by_id.insert(connection.id, key);
        self.by_key.insert(key, connection);
    }

    fn remove(&mut self, key: PeerConnectionKey) -> Option<PeerConnection> {
        let connection = self.by_key.remove(&key)?;
        self.by_id.remove(&connection.id);
        if let ConnectionState::Spliced { five_tuple } = connection.state {
            self.spliced.remove(&five_tuple);
        }
        Some(connection)
    }

    fn of(&self, allocation: usize) -> impl Iterator<Item = (&PeerConnectionKey, &PeerConnection)> {
        self.by_key.iter().filter(move |(_, connection)| connection.allocation == allocation)
    }
}

impl TurnServer {
    /// RFC 6062, section 5.2.
    pub(super) fn handle_connect(&mut self, proven: &Proven<'_>) {
        let Request { message, now, .. } = proven.request;
        let Some(key) = self.open_allocation(proven) else { return };
        let Some(peer) = message.xor_address(XOR_PEER_ADDRESS).filter(|peer| peer.port() != 0) else {
            return self.refuse(proven, ErrorCode::BadRequest);
        };
        if self.allocations.get(key).is_none_or(|allocation| allocation.protocol != RelayProtocol::Tcp) {
            return self.refuse(proven, ErrorCode::AllocationMismatch);
        }
        let (ip, ports_only) = match self.peer_ip(key, peer.ip()) {
            Ok(found) => found,
            Err(code) => return self.refuse_peer(proven, code),
        };
        let peer = SocketAddr::new(ip, peer.port());
        if ports_only && !self.is_reachable_here(peer) {
            return self.refuse_peer(proven, ErrorCode::Forbidden);
        }
        let Some(relay) = self.relay_to(key, ip) else { return };
        if self.peer_connections.of(key).any(|(_, connection)| connection.peer == peer) {
            return self.refuse(proven, ErrorCode::ConnectionAlreadyExists);
        }
        if self.peer_connections.of(key).count() >= CONNECTIONS_PER_ALLOCATION_MAX {
            return self.refuse(proven, ErrorCode::ConnectionTimeoutOrFailure);
        }
        let connection = self.draw_connection_key();
        let answered = Answered {
            transaction: *message.transaction(),
            integrity: proven.integrity,
            fingerprint: message.has_fingerprint(),
            lifetime_s: 0,
        };
        let until = now + CONNECTION_TIMEOUT;
        let state = ConnectionState::Connecting { answered, key: proven.key.clone(), until };
        let id = self.draw_connection_id();
        self.peer_connections.insert(connection, PeerConnection { allocation: key, peer, id, state });
        self.events.push_back(Event::ConnectPeer { connection, relay, peer });
    }

    pub(super) fn handle_peer_connected(&mut self, now: Instant, key: PeerConnectionKey) {
        let Some(connection) = self.peer_connections.by_key.get_mut(&key) else {
            return self.events.push_back(Event::ClosePeer { connection: key });
        };
        let until = now + CONNECTION_TIMEOUT;
        let before = std::mem::replace(&mut connection.state, ConnectionState::Unbound { until });
        let (id, allocation) = (connection.id, connection.allocation);
        let ConnectionState::Connecting { answered, key, .. } = before else { return };
        let Some(allocation) = self.allocations.get(allocation) else { return };
        let five_tuple = allocation.five_tuple;
        self.answer_later(five_tuple, Method::Connect, Class::Success, &answered, &key, |writer| {
            writer.number(CONNECTION_ID, id)
        });
    }

    /// RFC 6062, section 5.3.
    pub(super) fn handle_peer_accepted(
        &mut self,
        now: Instant,
        relay: RelayKey,
        peer: SocketAddr,
        key: PeerConnectionKey,
    ) {
        if !self.announce_connection(now, relay, peer, key) {
            self.stats.without_permission += 1;
            self.events.push_back(Event::ClosePeer { connection: key });
        }
    }

    fn announce_connection(
        &mut self,
        now: Instant,
        relay: RelayKey,
        peer: SocketAddr,
        key: PeerConnectionKey,
    ) -> bool {
        let Some(at) = self.relay(relay).map(|relay| relay.allocation) else { return false };
        let Some(allocation) = self.allocations.get(at) else { return false };
        let Some(permission) = allocation.permission(peer.ip(), now) else { return false };
        if !allocation.is_attached
            || permission.ports_only && !self.is_reachable_here(peer)
            || self.peer_connections.of(at).count() >= CONNECTIONS_PER_ALLOCATION_MAX
            || self.peer_connections.of(at).any(|(_, connection)| connection.peer == peer)
        {
            return false;
        }
        let five_tuple = allocation.five_tuple;
        let id = self.draw_connection_id();
        let state = ConnectionState::Unbound { until: now + CONNECTION_TIMEOUT };
        self.peer_connections.insert(key, PeerConnection { allocation: at, peer, id, state });
        let mut transaction = [0; 12];
        self.random.fill_bytes(&mut transaction);
        self.outbox.push_with(Route::Client { five_tuple, is_control: true }, |buffer| {
            Writer::new(buffer, Class::Indication, Method::ConnectionAttempt, &transaction)
                .number(CONNECTION_ID, id)
                .xor_address(XOR_PEER_ADDRESS, peer);
        });
        true
    }

    /// RFC 6062, section 5.4: from a stream that has no allocation.
    pub(super) fn handle_connection_bind(&mut self, proven: &Proven<'_>) {
        let Request { message, five_tuple, .. } = proven.request;
        let id = message.number(CONNECTION_ID);
        let key = id.and_then(|id| self.peer_connections.by_id.get(&id).copied());
        let is_taken =
            self.clients.contains_key(&five_tuple) || self.peer_connections.spliced.contains_key(&five_tuple);
        let Some(key) = key.filter(|_| five_tuple.transport.is_stream() && !is_taken) else {
            return self.refuse(proven, ErrorCode::BadRequest);
        };
        let Some(connection) = self.peer_connections.by_key.get_mut(&key) else { return };
        // A number can be guessed; the user's password cannot.
        let owner = self.allocations.get(connection.allocation);
        let is_owner = owner.is_some_and(|owner| *owner.username == *proven.username);
        if !is_owner || !matches!(connection.state, ConnectionState::Unbound { .. }) {
            return self.refuse(proven, ErrorCode::BadRequest);
        }
        connection.state = ConnectionState::Spliced { five_tuple };
        self.peer_connections.spliced.insert(five_tuple, key);
        self.succeed(proven, |writer| writer);
        self.events.push_back(Event::Splice { five_tuple, connection: key });
    }

    pub(super) fn handle_peer_closed(&mut self, key: PeerConnectionKey) {
        let Some(connection) = self.peer_connections.remove(key) else { return };
        match connection.state {
            ConnectionState::Connecting { answered, key, .. } => {
                self.refuse_connect(connection.allocation, &answered, &key);
            }
            ConnectionState::Unbound { .. } => {}
            // The shell lets what is on its way arrive.
            ConnectionState::Spliced { .. } => {}
        }
    }

    fn refuse_connect(&mut self, allocation: usize, answered: &Answered, key: &IntegrityKey) {
        let Some(five_tuple) = self.allocations.get(allocation).map(|known| known.five_tuple) else { return };
        self.answer_later(five_tuple, Method::Connect, Class::Error, answered, key, |writer| {
            writer.error(ErrorCode::ConnectionTimeoutOrFailure)
        });
    }

    /// A client's stream that carried a connection has ended.
    pub(super) fn forget_data_stream(&mut self, five_tuple: FiveTuple) {
        if let Some(key) = self.peer_connections.spliced.get(&five_tuple).copied() {
            self.peer_connections.remove(key);
            self.events.push_back(Event::ClosePeer { connection: key });
        }
    }

    /// Closes all connections of an allocation that ends.
    pub(super) fn close_peer_connections_of(&mut self, allocation: usize) {
        if self.peer_connections.by_key.is_empty() {
            return;
        }
        let keys: Vec<_> = self.peer_connections.of(allocation).map(|(key, _)| *key).collect();
        for key in keys {
            let state = self.peer_connections.remove(key).map(|connection| connection.state);
            if let Some(ConnectionState::Spliced { five_tuple }) = state {
                self.events.push_back(Event::CloseClient { five_tuple });
            }
            self.events.push_back(Event::ClosePeer { connection: key });
        }
    }

    pub(super) fn expire_peer_connections(&mut self, now: Instant) {
        if self.peer_connections.by_key.is_empty() {
            return;
        }
        let is_over =
            |connection: &PeerConnection| connection.state.until().is_some_and(|until| until <= now);
        let keys: Vec<_> = self
            .peer_connections
            .by_key
            .iter()
            .filter(|(_, known)| is_over(known))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.handle_peer_closed(key);
            self.events.push_back(Event::ClosePeer { connection: key });
        }
    }

    /// A key for a connection that is made from here.
    fn draw_connection_key(&mut self) -> PeerConnectionKey {
        loop {
            self.peer_connections.drawn = self.peer_connections.drawn.wrapping_add(1);
            let key = PeerConnectionKey(self.peer_connections.drawn & !PeerConnectionKey::ACCEPTED);
            if !self.peer_connections.by_key.contains_key(&key) {
                return key;
            }
        }
    }

    fn draw_connection_id(&mut self) -> u32 {
        loop {
            let id = self.random.next_u32();
            if !self.peer_connections.by_id.contains_key(&id) {
                return id;
            }
        }
    }
}
