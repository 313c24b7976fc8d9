//! What the server API does to a room.

use std::time::Duration;

use prost::Message as _;
use zynk_protocol::livekit::data_packet::Value;
use zynk_protocol::livekit::{self, DataPacket, DisconnectReason, RoomEndReason};
use zynk_protocol::{DataKind, Identity, MediaKind, NodeAction, NodeEvent, Recipients};

use super::world::{Response, leave};
use super::{Peer, World};
use crate::admin::{AdminError, AdminRequest, AdminResponse};

fn mute(identity: &str, track: &str, muted: bool) -> AdminRequest {
    AdminRequest::MutePublishedTrack { identity: Identity::new(identity), track: track.into(), muted }
}

fn sent_packets(world: &mut World) -> Vec<DataPacket> {
    let pick = |action| match action {
        NodeAction::SendData { to: Recipients::Connections(_), payload, .. } => {
            Some(DataPacket::decode(payload).unwrap())
        }
        _ => None,
    };
    world.actions().into_iter().filter_map(pick).collect()
}

#[test]
fn l59_the_server_mutes_but_does_not_unmute() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let track = world.publish(&alice, MediaKind::Audio);
    world.inbox(&alice);
    world.inbox(&bob);
    let muted = world.admin(mute("alice", track.as_str(), true)).unwrap();
    assert!(matches!(muted, AdminResponse::Track(Some(info)) if info.muted));
    let request = livekit::MuteTrackRequest { sid: track.as_str().into(), muted: true };
    assert_eq!(world.inbox(&alice), [Response::Mute(request)]);
    assert!(world.updates(&bob)[0].tracks[0].muted);
    let refused = world.admin(mute("alice", track.as_str(), false)).unwrap_err();
    assert_eq!(refused, AdminError::FailedPrecondition("remote unmute not enabled"));
    assert_eq!(world.admin(mute("alice", "TR_gone", true)), Ok(AdminResponse::Track(None)));
    assert!(matches!(world.admin(mute("nobody", "TR_gone", true)), Err(AdminError::NotFound(_))));
}

#[test]
fn l59_remote_unmute_can_be_enabled() {
    let mut world = World::with(|config, _| config.room.enable_remote_unmute = true);
    let alice = world.join_active(World::params("alice"));
    let track = world.publish(&alice, MediaKind::Audio);
    world.admin(mute("alice", track.as_str(), true)).unwrap();
    let unmuted = world.admin(mute("alice", track.as_str(), false)).unwrap();
    assert!(matches!(unmuted, AdminResponse::Track(Some(info)) if !info.muted));
}

#[test]
fn l81_room_metadata_is_told_at_once() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let request = AdminRequest::UpdateRoomMetadata { metadata: "m".into() };
    assert!(matches!(world.admin(request), Ok(AdminResponse::Room(room)) if room.metadata == "m"));
    let update = world.told(&alice, |message| match message {
        Response::RoomUpdate(update) => update.room,
        _ => None,
    });
    assert_eq!(update.metadata, "m");
    let request = AdminRequest::UpdateRoomMetadata { metadata: "x".repeat(512 * 1024 + 1) };
    assert!(matches!(world.admin(request), Err(AdminError::InvalidArgument(_))));
}

#[test]
fn l85_removal_and_deletion_say_why() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    world.admin(AdminRequest::RemoveParticipant(Identity::new("alice"))).unwrap();
    assert_eq!(world.told(&alice, leave).reason(), DisconnectReason::ParticipantRemoved);
    let gone = AdminRequest::RemoveParticipant(Identity::new("alice"));
    assert!(matches!(world.admin(gone), Err(AdminError::NotFound(_))));
    world.inbox(&bob);
    let reply = world.ask(AdminRequest::DeleteRoom);
    assert_eq!(world.reply(reply), Some(Ok(AdminResponse::Done)));
    assert_eq!(world.told(&bob, leave).reason(), DisconnectReason::RoomDeleted);
    assert!(world.finished);
}

#[test]
fn l135_the_last_webhook_says_how_the_room_ended() {
    let mut world = World::new();
    world.ask(AdminRequest::DeleteRoom);
    let last = world.webhooks().pop().unwrap();
    assert_eq!(
        (last.event.as_str(), last.room_end_reason()),
        ("room_finished", RoomEndReason::RoomEndApiDelete)
    );
}

#[test]
fn l117_a_second_create_changes_what_it_sets() {
    let mut world = World::new();
    let Ok(AdminResponse::Room(before)) = world.admin(AdminRequest::Describe) else { panic!() };
    let request = livekit::CreateRoomRequest { max_participants: 5, ..Default::default() };
    let Ok(AdminResponse::Room(after)) = world.admin(AdminRequest::UpdateRoom(request)) else { panic!() };
    assert_eq!((&after.sid, after.max_participants), (&before.sid, 5));
    assert_eq!((after.empty_timeout, after.departure_timeout), (300, 20));
}

#[test]
fn data_over_what_a_channel_carries_is_refused() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    world.inbox(&alice);
    let send = |world: &mut World, bytes: usize| {
        let data = vec![7; bytes];
        world.admin(AdminRequest::SendData(livekit::SendDataRequest { data, ..Default::default() }))
    };
    assert_eq!(send(&mut world, 65_000), Ok(AdminResponse::Done));
    assert!(matches!(&world.actions()[..], [NodeAction::SendData { .. }]));
    assert!(matches!(send(&mut world, 65_535), Err(AdminError::InvalidArgument(_))));
    assert_eq!(world.actions(), []);
}

#[test]
fn l118_server_data_is_delivered_once() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let request = |nonce: usize| livekit::SendDataRequest {
        data: b"hi".to_vec(),
        topic: Some("t".into()),
        nonce: vec![1; nonce],
        ..Default::default()
    };
    for _ in 0..2 {
        world.admin(AdminRequest::SendData(request(16))).unwrap();
    }
    let packets = sent_packets(&mut world);
    assert_eq!(packets.len(), 1);
    assert_eq!((packets[0].participant_identity.as_str(), packets[0].sequence), ("", 0));
    let refused = world.admin(AdminRequest::SendData(request(5)));
    assert!(matches!(refused, Err(AdminError::InvalidArgument(_))));
    drop(alice);
}

#[test]
fn l119_permissions_are_replaced_and_told() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    world.publish(&bob, MediaKind::Video);
    world.actions();
    world.inbox(&alice);
    let request = |permission| {
        AdminRequest::UpdateParticipant(livekit::UpdateParticipantRequest {
            identity: "alice".into(),
            permission: Some(permission),
            ..Default::default()
        })
    };
    let none = livekit::ParticipantPermission::default();
    let Ok(AdminResponse::Participant(info)) = world.admin(request(none.clone())) else { panic!() };
    assert_eq!(info.permission, Some(none));
    let unsubscribed = world.actions().iter().any(
        |action| matches!(action, NodeAction::Unsubscribe { connection, .. } if *connection == alice.downstream()),
    );
    assert!(unsubscribed);
    let inbox = world.inbox(&alice);
    assert!(inbox.iter().any(|message| matches!(message, Response::RefreshToken(_))), "{inbox:?}");
    assert!(inbox.iter().any(|message| matches!(message, Response::Update(_))));
    let all = livekit::ParticipantPermission { can_subscribe: true, ..Default::default() };
    world.admin(request(all)).unwrap();
    assert!(world.actions().iter().any(|action| matches!(action, NodeAction::Subscribe(_))));
}

#[test]
fn updates_over_a_limit_change_nothing() {
    let mut world = World::new();
    world.join_active(World::params("alice"));
    let request = livekit::UpdateParticipantRequest {
        identity: "alice".into(),
        name: "new".into(),
        attributes: [("k".to_owned(), "v".repeat(65 * 1024))].into(),
        ..Default::default()
    };
    let refused = world.admin(AdminRequest::UpdateParticipant(request));
    assert!(matches!(refused, Err(AdminError::InvalidArgument(_))));
    let found = world.admin(AdminRequest::GetParticipant(Identity::new("alice")));
    assert!(matches!(found, Ok(AdminResponse::Participant(info)) if info.name.is_empty()));
}

#[test]
fn subscriptions_can_be_changed_for_others() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let track = world.publish(&alice, MediaKind::Video);
    world.actions();
    let request = livekit::UpdateSubscriptionsRequest {
        identity: "bob".into(),
        track_sids: vec![track.as_str().into()],
        subscribe: false,
        ..Default::default()
    };
    world.admin(AdminRequest::UpdateSubscriptions(request)).unwrap();
    assert_eq!(world.actions(), [NodeAction::Unsubscribe { connection: bob.downstream(), track }]);
}

fn call(identity: &str) -> AdminRequest {
    AdminRequest::PerformRpc(livekit::PerformRpcRequest {
        destination_identity: identity.into(),
        method: "greet".into(),
        payload: "hi".into(),
        ..Default::default()
    })
}

fn answer(world: &mut World, peer: &Peer, value: Value) {
    let packet = DataPacket { value: Some(value), ..Default::default() };
    let (connection, kind) = (peer.publisher, DataKind::Reliable);
    let payload = packet.encode_to_vec().into();
    world.node(NodeEvent::DataReceived { connection, kind, payload });
}

#[test]
fn a_call_is_acknowledged_and_answered() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let reply = world.ask(call("alice"));
    let packet = sent_packets(&mut world).remove(0);
    let Some(Value::RpcRequest(request)) = packet.value else { panic!() };
    assert_eq!((request.method.as_str(), packet.participant_identity == request.id), ("greet", true));
    let request_id = request.id.clone();
    answer(&mut world, &alice, Value::RpcAck(livekit::RpcAck { request_id: request_id.clone() }));
    world.advance(Duration::from_secs(5));
    assert_eq!(world.reply(reply), None);
    let value = Some(livekit::rpc_response::Value::Payload("hello".into()));
    let response = Value::RpcResponse(livekit::RpcResponse { request_id: request_id.clone(), value });
    // Nobody else can answer for it, and nothing of it is passed on.
    answer(&mut world, &bob, response.clone());
    assert_eq!(world.reply(reply), None);
    answer(&mut world, &alice, response);
    assert_eq!(world.reply(reply), Some(Ok(AdminResponse::Rpc("hello".into()))));
    assert_eq!(sent_packets(&mut world), []);
}

#[test]
fn calls_end_when_nobody_answers() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let code = |result| match result {
        Some(Err(AdminError::Rpc { code, .. })) => code,
        other => panic!("{other:?}"),
    };
    let unacknowledged = world.ask(call("alice"));
    world.advance(Duration::from_secs(2));
    assert_eq!(code(world.reply(unacknowledged)), 1501);
    world.actions();
    let unanswered = world.ask(call("alice"));
    let Some(Value::RpcRequest(request)) = sent_packets(&mut world).remove(0).value else { panic!() };
    answer(&mut world, &alice, Value::RpcAck(livekit::RpcAck { request_id: request.id }));
    world.advance(Duration::from_secs(10));
    assert_eq!(code(world.reply(unanswered)), 1502);
    let abandoned = world.ask(call("alice"));
    world.admin(AdminRequest::RemoveParticipant(Identity::new("alice"))).unwrap();
    assert_eq!(code(world.reply(abandoned)), 1503);
    assert!(matches!(world.admin(call("alice")), Err(AdminError::NotFound(_))));
    assert!(matches!(world.admin(call("")), Err(AdminError::InvalidArgument(_))));
}
