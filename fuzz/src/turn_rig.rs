//! A relay in virtual time, whose clients know their passwords and whose sockets are a list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use zynk_turn_core::stun::{Class, IntegrityKey, Message, Method, PasswordAlgorithm, Writer};
use zynk_turn_core::{
    Credentials, Event, FiveTuple, Frame, Input, Output, PeerConnectionKey, PeerPolicy, Quotas, RelayAddress,
    RelayKey, RelayProtocol, ServerConfig, Transport, TurnServer, next_frame, parse_channel_data,
};

pub(crate) const USERNAME: u16 = 0x0006;
pub(crate) const LIFETIME: u16 = 0x000d;
pub(crate) const XOR_PEER_ADDRESS: u16 = 0x0012;
pub(crate) const DATA: u16 = 0x0013;
pub(crate) const REALM: u16 = 0x0014;
pub(crate) const NONCE: u16 = 0x0015;
pub(crate) const XOR_RELAYED_ADDRESS: u16 = 0x0016;
pub(crate) const RESERVATION_TOKEN: u16 = 0x0022;
pub(crate) const CONNECTION_ID: u16 = 0x002a;
pub(crate) const MOBILITY_TICKET: u16 = 0x8030;

/// Of a datagram or frame that a client is sent.
const MESSAGE_BYTES_MAX: usize = 65_552;
/// The longest answer to who has not proven who he is: 401 with a fingerprint.
pub(crate) const UNPROVEN_BYTES_MAX: usize = 96;
/// What is asked of sockets and connections is kept up to this.
const KEPT_MAX: usize = 64;

/// Neither the clock nor the day matters.
pub(crate) static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Where a service of this machine is: the only loopback address that may be reached.
const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7882);

/// What happened in a rig.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnReach {
    /// Allocations that were made.
    pub allocations: u64,
    /// Data packets that went to peers.
    pub to_peers: u64,
    /// Data packets that went to clients.
    pub to_clients: u64,
    /// Clients that came back at another address.
    pub moved: u64,
    /// Connections to peers that became a client's stream.
    pub spliced: u64,
}

/// Somebody with a 5-tuple and a password.
pub(crate) struct RigClient {
    pub(crate) five_tuple: FiveTuple,
    username: &'static str,
    keys: [IntegrityKey; 2],
    nonce: Vec<u8>,
}

pub(crate) struct TurnRig {
    pub(crate) server: TurnServer,
    pub(crate) now: Instant,
    pub(crate) clients: Vec<RigClient>,
    /// Sockets that are open.
    pub(crate) relays: BTreeMap<RelayKey, (SocketAddr, RelayProtocol)>,
    /// Sockets that were asked for and wait for an answer.
    pub(crate) asked: BTreeMap<RelayKey, (SocketAddr, RelayProtocol)>,
    /// Whether sockets are answered for at once, and how.
    pub(crate) answers: Answers,
    pub(crate) connections: Vec<PeerConnectionKey>,
    pub(crate) tickets: Vec<Vec<u8>>,
    pub(crate) tokens: Vec<Vec<u8>>,
    pub(crate) numbers: Vec<Vec<u8>>,
    pub(crate) relayed: Vec<SocketAddr>,
    pub(crate) reach: TurnReach,
    spliced: BTreeSet<PeerConnectionKey>,
    deadline: Instant,
    transactions: u32,
}

/// What becomes of sockets that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    Opened,
    Refused,
    Later,
}

pub(crate) fn address(text: &str) -> SocketAddr {
    match text.parse() {
        Ok(address) => address,
        Err(error) => panic!("{text}: {error}"),
    }
}

pub(crate) fn config() -> ServerConfig {
    let relay = |bind: &str, announce: &str| RelayAddress {
        bind: address(bind).ip(),
        announce: address(announce).ip(),
    };
    let users = ["alice", "bob"].map(|name| (name.to_owned(), name.into()));
    ServerConfig {
        realm: "r".into(),
        credentials: Credentials::new(users, []),
        nonce_life: Duration::from_secs(86_400),
        relay_addresses: vec![
            relay("10.0.0.2:0", "93.184.216.34:0"),
            relay("[2606:4700::9]:0", "[2606:4700::9]:0"),
        ],
        peers: PeerPolicy {
            own: ["10.0.0.2:0", "93.184.216.34:0", "[2606:4700::9]:0"].map(|own| address(own).ip()).to_vec(),
            services: vec![SERVICE],
            ..PeerPolicy::default()
        },
        port_first: 50_000,
        port_last: 50_011,
        quotas: Quotas { user_allocations: Some(4), ..Quotas::default() },
        ..ServerConfig::default()
    }
}

impl RigClient {
    fn new(transport: Transport, port: u16, username: &'static str) -> Self {
        let five_tuple = FiveTuple {
            transport,
            server: address("93.184.216.34:3478"),
            client: SocketAddr::from(([198, 51, 100, 1], port)),
        };
        let key = |algorithm| IntegrityKey::long_term(algorithm, username, "r", username);
        let keys = [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256].map(key);
        Self { five_tuple, username, keys, nonce: Vec::new() }
    }

    /// A request with the attributes that `write` adds, signed as RFC 8489 has it, or RFC 5389.
    pub(crate) fn compose(
        &self,
        method: Method,
        transaction: u32,
        is_modern: bool,
        write: impl for<'b> FnOnce(Writer<'b>) -> Writer<'b>,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut id = [0; 12];
        for (at, octet) in id.iter_mut().zip(transaction.to_be_bytes()) {
            *at = octet;
        }
        let writer = write(Writer::new(&mut bytes, Class::Request, method, &id))
            .attribute(USERNAME, self.username.as_bytes())
            .attribute(REALM, b"r")
            .attribute(NONCE, &self.nonce);
        let [md5, sha256] = &self.keys;
        match is_modern {
            false => writer.sign_sha1(md5),
            true => writer
                .attribute(0x8002, &[0, 2, 0, 0, 0, 1, 0, 0])
                .attribute(0x001d, &[0, 2, 0, 0])
                .sign_sha256(sha256)
                .fingerprint(),
        };
        bytes
    }
}

impl TurnRig {
    pub(crate) fn new() -> Self {
        use Transport::{Dtls, Tcp, Tls, Udp};
        let clients =
            [(Udp, "alice"), (Tcp, "bob"), (Tls, "alice"), (Udp, "bob"), (Tcp, "bob"), (Dtls, "alice")];
        let clients = clients
            .into_iter()
            .zip(1..)
            .map(|((transport, user), port)| RigClient::new(transport, port, user));
        let now = *BEGIN;
        let time_of_day = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mut rig = Self {
            server: TurnServer::new(config(), [7; 32], now, time_of_day),
            now,
            clients: clients.collect(),
            relays: BTreeMap::new(),
            asked: BTreeMap::new(),
            answers: Answers::Opened,
            connections: Vec::new(),
            tickets: Vec::new(),
            tokens: Vec::new(),
            numbers: Vec::new(),
            relayed: Vec::new(),
            reach: TurnReach::default(),
            spliced: BTreeSet::new(),
            deadline: now,
            transactions: 0,
        };
        for at in 0..rig.clients.len() {
            rig.request(at, Method::Refresh, false, |writer| writer);
        }
        rig
    }

    /// A request of a client.
    pub(crate) fn request(
        &mut self,
        client: usize,
        method: Method,
        is_modern: bool,
        write: impl for<'b> FnOnce(Writer<'b>) -> Writer<'b>,
    ) {
        self.transactions += 1;
        let transaction = self.transactions;
        self.repeat(client, method, is_modern, transaction, write);
    }

    /// A request under a number that may have been there before.
    pub(crate) fn repeat(
        &mut self,
        client: usize,
        method: Method,
        is_modern: bool,
        transaction: u32,
        write: impl for<'b> FnOnce(Writer<'b>) -> Writer<'b>,
    ) {
        let Some(client) = self.clients.get(client) else { return };
        let (five_tuple, bytes) = (client.five_tuple, client.compose(method, transaction, is_modern, write));
        self.input(Input::Client { five_tuple, payload: &bytes });
    }

    pub(crate) fn last_transaction(&self) -> u32 {
        self.transactions
    }

    pub(crate) fn input(&mut self, input: Input<'_>) {
        self.server.handle_input(self.now, input);
        self.drain();
        while self.answers != Answers::Later
            && let Some((relay, asked)) = self.asked.pop_first()
        {
            self.answer(relay, asked, self.answers == Answers::Opened);
        }
        self.server.check_invariants();
        let stats = self.server.stats();
        assert_eq!(stats.relays as usize, self.relays.len() + self.asked.len(), "sockets");
    }

    /// Says what became of a socket.
    pub(crate) fn answer(&mut self, relay: RelayKey, asked: (SocketAddr, RelayProtocol), is_open: bool) {
        let input = match is_open {
            true => {
                self.relays.insert(relay, asked);
                Input::RelayOpened { relay }
            }
            false => Input::RelayRefused { relay },
        };
        self.server.handle_input(self.now, input);
        self.drain();
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.deadline <= until {
            self.now = self.deadline;
            self.input(Input::Timeout);
        }
        self.now = until;
    }

    fn drain(&mut self) {
        let mut sent = Vec::new();
        loop {
            match self.server.poll_output() {
                Output::ToClient { five_tuple, payload, segment_bytes, .. } => {
                    let is_stream = five_tuple.transport.is_stream();
                    let messages = split(payload, segment_bytes, is_stream);
                    sent.extend(messages.map(|message| (five_tuple, message.to_vec())));
                }
                Output::ToPeer { relay, peer, payload, segment_bytes, .. } => {
                    let open = self.relays.get(&relay);
                    assert!(open.is_some_and(|(_, protocol)| *protocol == RelayProtocol::Udp), "{relay:?}");
                    check_peer(open.map(|(bind, _)| *bind), peer);
                    self.reach.to_peers += split(payload, segment_bytes, false).count() as u64;
                }
                Output::Event(event) => self.handle_event(event),
                Output::Timeout(at) => {
                    assert!(at > self.now, "to be called at once");
                    self.deadline = at;
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        sent.iter().for_each(|(five_tuple, message)| self.handle_message(*five_tuple, message));
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::OpenRelay { relay, address, protocol } => {
                let mut all = self.relays.values().chain(self.asked.values());
                assert!(!all.any(|(known, _)| *known == address), "{address} twice");
                self.asked.insert(relay, (address, protocol));
            }
            Event::CloseRelay { relay } => {
                let was = self.relays.remove(&relay).or_else(|| self.asked.remove(&relay));
                assert!(was.is_some(), "{relay:?} is not there");
            }
            Event::ConnectPeer { connection, relay, peer } => {
                let open = self.relays.get(&relay);
                assert!(open.is_some_and(|(_, protocol)| *protocol == RelayProtocol::Tcp), "{relay:?}");
                check_peer(open.map(|(bind, _)| *bind), peer);
                keep(&mut self.connections, connection);
            }
            Event::Splice { five_tuple, connection } => {
                assert!(five_tuple.transport.is_stream());
                assert!(self.spliced.insert(connection), "{connection:?} has a stream");
                self.reach.spliced += 1;
            }
            Event::ClosePeer { connection } => {
                self.spliced.remove(&connection);
            }
            Event::Allocated { .. } => self.reach.allocations += 1,
            _ => {}
        }
    }

    /// Checks what a client is sent, and keeps what it needs for later.
    fn handle_message(&mut self, five_tuple: FiveTuple, bytes: &[u8]) {
        assert!(bytes.len() <= MESSAGE_BYTES_MAX);
        if parse_channel_data(bytes).is_some() {
            self.reach.to_clients += 1;
            return;
        }
        let Ok(message) = Message::parse(bytes) else { panic!("no message: {bytes:?}") };
        match (message.class(), message.method()) {
            (Class::Indication, Some(Method::Data)) => {
                assert!(message.has(DATA) && message.xor_address(XOR_PEER_ADDRESS).is_some());
                self.reach.to_clients += 1;
            }
            (Class::Indication, Some(Method::ConnectionAttempt)) => {
                assert!(message.xor_address(XOR_PEER_ADDRESS).is_some());
            }
            (Class::Success, _) => {}
            (Class::Error, _) => {
                if let Some(nonce) = message.attribute(NONCE) {
                    assert!(bytes.len() <= UNPROVEN_BYTES_MAX);
                    let asking = self.clients.iter_mut().find(|client| client.five_tuple == five_tuple);
                    if let Some(client) = asking {
                        client.nonce = nonce.to_vec();
                    }
                }
            }
            other => panic!("{other:?}"),
        }
        for (kind, kept) in [
            (MOBILITY_TICKET, &mut self.tickets),
            (RESERVATION_TOKEN, &mut self.tokens),
            (CONNECTION_ID, &mut self.numbers),
        ] {
            if let Some(value) = message.attribute(kind) {
                keep(kept, value.to_vec());
            }
        }
        for relayed in message.xor_addresses(XOR_RELAYED_ADDRESS).flatten() {
            keep(&mut self.relayed, relayed);
        }
    }
}

/// Peers that nobody may reach are not reached, and peers are of the relay's family.
fn check_peer(relay: Option<SocketAddr>, peer: SocketAddr) {
    assert!(relay.is_some_and(|relay| relay.is_ipv4() == peer.is_ipv4()), "{peer} from {relay:?}");
    let is_public = match peer {
        SocketAddr::V4(peer) => {
            let ip = peer.ip();
            !(ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_multicast())
        }
        SocketAddr::V6(peer) => {
            let ip = peer.ip();
            !(ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_multicast())
                && ip.to_ipv4().is_none()
        }
    };
    assert!((is_public || peer == SERVICE) && peer.port() != 0, "{peer}");
}

fn keep<T>(kept: &mut Vec<T>, new: T) {
    if kept.len() < KEPT_MAX {
        kept.push(new);
    }
}

/// Datagrams of one size, or frames.
fn split(payload: &[u8], segment_bytes: usize, is_stream: bool) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(payload);
    std::iter::from_fn(move || {
        let now = rest?;
        let length = match is_stream {
            false => segment_bytes.min(now.len()),
            true => match next_frame(now) {
                Frame::Complete(length) => length,
                other => panic!("{other:?} in what a stream is sent"),
            },
        };
        let (first, after) = now.split_at(length);
        rest = Some(after).filter(|after| !after.is_empty());
        Some(first)
    })
}
