//! Statistics for operators.

use std::time::Duration;

use zynk_protocol::{
    Bitrate, ConnectionReport, ConnectionRole, EncodingReport, LayersGiven, MediaKind, MediaTransport,
    NodeAction, NodeEvent, ReceptionReport, RoomReport, SubscriptionReport, SubscriptionSettings,
    TrackReport, TrackSid,
};

use super::world::{Peer, World};
use crate::admin::{AdminError, AdminRequest, AdminResponse};
use crate::room::ReplyId;
use crate::room_stats::{RoomStats, SubscriptionState};

/// The numbers of the questions that the node got.
fn asked(world: &mut World) -> Vec<u64> {
    let number = |action| match action {
        NodeAction::ReportRoom { request, shares: 1 } => Some(request),
        _ => None,
    };
    world.actions().into_iter().filter_map(number).collect()
}

fn connection(peer: &Peer, role: ConnectionRole) -> ConnectionReport {
    ConnectionReport {
        connection: if role == ConnectionRole::Subscriber { peer.downstream() } else { peer.publisher },
        participant: peer.sid.clone(),
        role,
        connected: true,
        transport: Some(MediaTransport::Udp),
        rtt_ms: Some(12.5),
        estimate: None,
        queue_ms: 0.0,
        congested: false,
        tracks: Vec::new(),
        subscriptions: Vec::new(),
    }
}

/// Alice sends a track in two encodings, of which Bob has got `bytes` of the larger one.
fn connections(alice: &Peer, bob: &Peer, track: &TrackSid, bytes: u64) -> [ConnectionReport; 2] {
    let encoding = |rid: &str, kbps: u64| EncodingReport {
        rid: Some(rid.into()),
        active: true,
        bitrate: Bitrate::from_kbps(kbps),
        frame_rate: Some(30),
        packets: bytes,
        lost: bytes / 4,
        jitter_ms: 1.5,
    };
    let published = TrackReport {
        track: track.clone(),
        backup: false,
        muted: false,
        encodings: vec![encoding("q", 100), encoding("f", 900)],
    };
    let given = LayersGiven { encoding: 1, spatial: None, temporal: Some(1), frame_rate: Some(15) };
    let received = SubscriptionReport {
        track: track.clone(),
        negotiated: true,
        settings: SubscriptionSettings { size: Some((640, 360)), ..SubscriptionSettings::default() },
        wanted_encoding: Some(1),
        starved: false,
        given: Some(given),
        ssrc: Some(7),
        packets: bytes / 100,
        bytes,
        resent: 3,
        // Numbers wrap.
        reception: Some(ReceptionReport {
            highest: u32::MAX.wrapping_add(u32::try_from(bytes / 100).unwrap()),
            lost: i32::try_from(bytes / 1000).unwrap(),
            jitter_ms: 4.0,
        }),
    };
    [
        ConnectionReport { tracks: vec![published], ..connection(alice, ConnectionRole::Publisher) },
        ConnectionReport { subscriptions: vec![received], ..connection(bob, ConnectionRole::Subscriber) },
    ]
}

fn report(world: &mut World, request: u64, shares: u32, connections: &[ConnectionReport]) {
    let connections = connections.to_vec();
    let report = RoomReport { request, shares, truncated: false, connections };
    world.node(NodeEvent::RoomReport(Box::new(report)));
}

fn answer(world: &mut World, reply: ReplyId) -> RoomStats {
    match world.reply(reply).expect("no answer") {
        Ok(AdminResponse::Stats(stats)) => *stats,
        other => panic!("{other:?}"),
    }
}

fn call() -> (World, Peer, Peer, TrackSid) {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let bob = world.join_active(World::params("bob"));
    let track = world.publish(&alice, MediaKind::Video);
    world.actions();
    (world, alice, bob, track)
}

#[test]
fn differences_of_two_reports_are_rates() {
    let (mut world, alice, bob, track) = call();
    let first = world.ask(AdminRequest::Stats);
    assert_eq!(asked(&mut world), [1]);
    let second = world.ask(AdminRequest::Stats);
    let [a, b] = connections(&alice, &bob, &track, 10_000);
    report(&mut world, 1, 2, &[a]);
    report(&mut world, 1, 2, &[b]);
    world.advance(Duration::from_millis(999));
    assert_eq!(asked(&mut world), [0; 0], "one question is enough for both");
    world.advance(Duration::from_millis(1));
    assert_eq!(asked(&mut world), [2]);
    let [a, b] = connections(&alice, &bob, &track, 30_000);
    report(&mut world, 1, 2, std::slice::from_ref(&a));
    report(&mut world, 2, 2, &[a]);
    assert!(world.reply(first).is_none(), "half of it");
    report(&mut world, 2, 2, &[b]);
    let stats = answer(&mut world, first);
    assert_eq!(stats, answer(&mut world, second));
    assert_eq!((stats.room.as_str(), stats.interval_ms, stats.participants.len()), ("lobby", 1000, 2));

    let person = |identity: &str| stats.participants.iter().find(|p| p.identity == identity).unwrap();
    let [published] = &person("alice").tracks[..] else { panic!("{stats:#?}") };
    assert_eq!((published.codec.as_str(), published.subscribers), ("video/VP8", 1));
    let loss: Vec<_> = published.encodings.iter().map(|encoding| encoding.loss).collect();
    assert_eq!(loss, [Some(0.25); 2]);
    assert_eq!(person("alice").connections[0].upstream_bps, 1_000_000);
    let [received] = &person("bob").subscriptions[..] else { panic!("{stats:#?}") };
    assert_eq!((received.bitrate_bps, received.publisher.as_str()), (160_000, "alice"));
    assert_eq!((received.state, received.loss), (SubscriptionState::Flowing, Some(0.1)));
    let given = received.given.as_ref().unwrap();
    assert_eq!((given.rid.as_deref(), given.temporal, given.fps), (Some("f"), Some(1), Some(15)));
    assert_eq!(received.wanted.size, Some((640, 360)));
    assert_eq!(person("bob").connections[0].downstream_bps, 160_000);
    world.advance(Duration::from_secs(20));
    assert_eq!(asked(&mut world), [0; 0], "nobody asks any more");
}

#[test]
fn a_node_that_does_not_answer_in_time_is_told() {
    let (mut world, alice, bob, track) = call();
    let late = Some(Err(AdminError::Unavailable("the media node did not answer in time")));
    let reply = world.ask(AdminRequest::Stats);
    let [a, b] = connections(&alice, &bob, &track, 10_000);
    report(&mut world, 1, 2, std::slice::from_ref(&a));
    world.advance(Duration::from_secs(2));
    assert_eq!(world.reply(reply), late, "a share is missing");

    let reply = world.ask(AdminRequest::Stats);
    report(&mut world, 1, 2, std::slice::from_ref(&b));
    report(&mut world, 2, 1, &[a, b]);
    world.advance(Duration::from_secs(3));
    assert_eq!(world.reply(reply), late, "the second time");
    assert_eq!(asked(&mut world), [1, 2, 3]);
}

#[test]
fn too_many_who_wait_are_refused() {
    let (mut world, ..) = call();
    let replies: Vec<ReplyId> = (0..65).map(|_| world.ask(AdminRequest::Stats)).collect();
    let refused: Vec<_> = replies.iter().filter_map(|reply| world.reply(*reply)).collect();
    assert!(matches!(refused[..], [Err(AdminError::ResourceExhausted(_))]), "{refused:?}");
}
