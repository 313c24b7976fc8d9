//! A room in virtual time.
//!
//! ```text
//!   Session ══ uplink ══► Shard ◄─ NodeAction ─ Room ◄─ signal requests ── Session
//!   Session ◄═ downlink ═ Shard ─ NodeEvent ──► Room ── signal responses ► Session
//! ```
//!
//! Media crosses links that lose and delay; signaling is delayed as long, but loses nothing. Node commands
//! and events take no time.

mod link;
mod source;
mod statistics;
mod trace;
mod viewer;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use zynk_auth::{Claims, KeyRing, VideoGrants};
use zynk_client::{
    Codec, Command, Event, MediaPacket, PeerConnections, PublishTrack, ReceiveStats, Session, SessionConfig,
    SyntheticHeader,
};
use zynk_netlab::LinkStats;
use zynk_protocol::{
    ConnectionId, ConnectionRole, NodeAction, NodeId, RoomName, RoomSid, TrackSource, livekit,
};
use zynk_sfu_core as sfu;
use zynk_signaling::{
    AdminError, AdminResponse, ConnectionMode, JoinParams, Room, RoomInput, RoomOutput, RoomSettings,
    SessionId, SignalingConfig, SubscribeScope,
};
use zynk_store::RoomRecord;

pub use link::LinkConfig;
use link::{Datagram, Link};
use source::Source;
use trace::Trace;
pub use viewer::{Decoded, Listener, Viewer};

/// Where the media shard is.
const SERVER: &str = "10.255.0.1:7882";
/// Unix time at which every world begins.
const EPOCH_MS: u64 = 1_750_000_000_000;
/// Steps at one instant. More mean that two parts keep each other busy without time passing.
const STEPS_PER_INSTANT_MAX: usize = 1_000_000;

/// A client of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(usize);

/// A room with its server and its clients, in virtual time.
pub struct World {
    seed: u64,
    start: Instant,
    now: Instant,
    shard: sfu::Shard,
    shard_deadline: Instant,
    room: Room,
    room_sid: RoomSid,
    clients: Vec<WorldClient>,
    /// By participant.
    downstreams: BTreeMap<String, ConnectionId>,
    /// Of the server API.
    answers: Vec<Result<AdminResponse, AdminError>>,
    trace: Trace,
}

struct WorldClient {
    identity: String,
    session: Session,
    signal: Signal,
    deadline: Instant,
    uplink: Link,
    downlink: Link,
    sources: Vec<Source>,
    refused: Option<String>,
    events: Vec<Event>,
    /// Whether it decodes what comes, which is VP8 alone.
    watches: bool,
    /// By track.
    viewers: BTreeMap<String, Viewer>,
    listeners: BTreeMap<String, Listener>,
}

/// A client's signal connection: in order, without loss, as slow as its link.
struct Signal {
    session: SessionId,
    delay: Duration,
    to_room: VecDeque<(Instant, ToRoom)>,
    to_client: VecDeque<(Instant, Option<Box<livekit::SignalResponse>>)>,
}

enum ToRoom {
    Join(Box<JoinParams>),
    Request(Box<livekit::SignalRequest>),
}

impl World {
    /// An empty room. Worlds with the same seed in which the same things are done have the same trace.
    pub fn new(seed: u64) -> Self {
        Self::with_audio_protection(seed, false)
    }

    /// Same; `protect_audio`: audio carries earlier payloads where packets are lost.
    pub fn with_audio_protection(seed: u64, protect_audio: bool) -> Self {
        // str0m draws SSRCs and ICE credentials from the thread's generator.
        fastrand::seed(seed);
        let start = Instant::now();
        let config = sfu::ShardConfig {
            index: sfu::ShardIndex(0),
            udp: vec![SERVER.parse().unwrap()],
            tcp: Vec::new(),
            certificate: sfu::Certificate::generate().unwrap(),
            unix_time: Duration::from_millis(EPOCH_MS),
            protect_audio,
            seed,
        };
        let room_sid = RoomSid::from_random(u128::from(seed));
        let settings = RoomSettings {
            config: Arc::new(SignalingConfig::default()),
            keys: Arc::new(KeyRing::single("key", "secret")),
            relays: Arc::default(),
            node: NodeId::from_random(1),
            record: RoomRecord {
                empty_timeout_s: 300,
                departure_timeout_s: 20,
                ..RoomRecord::new(RoomName::new("world"), room_sid.clone(), EPOCH_MS)
            },
            seed,
        };
        Self {
            seed,
            start,
            now: start,
            shard: sfu::Shard::new(config, start).unwrap(),
            shard_deadline: start,
            room: Room::new(start, EPOCH_MS, settings),
            room_sid,
            clients: Vec::new(),
            downstreams: BTreeMap::new(),
            answers: Vec::new(),
            trace: Trace::default(),
        }
    }

    /// A client with one peer connection begins to join; it receives everything.
    pub fn join(&mut self, identity: &str, link: LinkConfig) -> ClientKey {
        self.join_with(identity, link, PeerConnections::Single)
    }

    /// Same, with one peer connection or two.
    pub fn join_with(&mut self, identity: &str, link: LinkConfig, connections: PeerConnections) -> ClientKey {
        self.join_as(identity, link, connections, SubscribeScope::Auto)
    }

    /// A client begins to join that receives nothing.
    pub fn join_to_send(&mut self, identity: &str, link: LinkConfig) -> ClientKey {
        self.join_as(identity, link, PeerConnections::Single, SubscribeScope::None)
    }

    fn join_as(
        &mut self,
        identity: &str,
        link: LinkConfig,
        connections: PeerConnections,
        subscribe: SubscribeScope,
    ) -> ClientKey {
        let key = ClientKey(self.clients.len());
        let config = SessionConfig {
            connections,
            media_epoch: Some(self.start),
            red: true,
            ..SessionConfig::new(client_address(key, 4000), client_address(key, 4001))
        };
        let session = Session::new(config, self.now).unwrap();
        let request = session.join_request().clone();
        let mut claims = Claims::for_identity(identity);
        claims.video = VideoGrants::join("world");
        claims.video.can_update_own_metadata = Some(true);
        let limits = &SignalingConfig::default().limits;
        let params = JoinParams {
            client: request.client_info.unwrap(),
            connection: match connections {
                PeerConnections::Single => ConnectionMode::Single,
                PeerConnections::Dual => ConnectionMode::Dual,
            },
            subscribe,
            offer: request.publisher_offer,
            ..JoinParams::from_claims(claims, limits).unwrap()
        };
        let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(key.0 as u64 * 2);
        let mut signal = Signal {
            session: SessionId(key.0 as u64),
            delay: link.uplink.delay,
            to_room: VecDeque::new(),
            to_client: VecDeque::new(),
        };
        signal.to_room.push_back((self.now + link.uplink.delay, ToRoom::Join(Box::new(params))));
        self.clients.push(WorldClient {
            identity: identity.to_owned(),
            session,
            signal,
            deadline: self.now,
            uplink: Link::new(&link.uplink, seed, self.now),
            downlink: Link::new(&link.downlink, seed.wrapping_add(1), self.now),
            sources: Vec::new(),
            refused: None,
            events: Vec::new(),
            watches: false,
            viewers: BTreeMap::new(),
            listeners: BTreeMap::new(),
        });
        key
    }

    /// Publishes a camera that sends 30 frames a second from when it is ready until
    /// [`World::stop_media`].
    pub fn publish_camera(&mut self, client: ClientKey, codec: Codec) {
        self.publish_video(client, PublishTrack::camera("camera", codec));
    }

    /// Same, in three simulcast encodings.
    pub fn publish_simulcast_camera(&mut self, client: ClientKey, codec: Codec) {
        self.publish_video(client, PublishTrack::camera("camera", codec).simulcast());
    }

    /// Publishes a camera in simulcast encodings of so many kbit/s, lowest first, each in three temporal layers (VP8).
    pub fn publish_layered_camera(&mut self, client: ClientKey, kbps: [u32; 3]) {
        let track = PublishTrack::camera("camera", Codec::Vp8).simulcast();
        let source = Source::layered_video(&track.cid, stream_number(client, 1), &track.rids, kbps);
        self.publish(client, source, track);
    }

    /// Publishes a shared screen in a single stream of so many kbit/s (VP8).
    pub fn publish_screen(&mut self, client: ClientKey, kbps: u32) {
        let camera = PublishTrack::camera("screen", Codec::Vp8);
        let track = PublishTrack { source: TrackSource::ScreenShare, ..camera };
        let source = Source::single_video(&track.cid, stream_number(client, 2), kbps);
        self.publish(client, source, track);
    }

    fn publish_video(&mut self, client: ClientKey, track: PublishTrack) {
        let source = Source::video(&track.cid, stream_number(client, 1), track.codec, &track.rids);
        self.publish(client, source, track);
    }

    fn publish(&mut self, client: ClientKey, source: Source, track: PublishTrack) {
        self.clients[client.0].sources.push(source);
        self.command(client, Command::Publish(track));
    }

    /// Publishes a microphone that sends 50 packets a second, likewise.
    pub fn publish_microphone(&mut self, client: ClientKey) {
        self.clients[client.0].sources.push(Source::audio("microphone", stream_number(client, 0)));
        self.command(client, Command::Publish(PublishTrack::microphone("microphone")));
    }

    /// Stops publishing what a client sends under a client id.
    pub fn unpublish(&mut self, client: ClientKey, cid: &str) {
        self.clients[client.0].sources.retain(|source| source.cid != cid);
        self.command(client, Command::Unpublish { cid: cid.to_owned() });
    }

    /// A client decodes what it receives from now on, which is VP8 alone.
    pub fn watch(&mut self, client: ClientKey) {
        self.clients[client.0].watches = true;
    }

    /// All of a client's sources fall silent.
    pub fn stop_media(&mut self, client: ClientKey) {
        self.clients[client.0].sources.iter_mut().for_each(Source::stop);
    }

    /// Hands a command to a client's session.
    pub fn command(&mut self, client: ClientKey, command: Command) {
        self.clients[client.0].session.handle_input(self.now, zynk_client::Input::Command(command));
        // A command may leave outputs behind that want to be taken now.
        self.clients[client.0].deadline = self.now;
    }

    /// The part of the server that handles a client's session fails, as by a defect: its shell has caught the
    /// panic and gives the session up.
    pub fn fault(&mut self, client: ClientKey) {
        let session = self.clients[client.0].signal.session;
        self.room_input(RoomInput::SessionFaulted { session });
    }

    /// Time since the world began.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// A client's session.
    pub fn session(&self, client: ClientKey) -> &Session {
        &self.clients[client.0].session
    }

    /// What a client's session reported, packets of media excepted.
    pub fn events(&self, client: ClientKey) -> &[Event] {
        &self.clients[client.0].events
    }

    /// Why the server did not let a client in.
    pub fn refused(&self, client: ClientKey) -> Option<&str> {
        self.clients[client.0].refused.as_deref()
    }

    /// Counters of the media shard.
    pub fn shard_stats(&self) -> sfu::ShardStats {
        self.shard.stats()
    }

    /// The `TR_…` id of what a client publishes under a client id, once it is ready.
    pub fn track(&self, client: ClientKey, cid: &str) -> Option<&str> {
        let source = self.clients[client.0].sources.iter().find(|source| source.cid == cid);
        source.and_then(|source| source.track.as_deref())
    }

    /// How many frames (packets, for audio) a client has sent under a client id.
    pub fn frames_sent(&self, client: ClientKey, cid: &str) -> u32 {
        let source = self.clients[client.0].sources.iter().find(|source| source.cid == cid);
        source.map_or(0, Source::frames)
    }

    /// What `receiver` sees of a video track of VP8 that `publisher` sends under a client id.
    pub fn viewer(&self, receiver: ClientKey, publisher: ClientKey, cid: &str) -> Option<&Viewer> {
        self.clients[receiver.0].viewers.get(self.track(publisher, cid)?)
    }

    /// What `receiver` hears of an audio track.
    pub fn listener(&self, receiver: ClientKey, publisher: ClientKey, cid: &str) -> Option<&Listener> {
        self.clients[receiver.0].listeners.get(self.track(publisher, cid)?)
    }

    /// What happened so far on the way from the server to a client.
    pub fn downlink_stats(&self, client: ClientKey) -> LinkStats {
        self.clients[client.0].downlink.stats()
    }

    /// What the server thinks reaches a client, in kbit/s.
    pub fn estimate_kbps(&self, client: ClientKey) -> u64 {
        let own = self.session(client).own_info();
        let connection = own.and_then(|info| self.downstreams.get(&info.sid));
        connection
            .and_then(|connection| self.shard.estimate(*connection))
            .map_or(0, |rate| rate.as_bps() / 1000)
    }

    /// What `receiver` got of what `publisher` sends under a client id.
    pub fn received(&self, receiver: ClientKey, publisher: ClientKey, cid: &str) -> ReceiveStats {
        let track = self.track(publisher, cid);
        let stats = track.and_then(|track| self.session(receiver).receive_stats().get(track).copied());
        stats.unwrap_or_default()
    }

    /// How many frames of a publisher's camera a receiver has got whole.
    pub fn frames_received(&self, receiver: ClientKey, publisher: ClientKey) -> u64 {
        self.received(receiver, publisher, "camera").frames.complete
    }

    /// A number that two worlds share when the same happened in them at the same times.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    /// The first thing that did not happen alike in two worlds.
    pub fn first_difference(&self, other: &Self) -> Option<String> {
        let (ours, theirs) = (self.trace.sorted(), other.trace.sorted());
        let differs = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
        match differs {
            Some((ours, theirs)) => Some(format!("{ours:?} or {theirs:?}")),
            None if ours.len() != theirs.len() => Some(format!("{} entries or {}", ours.len(), theirs.len())),
            None => None,
        }
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Lets time pass until `done`, but no longer than `limit`. Returns whether it was done.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            let next = self.next_event();
            if next > end {
                self.now = end;
                return false;
            }
            self.now = self.now.max(next);
        }
    }

    fn next_event(&self) -> Instant {
        let clients = self.clients.iter().flat_map(|client| {
            let signal = &client.signal;
            let media = client.sources.iter().filter_map(Source::next).min();
            [
                Some(client.deadline),
                client.uplink.next_arrival(),
                client.downlink.next_arrival(),
                signal.to_room.front().map(|(at, _)| *at),
                signal.to_client.front().map(|(at, _)| *at),
                media,
            ]
        });
        let server = [Some(self.shard_deadline), self.room.poll_timeout()];
        clients.chain(server).flatten().min().unwrap()
    }

    /// Everything that happens without time passing.
    fn settle(&mut self) {
        for _ in 0..STEPS_PER_INSTANT_MAX {
            let mut busy = false;
            if self.shard_deadline <= self.now {
                self.shard.handle_input(self.now, sfu::Input::Timeout);
                busy = true;
            }
            if self.room.poll_timeout().is_some_and(|at| at <= self.now) {
                self.room_input(RoomInput::Timeout);
                busy = true;
            }
            for key in 0..self.clients.len() {
                busy |= self.settle_client(key);
            }
            busy |= self.settle_server();
            if !busy {
                return;
            }
        }
        panic!("no end of work at {:?}", self.elapsed());
    }

    fn room_input(&mut self, input: RoomInput) {
        let unix_ms = EPOCH_MS + u64::try_from(self.elapsed().as_millis()).unwrap();
        self.room.handle_input(self.now, unix_ms, input);
    }

    /// Takes what the room and the shard have to say. Returns whether there was anything.
    fn settle_server(&mut self) -> bool {
        let mut busy = false;
        while let Some(output) = self.room.poll_output() {
            busy = true;
            self.handle_room_output(output);
        }
        loop {
            match self.shard.poll_output() {
                sfu::Output::Relay { .. } => unreachable!("the room is this shard's alone"),
                sfu::Output::Timeout(at) => {
                    self.shard_deadline = at;
                    return busy;
                }
                sfu::Output::Transmit(transmit) => {
                    let Some(client) = self.clients.get_mut(client_of(transmit.destination)) else {
                        continue;
                    };
                    let sfu::Transmit { source, destination, .. } = transmit;
                    for datagram in transmit.datagrams() {
                        let payload = datagram.to_vec();
                        client.downlink.send(self.now, Datagram { source, destination, payload });
                    }
                }
                sfu::Output::Event { event, .. } => self.room_input(RoomInput::Node(event)),
            }
            busy = true;
        }
    }

    fn handle_room_output(&mut self, output: RoomOutput) {
        match output {
            RoomOutput::ToClient { session, response } => {
                let signal = &mut self.clients[session.0 as usize].signal;
                signal.to_client.push_back((self.now + signal.delay, Some(response)));
            }
            RoomOutput::CloseSession { session } => {
                let signal = &mut self.clients[session.0 as usize].signal;
                signal.to_client.push_back((self.now + signal.delay, None));
            }
            RoomOutput::AdminReply { result, .. } => self.answers.push(result),
            RoomOutput::JoinRefused { session, error } => {
                self.clients[session.0 as usize].refused = Some(error.to_string());
            }
            RoomOutput::ToNode(action) => {
                if let NodeAction::OpenConnection(open) = &action
                    && open.role != ConnectionRole::Publisher
                {
                    self.downstreams.insert(open.participant.as_str().to_owned(), open.connection);
                }
                let room = self.room_sid.clone();
                self.shard.handle_input(self.now, sfu::Input::Command { room, action });
            }
            _ => {}
        }
    }

    fn settle_client(&mut self, key: usize) -> bool {
        let mut busy = false;
        while let Some(datagram) = self.clients[key].uplink.receive(self.now) {
            busy = true;
            let Datagram { source, destination, mut payload } = datagram;
            let input = sfu::Input::Datagram {
                transport: sfu::Transport::Udp,
                source,
                destination,
                arrived: self.now,
                payload: &mut payload,
            };
            self.shard.handle_input(self.now, input);
            self.settle_server();
        }
        let session = self.clients[key].signal.session;
        while let Some((_, message)) =
            self.clients[key].signal.to_room.pop_front_if(|(at, _)| *at <= self.now)
        {
            busy = true;
            self.room_input(match message {
                ToRoom::Join(params) => RoomInput::Join { session, params },
                ToRoom::Request(request) => RoomInput::Signal { session, request },
            });
        }

        let (now, clock) = (self.now, self.elapsed());
        let client = &mut self.clients[key];
        while let Some((_, response)) = client.signal.to_client.pop_front_if(|(at, _)| *at <= now) {
            busy = true;
            client.session.handle_input(
                now,
                match response {
                    Some(response) => zynk_client::Input::Signal(response),
                    None => zynk_client::Input::SignalClosed,
                },
            );
            client.drain(now, clock, &mut self.trace);
        }
        while let Some(datagram) = client.downlink.receive(now) {
            busy = true;
            let Datagram { source, destination, payload } = &datagram;
            let (source, destination) = (*source, *destination);
            client.session.handle_input(now, zynk_client::Input::Datagram { source, destination, payload });
            client.drain(now, clock, &mut self.trace);
        }
        for index in 0..client.sources.len() {
            let clock_us = u64::try_from(clock.as_micros()).unwrap();
            for (rid, packet) in client.sources[index].produce(now, clock_us) {
                busy = true;
                let cid = client.sources[index].cid.clone();
                let command = Command::SendRtp { cid, rid, packet };
                client.session.handle_input(now, zynk_client::Input::Command(command));
                client.drain(now, clock, &mut self.trace);
            }
        }
        if client.deadline <= now {
            busy = true;
            client.session.handle_input(now, zynk_client::Input::Timeout);
            client.drain(now, clock, &mut self.trace);
        }
        busy
    }
}

impl WorldClient {
    fn drain(&mut self, now: Instant, clock: Duration, trace: &mut Trace) {
        loop {
            match self.session.poll_output() {
                zynk_client::Output::Timeout(at) => {
                    self.deadline = at;
                    return;
                }
                zynk_client::Output::Transmit(transmit) => {
                    let zynk_client::Transmit { source, destination, payload } = transmit;
                    self.uplink.send(now, Datagram { source, destination, payload });
                }
                zynk_client::Output::Signal(request) => self.send_request(now, request),
                zynk_client::Output::Event(event) => {
                    if let Some(what) = describe(&event) {
                        trace.add(clock, format!("{} {what}", self.identity));
                    }
                    self.handle_event(now, clock, event);
                }
            }
        }
    }

    /// Pings are answered by the WebSocket's shell, everything else by the room.
    fn send_request(&mut self, now: Instant, request: Box<livekit::SignalRequest>) {
        use livekit::{signal_request, signal_response};
        if let Some(signal_request::Message::PingReq(ping)) = &request.message {
            let pong = livekit::Pong { last_ping_timestamp: ping.timestamp, timestamp: ping.timestamp };
            let message = Some(signal_response::Message::PongResp(pong));
            let response = Box::new(livekit::SignalResponse { message });
            self.signal.to_client.push_back((now + 2 * self.signal.delay, Some(response)));
        } else {
            self.signal.to_room.push_back((now + self.signal.delay, ToRoom::Request(request)));
        }
    }

    fn handle_event(&mut self, now: Instant, clock: Duration, event: Event) {
        match &event {
            Event::Media(packet) => return self.watch(now, clock, packet),
            Event::Signal(response) => {
                if let Some(livekit::signal_response::Message::StreamStateUpdate(update)) = &response.message
                {
                    for state in &update.stream_states {
                        let paused = state.state() == livekit::StreamState::Paused;
                        self.viewers.entry(state.track_sid.clone()).or_default().set_paused(clock, paused);
                    }
                }
            }
            Event::TrackReady { cid, track } => {
                if let Some(source) = self.sources.iter_mut().find(|source| source.cid == *cid) {
                    source.start(now, track.clone());
                }
            }
            Event::KeyframeRequested { cid, .. } => {
                if let Some(source) = self.sources.iter_mut().find(|source| source.cid == *cid) {
                    source.request_keyframe();
                }
            }
            _ => {}
        }
        self.events.push(event);
    }
}

impl WorldClient {
    fn watch(&mut self, now: Instant, clock: Duration, packet: &MediaPacket) {
        if packet.audio_level_dbov.is_some() {
            self.listeners.entry(packet.track.clone()).or_default().receive(clock, packet);
        } else if self.watches && self.viewers.entry(packet.track.clone()).or_default().receive(clock, packet)
        {
            let command = Command::RequestKeyframe { track: packet.track.clone() };
            self.session.handle_input(now, zynk_client::Input::Command(command));
        }
    }
}

/// What is worth comparing about an event: nothing that is drawn at random outside of the seed's reach.
fn describe(event: &Event) -> Option<String> {
    match event {
        Event::Media(packet) => {
            let header = SyntheticHeader::parse(&packet.payload)?;
            Some(format!("media {} {}.{}", header.stream, header.frame, header.index))
        }
        Event::Joined(join) => Some(format!("joined {}", join.participant.as_ref()?.sid)),
        Event::Signal(_) => None,
        Event::Data { kind, packet } => Some(format!("data {kind:?} {}", packet.participant_identity)),
        Event::RawData(data) => Some(format!("raw data {} bytes", data.len())),
        Event::Left(leave) => Some(format!("left {}", leave.reason)),
        event => Some(format!("{event:?}")),
    }
}

fn client_address(key: ClientKey, port: u16) -> SocketAddr {
    let [_, _, high, low] = u32::try_from(key.0).unwrap().to_be_bytes();
    SocketAddr::from(([10, 0, high, low], port))
}

fn client_of(address: SocketAddr) -> usize {
    match address.ip() {
        std::net::IpAddr::V4(ip) => usize::from(u16::from_be_bytes([ip.octets()[2], ip.octets()[3]])),
        std::net::IpAddr::V6(_) => usize::MAX,
    }
}

/// Streams of a client, numbered so that no two share one; a simulcast track takes several in a row.
fn stream_number(client: ClientKey, track: u32) -> u32 {
    u32::try_from(client.0).unwrap() * 16 + track * 4
}
