//! Who sends through the proxy, and the links between them and the target.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use mio::{Interest, Registry, Token, net::UdpSocket};
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use rustc_hash::FxHashMap;

use super::{DATAGRAMS_PER_TURN, ProxyConfig, ProxyStats, socket};
use crate::link::{DATAGRAM_COST_BYTES, Link, LinkConfig};

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From a client to the target.
    Upstream,
    /// From the target to a client.
    Downstream,
}

/// A client's token at the poll. None is used again, so that what is late finds nobody rather than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClientKey(usize);

/// The links of one client, or of all; a client's token or, for all, 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct PathKey(usize);

const SHARED: PathKey = PathKey(0);

#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) client: ClientKey,
    pub(super) payload: Vec<u8>,
}

#[derive(Debug)]
struct Client {
    /// Which listener it sends to.
    listener: usize,
    source: SocketAddr,
    /// Connected to the target.
    socket: UdpSocket,
    path: PathKey,
    last_seen: Instant,
}

/// Both directions.
#[derive(Debug)]
struct Path {
    upstream: Link<Packet>,
    downstream: Link<Packet>,
    /// Its entry in [`Clients::due`].
    due: Option<Instant>,
}

impl Path {
    fn next_at(&self) -> Option<Instant> {
        [self.upstream.next_at(), self.downstream.next_at()].into_iter().flatten().min()
    }

    fn held_bytes(&self) -> u64 {
        self.upstream.held_bytes() + self.downstream.held_bytes()
    }
}

/// Bounded by [`ProxyConfig::clients_max`] and [`ProxyConfig::held_bytes_max`].
#[derive(Debug)]
pub(super) struct Clients {
    config: ProxyConfig,
    /// Since when links have this configuration.
    epoch: Instant,
    clients: FxHashMap<ClientKey, Client>,
    by_source: FxHashMap<(usize, SocketAddr), ClientKey>,
    paths: FxHashMap<PathKey, Path>,
    /// When which path has something to do.
    due: BTreeSet<(Instant, PathKey)>,
    held_bytes: u64,
    token_first: usize,
    token_next: usize,
    /// Of what is gone; links that are there are added when somebody asks.
    gone: ProxyStats,
}

impl Clients {
    /// Nobody yet. Clients' tokens begin at `token_first`, which must not be 0.
    pub(super) fn new(config: ProxyConfig, token_first: usize, now: Instant) -> Self {
        Self {
            config,
            epoch: now,
            clients: FxHashMap::default(),
            by_source: FxHashMap::default(),
            paths: FxHashMap::default(),
            due: BTreeSet::new(),
            held_bytes: 0,
            token_first,
            token_next: token_first,
            gone: ProxyStats::default(),
        }
    }

    /// The client with this address, new if there is room for it.
    pub(super) fn find_or_add(
        &mut self,
        registry: &Registry,
        listener: usize,
        target: SocketAddr,
        source: SocketAddr,
        now: Instant,
    ) -> Option<ClientKey> {
        if let Some(key) = self.by_source.get(&(listener, source)) {
            return Some(*key);
        }
        let key = ClientKey(self.token_next);
        let has_room = self.clients.len() < self.config.clients_max;
        let Some(socket) = has_room.then(|| connect(registry, key, target).ok()).flatten() else {
            self.gone.refused += 1;
            return None;
        };
        self.token_next += 1;
        self.gone.clients_total += 1;
        let path = if self.config.shared { SHARED } else { PathKey(key.0) };
        self.clients.insert(key, Client { listener, source, socket, path, last_seen: now });
        self.by_source.insert((listener, source), key);
        if !self.paths.contains_key(&path) {
            let seeds = seeds(self.config.seed, key.0 - self.token_first);
            let link = |config: &LinkConfig, seed| Link::new(config.clone(), seed, self.epoch);
            let upstream = link(&self.config.upstream, seeds[0]);
            let downstream = link(&self.config.downstream, seeds[1]);
            self.paths.insert(path, Path { upstream, downstream, due: None });
        }
        Some(key)
    }

    /// Takes what the target sent to a client's socket. Returns whether there may be more.
    pub(super) fn receive_from_target(&mut self, token: usize, buffer: &mut [u8]) -> bool {
        let key = ClientKey(token);
        for _ in 0..DATAGRAMS_PER_TURN {
            let Some(client) = self.clients.get(&key) else { return false };
            match client.socket.recv(buffer) {
                Ok(length) => {
                    let payload = buffer.get(..length).unwrap_or_default();
                    self.send(Direction::Downstream, key, payload, Instant::now());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => self.note_unsent(&error),
            }
        }
        true
    }

    /// Puts a datagram into a client's link.
    pub(super) fn send(&mut self, direction: Direction, key: ClientKey, payload: &[u8], now: Instant) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        client.last_seen = now;
        if self.held_bytes + payload.len() as u64 + DATAGRAM_COST_BYTES > self.config.held_bytes_max {
            self.gone.overflow += 1;
            return;
        }
        let path = client.path;
        let packet = Packet { client: key, payload: payload.to_vec() };
        self.with_path(path, |path| {
            let link = match direction {
                Direction::Upstream => &mut path.upstream,
                Direction::Downstream => &mut path.downstream,
            };
            link.send(now, packet.payload.len(), packet);
        });
    }

    /// When a link has something to do.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A datagram that has passed its link by `now`.
    pub(super) fn poll(&mut self, now: Instant) -> Option<(Direction, Packet)> {
        loop {
            let (_, key) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
            let found = self.with_path(key, |path| {
                let upstream = path.upstream.poll(now).map(|found| (Direction::Upstream, found.payload));
                upstream
                    .or_else(|| path.downstream.poll(now).map(|found| (Direction::Downstream, found.payload)))
            });
            // A link may want to be looked at without having anything yet.
            if let Some(found) = found.flatten() {
                return Some(found);
            }
        }
    }

    /// A client's listener, address and socket, unless it is gone.
    pub(super) fn route(&self, key: ClientKey) -> Option<(usize, SocketAddr, &UdpSocket)> {
        self.clients.get(&key).map(|client| (client.listener, client.source, &client.socket))
    }

    /// Counts a datagram that the kernel did not take, or its word that one was not taken elsewhere.
    pub(super) fn note_unsent(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.gone.unreachable += 1;
        } else {
            self.gone.unsent += 1;
        }
    }

    /// Changes what links do, those of now and later ones.
    pub(super) fn set_links(&mut self, upstream: LinkConfig, downstream: LinkConfig, now: Instant) {
        self.epoch = now;
        let keys: Vec<PathKey> = self.paths.keys().copied().collect();
        for key in keys {
            let (upstream, downstream) = (upstream.clone(), downstream.clone());
            self.with_path(key, |path| {
                path.upstream.set_config(now, upstream);
                path.downstream.set_config(now, downstream);
            });
        }
        (self.config.upstream, self.config.downstream) = (upstream, downstream);
    }

    pub(super) fn idle(&self) -> Duration {
        self.config.idle
    }

    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Forgets clients with whom nothing was exchanged for long.
    pub(super) fn forget_idle(&mut self, registry: &Registry, now: Instant) {
        let idle = self.config.idle;
        let forgotten = self.clients.extract_if(|_, client| now.duration_since(client.last_seen) >= idle);
        for (_, mut client) in forgotten {
            self.by_source.remove(&(client.listener, client.source));
            // Closing it does the same.
            let _ = registry.deregister(&mut client.socket);
            if client.path == SHARED {
                continue;
            }
            if let Some(path) = self.paths.remove(&client.path) {
                self.held_bytes -= path.held_bytes();
                path.due.map(|at| self.due.remove(&(at, client.path)));
                self.gone.upstream.merge(&path.upstream.stats());
                self.gone.downstream.merge(&path.downstream.stats());
            }
        }
    }

    /// Everything but the time.
    pub(super) fn stats(&self) -> ProxyStats {
        let mut stats = self.gone.clone();
        for path in self.paths.values() {
            stats.upstream.merge(&path.upstream.stats());
            stats.downstream.merge(&path.downstream.stats());
        }
        stats.clients = self.clients.len();
        stats
    }

    /// Does something with a path, and notes what changes by it.
    fn with_path<R>(&mut self, key: PathKey, change: impl FnOnce(&mut Path) -> R) -> Option<R> {
        let path = self.paths.get_mut(&key)?;
        let held_bytes = path.held_bytes();
        let result = change(path);
        self.held_bytes = self.held_bytes - held_bytes + path.held_bytes();
        let due = path.next_at();
        if due != path.due {
            path.due.map(|at| self.due.remove(&(at, key)));
            self.due.extend(due.map(|at| (at, key)));
            path.due = due;
        }
        Some(result)
    }
}

/// A client's socket.
fn connect(registry: &Registry, key: ClientKey, target: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let mut socket = socket(SocketAddr::new(any, 0))?;
    // From now on nobody else's datagrams are received.
    socket.connect(target)?;
    registry.register(&mut socket, Token(key.0), Interest::READABLE)?;
    Ok(socket)
}

/// The seeds of a client's links: upstream, downstream.
fn seeds(seed: u64, client: usize) -> [u64; 2] {
    // An odd multiple of the golden ratio's bits: no two clients of one seed meet.
    let mixed = seed.wrapping_add((client as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    Pcg64Mcg::seed_from_u64(mixed).random()
}
