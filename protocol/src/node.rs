//! What signaling tells a media node (`NodeCommand`) and what the node answers (`NodeNotice`).
//!
//! ```text
//!   client ── WebSocket ──► signaling ── NodeCommand ──► media node
//!   client ◄─ WebSocket ─── signaling ◄─ NodeNotice ──── media node
//!   client ◄────────── ICE, DTLS, SRTP, SCTP ──────────► media node
//! ```
//!
//! Signaling decides (who is in a room, what may be published, who wants what); the node negotiates SDP and
//! moves media. SDP is text here: only the node reads it. Commands about one connection are obeyed in the order in
//! which they were sent, and notices about it arrive in the order in which they happened; so do all of one room
//! as long as the node has it on one worker.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Bitrate, ConnectionId, DataKind, MediaKind, MimeType, NodeId, ParticipantSid, RoomReport, RoomSid,
    TrackSid, TrackSource,
};

/// Largest SDP description of a client, in bytes; a larger one is refused. A browser writes about 7 KiB for a
/// section of video: a single connection that receives fifty people takes 400 KiB.
pub const SDP_BYTES_MAX: usize = 512 * 1024;

/// An order to the node that hosts `room`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeCommand {
    /// The room it concerns. The first command that names a room creates it on the node.
    pub room: RoomSid,
    /// What to do.
    pub action: NodeAction,
}

/// What a node can be told to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NodeAction {
    /// Make a peer connection. Answered by nothing until it negotiates.
    OpenConnection(OpenConnection),
    /// End a peer connection and everything it published or subscribed to. Unknown ids are ignored.
    CloseConnection {
        /// Which.
        connection: ConnectionId,
    },
    /// Take over a peer connection of another room of the node, with all that it publishes. Signaling has ended its
    /// subscriptions, and those to its tracks, before. The other room is told [`NodeEvent::ConnectionMoved`]; what happens
    /// after that is told to this room.
    AdoptConnection {
        /// Which.
        connection: ConnectionId,
        /// The room that it is in now.
        from: RoomSid,
    },
    /// Forward no more of the room's audio than that of the loudest. Told anew with each connection: a worker may have
    /// joined the room with it.
    LimitAudio {
        /// How many are heard; 0: all.
        loudest: u32,
    },
    /// End the room and all its connections.
    CloseRoom,
    /// The client's SDP offer. Answered by [`NodeEvent::Answer`] or [`NodeEvent::NegotiationFailed`].
    RemoteOffer {
        /// Whose.
        connection: ConnectionId,
        /// The client's number for it, echoed in the answer; 0 for clients that do not count.
        offer_id: u32,
        /// The offer.
        sdp: String,
    },
    /// The client's SDP answer to the node's outstanding offer.
    RemoteAnswer {
        /// Whose.
        connection: ConnectionId,
        /// The offer it answers; 0 for clients that do not count.
        offer_id: u32,
        /// The answer.
        sdp: String,
    },
    /// One of the client's ICE candidates (`candidate:…`). May come before the description.
    RemoteCandidate {
        /// Whose.
        connection: ConnectionId,
        /// The candidate attribute's value.
        candidate: String,
    },
    /// Make a new offer with fresh ICE credentials (connections whose offers the node makes).
    RestartIce {
        /// Which.
        connection: ConnectionId,
    },
    /// Media of a publisher that was announced and may now arrive. When a section of an offer (past or
    /// future) matches, [`NodeEvent::TrackStarted`] follows. A track that has started can be announced once
    /// more with another codec, see [`ExpectedTrack::backup`].
    ExpectTrack(ExpectedTrack),
    /// Forget an expected or published track; its subscriptions end. The section stays.
    RemoveTrack {
        /// Which.
        track: TrackSid,
    },
    /// The publisher muted (`true`) or unmuted the track.
    MuteTrack {
        /// Which.
        track: TrackSid,
        /// Whether it is silent now.
        muted: bool,
    },
    /// Send a published track to a connection.
    Subscribe(SubscribeTrack),
    /// Stop sending a track to a connection.
    Unsubscribe {
        /// The receiving connection.
        connection: ConnectionId,
        /// Which track.
        track: TrackSid,
    },
    /// Change what a subscription forwards. Kept if the subscription does not exist yet.
    ConfigureSubscription {
        /// The receiving connection.
        connection: ConnectionId,
        /// Which track.
        track: TrackSid,
        /// All settings; they replace earlier ones.
        settings: SubscriptionSettings,
    },
    /// Send a data channel message.
    SendData {
        /// Who gets it.
        to: Recipients,
        /// On which channel.
        kind: DataKind,
        /// The message, one SCTP user message.
        payload: Bytes,
    },
    /// Tell what flows in the room. Answered by as many [`NodeEvent::RoomReport`]s as they say, or by none if the node
    /// has no time for it.
    ReportRoom {
        /// Echoed in the answers.
        request: u64,
        /// How many workers answer; the node sets it.
        shares: u32,
    },
}

/// A peer connection to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenConnection {
    /// Its id from now on.
    pub connection: ConnectionId,
    /// Whose it is.
    pub participant: ParticipantSid,
    /// Who offers and what flows.
    pub role: ConnectionRole,
    /// Sections of the client's offer that have no track yet are answered as sending, and tracks
    /// subscribed later flow in them without another negotiation (WHEP, where a client offers once).
    /// Otherwise they are answered as inactive.
    pub late_binding: bool,
    /// Which transports are offered to this client.
    pub candidates: CandidatePolicy,
}

/// Who makes the offers of a connection, and which way media flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionRole {
    /// The client offers, media flows upstream (LiveKit's publisher connection; WHIP).
    Publisher,
    /// The node offers, media flows downstream; the node opens the three data channels.
    Subscriber,
    /// The client offers, media flows both ways (LiveKit's single connection; WHEP).
    Single,
}

/// Which of the node's candidates a client is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CandidatePolicy {
    /// UDP and TCP.
    #[default]
    All,
    /// TCP only: a client whose network drops UDP.
    TcpOnly,
}

/// A track that a publisher announced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpectedTrack {
    /// The connection on which it will come.
    pub connection: ConnectionId,
    /// Its id.
    pub track: TrackSid,
    /// Track ids under which it may appear in the SDP (`a=msid:<stream> <track>`), best first. When none of
    /// them does, the first unmatched section of the same kind is taken: browsers rename tracks.
    pub cids: Vec<String>,
    /// Audio or video.
    pub kind: MediaKind,
    /// Where it comes from.
    pub source: TrackSource,
    /// The codec to put first in the answer; none leaves the client's order.
    pub codec: Option<MimeType>,
    /// Whether Opus with redundancy (RFC 2198) may be used.
    pub red: bool,
    /// Whether to ask for discontinuous transmission of Opus.
    pub dtx: bool,
    /// Whether to ask for stereo Opus.
    pub stereo: bool,
    /// Whether it starts muted.
    pub muted: bool,
    /// Whether it is encrypted from end to end: receivers then decrypt a payload as a whole, as the publisher made it.
    pub encrypted: bool,
    /// None for the track itself. Otherwise a second codec of a track that has started, in a section of its
    /// own, and for whom.
    pub backup: Option<BackupUse>,
}

/// Who receives a track in its second codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupUse {
    /// Subscribers that do not decode the first.
    WhereNeeded,
    /// All that decode it, from its first packet on: the publisher is going to stop the first.
    Everywhere,
}

/// A subscription to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubscribeTrack {
    /// The receiving connection.
    pub connection: ConnectionId,
    /// Which track. It may not have started yet: the subscription then begins when it does.
    pub track: TrackSid,
    /// The msid's stream part; the track part is the track's id. `PA_…|TR_…` for LiveKit's clients.
    pub stream_id: String,
    /// What to forward at first.
    pub settings: SubscriptionSettings,
}

/// What a subscriber wants of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionSettings {
    /// Forward nothing until changed.
    pub paused: bool,
    /// The best quality wanted.
    pub quality: TrackQuality,
    /// The size, in pixels, at which it is shown. Signaling knows the layers' sizes: `quality` covers it.
    pub size: Option<(u32, u32)>,
    /// The highest frame rate wanted; 0 means any.
    pub fps: u32,
    /// Its place among the subscriber's tracks when bandwidth is short: 1 comes first, 0 is none.
    pub priority: u32,
}

impl Default for SubscriptionSettings {
    fn default() -> Self {
        Self { paused: false, quality: TrackQuality::High, size: None, fps: 0, priority: 0 }
    }
}

/// Qualities of a track, as LiveKit names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrackQuality {
    /// The smallest picture.
    Low,
    /// In between.
    Medium,
    /// The best there is.
    High,
}

/// Receivers of a data message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Recipients {
    /// These connections. Those without an open channel are left out.
    Connections(Vec<ConnectionId>),
}

/// Something that happened in a room on a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeNotice {
    /// Where.
    pub node: NodeId,
    /// In which room.
    pub room: RoomSid,
    /// What.
    pub event: NodeEvent,
}

/// What a node can report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NodeEvent {
    /// The answer to a client's offer. All candidates are in it.
    Answer {
        /// Whose.
        connection: ConnectionId,
        /// The offer's number.
        offer_id: u32,
        /// The answer.
        sdp: String,
        /// Every section that carries a track to the client, complete each time.
        mid_tracks: Vec<MidTrack>,
        /// How many sections the client must add before all its subscriptions fit.
        missing: SectionCount,
    },
    /// The node's own offer (role `Subscriber`). One at a time: the next comes after the answer.
    Offer {
        /// Whose.
        connection: ConnectionId,
        /// Counts from 1.
        offer_id: u32,
        /// The offer.
        sdp: String,
        /// Every section that carries a track to the client.
        mid_tracks: Vec<MidTrack>,
    },
    /// The client must add sections and offer again, or, if both counts are 0, just offer again
    /// (role `Single`): subscriptions changed.
    NegotiationNeeded {
        /// Whose.
        connection: ConnectionId,
        /// How many sections to add.
        missing: SectionCount,
    },
    /// A description could not be used. The connection stays as it was before it, unless `fatal`.
    NegotiationFailed {
        /// Whose.
        connection: ConnectionId,
        /// The offer's number.
        offer_id: u32,
        /// Why, and whether the connection ended with it.
        failure: NegotiationFailure,
    },
    /// A connection's transport changed state.
    ConnectionState {
        /// Whose.
        connection: ConnectionId,
        /// The state now.
        state: ConnectionState,
    },
    /// Another room has taken a connection over ([`NodeAction::AdoptConnection`]), or it does not exist any more. Nothing
    /// about it follows here.
    ConnectionMoved {
        /// Whose.
        connection: ConnectionId,
    },
    /// An expected track was found in the SDP; it can be subscribed to.
    TrackStarted(StartedTrack),
    /// A track's section stopped sending, or its connection ended.
    TrackStopped {
        /// Which.
        track: TrackSid,
        /// Why.
        reason: EndReason,
    },
    /// A subscription's section has been negotiated: media flows. Repeated when the subscription changes
    /// between the track's codecs.
    Subscribed {
        /// The receiving connection.
        connection: ConnectionId,
        /// Which track.
        track: TrackSid,
        /// Whether it receives the track's second codec.
        backup: bool,
    },
    /// A subscription cannot be served now. It waits until it is ended, or its track gets a second codec that
    /// it can be served with.
    SubscriptionFailed {
        /// The receiving connection.
        connection: ConnectionId,
        /// Which track.
        track: TrackSid,
        /// Why.
        reason: SubscriptionFailure,
    },
    /// A subscription to video pauses because there is no bandwidth for it, or goes on.
    StreamState {
        /// The receiving connection.
        connection: ConnectionId,
        /// Which track.
        track: TrackSid,
        /// Whether it pauses now.
        paused: bool,
    },
    /// A data channel towards the client is open for sending.
    DataChannelOpen {
        /// Whose.
        connection: ConnectionId,
        /// Which.
        kind: DataKind,
    },
    /// A message from a client.
    DataReceived {
        /// Whose.
        connection: ConnectionId,
        /// On which channel.
        kind: DataKind,
        /// One SCTP user message.
        payload: Bytes,
    },
    /// Audio levels since the last report, of tracks that changed (RFC 6464).
    Speakers {
        /// Those who began, changed or stopped.
        levels: Vec<SpeakerLevel>,
    },
    /// Transport figures of the last interval, for connection quality.
    Stats {
        /// One entry a connection.
        connections: Vec<ConnectionStats>,
    },
    /// What flows in the room: the answer to [`NodeAction::ReportRoom`].
    RoomReport(Box<RoomReport>),
}

/// A section and the track that it carries to the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MidTrack {
    /// The section's `a=mid`.
    pub mid: String,
    /// The track.
    pub track: TrackSid,
}

/// Numbers of media sections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectionCount {
    /// Audio sections.
    pub audio: u32,
    /// Video sections.
    pub video: u32,
}

/// Why a description was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiationFailure {
    /// The SDP cannot be parsed, or contradicts what was negotiated before. The client's fault.
    #[error("invalid SDP: {detail}")]
    InvalidSdp {
        /// For the client's developer.
        detail: String,
    },
    /// No ICE credentials. The client's fault.
    #[error("the SDP has no ICE credentials (a=ice-ufrag, a=ice-pwd)")]
    NoIce,
    /// No certificate fingerprint. The client's fault.
    #[error("the SDP has no certificate fingerprint (a=fingerprint)")]
    NoFingerprint,
    /// Media without DTLS-SRTP was asked for. The client's fault.
    #[error("plain RTP is refused: only UDP/TLS/RTP/SAVPF sections are accepted")]
    PlainRtp,
    /// More sections than a connection may have. The client's fault.
    #[error("too many media sections: {count}, at most {max}")]
    TooManySections {
        /// How many there were.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// The client did not answer an offer in time.
    #[error("no answer to the offer within {seconds} s")]
    Timeout {
        /// How long the node waited.
        seconds: u64,
    },
    /// No such connection.
    #[error("the connection is closed")]
    Closed,
}

/// State of a connection's transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// ICE and DTLS are up.
    Connected,
    /// Nothing has arrived for a while; it may come back.
    Disconnected,
    /// ICE or DTLS gave up. The connection is closed.
    Failed,
    /// The other side ended it (DTLS close). The connection is closed.
    Closed,
}

/// An expected track that was found in the SDP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartedTrack {
    /// Which.
    pub track: TrackSid,
    /// The publisher's connection.
    pub connection: ConnectionId,
    /// The section's `a=mid`.
    pub mid: String,
    /// The track id that the SDP has for it.
    pub sdp_cid: String,
    /// The codec that the answer put first.
    pub codec: MimeType,
    /// Simulcast encodings, lowest first; empty for a single stream.
    pub encodings: Vec<StreamEncoding>,
    /// Whether this is the track's second codec.
    pub backup: bool,
}

/// One simulcast encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEncoding {
    /// `a=rid` of the stream.
    pub rid: String,
}

/// Why a track ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The publisher's section stopped sending.
    Unpublished,
    /// The publisher's connection ended.
    ConnectionClosed,
}

/// Why a subscription cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionFailure {
    /// The subscriber does not decode the track's codec.
    CodecUnsupported,
}

/// How loud a participant's track is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeakerLevel {
    /// The audio track.
    pub track: TrackSid,
    /// Whose it is.
    pub participant: ParticipantSid,
    /// 0 (silent) to 1 (loudest), linear, in steps of 1/8.
    pub level: f32,
    /// Whether it counts as speaking.
    pub active: bool,
}

/// Transport figures of one connection over one report interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionStats {
    /// Whose.
    pub connection: ConnectionId,
    /// Packets expected from the client, and how many of them were lost on the way to the node.
    pub upstream: (u64, u64),
    /// Packets sent to the client, and how many of them the client reported lost.
    pub downstream: (u64, u64),
    /// Round trip time in milliseconds, when known.
    pub rtt_ms: Option<f32>,
    /// Media received from the client.
    pub upstream_bitrate: Bitrate,
    /// Media sent to the client.
    pub downstream_bitrate: Bitrate,
    /// The same by kind and direction, at most one each; what did not flow is left out.
    pub flows: Vec<FlowStats>,
}

/// One kind of media over one report interval, one way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowStats {
    /// Audio or video.
    pub kind: MediaKind,
    /// Which way.
    pub direction: FlowDirection,
    /// Packets that should have arrived at the other end.
    pub packets: u64,
    /// How many of them did not.
    pub lost: u64,
    /// Interarrival jitter in milliseconds, of the stream that jitters most; of what comes from the client.
    pub jitter_ms: f32,
    /// How many encodings or spatial layers are lacking of what is wanted, of the track that lacks most.
    pub layers_missing: u8,
    /// How many percent of the wanted rate there are, 1 to 100, of the track that has the least.
    pub rate_percent: u8,
}

/// Which way media flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowDirection {
    /// From the client.
    Upstream,
    /// To the client.
    Downstream,
}

/// A media node that can host rooms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its id.
    pub node: NodeId,
    /// Operator's name of its region; empty when unset.
    pub region: String,
    /// Rooms it hosts now.
    pub rooms: u32,
    /// Connections it serves now.
    pub connections: u32,
    /// Busy share of its busiest worker, 0 to 1.
    pub load: f32,
}
