//! Leaving, coming back, being replaced, and the end of rooms.

use std::time::Duration;

use zynk_protocol::livekit::leave_request::Action;
use zynk_protocol::livekit::participant_info::State;
use zynk_protocol::livekit::request_response::Reason;
use zynk_protocol::livekit::{self, DisconnectReason, RoomEndReason};
use zynk_protocol::{ConnectionState, DataKind, Identity, MediaKind, NodeAction, NodeEvent, TrackSid};

use super::world::{Request, Response, leave, refusal, update};
use super::{Peer, World};
use crate::admin::{AdminRequest, AdminResponse};
use crate::join::{JoinError, JoinParams, Resume};
use crate::room::{RoomInput, SessionId};

fn leave_as(reason: DisconnectReason) -> Request {
    Request::Leave(livekit::LeaveRequest { reason: reason.into(), ..Default::default() })
}

pub(super) fn resume(world: &mut World, params: JoinParams) -> (SessionId, Vec<Response>) {
    let session = world.session();
    let params = JoinParams { resume: Some(Resume::default()), ..params };
    world.input(RoomInput::Join { session, params: Box::new(params) });
    (session, world.inbox_of(session))
}

pub(super) fn at(peer: &Peer, session: SessionId) -> Peer {
    Peer { session, ..peer.clone() }
}

pub(super) fn state(peer: &Peer, state: ConnectionState) -> NodeEvent {
    NodeEvent::ConnectionState { connection: peer.primary(), state }
}

#[test]
fn l76_hidden_participants_are_told_to_themselves_alone() {
    let mut world = World::new();
    let bob = world.join_active(World::params("bob"));
    let mut claims = World::claims("ghost");
    claims.video.hidden = true;
    claims.video.can_update_own_metadata = Some(true);
    let ghost = world.join_active(World::params_of(claims));
    let update = livekit::UpdateParticipantMetadata { name: "Boo".into(), ..Default::default() };
    world.signal(&ghost, Request::UpdateMetadata(update));
    world.publish(&ghost, MediaKind::Audio);
    world.advance(Duration::from_secs(10));
    assert_eq!(world.updates(&bob), []);
    assert_eq!(world.room.participant_count(), 2);
}

#[test]
fn hidden_participants_hear_of_their_own_changes() {
    let mut world = World::new();
    let mut claims = World::claims("ghost");
    claims.video.hidden = true;
    claims.video.can_update_own_metadata = Some(true);
    let ghost = world.join_active(World::params_of(claims));
    let update = livekit::UpdateParticipantMetadata { name: "Boo".into(), ..Default::default() };
    world.signal(&ghost, Request::UpdateMetadata(update));
    assert_eq!(world.updates(&ghost)[0].name, "Boo");
}

#[test]
fn l77_a_second_session_replaces_the_first() {
    let mut world = World::new();
    let watcher = world.join_active(World::params("watcher"));
    let mut old_client = World::params("veteran");
    old_client.client.protocol = 11;
    let veteran = world.join_active(old_client);
    let first = world.join_active(World::params("alice"));
    let second = world.join_active(World::params("alice"));
    assert!(world.is_closed(&first) && !world.is_closed(&second));
    // What the first was told went out before the second was let in.
    assert_ne!(first.sid, second.sid);
    drop((watcher, veteran));
}

#[test]
fn l77_replacement_is_silent_for_newer_clients() {
    let mut world = World::new();
    let watcher = world.join_active(World::params("watcher"));
    let mut old_client = World::params("veteran");
    old_client.client.protocol = 11;
    let veteran = world.join_active(old_client);
    let first = world.join_active(World::params("alice"));
    world.publish(&first, MediaKind::Audio);
    for peer in [&first, &watcher, &veteran] {
        world.inbox(peer);
    }
    let second = world.join(World::params("alice"));
    let left = world.told(&first, leave);
    assert_eq!((left.reason(), left.action()), (DisconnectReason::DuplicateIdentity, Action::Disconnect));
    world.advance(Duration::from_secs(1));
    let seen = |infos: Vec<livekit::ParticipantInfo>| -> Vec<(String, State)> {
        infos.into_iter().map(|info| (info.sid.clone(), info.state())).collect()
    };
    let joined = (second.sid.as_str().to_owned(), State::Joined);
    assert_eq!(seen(world.updates(&watcher)), std::slice::from_ref(&joined));
    let gone = (first.sid.as_str().to_owned(), State::Disconnected);
    assert_eq!(seen(world.updates(&veteran)), [gone, joined]);
}

#[test]
fn l78_the_late_end_of_an_old_session_does_not_touch_the_new() {
    let mut world = World::new();
    let first = world.join_active(World::params("alice"));
    let second = world.join_active(World::params("alice"));
    world.input(RoomInput::SessionClosed { session: first.session });
    world.node(state(&first, ConnectionState::Closed));
    world.advance(Duration::from_secs(30));
    assert_eq!(world.room.participant_count(), 1);
    assert!(!world.is_closed(&second));
}

#[test]
fn l79_own_metadata_is_changed_refused_or_limited() {
    let mut world = World::new();
    let mut claims = World::claims("alice");
    claims.video.can_update_own_metadata = Some(true);
    let alice = world.join_active(World::params_of(claims));
    let bob = world.join_active(World::params("bob"));
    let update = |request_id, metadata: &str| {
        Request::UpdateMetadata(livekit::UpdateParticipantMetadata {
            metadata: metadata.into(),
            request_id,
            ..Default::default()
        })
    };
    world.signal(&alice, update(7, "m"));
    let inbox = world.inbox(&alice);
    let answer = inbox.iter().cloned().find_map(refusal).unwrap();
    assert_eq!((answer.reason(), answer.request_id), (Reason::Ok, 7));
    let own = inbox.into_iter().find_map(super::world::update).unwrap();
    assert_eq!(own[0].metadata, "m");
    world.advance(Duration::from_secs(1));
    assert_eq!(world.updates(&bob)[0].metadata, "m");
    world.signal(&alice, update(8, &"x".repeat(512 * 1024 + 1)));
    let answer = world.told(&alice, refusal);
    assert_eq!((answer.reason(), answer.request_id), (Reason::LimitExceeded, 8));
    assert_eq!(answer.message, "exceeds metadata size limit");
    world.signal(&bob, update(9, "m"));
    let answer = world.told(&bob, refusal);
    assert_eq!((answer.reason(), answer.request_id), (Reason::NotAllowed, 9));
}

#[test]
fn l80_empty_attributes_delete() {
    let mut world = World::new();
    let mut claims = World::claims("alice");
    claims.video.can_update_own_metadata = Some(true);
    claims.attributes = [("a", "1"), ("b", "2"), ("c", "")].map(|(k, v)| (k.into(), v.into())).into();
    let alice = world.join(World::params_of(claims));
    let join = world.told(&alice, |message| match message {
        Response::Join(join) => join.participant,
        _ => None,
    });
    let pairs = |info: &livekit::ParticipantInfo| {
        let mut pairs: Vec<_> = info.attributes.clone().into_iter().collect();
        pairs.sort();
        pairs
    };
    assert_eq!(pairs(&join), [("a".into(), "1".into()), ("b".into(), "2".into())]);
    let update = livekit::UpdateParticipantMetadata {
        attributes: [("a", ""), ("d", "4")].map(|(k, v)| (k.into(), v.into())).into(),
        ..Default::default()
    };
    world.signal(&alice, Request::UpdateMetadata(update));
    assert_eq!(pairs(&world.updates(&alice)[0]), [("b".into(), "2".into()), ("d".into(), "4".into())]);
}

#[test]
fn l84_a_leave_is_answered_and_its_reason_told() {
    let mut world = World::new();
    let bob = world.join_active(World::params("bob"));
    for (given, told) in [
        (DisconnectReason::ClientInitiated, DisconnectReason::ClientInitiated),
        (DisconnectReason::UserRejected, DisconnectReason::UserRejected),
        (DisconnectReason::RoomDeleted, DisconnectReason::ClientInitiated),
    ] {
        let alice = world.join_active(World::params("alice"));
        world.publish(&alice, MediaKind::Audio);
        world.inbox(&bob);
        world.inbox(&alice);
        world.signal(&alice, leave_as(given));
        assert_eq!(world.told(&alice, leave).action(), Action::Disconnect);
        assert!(world.is_closed(&alice));
        let info = world.updates(&bob).remove(0);
        assert_eq!((info.state(), info.disconnect_reason()), (State::Disconnected, told));
        assert_eq!(info.sid, alice.sid.as_str());
        let closes = [alice.publisher, alice.subscriber.unwrap()]
            .map(|connection| NodeAction::CloseConnection { connection });
        let actions = world.actions();
        assert!(closes.iter().all(|close| actions.contains(close)), "{actions:?}");
    }
}

#[test]
fn l86_rooms_end_when_nobody_comes_or_stays() {
    let mut world = World::new();
    world.advance(Duration::from_secs(299));
    assert!(!world.finished);
    world.advance(Duration::from_secs(1));
    assert!(world.finished);

    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    world.advance(Duration::from_secs(1_000));
    let mut agent = World::claims("agent");
    agent.kind = "agent".into();
    let agent = world.join_active(World::params_of(agent));
    world.signal(&alice, leave_as(DisconnectReason::ClientInitiated));
    world.advance(Duration::from_secs(19));
    assert!(!world.finished);
    world.inbox(&agent);
    world.advance(Duration::from_secs(1));
    assert!(world.finished);
    assert_eq!(world.told(&agent, leave).reason(), DisconnectReason::RoomClosed);
    let last = world.webhooks().pop().unwrap();
    assert_eq!(last.event, "room_finished");
    assert_eq!(last.room_end_reason(), RoomEndReason::RoomEndIdleTimeout);
}

#[test]
fn l86_coming_back_in_time_keeps_the_room() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    world.signal(&alice, leave_as(DisconnectReason::ClientInitiated));
    world.advance(Duration::from_secs(10));
    world.join_active(World::params("alice"));
    world.advance(Duration::from_secs(100));
    assert!(!world.finished);
}

#[test]
fn l87_a_full_room_refuses_people_but_not_agents() {
    let mut world = World::with(|_, record| record.max_participants = 2);
    world.join_active(World::params("alice"));
    world.join_active(World::params("bob"));
    let error = world.try_join(World::params("carol")).unwrap_err();
    assert!(matches!(error, JoinError::Forbidden { code: "room_full", .. }), "{error:?}");
    let mut agent = World::claims("agent");
    agent.kind = "agent".into();
    world.join_active(World::params_of(agent));
    // Coming again is not coming in addition.
    world.join_active(World::params("bob"));
}

#[test]
fn l103_a_resume_tells_everything_anew_in_order() {
    let mut world = World::new();
    let bob = world.join_active(World::params("bob"));
    let alice = world.join_active(World::params("alice"));
    world.input(RoomInput::SessionClosed { session: alice.session });
    world.actions();
    let (session, inbox) = resume(&mut world, World::params("alice"));
    let kinds: Vec<&str> = inbox
        .iter()
        .map(|message| match message {
            Response::Reconnect(_) => "reconnect",
            Response::Update(_) => "update",
            Response::RoomUpdate(_) => "room",
            Response::RefreshToken(_) => "token",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["reconnect", "update", "room", "token"]);
    let infos: Vec<String> =
        inbox.into_iter().filter_map(super::world::update).flatten().map(|info| info.identity).collect();
    assert!(infos.contains(&"alice".into()) && infos.contains(&"bob".into()));
    let connection = alice.subscriber.unwrap();
    assert_eq!(world.actions(), [NodeAction::RestartIce { connection }]);
    // The new session is the participant's now.
    world.signal(&at(&alice, session), leave_as(DisconnectReason::ClientInitiated));
    assert_eq!(world.room.participant_count(), 1);
    drop(bob);
}

#[test]
fn a_resume_tells_which_streams_pause() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let track = world.publish(&alice, MediaKind::Video);
    world.publish(&alice, MediaKind::Audio);
    world.input(RoomInput::SessionClosed { session: bob.session });
    world.node(NodeEvent::StreamState { connection: bob.downstream(), track: track.clone(), paused: true });
    let (_, inbox) = resume(&mut world, World::params("bob"));
    let states: Vec<_> = inbox
        .into_iter()
        .filter_map(|message| match message {
            Response::StreamStateUpdate(update) => Some(update.stream_states),
            _ => None,
        })
        .flatten()
        .map(|state| (state.track_sid.clone(), state.state()))
        .collect();
    assert_eq!(states, [(track.as_str().to_owned(), livekit::StreamState::Paused)]);
}

#[test]
fn l104_a_resume_of_nobody_starts_over() {
    let mut world = World::new();
    let (_, inbox) = resume(&mut world, World::params("alice"));
    let [Response::Leave(left)] = &inbox[..] else { panic!("{inbox:?}") };
    assert_eq!((left.reason(), left.action()), (DisconnectReason::StateMismatch, Action::Reconnect));
    assert_eq!(world.room.participant_count(), 0);
}

#[test]
fn l105_a_resume_says_which_packet_came_last() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let packet = livekit::DataPacket {
        sequence: 31,
        value: Some(livekit::data_packet::Value::User(Default::default())),
        ..Default::default()
    };
    let payload = prost::Message::encode_to_vec(&packet).into();
    world.node(NodeEvent::DataReceived { connection: alice.publisher, kind: DataKind::Reliable, payload });
    world.input(RoomInput::SessionClosed { session: alice.session });
    let (_, inbox) = resume(&mut world, World::params("alice"));
    let Response::Reconnect(reconnect) = &inbox[0] else { panic!("{inbox:?}") };
    assert_eq!(reconnect.last_message_seq, 31);
}

#[test]
fn l106_who_left_meanwhile_is_reported() {
    let mut world = World::new();
    let bob = world.join_active(World::params("bob"));
    let alice = world.join_active(World::params("alice"));
    world.input(RoomInput::SessionClosed { session: alice.session });
    world.signal(&bob, leave_as(DisconnectReason::ClientInitiated));
    let (_, inbox) = resume(&mut world, World::params("alice"));
    let infos: Vec<(String, State)> = inbox
        .into_iter()
        .filter_map(super::world::update)
        .flatten()
        .map(|info| (info.identity.clone(), info.state()))
        .collect();
    assert_eq!(infos, [("bob".into(), State::Disconnected), ("alice".into(), State::Active)]);
}

fn sync(world: &mut World, peer: &Peer, state: livekit::SyncState) {
    world.signal(peer, Request::SyncState(state));
}

#[test]
fn those_who_left_are_remembered_without_what_is_large() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    for number in 0..10 {
        let mut params = World::params(&format!("guest{number}"));
        params.metadata = "m".repeat(500_000);
        params.attributes.insert("key".into(), "v".repeat(60_000));
        let guest = world.join_active(params);
        world.signal(&guest, Request::Leave(livekit::LeaveRequest::default()));
    }
    world.advance(Duration::from_secs(1));
    world.input(RoomInput::SessionClosed { session: alice.session });
    let session = world.session();
    let resume = JoinParams { resume: Some(Default::default()), ..World::params("alice") };
    world.input(RoomInput::Join { session, params: Box::new(resume) });
    let infos: Vec<_> = world.inbox_of(session).into_iter().filter_map(update).flatten().collect();
    let left: Vec<_> = infos.iter().filter(|info| info.state() == State::Disconnected).collect();
    assert_eq!(left.len(), 10, "{infos:?}");
    let bytes: usize = left.iter().map(|info| prost::Message::encoded_len(*info)).sum();
    assert!(bytes < 10 * 256, "{bytes} bytes");
}

#[test]
fn what_does_not_fit_into_a_fresh_token_is_kept_by_the_room() {
    let mut world = World::new();
    let mut claims = World::claims("alice");
    claims.video.can_update_own_metadata = Some(true);
    let alice = world.join_active(World::params_of(claims));
    let mut request =
        livekit::UpdateParticipantMetadata { metadata: "m".repeat(300_000), ..Default::default() };
    request.attributes.insert("key".into(), "v".repeat(60_000));
    world.signal(&alice, Request::UpdateMetadata(request));
    let fresh = |world: &mut World, peer: &Peer| {
        let token = world.told(peer, |message| match message {
            Response::RefreshToken(token) => Some(token),
            _ => None,
        });
        assert!(token.len() <= 16 * 1024, "{} bytes", token.len());
        let at = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_010);
        World::params_of(world.keys.verify(&token, at).unwrap())
    };
    let whole = |world: &mut World, peer: &Peer| {
        let info = world.admin(AdminRequest::GetParticipant(Identity::new("alice"))).unwrap();
        let AdminResponse::Participant(info) = info else { panic!("{info:?}") };
        assert_eq!((info.sid.as_str(), info.metadata.len()), (peer.sid.as_str(), 300_000));
        assert_eq!(info.attributes["key"].len(), 60_000);
    };
    let params = fresh(&mut world, &alice);
    let (session, _) = resume(&mut world, params.clone());
    whole(&mut world, &alice);
    // Another stay, while the first one lasts and after it.
    let second = world.join(params);
    whole(&mut world, &second);
    let params = fresh(&mut world, &second);
    world.signal(&second, leave_as(DisconnectReason::ClientInitiated));
    let third = world.join(params);
    whole(&mut world, &third);
    assert_ne!(session, third.session);
}

#[test]
fn l107_an_unknown_track_in_sync_state_starts_over() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let track = world.publish(&alice, MediaKind::Audio);
    world.inbox(&alice);
    let published = |sid: &str| livekit::TrackPublishedResponse {
        cid: "c".into(),
        track: Some(livekit::TrackInfo { sid: sid.into(), ..Default::default() }),
    };
    let known = livekit::SyncState { publish_tracks: vec![published(track.as_str())], ..Default::default() };
    sync(&mut world, &alice, known);
    assert!(!world.is_closed(&alice));
    let unknown = livekit::SyncState { publish_tracks: vec![published("TR_AMgone")], ..Default::default() };
    sync(&mut world, &alice, unknown);
    let left = world.told(&alice, leave);
    assert_eq!((left.reason(), left.action()), (DisconnectReason::StateMismatch, Action::Reconnect));
}

#[test]
fn l108_sync_state_restores_subscriptions() {
    let mut world = World::new();
    let bob = world.join_active(World::params("bob"));
    let unwanted = world.publish(&bob, MediaKind::Audio);
    let disabled = world.publish(&bob, MediaKind::Video);
    let alice = world.join_active(World::params("alice"));
    let sids = |track: &TrackSid| vec![track.as_str().to_owned()];
    let state = livekit::SyncState {
        subscription: Some(livekit::UpdateSubscription {
            track_sids: sids(&unwanted),
            subscribe: false,
            ..Default::default()
        }),
        track_sids_disabled: sids(&disabled),
        ..Default::default()
    };
    sync(&mut world, &alice, state);
    let connection = alice.downstream();
    let actions = world.actions();
    assert!(actions.contains(&NodeAction::Unsubscribe { connection, track: unwanted.clone() }));
    let paused = actions.iter().any(|action| {
        matches!(action, NodeAction::ConfigureSubscription { track, settings, .. }
            if *track == disabled && settings.paused)
    });
    assert!(paused, "{actions:?}");
    let state = livekit::SyncState {
        subscription: Some(livekit::UpdateSubscription {
            track_sids: sids(&unwanted),
            subscribe: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    sync(&mut world, &alice, state);
    let actions = world.actions();
    assert!(matches!(&actions[..], [NodeAction::Subscribe(again)] if again.track == unwanted), "{actions:?}");
}

#[test]
fn l109_media_outlives_a_lost_signal_connection() {
    let mut world = World::new();
    let bob = world.join_active(World::params("bob"));
    let alice = world.join_active(World::params("alice"));
    world.publish(&alice, MediaKind::Audio);
    world.inbox(&bob);
    world.actions();
    world.input(RoomInput::SessionClosed { session: alice.session });
    world.advance(Duration::from_secs(600));
    assert_eq!(world.updates(&bob), []);
    assert_eq!(world.actions(), []);
    assert_eq!(world.room.participant_count(), 2);
}

#[test]
fn a_signal_connection_lost_before_media_was_up_ends_the_stay() {
    let mut world = World::new();
    let alice = world.join(World::params("alice"));
    world.webhooks();
    world.input(RoomInput::SessionClosed { session: alice.session });
    assert_eq!(world.room.participant_count(), 0);
    let event = world.webhooks().remove(0);
    assert_eq!(event.event, "participant_connection_aborted");
    assert_eq!(event.participant.unwrap().disconnect_reason(), DisconnectReason::SignalClose);
}

#[test]
fn l110_a_failed_transport_may_resume_for_five_seconds() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    world.node(state(&alice, ConnectionState::Failed));
    let left = world.told(&alice, leave);
    assert_eq!((left.reason(), left.action()), (DisconnectReason::ConnectionTimeout, Action::Resume));
    assert!(world.is_closed(&alice));
    world.advance(Duration::from_secs(4));
    assert_eq!(world.room.participant_count(), 1);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.room.participant_count(), 0);
}

#[test]
fn a_resume_onto_dead_media_starts_over() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    world.node(state(&alice, ConnectionState::Failed));
    let (_, inbox) = resume(&mut world, World::params("alice"));
    let [Response::Leave(left)] = &inbox[..] else { panic!("{inbox:?}") };
    assert_eq!(left.action(), Action::Reconnect);
    assert_eq!(world.room.participant_count(), 0);
}

#[test]
fn l122_webhooks_follow_the_media() {
    let mut world = World::new();
    let alice = world.join(World::params("alice"));
    let names = |world: &mut World| -> Vec<String> {
        let events = world.webhooks();
        assert!(events.iter().all(|event| event.id.starts_with("EV_") && event.room.is_some()));
        events.into_iter().map(|event| event.event).collect()
    };
    assert_eq!(names(&mut world), ["room_started"]);
    world.connect(&alice);
    assert_eq!(names(&mut world), ["participant_joined"]);
    world.signal(&alice, leave_as(DisconnectReason::ClientInitiated));
    assert_eq!(names(&mut world), ["participant_left"]);
}

#[test]
fn l85_l111_everybody_is_told_when_the_server_stops() {
    let mut world = World::new();
    let peers = ["alice", "bob"].map(|name| world.join_active(World::params(name)));
    world.input(RoomInput::Shutdown);
    for peer in &peers {
        let left = world.told(peer, leave);
        assert_eq!((left.reason(), left.action()), (DisconnectReason::ServerShutdown, Action::Reconnect));
        assert!(world.is_closed(peer));
    }
    assert!(world.finished);
    let end = world.webhooks().pop().unwrap();
    assert_eq!(end.room_end_reason(), RoomEndReason::RoomEndServerShutdown);
    assert_eq!(world.actions().pop(), Some(NodeAction::CloseRoom));
    assert!(matches!(world.try_join(World::params("carol")), Err(JoinError::Unavailable(_))));
}

#[test]
fn a_lost_node_sends_everybody_to_join_again() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    world.input(RoomInput::NodeLost);
    assert_eq!(world.told(&alice, leave).action(), Action::Reconnect);
    assert!(world.finished);
}

#[test]
fn a_faulted_session_costs_only_itself() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    world.input(RoomInput::SessionFaulted { session: alice.session });
    assert!(world.is_closed(&alice) && !world.is_closed(&bob));
    assert_eq!(world.told(&alice, leave).action(), Action::Disconnect);
}

#[test]
fn l81_counts_are_told_within_five_seconds() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join(World::params("bob"));
    world.connect(&bob);
    world.inbox(&alice);
    world.advance(Duration::from_secs(5));
    let rooms: Vec<livekit::Room> = world
        .inbox(&alice)
        .into_iter()
        .filter_map(|message| match message {
            Response::RoomUpdate(update) => update.room,
            _ => None,
        })
        .collect();
    assert_eq!(rooms.last().unwrap().num_participants, 2);
}

#[test]
fn the_time_until_a_participant_is_connected_is_measured_once() {
    let mut world = World::new();
    let alice = world.join(World::params("alice"));
    world.advance(Duration::from_millis(300));
    world.connect(&alice);
    for state in [ConnectionState::Disconnected, ConnectionState::Connected] {
        world.advance(Duration::from_secs(1));
        world.node(NodeEvent::ConnectionState { connection: alice.primary(), state });
    }
    assert_eq!(world.connected_after, [Duration::from_millis(300)]);
}
