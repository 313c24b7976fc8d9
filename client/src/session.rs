//! A participant's session, sans-IO.
//!
//! ```text
//!   Signal ─────► signaling ──► negotiation ──► peer (str0m) ◄──── Datagram
//!   Signal ◄───── requests  ◄── offers              │
//!                                        Media, Data, KeyframeRequested
//! ```

mod commands;
mod io;
mod join;
mod negotiation;
mod peer;
mod publish;
mod receive;
mod red;
mod signaling;
mod statistics;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message as _;
use zynk_protocol::{
    DataKind, SectionCount,
    livekit::{self, SignalTarget, signal_request},
};

pub use io::{Command, EarlierPayload, Event, Input, MediaPacket, Output, SessionError, Transmit};
pub use publish::PublishTrack;
pub use statistics::{FrameStats, ReceiveStats};

use peer::{Peer, PeerEvent};
use publish::LocalTracks;
use receive::ReceivedTracks;

/// How long the primary peer connection may take, as LiveKit's SDKs have it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Participants that are remembered. Further ones are not: events about their tracks lack the participant.
const PARTICIPANTS_MAX: usize = 10_000;
/// Data packets that wait for their channel to open. When full, the oldest is dropped.
const WAITING_DATA_MAX: usize = 256;
/// ICE candidates that wait for a description. When full, further ones are dropped.
const WAITING_CANDIDATES_MAX: usize = 32;
/// Sections for receiving that one session adds, at the server's demand, of either kind. Beyond it, demands
/// are ignored.
const RECEIVE_SECTIONS_MAX: u32 = 1_000;

/// One peer connection for both directions, or one for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerConnections {
    /// LiveKit's `/rtc/v1`: the client makes all offers.
    #[default]
    Single,
    /// LiveKit's `/rtc`: the server makes the offers of the downstream connection.
    Dual,
}

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// One peer connection, or two.
    pub connections: PeerConnections,
    /// Our UDP address for the peer connection that sends (and receives, if there is only one).
    pub upstream_addr: SocketAddr,
    /// Our UDP address for the peer connection that only receives; must differ from the other. Unused with
    /// a single peer connection.
    pub downstream_addr: SocketAddr,
    /// Whether everybody's tracks are received without asking.
    pub auto_subscribe: bool,
    /// Whether subscriptions start at the lowest quality.
    pub adaptive_stream: bool,
    /// How many sections for receiving the first offer has (single peer connection).
    pub receive_sections: SectionCount,
    /// Whether Opus with redundancy (RFC 2198) is received.
    pub red: bool,
    /// Whether [`Event::Media`] is made for each packet. Statistics do not depend on it.
    pub media_events: bool,
    /// Zero of the clock by which the latency of synthetic media is measured; the session's start when unset.
    pub media_epoch: Option<Instant>,
}

impl SessionConfig {
    /// One peer connection that receives everything, at these addresses.
    pub fn new(upstream_addr: SocketAddr, downstream_addr: SocketAddr) -> Self {
        Self {
            connections: PeerConnections::Single,
            upstream_addr,
            downstream_addr,
            auto_subscribe: true,
            adaptive_stream: false,
            receive_sections: SectionCount { audio: 3, video: 3 },
            red: false,
            media_events: true,
            media_epoch: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Joining,
    Joined,
    Ended,
}

/// A participant's session: from the wish to join until the end.
///
/// After each [`Session::handle_input`], call [`Session::poll_output`] until it returns [`Output::Timeout`].
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    join: livekit::JoinRequest,
    stage: Stage,
    started: Instant,
    upstream: Peer,
    downstream: Option<Peer>,
    local: LocalTracks,
    received: ReceivedTracks,
    participants: BTreeMap<String, livekit::ParticipantInfo>,
    own: Option<livekit::ParticipantInfo>,
    outputs: VecDeque<Output>,
    offer_id: u32,
    channels_offered: bool,
    renegotiate: Option<SectionCount>,
    sections_added: SectionCount,
    upstream_described: bool,
    waiting_candidates: Vec<(SignalTarget, String)>,
    waiting_data: VecDeque<(DataKind, Bytes)>,
    subscriber_primary: bool,
    connect_deadline: Option<Instant>,
    ping: Option<Ping>,
}

#[derive(Clone, Copy, Debug)]
struct Ping {
    interval: Duration,
    timeout: Duration,
    next: Instant,
    last_heard: Instant,
}

impl Session {
    /// A session that has not joined yet. Send [`Session::join_request`] to begin.
    pub fn new(config: SessionConfig, now: Instant) -> Result<Self, SessionError> {
        let upstream = Peer::new(config.upstream_addr, config.red, now)?;
        let downstream = match config.connections {
            PeerConnections::Single => None,
            PeerConnections::Dual => Some(Peer::new(config.downstream_addr, config.red, now)?),
        };
        let mut session = Self {
            join: livekit::JoinRequest::default(),
            stage: Stage::Joining,
            started: now,
            upstream,
            downstream,
            local: LocalTracks::default(),
            received: ReceivedTracks::default(),
            participants: BTreeMap::new(),
            own: None,
            outputs: VecDeque::new(),
            offer_id: 0,
            channels_offered: false,
            renegotiate: None,
            sections_added: SectionCount::default(),
            upstream_described: false,
            waiting_candidates: Vec::new(),
            waiting_data: VecDeque::new(),
            subscriber_primary: false,
            connect_deadline: None,
            ping: None,
            config,
        };
        let offer = match session.config.connections {
            PeerConnections::Single => session.make_offer(now, session.config.receive_sections),
            PeerConnections::Dual => None,
        };
        session.join = join::join_request(&session.config, offer);
        Ok(session)
    }

    /// What the session asks for with its join, its first offer included.
    pub fn join_request(&self) -> &livekit::JoinRequest {
        &self.join
    }

    /// Path and query of the WebSocket, relative to the server's base URL, without a leading slash. The
    /// token goes into the header `Authorization`.
    pub fn signal_path(&self) -> String {
        join::signal_path(&self.config, &self.join)
    }

    /// Ourselves, once joined.
    pub fn own_info(&self) -> Option<&livekit::ParticipantInfo> {
        self.own.as_ref()
    }

    /// The others, by `PA_…` id.
    pub fn participants(&self) -> &BTreeMap<String, livekit::ParticipantInfo> {
        &self.participants
    }

    /// Figures of every track that was received, by `TR_…` id; tracks that ended are kept.
    pub fn receive_stats(&self) -> BTreeMap<String, ReceiveStats> {
        self.received.stats()
    }

    /// Those of a received track's synthetic frames in a range that are not complete.
    pub fn incomplete_frames(&self, track: &str, frames: RangeInclusive<u32>) -> Vec<u32> {
        self.received.incomplete_frames(track, frames)
    }

    /// Whether the session is over.
    pub fn is_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// Takes one input.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { source, destination, payload } => {
                if destination == self.upstream.local() {
                    self.upstream.handle_datagram(now, source, payload);
                } else if let Some(downstream) =
                    self.downstream.as_mut().filter(|peer| peer.local() == destination)
                {
                    downstream.handle_datagram(now, source, payload);
                }
            }
            Input::Signal(response) => self.handle_signal(now, *response),
            Input::SignalClosed => {
                if self.stage != Stage::Ended {
                    self.fail(now, SessionError::SignalLost);
                }
            }
            Input::Command(command) => self.handle_command(now, command),
            Input::Timeout => self.handle_timeout(now),
        }
        self.collect(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        let far = self.started + Duration::from_secs(365 * 24 * 3600);
        if self.stage == Stage::Ended {
            return Output::Timeout(far);
        }
        let deadlines = [
            self.upstream.deadline(),
            self.downstream.as_ref().and_then(Peer::deadline),
            self.connect_deadline,
            self.ping.map(|ping| ping.next.min(ping.last_heard + ping.timeout)),
        ];
        Output::Timeout(deadlines.into_iter().flatten().min().unwrap_or(far))
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.upstream.handle_timeout(now);
        if let Some(downstream) = &mut self.downstream {
            downstream.handle_timeout(now);
        }
        if self.connect_deadline.is_some_and(|deadline| now >= deadline) {
            self.fail(now, SessionError::ConnectTimeout(CONNECT_TIMEOUT));
        }
        if let Some(ping) = &mut self.ping {
            if now >= ping.last_heard + ping.timeout {
                let timeout = ping.timeout;
                self.fail(now, SessionError::SignalTimeout(timeout));
            } else if now >= ping.next {
                ping.next = now + ping.interval;
                let timestamp = i64::try_from(now.saturating_duration_since(self.started).as_millis());
                self.request(signal_request::Message::PingReq(livekit::Ping {
                    timestamp: timestamp.unwrap_or(i64::MAX),
                    rtt: 0,
                }));
            }
        }
    }

    /// Carries what the peer connections report to the outputs.
    fn collect(&mut self, now: Instant) {
        let mut primary_connected = false;
        while let Some(event) = self.upstream.poll_event() {
            primary_connected |= matches!(event, PeerEvent::Connected) && !self.subscriber_primary;
            self.handle_peer_event(now, event);
        }
        while let Some(event) = self.downstream.as_mut().and_then(Peer::poll_event) {
            primary_connected |= matches!(event, PeerEvent::Connected) && self.subscriber_primary;
            self.handle_peer_event(now, event);
        }
        if primary_connected {
            self.connect_deadline = None;
            self.event(Event::Connected);
        }
    }

    fn handle_peer_event(&mut self, now: Instant, event: PeerEvent) {
        match event {
            PeerEvent::Transmit(transmit) => self.outputs.push_back(Output::Transmit(transmit)),
            PeerEvent::Connected => self.announce_ready_tracks(),
            PeerEvent::Closed => {
                if self.stage != Stage::Ended {
                    self.fail(now, SessionError::ConnectionLost);
                }
            }
            PeerEvent::Rtp { mid, packet, red } => {
                let epoch = self.config.media_epoch.unwrap_or(self.started);
                let clock = now.saturating_duration_since(epoch);
                if let Some(media) = self.received.receive((now, clock), &mid, &packet, red)
                    && self.config.media_events
                {
                    self.event(Event::Media(media));
                }
            }
            PeerEvent::ChannelOpen => self.flush_data(now),
            PeerEvent::Data { kind: DataKind::DataTrack, message } => self.event(Event::RawData(message)),
            PeerEvent::Data { kind, message } => {
                if let Ok(packet) = livekit::DataPacket::decode(message) {
                    self.event(Event::Data { kind, packet: Box::new(packet) });
                }
            }
            PeerEvent::KeyframeRequest { mid, rid } => {
                if let Some(cid) = self.local.cid_of_mid(&mid).map(str::to_owned) {
                    self.event(Event::KeyframeRequested { cid, rid });
                }
            }
        }
    }

    fn request(&mut self, message: signal_request::Message) {
        let request = livekit::SignalRequest { message: Some(message) };
        self.outputs.push_back(Output::Signal(Box::new(request)));
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn fail(&mut self, now: Instant, error: SessionError) {
        if self.stage != Stage::Ended {
            self.end(now);
            self.event(Event::Failed(error));
        }
    }

    fn end(&mut self, now: Instant) {
        self.stage = Stage::Ended;
        self.connect_deadline = None;
        self.ping = None;
        self.upstream.close(now);
        if let Some(downstream) = &mut self.downstream {
            downstream.close(now);
        }
    }
}

#[cfg(test)]
mod tests;
