//! The product API: information and guests' tokens; and what all routes share.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod http_support;

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use axum::extract::ConnectInfo;
use http_support::{Reply, Server, publish_offer, request};
use zynk_signaling::{GUEST_TOKEN_TTL, GuestConfig};

const TOKENS: &str = "/api/v1/guest-tokens";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

async fn server_for_guests() -> Server {
    Server::with(GuestConfig { access: true }).await
}

async fn ask(server: &Server, body: &str) -> Reply {
    server.send(request("POST", TOKENS, &JSON, body.to_owned())).await
}

#[tokio::test]
async fn information_tells_whether_guests_are_let_in() {
    for access in [false, true] {
        let server = Server::with(GuestConfig { access }).await;
        let reply = server.send(request("GET", "/api/v1/info", &[], "")).await;
        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, Some("application/json")));
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            reply.json(),
            serde_json::json!({"name": "zynk", "version": version, "guest_access": access})
        );
        assert_eq!(reply.header("access-control-allow-origin"), None, "for this server's own pages");
    }
}

#[tokio::test]
async fn guests_get_a_token_for_one_room() {
    let server = server_for_guests().await;
    let reply = ask(&server, r#"{"room":" team ","name":"Ada Lovelace","extra":1}"#).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let body = reply.json();
    assert_eq!(body["room"], "team");
    let now = SystemTime::now();
    let claims = server.keys.verify(body["token"].as_str().unwrap(), now).unwrap();
    assert_eq!(claims.identity, body["identity"].as_str().unwrap());
    assert!(claims.identity.starts_with("ada-lovelace-"));
    assert_eq!((claims.name.as_str(), claims.video.room.as_str()), ("Ada Lovelace", "team"));
    let grants = &claims.video;
    assert!(grants.room_join && grants.can_publish() && grants.can_subscribe());
    assert!(!grants.room_admin && !grants.room_create && !grants.room_list && !grants.hidden);
    let life = claims.remaining_life(now);
    assert!(life <= GUEST_TOKEN_TTL && life > GUEST_TOKEN_TTL - Duration::from_secs(5));

    let bearer = format!("Bearer {}", body["token"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/sdp")];
    assert_eq!(server.send(request("POST", "/whip/team", &headers, publish_offer())).await.status, 201);

    let again = ask(&server, r#"{"room":"team","name":"Ada Lovelace"}"#).await.json();
    assert_ne!(again["identity"], body["identity"], "nobody takes another's place");
}

#[tokio::test]
async fn guests_are_refused_by_the_table() {
    let server = server_for_guests().await;
    let long = format!(r#"{{"room":"r","name":"{}"}}"#, "x".repeat(257));
    let huge = format!(r#"{{"room":"r","name":"{}"}}"#, "x".repeat(20_000));
    let mut lines = String::new();
    for (what, body) in [
        ("empty", ""),
        ("garbage", "hello"),
        ("no name", r#"{"room":"r"}"#),
        ("wrong type", "{\"room\":\n7,\"name\":\"n\"}"),
        ("empty name", r#"{"room":"r","name":"  "}"#),
        ("empty room", r#"{"room":"","name":"n"}"#),
        ("long name", &long),
        ("control character", r#"{"room":"r","name":"a\u0000b"}"#),
        ("too large", &huge),
    ] {
        lines.push_str(&format!("{what}: {}\n", ask(&server, body).await.line()));
    }
    let reply = server.send(request("POST", TOKENS, &[("content-type", "text/plain")], "{}")).await;
    lines.push_str(&format!("content type: {}\n", reply.line()));
    let closed = Server::start().await;
    lines.push_str(&format!("no guests: {}\n", ask(&closed, r#"{"room":"r","name":"n"}"#).await.line()));
    insta::assert_snapshot!(lines);
}

#[tokio::test]
async fn one_address_gets_only_so_many_tokens() {
    let server = server_for_guests().await;
    let ask_from = async |address: &str| {
        let mut request = request("POST", TOKENS, &JSON, r#"{"room":"r","name":"n"}"#);
        let address: SocketAddr = address.parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(address));
        server.send(request).await
    };
    let mut refused = None;
    for _ in 0..200 {
        let reply = ask_from("192.0.2.1:5000").await;
        if reply.status != 200 {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("an end of the allowance");
    assert_eq!(
        (refused.status.as_u16(), refused.json()["error"]["code"].as_str()),
        (429, Some("too_many_requests"))
    );
    assert_eq!(ask_from("192.0.2.2:5000").await.status, 200);
}

#[tokio::test]
async fn paths_may_begin_with_two_slashes() {
    let server = Server::start().await;
    assert_eq!(server.send(request("GET", "//api/v1/info", &[], "")).await.status, 200);
    assert_eq!(server.send(request("GET", "//whip/studio", &[], "")).await.status, 204);
}

#[tokio::test]
async fn everything_else_is_not_found() {
    let server = Server::start().await;
    for path in
        ["/twirp", "/twirp/livekit.RoomService", "/whip", "/whip/v1/a/b", "/api/v1", "/api/v1/nothing"]
    {
        assert_eq!(server.send(request("GET", path, &[], "")).await.status, 404, "{path}");
    }
}
