//! A room, a clock, and the inboxes of everybody who is told something.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use zynk_auth::{Claims, KeyRing, VideoGrants};
use zynk_protocol::livekit::{self, signal_request, signal_response};
use zynk_protocol::{
    ConnectionId, ConnectionRole, ConnectionState, DataKind, MediaKind, MimeType, NodeAction, NodeEvent,
    NodeId, ParticipantSid, RoomName, RoomSid, StartedTrack, StreamEncoding, TrackSid,
};
use zynk_store::RoomRecord;

use crate::admin::{AdminError, AdminRequest, AdminResponse};
use crate::config::SignalingConfig;
use crate::join::{ConnectionMode, JoinError, JoinParams};
use crate::relays::Relays;
use crate::room::{ReplyId, Room, RoomInput, RoomOutput, RoomSettings, SessionId, Traveller};

pub(crate) use signal_request::Message as Request;
pub(crate) use signal_response::Message as Response;

/// Somebody in the room.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) session: SessionId,
    pub(crate) sid: ParticipantSid,
    pub(crate) publisher: ConnectionId,
    pub(crate) subscriber: Option<ConnectionId>,
}

impl Peer {
    /// The connection whose state is the participant's.
    pub(crate) fn primary(&self) -> ConnectionId {
        self.subscriber.unwrap_or(self.publisher)
    }

    /// The connection on which it receives.
    pub(crate) fn downstream(&self) -> ConnectionId {
        self.subscriber.unwrap_or(self.publisher)
    }
}

pub(crate) struct World {
    pub(crate) room: Room,
    pub(crate) keys: Arc<KeyRing>,
    now: Instant,
    unix_ms: u64,
    next_session: u64,
    next_reply: u64,
    inboxes: BTreeMap<SessionId, VecDeque<Response>>,
    closed: Vec<SessionId>,
    /// Sessions that were asked for a sign of life.
    pub(crate) probed: Vec<SessionId>,
    actions: Vec<NodeAction>,
    webhooks: Vec<livekit::WebhookEvent>,
    replies: BTreeMap<ReplyId, Result<AdminResponse, AdminError>>,
    joined: Option<Result<ParticipantSid, JoinError>>,
    /// How long participants took to connect.
    pub(crate) connected_after: Vec<Duration>,
    pub(crate) finished: bool,
    /// The outcome of the last departure.
    pub(crate) departed: Option<Result<Box<Traveller>, AdminError>>,
    /// What was to be passed on to the room that somebody moved to.
    pub(crate) passed: Vec<NodeEvent>,
    pub(crate) passed_all: u32,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_, _| {})
    }

    pub(crate) fn with(set_up: impl FnOnce(&mut SignalingConfig, &mut RoomRecord)) -> Self {
        Self::seeded(7, set_up)
    }

    /// A room of the same server that is called otherwise, and draws other ids.
    pub(crate) fn another(name: &str) -> Self {
        Self::seeded(8, |_, record| {
            record.name = RoomName::new(name);
            record.sid = RoomSid::from_random(2);
        })
    }

    fn seeded(seed: u64, set_up: impl FnOnce(&mut SignalingConfig, &mut RoomRecord)) -> Self {
        let mut config = SignalingConfig::default();
        let mut record = RoomRecord::new(RoomName::new("lobby"), RoomSid::from_random(1), 1_700_000_000_000);
        crate::placement::apply_defaults(&mut record, &config.room);
        set_up(&mut config, &mut record);
        let keys = Arc::new(KeyRing::single("devkey", "secret"));
        let relays = Relays::new(&config, &keys, None).unwrap();
        let settings = RoomSettings {
            config: Arc::new(config),
            keys: Arc::clone(&keys),
            relays: Arc::new(relays),
            node: NodeId::from_random(9),
            record,
            seed,
        };
        let (now, unix_ms) = (Instant::now(), 1_700_000_000_000);
        let mut world = Self {
            room: Room::new(now, unix_ms, settings),
            keys,
            now,
            unix_ms,
            next_session: 1,
            next_reply: 1,
            inboxes: BTreeMap::new(),
            closed: Vec::new(),
            probed: Vec::new(),
            actions: Vec::new(),
            webhooks: Vec::new(),
            replies: BTreeMap::new(),
            joined: None,
            connected_after: Vec::new(),
            finished: false,
            departed: None,
            passed: Vec::new(),
            passed_all: 0,
        };
        world.drain();
        world
    }

    pub(crate) fn claims(identity: &str) -> Claims {
        let mut claims = Claims::for_identity(identity);
        claims.video = VideoGrants::join("lobby");
        claims.expires_at_s = Some(1_700_000_000 + 3_600);
        claims
    }

    /// A client of today with two connections.
    pub(crate) fn params(identity: &str) -> JoinParams {
        Self::params_of(Self::claims(identity))
    }

    pub(crate) fn params_of(claims: Claims) -> JoinParams {
        let mut params = JoinParams::from_claims(claims, &SignalingConfig::default().limits).unwrap();
        params.client = livekit::ClientInfo { protocol: 17, client_protocol: 1, ..Default::default() };
        params
    }

    /// A client of today with one connection.
    pub(crate) fn single(identity: &str) -> JoinParams {
        JoinParams { connection: ConnectionMode::Single, ..Self::params(identity) }
    }

    pub(crate) fn try_join(&mut self, params: JoinParams) -> Result<Peer, JoinError> {
        let session = self.session();
        self.join_as(session, params)
    }

    pub(crate) fn session(&mut self) -> SessionId {
        self.next_session += 1;
        SessionId(self.next_session)
    }

    pub(crate) fn join_as(&mut self, session: SessionId, params: JoinParams) -> Result<Peer, JoinError> {
        self.joined = None;
        let before = self.actions.len();
        self.input(RoomInput::Join { session, params: Box::new(params) });
        let sid = self.joined.take().expect("neither accepted nor refused")?;
        let opened = |wanted: fn(ConnectionRole) -> bool| {
            self.actions[before..].iter().find_map(|action| match action {
                NodeAction::OpenConnection(open) if open.participant == sid && wanted(open.role) => {
                    Some(open.connection)
                }
                _ => None,
            })
        };
        let publisher = opened(|role| role != ConnectionRole::Subscriber).expect("no connection was opened");
        let subscriber = opened(|role| role == ConnectionRole::Subscriber);
        Ok(Peer { session, sid, publisher, subscriber })
    }

    pub(crate) fn join(&mut self, params: JoinParams) -> Peer {
        self.try_join(params).unwrap()
    }

    /// Joins, connects, and forgets what was said until then.
    pub(crate) fn join_active(&mut self, params: JoinParams) -> Peer {
        let peer = self.join(params);
        self.connect(&peer);
        self.advance(Duration::from_secs(6));
        self.inboxes.values_mut().for_each(VecDeque::clear);
        self.actions.clear();
        self.webhooks.clear();
        peer
    }

    pub(crate) fn connect(&mut self, peer: &Peer) {
        let connection = peer.primary();
        self.node(NodeEvent::ConnectionState { connection, state: ConnectionState::Connected });
        self.node(NodeEvent::DataChannelOpen { connection, kind: DataKind::Reliable });
    }

    pub(crate) fn input(&mut self, input: RoomInput) {
        self.room.handle_input(self.now, self.unix_ms, input);
        self.drain();
    }

    pub(crate) fn signal(&mut self, peer: &Peer, message: Request) {
        let request = Box::new(livekit::SignalRequest { message: Some(message) });
        self.input(RoomInput::Signal { session: peer.session, request });
    }

    pub(crate) fn node(&mut self, event: NodeEvent) {
        self.input(RoomInput::Node(event));
    }

    pub(crate) fn admin(&mut self, request: AdminRequest) -> Result<AdminResponse, AdminError> {
        let reply = self.ask(request);
        self.reply(reply).expect("no answer")
    }

    pub(crate) fn ask(&mut self, request: AdminRequest) -> ReplyId {
        self.next_reply += 1;
        let reply = ReplyId(self.next_reply);
        self.input(RoomInput::Admin { reply, request: Box::new(request) });
        reply
    }

    pub(crate) fn reply(&mut self, reply: ReplyId) -> Option<Result<AdminResponse, AdminError>> {
        self.replies.remove(&reply)
    }

    /// Lets time pass, timer by timer.
    pub(crate) fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        let end_ms = self.unix_ms + u64::try_from(time.as_millis()).unwrap();
        while let Some(at) = self.room.poll_timeout().filter(|at| *at <= end) {
            let step = at.saturating_duration_since(self.now);
            self.now += step;
            self.unix_ms += u64::try_from(step.as_millis()).unwrap();
            self.input(RoomInput::Timeout);
            assert!(self.room.poll_timeout().is_none_or(|next| next > self.now), "a timer does not run down");
        }
        self.now = end;
        self.unix_ms = end_ms;
    }

    fn drain(&mut self) {
        while let Some(output) = self.room.poll_output() {
            let answers = matches!(output, RoomOutput::AdminReply { .. } | RoomOutput::JoinRefused { .. });
            assert!(!self.finished || answers, "output after the end: {output:?}");
            match output {
                RoomOutput::ToClient { session, response } => {
                    assert!(!self.closed.contains(&session), "message to a closed session: {response:?}");
                    let message = response.message.expect("an empty response");
                    check(&message);
                    self.inboxes.entry(session).or_default().push_back(message);
                }
                RoomOutput::ProbeSession { session } => self.probed.push(session),
                RoomOutput::CloseSession { session } => self.closed.push(session),
                RoomOutput::JoinAccepted { participant, .. } => self.joined = Some(Ok(participant)),
                RoomOutput::JoinRefused { error, .. } => self.joined = Some(Err(error)),
                RoomOutput::ParticipantConnected { waited } => self.connected_after.push(waited),
                RoomOutput::ToNode(action) => self.actions.push(action),
                RoomOutput::AdminReply { reply, result } => drop(self.replies.insert(reply, result)),
                RoomOutput::Webhook(event) => self.webhooks.push(*event),
                RoomOutput::Persist(_) => {}
                RoomOutput::Departed { result, .. } => self.departed = Some(result),
                RoomOutput::PassOn { event, .. } => self.passed.push(event),
                RoomOutput::PassedAll { .. } => self.passed_all += 1,
                RoomOutput::Finished { .. } => self.finished = true,
            }
        }
    }

    /// What a peer was told since it was last asked.
    pub(crate) fn inbox(&mut self, peer: &Peer) -> Vec<Response> {
        self.inbox_of(peer.session)
    }

    pub(crate) fn inbox_of(&mut self, session: SessionId) -> Vec<Response> {
        self.inboxes.remove(&session).unwrap_or_default().into()
    }

    /// The one message of its kind that a peer was told since it was last asked.
    pub(crate) fn told<T>(&mut self, peer: &Peer, pick: impl Fn(Response) -> Option<T>) -> T {
        let inbox = self.inbox(peer);
        let mut found: Vec<T> = inbox.iter().cloned().filter_map(pick).collect();
        assert_eq!(found.len(), 1, "expected one such message in {inbox:#?}");
        found.remove(0)
    }

    /// All infos of participants that a peer was told since it was last asked.
    pub(crate) fn updates(&mut self, peer: &Peer) -> Vec<livekit::ParticipantInfo> {
        let inbox = self.inbox(peer);
        inbox.into_iter().filter_map(update).flatten().collect()
    }

    pub(crate) fn is_closed(&self, peer: &Peer) -> bool {
        self.closed.contains(&peer.session)
    }

    pub(crate) fn actions(&mut self) -> Vec<NodeAction> {
        std::mem::take(&mut self.actions)
    }

    /// Names of the events since it was last asked.
    pub(crate) fn webhooks(&mut self) -> Vec<livekit::WebhookEvent> {
        std::mem::take(&mut self.webhooks)
    }

    /// Announces a track and gives its id.
    pub(crate) fn announce(&mut self, peer: &Peer, request: livekit::AddTrackRequest) -> TrackSid {
        self.signal(peer, Request::AddTrack(request));
        let published = self.told(peer, |message| match message {
            Response::TrackPublished(published) => Some(published),
            _ => None,
        });
        published.track.unwrap().sid.parse().unwrap()
    }

    /// Announces a track and lets the node find it.
    pub(crate) fn publish(&mut self, peer: &Peer, kind: MediaKind) -> TrackSid {
        let cid = format!("cid-{}", self.room.publications);
        let track = self.announce(peer, add_track(kind, &cid));
        self.start(peer, &track, kind, &cid, &[]);
        track
    }

    pub(crate) fn start(
        &mut self,
        peer: &Peer,
        track: &TrackSid,
        kind: MediaKind,
        sdp_cid: &str,
        rids: &[&str],
    ) {
        let codec = if kind == MediaKind::Audio { "audio/opus" } else { "video/VP8" };
        self.node(NodeEvent::TrackStarted(StartedTrack {
            track: track.clone(),
            connection: peer.publisher,
            mid: "0".into(),
            sdp_cid: sdp_cid.into(),
            codec: MimeType::new(codec),
            encodings: rids.iter().map(|rid| StreamEncoding { rid: (*rid).into() }).collect(),
            backup: false,
        }));
    }
}

/// What holds for every message to a client: SDKs fail where it does not.
fn check(message: &Response) {
    let check_info = |info: &livekit::ParticipantInfo| {
        assert!(info.sid.starts_with("PA_"), "l133: participant without sid: {info:?}");
    };
    match message {
        Response::Update(update) => update.participants.iter().for_each(check_info),
        Response::Join(join) => {
            check_info(join.participant.as_ref().expect("l134: Join without participant"));
            assert!(join.room.is_some(), "l134: Join without room");
        }
        Response::RoomUpdate(update) => assert!(update.room.is_some(), "l134: RoomUpdate without room"),
        Response::RoomMoved(moved) => {
            check_info(moved.participant.as_ref().expect("l134: RoomMoved without participant"));
            moved.other_participants.iter().for_each(check_info);
            assert!(moved.room.is_some() && !moved.token.is_empty(), "l134: RoomMoved without room or token");
        }
        Response::TrackPublished(published) => {
            assert!(published.track.is_some(), "l134: TrackPublished without track");
        }
        _ => {}
    }
}

pub(crate) fn add_track(kind: MediaKind, cid: &str) -> livekit::AddTrackRequest {
    let (r#type, source) = match kind {
        MediaKind::Audio => (livekit::TrackType::Audio, livekit::TrackSource::Microphone),
        MediaKind::Video => (livekit::TrackType::Video, livekit::TrackSource::Camera),
    };
    livekit::AddTrackRequest {
        cid: cid.into(),
        r#type: r#type.into(),
        source: source.into(),
        ..Default::default()
    }
}

pub(crate) fn update(message: Response) -> Option<Vec<livekit::ParticipantInfo>> {
    match message {
        Response::Update(update) => Some(update.participants),
        _ => None,
    }
}

pub(crate) fn leave(message: Response) -> Option<livekit::LeaveRequest> {
    match message {
        Response::Leave(leave) => Some(leave),
        _ => None,
    }
}

pub(crate) fn refusal(message: Response) -> Option<livekit::RequestResponse> {
    match message {
        Response::RequestResponse(response) => Some(response),
        _ => None,
    }
}
