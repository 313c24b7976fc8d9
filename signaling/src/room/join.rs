//! Joining.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime};

use rand::RngExt;
use zynk_protocol::livekit::{self, participant_info::State, signal_response};
use zynk_protocol::{ConnectionId, ConnectionRole, Identity, NodeAction, OpenConnection, ParticipantSid};

use super::participant::{Connection, Participant};
use super::{Room, RoomOutput, SessionId, codecs};
use crate::join::{ConnectionMode, JoinError, JoinParams};
use crate::relays::ClientPlace;

/// LiveKit's protocol number that this server speaks.
pub(super) const PROTOCOL: i32 = 17;

/// The version of LiveKit's server whose behaviour is offered: SDKs enable features by it.
pub(super) const COMPATIBLE_VERSION: &str = "1.13.5";

/// How often clients shall ping. 0 would stop some clients from pinging and others from working.
pub(super) const PING_INTERVAL_S: i32 = 5;

/// After how long without any message clients give the connection up.
pub(super) const PING_TIMEOUT_S: i32 = 15;

/// How long a participant may take to connect its media.
const ACTIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// How often fresh tokens are sent.
pub(super) const TOKEN_REFRESH_INTERVAL: Duration = Duration::from_secs(300);

impl Room {
    pub(super) fn handle_join(&mut self, session: SessionId, mut params: JoinParams) {
        if let Some(resume) = &params.resume {
            tracing::debug!(reason = resume.reason, "a client resumes");
            return self.handle_resume(session, params);
        }
        if let Err(error) = self.check_join(&params) {
            return self.outputs.push_back(RoomOutput::JoinRefused { session, error });
        }
        self.restore_texts(&mut params);
        self.keep_to_transport(&mut params);
        // The old session goes first, so that it is told before anybody sees the new one.
        if let Some(old) = self.identities.get(&params.identity).cloned() {
            self.replace_participant(&old);
        }
        let add_tracks = params.add_tracks.clone();
        let offer = params.offer.clone();
        let place = params.place.clone();
        let sid = self.add_participant(session, params);
        self.outputs.push_back(RoomOutput::JoinAccepted { session, participant: sid.clone() });
        self.send_join_response(&sid, &place);
        self.refresh_token(&sid);
        self.open_connections(&sid);
        for request in add_tracks {
            self.handle_add_track(&sid, request);
        }
        // Before the offer, so that the first answer carries the tracks already.
        self.subscribe_to_existing(&sid);
        self.subscribe_to_existing_data_tracks(&sid);
        if let Some(offer) = offer {
            self.handle_offer(&sid, offer);
        }
        self.participant_changed(&sid, false);
        self.occupancy_changed();
    }

    /// Whether a join would be accepted now: the room may be full. Agents and recorders need no place.
    pub fn check_join(&self, params: &JoinParams) -> Result<(), JoinError> {
        match self.has_place_for(&params.identity, params.counts()) {
            true => Ok(()),
            false => Err(JoinError::Forbidden { code: "room_full", message: "the room is full".into() }),
        }
    }

    pub(super) fn has_place_for(&self, identity: &Identity, counts: bool) -> bool {
        let max = usize::try_from(self.settings.record.max_participants).unwrap_or(usize::MAX);
        if max == 0 || !counts {
            return true;
        }
        let others = self.participants.values();
        others.filter(|other| other.counts() && other.identity != *identity).count() < max
    }

    fn add_participant(&mut self, session: SessionId, mut params: JoinParams) -> ParticipantSid {
        // Everybody is told these.
        params.client.capabilities = super::publish::known(&params.client.capabilities, |capability| {
            livekit::client_info::Capability::try_from(capability).is_ok()
        });
        let sid = ParticipantSid::from_random(self.random());
        let publisher = Connection::new(self.new_connection(&sid));
        // Values that delete have nothing to delete yet.
        let attributes = params.attributes.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let claims = super::metadata::claims_to_keep(params.claims, params.follows_room);
        let participant = Participant {
            sid: sid.clone(),
            identity: params.identity.clone(),
            name: params.name,
            metadata: params.metadata,
            attributes,
            kind: params.kind,
            kind_details: params.kind_details,
            subscriber_primary: params.connection == ConnectionMode::Dual
                && params.permission.can_subscribe
                && params.client.protocol >= 3,
            permission: params.permission,
            client: params.client,
            region: self.settings.config.region.clone(),
            claims,
            state: State::Joining,
            was_active: false,
            joined_at_ms: self.unix_ms,
            joined_at: self.now,
            version: 1,
            is_publisher: false,
            disconnect_reason: livekit::DisconnectReason::UnknownReason,
            session: Some(session),
            resumable: params.resumable,
            follows_room: params.follows_room,
            mode: params.connection,
            late_binding: params.late_binding,
            candidates: params.candidates,
            publisher,
            subscriber: None,
            negotiation: Default::default(),
            active_deadline: Some(self.now + ACTIVE_TIMEOUT),
            close_deadline: None,
            refresh_deadline: None,
            tracks: Vec::new(),
            queued_tracks: VecDeque::new(),
            track_permissions: Default::default(),
            scope: params.subscribe,
            adaptive_stream: params.adaptive_stream,
            subscriptions: BTreeMap::new(),
            unwanted: BTreeSet::new(),
            missing: BTreeMap::new(),
            kept_settings: BTreeMap::new(),
            last_sequence: 0,
            reliable_open: false,
            replay_from: Some(self.data.next_number()),
            data_tracks: super::data_tracks::DataTracks::new(params.auto_subscribe_data_tracks),
            quality_told: BTreeMap::new(),
            path_watch: Default::default(),
            rehearsed_resume: Default::default(),
        };
        self.identities.insert(params.identity, sid.clone());
        self.sessions.insert(session, sid.clone());
        self.participants.insert(sid.clone(), Box::new(participant));
        self.ever_joined = true;
        sid
    }

    fn send_join_response(&mut self, sid: &ParticipantSid, place: &ClientPlace) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        participant.state = State::Joined;
        let Some(participant) = self.participants.get(sid) else { return };
        let config = &self.settings.config;
        let follows = participant.follows_room;
        let others =
            self.participants.values().filter(|other| follows && other.sid != *sid && !other.hidden());
        let join = livekit::JoinResponse {
            room: Some(self.room_info()),
            participant: Some(participant.info()),
            other_participants: others.map(|other| other.info()).collect(),
            server_version: COMPATIBLE_VERSION.to_owned(),
            server_region: config.region.clone(),
            server_info: Some(self.server_info()),
            ice_servers: self.ice_servers(sid, place),
            subscriber_primary: participant.subscriber_primary,
            client_configuration: self.client_configuration(participant),
            ping_timeout: PING_TIMEOUT_S,
            ping_interval: PING_INTERVAL_S,
            enabled_publish_codecs: codecs::enabled(&config.room.enabled_codecs, &participant.client),
            fast_publish: participant.permission.can_publish,
            ..Default::default()
        };
        self.tell(sid, signal_response::Message::Join(join));
    }

    pub(super) fn client_configuration(
        &self,
        participant: &Participant,
    ) -> Option<livekit::ClientConfiguration> {
        codecs::configuration(&participant.client, self.relay_setting(&participant.identity))
    }

    pub(super) fn server_info(&self) -> livekit::ServerInfo {
        livekit::ServerInfo {
            edition: livekit::server_info::Edition::Standard.into(),
            version: COMPATIBLE_VERSION.to_owned(),
            protocol: PROTOCOL,
            region: self.settings.config.region.clone(),
            node_id: self.settings.node.as_str().to_owned(),
            ..Default::default()
        }
    }

    /// The servers that everybody is told, and the relays for a client at `place`, with credentials from now on.
    pub(super) fn ice_servers(&self, sid: &ParticipantSid, place: &ClientPlace) -> Vec<livekit::IceServer> {
        let fixed = self.settings.config.ice_servers.iter().map(|server| livekit::IceServer {
            urls: server.urls.clone(),
            username: server.username.clone(),
            credential: server.credential.clone(),
        });
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(self.unix_ms);
        let mut relays = self.settings.relays.ice_servers(place, sid, now);
        if let Some(participant) = self.participants.get(sid) {
            participant.path_watch.reorder(&mut relays);
        }
        fixed.chain(relays).collect()
    }

    fn open_connections(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get(sid) else { return };
        let role = match participant.mode {
            ConnectionMode::Single => ConnectionRole::Single,
            ConnectionMode::Dual => ConnectionRole::Publisher,
        };
        let open = OpenConnection {
            connection: participant.publisher.id,
            participant: sid.clone(),
            role,
            late_binding: participant.late_binding,
            candidates: participant.candidates,
        };
        let can_subscribe = participant.permission.can_subscribe;
        self.command(NodeAction::OpenConnection(open));
        self.limit_audio();
        if can_subscribe {
            self.open_downstream(sid);
        }
    }

    /// Makes the downstream connection of dual mode, if there is none yet.
    pub(super) fn open_downstream(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get(sid) else { return };
        if participant.mode == ConnectionMode::Single || participant.subscriber.is_some() {
            return;
        }
        let candidates = participant.candidates;
        let connection = self.new_connection(sid);
        if let Some(participant) = self.participants.get_mut(sid) {
            participant.subscriber = Some(Connection::new(connection));
        }
        self.command(NodeAction::OpenConnection(OpenConnection {
            connection,
            participant: sid.clone(),
            role: ConnectionRole::Subscriber,
            late_binding: false,
            candidates,
        }));
        self.limit_audio();
    }

    /// The worker of a connection that has come to the room may be new to it.
    pub(super) fn limit_audio(&mut self) {
        let loudest = self.settings.config.room.audio_top_n;
        if loudest > 0 {
            self.command(NodeAction::LimitAudio { loudest });
        }
    }

    fn new_connection(&mut self, sid: &ParticipantSid) -> ConnectionId {
        let connection = ConnectionId(self.rng.random());
        self.connections.insert(connection, sid.clone());
        connection
    }
}
