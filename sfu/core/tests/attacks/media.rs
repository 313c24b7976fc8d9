//! Media from where it must not come, and under names that are somebody else's: T5, T6, T37.

use std::time::Duration;

use zynk_protocol::NodeAction;

use crate::call::{ALICE, BOB, CAROL, Call, Datagram, MALLORY, STRANGER};
use crate::client::{DELTA, KEYFRAME, MID, Offer, RID, TRANSPORT_SEQUENCE, VP8, VP8_RTX, plain_rtp};
use crate::stun::Check;

/// A frame of the attacker's, to be told from others by its end.
const FORGED: [u8; 6] = [0x10, 0x00, 0x9d, 0x01, 0x2a, 0x66];

#[test]
fn t05_t06_media_from_elsewhere_before_and_during_ice_and_dtls_is_never_latched() {
    let mut call = Call::new();
    call.publish(ALICE, "TR_video");
    call.join(ALICE, &Offer::sending());
    call.view(BOB, "TR_video");
    let victim = call.client(ALICE).address;
    let mut sent = 0;
    let mut sources = vec![STRANGER.into(), (victim.ip(), victim.port() + 1).into()];
    // The victim's own address, as long as it has proved nothing: afterwards it is its own.
    sources.push(victim);
    let connected = call.connect_under(|call| {
        for source in &sources {
            let rtp = plain_rtp(1, VP8, sent, &[], &FORGED, false);
            let rtcp = [0x81, 206, 0, 2, 0, 0, 0, 7, 0, 0, 0, 1];
            call.arrive(Datagram::to_server(*source, &rtp));
            call.arrive(Datagram::to_server(*source, &rtcp));
            sent += 1;
        }
    });
    assert!(connected && sent > 50, "{sent}");
    assert_eq!((call.stats().rtp_packets_received, call.stats().datagrams_dropped), (0, 2 * u64::from(sent)));
    // Media sealed with the right keys has no more right to another address.
    for number in 100..200 {
        let stolen = call.client(ALICE).rtp(1, VP8, number, &[], &KEYFRAME);
        call.arrive(Datagram::to_server(STRANGER, &stolen));
    }
    assert_eq!(call.stats().rtp_packets_received, 0);
    for number in 200..300 {
        let packet = call.client(ALICE).rtp(1, VP8, number, &[], &KEYFRAME);
        call.send(ALICE, packet);
        call.advance(Duration::from_millis(10));
    }
    assert!(!call.sent_to(STRANGER) && !call.sent_to(sources[1]));
    assert_eq!(call.client(BOB).received().media(), [KEYFRAME.as_slice(); 100]);
}

/// Between ICE and DTLS there is a validated address and no key: nothing that comes from there is media.
#[test]
fn t05_t06_media_between_ice_and_dtls_is_neither_taken_nor_returned() {
    let mut call = Call::new();
    call.publish(ALICE, "TR_video");
    call.join(ALICE, &Offer::sending());
    for _ in 0..20 {
        call.step_losing(Datagram::is_dtls);
    }
    assert!(call.sent.iter().any(|sent| sent.payload[0] == 1), "ICE is up");
    // An attacker that validates an address of its own has no key either.
    let check = Check::of(call.client(ALICE)).bytes();
    call.arrive(Datagram::to_server(STRANGER, &check));
    let dropped = call.stats().datagrams_dropped;
    let victim = call.client(ALICE).address;
    for number in 0..1000 {
        let rtp = plain_rtp(1, VP8, number, &[], &KEYFRAME, false);
        call.arrive(Datagram::to_server([victim, STRANGER.into()][usize::from(number) % 2], &rtp));
    }
    assert_eq!((call.stats().rtp_packets_received, call.stats().datagrams_dropped), (0, dropped + 1000));
    call.view(BOB, "TR_video");
    call.advance(Duration::from_secs(2));
    assert!(!call.sent.iter().any(Datagram::is_media), "nothing is answered with media or reports");
}

/// Alice and Mallory each publish two tracks; Bob receives Alice's and Mallory's, Carol Alice's alone.
fn two_publishers() -> Call {
    let mut call = Call::new();
    for (publisher, first, second, prefix) in
        [(ALICE, "TR_alice", "TR_alice2", ""), (MALLORY, "TR_mallory", "TR_mallory2", "x")]
    {
        call.publish(publisher, first);
        call.expect(publisher, second, "screen");
        let simulcast = |a: &str, b: &str| format!("rid:{a} send|rid:{b} send|simulcast:send {a};{b}");
        let camera = format!("sendonly|msid:stream camera|{}", simulcast("q", "h"));
        let screen = format!(
            "sendonly|msid:stream screen|{}",
            simulcast(&format!("{prefix}a"), &format!("{prefix}b"))
        );
        let mut offer = Offer::of(&[&camera, &screen]);
        if publisher == MALLORY {
            // The numbers of the extensions are exchanged.
            offer.extensions[0].0 = RID;
            offer.extensions[1].0 = MID;
        }
        call.join(publisher, &offer);
    }
    for (viewer, tracks) in [(BOB, vec!["TR_mallory", "TR_mallory2"]), (CAROL, vec!["TR_alice", "TR_alice2"])]
    {
        call.open(viewer, zynk_protocol::ConnectionRole::Single);
        for track in &tracks {
            call.subscribe(viewer, track);
        }
        call.join(viewer, &Offer::of(&["recvonly", "recvonly"]));
    }
    assert!(call.connect(), "{:?}", call.events);
    call
}

/// What Carol, who receives Alice's tracks, and Bob, who receives Mallory's, got since the last time.
fn frames(call: &mut Call) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut of = |id| {
        let received = call.client(id).received();
        let media =
            received.rtp.into_iter().map(|(.., payload)| payload).filter(|payload| payload.len() >= 6);
        media.collect::<Vec<_>>()
    };
    (of(CAROL), of(BOB))
}

#[test]
fn t37_names_of_other_sections_and_encodings_feed_nobody_elses_track() {
    let mut call = two_publishers();
    let honest = call.client(ALICE).rtp(10, VP8, 1, &[(MID, b"0"), (RID, b"q")], &KEYFRAME);
    call.send(ALICE, honest);
    call.advance(Duration::from_millis(50));
    assert_eq!(frames(&mut call).0, [KEYFRAME.to_vec()], "an honest packet arrives");
    // Sections that Mallory has not, encodings of other sections and of nobody, and what is neither.
    let names: [(&[u8], &[u8]); 10] = [
        (b"2", b"q"),
        (b"7", b"q"),
        (b"0", b"a"),
        (b"0", b"xa"),
        (b"1", b"q"),
        (b"1", b"a"),
        (b"0", b"unknown"),
        (b"\xff\xfe", b"q"),
        (b"0", b"\0\0"),
        (b"0000000000000000", b"q"),
    ];
    let mut ssrc = 1000;
    for (mid, rid) in names {
        for payload_type in [VP8, VP8_RTX, 100] {
            // As Mallory's offer numbers them, and as Alice's does.
            for (mid_number, rid_number) in [(RID, MID), (MID, RID)] {
                ssrc += 1;
                let extensions = [(mid_number, mid), (rid_number, rid)];
                let forged = call.client(MALLORY).rtp(ssrc, payload_type, 1, &extensions, &FORGED);
                call.send(MALLORY, forged);
            }
        }
    }
    call.advance(Duration::from_millis(100));
    assert_eq!(frames(&mut call), (vec![], vec![]), "a packet with a false name was forwarded");
    // A source of Alice's, under Mallory's own names: it is Mallory's track.
    let own = call.client(MALLORY).rtp(10, VP8, 500, &[(RID, b"0"), (MID, b"q")], &FORGED);
    call.send(MALLORY, own);
    let honest = call.client(ALICE).rtp(10, VP8, 2, &[], &DELTA);
    call.send(ALICE, honest);
    call.advance(Duration::from_millis(100));
    assert_eq!(frames(&mut call), (vec![DELTA.to_vec()], vec![FORGED.to_vec()]));
    assert_eq!(call.stats().sessions_panicked, 0);
}

#[test]
fn t37_extensions_that_were_not_negotiated_or_are_malformed_name_nothing() {
    let mut call = two_publishers();
    let mut number = 0_u32;
    for extension in 1..15_u8 {
        for value in [&b"0"[..], b"1", b"q", b"0123456789abcdef", &[0xff; 16], &[0x32, b'0', 0x42]] {
            number += 1;
            let extensions = [(extension, value), (15, &b"0"[..])];
            let forged = call.client(MALLORY).rtp(2000 + number, VP8, 1, &extensions, &FORGED);
            call.send(MALLORY, forged);
        }
    }
    // Transport numbers that jump: feedback stays within bounds.
    for number in 0..500_u16 {
        let jump = number.wrapping_mul(30_011).to_be_bytes();
        let extensions = [(RID, &b"0"[..]), (MID, b"q"), (TRANSPORT_SEQUENCE, &jump)];
        let forged = call.client(MALLORY).rtp(10, VP8, number, &extensions, &FORGED);
        call.send(MALLORY, forged);
    }
    call.sent.clear();
    call.advance(Duration::from_secs(1));
    let (carol, _) = frames(&mut call);
    assert_eq!(carol, Vec::<Vec<u8>>::new());
    let mallory = call.client(MALLORY).address;
    let feedback: usize = call
        .sent
        .iter()
        .filter(|sent| sent.destination == mallory && sent.is_media())
        .map(|sent| sent.payload.len())
        .sum();
    assert!(feedback < 100_000, "{feedback} octets of feedback");
    assert_eq!(call.stats().sessions_panicked, 0);
}

/// A source cannot move from its owner's track to another's by a new offer either.
#[test]
fn t37_a_source_declared_for_somebody_elses_stays_its_senders() {
    let mut call = two_publishers();
    let honest = call.client(ALICE).rtp(10, VP8, 1, &[(MID, b"0"), (RID, b"q")], &KEYFRAME);
    call.send(ALICE, honest);
    let offer = Offer::of(&[
        "sendonly|msid:stream camera|ssrc:10 cname:x",
        "sendonly|msid:stream screen|ssrc:11 cname:x",
    ]);
    let sdp = call.client(MALLORY).offer(&offer);
    call.command(NodeAction::RemoteOffer { connection: MALLORY, offer_id: 2, sdp });
    for number in 0..20 {
        let forged = call.client(MALLORY).rtp(10, VP8, number, &[], &FORGED);
        call.send(MALLORY, forged);
    }
    call.advance(Duration::from_millis(100));
    assert_eq!(frames(&mut call).0, [KEYFRAME.to_vec()]);
}
