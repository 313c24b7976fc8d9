//! The tokio shell around a [`Session`]: one task with a WebSocket and UDP sockets.
//!
//! ```text
//!   wait:   datagram | signal message | command | timeout
//!   input:  Session::handle_input, until nothing more is waiting
//!   flush:  Session::poll_output -> sockets, WebSocket, events
//! ```

// The shell is where time is read; the ban is for the session.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use tokio::{
    net::{TcpStream, UdpSocket, lookup_host},
    sync::{broadcast, mpsc, oneshot},
    task::JoinHandle,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest as _, http},
};
use zynk_protocol::livekit;

use crate::{
    Command, Event, Input, Output, PeerConnections, PublishTrack, ReceiveStats, RtpPayload, Session,
    SessionConfig, SessionError,
};

/// Commands that wait for the task. When full, the caller waits.
const COMMANDS_MAX: usize = 1_024;
/// Events that a slow receiver may be behind. Beyond it, it loses the oldest and is told how many.
const EVENTS_MAX: usize = 4_096;
/// Datagrams taken from a socket before others get their turn.
const DATAGRAMS_PER_TURN: usize = 64;
/// Largest datagram that is received whole.
const DATAGRAM_BYTES_MAX: usize = 2_048;
/// Wanted size of the sockets' receive buffers; the kernel may give less. When full, datagrams are lost.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// How long joining may take.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long publishing a track may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(15);

type WebSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How a client connects.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// One peer connection, or two.
    pub connections: PeerConnections,
    /// Whether everybody's tracks are received without asking.
    pub auto_subscribe: bool,
    /// Whether an [`Event::Media`] is made for each packet.
    pub media_events: bool,
    /// The address that the UDP sockets are bound to; that of the route to the server when unset.
    pub bind: Option<IpAddr>,
    /// Zero of the clock by which the latency of synthetic media is measured; the start when unset.
    pub media_epoch: Option<Instant>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connections: PeerConnections::Single,
            auto_subscribe: true,
            media_events: false,
            bind: None,
            media_epoch: None,
        }
    }
}

/// Why a client could not connect or do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The URL has no host, or its scheme is neither `ws` nor `wss` (nor `http`, `https`).
    #[error("not a server's URL: {0}")]
    Url(String),
    /// The server refused the WebSocket.
    #[error("the server refused with status {status}: {body}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The body: the server's reason.
        body: String,
    },
    /// The WebSocket failed.
    #[error("signal connection: {0}")]
    WebSocket(#[source] Box<tungstenite::Error>),
    /// A socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The server ended the session with this LiveKit `DisconnectReason`.
    #[error("the server ended the session, reason {0}")]
    Left(i32),
    /// The server did not answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The server does not take the track.
    #[error("track not published: {0}")]
    TrackRefused(String),
    /// The session is over.
    #[error("the session is over")]
    Closed,
}

impl From<tungstenite::Error> for ClientError {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Http(response) => Self::Refused {
                status: response.status().as_u16(),
                body: response
                    .body()
                    .as_deref()
                    .map(String::from_utf8_lossy)
                    .unwrap_or_default()
                    .into_owned(),
            },
            error => Self::WebSocket(Box::new(error)),
        }
    }
}

enum Ask {
    Stats(oneshot::Sender<BTreeMap<String, ReceiveStats>>),
    Participants(oneshot::Sender<BTreeMap<String, livekit::ParticipantInfo>>),
    IncompleteFrames { track: String, frames: RangeInclusive<u32>, answer: oneshot::Sender<Vec<u32>> },
}

enum ToTask {
    Command(Box<Command>),
    /// With the one who waits for the outcome.
    Publish(Box<PublishTrack>, oneshot::Sender<Result<String, ClientError>>),
    Ask(Ask),
}

/// A participant. Dropping it drops its connections without a word; [`Client::leave`] says goodbye.
#[derive(Debug)]
pub struct Client {
    to_task: mpsc::Sender<ToTask>,
    events: broadcast::Sender<Event>,
    task: JoinHandle<()>,
    join: livekit::JoinResponse,
}

impl Client {
    /// Joins the room that the token names, at a server's base URL (`ws://host:port`).
    pub async fn connect(url: &str, token: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let local = match options.bind {
            Some(ip) => ip,
            None => local_ip(url).await?,
        };
        let (upstream, downstream) = (bind(local)?, bind(local)?);
        let config = SessionConfig {
            connections: options.connections,
            auto_subscribe: options.auto_subscribe,
            media_events: options.media_events,
            media_epoch: options.media_epoch,
            ..SessionConfig::new(upstream.local_addr()?, downstream.local_addr()?)
        };
        let session = Session::new(config, Instant::now())?;
        let url = format!("{}/{}", websocket_base(url), session.signal_path());
        let mut request = url.into_client_request()?;
        let bearer = http::HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| ClientError::Url("the token is no header value".to_owned()))?;
        request.headers_mut().insert(http::header::AUTHORIZATION, bearer);
        let websocket = tokio::time::timeout(JOIN_TIMEOUT, connect_async(request));
        let (websocket, _) = websocket.await.map_err(|_| ClientError::Timeout(JOIN_TIMEOUT))??;

        let (to_task, from_handle) = mpsc::channel(COMMANDS_MAX);
        let (events, mut first_events) = broadcast::channel(EVENTS_MAX);
        let task = Task {
            session,
            websocket,
            upstream,
            downstream,
            from_handle,
            events: events.clone(),
            publishing: Vec::new(),
            signal: true,
        };
        let task = tokio::spawn(task.run());
        let joined = wait_for(&mut first_events, JOIN_TIMEOUT, |event| match event {
            Event::Joined(join) => Some(Ok(*join)),
            _ => None,
        });
        match joined.await {
            Ok(join) => Ok(Self { to_task, events, task, join }),
            Err(error) => {
                task.abort();
                Err(error)
            }
        }
    }

    /// The server's welcome.
    pub fn join_response(&self) -> &livekit::JoinResponse {
        &self.join
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Publishes a track; returns its `TR_…` id when it may send.
    pub async fn publish(&self, track: PublishTrack) -> Result<String, ClientError> {
        let (answer, answered) = oneshot::channel();
        let message = ToTask::Publish(Box::new(track), answer);
        self.to_task.send(message).await.map_err(|_| ClientError::Closed)?;
        // Not from the events, which are lost to those who are slow to read them.
        match tokio::time::timeout(PUBLISH_TIMEOUT, answered).await {
            Ok(outcome) => outcome.unwrap_or(Err(ClientError::Closed)),
            Err(_) => Err(ClientError::Timeout(PUBLISH_TIMEOUT)),
        }
    }

    /// Sends a packet of a published track.
    pub async fn send_rtp(
        &self,
        cid: &str,
        rid: Option<&str>,
        packet: RtpPayload,
    ) -> Result<(), ClientError> {
        self.command(Command::SendRtp { cid: cid.to_owned(), rid: rid.map(str::to_owned), packet }).await
    }

    /// Anything else that a session can be asked. Waits while many commands are waiting.
    pub async fn command(&self, command: Command) -> Result<(), ClientError> {
        self.to_task.send(ToTask::Command(Box::new(command))).await.map_err(|_| ClientError::Closed)
    }

    /// Figures of every track that was received, by `TR_…` id.
    pub async fn stats(&self) -> Result<BTreeMap<String, ReceiveStats>, ClientError> {
        self.ask(Ask::Stats).await
    }

    /// The others, by `PA_…` id.
    pub async fn participants(&self) -> Result<BTreeMap<String, livekit::ParticipantInfo>, ClientError> {
        self.ask(Ask::Participants).await
    }

    /// Those of a received track's synthetic frames in a range that are not complete.
    pub async fn incomplete_frames(
        &self,
        track: &str,
        frames: RangeInclusive<u32>,
    ) -> Result<Vec<u32>, ClientError> {
        let track = track.to_owned();
        self.ask(|answer| Ask::IncompleteFrames { track, frames, answer }).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, ClientError> {
        let (answer, answered) = oneshot::channel();
        self.to_task.send(ToTask::Ask(ask(answer))).await.map_err(|_| ClientError::Closed)?;
        answered.await.map_err(|_| ClientError::Closed)
    }

    /// Leaves the room and waits until everything is sent.
    pub async fn leave(mut self) {
        if self.command(Command::Leave).await.is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(5), &mut self.task).await;
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits for an event that `wanted` turns into something; the session's end is an error.
async fn wait_for<T>(
    events: &mut broadcast::Receiver<Event>,
    time: Duration,
    mut wanted: impl FnMut(Event) -> Option<Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let found = async {
        loop {
            let event = match events.recv().await {
                Ok(event) => event,
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return Err(ClientError::Closed),
            };
            match event {
                Event::Failed(error) => return Err(error.into()),
                Event::Left(leave) => return Err(ClientError::Left(leave.reason)),
                event => {
                    if let Some(found) = wanted(event) {
                        return found;
                    }
                }
            }
        }
    };
    tokio::time::timeout(time, found).await.unwrap_or(Err(ClientError::Timeout(time)))
}

/// `http:` and `https:` become `ws:` and `wss:`; the rest stays as it is, without a slash at the end.
fn websocket_base(url: &str) -> String {
    let url = url.trim_end_matches('/');
    match url.split_once("://") {
        Some(("http", rest)) => format!("ws://{rest}"),
        Some(("https", rest)) => format!("wss://{rest}"),
        _ => url.to_owned(),
    }
}

/// Our own address on the way to the server.
async fn local_ip(url: &str) -> Result<IpAddr, ClientError> {
    let bad_url = || ClientError::Url(url.to_owned());
    let uri: http::Uri = url.parse().map_err(|_| bad_url())?;
    let host = uri.host().ok_or_else(bad_url)?.trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(443);
    let server = lookup_host((host, port)).await?.next().ok_or_else(bad_url)?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { [0_u16; 8].into() };
    // Connecting a UDP socket sends nothing; it asks the kernel for the route.
    let probe = UdpSocket::bind((any, 0)).await?;
    probe.connect(server).await?;
    Ok(probe.local_addr()?.ip())
}

fn bind(ip: IpAddr) -> Result<UdpSocket, ClientError> {
    let address = SocketAddr::new(ip, 0);
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    // More is better, but not needed.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    socket.bind(&address.into())?;
    Ok(UdpSocket::from_std(socket.into())?)
}

struct Task {
    session: Session,
    websocket: WebSocket,
    upstream: UdpSocket,
    downstream: UdpSocket,
    from_handle: mpsc::Receiver<ToTask>,
    events: broadcast::Sender<Event>,
    /// Who waits for a track to be published, by its `cid`. Bounded by the callers who wait.
    publishing: Vec<(String, oneshot::Sender<Result<String, ClientError>>)>,
    /// Whether the WebSocket still works.
    signal: bool,
}

impl Task {
    async fn run(mut self) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let deadline = self.flush().await;
            if self.session.is_ended() {
                let _ = self.websocket.close(None).await;
                return;
            }
            // In random order: none of them starves the others when all have much to do.
            tokio::select! {
                ready = self.upstream.readable() => {
                    if ready.is_ok() {
                        receive(&mut self.session, &self.upstream, &mut buffer);
                    }
                }
                ready = self.downstream.readable() => {
                    if ready.is_ok() {
                        receive(&mut self.session, &self.downstream, &mut buffer);
                    }
                }
                message = self.websocket.next(), if self.signal => self.handle_message(message),
                message = self.from_handle.recv() => match message {
                    Some(message) => {
                        self.handle_ask(message);
                        // Packets of one frame come together; they leave together.
                        for _ in 0..DATAGRAMS_PER_TURN {
                            let Ok(message) = self.from_handle.try_recv() else { break };
                            self.handle_ask(message);
                        }
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            self.session.handle_input(Instant::now(), Input::Timeout);
        }
    }

    fn handle_message(&mut self, message: Option<Result<Message, tungstenite::Error>>) {
        let input = match message {
            Some(Ok(Message::Binary(bytes))) => match livekit::SignalResponse::decode(bytes) {
                Ok(response) => Input::Signal(Box::new(response)),
                Err(_) => return,
            },
            Some(Ok(Message::Close(_)) | Err(_)) | None => {
                self.signal = false;
                Input::SignalClosed
            }
            Some(Ok(_)) => return,
        };
        self.session.handle_input(Instant::now(), input);
    }

    fn handle_ask(&mut self, message: ToTask) {
        // A caller that no longer waits needs no answer.
        match message {
            ToTask::Command(command) => self.session.handle_input(Instant::now(), Input::Command(*command)),
            ToTask::Publish(track, answer) => {
                self.publishing.retain(|(_, waiting)| !waiting.is_closed());
                self.publishing.push((track.cid.clone(), answer));
                self.session.handle_input(Instant::now(), Input::Command(Command::Publish(*track)));
            }
            ToTask::Ask(Ask::Stats(answer)) => {
                let _ = answer.send(self.session.receive_stats());
            }
            ToTask::Ask(Ask::Participants(answer)) => {
                let _ = answer.send(self.session.participants().clone());
            }
            ToTask::Ask(Ask::IncompleteFrames { track, frames, answer }) => {
                let _ = answer.send(self.session.incomplete_frames(&track, frames));
            }
        }
    }

    fn answer_publishers(&mut self, event: &Event) {
        let (cid, outcome) = match event {
            Event::TrackReady { cid, track } => (cid, Ok(track.clone())),
            Event::TrackFailed { cid, reason } => (cid, Err(ClientError::TrackRefused(reason.clone()))),
            Event::Left(leave) => {
                for (_, answer) in self.publishing.drain(..) {
                    let _ = answer.send(Err(ClientError::Left(leave.reason)));
                }
                return;
            }
            _ => return,
        };
        let waiting = self.publishing.iter().position(|(waiting, _)| waiting == cid);
        if let Some(index) = waiting {
            let _ = self.publishing.swap_remove(index).1.send(outcome);
        }
    }

    /// Does everything that the session wants; returns when it wants to be woken.
    async fn flush(&mut self) -> Instant {
        let mut signalled = false;
        let deadline = loop {
            match self.session.poll_output() {
                Output::Timeout(at) => break at,
                Output::Transmit(transmit) => {
                    let from_upstream =
                        self.upstream.local_addr().is_ok_and(|address| address == transmit.source);
                    let socket = if from_upstream { &self.upstream } else { &self.downstream };
                    // As on any network, what cannot be sent is lost.
                    let _ = socket.send_to(&transmit.payload, transmit.destination).await;
                }
                Output::Signal(request) => {
                    if self.signal {
                        let message = Message::Binary(Bytes::from(request.encode_to_vec()));
                        self.signal = self.websocket.feed(message).await.is_ok();
                        signalled = true;
                    }
                }
                Output::Event(event) => {
                    self.answer_publishers(&event);
                    // Nobody listening is fine.
                    let _ = self.events.send(event);
                }
            }
        };
        if signalled && self.signal {
            self.signal = self.websocket.flush().await.is_ok();
        }
        deadline
    }
}

fn receive(session: &mut Session, socket: &UdpSocket, buffer: &mut [u8]) {
    let Ok(destination) = socket.local_addr() else { return };
    for _ in 0..DATAGRAMS_PER_TURN {
        let Ok((length, source)) = socket.try_recv_from(buffer) else { return };
        let payload = buffer.get(..length).unwrap_or_default();
        session.handle_input(Instant::now(), Input::Datagram { source, destination, payload });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_alone_becomes_that_of_websockets() {
        for (url, expected) in [
            ("http://zynk.example:7880/", "ws://zynk.example:7880"),
            ("https://http.example/http", "wss://http.example/http"),
            ("ws://my-http-server", "ws://my-http-server"),
            ("wss://http", "wss://http"),
        ] {
            assert_eq!(websocket_base(url), expected);
        }
    }
}
