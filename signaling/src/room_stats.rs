//! What flows in a room, for operators: `GET /api/v1/rooms/{room}/stats`.

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use zynk_protocol::{ConnectionRole, MediaKind, MediaTransport, TrackQuality, TrackSource};

use crate::{
    admin::{AdminRequest, AdminResponse},
    http::ApiState,
    room_service::{administered, unexpected},
    twirp::{TwirpError, authenticate},
};

/// A room at a moment. Rates are those of the interval before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoomStats {
    /// Its name.
    pub room: String,
    /// Its `RM_…` id.
    pub sid: String,
    /// The media node that has it.
    pub node: String,
    /// Length of the interval.
    pub interval_ms: u64,
    /// Whether the room is too large for all of it to be told.
    pub truncated: bool,
    /// Who is in it.
    pub participants: Vec<ParticipantStats>,
}

/// A participant, what it sends and what it receives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParticipantStats {
    /// Its `PA_…` id.
    pub sid: String,
    /// Its identity.
    pub identity: String,
    /// Its name.
    pub name: String,
    /// `excellent`, `good`, `poor` or `lost`; none before the first figures.
    pub quality: Option<String>,
    /// The mean opinion score that goes with it, 1 to 4.5.
    pub score: Option<f32>,
    /// Its peer connections.
    pub connections: Vec<TransportStats>,
    /// What it publishes.
    pub tracks: Vec<TrackStats>,
    /// What it receives.
    pub subscriptions: Vec<SubscriptionStats>,
}

/// A peer connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransportStats {
    /// Which way media flows.
    pub role: ConnectionRole,
    /// Whether ICE and DTLS are up.
    pub connected: bool,
    /// What carries media.
    pub transport: Option<MediaTransport>,
    /// Round trip time.
    pub rtt_ms: Option<f32>,
    /// Payload of media received from the client.
    pub upstream_bps: u64,
    /// Payload of media sent to the client, without retransmissions.
    pub downstream_bps: u64,
    /// How much is thought to reach the client; none if it says nothing about its path.
    pub estimate_bps: Option<u64>,
    /// How long packets wait in the queue on the way to the client.
    pub queue_ms: f32,
    /// Whether such a queue limits what is sent.
    pub congested: bool,
}

/// A published track, in one of its codecs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrackStats {
    /// Its `TR_…` id.
    pub sid: String,
    /// The publisher's name for it.
    pub name: String,
    /// Audio or video.
    pub kind: MediaKind,
    /// Where it comes from.
    pub source: TrackSource,
    /// The codec's MIME type.
    pub codec: String,
    /// Whether this is its second codec.
    pub backup: bool,
    /// Whether it is muted.
    pub muted: bool,
    /// How many receive it, in either codec.
    pub subscribers: usize,
    /// Its streams, lowest first; one without simulcast.
    pub encodings: Vec<EncodingStats>,
}

/// A stream of a track.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncodingStats {
    /// Its `a=rid`, of a simulcast.
    pub rid: Option<String>,
    /// Whether it is being sent.
    pub active: bool,
    /// Payload of the last second.
    pub bitrate_bps: u64,
    /// Frames per second, of video.
    pub fps: Option<u32>,
    /// Packets that should have come since its beginning.
    pub packets: u64,
    /// How many of them did not, retransmissions not counted.
    pub packets_lost: u64,
    /// The share lost in the interval, 0 to 1; none if nothing should have come.
    pub loss: Option<f32>,
    /// Interarrival jitter.
    pub jitter_ms: f32,
}

/// A track on its way to a participant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionStats {
    /// The track's `TR_…` id.
    pub track: String,
    /// The publisher's identity.
    pub publisher: String,
    /// Audio or video.
    pub kind: MediaKind,
    /// Where it comes from.
    pub source: TrackSource,
    /// Whether it flows, and if not, why.
    pub state: SubscriptionState,
    /// What it is given; none before its first packet, and while it pauses.
    pub given: Option<GivenLayers>,
    /// What the subscriber wants.
    pub wanted: WantedLayers,
    /// Payload sent in the interval, without retransmissions.
    pub bitrate_bps: u64,
    /// Packets sent since the beginning of its stream, without retransmissions.
    pub packets: u64,
    /// Octets of their payloads.
    pub bytes: u64,
    /// Packets sent again.
    pub packets_resent: u64,
    /// Packets that the client has reported lost.
    pub packets_lost: u64,
    /// The share reported lost in the interval, 0 to 1; none if no report came.
    pub loss: Option<f32>,
    /// Interarrival jitter, as the client reports it.
    pub jitter_ms: Option<f32>,
}

/// How far a subscription is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionState {
    /// The track has not started, or is being negotiated.
    Pending,
    /// The subscriber has paused it.
    Paused,
    /// There is no room for it on the subscriber's path.
    Starved,
    /// It is sent as it comes.
    Flowing,
}

impl SubscriptionState {
    /// As the JSON has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Paused => "paused",
            Self::Starved => "starved",
            Self::Flowing => "flowing",
        }
    }
}

/// The highest layers that are sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GivenLayers {
    /// The encoding, counted from the lowest.
    pub encoding: u8,
    /// Its `a=rid`, of a simulcast.
    pub rid: Option<String>,
    /// The spatial layer; none for all.
    pub spatial: Option<u8>,
    /// The temporal layer; none for all.
    pub temporal: Option<u8>,
    /// Frames per second that come to this, of video, as far as known.
    pub fps: Option<u32>,
}

/// What a subscriber asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WantedLayers {
    /// The best quality.
    pub quality: TrackQuality,
    /// The encoding that this comes to, counted from the lowest; none before the track has started.
    pub encoding: Option<u8>,
    /// Its `a=rid`, of a simulcast.
    pub rid: Option<String>,
    /// The size at which it is shown, in pixels, if the subscriber told.
    pub size: Option<(u32, u32)>,
    /// The highest frame rate; none for any.
    pub fps: Option<u32>,
    /// Its place among the subscriber's tracks when there is no room for all; none without one.
    pub priority: Option<u32>,
}

/// `GET /api/v1/rooms/{room}/stats`. For who may administer the room, with the errors of the server API.
pub(crate) async fn serve(
    State(state): State<ApiState>,
    Path(room): Path<String>,
    headers: HeaderMap,
) -> Response {
    match collect(&state, &room, &headers).await {
        Ok(stats) => {
            ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(stats)).into_response()
        }
        Err(error) => error.into_response(),
    }
}

async fn collect(state: &ApiState, room: &str, headers: &HeaderMap) -> Result<Box<RoomStats>, TwirpError> {
    let claims = authenticate(state, headers)?;
    let room = administered(&claims.video, room)?;
    match state.directory.admin(&room, AdminRequest::Stats).await {
        Ok(AdminResponse::Stats(stats)) => Ok(stats),
        other => Err(unexpected(other)),
    }
}
