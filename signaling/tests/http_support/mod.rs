//! A signaling role without sockets: its router, a media node that answers with canned SDP, and tokens.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    collections::HashMap,
    fmt::Write as _,
    future::Future,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode, header},
};
use tokio::sync::mpsc;
use tower::ServiceExt;
use zynk_auth::{Claims, KeyRing, VideoGrants};
use zynk_bus::{Bus, LocalBus};
use zynk_protocol::{
    ConnectionId, ConnectionState, MimeType, NegotiationFailure, NodeAction, NodeCommand, NodeEvent, NodeId,
    NodeInfo, NodeNotice, RoomSid, SectionCount, StartedTrack, livekit,
};
use zynk_signaling::{
    Directory, GuestConfig, IceServerConfig, OwnRelay, Relays, SignalingConfig, api_router, collapse_slashes,
};
use zynk_store::MemoryStore;

/// How long a condition may take to come true.
const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    router: Router,
    pub(crate) directory: Directory,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) node: FakeNode,
    pub(crate) webhooks: mpsc::Receiver<livekit::WebhookEvent>,
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(GuestConfig::default()).await
    }

    pub(crate) async fn with(guests: GuestConfig) -> Self {
        Self::with_relay(guests, None).await
    }

    /// One whose process runs a relay too.
    pub(crate) async fn with_relay(guests: GuestConfig, relay: Option<OwnRelay>) -> Self {
        let keys = Arc::new(KeyRing::single("key", "a secret of sufficient length"));
        let config = SignalingConfig {
            ice_servers: vec![
                IceServerConfig { urls: vec!["stun:stun.example:3478".into()], ..Default::default() },
                IceServerConfig {
                    urls: vec!["turn:turn.example:3478?transport=udp".into()],
                    username: "user".into(),
                    credential: "pass".into(),
                },
            ],
            ..Default::default()
        };
        let bus: Arc<dyn Bus> = Arc::new(LocalBus::new());
        let node = FakeNode::start(Arc::clone(&bus)).await;
        let (sender, webhooks) = mpsc::channel(1_000);
        let relays = Relays::new(&config, &keys, relay).unwrap();
        let directory = Directory::new(
            Arc::new(config),
            Arc::clone(&keys),
            Arc::new(relays),
            Arc::new(MemoryStore::default()),
            bus,
            sender,
        );
        let router = collapse_slashes(api_router(directory.clone(), guests));
        Self { router, directory, keys, node, webhooks }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) fn token(&self, identity: &str, video: VideoGrants) -> String {
        let claims = Claims { video, ..Claims::for_identity(identity) };
        self.keys.sign(&claims, Duration::from_secs(600), SystemTime::now()).unwrap()
    }
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Status, content type and body in one line.
    pub(crate) fn line(&self) -> String {
        let content_type = self.header("content-type").unwrap_or("-");
        format!("{} {content_type} {}", self.status.as_u16(), self.text())
    }
}

/// `name: value` pairs on top of a method, a path and a body.
pub(crate) fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).unwrap()
}

/// Requests with a bearer token and a content type.
pub(crate) fn authorized(
    method: &str,
    path: &str,
    token: &str,
    content_type: &str,
    body: impl Into<Body>,
) -> Request<Body> {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![(header::AUTHORIZATION.as_str(), bearer.as_str())];
    if !content_type.is_empty() {
        headers.push((header::CONTENT_TYPE.as_str(), content_type));
    }
    request(method, path, &headers, body)
}

/// Waits until `condition` gives something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let poll = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// Answers offers. An offer whose session name is `refuse` it refuses.
#[derive(Clone)]
pub(crate) struct FakeNode {
    state: Arc<Mutex<NodeState>>,
    bus: Arc<dyn Bus>,
    id: NodeId,
}

#[derive(Default)]
struct NodeState {
    commands: Vec<NodeCommand>,
    /// The last ICE session of each connection, by the client's ufrag, and how many there were.
    ice: HashMap<ConnectionId, (String, u32)>,
}

impl FakeNode {
    async fn start(bus: Arc<dyn Bus>) -> Self {
        let id = NodeId::from_random(1);
        let info = NodeInfo { node: id.clone(), region: String::new(), rooms: 0, connections: 0, load: 0.0 };
        let mut commands = bus.register_node(info).await.unwrap();
        let node = Self { state: Arc::default(), bus, id };
        let runner = node.clone();
        tokio::spawn(async move {
            while let Some(command) = commands.recv().await {
                runner.obey(command).await;
            }
        });
        node
    }

    async fn obey(&self, command: NodeCommand) {
        let room = command.room.clone();
        let events = {
            let mut state = self.state.lock().unwrap();
            state.commands.push(command.clone());
            match command.action {
                NodeAction::RemoteOffer { connection, offer_id, sdp } => {
                    state.answer(connection, offer_id, &sdp)
                }
                _ => Vec::new(),
            }
        };
        for event in events {
            self.notify(&room, event).await;
        }
    }

    pub(crate) async fn notify(&self, room: &RoomSid, event: NodeEvent) {
        let notice = NodeNotice { node: self.id.clone(), room: room.clone(), event };
        self.bus.notify(notice).await.unwrap();
    }

    /// Everything it was told so far.
    pub(crate) fn commands(&self) -> Vec<NodeCommand> {
        self.state.lock().unwrap().commands.clone()
    }

    /// Waits for a command that `pick` picks.
    pub(crate) async fn told<T>(&self, what: &str, pick: impl Fn(&NodeCommand) -> Option<T>) -> T {
        eventually(what, || async { self.commands().iter().find_map(&pick) }).await
    }

    /// The connections opened so far, with their rooms, in order.
    pub(crate) fn connections(&self) -> Vec<(RoomSid, ConnectionId)> {
        let opened = |command: NodeCommand| match command.action {
            NodeAction::OpenConnection(open) => Some((command.room, open.connection)),
            _ => None,
        };
        self.commands().into_iter().filter_map(opened).collect()
    }

    /// Reports a state of the connection that was opened `index`th.
    pub(crate) async fn set_state(&self, index: usize, state: ConnectionState) {
        let (room, connection) = self.connections()[index].clone();
        self.notify(&room, NodeEvent::ConnectionState { connection, state }).await;
    }
}

impl NodeState {
    fn answer(&mut self, connection: ConnectionId, offer_id: u32, sdp: &str) -> Vec<NodeEvent> {
        if sdp.contains("s=refuse\r\n") {
            let failure = NegotiationFailure::InvalidSdp { detail: "the codecs do not overlap".into() };
            return vec![NodeEvent::NegotiationFailed { connection, offer_id, failure }];
        }
        let ufrag = sdp.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).unwrap().to_owned();
        let generation = match self.ice.get(&connection) {
            Some((known, generation)) if *known == ufrag => *generation,
            Some((_, generation)) => generation + 1,
            None => 1,
        };
        self.ice.insert(connection, (ufrag, generation));
        let mut events = vec![NodeEvent::Answer {
            connection,
            offer_id,
            sdp: answer_sdp(sdp, generation),
            mid_tracks: Vec::new(),
            missing: SectionCount::default(),
        }];
        if offer_id <= 1 {
            events.extend(self.commands.iter().filter_map(|command| match &command.action {
                NodeAction::ExpectTrack(track) if track.connection == connection => {
                    Some(NodeEvent::TrackStarted(StartedTrack {
                        track: track.track.clone(),
                        connection,
                        mid: "0".into(),
                        sdp_cid: track.cids.first().cloned().unwrap_or_default(),
                        codec: MimeType::new("video/VP8"),
                        encodings: Vec::new(),
                        backup: track.backup.is_some(),
                    }))
                }
                _ => None,
            }));
        }
        events
    }
}

fn answer_sdp(offer: &str, generation: u32) -> String {
    let mut sdp = String::from("v=0\r\no=- 7 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=ice-lite\r\n");
    for (index, media) in offer.lines().filter(|line| line.starts_with("m=")).enumerate() {
        write!(
            sdp,
            "{}\r\nc=IN IP4 0.0.0.0\r\na=mid:{index}\r\na=ice-ufrag:node{generation}\r\n\
             a=ice-pwd:passwordpasswordpass{generation:02}\r\na=setup:passive\r\n\
             a=candidate:1 1 udp 2130706431 127.0.0.1 7882 typ host\r\na=end-of-candidates\r\n",
            media.trim_end()
        )
        .unwrap();
    }
    sdp
}

/// An offer with these media sections, each `(m-line, attributes)`; mids count from 0.
pub(crate) fn offer_sdp(name: &str, sections: &[(&str, &[&str])]) -> String {
    let mut sdp = format!("v=0\r\no=- 5 2 IN IP4 127.0.0.1\r\ns={name}\r\nt=0 0\r\n");
    for (index, (media, attributes)) in sections.iter().enumerate() {
        write!(
            sdp,
            "m={media}\r\nc=IN IP4 0.0.0.0\r\na=mid:{index}\r\na=ice-ufrag:clnt\r\n\
             a=ice-pwd:clientpasswordclientpass\r\na=setup:actpass\r\n\
             a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:\
             99:AA:BB:CC:DD:EE:FF\r\n"
        )
        .unwrap();
        for attribute in *attributes {
            write!(sdp, "a={attribute}\r\n").unwrap();
        }
    }
    sdp
}

pub(crate) const AUDIO: &str = "audio 9 UDP/TLS/RTP/SAVPF 111";
pub(crate) const VIDEO: &str = "video 9 UDP/TLS/RTP/SAVPF 96";

/// What a WHIP client offers: one audio and one video section.
pub(crate) fn publish_offer() -> String {
    offer_sdp("-", &[(AUDIO, &["sendonly", "msid:s mic"]), (VIDEO, &["sendonly", "msid:s cam"])])
}

/// What a WHEP client offers: one audio and one video section.
pub(crate) fn play_offer() -> String {
    offer_sdp("-", &[(AUDIO, &["recvonly"]), (VIDEO, &["recvonly"])])
}
