//! A shard and its clients, on a network without delay that others write into as well.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use zynk_protocol::{
    CandidatePolicy, ConnectionId, ConnectionRole, ConnectionState, ExpectedTrack, MediaKind, NodeAction,
    NodeEvent, OpenConnection, ParticipantSid, SubscribeTrack, SubscriptionSettings, TrackSource,
};
use zynk_sfu_core::{
    Certificate, Input, Output, Shard, ShardConfig, ShardIndex, ShardStats, Transmit, Transport,
};

use crate::client::{Client, Offer};

/// The server's addresses; clients are told all of them.
pub const SERVER: ([u8; 4], u16) = ([10, 0, 0, 1], 7882);
pub const SERVER_OTHER: ([u8; 4], u16) = ([10, 0, 0, 2], 7882);
pub const SERVER_TCP: ([u8; 4], u16) = ([10, 0, 0, 1], 7881);
pub const ALICE: ConnectionId = ConnectionId(1);
pub const BOB: ConnectionId = ConnectionId(2);
pub const CAROL: ConnectionId = ConnectionId(3);
pub const MALLORY: ConnectionId = ConnectionId(9);
/// Somebody who has nothing to do with the call.
pub const STRANGER: ([u8; 4], u16) = ([10, 6, 6, 6], 6666);
/// How much time passes when nothing is under way.
const STEP: Duration = Duration::from_millis(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub transport: Transport,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub payload: Vec<u8>,
}

impl Datagram {
    /// From a client or an attacker to the server's first address.
    pub fn to_server(source: impl Into<SocketAddr>, payload: &[u8]) -> Self {
        let (source, destination) = (source.into(), SERVER.into());
        Self { transport: Transport::Udp, source, destination, payload: payload.to_vec() }
    }

    pub fn is_dtls(&self) -> bool {
        matches!(self.payload.first(), Some(20..=63))
    }

    pub fn is_media(&self) -> bool {
        matches!(self.payload.first(), Some(128..=191))
    }
}

pub struct Call {
    pub now: Instant,
    pub shard: Shard,
    pub clients: Vec<Client>,
    pub events: Vec<NodeEvent>,
    /// What is under way between the clients and the server, in the order of sending.
    pub wire: VecDeque<Datagram>,
    /// Everything that the server sent.
    pub sent: Vec<Datagram>,
}

impl Call {
    pub fn new() -> Self {
        static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let config = ShardConfig {
            index: ShardIndex(0),
            udp: vec![SERVER.into(), SERVER_OTHER.into()],
            tcp: vec![SERVER_TCP.into()],
            certificate: CERTIFICATE.get_or_init(|| Certificate::generate().unwrap()).clone(),
            unix_time: Duration::from_secs(1_750_000_000),
            protect_audio: false,
            seed: 7,
        };
        Self {
            now,
            shard: Shard::new(config, now).unwrap(),
            clients: Vec::new(),
            events: Vec::new(),
            wire: VecDeque::new(),
            sent: Vec::new(),
        }
    }

    /// Alice publishes `TR_video`, the others receive it; everybody is connected.
    pub fn with_viewers(viewers: &[ConnectionId]) -> Self {
        let mut call = Self::new();
        call.publish(ALICE, "TR_video");
        call.join(ALICE, &Offer::sending());
        for viewer in viewers {
            call.view(*viewer, "TR_video");
        }
        assert!(call.connect(), "no connection");
        call
    }

    /// Adds a viewer of a track, who is not connected yet.
    pub fn view(&mut self, viewer: ConnectionId, track: &str) {
        self.open(viewer, ConnectionRole::Single);
        self.subscribe(viewer, track);
        self.join(viewer, &Offer::receiving());
    }

    pub fn command(&mut self, action: NodeAction) {
        let input = Input::Command { room: "RM_call".parse().unwrap(), action };
        self.shard.handle_input(self.now, input);
        self.drain_shard();
    }

    pub fn open(&mut self, connection: ConnectionId, role: ConnectionRole) {
        self.command(NodeAction::OpenConnection(OpenConnection {
            connection,
            participant: ParticipantSid::from_random(u128::from(connection.0)),
            role,
            late_binding: false,
            candidates: CandidatePolicy::All,
        }));
    }

    /// Opens a connection that may publish a track.
    pub fn publish(&mut self, connection: ConnectionId, track: &str) {
        self.open(connection, ConnectionRole::Single);
        self.expect(connection, track, "camera");
    }

    pub fn expect(&mut self, connection: ConnectionId, track: &str, cid: &str) {
        self.command(NodeAction::ExpectTrack(ExpectedTrack {
            connection,
            track: track.parse().unwrap(),
            cids: vec![cid.to_owned()],
            kind: MediaKind::Video,
            source: TrackSource::Camera,
            codec: None,
            red: true,
            dtx: true,
            stereo: false,
            muted: false,
            encrypted: false,
            backup: None,
        }));
    }

    pub fn subscribe(&mut self, connection: ConnectionId, track: &str) {
        self.command(NodeAction::Subscribe(SubscribeTrack {
            connection,
            track: track.parse().unwrap(),
            stream_id: format!("PA_x|{track}"),
            settings: SubscriptionSettings::default(),
        }));
    }

    /// A client offers, and takes the answer.
    pub fn join(&mut self, id: ConnectionId, offer: &Offer) {
        let mut client = Client::new(id, offer, self.now);
        let sdp = client.offer(offer);
        self.command(NodeAction::RemoteOffer { connection: id, offer_id: 1, sdp });
        client.accept_answer(&self.take_answer(id));
        self.clients.push(client);
    }

    pub fn take_answer(&mut self, id: ConnectionId) -> String {
        let is_answer =
            |event: &NodeEvent| matches!(event, NodeEvent::Answer { connection, .. } if *connection == id);
        let position = self.events.iter().position(is_answer);
        match self.events.remove(position.unwrap_or_else(|| panic!("no answer in {:?}", self.events))) {
            NodeEvent::Answer { sdp, .. } => sdp,
            _ => unreachable!(),
        }
    }

    pub fn client(&mut self, id: ConnectionId) -> &mut Client {
        self.clients.iter_mut().find(|client| client.id == id).unwrap()
    }

    pub fn stats(&self) -> ShardStats {
        self.shard.stats()
    }

    pub fn has_state(&self, connection: ConnectionId, state: ConnectionState) -> bool {
        self.events.contains(&NodeEvent::ConnectionState { connection, state })
    }

    /// Whether the client and the server both take the connection for established.
    pub fn is_connected(&self, id: ConnectionId) -> bool {
        self.clients.iter().any(|client| client.id == id && client.connected)
            && self.has_state(id, ConnectionState::Connected)
    }

    /// Lets two seconds pass, or less until everybody is connected. Returns whether everybody is.
    pub fn connect(&mut self) -> bool {
        self.connect_under(|_| {})
    }

    /// Same, and before each datagram that is delivered, and each step of time, somebody does something.
    pub fn connect_under(&mut self, mut attack: impl FnMut(&mut Self)) -> bool {
        for _ in 0..200 {
            self.tick();
            while let Some(datagram) = self.wire.pop_front() {
                attack(self);
                self.deliver(datagram);
            }
            attack(self);
            if self.clients.iter().all(|client| self.is_connected(client.id)) {
                return true;
            }
        }
        false
    }

    /// Lets time pass, and delivers what is sent.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while self.now < end {
            self.tick();
            self.settle();
        }
    }

    /// A step of time; what is sent is delivered unless it gets lost.
    pub fn step_losing(&mut self, mut is_lost: impl FnMut(&Datagram) -> bool) {
        self.tick();
        while let Some(datagram) = self.wire.pop_front() {
            if !is_lost(&datagram) {
                self.deliver(datagram);
            }
        }
    }

    /// Delivers everything that is under way.
    pub fn settle(&mut self) {
        while let Some(datagram) = self.wire.pop_front() {
            self.deliver(datagram);
        }
    }

    /// A step of time; nothing is delivered.
    pub fn tick(&mut self) {
        self.now += STEP;
        self.shard.handle_input(self.now, Input::Timeout);
        self.drain_shard();
        for client in &mut self.clients {
            client.tick(self.now, &mut self.wire);
        }
    }

    /// Gives a datagram to whom it is addressed: the server, a client, or nobody.
    pub fn deliver(&mut self, datagram: Datagram) {
        if [SERVER, SERVER_OTHER, SERVER_TCP].map(SocketAddr::from).contains(&datagram.destination) {
            self.arrive(datagram);
        } else if let Some(client) =
            self.clients.iter_mut().find(|client| client.address == datagram.destination)
        {
            client.receive(self.now, datagram, &mut self.wire);
        }
    }

    /// A datagram comes to the server.
    pub fn arrive(&mut self, datagram: Datagram) {
        let Datagram { transport, source, destination, mut payload } = datagram;
        let (arrived, payload) = (self.now, &mut payload[..]);
        let input = Input::Datagram { transport, source, destination, arrived, payload };
        self.shard.handle_input(self.now, input);
        self.drain_shard();
    }

    /// A client sends media to the server, on the path that it uses.
    pub fn send(&mut self, id: ConnectionId, payload: Vec<u8>) {
        let datagram = Datagram::to_server(self.client(id).address, &payload);
        self.arrive(datagram);
        self.settle();
    }

    fn drain_shard(&mut self) {
        loop {
            match self.shard.poll_output() {
                Output::Event { event, .. } => self.events.push(event),
                Output::Transmit(transmit) => {
                    let Transmit { transport, source, destination, .. } = transmit;
                    for payload in transmit.datagrams() {
                        let payload = payload.to_vec();
                        let datagram = Datagram { transport, source, destination, payload };
                        self.sent.push(datagram.clone());
                        self.wire.push_back(datagram);
                    }
                }
                Output::Relay { .. } => unreachable!("the room is this shard's alone"),
                Output::Timeout(_) => return,
            }
        }
    }

    /// Whether the server ever sent something to an address.
    pub fn sent_to(&self, address: impl Into<SocketAddr>) -> bool {
        let address = address.into();
        self.sent.iter().any(|datagram| datagram.destination == address)
    }
}
