//! Relays: what clients are told of them, when, and for how long.

use std::time::Duration;

use zynk_auth::TurnSecret;
use zynk_protocol::ConnectionState;
use zynk_protocol::livekit::{self, CandidateProtocol, ClientConfigSetting, simulate_scenario::Scenario};

use super::World;
use super::lifetime::{self, state};
use super::world::{Peer, Request, Response};
use crate::join::{JoinParams, Resume};
use crate::relays::{ClientPlace, RelayConfig};
use crate::room::RoomInput;
use crate::session::{Frame, Session};

/// When the world begins, in seconds since 1970.
const BEGIN_S: u64 = 1_700_000_000;

fn world() -> World {
    World::with(|config, _| {
        let stun =
            crate::config::IceServerConfig { urls: vec!["stun:s.example.org".into()], ..Default::default() };
        config.ice_servers = vec![stun];
        config.relay_credentials_ttl_s = 600;
        config.relays = ["eu", "us", "asia"].map(relay).into();
    })
}

fn relay(region: &str) -> RelayConfig {
    let urls = ["turn", "turns"].map(|scheme| format!("{scheme}:{region}.example.org?transport=tcp"));
    RelayConfig {
        region: region.into(),
        urls: urls.into(),
        secret: Some(region.to_owned().into()),
        ..Default::default()
    }
}

/// A client that asks for a region, so that it is told two.
fn asking_for(region: &str, params: JoinParams) -> JoinParams {
    JoinParams { place: ClientPlace { address: None, region: Some(region.into()) }, ..params }
}

fn servers(message: Response) -> Option<Vec<livekit::IceServer>> {
    match message {
        Response::Join(join) => Some(join.ice_servers),
        Response::Reconnect(reconnect) => Some(reconnect.ice_servers),
        _ => None,
    }
}

/// The servers are STUN and these regions' relays, each with credentials of this end.
#[track_caller]
fn assert_servers(servers: &[livekit::IceServer], peer: &Peer, regions: &[&str], end_s: u64) {
    assert_eq!(servers[0].urls, ["stun:s.example.org"]);
    assert_eq!(servers[0].username, "");
    assert_eq!(servers.len(), 1 + regions.len());
    for (server, region) in servers[1..].iter().zip(regions) {
        assert_eq!(server.urls, relay(region).urls);
        assert_eq!(server.username, format!("{end_s}:{}", peer.sid));
        let made = TurnSecret::new(*region).credentials(peer.sid.as_str(), Duration::ZERO, at(end_s));
        assert_eq!(server.credential, secrecy::ExposeSecret::expose_secret(&made.credential));
    }
}

fn at(seconds: u64) -> std::time::SystemTime {
    std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn whoever_joins_is_told_relays_with_credentials_that_end() {
    let mut world = world();
    for params in [World::params("alice"), World::single("bob")] {
        let peer = world.join(asking_for("us", params));
        let servers = world.told(&peer, servers);
        assert_servers(&servers, &peer, &["us", "eu"], BEGIN_S + 600);
    }
    let nowhere = world.join(World::params("carol"));
    let servers = world.told(&nowhere, servers);
    assert_servers(&servers, &nowhere, &["eu", "us", "asia"], BEGIN_S + 600);
}

#[test]
fn whoever_resumes_is_told_new_credentials_and_the_relays_near_where_it_is_now() {
    let mut world = world();
    let alice = world.join_active(asking_for("us", World::params("alice")));
    world.advance(Duration::from_secs(1_000 - 6));
    let session = world.session();
    let params = JoinParams { resume: Some(Resume::default()), ..World::params("alice") };
    world.input(RoomInput::Join { session, params: Box::new(asking_for("asia", params)) });
    let servers = world.inbox_of(session).into_iter().find_map(servers).unwrap();
    assert_servers(&servers, &alice, &["asia", "eu"], BEGIN_S + 1_600);
}

#[test]
fn whose_path_is_gone_is_told_another_relay_first() {
    let mut world = world();
    let mut alice = world.join_active(asking_for("us", World::params("alice")));
    for (first, second) in [("eu", "us"), ("us", "eu")] {
        world.node(state(&alice, ConnectionState::Disconnected));
        world.input(RoomInput::SessionAlive { session: alice.session });
        let session = world.session();
        let params = JoinParams { resume: Some(Resume::default()), ..World::params("alice") };
        world.input(RoomInput::Join { session, params: Box::new(asking_for("us", params)) });
        let servers = world.inbox_of(session).into_iter().find_map(servers).unwrap();
        let end_s = servers[1].username.split(':').next().unwrap().parse().unwrap();
        assert_servers(&servers, &alice, &[first, second], end_s);
        alice = lifetime::at(&alice, session);
        world.node(state(&alice, ConnectionState::Connected));
        world.advance(Duration::from_secs(40));
    }
}

#[test]
fn relays_are_the_same_in_json() {
    let mut world = world();
    let alice = world.join(asking_for("us", World::params("alice")));
    let join = world.told(&alice, |message| matches!(message, Response::Join(_)).then_some(message));
    let mut session = Session::new(1_000);
    assert!(session.handle_frame(0, &Frame::Text(r#"{"ping":"1"}"#.into())).is_ok());
    let response = livekit::SignalResponse { message: Some(join) };
    let Frame::Text(text) = session.encode(&response) else { panic!("a client of text gets text") };
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let server = &json["join"]["iceServers"][1];
    assert_eq!(server["urls"], serde_json::json!(relay("us").urls));
    assert_eq!(server["username"], format!("{}:{}", BEGIN_S + 600, alice.sid));
    assert_eq!(server["credential"].as_str().unwrap().len(), 28, "Base64 of 20 bytes");
}

#[test]
fn l113_a_configured_relay_over_tls_is_used() {
    let mut world = world();
    let alice = world.join_active(World::params("alice"));
    let scenario = Some(Scenario::SwitchCandidateProtocol(CandidateProtocol::Tls.into()));
    world.signal(&alice, Request::Simulate(livekit::SimulateScenario { scenario }));
    let alice = world.join(World::params("alice"));
    let configuration = world.told(&alice, |message| match message {
        Response::Join(join) => join.client_configuration,
        _ => None,
    });
    assert_eq!(configuration.force_relay(), ClientConfigSetting::Enabled);
}
