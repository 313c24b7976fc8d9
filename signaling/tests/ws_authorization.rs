//! Who may begin a session, and what those are told who may not. Names begin with the line of
//! `docs/livekit-compatibility.md` that the test shows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod ws_support;

use std::io::Write;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use flate2::Compression;
use flate2::write::GzEncoder;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use prost::Message;
use serde_json::json;
use ws_support::{Response, Server, claims};
use zynk_auth::KeyRing;
use zynk_protocol::NodeAction;
use zynk_protocol::livekit::{self, wrapped_join_request};

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// A token of this payload, signed with the development key's secret.
fn token_of(payload: &serde_json::Value) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), payload, &EncodingKey::from_secret(b"secret"))
        .unwrap()
}

fn payload() -> serde_json::Value {
    json!({"iss": "devkey", "sub": "alice", "exp": now_s() + 600, "video": {"roomJoin": true, "room": "lobby"}})
}

fn with(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut payload = payload();
    change(&mut payload);
    token_of(&payload)
}

#[tokio::test]
async fn l2_rtc_without_upgrade_is_not_found() {
    let server = Server::start().await;
    for path in ["/rtc", "/rtc/v1"] {
        let (status, _, body) = server.get(&format!("{path}?access_token={}", server.token("alice"))).await;
        assert_eq!((status, body.as_str()), (404, ""));
    }
}

#[tokio::test]
async fn l3_validate_says_success_to_any_origin() {
    let server = Server::start().await;
    let (status, origin, body) =
        server.get(&format!("/rtc/validate?access_token={}", server.token("alice"))).await;
    assert_eq!((status, origin.as_str(), body.as_str()), (200, "*", "success"));
}

#[tokio::test]
async fn l4_validate_without_token_is_unauthorized_and_readable() {
    let server = Server::start().await;
    let (status, origin, body) = server.get("/rtc/validate?sdk=js").await;
    assert_eq!((status, origin.as_str()), (401, "*"));
    assert_eq!(body, "permissions denied: no access token");
}

#[tokio::test]
async fn l5_l6_l7_times_of_tokens_count() {
    let server = Server::start().await;
    let status = async |token: String| server.validate(&token).await;
    let expired = status(with(|p| p["exp"] = json!(now_s() - 90))).await;
    assert_eq!(expired, (401, "invalid token: token is expired (exp)".into()));
    assert_eq!(status(with(|p| p["exp"] = json!(now_s() - 30))).await.0, 200);
    assert_eq!(status(with(|p| p["nbf"] = json!(now_s() + 90))).await.0, 401);
    assert_eq!(status(with(|p| p["nbf"] = json!(now_s() + 30))).await.0, 200);
    let endless = status(with(|p| drop(p.as_object_mut().unwrap().remove("exp")))).await;
    assert_eq!(endless, (401, "invalid token: expiration (exp) is missing".into()));
}

#[tokio::test]
async fn l8_only_our_signatures_are_believed() {
    let server = Server::start().await;
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT"})), part(&payload()));
    let asymmetric = format!("{}.{}.c2ln", part(&json!({"alg": "RS256", "typ": "JWT"})), part(&payload()));
    let foreign = KeyRing::single("devkey", "another secret");
    let foreign = foreign.sign(&claims("alice"), Duration::from_secs(60), SystemTime::now()).unwrap();
    let unknown = KeyRing::single("unknown", "secret");
    let unknown = unknown.sign(&claims("alice"), Duration::from_secs(60), SystemTime::now()).unwrap();
    for (token, message) in [
        (unsigned, "invalid token: only the algorithm HS256 is accepted"),
        (asymmetric, "invalid token: only the algorithm HS256 is accepted"),
        (foreign, "invalid token: signature does not match"),
        (unknown, "invalid API key"),
        ("nonsense".into(), "invalid token: not three parts separated by dots"),
    ] {
        assert_eq!(server.validate(&token).await, (401, message.into()));
        let refused = server.connect(&format!("/rtc?access_token={token}")).await.err().unwrap();
        assert_eq!(refused.0, 401);
    }
}

#[tokio::test]
async fn bad_tokens_get_json_if_they_ask_for_it() {
    let server = Server::start().await;
    let grantless = with(|p| p["video"] = json!({}));
    let expired = with(|p| p["exp"] = json!(0));
    for (token, code) in
        [("", "token_missing"), (expired.as_str(), "token_expired"), (grantless.as_str(), "no_room_join")]
    {
        let response = server
            .http
            .get(format!("http://{}/rtc/validate?access_token={token}", server.address))
            .header("Accept", "application/json")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 401);
        let body: serde_json::Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"], code);
        assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
}

#[tokio::test]
async fn l9_l10_l11_grants_and_names_are_checked() {
    let server = Server::start().await;
    let long = "x".repeat(257);
    for (token, status) in [
        (with(|p| p["video"]["roomJoin"] = json!(false)), 401),
        (with(|p| p["sub"] = json!("")), 400),
        (with(|p| p["sub"] = json!(long)), 400),
        (with(|p| p["sub"] = json!("x".repeat(256))), 200),
        (with(|p| p["video"]["room"] = json!(long)), 400),
        (with(|p| p["video"]["room"] = json!("")), 400),
        (with(|p| p["metadata"] = json!("x".repeat(40_000))), 200),
    ] {
        assert_eq!(server.validate(&token).await.0, status);
    }
}

#[tokio::test]
async fn l12_rooms_are_not_created_where_that_is_off() {
    let server = Server::with(|config| config.room.auto_create = false).await;
    let missing = (404, "requested room does not exist".to_owned());
    assert_eq!(server.validate(&server.token("alice")).await, missing);
    let path = format!("/rtc?sdk=js&access_token={}", server.token("alice"));
    assert_eq!(server.connect(&path).await.err().unwrap(), missing);
    let creator = with(|p| p["video"]["roomCreate"] = json!(true));
    assert_eq!(server.validate(&creator).await.0, 200);
    let request = livekit::CreateRoomRequest { name: "lobby".into(), ..Default::default() };
    server.directory.create_room(request).await.unwrap();
    assert_eq!(server.validate(&server.token("alice")).await.0, 200);
}

#[tokio::test]
async fn l13_double_slashes_are_one() {
    let server = Server::start().await;
    let mut client = server.connect(&format!("//rtc?access_token={}", server.token("alice"))).await.unwrap();
    client.until("Join", |message| matches!(message, Response::Join(_)).then_some(())).await;
}

#[tokio::test]
async fn l14_the_token_may_come_in_a_header() {
    let server = Server::start().await;
    let token = server.token("alice");
    let mut client = server.connect_with("/rtc?protocol=17", Some(&token)).await.unwrap();
    client.until("Join", |message| matches!(message, Response::Join(_)).then_some(())).await;
    // The header counts, even where the parameter is good.
    let path = format!("/rtc?access_token={token}");
    assert_eq!(server.connect_with(&path, Some("nonsense")).await.err().unwrap().0, 401);
}

#[tokio::test]
async fn l15_the_identity_may_be_the_tokens_id() {
    let server = Server::start().await;
    let token = with(|p| {
        p["sub"] = json!("");
        p["jti"] = json!("from-jti");
    });
    let mut client = server.connect(&format!("/rtc?access_token={token}")).await.unwrap();
    let identity = client
        .until("Join", |message| match message {
            Response::Join(join) => join.participant.map(|participant| participant.identity),
            _ => None,
        })
        .await;
    assert_eq!(identity, "from-jti");
}

#[tokio::test]
async fn l16_version_1_needs_a_join_request() {
    let server = Server::start().await;
    let path = format!("/rtc/v1?access_token={}", server.token("alice"));
    assert_eq!(server.connect(&path).await.err().unwrap().0, 400);
    let (status, _, _) =
        server.get(&format!("/rtc/v1/validate?sdk=js&access_token={}", server.token("alice"))).await;
    assert_eq!(status, 400);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn wrapped(compression: wrapped_join_request::Compression, inner: Vec<u8>) -> Vec<u8> {
    livekit::WrappedJoinRequest { compression: compression.into(), join_request: inner }.encode_to_vec()
}

#[tokio::test]
async fn l17_join_requests_come_plain_or_compressed_padded_or_not() {
    let server = Server::start().await;
    for client_protocol in 1..=3 {
        let request = livekit::JoinRequest {
            client_info: Some(livekit::ClientInfo { client_protocol, ..Default::default() }),
            ..Default::default()
        };
        let plain = wrapped(wrapped_join_request::Compression::None, request.encode_to_vec());
        let packed = wrapped(wrapped_join_request::Compression::Gzip, gzip(&request.encode_to_vec()));
        let padded = |bytes: &[u8]| URL_SAFE.encode(bytes).replace('=', "%3D");
        for encoded in
            [padded(&plain), URL_SAFE_NO_PAD.encode(&plain), padded(&packed), URL_SAFE_NO_PAD.encode(&packed)]
        {
            let token = server.token("alice");
            let path = format!("/rtc/v1?access_token={token}&join_request={encoded}");
            let mut client = server.connect(&path).await.unwrap();
            let told = client
                .until("Join", |message| match message {
                    Response::Join(join) => join.participant.map(|participant| participant.client_protocol),
                    _ => None,
                })
                .await;
            assert_eq!(told, client_protocol);
        }
    }
}

#[tokio::test]
async fn l18_join_requests_do_not_inflate_without_end() {
    let server = Server::start().await;
    let validate = async |bytes: Vec<u8>| {
        let encoded = URL_SAFE_NO_PAD.encode(bytes);
        let token = server.token("alice");
        let path = format!("/rtc/v1/validate?access_token={token}&join_request={encoded}");
        let (status, _, body) = server.get(&path).await;
        (status, body)
    };
    let bomb = wrapped(wrapped_join_request::Compression::Gzip, gzip(&vec![0; 8 * 1024 * 1024]));
    assert_eq!(validate(bomb).await, (400, "join request too large".into()));
    assert_eq!(validate(vec![0xff; 30]).await.0, 400);
    assert_eq!(validate(wrapped(wrapped_join_request::Compression::Gzip, vec![1, 2, 3])).await.0, 400);
    let path = format!("/rtc/v1/validate?access_token={}&join_request=%25%25", server.token("alice"));
    assert_eq!(server.get(&path).await.0, 400);
}

#[tokio::test]
async fn l19_subscribing_is_automatic_in_version_0_and_asked_for_in_version_1() {
    let server = Server::start().await;
    let mut alice = server.join_active("alice").await;
    let request = livekit::AddTrackRequest {
        cid: "mic".into(),
        source: livekit::TrackSource::Microphone.into(),
        ..Default::default()
    };
    alice.send(ws_support::Request::AddTrack(request)).await;
    let track = alice
        .until("TrackPublished", |message| match message {
            Response::TrackPublished(published) => published.track.map(|track| track.sid),
            _ => None,
        })
        .await;
    let room = server.directory.list_rooms(&[]).await.remove(0).sid.parse().unwrap();
    let expected = ws_support::eventually("ExpectTrack", || {
        server.node.actions().into_iter().find_map(|action| match action {
            NodeAction::ExpectTrack(expected) => Some(expected),
            _ => None,
        })
    })
    .await;
    let started = zynk_protocol::StartedTrack {
        track: track.parse().unwrap(),
        connection: expected.connection,
        mid: "0".into(),
        sdp_cid: "mic".into(),
        codec: zynk_protocol::MimeType::new("audio/opus"),
        encodings: vec![],
        backup: false,
    };
    server.node.notify(&room, zynk_protocol::NodeEvent::TrackStarted(started)).await;
    let subscriptions = || {
        let actions = server.node.actions();
        actions.iter().filter(|action| matches!(action, NodeAction::Subscribe(_))).count()
    };
    let with_track = |info: &livekit::ParticipantInfo| !info.tracks.is_empty();
    // Version 1 without a word on it, then version 0: one subscription comes of the two.
    let mut silent = server.join_active("silent").await;
    let mut automatic = server.join("automatic").await;
    ws_support::eventually("Subscribe", || (subscriptions() == 1).then_some(())).await;
    let mute = livekit::MuteTrackRequest { sid: track, muted: true };
    alice.send(ws_support::Request::Mute(mute)).await;
    silent.until_participant("the muted track", with_track).await;
    automatic.until_participant("the muted track", with_track).await;
    assert_eq!(subscriptions(), 1);
}

#[tokio::test]
async fn l129_preflights_are_answered() {
    let server = Server::start().await;
    let response = server
        .http
        .request(reqwest::Method::OPTIONS, format!("http://{}/rtc/validate", server.address))
        .header("Origin", "https://app.example")
        .header("Access-Control-Request-Method", "GET")
        .header("Access-Control-Request-Headers", "authorization")
        .send()
        .await
        .unwrap();
    assert!(response.status().is_success());
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert_eq!(response.headers()["access-control-allow-headers"], "authorization");
    assert_eq!(response.headers()["access-control-max-age"], "86400");
}

#[tokio::test]
async fn attributes_in_the_query_need_permission_and_sense() {
    let server = Server::start().await;
    let allowed = with(|p| p["video"]["canUpdateOwnMetadata"] = json!(true));
    let forbidden = with(|_| {});
    let good = STANDARD_NO_PAD.encode(r#"{"k":"v"}"#);
    for (token, attributes, status) in
        [(&allowed, good.as_str(), 200), (&allowed, "%21", 400), (&forbidden, good.as_str(), 401)]
    {
        let path = format!("/rtc/validate?access_token={token}&attributes={attributes}");
        assert_eq!(server.get(&path).await.0, status);
    }
}
