//! RFC 8489, section 9.2, and which errors come when.

use super::*;

const PEER: &str = "8.8.8.8:5000";

/// A request of chosen attributes, signed with the client's key.
fn forge(client: &Client, method: Method, attributes: &[Attribute], kind: Option<IntegrityKind>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let writer = write_attributes(Writer::new(&mut bytes, Class::Request, method, &[8; 12]), attributes);
    if let Some(kind) = kind {
        writer.sign(kind, &client.key());
    }
    bytes
}

fn challenged(world: &mut World, client: &mut Client) {
    client.nonce = client.ask_once(world, Method::Allocate, &[udp()]).unwrap().value(NONCE);
}

#[test]
fn a_first_request_is_challenged() {
    let mut world = World::new();
    let reply = Client::udp(1).ask_once(&mut world, Method::Allocate, &[udp()]).unwrap();
    assert_eq!(reply.code(), 401);
    assert_eq!(reply.value(REALM), b"zynk");
    assert_eq!(reply.value(PASSWORD_ALGORITHMS), [0, 2, 0, 0, 0, 1, 0, 0]);
    assert!(reply.value(NONCE).starts_with(b"obMatJos2AAAB"));
    assert!(reply.message().integrity_kind().is_none() && !reply.message().has(USERNAME));
    world.assert_empty();
}

#[test]
fn every_way_to_sign_works() {
    for algorithm in [None, Some(PasswordAlgorithm::Md5), Some(PasswordAlgorithm::Sha256)] {
        for integrity in [IntegrityKind::Sha1, IntegrityKind::Sha256] {
            for has_fingerprint in [false, true] {
                let mut world = World::new();
                let mut alice = Client { algorithm, integrity, has_fingerprint, ..Client::udp(1) };
                // The harness checks every answer's integrity and fingerprint.
                alice.allocate(&mut world);
                assert_eq!(alice.permit(&mut world, &[PEER]), 0);
                assert_eq!(alice.bind(&mut world, 0x4000, PEER), 0);
                assert_eq!(alice.permit(&mut world, &["127.0.0.9:1"]), 403);
                assert_eq!(alice.refresh(&mut world, &[]).code(), 0);
            }
        }
    }
}

#[test]
fn without_a_part_of_the_credentials_it_is_400() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    challenged(&mut world, &mut alice);
    let parts = [raw(USERNAME, b"alice"), raw(REALM, b"zynk"), raw(NONCE, &alice.nonce)];
    for missing in 0..3 {
        let mut left = vec![udp()];
        left.extend(parts.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, part)| part.clone()));
        let bytes = forge(&alice, Method::Allocate, &left, Some(IntegrityKind::Sha1));
        let reply = alice.send(&mut world, &bytes).unwrap();
        assert_eq!(reply.code(), 400);
        for kind in [USERNAME, REALM, NONCE] {
            assert!(!reply.message().has(kind));
        }
        assert!(reply.message().integrity_kind().is_none());
        // Without integrity it is but a request that knows no better.
        let bytes = forge(&alice, Method::Allocate, &left, None);
        assert_eq!(alice.send(&mut world, &bytes).unwrap().code(), 401);
    }
    let no_text = [udp(), raw(USERNAME, [0xff, 0xfe]), parts[1].clone(), parts[2].clone()];
    let bytes = forge(&alice, Method::Allocate, &no_text, Some(IntegrityKind::Sha1));
    assert_eq!(alice.send(&mut world, &bytes).unwrap().code(), 400);
}

#[test]
fn whoever_changes_the_offered_algorithms_is_found_out() {
    let mut world = World::new();
    let mut alice = Client { algorithm: Some(PasswordAlgorithm::Md5), ..Client::udp(1) };
    challenged(&mut world, &mut alice);
    let base = [udp(), raw(USERNAME, b"alice"), raw(REALM, b"zynk"), raw(NONCE, &alice.nonce)];
    let offered = |value: &[u8]| raw(PASSWORD_ALGORITHMS, value);
    let chosen = |value: &[u8]| raw(PASSWORD_ALGORITHM, value);
    let both: &[u8] = &answer::ALGORITHMS;
    for (more, code) in [
        (vec![offered(&[0, 1, 0, 0]), chosen(&[0, 1, 0, 0])], 400), // SHA-256 was taken out on the way
        (vec![offered(&[0, 1, 0, 0, 0, 2, 0, 0]), chosen(&[0, 1, 0, 0])], 400),
        (vec![offered(&[]), chosen(&[0, 1, 0, 0])], 400),
        (vec![offered(both)], 400),
        (vec![chosen(&[0, 1, 0, 0])], 400),
        (vec![offered(both), chosen(&[0, 3, 0, 0])], 400),
        (vec![offered(both), chosen(&[0, 1])], 400),
        (vec![offered(both), chosen(&[0, 2, 0, 0])], 401), // signed with MD5's key
        (vec![offered(both), chosen(&[0, 1, 0, 0])], 0),
    ] {
        let bytes = forge(&alice, Method::Allocate, &[&base[..], &more].concat(), Some(IntegrityKind::Sha1));
        assert_eq!(alice.send(&mut world, &bytes).unwrap().code(), code, "{more:?}");
    }
}

#[test]
fn wrong_credentials_are_401_with_all_that_a_challenge_has() {
    let mut world = World::new();
    let cases = [
        (Client::udp(1).named("mallory"), RefusalReason::UnknownUser),
        (Client { password: "wrong".into(), ..Client::udp(2) }, RefusalReason::WrongPassword),
        (
            Client { password: "wrong".into(), ..Client::udp(3).ephemeral("x", seconds(60)) },
            RefusalReason::WrongPassword,
        ),
        (Client::udp(4).named(&"a".repeat(510)), RefusalReason::UnknownUser),
        (Client::udp(5).named(""), RefusalReason::UnknownUser),
    ];
    for (mut client, reason) in cases {
        challenged(&mut world, &mut client);
        world.wait(seconds(20));
        let reply = client.ask_once(&mut world, Method::Allocate, &[udp()]).unwrap();
        assert_eq!(reply.code(), 401);
        assert!(reply.message().has(REALM) && reply.message().has(PASSWORD_ALGORITHMS));
        assert!(reply.message().integrity_kind().is_none());
        let event = world.take_events().pop().unwrap();
        assert_eq!(event, Event::Refused { user: None, five_tuple: client.five_tuple, reason });
        assert!(world.server.stats().refusals(reason) > 0);
    }
    world.assert_empty();
}

#[test]
fn credentials_of_the_rest_draft_are_good_until_their_time() {
    let mut world = World::new();
    let mut client = Client::udp(1).ephemeral("alice", seconds(600));
    client.allocate(&mut world);
    // A minute is allowed for clocks that differ.
    let mut in_time = Client { five_tuple: Client::udp(2).five_tuple, ..client.clone() };
    world.wait(seconds(660) - Duration::from_millis(1));
    in_time.allocate(&mut world);
    let mut late = Client { five_tuple: Client::udp(3).five_tuple, ..client.clone() };
    world.wait(seconds(1));
    assert_eq!(late.ask(&mut world, Method::Allocate, &[udp()]).code(), 401);
    assert!(world.has_refused(RefusalReason::CredentialsExpired));
}

#[test]
fn a_nonce_that_is_too_old_or_anothers_is_438() {
    let mut world = World::with(|config| config.nonce_life = seconds(100));
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    let old = alice.nonce.clone();
    world.wait(seconds(130));
    let reply = alice.ask_once(&mut world, Method::Refresh, &[]).unwrap();
    assert_eq!(reply.code(), 438);
    assert!(reply.message().has(REALM) && reply.message().has(PASSWORD_ALGORITHMS));
    assert_ne!(reply.value(NONCE), old);
    assert_eq!(alice.refresh(&mut world, &[]).code(), 0, "with the new one");
    let mut thief = Client { nonce: alice.nonce.clone(), ..Client::udp(2) };
    thief.five_tuple.client.set_ip("192.0.2.99".parse().unwrap());
    assert_eq!(thief.ask_once(&mut world, Method::Allocate, &[udp()]).unwrap().code(), 438);
    thief.nonce = b"anything".to_vec();
    assert_eq!(thief.ask_once(&mut world, Method::Allocate, &[udp()]).unwrap().code(), 438);
}

#[test]
fn an_allocation_is_its_users_alone() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    let mut bob = Client::udp(1).named("bob");
    for (method, attributes) in [
        (Method::Refresh, vec![number(LIFETIME, 0)]),
        (Method::CreatePermission, vec![peer(PEER)]),
        (Method::ChannelBind, vec![peer(PEER), channel(0x4000)]),
        (Method::Connect, vec![peer(PEER)]),
    ] {
        assert_eq!(bob.ask(&mut world, method, &attributes).code(), 441, "{method:?}");
    }
    assert_eq!(bob.ask(&mut world, Method::Allocate, &[udp()]).code(), 437);
    assert!(world.has_refused(RefusalReason::WrongUser));
    let report = world.server.allocations().next().unwrap();
    assert_eq!((&*report.user, report.permissions, report.channels), ("alice", 0, 0));
    // New credentials of the same person are another user name, which is RFC 8656's measure.
    let mut other = Client::udp(1).ephemeral("alice", seconds(60));
    assert_eq!(other.refresh(&mut world, &[]).code(), 441);
}

#[test]
fn unknown_attributes_are_named_once_the_sender_is_known() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    let unknown = [raw(0x7001, b"x"), raw(0x0030, []), raw(0xf001, b"y"), udp()];
    assert_eq!(alice.ask_once(&mut world, Method::Allocate, &unknown).unwrap().code(), 401, "first who");
    let reply = alice.ask(&mut world, Method::Allocate, &unknown);
    assert_eq!(reply.code(), 420);
    assert_eq!(reply.value(UNKNOWN_ATTRIBUTES), [0x70, 1, 0, 0x30]);
    world.assert_empty();
}

#[test]
fn binding_requests_need_no_credentials() {
    let mut world = World::new();
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Dtls] {
        for text in ["198.51.100.7:4321", "[2001:db8::7]:4321"] {
            let mut client = Client::new(transport, 1).at(text);
            client.has_fingerprint = text.starts_with('[');
            let reply = client.ask_once(&mut world, Method::Binding, &[raw(0x8022, b"any client")]).unwrap();
            assert_eq!(reply.message().xor_address(XOR_MAPPED_ADDRESS), Some(address(text)));
        }
    }
    let reply = Client::udp(1).ask_once(&mut world, Method::Binding, &[raw(0x0003, [0, 0, 0, 6])]).unwrap();
    assert_eq!(
        (reply.code(), reply.value(UNKNOWN_ATTRIBUTES)),
        (420, vec![0, 3]),
        "CHANGE-REQUEST (RFC 5780)"
    );
    assert_eq!(world.server.stats().binding_requests, 9);
}
