//! Attacks on ICE: forged, flooded and contradictory checks, candidates that lead elsewhere. T36.

use std::net::SocketAddr;
use std::time::Duration;

use zynk_protocol::{ConnectionRole, ConnectionState, NodeAction};
use zynk_sfu_core::Transport;

use crate::call::{ALICE, BOB, Call, Datagram, MALLORY, SERVER, SERVER_OTHER, SERVER_TCP, STRANGER};
use crate::client::{KEYFRAME, Offer, VP8};
use crate::stun::{Check, after_integrity, random_attributes};

/// Whether Bob receives what Alice sends now, on the path that he came by.
fn flows(call: &mut Call, number: u16) -> bool {
    let packet = call.client(ALICE).rtp(1, VP8, number, &[], &KEYFRAME);
    call.send(ALICE, packet);
    call.advance(Duration::from_millis(20));
    let bob = call.client(BOB);
    let on_path = |sent: &Datagram| sent.source == SERVER.into() && sent.transport == Transport::Udp;
    let on_path = bob.media.iter().all(on_path);
    on_path && bob.received().media() == [KEYFRAME.as_slice()]
}

/// Checks that prove nothing: without integrity, with the wrong password, with another connection's.
fn unproven(call: &mut Call) -> Vec<Vec<u8>> {
    let other = call.client(ALICE).server.pass.clone();
    let check = Check::of(call.client(BOB)).nominating();
    let passwords = [None, Some(""), Some("abcdefghijklmnopqrstuvwx"), Some(&other)];
    let mut checks: Vec<Vec<u8>> =
        passwords.into_iter().map(|password| check.clone().with_password(password).bytes()).collect();
    // Indications and answers carry no nomination, with or without integrity (RFC 8445, section 11).
    for class in [0x0011_u16, 0x0101, 0x0111] {
        for check in [check.clone().with_password(None), check.clone()] {
            let mut message = check.bytes();
            message[..2].copy_from_slice(&class.to_be_bytes());
            checks.push(message);
        }
    }
    checks
}

#[test]
fn t36_a_check_without_integrity_validates_no_address() {
    let mut call = Call::with_viewers(&[BOB]);
    assert!(flows(&mut call, 1));
    let before = call.stats().datagrams_dropped;
    let checks = unproven(&mut call);
    for check in &checks {
        call.arrive(Datagram::to_server(STRANGER, check));
    }
    assert_eq!(call.stats().datagrams_dropped - before, checks.len() as u64);
    assert!(flows(&mut call, 2) && !call.sent_to(STRANGER));
}

/// An attacker that forges the address of a client, or shares it behind a translator, has no say about the path.
#[test]
fn t36_a_check_without_integrity_from_a_nominated_address_moves_nothing() {
    let mut call = Call::with_viewers(&[BOB]);
    assert!(flows(&mut call, 1));
    let bob = call.client(BOB).address;
    let before = call.stats().datagrams_dropped;
    let checks = unproven(&mut call);
    for payload in &checks {
        for (transport, destination) in
            [(Transport::Udp, SERVER), (Transport::Udp, SERVER_OTHER), (Transport::Tcp, SERVER_TCP)]
        {
            let (destination, payload) = (destination.into(), payload.clone());
            call.arrive(Datagram { transport, source: bob, destination, payload });
        }
    }
    assert!(flows(&mut call, 2), "the media went another way");
    let from_there = |sent: &Datagram| sent.destination == bob && sent.transport == Transport::Tcp;
    assert!(!call.sent.iter().any(from_there));
    assert_eq!(call.stats().datagrams_dropped - before, 3 * checks.len() as u64);
}

/// Whoever sees a client's checks can send them again from elsewhere, with attributes added that nobody vouches for.
#[test]
fn t36_attributes_behind_the_integrity_are_not_believed() {
    let mut call = Call::with_viewers(&[BOB]);
    assert!(flows(&mut call, 1));
    let seen = Check { priority: 1, ..Check::of(call.client(BOB)) };
    let added = after_integrity(&seen.bytes());
    call.arrive(Datagram::to_server(STRANGER, &added));
    assert!(flows(&mut call, 2), "the media went to whom nobody nominated");
    let media = |sent: &Datagram| sent.destination == STRANGER.into() && sent.is_media();
    assert!(!call.sent.iter().any(media));
}

#[test]
fn t36_malformed_checks_for_a_known_connection_end_nothing() {
    let mut call = Call::with_viewers(&[BOB]);
    let check = Check::of(call.client(BOB));
    let bob = call.client(BOB).address;
    for seed in 0..20_000 {
        let payload = random_attributes(seed, &check.username);
        let source = [bob, STRANGER.into()][seed as usize % 2];
        call.arrive(Datagram::to_server(source, &payload));
    }
    assert_eq!((call.stats().sessions_panicked, call.stats().connections), (0, 2));
    assert!(flows(&mut call, 1) && !call.sent_to(STRANGER));
}

#[test]
fn t36_a_flood_of_unknown_or_missing_user_fragments_leaves_nothing_behind() {
    let mut call = Call::with_viewers(&[BOB]);
    assert!(flows(&mut call, 1));
    call.sent.clear();
    let (before, state) = (call.stats(), format!("{:?}", call.shard).len());
    let known = Check::of(call.client(BOB));
    let mut nameless = known.bytes();
    // An attribute that may be ignored, in place of USERNAME.
    nameless[20..22].copy_from_slice(&[0x80, 0x99]);
    for number in 0..100_000_u32 {
        let source = SocketAddr::new([10, 7, (number >> 8) as u8, number as u8].into(), number as u16 | 1024);
        let payload = match number % 4 {
            0 => nameless.clone(),
            1 => Check { username: format!("00{number:016}:x"), ..known.clone() }.bytes(),
            2 => Check { username: String::new(), ..known.clone() }.bytes(),
            _ => Check { username: format!("{number}"), ..known.clone() }.bytes(),
        };
        call.arrive(Datagram::to_server(source, &payload));
    }
    let after = call.stats();
    assert_eq!(after.datagrams_dropped - before.datagrams_dropped, 100_000);
    assert_eq!((after.connections, call.sent.len()), (before.connections, 0), "somebody was answered");
    let grown = format!("{:?}", call.shard).len() - state;
    assert!(grown < 100, "the shard remembers {grown} characters more");
    assert!(flows(&mut call, 2));
}

#[test]
fn t36_one_client_that_shows_ever_new_addresses_is_remembered_at_the_last_few() {
    let mut call = Call::with_viewers(&[BOB]);
    assert!(flows(&mut call, 1));
    let check = Check::of(call.client(BOB)).bytes();
    let state = |call: &Call| format!("{:?}", call.shard).len();
    let mut sizes = Vec::new();
    for round in 0..4 {
        for port in 0..2_500_u16 {
            let source = SocketAddr::new([10, 7, 0, round].into(), 1024 + port);
            call.arrive(Datagram::to_server(source, &check));
        }
        sizes.push(state(&call));
    }
    assert!(sizes[3] < sizes[0] + 500, "{sizes:?}");
}

#[test]
fn t36_a_conflict_of_roles_is_answered_once_a_check_and_does_not_loop() {
    for tie_breaker in [0, u64::MAX] {
        let mut call = Call::with_viewers(&[BOB]);
        assert!(flows(&mut call, 1));
        let bob = call.client(BOB).address;
        call.sent.clear();
        let conflict = Check { controlling: false, tie_breaker, ..Check::of(call.client(BOB)) };
        let honest = Check { tie_breaker, ..Check::of(call.client(BOB)) };
        for number in 0..2000 {
            let check = if number % 2 == 0 { &conflict } else { &honest };
            call.arrive(Datagram::to_server(bob, &check.bytes()));
        }
        let answers = call.sent.iter().filter(|sent| !sent.is_media()).count();
        assert!(answers <= 2000, "{answers} datagrams for 2000 checks");
        call.wire.clear();
        call.sent.clear();
        call.advance(Duration::from_secs(5));
        let later = call.sent.iter().filter(|sent| sent.payload[0] < 4).count();
        assert!(later < 50, "{later} STUN messages in five seconds without a storm");
        assert_eq!(call.stats().sessions_panicked, 0);
        call.client(BOB).media.clear();
        // A server that was talked out of its role may lose that client, but nobody else.
        call.view(MALLORY, "TR_video");
        call.advance(Duration::from_secs(1));
        assert!(call.is_connected(MALLORY), "tie breaker {tie_breaker}");
    }
}

#[test]
fn t36_candidates_that_lead_elsewhere_are_neither_looked_up_nor_sent_to() {
    let elsewhere = [
        "internal.example.com",
        "3f2a1c9e-7d6b-4c55-8a0e-0123456789ab.local",
        "127.0.0.1",
        "169.254.169.254",
        "192.168.1.1",
        "fd00::1",
        "::1",
        "10.0.0.1",
    ];
    let candidates = elsewhere.iter().enumerate().map(|(number, host)| {
        format!("candidate:{number} 1 udp {} {host} 3478 typ host", 2_000_000_000 - number)
    });
    let candidates: Vec<String> = candidates.collect();
    let lines = candidates.iter().map(|candidate| format!("a={candidate}")).collect();
    let mut call = Call::new();
    call.publish(ALICE, "TR_video");
    call.join(ALICE, &Offer { lines, ..Offer::sending() });
    for candidate in candidates {
        call.command(NodeAction::RemoteCandidate { connection: ALICE, candidate });
    }
    // The client itself says nothing for a while.
    let client = call.clients.pop().unwrap();
    call.advance(Duration::from_secs(30));
    assert_eq!(call.sent, [], "something was sent though nobody had asked");
    call.clients.push(client);
    assert!(call.connect(), "{:?}", call.events);
    call.advance(Duration::from_secs(5));
    let alice = call.client(ALICE).address;
    assert!(call.sent.iter().all(|sent| sent.destination == alice));
}

#[test]
fn t36_a_connection_that_nobody_checks_sends_nothing_and_ends() {
    let mut call = Call::new();
    call.open(MALLORY, ConnectionRole::Single);
    call.join(MALLORY, &Offer::receiving());
    call.clients.clear();
    call.advance(Duration::from_secs(100));
    assert_eq!(call.sent, []);
    assert!(call.has_state(MALLORY, ConnectionState::Failed));
    assert_eq!(call.stats().connections, 0);
}
