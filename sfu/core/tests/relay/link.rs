//! A link between shards that takes nothing for a while.

use std::time::Duration;

use zynk_protocol::{NodeAction, SubscriptionSettings};
use zynk_sfu_core::media::rtcp::Packet;

use crate::call::{A, ALICE, B, BOB, CAROL, Call, DAVE, Link, VIDEO, frame};

#[test]
fn a_full_link_loses_media_and_no_word() {
    let mut call = Call::with_viewers(&[(BOB, A), (CAROL, B)]);
    call.send_video("q", &frame(true, 1));
    assert_eq!(call.frames(CAROL), [frame(true, 1)]);
    call.link = Link::Full;
    for number in 2..7 {
        call.send_video("q", &frame(false, number));
    }
    assert_eq!((call.crossed, call.lost), (1, 5));
    // Subscriptions that come and go meanwhile, a mute, and its end.
    call.view(DAVE, B);
    call.mute(true);
    for _ in 0..3_000 {
        call.unsubscribe(CAROL);
        call.subscribe(CAROL);
    }
    call.mute(false);
    call.link = Link::Open;
    call.connect();
    call.renegotiate(CAROL);
    call.send_video("q", &frame(true, 8));
    for viewer in [CAROL, DAVE] {
        assert_eq!(call.frames(viewer), [frame(true, 8)], "{viewer}");
    }
    assert_eq!(call.frames(BOB).last().unwrap(), &frame(true, 8));
}

#[test]
fn a_wish_for_a_keyframe_that_was_lost_is_repeated() {
    let mut call = Call::with_viewers(&[(CAROL, B)]);
    call.send_video("q", &frame(true, 1));
    call.advance(Duration::from_secs(2));
    call.client(ALICE).received();
    call.link = Link::Full;
    let settings = |paused| SubscriptionSettings { paused, ..SubscriptionSettings::default() };
    for paused in [true, false] {
        let track = VIDEO.parse().unwrap();
        let settings = settings(paused);
        call.command(B, NodeAction::ConfigureSubscription { connection: CAROL, track, settings });
    }
    call.advance(Duration::from_millis(300));
    let is_wish = |packet: &Packet<'_>| matches!(packet, Packet::PictureLoss { .. });
    assert_eq!(call.client(ALICE).received().count(is_wish), 0);
    call.link = Link::Open;
    call.advance(Duration::from_millis(600));
    assert!(call.client(ALICE).received().count(is_wish) > 0);
}
