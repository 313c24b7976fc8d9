//! Sessions over real WebSockets. Names begin with the line of `docs/livekit-compatibility.md` that the
//! test shows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod ws_support;

use std::time::{Duration, Instant, SystemTime};

use tokio_tungstenite::tungstenite::Message;
use ws_support::{Client, Received, Request, Response, Server, claims, v1_path};
use zynk_protocol::livekit::leave_request::Action;
use zynk_protocol::livekit::{self, DisconnectReason};

fn leave(message: Response) -> Option<livekit::LeaveRequest> {
    match message {
        Response::Leave(leave) => Some(leave),
        _ => None,
    }
}

/// The connection still works.
async fn assert_alive(client: &mut Client) {
    client.send(Request::Ping(1)).await;
    client.until("Pong", |message| matches!(message, Response::Pong(_)).then_some(())).await;
}

#[tokio::test]
async fn l21_the_first_message_is_join_in_binary() {
    let server = Server::start().await;
    let path = format!("/rtc?access_token={}&protocol=17", server.token("alice"));
    let begun = Instant::now();
    let mut client = server.connect(&path).await.unwrap();
    assert!(matches!(client.receive().await, Received::Binary(Response::Join(_))));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn l22_text_is_answered_with_text_and_binary_with_binary() {
    let server = Server::start().await;
    let mut client = server.join("alice").await;
    client.send_raw(Message::text(r#"{"pingReq":{"timestamp":"7"}}"#)).await;
    let reply = loop {
        if let Received::Text(reply) = client.receive().await {
            break reply;
        }
    };
    assert_eq!(reply["pongResp"]["lastPingTimestamp"], "7");
    assert_alive(&mut client).await;
}

#[tokio::test]
async fn l23_too_large_a_message_ends_that_session_alone() {
    let server = Server::start().await;
    let mut bystander = server.join_active("bob").await;
    let mut client = server.join_active("alice").await;
    let message = Message::Binary(vec![0; 2 * 1024 * 1024 + 1].into());
    // The server may give up before it has read the whole.
    drop(futures_util::SinkExt::send(&mut client.socket, message).await);
    let gone = |info: &livekit::ParticipantInfo| info.identity == "alice" && info.state == 3;
    bystander.until_participant("alice gone", gone).await;
    assert_alive(&mut bystander).await;
}

#[tokio::test]
async fn l23_a_message_just_within_the_limit_passes() {
    let server = Server::start().await;
    let mut client = server.join("alice").await;
    // An unknown field of bytes: tag 2002 of wire type 2, then a length of three bytes.
    let length = 2 * 1024 * 1024 - 5;
    let mut frame = vec![0x92, 0x7d];
    frame.extend([(length & 0x7f) as u8 | 0x80, ((length >> 7) & 0x7f) as u8 | 0x80, (length >> 14) as u8]);
    frame.resize(2 * 1024 * 1024, 7);
    client.send_raw(Message::Binary(frame.into())).await;
    assert_alive(&mut client).await;
}

#[tokio::test]
async fn l24_the_server_pings_every_ten_seconds() {
    let server = Server::start().await;
    let mut client = server.join("alice").await;
    let begun = Instant::now();
    while !matches!(client.receive().await, Received::Ping) {}
    let waited = begun.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(13)).contains(&waited), "{waited:?}");
}

#[tokio::test]
async fn l130_unknown_messages_change_nothing() {
    let server = Server::start().await;
    let mut client = server.join("alice").await;
    client.send_raw(Message::Binary(vec![0x80, 0x7d, 0x01].into())).await;
    assert_alive(&mut client).await;
}

#[tokio::test]
async fn malformed_messages_end_the_session_with_a_reason() {
    let server = Server::start().await;
    let mut bystander = server.join_active("bob").await;
    for (frame, word) in
        [(Message::Binary(vec![0xff; 64].into()), "protobuf"), (Message::text("{\"mute\": 5}"), "JSON")]
    {
        let is_text = frame.is_text();
        let mut client = server.join_active("alice").await;
        client.send_raw(frame).await;
        if is_text {
            // Answered in kind.
            let message = loop {
                match client.receive().await {
                    Received::Text(message) if message["requestResponse"].is_object() => break message,
                    Received::Closed(_) => panic!("closed without a reason"),
                    _ => {}
                }
            };
            assert!(message["requestResponse"]["message"].as_str().unwrap().contains(word));
            assert_eq!(client.rest().await.1, Some(1007));
        } else {
            let (messages, code) = client.rest().await;
            let refused = messages.iter().find_map(|message| match message {
                Response::RequestResponse(refused) => Some(refused.message.clone()),
                _ => None,
            });
            assert!(refused.unwrap().contains(word), "{messages:?}");
            assert!(matches!(messages.last(), Some(Response::Leave(_))), "{messages:?}");
            assert_eq!(code, Some(1007));
        }
        let gone = |info: &livekit::ParticipantInfo| info.identity == "alice" && info.state == 3;
        bystander.until_participant("alice gone", gone).await;
    }
    assert_alive(&mut bystander).await;
}

#[tokio::test]
async fn garbage_for_sdp_ends_the_session_with_a_reason() {
    let server = Server::start().await;
    let mut bystander = server.join_active("bob").await;
    let mut client = server.join_active("alice").await;
    let offer = livekit::SessionDescription {
        r#type: "offer".into(),
        sdp: "garbage".into(),
        id: 2,
        ..Default::default()
    };
    client.send(Request::Offer(offer)).await;
    let (messages, code) = client.rest().await;
    let [.., Response::RequestResponse(refused), Response::Leave(left)] = &messages[..] else {
        panic!("{messages:?}")
    };
    assert_eq!(refused.message, "invalid SDP: garbage");
    assert_eq!((left.action(), code), (Action::Disconnect, Some(1000)));
    assert_alive(&mut bystander).await;
}

#[tokio::test]
async fn l84_l111_a_leave_comes_before_the_close() {
    let server = Server::start().await;
    let mut client = server.join_active("alice").await;
    client.send(Request::Leave(livekit::LeaveRequest::default())).await;
    let (messages, code) = client.rest().await;
    assert!(matches!(messages.last(), Some(Response::Leave(_))), "{messages:?}");
    assert_eq!(code, Some(1000));
}

#[tokio::test]
async fn l85_l111_a_stopping_server_says_so() {
    let server = Server::start().await;
    let mut clients = [server.join_active("alice").await, server.join("bob").await];
    server.directory.shutdown().await;
    for client in &mut clients {
        let (messages, code) = client.rest().await;
        let left = messages.into_iter().find_map(leave).unwrap();
        assert_eq!((left.reason(), left.action()), (DisconnectReason::ServerShutdown, Action::Reconnect));
        assert_eq!(code, Some(1000));
    }
    let path = format!("/rtc?access_token={}", server.token("carol"));
    assert_eq!(server.connect(&path).await.err().unwrap().0, 503);
}

fn resume_request() -> livekit::JoinRequest {
    livekit::JoinRequest { reconnect: true, ..Default::default() }
}

#[tokio::test]
async fn l103_l109_l112_a_lost_connection_resumes_with_the_fresh_token() {
    let server = Server::start().await;
    let mut watcher = server.join_active("bob").await;
    let request = livekit::JoinRequest {
        publisher_offer: Some(livekit::SessionDescription { sdp: "v=0".into(), id: 1, ..Default::default() }),
        ..Default::default()
    };
    let short = server.keys.sign(&claims("alice"), Duration::from_secs(5), SystemTime::now()).unwrap();
    let mut client = server.connect(&v1_path(&short, &request)).await.unwrap();
    let fresh = client
        .until("RefreshToken", |message| match message {
            Response::RefreshToken(token) => Some(token),
            _ => None,
        })
        .await;
    // By then the token of the join is of no use.
    let later = SystemTime::now() + Duration::from_secs(300);
    assert!(server.keys.verify(&short, later).is_err());
    assert!(server.keys.verify(&fresh, later).is_ok());
    client.until("Answer", |message| matches!(message, Response::Answer(_)).then_some(())).await;
    let active = |info: &livekit::ParticipantInfo| info.identity == "alice" && info.state == 2;
    let sid = watcher.until_participant("alice active", active).await.sid;
    drop(client);
    let mut resumed = server.connect(&v1_path(&fresh, &resume_request())).await.unwrap();
    assert!(matches!(resumed.receive().await, Received::Binary(Response::Reconnect(_))));
    let me = |info: &livekit::ParticipantInfo| info.identity == "alice";
    assert_eq!(resumed.until_participant("oneself", me).await.sid, sid);
    assert_alive(&mut resumed).await;
    resumed.send(Request::Leave(livekit::LeaveRequest::default())).await;
    // Only now did the others see it go.
    let changed = |info: &livekit::ParticipantInfo| info.identity == "alice";
    let gone = watcher.until_participant("alice gone", changed).await;
    assert_eq!((gone.state(), gone.sid), (livekit::participant_info::State::Disconnected, sid));
}

#[tokio::test]
async fn l104_a_resume_of_nobody_is_sent_away_in_the_first_message() {
    let server = Server::start().await;
    let token = server.token("alice");
    for path in
        [v1_path(&token, &resume_request()), format!("/rtc?access_token={token}&reconnect=1&sid=PA_x")]
    {
        let mut client = server.connect(&path).await.unwrap();
        let (messages, code) = client.rest().await;
        let [Response::Leave(left)] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!((left.reason(), left.action()), (DisconnectReason::StateMismatch, Action::Reconnect));
        assert_eq!(code, Some(1000));
    }
}

#[tokio::test]
async fn l77_a_second_session_of_an_identity_ends_the_first() {
    let server = Server::start().await;
    let mut first = server.join("alice").await;
    let mut second = server.join("alice").await;
    let (messages, code) = first.rest().await;
    let left = messages.into_iter().find_map(leave).unwrap();
    assert_eq!((left.reason(), code), (DisconnectReason::DuplicateIdentity, Some(1000)));
    assert_alive(&mut second).await;
}

#[tokio::test]
async fn l87_a_full_room_is_refused_before_the_upgrade() {
    let server = Server::start().await;
    let request =
        livekit::CreateRoomRequest { name: "lobby".into(), max_participants: 1, ..Default::default() };
    server.directory.create_room(request).await.unwrap();
    let _first = server.join("alice").await;
    let path = format!("/rtc?sdk=js&access_token={}", server.token("bob"));
    assert_eq!(server.connect(&path).await.err().unwrap(), (403, "the room is full".into()));
    assert_eq!(server.validate(&server.token("bob")).await.0, 403);
}

#[tokio::test]
async fn sockets_are_bounded() {
    let server = Server::with(|config| config.limits.sessions_max = 20).await;
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(server.join(&format!("p{number}")).await);
    }
    let path = format!("/rtc?access_token={}", server.token("one too many"));
    assert_eq!(server.connect(&path).await.err().unwrap().0, 503);
    let mut last = clients.pop().unwrap();
    last.send(Request::Leave(livekit::LeaveRequest::default())).await;
    last.rest().await;
    drop(last);
    // Its place is free as soon as the server has noticed.
    let deadline = Instant::now() + ws_support::DEADLINE;
    while server.connect(&path).await.is_err() {
        assert!(Instant::now() < deadline, "the place did not become free");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn two_who_come_at_once_get_the_same_room() {
    let server = Server::start().await;
    let names: Vec<String> = (0..8).map(|number| format!("p{number}")).collect();
    let joins = names.iter().map(|name| server.join(name));
    let mut clients = futures_util::future::join_all(joins).await;
    let rooms = server.directory.list_rooms(&[]).await;
    assert_eq!(rooms.len(), 1);
    assert_eq!(rooms[0].num_participants, 8);
    for client in &mut clients {
        assert_alive(client).await;
    }
}
