//! `GET /api/v1/rooms/{room}/stats`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod http_support;

use std::time::{Duration, SystemTime};

use http_support::{Reply, Server, authorized, eventually, publish_offer, request};
use zynk_auth::{Claims, KeyRing, VideoGrants};
use zynk_protocol::{
    Bitrate, ConnectionId, ConnectionReport, ConnectionRole, ConnectionState, EncodingReport, MediaTransport,
    NodeAction, NodeEvent, RoomReport, RoomSid, TrackReport, TrackSid,
};

const PATH: &str = "/api/v1/rooms/studio/stats";

fn admin(room: &str) -> VideoGrants {
    VideoGrants { room_admin: true, room: room.into(), ..Default::default() }
}

async fn get(server: &Server, path: &str, grants: VideoGrants) -> Reply {
    server.send(authorized("GET", path, &server.token("", grants), "", "")).await
}

/// A server with a room in which `obs` publishes, and what the node knows of that.
async fn server_with_publisher() -> (Server, RoomSid, ConnectionReport) {
    let server = Server::start().await;
    let token = server.token("obs", VideoGrants::join("studio"));
    let reply =
        server.send(authorized("POST", "/whip/studio", &token, "application/sdp", publish_offer())).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    server.node.set_state(0, ConnectionState::Connected).await;
    let (room, connection, participant) = server
        .node
        .told("a connection", |command| match &command.action {
            NodeAction::OpenConnection(open) => {
                Some((command.room.clone(), open.connection, open.participant.clone()))
            }
            _ => None,
        })
        .await;
    let tracks: Vec<TrackSid> = server
        .node
        .commands()
        .into_iter()
        .filter_map(|command| match command.action {
            NodeAction::ExpectTrack(expected) => Some(expected.track),
            _ => None,
        })
        .collect();
    let report = |track: TrackSid| TrackReport {
        track,
        backup: false,
        muted: false,
        encodings: vec![EncodingReport { active: true, ..EncodingReport::default() }],
    };
    let report = ConnectionReport {
        connection,
        participant,
        role: ConnectionRole::Publisher,
        connected: true,
        transport: Some(MediaTransport::Tcp),
        rtt_ms: Some(21.5),
        estimate: None,
        queue_ms: 0.0,
        congested: false,
        tracks: tracks.into_iter().map(report).collect(),
        subscriptions: Vec::new(),
    };
    (server, room, report)
}

/// Waits for a question to the node, and answers it.
async fn answer(server: &Server, room: &RoomSid, number: u64, connections: Vec<ConnectionReport>) {
    let asked = server.node.told("a question", |command| match command.action {
        NodeAction::ReportRoom { request, .. } if request == number => Some(()),
        _ => None,
    });
    asked.await;
    let report = RoomReport { request: number, shares: 1, truncated: false, connections };
    server.node.notify(room, NodeEvent::RoomReport(Box::new(report))).await;
}

#[tokio::test]
async fn what_the_node_tells_is_put_into_words() {
    let (server, room, mut report) = server_with_publisher().await;
    let ids: Vec<String> = report.tracks.iter().map(|track| track.track.as_str().to_owned()).collect();
    assert_eq!(ids.len(), 2);
    let node = async {
        answer(&server, &room, 1, vec![report.clone()]).await;
        for (bps, track) in (1..).zip(&mut report.tracks) {
            let encoding = &mut track.encodings[0];
            *encoding = EncodingReport {
                bitrate: Bitrate::from_kbps(100 * bps),
                packets: 50,
                lost: 5,
                jitter_ms: 0.5,
                ..encoding.clone()
            };
        }
        let stranger = ConnectionReport {
            connection: ConnectionId(99),
            participant: "PA_of_nobody".parse().unwrap(),
            ..report.clone()
        };
        answer(&server, &room, 2, vec![report.clone(), stranger]).await;
    };
    let (reply, ()) = tokio::join!(get(&server, PATH, admin("studio")), node);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let mut body = reply.json();
    assert!((1000..2000).contains(&body["interval_ms"].as_u64().unwrap()), "{body}");
    body["interval_ms"] = 1000.into();
    let mut text = serde_json::to_string_pretty(&body).unwrap();
    let participant = report.participant.as_str();
    for (id, name) in ids.iter().map(String::as_str).zip(["TR_1", "TR_2"]).chain([
        (room.as_str(), "RM_1"),
        (participant, "PA_1"),
        (body["node"].as_str().unwrap(), "ND_1"),
    ]) {
        text = text.replace(id, name);
    }
    insta::assert_snapshot!(text);
}

#[tokio::test]
async fn questions_are_refused_by_the_table() {
    let (server, ..) = server_with_publisher().await;
    let (now, ttl) = (SystemTime::now(), Duration::from_secs(60));
    let claims = Claims { video: admin("studio"), ..Claims::default() };
    let expired = server.keys.sign(&claims, ttl, now - Duration::from_secs(3600)).unwrap();
    let foreign = KeyRing::single("key", "another secret").sign(&claims, ttl, now).unwrap();
    let other = server.token("", admin("elsewhere"));
    let member = server.token("bob", VideoGrants::join("studio"));
    let lists = VideoGrants { room_list: true, room_create: true, ..VideoGrants::default() };
    let lists = server.token("", lists);
    let nobody = server.token("", admin("no such room"));
    let mut lines = String::new();
    for (what, request) in [
        ("no token", request("GET", PATH, &[], "")),
        ("token in the query", request("GET", &format!("{PATH}?access_token={other}"), &[], "")),
        ("expired", authorized("GET", PATH, &expired, "", "")),
        ("foreign secret", authorized("GET", PATH, &foreign, "", "")),
        ("another room's admin", authorized("GET", PATH, &other, "", "")),
        ("a participant", authorized("GET", PATH, &member, "", "")),
        ("who may list rooms", authorized("GET", PATH, &lists, "", "")),
        ("no such room", authorized("GET", "/api/v1/rooms/no%20such%20room/stats", &nobody, "", "")),
        ("POST", authorized("POST", PATH, &other, "", "")),
    ] {
        lines.push_str(&format!("{what}: {}\n", server.send(request).await.line()));
    }
    insta::assert_snapshot!(lines);
}

#[tokio::test]
async fn a_node_that_does_not_answer_makes_503() {
    let (server, ..) = server_with_publisher().await;
    let reply = get(&server, PATH, admin("studio")).await;
    let expected =
        r#"503 application/json {"code":"unavailable","msg":"the media node did not answer in time"}"#;
    assert_eq!(reply.line(), expected);
    // The room goes on, and the next one who asks is answered.
    let again = async {
        eventually("the second question", || async {
            let asked = |command: &zynk_protocol::NodeCommand| {
                matches!(command.action, NodeAction::ReportRoom { request: 2, .. })
            };
            server.node.commands().iter().any(asked).then_some(())
        })
        .await
    };
    tokio::select! {
        reply = get(&server, PATH, admin("studio")) => panic!("{}", reply.line()),
        () = again => {}
    }
}
