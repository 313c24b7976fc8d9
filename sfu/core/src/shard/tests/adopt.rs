//! Connections that go to another room.

use super::{backup::TRACK, relay::Node, *};

const OTHER: &str = "RM_other";

fn adopt(rig: &mut Rig) {
    let from = ROOM.parse().unwrap();
    let action = NodeAction::AdoptConnection { connection: ALICE, from };
    rig.shard.handle_input(rig.now, Input::Command { room: OTHER.parse().unwrap(), action });
}

/// What a shard has to say, with the room.
fn said(rig: &mut Rig) -> Vec<(String, NodeEvent)> {
    let mut events = Vec::new();
    loop {
        match rig.shard.poll_output() {
            Output::Event { room, event } => events.push((room.to_string(), event)),
            Output::Timeout(_) => return events,
            _ => {}
        }
    }
}

fn subscribe_in(rig: &mut Rig, room: &str, connection: ConnectionId, track: &str) {
    let stream_id = format!("PA_x|{track}");
    let settings = SubscriptionSettings::default();
    let track = track.parse().unwrap();
    let action = NodeAction::Subscribe(SubscribeTrack { connection, track, stream_id, settings });
    rig.shard.handle_input(rig.now, Input::Command { room: room.parse().unwrap(), action });
    rig.drain();
}

#[test]
fn what_happens_after_a_connection_has_moved_is_told_to_the_other_room() {
    let mut rig = with_publisher();
    rig.events.clear();
    let sid = rig.shard.tracks.iter().next().unwrap().1.sid.clone();
    adopt(&mut rig);
    let moved = NodeEvent::ConnectionMoved { connection: ALICE };
    assert_eq!(said(&mut rig), [(ROOM.to_owned(), moved.clone())]);
    assert!(!rig.shard.rooms.contains_key(&ROOM.parse::<RoomSid>().unwrap()), "nobody is left there");
    // It has the same tracks, for those of the other room.
    rig.open(BOB, ConnectionRole::Single, false);
    subscribe_in(&mut rig, OTHER, BOB, sid.as_str());
    let track = rig.shard.published(&sid).unwrap();
    assert_eq!(rig.shard.tracks[track.0].subscribers.len(), 1);
    rig.shard.handle_input(
        rig.now,
        Input::Command {
            room: OTHER.parse().unwrap(),
            action: NodeAction::RemoteOffer {
                connection: ALICE,
                offer_id: 9,
                sdp: offer(&["audio inactive msid:stream_mic"]),
            },
        },
    );
    let said_then = said(&mut rig);
    assert!(!said_then.is_empty() && said_then.iter().all(|(room, _)| room == OTHER), "{said_then:?}");
    // Closing the room that it has left does not touch it; one that is gone is said to have moved.
    rig.command(NodeAction::CloseRoom);
    assert!(rig.shard.endpoint_of(ALICE).is_some());
    rig.shard.handle_input(
        rig.now,
        Input::Command { room: OTHER.parse().unwrap(), action: NodeAction::CloseRoom },
    );
    rig.drain();
    adopt(&mut rig);
    assert_eq!(said(&mut rig), [(ROOM.to_owned(), moved)]);
    assert!(rig.shard.rooms.keys().all(|room| room.as_str() != OTHER));
}

/// Alice publishes in the first shard, and moves to a room that the second has as well. Somebody there has asked for her track
/// before she came, and somebody in the room that she leaves has not let go of it yet.
#[test]
fn a_track_that_has_moved_is_relayed_for_the_other_room_alone() {
    let mut node = Node::with_publisher();
    let carol = ConnectionId(3);
    for index in [0, 1] {
        let rig = &mut node.shards[index];
        let shards = vec![ShardIndex(0), ShardIndex(1)];
        rig.shard.handle_input(rig.now, Input::Siblings { room: OTHER.parse().unwrap(), shards });
        rig.drain();
    }
    let rig = &mut node.shards[1];
    rig.open(BOB, ConnectionRole::Single, false);
    rig.subscribe(BOB, TRACK);
    node.settle();
    assert_eq!(node.relays_of(TRACK), [ShardIndex(1)]);

    adopt(&mut node.shards[0]);
    node.shards[0].drain();
    node.settle();
    assert!(node.relays_of(TRACK).is_empty(), "it has ended for the room that it left");
    assert_eq!(node.shards[1].shard.relay.tracks(), 0);

    let track = TRACK.parse().unwrap();
    node.shards[1].command(NodeAction::Unsubscribe { connection: BOB, track });
    let rig = &mut node.shards[1];
    let open = NodeAction::OpenConnection(OpenConnection {
        connection: carol,
        participant: ParticipantSid::from_random(3),
        role: ConnectionRole::Single,
        late_binding: false,
        candidates: zynk_protocol::CandidatePolicy::All,
    });
    rig.shard.handle_input(rig.now, Input::Command { room: OTHER.parse().unwrap(), action: open });
    subscribe_in(rig, OTHER, carol, TRACK);
    node.settle();
    assert_eq!(node.relays_of(TRACK), [ShardIndex(1)]);
    assert_eq!(node.shards[1].shard.relay.tracks(), 1);
    node.publish_packet(0, 1);
    assert_eq!(node.shards[1].shard.stats().relay_packets_received, 1);
    // Its end is told to both.
    node.shards[0].offer(ALICE, 6, &["video inactive msid:stream_camera"]);
    node.settle();
    assert_eq!(node.shards[1].shard.relay.tracks(), 0);
}

/// The other room's wish may come before the connection does.
#[test]
fn who_asked_for_a_track_before_it_moved_is_told_when_it_has() {
    let mut node = Node::with_publisher();
    for index in [0, 1] {
        let rig = &mut node.shards[index];
        let shards = vec![ShardIndex(0), ShardIndex(1)];
        rig.shard.handle_input(rig.now, Input::Siblings { room: OTHER.parse().unwrap(), shards });
        rig.drain();
    }
    let rig = &mut node.shards[1];
    let open = NodeAction::OpenConnection(OpenConnection {
        connection: BOB,
        participant: ParticipantSid::from_random(2),
        role: ConnectionRole::Single,
        late_binding: false,
        candidates: zynk_protocol::CandidatePolicy::All,
    });
    rig.shard.handle_input(rig.now, Input::Command { room: OTHER.parse().unwrap(), action: open });
    subscribe_in(rig, OTHER, BOB, TRACK);
    node.settle();
    assert!(node.relays_of(TRACK).is_empty(), "it is another room's");
    adopt(&mut node.shards[0]);
    node.shards[0].drain();
    node.settle();
    assert_eq!(node.relays_of(TRACK), [ShardIndex(1)]);
}
