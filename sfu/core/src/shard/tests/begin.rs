//! What subscriptions begin with while a keyframe has come lately.

use super::{
    attacks::{Client, VP8},
    media::*,
    *,
};

const FRAME_TIME: Duration = Duration::from_millis(33);

/// Alice sends frames, 33 ms apart, the first of them a keyframe. Returns which payloads there were.
fn send(rig: &mut Rig, alice: &mut Client, numbers: std::ops::Range<u16>) -> Vec<Vec<u8>> {
    let first = numbers.start;
    let frame = |number: u16| {
        let kind = if number == first { &KEYFRAME } else { &DELTA };
        [kind.as_slice(), &number.to_be_bytes()].concat()
    };
    for number in numbers.clone() {
        let packet = alice.rtp(1, VP8, number, &frame(number));
        rig.datagram(alice.address, packet);
        rig.advance(FRAME_TIME);
    }
    numbers.map(frame).collect()
}

fn view(rig: &mut Rig, viewer: ConnectionId) -> Client {
    rig.open(viewer, ConnectionRole::Single, false);
    rig.subscribe(viewer, "TR_video");
    rig.pretend_connected(viewer, false);
    rig.offer(viewer, 1, &["video recvonly"]);
    rig.advance(Duration::from_millis(20));
    Client::of(viewer)
}

/// Same, of a client that takes VP9 alone.
fn view_vp9(rig: &mut Rig, viewer: ConnectionId) -> Client {
    rig.open(viewer, ConnectionRole::Single, false);
    rig.subscribe(viewer, "TR_video");
    rig.pretend_connected(viewer, false);
    let sdp = offer(&["video recvonly"]).replace("SAVPF 96 97 98 99", "SAVPF 98 99");
    let is_vp8 = |line: &&str| [":96", ":97", "=96"].iter().any(|name| line.contains(name));
    let lines = sdp.lines().filter(|line| !is_vp8(line));
    let sdp = lines.map(|line| format!("{line}\r\n")).collect();
    rig.command(NodeAction::RemoteOffer { connection: viewer, offer_id: 1, sdp });
    rig.advance(Duration::from_millis(20));
    Client::of(viewer)
}

fn payloads(received: &super::attacks::Received) -> Vec<Vec<u8>> {
    received.rtp.iter().map(|(_, _, payload)| payload.clone()).filter(|payload| !payload.is_empty()).collect()
}

#[test]
fn who_comes_soon_after_a_keyframe_begins_with_it() {
    let (mut rig, mut alice) = (Rig::call(&[BOB]), Client::of(ALICE));
    let sent = send(&mut rig, &mut alice, 1..12);
    alice.received(&mut rig);
    let mut carol = view(&mut rig, CAROL);
    let received = carol.received(&mut rig);
    assert_eq!(payloads(&received), sent, "each frame once, in order");
    let numbers: Vec<u64> = received.rtp.iter().map(|(_, number, _)| *number).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    let steps: Vec<u32> = received.timestamps.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(steps.iter().all(|step| (93..=94).contains(step)), "a 32nd of 3000: {steps:?}");
    assert_eq!(alice.received(&mut rig).keyframe_requests(), 0);
    assert_eq!(rig.shard.stats().keyframes_cached, 1);
    // What comes then has the pace of its capture.
    let before = *received.timestamps.last().unwrap();
    let packet = alice.rtp(1, VP8, 12, &DELTA);
    rig.datagram(alice.address, packet);
    rig.advance(FRAME_TIME);
    let received = carol.received(&mut rig);
    assert_eq!((received.rtp.len(), received.timestamps[0].wrapping_sub(before)), (1, 3000));
    assert_eq!(rig.forwarded(), 12 + 12, "Bob got each frame once, too");
}

#[test]
fn who_comes_later_has_the_publisher_make_another() {
    let (mut rig, mut alice) = (Rig::call(&[BOB]), Client::of(ALICE));
    send(&mut rig, &mut alice, 1..40);
    alice.received(&mut rig);
    let mut carol = view(&mut rig, CAROL);
    assert!(payloads(&carol.received(&mut rig)).is_empty());
    assert_eq!(alice.received(&mut rig).keyframe_requests(), 1);
}

#[test]
fn nobody_begins_where_a_packet_is_missing() {
    let (mut rig, mut alice) = (Rig::call(&[BOB]), Client::of(ALICE));
    send(&mut rig, &mut alice, 1..5);
    for number in [6, 7] {
        let packet = alice.rtp(1, VP8, number, &DELTA);
        rig.datagram(alice.address, packet);
    }
    alice.received(&mut rig);
    let mut carol = view(&mut rig, CAROL);
    assert!(payloads(&carol.received(&mut rig)).is_empty());
    assert_eq!(alice.received(&mut rig).keyframe_requests(), 1);
}

#[test]
fn a_picture_that_was_muted_is_not_shown_again() {
    let (mut rig, mut alice) = (Rig::call(&[BOB]), Client::of(ALICE));
    send(&mut rig, &mut alice, 1..5);
    for muted in [true, false] {
        rig.command(NodeAction::MuteTrack { track: "TR_video".parse().unwrap(), muted });
    }
    let mut carol = view(&mut rig, CAROL);
    assert!(payloads(&carol.received(&mut rig)).is_empty());
}

/// The track is said to be VP9, which Carol takes, and what comes is VP8.
#[test]
fn nobody_begins_with_pictures_in_a_codec_that_it_does_not_take() {
    let (mut rig, mut alice) = (Rig::call(&[BOB]), Client::of(ALICE));
    send(&mut rig, &mut alice, 1..5);
    let mut carol = view_vp9(&mut rig, CAROL);
    let subscribed = |event: &&NodeEvent| matches!(event, NodeEvent::Subscribed { connection, .. } if *connection == CAROL);
    assert_eq!(rig.events.iter().filter(subscribed).count(), 1);
    assert!(payloads(&carol.received(&mut rig)).is_empty());
    assert_eq!(rig.shard.stats().keyframes_cached, 0);
}
