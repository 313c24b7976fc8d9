//! A share of the SFU: the rooms of one worker thread.
//!
//! ```text
//!  Input ─► datagram ─► demux ─┬─ STUN, DTLS ─► connection
//!        │                      └─ RTP, RTCP ──► media session ─► track ─► subscriptions ─► media sessions
//!        ├► command  ─► endpoint, track, subscription
//!        ├► relay    ─► track ─► subscriptions        (packets of another shard's publishers)
//!        └► timeout  ─► connections, media sessions, negotiations, keyframe requests, speakers
//!  Output ◄── transmits and events of the connections and media sessions that were touched
//! ```

mod adopt;
mod allocate;
mod backup;
mod begin;
mod commands;
mod deliver;
mod deliveries;
mod flows;
mod forward;
mod hear;
mod measure;
mod media;
mod negotiate;
mod outbox;
#[cfg(any(test, feature = "test-keys"))]
mod pretended;
mod relay;
mod reports;
mod room_report;
mod timers;
mod transmission;

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;
use zynk_protocol::{
    Bitrate, ConnectionId, ConnectionState, EndReason, NodeEvent, ParticipantSid, RoomSid, TrackSid,
};

use crate::{
    Input, Output, ShardConfig, ShardError, Transport,
    allocator::Rung,
    connection::{ConnectionEvent, ConnectionOutput, Path},
    demux::{DatagramKind, Demux, local_ufrag, nomination},
    endpoint::Endpoint,
    forwarder::Subscription,
    loudest::Loudest,
    media::{egress::NtpTime, timers::TimerWheel, twcc::PacketReport},
    speakers::Speakers,
    track::Track,
};

pub(crate) use allocate::Allocation;
pub(crate) use begin::CaughtUp;
use deliveries::Deliveries;
pub(crate) use flows::Lacked;
pub(crate) use measure::FirstMedia;
pub use measure::Measurement;
use measure::Measurements;
use outbox::Outbox;
use relay::Relay;

/// Index of a connection in the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EndpointKey(pub(crate) usize);
/// Index of a published track in the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TrackKey(pub(crate) usize);
/// Index of a subscription in the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SubscriptionKey(pub(crate) usize);

/// Outputs taken from one connection before others get their turn: a connection that never rests cannot
/// hold up the shard. What is left comes with the next turn.
const OUTPUTS_PER_TURN_MAX: usize = 4096;

/// All rooms, connections and tracks of one worker. Feed it with [`Shard::handle_input`] and, after each
/// input or batch of inputs, call [`Shard::poll_output`] until it returns [`Output::Timeout`].
#[derive(Debug)]
pub struct Shard {
    config: ShardConfig,
    random: Pcg64Mcg,
    now: Instant,
    /// The NTP time of `now`.
    ntp: NtpTime,
    rooms: FxHashMap<RoomSid, Room>,
    endpoints: Slab<Endpoint>,
    by_id: FxHashMap<ConnectionId, EndpointKey>,
    tracks: Slab<Track>,
    by_sid: FxHashMap<TrackSid, TrackKey>,
    subscriptions: Slab<Subscription>,
    /// Subscriptions to tracks that have not started.
    waiting: FxHashMap<TrackSid, Vec<SubscriptionKey>>,
    /// Rooms that other shards have a share of.
    relay: Relay,
    demux: Demux<EndpointKey>,
    /// Packets that came, for those who are to get them.
    deliveries: Deliveries,
    outbox: Outbox,
    events: VecDeque<(RoomSid, NodeEvent)>,
    /// Connections and media sessions that have something to say.
    dirty: Vec<EndpointKey>,
    media_dirty: Vec<EndpointKey>,
    /// Those of them that have had their share of this turn, and go on in the next.
    put_off: Vec<EndpointKey>,
    media_put_off: Vec<EndpointKey>,
    timers: BTreeSet<(Instant, EndpointKey)>,
    /// When negotiations are due; those that happened meanwhile are passed over.
    negotiations: BTreeSet<(Instant, EndpointKey)>,
    /// Of media sessions, by their endpoint's index.
    media_timers: TimerWheel,
    /// Working memory: what feedback said of packets, at most as many as a history has.
    feedback_reports: Vec<PacketReport>,
    /// Working memory: what tracks of one client could be sent as, and whose turn it is.
    rungs: Vec<Rung>,
    due: Vec<EndpointKey>,
    serials: Serials,
    started_at: Instant,
    next_tick: Instant,
    stats: ShardStats,
    measurements: Measurements,
}

/// For [`Subscription::serial`] and [`Track::serial`].
#[derive(Debug, Default)]
struct Serials {
    last: u32,
}

impl Serials {
    /// A number that no other subscription or track of the shard has, until it wraps.
    fn draw(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.last
    }
}

/// What connections of one room share.
#[derive(Debug, Default)]
struct Room {
    endpoints: Vec<EndpointKey>,
    speakers: Speakers,
    /// Those who publish in other shards.
    overheard: Speakers,
    /// Who speaks.
    speaking: FxHashSet<ParticipantSid>,
    /// Whose audio is forwarded, of those who publish here or elsewhere.
    loudest: Loudest,
}

/// Counters since the shard was made, and sizes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStats {
    /// Rooms now.
    pub rooms: u64,
    /// Connections now.
    pub connections: u64,
    /// Tracks that are published here now.
    pub tracks: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
    /// RTP packets received and forwarded into tracks.
    pub rtp_packets_received: u64,
    /// Payload bytes of those.
    pub rtp_bytes_received: u64,
    /// RTP packets sent to subscribers.
    pub rtp_packets_sent: u64,
    /// Payload bytes of those.
    pub rtp_bytes_sent: u64,
    /// Packets of audio sent with payloads of earlier ones that were added here.
    pub rtp_packets_protected: u64,
    /// Payload bytes that this added.
    pub rtp_bytes_redundant: u64,
    /// RTP packets of audio that subscribers were not sent, as their publishers are not among the loudest of the room.
    pub rtp_packets_withheld: u64,
    /// RTP packets that publishers here sent, handed to other shards: once for each of them.
    pub relay_packets_sent: u64,
    /// RTP packets taken from other shards.
    pub relay_packets_received: u64,
    /// Keyframe requests (PLI, FIR) received from subscribers.
    pub keyframe_requests_received: u64,
    /// Keyframe requests sent to publishers.
    pub keyframe_requests_sent: u64,
    /// Subscriptions that began with a keyframe of the cache instead of one that a publisher was asked for.
    pub keyframes_cached: u64,
    /// Datagrams that belong to no connection, or that its connection refused.
    pub datagrams_dropped: u64,
    /// RTP packets dropped because their publisher sent more than anybody may.
    pub rtp_packets_over_budget: u64,
    /// Sessions that ended because their own state machine failed.
    pub sessions_panicked: u64,
    /// Larger pictures that subscriptions were given, as there was room or they asked for them.
    pub layer_switches_up: u64,
    /// Smaller pictures, or none, that they were given.
    pub layer_switches_down: u64,
    /// Data channel messages received.
    pub data_messages_received: u64,
    /// Data channel messages sent.
    pub data_messages_sent: u64,
    /// Data channel messages lost: no open channel, or a receiver too slow for too long.
    pub data_messages_dropped: u64,
}

impl Shard {
    /// An empty shard.
    pub fn new(config: ShardConfig, now: Instant) -> Result<Self, ShardError> {
        if config.udp.is_empty() && config.tcp.is_empty() {
            return Err(ShardError::NoAddress);
        }
        Ok(Self {
            random: Pcg64Mcg::seed_from_u64(config.seed),
            ntp: NtpTime::from_unix(config.unix_time),
            config,
            now,
            rooms: FxHashMap::default(),
            endpoints: Slab::new(),
            by_id: FxHashMap::default(),
            tracks: Slab::new(),
            by_sid: FxHashMap::default(),
            subscriptions: Slab::new(),
            waiting: FxHashMap::default(),
            relay: Relay::default(),
            demux: Demux::new(),
            deliveries: Deliveries::default(),
            outbox: Outbox::default(),
            events: VecDeque::new(),
            dirty: Vec::new(),
            media_dirty: Vec::new(),
            put_off: Vec::new(),
            media_put_off: Vec::new(),
            timers: BTreeSet::new(),
            negotiations: BTreeSet::new(),
            media_timers: TimerWheel::new(now),
            feedback_reports: Vec::new(),
            rungs: Vec::new(),
            due: Vec::new(),
            serials: Serials::default(),
            started_at: now,
            next_tick: now,
            stats: ShardStats::default(),
            measurements: Measurements::default(),
        })
    }

    /// Takes one input. Never blocks, never panics on what the network sends.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        if self.now < now {
            self.now = now;
            self.ntp = self.ntp_of(now);
        }
        match input {
            Input::Datagram { transport, source, destination, arrived, payload } => {
                self.handle_datagram(transport, source, destination, arrived, payload);
            }
            Input::TcpClosed { source } => {
                let owner = self.demux.by_address(Transport::Tcp, source);
                if let Some(endpoint) = owner.and_then(|key| self.endpoints.get_mut(key.0)) {
                    endpoint.media.forget_path(Transport::Tcp, source);
                }
                self.demux.remove_address(Transport::Tcp, source);
            }
            Input::Command { room, action } => {
                self.deliver_all();
                self.handle_command(room, action);
            }
            Input::Siblings { room, shards } => {
                self.deliver_all();
                self.set_siblings(room, shards);
            }
            Input::Relay { from, batch } => self.handle_relay(from, &batch),
            Input::Timeout => self.handle_timers(),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Output<'_> {
        // Many receivers are served before the shell sends: both find their code and data in the caches.
        self.deliver();
        while self.outbox.has_room()
            && let Some(key) = self.media_dirty.pop()
        {
            self.serve_media(key);
        }
        let entry = loop {
            if let Some(entry) = self.outbox.next() {
                break entry;
            }
            if let Some((room, event)) = self.events.pop_front() {
                return Output::Event { room, event };
            }
            if !self.deliveries.is_empty() {
                self.deliver();
            } else if let Some(key) = self.media_dirty.pop() {
                self.serve_media(key);
            } else if let Some(key) = self.dirty.pop() {
                self.flush(key);
            } else if let Some((to, batch)) = self.relay.next() {
                return Output::Relay { to, batch };
            } else if !self.tick() {
                return Output::Timeout(self.next_wake());
            }
        };
        Output::Transmit(self.outbox.transmit(entry))
    }

    /// Counters and sizes.
    pub fn stats(&self) -> ShardStats {
        let size = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        ShardStats {
            rooms: size(self.rooms.len()),
            connections: size(self.endpoints.len()),
            tracks: size(self.tracks.len() - self.relay.tracks()),
            subscriptions: size(self.subscriptions.len()),
            ..self.stats
        }
    }

    /// How much is thought to reach a connection's client, all streams together.
    pub fn estimate(&self, connection: ConnectionId) -> Option<Bitrate> {
        let endpoint = self.endpoints.get(self.by_id.get(&connection)?.0)?;
        Some(Bitrate::from_bps(endpoint.media.downstream.estimate().as_bps()))
    }

    fn handle_datagram(
        &mut self,
        transport: Transport,
        source: SocketAddr,
        destination: SocketAddr,
        arrived: Instant,
        payload: &mut [u8],
    ) {
        let kind = DatagramKind::of(payload);
        let key = match kind {
            DatagramKind::Stun => {
                let named = local_ufrag(payload).and_then(|ufrag| self.demux.by_ufrag(ufrag));
                let now = self.now;
                let authentic = named.filter(|key| {
                    self.guard(*key, |endpoint| {
                        endpoint.connection.authenticates(now, transport, destination, payload)
                    })
                    .unwrap_or(false)
                });
                authentic.filter(|key| {
                    let endpoints = &self.endpoints;
                    self.demux.add_address(now, transport, source, *key, |owner: EndpointKey| {
                        endpoints.get(owner.0).is_some_and(|owner| owner.connection.is_connected())
                    })
                })
            }
            DatagramKind::Dtls | DatagramKind::Media => self.demux.by_address(transport, source),
            DatagramKind::Unknown => None,
        };
        let Some(key) = key else {
            self.stats.datagrams_dropped += 1;
            return;
        };
        if kind == DatagramKind::Media {
            if !self.handle_media(key, (transport, source), arrived, payload) {
                self.stats.datagrams_dropped += 1;
            }
            return;
        }
        let now = self.now;
        if kind == DatagramKind::Stun
            && let Some(endpoint) = self.endpoints.get_mut(key.0)
            // Clients go on nominating a path that is gone for seconds: any that works is better.
            && let Some(priority) = nomination(payload).or(endpoint.silence.is_silent().then_some(1))
        {
            let path = Path { transport, local: destination, remote: source };
            // What was due meanwhile is seen to now.
            if endpoint.media.nominate(now, path, priority) {
                self.mark_media(key);
            }
        }
        let taken = self.guard(key, |endpoint| {
            endpoint.silence.hear(now);
            endpoint.connection.handle_datagram(now, transport, source, destination, payload).is_ok()
        });
        match taken {
            Some(true) => self.drain(key),
            Some(false) => {
                self.stats.datagrams_dropped += 1;
                // What it refused it may answer, with an alert.
                self.drain(key);
            }
            None => {}
        }
    }

    /// Sends what was queued on a connection since it was last looked at.
    fn flush(&mut self, key: EndpointKey) {
        let now = self.now;
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        endpoint.dirty = false;
        if self.guard(key, |endpoint| endpoint.connection.handle_timeout(now).is_ok()) == Some(false) {
            self.close(key, Some(ConnectionState::Failed));
            return;
        }
        self.drain(key);
        self.send_waiting_data(key);
    }

    /// Takes everything that a connection has to say, and sets its timer.
    fn drain(&mut self, key: EndpointKey) {
        for _ in 0..OUTPUTS_PER_TURN_MAX {
            let output = self.guard(key, |endpoint| endpoint.connection.poll());
            match output {
                None => return,
                Some(Ok(ConnectionOutput::Transmit(transmit))) => {
                    self.outbox.push(transmit.path, &transmit.payload);
                }
                Some(Ok(ConnectionOutput::Event(event))) => self.handle_event(key, event),
                Some(Ok(ConnectionOutput::Timeout(at))) => {
                    self.set_timer(key, at);
                    return;
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "connection failed");
                    self.close(key, Some(ConnectionState::Failed));
                    return;
                }
            }
        }
        if let Some(endpoint) = self.endpoints.get_mut(key.0)
            && !std::mem::replace(&mut endpoint.dirty, true)
        {
            self.put_off.push(key);
        }
    }

    fn handle_event(&mut self, key: EndpointKey, event: ConnectionEvent) {
        let now = self.now;
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        let connection = endpoint.id;
        match event {
            ConnectionEvent::Connected | ConnectionEvent::Reconnected => {
                let first = !endpoint.connected_once;
                endpoint.connected_once = true;
                if first {
                    endpoint.stats_at = now;
                }
                if endpoint.disconnected_at.take().is_some() || first {
                    let state = ConnectionState::Connected;
                    self.emit(key, NodeEvent::ConnectionState { connection, state });
                    self.open_streams(key);
                    self.start_all(key);
                }
            }
            ConnectionEvent::Disconnected => {
                if endpoint.disconnected_at.is_none() {
                    endpoint.disconnected_at = Some(now);
                    let state = ConnectionState::Disconnected;
                    self.emit(key, NodeEvent::ConnectionState { connection, state });
                }
            }
            ConnectionEvent::Closed => self.close(key, Some(ConnectionState::Closed)),
            ConnectionEvent::DataChannelOpen { kind } => {
                self.emit(key, NodeEvent::DataChannelOpen { connection, kind });
            }
            ConnectionEvent::Data { kind, payload } => {
                self.stats.data_messages_received += 1;
                self.emit(key, NodeEvent::DataReceived { connection, kind, payload: payload.into() });
            }
        }
    }

    /// Runs `work` on a connection. If it panics, the session ends and nobody else notices.
    fn guard<T>(&mut self, key: EndpointKey, work: impl FnOnce(&mut Endpoint) -> T) -> Option<T> {
        let endpoint = self.endpoints.get_mut(key.0)?;
        match catch_unwind(AssertUnwindSafe(|| work(endpoint))) {
            Ok(value) => Some(value),
            Err(_) => {
                self.end_faulty(key);
                None
            }
        }
    }

    /// Ends a session whose state machine panicked, without touching that again.
    fn end_faulty(&mut self, key: EndpointKey) {
        tracing::error!("a session failed and was ended");
        self.stats.sessions_panicked += 1;
        self.remove(key, Some(ConnectionState::Failed));
    }

    /// Ends a connection in good order.
    fn close(&mut self, key: EndpointKey, report: Option<ConnectionState>) {
        self.guard(key, |endpoint| endpoint.connection.close());
        for _ in 0..OUTPUTS_PER_TURN_MAX {
            match self.guard(key, |endpoint| endpoint.connection.poll()) {
                Some(Ok(ConnectionOutput::Transmit(transmit))) => {
                    self.outbox.push(transmit.path, &transmit.payload);
                }
                Some(Ok(ConnectionOutput::Event(_))) => {}
                _ => break,
            }
        }
        self.remove(key, report);
    }

    /// Forgets a connection, what it published and what it received.
    fn remove(&mut self, key: EndpointKey, report: Option<ConnectionState>) {
        if !self.endpoints.contains(key.0) {
            return;
        }
        let published: Vec<TrackKey> = self
            .tracks
            .iter()
            .filter(|(_, track)| track.publisher() == Some(key) && track.usage.is_none())
            .map(|(index, _)| TrackKey(index))
            .collect();
        for track in published {
            self.stop_track(track, Some(EndReason::ConnectionClosed));
        }
        if let Some(state) = report
            && let Some(endpoint) = self.endpoints.get(key.0)
        {
            let connection = endpoint.id;
            self.emit(key, NodeEvent::ConnectionState { connection, state });
        }
        let endpoint = self.endpoints.remove(key.0);
        for subscription in endpoint.subscriptions.into_values() {
            self.forget_subscription(subscription);
        }
        self.by_id.remove(&endpoint.id);
        self.demux.remove(key);
        for list in [&mut self.dirty, &mut self.media_dirty, &mut self.put_off, &mut self.media_put_off] {
            list.retain(|dirty| *dirty != key);
        }
        if let Ok(slot) = u32::try_from(key.0) {
            self.media_timers.cancel(slot);
        }
        if let Some(at) = endpoint.wake_at {
            self.timers.remove(&(at, key));
        }
        self.leave_room(key, &endpoint.room);
    }

    /// Takes a subscription out of the shard's tables; its endpoint has let go of it.
    fn forget_subscription(&mut self, key: SubscriptionKey) {
        let Some(subscription) = self.subscriptions.try_remove(key.0) else { return };
        match subscription.source {
            Some(source) => {
                if let Some(track) = self.tracks.get_mut(source.0) {
                    track.subscribers.retain(|other| *other != key);
                    self.receivers_changed(source);
                }
            }
            None => {
                if let Some(waiting) = self.waiting.get_mut(&subscription.track) {
                    waiting.retain(|other| *other != key);
                    if waiting.is_empty() {
                        self.waiting.remove(&subscription.track);
                    }
                }
            }
        }
        self.forgo(&subscription.track);
    }

    fn mark_dirty(&mut self, key: EndpointKey) {
        if let Some(endpoint) = self.endpoints.get_mut(key.0)
            && !endpoint.dirty
        {
            endpoint.dirty = true;
            self.dirty.push(key);
        }
    }

    fn emit(&mut self, key: EndpointKey, event: NodeEvent) {
        if let Some(endpoint) = self.endpoints.get(key.0) {
            let room = endpoint.room.clone();
            self.events.push_back((room, event));
        }
    }
}

#[cfg(test)]
mod tests;
