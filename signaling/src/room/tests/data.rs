//! Data packets and data tracks.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use zynk_protocol::livekit::data_packet::Value;
use zynk_protocol::livekit::request_response::{Reason, Request as Echo};
use zynk_protocol::livekit::{self, DataPacket};
use zynk_protocol::{ConnectionId, DataKind, NodeAction, NodeEvent, Recipients};

use super::world::{Request, Response, refusal};
use super::{Peer, World};
use crate::join::JoinParams;

fn user(text: &str) -> DataPacket {
    let packet = livekit::UserPacket { payload: text.as_bytes().to_vec(), ..Default::default() };
    DataPacket { value: Some(Value::User(packet)), ..Default::default() }
}

fn send(world: &mut World, from: &Peer, kind: DataKind, packet: &DataPacket) {
    send_bytes(world, from, kind, packet.encode_to_vec().into());
}

fn send_bytes(world: &mut World, from: &Peer, kind: DataKind, payload: Bytes) {
    world.node(NodeEvent::DataReceived { connection: from.publisher, kind, payload });
}

/// What the node was told to send since it was last asked.
fn sent(world: &mut World) -> Vec<(Vec<ConnectionId>, DataKind, Bytes)> {
    let pick = |action| match action {
        NodeAction::SendData { to: Recipients::Connections(to), kind, payload } => Some((to, kind, payload)),
        _ => None,
    };
    world.actions().into_iter().filter_map(pick).collect()
}

fn sent_packets(world: &mut World) -> Vec<(Vec<ConnectionId>, DataPacket)> {
    sent(world).into_iter().map(|(to, _, payload)| (to, DataPacket::decode(payload).unwrap())).collect()
}

fn three(world: &mut World) -> [Peer; 3] {
    ["alice", "bob", "carol"].map(|name| world.join_active(World::params(name)))
}

#[test]
fn l88_packets_are_stamped_and_never_come_back() {
    let mut world = World::new();
    let [alice, bob, carol] = three(&mut world);
    let mut packet = user("hello");
    packet.participant_identity = "somebody else".into();
    packet.participant_sid = "PA_forged".into();
    send(&mut world, &alice, DataKind::Lossy, &packet);
    let (to, packet) = sent_packets(&mut world).remove(0);
    let mut expected = vec![bob.downstream(), carol.downstream()];
    expected.sort();
    assert_eq!(
        {
            let mut to = to;
            to.sort();
            to
        },
        expected
    );
    assert_eq!(packet.participant_identity, "alice");
    assert_eq!(packet.participant_sid, alice.sid.as_str());
    assert_eq!(packet.kind(), livekit::data_packet::Kind::Lossy);
    let Some(Value::User(user)) = packet.value else { panic!() };
    assert_eq!(
        (user.participant_identity.as_str(), user.participant_sid.as_str()),
        ("alice", alice.sid.as_str())
    );
    assert_eq!(user.payload, b"hello");
}

#[test]
fn l89_destinations_are_honoured_in_old_and_new_fields() {
    let mut world = World::new();
    let [alice, bob, carol] = three(&mut world);
    let mut new = user("new");
    new.destination_identities = vec!["bob".into()];
    let mut old = user("old");
    if let Some(Value::User(user)) = &mut old.value {
        user.destination_identities = vec!["carol".into()];
    }
    let mut by_sid = user("sid");
    if let Some(Value::User(user)) = &mut by_sid.value {
        user.destination_sids = vec![bob.sid.as_str().into()];
    }
    for (packet, to) in [(new, &bob), (old, &carol), (by_sid, &bob)] {
        send(&mut world, &alice, DataKind::Reliable, &packet);
        let (connections, packet) = sent_packets(&mut world).remove(0);
        assert_eq!(connections, [to.downstream()]);
        let Some(Value::User(user)) = packet.value else { panic!() };
        assert_eq!(user.destination_identities, packet.destination_identities);
    }
}

#[test]
fn l90_who_may_not_send_data_is_not_heard() {
    let mut world = World::new();
    world.join_active(World::params("bob"));
    let mut claims = World::claims("alice");
    claims.video.can_publish_data = Some(false);
    let alice = world.join_active(World::params_of(claims));
    send(&mut world, &alice, DataKind::Reliable, &user("hello"));
    assert_eq!(sent(&mut world), []);
    assert_eq!(world.inbox(&alice), []);
}

#[test]
fn l91_repeated_sequence_numbers_are_dropped() {
    let mut world = World::new();
    let [alice, ..] = three(&mut world);
    for sequence in [1, 2, 2, 1, 3] {
        send(&mut world, &alice, DataKind::Reliable, &DataPacket { sequence, ..user("n") });
    }
    let sequences: Vec<u32> = sent_packets(&mut world).iter().map(|(_, packet)| packet.sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
}

#[test]
fn l92_reliable_packets_reach_those_who_are_joining_once() {
    let mut world = World::new();
    let [alice, bob, _] = three(&mut world);
    send(&mut world, &alice, DataKind::Reliable, &user("before"));
    let dave = world.join(World::params("dave"));
    send(&mut world, &alice, DataKind::Reliable, &user("during"));
    let mut private = user("private");
    private.destination_identities = vec!["bob".into()];
    send(&mut world, &alice, DataKind::Reliable, &private);
    let to_dave = |world: &mut World| -> Vec<Vec<u8>> {
        let packets = sent_packets(world).into_iter().filter(|(to, _)| to.contains(&dave.downstream()));
        packets
            .map(|(_, packet)| match packet.value {
                Some(Value::User(user)) => user.payload,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    assert_eq!(to_dave(&mut world), Vec::<Vec<u8>>::new());
    world.connect(&dave);
    assert_eq!(to_dave(&mut world), [b"during"]);
    send(&mut world, &bob, DataKind::Reliable, &user("after"));
    assert_eq!(to_dave(&mut world), [b"after"]);
}

#[test]
fn l93_agents_may_speak_for_others() {
    let mut world = World::new();
    let [alice, ..] = three(&mut world);
    let mut claims = World::claims("agent");
    claims.kind = "agent".into();
    let agent = world.join_active(World::params_of(claims));
    let header = |identity: &str| DataPacket {
        participant_identity: identity.into(),
        value: Some(Value::StreamHeader(livekit::data_stream::Header {
            stream_id: "s".into(),
            content_header: Some(livekit::data_stream::header::ContentHeader::TextHeader(Default::default())),
            ..Default::default()
        })),
        ..Default::default()
    };
    let generated = |packet: &DataPacket| match &packet.value {
        Some(Value::StreamHeader(header)) => match &header.content_header {
            Some(livekit::data_stream::header::ContentHeader::TextHeader(text)) => text.generated,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    send(&mut world, &agent, DataKind::Reliable, &header("alice"));
    let (_, packet) = sent_packets(&mut world).remove(0);
    assert_eq!((packet.participant_identity.as_str(), generated(&packet)), ("alice", true));
    assert_eq!(packet.participant_sid, agent.sid.as_str());
    send(&mut world, &alice, DataKind::Reliable, &header("bob"));
    let (_, packet) = sent_packets(&mut world).remove(0);
    assert_eq!((packet.participant_identity.as_str(), generated(&packet)), ("alice", false));
}

#[test]
fn l94_transcriptions_come_from_agents_alone() {
    let mut world = World::new();
    let [alice, ..] = three(&mut world);
    let packet = DataPacket { value: Some(Value::Transcription(Default::default())), ..Default::default() };
    send(&mut world, &alice, DataKind::Reliable, &packet);
    assert_eq!(sent(&mut world), []);
}

#[test]
fn l95_encrypted_packets_pass_untouched() {
    let mut world = World::new();
    let [alice, ..] = three(&mut world);
    let encrypted = livekit::EncryptedPacket { encrypted_value: vec![1, 2, 3], ..Default::default() };
    let packet = DataPacket { value: Some(Value::EncryptedPacket(encrypted.clone())), ..Default::default() };
    send(&mut world, &alice, DataKind::Reliable, &packet);
    let (_, packet) = sent_packets(&mut world).remove(0);
    assert_eq!(packet.value, Some(Value::EncryptedPacket(encrypted)));
    assert_eq!(packet.participant_identity, "alice");
}

#[test]
fn l97_what_is_unknown_passes_and_is_stamped() {
    let mut world = World::new();
    let [alice, ..] = three(&mut world);
    // Field 100, length 3: a kind of packet that does not exist yet; and a forged kind and identity.
    let unknown = [0xa2, 0x06, 3, 7, 8, 9];
    let forged = DataPacket { kind: 1, participant_identity: "eve".into(), ..Default::default() };
    let payload: Bytes = [&forged.encode_to_vec()[..], &unknown[..]].concat().into();
    send_bytes(&mut world, &alice, DataKind::Reliable, payload);
    let (_, _, payload) = sent(&mut world).remove(0);
    assert!(payload.windows(unknown.len()).any(|window| window == unknown));
    let packet = DataPacket::decode(payload).unwrap();
    assert_eq!((packet.participant_identity.as_str(), packet.kind), ("alice", 0));
}

#[test]
fn hidden_senders_stay_nameless() {
    let mut world = World::new();
    world.join_active(World::params("bob"));
    let mut claims = World::claims("ghost");
    claims.video.hidden = true;
    let ghost = world.join_active(World::params_of(claims));
    let chat = livekit::ChatMessage { message: "boo".into(), ..Default::default() };
    let packet = DataPacket {
        participant_identity: "ghost".into(),
        value: Some(Value::ChatMessage(chat)),
        ..Default::default()
    };
    send(&mut world, &ghost, DataKind::Reliable, &packet);
    let (_, packet) = sent_packets(&mut world).remove(0);
    assert_eq!(
        (packet.participant_identity.as_str(), packet.participant_sid.as_str()),
        ("", ghost.sid.as_str())
    );
}

#[test]
fn garbage_and_repeated_nonces_are_dropped() {
    let mut world = World::new();
    let [alice, ..] = three(&mut world);
    send_bytes(&mut world, &alice, DataKind::Reliable, Bytes::from_static(&[0xff; 40]));
    assert_eq!(sent(&mut world), []);
    for _ in 0..2 {
        let mut packet = user("once");
        if let Some(Value::User(user)) = &mut packet.value {
            user.nonce = vec![5; 16];
        }
        send(&mut world, &alice, DataKind::Reliable, &packet);
    }
    assert_eq!(sent(&mut world).len(), 1);
}

#[test]
fn kept_packets_are_bounded() {
    let mut world = World::new();
    let [alice, ..] = three(&mut world);
    for _ in 0..50 {
        send(&mut world, &alice, DataKind::Reliable, &user(&"x".repeat(10_000)));
    }
    assert!(world.room.data.kept_bytes() <= 100_000);
    world.advance(Duration::from_secs(60));
    send(&mut world, &alice, DataKind::Reliable, &user("x"));
    assert!(world.room.data.kept_bytes() < 1_000);
}

fn publish_track(world: &mut World, peer: &Peer, handle: u32, name: &str) -> Vec<Response> {
    let request =
        livekit::PublishDataTrackRequest { pub_handle: handle, name: name.into(), ..Default::default() };
    world.signal(peer, Request::PublishDataTrackRequest(request));
    world.inbox(peer)
}

#[test]
fn l100_data_tracks_are_checked_and_get_an_id() {
    let mut world = World::new();
    let [alice, bob, _] = three(&mut world);
    let inbox = publish_track(&mut world, &alice, 1, "lidar");
    let [Response::PublishDataTrackResponse(response)] = &inbox[..] else { panic!("{inbox:?}") };
    assert!(response.info.as_ref().unwrap().sid.starts_with("DTR_"));
    let info = world.updates(&bob).remove(0);
    assert!(info.is_publisher);
    assert_eq!(info.data_tracks[0].name, "lidar");
    let too_long = "x".repeat(257);
    for (handle, name, reason) in [
        (0, "a", Reason::InvalidHandle),
        (65_536, "a", Reason::InvalidHandle),
        (2, "", Reason::InvalidName),
        (2, too_long.as_str(), Reason::InvalidName),
        (1, "a", Reason::DuplicateHandle),
        (2, "lidar", Reason::DuplicateName),
    ] {
        let inbox = publish_track(&mut world, &alice, handle, name);
        let refused = inbox.into_iter().find_map(refusal).unwrap();
        assert_eq!(refused.reason(), reason);
        assert!(matches!(refused.request, Some(Echo::PublishDataTrack(echo)) if echo.pub_handle == handle));
    }
}

#[test]
fn l101_data_track_packets_change_their_handle_alone() {
    let mut world = World::new();
    let [alice, bob, _] = three(&mut world);
    publish_track(&mut world, &alice, 1, "first");
    let inbox = publish_track(&mut world, &alice, 700, "second");
    let Response::PublishDataTrackResponse(response) = &inbox[0] else { panic!() };
    let track = response.info.as_ref().unwrap().sid.clone();
    world.inbox(&bob);
    let update = livekit::update_data_subscription::Update {
        track_sid: track.clone(),
        subscribe: true,
        options: None,
    };
    world.signal(
        &bob,
        Request::UpdateDataSubscription(livekit::UpdateDataSubscription { updates: vec![update] }),
    );
    let handles = world.told(&bob, |message| match message {
        Response::DataTrackSubscriberHandles(handles) => Some(handles.sub_handles),
        _ => None,
    });
    assert_eq!(handles[&1].track_sid, track);
    assert_eq!(handles[&1].publisher_identity, "alice");
    world.actions();
    let mut packet = vec![0x18, 0, 0x02, 0xbc, 0, 9, 0, 1, 0, 0, 0, 7];
    packet.extend(b"payload");
    send_bytes(&mut world, &alice, DataKind::DataTrack, packet.clone().into());
    let (to, kind, payload) = sent(&mut world).remove(0);
    assert_eq!((to, kind), (vec![bob.downstream()], DataKind::DataTrack));
    packet[2..4].copy_from_slice(&[0, 1]);
    assert_eq!(payload, packet);
    // Nobody subscribed to the first track, and a packet without a header is nothing.
    let mut first = packet.clone();
    first[2..4].copy_from_slice(&[0, 1]);
    send_bytes(&mut world, &alice, DataKind::DataTrack, first.into());
    send_bytes(&mut world, &alice, DataKind::DataTrack, Bytes::from_static(&[0x18, 0, 2]));
    assert_eq!(sent(&mut world), []);
}

#[test]
fn data_tracks_end_with_their_publisher() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(JoinParams { auto_subscribe_data_tracks: true, ..World::params("bob") });
    publish_track(&mut world, &alice, 1, "lidar");
    let handles = |message| match message {
        Response::DataTrackSubscriberHandles(handles) => Some(handles.sub_handles.len()),
        _ => None,
    };
    assert_eq!(world.told(&bob, handles), 1);
    world.signal(&alice, Request::Leave(Default::default()));
    assert_eq!(world.told(&bob, handles), 0);
}

#[test]
fn l102_data_blobs_are_refused_by_number() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    world.signal(
        &alice,
        Request::StoreDataBlobRequest(livekit::StoreDataBlobRequest { request_id: 42, blob: None }),
    );
    let refused = world.told(&alice, refusal);
    assert_eq!((refused.reason(), refused.request_id), (Reason::NotAllowed, 42));
}
