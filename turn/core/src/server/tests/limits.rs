//! Quotas, rates, and answers to strangers.

use super::*;

const PEER: &str = "8.8.8.8:5000";

#[test]
fn a_user_has_so_many_allocations_under_all_credentials() {
    let mut world = World::with(|config| config.quotas.user_allocations = Some(2));
    let mut clients: Vec<_> =
        (1..4).map(|port| Client::udp(port).ephemeral("carol", seconds(600 + u64::from(port)))).collect();
    assert_ne!(clients[0].username, clients[1].username);
    clients[0].allocate(&mut world);
    clients[1].allocate(&mut world);
    assert_eq!(clients[2].ask(&mut world, Method::Allocate, &[udp()]).code(), 486);
    let refused = world.take_events().pop().unwrap();
    let Event::Refused { user: Some(user), reason: RefusalReason::UserQuota, .. } = refused else { panic!() };
    assert_eq!(*user, *"carol");
    Client::udp(9).allocate(&mut world);
    clients[0].refresh(&mut world, &[number(LIFETIME, 0)]);
    clients[2].allocate(&mut world);
    assert_eq!(world.server.stats().users, 2);
}

#[test]
fn one_that_is_being_opened_counts() {
    let mut world = World::with(|config| config.quotas.user_allocations = Some(1));
    let mut alice = Client::udp(1);
    alice.nonce = alice.ask_once(&mut world, Method::Allocate, &[]).unwrap().value(NONCE);
    let payload = alice.compose(Method::Allocate, &[udp()]);
    let five_tuple = alice.five_tuple;
    world.server.handle_input(world.now, Input::Client { five_tuple, payload: &payload });
    let opened = world.poll();
    assert_eq!(Client::udp(2).ask(&mut world, Method::Allocate, &[udp()]).code(), 486);
    // When it comes to nothing, there is room again.
    for _ in 0..8 {
        world.server.handle_input(world.now, Input::RelayRefused { relay: opened[0].0 });
        world.poll();
    }
    assert_eq!(alice.reply_to(&mut world, &payload).unwrap().code(), 508);
    world.sockets.clear();
    Client::udp(2).allocate(&mut world);
}

#[test]
fn the_server_has_so_many_allocations() {
    let alternate = |config: &mut ServerConfig| config.alternate_servers = vec![address("192.0.2.9:3478")];
    for (change, code) in [(None, 508), (Some(alternate), 300)] {
        let mut world = World::with(|config| {
            config.quotas.allocations = Some(1);
            change.inspect(|change| change(config));
        });
        Client::udp(1).allocate(&mut world);
        let mut bob = Client::udp(2).named("bob");
        assert_eq!(bob.ask(&mut world, Method::Allocate, &[udp()]).code(), code);
        assert!(world.has_refused(RefusalReason::TotalQuota));
    }
}

#[test]
fn rates_hold_for_a_user_and_for_all_in_both_directions() {
    let rate = Rate { bytes: Some(1000), packets: Some(100) };
    for quotas in [Quotas { user_rate: rate, ..Quotas::default() }, Quotas { rate, ..Quotas::default() }] {
        let mut world = World::with(|config| config.quotas = quotas);
        let (mut alice, mut bob) = (Client::udp(1), Client::udp(2).named("bob"));
        let relayed = alice.allocate(&mut world);
        alice.bind(&mut world, 0x4000, PEER);
        bob.allocate(&mut world);
        bob.bind(&mut world, 0x4000, PEER);
        alice.send_on(&mut world, 0x4000, &[0; 400]);
        world.peer_sends(relayed, PEER, &[0; 400]);
        alice.send_on(&mut world, 0x4000, &[0; 400]);
        world.peer_sends(relayed, PEER, &[0; 400]);
        alice.send_to(&mut world, PEER, &[0; 400]);
        assert_eq!((world.take_to_peers().len(), alice.take_received(&mut world).len()), (1, 1));
        assert_eq!(world.server.stats().over_quota, 3);
        bob.send_on(&mut world, 0x4000, &[0; 400]);
        let is_free = quotas.rate.bytes.is_none();
        assert_eq!(world.take_to_peers().len(), usize::from(is_free));
        world.wait(seconds(1));
        alice.send_on(&mut world, 0x4000, &[0; 400]);
        assert_eq!(world.take_to_peers().len(), 1);
    }
}

#[test]
fn a_packet_over_the_servers_rate_costs_its_user_nothing() {
    let mut world = World::with(|config| {
        config.quotas.rate.packets = Some(1);
        config.quotas.user_rate.packets = Some(3);
    });
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    alice.bind(&mut world, 0x4000, PEER);
    for _ in 0..10 {
        alice.send_on(&mut world, 0x4000, b"x");
    }
    world.server.config.quotas.rate.packets = None;
    world.server.budget = Budget::new(Rate::default(), world.now);
    for _ in 0..10 {
        alice.send_on(&mut world, 0x4000, b"x");
    }
    assert_eq!(world.take_to_peers().len(), 3);
}

#[test]
fn strangers_get_so_many_answers_and_friends_any_number() {
    let mut world = World::with(|config| config.quotas.unauthenticated_answers = Some(5));
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    let mut answers = 0;
    for port in 2..200 {
        let mut stranger = Client::udp(port);
        let method = if port % 2 == 0 { Method::Allocate } else { Method::Binding };
        answers += usize::from(stranger.ask_once(&mut world, method, &[]).is_some());
    }
    assert_eq!(answers, 5 * 10 - 1, "ten seconds' worth, of which alice had one");
    assert_eq!(world.server.stats().throttled, 198 - 49);
    for _ in 0..100 {
        assert_eq!(alice.permit(&mut world, &[PEER]), 0, "the same address");
    }
    let mut other = Client::udp(3).at("203.0.113.5:9");
    assert_eq!(other.ask_once(&mut world, Method::Allocate, &[]).unwrap().code(), 401);
    // Behind a stream there is somebody.
    for port in 0..100 {
        assert!(Client::tcp(port + 1).ask_once(&mut world, Method::Binding, &[]).is_some());
    }
    world.wait(seconds(1));
    let answered = (0..50).filter(|_| Client::udp(7).ask_once(&mut world, Method::Binding, &[]).is_some());
    assert_eq!(answered.count(), 5);
}

#[test]
fn every_answer_to_strangers_is_throttled() {
    let mut world = World::with(|config| config.quotas.unauthenticated_answers = Some(1));
    let mut stranger = Client::udp(1);
    while stranger.ask_once(&mut world, Method::Binding, &[]).is_some() {}
    let mut signed = Client { nonce: b"made up".to_vec(), ..stranger.clone() };
    assert!(signed.ask_once(&mut world, Method::Refresh, &[]).is_none(), "438");
    assert!(stranger.ask_once(&mut world, Method::Refresh, &[]).is_none(), "401");
    assert!(stranger.ask_once(&mut world, Method::Binding, &[raw(0x7001, [])]).is_none(), "420");
    let mut bytes = Vec::new();
    Writer::new(&mut bytes, Class::Request, Method::Allocate, &[1; 12]).sign_sha1(&stranger.key());
    assert!(stranger.send(&mut world, &bytes).is_none(), "400");
    world.wait(seconds(1));
    assert!(stranger.send(&mut world, &bytes).is_some_and(|reply| reply.code() == 400));
}
