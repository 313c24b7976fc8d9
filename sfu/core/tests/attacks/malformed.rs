//! Malformed media, feedback and data channels of a client with keys: T28.

use std::time::Duration;

use str0m::channel::ChannelConfig;
use zynk_protocol::{ConnectionId, DataKind, NodeAction, NodeEvent};
use zynk_sfu_core::media::nack::NackPair;

use crate::call::{ALICE, BOB, CAROL, Call, MALLORY};
use crate::client::{DELTA, KEYFRAME, MID, Offer, RID, VP8, VP8_RTX};
use crate::dtls::forge;
use crate::sctp::with_open;

const DAVE: ConnectionId = ConnectionId(4);

/// Packets of a call's publisher, who is honest, still arrive, and nobody's session has failed.
pub fn assert_unharmed(call: &mut Call, publisher_ssrc: u32, first: u16) {
    call.client(BOB).received();
    for number in 0..10 {
        let payload = if number == 0 { &KEYFRAME } else { &DELTA };
        let packet = call.client(ALICE).rtp(publisher_ssrc, VP8, first + number, &[], payload);
        call.send(ALICE, packet);
        call.advance(Duration::from_millis(10));
    }
    let received = call.client(BOB).received();
    assert_eq!(received.media().len(), 10);
    assert_eq!(call.stats().sessions_panicked, 0);
}

/// Payloads of VP8 that end within their descriptor, or whose descriptor says everything and holds nothing.
fn vp8_payloads() -> impl Iterator<Item = Vec<u8>> {
    let flags = [0x00, 0x80, 0x10, 0x90, 0xff];
    let further = [0x00, 0x80, 0xc0, 0xe0, 0xff];
    let starts = flags.into_iter().flat_map(move |first| further.map(|second| [first, second]));
    starts.flat_map(|start| {
        (0..12).map(move |length| {
            let mut payload = start.to_vec();
            payload.resize(12, if length % 2 == 0 { 0xff } else { 0x00 });
            payload.truncate(length);
            payload
        })
    })
}

#[test]
fn t28_malformed_vp8_in_all_encodings_of_a_simulcast_hurts_nobody() {
    let mut call = Call::with_viewers(&[BOB]);
    call.publish(MALLORY, "TR_simulcast");
    let simulcast = "sendonly|msid:stream camera|rid:q send|rid:h send|rid:f send|simulcast:send q;h;f";
    call.join(MALLORY, &Offer::of(&[simulcast]));
    call.view(CAROL, "TR_simulcast");
    assert!(call.connect());
    let encodings = [(10, &b"q"[..]), (20, b"h"), (30, b"f")];
    let mut number = 0;
    for payload in vp8_payloads() {
        number += 1;
        for (ssrc, rid) in encodings {
            let extensions = [(MID, &b"0"[..]), (RID, rid)];
            // A keyframe now and then, so that the encodings are switched between with such packets under way.
            let start = if number % 7 == 0 { KEYFRAME.to_vec() } else { payload.clone() };
            let packet = call.client(MALLORY).rtp(ssrc, VP8, 2 * number, &extensions, &start);
            call.send(MALLORY, packet);
            // The packet between this one and the next comes as a retransmission.
            let again = [&(2 * number + 1).to_be_bytes()[..], &payload].concat();
            let packet = call.client(MALLORY).rtp(ssrc + 1, VP8_RTX, number, &extensions, &again);
            call.send(MALLORY, packet);
        }
        call.advance(Duration::from_millis(10));
    }
    let seen = call.client(CAROL).received().media().len();
    assert!(seen > 100, "what follows a keyframe is forwarded, so that it went the whole way: {seen}");
    assert_unharmed(&mut call, 1, 1);
}

#[test]
fn t28_retransmissions_too_short_for_a_number_and_of_nothing_hurt_nobody() {
    let mut call = Call::with_viewers(&[BOB]);
    // Before any packet that they could repeat, and with 0, 1 and 2 octets after it.
    for round in 0..2_u16 {
        for (number, payload) in
            [&[][..], &[0], &[0, 1], &[0xff, 0xff], &[0, 1, 0x90]].into_iter().enumerate()
        {
            let packet = call.client(ALICE).rtp(2, VP8_RTX, round * 10 + number as u16, &[], payload);
            call.send(ALICE, packet);
            let padded = [payload, &[200]].concat();
            let number = 1000 + round * 10 + number as u16;
            let packet = call.client(ALICE).rtp_padded(2, VP8_RTX, number, &[], &padded, true);
            call.send(ALICE, packet);
        }
        let packet = call.client(ALICE).rtp(1, VP8, 1 + round, &[], &KEYFRAME);
        call.send(ALICE, packet);
    }
    assert_unharmed(&mut call, 1, 10);
}

#[test]
fn t28_packets_larger_than_a_frame_of_ethernet_are_dropped_whole() {
    let mut call = Call::with_viewers(&[BOB]);
    let packet = call.client(ALICE).rtp(1, VP8, 1, &[], &KEYFRAME);
    call.send(ALICE, packet);
    let before = call.stats();
    let sizes = [1_473, 1_500, 1_501, 2_048, 4_096, 9_000, 40_000, 65_000];
    for (number, size) in (2..).zip(sizes) {
        let packet = call.client(ALICE).rtp(1, VP8, number, &[], &vec![0x10; size]);
        assert!(packet.len() > 1_500);
        call.send(ALICE, packet);
        let report = call.client(ALICE).seal_rtcp(vec![0x81; size], size);
        call.send(ALICE, report);
    }
    let after = call.stats();
    assert_eq!(after.datagrams_dropped - before.datagrams_dropped, 2 * sizes.len() as u64);
    assert_eq!(after.rtp_packets_received, before.rtp_packets_received);
    assert_unharmed(&mut call, 1, 20);
}

#[test]
fn t28_feedback_about_a_publisher_that_is_gone_asks_nobody() {
    let mut call = Call::with_viewers(&[BOB, CAROL]);
    let packet = call.client(ALICE).rtp(1, VP8, 1, &[], &KEYFRAME);
    call.send(ALICE, packet);
    call.advance(Duration::from_millis(50));
    let [bob, carol] = [BOB, CAROL].map(|viewer| call.client(viewer).received().rtp[0].0);
    // Carol's feedback is under way while the track ends; Bob's comes after the connection is closed, too.
    call.command(NodeAction::RemoveTrack { track: "TR_video".parse().unwrap() });
    let everything = |call: &mut Call, viewer, ssrc: u32| {
        let pairs = [NackPair { pid: 0, blp: u16::MAX }, NackPair { pid: 0xfff0, blp: u16::MAX }];
        for source in [ssrc, ssrc.wrapping_add(1), 0, u32::MAX] {
            let feedback = call.client(viewer).rtcp(|writer| {
                writer.picture_loss(7, source).unwrap();
                writer.full_intra_request(7, source, 1).unwrap();
                writer.nack(7, source, &pairs).unwrap();
            });
            call.send(viewer, feedback);
        }
        call.advance(Duration::from_millis(50));
    };
    everything(&mut call, CAROL, carol);
    let late = call.client(ALICE).rtp(1, VP8, 2, &[], &DELTA);
    call.send(ALICE, late);
    call.command(NodeAction::CloseConnection { connection: ALICE });
    let requests = call.stats().keyframe_requests_sent;
    everything(&mut call, BOB, bob);
    everything(&mut call, CAROL, carol);
    let late = call.client(ALICE).rtp(1, VP8, 3, &[], &KEYFRAME);
    call.send(ALICE, late);
    assert_eq!((call.stats().keyframe_requests_sent, call.stats().connections), (requests, 2));
    assert_eq!(call.stats().sessions_panicked, 0);
    // Others go on.
    call.publish(MALLORY, "TR_next");
    call.join(MALLORY, &Offer::sending());
    call.view(DAVE, "TR_next");
    assert!(call.connect());
    let packet = call.client(MALLORY).rtp(1, VP8, 1, &[], &KEYFRAME);
    call.send(MALLORY, packet);
    call.advance(Duration::from_millis(10));
    assert_eq!(call.client(DAVE).received().media(), [KEYFRAME]);
}

/// A message that opens a channel (RFC 8832, section 5.1), with these lengths of label and protocol.
fn open(kind: u8, label_bytes: u16, protocol_bytes: u16, after: &[u8]) -> Vec<u8> {
    let fixed = [kind, 0, 0, 0, 0, 0, 0, 0];
    [&fixed[..], &label_bytes.to_be_bytes(), &protocol_bytes.to_be_bytes(), after].concat()
}

fn call_with_data_channel(message: Option<Vec<u8>>) -> Call {
    let mut call = Call::with_viewers(&[BOB]);
    call.publish(MALLORY, "TR_data");
    call.join(MALLORY, &Offer::sending().with_data());
    assert!(call.connect());
    if let Some(message) = message {
        forge(move |packet| with_open(packet, &message));
    }
    let config = ChannelConfig { label: DataKind::Reliable.label().to_owned(), ..ChannelConfig::default() };
    call.client(MALLORY).rtc.direct_api().create_data_channel(config);
    call.advance(Duration::from_millis(500));
    call
}

fn has_opened(call: &Call) -> bool {
    call.events.iter().any(|event| matches!(event, NodeEvent::DataChannelOpen { .. }))
}

#[test]
fn t28_data_channels_opened_with_lengths_that_lie_are_not_read_beyond_their_end() {
    let label = DataKind::Reliable.label().as_bytes();
    let right = label.len() as u16;
    assert!(has_opened(&call_with_data_channel(None)), "an honest client can");
    assert!(has_opened(&call_with_data_channel(Some(open(3, right, 0, label)))), "forging works");
    let mut messages: Vec<Vec<u8>> = (1..12).map(|length| open(3, 0, 0, &[])[..length].to_vec()).collect();
    for (label_bytes, protocol_bytes) in
        [(right + 1, 0), (right, 1), (u16::MAX, 0), (0, u16::MAX), (u16::MAX, u16::MAX), (1, right)]
    {
        messages.push(open(3, label_bytes, protocol_bytes, label));
    }
    messages.push(open(3, right, 0, &vec![0xff; label.len()]));
    messages.extend([0, 1, 2, 4, 255].map(|kind| open(kind, right, 0, label)));
    for message in messages {
        let mut call = call_with_data_channel(Some(message.clone()));
        assert!(!has_opened(&call), "{message:02x?}");
        assert_unharmed(&mut call, 1, 1);
    }
}
