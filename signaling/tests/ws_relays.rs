//! Which relays clients are told over real connections, by where they come from.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod ws_support;

use std::path::Path;

use futures_util::StreamExt as _;
use prost::Message as _;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use ws_support::{Client, Response, Server, v1_path};
use zynk_protocol::livekit;
use zynk_signaling::{RelayConfig, SignalingConfig};

/// What the file says of 127.0.0.0/8 and of ::1.
const IPV4_IS_IN: &str = "us";
const IPV6_IS_IN: &str = "asia";

fn three_regions(config: &mut SignalingConfig) {
    config.geoip_database = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/places/loopback.mmdb");
    config.relay_regions_max = 1;
    let places = [("eu", 50.11, 8.68), ("us", 38.95, -77.45), ("asia", 1.35, 103.82)];
    config.relays = places
        .map(|(region, latitude, longitude)| RelayConfig {
            region: region.into(),
            urls: vec![format!("turn:{region}")],
            latitude: Some(latitude),
            longitude: Some(longitude),
            signal_url: format!("wss://{region}.example.org/?region={region}"),
            ..Default::default()
        })
        .into();
}

async fn urls(client: &mut Client) -> Vec<String> {
    let servers = |message| match message {
        Response::Join(join) => Some(join.ice_servers),
        Response::Reconnect(reconnect) => Some(reconnect.ice_servers),
        _ => None,
    };
    client.until("Join", servers).await.into_iter().flat_map(|server| server.urls).collect()
}

fn paths(server: &Server, identity: &str) -> [String; 2] {
    let token = server.token(identity);
    let client_info = Some(livekit::ClientInfo { protocol: 17, ..Default::default() });
    let request = livekit::JoinRequest { client_info, ..Default::default() };
    [format!("/rtc?access_token={token}&protocol=17"), v1_path(&token, &request)]
}

#[tokio::test]
async fn clients_are_told_what_is_near_their_address() {
    for (address, region) in [("127.0.0.1:0", IPV4_IS_IN), ("[::1]:0", IPV6_IS_IN)] {
        let server = Server::at(address, three_regions).await;
        for path in paths(&server, "alice") {
            let mut client = server.connect(&path).await.unwrap();
            assert_eq!(urls(&mut client).await, [format!("turn:{region}")], "{path}");
        }
    }
}

#[tokio::test]
async fn clients_may_ask_for_a_region() {
    let server = Server::with(three_regions).await;
    for path in paths(&server, "alice") {
        let mut client = server.connect(&format!("{path}&region=eu")).await.unwrap();
        assert_eq!(urls(&mut client).await, ["turn:eu"]);
        let mut client = server.connect(&format!("{path}&region=nowhere")).await.unwrap();
        assert_eq!(urls(&mut client).await, [format!("turn:{IPV4_IS_IN}")]);
    }
}

#[tokio::test]
async fn headers_of_proxies_are_not_believed() {
    let server = Server::with(three_regions).await;
    let [path, _] = paths(&server, "alice");
    let mut request = format!("ws://{}{path}", server.address).into_client_request().unwrap();
    for (name, value) in [("x-forwarded-for", "::1"), ("x-real-ip", "::1"), ("forwarded", "for=\"[::1]\"")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let message = socket.next().await.unwrap().unwrap().into_data();
    let Some(Response::Join(join)) = livekit::SignalResponse::decode(message).unwrap().message else {
        panic!("the first message is Join")
    };
    assert_eq!(join.ice_servers[0].urls, [format!("turn:{IPV4_IS_IN}")]);
}

#[tokio::test]
async fn regions_are_listed_nearest_first() {
    let server = Server::with(three_regions).await;
    let url = format!("http://{}/settings/regions", server.address);
    let response = server.http.get(&url).bearer_auth(server.token("alice")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["cache-control"], "private, max-age=3600");
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    let settings: serde_json::Value = response.json().await.unwrap();
    let regions = settings["regions"].as_array().unwrap();
    let names: Vec<_> = regions.iter().map(|region| region["region"].as_str().unwrap()).collect();
    assert_eq!(names, [IPV4_IS_IN, "eu", "asia"]);
    assert_eq!(regions[1]["url"], "wss://eu.example.org/?region=eu");
    let metres: u64 = regions[1]["distance"].as_str().unwrap().parse().unwrap();
    assert_eq!(metres / 10_000, 655);

    for token in ["", "garbage"] {
        let refused = server.http.get(&url).bearer_auth(token).send().await.unwrap();
        assert_eq!((refused.status().as_u16(), refused.text().await.unwrap().is_empty()), (401, false));
    }
    let (status, origin, _) = server.get("/settings/regions").await;
    assert_eq!((status, origin.as_str()), (401, "*"));
}

#[tokio::test]
async fn there_is_no_list_where_no_region_has_signaling() {
    let server = Server::start().await;
    let url = format!("http://{}/settings/regions", server.address);
    let response = server.http.get(&url).bearer_auth(server.token("alice")).send().await.unwrap();
    assert_eq!(response.status(), 404);
}
