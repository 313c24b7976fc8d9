//! Words everybody shares: identifiers, units and the messages that signaling and media nodes exchange.
//!
//! ```
//! use zynk_protocol::{ParticipantSid, TrackSid, TrackSource, MediaKind};
//!
//! let participant: ParticipantSid = "PA_4fQxwyHknU3c".parse().unwrap();
//! let track: TrackSid = "TR_VCh2fQxwyHknU3".parse().unwrap();
//! assert_eq!(participant.as_str(), "PA_4fQxwyHknU3c");
//! assert!("TR_x".parse::<ParticipantSid>().is_err());
//! # let _ = (track, TrackSource::Camera, MediaKind::Video);
//! ```

mod ids;
mod media;
mod node;
mod room_report;
mod units;

pub use ids::{
    ConnectionId, IdError, Identity, NodeId, ParticipantSid, RoomName, RoomSid, TrackSid, random_suffix,
};
pub use media::{DataKind, MediaKind, MimeType, TrackSource};
pub use node::{
    BackupUse, CandidatePolicy, ConnectionRole, ConnectionState, ConnectionStats, EndReason, ExpectedTrack,
    FlowDirection, FlowStats, MidTrack, NegotiationFailure, NodeAction, NodeCommand, NodeEvent, NodeInfo,
    NodeNotice, OpenConnection, Recipients, SDP_BYTES_MAX, SectionCount, SpeakerLevel, StartedTrack,
    StreamEncoding, SubscribeTrack, SubscriptionFailure, SubscriptionSettings, TrackQuality,
};
pub use room_report::{
    ConnectionReport, EncodingReport, LayersGiven, MediaTransport, REPORT_ENTRIES_MAX, ReceptionReport,
    RoomReport, SubscriptionReport, TrackReport,
};
pub use units::{Bitrate, DataSize};

/// LiveKit's wire types (signal, room service, models), as generated from its public protobuf files.
pub mod livekit {
    pub use livekit_protocol::*;
}
