//! What the server API can ask of an open room, and what comes back.

use zynk_protocol::{Identity, RoomName, livekit};

use crate::room_stats::RoomStats;

/// A request of the server API to one room.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "boxed wherever it waits")]
pub enum AdminRequest {
    /// Everybody in the room, hidden participants included. Answered by [`AdminResponse::Participants`].
    ListParticipants,
    /// One participant. Answered by [`AdminResponse::Participant`].
    GetParticipant(Identity),
    /// Make a participant leave (`PARTICIPANT_REMOVED`). Answered by [`AdminResponse::Done`].
    RemoveParticipant(Identity),
    /// Mute or unmute a track. Answered by [`AdminResponse::Track`].
    MutePublishedTrack {
        /// The publisher.
        identity: Identity,
        /// The track's `TR_…` id.
        track: String,
        /// Whether it shall be silent.
        muted: bool,
    },
    /// Change name, metadata, attributes or permission. Answered by [`AdminResponse::Participant`].
    UpdateParticipant(livekit::UpdateParticipantRequest),
    /// Subscribe or unsubscribe a participant. Answered by [`AdminResponse::Done`].
    UpdateSubscriptions(livekit::UpdateSubscriptionsRequest),
    /// Send a data packet. Answered by [`AdminResponse::Done`].
    SendData(livekit::SendDataRequest),
    /// Replace the room's metadata. Answered by [`AdminResponse::Room`].
    UpdateRoomMetadata {
        /// The new value; empty clears it.
        metadata: String,
    },
    /// Make a participant join another room anew (`MoveParticipant` to a room of another node). Answered by
    /// [`AdminResponse::Done`].
    SendElsewhere {
        /// Who.
        identity: Identity,
        /// The other room.
        destination: RoomName,
    },
    /// Call a method of a participant. Answered by [`AdminResponse::Rpc`].
    PerformRpc(livekit::PerformRpcRequest),
    /// Take over the fields that are set (`CreateRoom` of a room that is open). Answered by
    /// [`AdminResponse::Room`].
    UpdateRoom(livekit::CreateRoomRequest),
    /// The room's description. Answered by [`AdminResponse::Room`].
    Describe,
    /// What flows in the room. Takes a second and more. Answered by [`AdminResponse::Stats`].
    Stats,
    /// End the room (`ROOM_DELETED`). Answered by [`AdminResponse::Done`].
    DeleteRoom,
}

/// The outcome of an [`AdminRequest`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum AdminResponse {
    /// Participants.
    Participants(Vec<livekit::ParticipantInfo>),
    /// One participant.
    Participant(livekit::ParticipantInfo),
    /// A track, unset when the participant has no such track.
    Track(Option<livekit::TrackInfo>),
    /// The room.
    Room(livekit::Room),
    /// The payload that the called participant returned.
    Rpc(String),
    /// What flows in the room.
    Stats(Box<RoomStats>),
    /// Nothing more to say.
    Done,
}

/// Why an [`AdminRequest`] was not carried out. The texts are meant for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// No such room or participant (Twirp `not_found`). The caller's fault.
    #[error("{0}")]
    NotFound(&'static str),
    /// A field is missing or over its limit (Twirp `invalid_argument`). The caller's fault.
    #[error("{0}")]
    InvalidArgument(String),
    /// The configuration or the state of the room forbids it (Twirp `failed_precondition`).
    #[error("{0}")]
    FailedPrecondition(&'static str),
    /// Not offered (Twirp `unimplemented`).
    #[error("{0}")]
    Unimplemented(&'static str),
    /// The called participant did not answer in time (Twirp `deadline_exceeded`).
    #[error("{0}")]
    DeadlineExceeded(&'static str),
    /// The called participant answered with an error of LiveKit's RPC (codes 1400 to 1505, or its own).
    #[error("{message}")]
    Rpc {
        /// The RPC error's code.
        code: u32,
        /// Its text.
        message: String,
        /// Data of the application.
        data: String,
    },
    /// Too much is going on at once (Twirp `resource_exhausted`).
    #[error("{0}")]
    ResourceExhausted(&'static str),
    /// No node, or the server is stopping (Twirp `unavailable`). May be tried again.
    #[error("{0}")]
    Unavailable(&'static str),
}
