//! One peer connection: the only file that drives str0m.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use str0m::{
    Candidate, Event as RtcEvent, IceConnectionState, Input as RtcInput, Output as RtcOutput, Rtc, RtcConfig,
    change::{SdpAnswer, SdpOffer, SdpPendingOffer},
    channel::{ChannelConfig, ChannelId, Reliability},
    media::{Direction, KeyframeRequestKind, MediaKind as RtcMediaKind, Mid, Rid, Simulcast, SimulcastLayer},
    net::{Protocol, Receive},
    rtp::{ExtensionValues, RtpPacket, RtpWrite, SeqNo, Ssrc},
};
use zynk_protocol::{DataKind, MediaKind};

use crate::{Codec, RtpPayload, SessionError, Transmit};

/// SSRCs whose section is remembered. Beyond it the memory starts anew; it is filled from the next packets.
const KNOWN_SSRCS_MAX: usize = 4_096;
/// How long sent packets are kept for retransmission.
const RETRANSMISSION_AGE_MAX: Duration = Duration::from_secs(3);
/// How many sent packets of a stream are kept for retransmission; older ones are forgotten.
const RETRANSMISSION_PACKETS_MAX: usize = 1_000;
/// Largest data channel message, as LiveKit's clients advertise it.
const DATA_MESSAGE_BYTES_MAX: u32 = 64_000;
/// Outputs handled after one input. A peer that goes on beyond it is broken, and ended.
const OUTPUTS_PER_INPUT_MAX: usize = 100_000;

/// What a peer connection reports.
#[derive(Debug)]
pub(super) enum PeerEvent {
    Transmit(Transmit),
    Connected,
    Closed,
    /// `red`: the payload is Opus with redundancy.
    Rtp {
        mid: String,
        packet: Box<RtpPacket>,
        red: bool,
    },
    ChannelOpen,
    Data {
        kind: DataKind,
        message: Bytes,
    },
    KeyframeRequest {
        mid: String,
        rid: Option<String>,
    },
}

/// A section to add for sending.
#[derive(Clone, Debug)]
pub(super) struct SendSection {
    pub(super) kind: MediaKind,
    pub(super) cid: String,
    pub(super) rids: Vec<String>,
}

/// What the next offer shall change.
#[derive(Debug, Default)]
pub(super) struct OfferChanges {
    pub(super) channels: bool,
    pub(super) receive_audio: u32,
    pub(super) receive_video: u32,
    pub(super) send: Vec<SendSection>,
    pub(super) stop: Vec<String>,
}

/// An offer that was made, and the sections it added for sending, in the order of [`OfferChanges::send`].
#[derive(Debug)]
pub(super) struct MadeOffer {
    pub(super) sdp: String,
    pub(super) send_mids: Vec<String>,
}

/// Where a stream of ours goes on.
#[derive(Clone, Copy, Debug)]
struct SendState {
    seq: SeqNo,
}

#[derive(Debug)]
pub(super) struct Peer {
    rtc: Rtc,
    local: SocketAddr,
    deadline: Instant,
    pending: Option<SdpPendingOffer>,
    channels: Vec<(DataKind, ChannelId)>,
    receive_mids: Vec<Mid>,
    mids: FxHashMap<Ssrc, Mid>,
    sending: FxHashMap<(Mid, Option<Rid>), SendState>,
    events: VecDeque<PeerEvent>,
    connected: bool,
    closed: bool,
}

impl Peer {
    pub(super) fn new(local: SocketAddr, red: bool, now: Instant) -> Result<Self, SessionError> {
        let mut rtc = RtcConfig::new()
            .clear_codecs()
            .enable_opus(true, red)
            .enable_vp8(true)
            .enable_h264(true)
            .enable_vp9(true)
            .enable_av1(true)
            .set_rtp_mode(true)
            .set_stats_interval(None)
            .set_sctp_max_message_size(DATA_MESSAGE_BYTES_MAX)
            .build(now);
        let candidate = Candidate::host(local, Protocol::Udp).map_err(SessionError::negotiation)?;
        rtc.add_local_candidate(candidate);
        Ok(Self {
            rtc,
            local,
            deadline: now,
            pending: None,
            channels: Vec::new(),
            receive_mids: Vec::new(),
            mids: FxHashMap::default(),
            sending: FxHashMap::default(),
            events: VecDeque::new(),
            connected: false,
            closed: false,
        })
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    pub(super) fn has_pending_offer(&self) -> bool {
        self.pending.is_some()
    }

    /// When [`Peer::handle_timeout`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.closed).then_some(self.deadline)
    }

    pub(super) fn poll_event(&mut self) -> Option<PeerEvent> {
        self.events.pop_front()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if !self.closed && now >= self.deadline {
            self.step(RtcInput::Timeout(now));
        }
    }

    pub(super) fn handle_datagram(&mut self, now: Instant, source: SocketAddr, datagram: &[u8]) {
        if let Ok(receive) = Receive::new(Protocol::Udp, source, self.local, datagram) {
            self.step(RtcInput::Receive(now, receive));
        }
    }

    /// Makes an offer. None when there is nothing to negotiate.
    pub(super) fn offer(&mut self, now: Instant, changes: &OfferChanges) -> Option<MadeOffer> {
        let idle: Vec<Mid> = self
            .receive_mids
            .iter()
            .copied()
            .filter(|mid| self.rtc.media(*mid).is_some_and(|media| media.direction() == Direction::Inactive))
            .collect();
        let mut send_mids = Vec::new();
        let mut new_channels = Vec::new();
        let mut api = self.rtc.sdp_api();
        if changes.channels {
            for kind in DataKind::ALL {
                new_channels.push((kind, api.add_channel_with_config(channel_config(kind))));
            }
        }
        for mid in idle {
            api.set_direction(mid, Direction::RecvOnly);
        }
        for mid in &changes.stop {
            api.set_direction(Mid::from(mid.as_str()), Direction::Inactive);
        }
        for (kind, count) in
            [(RtcMediaKind::Audio, changes.receive_audio), (RtcMediaKind::Video, changes.receive_video)]
        {
            for _ in 0..count {
                self.receive_mids.push(api.add_media(kind, Direction::RecvOnly, None, None, None));
            }
        }
        for section in &changes.send {
            let simulcast = (!section.rids.is_empty()).then(|| {
                let mut simulcast = Simulcast::new();
                for rid in &section.rids {
                    simulcast.add_send_layer(SimulcastLayer::new(rid));
                }
                simulcast
            });
            let cid = Some(section.cid.clone());
            let mid = api.add_media(rtc_kind(section.kind), Direction::SendOnly, cid.clone(), cid, simulcast);
            send_mids.push(mid.to_string());
        }
        let made = api.apply();
        self.channels.extend(new_channels);
        self.drain_after(now);
        let (offer, pending) = made?;
        self.pending = Some(pending);
        Some(MadeOffer { sdp: offer.to_sdp_string(), send_mids })
    }

    pub(super) fn accept_answer(&mut self, now: Instant, sdp: &str) -> Result<(), SessionError> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let answer = SdpAnswer::from_sdp_string(sdp).map_err(SessionError::negotiation)?;
        self.rtc.sdp_api().accept_answer(pending, answer).map_err(SessionError::negotiation)?;
        self.drain_after(now);
        Ok(())
    }

    /// Accepts the server's offer and returns the answer.
    pub(super) fn accept_offer(&mut self, now: Instant, sdp: &str) -> Result<String, SessionError> {
        let offer = SdpOffer::from_sdp_string(sdp).map_err(SessionError::negotiation)?;
        let answer = self.rtc.sdp_api().accept_offer(offer).map_err(SessionError::negotiation)?;
        self.drain_after(now);
        Ok(answer.to_sdp_string())
    }

    pub(super) fn add_candidate(&mut self, now: Instant, candidate: &str) {
        if let Ok(candidate) = Candidate::from_sdp_string(candidate) {
            self.rtc.add_remote_candidate(candidate);
            self.drain_after(now);
        }
    }

    /// Whether the section may send now, in this codec.
    pub(super) fn can_send(&self, mid: &str, codec: Codec) -> bool {
        let mid = Mid::from(mid);
        self.rtc.media(mid).is_some_and(|media| media.direction().is_sending())
            && self.payload_type(mid, codec).is_some()
    }

    fn payload_type(&self, mid: Mid, codec: Codec) -> Option<str0m::media::Pt> {
        let media = self.rtc.media(mid)?;
        media.remote_pts().iter().copied().find(|pt| {
            let params = self.rtc.codec_config().iter().find(|params| params.pt() == *pt);
            params.is_some_and(|params| params.spec().codec == str0m_codec(codec))
        })
    }

    /// Sends a packet. Packets of a section that cannot send are dropped, and `false` returned.
    pub(super) fn send_rtp(
        &mut self,
        now: Instant,
        mid: &str,
        rid: Option<&str>,
        codec: Codec,
        packet: &RtpPayload,
    ) -> bool {
        let mid = Mid::from(mid);
        let rid = rid.map(Rid::from);
        let Some(payload_type) = self.payload_type(mid, codec) else { return false };
        let mut api = self.rtc.direct_api();
        let Some(stream) = api.stream_tx_by_mid(mid, rid) else { return false };
        let state = self.sending.entry((mid, rid)).or_insert_with(|| {
            stream.set_rtx_cache(RETRANSMISSION_PACKETS_MAX, RETRANSMISSION_AGE_MAX, None);
            SendState { seq: SeqNo::default() }
        });
        let extensions = ExtensionValues {
            audio_level: packet.audio_level_dbov,
            voice_activity: packet.audio_level_dbov.map(|level| level > -60),
            ..ExtensionValues::default()
        };
        let write = RtpWrite::new(payload_type, state.seq, packet.timestamp, now, packet.payload.clone())
            .marker(packet.marker)
            .nackable(true)
            .ext_vals(extensions);
        state.seq.inc();
        stream.write_rtp(write);
        self.drain();
        // A written packet leaves with the next timeout.
        self.step(RtcInput::Timeout(now));
        true
    }

    /// Asks the sender of a section for a keyframe.
    pub(super) fn request_keyframe(&mut self, now: Instant, mid: &str) {
        let mut api = self.rtc.direct_api();
        if let Some(stream) = api.stream_rx_by_mid(Mid::from(mid), None) {
            stream.request_keyframe(KeyframeRequestKind::Pli);
        }
        self.drain();
        self.step(RtcInput::Timeout(now));
    }

    /// Sends a data channel message; `false` when the channel is not open or its buffer is full.
    pub(super) fn send_data(&mut self, now: Instant, kind: DataKind, message: &[u8]) -> bool {
        let Some((_, id)) = self.channels.iter().find(|(known, _)| *known == kind) else { return false };
        let sent =
            self.rtc.channel(*id).is_some_and(|mut channel| channel.write(true, message).unwrap_or(false));
        self.drain_after(now);
        sent
    }

    /// Begins the end of the connection: DTLS says goodbye.
    pub(super) fn close(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        if self.rtc.close().is_ok() {
            self.drain_after(now);
        }
        self.closed = true;
    }

    fn step(&mut self, input: RtcInput<'_>) {
        if self.closed {
            return;
        }
        match self.rtc.handle_input(input) {
            Ok(()) => self.drain(),
            Err(error) => {
                tracing::debug!(%error, "peer connection failed");
                self.fail();
            }
        }
    }

    fn drain_after(&mut self, now: Instant) {
        self.drain();
        self.step(RtcInput::Timeout(now));
    }

    /// Empties str0m: it wants nothing else to happen before that.
    fn drain(&mut self) {
        for _ in 0..OUTPUTS_PER_INPUT_MAX {
            match self.rtc.poll_output() {
                Ok(RtcOutput::Timeout(at)) => {
                    self.deadline = at;
                    return;
                }
                Ok(RtcOutput::Transmit(transmit)) => {
                    self.events.push_back(PeerEvent::Transmit(Transmit {
                        source: transmit.source,
                        destination: transmit.destination,
                        payload: transmit.contents.into(),
                    }));
                }
                Ok(RtcOutput::Event(event)) => self.handle_event(event),
                Err(error) => {
                    tracing::debug!(%error, "peer connection failed");
                    break;
                }
            }
        }
        self.fail();
    }

    fn fail(&mut self) {
        if !self.closed {
            self.closed = true;
            self.events.push_back(PeerEvent::Closed);
        }
    }

    fn handle_event(&mut self, event: RtcEvent) {
        match event {
            RtcEvent::Connected => {
                self.connected = true;
                self.events.push_back(PeerEvent::Connected);
            }
            RtcEvent::IceConnectionStateChange(IceConnectionState::Disconnected) | RtcEvent::Closed => {
                self.fail();
            }
            RtcEvent::RtpPacket(packet) => {
                if let Some(mid) = self.mid_of(&packet) {
                    let payload_type = packet.header.payload_type;
                    let red = self.rtc.codec_config().iter().any(|params| params.red() == Some(payload_type));
                    let mid = mid.to_string();
                    self.events.push_back(PeerEvent::Rtp { mid, packet: Box::new(packet), red });
                }
            }
            RtcEvent::ChannelOpen(id, label) => {
                if let Some(kind) = DataKind::from_label(&label) {
                    self.channels.retain(|(known, _)| *known != kind);
                    self.channels.push((kind, id));
                    self.events.push_back(PeerEvent::ChannelOpen);
                }
            }
            RtcEvent::ChannelData(data) => {
                if let Some((kind, _)) = self.channels.iter().find(|(_, id)| *id == data.id) {
                    self.events.push_back(PeerEvent::Data { kind: *kind, message: data.data.into() });
                }
            }
            RtcEvent::KeyframeRequest(request) => {
                self.events.push_back(PeerEvent::KeyframeRequest {
                    mid: request.mid.to_string(),
                    rid: request.rid.map(|rid| rid.to_string()),
                });
            }
            _ => {}
        }
    }

    fn mid_of(&mut self, packet: &RtpPacket) -> Option<Mid> {
        let ssrc = packet.header.ssrc;
        if let Some(mid) = self.mids.get(&ssrc) {
            return Some(*mid);
        }
        let mid = packet.header.ext_vals.mid.or_else(|| {
            let mut api = self.rtc.direct_api();
            api.stream_rx(&ssrc).map(|stream| stream.mid())
        })?;
        if self.mids.len() >= KNOWN_SSRCS_MAX {
            self.mids.clear();
        }
        self.mids.insert(ssrc, mid);
        Some(mid)
    }
}

fn rtc_kind(kind: MediaKind) -> RtcMediaKind {
    match kind {
        MediaKind::Audio => RtcMediaKind::Audio,
        MediaKind::Video => RtcMediaKind::Video,
    }
}

fn channel_config(kind: DataKind) -> ChannelConfig {
    let (ordered, reliability) = match kind {
        DataKind::Reliable => (true, Reliability::Reliable),
        DataKind::Lossy | DataKind::DataTrack => (false, Reliability::MaxRetransmits { retransmits: 0 }),
    };
    ChannelConfig { label: kind.label().to_owned(), ordered, reliability, ..ChannelConfig::default() }
}

/// The library's name of a codec.
const fn str0m_codec(codec: Codec) -> str0m::format::Codec {
    match codec {
        Codec::Opus => str0m::format::Codec::Opus,
        Codec::Vp8 => str0m::format::Codec::Vp8,
        Codec::Vp9 => str0m::format::Codec::Vp9,
        Codec::H264 => str0m::format::Codec::H264,
        Codec::Av1 => str0m::format::Codec::Av1,
    }
}
