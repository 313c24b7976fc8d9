//! What a node tells of a room when it is asked to: who sends and receives what, and how it arrives.
//!
//! Counters count up from an arbitrary start; who wants rates asks twice.

use serde::{Deserialize, Serialize};

use crate::{Bitrate, ConnectionId, ConnectionRole, ParticipantSid, SubscriptionSettings, TrackSid};

/// Connections, tracks and subscriptions that one worker tells of. It leaves out those beyond, and says so.
pub const REPORT_ENTRIES_MAX: usize = 32_768;

/// One worker's share of a room.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoomReport {
    /// The number of the request that it answers.
    pub request: u64,
    /// How many workers answer, each with the connections that it has.
    pub shares: u32,
    /// Whether something was left out, see [`REPORT_ENTRIES_MAX`].
    pub truncated: bool,
    /// The connections.
    pub connections: Vec<ConnectionReport>,
}

/// A connection, and what flows over it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// Which.
    pub connection: ConnectionId,
    /// Whose.
    pub participant: ParticipantSid,
    /// Which way media flows.
    pub role: ConnectionRole,
    /// Whether ICE and DTLS are up.
    pub connected: bool,
    /// How media travels; none before there is a way.
    pub transport: Option<MediaTransport>,
    /// Round trip time in milliseconds, when known.
    pub rtt_ms: Option<f32>,
    /// How much is thought to reach the client; none if it says nothing about its path.
    pub estimate: Option<Bitrate>,
    /// How long a packet waits in the queue on the way to the client, in milliseconds.
    pub queue_ms: f32,
    /// Whether such a queue limits what the client is sent.
    pub congested: bool,
    /// What the client publishes.
    pub tracks: Vec<TrackReport>,
    /// What it receives.
    pub subscriptions: Vec<SubscriptionReport>,
}

/// What carries media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaTransport {
    /// Datagrams.
    Udp,
    /// An ICE-TCP connection.
    Tcp,
}

/// A published track, in one of its codecs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrackReport {
    /// Which.
    pub track: TrackSid,
    /// Whether this is its second codec.
    pub backup: bool,
    /// Whether it is muted.
    pub muted: bool,
    /// Its streams, lowest first; one without simulcast.
    pub encodings: Vec<EncodingReport>,
}

/// A stream of a track, as it arrives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EncodingReport {
    /// `a=rid`, of a simulcast.
    pub rid: Option<String>,
    /// Whether it is being sent.
    pub active: bool,
    /// Payload of the last second.
    pub bitrate: Bitrate,
    /// Frames of the last second, of video.
    pub frame_rate: Option<u32>,
    /// Packets that should have come.
    pub packets: u64,
    /// How many of them did not, retransmissions not counted.
    pub lost: u64,
    /// Interarrival jitter in milliseconds (RFC 3550, section 6.4.1).
    pub jitter_ms: f32,
}

/// A subscription, as it leaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionReport {
    /// The track.
    pub track: TrackSid,
    /// Whether the track has started and a section is negotiated for it.
    pub negotiated: bool,
    /// What the subscriber wants.
    pub settings: SubscriptionSettings,
    /// The encoding, counted from the lowest, that this comes to.
    pub wanted_encoding: Option<u8>,
    /// Whether it pauses because there is no room for it.
    pub starved: bool,
    /// What it is given; none before its first packet, and while it pauses.
    pub given: Option<LayersGiven>,
    /// The stream that carries it: what follows is of that, which others may have had before.
    pub ssrc: Option<u32>,
    /// Packets sent, without retransmissions.
    pub packets: u64,
    /// Octets of their payloads.
    pub bytes: u64,
    /// Packets sent again.
    pub resent: u64,
    /// What the client reports on it; none before its first report.
    pub reception: Option<ReceptionReport>,
}

/// The highest layers that a subscription is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayersGiven {
    /// The encoding, counted from the lowest.
    pub encoding: u8,
    /// The spatial layer; none for all.
    pub spatial: Option<u8>,
    /// The temporal layer; none for all.
    pub temporal: Option<u8>,
    /// Frames per second up to that layer, of video, as far as known.
    pub frame_rate: Option<u32>,
}

/// A client's last report on a stream (RFC 3550, section 6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReceptionReport {
    /// The highest number that it got; wraps.
    pub highest: u32,
    /// Packets lost since the beginning; it may fall where packets came twice.
    pub lost: i32,
    /// Interarrival jitter in milliseconds.
    pub jitter_ms: f32,
}
