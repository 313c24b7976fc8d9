//! A signaling role on a real socket, with a media node that answers everything, and clients for it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use zynk_auth::{Claims, KeyRing, VideoGrants};
use zynk_bus::{Bus, LocalBus};
use zynk_protocol::livekit::{SignalRequest, SignalResponse, signal_request, signal_response};
use zynk_protocol::{
    ConnectionState, NegotiationFailure, NodeAction, NodeEvent, NodeId, NodeInfo, NodeNotice, RoomSid,
    SectionCount, livekit,
};
use zynk_signaling::{Directory, Relays, SignalingConfig, collapse_slashes, rtc_router};
use zynk_store::MemoryStore;

pub use signal_request::Message as Request;
pub use signal_response::Message as Response;

/// How long a condition may take to come true.
pub const DEADLINE: Duration = Duration::from_secs(10);

pub struct Server {
    pub address: String,
    pub directory: Directory,
    pub keys: Arc<KeyRing>,
    pub node: Node,
    pub http: reqwest::Client,
    _webhooks: mpsc::Receiver<livekit::WebhookEvent>,
}

/// A media node that calls every connection connected as soon as it negotiates, answers each offer with
/// itself, and refuses an offer that says `garbage`.
#[derive(Clone)]
pub struct Node {
    actions: Arc<Mutex<Vec<NodeAction>>>,
    bus: Arc<dyn Bus>,
    id: NodeId,
}

impl Node {
    async fn start(bus: Arc<dyn Bus>) -> Self {
        let id = NodeId::from_random(1);
        let info = NodeInfo { node: id.clone(), region: String::new(), rooms: 0, connections: 0, load: 0.0 };
        let mut commands = bus.register_node(info).await.unwrap();
        let node = Self { actions: Arc::default(), bus, id };
        let runner = node.clone();
        tokio::spawn(async move {
            while let Some(command) = commands.recv().await {
                runner.actions.lock().unwrap().push(command.action.clone());
                if let NodeAction::RemoteOffer { connection, offer_id, sdp } = command.action {
                    if sdp.contains("garbage") {
                        let failure = NegotiationFailure::InvalidSdp { detail: "garbage".into() };
                        let event = NodeEvent::NegotiationFailed { connection, offer_id, failure };
                        runner.notify(&command.room, event).await;
                        continue;
                    }
                    let answer = NodeEvent::Answer {
                        connection,
                        offer_id,
                        sdp,
                        mid_tracks: vec![],
                        missing: SectionCount::default(),
                    };
                    runner.notify(&command.room, answer).await;
                    let state = ConnectionState::Connected;
                    runner.notify(&command.room, NodeEvent::ConnectionState { connection, state }).await;
                }
            }
        });
        node
    }

    pub async fn notify(&self, room: &RoomSid, event: NodeEvent) {
        let notice = NodeNotice { node: self.id.clone(), room: room.clone(), event };
        self.bus.notify(notice).await.unwrap();
    }

    pub fn actions(&self) -> Vec<NodeAction> {
        self.actions.lock().unwrap().clone()
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(set_up: impl FnOnce(&mut SignalingConfig)) -> Self {
        Self::at("127.0.0.1:0", set_up).await
    }

    /// Listens on an address.
    pub async fn at(address: &str, set_up: impl FnOnce(&mut SignalingConfig)) -> Self {
        let mut config = SignalingConfig::default();
        set_up(&mut config);
        let keys = Arc::new(KeyRing::single("devkey", "secret"));
        let bus: Arc<dyn Bus> = Arc::new(LocalBus::new());
        let node = Node::start(Arc::clone(&bus)).await;
        let (sender, webhooks) = mpsc::channel(1_000);
        let store = Arc::new(MemoryStore::new());
        let relays = Arc::new(Relays::new(&config, &keys, None).unwrap());
        let directory = Directory::new(Arc::new(config), Arc::clone(&keys), relays, store, bus, sender);
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let app = collapse_slashes(rtc_router(directory.clone()));
        let app = app.into_make_service_with_connect_info::<std::net::SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, directory, keys, node, http: reqwest::Client::new(), _webhooks: webhooks }
    }

    pub fn token(&self, identity: &str) -> String {
        self.sign(&claims(identity))
    }

    pub fn sign(&self, claims: &Claims) -> String {
        self.keys.sign(claims, Duration::from_secs(600), SystemTime::now()).unwrap()
    }

    /// `GET` of a path: status, header `Access-Control-Allow-Origin` and body.
    pub async fn get(&self, path: &str) -> (u16, String, String) {
        let response = self
            .http
            .get(format!("http://{}{path}", self.address))
            .header("Origin", "https://app.example")
            .send()
            .await
            .unwrap();
        let status = response.status().as_u16();
        let origin = response.headers().get("access-control-allow-origin");
        let origin = origin.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        (status, origin, response.text().await.unwrap())
    }

    /// `/rtc/validate` with this token: status and body.
    pub async fn validate(&self, token: &str) -> (u16, String) {
        let (status, _, body) = self.get(&format!("/rtc/validate?sdk=js&access_token={token}")).await;
        (status, body)
    }

    /// Opens a WebSocket; the error is the HTTP status and body.
    pub async fn connect(&self, path: &str) -> Result<Client, (u16, String)> {
        self.connect_with(path, None).await
    }

    pub async fn connect_with(&self, path: &str, bearer: Option<&str>) -> Result<Client, (u16, String)> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        if let Some(bearer) = bearer {
            request.headers_mut().insert("Authorization", format!("Bearer {bearer}").parse().unwrap());
        }
        match tokio_tungstenite::connect_async(request).await {
            Ok((socket, _)) => Ok(Client { socket }),
            Err(Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err((response.status().as_u16(), String::from_utf8_lossy(&body).into_owned()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Joins with two connections, and connects them.
    pub async fn join(&self, identity: &str) -> Client {
        let token = self.token(identity);
        let mut client =
            self.connect(&format!("/rtc?access_token={token}&protocol=17&sdk=rust")).await.unwrap();
        client.until("Join", |message| matches!(message, Response::Join(_)).then_some(())).await;
        client
    }

    /// Joins with one connection, which is up when this returns.
    pub async fn join_active(&self, identity: &str) -> Client {
        let request = livekit::JoinRequest {
            client_info: Some(livekit::ClientInfo { protocol: 17, ..Default::default() }),
            publisher_offer: Some(livekit::SessionDescription {
                r#type: "offer".into(),
                sdp: "v=0".into(),
                id: 1,
                ..Default::default()
            }),
            ..Default::default()
        };
        let path = v1_path(&self.token(identity), &request);
        let mut client = self.connect(&path).await.unwrap();
        client.until("Answer", |message| matches!(message, Response::Answer(_)).then_some(())).await;
        client
    }
}

pub fn claims(identity: &str) -> Claims {
    Claims { video: VideoGrants::join("lobby"), ..Claims::for_identity(identity) }
}

pub fn v1_path(token: &str, request: &livekit::JoinRequest) -> String {
    use base64::Engine as _;
    let wrapped = livekit::WrappedJoinRequest { join_request: request.encode_to_vec(), ..Default::default() };
    let encoded = base64::engine::general_purpose::URL_SAFE.encode(wrapped.encode_to_vec());
    format!("/rtc/v1?access_token={token}&join_request={}", encoded.replace('=', "%3D"))
}

pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// What a socket gave.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time")]
pub enum Received {
    Binary(Response),
    Text(serde_json::Value),
    Ping,
    Closed(Option<u16>),
}

impl Client {
    pub async fn send(&mut self, message: Request) {
        let request = SignalRequest { message: Some(message) };
        self.send_raw(Message::Binary(request.encode_to_vec().into())).await;
    }

    pub async fn send_raw(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    pub async fn receive(&mut self) -> Received {
        let message = tokio::time::timeout(2 * DEADLINE, self.socket.next()).await.expect("nothing came");
        match message {
            Some(Ok(Message::Binary(bytes))) => {
                Received::Binary(SignalResponse::decode(bytes).unwrap().message.unwrap())
            }
            Some(Ok(Message::Text(text))) => Received::Text(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Ping(_))) => Received::Ping,
            Some(Ok(Message::Close(frame))) => Received::Closed(frame.map(|frame| frame.code.into())),
            None | Some(Err(_)) => Received::Closed(None),
            Some(Ok(other)) => panic!("{other:?}"),
        }
    }

    /// The next binary message that `pick` picks; others are passed over.
    pub async fn until<T>(&mut self, what: &str, pick: impl Fn(Response) -> Option<T>) -> T {
        loop {
            match self.receive().await {
                Received::Binary(message) => {
                    if let Some(picked) = pick(message) {
                        return picked;
                    }
                }
                Received::Ping => {}
                other => panic!("{other:?} instead of {what}"),
            }
        }
    }

    /// All that comes until the socket is closed, and the code it is closed with.
    pub async fn rest(&mut self) -> (Vec<Response>, Option<u16>) {
        let mut messages = Vec::new();
        loop {
            match self.receive().await {
                Received::Binary(message) => messages.push(message),
                Received::Closed(code) => return (messages, code),
                Received::Ping | Received::Text(_) => {}
            }
        }
    }

    /// Waits for an update in which a participant is as `pick` wants.
    pub async fn until_participant(
        &mut self,
        what: &str,
        pick: impl Fn(&livekit::ParticipantInfo) -> bool,
    ) -> livekit::ParticipantInfo {
        self.until(what, |message| match message {
            Response::Update(update) => update.participants.into_iter().find(|info| pick(info)),
            _ => None,
        })
        .await
    }
}

/// Waits until `condition` gives something.
pub async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let poll = async {
        loop {
            if let Some(value) = condition() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}
