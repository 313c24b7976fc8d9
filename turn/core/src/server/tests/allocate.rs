//! RFC 8656, section 7.

use super::*;

#[test]
fn an_allocation_has_an_address_a_lifetime_and_the_clients_address() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    let reply = alice.allocate_with(&mut world, &[]);
    let relayed = reply.relayed();
    assert_eq!(relayed.len(), 1);
    assert_eq!(relayed[0].ip(), address("93.184.216.34:1").ip());
    assert!((50_000..=50_999).contains(&relayed[0].port()));
    assert_eq!(world.asked, [SocketAddr::new(address("10.0.0.2:1").ip(), relayed[0].port())]);
    assert_eq!(reply.lifetime(), 600);
    assert_eq!(reply.message().xor_address(XOR_MAPPED_ADDRESS), Some(alice.five_tuple.client));
    assert!(!reply.message().has(RESERVATION_TOKEN) && !reply.message().has(MOBILITY_TICKET));
    assert!(
        matches!(&world.take_events()[..], [Event::Allocated { user, five_tuple, .. }] if **user == *"alice" && *five_tuple == alice.five_tuple)
    );
    let report = world.server.allocations().next().unwrap();
    assert_eq!(
        (&*report.user, report.relayed, report.expires_at),
        ("alice", relayed, world.now + seconds(600))
    );
}

#[test]
fn lifetimes_are_between_the_default_and_the_maximum() {
    let asked = [None, Some(0), Some(1), Some(600), Some(601), Some(3600), Some(3601), Some(u32::MAX)];
    let wanted = [600, 600, 600, 600, 601, 3600, 3600, 3600];
    for (at, (asked, wanted)) in asked.into_iter().zip(wanted).enumerate() {
        let mut world = World::new();
        let mut client = Client::udp(at as u16 + 1);
        let lifetime: Vec<_> = asked.map(|asked| number(LIFETIME, asked)).into_iter().collect();
        assert_eq!(client.allocate_with(&mut world, &lifetime).lifetime(), wanted, "{asked:?}");
        world.wait(seconds(u64::from(wanted) - 1));
        assert_eq!(world.server.stats().allocations, 1);
        world.wait(seconds(1));
        world.assert_empty();
        assert!(matches!(world.events.last(), Some(Event::Deallocated { reason: EndReason::Expired, .. })));
    }
}

#[test]
fn a_repeated_request_gets_the_same_answer_and_another_one_437() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.ask_once(&mut world, Method::Binding, &[]);
    alice.nonce = alice.ask_once(&mut world, Method::Allocate, &[udp()]).unwrap().value(NONCE);
    let request = alice.compose(Method::Allocate, &[udp(), TICKET_WANTED, raw(EVEN_PORT, [0x80])]);
    let first = alice.send(&mut world, &request).unwrap();
    assert_eq!(first.code(), 0);
    world.wait(seconds(5));
    assert_eq!(alice.send(&mut world, &request).unwrap(), first);
    assert_eq!(alice.ask(&mut world, Method::Allocate, &[udp()]).code(), 437);
    assert_eq!(world.server.stats().allocations_made, 1);
}

#[test]
fn a_repeated_request_is_not_answered_before_the_socket_is_open() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.nonce = alice.ask_once(&mut world, Method::Allocate, &[udp()]).unwrap().value(NONCE);
    let request = alice.compose(Method::Allocate, &[udp()]);
    let five_tuple = alice.five_tuple;
    world.server.handle_input(world.now, Input::Client { five_tuple, payload: &request });
    let answers = world.poll();
    assert_eq!(answers.len(), 1);
    assert!(alice.send(&mut world, &request).is_none());
    // Other requests are about an allocation that is not there yet.
    for (method, attributes) in [
        (Method::Refresh, vec![number(LIFETIME, 900)]),
        (Method::CreatePermission, vec![peer("8.8.8.8:1")]),
        (Method::ChannelBind, vec![peer("8.8.8.8:1"), channel(0x4000)]),
        (Method::Allocate, vec![udp()]),
    ] {
        assert_eq!(alice.ask(&mut world, method, &attributes).code(), 437, "{method:?}");
    }
    world.input(Input::RelayOpened { relay: answers[0].0 });
    let reply = alice.reply_to(&mut world, &request).unwrap();
    assert_eq!((reply.code(), reply.lifetime()), (0, 600));
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let token = || raw(RESERVATION_TOKEN, [1; 8]);
    let even = || raw(EVEN_PORT, [0x80]);
    let (v4, v6) = (|| raw(REQUESTED_ADDRESS_FAMILY, IPV4), || raw(ADDITIONAL_ADDRESS_FAMILY, IPV6));
    let cases = [
        (vec![], 400),
        (vec![raw(REQUESTED_TRANSPORT, [17])], 400),
        (vec![raw(REQUESTED_TRANSPORT, [17, 0, 0, 0, 0])], 400),
        (vec![raw(REQUESTED_TRANSPORT, [1, 0, 0, 0])], 442),
        (vec![raw(REQUESTED_TRANSPORT, TCP)], 400),
        (vec![udp(), raw(REQUESTED_ADDRESS_FAMILY, [3, 0, 0, 0])], 440),
        (vec![udp(), raw(REQUESTED_ADDRESS_FAMILY, [1])], 400),
        (vec![udp(), raw(ADDITIONAL_ADDRESS_FAMILY, IPV4)], 400),
        (vec![udp(), v4(), v6()], 400),
        (vec![udp(), even(), v6()], 400),
        (vec![udp(), raw(EVEN_PORT, [])], 400),
        (vec![udp(), raw(EVEN_PORT, [0, 0])], 400),
        (vec![udp(), token(), even()], 400),
        (vec![udp(), token(), v4()], 400),
        (vec![udp(), token(), v6()], 400),
        (vec![udp(), raw(RESERVATION_TOKEN, [1; 7])], 400),
        (vec![udp(), token()], 508),
        (vec![udp(), raw(MOBILITY_TICKET, [1; 16])], 400),
        (vec![udp(), raw(0x7ffe, [1])], 420),
    ];
    let mut world = World::new();
    let mut alice = Client::udp(1);
    for (attributes, code) in cases {
        assert_eq!(alice.ask(&mut world, Method::Allocate, &attributes).code(), code, "{attributes:?}");
        world.assert_empty();
        assert!(world.asked.is_empty());
    }
}

#[test]
fn a_family_without_an_address_is_440() {
    for (ip, own, other) in [("10.0.0.2", IPV4, IPV6), ("2606:4700::9", IPV6, IPV4)] {
        let ip = ip.parse().unwrap();
        let mut world =
            World::with(|config| config.relay_addresses = vec![RelayAddress { bind: ip, announce: ip }]);
        let mut alice = Client::udp(1);
        let family = |value| [udp(), raw(REQUESTED_ADDRESS_FAMILY, value)];
        assert_eq!(alice.ask(&mut world, Method::Allocate, &family(other)).code(), 440);
        let default = if own == IPV4 { 0 } else { 440 };
        assert_eq!(alice.ask(&mut world, Method::Allocate, &[udp()]).code(), default);
        let mut bob = Client::udp(2);
        assert_eq!(bob.ask(&mut world, Method::Allocate, &family(own)).relayed()[0].ip(), ip);
    }
}

#[test]
fn both_families_at_once() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    let reply = alice.allocate_with(&mut world, &[raw(ADDITIONAL_ADDRESS_FAMILY, IPV6)]);
    let relayed = reply.relayed();
    assert!(relayed.len() == 2 && relayed[0].is_ipv4() && relayed[1].is_ipv6());
    assert!(!reply.message().has(ADDRESS_ERROR_CODE));
    assert_eq!(alice.permit(&mut world, &["8.8.8.8:1", "[2606:4700::1]:1"]), 0);
    alice.send_to(&mut world, "8.8.8.8:1", b"four");
    alice.send_to(&mut world, "[2606:4700::1]:1", b"six");
    let from: Vec<_> = world.take_to_peers().into_iter().map(|sent| sent.from).collect();
    assert!(from.len() == 2 && from[0].is_ipv4() && from[1].is_ipv6());
    world.peer_sends(relayed[1], "[2606:4700::1]:7", b"back");
    let received = alice.take_received(&mut world);
    assert_eq!(received, [Received::Data(address("[2606:4700::1]:7"), b"back".to_vec())]);
}

#[test]
fn one_of_two_families_is_better_than_none() {
    // RFC 8656, section 18.12: family, nothing, class, number.
    let both = [raw(ADDITIONAL_ADDRESS_FAMILY, IPV6)];
    let mut world = World::with(|config| config.relay_addresses.truncate(1));
    let reply = Client::udp(1).allocate_with(&mut world, &both);
    assert_eq!(reply.relayed().len(), 1);
    assert_eq!(reply.value(ADDRESS_ERROR_CODE), [2, 0, 4, 40], "there is no such family");

    // The second is refused as often as is tried.
    let mut world = World::new();
    world.foreign_ports.extend(50_000..=50_999);
    let mut alice = Client::udp(1);
    alice.nonce = alice.ask_once(&mut world, Method::Allocate, &[]).unwrap().value(NONCE);
    let request = alice.compose(Method::Allocate, &[udp(), both[0].clone()]);
    for (lost, code) in [(0, [1, 0, 5, 8]), (1, [2, 0, 5, 8])] {
        world
            .server
            .handle_input(world.now, Input::Client { five_tuple: alice.five_tuple, payload: &request });
        let mut relays: Vec<_> = world.poll().into_iter().map(|(relay, _)| relay).collect();
        assert_eq!(relays.len(), 2);
        let lost = relays.remove(lost);
        for _ in 0..8 {
            world.server.handle_input(world.now, Input::RelayRefused { relay: lost });
            world.poll();
        }
        world.sockets.insert(relays[0], address("10.0.0.2:1"));
        world.input(Input::RelayOpened { relay: relays[0] });
        let reply = alice.reply_to(&mut world, &request).unwrap();
        assert_eq!((reply.code(), reply.relayed().len()), (0, 1));
        assert_eq!(reply.value(ADDRESS_ERROR_CODE), code);
        assert_eq!(alice.refresh(&mut world, &[number(LIFETIME, 0)]).code(), 0);
        world.assert_empty();
    }
}

#[test]
fn even_ports_and_the_next_one_for_who_has_the_token() {
    let mut world = World::new();
    for port in 1..20 {
        let relayed = Client::udp(port).allocate_with(&mut world, &[raw(EVEN_PORT, [0])]).relayed();
        assert!(relayed[0].port().is_multiple_of(2));
    }
    let reply = Client::udp(20).allocate_with(&mut world, &[raw(EVEN_PORT, [0x80])]);
    let even = reply.relayed()[0];
    assert!(even.port().is_multiple_of(2));
    let token = [raw(RESERVATION_TOKEN, reply.value(RESERVATION_TOKEN))];
    let next = Client::tcp(21).allocate_with(&mut world, &token).relayed();
    assert_eq!(next, [SocketAddr::new(even.ip(), even.port() + 1)]);
    let again = Client::udp(22).ask(&mut world, Method::Allocate, &[udp(), token[0].clone()]);
    assert_eq!(again.code(), 508, "a token is good once");
}

#[test]
fn a_reservation_ends_after_30_seconds() {
    let mut world = World::new();
    let reply = Client::udp(1).allocate_with(&mut world, &[raw(EVEN_PORT, [0x80])]);
    let token = raw(RESERVATION_TOKEN, reply.value(RESERVATION_TOKEN));
    world.now += seconds(30);
    let late = Client::udp(2).ask(&mut world, Method::Allocate, &[udp(), token]);
    assert_eq!(late.code(), 508);
    assert_eq!(world.server.ports[0].taken(), 1);
}

#[test]
fn there_are_only_so_many_reservations() {
    let mut world = World::with(|config| config.port_first = 40_000);
    let wanted = [raw(EVEN_PORT, [0x80])];
    for port in 0..RESERVATIONS_MAX as u16 {
        let mut client = Client::udp(port + 1);
        client.allocate_with(&mut world, &wanted);
        client.refresh(&mut world, &[number(LIFETIME, 0)]);
    }
    let mut last = Client::udp(9999);
    let wanted = [udp(), wanted[0].clone()];
    assert_eq!(last.ask(&mut world, Method::Allocate, &wanted).code(), 508);
    world.wait(seconds(30));
    assert_eq!(last.ask(&mut world, Method::Allocate, &wanted).code(), 0);
}

#[test]
fn a_port_that_is_another_programs_is_replaced() {
    let mut world = World::new();
    world.refusals = 7;
    let relayed = Client::udp(1).allocate(&mut world);
    assert_eq!(world.asked.len(), 8);
    assert_eq!(world.asked.iter().collect::<BTreeSet<_>>().len(), 8, "each is another one");
    assert_eq!(relayed.port(), world.asked[7].port());
    assert_eq!(world.server.ports[0].taken(), 1, "the others are given back");
}

#[test]
fn a_port_is_not_looked_for_for_ever() {
    let mut world = World::new();
    world.foreign_ports.extend(50_000..=50_999);
    for (attributes, tries) in
        [(vec![udp()], 8), (vec![udp(), raw(EVEN_PORT, [0])], 8), (vec![udp(), raw(EVEN_PORT, [0x80])], 1)]
    {
        world.asked.clear();
        assert_eq!(Client::udp(1).ask(&mut world, Method::Allocate, &attributes).code(), 508);
        assert_eq!(world.asked.len(), tries);
        if attributes.len() > 1 {
            assert!(world.asked.iter().all(|address| address.port().is_multiple_of(2)));
        }
        world.assert_empty();
        assert!(world.has_refused(RefusalReason::NoPort));
        assert_eq!(world.server.ports[0].taken(), 0);
    }
}

#[test]
fn all_ports_and_no_more() {
    let mut world = World::with(|config| (config.port_first, config.port_last) = (50_000, 50_009));
    let mut clients: Vec<_> = (1..=10).map(Client::udp).collect();
    let ports: BTreeSet<_> = clients.iter_mut().map(|client| client.allocate(&mut world).port()).collect();
    assert_eq!(ports, (50_000..=50_009).collect());
    assert_eq!(Client::udp(11).ask(&mut world, Method::Allocate, &[udp()]).code(), 508);
    clients[3].refresh(&mut world, &[number(LIFETIME, 0)]);
    Client::udp(11).allocate(&mut world);
}

#[test]
fn no_port_is_lost_in_ten_thousand_cycles() {
    let mut world = World::with(|config| (config.port_first, config.port_last) = (50_000, 50_019));
    let mut client = Client::udp(1);
    let wishes = [
        vec![],
        vec![raw(EVEN_PORT, [0])],
        vec![raw(ADDITIONAL_ADDRESS_FAMILY, IPV6)],
        vec![raw(REQUESTED_ADDRESS_FAMILY, IPV6)],
        vec![TICKET_WANTED],
    ];
    for cycle in 0..10_000 {
        world.refusals = cycle % 4;
        let wish = &wishes[cycle % wishes.len()];
        client.nonce = if cycle % 50 == 0 { Vec::new() } else { client.nonce };
        client.allocate_with(&mut world, wish);
        world.refusals = 0;
        assert_eq!(client.refresh(&mut world, &[number(LIFETIME, 0)]).code(), 0);
        world.events.clear();
        world.asked.clear();
    }
    world.assert_empty();
    assert_eq!(world.server.ports.each_ref().map(|ports| ports.taken()), [0, 0]);
    assert_eq!(world.server.stats().allocations_made, 10_000);
}

#[test]
fn pairs_of_ports_come_back_too() {
    let mut world = World::with(|config| (config.port_first, config.port_last) = (50_000, 50_003));
    for cycle in 0..100 {
        let mut client = Client::udp(cycle + 1);
        let reply = client.allocate_with(&mut world, &[raw(EVEN_PORT, [0x80])]);
        if cycle % 2 == 0 {
            let mut second = Client::udp(1000);
            let token = raw(RESERVATION_TOKEN, reply.value(RESERVATION_TOKEN));
            second.allocate_with(&mut world, &[token]);
            second.refresh(&mut world, &[number(LIFETIME, 0)]);
        }
        client.refresh(&mut world, &[number(LIFETIME, 0)]);
        world.wait(seconds(31));
        assert_eq!(world.server.ports[0].taken(), 0);
    }
}
