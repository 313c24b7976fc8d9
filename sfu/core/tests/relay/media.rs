//! Packets, retransmissions, keyframe requests and reports across shards.

use std::time::Duration;

use zynk_sfu_core::media::egress::{NtpTime, SenderInfo};
use zynk_sfu_core::media::nack::NackPair;
use zynk_sfu_core::media::rtcp::{Packet, Packets};

use crate::call::{A, ALICE, B, BOB, CAROL, Call, DAVE, ERIN, frame};

/// Everybody's picture runs in the higher encoding.
fn running() -> Call {
    let mut call = Call::with_viewers(&[(BOB, A), (CAROL, B), (DAVE, B), (ERIN, B)]);
    call.send_video("q", &frame(true, 1));
    call.send_video("h", &frame(true, 2));
    call.advance(Duration::from_millis(50));
    for viewer in [BOB, CAROL, DAVE, ERIN] {
        assert_eq!(call.frames(viewer), [frame(true, 1), frame(true, 2)], "{viewer}");
    }
    call
}

#[test]
fn subscribers_of_both_shards_get_the_same_frames_and_each_packet_crosses_once() {
    let mut call = running();
    assert_eq!(call.crossed, 2);
    for number in 0..100 {
        call.send_video("q", &frame(false, number));
        call.send_video("h", &frame(false, 100 + number));
        call.advance(Duration::from_millis(20));
    }
    let expected: Vec<_> = (0..100).map(|number| frame(false, 100 + number).to_vec()).collect();
    for viewer in [BOB, CAROL, DAVE, ERIN] {
        assert_eq!(call.frames(viewer), expected, "{viewer}");
    }
    assert_eq!(call.crossed, 202, "once, though three receive it");
    assert_eq!((call.stats(A).relay_packets_sent, call.stats(B).relay_packets_received), (202, 202));
    assert_eq!((call.stats(A).rtp_packets_received, call.stats(B).rtp_packets_received), (202, 0));
    assert_eq!((call.stats(A).tracks, call.stats(B).tracks), (1, 0), "published where the publisher is");
}

#[test]
fn a_room_of_one_shard_says_nothing_to_others() {
    let mut call = Call::new();
    call.publish();
    call.view(BOB, A);
    call.connect();
    call.send_video("h", &frame(true, 1));
    assert_eq!(call.frames(BOB), [frame(true, 1)]);
    assert_eq!((call.crossed, call.lost, call.stats(A).relay_packets_sent), (0, 0, 0));
}

#[test]
fn what_a_receiver_lacks_comes_from_its_own_shard() {
    let mut call = running();
    call.send_video("h", &frame(false, 7));
    call.advance(Duration::from_millis(50));
    let received = call.client(CAROL).received();
    let (ssrc, index, payload) = received.rtp.last().unwrap().clone();
    assert_eq!(payload, frame(false, 7));
    let pair = NackPair { pid: index as u16, blp: 0 };
    let crossed = call.crossed;
    let nack = call.client(CAROL).rtcp(|writer| writer.nack(1, ssrc, &[pair]).unwrap());
    call.send(CAROL, nack);
    call.advance(Duration::from_millis(50));
    let again = call.client(CAROL).received();
    let repaired = again.rtp.iter().find(|(other, _, payload)| *other != ssrc && payload.len() == 8);
    // RFC 4588, section 4: the original number stands before the payload.
    let (.., octets) = repaired.unwrap();
    assert_eq!(octets[..2], (index as u16).to_be_bytes());
    assert_eq!(octets[2..], frame(false, 7));
    assert_eq!(call.crossed, crossed, "nothing was asked for again");
}

#[test]
fn a_keyframe_request_reaches_the_publisher_and_is_throttled_on_the_way() {
    let mut call = running();
    // What was asked for at the start has been answered.
    call.advance(Duration::from_secs(2));
    call.client(ALICE).received();
    for viewer in [CAROL, DAVE, ERIN] {
        call.send_video("h", &frame(false, 9));
        call.advance(Duration::from_millis(20));
        let received = call.client(viewer).received();
        let ssrc = received.rtp.last().unwrap().0;
        let wish = call.client(viewer).rtcp(|writer| writer.picture_loss(1, ssrc).unwrap());
        call.send(viewer, wish);
    }
    call.advance(Duration::from_millis(100));
    let is_wish = |packet: &Packet<'_>| matches!(packet, Packet::PictureLoss { media: 11, .. });
    assert_eq!(call.client(ALICE).received().count(is_wish), 1, "three wishes are one request");
    assert_eq!(call.stats(B).keyframe_requests_received, 3);
    call.send_video("h", &frame(true, 10));
    call.advance(Duration::from_secs(2));
    assert_eq!(call.client(ALICE).received().count(is_wish), 0, "it is answered");
}

#[test]
fn the_publishers_clock_is_the_same_in_both_shards() {
    let mut call = running();
    let mut mapped = Vec::new();
    for round in 0..3_u8 {
        let info = SenderInfo {
            ntp: NtpTime::from_unix(Duration::from_secs(1_750_000_000 + u64::from(round))),
            rtp: u32::from(round) * 90_000,
            packets: 1,
            octets: 1,
        };
        let report = call.client(ALICE).rtcp(|writer| writer.sender_report(11, &info, &[]).unwrap());
        call.send(ALICE, report);
        call.send_video("h", &frame(false, round));
        call.advance(Duration::from_secs(1));
    }
    for viewer in [BOB, CAROL] {
        let received = call.client(viewer).received();
        let reports = received.rtcp.iter().flat_map(|octets| Packets::new(octets));
        let infos: Vec<SenderInfo> = reports
            .filter_map(|packet| match packet {
                Ok(Packet::SenderReport { info, .. }) => Some(info),
                _ => None,
            })
            .collect();
        let [.., before, last] = infos.as_slice() else { panic!("{viewer} got {} reports", infos.len()) };
        // Reports lie on one line: 90,000 ticks a second.
        let seconds = (last.ntp.0.wrapping_sub(before.ntp.0)) as f64 / 2_f64.powi(32);
        let ticks = f64::from(last.rtp.wrapping_sub(before.rtp));
        assert!((ticks - seconds * 90_000.0).abs() < 200.0, "{viewer}: {ticks} ticks in {seconds} s");
        mapped.push(infos.len());
    }
    assert_eq!(mapped[0], mapped[1], "as many on both");
}
