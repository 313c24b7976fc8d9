//! The certificate that the SDP names is the only one that connects, in both parts of the DTLS handshake: T31.

use std::time::Duration;

use str0m::config::DtlsCert;
use zynk_protocol::ConnectionState;

use crate::call::{ALICE, BOB, Call, MALLORY};
use crate::client::{KEYFRAME, Offer, VP8, fingerprint_of, new_certificate, plain_rtp};

/// What each part does wrong: names another's certificate, or shows it without having its key.
fn impostors(setup: &'static str, sections: fn() -> Offer) -> [Offer; 2] {
    let victim = new_certificate();
    let own = new_certificate();
    let named = Offer { fingerprint: Some(fingerprint_of(&victim)), ..sections().with_setup(setup) };
    let shown = DtlsCert { certificate: victim.certificate, private_key: own.private_key };
    [named, Offer { certificate: shown, ..sections().with_setup(setup) }]
}

#[test]
fn t31_a_publisher_with_another_certificate_never_connects_in_either_role() {
    for (setup, server_is_client) in [("actpass", false), ("passive", true)] {
        for (which, offer) in impostors(setup, Offer::sending).iter().enumerate() {
            let mut call = Call::new();
            call.publish(MALLORY, "TR_video");
            call.join(MALLORY, offer);
            assert_eq!(call.client(MALLORY).passive, server_is_client);
            assert!(!call.connect(), "{setup}, impostor {which}");
            assert!(call.sent.iter().any(|sent| sent.is_dtls()), "the handshake began");
            assert!(!call.has_state(MALLORY, ConnectionState::Connected), "{setup}, impostor {which}");
            let packet = match call.client(MALLORY).keys {
                Some(_) => call.client(MALLORY).rtp(1, VP8, 1, &[], &KEYFRAME),
                None => plain_rtp(1, VP8, 1, &[], &KEYFRAME, false),
            };
            let dropped = call.stats().datagrams_dropped;
            call.send(MALLORY, packet);
            assert_eq!((call.stats().rtp_packets_received, call.stats().datagrams_dropped), (0, dropped + 1));
            call.advance(Duration::from_secs(100));
            assert!(call.has_state(MALLORY, ConnectionState::Failed), "{setup}, {which}: {:?}", call.events);
        }
    }
}

#[test]
fn t31_a_viewer_with_another_certificate_is_sent_no_media_in_either_role() {
    for setup in ["actpass", "passive"] {
        for (which, offer) in impostors(setup, Offer::receiving).iter().enumerate() {
            let mut call = Call::with_viewers(&[BOB]);
            call.open(MALLORY, zynk_protocol::ConnectionRole::Single);
            call.subscribe(MALLORY, "TR_video");
            call.join(MALLORY, offer);
            assert!(!call.connect(), "{setup}, impostor {which}");
            for number in 1..20 {
                let packet = call.client(ALICE).rtp(1, VP8, number, &[], &KEYFRAME);
                call.send(ALICE, packet);
                call.advance(Duration::from_millis(10));
            }
            assert_eq!(call.client(BOB).received().media().len(), 19);
            assert!(call.client(MALLORY).media.is_empty(), "{setup}, impostor {which}");
            assert!(!call.has_state(MALLORY, ConnectionState::Connected));
        }
    }
}
