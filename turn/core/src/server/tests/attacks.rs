//! Attacks that other relays fell to; their numbers are those of the project's list.

use super::*;

const PEER: &str = "8.8.8.8:5000";

/// That no request of a client with relays of both families, or with TCP relays, reaches these addresses.
fn assert_denied(addresses: &[String]) {
    let mut world = World::with(|config| config.peers.services.clear());
    let (mut alice, mut tcp) = (Client::udp(1), Client::tcp(2));
    alice.allocate_with(&mut world, &[raw(ADDITIONAL_ADDRESS_FAMILY, IPV6)]);
    let wishes = [raw(REQUESTED_TRANSPORT, TCP), raw(ADDITIONAL_ADDRESS_FAMILY, IPV6)];
    assert_eq!(tcp.ask(&mut world, Method::Allocate, &wishes).code(), 0);
    world.events.clear();
    for ip in addresses {
        let to = if ip.contains(':') { format!("[{ip}]:80") } else { format!("{ip}:80") };
        assert_eq!(alice.permit(&mut world, &[&to]), 403, "CreatePermission {to}");
        assert_eq!(alice.permit(&mut world, &[PEER, &to]), 403, "CreatePermission {to}");
        assert_eq!(alice.bind(&mut world, 0x4000, &to), 403, "ChannelBind {to}");
        assert_eq!(tcp.ask(&mut world, Method::Connect, &[peer(&to)]).code(), 403, "Connect {to}");
        alice.send_to(&mut world, &to, b"x");
        alice.send_on(&mut world, 0x4000, b"x");
        assert!(world.to_peers.is_empty(), "Send {to}");
        let is_refusal =
            |event: &Event| matches!(event, Event::Refused { reason: RefusalReason::PeerDenied, .. });
        let events = world.take_events();
        assert!(events.len() == 4 && events.iter().all(is_refusal), "{to}: {events:?}");
    }
    assert!(world.server.allocations().all(|report| report.permissions + report.channels == 0));
}

/// Every way to write an IPv4 address as an IPv6 address.
fn spellings(ip: &str) -> Vec<String> {
    let [a, b, c, d] = ip.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let hex = format!("{a:02x}{b:02x}:{c:02x}{d:02x}");
    vec![
        ip.into(),
        format!("::ffff:{ip}"),
        format!("::{ip}"),
        format!("::ffff:0:{ip}"),
        format!("64:ff9b::{ip}"),
        format!("2002:{hex}::"),
        format!("2002:{hex}:1:2:3:4:5"),
        format!("2001:0:{hex}::f7f7:f7f7"),
    ]
}

#[test]
fn t07_turn_loopback_peer_denied() {
    assert_denied(&["0.0.0.0", "127.0.0.1", "127.1.2.3", "0.1.2.3", "::", "::1"].map(str::to_owned));
}

#[test]
fn t07_turn_a_service_on_loopback_opens_its_port_alone() {
    let mut world = World::new();
    let mut tcp = Client::tcp(1);
    tcp.ask(&mut world, Method::Allocate, &[raw(REQUESTED_TRANSPORT, TCP)]);
    for (to, code) in [("127.0.0.1:7881", 403), ("127.0.0.1:22", 403), ("127.0.0.2:7882", 403)] {
        assert_eq!(tcp.ask(&mut world, Method::Connect, &[peer(to)]).code(), code, "{to}");
    }
    let request = tcp.compose(Method::Connect, &[peer("127.0.0.1:7882")]);
    assert!(tcp.send(&mut world, &request).is_none());
    assert!(matches!(world.events.last(), Some(Event::ConnectPeer { .. })));
}

#[test]
fn t19_turn_mapped_loopback_denied() {
    assert_denied(&["::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:10.1.2.3"].map(str::to_owned));
}

#[test]
fn t20_turn_private_peers_denied_in_every_spelling() {
    let v4 =
        ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1"];
    let mut addresses: Vec<_> = v4.iter().flat_map(|ip| spellings(ip)).collect();
    addresses.extend(["fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1"].map(str::to_owned));
    assert_denied(&addresses);
}

#[test]
fn t20_turn_own_address_is_denied_in_other_spellings() {
    let spelled: Vec<_> = spellings("93.184.216.34")
        .into_iter()
        .filter(|ip| !ip.starts_with("::ffff:9") && ip.contains(':'))
        .collect();
    assert_denied(&spelled);
}

#[test]
fn t21_turn_messages_at_every_alignment() {
    let mut world = World::new();
    let mut alice = Client { has_fingerprint: true, ..Client::udp(1).modern() };
    alice.nonce = alice.ask_once(&mut world, Method::Allocate, &[]).unwrap().value(NONCE);
    for offset in 0..16 {
        for odd in 0..5 {
            // An attribute of odd length puts the others at odd places, were it not for the padding.
            let attributes = [raw(0x8022, vec![b's'; odd]), udp(), raw(ADDITIONAL_ADDRESS_FAMILY, IPV6)];
            let request = alice.compose(Method::Allocate, &attributes);
            let buffer = [vec![0xee; offset], request, vec![0xee; 3]].concat();
            let payload = &buffer[offset..buffer.len() - 3];
            let reply = alice.send(&mut world, payload).unwrap();
            assert_eq!((reply.code(), reply.relayed().len()), (0, 2));
            alice.permit(&mut world, &["8.8.8.8:1", "[2606:4700::1]:1"]);
            assert_eq!(alice.refresh(&mut world, &[number(LIFETIME, 0)]).code(), 0);
        }
    }
}

#[test]
fn t22_turn_lengths_before_authentication() {
    let mut world = World::new();
    let mut mallory = Client::udp(1).named("mallory");
    let mut lengths: Vec<usize> = (0..300).collect();
    lengths.extend([511, 512, 513, 763, 764, 1024, 4096, 32_767, 65_000]);
    for kind in [NONCE, USERNAME, REALM, 0x001b, 0x001e, PASSWORD_ALGORITHM, PASSWORD_ALGORITHMS] {
        for length in &lengths {
            let value = raw(kind, vec![0xf1; *length]);
            let mut bytes = Vec::new();
            let others = [raw(USERNAME, b"alice"), raw(REALM, b"zynk"), raw(NONCE, b"n")];
            let writer = Writer::new(&mut bytes, Class::Request, Method::Allocate, &[9; 12]);
            write_attributes(writer, &[&[udp(), value.clone()], &others[..]].concat())
                .sign_sha1(&mallory.key());
            let reply = mallory.send(&mut world, &bytes).unwrap();
            assert!([400, 401, 438].contains(&reply.code()) && reply.0.len() <= 88, "{kind:x} {length}");
            let reply = mallory.ask_once(&mut world, Method::Allocate, &[udp(), value]).unwrap();
            assert_eq!(reply.code(), 401);
        }
    }
    world.assert_empty();
}

#[test]
fn t24_turn_format_strings_reach_the_operator_as_they_are() {
    for name in ["%s%s%s%n", "{}{:?}{0}", "a\r\nSET x y", "$(id)", "\u{202e}\u{0}", "1800000600:%n:%s"] {
        let mut world = World::with(|config| {
            config.credentials = Credentials::new([(name.to_owned(), format!("{name}'s").into())], []);
            config.realm = "%s%n{}".into();
            config.quotas.user_allocations = Some(1);
        });
        let mut client = Client::udp(1).named(name);
        let reply = client.ask_once(&mut world, Method::Allocate, &[udp()]).unwrap();
        assert_eq!(reply.value(REALM), b"%s%n{}");
        let key = IntegrityKey::long_term(PasswordAlgorithm::Md5, name, "%s%n{}", &client.password);
        let ask = |world: &mut World, port| {
            let client = Client { five_tuple: Client::udp(port).five_tuple, ..client.clone() };
            let nonce = world.server.nonces.make(BEGIN_S, client.five_tuple.client);
            let mut bytes = Vec::new();
            Writer::new(&mut bytes, Class::Request, Method::Allocate, &[8; 12])
                .attribute(REQUESTED_TRANSPORT, &UDP)
                .attribute(USERNAME, name.as_bytes())
                .attribute(REALM, b"%s%n{}")
                .attribute(NONCE, &nonce)
                .sign_sha1(&key);
            client.send(world, &bytes).unwrap().code()
        };
        assert_eq!((ask(&mut world, 2), ask(&mut world, 3)), (0, 486));
        let user = user_of(name);
        assert_eq!(*world.server.allocations().next().unwrap().user, *user);
        let events = world.take_events();
        assert!(matches!(&events[0], Event::Allocated { user: known, .. } if **known == *user));
        assert!(matches!(&events[1], Event::Refused { user: Some(known), .. } if **known == *user));
    }
}

/// The answer to a forged request: what it weighs, byte for byte.
#[test]
fn t25_turn_401_is_short() {
    let mut world = World::new();
    let request = Client::udp(1).compose(Method::Allocate, &[udp()]);
    let reply = Client::udp(1).send(&mut world, &request).unwrap();
    let parts: Vec<_> = reply.message().attributes().map(|(kind, value)| (kind, value.len())).collect();
    assert_eq!(parts, [(ERROR_CODE, 4), (REALM, 4), (NONCE, 36), (PASSWORD_ALGORITHMS, 8)]);
    assert_eq!((request.len(), reply.0.len()), (28, 88));
    let mut wanted = vec![0x01, 0x13, 0, 68, 0x21, 0x12, 0xa4, 0x42];
    wanted.extend(&request[8..20]);
    wanted.extend([0, 9, 0, 4, 0, 0, 4, 1, 0, 20, 0, 4, b'z', b'y', b'n', b'k', 0, 21, 0, 36]);
    wanted.extend(b"obMatJos2AAAB");
    assert_eq!(reply.0[..wanted.len()], wanted);
    assert_eq!(reply.0[76..], [0x80, 2, 0, 8, 0, 2, 0, 0, 0, 1, 0, 0]);
    // With headers of Ethernet, IPv4 and UDP: 130 bytes for 70.
    let factor = (88.0 + 42.0) / (28.0 + 42.0);
    assert!(factor < 1.9, "{factor}");
    // Nothing that a stranger gets is longer, but for the fingerprint that he asks for.
    let header_alone = Client::udp(1).compose(Method::Refresh, &[]);
    assert_eq!(Client::udp(1).send(&mut world, &header_alone).unwrap().0.len(), 88);
    assert_eq!(Client::udp(1).ask_once(&mut world, Method::Binding, &[]).unwrap().0.len(), 32);
}

/// Everything that grows with what comes.
fn sizes(server: &TurnServer) -> Vec<usize> {
    vec![
        server.clients.capacity(),
        server.allocations.capacity(),
        server.relays.capacity(),
        server.announced.capacity(),
        server.tickets.capacity(),
        server.users.capacity(),
        server.user_keys.capacity(),
        server.expiries.len(),
        server.reservations.capacity(),
        server.events.capacity(),
        server.outbox.capacity(),
        server.throttle.entries(),
    ]
}

#[test]
fn t25_turn_forged_sources_leave_nothing_behind() {
    let mut world = World::with(|config| config.quotas.unauthenticated_answers = Some(10));
    let mut alice = Client::udp(1);
    let relayed = alice.allocate(&mut world);
    alice.bind(&mut world, 0x4000, PEER);
    let forged = |world: &mut World, n: u32| {
        let ip = std::net::Ipv4Addr::from(0x0b00_0000 + n);
        let mut client = Client::udp(n as u16 | 1).at(&format!("{ip}:{}", n as u16 | 1));
        if n % 3 == 1 {
            client.nonce = vec![b'x'; 33];
        }
        let method =
            [Method::Allocate, Method::Refresh, Method::Binding, Method::ConnectionBind][n as usize % 4];
        let payload = client.compose(method, &[udp(), raw(MOBILITY_TICKET, [1; 16])]);
        world.input_unchecked(Input::Client { five_tuple: client.five_tuple, payload: &payload });
    };
    // Once around, so that buffers have the size that they need.
    (0..16).for_each(|n| forged(&mut world, n));
    let before = sizes(&world.server);
    for n in 0..100_000 {
        forged(&mut world, n);
        if n % 1000 == 0 {
            alice.send_on(&mut world, 0x4000, b"out");
            world.peer_sends(relayed, PEER, b"in");
            assert_eq!((world.take_to_peers().len(), alice.take_received(&mut world).len()), (1, 1));
            let sent = std::mem::take(&mut world.to_clients);
            assert!(sent.iter().all(|(_, bytes)| bytes.len() <= 88));
        }
    }
    assert_eq!(sizes(&world.server), before);
    assert_eq!(world.server.stats().allocations, 1);
    world.server.check_invariants();
}

#[test]
fn t25_turn_one_source_is_throttled() {
    let mut world = World::with(|config| config.quotas.unauthenticated_answers = Some(10));
    let mut victim = Client::udp(1).at("203.0.113.1:53");
    let mut sent = 0;
    for _ in 0..10_000 {
        sent += victim.ask_once(&mut world, Method::Allocate, &[udp()]).map_or(0, |reply| reply.0.len());
        world.wait(Duration::from_millis(1));
    }
    // Ten seconds' worth at once and ten a second, of 280,000 bytes that were sent in the victim's name.
    assert!((199 * 88..=200 * 88).contains(&sent), "{sent}");
}

#[test]
fn t26_turn_of_duplicates_the_first_counts() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    // Whoever checks one and uses the other is fooled.
    let twice = [channel(0x4000), peer(PEER), peer("127.0.0.1:80"), channel(0x4001)];
    assert_eq!(alice.ask(&mut world, Method::ChannelBind, &twice).code(), 0);
    let swapped = [channel(0x4002), peer("127.0.0.1:80"), peer("8.8.4.4:1")];
    assert_eq!(alice.ask(&mut world, Method::ChannelBind, &swapped).code(), 403);
    alice.send_on(&mut world, 0x4000, b"x");
    alice.send_on(&mut world, 0x4001, b"y");
    assert_eq!(world.take_peers_data(), [(address(PEER), b"x".to_vec())]);
    // The user name before counts as well: the one after is not the one that is proven.
    let named = [raw(USERNAME, b"bob"), number(LIFETIME, 0)];
    assert_eq!(alice.ask_once(&mut world, Method::Refresh, &named).unwrap().code(), 401);
    let lifetimes = [number(LIFETIME, 1000), number(LIFETIME, 0)];
    assert_eq!(alice.refresh(&mut world, &lifetimes).lifetime(), 1000);
}

#[test]
fn t26_turn_lengths_are_not_cut_to_16_bits() {
    let mut world = World::new();
    let (mut alice, mut bob) = (Client::tcp(1), Client::tcp(2).named("bob"));
    let (at_alice, at_bob) = (alice.allocate(&mut world), bob.allocate(&mut world));
    alice.bind(&mut world, 0x4000, &at_bob.to_string());
    bob.permit(&mut world, &[&at_alice.to_string()]);
    // What comes on a channel may not fit into an indication.
    for (length, fits) in [(65_504, true), (65_505, false), (65_532, false), (65_535, false)] {
        alice.send_on(&mut world, 0x4000, &vec![7; length]);
        let received = bob.take_received(&mut world);
        let wanted = fits.then(|| Received::Data(at_alice, vec![7; length]));
        assert!(received == wanted.into_iter().collect::<Vec<_>>(), "{length} bytes");
    }
    assert_eq!(world.server.stats().oversized, 3);
    bob.bind(&mut world, 0x4001, &at_alice.to_string());
    for length in [65_500, 65_533, 65_534, 65_535] {
        alice.send_on(&mut world, 0x4000, &vec![7; length]);
        let received = bob.take_received(&mut world);
        assert!(
            received == [Received::Channel(0x4001, vec![7; length], (4 - length % 4) % 4)],
            "{length} bytes"
        );
    }
    // The largest Send indication.
    alice.send_to(&mut world, &at_bob.to_string(), &[9; 65_504]);
    assert!(bob.take_received(&mut world) == [Received::Channel(0x4001, vec![9; 65_504], 0)]);
}

#[test]
fn t26_turn_attributes_that_reach_out_of_the_message() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    alice.permit(&mut world, &[PEER]);
    let mut good = Vec::new();
    write_attributes(
        Writer::new(&mut good, Class::Indication, Method::Send, &[3; 12]),
        &[peer(PEER), raw(DATA, b"data")],
    );
    let before = world.server.stats().malformed;
    for length in [5, 8, 0x7fff, 0xfffc, 0xfffd, 0xffff] {
        let mut bytes = good.clone();
        let at = bytes.len() - 6;
        bytes[at..at + 2].copy_from_slice(&u16::to_be_bytes(length));
        world.input(Input::Client { five_tuple: alice.five_tuple, payload: &bytes });
    }
    for length in 0..good.len() {
        world.input(Input::Client { five_tuple: alice.five_tuple, payload: &good[..length] });
    }
    let longer = [&good[..], &[0; 4]].concat();
    world.input(Input::Client { five_tuple: alice.five_tuple, payload: &longer });
    assert_eq!(world.server.stats().malformed - before, 6 + good.len() as u64 + 1);
    assert!(world.to_peers.is_empty());
    world.input(Input::Client { five_tuple: alice.five_tuple, payload: &good });
    assert_eq!(world.to_peers.len(), 1);
}

#[test]
fn t27_turn_a_call_outlives_its_credentials_and_makes_no_new_one() {
    let mut world = World::new();
    let mut alice = Client::udp(1).ephemeral("alice", seconds(120));
    let relayed = alice.allocate(&mut world);
    for _ in 0..20 {
        world.wait(seconds(290));
        assert_eq!(alice.refresh(&mut world, &[]).code(), 0);
        assert_eq!(alice.bind(&mut world, 0x4000, PEER), 0);
        assert_eq!(alice.permit(&mut world, &["8.8.4.4:1"]), 0);
        world.peer_sends(relayed, PEER, b"in");
        assert_eq!(alice.take_received(&mut world).len(), 1);
    }
    let mut second = Client { five_tuple: Client::udp(2).five_tuple, ..alice.clone() };
    assert_eq!(second.ask(&mut world, Method::Allocate, &[udp()]).code(), 401);
    assert!(world.has_refused(RefusalReason::CredentialsExpired));
    assert_eq!(alice.refresh(&mut world, &[number(LIFETIME, 0)]).code(), 0);
    assert_eq!(alice.ask(&mut world, Method::Allocate, &[udp()]).code(), 401);
    world.assert_empty();
}

#[test]
fn t27_turn_a_mobile_call_outlives_its_credentials() {
    let mut world = World::new();
    let mut alice = Client::udp(1).ephemeral("alice", seconds(120));
    let ticket = alice.allocate_with(&mut world, &[TICKET_WANTED]).ticket();
    world.wait(seconds(500));
    alice.five_tuple = Client::udp(2).five_tuple;
    assert_eq!(alice.refresh(&mut world, &[ticket]).code(), 0);
}
