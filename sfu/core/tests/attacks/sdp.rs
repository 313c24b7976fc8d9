//! Descriptions that ask for media without DTLS-SRTP: T32.

use std::time::Duration;

use zynk_protocol::{ConnectionRole, NegotiationFailure, NodeAction, NodeEvent};

use crate::call::{ALICE, BOB, Call, MALLORY};
use crate::client::{Client, Offer, VP8, plain_rtp};

const PROFILE: &str = "UDP/TLS/RTP/SAVPF";
/// What is no DTLS-SRTP: plain, plain with feedback, keys in the SDP (RFC 4568), SRTP without feedback, and spellings.
const DOWNGRADED: [&str; 8] = [
    "RTP/AVP",
    "RTP/AVPF",
    "RTP/SAVP",
    "RTP/SAVPF",
    "UDP/TLS/RTP/SAVP",
    "udp/tls/rtp/savpf",
    "UDP/TLS/RTP/SAVPFX",
    "RTP/AVPF UDP/TLS/RTP/SAVPF",
];

fn failures(call: &Call) -> Vec<&NegotiationFailure> {
    let failures = call.events.iter().filter_map(|event| match event {
        NodeEvent::NegotiationFailed { failure, .. } => Some(failure),
        _ => None,
    });
    failures.collect()
}

/// Whether the failure's words name the profile that is accepted.
fn is_clear(failure: &NegotiationFailure) -> bool {
    *failure == NegotiationFailure::PlainRtp && failure.to_string().contains(PROFILE)
}

#[test]
fn t32_an_offer_without_dtls_srtp_is_refused_whatever_its_section() {
    for profile in DOWNGRADED {
        for (section, port) in [(0, "9"), (1, "9"), (1, "0")] {
            let mut call = Call::new();
            call.publish(MALLORY, "TR_video");
            let offer = Offer::of(&["sendonly|msid:stream camera", "sendonly|msid:stream other|bundle-only"]);
            let mut client = Client::new(MALLORY, &offer, call.now);
            let mut number = 0;
            let honest = client.offer(&offer);
            let lines = honest.lines().map(|line| {
                let is_media = line.starts_with("m=video");
                number += usize::from(is_media);
                if is_media && number == section + 1 {
                    format!("m=video {port} {profile} 96 97\r\n")
                } else {
                    format!("{line}\r\n")
                }
            });
            let sdp: String = lines.collect();
            call.command(NodeAction::RemoteOffer { connection: MALLORY, offer_id: 1, sdp });
            let all = failures(&call);
            assert_eq!(all.len(), 1, "{profile}, section {section}, port {port}: {:?}", call.events);
            if profile.contains(' ') {
                continue; // not a profile but a line out of order: refused as such
            }
            assert!(is_clear(all[0]), "{profile}, section {section}, port {port}: {}", all[0]);
            assert!(!call.events.iter().any(|event| matches!(event, NodeEvent::TrackStarted(_))));
            call.clients.push(client);
            for number in 0..100 {
                let packet = plain_rtp(1, VP8, number, &[], &[0x10, 0, 0x9d, 1, 0x2a], false);
                call.send(MALLORY, packet);
            }
            call.advance(Duration::from_secs(1));
            assert_eq!((call.stats().rtp_packets_received, call.stats().datagrams_dropped), (0, 100));
            assert!(call.sent.is_empty());
        }
    }
}

#[test]
fn t32_an_answer_without_dtls_srtp_is_refused_and_nothing_is_sent_in_the_clear() {
    for profile in &DOWNGRADED[..7] {
        let mut call = Call::with_viewers(&[]);
        call.open(BOB, ConnectionRole::Subscriber);
        call.subscribe(BOB, "TR_video");
        call.advance(Duration::from_millis(50));
        let offer = call.events.iter().find_map(|event| match event {
            NodeEvent::Offer { sdp, .. } => Some(sdp.clone()),
            _ => None,
        });
        let answer =
            offer.expect("an offer").replace("a=sendonly", "a=recvonly").replace("a=ice-lite\r\n", "");
        let answer = answer.replace("a=setup:actpass", "a=setup:active");
        assert!(answer.contains(PROFILE));
        let downgraded = answer.replace(PROFILE, profile);
        call.command(NodeAction::RemoteAnswer { connection: BOB, offer_id: 1, sdp: downgraded });
        let all = failures(&call);
        assert_eq!(all.len(), 1, "{profile}: {:?}", call.events);
        assert!(is_clear(all[0]), "{profile}: {}", all[0]);
        let before = call.sent.len();
        for number in 0..100 {
            let packet = call.client(ALICE).rtp(1, VP8, number, &[], &[0x10, 0, 0x9d, 1, 0x2a]);
            call.send(ALICE, packet);
        }
        call.advance(Duration::from_millis(100));
        let alice = call.client(ALICE).address;
        assert!(call.sent[before..].iter().all(|sent| sent.destination == alice), "{profile}");
    }
}

/// An accepted session carries no octet of media in the clear.
#[test]
fn t32_a_session_takes_and_sends_nothing_in_the_clear() {
    let mut call = Call::with_viewers(&[BOB]);
    let secret = [&[0x10, 0x00, 0x9d, 0x01, 0x2a][..], b"not to be read by anybody else"].concat();
    for number in 0..20 {
        let plain = plain_rtp(1, VP8, number, &[], &secret, false);
        call.send(ALICE, plain);
    }
    assert_eq!(call.stats().rtp_packets_received, 0);
    for number in 0..20 {
        let packet = call.client(ALICE).rtp(1, VP8, number, &[], &secret);
        call.send(ALICE, packet);
        call.advance(Duration::from_millis(10));
    }
    let readable =
        |sent: &crate::call::Datagram| sent.payload.windows(20).any(|window| window == &secret[5..25]);
    assert!(!call.sent.iter().any(readable));
    assert_eq!(call.client(BOB).received().media().len(), 20);
}
