//! What goes into a session and what comes out.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use zynk_protocol::{DataKind, livekit};

use super::publish::PublishTrack;
use crate::RtpPayload;

/// Something for a session to work on.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes from the network.
    Datagram {
        /// The sender.
        source: SocketAddr,
        /// Our address that they were sent to.
        destination: SocketAddr,
        /// The datagram.
        payload: &'a [u8],
    },
    /// A message from the server. The first one is Join, or Leave.
    Signal(Box<livekit::SignalResponse>),
    /// The signal connection broke. The session ends.
    SignalClosed,
    /// A wish of the application.
    Command(Command),
    /// The time that [`Output::Timeout`] named has come (or any other time: it does no harm).
    Timeout,
}

/// A wish of the application.
#[derive(Clone, Debug)]
pub enum Command {
    /// Publish a track. Answered by [`Event::TrackReady`] or [`Event::TrackFailed`].
    Publish(PublishTrack),
    /// Stop publishing a track.
    Unpublish {
        /// The track's client id.
        cid: String,
    },
    /// Send a packet of a published track. Dropped while the track is not ready.
    SendRtp {
        /// The track's client id.
        cid: String,
        /// The simulcast encoding; none for a single stream.
        rid: Option<String>,
        /// The packet.
        packet: RtpPayload,
    },
    /// Ask the publisher of a received track for a keyframe.
    RequestKeyframe {
        /// The track's `TR_…` id.
        track: String,
    },
    /// Send a data packet. Until the channel is open, packets wait.
    SendData {
        /// On which channel.
        kind: DataKind,
        /// The packet; the server stamps the sender.
        packet: Box<livekit::DataPacket>,
    },
    /// Mute or unmute a published track.
    Mute {
        /// The track's client id.
        cid: String,
        /// Whether it is silent now.
        muted: bool,
    },
    /// Subscribe to tracks, or end subscriptions.
    Subscribe {
        /// The tracks' `TR_…` ids.
        tracks: Vec<String>,
        /// Whether they are wanted.
        subscribe: bool,
    },
    /// Change the participant's own name, metadata or attributes.
    UpdateMetadata(livekit::UpdateParticipantMetadata),
    /// Send any other signal request as it is.
    Signal(Box<livekit::SignalRequest>),
    /// Leave the room. The session ends.
    Leave,
}

/// Something for the shell to do.
#[derive(Debug)]
pub enum Output {
    /// Send bytes.
    Transmit(Transmit),
    /// Send a message to the server.
    Signal(Box<livekit::SignalRequest>),
    /// Tell the application.
    Event(Event),
    /// Nothing more to do before this time, unless input arrives.
    Timeout(Instant),
}

/// Bytes to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From which of our addresses.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// The datagram.
    pub payload: Vec<u8>,
}

/// Something that happened in a session.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The server let us in.
    Joined(Box<livekit::JoinResponse>),
    /// The primary peer connection is up.
    Connected,
    /// A published track may send.
    TrackReady {
        /// The track's client id.
        cid: String,
        /// Its `TR_…` id.
        track: String,
    },
    /// A track was not published, or is no longer.
    TrackFailed {
        /// The track's client id.
        cid: String,
        /// Why, for people.
        reason: String,
    },
    /// A subscription's section is negotiated.
    TrackSubscribed {
        /// The track's `TR_…` id.
        track: String,
        /// Its publisher's `PA_…` id, when known.
        participant: Option<String>,
    },
    /// A subscription's section is gone.
    TrackUnsubscribed {
        /// The track's `TR_…` id.
        track: String,
    },
    /// An RTP packet of a subscribed track.
    Media(MediaPacket),
    /// Somebody downstream wants a keyframe of a published track.
    KeyframeRequested {
        /// The track's client id.
        cid: String,
        /// The simulcast encoding, if it has any.
        rid: Option<String>,
    },
    /// A data packet.
    Data {
        /// The channel on which it came.
        kind: DataKind,
        /// The packet.
        packet: Box<livekit::DataPacket>,
    },
    /// A message of LiveKit's raw data track channel.
    RawData(Bytes),
    /// The server's message, after the session has acted on it. Join and Leave come as their own events.
    Signal(Box<livekit::SignalResponse>),
    /// The server ended the session, or confirmed our leaving.
    Left(livekit::LeaveRequest),
    /// The session failed. Nothing follows.
    Failed(SessionError),
}

/// An RTP packet of a subscribed track.
#[derive(Clone, Debug)]
pub struct MediaPacket {
    /// The track's `TR_…` id.
    pub track: String,
    /// The extended sequence number.
    pub seq: u64,
    /// In units of the codec's clock.
    pub timestamp: u32,
    /// Last packet of a video frame; first packet of a talk spurt.
    pub marker: bool,
    /// The payload type.
    pub payload_type: u8,
    /// RFC 6464's level, 0 (loudest) to -127.
    pub audio_level_dbov: Option<i8>,
    /// The payload; with redundancy, the packet's own.
    pub payload: Arc<[u8]>,
    /// Payloads of earlier packets that came with it, the oldest first (RFC 2198).
    pub earlier: Vec<EarlierPayload>,
}

/// A payload of an earlier packet, which may have come itself or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierPayload {
    /// That packet's timestamp.
    pub timestamp: u32,
    /// The payload.
    pub payload: Arc<[u8]>,
}

/// Why a session ended before its time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// A description could not be used. The server's fault, or of a configuration that shares nothing.
    #[error("negotiation failed: {0}")]
    Negotiation(String),
    /// The primary peer connection was not up in time.
    #[error("no peer connection within {} s", .0.as_secs())]
    ConnectTimeout(Duration),
    /// A peer connection broke.
    #[error("the peer connection was lost")]
    ConnectionLost,
    /// The signal connection broke.
    #[error("the signal connection was lost")]
    SignalLost,
    /// The server said nothing for too long.
    #[error("the server was silent for {} s", .0.as_secs())]
    SignalTimeout(Duration),
}

impl SessionError {
    pub(super) fn negotiation(error: impl std::fmt::Display) -> Self {
        Self::Negotiation(error.to_string())
    }
}
