//! Who wants to join what, and why they may not.

pub(crate) mod query;
pub(crate) mod request;
mod user_agent;

use std::collections::HashMap;
use std::sync::Arc;

use zynk_auth::{Claims, TokenError};
use zynk_protocol::livekit::participant_info::Kind;
use zynk_protocol::{CandidatePolicy, Identity, RoomName, livekit};

use crate::config::LimitsConfig;
use crate::relays::ClientPlace;
use crate::room::check_limits;

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
    pub kind: Kind,
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
    /// Where it is, as far as is known; decides which relays it is told.
    pub place: ClientPlace,
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
    /// Whether it is told of the room: who is there, and what changes. Without it (WHIP, WHEP) it is only answered, and
    /// told why it must leave.
    pub follows_room: bool,
    /// Tracks that are announced with the join.
    pub add_tracks: Vec<livekit::AddTrackRequest>,
    /// An SDP offer that comes with the join.
    pub offer: Option<livekit::SessionDescription>,
    /// Set when an existing session is to be resumed.
    pub resume: Option<Resume>,
    /// State that comes with a resume of `/rtc/v1`.
    pub sync_state: Option<livekit::SyncState>,
}

impl JoinParams {
    /// What a token says, for a WebSocket client with two connections that is subscribed to everything.
    ///
    /// Refuses tokens that do not allow to join, and names and texts over their limits.
    pub fn from_claims(claims: Claims, limits: &LimitsConfig) -> Result<Self, JoinError> {
        let grants = &claims.video;
        if !grants.room_join {
            return Err(JoinError::unauthorized("no_room_join", "permissions denied: token lacks roomJoin"));
        }
        if claims.identity.is_empty() {
            return Err(JoinError::bad_request("identity_missing", "identity cannot be empty"));
        }
        if grants.room.is_empty() {
            return Err(JoinError::bad_request("room_missing", "no room name"));
        }
        if grants.room.len() > limits.room_name_bytes_max {
            return Err(JoinError::bad_request("room_too_long", "room name exceeds length limit"));
        }
        let params = Self {
            room: RoomName::new(grants.room.clone()),
            identity: Identity::new(claims.identity.clone()),
            name: claims.name.clone(),
            kind: kind(&claims.kind),
            kind_details: claims.kind_details.iter().filter_map(|detail| kind_detail(detail)).collect(),
            metadata: claims.metadata.clone(),
            attributes: claims.attributes.clone().into_iter().collect(),
            permission: permission(&claims),
            may_create_room: grants.room_create,
            room_config: claims
                .room_config
                .as_ref()
                .and_then(|config| serde_json::from_value(config.clone()).ok()),
            claims: Some(Arc::new(claims)),
            client: livekit::ClientInfo::default(),
            place: ClientPlace::default(),
            connection: ConnectionMode::Dual,
            late_binding: false,
            candidates: CandidatePolicy::All,
            subscribe: SubscribeScope::Auto,
            auto_subscribe_data_tracks: false,
            adaptive_stream: false,
            resumable: true,
            follows_room: true,
            add_tracks: Vec::new(),
            offer: None,
            resume: None,
            sync_state: None,
        };
        params.check_identity(limits)?;
        params.check_limits(limits)?;
        Ok(params)
    }

    /// Refuses an identity that is over its limit.
    pub(crate) fn check_identity(&self, limits: &LimitsConfig) -> Result<(), JoinError> {
        match self.identity.as_str().len() > limits.identity_bytes_max {
            true => Err(JoinError::bad_request("identity_too_long", "identity exceeds length limit")),
            false => Ok(()),
        }
    }

    /// Refuses name, metadata and attributes that are over their limits.
    pub fn check_limits(&self, limits: &LimitsConfig) -> Result<(), JoinError> {
        check_limits(limits, &self.name, &self.metadata, &self.attributes)
            .map_err(|limit| JoinError::bad_request("limit_exceeded", limit))
    }

    /// Whether it counts against the room's limit: agents and recorders do not.
    pub(crate) fn counts(&self) -> bool {
        !(self.permission.recorder
            || self.permission.agent
            || matches!(self.kind, Kind::Agent | Kind::Egress))
    }
}

fn kind(name: &str) -> Kind {
    Kind::from_str_name(&name.to_ascii_uppercase()).unwrap_or(Kind::Standard)
}

fn kind_detail(name: &str) -> Option<i32> {
    livekit::participant_info::KindDetail::from_str_name(&name.to_ascii_uppercase()).map(i32::from)
}

fn permission(claims: &Claims) -> livekit::ParticipantPermission {
    let grants = &claims.video;
    // An empty list stands for every source, so that a name that nobody knows has to stay in it.
    let source = |name: &String| livekit::TrackSource::from_str_name(&name.to_ascii_uppercase());
    let sources = grants.can_publish_sources.iter();
    let sources = sources.map(|name| source(name).unwrap_or(livekit::TrackSource::Unknown).into()).collect();
    livekit::ParticipantPermission {
        can_subscribe: grants.can_subscribe(),
        can_publish: grants.can_publish(),
        can_publish_data: grants.can_publish_data(),
        can_publish_sources: sources,
        hidden: grants.hidden,
        recorder: grants.recorder,
        can_update_metadata: grants.can_update_own_metadata(),
        agent: grants.agent,
        can_subscribe_metrics: grants.can_subscribe_metrics(),
        can_manage_agent_session: grants.can_manage_agent_session(),
    }
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
    pub(crate) fn unauthorized(code: &'static str, message: impl Into<String>) -> Self {
        Self::Unauthorized { code, message: message.into() }
    }

    pub(crate) fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::BadRequest { code, message: message.into() }
    }
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

impl From<TokenError> for JoinError {
    fn from(error: TokenError) -> Self {
        let code = match error {
            TokenError::TooLong { .. } | TokenError::Malformed(_) => "token_malformed",
            TokenError::Algorithm => "token_algorithm",
            TokenError::UnknownKey => "token_unknown_key",
            TokenError::Signature => "token_signature",
            TokenError::NoExpiration => "token_no_expiration",
            TokenError::Expired => "token_expired",
            TokenError::NotYetValid => "token_not_yet_valid",
            _ => "token_invalid",
        };
        Self::unauthorized(code, error.to_string())
    }
}
