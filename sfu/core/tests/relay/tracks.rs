//! The life of tracks and subscriptions across shards.

use std::time::Duration;

use zynk_protocol::{NodeAction, NodeEvent};

use crate::call::{A, ALICE, B, BOB, CAROL, Call, DAVE, VIDEO, camera, frame};
use crate::client::Offer;

fn count(events: &[NodeEvent], kind: impl Fn(&NodeEvent) -> bool) -> usize {
    events.iter().filter(|event| kind(event)).count()
}

fn started(event: &NodeEvent) -> bool {
    matches!(event, NodeEvent::TrackStarted(_))
}

fn stopped(event: &NodeEvent) -> bool {
    matches!(event, NodeEvent::TrackStopped { .. })
}

#[test]
fn subscriptions_may_come_before_the_track_and_before_the_room_is_spread() {
    // The one who asks may know of the other first, or the other way round.
    for order in [[A, B], [B, A]] {
        let mut call = Call::new();
        call.view(CAROL, B);
        call.open(ALICE, A);
        call.spread(&order);
        call.expect();
        call.join(ALICE, &camera());
        call.renegotiate(CAROL);
        call.connect();
        call.send_video("q", &frame(true, 1));
        assert_eq!(call.frames(CAROL), [frame(true, 1)]);
        assert_eq!(count(&call.events[A], started), 1);
        assert_eq!(count(&call.events[B], started), 0, "signaling hears of it once");
    }
}

#[test]
fn a_track_that_there_is_reaches_a_shard_that_joins() {
    for order in [[A, B], [B, A]] {
        let mut call = Call::new();
        call.publish();
        call.view(CAROL, B);
        call.spread(&order);
        call.renegotiate(CAROL);
        call.connect();
        call.send_video("q", &frame(true, 1));
        assert_eq!(call.frames(CAROL), [frame(true, 1)]);
    }
}

#[test]
fn nothing_crosses_for_a_shard_without_subscribers() {
    let mut call = Call::with_viewers(&[(BOB, A), (CAROL, B), (DAVE, B)]);
    call.send_video("q", &frame(true, 1));
    assert_eq!(call.crossed, 1);
    call.unsubscribe(CAROL);
    call.send_video("q", &frame(false, 2));
    assert_eq!(call.crossed, 2, "Dave still receives it");
    call.unsubscribe(DAVE);
    for number in 3..10 {
        call.send_video("q", &frame(false, number));
    }
    assert_eq!(call.crossed, 2);
    assert_eq!(call.frames(BOB).len(), 9, "the others notice nothing");
    call.client(CAROL).received();
    call.subscribe(CAROL);
    call.renegotiate(CAROL);
    call.send_video("q", &frame(true, 20));
    call.send_video("q", &frame(false, 21));
    assert_eq!(call.frames(CAROL), [frame(true, 20), frame(false, 21)]);
    assert_eq!(call.crossed, 4);
}

#[test]
fn a_receiver_that_leaves_takes_its_flow_with_it() {
    let mut call = Call::with_viewers(&[(CAROL, B)]);
    call.send_video("q", &frame(true, 1));
    assert_eq!(call.crossed, 1);
    call.command(B, NodeAction::CloseConnection { connection: CAROL });
    call.send_video("q", &frame(false, 2));
    assert_eq!(call.crossed, 1);
    call.command(B, NodeAction::CloseRoom);
    call.command(A, NodeAction::CloseRoom);
    for shard in [A, B] {
        let stats = call.stats(shard);
        assert_eq!((stats.rooms, stats.tracks, stats.subscriptions), (0, 0, 0));
    }
}

#[test]
fn a_mute_holds_in_both_shards_and_ends_at_a_keyframe() {
    let mut call = Call::with_viewers(&[(BOB, A), (CAROL, B)]);
    call.send_video("q", &frame(true, 1));
    call.mute(true);
    for number in 2..6 {
        call.send_video("q", &frame(false, number));
    }
    assert_eq!(call.crossed, 1, "nothing of a muted track crosses");
    call.mute(false);
    call.send_video("q", &frame(false, 6));
    call.send_video("q", &frame(true, 7));
    for viewer in [BOB, CAROL] {
        assert_eq!(call.frames(viewer), [frame(true, 1), frame(true, 7)], "{viewer}");
    }
}

#[test]
fn a_subscriber_that_comes_while_it_is_muted_hears_of_it() {
    let mut call = Call::with_viewers(&[(BOB, A)]);
    call.mute(true);
    call.view(CAROL, B);
    call.connect();
    call.send_video("q", &frame(true, 1));
    assert!(call.frames(CAROL).is_empty());
    call.mute(false);
    call.send_video("q", &frame(true, 2));
    assert_eq!(call.frames(CAROL), [frame(true, 2)]);
}

#[test]
fn a_track_that_is_published_again_comes_back() {
    let mut call = Call::with_viewers(&[(BOB, A), (CAROL, B)]);
    call.send_video("q", &frame(true, 1));
    assert_eq!(call.frames(CAROL), [frame(true, 1)]);
    let silent = call.client(ALICE).offer(&Offer::of(&["inactive|msid:stream camera"]));
    call.negotiate(ALICE, silent);
    assert_eq!(count(&call.events[A], stopped), 1);
    assert_eq!(count(&call.events[B], stopped), 0, "signaling hears of it once");
    call.send_video("q", &frame(true, 2));
    assert_eq!(call.crossed, 1);
    call.expect();
    let again = call.client(ALICE).offer(&camera());
    call.negotiate(ALICE, again);
    for viewer in [BOB, CAROL] {
        call.renegotiate(viewer);
    }
    call.send_video("q", &frame(true, 3));
    for viewer in [BOB, CAROL] {
        assert_eq!(call.frames(viewer).last().unwrap(), &frame(true, 3), "{viewer}");
    }
}

#[test]
fn a_shard_that_is_gone_takes_its_tracks_with_it_and_may_come_back() {
    let mut call = Call::with_viewers(&[(BOB, A), (CAROL, B)]);
    call.send_video("q", &frame(true, 1));
    call.spread(&[B]);
    assert_eq!(call.stats(B).tracks, 0);
    call.spread(&[A]);
    call.send_video("q", &frame(false, 2));
    assert_eq!(call.crossed, 1, "nothing is sent to it");
    assert_eq!(call.frames(BOB), [frame(true, 1), frame(false, 2)]);
    call.spread(&[A, B]);
    call.renegotiate(CAROL);
    call.send_video("q", &frame(true, 3));
    assert_eq!(call.frames(CAROL), [frame(true, 1), frame(true, 3)]);
}

#[test]
fn a_track_that_moves_to_the_shard_of_its_subscribers_is_served_from_there() {
    let mut call = Call::with_viewers(&[(CAROL, B)]);
    call.send_video("q", &frame(true, 1));
    assert_eq!(call.frames(CAROL), [frame(true, 1)]);
    call.command(A, NodeAction::CloseConnection { connection: ALICE });
    assert_eq!(call.stats(A).tracks, 0);
    call.clients.retain(|client| client.id != ALICE);
    call.open(ALICE, B);
    call.command(
        B,
        NodeAction::ExpectTrack(zynk_protocol::ExpectedTrack {
            connection: ALICE,
            track: VIDEO.parse().unwrap(),
            cids: vec!["camera".to_owned()],
            kind: zynk_protocol::MediaKind::Video,
            source: zynk_protocol::TrackSource::Camera,
            codec: None,
            red: true,
            dtx: true,
            stereo: false,
            muted: false,
            encrypted: false,
            backup: None,
        }),
    );
    call.join(ALICE, &camera());
    call.renegotiate(CAROL);
    call.events[B].retain(|event| !matches!(event, NodeEvent::ConnectionState { .. }));
    call.advance(Duration::from_secs(1));
    call.send_video("q", &frame(true, 2));
    assert_eq!(call.frames(CAROL), [frame(true, 2)]);
    assert_eq!((call.crossed, call.stats(B).tracks), (1, 1));
}
