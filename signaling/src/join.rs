//! Who wants to join what, and why they may not.

use std::{collections::HashMap, sync::Arc};

use zynk_auth::Claims;
use zynk_protocol::{CandidatePolicy, Identity, RoomName, livekit};

/// Which tracks a session is subscribed to without asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SubscribeScope {
    /// Every track of everybody.
    #[default]
    Auto,
    /// None; the client asks (`UpdateSubscription`).
    None,
    /// Every track of one publisher, present or to come.
    Participant(Identity),
}

/// How many peer connections a session has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionMode {
    /// One for each direction; the node offers the downstream one (`/rtc`).
    #[default]
    Dual,
    /// One for both, the client offers (`/rtc/v1`, WHIP, WHEP).
    Single,
}

/// A client that comes back to a session whose WebSocket broke.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// The participant's id that the client had. The identity decides; this is for the log.
    pub participant: String,
    /// Why it comes back (LiveKit's `ReconnectReason`).
    pub reason: i32,
}

/// Everything that decides how a session starts.
///
/// [`JoinParams::from_claims`] fills in what the token says; the fields below `client` are the session's own
/// and have defaults for a WebSocket client of `/rtc`.
#[derive(Clone, Debug)]
pub struct JoinParams {
    /// The room.
    pub room: RoomName,
    /// Who joins.
    pub identity: Identity,
    /// Display name.
    pub name: String,
    /// Standard, agent, ingress and so on (`ParticipantInfo.Kind`).
    pub kind: livekit::participant_info::Kind,
    /// `ParticipantInfo.KindDetail` numbers.
    pub kind_details: Vec<i32>,
    /// The application's text.
    pub metadata: String,
    /// The application's key-value pairs.
    pub attributes: HashMap<String, String>,
    /// What the participant may do.
    pub permission: livekit::ParticipantPermission,
    /// Whether the room is created even where rooms are not created by joining (`roomCreate`).
    pub may_create_room: bool,
    /// How the room is set up if this participant creates it.
    pub room_config: Option<livekit::RoomConfiguration>,
    /// The token's claims, when fresh tokens are to be sent (`refresh_token`).
    pub claims: Option<Arc<Claims>>,

    /// What the client says about itself.
    pub client: livekit::ClientInfo,
    /// One peer connection or two.
    pub connection: ConnectionMode,
    /// Sections of the offer without a track are answered as sending (WHEP).
    pub late_binding: bool,
    /// Which candidates it is given.
    pub candidates: CandidatePolicy,
    /// What it receives without asking.
    pub subscribe: SubscribeScope,
    /// Whether it receives data tracks without asking.
    pub auto_subscribe_data_tracks: bool,
    /// Whether it picks sizes itself: subscriptions then start at the lowest quality.
    pub adaptive_stream: bool,
    /// Whether a lost signal connection may be resumed. Without it (WHIP, WHEP) the participant leaves
    /// when the session's channels close or its transport fails.
    pub resumable: bool,
    /// Tracks that are announced with the join.
    pub add_tracks: Vec<livekit::AddTrackRequest>,
    /// An SDP offer that comes with the join.
    pub offer: Option<livekit::SessionDescription>,
    /// Set when an existing session is to be resumed.
    pub resume: Option<Resume>,
    /// State that comes with a resume of `/rtc/v1`.
    pub sync_state: Option<livekit::SyncState>,
}

/// Why nobody joined. [`JoinError::status`] is the HTTP status; the text is the body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// No token, or one that cannot be believed or that grants nothing here. 401.
    #[error("{message}")]
    Unauthorized {
        /// Stable word for programs, e.g. `token_expired`.
        code: &'static str,
        /// For people.
        message: String,
    },
    /// The token is good, but does not allow this. 403.
    #[error("{message}")]
    Forbidden {
        /// Stable word for programs, e.g. `room_full`.
        code: &'static str,
        /// For people.
        message: String,
    },
    /// A field is missing, malformed or over its limit. 400.
    #[error("{message}")]
    BadRequest {
        /// Stable word for programs, e.g. `identity_too_long`.
        code: &'static str,
        /// For people.
        message: String,
    },
    /// Rooms are not created by joining, and this one is not open. 404.
    #[error("requested room does not exist")]
    NoSuchRoom,
    /// No node, too many sessions, or the server is stopping. 503.
    #[error("{0}")]
    Unavailable(&'static str),
}

impl JoinError {
    /// The HTTP status.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Unauthorized { .. } => 401,
            Self::Forbidden { .. } => 403,
            Self::BadRequest { .. } => 400,
            Self::NoSuchRoom => 404,
            Self::Unavailable(_) => 503,
        }
    }

    /// A stable word for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized { code, .. }
            | Self::Forbidden { code, .. }
            | Self::BadRequest { code, .. } => code,
            Self::NoSuchRoom => "room_not_found",
            Self::Unavailable(_) => "unavailable",
        }
    }
}
