//! One open room: who is in it, what they publish and want, and what they are told.
//!
//! A state machine without IO. The shell (`directory.rs`) hands in what happened and carries out what comes
//! back, in order.
//!
//! ```text
//!   Join, Signal, SessionClosed ─┐                     ┌─► ToClient, CloseSession, JoinRefused
//!   NodeEvent ───────────────────┤                     ├─► ToNode
//!   Admin ───────────────────────┼─► Room::handle_input┼─► AdminReply
//!   Timeout, Shutdown ───────────┘     poll_output     └─► Webhook, Persist, Finished
//! ```
//!
//! The behaviour is LiveKit's; `docs/livekit-compatibility.md` lists it line by line.

mod admin;
mod backup;
mod codecs;
mod data;
mod data_tracks;
mod dynacast;
mod fallback;
mod join;
mod leave;
mod metadata;
mod moving;
mod negotiation;
mod participant;
mod permission;
mod publish;
mod quality;
mod rehearsal;
mod resume;
mod rpc;
mod speakers;
mod stats;
mod subscribe;
mod sync;
#[cfg(test)]
mod tests;
mod updates;
mod webhook;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use zynk_auth::KeyRing;
use zynk_protocol::livekit::{self, signal_request, signal_response};
use zynk_protocol::{
    ConnectionId, Identity, NodeAction, NodeEvent, NodeId, ParticipantSid, RoomName, RoomSid, TrackSid,
};
use zynk_store::RoomRecord;

use crate::admin::{AdminError, AdminRequest, AdminResponse};
use crate::config::SignalingConfig;
use crate::join::{JoinError, JoinParams};
use crate::relays::Relays;

pub(crate) use leave::leave_message;
pub(crate) use metadata::check_limits;
pub use moving::{MoveId, Traveller};
use participant::Participant;

/// One signaling session, numbered by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// An answer that somebody waits for, numbered by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyId(pub u64);

/// Something that happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum RoomInput {
    /// Somebody wants to join or resume. Answered by [`RoomOutput::ToClient`] or
    /// [`RoomOutput::JoinRefused`].
    Join {
        /// The new session.
        session: SessionId,
        /// Who, and how.
        params: Box<JoinParams>,
    },
    /// A client's request.
    Signal {
        /// Whose.
        session: SessionId,
        /// The request.
        request: Box<livekit::SignalRequest>,
    },
    /// A session's connection is gone.
    SessionClosed {
        /// Which.
        session: SessionId,
    },
    /// A participant's state is not to be trusted any more: it is removed at once.
    SessionFaulted {
        /// Which.
        session: SessionId,
    },
    /// A client has answered [`RoomOutput::ProbeSession`].
    SessionAlive {
        /// Which.
        session: SessionId,
    },
    /// The media node reports something.
    Node(NodeEvent),
    /// The media node is gone, and the media with it.
    NodeLost,
    /// A participant goes to another room of the node. All its earlier requests have been handed in, and the next one goes
    /// there. Answered by [`RoomOutput::Departed`].
    Depart {
        /// Its session.
        session: SessionId,
        /// Names the move in outputs.
        number: MoveId,
        /// The other room.
        destination: RoomName,
    },
    /// A participant of another room of the node comes with its session and its media.
    Arrive {
        /// What its session is called here.
        session: SessionId,
        /// The participant.
        traveller: Box<Traveller>,
    },
    /// What the node told the other room of a participant that has arrived: [`RoomOutput::PassOn`].
    Late(NodeEvent),
    /// No more of that comes.
    Settled {
        /// The participant's connections.
        connections: Vec<ConnectionId>,
    },
    /// A participant that has departed did not arrive anywhere.
    Stranded {
        /// The participant's connections.
        connections: Vec<ConnectionId>,
    },
    /// The server API asks something.
    Admin {
        /// Where the answer goes.
        reply: ReplyId,
        /// The question.
        request: Box<AdminRequest>,
    },
    /// [`Room::poll_timeout`] has passed.
    Timeout,
    /// The server stops.
    Shutdown,
}

/// Who bears a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// This session ends.
    Session(SessionId),
    /// This call of the server API gets no answer.
    Caller(ReplyId),
    /// The room goes on as if it had not happened.
    Nobody,
    /// It would fail again and again: the room ends, and its clients make a new one.
    Room,
}

/// Something to do.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "the many are small; the large ones are answers, one at a time")]
pub enum RoomOutput {
    /// Send this to a client.
    ToClient {
        /// Which.
        session: SessionId,
        /// What.
        response: Box<livekit::SignalResponse>,
    },
    /// Ask a client for a sign of life. Answered by [`RoomInput::SessionAlive`], or not at all.
    ProbeSession {
        /// Which.
        session: SessionId,
    },
    /// End a session after what it was sent before.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// A session began; its first response follows.
    JoinAccepted {
        /// Which.
        session: SessionId,
        /// Who it is.
        participant: ParticipantSid,
    },
    /// A participant's transport is connected for the first time.
    ParticipantConnected {
        /// How long after its join.
        waited: Duration,
    },
    /// A session did not begin.
    JoinRefused {
        /// Which.
        session: SessionId,
        /// Why.
        error: JoinError,
    },
    /// Tell the media node.
    ToNode(NodeAction),
    /// The outcome of [`RoomInput::Depart`].
    Departed {
        /// Which move.
        number: MoveId,
        /// The participant, for the other room's [`RoomInput::Arrive`].
        result: Result<Box<Traveller>, AdminError>,
    },
    /// The node told this about a participant that has departed: for the other room's [`RoomInput::Late`].
    PassOn {
        /// Which move.
        number: MoveId,
        /// What it told.
        event: NodeEvent,
    },
    /// The node has told all that it tells here about a participant that has departed: [`RoomInput::Settled`] is next.
    PassedAll {
        /// Which move.
        number: MoveId,
    },
    /// Answer the server API.
    AdminReply {
        /// Which question.
        reply: ReplyId,
        /// The answer.
        result: Result<AdminResponse, AdminError>,
    },
    /// Tell the application.
    Webhook(Box<livekit::WebhookEvent>),
    /// Store what outlives the process.
    Persist(Box<RoomRecord>),
    /// The room is over; nothing follows, except that later joins and questions are refused.
    Finished {
        /// Whether its record is of no use any more. A room that ends with the server keeps it.
        forget: bool,
    },
}

/// What a room starts with.
#[derive(Clone, Debug)]
pub struct RoomSettings {
    /// The role's configuration.
    pub config: Arc<SignalingConfig>,
    /// The keys that sign refreshed tokens.
    pub keys: Arc<KeyRing>,
    /// The relays that clients are told.
    pub relays: Arc<Relays>,
    /// The node that hosts the media.
    pub node: NodeId,
    /// Name, id and settings.
    pub record: RoomRecord,
    /// Seed of everything that the room draws at random.
    pub seed: u64,
}

/// An open room.
#[derive(Debug)]
pub struct Room {
    settings: RoomSettings,
    rng: Pcg64,
    now: Instant,
    unix_ms: u64,
    /// When the last participant left, or the room's creation; none while somebody holds it open.
    empty_since: Option<Instant>,
    ever_joined: bool,
    finished: bool,
    /// Counts publications, so that tracks have an order.
    publications: u64,
    /// Bounded by the participants limit, or else by the sessions limit.
    /// Boxed: they are large, and a tree keeps room for twice as many.
    participants: BTreeMap<ParticipantSid, Box<Participant>>,
    identities: HashMap<Identity, ParticipantSid>,
    sessions: HashMap<SessionId, ParticipantSid>,
    connections: HashMap<ConnectionId, ParticipantSid>,
    /// Publishers by their published and pending tracks.
    tracks: HashMap<TrackSid, ParticipantSid>,
    updates: updates::UpdateQueue,
    departed: resume::Departed,
    moves: moving::Moves,
    data: data::DataState,
    rpcs: rpc::RpcState,
    rehearsals: rehearsal::Rehearsals,
    quality: quality::QualityState,
    stats: stats::StatsState,
    room_update: updates::RoomUpdateState,
    webhooks_dropped: i32,
    outputs: VecDeque<RoomOutput>,
}

impl Room {
    /// A room without participants. Its webhook `room_started` and its first record are output at once.
    pub fn new(now: Instant, unix_ms: u64, settings: RoomSettings) -> Self {
        let rng = Pcg64::seed_from_u64(settings.seed);
        let mut room = Self {
            settings,
            rng,
            now,
            unix_ms,
            empty_since: Some(now),
            ever_joined: false,
            finished: false,
            publications: 0,
            participants: BTreeMap::new(),
            identities: HashMap::new(),
            sessions: HashMap::new(),
            connections: HashMap::new(),
            tracks: HashMap::new(),
            updates: updates::UpdateQueue::default(),
            departed: resume::Departed::default(),
            moves: moving::Moves::default(),
            data: data::DataState::default(),
            rpcs: rpc::RpcState::default(),
            rehearsals: rehearsal::Rehearsals::default(),
            quality: quality::QualityState::default(),
            stats: stats::StatsState::default(),
            room_update: updates::RoomUpdateState::default(),
            webhooks_dropped: 0,
            outputs: VecDeque::new(),
        };
        room.persist();
        room.webhook_room("room_started", None);
        room
    }

    /// Takes in what happened at `now`. Inputs after [`RoomOutput::Finished`] are ignored, except that
    /// questions and joins are refused.
    pub fn handle_input(&mut self, now: Instant, unix_ms: u64, input: RoomInput) {
        self.now = now;
        self.unix_ms = unix_ms;
        match input {
            RoomInput::Join { session, params } => {
                if self.finished {
                    let error = JoinError::Unavailable("the room has ended");
                    self.outputs.push_back(RoomOutput::JoinRefused { session, error });
                } else {
                    self.handle_join(session, *params);
                }
            }
            RoomInput::Admin { reply, request } => {
                if self.finished {
                    let result = Err(AdminError::NotFound("requested room does not exist"));
                    self.outputs.push_back(RoomOutput::AdminReply { reply, result });
                } else {
                    self.handle_admin(reply, *request);
                }
            }
            _ if self.finished => {}
            RoomInput::Signal { session, request } => self.handle_signal(session, *request),
            RoomInput::SessionClosed { session } => self.handle_session_closed(session),
            RoomInput::SessionFaulted { session } => self.handle_session_faulted(session),
            RoomInput::SessionAlive { session } => self.handle_session_alive(session),
            RoomInput::Node(event) => {
                if let Some(event) = self.divert(event) {
                    self.handle_node(event);
                }
            }
            RoomInput::Depart { session, number, destination } => self.depart(session, number, destination),
            RoomInput::Arrive { session, traveller } => self.arrive(session, *traveller),
            RoomInput::Late(event) => self.handle_node(event),
            RoomInput::Settled { connections } => self.settle(&connections),
            RoomInput::Stranded { connections } => self.close_stranded(&connections),
            RoomInput::NodeLost => self.handle_node_lost(),
            RoomInput::Timeout => {}
            RoomInput::Shutdown => self.handle_shutdown(),
        }
        if !self.finished {
            self.run_timers();
        }
    }

    /// What is to be done, until none is left.
    pub fn poll_output(&mut self) -> Option<RoomOutput> {
        self.outputs.pop_front()
    }

    /// When to call again with [`RoomInput::Timeout`], if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.finished {
            return None;
        }
        let own = [
            self.empty_deadline(),
            self.updates.deadline(),
            self.room_update.deadline(),
            self.rpcs.deadline(),
            self.rehearsals.deadline(),
            self.quality.deadline(),
            self.stats.deadline(),
        ];
        let theirs = self.participants.values().filter_map(|participant| participant.deadline()).min();
        own.into_iter().flatten().chain(theirs).min()
    }

    /// Counts a webhook event that the shell had to drop.
    pub fn webhook_dropped(&mut self) {
        self.webhooks_dropped = self.webhooks_dropped.saturating_add(1);
    }

    /// How many participants are in it, hidden ones included.
    pub fn participant_count(&self) -> usize {
        self.participants.len()
    }

    /// The room's id.
    pub fn sid(&self) -> &RoomSid {
        &self.settings.record.sid
    }

    /// The room's name.
    pub fn name(&self) -> &RoomName {
        &self.settings.record.name
    }

    fn handle_signal(&mut self, session: SessionId, request: livekit::SignalRequest) {
        use signal_request::Message as M;
        let Some(sid) = self.sessions.get(&session).cloned() else { return };
        // A oneof that this version does not know decodes to none: newer clients are not punished for it.
        let Some(message) = request.message else { return };
        match message {
            M::Offer(offer) => self.handle_offer(&sid, offer),
            M::Answer(answer) => self.handle_answer(&sid, answer),
            M::Trickle(trickle) => self.handle_trickle(&sid, trickle),
            M::AddTrack(request) => self.handle_add_track(&sid, request),
            M::Mute(request) => self.handle_mute(&sid, request),
            M::Subscription(request) => self.handle_subscription(&sid, &request),
            M::TrackSetting(request) => self.handle_track_settings(&sid, &request),
            M::Leave(request) => self.handle_leave(&sid, &request),
            M::SubscriptionPermission(request) => self.handle_subscription_permission(&sid, request),
            M::SyncState(state) => self.handle_sync_state(&sid, state),
            M::Simulate(scenario) => self.handle_simulate(&sid, scenario),
            M::UpdateMetadata(request) => self.handle_update_metadata(&sid, request),
            M::UpdateAudioTrack(request) => self.handle_update_audio_track(&sid, request),
            M::UpdateVideoTrack(request) => self.handle_update_video_track(&sid, request),
            M::PublishDataTrackRequest(request) => self.handle_publish_data_track(&sid, request),
            M::UnpublishDataTrackRequest(request) => self.handle_unpublish_data_track(&sid, request),
            M::UpdateDataSubscription(request) => self.handle_data_subscription(&sid, request),
            M::StoreDataBlobRequest(request) => self.refuse_data_blob(&sid, request.request_id),
            M::GetDataBlobRequest(request) => self.refuse_data_blob(&sid, request.request_id),
            // Layers are told with AddTrack; pings are answered by the session.
            M::UpdateLayers(_) | M::Ping(_) | M::PingReq(_) => {}
        }
    }

    fn handle_node(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Answer { connection, offer_id, sdp, mid_tracks, missing } => {
                self.node_answered(connection, offer_id, sdp, mid_tracks, missing);
            }
            NodeEvent::Offer { connection, offer_id, sdp, mid_tracks } => {
                self.node_offered(connection, offer_id, sdp, mid_tracks);
            }
            NodeEvent::NegotiationNeeded { connection, missing } => {
                self.node_needs_negotiation(connection, missing);
            }
            NodeEvent::NegotiationFailed { connection, failure, .. } => {
                self.node_negotiation_failed(connection, &failure);
            }
            NodeEvent::ConnectionState { connection, state } => self.connection_changed(connection, state),
            // Where it is expected, it has been diverted.
            NodeEvent::ConnectionMoved { .. } => {}
            NodeEvent::TrackStarted(started) => self.track_started(started),
            NodeEvent::TrackStopped { track, .. } => self.track_stopped(&track),
            NodeEvent::Subscribed { connection, track, backup } => {
                self.subscribed(connection, &track, backup);
            }
            NodeEvent::SubscriptionFailed { connection, track, reason } => {
                self.subscription_failed(connection, &track, reason);
            }
            NodeEvent::StreamState { connection, track, paused } => {
                self.stream_state(connection, &track, paused);
            }
            NodeEvent::DataChannelOpen { connection, kind } => self.data_channel_open(connection, kind),
            NodeEvent::DataReceived { connection, kind, payload } => {
                self.data_received(connection, kind, payload);
            }
            NodeEvent::Speakers { levels } => self.speakers_changed(levels),
            NodeEvent::Stats { connections } => self.stats_arrived(&connections),
            NodeEvent::RoomReport(report) => self.room_reported(*report),
        }
    }

    /// Who is to bear it if handling an input fails.
    pub(crate) fn blame_for(&self, input: &RoomInput) -> Blame {
        let connection = match input {
            RoomInput::Join { session, .. }
            | RoomInput::Depart { session, .. }
            | RoomInput::Arrive { session, .. }
            | RoomInput::Signal { session, .. }
            | RoomInput::SessionClosed { session }
            | RoomInput::SessionFaulted { session }
            | RoomInput::SessionAlive { session } => return Blame::Session(*session),
            RoomInput::Admin { reply, .. } => return Blame::Caller(*reply),
            RoomInput::NodeLost | RoomInput::Timeout | RoomInput::Shutdown => return Blame::Room,
            RoomInput::Settled { .. } | RoomInput::Stranded { .. } => return Blame::Nobody,
            RoomInput::Node(event) | RoomInput::Late(event) => match connection_of(event) {
                Some(connection) => connection,
                None => return Blame::Nobody,
            },
        };
        let participant = self.connections.get(&connection).and_then(|sid| self.participants.get(sid));
        match participant.and_then(|participant| participant.session) {
            Some(session) => Blame::Session(session),
            None => Blame::Nobody,
        }
    }

    fn run_timers(&mut self) {
        self.expire_participants();
        self.expire_wanted_tracks();
        self.run_dynacast();
        self.expire_rpcs();
        self.expire_rehearsals();
        self.report_quality();
        self.continue_stats();
        self.flush_updates();
        self.flush_room_update();
        if self.empty_deadline().is_some_and(|at| at <= self.now) {
            self.finish(livekit::RoomEndReason::RoomEndIdleTimeout, livekit::DisconnectReason::RoomClosed);
        }
    }

    fn empty_deadline(&self) -> Option<Instant> {
        let timeout_s = match self.ever_joined {
            true => self.settings.record.departure_timeout_s,
            false => self.settings.record.empty_timeout_s,
        };
        self.empty_since.map(|since| since + Duration::from_secs(timeout_s.into()))
    }

    fn tell(&mut self, sid: &ParticipantSid, message: signal_response::Message) {
        use signal_response::Message::{Answer, Join, Leave, RequestResponse};
        let Some(participant) = self.participants.get(sid) else { return };
        let is_answer = matches!(message, Join(_) | Answer(_) | RequestResponse(_) | Leave(_));
        if !is_answer && !participant.follows_room {
            return;
        }
        // Without a session the client is about to resume, and is then told everything anew.
        if let Some(session) = participant.session {
            self.tell_session(session, message);
        }
    }

    fn tell_session(&mut self, session: SessionId, message: signal_response::Message) {
        let response = Box::new(livekit::SignalResponse { message: Some(message) });
        self.outputs.push_back(RoomOutput::ToClient { session, response });
    }

    fn command(&mut self, action: NodeAction) {
        self.outputs.push_back(RoomOutput::ToNode(action));
    }

    fn persist(&mut self) {
        let record = Box::new(self.settings.record.clone());
        self.outputs.push_back(RoomOutput::Persist(record));
    }

    fn random(&mut self) -> u128 {
        self.rng.random()
    }

    fn system_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.unix_ms)
    }
}

/// The one connection that an event is about.
fn connection_of(event: &NodeEvent) -> Option<ConnectionId> {
    match event {
        NodeEvent::Answer { connection, .. }
        | NodeEvent::Offer { connection, .. }
        | NodeEvent::NegotiationNeeded { connection, .. }
        | NodeEvent::NegotiationFailed { connection, .. }
        | NodeEvent::ConnectionState { connection, .. }
        | NodeEvent::ConnectionMoved { connection }
        | NodeEvent::Subscribed { connection, .. }
        | NodeEvent::SubscriptionFailed { connection, .. }
        | NodeEvent::StreamState { connection, .. }
        | NodeEvent::DataChannelOpen { connection, .. }
        | NodeEvent::DataReceived { connection, .. } => Some(*connection),
        _ => None,
    }
}
