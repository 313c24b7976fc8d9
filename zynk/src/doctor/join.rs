//! Joining a room as a client does, to be told what clients are told: relays, and where media is.

use std::time::{Duration, Instant, SystemTime};

use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};
use zynk_auth::{Claims, KeyRing, VideoGrants};
use zynk_protocol::livekit::{
    self, SignalRequest, SignalResponse, signal_request, signal_response::Message as Signal,
};

use super::ice::{self, MediaServer};
use super::link::{ByteStream, STEP_TIMEOUT};
use super::relay::link_advice;
use super::report::Check;
use super::site::Site;

/// Life of the tokens: as long as the whole examination may take, and then some.
const TOKEN_TTL: Duration = Duration::from_secs(120);

/// LiveKit's signal protocol that is spoken.
const PROTOCOL: &str = "16";

/// Messages that are read before the one that is waited for; more, and it is given up.
const MESSAGES_MAX: usize = 64;

/// With what a room is joined.
pub(super) struct Pass {
    token: SecretString,
    /// The room, if it is ours alone and goes with us.
    own_room: Option<(String, KeyRing)>,
}

impl Pass {
    /// A token of the caller's.
    pub(super) fn of_token(token: &SecretString) -> Self {
        Self { token: token.clone(), own_room: None }
    }

    /// A token for a room of its own, with a participant whom nobody sees.
    pub(super) fn of_keys(keys: KeyRing) -> Result<Self, zynk_auth::SignError> {
        let room = format!("zynk-doctor-{}", ice::hex(&rand::random::<[u8; 6]>()));
        let mut claims = Claims::for_identity("zynk-doctor");
        claims.video = VideoGrants { hidden: true, room_create: true, ..VideoGrants::join(&room) };
        let token = keys.sign(&claims, TOKEN_TTL, SystemTime::now())?.into();
        Ok(Self { token, own_room: Some((room, keys)) })
    }
}

/// A stay in a room.
pub(super) struct Stay {
    socket: WebSocketStream<Box<dyn ByteStream>>,
    pub(super) ice_servers: Vec<livekit::IceServer>,
    /// None if the server did not say where media is.
    pub(super) media: Option<MediaServer>,
}

/// Asks whether the token would do, as SDKs do when a WebSocket fails.
pub(super) async fn validate(
    site: &Site,
    client: &reqwest::Client,
    pass: &Pass,
    checks: &mut Vec<Check>,
) -> bool {
    let (start, url) = (Instant::now(), site.url("/rtc/validate"));
    let response = client.get(&url).bearer_auth(pass.token.expose_secret()).send().await;
    let (status, body) = match response {
        Ok(response) => (response.status().as_u16(), response.text().await.unwrap_or_default()),
        Err(error) => {
            checks.push(Check::fail("token", url, super::site::in_full(&error)));
            return false;
        }
    };
    if status == 200 {
        checks.push(Check::ok("token", url, "the server takes it").took(start.elapsed()));
        return true;
    }
    let body: String = body.trim().chars().take(200).collect();
    let advice = match status {
        401 if pass.own_room.is_some() => {
            "the API key or its secret is not the server's: name its configuration with --config, or set ZYNK_API_KEY and \
             ZYNK_API_SECRET; or a clock is wrong"
        }
        401 => "the token has ended, or is of another server; or a clock is wrong",
        404 => "something else answers there, or a reverse proxy does not send /rtc on",
        _ => "see the server's log",
    };
    checks.push(Check::fail("token", url, format!("{status} {body}")).advise(advice));
    false
}

/// Joins.
pub(super) async fn join(site: &Site, pass: &Pass, checks: &mut Vec<Check>) -> Option<Stay> {
    let url = site.url("/rtc").replacen("http", "ws", 1);
    let start = Instant::now();
    let mut socket = match open(site, &url, pass).await {
        Ok(socket) => socket,
        Err(check) => {
            checks.push(*check);
            return None;
        }
    };
    let joined = next(&mut socket, |message| match message {
        Signal::Join(join) => Some(Ok(join.ice_servers)),
        Signal::Leave(leave) => Some(Err(format!("the server sends us away: {:?}", leave.reason()))),
        _ => None,
    });
    let ice_servers = match joined.await.unwrap_or_else(Err) {
        Ok(ice_servers) => ice_servers,
        Err(problem) => {
            let advice = "something between here and the server swallows what goes through a WebSocket, or the server \
                          is busy: see its log";
            checks.push(Check::fail("websocket", url, problem).advise(advice));
            return None;
        }
    };
    checks.push(Check::ok("websocket", url, "joined").took(start.elapsed()));
    let mut stay = Stay { socket, ice_servers, media: None };
    stay.media = stay.negotiate(checks).await;
    Some(stay)
}

type Socket = WebSocketStream<Box<dyn ByteStream>>;

async fn open(site: &Site, url: &str, pass: &Pass) -> Result<Socket, Box<Check>> {
    let failed = |detail: String| Check::fail("websocket", url, detail);
    let stream = match site.connect().await {
        Ok(stream) => stream,
        Err(error) => {
            let check = failed(error.to_string());
            let address = (std::net::Ipv4Addr::UNSPECIFIED, 0).into();
            return Err(Box::new(check.advise(link_advice(&error, address))));
        }
    };
    let query = [("protocol", PROTOCOL), ("auto_subscribe", "0"), ("version", env!("CARGO_PKG_VERSION"))];
    let with_query = site.websocket_url(&query).map_err(|error| Box::new(failed(error.to_string())))?;
    let request = with_query.as_str().into_client_request();
    let mut request = request.map_err(|error| Box::new(failed(error.to_string())))?;
    let bearer = format!("Bearer {}", pass.token.expose_secret()).parse();
    let bearer = bearer.map_err(|_| Box::new(failed("the token is none: it has other characters".into())))?;
    request.headers_mut().insert("authorization", bearer);
    let opened = timeout(STEP_TIMEOUT, tokio_tungstenite::client_async(request, stream)).await;
    match opened {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(WebSocketError::Http(response))) => {
            let status = response.status().as_u16();
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let detail = format!("{status} {}", body.trim().chars().take(200).collect::<String>());
            let advice = match status {
                401 | 403 => "the server does not take the token",
                _ => {
                    "a reverse proxy in front may not pass WebSockets on: it must send `Upgrade` and `Connection` along"
                }
            };
            Err(Box::new(failed(detail).advise(advice)))
        }
        Ok(Err(error)) => {
            let advice = "a proxy or firewall on the way may not let WebSockets through";
            Err(Box::new(failed(error.to_string()).advise(advice)))
        }
        Err(_) => {
            let advice = "a proxy or firewall on the way may hold WebSockets back";
            Err(Box::new(failed(format!("no answer within {} s", STEP_TIMEOUT.as_secs())).advise(advice)))
        }
    }
}

/// Reads on until `wanted` has found what it wants.
async fn next<T>(socket: &mut Socket, mut wanted: impl FnMut(Signal) -> Option<T>) -> Result<T, String> {
    let found = timeout(STEP_TIMEOUT, async {
        for _ in 0..MESSAGES_MAX {
            match socket.next().await {
                Some(Ok(Message::Binary(bytes))) => {
                    let message = SignalResponse::decode(bytes).ok().and_then(|response| response.message);
                    if let Some(found) = message.and_then(&mut wanted) {
                        return Ok(found);
                    }
                }
                Some(Ok(Message::Close(_))) | None => return Err("the server closed it".to_owned()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
            }
        }
        Err("the server says too much else".to_owned())
    });
    found.await.unwrap_or_else(|_| Err(format!("no message within {} s", STEP_TIMEOUT.as_secs())))
}

impl Stay {
    /// Offers to publish, and learns where.
    async fn negotiate(&mut self, checks: &mut Vec<Check>) -> Option<MediaServer> {
        let (start, ufrag) = (Instant::now(), ice::draw_ufrag());
        let offer = livekit::SessionDescription {
            r#type: "offer".to_owned(),
            sdp: ice::offer(&ufrag),
            ..livekit::SessionDescription::default()
        };
        self.send(signal_request::Message::Offer(offer)).await;
        let mut trickled = Vec::new();
        let described = next(&mut self.socket, |message| match message {
            Signal::Answer(answer) => Some(answer.sdp),
            Signal::Trickle(trickle) => {
                trickled.push(trickle.candidate_init);
                None
            }
            _ => None,
        });
        let described = described.await;
        let media = described.as_ref().ok().and_then(|sdp| MediaServer::from_sdp(sdp, &ufrag));
        let Some(mut media) = media else {
            let detail = described.err().unwrap_or_else(|| "it has no credentials for ICE".to_owned());
            let check = Check::fail("answer", "", detail);
            checks.push(check.advise("the media server does not take part: see /readyz and its log"));
            return None;
        };
        for init in trickled {
            let candidate = serde_json::from_str::<serde_json::Value>(&init).ok();
            if let Some(line) = candidate.as_ref().and_then(|init| init["candidate"].as_str()) {
                media.add_candidate(line);
            }
        }
        let tcp = media.candidates.iter().filter(|candidate| candidate.is_tcp).count();
        let udp = media.candidates.len() - tcp;
        let detail = format!("media is received at {udp} UDP and {tcp} TCP addresses");
        checks.push(Check::ok("answer", "", detail).took(start.elapsed()));
        Some(media)
    }

    async fn send(&mut self, message: signal_request::Message) {
        let bytes = SignalRequest { message: Some(message) }.encode_to_vec();
        // What is lost is missed later.
        let _ = timeout(STEP_TIMEOUT, self.socket.send(Message::Binary(bytes.into()))).await;
    }

    /// Leaves, and ends a room that was for this alone.
    pub(super) async fn leave(mut self, site: &Site, client: &reqwest::Client, pass: &Pass) {
        self.send(signal_request::Message::Leave(livekit::LeaveRequest::default())).await;
        let _ = timeout(STEP_TIMEOUT, self.socket.close(None)).await;
        let Some((room, keys)) = &pass.own_room else { return };
        let claims = Claims {
            video: VideoGrants { room_create: true, ..VideoGrants::default() },
            ..Claims::default()
        };
        let Ok(token) = keys.sign(&claims, TOKEN_TTL, SystemTime::now()) else { return };
        let request = client.post(site.url("/twirp/livekit.RoomService/DeleteRoom")).bearer_auth(token);
        // It ends by itself, too.
        let _ = request.json(&serde_json::json!({ "room": room })).send().await;
    }
}
