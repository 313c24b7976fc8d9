//! A world of clients, peers and sockets around a server, in virtual time.
//!
//! ```text
//!  Client ── request, signed ──► World ──► TurnServer
//!         ◄──── checked ────────       ◄──  outputs; relays are opened as the world likes
//! ```

mod allocate;
mod attacks;
mod authenticate;
mod data;
mod limits;
mod mobility;
mod operator;
mod permit;
mod random;
mod refresh;
mod tcp_relay;

use std::collections::{BTreeMap, BTreeSet};

use zynk_auth::TurnSecret;

use super::*;
use crate::config::{Quotas, Rate, RelayAddress};
use crate::credentials::{Credentials, user_of};
use crate::framing::{Frame, next_frame};
use crate::io::{PeerConnectionKey, Transport};
use crate::policy::PeerPolicy;
use crate::stun::attribute::*;
use crate::stun::{Class, IntegrityKey, IntegrityKind, Message, Method, PasswordAlgorithm, Writer};

/// When the world begins, in seconds since 1970.
const BEGIN_S: u64 = 1_800_000_000;
const UDP: [u8; 4] = [17, 0, 0, 0];
const TCP: [u8; 4] = [6, 0, 0, 0];
const IPV4: [u8; 4] = [1, 0, 0, 0];
const IPV6: [u8; 4] = [2, 0, 0, 0];
const TICKET_WANTED: Attribute = Attribute::Raw(MOBILITY_TICKET, Vec::new());

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn config() -> ServerConfig {
    let users = ["alice", "bob"].map(|name| (name.to_owned(), format!("{name}'s").into()));
    ServerConfig {
        credentials: Credentials::new(users, [TurnSecret::new("north")]),
        relay_addresses: vec![
            RelayAddress { bind: "10.0.0.2".parse().unwrap(), announce: "93.184.216.34".parse().unwrap() },
            RelayAddress { bind: "2606:4700::9".parse().unwrap(), announce: "2606:4700::9".parse().unwrap() },
        ],
        peers: PeerPolicy {
            own: ["10.0.0.2", "93.184.216.34", "2606:4700::9"].map(|ip| ip.parse().unwrap()).to_vec(),
            services: vec![address("127.0.0.1:7882")],
            ..PeerPolicy::default()
        },
        port_first: 50_000,
        port_last: 50_999,
        ..ServerConfig::default()
    }
}

/// What the server is in.
struct World {
    server: TurnServer,
    now: Instant,
    /// What is open, and where.
    sockets: BTreeMap<RelayKey, SocketAddr>,
    /// Ports that are somebody else's.
    foreign_ports: BTreeSet<u16>,
    /// How many sockets are refused from now on.
    refusals: usize,
    /// Addresses whose sockets were asked for.
    asked: Vec<SocketAddr>,
    to_clients: Vec<(FiveTuple, Vec<u8>)>,
    to_peers: Vec<ToPeer>,
    /// Without those about sockets.
    events: Vec<Event>,
    deadline: Instant,
}

#[derive(Clone, Debug, PartialEq)]
struct ToPeer {
    from: SocketAddr,
    peer: SocketAddr,
    data: Vec<u8>,
    dont_fragment: bool,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut config = config();
        change(&mut config);
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let time_of_day = SystemTime::UNIX_EPOCH + seconds(BEGIN_S);
        Self {
            server: TurnServer::new(config, [7; 32], now, time_of_day),
            now,
            sockets: BTreeMap::new(),
            foreign_ports: BTreeSet::new(),
            refusals: 0,
            asked: Vec::new(),
            to_clients: Vec::new(),
            to_peers: Vec::new(),
            events: Vec::new(),
            deadline: now,
        }
    }

    /// Hands something in, does what is asked for, and checks that the server is in order.
    fn input(&mut self, input: Input<'_>) {
        self.input_unchecked(input);
        self.server.check_invariants();
    }

    fn input_unchecked(&mut self, input: Input<'_>) {
        self.server.handle_input(self.now, input);
        loop {
            let answers = self.poll();
            if answers.is_empty() {
                return;
            }
            for (relay, is_open) in answers {
                let answer =
                    if is_open { Input::RelayOpened { relay } } else { Input::RelayRefused { relay } };
                self.server.handle_input(self.now, answer);
            }
        }
    }

    /// Takes all outputs; returns what became of the sockets that were asked for.
    fn poll(&mut self) -> Vec<(RelayKey, bool)> {
        let mut answers = Vec::new();
        loop {
            match self.server.poll_output() {
                Output::ToClient { five_tuple, payload, segment_bytes, .. } => {
                    let parts = split(payload, segment_bytes, five_tuple.transport.is_stream());
                    self.to_clients.extend(parts.into_iter().map(|part| (five_tuple, part)));
                }
                Output::ToPeer { relay, peer, payload, segment_bytes, dont_fragment, .. } => {
                    let from = self.sockets[&relay];
                    for data in split(payload, segment_bytes, false) {
                        self.to_peers.push(ToPeer { from, peer, data, dont_fragment });
                    }
                }
                Output::Event(Event::OpenRelay { relay, address, .. }) => {
                    self.asked.push(address);
                    let is_taken = self.sockets.values().any(|open| *open == address);
                    assert!(!is_taken, "{address} twice");
                    let is_refused = self.refusals > 0 || self.foreign_ports.contains(&address.port());
                    self.refusals = self.refusals.saturating_sub(1);
                    if !is_refused {
                        self.sockets.insert(relay, address);
                    }
                    answers.push((relay, !is_refused));
                }
                Output::Event(Event::CloseRelay { relay }) => {
                    assert!(self.sockets.remove(&relay).is_some(), "{relay:?} is not open");
                }
                Output::Event(event) => self.events.push(event),
                Output::Timeout(at) => {
                    assert!(at > self.now, "the server wants to be called at once");
                    self.deadline = at;
                    return answers;
                }
            }
        }
    }

    /// Lets time pass, with the time outs that the server asks for.
    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.deadline <= until {
            self.now = self.deadline;
            self.input(Input::Timeout);
        }
        self.now = until;
    }

    /// A datagram of a peer at a relayed address, as the relay announces it.
    fn peer_sends(&mut self, relayed: SocketAddr, peer: &str, payload: &[u8]) {
        let relay = self.server.announced[&relayed];
        self.input(Input::Peer { relay, peer: address(peer), payload });
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn take_to_peers(&mut self) -> Vec<ToPeer> {
        std::mem::take(&mut self.to_peers)
    }

    /// Data that went to peers, without the rest.
    fn take_peers_data(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        self.take_to_peers().into_iter().map(|sent| (sent.peer, sent.data)).collect()
    }

    fn has_refused(&self, reason: RefusalReason) -> bool {
        self.events
            .iter()
            .any(|event| matches!(event, Event::Refused { reason: known, .. } if *known == reason))
    }

    /// Nothing at all is left.
    fn assert_empty(&self) {
        assert!(self.server.is_idle() && self.sockets.is_empty());
        let stats = self.server.stats();
        assert_eq!((stats.allocations, stats.relays, stats.users), (0, 0, 0));
        assert!(self.server.clients.is_empty() && self.server.tickets.is_empty());
    }
}

/// Datagrams of one size, or frames.
fn split(payload: &[u8], segment_bytes: usize, is_stream: bool) -> Vec<Vec<u8>> {
    if !is_stream {
        let parts = payload.chunks(segment_bytes.max(1)).map(<[u8]>::to_vec);
        return if payload.is_empty() { vec![Vec::new()] } else { parts.collect() };
    }
    let mut frames = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        let Frame::Complete(length) = next_frame(rest) else { panic!("no whole frames: {rest:?}") };
        frames.push(rest[..length].to_vec());
        rest = &rest[length..];
    }
    frames
}

/// An attribute of a request.
#[derive(Clone, Debug)]
enum Attribute {
    Raw(u16, Vec<u8>),
    Peer(SocketAddr),
}

fn raw(kind: u16, value: impl AsRef<[u8]>) -> Attribute {
    Attribute::Raw(kind, value.as_ref().to_vec())
}

fn number(kind: u16, value: u32) -> Attribute {
    raw(kind, value.to_be_bytes())
}

fn peer(text: &str) -> Attribute {
    Attribute::Peer(address(text))
}

fn channel(number: u16) -> Attribute {
    let [high, low] = number.to_be_bytes();
    raw(CHANNEL_NUMBER, [high, low, 0, 0])
}

fn udp() -> Attribute {
    raw(REQUESTED_TRANSPORT, UDP)
}

fn write_attributes<'b>(writer: Writer<'b>, attributes: &[Attribute]) -> Writer<'b> {
    attributes.iter().fold(writer, |writer, attribute| match attribute {
        Attribute::Raw(kind, value) => writer.attribute(*kind, value),
        Attribute::Peer(address) => writer.xor_address(XOR_PEER_ADDRESS, *address),
    })
}

/// Somebody with a 5-tuple and credentials, as a client behaves.
#[derive(Clone, Debug)]
struct Client {
    five_tuple: FiveTuple,
    username: String,
    password: String,
    /// None: it knows RFC 5389 alone.
    algorithm: Option<PasswordAlgorithm>,
    integrity: IntegrityKind,
    has_fingerprint: bool,
    nonce: Vec<u8>,
    transactions: u64,
}

impl Client {
    fn new(transport: Transport, port: u16) -> Self {
        let client = SocketAddr::from(([198, 51, 100, 1], port));
        Self {
            five_tuple: FiveTuple { transport, server: address("93.184.216.34:3478"), client },
            username: "alice".into(),
            password: "alice's".into(),
            algorithm: None,
            integrity: IntegrityKind::Sha1,
            has_fingerprint: false,
            nonce: Vec::new(),
            transactions: u64::from(port) << 32,
        }
    }

    fn udp(port: u16) -> Self {
        Self::new(Transport::Udp, port)
    }

    fn tcp(port: u16) -> Self {
        Self::new(Transport::Tcp, port)
    }

    fn named(mut self, name: &str) -> Self {
        self.username = name.into();
        self.password = format!("{name}'s");
        self
    }

    /// With credentials of the REST draft that last so long from the world's begin.
    fn ephemeral(mut self, user: &str, ttl: Duration) -> Self {
        let now = SystemTime::UNIX_EPOCH + seconds(BEGIN_S);
        let made = TurnSecret::new("north").credentials(user, ttl, now);
        self.password = secrecy::ExposeSecret::expose_secret(&made.credential).to_owned();
        self.username = made.username;
        self
    }

    /// As RFC 8489 wants it.
    fn modern(mut self) -> Self {
        self.algorithm = Some(PasswordAlgorithm::Sha256);
        self.integrity = IntegrityKind::Sha256;
        self
    }

    fn at(mut self, text: &str) -> Self {
        self.five_tuple.client = address(text);
        self
    }

    fn key(&self) -> IntegrityKey {
        let algorithm = self.algorithm.unwrap_or(PasswordAlgorithm::Md5);
        IntegrityKey::long_term(algorithm, &self.username, "zynk", &self.password)
    }

    /// A request with credentials, once there is a nonce.
    fn compose(&mut self, method: Method, attributes: &[Attribute]) -> Vec<u8> {
        self.transactions += 1;
        let mut transaction = [0x5a; 12];
        transaction[..8].copy_from_slice(&self.transactions.to_be_bytes());
        self.compose_again(method, attributes, transaction)
    }

    fn compose_again(&self, method: Method, attributes: &[Attribute], transaction: [u8; 12]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, Class::Request, method, &transaction);
        writer = write_attributes(writer, attributes);
        if !self.nonce.is_empty() {
            writer = writer.attribute(USERNAME, self.username.as_bytes());
            writer = writer.attribute(REALM, b"zynk").attribute(NONCE, &self.nonce);
            if let Some(algorithm) = self.algorithm {
                writer = writer.attribute(PASSWORD_ALGORITHMS, &answer::ALGORITHMS);
                writer = writer.attribute(PASSWORD_ALGORITHM, &[0, algorithm as u8, 0, 0]);
            }
            writer = writer.sign(self.integrity, &self.key());
        }
        if self.has_fingerprint {
            writer.fingerprint();
        }
        bytes
    }

    /// Sends bytes and returns the answer, if there is one.
    fn send(&self, world: &mut World, bytes: &[u8]) -> Option<Reply> {
        world.input(Input::Client { five_tuple: self.five_tuple, payload: bytes });
        self.reply_to(world, bytes)
    }

    fn reply_to(&self, world: &mut World, request: &[u8]) -> Option<Reply> {
        let is_reply = |(to, bytes): &(FiveTuple, Vec<u8>)| {
            *to == self.five_tuple
                && bytes[0] & 0xc0 == 0
                && bytes[0] & 1 == 1
                && bytes[4..20] == request[4..20]
        };
        let at = world.to_clients.iter().position(is_reply)?;
        Some(Reply(world.to_clients.remove(at).1))
    }

    /// Asks without answering a challenge.
    fn ask_once(&mut self, world: &mut World, method: Method, attributes: &[Attribute]) -> Option<Reply> {
        let bytes = self.compose(method, attributes);
        let is_signed = !self.nonce.is_empty();
        let reply = self.send(world, &bytes)?;
        let message = reply.message();
        assert_eq!(message.has_fingerprint(), self.has_fingerprint);
        assert_eq!(message.method(), Some(method));
        // What is said to who is known is signed, and 401 and 438 are not.
        if is_signed && ![401, 438].contains(&reply.code()) {
            assert_eq!(message.integrity_kind(), Some(self.integrity), "{}", reply.code());
            assert!(message.is_signed_with(&self.key()), "{}", reply.code());
        }
        Some(reply)
    }

    /// Asks, and answers up to two challenges.
    fn ask(&mut self, world: &mut World, method: Method, attributes: &[Attribute]) -> Reply {
        for _ in 0..2 {
            let reply = self.ask_once(world, method, attributes).unwrap();
            let message = reply.message();
            match (reply.code(), message.attribute(NONCE)) {
                (401 | 438, Some(nonce)) if nonce != self.nonce => self.nonce = nonce.to_vec(),
                _ => return reply,
            }
        }
        self.ask_once(world, method, attributes).unwrap()
    }

    /// Makes a plain allocation and returns its address.
    fn allocate(&mut self, world: &mut World) -> SocketAddr {
        self.allocate_with(world, &[]).relayed()[0]
    }

    fn allocate_with(&mut self, world: &mut World, attributes: &[Attribute]) -> Reply {
        let attributes = [&[udp()], attributes].concat();
        let reply = self.ask(world, Method::Allocate, &attributes);
        assert_eq!(reply.code(), 0);
        reply
    }

    fn refresh(&mut self, world: &mut World, attributes: &[Attribute]) -> Reply {
        self.ask(world, Method::Refresh, attributes)
    }

    fn permit(&mut self, world: &mut World, peers: &[&str]) -> u16 {
        let peers: Vec<_> = peers.iter().map(|text| peer(text)).collect();
        self.ask(world, Method::CreatePermission, &peers).code()
    }

    fn bind(&mut self, world: &mut World, number: u16, to: &str) -> u16 {
        self.ask(world, Method::ChannelBind, &[channel(number), peer(to)]).code()
    }

    /// Sends a Send indication.
    fn send_to(&mut self, world: &mut World, to: &str, data: &[u8]) {
        self.indicate(world, Method::Send, &[peer(to), raw(DATA, data)]);
    }

    fn indicate(&mut self, world: &mut World, method: Method, attributes: &[Attribute]) {
        let mut bytes = Vec::new();
        write_attributes(Writer::new(&mut bytes, Class::Indication, method, &[3; 12]), attributes);
        world.input(Input::Client { five_tuple: self.five_tuple, payload: &bytes });
    }

    /// Sends on a channel.
    fn send_on(&self, world: &mut World, number: u16, data: &[u8]) {
        let mut bytes = number.to_be_bytes().to_vec();
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
        if self.five_tuple.transport.is_stream() {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        world.input(Input::Client { five_tuple: self.five_tuple, payload: &bytes });
    }

    /// What the client got and has not looked at.
    fn take_received(&self, world: &mut World) -> Vec<Received> {
        let ours = world.to_clients.extract_if(.., |(to, _)| *to == self.five_tuple);
        ours.map(|(_, bytes)| Received::read(&bytes)).collect()
    }

    fn close(&self, world: &mut World) {
        world.input(Input::ClientClosed { five_tuple: self.five_tuple });
    }
}

/// What a client got that is no answer.
#[derive(Clone, Debug, PartialEq)]
enum Received {
    /// Number, data, and how much padding there was.
    Channel(u16, Vec<u8>, usize),
    Data(SocketAddr, Vec<u8>),
    /// RFC 6062: the connection's number.
    Attempt(SocketAddr, u32),
    Other(Vec<u8>),
}

impl Received {
    fn read(bytes: &[u8]) -> Self {
        if let Some((number, data)) = crate::parse_channel_data(bytes) {
            return Self::Channel(number.get(), data.to_vec(), bytes.len() - 4 - data.len());
        }
        let message = Message::parse(bytes).unwrap();
        match (message.class(), message.method(), message.xor_address(XOR_PEER_ADDRESS)) {
            (Class::Indication, Some(Method::Data), Some(peer)) => {
                Self::Data(peer, message.attribute(DATA).unwrap().to_vec())
            }
            (Class::Indication, Some(Method::ConnectionAttempt), Some(peer)) => {
                Self::Attempt(peer, message.number(CONNECTION_ID).unwrap())
            }
            _ => Self::Other(bytes.to_vec()),
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
struct Reply(Vec<u8>);

impl Reply {
    fn message(&self) -> Message<'_> {
        Message::parse(&self.0).unwrap()
    }

    /// The error code; 0 for success.
    fn code(&self) -> u16 {
        let message = self.message();
        match (message.class(), message.attribute(ERROR_CODE)) {
            (Class::Success, None) => 0,
            (Class::Error, Some([0, 0, hundreds, rest])) => u16::from(*hundreds) * 100 + u16::from(*rest),
            other => panic!("{other:?}"),
        }
    }

    fn relayed(&self) -> Vec<SocketAddr> {
        self.message().xor_addresses(XOR_RELAYED_ADDRESS).map(Option::unwrap).collect()
    }

    fn lifetime(&self) -> u32 {
        self.message().number(LIFETIME).unwrap()
    }

    fn value(&self, kind: u16) -> Vec<u8> {
        self.message().attribute(kind).unwrap().to_vec()
    }

    fn ticket(&self) -> Attribute {
        raw(MOBILITY_TICKET, self.value(MOBILITY_TICKET))
    }
}
