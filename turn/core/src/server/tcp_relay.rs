//! TCP connections to and from peers (RFC 6062): each gets a stream of its own from the client, and from then on bytes
//! go through as they are.
//!
//! ```text
//!  Connect ─► connecting ─► (peer answers) ─┬─► waiting for ConnectionBind ─► spliced
//!             peer connects ────────────────┘
//! ```

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use rustc_hash::FxHashMap;

use super::TurnServer;
use super::answer::{Proven, Request};
use crate::allocation::Answered;
use crate::io::{Event, FiveTuple, PeerConnectionKey, RelayKey, RelayProtocol};
use crate::outbox::Route;
use crate::policy::Verdict;
use crate::stun::attribute::{CONNECTION_ID, XOR_PEER_ADDRESS};
use crate::stun::{Class, ErrorCode, IntegrityKey, Message, Method, Writer};

/// How long a peer may take to answer, and a client to send ConnectionBind (RFC 6062, sections 5.2 and 5.3).
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections of one allocation at a time. More are refused: 447 to the client, a closed connection to the peer.
const CONNECTIONS_PER_ALLOCATION_MAX: usize = 32;

#[derive(Debug, Default)]
pub(super) struct PeerConnections {
    by_key: FxHashMap<PeerConnectionKey, PeerConnection>,
    by_id: FxHashMap<u32, PeerConnectionKey>,
    /// Of each allocation that has any: at most [`CONNECTIONS_PER_ALLOCATION_MAX`].
    by_allocation: FxHashMap<usize, Vec<PeerConnectionKey>>,
    /// Those that wait for the peer or the client, and until when.
    waiting: BTreeSet<(Instant, PeerConnectionKey)>,
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
        self.waiting.first().map(|(until, _)| *until)
    }

    fn insert(&mut self, key: PeerConnectionKey, connection: PeerConnection) {
        self.by_id.insert(connection.id, key);
        self.by_allocation.entry(connection.allocation).or_default().push(key);
        self.waiting.extend(connection.state.until().map(|until| (until, key)));
        self.by_key.insert(key, connection);
    }

    /// Brings a connection into another state; returns the last.
    fn advance(&mut self, key: PeerConnectionKey, state: ConnectionState) -> Option<ConnectionState> {
        let connection = self.by_key.get_mut(&key)?;
        if let ConnectionState::Spliced { five_tuple } = state {
            self.spliced.insert(five_tuple, key);
        }
        if let Some(until) = connection.state.until() {
            self.waiting.remove(&(until, key));
        }
        self.waiting.extend(state.until().map(|until| (until, key)));
        Some(std::mem::replace(&mut connection.state, state))
    }

    fn remove(&mut self, key: PeerConnectionKey) -> Option<PeerConnection> {
        let connection = self.by_key.remove(&key)?;
        self.by_id.remove(&connection.id);
        if let Some(until) = connection.state.until() {
            self.waiting.remove(&(until, key));
        }
        if let Some(keys) = self.by_allocation.get_mut(&connection.allocation) {
            keys.retain(|known| *known != key);
            if keys.is_empty() {
                self.by_allocation.remove(&connection.allocation);
            }
        }
        if let ConnectionState::Spliced { five_tuple } = connection.state {
            self.spliced.remove(&five_tuple);
        }
        Some(connection)
    }

    fn of(&self, allocation: usize) -> &[PeerConnectionKey] {
        self.by_allocation.get(&allocation).map_or(&[], Vec::as_slice)
    }

    fn has_peer(&self, allocation: usize, peer: SocketAddr) -> bool {
        let mut connections = self.of(allocation).iter().filter_map(|key| self.by_key.get(key));
        connections.any(|connection| connection.peer == peer)
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
        if self.peer_connections.has_peer(key, peer) {
            return self.refuse(proven, ErrorCode::ConnectionAlreadyExists);
        }
        if self.peer_connections.of(key).len() >= CONNECTIONS_PER_ALLOCATION_MAX {
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
        let Some(connection) = self.peer_connections.by_key.get(&key) else {
            return self.events.push_back(Event::ClosePeer { connection: key });
        };
        let (id, allocation) = (connection.id, connection.allocation);
        if !matches!(connection.state, ConnectionState::Connecting { .. }) {
            return;
        }
        let until = now + CONNECTION_TIMEOUT;
        let last = self.peer_connections.advance(key, ConnectionState::Unbound { until });
        let Some(ConnectionState::Connecting { answered, key, .. }) = last else { return };
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
            || self.peer_connections.of(at).len() >= CONNECTIONS_PER_ALLOCATION_MAX
            || self.peer_connections.has_peer(at, peer)
            || self.peer_connections.by_key.contains_key(&key)
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
        let Some(connection) = self.peer_connections.by_key.get(&key) else { return };
        // A number can be guessed; the user's password cannot.
        let owner = self.allocations.get(connection.allocation);
        let is_owner = owner.is_some_and(|owner| *owner.username == *proven.username);
        if !is_owner || !matches!(connection.state, ConnectionState::Unbound { .. }) {
            return self.refuse(proven, ErrorCode::BadRequest);
        }
        self.peer_connections.advance(key, ConnectionState::Spliced { five_tuple });
        self.succeed(proven, |writer| writer);
        self.events.push_back(Event::Splice { five_tuple, connection: key });
    }

    /// The allocation whose connection a ConnectionBind request names.
    pub(super) fn allocation_of_connection(&self, message: &Message<'_>) -> Option<usize> {
        let key = self.peer_connections.by_id.get(&message.number(CONNECTION_ID)?)?;
        self.peer_connections.by_key.get(key).map(|connection| connection.allocation)
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
        let keys = self.peer_connections.by_allocation.get(&allocation).cloned().unwrap_or_default();
        keys.into_iter().for_each(|key| self.close_peer_connection(key));
    }

    /// Closes the connections to peers that a new policy denies.
    pub(super) fn review_peer_connections(&mut self) {
        let connections = self.peer_connections.by_key.iter();
        let denied = connections.filter(|(_, known)| match self.config.peers.verdict(known.peer.ip()) {
            Verdict::Allowed => false,
            Verdict::PortsOnly => !self.is_reachable_here(known.peer),
            Verdict::Denied => true,
        });
        let mut keys: Vec<_> = denied.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.into_iter().for_each(|key| self.close_peer_connection(key));
    }

    fn close_peer_connection(&mut self, key: PeerConnectionKey) {
        let Some(connection) = self.peer_connections.remove(key) else { return };
        match connection.state {
            ConnectionState::Connecting { answered, key, .. } => {
                self.refuse_connect(connection.allocation, &answered, &key);
            }
            ConnectionState::Unbound { .. } => {}
            ConnectionState::Spliced { five_tuple } => {
                self.events.push_back(Event::CloseClient { five_tuple });
            }
        }
        self.events.push_back(Event::ClosePeer { connection: key });
    }

    pub(super) fn expire_peer_connections(&mut self, now: Instant) {
        while let Some((until, key)) = self.peer_connections.waiting.first().copied()
            && until <= now
        {
            self.close_peer_connection(key);
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

#[cfg(any(test, feature = "fuzzing"))]
impl PeerConnections {
    /// Panics if the maps disagree; returns the allocations with connections.
    pub(super) fn check_invariants(&self) -> impl Iterator<Item = usize> {
        assert_eq!(self.by_id.len(), self.by_key.len(), "numbers of connections");
        let listed: usize = self.by_allocation.values().map(Vec::len).sum();
        assert_eq!(listed, self.by_key.len(), "connections by allocation");
        for (key, connection) in &self.by_key {
            assert_eq!(self.by_id.get(&connection.id), Some(key));
            assert!(self.of(connection.allocation).contains(key));
            assert!(self.of(connection.allocation).len() <= CONNECTIONS_PER_ALLOCATION_MAX);
            if let ConnectionState::Spliced { five_tuple } = connection.state {
                assert_eq!(self.spliced.get(&five_tuple), Some(key));
            }
        }
        let spliced = self.by_key.values().filter(|known| known.state.until().is_none()).count();
        assert_eq!(self.spliced.len(), spliced, "streams that carry connections");
        let waiting: BTreeSet<_> =
            self.by_key.iter().filter_map(|(key, known)| Some((known.state.until()?, *key))).collect();
        assert_eq!(self.waiting, waiting, "times of connections");
        self.by_allocation.keys().copied()
    }
}

#[cfg(test)]
impl PeerConnections {
    /// The connections' numbers, as their clients are told.
    pub(super) fn numbers(&self) -> Vec<u32> {
        self.by_id.keys().copied().collect()
    }

    /// Makes the next key that is drawn the one after this.
    pub(super) fn set_drawn(&mut self, drawn: u32) {
        self.drawn = drawn;
    }
}
