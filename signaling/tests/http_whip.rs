//! WHIP and WHEP as their clients see them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod http_support;

use std::time::{Duration, SystemTime};

use http_support::{
    AUDIO, Reply, Server, VIDEO, authorized, eventually, offer_sdp, play_offer, publish_offer, request,
};
use zynk_auth::{Claims, KeyRing, TurnSecret, VideoGrants, turn_expiry};
use zynk_protocol::{ConnectionRole, ConnectionState, Identity, NodeAction, RoomName, livekit};
use zynk_signaling::{AdminRequest, AdminResponse, GuestConfig, OwnRelay};

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
const TRICKLE: &str = "a=ice-ufrag:clnt\r\na=ice-pwd:clientpasswordclientpass\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n\
    a=mid:0\r\na=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\na=end-of-candidates\r\n";
const RESTART: &str = "a=ice-ufrag:newu\r\na=ice-pwd:newpasswordnewpasswordnew\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n\
    a=mid:0\r\na=candidate:1 1 udp 2122260223 192.0.2.1 61765 typ host\r\n";

fn join(room: &str) -> VideoGrants {
    VideoGrants::join(room)
}

async fn post(server: &Server, path: &str, token: &str, offer: impl Into<String>) -> Reply {
    server.send(authorized("POST", path, token, SDP, offer.into())).await
}

async fn patch(server: &Server, path: &str, token: &str, if_match: &str, body: &str) -> Reply {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("authorization", bearer.as_str()), ("content-type", FRAGMENT)];
    if !if_match.is_empty() {
        headers.push(("if-match", if_match));
    }
    server.send(request("PATCH", path, &headers, body.to_owned())).await
}

async fn participants(server: &Server, room: &str) -> Vec<livekit::ParticipantInfo> {
    match server.directory.admin(&RoomName::new(room), AdminRequest::ListParticipants).await {
        Ok(AdminResponse::Participants(participants)) => participants,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn relays_are_told_with_credentials_that_end() {
    let secret = TurnSecret::new("north");
    let relay = OwnRelay { urls: vec!["turns:r.example:443?transport=tcp".into()], secret: secret.clone() };
    let server = Server::with_relay(GuestConfig::default(), Some(relay)).await;
    for (path, offer) in [("/whip/studio", publish_offer()), ("/whep/studio?region=eu", play_offer())] {
        let token = server.token(path, join("studio"));
        let reply = post(&server, path, &token, offer).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        let link = reply.headers.get_all("link").iter().nth(2).unwrap().to_str().unwrap();
        let mut quoted = link.split('"').skip(1).step_by(2);
        assert!(
            link.starts_with("<turns:r.example:443?transport=tcp>; rel=\"ice-server\"; username="),
            "{link}"
        );
        let (username, credential) = (quoted.nth(1).unwrap(), quoted.next().unwrap());
        assert_eq!(credential, secrecy::ExposeSecret::expose_secret(&secret.credential(username)));
        let left = turn_expiry(username).unwrap().duration_since(SystemTime::now()).unwrap();
        assert!((43_100..=43_200).contains(&left.as_secs()), "{left:?}");
        assert!(username.contains(":PA_"), "{username}");
    }
}

#[tokio::test]
async fn publishing_gives_everything_that_a_client_needs() {
    let server = Server::start().await;
    let token = server.token("obs", join("studio"));
    let reply = post(&server, "/whip/studio", &token, publish_offer()).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some(SDP));
    assert_eq!(reply.header("etag"), Some("\"node1\""));
    assert!(reply.text().starts_with("v=0\r\n") && reply.text().contains("a=ice-ufrag:node1\r\n"));
    let location = reply.header("location").unwrap();
    assert!(location.starts_with("/whip/v1/") && location.len() == "/whip/v1/".len() + 24, "{location}");
    let links: Vec<&str> = reply.headers.get_all("link").iter().map(|link| link.to_str().unwrap()).collect();
    assert_eq!(
        links,
        [
            "<stun:stun.example:3478>; rel=\"ice-server\"",
            "<turn:turn.example:3478?transport=udp>; rel=\"ice-server\"; username=\"user\"; \
             credential=\"pass\"; credential-type=\"password\"",
        ]
    );
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    assert_eq!(reply.header("access-control-expose-headers"), Some("*"));

    let tracks = eventually("tracks", || async {
        let participant = participants(&server, "studio").await.remove(0);
        (participant.tracks.len() == 2).then_some(participant.tracks)
    })
    .await;
    let names: Vec<_> = tracks.iter().map(|track| (track.name.as_str(), track.source())).collect();
    assert_eq!(
        names,
        [
            ("synthesized-microphone", livekit::TrackSource::Microphone),
            ("synthesized-camera", livekit::TrackSource::Camera)
        ]
    );
    let expected = server
        .node
        .told("the audio track", |command| match &command.action {
            NodeAction::ExpectTrack(track) if track.cids.first().is_some_and(|cid| cid == "mic") => {
                Some(track.clone())
            }
            _ => None,
        })
        .await;
    assert!(!expected.dtx, "WHIP clients are not asked for discontinuous transmission");
}

#[tokio::test]
async fn room_comes_from_path_or_token() {
    let server = Server::start().await;
    let token = server.token("a", join("a room/with ☃"));
    let reply = post(&server, "/whip/v1", &token, publish_offer()).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let reply = post(&server, "/whip/a%20room%2Fwith%20%E2%98%83", &token, publish_offer()).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(
        participants(&server, "a room/with ☃").await.len(),
        1,
        "the second took the first one's place"
    );
}

#[tokio::test]
async fn candidates_trickle_and_ice_restarts() {
    let server = Server::start().await;
    let token = server.token("obs", join("studio"));
    let created = post(&server, "/whip/studio", &token, publish_offer()).await;
    let (location, etag) = (created.header("location").unwrap(), created.header("etag").unwrap());

    let reply = patch(&server, location, &token, etag, TRICKLE).await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0), "{}", reply.text());
    let candidate = server
        .node
        .told("the candidate", |command| match &command.action {
            NodeAction::RemoteCandidate { candidate, .. } => Some(candidate.clone()),
            _ => None,
        })
        .await;
    assert_eq!(candidate, "candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host");

    let reply = patch(&server, location, &token, "*", RESTART).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some(FRAGMENT));
    assert_eq!(reply.header("etag"), Some("\"node2\""));
    assert_eq!(
        reply.text(),
        "a=ice-lite\r\na=ice-ufrag:node2\r\na=ice-pwd:passwordpasswordpass02\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n\
         a=candidate:1 1 udp 2130706431 127.0.0.1 7882 typ host\r\na=end-of-candidates\r\n"
    );
    let (offer_id, sdp) = server
        .node
        .told("the second offer", |command| match &command.action {
            NodeAction::RemoteOffer { offer_id, sdp, .. } if *offer_id > 1 => Some((*offer_id, sdp.clone())),
            _ => None,
        })
        .await;
    assert_eq!(offer_id, 2);
    assert!(sdp.contains("a=ice-ufrag:newu\r\n") && !sdp.contains("clnt") && sdp.contains(" 61765 typ host"));
    assert!(sdp.contains("o=- 5 3 IN IP4 127.0.0.1\r\n") && sdp.contains("a=msid:s cam"));

    // The old ICE session is over, the new one takes candidates.
    assert_eq!(patch(&server, location, &token, etag, TRICKLE).await.status, 412);
    let new_candidates = RESTART.replace("61765", "61766");
    assert_eq!(patch(&server, location, &token, "\"node2\"", &new_candidates).await.status, 204);
    // The same credentials again are no restart.
    assert_eq!(patch(&server, location, &token, "*", &new_candidates).await.status, 204);
}

#[tokio::test]
async fn patches_are_refused_by_the_table() {
    let server = Server::start().await;
    let token = server.token("obs", join("studio"));
    let created = post(&server, "/whip/studio", &token, publish_offer()).await;
    let (location, etag) = (created.header("location").unwrap(), created.header("etag").unwrap());
    let too_large = format!("a={}\r\n", "x".repeat(70_000));
    let mut lines = String::new();
    for (what, if_match, body) in [
        ("no If-Match", "", TRICKLE),
        ("other ETag", "\"other\"", TRICKLE),
        ("weak ETag", "W/\"node1\"", TRICKLE),
        ("new credentials without *", etag, RESTART),
        ("restart without password", "*", "a=ice-ufrag:newu\r\n"),
        ("garbage", etag, "hello"),
        ("malformed ufrag", "*", "a=ice-ufrag:!!!!\r\n"),
        ("too large", etag, &too_large),
    ] {
        let reply = patch(&server, location, &token, if_match, body).await;
        lines.push_str(&format!("{what}: {}\n", reply.line()));
    }
    let reply = server.send(authorized("PATCH", location, &token, SDP, TRICKLE)).await;
    assert_eq!(reply.header("accept-patch"), Some(FRAGMENT));
    lines.push_str(&format!("content type: {}\n", reply.line()));
    let reply = patch(&server, "/whip/v1/nothing", &token, etag, TRICKLE).await;
    lines.push_str(&format!("unknown session: {}\n", reply.line()));
    insta::assert_snapshot!(lines);
    // None of that ended the session.
    assert_eq!(patch(&server, location, &token, etag, TRICKLE).await.status, 204);
}

#[tokio::test]
async fn deleting_ends_the_session() {
    let server = Server::start().await;
    let token = server.token("obs", join("studio"));
    let created = post(&server, "/whip/studio", &token, publish_offer()).await;
    let location = created.header("location").unwrap();
    assert_eq!(participants(&server, "studio").await.len(), 1);
    assert_eq!(server.send(authorized("DELETE", location, &token, "", "")).await.status, 200);
    assert_eq!(participants(&server, "studio").await.len(), 0);
    let again = server.send(authorized("DELETE", location, &token, "", "")).await;
    assert_eq!((again.status.as_u16(), again.json()["code"].as_str()), (404, Some("session_not_found")));
}

#[tokio::test]
async fn a_failed_transport_ends_the_session() {
    let server = Server::start().await;
    for (index, state) in [ConnectionState::Failed, ConnectionState::Closed].into_iter().enumerate() {
        let token = server.token("obs", join("studio"));
        let created = post(&server, "/whip/studio", &token, publish_offer()).await;
        let location = created.header("location").unwrap();
        server.node.set_state(index, ConnectionState::Connected).await;
        server.node.set_state(index, state).await;
        eventually("the session's end", || async {
            let reply = patch(&server, location, &token, "*", TRICKLE).await;
            (reply.status == 404).then_some(())
        })
        .await;
        assert_eq!(participants(&server, "studio").await.len(), 0);
    }
}

#[tokio::test]
async fn sessions_belong_to_their_participant() {
    let server = Server::start().await;
    let token = server.token("obs", join("studio"));
    let created = post(&server, "/whip/studio", &token, publish_offer()).await;
    let location = created.header("location").unwrap();
    for (who, grants) in [
        ("other", join("studio")),
        ("obs", join("elsewhere")),
        ("obs", VideoGrants { room: "studio".into(), ..Default::default() }),
        ("obs", VideoGrants { room_admin: true, ..join("elsewhere") }),
    ] {
        let foreign = server.token(who, grants);
        for method in ["PATCH", "DELETE"] {
            let reply = server.send(authorized(method, location, &foreign, FRAGMENT, TRICKLE)).await;
            assert_eq!(
                (reply.status.as_u16(), reply.json()["code"].as_str()),
                (403, Some("not_your_session"))
            );
        }
    }
    for method in ["PATCH", "DELETE"] {
        let reply = server.send(request(method, location, &[], "")).await;
        assert_eq!((reply.status.as_u16(), reply.json()["code"].as_str()), (401, Some("token_missing")));
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    let admin = server.token("boss", VideoGrants { room_admin: true, ..join("studio") });
    assert_eq!(server.send(authorized("DELETE", location, &admin, "", "")).await.status, 200);
}

#[tokio::test]
async fn admins_name_the_session() {
    let server = Server::start().await;
    let grants = VideoGrants { room_admin: true, room: "studio".into(), ..Default::default() };
    let token = server.token("boss", grants);
    let reply = post(&server, "/whip/studio?identity=camera%201", &token, publish_offer()).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(participants(&server, "studio").await[0].identity, "camera 1");
    let ordinary = server.token("me", join("studio"));
    let reply = post(&server, "/whip/studio?identity=you", &ordinary, publish_offer()).await;
    assert_eq!((reply.status.as_u16(), reply.json()["code"].as_str()), (403, Some("not_admin")));
}

#[tokio::test]
async fn posts_are_refused_by_the_table() {
    let server = Server::start().await;
    let now = SystemTime::now();
    let ttl = Duration::from_secs(60);
    let claims = Claims { video: join("studio"), ..Claims::for_identity("obs") };
    let good = server.token("obs", join("studio"));
    let foreign = KeyRing::single("key", "another secret").sign(&claims, ttl, now).unwrap();
    let unknown = KeyRing::single("nobody", "another secret").sign(&claims, ttl, now).unwrap();
    let expired = server.keys.sign(&claims, ttl, now - Duration::from_secs(3600)).unwrap();
    let early = server.keys.sign(&claims, ttl, now + Duration::from_secs(3600)).unwrap();
    // {"alg":"none"} . {"iss":"key","sub":"obs","exp":9999999999,"video":{"roomJoin":true,"room":"studio"}}
    let unsigned = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJrZXkiLCJzdWIiOiJvYnMiLCJleHAiOjk5OTk5OTk5OTksInZpZGVvIjp7InJv\
        b21Kb2luIjp0cnVlLCJyb29tIjoic3R1ZGlvIn19.";
    let grantless = server.token("obs", VideoGrants { room: "studio".into(), ..Default::default() });
    let without_grants = server.token("obs", VideoGrants::default());
    let mute = server.token("obs", VideoGrants { can_publish: Some(false), ..join("studio") });
    let deaf = server.token("obs", VideoGrants { can_subscribe: Some(false), ..join("studio") });
    let audio_only =
        server.token("obs", VideoGrants { can_publish_sources: vec!["microphone".into()], ..join("studio") });
    let nobody = server.token("", join("studio"));
    let long = server.token(&"x".repeat(257), join("studio"));
    let roomless = server.token("obs", VideoGrants { room_join: true, ..Default::default() });

    let without = |prefix: &str| -> String {
        publish_offer()
            .lines()
            .filter(|line| !line.starts_with(prefix))
            .map(|line| format!("{line}\r\n"))
            .collect()
    };
    let huge = "v=0\r\n".repeat(300_000);
    let plain = publish_offer().replace("UDP/TLS/RTP/SAVPF", "RTP/AVP");
    let cases: Vec<(&str, &str, &str, String)> = vec![
        ("expired", "/whip/studio", &expired, publish_offer()),
        ("not yet valid", "/whip/studio", &early, publish_offer()),
        ("foreign secret", "/whip/studio", &foreign, publish_offer()),
        ("unknown key", "/whip/studio", &unknown, publish_offer()),
        ("alg none", "/whip/studio", unsigned, publish_offer()),
        ("not a token", "/whip/studio", "abc", publish_offer()),
        ("grantless", "/whip/studio", &grantless, publish_offer()),
        ("no grants", "/whip/studio", &without_grants, publish_offer()),
        ("no grants, no room", "/whip/v1", &without_grants, publish_offer()),
        ("no identity", "/whip/studio", &nobody, publish_offer()),
        ("long identity", "/whip/studio", &long, publish_offer()),
        ("no room", "/whip/v1", &roomless, publish_offer()),
        ("wrong room", "/whip/other", &good, publish_offer()),
        ("cannot publish", "/whip/studio", &mute, publish_offer()),
        ("source not allowed", "/whip/studio", &audio_only, publish_offer()),
        ("cannot subscribe", "/whep/studio", &deaf, play_offer()),
        ("garbage", "/whip/studio", &good, "hello".into()),
        ("empty", "/whip/studio", &good, String::new()),
        ("no ICE", "/whip/studio", &good, without("a=ice-")),
        ("no fingerprint", "/whip/studio", &good, without("a=fingerprint")),
        ("plain RTP", "/whip/studio", &good, plain.clone()),
        ("plain RTP to play", "/whep/studio", &good, play_offer().replace("UDP/TLS/RTP/SAVPF", "RTP/AVPF")),
        ("nothing to send", "/whip/studio", &good, play_offer()),
        ("nothing to receive", "/whep/studio", &good, publish_offer()),
        (
            "two videos",
            "/whip/studio",
            &good,
            offer_sdp("-", &[(VIDEO, &["sendonly"]), (VIDEO, &["sendonly"])]),
        ),
        ("too large", "/whip/studio", &good, huge),
        ("refused by the node", "/whip/studio", &good, publish_offer().replace("s=-", "s=refuse")),
    ];
    let mut lines = String::new();
    for (what, path, token, offer) in cases {
        let reply = post(&server, path, token, offer).await;
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{what}");
        assert_eq!(reply.json()["status"], reply.status.as_u16(), "{what}");
        lines.push_str(&format!("{what}: {}\n", reply.line()));
    }
    let bearer = format!("Bearer {good}");
    for (what, headers) in [
        ("no token", vec![("content-type", SDP)]),
        ("not bearer", vec![("content-type", SDP), ("authorization", "Basic abc")]),
        ("content type", vec![("content-type", "text/plain"), ("authorization", &bearer)]),
        ("no content type", vec![("authorization", &bearer)]),
        ("accept", vec![("content-type", SDP), ("accept", "text/html"), ("authorization", &bearer)]),
    ] {
        let reply = server.send(request("POST", "/whip/studio", &headers, publish_offer())).await;
        lines.push_str(&format!("{what}: {}\n", reply.line()));
    }
    insta::assert_snapshot!(lines);
    // Nobody was let in, and nobody stayed.
    eventually("empty rooms", || async {
        let rooms = server.directory.list_rooms(&[]).await;
        rooms.iter().all(|room| room.num_participants == 0).then_some(())
    })
    .await;
    let reply = server.send(authorized("POST", "/whip/studio", &good, FRAGMENT, publish_offer())).await;
    assert_eq!((reply.status.as_u16(), reply.header("accept-post")), (415, Some(SDP)));
    // Content types may have parameters.
    let content_type = "Application/SDP; charset=utf-8";
    let reply = server.send(authorized("POST", "/whip/studio", &good, content_type, publish_offer())).await;
    assert_eq!(reply.status, 201);
}

/// T10: no endpoint does anything for somebody unknown.
#[tokio::test]
async fn t10_nothing_without_a_token() {
    let server = Server::start().await;
    for (method, path) in [
        ("POST", "/whip/v1"),
        ("POST", "/whip/studio"),
        ("PATCH", "/whip/v1/x"),
        ("DELETE", "/whip/v1/x"),
        ("POST", "/whep/v1"),
        ("POST", "/whep/studio"),
        ("PATCH", "/whep/v1/x"),
        ("DELETE", "/whep/v1/x"),
    ] {
        for content_type in [SDP, FRAGMENT, ""] {
            let headers = [("content-type", content_type), ("if-match", "*")];
            let reply = server.send(request(method, path, &headers, publish_offer())).await;
            assert_eq!(
                (reply.status.as_u16(), reply.json()["code"].as_str()),
                (401, Some("token_missing")),
                "{path}"
            );
        }
    }
    assert_eq!(server.node.commands(), []);
}

/// T15: of two tokens, neither counts.
#[tokio::test]
async fn t15_repeated_headers_do_not_change_identity() {
    let server = Server::start().await;
    let (alice, bob) = (server.token("alice", join("studio")), server.token("bob", join("studio")));
    let (alice, bob) = (format!("Bearer {alice}"), format!("Bearer {bob}"));
    let headers = [("authorization", alice.as_str()), ("Authorization", &bob), ("content-type", SDP)];
    let reply = server.send(request("POST", "/whip/studio", &headers, publish_offer())).await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()["code"].as_str()),
        (401, Some("authorization_malformed"))
    );
    for query in ["identity=bob&identity=eve", "identity=bob%00", "participant"] {
        let path = format!("/whip/studio?{query}");
        let headers = [("authorization", alice.as_str()), ("content-type", SDP)];
        let reply = server.send(request("POST", &path, &headers, publish_offer())).await;
        assert!(matches!(reply.status.as_u16(), 400 | 403 | 201), "{query}: {}", reply.line());
        if query.starts_with("identity=bob&") {
            assert_eq!(reply.status, 400);
            assert_eq!(reply.header("content-type"), Some("application/problem+json"));
            assert_eq!(reply.json()["code"], "query_malformed");
        }
        let expected = if reply.status == 201 { vec!["alice".to_owned()] } else { Vec::new() };
        let present =
            match server.directory.admin(&RoomName::new("studio"), AdminRequest::ListParticipants).await {
                Ok(AdminResponse::Participants(participants)) => {
                    participants.into_iter().map(|p| p.identity).collect()
                }
                _ => Vec::new(),
            };
        assert_eq!(present, expected, "{query}");
    }
}

#[tokio::test]
async fn other_methods() {
    let server = Server::start().await;
    for path in ["/whip/v1", "/whip/studio", "/whip/v1/x", "/whep/v1", "/whep/studio", "/whep/v1/x"] {
        assert_eq!(server.send(request("GET", path, &[], "")).await.status, 204, "{path}");
        assert_eq!(server.send(request("PUT", path, &[], "")).await.status, 405, "{path}");
        let preflight = [
            ("origin", "https://player.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type,if-match"),
        ];
        let reply = server.send(request("OPTIONS", path, &preflight, "")).await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
        assert_eq!(reply.header("access-control-allow-headers"), Some("authorization,content-type,if-match"));
        assert_eq!(reply.header("access-control-allow-methods"), Some("OPTIONS,HEAD,GET,POST,PATCH,DELETE"));
        assert_eq!(reply.header("access-control-max-age"), Some("86400"));
        assert_eq!(reply.header("accept-post"), Some(SDP));
        assert_eq!(reply.header("accept-patch"), Some(FRAGMENT));
    }
}

#[tokio::test]
async fn players_get_tracks_in_order_of_publication() {
    let server = Server::start().await;
    for name in ["zoe", "adam"] {
        let token = server.token(name, join("studio"));
        assert_eq!(post(&server, "/whip/studio", &token, publish_offer()).await.status, 201);
    }
    server.node.set_state(0, ConnectionState::Connected).await;
    server.node.set_state(1, ConnectionState::Connected).await;
    eventually("four tracks", || async {
        let participants = participants(&server, "studio").await;
        (participants.iter().map(|p| p.tracks.len()).sum::<usize>() == 4).then_some(())
    })
    .await;

    let token = server.token("viewer", join("studio"));
    let offer = offer_sdp("-", &[(AUDIO, &["recvonly"]), (VIDEO, &["recvonly"]), (VIDEO, &["recvonly"])]);
    let reply = post(&server, "/whep/studio", &token, offer).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert!(reply.header("location").unwrap().starts_with("/whep/v1/"));

    let commands = server.node.commands();
    let published: Vec<_> = commands
        .iter()
        .filter_map(|command| match &command.action {
            NodeAction::ExpectTrack(track) => Some(track.track.clone()),
            _ => None,
        })
        .collect();
    let open = commands
        .iter()
        .filter_map(|command| match &command.action {
            NodeAction::OpenConnection(open) => Some(open.clone()),
            _ => None,
        })
        .next_back()
        .unwrap();
    assert!(open.late_binding && open.role == ConnectionRole::Single);
    let subscribed = eventually("four subscriptions", || async {
        let commands = server.node.commands().into_iter();
        let tracks: Vec<_> = commands
            .filter_map(|command| match command.action {
                NodeAction::Subscribe(subscribe) if subscribe.connection == open.connection => {
                    Some(subscribe.track)
                }
                _ => None,
            })
            .collect();
        (tracks.len() == 4).then_some(tracks)
    })
    .await;
    assert_eq!(subscribed, published, "zoe's first");

    let location = reply.header("location").unwrap();
    let reply = patch(&server, location, &token, "\"node1\"", TRICKLE).await;
    assert_eq!(reply.status, 204, "{}", reply.text());
    assert_eq!(server.send(authorized("DELETE", location, &token, "", "")).await.status, 200);
}

#[tokio::test]
async fn players_may_follow_one_publisher() {
    let server = Server::start().await;
    for (index, name) in ["zoe", "adam"].into_iter().enumerate() {
        let token = server.token(name, join("studio"));
        assert_eq!(post(&server, "/whip/studio", &token, publish_offer()).await.status, 201);
        server.node.set_state(index, ConnectionState::Connected).await;
    }
    let token = server.token("viewer", join("studio"));
    let reply = post(&server, "/whep/studio?participant=adam", &token, play_offer()).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let connection = server.node.connections()[2].1;
    let adam = eventually("adam's tracks", || async {
        let list = AdminRequest::GetParticipant(Identity::new("adam"));
        match server.directory.admin(&RoomName::new("studio"), list).await {
            Ok(AdminResponse::Participant(adam)) if adam.tracks.len() == 2 => Some(adam),
            _ => None,
        }
    })
    .await;
    let mut wanted: Vec<String> = adam.tracks.into_iter().map(|track| track.sid).collect();
    wanted.sort();
    let subscribed = eventually("two subscriptions", || async {
        let mut subscribed: Vec<String> = server
            .node
            .commands()
            .into_iter()
            .filter_map(|command| match command.action {
                NodeAction::Subscribe(subscribe) if subscribe.connection == connection => {
                    Some(subscribe.track.into_string())
                }
                _ => None,
            })
            .collect();
        subscribed.sort();
        (subscribed.len() >= 2).then_some(subscribed)
    })
    .await;
    assert_eq!(subscribed, wanted);
}
