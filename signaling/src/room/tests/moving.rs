//! Participants that move to another room.

use prost::Message as _;
use zynk_protocol::livekit::data_packet::Value;
use zynk_protocol::livekit::participant_info::{Kind, State};
use zynk_protocol::livekit::{self, DataPacket, DisconnectReason};
use zynk_protocol::{
    ConnectionState, DataKind, Identity, MediaKind, NodeAction, NodeEvent, Recipients, RoomName, TrackSid,
};

use super::world::{Request, Response, add_track, leave, update};
use super::{Peer, World};
use crate::admin::{AdminError, AdminRequest, AdminResponse};
use crate::room::{MoveId, RoomInput};

/// A room with Alice, who moves, and Bob, and another with Carol; all publish.
struct Rooms {
    lobby: World,
    stage: World,
    alice: Peer,
    bob: Peer,
    carol: Peer,
    /// Of each.
    tracks: [TrackSid; 3],
}

impl Rooms {
    fn new() -> Self {
        let (mut lobby, mut stage) = (World::new(), World::another("stage"));
        let alice = lobby.join_active(World::params("alice"));
        let bob = lobby.join_active(World::params("bob"));
        let carol = stage.join_active(World::params("carol"));
        let tracks = [
            lobby.publish(&alice, MediaKind::Audio),
            lobby.publish(&bob, MediaKind::Audio),
            stage.publish(&carol, MediaKind::Audio),
        ];
        for world in [&mut lobby, &mut stage] {
            world.actions();
            world.webhooks();
        }
        lobby.inbox(&alice);
        lobby.inbox(&bob);
        stage.inbox(&carol);
        Self { lobby, stage, alice, bob, carol, tracks }
    }

    /// Alice leaves the one room and comes to the other, which calls her session something else.
    fn move_alice(&mut self) {
        self.depart().unwrap();
        self.arrive();
    }

    fn depart(&mut self) -> Result<(), AdminError> {
        let session = self.alice.session;
        let destination = RoomName::new("stage");
        self.lobby.input(RoomInput::Depart { session, number: MoveId(1), destination });
        match self.lobby.departed.as_ref().unwrap() {
            Ok(_) => Ok(()),
            Err(error) => Err(error.clone()),
        }
    }

    fn arrive(&mut self) {
        let traveller = self.lobby.departed.take().unwrap().unwrap();
        assert_eq!(traveller.connections(), [self.alice.publisher, self.alice.subscriber.unwrap()]);
        self.alice.session = self.stage.session();
        self.stage.input(RoomInput::Arrive { session: self.alice.session, traveller });
    }

    fn settle(&mut self) {
        let connections = vec![self.alice.publisher, self.alice.subscriber.unwrap()];
        for connection in connections.clone() {
            self.lobby.node(NodeEvent::ConnectionMoved { connection });
        }
        assert_eq!(self.lobby.passed_all, 1);
        self.stage.input(RoomInput::Settled { connections });
    }
}

fn names(world: &mut World) -> Vec<String> {
    world.webhooks().into_iter().map(|event| event.event).collect()
}

fn data(sequence: u32) -> DataPacket {
    let user = livekit::UserPacket { payload: vec![1], ..Default::default() };
    DataPacket { sequence, value: Some(Value::User(user)), ..Default::default() }
}

#[test]
fn l120_a_participant_moves_with_its_session_and_its_tracks() {
    let mut rooms = Rooms::new();
    let [track, of_bob, of_carol] = rooms.tracks.clone();
    rooms.move_alice();
    let Rooms { lobby, stage, alice, bob, carol, .. } = &mut rooms;

    // Where she was, she is gone, and nobody receives her any more; but nothing of hers is closed.
    let gone = lobby.updates(bob).remove(0);
    assert_eq!((gone.sid.as_str(), gone.state()), (alice.sid.as_str(), State::Disconnected));
    assert_eq!((gone.disconnect_reason(), gone.tracks.len()), (DisconnectReason::Migration, 0));
    let ended = |connection, track: &TrackSid| NodeAction::Unsubscribe { connection, track: track.clone() };
    assert_eq!(lobby.actions(), [ended(alice.downstream(), &of_bob), ended(bob.downstream(), &track)]);
    assert_eq!(names(lobby), ["track_unpublished", "participant_left"]);
    assert_eq!(lobby.room.participant_count(), 1);

    // Where she is, she is told of everything in one message, which comes first.
    let inbox = stage.inbox(alice);
    let Some(Response::RoomMoved(moved)) = inbox.first() else { panic!("{inbox:#?}") };
    assert_eq!(moved.room.as_ref().unwrap().name, "stage");
    let me = moved.participant.as_ref().unwrap();
    assert_eq!((me.sid.as_str(), me.state()), (alice.sid.as_str(), State::Active));
    assert_eq!(me.tracks[0].sid, track.as_str());
    assert!(me.version > gone.version, "clients ignore what is older");
    assert_eq!(moved.other_participants[0].identity, "carol");
    let claims = stage.keys.verify(&moved.token, stage.room.system_time()).unwrap();
    assert_eq!((claims.video.room.as_str(), claims.video.room_join), ("stage", true));

    // The others are told of her before her media comes, and each receives the other.
    assert_eq!(stage.updates(carol)[0].tracks[0].sid, track.as_str());
    let adopted: Vec<_> = stage.actions();
    let from = lobby.room.sid().clone();
    for (action, connection) in adopted.iter().zip([alice.publisher, alice.subscriber.unwrap()]) {
        assert_eq!(*action, NodeAction::AdoptConnection { connection, from: from.clone() });
    }
    let subscribed: Vec<_> = adopted
        .iter()
        .filter_map(|action| match action {
            NodeAction::Subscribe(subscribe) => Some((subscribe.connection, subscribe.track.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(subscribed, [(alice.downstream(), of_carol), (carol.downstream(), track)]);
    assert_eq!(adopted.len(), 4);
    assert_eq!(names(stage), ["participant_joined", "track_published"]);
}

#[test]
fn l120_what_the_node_told_before_comes_first() {
    let mut rooms = Rooms::new();
    rooms.move_alice();
    rooms.lobby.actions();
    rooms.stage.actions();
    let connection = rooms.alice.primary();
    let received = |sequence| NodeEvent::DataReceived {
        connection,
        kind: DataKind::Reliable,
        payload: data(sequence).encode_to_vec().into(),
    };
    // The node told the one room of two packets, and then the other of a third, which hears of that first.
    rooms.stage.node(received(3));
    for sequence in [1, 2] {
        rooms.lobby.node(received(sequence));
        let event = rooms.lobby.passed.pop().unwrap();
        rooms.stage.input(RoomInput::Late(event));
    }
    rooms.settle();
    let sent: Vec<u32> = rooms
        .stage
        .actions()
        .into_iter()
        .filter_map(|action| match action {
            NodeAction::SendData { to: Recipients::Connections(to), payload, .. } => {
                assert_eq!(to, [rooms.carol.primary()]);
                Some(DataPacket::decode(payload).unwrap().sequence)
            }
            _ => None,
        })
        .collect();
    assert_eq!(sent, [1, 2, 3]);
    // From then on nothing is held or passed on.
    rooms.stage.node(received(4));
    assert_eq!(rooms.stage.actions().len(), 1);
    rooms.lobby.node(received(5));
    assert!(rooms.lobby.passed.is_empty() && rooms.lobby.actions().is_empty());
}

#[test]
fn l120_a_track_that_ends_on_the_way_ends_in_the_other_room() {
    let mut rooms = Rooms::new();
    let [track, ..] = rooms.tracks.clone();
    rooms.move_alice();
    rooms.stage.inbox(&rooms.carol);
    let stopped =
        || NodeEvent::TrackStopped { track: track.clone(), reason: zynk_protocol::EndReason::Unpublished };
    rooms.lobby.node(stopped());
    assert_eq!(rooms.lobby.passed, [stopped()]);
    rooms.stage.node(stopped());
    assert!(rooms.stage.inbox(&rooms.carol).is_empty(), "it is held until what came before has come");
    rooms.settle();
    assert!(rooms.stage.updates(&rooms.carol)[0].tracks.is_empty());
}

#[test]
fn l120_who_has_moved_goes_on_as_before() {
    let mut rooms = Rooms::new();
    rooms.move_alice();
    rooms.settle();
    let Rooms { stage, alice, carol, .. } = &mut rooms;
    stage.inbox(alice);
    stage.inbox(carol);
    let track = stage.announce(alice, add_track(MediaKind::Video, "camera"));
    stage.start(alice, &track, MediaKind::Video, "camera", &[]);
    assert_eq!(stage.updates(carol)[0].tracks.len(), 2);
    // Its connection counts here, and its identity is known to the server API.
    let connection = alice.primary();
    stage.node(NodeEvent::ConnectionState { connection, state: ConnectionState::Disconnected });
    assert_eq!(stage.probed, [alice.session]);
    let found = stage.admin(AdminRequest::GetParticipant(Identity::new("alice")));
    assert!(matches!(found, Ok(AdminResponse::Participant(info)) if info.tracks.len() == 2));
    stage.signal(alice, Request::Leave(livekit::LeaveRequest::default()));
    let closed = stage.actions().into_iter().filter(|a| matches!(a, NodeAction::CloseConnection { .. }));
    assert_eq!((closed.count(), stage.is_closed(alice)), (2, true));
}

#[test]
fn l120_the_same_identity_in_the_other_room_gives_way() {
    let mut rooms = Rooms::new();
    let other = rooms.stage.join_active(World::params("alice"));
    rooms.move_alice();
    assert_eq!(rooms.stage.told(&other, leave).reason(), DisconnectReason::DuplicateIdentity);
    assert_eq!(rooms.stage.room.participant_count(), 2);
}

#[test]
fn l120_some_cannot_be_moved() {
    let mut world = World::new();
    let mut agent = World::params("agent");
    agent.kind = Kind::Agent;
    let mut old = World::params("old");
    old.client.protocol = 15;
    world.join_active(agent);
    world.join_active(old);
    world.join(World::params("joining"));
    let lost = world.join_active(World::params("lost"));
    world.input(RoomInput::SessionClosed { session: lost.session });
    let refused = |identity: &str| world.room.check_departure(&Identity::new(identity)).unwrap_err();
    for identity in ["agent", "old", "joining"] {
        assert!(matches!(refused(identity), AdminError::FailedPrecondition(_)), "{identity}");
    }
    assert!(matches!(refused("lost"), AdminError::Unavailable(_)));
    assert!(matches!(refused("nobody"), AdminError::NotFound(_)));
}

#[test]
fn l120_a_full_room_takes_nobody_but_who_needs_no_place() {
    let mut world = World::with(|_, record| record.max_participants = 1);
    let check = |world: &World, identity: &str, counts| {
        world.room.check_arrival(&Identity::new(identity), counts).is_ok()
    };
    assert!(check(&world, "bob", true));
    world.join_active(World::params("alice"));
    assert!(check(&world, "alice", true), "the same one comes anew");
    assert!(!check(&world, "bob", true) && check(&world, "recorder", false));
}

#[test]
fn l120_nobody_moves_twice_at_once() {
    let mut rooms = Rooms::new();
    rooms.move_alice();
    let again = |rooms: &Rooms| rooms.stage.room.check_departure(&Identity::new("alice"));
    assert!(matches!(again(&rooms), Err(AdminError::FailedPrecondition(_))));
    rooms.settle();
    assert_eq!(again(&rooms), Ok(rooms.alice.session));
}

#[test]
fn l120_events_of_the_new_room_are_held_within_bounds() {
    let mut rooms = Rooms::new();
    rooms.move_alice();
    let connection = rooms.alice.primary();
    for _ in 0..=1_024 {
        let payload = data(0).encode_to_vec().into();
        rooms.stage.node(NodeEvent::DataReceived { connection, kind: DataKind::Lossy, payload });
    }
    let told = rooms.stage.told(&rooms.alice, leave);
    assert_eq!(told.action(), livekit::leave_request::Action::Reconnect);
    rooms.settle();
    assert_eq!(rooms.stage.room.participant_count(), 1);
}

#[test]
fn l120_whom_no_room_takes_is_closed() {
    let mut rooms = Rooms::new();
    rooms.depart().unwrap();
    rooms.lobby.actions();
    let connections = rooms.lobby.departed.take().unwrap().unwrap().connections();
    rooms.lobby.input(RoomInput::Stranded { connections: connections.clone() });
    let closed: Vec<_> = connections
        .iter()
        .map(|connection| NodeAction::CloseConnection { connection: *connection })
        .collect();
    assert_eq!((rooms.lobby.actions(), rooms.lobby.passed_all), (closed, 1));
}

#[test]
fn l120_to_another_node_clients_go_by_joining_anew() {
    let mut rooms = Rooms::new();
    let (identity, destination) = (Identity::new("alice"), RoomName::new("stage"));
    rooms.lobby.admin(AdminRequest::SendElsewhere { identity, destination }).unwrap();
    let inbox = rooms.lobby.inbox(&rooms.alice);
    let [Response::RefreshToken(token), Response::Leave(leave)] = &inbox[..] else { panic!("{inbox:#?}") };
    assert_eq!(leave.action(), livekit::leave_request::Action::Reconnect);
    let claims = rooms.lobby.keys.verify(token, rooms.lobby.room.system_time()).unwrap();
    assert_eq!(claims.video.room, "stage");
    assert!(rooms.lobby.is_closed(&rooms.alice));
    let gone = rooms.lobby.inbox(&rooms.bob).into_iter().find_map(update).unwrap().remove(0);
    assert_eq!(gone.disconnect_reason(), DisconnectReason::Migration);
}
