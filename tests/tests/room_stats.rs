//! What operators are told of a room, against what its clients sent and received.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use zynk_client::{Codec, PeerConnections};
use zynk_protocol::{ConnectionRole, MediaKind, MediaTransport, TrackSource};
use zynk_signaling::{ParticipantStats, RoomStats, SubscriptionState, SubscriptionStats};
use zynk_tests::{LinkConfig, World};

fn participant<'a>(stats: &'a RoomStats, identity: &str) -> &'a ParticipantStats {
    stats.participants.iter().find(|participant| participant.identity == identity).unwrap()
}

fn received(participant: &ParticipantStats, source: TrackSource) -> &SubscriptionStats {
    participant.subscriptions.iter().find(|subscription| subscription.source == source).unwrap()
}

fn is_near(figure: f64, expected: f64) -> bool {
    (figure - expected).abs() < 0.15 * expected
}

#[test]
fn what_is_told_is_what_was_sent() {
    let mut world = World::new(7);
    let link = LinkConfig::lossy(0.0, Duration::from_millis(20));
    let alice = world.join("alice", link.clone());
    let bob = world.join_with("bob", link, PeerConnections::Dual);
    world.publish_simulcast_camera(alice, Codec::Vp8);
    world.publish_microphone(alice);
    world.run_for(Duration::from_secs(10));
    let before = ["camera", "microphone"].map(|cid| world.received(bob, alice, cid));
    let stats = world.room_stats().unwrap();
    let after = ["camera", "microphone"].map(|cid| world.received(bob, alice, cid));
    assert_eq!((stats.room.as_str(), stats.truncated), ("world", false));
    assert!((1000..1100).contains(&stats.interval_ms), "{}", stats.interval_ms);

    let publisher = participant(&stats, "alice");
    let [connection] = &publisher.connections[..] else { panic!("{publisher:#?}") };
    assert_eq!((connection.role, connection.connected), (ConnectionRole::Single, true));
    assert_eq!(connection.transport, Some(MediaTransport::Udp));
    assert!(publisher.subscriptions.is_empty());
    let camera = publisher.tracks.iter().find(|track| track.kind == MediaKind::Video).unwrap();
    assert_eq!((camera.codec.as_str(), camera.subscribers, camera.muted), ("video/VP8", 1, false));
    let encodings = &camera.encodings[..];
    assert_eq!(encodings.iter().map(|one| one.rid.as_deref().unwrap()).collect::<Vec<_>>(), ["q", "h", "f"]);
    for encoding in encodings {
        assert!(encoding.active && (29..=31).contains(&encoding.fps.unwrap()), "{encoding:?}");
        assert_eq!((encoding.packets_lost, encoding.loss), (0, Some(0.0)));
    }
    assert!(encodings.is_sorted_by_key(|encoding| encoding.bitrate_bps), "{encodings:#?}");
    let sum: u64 = publisher.tracks.iter().flat_map(|t| &t.encodings).map(|one| one.bitrate_bps).sum();
    assert_eq!(connection.upstream_bps, sum);

    let receiver = participant(&stats, "bob");
    assert_eq!(receiver.connections.len(), 2);
    let downstream = receiver.connections.iter().find(|one| one.role == ConnectionRole::Subscriber).unwrap();
    assert!(is_near(downstream.rtt_ms.unwrap().into(), 40.0), "{downstream:?}");
    assert!(downstream.estimate_bps.unwrap() > 500_000, "{downstream:?}");
    for (index, source) in [TrackSource::Camera, TrackSource::Microphone].into_iter().enumerate() {
        let subscription = received(receiver, source);
        assert_eq!(subscription.state, SubscriptionState::Flowing);
        assert_eq!(subscription.publisher, "alice");
        // The client counts what came a moment later, payload alone.
        let bps = (after[index].bytes - before[index].bytes) * 8 * 1000 / stats.interval_ms;
        assert!(is_near(subscription.bitrate_bps as f64, bps as f64), "{subscription:?} for {bps} bit/s");
        assert!(is_near(subscription.packets as f64, after[index].packets as f64), "{subscription:?}");
        assert_eq!(subscription.packets_lost, 0);
    }
    let video = received(receiver, TrackSource::Camera);
    assert_eq!(video.given.as_ref().unwrap().rid.as_deref(), Some("f"));
    assert_eq!(video.wanted.rid.as_deref(), Some("f"));
    assert!(downstream.downstream_bps > video.bitrate_bps);
}

#[test]
fn loss_is_told_for_each_way() {
    let mut world = World::new(8);
    let alice = world.join("alice", LinkConfig::lossy(0.1, Duration::from_millis(20)));
    let bob = world.join("bob", LinkConfig::ideal());
    for client in [alice, bob] {
        world.publish_camera(client, Codec::Vp8);
        world.publish_microphone(client);
    }
    world.run_for(Duration::from_secs(20));
    let stats = world.room_stats().unwrap();
    let lost = |identity: &str| {
        let participant = participant(&stats, identity);
        let camera = participant.tracks.iter().find(|track| track.kind == MediaKind::Video).unwrap();
        let encoding = &camera.encodings[0];
        // Clients count packets that were sent again as received.
        let received = received(participant, TrackSource::Microphone);
        let share = |lost: u64, all: u64| lost as f64 / all as f64;
        (share(encoding.packets_lost, encoding.packets), share(received.packets_lost, received.packets))
    };
    let (alice_up, alice_down) = lost("alice");
    assert!(
        (0.05..0.15).contains(&alice_up) && (0.05..0.15).contains(&alice_down),
        "{alice_up} {alice_down}"
    );
    let (bob_up, bob_down) = lost("bob");
    // What Alice's microphone lacks, Bob lacks.
    assert!(bob_up == 0.0 && (0.05..0.15).contains(&bob_down), "{bob_up} {bob_down}");
    let resent = received(participant(&stats, "alice"), TrackSource::Camera).packets_resent;
    assert!(resent > 20, "{resent}");
    // A tenth lost is heard, and that of Alice's network is not Bob's.
    let quality = |identity: &str| {
        let participant = participant(&stats, identity);
        (participant.quality.as_deref().unwrap(), participant.score.unwrap())
    };
    let (alice, bob) = (quality("alice"), quality("bob"));
    assert!(alice.0 == "good" && (2.0..4.0).contains(&alice.1), "{alice:?}");
    assert!(bob.0 == "excellent" && bob.1 > 4.2, "{bob:?}");
}
