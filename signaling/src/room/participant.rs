//! What a room knows of one participant.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use zynk_auth::Claims;
use zynk_protocol::livekit::{self, participant_info::Kind, participant_info::State};
use zynk_protocol::{
    CandidatePolicy, ConnectionId, ConnectionState, Identity, ParticipantSid, SubscriptionSettings, TrackSid,
};

use super::SessionId;
use super::data_tracks::DataTracks;
use super::fallback::PathWatch;
use super::negotiation::Negotiation;
use super::permission::TrackPermissions;
use super::publish::Track;
use super::rehearsal::RehearsedResume;
use super::subscribe::Subscription;
use crate::join::{ConnectionMode, SubscribeScope};

/// One stay of somebody in a room.
#[derive(Debug)]
pub(super) struct Participant {
    pub(super) sid: ParticipantSid,
    pub(super) identity: Identity,
    pub(super) name: String,
    pub(super) metadata: String,
    pub(super) attributes: HashMap<String, String>,
    pub(super) kind: Kind,
    pub(super) kind_details: Vec<i32>,
    pub(super) permission: livekit::ParticipantPermission,
    pub(super) client: livekit::ClientInfo,
    pub(super) region: String,
    pub(super) claims: Option<Arc<Claims>>,
    pub(super) state: State,
    /// Whether it was ACTIVE when it left.
    pub(super) was_active: bool,
    pub(super) joined_at_ms: u64,
    pub(super) joined_at: Instant,
    pub(super) version: u32,
    pub(super) is_publisher: bool,
    pub(super) disconnect_reason: livekit::DisconnectReason,

    /// None while a lost signal connection may still be resumed.
    pub(super) session: Option<SessionId>,
    pub(super) resumable: bool,
    /// See [`JoinParams::follows_room`](crate::join::JoinParams).
    pub(super) follows_room: bool,
    pub(super) mode: ConnectionMode,
    pub(super) late_binding: bool,
    pub(super) candidates: CandidatePolicy,
    pub(super) publisher: Connection,
    /// The downstream connection of dual mode, made when the participant may first subscribe.
    pub(super) subscriber: Option<Connection>,
    /// Whether `subscriber` decides about being connected (dual mode, allowed to subscribe at the join).
    pub(super) subscriber_primary: bool,
    pub(super) negotiation: Negotiation,
    /// To become ACTIVE until then.
    pub(super) active_deadline: Option<Instant>,
    /// To be removed then, after its transport failed.
    pub(super) close_deadline: Option<Instant>,
    /// When to send the next fresh token.
    pub(super) refresh_deadline: Option<Instant>,

    /// Announced and published tracks, at most [`super::publish::TRACKS_MAX`].
    pub(super) tracks: Vec<Track>,
    /// Announcements that wait until an earlier track of the same client id is gone, bounded by
    /// [`super::publish::QUEUED_PER_CID_MAX`] and [`super::publish::PENDING_TRACKS_MAX`].
    pub(super) queued_tracks: VecDeque<livekit::AddTrackRequest>,
    pub(super) track_permissions: TrackPermissions,

    pub(super) scope: SubscribeScope,
    pub(super) adaptive_stream: bool,
    /// Tracks it receives or shall receive; bounded by the tracks of the room.
    pub(super) subscriptions: BTreeMap<TrackSid, Subscription>,
    /// Tracks it does not want although its scope covers them; bounded by the tracks of the room.
    pub(super) unwanted: BTreeSet<TrackSid>,
    /// Tracks it asked for that do not exist, and until when they are waited for; at most
    /// [`super::subscribe::MISSING_TRACKS_MAX`].
    pub(super) missing: BTreeMap<TrackSid, Instant>,
    /// Settings for tracks it is not subscribed to; at most [`super::subscribe::KEPT_SETTINGS_MAX`].
    pub(super) kept_settings: BTreeMap<TrackSid, SubscriptionSettings>,

    /// Last sequence number of its reliable packets.
    pub(super) last_sequence: u32,
    /// Whether reliable packets can be sent to it.
    pub(super) reliable_open: bool,
    /// Number of the first reliable packet that it has not been sent; none once live delivery began.
    pub(super) replay_from: Option<u64>,
    pub(super) data_tracks: DataTracks,
    pub(super) path_watch: PathWatch,
    pub(super) rehearsed_resume: RehearsedResume,
    /// What it told as connection quality of others and itself last time.
    pub(super) quality_told: BTreeMap<ParticipantSid, livekit::ConnectionQuality>,
}

/// One peer connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    /// None until it was first connected.
    pub(super) state: Option<ConnectionState>,
}

impl Connection {
    pub(super) fn new(id: ConnectionId) -> Self {
        Self { id, state: None }
    }

    /// Whether the node has given it up.
    pub(super) fn is_dead(self) -> bool {
        matches!(self.state, Some(ConnectionState::Failed | ConnectionState::Closed))
    }
}

impl Participant {
    /// What everybody is told about it.
    pub(super) fn info(&self) -> livekit::ParticipantInfo {
        let mut tracks: Vec<&Track> = self.tracks.iter().filter(|track| track.is_published()).collect();
        tracks.sort_by_key(|track| track.order);
        livekit::ParticipantInfo {
            sid: self.sid.as_str().to_owned(),
            identity: self.identity.as_str().to_owned(),
            state: self.state.into(),
            tracks: tracks.into_iter().map(|track| track.info.clone()).collect(),
            metadata: self.metadata.clone(),
            joined_at: i64::try_from(self.joined_at_ms / 1000).unwrap_or_default(),
            joined_at_ms: i64::try_from(self.joined_at_ms).unwrap_or_default(),
            name: self.name.clone(),
            version: self.version,
            permission: Some(self.permission.clone()),
            region: self.region.clone(),
            is_publisher: self.is_publisher,
            kind: self.kind.into(),
            attributes: self.attributes.clone(),
            disconnect_reason: self.disconnect_reason.into(),
            kind_details: self.kind_details.clone(),
            data_tracks: self.data_tracks.infos(),
            client_protocol: self.client.client_protocol,
            capabilities: self.client.capabilities.clone(),
        }
    }

    /// The little that webhooks about tracks say of it.
    pub(super) fn brief(&self) -> livekit::ParticipantInfo {
        livekit::ParticipantInfo {
            sid: self.sid.as_str().to_owned(),
            identity: self.identity.as_str().to_owned(),
            name: self.name.clone(),
            ..Default::default()
        }
    }

    /// LiveKit's protocol number of its client.
    pub(super) fn protocol(&self) -> i32 {
        self.client.protocol
    }

    pub(super) fn is_active(&self) -> bool {
        self.state == State::Active
    }

    pub(super) fn hidden(&self) -> bool {
        self.permission.hidden
    }

    /// Whether it keeps the room open and counts as a participant.
    pub(super) fn counts(&self) -> bool {
        !(self.permission.recorder
            || self.permission.agent
            || matches!(self.kind, Kind::Agent | Kind::Egress))
    }

    /// The connection whose state is the participant's.
    pub(super) fn primary(&self) -> Connection {
        match self.subscriber {
            Some(subscriber) if self.subscriber_primary => subscriber,
            _ => self.publisher,
        }
    }

    /// The connection on which tracks are sent to it; none in dual mode before it may subscribe.
    pub(super) fn downstream(&self) -> Option<ConnectionId> {
        match self.mode {
            ConnectionMode::Single => Some(self.publisher.id),
            ConnectionMode::Dual => self.subscriber.map(|connection| connection.id),
        }
    }

    /// The connection of this id.
    pub(super) fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        if self.publisher.id == id {
            return Some(&mut self.publisher);
        }
        self.subscriber.as_mut().filter(|connection| connection.id == id)
    }

    pub(super) fn track(&self, sid: &str) -> Option<&Track> {
        self.tracks.iter().find(|track| track.sid.as_str() == sid)
    }

    pub(super) fn track_mut(&mut self, sid: &str) -> Option<&mut Track> {
        self.tracks.iter_mut().find(|track| track.sid.as_str() == sid)
    }

    /// When something of it is due next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let missing = self.missing.values().min().copied();
        let dynacast = self.tracks.iter().filter_map(|track| track.dynacast.deadline()).min();
        [self.active_deadline, self.close_deadline, self.refresh_deadline, missing, dynacast]
            .into_iter()
            .flatten()
            .min()
    }
}
