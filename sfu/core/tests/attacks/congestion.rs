//! Receivers that lie about what they can take: T38.

use std::time::Duration;

use crate::call::{ALICE, BOB, CAROL, Call};
use crate::client::{Client, DELTA, KEYFRAME, Offer, VP8};
use zynk_protocol::ConnectionRole;
use zynk_sfu_core::media::rtcp::Packet;

const PACKETS: u16 = 1000;
/// Octets of what is published meanwhile, without headers.
const PUBLISHED: usize = 1006 * PACKETS as usize;

/// What came of ten seconds in which Alice sends a packet of a thousand octets each 10 ms, and Bob tells `lies`.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    carol_media: usize,
    carol_bytes: usize,
    bob_media: usize,
    bob_bytes: usize,
    /// Requests for keyframes that Alice got.
    keyframes: usize,
}

fn ten_seconds(twcc: bool, mut lies: impl FnMut(&mut Client, u32, u16) -> Option<Vec<u8>>) -> Outcome {
    let mut call = Call::with_viewers(&[CAROL]);
    call.open(BOB, ConnectionRole::Single);
    call.subscribe(BOB, "TR_video");
    let mut offer = Offer::receiving();
    if !twcc {
        offer.extensions[2].1 = "urn:ietf:params:rtp-hdrext:toffset";
    }
    call.join(BOB, &offer);
    assert!(call.connect());
    let (mut bob_bytes, mut bob_media, mut ssrc) = (0, 0, 0);
    for number in 1..=PACKETS {
        let head = if number == 1 { &KEYFRAME } else { &DELTA };
        let payload = [head.as_slice(), &[0; 1000]].concat();
        let packet = call.client(ALICE).rtp(1, VP8, number, &[], &payload);
        call.send(ALICE, packet);
        call.advance(Duration::from_millis(10));
        let received = call.client(BOB).received();
        if let Some((first, ..)) = received.rtp.first() {
            ssrc = *first;
        }
        bob_media += received.rtp.iter().filter(|(.., payload)| payload.len() > 1000).count();
        bob_bytes += received.bytes;
        if let Some(lie) = lies(call.client(BOB), ssrc, number) {
            call.send(BOB, lie);
        }
    }
    call.advance(Duration::from_secs(1));
    let carol = call.client(CAROL).received();
    let asked = call.client(ALICE).received();
    let stats = call.stats();
    assert_eq!((stats.sessions_panicked, stats.connections, stats.datagrams_dropped), (0, 3, 0));
    Outcome {
        carol_media: carol.media().len(),
        carol_bytes: carol.bytes,
        bob_media,
        bob_bytes,
        keyframes: asked.count(|packet| matches!(packet, Packet::PictureLoss { .. })),
    }
}

/// Transport feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01, section 3.1) that says all of `count`
/// packets from `first` on came, `delta` quarters of a millisecond apart.
fn feedback(first: u16, count: u16, reference: u32, sequence: u8, delta: u8) -> Vec<u8> {
    let mut packet = vec![0x8f, 205, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1];
    packet.extend_from_slice(&first.to_be_bytes());
    packet.extend_from_slice(&count.to_be_bytes());
    packet.extend_from_slice(&(reference << 8 | u32::from(sequence)).to_be_bytes());
    // One run of small deltas.
    packet.extend_from_slice(&(0x2000 | count).to_be_bytes());
    packet.extend(std::iter::repeat_n(delta, usize::from(count)));
    packet.resize(packet.len().next_multiple_of(4), 0);
    let words = (packet.len() / 4 - 1) as u16;
    packet[2..4].copy_from_slice(&words.to_be_bytes());
    packet
}

fn sealed(bob: &mut Client, packet: Vec<u8>) -> Option<Vec<u8>> {
    let end = packet.len();
    Some(bob.seal_rtcp(packet, end))
}

/// Whatever Bob says: the others get what they got without him, and he no more than media and a share of padding.
fn assert_bounded(honest: &Outcome, lied: &Outcome, what: &str) {
    println!("{what}: {lied:?}");
    assert_eq!((honest.carol_media, honest.bob_media), (usize::from(PACKETS), usize::from(PACKETS)));
    assert_eq!(lied.carol_media, honest.carol_media, "{what}");
    assert!(lied.carol_bytes.abs_diff(honest.carol_bytes) < 2000, "{what}: {lied:?}, honest {honest:?}");
    for bytes in [honest.bob_bytes, lied.bob_bytes] {
        assert!(bytes < PUBLISHED * 3 / 2, "{what}: {lied:?}, honest {honest:?}");
    }
    assert!(lied.keyframes <= honest.keyframes + 1, "{what}: {lied:?}, honest {honest:?}");
}

#[test]
fn t38_a_receiver_that_claims_infinite_bandwidth_or_none_is_sent_what_it_was() {
    for twcc in [true, false] {
        let honest = ten_seconds(twcc, |_, _, _| None);
        let infinite = ten_seconds(twcc, |bob, ssrc, _| {
            // Exponent and mantissa at their ends: far more than 64 bits hold.
            let mut packet = vec![0x8f, 206, 0, 5, 0, 0, 0, 7, 0, 0, 0, 0];
            packet.extend_from_slice(b"REMB");
            packet.extend_from_slice(&[1, 0xff, 0xff, 0xff]);
            packet.extend_from_slice(&ssrc.to_be_bytes());
            sealed(bob, packet)
        });
        assert_bounded(&honest, &infinite, "REMB of all ones");
        let none =
            ten_seconds(twcc, |bob, ssrc, _| Some(bob.rtcp(|writer| writer.remb(7, 0, &[ssrc]).unwrap())));
        assert_bounded(&honest, &none, "REMB of nothing");
        let reports = ten_seconds(twcc, |bob, ssrc, number| {
            let mut packet = vec![0x81, 201, 0, 7, 0, 0, 0, 7];
            packet.extend_from_slice(&ssrc.to_be_bytes());
            packet.extend_from_slice(&[0xff, 0x7f, 0xff, 0xff]);
            packet.extend_from_slice(&u32::from(number).wrapping_mul(0x1234_5677).to_be_bytes());
            packet.extend_from_slice(&[0xff; 12]);
            sealed(bob, packet)
        });
        assert_bounded(&honest, &reports, "reports that contradict each other");
    }
}

#[test]
fn t38_lies_about_arrivals_are_bounded_and_nobody_else_notices() {
    let honest = ten_seconds(true, |_, _, _| None);
    let never_sent = ten_seconds(true, |bob, _, number| {
        let first = number.wrapping_mul(257).wrapping_add(20_000);
        sealed(bob, feedback(first, 900, u32::from(number), number as u8, 0))
    });
    assert_bounded(&honest, &never_sent, "acknowledges what was never sent");
    let other_sequence = ten_seconds(true, |bob, _, number| {
        sealed(bob, feedback(number.wrapping_add(0x8000), 200, u32::from(number), number as u8, 4))
    });
    assert_bounded(&honest, &other_sequence, "acknowledges in another run of numbers");
    let at_once = ten_seconds(true, |bob, _, number| {
        // Everything there is, again and again, without any time in between, and at times that jump.
        let reference = if number % 2 == 0 { 0 } else { 0x7f_ffff };
        sealed(bob, feedback(number.saturating_sub(100), 200, reference, number as u8, 0))
    });
    assert_bounded(&honest, &at_once, "acknowledges everything at once");
    let steady = ten_seconds(true, |bob, _, number| {
        // As if every packet had taken no time at all, since the beginning.
        let first = number.saturating_sub(1) * 2;
        sealed(bob, feedback(first, 2, u32::from(number) / 6, number as u8, 0))
    });
    assert_bounded(&honest, &steady, "acknowledges before it can have come");
    let malformed = ten_seconds(true, |bob, _, number| {
        let mut packet = feedback(number, 200, 1, 1, 1);
        // More packets than there are statuses, and runs longer than the count.
        packet[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        packet[20..22].copy_from_slice(&0x3fff_u16.to_be_bytes());
        sealed(bob, packet)
    });
    assert_bounded(&honest, &malformed, "malformed");
}
