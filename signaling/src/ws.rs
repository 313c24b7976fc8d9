//! `/rtc`, `/rtc/v1` and their `validate`: where signaling sessions begin, and their WebSockets.
//!
//! ```text
//!   socket ─► Session::handle_frame ─► requests ─► room
//!   socket ◄─ Session::encode ◄────── responses ◄─ room        one task a socket
//! ```
//!
//! Failures before the upgrade are HTTP statuses with `{"error": {"code", "message"}}`. LiveKit's SDKs show the
//! body as it is: requests that name an SDK get the plain message, unless they accept `application/json`.
//!
//! Messages are not compressed: the WebSocket library has no permessage-deflate (RFC 7692), so that it is
//! never agreed on, and a message's size on the wire is its size.

use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, MissedTickBehavior};
use zynk_auth::Claims;
use zynk_protocol::livekit::{self, SignalRequest, SignalResponse, signal_request, signal_response};

use crate::directory::{Directory, SessionHandle};
use crate::http::{PeerAddress, cors};
use crate::join::query::RtcQuery;
use crate::join::{JoinError, JoinParams, request};
use crate::regions;
use crate::room_task::unix_ms;
use crate::session::{Frame, Incoming, Session, SessionError};

/// How often the server pings at the WebSocket level.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// A socket from which nothing came for so long, not even a pong, is given up.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(35);

/// What the pings carry whose answers the room waits for.
const PROBE: &[u8] = b"probe";

/// How long a client may take to accept a message before its socket is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection that ends may take to say so.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(250);

/// Buffers of a socket. Small, as thousands of them are idle.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024;

/// WebSocket close codes (RFC 6455, section 7.4.1).
mod close_code {
    pub(super) const NORMAL: u16 = 1000;
    pub(super) const INVALID_PAYLOAD: u16 = 1007;
    pub(super) const TOO_BIG: u16 = 1009;
    /// Clients resume at once, where they take 1000 for the end.
    pub(super) const INTERNAL_ERROR: u16 = 1011;
}

/// The routes of LiveKit's signal protocol. It has no fallback, so that other routers can be merged with it.
pub fn rtc_router(directory: Directory) -> Router {
    Router::new()
        .route("/rtc", get(rtc_v0))
        .route("/rtc/v1", get(rtc_v1))
        .route("/rtc/validate", get(validate_v0))
        .route("/rtc/v1/validate", get(validate_v1))
        .route("/settings/regions", get(regions::serve))
        .layer(cors())
        .with_state(directory)
}

type QueryResult = Result<Query<RtcQuery>, QueryRejection>;
type UpgradeResult = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// Which of the two generations of the path was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V0,
    V1,
}

async fn rtc_v0(
    State(directory): State<Directory>,
    address: PeerAddress,
    headers: HeaderMap,
    query: QueryResult,
    upgrade: UpgradeResult,
) -> Response {
    start(directory, Version::V0, address, &headers, query, upgrade).await
}

async fn rtc_v1(
    State(directory): State<Directory>,
    address: PeerAddress,
    headers: HeaderMap,
    query: QueryResult,
    upgrade: UpgradeResult,
) -> Response {
    start(directory, Version::V1, address, &headers, query, upgrade).await
}

async fn validate_v0(State(directory): State<Directory>, headers: HeaderMap, query: QueryResult) -> Response {
    validate(&directory, Version::V0, &headers, query).await
}

async fn validate_v1(State(directory): State<Directory>, headers: HeaderMap, query: QueryResult) -> Response {
    validate(&directory, Version::V1, &headers, query).await
}

async fn validate(
    directory: &Directory,
    version: Version,
    headers: &HeaderMap,
    query: QueryResult,
) -> Response {
    let by_sdk = is_by_sdk(&query);
    let check = async {
        let params = join_params(directory, version, headers, query, true)?;
        directory.check_join(&params).await
    };
    match check.await {
        Ok(()) => "success".into_response(),
        Err(error) => refusal(&error, headers, by_sdk),
    }
}

async fn start(
    directory: Directory,
    version: Version,
    address: PeerAddress,
    headers: &HeaderMap,
    query: QueryResult,
    upgrade: UpgradeResult,
) -> Response {
    let Ok(upgrade) = upgrade else { return StatusCode::NOT_FOUND.into_response() };
    let by_sdk = is_by_sdk(&query);
    let joined = async {
        let mut params = join_params(&directory, version, headers, query, false)?;
        params.place.address = address.0;
        directory.join(params).await
    };
    let handle = match joined.await {
        Ok(handle) => handle,
        Err(error) => return refusal(&error, headers, by_sdk),
    };
    let max = directory.config().limits.signal_message_bytes_max;
    upgrade
        .max_message_size(max)
        .max_frame_size(max)
        .read_buffer_size(SOCKET_BUFFER_BYTES)
        .write_buffer_size(SOCKET_BUFFER_BYTES)
        .on_upgrade(move |socket| Connection::new(socket, handle, max).run())
}

/// What the request says about who wants to join what. `strict` refuses what is otherwise ignored.
fn join_params(
    directory: &Directory,
    version: Version,
    headers: &HeaderMap,
    query: QueryResult,
    strict: bool,
) -> Result<JoinParams, JoinError> {
    let Query(mut query) =
        query.map_err(|error| JoinError::bad_request("query_malformed", error.body_text()))?;
    let claims = claims(directory, headers, query.access_token.as_deref())?;
    let limits = &directory.config().limits;
    let mut params = JoinParams::from_claims(claims, limits)?;
    params.place.region = query.region.take();
    let user_agent =
        headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let encoded = query.join_request.as_deref().filter(|encoded| !encoded.is_empty());
    match (version, encoded) {
        (_, Some(encoded)) => {
            let decoded = request::decode(encoded, limits.join_request_bytes_max)?;
            request::apply(decoded, &mut params, user_agent)?;
        }
        (Version::V1, None) => {
            return Err(JoinError::bad_request("join_request_missing", "join_request is required"));
        }
        (Version::V0, None) => query.apply(&mut params, limits, user_agent, strict)?,
    }
    Ok(params)
}

fn claims(directory: &Directory, headers: &HeaderMap, parameter: Option<&str>) -> Result<Claims, JoinError> {
    let token = match headers.get(header::AUTHORIZATION) {
        Some(value) => {
            let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
            token.ok_or_else(|| {
                JoinError::unauthorized("token_malformed", "invalid authorization header: not a bearer token")
            })?
        }
        None => parameter.unwrap_or_default(),
    };
    if token.is_empty() {
        return Err(JoinError::unauthorized("token_missing", "permissions denied: no access token"));
    }
    Ok(directory.keys().verify(token, SystemTime::now())?)
}

fn is_by_sdk(query: &QueryResult) -> bool {
    query.as_ref().is_ok_and(|Query(query)| query.is_by_sdk())
}

fn refusal(error: &JoinError, headers: &HeaderMap, by_sdk: bool) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !by_sdk || accepts.contains("application/json") {
        let body = serde_json::json!({"error": {"code": error.code(), "message": error.to_string()}});
        return (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response();
    }
    (status, error.to_string()).into_response()
}

/// Why a connection ended.
enum End {
    /// The room ended the session. `after_leave` tells whether the client was told so.
    ByRoom { after_leave: bool },
    /// The client is gone, or does not take or send anything any more.
    Lost,
    /// The client sent what cannot be used.
    Fault(SessionError),
}

/// One client's WebSocket.
struct Connection {
    sink: SplitSink<WebSocket, Message>,
    stream: SplitStream<WebSocket>,
    session: Session,
    handle: SessionHandle,
    message_bytes_max: usize,
    /// A request for which the room's queue had no place yet; nothing is read meanwhile.
    waiting: Option<Box<SignalRequest>>,
    last_was_leave: bool,
}

impl Connection {
    fn new(socket: WebSocket, handle: SessionHandle, message_bytes_max: usize) -> Self {
        let (sink, stream) = socket.split();
        let session = Session::new(message_bytes_max);
        Self { sink, stream, session, handle, message_bytes_max, waiting: None, last_was_leave: false }
    }

    async fn run(mut self) {
        let first = std::mem::take(&mut self.handle.first);
        let end = match self.send(&first).await {
            Ok(()) => self.serve().await,
            Err(end) => end,
        };
        match end {
            End::Lost => {}
            End::ByRoom { after_leave: true } => self.close(close_code::NORMAL, "").await,
            End::ByRoom { after_leave: false } => self.close(close_code::INTERNAL_ERROR, "").await,
            End::Fault(error) => self.part(&error).await,
        }
    }

    async fn serve(&mut self) -> End {
        let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_at = Instant::now();
        loop {
            let result = tokio::select! {
                response = self.handle.responses.recv() => match response {
                    Some(response) => self.send_all(&response).await,
                    None => return End::ByRoom { after_leave: self.last_was_leave },
                },
                message = self.stream.next(), if self.waiting.is_none() => {
                    heard_at = Instant::now();
                    self.receive(message).await
                }
                permit = self.handle.requests.clone().reserve_owned(), if self.waiting.is_some() => {
                    if let (Ok(permit), Some(request)) = (permit, self.waiting.take()) {
                        permit.send(request);
                    }
                    Ok(())
                }
                _ = ping.tick() => match heard_at.elapsed() > SILENCE_TIMEOUT && self.waiting.is_none() {
                    true => Err(End::Lost),
                    false => self.write(Message::Ping(bytes::Bytes::new())).await,
                },
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    async fn receive(&mut self, message: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        let frame = match message {
            Some(Ok(Message::Binary(bytes))) => Frame::Binary(bytes),
            Some(Ok(Message::Text(text))) => Frame::Text(text.as_str().to_owned()),
            Some(Ok(Message::Pong(payload))) if *payload == *PROBE => {
                self.waiting = Some(Box::default());
                return Ok(());
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Ok(()),
            Some(Ok(Message::Close(_))) | None => return Err(End::Lost),
            Some(Err(error)) if is_capacity_error(&error) => {
                return Err(End::Fault(SessionError::TooLarge { max: self.message_bytes_max }));
            }
            Some(Err(error)) if is_malformed_frame(&error) => return Err(End::Fault(SessionError::Frame)),
            Some(Err(_)) => return Err(End::Lost),
        };
        match self.session.handle_frame(unix_ms(), &frame) {
            Ok(Incoming::Request(request)) => self.waiting = Some(request),
            Ok(Incoming::Reply(reply)) => self.send(&reply).await?,
            Ok(Incoming::Nothing) => {}
            Err(error) => return Err(End::Fault(error)),
        }
        Ok(())
    }

    /// Sends a response and those that wait behind it, and then once flushes.
    async fn send_all(&mut self, response: &SignalResponse) -> Result<(), End> {
        self.feed(response).await?;
        while let Some(response) = self.handle.responses.try_recv() {
            self.feed(&response).await?;
        }
        in_time(self.sink.flush()).await
    }

    async fn send(&mut self, response: &SignalResponse) -> Result<(), End> {
        self.feed(response).await?;
        in_time(self.sink.flush()).await
    }

    async fn feed(&mut self, response: &SignalResponse) -> Result<(), End> {
        if response.message.is_none() {
            return in_time(self.sink.feed(Message::Ping(bytes::Bytes::from_static(PROBE)))).await;
        }
        self.last_was_leave = matches!(response.message, Some(signal_response::Message::Leave(_)));
        let message = match self.session.encode(response) {
            Frame::Binary(bytes) => Message::Binary(bytes),
            Frame::Text(text) => Message::Text(text.into()),
        };
        in_time(self.sink.feed(message)).await
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        in_time(self.sink.send(message)).await
    }

    /// Tells a client what was wrong, and the room that the participant leaves.
    async fn part(mut self, error: &SessionError) {
        tracing::info!(%error, "a session ends by its client's fault");
        let leave = signal_request::Message::Leave(livekit::LeaveRequest::default());
        let leave = self.handle.requests.send(Box::new(SignalRequest { message: Some(leave) }));
        // A room that is busy notices the dropped handle.
        drop(tokio::time::timeout(CLOSE_TIMEOUT, leave).await);
        let goodbye = async {
            for response in Session::farewell(error) {
                self.send(&response).await?;
            }
            Ok::<(), End>(())
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, goodbye).await.is_ok_and(|sent| sent.is_ok()) {
            let code = match error {
                SessionError::TooLarge { .. } => close_code::TOO_BIG,
                SessionError::Protobuf | SessionError::Json | SessionError::Frame => {
                    close_code::INVALID_PAYLOAD
                }
            };
            self.close(code, &error.to_string()).await;
        }
    }

    /// Closes the socket, and waits for a moment until the client has read that.
    async fn close(mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code, reason: reason.into() };
        let goodbye = async {
            self.write(Message::Close(Some(frame))).await?;
            while let Some(Ok(_)) = self.stream.next().await {}
            Ok::<(), End>(())
        };
        drop(tokio::time::timeout(CLOSE_TIMEOUT, goodbye).await);
    }
}

/// A client that takes nothing keeps its task, its buffers and its place no longer than this.
async fn in_time(sending: impl Future<Output = Result<(), axum::Error>>) -> Result<(), End> {
    match tokio::time::timeout(SEND_TIMEOUT, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(End::Lost),
    }
}

/// The library tells by text alone that a message is over its limit.
/// Whether the client broke the protocol of WebSockets, and not the network the connection. The library's error is
/// behind axum's, which tells its words alone.
fn is_malformed_frame(error: &axum::Error) -> bool {
    let text = error.to_string();
    text.contains("UTF-8") || text.contains("WebSocket protocol error") && !text.contains("Connection reset")
}

fn is_capacity_error(error: &axum::Error) -> bool {
    error.to_string().contains("Space limit exceeded")
}
