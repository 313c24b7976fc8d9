//! Clients whose media path is gone while their signal connection is not.

use std::time::Duration;

use zynk_protocol::ConnectionState;
use zynk_protocol::livekit::DisconnectReason;
use zynk_protocol::livekit::leave_request::Action;

use super::World;
use super::lifetime::{at, resume, state};
use super::world::leave;
use crate::room::RoomInput;

/// Somebody from whom nothing comes any more, and who was asked for a sign of life.
fn silent() -> (World, super::Peer) {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    world.node(state(&alice, ConnectionState::Disconnected));
    assert_eq!(std::mem::take(&mut world.probed), [alice.session]);
    (world, alice)
}

#[test]
fn who_answers_while_its_media_is_away_is_asked_to_resume() {
    let (mut world, alice) = silent();
    assert_eq!(world.inbox(&alice), []);
    world.advance(Duration::from_millis(500));
    world.input(RoomInput::SessionAlive { session: alice.session });
    let left = world.told(&alice, leave);
    assert_eq!((left.reason(), left.action()), (DisconnectReason::ConnectionTimeout, Action::Resume));
    assert!(!world.is_closed(&alice), "it may go on as it is");
    let (again, _) = resume(&mut world, World::params("alice"));
    let alice = at(&alice, again);
    assert!(!world.is_closed(&alice));
    assert_eq!(world.room.participant_count(), 1);
    for (wait_s, probes) in [(1, vec![]), (29, vec![again])] {
        world.advance(Duration::from_secs(wait_s));
        world.node(state(&alice, ConnectionState::Disconnected));
        assert_eq!(std::mem::take(&mut world.probed), probes, "after {wait_s} s");
    }
}

#[test]
fn a_network_that_was_away_as_a_whole_is_given_time() {
    let (mut world, alice) = silent();
    world.advance(Duration::from_secs(3));
    world.input(RoomInput::SessionAlive { session: alice.session });
    assert_eq!(world.inbox(&alice), []);
    assert_eq!(world.probed, [alice.session], "its media is still away: it is asked again");
    world.node(state(&alice, ConnectionState::Connected));
    world.input(RoomInput::SessionAlive { session: alice.session });
    assert_eq!(world.inbox(&alice), []);
    assert!(!world.is_closed(&alice));
}

#[test]
fn who_cannot_resume_is_not_asked_to() {
    let mut world = World::new();
    let params = crate::join::JoinParams { resumable: false, ..World::params("player") };
    let player = world.join_active(params);
    world.node(state(&player, ConnectionState::Disconnected));
    assert_eq!(world.probed, []);
}
