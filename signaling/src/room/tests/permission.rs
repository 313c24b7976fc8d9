//! Permissions that are withdrawn while what they allowed is being negotiated.

use zynk_protocol::livekit;
use zynk_protocol::{MediaKind, NodeAction, NodeEvent, TrackSid};

use super::world::{Request, Response, add_track};
use super::{Peer, World};
use crate::admin::AdminRequest;

fn permit(world: &mut World, identity: &str, can_publish: bool, can_subscribe: bool) {
    let permission = livekit::ParticipantPermission { can_publish, can_subscribe, ..Default::default() };
    let request = livekit::UpdateParticipantRequest {
        identity: identity.into(),
        permission: Some(permission),
        ..Default::default()
    };
    world.admin(AdminRequest::UpdateParticipant(request)).unwrap();
}

/// The publisher lets nobody have its tracks.
fn deny_all(world: &mut World, publisher: &Peer) {
    let nobody = livekit::SubscriptionPermission { all_participants: false, track_permissions: vec![] };
    world.signal(publisher, Request::SubscriptionPermission(nobody));
}

fn negotiated(world: &mut World, receiver: &Peer, track: &TrackSid) {
    let connection = receiver.downstream();
    world.node(NodeEvent::Subscribed { connection, track: track.clone(), backup: false });
}

fn hears_of_subscribers(world: &mut World, publisher: &Peer) -> bool {
    world.inbox(publisher).iter().any(|message| matches!(message, Response::TrackSubscribed(_)))
}

#[test]
fn t40_a_track_that_is_found_after_its_permission_was_withdrawn_is_not_published() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let track = world.announce(&alice, add_track(MediaKind::Video, "cam"));
    let same_cid = add_track(MediaKind::Video, "cam");
    world.signal(&alice, Request::AddTrack(same_cid));
    permit(&mut world, "alice", false, true);
    assert!(world.actions().contains(&NodeAction::RemoveTrack { track: track.clone() }));
    world.updates(&bob);
    world.webhooks();
    world.start(&alice, &track, MediaKind::Video, "cam", &[]);
    assert_eq!(
        world.actions(),
        [NodeAction::RemoveTrack { track }],
        "what waited for its place is gone, too"
    );
    assert_eq!(world.updates(&bob), []);
    assert_eq!(world.webhooks().len(), 0);
}

#[test]
fn t40_a_subscription_that_was_withdrawn_while_it_was_negotiated_does_not_come_back() {
    type Withdraw = fn(&mut World, &Peer);
    let ways: [Withdraw; 2] = [deny_all, |world, _| permit(world, "bob", true, false)];
    for withdraw in ways {
        let mut world = World::new();
        let alice = world.join_active(World::params("alice"));
        let bob = world.join_active(World::params("bob"));
        let track = world.publish(&alice, MediaKind::Video);
        world.actions();
        withdraw(&mut world, &alice);
        let unsubscribe = NodeAction::Unsubscribe { connection: bob.downstream(), track: track.clone() };
        assert!(world.actions().contains(&unsubscribe));
        world.inbox(&alice);
        negotiated(&mut world, &bob, &track);
        assert!(!hears_of_subscribers(&mut world, &alice));
        assert_eq!(world.actions(), []);
        // What Bob asks for meanwhile is refused.
        world.signal(
            &bob,
            Request::Subscription(livekit::UpdateSubscription {
                track_sids: vec![track.as_str().into()],
                subscribe: true,
                ..Default::default()
            }),
        );
        assert!(!world.actions().iter().any(|action| matches!(action, NodeAction::Subscribe(_))));
    }
}
