//! Shards of one node with their time, drained after every input, and what is under way between them.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::LazyLock,
    time::{Duration, Instant},
};

use zynk_protocol::{
    CandidatePolicy, ConnectionId, ConnectionRole, NodeAction, NodeEvent, OpenConnection, ParticipantSid,
    RoomSid,
};
use zynk_sfu_core::{
    Certificate, Input, Output, RelayBatch, Shard, ShardConfig, ShardIndex, Transport, fuzzing,
};

use crate::{
    shard_client::Client,
    stun::{Nomination, binding_request},
};

/// Outputs of one input: more than this is a shard that never rests.
const OUTPUTS_MAX: usize = 16_384;
/// Calls that shards may want in no time, and as many more as there are milliseconds: what they have to do at once is
/// spread over several turns.
const CALLS_MAX: u128 = 64;
/// Batches between two shards; a link that is full drops media and joins the rest.
const BATCHES_MAX: usize = 64;
/// Octets of a packet that is sent at most: a received one of 1500, and what a header adds to it.
const MEDIA_BYTES_MAX: usize = 1800;

/// Made once: its key costs more than everything else here.
static CERTIFICATE: LazyLock<Option<Certificate>> = LazyLock::new(|| Certificate::generate().ok());
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A shard and what it has to say to the other.
pub(crate) struct Side {
    pub(crate) shard: Shard,
    pub(crate) wire: VecDeque<RelayBatch>,
    /// When it wants to be called.
    wake_at: Instant,
    /// It was given something since its outputs were taken.
    fed: bool,
}

pub(crate) struct Rig {
    pub(crate) sides: Vec<Side>,
    now: Instant,
    /// User fragment and password that each connection was told last.
    credentials: BTreeMap<ConnectionId, (String, String)>,
    /// The last offer of the SFU to each connection.
    offers: BTreeMap<ConnectionId, (u32, String)>,
    clients: BTreeMap<ConnectionId, Client>,
    clients_made: u32,
    /// RTP packets that clients received which are no more.
    received_before: u64,
    /// Outputs are left where they are for now, as when a worker takes several inputs in one turn.
    pub(crate) holds_back: bool,
    /// Packets of batches that come twice.
    pub(crate) doubled: u64,
}

/// The number of a shard in user fragments and between shards.
pub(crate) fn index(side: usize) -> ShardIndex {
    ShardIndex(3 + side as u8)
}

impl Rig {
    pub(crate) fn new(shards: usize) -> Self {
        let Some(certificate) = CERTIFICATE.clone() else { panic!("no certificate") };
        let side = |number: usize| {
            let config = ShardConfig {
                index: index(number),
                udp: vec![local()],
                tcp: vec![local()],
                certificate: certificate.clone(),
                unix_time: Duration::from_secs(1_750_000_000),
                protect_audio: true,
                seed: 7,
            };
            let Ok(shard) = Shard::new(config, *START) else { panic!("no shard") };
            Side { shard, wire: VecDeque::new(), wake_at: *START, fed: false }
        };
        Self {
            sides: (0..shards).map(side).collect(),
            now: *START,
            credentials: BTreeMap::new(),
            offers: BTreeMap::new(),
            clients: BTreeMap::new(),
            clients_made: 0,
            received_before: 0,
            holds_back: false,
            doubled: 0,
        }
    }

    /// Feeds one input and drains; returns how many datagrams were to be sent.
    pub(crate) fn input(&mut self, side: usize, input: Input<'_>) -> usize {
        let now = self.now;
        let Some(this) = self.sides.get_mut(side) else { return 0 };
        this.fed = true;
        this.shard.handle_input(now, input);
        if self.holds_back { 0 } else { self.drain(side) }
    }

    pub(crate) fn drain(&mut self, side: usize) -> usize {
        let now = self.now;
        let Some(this) = self.sides.get_mut(side) else { return 0 };
        let mut transmits = 0;
        for _ in 0..OUTPUTS_MAX {
            match this.shard.poll_output() {
                Output::Transmit(transmit) => {
                    assert!(transmit.payload.len() <= 65_535);
                    let (way, to) = (transmit.transport, transmit.destination);
                    for datagram in transmit.datagrams() {
                        transmits += 1;
                        if matches!(datagram.first(), Some(128..=191)) {
                            assert!(datagram.len() <= MEDIA_BYTES_MAX, "{} octets of media", datagram.len());
                            let mut clients = self.clients.values_mut();
                            let opened = clients
                                .any(|client| client.is_reached(way, to) && client.receive(now, datagram));
                            assert!(opened, "media that nobody can open");
                        }
                    }
                }
                Output::Event { event, .. } => {
                    let (connection, sdp) = match event {
                        NodeEvent::Answer { connection, sdp, .. } => (connection, sdp),
                        NodeEvent::Offer { connection, offer_id, sdp, .. } => {
                            self.offers.insert(connection, (offer_id, sdp.clone()));
                            (connection, sdp)
                        }
                        _ => continue,
                    };
                    let value = |name: &str| {
                        let (_, rest) = sdp.split_once(name)?;
                        rest.split("\r\n").next().map(str::to_owned)
                    };
                    let credentials = value("a=ice-ufrag:").zip(value("a=ice-pwd:"));
                    self.credentials.extend(credentials.map(|credentials| (connection, credentials)));
                }
                Output::Relay { to, batch } => {
                    assert!(!batch.is_empty(), "a batch that says nothing");
                    // Batches for a shard that is not there go nowhere.
                    if to == index(side ^ 1) {
                        this.wire.push_back(batch);
                    }
                }
                Output::Timeout(at) => {
                    assert!(at >= now, "a time that is over");
                    assert_eq!(this.shard.stats().sessions_panicked, 0, "a session panicked");
                    this.wake_at = at;
                    this.fed = false;
                    if this.wire.len() > BATCHES_MAX {
                        self.join(side);
                    }
                    return transmits;
                }
            }
        }
        panic!("more than {OUTPUTS_MAX} outputs of one input");
    }

    /// Whether outputs of some shard were not taken yet.
    pub(crate) fn owes_output(&self) -> bool {
        self.sides.iter().any(|side| side.fed)
    }

    pub(crate) fn drain_all(&mut self) {
        for side in 0..self.sides.len() {
            self.drain(side);
        }
    }

    pub(crate) fn command(&mut self, side: usize, room: &RoomSid, action: NodeAction) -> usize {
        self.input(side, Input::Command { room: room.clone(), action })
    }

    pub(crate) fn open(&mut self, side: usize, room: &RoomSid, id: u64, role: ConnectionRole, late: bool) {
        self.command(
            side,
            room,
            NodeAction::OpenConnection(OpenConnection {
                connection: ConnectionId(id),
                participant: ParticipantSid::from_random(id.into()),
                role,
                late_binding: late,
                candidates: CandidatePolicy::All,
            }),
        );
    }

    /// User fragment and password of our side of a connection.
    pub(crate) fn credentials_of(&self, id: u64) -> Option<(String, String)> {
        self.credentials.get(&ConnectionId(id)).cloned()
    }

    /// A client shows a path, with a binding request that nominates it or not. If it `moves`, it sends from there from
    /// now on.
    pub(crate) fn show_path(
        &mut self,
        side: usize,
        id: u64,
        (transport, port): (Transport, u16),
        (bits, attributes): (u8, &[u8]),
    ) {
        let Some(credentials) = self.credentials_of(id) else { return };
        if let Some(client) = self.clients.get_mut(&ConnectionId(id)) {
            client.show((transport, remote(port)), bits & 2 != 0);
        }
        let request = binding_request(&credentials, Nomination::of(bits), attributes);
        self.datagram(side, transport, port, &request);
    }

    /// The last offer of the SFU to a connection.
    pub(crate) fn offer_to(&self, id: u64) -> Option<(u32, String)> {
        self.offers.get(&ConnectionId(id)).cloned()
    }

    /// Has a connection come up, with keys of its own.
    pub(crate) fn connect(&mut self, side: usize, id: u64, transport: Transport) {
        self.drain_all();
        let remote = remote(40_000 + id as u16);
        let Some((client, material)) = Client::new(self.clients_made, (transport, remote)) else {
            panic!("no keys")
        };
        let now = self.now;
        let Some(this) = self.sides.get_mut(side) else { return };
        // It comes up now, not when the shard was last told the time.
        this.shard.handle_input(now, Input::Timeout);
        let id = ConnectionId(id);
        // What it says at once is sealed with the new keys.
        let previous = self.clients.remove(&id);
        if fuzzing::connect(&mut this.shard, id, (transport, local(), remote), material) {
            self.clients_made += 1;
            self.received_before += previous.map_or(0, |client| client.rtp_received());
            self.clients.insert(id, client);
        } else if let Some(previous) = previous {
            self.clients.insert(id, previous);
        }
        self.drain(side);
    }

    /// Sends what a client makes, if it makes anything.
    pub(crate) fn send(
        &mut self,
        side: usize,
        id: u64,
        make: impl FnOnce(&mut Client, Instant) -> Option<Vec<u8>>,
    ) {
        let now = self.now;
        let Some(client) = self.clients.get_mut(&ConnectionId(id)) else { return };
        if let Some(packet) = make(client, now) {
            let (transport, address) = client.path;
            self.datagram(side, transport, address.port(), &packet);
        }
    }

    pub(crate) fn datagram(&mut self, side: usize, transport: Transport, port: u16, payload: &[u8]) -> usize {
        let mut payload = payload.to_vec();
        let source = remote(port);
        let (destination, arrived) = (local(), self.now);
        self.input(side, Input::Datagram { transport, source, destination, arrived, payload: &mut payload })
    }

    /// One call after a long time.
    pub(crate) fn jump(&mut self, by: Duration) {
        self.drain_all();
        self.now += by;
        for side in 0..self.sides.len() {
            self.input(side, Input::Timeout);
        }
    }

    /// Time passes, and each shard is called when it wants to be.
    pub(crate) fn advance(&mut self, by: Duration) {
        self.holds_back = false;
        self.drain_all();
        let end = self.now + by;
        let mut calls = 0;
        let wake = |this: &Self| {
            let sides = this.sides.iter().enumerate();
            sides.map(|(side, this)| (this.wake_at, side)).min().filter(|(at, _)| *at <= end)
        };
        while let Some((at, side)) = wake(self) {
            calls += 1;
            assert!(calls <= CALLS_MAX + by.as_millis(), "{calls} calls in {by:?}");
            self.now = at.max(self.now);
            self.input(side, Input::Timeout);
        }
        self.now = end;
    }

    /// Hands the first batch of a shard's wire to the other.
    pub(crate) fn deliver(&mut self, from: usize) {
        let batch = self.sides.get_mut(from).and_then(|this| this.wire.pop_front());
        if let Some(batch) = batch {
            self.input(from ^ 1, Input::Relay { from: index(from), batch });
        }
    }

    /// Hands over everything that shards have to say to each other, answers included.
    pub(crate) fn settle(&mut self) {
        self.drain_all();
        for _ in 0..OUTPUTS_MAX {
            let Some(from) = self.sides.iter().position(|this| !this.wire.is_empty()) else { return };
            self.deliver(from);
            self.drain_all();
        }
        panic!("shards that talk without end");
    }

    /// A link that is full: media is dropped, and what is left goes with what comes next.
    pub(crate) fn join(&mut self, from: usize) {
        let Some(this) = self.sides.get_mut(from) else { return };
        let joined = this.wire.drain(..).reduce(|mut kept, later| {
            kept.append(later);
            kept.drop_media();
            assert_eq!(kept.packets(), 0);
            kept
        });
        this.wire.extend(joined.filter(|batch| !batch.is_empty()));
    }

    /// RTP packets that clients received.
    pub(crate) fn received(&self) -> u64 {
        self.received_before + self.clients.values().map(Client::rtp_received).sum::<u64>()
    }
}

pub(crate) fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7882))
}

pub(crate) fn remote(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 2], port))
}
