//! The relay of one worker.
//!
//! ```text
//!  client ──► datagram or frame ─┬─ ChannelData ─► allocation ─► channel ─► peer          data.rs
//!                                ├─ Send         ─► allocation ─► permission ─► peer      data.rs
//!                                ├─ Binding      ─► answered, throttled                   answer.rs
//!                                └─ request      ─► authenticate.rs ─► allocate.rs, permit.rs, tcp_relay.rs
//!  peer ────► datagram at a relay ─► allocation ─► channel or permission ─► client        data.rs
//! ```

mod allocate;
mod answer;
mod authenticate;
mod data;
#[cfg(any(test, feature = "fuzzing"))]
mod invariants;
mod permit;
mod tcp_relay;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rustc_hash::FxHashMap;
use slab::Slab;

use crate::allocation::{Allocation, Traffic};
use crate::config::ServerConfig;
use crate::io::{
    AllocationId, EndReason, Event, FiveTuple, Input, Output, RefusalReason, RelayKey, RelayProtocol,
};
use crate::nonce::Nonces;
use crate::outbox::{Outbox, Route};
use crate::policy::Verdict;
use crate::ports::Ports;
use crate::quota::{Budget, IDLE, Throttle};
use crate::stats::ServerStats;
use crate::stun::AddressFamily;
use tcp_relay::PeerConnections;

/// How long a reserved port is kept (RFC 8656, section 7.2, says 30 seconds).
const RESERVATION_LIFETIME: Duration = Duration::from_secs(30);

/// Ports that may be reserved at a time. While there are as many, requests for another get 508.
const RESERVATIONS_MAX: usize = 1024;

/// A TURN server (RFC 8656), sans-IO: bytes and the time go in, bytes and wishes come out.
///
/// After each [`TurnServer::handle_input`], [`TurnServer::poll_output`] must be called until it returns
/// [`Output::Timeout`].
#[derive(Debug)]
pub struct TurnServer {
    config: ServerConfig,
    nonces: Nonces,
    throttle: Throttle,
    random: StdRng,
    /// What the time of day was at an instant.
    clock: (Instant, SystemTime),
    /// The latest time that was heard of.
    latest: Instant,
    draining: bool,
    clients: FxHashMap<FiveTuple, usize>,
    allocations: Slab<Allocation>,
    relays: Slab<Relay>,
    /// Open relays by the address that everybody knows them by.
    announced: FxHashMap<SocketAddr, RelayKey>,
    tickets: FxHashMap<[u8; 16], usize>,
    users: Slab<User>,
    user_keys: FxHashMap<Box<str>, usize>,
    expiries: BTreeSet<(Instant, usize)>,
    /// In the order of their ends.
    reservations: VecDeque<Reservation>,
    peer_connections: PeerConnections,
    ports: [Ports; 2],
    budget: Budget,
    outbox: Outbox,
    events: VecDeque<Event>,
    stats: ServerStats,
}

/// A relayed address.
#[derive(Debug)]
struct Relay {
    allocation: usize,
    bind: SocketAddr,
    announced: SocketAddr,
    family: AddressFamily,
    is_open: bool,
    /// Whether its port was reserved, so that it is this port or none.
    is_reserved: bool,
}

/// Somebody with allocations.
#[derive(Debug)]
struct User {
    name: Box<str>,
    allocations: u32,
    budget: Budget,
}

/// A port that EVEN-PORT asked to be kept.
#[derive(Debug)]
struct Reservation {
    token: [u8; 8],
    family: AddressFamily,
    port: u16,
    expires_at: Instant,
}

/// One allocation, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AllocationReport {
    /// Its name.
    pub id: AllocationId,
    /// Whose: the user without the time of credentials.
    pub user: Box<str>,
    /// From where.
    pub five_tuple: FiveTuple,
    /// Its addresses.
    pub relayed: Vec<SocketAddr>,
    /// What it speaks to peers.
    pub protocol: RelayProtocol,
    /// Since when.
    pub created_at: Instant,
    /// How long it lasts without a refresh.
    pub expires_at: Instant,
    /// Addresses that it has permissions for.
    pub permissions: usize,
    /// Channels that it has.
    pub channels: usize,
    /// What it relayed.
    pub traffic: Traffic,
}

impl TurnServer {
    /// A server without allocations. `seed` must be unpredictable: ports and tokens follow from it.
    pub fn new(config: ServerConfig, seed: [u8; 32], now: Instant, time_of_day: SystemTime) -> Self {
        let mut random = StdRng::from_seed(seed);
        let ports = || {
            let (worker, workers) = (config.worker.into(), config.workers.into());
            Ports::new(config.port_first, config.port_last, worker, workers)
        };
        let ports = [ports(), ports()];
        Self {
            nonces: Nonces::new(&config.nonce_key, config.nonce_life.as_secs()),
            throttle: Throttle::new(&config.quotas, rand::Rng::next_u64(&mut random), now),
            random,
            clock: (now, time_of_day),
            latest: now,
            draining: false,
            clients: FxHashMap::default(),
            allocations: Slab::new(),
            relays: Slab::new(),
            announced: FxHashMap::default(),
            tickets: FxHashMap::default(),
            users: Slab::new(),
            user_keys: FxHashMap::default(),
            expiries: BTreeSet::new(),
            reservations: VecDeque::new(),
            peer_connections: PeerConnections::default(),
            ports,
            budget: Budget::new(config.quotas.rate, now),
            outbox: Outbox::default(),
            events: VecDeque::new(),
            stats: ServerStats::default(),
            config,
        }
    }

    /// Sets the time of day, which credentials and nonces end by. Between calls it goes on with the instants.
    pub fn set_time_of_day(&mut self, now: Instant, time_of_day: SystemTime) {
        self.clock = (now, time_of_day);
    }

    /// Takes something in.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        self.latest = self.latest.max(now);
        // First of all, so that nothing is done for or by what is over.
        self.expire(now);
        match input {
            Input::Client { five_tuple, payload } => self.handle_client(now, five_tuple, payload),
            Input::Peer { relay, peer, payload } => self.handle_peer(now, relay, peer, payload),
            Input::ClientClosed { five_tuple } => self.handle_client_closed(five_tuple),
            Input::RelayOpened { relay } => self.handle_relay_opened(relay),
            Input::RelayRefused { relay } => self.handle_relay_refused(relay),
            Input::PeerAccepted { relay, peer, connection } => {
                self.handle_peer_accepted(now, relay, peer, connection);
            }
            Input::PeerConnected { connection } => self.handle_peer_connected(now, connection),
            Input::PeerClosed { connection } => self.handle_peer_closed(connection),
            Input::Kick { allocation } => {
                let found = self.allocations.iter().find(|(_, known)| known.id == allocation);
                if let Some((key, _)) = found {
                    self.end(key, EndReason::Kicked);
                }
            }
            Input::Drain => self.draining = true,
            Input::Configure(config) => self.configure(now, *config),
            Input::Timeout => {}
        }
    }

    /// What to do next. [`Output::Timeout`] is the last.
    pub fn poll_output(&mut self) -> Output<'_> {
        // What is to be sent leaves before its socket is closed, or its stream becomes another thing.
        if self.outbox.is_empty()
            && let Some(event) = self.events.pop_front()
        {
            return Output::Event(event);
        }
        // The outbox is asked once more when it is empty: it makes room.
        let deadline = if self.outbox.is_empty() { self.deadline() } else { self.latest };
        match self.outbox.pop() {
            Some((run, payload)) => match run.route {
                Route::Client { five_tuple, is_control } => {
                    Output::ToClient { five_tuple, payload, segment_bytes: run.segment_bytes, is_control }
                }
                Route::Peer { relay, relayed, peer, dont_fragment } => Output::ToPeer {
                    relay,
                    relayed,
                    peer,
                    payload,
                    segment_bytes: run.segment_bytes,
                    dont_fragment,
                },
            },
            None => Output::Timeout(deadline),
        }
    }

    /// The open relay that peers know by this address.
    pub fn relay_at(&self, relayed: SocketAddr) -> Option<RelayKey> {
        self.announced.get(&relayed).copied()
    }

    /// What happened so far.
    pub fn stats(&self) -> ServerStats {
        ServerStats {
            allocations: self.allocations.len() as u64,
            relays: self.relays.len() as u64,
            users: self.users.len() as u64,
            ..self.stats
        }
    }

    /// All allocations.
    pub fn allocations(&self) -> impl Iterator<Item = AllocationReport> {
        self.allocations.iter().filter(|(_, allocation)| allocation.is_open()).map(|(_, allocation)| {
            let relays = allocation.relays.iter().flatten();
            AllocationReport {
                id: allocation.id,
                user: self.users.get(allocation.user).map(|user| user.name.clone()).unwrap_or_default(),
                five_tuple: allocation.five_tuple,
                relayed: relays.filter_map(|relay| Some(self.relay(*relay)?.announced)).collect(),
                protocol: allocation.protocol,
                created_at: allocation.created_at,
                expires_at: allocation.expires_at,
                permissions: allocation.permissions.len(),
                channels: allocation.channels.len(),
                traffic: allocation.traffic,
            }
        })
    }

    /// Whether allocations are left; a server that drains may stop when there are none.
    pub fn is_idle(&self) -> bool {
        self.allocations.is_empty()
    }

    fn relay(&self, key: RelayKey) -> Option<&Relay> {
        self.relays.get(key.0 as usize)
    }

    /// The time of day.
    fn time_of_day(&self, now: Instant) -> SystemTime {
        self.clock.1 + now.saturating_duration_since(self.clock.0)
    }

    fn unix_s(&self, now: Instant) -> u64 {
        let since = self.time_of_day(now).duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    }

    fn deadline(&self) -> Instant {
        let allocation = self.expiries.first().map(|(at, _)| *at);
        let reservation = self.reservations.front().map(|reservation| reservation.expires_at);
        let connection = self.peer_connections.deadline();
        let next = [allocation, reservation, connection].into_iter().flatten().min();
        let idle = self.latest + IDLE;
        next.map_or(idle, |next| next.min(idle))
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, key)) = self.expiries.first().copied()
            && at <= now
        {
            self.expiries.pop_first();
            self.end(key, EndReason::Expired);
        }
        while let Some(over) = self.reservations.pop_front_if(|reservation| reservation.expires_at <= now) {
            self.give_port_back(over.family, over.port);
        }
        self.expire_peer_connections(now);
    }

    fn configure(&mut self, now: Instant, config: ServerConfig) {
        self.throttle.set_limits(&config.quotas, now);
        self.nonces = Nonces::new(&config.nonce_key, config.nonce_life.as_secs());
        self.budget = Budget::new(config.quotas.rate, now);
        for (_, user) in &mut self.users {
            user.budget = Budget::new(config.quotas.user_rate, now);
        }
        for (_, allocation) in &mut self.allocations {
            allocation.review(|ip| match config.peers.verdict(ip) {
                Verdict::Allowed => Some(false),
                Verdict::PortsOnly => Some(true),
                Verdict::Denied => None,
            });
        }
        // Ports in use are known by the range that they were taken from.
        let (port_first, port_last) = (self.config.port_first, self.config.port_last);
        let (worker, workers) = (self.config.worker, self.config.workers);
        self.config = ServerConfig { port_first, port_last, worker, workers, ..config };
        self.review_peer_connections();
    }

    fn give_port_back(&mut self, family: AddressFamily, port: u16) {
        self.ports_of(family).give_back(port);
    }

    fn ports_of(&mut self, family: AddressFamily) -> &mut Ports {
        let [v4, v6] = &mut self.ports;
        match family {
            AddressFamily::V4 => v4,
            AddressFamily::V6 => v6,
        }
    }

    /// Counts a refusal and tells the operator.
    fn refused(&mut self, five_tuple: FiveTuple, user: Option<&str>, reason: RefusalReason) {
        self.stats.refuse(reason);
        self.events.push_back(Event::Refused { user: user.map(Into::into), five_tuple, reason });
    }
}

#[cfg(test)]
mod tests;
