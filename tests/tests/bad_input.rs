//! What must not work, and whom it must not disturb.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    io::{ErrorKind, Write as _},
    time::{Duration, Instant, SystemTime},
};

use base64::Engine as _;
use flate2::{Compression, write::GzEncoder};
use futures_util::{SinkExt as _, StreamExt as _, future::join_all};
use prost::Message as _;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Message,
        client::IntoClientRequest as _,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};
use zynk_auth::{Claims, KeyRing, VideoGrants};
use zynk_client::{ClientOptions, Codec, Command, Event, PeerConnections};
use zynk_protocol::livekit::{self, leave_request, request_response, signal_request, signal_response};
use zynk_tests::{
    LinkConfig, LiveServer, World, token,
    traffic::{Participant, eventually},
};

const LIMIT: Duration = Duration::from_secs(10);
const ROOM: &str = "call";
/// Largest signal message.
const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Largest metadata of a participant.
const METADATA_BYTES_MAX: usize = 512 * 1024;
const IDLE_SOCKETS: usize = 10_000;
/// Opened by so many at a time: the server closes a socket that has said nothing for 15 s.
const IDLE_OPENERS: usize = 100;
/// What one idle socket may cost.
const IDLE_SOCKET_BYTES_MAX: u64 = 32 * 1024;

/// A call that goes on while somebody misbehaves.
struct Bystanders {
    alice: Participant,
    bob: Participant,
}

impl Bystanders {
    async fn start(server: &LiveServer) -> Self {
        let epoch = Instant::now();
        let mut alice = Participant::join(server, ROOM, "alice", epoch).await.unwrap();
        alice.publish_microphone().await.unwrap();
        alice.publish_camera(300_000).await.unwrap();
        let bob = Participant::join(server, ROOM, "bob", epoch).await.unwrap();
        let bystanders = Self { alice, bob };
        bystanders.assert_undisturbed("before anything happened").await;
        bystanders
    }

    /// Media goes on, and nothing has been lost so far.
    async fn assert_undisturbed(&self, when: &str) {
        for cid in ["camera", "microphone"] {
            let next = self.bob.received(&self.alice, cid).await.frames.last.map_or(0, |last| last + 10);
            let goes_on = eventually(LIMIT, async || {
                let stats = self.bob.received(&self.alice, cid).await;
                stats.frames.last >= Some(next) && stats.lost == 0
            });
            let goes_on = goes_on.await;
            let stats = self.bob.received(&self.alice, cid).await;
            assert!(goes_on, "{when}: {cid} {stats:?}");
        }
    }
}

/// A client that sends whatever it is told to.
struct RawClient(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl RawClient {
    async fn join(server: &LiveServer, identity: &str) -> Self {
        let mut client = Self::connect(server, identity).await;
        let first = client.response().await.expect("the first message");
        assert!(matches!(first, signal_response::Message::Join(_)), "{first:?}");
        client
    }

    async fn connect(server: &LiveServer, identity: &str) -> Self {
        let url = format!("{}/rtc?protocol=16&sdk=rust", server.ws_url());
        let mut request = url.into_client_request().unwrap();
        let bearer = format!("Bearer {}", token(ROOM, identity));
        request.headers_mut().insert("authorization", bearer.parse().unwrap());
        Self(connect_async(request).await.unwrap().0)
    }

    async fn send(&mut self, message: signal_request::Message) {
        let request = livekit::SignalRequest { message: Some(message) };
        self.0.send(Message::Binary(request.encode_to_vec().into())).await.unwrap();
    }

    /// The next message; none when the server has closed the connection.
    async fn response(&mut self) -> Option<signal_response::Message> {
        loop {
            let message = tokio::time::timeout(LIMIT, self.0.next()).await.expect("a message in time");
            match message {
                Some(Ok(Message::Binary(bytes))) => {
                    return livekit::SignalResponse::decode(bytes).unwrap().message;
                }
                Some(Ok(Message::Text(text))) => {
                    let response: livekit::SignalResponse = serde_json::from_str(text.as_str()).unwrap();
                    return response.message;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_) | Err(_)) | None => return None,
            }
        }
    }

    /// Reads until the server closes. Returns the error text it gave, and whether it said that it ends.
    async fn farewell(mut self) -> (String, bool) {
        let (mut text, mut left) = (String::new(), false);
        while let Some(message) = self.response().await {
            match message {
                signal_response::Message::RequestResponse(refusal) => text = refusal.message,
                signal_response::Message::Leave(leave) => {
                    left = leave.action() == leave_request::Action::Disconnect;
                }
                _ => {}
            }
        }
        (text, left)
    }
}

fn offer(sdp: &str) -> signal_request::Message {
    signal_request::Message::Offer(livekit::SessionDescription {
        r#type: "offer".to_owned(),
        sdp: sdp.to_owned(),
        id: 1,
        ..Default::default()
    })
}

/// A good offer with lines left out or changed.
fn offer_sdp(ice: bool, fingerprint: bool, profile: &str) -> String {
    let mut lines = vec![
        "v=0".to_owned(),
        "o=- 1 1 IN IP4 127.0.0.1".to_owned(),
        "s=-".to_owned(),
        "t=0 0".to_owned(),
        "a=group:BUNDLE 0".to_owned(),
        format!("m=audio 9 {profile} 111"),
        "c=IN IP4 0.0.0.0".to_owned(),
        "a=mid:0".to_owned(),
        "a=sendonly".to_owned(),
        "a=rtcp-mux".to_owned(),
        "a=rtpmap:111 opus/48000/2".to_owned(),
    ];
    if ice {
        lines.extend(["a=ice-ufrag:abcd", "a=ice-pwd:aaaabbbbccccddddeeeeffff"].map(str::to_owned));
    }
    if fingerprint {
        lines.push("a=setup:actpass".to_owned());
        lines.push(format!("a=fingerprint:sha-256 {}", ["AB"; 32].join(":")));
    }
    lines.join("\r\n") + "\r\n"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_allow_nothing_get_a_reason() {
    let server = LiveServer::start();
    let now = SystemTime::now();
    let hour = Duration::from_secs(3_600);
    let mut claims = Claims::for_identity("mallory");
    claims.video = VideoGrants::join(ROOM);
    let keys = KeyRing::single("devkey", "secret");
    let good = keys.sign(&claims, hour, now).unwrap();
    let body = good.split('.').nth(1).unwrap();
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let without_grants = keys.sign(&Claims::for_identity("mallory"), hour, now).unwrap();
    let rows = [
        ("expired", keys.sign(&claims, hour, now - 2 * hour).unwrap()),
        ("foreign secret", KeyRing::single("devkey", "guess").sign(&claims, hour, now).unwrap()),
        ("foreign key", KeyRing::single("other", "secret").sign(&claims, hour, now).unwrap()),
        ("unsigned", format!("{header}.{body}.")),
        ("without grants", without_grants),
        ("garbage", "no.token.atall".to_owned()),
        ("nothing", String::new()),
    ];
    let http = reqwest::Client::new();
    let mut reasons = Vec::new();
    for (row, token) in &rows {
        for path in ["rtc/validate", "rtc/v1/validate"] {
            let request = http.get(format!("{}/{path}", server.url()));
            let request = if token.is_empty() { request } else { request.bearer_auth(token) };
            let response = request.send().await.unwrap();
            assert!([401, 403].contains(&response.status().as_u16()), "{row}: {}", response.status());
            let json: serde_json::Value = response.json().await.unwrap();
            let code = json["error"]["code"].as_str().unwrap_or_default().to_owned();
            assert!(!code.is_empty() && json["error"]["message"].is_string(), "{row}: {json}");
            reasons.push((*row, code));
        }
        let twirp = http
            .post(format!("{}/twirp/livekit.RoomService/ListRooms", server.url()))
            .header("content-type", "application/json")
            .body("{}");
        let twirp = if token.is_empty() { twirp } else { twirp.bearer_auth(token) };
        let response = twirp.send().await.unwrap();
        assert_eq!(response.status(), 401, "{row}");
        let json: serde_json::Value = response.json().await.unwrap();
        assert!(json["code"].is_string() && json["msg"].is_string(), "{row}: {json}");

        let refused = zynk_client::Client::connect(&server.ws_url(), token, ClientOptions::default()).await;
        match refused {
            Err(zynk_client::ClientError::Refused { status, body }) => {
                assert!([401, 403].contains(&status) && !body.is_empty(), "{row}: {status} {body}");
            }
            other => panic!("{row}: {other:?}"),
        }
    }
    // The body says which: an expired token reads differently from a foreign or an unsigned one.
    let code = |wanted: &str| &reasons.iter().find(|(row, _)| *row == wanted).unwrap().1;
    assert_ne!(code("expired"), code("foreign secret"));
    assert_ne!(code("expired"), code("unsigned"));
    assert_ne!(code("foreign secret"), code("unsigned"));
    assert_ne!(code("without grants"), code("expired"));

    let client = zynk_client::Client::connect(&server.ws_url(), &good, ClientOptions::default()).await;
    client.unwrap().leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_messages_end_only_the_session_they_came_on() {
    let server = LiveServer::start();
    let bystanders = Bystanders::start(&server).await;
    let not_utf8 = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    let rows = [
        ("protobuf", Message::Binary(vec![0xff; 64].into())),
        ("truncated protobuf", Message::Binary(vec![0x0a, 0x7f, 0x01].into())),
        ("JSON", Message::Text("{\"offer\": [}".into())),
        ("JSON of another shape", Message::Text("{\"offer\": 7}".into())),
        ("text that is no UTF-8", Message::Frame(not_utf8)),
    ];
    for (row, message) in rows {
        let mut mallory = RawClient::join(&server, "mallory").await;
        mallory.0.send(message).await.unwrap();
        let (text, left) = mallory.farewell().await;
        assert!(left && !text.is_empty(), "{row}: {text:?}, left: {left}");
        bystanders.assert_undisturbed(row).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_api_requests_get_an_error() {
    let server = LiveServer::start();
    let mut claims = Claims::for_identity("admin");
    claims.video = VideoGrants { room_list: true, room_create: true, ..VideoGrants::default() };
    let token = KeyRing::single("devkey", "secret").sign(&claims, LIMIT * 60, SystemTime::now()).unwrap();
    let http = reqwest::Client::new();
    let rows: [(&str, &str, &[u8]); 4] = [
        ("JSON", "application/json", b"{\"name\": "),
        ("JSON of another shape", "application/json", b"[1, 2]"),
        ("protobuf", "application/protobuf", &[0xff; 32]),
        ("no such encoding", "text/plain", b"name=x"),
    ];
    for (row, content_type, body) in rows {
        let url = format!("{}/twirp/livekit.RoomService/CreateRoom", server.url());
        let request = http.post(url).bearer_auth(&token).header("content-type", content_type);
        let response = request.body(body.to_vec()).send().await.unwrap();
        let status = response.status().as_u16();
        let json: serde_json::Value = response.json().await.unwrap();
        assert!((400..500).contains(&status), "{row}: {status}");
        assert!(["malformed", "bad_route"].contains(&json["code"].as_str().unwrap()), "{row}: {json}");
        assert!(!json["msg"].as_str().unwrap().is_empty(), "{row}: {json}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_sdp_ends_only_the_session_it_came_on() {
    const SECURE: &str = "UDP/TLS/RTP/SAVPF";
    let server = LiveServer::start();
    let bystanders = Bystanders::start(&server).await;
    let rows = [
        ("garbage", "this is no SDP".to_owned(), "SDP"),
        ("no ICE", offer_sdp(false, true, SECURE), "ICE"),
        ("no fingerprint", offer_sdp(true, false, SECURE), "fingerprint"),
        ("plain RTP", offer_sdp(true, true, "RTP/AVP"), "plain RTP"),
    ];
    for (row, sdp, expected) in rows {
        let mut mallory = RawClient::join(&server, "mallory").await;
        mallory.send(offer(&sdp)).await;
        let (text, left) = mallory.farewell().await;
        assert!(left && text.contains(expected), "{row}: {text:?}, left: {left}");
        bystanders.assert_undisturbed(row).await;
    }
    // The same offer with everything in it is answered.
    let mut mallory = RawClient::join(&server, "mallory").await;
    mallory.send(offer(&offer_sdp(true, true, SECURE))).await;
    loop {
        match mallory.response().await.expect("an answer") {
            signal_response::Message::Answer(answer) => break assert_eq!(answer.id, 1),
            signal_response::Message::Leave(leave) => panic!("{leave:?}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_messages_end_only_the_session_they_came_on() {
    let server = LiveServer::start();
    let bystanders = Bystanders::start(&server).await;

    // Compression is never agreed on, so that no message can inflate.
    let url = format!("{}/rtc?protocol=16&sdk=rust", server.ws_url());
    let mut request = url.into_client_request().unwrap();
    let bearer = format!("Bearer {}", token(ROOM, "mallory"));
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    request.headers_mut().insert("sec-websocket-extensions", "permessage-deflate".parse().unwrap());
    let (_, response) = connect_async(request).await.unwrap();
    assert!(!response.headers().contains_key("sec-websocket-extensions"), "{response:?}");

    let mut mallory = RawClient::join(&server, "mallory").await;
    // The server may stop reading, and close, before everything is sent.
    let _ = mallory.0.send(Message::Binary(vec![0; MESSAGE_BYTES_MAX + 1].into())).await;
    while mallory.response().await.is_some() {}
    bystanders.assert_undisturbed("one message").await;

    // Many at once cost no memory either: none is ever held whole.
    let before = server.resident_bytes();
    let attacks = (0..20).map(|number| {
        let server = &server;
        async move {
            let mut mallory = RawClient::join(server, &format!("mallory-{number}")).await;
            let _ = mallory.0.send(Message::Binary(vec![0; 8 * MESSAGE_BYTES_MAX].into())).await;
            while mallory.response().await.is_some() {}
        }
    });
    futures_util::future::join_all(attacks).await;
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 100 * 1024 * 1024, "grown by {grown} bytes");
    bystanders.assert_undisturbed("many messages").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_request_that_inflates_too_far_is_refused() {
    const INFLATED_BYTES: usize = 16 * 1024 * 1024;
    const REQUESTS: u64 = 16;
    let server = LiveServer::start();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![0; INFLATED_BYTES]).unwrap();
    let wrapped = livekit::WrappedJoinRequest {
        compression: i32::from(livekit::wrapped_join_request::Compression::Gzip),
        join_request: encoder.finish().unwrap(),
    };
    let query = base64::engine::general_purpose::URL_SAFE.encode(wrapped.encode_to_vec());
    let url = format!("{}/rtc/v1/validate?join_request={query}", server.url());
    let http = reqwest::Client::new();
    let refused = async || {
        let response = http.get(&url).bearer_auth(token(ROOM, "mallory")).send().await.unwrap();
        assert_eq!(response.status(), 400);
        assert!(!response.text().await.unwrap().is_empty());
    };
    // The first request pages in what every request needs.
    refused().await;
    let before = server.resident_bytes();
    futures_util::future::join_all((0..REQUESTS).map(|_| refused())).await;
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < REQUESTS * INFLATED_BYTES as u64 / 4, "grown by {grown} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_metadata_is_refused() {
    let server = LiveServer::start();
    let bystanders = Bystanders::start(&server).await;
    let mallory = Participant::join(&server, ROOM, "mallory", Instant::now()).await.unwrap();
    let mut events = mallory.client.events();
    for (request_id, size, expected) in [
        (1, METADATA_BYTES_MAX + 1, request_response::Reason::LimitExceeded),
        (2, 1_000, request_response::Reason::Ok),
    ] {
        let update = livekit::UpdateParticipantMetadata {
            metadata: "m".repeat(size),
            request_id,
            ..Default::default()
        };
        mallory.client.command(Command::UpdateMetadata(update)).await.unwrap();
        let reason = tokio::time::timeout(LIMIT, async {
            loop {
                if let Event::Signal(response) = events.recv().await.unwrap()
                    && let Some(signal_response::Message::RequestResponse(answer)) = &response.message
                    && answer.request_id == request_id
                {
                    break answer.reason();
                }
            }
        });
        assert_eq!(reason.await.unwrap(), expected);
    }
    let told = eventually(LIMIT, async || {
        let participants = bystanders.bob.client.participants().await.unwrap();
        participants.values().any(|info| info.identity == "mallory" && info.metadata.len() == 1_000)
    });
    assert!(told.await, "bob has not been told what was accepted");

    let mut claims = Claims::for_identity("trudy");
    claims.video = VideoGrants::join(ROOM);
    claims.video.can_update_own_metadata = Some(true);
    let token = KeyRing::single("devkey", "secret").sign(&claims, LIMIT * 60, SystemTime::now()).unwrap();
    for (size, status, text) in
        [(METADATA_BYTES_MAX, 200, "success"), (METADATA_BYTES_MAX + 1, 400, "exceeds metadata size limit")]
    {
        // Compressed, as the query has less room than the limit.
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let request = livekit::JoinRequest { metadata: "m".repeat(size), ..Default::default() };
        encoder.write_all(&request.encode_to_vec()).unwrap();
        let wrapped = livekit::WrappedJoinRequest {
            compression: i32::from(livekit::wrapped_join_request::Compression::Gzip),
            join_request: encoder.finish().unwrap(),
        };
        let query = base64::engine::general_purpose::URL_SAFE.encode(wrapped.encode_to_vec());
        let url = format!("{}/rtc/v1/validate?join_request={query}", server.url());
        let response = reqwest::Client::new().get(&url).bearer_auth(&token).send().await.unwrap();
        assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (status, text));
    }
    bystanders.assert_undisturbed("metadata").await;
}

/// Sockets that say nothing, or begin a request that never ends.
async fn open_idle_sockets(server: String, count: usize) -> Vec<TcpStream> {
    let mut sockets = Vec::with_capacity(count);
    for number in 0..count {
        let mut socket = TcpStream::connect(&server).await.unwrap();
        if number % 2 == 0 {
            socket.write_all(b"GET /rtc HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        }
        sockets.push(socket);
    }
    sockets
}

fn is_open(socket: &TcpStream) -> bool {
    socket.try_read(&mut [0; 64]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_sockets_cost_little_and_keep_nobody_out() {
    let descriptors = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    assert!(descriptors > IDLE_SOCKETS as u64 + 1_000, "only {descriptors} file descriptors are allowed");
    let server = LiveServer::start();
    let bystanders = Bystanders::start(&server).await;
    let before = server.resident_bytes();
    let opening = (0..IDLE_OPENERS)
        .map(|_| tokio::spawn(open_idle_sockets(server.address(), IDLE_SOCKETS / IDLE_OPENERS)));
    let sockets: Vec<TcpStream> =
        join_all(opening).await.into_iter().flat_map(|sockets| sockets.unwrap()).collect();
    let grown = server.resident_bytes().saturating_sub(before);
    let open = sockets.iter().filter(|socket| is_open(socket)).count();
    assert_eq!(open, IDLE_SOCKETS, "the server closed some before they were measured");
    let bound = IDLE_SOCKETS as u64 * IDLE_SOCKET_BYTES_MAX;
    assert!(grown < bound, "grown by {grown} bytes, more than {bound}");
    println!("{grown} bytes for {open} sockets");
    let carol = Participant::join(&server, ROOM, "carol", Instant::now()).await.unwrap();
    let sees =
        eventually(LIMIT, async || carol.received(&bystanders.alice, "camera").await.frames.complete > 0);
    assert!(sees.await, "carol joined, but sees nothing");
    bystanders.assert_undisturbed("with the sockets").await;
    drop(sockets);
    bystanders.assert_undisturbed("without the sockets").await;
}

#[test]
fn a_session_that_fails_is_lost_alone() {
    let mut world = World::new(71);
    let alice = world.join("alice", LinkConfig::ideal());
    let bob = world.join("bob", LinkConfig::ideal());
    let mallory = world.join_with("mallory", LinkConfig::ideal(), PeerConnections::Dual);
    for person in [alice, mallory] {
        world.publish_camera(person, Codec::Vp8);
        world.publish_microphone(person);
    }
    world.run_for(Duration::from_secs(5));
    assert!(world.frames_received(bob, mallory) > 0);
    world.fault(mallory);
    world.run_for(Duration::from_secs(5));
    assert!(world.session(mallory).is_ended());
    let others = world.session(bob).participants();
    assert!(others.values().all(|info| info.identity != "mallory"), "{others:?}");
    for cid in ["camera", "microphone"] {
        let stats = world.received(bob, alice, cid);
        assert_eq!((stats.lost, stats.frames.missing), (0, 0), "{cid}: {stats:?}");
        assert!(stats.frames.complete > 250, "{cid}: {stats:?}");
    }
    assert_eq!(world.shard_stats().connections, 2);
}
