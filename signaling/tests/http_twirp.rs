//! LiveKit's server API as its SDKs see it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod http_support;

use std::time::{Duration, SystemTime};

use axum::body::Body;
use http_support::{Reply, Server, authorized, publish_offer, request};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use zynk_auth::{Claims, KeyRing, SipGrants, VideoGrants};
use zynk_protocol::{ConnectionState, livekit};
use zynk_signaling::API_BODY_BYTES_MAX;

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/protobuf";

fn admin(room: &str) -> VideoGrants {
    VideoGrants { room_admin: true, room: room.into(), ..Default::default() }
}

/// Every grant, for `room`.
fn everything(room: &str) -> VideoGrants {
    VideoGrants { room_create: true, room_list: true, destination_room: "elsewhere".into(), ..admin(room) }
}

fn path(method: &str) -> String {
    format!("/twirp/livekit.RoomService/{method}")
}

async fn call(server: &Server, token: &str, method: &str, body: &str) -> Reply {
    server.send(authorized("POST", &path(method), token, JSON, body.to_owned())).await
}

/// A server with a room in which `obs` publishes, and the ids of its tracks.
async fn server_with_publisher() -> (Server, Vec<String>) {
    let server = Server::start().await;
    let token = server.token("obs", VideoGrants::join("studio"));
    let reply =
        server.send(authorized("POST", "/whip/studio", &token, "application/sdp", publish_offer())).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    server.node.set_state(0, ConnectionState::Connected).await;
    let token = server.token("", admin("studio"));
    let tracks = http_support::eventually("two tracks", || async {
        let reply = call(&server, &token, "GetParticipant", r#"{"room":"studio","identity":"obs"}"#).await;
        let tracks = reply.json()["tracks"].as_array().cloned().unwrap_or_default();
        (tracks.len() == 2).then_some(tracks)
    })
    .await;
    let ids = tracks.iter().map(|track| track["sid"].as_str().unwrap().to_owned()).collect();
    (server, ids)
}

#[tokio::test]
async fn calls_are_refused_by_the_table() {
    let server = Server::start().await;
    let now = SystemTime::now();
    let ttl = Duration::from_secs(60);
    let claims = Claims { video: everything("r"), ..Default::default() };
    let good = server.keys.sign(&claims, ttl, now).unwrap();
    let expired = server.keys.sign(&claims, ttl, now - Duration::from_secs(3600)).unwrap();
    let foreign = KeyRing::single("key", "another secret").sign(&claims, ttl, now).unwrap();
    let unknown = KeyRing::single("nobody", "secret").sign(&claims, ttl, now).unwrap();
    let none = server.token("x", VideoGrants::default());
    let bearer = format!("Bearer {good}");
    let mut lines = String::new();
    let list = path("ListRooms");
    for (what, request) in [
        ("no token", request("POST", &list, &[("content-type", JSON)], "{}")),
        ("not bearer", request("POST", &list, &[("content-type", JSON), ("authorization", &good)], "{}")),
        (
            "token in the query",
            request("POST", &format!("{list}?access_token={good}"), &[("content-type", JSON)], "{}"),
        ),
        ("expired", authorized("POST", &list, &expired, JSON, "{}")),
        ("foreign secret", authorized("POST", &list, &foreign, JSON, "{}")),
        ("unknown key", authorized("POST", &list, &unknown, JSON, "{}")),
        ("not a token", authorized("POST", &list, "abc", JSON, "{}")),
        ("GET", authorized("GET", &list, &good, JSON, "")),
        ("unknown method", authorized("POST", &path("Nothing"), &good, JSON, "{}")),
        ("unknown service", authorized("POST", "/twirp/livekit.Nothing/ListRooms", &good, JSON, "{}")),
        ("other package", authorized("POST", "/twirp/RoomService/ListRooms", &good, JSON, "{}")),
        ("content type", authorized("POST", &list, &good, "text/plain", "{}")),
        ("no content type", request("POST", &list, &[("authorization", &bearer)], "{}")),
        ("malformed JSON", authorized("POST", &list, &good, JSON, "{\"names\":\n[1]}")),
        ("malformed protobuf", authorized("POST", &list, &good, PROTOBUF, &b"\x0a\x05ab"[..])),
        ("too large", authorized("POST", &list, &good, JSON, vec![b' '; API_BODY_BYTES_MAX + 1])),
        ("no roomList", authorized("POST", &list, &none, JSON, "{}")),
        ("no roomCreate", authorized("POST", &path("CreateRoom"), &none, JSON, r#"{"name":"r"}"#)),
        ("no roomCreate to delete", authorized("POST", &path("DeleteRoom"), &none, JSON, r#"{"room":"r"}"#)),
        ("no roomAdmin", authorized("POST", &path("ListParticipants"), &none, JSON, r#"{"room":"r"}"#)),
        ("wrong room", authorized("POST", &path("ListParticipants"), &good, JSON, r#"{"room":"s"}"#)),
        ("no room", authorized("POST", &path("ListParticipants"), &good, JSON, "{}")),
        ("empty name", authorized("POST", &path("CreateRoom"), &good, JSON, "{}")),
        ("no such room", authorized("POST", &path("DeleteRoom"), &good, JSON, r#"{"room":"r"}"#)),
        (
            "nonce",
            authorized(
                "POST",
                &path("SendData"),
                &good,
                JSON,
                r#"{"room":"r","data":"aGk=","nonce":"AAAA"}"#,
            ),
        ),
        (
            "rpc to nobody",
            authorized("POST", &path("PerformRpc"), &good, JSON, r#"{"room":"r","method":"m"}"#),
        ),
        (
            "move without destination",
            authorized("POST", &path("MoveParticipant"), &good, JSON, r#"{"room":"r","identity":"i"}"#),
        ),
        (
            "move",
            authorized(
                "POST",
                &path("MoveParticipant"),
                &good,
                JSON,
                r#"{"room":"r","identity":"i","destinationRoom":"elsewhere"}"#,
            ),
        ),
        (
            "forward",
            authorized(
                "POST",
                &path("ForwardParticipant"),
                &good,
                JSON,
                r#"{"room":"r","identity":"i","destination_room":"elsewhere"}"#,
            ),
        ),
    ] {
        let reply = server.send(request).await;
        assert_eq!(reply.header("content-type"), Some(JSON), "{what}");
        lines.push_str(&format!("{what}: {}\n", reply.line()));
    }
    let same = server.token("", VideoGrants { destination_room: "r".into(), ..admin("r") });
    let body = r#"{"room":"r","identity":"i","destinationRoom":"r"}"#;
    lines.push_str(&format!(
        "move to itself: {}\n",
        call(&server, &same, "MoveParticipant", body).await.line()
    ));
    insta::assert_snapshot!(lines);
}

/// T10: every method wants a token, and one with the grant.
#[tokio::test]
async fn t10_every_method_is_authenticated() {
    let server = Server::start().await;
    let grantless = server.token("x", VideoGrants::join("r"));
    for method in [
        "CreateRoom",
        "ListRooms",
        "DeleteRoom",
        "ListParticipants",
        "GetParticipant",
        "RemoveParticipant",
        "MutePublishedTrack",
        "UpdateParticipant",
        "UpdateSubscriptions",
        "SendData",
        "UpdateRoomMetadata",
        "ForwardParticipant",
        "MoveParticipant",
        "PerformRpc",
    ] {
        let body = r#"{"room":"r","name":"r","identity":"i"}"#;
        let unknown = server.send(request("POST", &path(method), &[("content-type", JSON)], body)).await;
        let known = call(&server, &grantless, method, body).await;
        for (reply, what) in [(unknown, "no token"), (known, "permissions denied")] {
            assert_eq!(reply.status, 401, "{method}");
            let json = reply.json();
            assert_eq!(json["code"], "unauthenticated");
            assert!(json["msg"].as_str().unwrap().starts_with(what), "{method}: {json}");
        }
    }
    assert_eq!(server.node.commands(), []);
}

#[tokio::test]
async fn nothing_of_a_body_is_read_before_the_caller_is_known() {
    let server = Server::start().await;
    let body = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let reply = server.send(request("POST", &path("ListRooms"), &[("content-type", JSON)], body)).await;
    assert_eq!(reply.status, 401);
}

/// Calls one method in camelCase JSON, snake_case JSON and protobuf, and expects the same of each.
async fn in_every_encoding<Req, Res>(server: &Server, token: &str, method: &str, wanted: Req) -> Res
where
    Req: Message + Serialize,
    Res: Message + Default + DeserializeOwned + PartialEq,
{
    let camel = serde_json::to_value(&wanted).unwrap();
    let snake = snake_case(camel.clone());
    let mut results: Vec<Res> = Vec::new();
    for (content_type, body) in [
        (JSON, camel.to_string().into_bytes()),
        ("application/json;charset=UTF-8", snake.to_string().into_bytes()),
        (PROTOBUF, wanted.encode_to_vec()),
    ] {
        let reply = server.send(authorized("POST", &path(method), token, content_type, body)).await;
        assert_eq!(reply.status, 200, "{method}: {}", reply.line());
        let result = if content_type == PROTOBUF {
            assert_eq!(reply.header("content-type"), Some(PROTOBUF));
            Res::decode(&reply.body[..]).unwrap()
        } else {
            assert_eq!(reply.header("content-type"), Some(JSON));
            serde_json::from_slice(&reply.body).unwrap()
        };
        results.push(result);
    }
    results.pop().unwrap()
}

/// The names of an object's fields as the protobuf files have them.
fn snake_case(value: serde_json::Value) -> serde_json::Value {
    let serde_json::Value::Object(fields) = value else { return value };
    let rename = |name: String| -> String {
        name.chars()
            .flat_map(|c| if c.is_ascii_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] })
            .collect()
    };
    serde_json::Value::Object(fields.into_iter().map(|(name, value)| (rename(name), value)).collect())
}

#[tokio::test]
async fn every_method_in_every_encoding() {
    let (server, tracks) = server_with_publisher().await;
    let token = server.token("", everything("studio"));
    let (room, identity) = ("studio".to_owned(), "obs".to_owned());

    let created: livekit::Room = in_every_encoding(
        &server,
        &token,
        "CreateRoom",
        livekit::CreateRoomRequest { name: room.clone(), metadata: "about".into(), ..Default::default() },
    )
    .await;
    assert_eq!((created.name.as_str(), created.metadata.as_str()), ("studio", "about"));
    assert!(created.sid.starts_with("RM_") && created.turn_password.is_empty());

    let listed: livekit::ListRoomsResponse = in_every_encoding(
        &server,
        &token,
        "ListRooms",
        livekit::ListRoomsRequest { names: vec![room.clone()] },
    )
    .await;
    assert_eq!(listed.rooms.iter().map(|room| &room.sid).collect::<Vec<_>>(), [&created.sid]);

    let participants: livekit::ListParticipantsResponse = in_every_encoding(
        &server,
        &token,
        "ListParticipants",
        livekit::ListParticipantsRequest { room: room.clone() },
    )
    .await;
    assert_eq!(participants.participants.len(), 1);
    let one = livekit::RoomParticipantIdentity {
        room: room.clone(),
        identity: identity.clone(),
        ..Default::default()
    };
    let found: livekit::ParticipantInfo =
        in_every_encoding(&server, &token, "GetParticipant", one.clone()).await;
    assert_eq!(found.tracks.len(), 2);
    // Its client would not understand that it is in another room.
    let body = r#"{"room":"studio","identity":"obs","destinationRoom":"elsewhere"}"#;
    assert_eq!(call(&server, &token, "MoveParticipant", body).await.status, 412);

    let muted: livekit::MuteRoomTrackResponse = in_every_encoding(
        &server,
        &token,
        "MutePublishedTrack",
        livekit::MuteRoomTrackRequest {
            room: room.clone(),
            identity: identity.clone(),
            track_sid: tracks[0].clone(),
            muted: true,
        },
    )
    .await;
    assert!(muted.track.unwrap().muted);

    let updated: livekit::UpdateParticipantRequest = livekit::UpdateParticipantRequest {
        room: room.clone(),
        identity: identity.clone(),
        metadata: "m".into(),
        name: "OBS".into(),
        ..Default::default()
    };
    // The version counts each change.
    let updated: livekit::ParticipantInfo = {
        let reply =
            call(&server, &token, "UpdateParticipant", &serde_json::to_string(&updated).unwrap()).await;
        serde_json::from_slice(&reply.body).unwrap()
    };
    assert_eq!((updated.name.as_str(), updated.metadata.as_str()), ("OBS", "m"));

    let _: livekit::UpdateSubscriptionsResponse = in_every_encoding(
        &server,
        &token,
        "UpdateSubscriptions",
        livekit::UpdateSubscriptionsRequest {
            room: room.clone(),
            identity: identity.clone(),
            track_sids: vec![tracks[0].clone()],
            subscribe: true,
            ..Default::default()
        },
    )
    .await;
    let _: livekit::SendDataResponse = in_every_encoding(
        &server,
        &token,
        "SendData",
        livekit::SendDataRequest { room: room.clone(), data: b"hi".to_vec(), ..Default::default() },
    )
    .await;
    let described: livekit::Room = in_every_encoding(
        &server,
        &token,
        "UpdateRoomMetadata",
        livekit::UpdateRoomMetadataRequest { room: room.clone(), metadata: "new".into() },
    )
    .await;
    assert_eq!(described.metadata, "new");

    let body = serde_json::to_string(&one).unwrap();
    assert_eq!(call(&server, &token, "RemoveParticipant", &body).await.line(), "200 application/json {}");
    let gone = call(&server, &token, "GetParticipant", &body).await;
    assert_eq!((gone.status.as_u16(), gone.json()["code"].as_str()), (404, Some("not_found")));
    let body = r#"{"room":"studio"}"#;
    assert_eq!(call(&server, &token, "DeleteRoom", body).await.line(), "200 application/json {}");
    assert_eq!(call(&server, &token, "ListRooms", "{}").await.line(), "200 application/json {}");
}

#[tokio::test]
async fn creating_a_room_twice_updates_it() {
    let server = Server::start().await;
    let token = server.token("", everything("r"));
    let first =
        call(&server, &token, "CreateRoom", r#"{"name":"r","metadata":"a","maxParticipants":3}"#).await;
    let second = call(&server, &token, "CreateRoom", r#"{"name":"r","emptyTimeout":77}"#).await;
    let (first, second) = (first.json(), second.json());
    assert_eq!(first["sid"], second["sid"]);
    assert_eq!((&second["metadata"], &second["maxParticipants"]), (&"a".into(), &3.into()));
    assert_eq!(second["emptyTimeout"], 77);
}

#[tokio::test]
async fn remote_unmute_is_off() {
    let (server, tracks) = server_with_publisher().await;
    let token = server.token("", admin("studio"));
    let body =
        serde_json::json!({"room": "studio", "identity": "obs", "trackSid": tracks[0], "muted": false});
    let reply = call(&server, &token, "MutePublishedTrack", &body.to_string()).await;
    assert_eq!((reply.status.as_u16(), reply.json()["code"].as_str()), (412, Some("failed_precondition")));
}

#[tokio::test]
async fn participants_of_no_room_are_none() {
    let server = Server::start().await;
    let token = server.token("", admin("nowhere"));
    let reply = call(&server, &token, "ListParticipants", r#"{"room":"nowhere"}"#).await;
    assert_eq!(reply.line(), "200 application/json {}");
}

#[tokio::test]
async fn other_services_are_known_but_not_offered() {
    let server = Server::start().await;
    let video = VideoGrants { room_record: true, ingress_admin: true, ..admin("r") };
    let sip = Some(SipGrants { admin: true, call: true, ..Default::default() });
    let claims = Claims { video, sip, ..Default::default() };
    let token = server.keys.sign(&claims, Duration::from_secs(60), SystemTime::now()).unwrap();
    let grantless = server.token("", VideoGrants::default());
    for path in [
        "/twirp/livekit.Egress/StartRoomCompositeEgress",
        "/twirp/livekit.Egress/ListEgress",
        "/twirp/livekit.Ingress/CreateIngress",
        "/twirp/livekit.SIP/ListSIPInboundTrunk",
        "/twirp/livekit.SIP/CreateSIPParticipant",
        "/twirp/livekit.SIP/TransferSIPParticipant",
        "/twirp/livekit.AgentDispatchService/CreateDispatch",
    ] {
        let reply = server.send(authorized("POST", path, &token, PROTOBUF, "")).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["code"].as_str()),
            (501, Some("unimplemented")),
            "{path}"
        );
        assert_eq!(reply.header("content-type"), Some(JSON));
        let reply = server.send(authorized("POST", path, &grantless, PROTOBUF, "")).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["code"].as_str()),
            (401, Some("unauthenticated")),
            "{path}"
        );
        let reply = server.send(request("POST", path, &[("content-type", JSON)], "{}")).await;
        assert_eq!(reply.status, 401, "{path}");
    }
}

#[tokio::test]
async fn browsers_may_ask_from_anywhere() {
    let server = Server::start().await;
    let preflight = [
        ("origin", "https://app.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    let reply = server.send(request("OPTIONS", &path("ListRooms"), &preflight, "")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    assert_eq!(reply.header("access-control-allow-headers"), Some("authorization,content-type"));
    let reply =
        server.send(request("POST", &path("ListRooms"), &[("origin", "https://app.example")], "")).await;
    assert_eq!((reply.status.as_u16(), reply.header("access-control-allow-origin")), (401, Some("*")));
}
