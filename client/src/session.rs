//! A participant's session, sans-IO.
//!
//! ```text
//!   Signal ─────► signaling ──► negotiation ──► peer (str0m) ◄──── Datagram
//!   Signal ◄───── requests  ◄── offers              │
//!                                        Media, Data, KeyframeRequested
//! ```

mod io;
mod join;
mod peer;
mod publish;
mod receive;
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
    livekit::{
        self, SignalTarget, data_packet, leave_request, participant_info, signal_request, signal_response,
    },
};

pub use io::{Command, Event, Input, MediaPacket, Output, SessionError, Transmit};
pub use publish::PublishTrack;
pub use statistics::{FrameStats, ReceiveStats};

use peer::{OfferChanges, Peer, PeerEvent};
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
        let upstream = Peer::new(config.upstream_addr, now)?;
        let downstream = match config.connections {
            PeerConnections::Single => None,
            PeerConnections::Dual => Some(Peer::new(config.downstream_addr, now)?),
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

    fn handle_signal(&mut self, now: Instant, response: livekit::SignalResponse) {
        use signal_response::Message;
        if self.stage == Stage::Ended {
            return;
        }
        if let Some(ping) = &mut self.ping {
            ping.last_heard = now;
        }
        let Some(message) = &response.message else { return };
        match message {
            Message::Join(join) => {
                self.handle_join(now, join);
                return;
            }
            Message::Leave(leave) => {
                self.end(now);
                self.outputs.push_back(Output::Event(Event::Left(leave.clone())));
                return;
            }
            Message::Answer(answer) => self.handle_answer(now, answer),
            Message::Offer(offer) => self.handle_offer(now, offer),
            Message::Trickle(trickle) => self.handle_trickle(now, trickle),
            Message::Update(update) => self.update_participants(&update.participants),
            Message::TrackPublished(published) => {
                let sid = published.track.as_ref().map_or("", |track| track.sid.as_str());
                if self.local.accept(&published.cid, sid) {
                    self.negotiate(now, SectionCount::default());
                }
            }
            Message::TrackUnpublished(unpublished) => {
                if let Some(cid) = self.local.cid_of_sid(&unpublished.track_sid).map(str::to_owned) {
                    self.local.remove(&cid);
                    self.event(Event::TrackFailed { cid, reason: "unpublished by the server".to_owned() });
                    self.negotiate(now, SectionCount::default());
                }
            }
            Message::RequestResponse(answer) => self.handle_refusal(answer),
            Message::MediaSectionsRequirement(wanted) => {
                let wanted = SectionCount { audio: wanted.num_audios, video: wanted.num_videos };
                self.negotiate(now, wanted);
            }
            _ => {}
        }
        self.event(Event::Signal(Box::new(response)));
    }

    fn handle_join(&mut self, now: Instant, join: &livekit::JoinResponse) {
        if self.stage != Stage::Joining {
            return;
        }
        self.stage = Stage::Joined;
        self.own.clone_from(&join.participant);
        self.update_participants(&join.other_participants);
        self.subscriber_primary = join.subscriber_primary && self.downstream.is_some();
        let seconds = |value: i32| u64::try_from(value).ok().filter(|value| *value > 0);
        if let (Some(interval), Some(timeout)) = (seconds(join.ping_interval), seconds(join.ping_timeout)) {
            self.ping = Some(Ping {
                interval: Duration::from_secs(interval),
                timeout: Duration::from_secs(timeout),
                next: now + Duration::from_secs(interval),
                last_heard: now,
            });
        }
        self.connect_deadline = Some(now + CONNECT_TIMEOUT);
        self.event(Event::Joined(Box::new(join.clone())));
        if self.config.connections == PeerConnections::Dual && (join.fast_publish || !self.subscriber_primary)
        {
            self.negotiate(now, SectionCount::default());
        }
    }

    fn handle_answer(&mut self, now: Instant, answer: &livekit::SessionDescription) {
        if !self.upstream.has_pending_offer() || (answer.id != 0 && answer.id != self.offer_id) {
            return;
        }
        if let Err(error) = self.upstream.accept_answer(now, &answer.sdp) {
            self.fail(now, error);
            return;
        }
        self.upstream_described = true;
        let upstream = &self.upstream;
        let refused = self.local.answered(|local| upstream.can_send(&local.mid, local.track.codec));
        self.announce_ready_tracks();
        for cid in refused {
            self.event(Event::TrackFailed { cid, reason: "the server's answer does not take it".to_owned() });
        }
        if self.config.connections == PeerConnections::Single {
            self.map_tracks(answer.mid_to_track_id.iter().map(|(mid, track)| (mid.clone(), track.clone())));
        }
        self.add_waiting_candidates(now, SignalTarget::Publisher);
        if let Some(wanted) = self.renegotiate.take() {
            self.negotiate(now, wanted);
        }
    }

    fn handle_offer(&mut self, now: Instant, offer: &livekit::SessionDescription) {
        let Some(downstream) = &mut self.downstream else { return };
        match downstream.accept_offer(now, &offer.sdp) {
            Ok(sdp) => {
                self.map_tracks(receive::tracks_in_sdp(&offer.sdp).into_iter());
                self.add_waiting_candidates(now, SignalTarget::Subscriber);
                self.request(signal_request::Message::Answer(description("answer", sdp, offer.id)));
            }
            Err(error) => self.fail(now, error),
        }
    }

    fn handle_trickle(&mut self, now: Instant, trickle: &livekit::TrickleRequest) {
        let init = serde_json::from_str::<serde_json::Value>(&trickle.candidate_init).unwrap_or_default();
        let candidate = init.get("candidate").and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        if candidate.is_empty() || self.waiting_candidates.len() >= WAITING_CANDIDATES_MAX {
            return;
        }
        let target = match self.config.connections {
            PeerConnections::Single => SignalTarget::Publisher,
            PeerConnections::Dual => trickle.target(),
        };
        self.waiting_candidates.push((target, candidate));
        let described = match target {
            SignalTarget::Publisher => self.upstream_described,
            SignalTarget::Subscriber => true,
        };
        if described {
            self.add_waiting_candidates(now, target);
        }
    }

    fn add_waiting_candidates(&mut self, now: Instant, target: SignalTarget) {
        let peer = match target {
            SignalTarget::Publisher => Some(&mut self.upstream),
            SignalTarget::Subscriber => self.downstream.as_mut(),
        };
        let Some(peer) = peer else { return };
        self.waiting_candidates.retain(|(waiting, candidate)| {
            if *waiting == target {
                peer.add_candidate(now, candidate);
            }
            *waiting != target
        });
    }

    fn handle_refusal(&mut self, answer: &livekit::RequestResponse) {
        use livekit::request_response::{Reason, Request};
        if matches!(answer.reason(), Reason::Ok | Reason::Queued) {
            return;
        }
        if let Some(Request::AddTrack(request)) = &answer.request
            && self.local.remove(&request.cid).is_some()
        {
            let reason = format!("{}: {}", answer.reason().as_str_name(), answer.message);
            self.event(Event::TrackFailed { cid: request.cid.clone(), reason });
        }
    }

    fn handle_command(&mut self, now: Instant, command: Command) {
        use signal_request::Message;
        if self.stage == Stage::Ended {
            return;
        }
        match command {
            Command::Publish(track) => {
                let request = track.add_track_request();
                let cid = track.cid.clone();
                if self.local.announce(track) {
                    self.request(Message::AddTrack(request));
                } else {
                    self.event(Event::TrackFailed {
                        cid,
                        reason: "too many tracks, or id in use".to_owned(),
                    });
                }
            }
            Command::Unpublish { cid } => {
                if self.local.remove(&cid).is_some() {
                    self.negotiate(now, SectionCount::default());
                }
            }
            Command::SendRtp { cid, rid, packet } => {
                if let Some(local) = self.local.ready(&cid) {
                    let (mid, codec) = (&local.mid, local.track.codec);
                    self.upstream.send_rtp(now, mid, rid.as_deref(), codec, &packet);
                }
            }
            Command::RequestKeyframe { track } => {
                if let Some(mid) = self.received.mid_of(&track).map(str::to_owned) {
                    self.downstream.as_mut().unwrap_or(&mut self.upstream).request_keyframe(now, &mid);
                }
            }
            Command::SendData { kind, packet } => self.send_data(now, kind, *packet),
            Command::Mute { cid, muted } => {
                if let Some(local) = self.local.get(&cid) {
                    let sid = local.sid.clone();
                    self.request(Message::Mute(livekit::MuteTrackRequest { sid, muted }));
                }
            }
            Command::Subscribe { tracks, subscribe } => {
                self.request(Message::Subscription(livekit::UpdateSubscription {
                    track_sids: tracks,
                    subscribe,
                    participant_tracks: Vec::new(),
                }));
            }
            Command::UpdateMetadata(update) => self.request(Message::UpdateMetadata(update)),
            Command::Signal(request) => self.outputs.push_back(Output::Signal(request)),
            Command::Leave => {
                self.request(Message::Leave(livekit::LeaveRequest {
                    reason: i32::from(livekit::DisconnectReason::ClientInitiated),
                    action: i32::from(leave_request::Action::Disconnect),
                    ..livekit::LeaveRequest::default()
                }));
                self.end(now);
            }
        }
    }

    #[allow(deprecated, reason = "older receivers read the packet's kind")]
    fn send_data(&mut self, now: Instant, kind: DataKind, mut packet: livekit::DataPacket) {
        packet.kind = i32::from(match kind {
            DataKind::Reliable => data_packet::Kind::Reliable,
            DataKind::Lossy | DataKind::DataTrack => data_packet::Kind::Lossy,
        });
        self.waiting_data.push_back((kind, packet.encode_to_vec().into()));
        if self.waiting_data.len() > WAITING_DATA_MAX {
            self.waiting_data.pop_front();
        }
        if !self.channels_offered {
            self.negotiate(now, SectionCount::default());
        }
        self.flush_data(now);
    }

    fn flush_data(&mut self, now: Instant) {
        while let Some((kind, message)) = self.waiting_data.pop_front() {
            if !self.upstream.send_data(now, kind, &message) {
                self.waiting_data.push_front((kind, message));
                return;
            }
        }
    }

    /// Makes an offer for whatever has changed, and for `wanted` more sections to receive in; after the
    /// answer, if one is outstanding.
    fn negotiate(&mut self, now: Instant, wanted: SectionCount) {
        if self.stage == Stage::Ended {
            return;
        }
        if self.upstream.has_pending_offer() {
            let waiting = self.renegotiate.get_or_insert_default();
            waiting.audio = waiting.audio.saturating_add(wanted.audio);
            waiting.video = waiting.video.saturating_add(wanted.video);
            return;
        }
        if let Some(offer) = self.make_offer(now, wanted) {
            self.request(signal_request::Message::Offer(offer));
        }
    }

    fn make_offer(&mut self, now: Instant, wanted: SectionCount) -> Option<livekit::SessionDescription> {
        let room = |added: u32, wanted: u32| wanted.min(RECEIVE_SECTIONS_MAX.saturating_sub(added));
        let mut changes = OfferChanges {
            channels: !std::mem::replace(&mut self.channels_offered, true),
            receive_audio: room(self.sections_added.audio, wanted.audio),
            receive_video: room(self.sections_added.video, wanted.video),
            send: self.local.to_offer(),
            stop: self.local.take_stopped_mids(),
        };
        let made = self.upstream.offer(now, &changes).or_else(|| {
            // The server wants an offer though nothing has changed: str0m makes one only for a change.
            changes =
                OfferChanges { receive_audio: room(self.sections_added.audio, 1), ..OfferChanges::default() };
            self.upstream.offer(now, &changes)
        })?;
        self.sections_added.audio += changes.receive_audio;
        self.sections_added.video += changes.receive_video;
        self.local.offered(&made.send_mids);
        self.offer_id = self.offer_id.wrapping_add(1).max(1);
        Some(description("offer", made.sdp, self.offer_id))
    }

    /// Tracks wait for the peer connection: what is sent before would pile up, and leave in one burst.
    fn announce_ready_tracks(&mut self) {
        if self.upstream.is_connected() {
            for local in self.local.connected() {
                self.event(Event::TrackReady { cid: local.track.cid, track: local.sid });
            }
        }
    }

    fn map_tracks(&mut self, mids: impl Iterator<Item = (String, String)>) {
        let (begun, ended) = self.received.map(mids);
        for track in ended {
            self.event(Event::TrackUnsubscribed { track });
        }
        for track in begun {
            let publisher = self
                .participants
                .values()
                .find(|participant| participant.tracks.iter().any(|known| known.sid == track));
            let participant = publisher.map(|participant| participant.sid.clone());
            self.event(Event::TrackSubscribed { track, participant });
        }
    }

    fn update_participants(&mut self, participants: &[livekit::ParticipantInfo]) {
        for participant in participants {
            if self.own.as_ref().is_some_and(|own| own.sid == participant.sid) {
                self.own = Some(participant.clone());
            } else if participant.state() == participant_info::State::Disconnected {
                self.participants.remove(&participant.sid);
            } else if self.participants.len() < PARTICIPANTS_MAX
                || self.participants.contains_key(&participant.sid)
            {
                self.participants.insert(participant.sid.clone(), participant.clone());
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
            PeerEvent::Rtp { mid, packet } => {
                let epoch = self.config.media_epoch.unwrap_or(self.started);
                let clock = now.saturating_duration_since(epoch);
                if let Some(media) = self.received.receive(now, clock, &mid, &packet)
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

fn description(kind: &str, sdp: String, id: u32) -> livekit::SessionDescription {
    livekit::SessionDescription { r#type: kind.to_owned(), sdp, id, ..livekit::SessionDescription::default() }
}

#[cfg(test)]
mod tests;
