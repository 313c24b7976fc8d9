//! Joining: what the client is told first, and how it becomes active.

use std::time::Duration;

use zynk_protocol::livekit::participant_info::State;
use zynk_protocol::livekit::{self, DisconnectReason};
use zynk_protocol::{
    ConnectionRole, ConnectionState, MediaKind, MidTrack, NegotiationFailure, NodeAction, NodeEvent,
    SectionCount,
};

use super::World;
use super::world::{Request, Response, add_track, leave, refusal};
use crate::join::SubscribeScope;

fn join_response(message: Response) -> Option<livekit::JoinResponse> {
    match message {
        Response::Join(join) => Some(join),
        _ => None,
    }
}

fn offer(id: u32) -> livekit::SessionDescription {
    livekit::SessionDescription { r#type: "offer".into(), sdp: "v=0".into(), id, ..Default::default() }
}

#[test]
fn l26_l27_l36_join_says_all_that_clients_need() {
    let mut world = World::new();
    let alice = world.join(World::params("alice"));
    let join = world.told(&alice, join_response);
    assert_eq!((join.ping_interval, join.ping_timeout), (5, 15));
    assert!(join.room.unwrap().sid.starts_with("RM_"));
    let me = join.participant.unwrap();
    assert!(me.sid.starts_with("PA_"));
    assert_eq!((me.identity.as_str(), me.state()), ("alice", State::Joined));
    assert!(me.permission.unwrap().can_publish);
    let server = join.server_info.unwrap();
    let minor: u32 = server.version.split('.').nth(1).unwrap().parse().unwrap();
    assert!(minor >= 13 && server.version.starts_with("1."), "{}", server.version);
    assert_eq!((server.protocol, join.server_version), (17, server.version));
    assert!(join.fast_publish);
}

#[test]
fn l28_join_leaves_out_oneself_and_the_hidden() {
    let mut world = World::new();
    let mut hidden = World::claims("ghost");
    hidden.video.hidden = true;
    world.join(World::params_of(hidden));
    world.join(World::params("alice"));
    let bob = world.join(World::params("bob"));
    let others: Vec<String> =
        world.told(&bob, join_response).other_participants.into_iter().map(|info| info.identity).collect();
    assert_eq!(others, ["alice"]);
}

#[test]
fn l29_join_lists_video_codecs_first() {
    let mut world = World::new();
    let alice = world.join(World::params("alice"));
    let codecs: Vec<String> = world
        .told(&alice, join_response)
        .enabled_publish_codecs
        .into_iter()
        .map(|codec| codec.mime)
        .collect();
    assert_eq!(codecs[..2], ["video/VP8", "video/H264"]);
    let first_audio = codecs.iter().position(|mime| mime.starts_with("audio/")).unwrap();
    assert!(codecs[first_audio..].iter().all(|mime| mime.starts_with("audio/")), "{codecs:?}");
}

#[test]
fn l31_nothing_comes_before_join() {
    let mut world = World::new();
    let bob = world.join(World::params("bob"));
    world.connect(&bob);
    world.publish(&bob, MediaKind::Audio);
    let mut params = World::single("alice");
    params.add_tracks = vec![add_track(MediaKind::Audio, "mic")];
    let alice = world.join(params);
    let inbox = world.inbox(&alice);
    assert!(matches!(inbox[0], Response::Join(_)), "{inbox:?}");
    assert_eq!(inbox.iter().filter(|message| matches!(message, Response::Join(_))).count(), 1);
}

#[test]
fn l32_fresh_tokens_come_at_once_every_five_minutes_and_after_changes() {
    let mut world = World::new();
    let mut claims = World::claims("alice");
    claims.video.can_update_own_metadata = Some(true);
    let alice = world.join(World::params_of(claims));
    let inbox = world.inbox(&alice);
    assert!(matches!(inbox[1], Response::RefreshToken(_)), "{inbox:?}");
    world.connect(&alice);
    world.inbox(&alice);
    world.advance(Duration::from_secs(299));
    assert_eq!(tokens(world.inbox(&alice)).len(), 0);
    world.advance(Duration::from_secs(1));
    assert_eq!(tokens(world.inbox(&alice)).len(), 1);
    world.signal(
        &alice,
        Request::UpdateMetadata(livekit::UpdateParticipantMetadata {
            name: "Alice".into(),
            ..Default::default()
        }),
    );
    let token = tokens(world.inbox(&alice)).remove(0);
    let at = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_400);
    let claims = world.keys.verify(&token, at).unwrap();
    assert_eq!((claims.identity.as_str(), claims.name.as_str()), ("alice", "Alice"));
    assert!(claims.video.room_join && claims.video.can_publish());
    assert!(claims.remaining_life(at) >= Duration::from_secs(600));
}

fn tokens(inbox: Vec<Response>) -> Vec<String> {
    let token = |message| match message {
        Response::RefreshToken(token) => Some(token),
        _ => None,
    };
    inbox.into_iter().filter_map(token).collect()
}

#[test]
fn l33_the_subscriber_is_primary_if_it_may_subscribe() {
    let mut world = World::new();
    let alice = world.join(World::params("alice"));
    assert!(world.told(&alice, join_response).subscriber_primary);
    assert!(alice.subscriber.is_some());
    let mut claims = World::claims("bob");
    claims.video.can_subscribe = Some(false);
    let bob = world.join(World::params_of(claims));
    assert!(!world.told(&bob, join_response).subscriber_primary);
    assert!(bob.subscriber.is_none());
    let carol = world.join(World::single("carol"));
    assert!(!world.told(&carol, join_response).subscriber_primary);
    assert!(carol.subscriber.is_none());
}

#[test]
fn l34_l35_the_downstream_connection_opens_with_all_tracks_there_are() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let track = world.publish(&alice, MediaKind::Video);
    world.actions();
    let bob = world.join(World::params("bob"));
    let actions = world.actions();
    let roles: Vec<ConnectionRole> = actions
        .iter()
        .filter_map(|action| match action {
            NodeAction::OpenConnection(open) => Some(open.role),
            _ => None,
        })
        .collect();
    assert_eq!(roles, [ConnectionRole::Publisher, ConnectionRole::Subscriber]);
    let subscribed = actions.iter().any(|action| {
        matches!(action, NodeAction::Subscribe(subscribe)
            if subscribe.track == track && Some(subscribe.connection) == bob.subscriber)
    });
    assert!(subscribed, "{actions:?}");
}

#[test]
fn l37_answers_carry_the_number_of_the_offer() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    for id in [0, 5] {
        world.signal(&alice, Request::Offer(offer(id)));
        let connection = alice.publisher;
        assert_eq!(
            world.actions(),
            [NodeAction::RemoteOffer { connection, offer_id: id, sdp: "v=0".into() }]
        );
        world.node(NodeEvent::Answer {
            connection,
            offer_id: id,
            sdp: "v=0".into(),
            mid_tracks: vec![],
            missing: SectionCount::default(),
        });
        let answer = world.told(&alice, |message| match message {
            Response::Answer(answer) => Some(answer),
            _ => None,
        });
        assert_eq!((answer.id, answer.r#type.as_str()), (id, "answer"));
    }
}

#[test]
fn l38_offers_of_the_node_go_down_and_answers_up() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let connection = alice.subscriber.unwrap();
    let sdp = "v=0".to_owned();
    world.node(NodeEvent::Offer { connection, offer_id: 1, sdp, mid_tracks: vec![] });
    let offered = world.told(&alice, |message| match message {
        Response::Offer(offer) => Some(offer),
        _ => None,
    });
    assert_eq!((offered.id, offered.r#type.as_str()), (1, "offer"));
    let answer = livekit::SessionDescription { r#type: "answer".into(), ..offer(0) };
    world.signal(&alice, Request::Answer(answer));
    let answer = NodeAction::RemoteAnswer { connection, offer_id: 0, sdp: "v=0".into() };
    assert_eq!(world.actions(), [answer]);
}

#[test]
fn one_offer_is_negotiated_at_a_time_and_the_newest_is_next() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let connection = alice.publisher;
    let remote = |offer_id| NodeAction::RemoteOffer { connection, offer_id, sdp: "v=0".into() };
    for id in 1..=1_000 {
        world.signal(&alice, Request::Offer(offer(id)));
    }
    assert_eq!(world.actions(), [remote(1)]);
    let answer = |offer_id| NodeEvent::Answer {
        connection,
        offer_id,
        sdp: "v=0".into(),
        mid_tracks: vec![],
        missing: SectionCount::default(),
    };
    world.node(answer(1));
    assert_eq!(world.actions(), [remote(1_000)]);
    world.node(answer(1_000));
    assert_eq!(world.actions(), []);
    // Nobody answers what was not offered, nor twice.
    let answered = || Request::Answer(livekit::SessionDescription { r#type: "answer".into(), ..offer(3) });
    world.signal(&alice, answered());
    assert_eq!(world.actions(), []);
    let connection = alice.subscriber.unwrap();
    world.node(NodeEvent::Offer { connection, offer_id: 3, sdp: "v=0".into(), mid_tracks: vec![] });
    world.signal(&alice, answered());
    world.signal(&alice, answered());
    assert_eq!(world.actions(), [NodeAction::RemoteAnswer { connection, offer_id: 3, sdp: "v=0".into() }]);
}

#[test]
fn descriptions_and_candidates_are_bounded() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    for number in 0..1_000 {
        let init = format!(r#"{{"candidate":"candidate:{number} 1 udp 1 192.0.2.1 9 typ host"}}"#);
        let trickle = livekit::TrickleRequest { candidate_init: init, ..Default::default() };
        world.signal(&alice, Request::Trickle(trickle));
    }
    assert_eq!(world.actions().len(), crate::room::negotiation::CANDIDATES_MAX);
    let most = zynk_protocol::SDP_BYTES_MAX;
    let sized = |bytes| livekit::SessionDescription { sdp: "v".repeat(bytes), ..offer(1) };
    world.signal(&bob, Request::Offer(sized(most)));
    assert!(matches!(&world.actions()[..], [NodeAction::RemoteOffer { .. }]));
    world.inbox(&alice);
    world.signal(&alice, Request::Offer(sized(most + 1)));
    assert!(!world.actions().iter().any(|action| matches!(action, NodeAction::RemoteOffer { .. })));
    let inbox = world.inbox(&alice);
    let [Response::RequestResponse(refused), Response::Leave(_)] = &inbox[..] else { panic!("{inbox:?}") };
    assert_eq!(refused.reason(), livekit::request_response::Reason::InvalidRequest);
    assert!(world.is_closed(&alice) && !world.is_closed(&bob));
}

#[test]
fn l39_l40_l41_a_single_connection_is_asked_for_sections_and_never_offered() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let track = world.publish(&alice, MediaKind::Video);
    let bob = world.join_active(World::single("bob"));
    let connection = bob.publisher;
    let mid_tracks = vec![MidTrack { mid: "3".into(), track: track.clone() }];
    let missing = SectionCount { audio: 1, video: 2 };
    world.node(NodeEvent::Answer { connection, offer_id: 1, sdp: "v=0".into(), mid_tracks, missing });
    let inbox = world.inbox(&bob);
    let [Response::Answer(answer), Response::MediaSectionsRequirement(required)] = &inbox[..] else {
        panic!("{inbox:?}")
    };
    assert_eq!(answer.mid_to_track_id["3"], track.as_str());
    assert_eq!((required.num_audios, required.num_videos), (1, 2));
    world.node(NodeEvent::NegotiationNeeded { connection, missing: SectionCount::default() });
    let inbox = world.inbox(&bob);
    assert!(matches!(&inbox[..], [Response::MediaSectionsRequirement(_)]), "{inbox:?}");
}

#[test]
fn l42_l44_candidates_reach_the_connection_they_are_for() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let trickle = |target: livekit::SignalTarget, json: &str| {
        Request::Trickle(livekit::TrickleRequest {
            candidate_init: json.into(),
            target: target.into(),
            ..Default::default()
        })
    };
    let init = r#"{"candidate":"candidate:1 1 udp 1 192.0.2.1 9 typ host","sdpMid":"0","sdpMLineIndex":0}"#;
    world.signal(&alice, trickle(livekit::SignalTarget::Publisher, init));
    world.signal(&alice, trickle(livekit::SignalTarget::Subscriber, init));
    let candidate = "candidate:1 1 udp 1 192.0.2.1 9 typ host".to_owned();
    let sent = [alice.publisher, alice.subscriber.unwrap()]
        .map(|connection| NodeAction::RemoteCandidate { connection, candidate: candidate.clone() });
    assert_eq!(world.actions(), sent);
    // The end of the candidates, and names that only the client's network knows.
    world.signal(&alice, trickle(livekit::SignalTarget::Publisher, r#"{"candidate":""}"#));
    let mdns = r#"{"candidate":"candidate:1 1 udp 1 a-b.local 9 typ host"}"#;
    world.signal(&alice, trickle(livekit::SignalTarget::Publisher, mdns));
    assert_eq!(world.actions(), []);
    world.signal(&alice, trickle(livekit::SignalTarget::Publisher, "{nonsense"));
    let refused = world.told(&alice, refusal);
    assert_eq!(refused.reason(), livekit::request_response::Reason::UnclassifiedError);
    assert!(matches!(refused.request, Some(livekit::request_response::Request::Trickle(_))));
}

#[test]
fn l45_active_is_told_when_the_primary_connection_is_up() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join(World::params("bob"));
    world.inbox(&alice);
    let connected = |connection| NodeEvent::ConnectionState { connection, state: ConnectionState::Connected };
    world.node(connected(bob.publisher));
    world.advance(Duration::from_secs(1));
    let states: Vec<State> = world.updates(&alice).iter().map(livekit::ParticipantInfo::state).collect();
    assert_eq!(states, [State::Joined]);
    world.node(connected(bob.subscriber.unwrap()));
    world.advance(Duration::from_secs(1));
    let states: Vec<State> = world.updates(&alice).iter().map(livekit::ParticipantInfo::state).collect();
    assert_eq!(states, [State::Active]);
}

#[test]
fn l46_who_never_connects_is_removed_after_a_minute() {
    let mut world = World::new();
    let alice = world.join(World::params("alice"));
    world.inbox(&alice);
    world.advance(Duration::from_secs(59));
    assert!(!world.is_closed(&alice));
    world.advance(Duration::from_secs(1));
    let left = world.told(&alice, leave);
    assert_eq!(left.reason(), DisconnectReason::JoinFailure);
    assert_eq!(left.action(), livekit::leave_request::Action::Disconnect);
    assert!(world.is_closed(&alice));
}

#[test]
fn l131_l132_tracks_and_offer_of_a_join_are_handled_after_it() {
    let mut world = World::new();
    let bob = world.join_active(World::params("bob"));
    world.publish(&bob, MediaKind::Audio);
    world.actions();
    let mut params = World::single("alice");
    params.add_tracks = vec![add_track(MediaKind::Audio, "mic"), add_track(MediaKind::Video, "cam")];
    params.offer = Some(offer(1));
    let alice = world.join(params);
    let inbox = world.inbox(&alice);
    let cids: Vec<&str> = inbox
        .iter()
        .filter_map(|message| match message {
            Response::TrackPublished(published) => Some(published.cid.as_str()),
            _ => None,
        })
        .collect();
    assert!(matches!(inbox[0], Response::Join(_)));
    assert_eq!(cids, ["mic", "cam"]);
    let kinds: Vec<&str> = world
        .actions()
        .iter()
        .map(|action| match action {
            NodeAction::OpenConnection(_) => "open",
            NodeAction::ExpectTrack(_) => "expect",
            NodeAction::Subscribe(_) => "subscribe",
            NodeAction::RemoteOffer { .. } => "offer",
            _ => "other",
        })
        .collect();
    // The node knows what to look for, and what to send, when it reads the offer.
    assert_eq!(kinds, ["open", "expect", "expect", "subscribe", "offer"]);
}

#[test]
fn l98_what_the_client_can_do_is_told_to_others() {
    let mut world = World::new();
    let mut params = World::params("alice");
    params.client.client_protocol = 2;
    params.client.capabilities = vec![livekit::client_info::Capability::CapCompressionDeflateRaw.into()];
    world.join(params);
    let bob = world.join(World::params("bob"));
    let alice = world.told(&bob, join_response).other_participants.remove(0);
    assert_eq!((alice.client_protocol, alice.capabilities), (2, vec![2]));
}

#[test]
fn garbage_for_sdp_ends_that_session_alone() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    for failure in [
        NegotiationFailure::InvalidSdp { detail: "line 1".into() },
        NegotiationFailure::NoIce,
        NegotiationFailure::NoFingerprint,
        NegotiationFailure::PlainRtp,
    ] {
        let mallory = world.join_active(World::params("mallory"));
        let text = failure.to_string();
        world.node(NodeEvent::NegotiationFailed { connection: mallory.publisher, offer_id: 1, failure });
        let inbox = world.inbox(&mallory);
        let [Response::RequestResponse(refused), Response::Leave(left)] = &inbox[..] else {
            panic!("{inbox:?}")
        };
        assert_eq!(refused.message, text);
        assert_eq!(left.action(), livekit::leave_request::Action::Disconnect);
        assert!(world.is_closed(&mallory));
    }
    assert!(!world.is_closed(&alice) && !world.is_closed(&bob));
}

#[test]
fn l74_without_an_answer_in_time_the_client_starts_over() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let failure = NegotiationFailure::Timeout { seconds: 15 };
    let connection = alice.subscriber.unwrap();
    world.node(NodeEvent::NegotiationFailed { connection, offer_id: 1, failure });
    let left = world.told(&alice, leave);
    assert_eq!(left.reason(), DisconnectReason::StateMismatch);
    assert_eq!(left.action(), livekit::leave_request::Action::Reconnect);
    assert!(left.can_reconnect);
}

#[test]
fn who_does_not_follow_the_room_is_answered_and_told_nothing_else() {
    let mut world = World::new();
    let alice = world.join_active(World::single("alice"));
    let mut params = World::single("player");
    (params.resumable, params.follows_room) = (false, false);
    let player = world.join(params);
    world.connect(&player);
    let told = world.inbox(&player);
    let [Response::Join(join)] = told.as_slice() else { panic!("{told:#?}") };
    assert!(join.other_participants.is_empty());
    world.join_active(World::single("bob"));
    world.signal(&alice, Request::Leave(livekit::LeaveRequest::default()));
    world.advance(Duration::from_secs(60));
    assert_eq!(world.inbox(&player), []);
    assert_eq!(world.room.participant_count(), 2);
}

#[test]
fn a_session_that_is_not_resumable_ends_with_its_transport() {
    let mut world = World::new();
    let mut params = World::single("obs");
    params.resumable = false;
    params.subscribe = SubscribeScope::None;
    let obs = world.join_active(params);
    let failed = NodeEvent::ConnectionState { connection: obs.publisher, state: ConnectionState::Failed };
    world.node(failed);
    assert!(world.is_closed(&obs));
    assert_eq!(world.room.participant_count(), 0);
}

#[test]
fn the_node_is_told_how_many_are_heard_with_each_connection() {
    let limits = |world: &mut World| -> Vec<NodeAction> {
        let limit = |action: &NodeAction| matches!(action, NodeAction::LimitAudio { .. });
        world.actions().into_iter().filter(limit).collect()
    };
    let mut world = World::with(|config, _| config.room.audio_top_n = 3);
    world.join(World::params("alice"));
    assert_eq!(limits(&mut world), vec![NodeAction::LimitAudio { loudest: 3 }; 2]);
    let mut world = World::new();
    world.join(World::params("alice"));
    assert_eq!(limits(&mut world), [], "all are");
}
