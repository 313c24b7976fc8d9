//! Two shards with a share of one room each, their clients, and the link between the shards.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use zynk_protocol::{
    CandidatePolicy, ConnectionId, ConnectionRole, ConnectionState, ExpectedTrack, MediaKind, NodeAction,
    NodeEvent, OpenConnection, ParticipantSid, RoomSid, SubscribeTrack, SubscriptionSettings, TrackSource,
};
use zynk_sfu_core::{
    Certificate, Input, Output, RelayBatch, Shard, ShardConfig, ShardIndex, ShardStats, Transmit, Transport,
};

use crate::client::{Client, MID, Offer, RID, VP8};

/// Where the shards are; clients try both, and one of them knows their user fragment.
pub const SERVER: ([u8; 4], u16) = ([10, 0, 0, 1], 7882);
pub const SERVER_OTHER: ([u8; 4], u16) = ([10, 0, 0, 2], 7882);
/// The shards.
pub const A: usize = 0;
pub const B: usize = 1;
/// Publishes, on A.
pub const ALICE: ConnectionId = ConnectionId(1);
/// Receives on A.
pub const BOB: ConnectionId = ConnectionId(2);
/// Receive on B.
pub const CAROL: ConnectionId = ConnectionId(3);
pub const DAVE: ConnectionId = ConnectionId(4);
pub const ERIN: ConnectionId = ConnectionId(5);
pub const VIDEO: &str = "TR_video";
const STEP: Duration = Duration::from_millis(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub transport: Transport,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub payload: Vec<u8>,
}

impl Datagram {
    pub fn is_media(&self) -> bool {
        matches!(self.payload.first(), Some(128..=191))
    }
}

/// What the link from one shard to another does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Open,
    /// Takes nothing: the shell drops media, and keeps words for later.
    Full,
}

pub struct Call {
    pub now: Instant,
    pub shards: [Shard; 2],
    pub clients: Vec<Client>,
    pub events: [Vec<NodeEvent>; 2],
    pub link: Link,
    /// By the receiving shard.
    kept: [RelayBatch; 2],
    /// Packets that crossed the link, and those that it lost.
    pub crossed: usize,
    pub lost: usize,
    places: BTreeMap<ConnectionId, usize>,
    wire: VecDeque<Datagram>,
    sequences: BTreeMap<u32, u16>,
}

impl Call {
    pub fn new() -> Self {
        static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let shard = |index: u8, address: ([u8; 4], u16)| {
            let config = ShardConfig {
                index: ShardIndex(index),
                udp: vec![address.into()],
                tcp: Vec::new(),
                certificate: CERTIFICATE.get_or_init(|| Certificate::generate().unwrap()).clone(),
                unix_time: Duration::from_secs(1_750_000_000),
                protect_audio: false,
                seed: 7 + u64::from(index),
            };
            Shard::new(config, now).unwrap()
        };
        Self {
            now,
            shards: [shard(0, SERVER), shard(1, SERVER_OTHER)],
            clients: Vec::new(),
            events: [Vec::new(), Vec::new()],
            link: Link::Open,
            kept: [RelayBatch::default(), RelayBatch::default()],
            crossed: 0,
            lost: 0,
            places: BTreeMap::new(),
            wire: VecDeque::new(),
            sequences: BTreeMap::new(),
        }
    }

    /// A spread room in which Alice, on A, publishes a camera in two encodings. Everybody is connected.
    pub fn with_viewers(viewers: &[(ConnectionId, usize)]) -> Self {
        let mut call = Self::new();
        call.spread(&[A, B]);
        call.publish();
        for (viewer, shard) in viewers {
            call.view(*viewer, *shard);
        }
        call.connect();
        call
    }

    /// Tells shards in which the room is.
    pub fn spread(&mut self, over: &[usize]) {
        for shard in over {
            let shards = over.iter().map(|index| ShardIndex(*index as u8)).collect();
            self.input(*shard, Input::Siblings { room: room(), shards });
        }
        self.settle();
    }

    pub fn input(&mut self, shard: usize, input: Input<'_>) {
        self.shards[shard].handle_input(self.now, input);
        self.drain(shard);
    }

    pub fn command(&mut self, shard: usize, action: NodeAction) {
        self.input(shard, Input::Command { room: room(), action });
        self.settle();
    }

    pub fn open(&mut self, connection: ConnectionId, shard: usize) {
        self.places.insert(connection, shard);
        self.command(
            shard,
            NodeAction::OpenConnection(OpenConnection {
                connection,
                participant: ParticipantSid::from_random(u128::from(connection.0)),
                role: ConnectionRole::Single,
                late_binding: false,
                candidates: CandidatePolicy::All,
            }),
        );
    }

    pub fn publish(&mut self) {
        self.open(ALICE, A);
        self.expect();
        self.join(ALICE, &camera());
    }

    pub fn expect(&mut self) {
        let expected = ExpectedTrack {
            connection: ALICE,
            track: VIDEO.parse().unwrap(),
            cids: vec!["camera".to_owned()],
            kind: MediaKind::Video,
            source: TrackSource::Camera,
            codec: None,
            red: true,
            dtx: true,
            stereo: false,
            muted: false,
            encrypted: false,
            backup: None,
        };
        self.command(A, NodeAction::ExpectTrack(expected));
    }

    pub fn view(&mut self, viewer: ConnectionId, shard: usize) {
        self.open(viewer, shard);
        self.subscribe(viewer);
        self.join(viewer, &Offer::receiving());
    }

    pub fn subscribe(&mut self, connection: ConnectionId) {
        let subscribe = SubscribeTrack {
            connection,
            track: VIDEO.parse().unwrap(),
            stream_id: "PA_x|TR_video".to_owned(),
            settings: SubscriptionSettings::default(),
        };
        self.command(self.places[&connection], NodeAction::Subscribe(subscribe));
    }

    pub fn unsubscribe(&mut self, connection: ConnectionId) {
        let track = VIDEO.parse().unwrap();
        self.command(self.places[&connection], NodeAction::Unsubscribe { connection, track });
    }

    /// As signaling does: every shard of the room is told.
    pub fn mute(&mut self, muted: bool) {
        for shard in [B, A] {
            self.command(shard, NodeAction::MuteTrack { track: VIDEO.parse().unwrap(), muted });
        }
    }

    /// A client offers, and takes the answer.
    pub fn join(&mut self, id: ConnectionId, offer: &Offer) {
        let mut client = Client::new(id, offer, self.now);
        let sdp = client.offer(offer);
        client.accept_answer(&self.negotiate(id, sdp));
        self.clients.push(client);
    }

    /// Hands an offer to the shard that has the connection, and returns its answer.
    pub fn negotiate(&mut self, id: ConnectionId, sdp: String) -> String {
        let shard = self.places[&id];
        self.command(shard, NodeAction::RemoteOffer { connection: id, offer_id: 1, sdp });
        let is_answer =
            |event: &NodeEvent| matches!(event, NodeEvent::Answer { connection, .. } if *connection == id);
        let position = self.events[shard].iter().position(is_answer);
        let position = position.unwrap_or_else(|| panic!("no answer in {:?}", self.events[shard]));
        let NodeEvent::Answer { sdp, .. } = self.events[shard].remove(position) else { unreachable!() };
        sdp
    }

    /// A receiver offers its section again, because its subscriptions changed.
    pub fn renegotiate(&mut self, id: ConnectionId) {
        let offer = self.client(id).offer(&Offer::receiving());
        self.negotiate(id, offer);
    }

    pub fn client(&mut self, id: ConnectionId) -> &mut Client {
        self.clients.iter_mut().find(|client| client.id == id).unwrap()
    }

    pub fn stats(&self, shard: usize) -> ShardStats {
        self.shards[shard].stats()
    }

    pub fn connect(&mut self) {
        for _ in 0..200 {
            self.tick();
            let connected =
                NodeEvent::ConnectionState { connection: ALICE, state: ConnectionState::Connected };
            let is_connected = |client: &Client| {
                let NodeEvent::ConnectionState { state, .. } = connected else { unreachable!() };
                let event = NodeEvent::ConnectionState { connection: client.id, state };
                client.connected && self.events[self.places[&client.id]].contains(&event)
            };
            if self.clients.iter().all(is_connected) {
                return;
            }
        }
        panic!("not everybody is connected");
    }

    /// Lets time pass, and delivers what is sent.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while self.now < end {
            self.tick();
        }
    }

    fn tick(&mut self) {
        self.now += STEP;
        for shard in [A, B] {
            self.input(shard, Input::Timeout);
        }
        for client in &mut self.clients {
            client.tick(self.now, &mut self.wire);
        }
        self.settle();
    }

    /// Delivers everything that is under way, and what the link kept if it takes something again.
    pub fn settle(&mut self) {
        loop {
            for to in [A, B] {
                if self.link == Link::Open && !self.kept[to].is_empty() {
                    let batch = std::mem::take(&mut self.kept[to]);
                    self.hand_over(to, batch);
                }
            }
            let Some(datagram) = self.wire.pop_front() else { return };
            if let Some(shard) = shard_at(datagram.destination) {
                let Datagram { transport, source, destination, mut payload } = datagram;
                let (arrived, payload) = (self.now, &mut payload[..]);
                self.input(shard, Input::Datagram { transport, source, destination, arrived, payload });
            } else if let Some(client) =
                self.clients.iter_mut().find(|client| client.address == datagram.destination)
            {
                client.receive(self.now, datagram, &mut self.wire);
            }
        }
    }

    fn drain(&mut self, shard: usize) {
        let mut relayed = Vec::new();
        loop {
            match self.shards[shard].poll_output() {
                Output::Event { event, .. } => self.events[shard].push(event),
                Output::Transmit(transmit) => {
                    let Transmit { transport, source, destination, .. } = transmit;
                    for payload in transmit.datagrams() {
                        let payload = payload.to_vec();
                        self.wire.push_back(Datagram { transport, source, destination, payload });
                    }
                }
                Output::Relay { to, batch } => relayed.push((usize::from(to.0), batch)),
                Output::Timeout(_) => break,
            }
        }
        for (to, mut batch) in relayed {
            match self.link {
                Link::Open => {
                    let mut kept = std::mem::take(&mut self.kept[to]);
                    kept.append(batch);
                    self.hand_over(to, kept);
                }
                Link::Full => {
                    self.lost += batch.drop_media();
                    self.kept[to].append(batch);
                }
            }
        }
    }

    fn hand_over(&mut self, to: usize, batch: RelayBatch) {
        self.crossed += batch.packets();
        self.input(to, Input::Relay { from: ShardIndex(1 - to as u8), batch });
    }

    /// Alice sends a packet of an encoding (`q` or `h`), under the next number of that.
    pub fn send_video(&mut self, rid: &str, payload: &[u8]) {
        let ssrc = if rid == "q" { 10 } else { 11 };
        let sequence = self.sequences.entry(ssrc).or_default();
        *sequence += 1;
        let number = *sequence;
        let extensions: [(u8, &[u8]); 2] = [(MID, b"0"), (RID, rid.as_bytes())];
        let sealed = self.client(ALICE).rtp(ssrc, VP8, number, &extensions, payload);
        self.send(ALICE, sealed);
    }

    /// A client sends media or reports.
    pub fn send(&mut self, id: ConnectionId, payload: Vec<u8>) {
        let source = self.client(id).address;
        let destination = [SERVER, SERVER_OTHER][self.places[&id]].into();
        self.wire.push_back(Datagram { transport: Transport::Udp, source, destination, payload });
        self.settle();
    }

    /// Frames that a client got since the last time.
    pub fn frames(&mut self, id: ConnectionId) -> Vec<Vec<u8>> {
        self.advance(Duration::from_millis(50));
        self.client(id).received().media().into_iter().map(<[u8]>::to_vec).collect()
    }
}

pub fn room() -> RoomSid {
    "RM_call".parse().unwrap()
}

/// A camera in two encodings.
pub fn camera() -> Offer {
    Offer::of(&["sendonly|msid:stream camera|rid:q send|rid:h send|simulcast:send q;h"])
}

fn shard_at(address: SocketAddr) -> Option<usize> {
    [SERVER, SERVER_OTHER].iter().position(|server| SocketAddr::from(*server) == address)
}

/// A frame of VP8 in one packet, to be told from others by its end.
pub fn frame(keyframe: bool, number: u8) -> [u8; 6] {
    [0x10, u8::from(!keyframe), 0x9d, 0x01, 0x2a, number]
}
