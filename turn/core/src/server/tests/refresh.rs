//! RFC 8656, section 8.

use super::*;

#[test]
fn a_refresh_counts_from_now_within_the_same_bounds() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate_with(&mut world, &[number(LIFETIME, 3600)]);
    for (asked, wanted) in [(Some(1), 600), (Some(1000), 1000), (Some(99_999), 3600), (None, 600)] {
        world.wait(seconds(400));
        let lifetime: Vec<_> = asked.map(|asked| number(LIFETIME, asked)).into_iter().collect();
        assert_eq!(alice.refresh(&mut world, &lifetime).lifetime(), wanted);
        let expires_at = world.server.allocations().next().unwrap().expires_at;
        assert_eq!(expires_at, world.now + seconds(wanted.into()));
    }
    world.wait(seconds(600));
    world.assert_empty();
}

#[test]
fn zero_gives_it_back() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    assert_eq!(alice.refresh(&mut world, &[number(LIFETIME, 0)]).lifetime(), 0);
    world.assert_empty();
    assert!(matches!(world.events.last(), Some(Event::Deallocated { reason: EndReason::Released, .. })));
    assert_eq!(
        alice.refresh(&mut world, &[number(LIFETIME, 0)]).code(),
        437,
        "which clients take for success"
    );
    alice.allocate(&mut world);
}

#[test]
fn who_has_none_gets_437() {
    let mut world = World::new();
    assert_eq!(Client::udp(1).refresh(&mut world, &[]).code(), 437);
}

#[test]
fn an_allocation_that_is_over_cannot_be_brought_back() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    // The time out comes late.
    world.now += seconds(600);
    assert_eq!(alice.refresh(&mut world, &[]).code(), 437);
    world.assert_empty();
}

#[test]
fn one_family_of_two_is_given_back_with_its_peers() {
    for (gone, kept) in [(IPV4, "[2606:4700::1]:1"), (IPV6, "8.8.8.8:1")] {
        let mut world = World::new();
        let mut alice = Client::udp(1);
        alice.allocate_with(&mut world, &[raw(ADDITIONAL_ADDRESS_FAMILY, IPV6)]);
        alice.bind(&mut world, 0x4000, "[2606:4700::1]:1");
        alice.bind(&mut world, 0x4001, "8.8.8.8:1");
        let family = raw(REQUESTED_ADDRESS_FAMILY, gone);
        assert_eq!(alice.refresh(&mut world, &[family.clone(), number(LIFETIME, 0)]).code(), 0);
        assert_eq!(world.sockets.len(), 1);
        alice.send_on(&mut world, 0x4000, b"x");
        alice.send_on(&mut world, 0x4001, b"x");
        assert_eq!(world.take_peers_data(), [(address(kept), b"x".to_vec())]);
        let report = world.server.allocations().next().unwrap();
        assert_eq!((report.permissions, report.channels), (1, 1));
        assert_eq!(alice.refresh(&mut world, &[family]).code(), 443, "that is not there any more");
        assert_eq!(alice.permit(&mut world, &["8.8.8.8:1", "[2606:4700::1]:1"]), 443);
        alice.refresh(&mut world, &[number(LIFETIME, 0)]);
        world.assert_empty();
    }
}

#[test]
fn the_last_family_is_all() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    let family = |value| raw(REQUESTED_ADDRESS_FAMILY, value);
    assert_eq!(alice.refresh(&mut world, &[family(IPV6), number(LIFETIME, 0)]).code(), 443);
    assert_eq!(alice.refresh(&mut world, &[family([9, 0, 0, 0])]).code(), 400);
    assert_eq!(alice.refresh(&mut world, &[family(IPV4), number(LIFETIME, 0)]).code(), 0);
    world.assert_empty();
}

#[test]
fn a_stream_that_ends_ends_its_allocation() {
    for transport in [Transport::Tcp, Transport::Tls, Transport::Dtls] {
        let mut world = World::new();
        let mut alice = Client::new(transport, 1);
        alice.allocate(&mut world);
        alice.close(&mut world);
        world.assert_empty();
        let ended = Some(EndReason::Disconnected);
        let last = world.events.last().map(|event| match event {
            Event::Deallocated { reason, .. } => Some(*reason),
            _ => None,
        });
        assert_eq!(last.flatten(), ended);
    }
}

#[test]
fn the_server_is_never_in_a_hurry_for_nothing() {
    // Nobody sets the time of day for days; the world refuses a deadline that is over.
    let mut world = World::new();
    world.input(Input::Timeout);
    world.wait(seconds(3 * 86_400));
    Client::udp(1).allocate(&mut world);
    world.wait(seconds(86_400));
    world.assert_empty();
}
