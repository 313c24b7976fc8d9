//! Hellos that race with the client's between ICE and DTLS: T1, T2, T3.

use std::net::SocketAddr;
use std::time::Duration;

use str0m::crypto::dtls::DtlsOutput;
use zynk_protocol::ConnectionState;
use zynk_sfu_core::Transport;

use crate::call::{ALICE, BOB, Call, Datagram, SERVER, SERVER_OTHER, SERVER_TCP, STRANGER};
use crate::client::{KEYFRAME, Offer, VP8};
use crate::dtls::{ALERT, attacker, client_hello, null_hello, records};
use crate::stun::Check;

/// The list of attacks asks for a thousand.
const SESSIONS: usize = 1000;

fn alone(setup: &'static str) -> Call {
    let mut call = Call::new();
    call.publish(ALICE, "TR_video");
    call.join(ALICE, &Offer::sending().with_setup(setup));
    call
}

/// How often [`Call::connect_under`] lets somebody do something before the connection is up.
fn points(setup: &'static str) -> usize {
    let mut count = 0;
    assert!(alone(setup).connect_under(|_| count += 1));
    assert!(count > 10, "{count}");
    count
}

fn accepts_media(call: &mut Call) -> bool {
    let packet = call.client(ALICE).rtp(1, VP8, 1, &[], &KEYFRAME);
    call.send(ALICE, packet);
    call.stats().rtp_packets_received == 1
}

/// Whether the server sent an alert that everybody can read.
fn alerted(call: &Call) -> bool {
    let records = call.sent.iter().filter(|sent| sent.is_dtls()).flat_map(|sent| records(&sent.payload));
    records.into_iter().any(|record| record.kind == ALERT && record.epoch == 0)
}

#[test]
fn t01_a_hello_from_an_address_that_proved_nothing_is_ignored_in_every_session() {
    let hellos = [null_hello(), client_hello(Call::new().now)];
    for session in 0..SESSIONS {
        let mut call = alone(["actpass", "passive"][session % 2]);
        let victim = call.client(ALICE).address;
        let neighbour = SocketAddr::new(victim.ip(), victim.port() + 1);
        let ways = [
            (Transport::Udp, STRANGER.into(), SERVER),
            (Transport::Udp, neighbour, SERVER),
            (Transport::Udp, neighbour, SERVER_OTHER),
            (Transport::Tcp, victim, SERVER_TCP),
        ];
        let mut hellos_sent = 0;
        let connected = call.connect_under(|call| {
            let (transport, source, destination) = ways[(session + hellos_sent) % ways.len()];
            let payload = hellos[hellos_sent % hellos.len()].clone();
            call.arrive(Datagram { transport, source, destination: destination.into(), payload });
            hellos_sent += 1;
        });
        assert!(connected, "session {session}: {:?}", call.events);
        assert_eq!(call.stats().datagrams_dropped, hellos_sent as u64, "session {session}");
        let answered = |sent: &Datagram| sent.transport != Transport::Udp || sent.destination != victim;
        assert!(!call.sent.iter().any(answered), "session {session}: the attacker was answered");
        assert!(accepts_media(&mut call), "session {session}");
    }
}

/// The attacker forges the victim's address. Without an address of its own it learns nothing; at worst the victim's
/// handshake fails as if its own hello had been lost for good.
#[test]
fn t02_a_hello_with_the_victims_address_brings_no_alert_and_no_undefined_state() {
    for setup in ["actpass", "passive"] {
        let points = points(setup);
        for (which, hello) in [null_hello(), client_hello(Call::new().now)].iter().enumerate() {
            let mut came_up = 0;
            for point in 0..points {
                let mut call = alone(setup);
                let forged = Datagram::to_server(call.client(ALICE).address, hello);
                let mut count = 0;
                let connected = call.connect_under(|call| {
                    if count == point {
                        call.arrive(forged.clone());
                    }
                    count += 1;
                });
                assert!(!alerted(&call), "{setup}, hello {which}, point {point}");
                assert_eq!(call.stats().sessions_panicked, 0);
                came_up += usize::from(connected);
                if connected {
                    assert!(accepts_media(&mut call), "{setup}, hello {which}, point {point}");
                } else {
                    assert!(!call.has_state(ALICE, ConnectionState::Connected), "{:?}", call.events);
                    call.advance(Duration::from_secs(100));
                    assert!(call.has_state(ALICE, ConnectionState::Failed), "it hangs: {:?}", call.events);
                    assert_eq!(call.stats().connections, 0);
                }
            }
            println!("{setup}, hello {which}: {came_up} of {points}");
        }
    }
}

/// The attacker knows the victim's ICE credentials and proves it: its address is as good as the victim's.
#[test]
fn t02_a_validated_attacker_with_another_certificate_is_never_connected() {
    for victim_joins in [false, true] {
        let mut call = alone("actpass");
        let mut instance = attacker(call.now);
        let from: SocketAddr = STRANGER.into();
        let check = Check::of(call.client(ALICE)).nominating();
        call.arrive(Datagram::to_server(from, &check.bytes()));
        let (mut seen, mut buffer, mut through) = (0, vec![0; 2048], false);
        let mut handshake = |call: &mut Call| {
            call.arrive(Datagram::to_server(from, &check.bytes()));
            loop {
                match instance.poll_output(&mut buffer) {
                    DtlsOutput::Packet(packet) => call.arrive(Datagram::to_server(from, packet)),
                    DtlsOutput::Connected => through = true,
                    DtlsOutput::Timeout(_) => break,
                    _ => {}
                }
            }
            let answers = call.sent[seen..].iter().filter(|sent| sent.destination == from && sent.is_dtls());
            for answer in answers {
                let _ = instance.handle_packet(&answer.payload);
            }
            seen = call.sent.len();
        };
        if victim_joins {
            call.connect_under(&mut handshake);
        } else {
            (0..20).for_each(|_| handshake(&mut call));
        }
        assert!(!through, "the attacker's handshake came through");
        assert!(call.sent_to(from), "the attacker got as far as the handshake");
        assert!(!call.has_state(ALICE, ConnectionState::Connected), "{:?}", call.events);
        assert!(call.has_state(ALICE, ConnectionState::Failed), "its certificate ends it: {:?}", call.events);
        let victim = call.client(ALICE).address;
        assert!(!alerted(&call) && call.sent.iter().all(|sent| !sent.is_media()), "{victim}");
    }
}

#[test]
fn t03_hellos_sprayed_over_all_addresses_and_ports_leave_no_undefined_state() {
    let hello = null_hello();
    for point in 0..points("actpass") {
        let mut call = alone("actpass");
        let victim = call.client(ALICE).address;
        let (mut count, mut sprayed) = (0, 0);
        let connected = call.connect_under(|call| {
            count += 1;
            if count != point + 1 {
                return;
            }
            for port in (1024..=u16::MAX).step_by(61).filter(|port| *port != victim.port()) {
                for (transport, destination) in
                    [(Transport::Udp, SERVER), (Transport::Udp, SERVER_OTHER), (Transport::Tcp, SERVER_TCP)]
                {
                    let source = SocketAddr::new(victim.ip(), port);
                    let (destination, payload) = (destination.into(), hello.clone());
                    call.arrive(Datagram { transport, source, destination, payload });
                    sprayed += 1;
                }
            }
        });
        assert!(connected, "point {point}: {:?}", call.events);
        assert_eq!(call.stats().datagrams_dropped, sprayed, "point {point}");
        assert!(call.sent.iter().all(|sent| sent.destination == victim), "point {point}");
        assert!(accepts_media(&mut call), "point {point}");
        // Somebody else comes, and receives what the victim sends.
        call.view(BOB, "TR_video");
        assert!(call.connect(), "point {point}");
        let packet = call.client(ALICE).rtp(1, VP8, 2, &[], &KEYFRAME);
        call.send(ALICE, packet);
        call.advance(Duration::from_millis(20));
        let received = call.client(BOB).received().media().len();
        assert_eq!(received, 2, "point {point}: this keyframe, and the one before it");
    }
}
