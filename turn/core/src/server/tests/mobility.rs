//! RFC 8016: a client keeps its allocation at another address. T26.

use super::*;

const PEER: &str = "8.8.8.8:5000";

/// Alice with a ticket, and what she answers to from there.
fn mobile(world: &mut World, transport: Transport) -> (Client, SocketAddr, Attribute) {
    let mut alice = Client::new(transport, 1);
    let reply = alice.allocate_with(world, &[TICKET_WANTED]);
    alice.bind(world, 0x4000, PEER);
    (alice, reply.relayed()[0], reply.ticket())
}

#[test]
fn a_client_moves_with_all_that_it_has() {
    let mut world = World::new();
    let (alice, relayed, ticket) = mobile(&mut world, Transport::Udp);
    for transport in [Transport::Udp, Transport::Tcp, Transport::Dtls] {
        let mut world = World::new();
        let (mut alice, relayed, ticket) = mobile(&mut world, Transport::Udp);
        alice.five_tuple = Client::new(transport, 77).five_tuple;
        let reply = alice.refresh(&mut world, &[ticket.clone(), number(LIFETIME, 1000)]);
        assert_eq!((reply.code(), reply.lifetime()), (0, 1000));
        assert_ne!(
            reply.value(MOBILITY_TICKET),
            match &ticket {
                Attribute::Raw(_, value) => value.clone(),
                Attribute::Peer(_) => unreachable!(),
            }
        );
        world.peer_sends(relayed, PEER, b"in");
        let padding = if transport.is_stream() { 2 } else { 0 };
        assert_eq!(alice.take_received(&mut world), [Received::Channel(0x4000, b"in".to_vec(), padding)]);
        alice.send_on(&mut world, 0x4000, b"out");
        assert_eq!(world.take_to_peers().len(), 1);
        let was = Client::udp(1);
        was.send_on(&mut world, 0x4000, b"out");
        assert!(world.to_peers.is_empty(), "from where it was");
    }
    // The 5-tuple that was left is free for another one.
    let mut moved = alice.clone();
    moved.five_tuple = Client::udp(77).five_tuple;
    moved.refresh(&mut world, &[ticket]);
    assert_ne!(Client::udp(1).named("bob").allocate(&mut world), relayed);
}

#[test]
fn a_ticket_is_good_once() {
    let mut world = World::new();
    let (mut alice, _, ticket) = mobile(&mut world, Transport::Udp);
    alice.five_tuple = Client::udp(2).five_tuple;
    let next = alice.refresh(&mut world, std::slice::from_ref(&ticket)).ticket();
    alice.five_tuple = Client::udp(3).five_tuple;
    assert_eq!(alice.refresh(&mut world, std::slice::from_ref(&ticket)).code(), 437);
    assert_eq!(alice.refresh(&mut world, &[next]).code(), 0);
    assert_eq!(alice.refresh(&mut world, &[ticket]).code(), 400, "from where it is, too");
    assert_eq!(world.server.tickets.len(), 1);
}

#[test]
fn a_repeated_move_is_answered_alike() {
    let mut world = World::new();
    let (mut alice, _, ticket) = mobile(&mut world, Transport::Udp);
    alice.five_tuple = Client::udp(2).five_tuple;
    let request = alice.compose(Method::Refresh, &[ticket]);
    let first = alice.send(&mut world, &request).unwrap();
    assert_eq!(first.code(), 0);
    world.wait(seconds(1));
    assert_eq!(alice.send(&mut world, &request).unwrap(), first);
    assert_eq!(alice.refresh(&mut world, &[first.ticket()]).code(), 0);
}

#[test]
fn t26_another_users_ticket_is_441() {
    let mut world = World::new();
    let (mut alice, relayed, ticket) = mobile(&mut world, Transport::Udp);
    let mut bob = Client::udp(2).named("bob");
    for lifetime in [None, Some(number(LIFETIME, 0))] {
        let attributes: Vec<_> = [ticket.clone()].into_iter().chain(lifetime).collect();
        assert_eq!(bob.refresh(&mut world, &attributes).code(), 441);
    }
    assert!(world.has_refused(RefusalReason::WrongUser));
    world.peer_sends(relayed, PEER, b"in");
    assert!(bob.take_received(&mut world).is_empty());
    assert_eq!(alice.take_received(&mut world).len(), 1);
    // With alice's name and without her password he is nobody.
    let mut mallory = Client { password: "bob's".into(), ..Client::udp(3) };
    assert_eq!(mallory.refresh(&mut world, std::slice::from_ref(&ticket)).code(), 401);
    alice.five_tuple = Client::udp(4).five_tuple;
    assert_eq!(alice.refresh(&mut world, &[ticket]).code(), 0, "the ticket is as good as before");
}

#[test]
fn tickets_that_nobody_gave_are_refused() {
    let mut world = World::new();
    let (mut alice, _, _) = mobile(&mut world, Transport::Udp);
    let mut plain = Client::udp(2);
    plain.allocate(&mut world);
    for forged in [vec![], vec![0; 15], vec![0; 16], vec![0xff; 16], vec![0; 17], vec![1; 1000]] {
        let forged = raw(MOBILITY_TICKET, forged);
        assert_eq!(alice.refresh(&mut world, std::slice::from_ref(&forged)).code(), 400);
        assert_eq!(Client::udp(3).refresh(&mut world, std::slice::from_ref(&forged)).code(), 437);
        assert_eq!(plain.refresh(&mut world, &[forged]).code(), 405, "it has none");
    }
}

#[test]
fn a_ticket_does_not_work_where_there_is_an_allocation() {
    let mut world = World::new();
    let (mut alice, _, ticket) = mobile(&mut world, Transport::Udp);
    let mut second = Client::udp(2);
    second.allocate_with(&mut world, &[TICKET_WANTED]);
    assert_eq!(second.refresh(&mut world, std::slice::from_ref(&ticket)).code(), 400);
    assert_eq!(world.server.stats().allocations, 2);
    alice.five_tuple = Client::udp(3).five_tuple;
    assert_eq!(alice.refresh(&mut world, &[ticket]).code(), 0);
}

#[test]
fn a_stream_may_end_and_its_client_come_back() {
    let mut world = World::new();
    let (mut alice, relayed, ticket) = mobile(&mut world, Transport::Tcp);
    alice.close(&mut world);
    world.peer_sends(relayed, PEER, b"nobody is there");
    assert!(world.to_clients.is_empty());
    // The operator's view has it still, and its port is not free.
    assert_eq!(world.server.allocations().count(), 1);
    alice.five_tuple = Client::tcp(2).five_tuple;
    assert_eq!(alice.refresh(&mut world, &[ticket]).code(), 0);
    world.peer_sends(relayed, PEER, b"here");
    assert_eq!(alice.take_received(&mut world), [Received::Channel(0x4000, b"here".to_vec(), 0)]);
}

#[test]
fn who_does_not_come_back_expires() {
    let mut world = World::new();
    let (alice, _, _) = mobile(&mut world, Transport::Tls);
    alice.close(&mut world);
    world.wait(seconds(600));
    world.assert_empty();
}

#[test]
fn coming_back_leaves_the_5_tuples_new_owner_alone() {
    let mut world = World::new();
    let (mut alice, _, ticket) = mobile(&mut world, Transport::Tcp);
    let was = alice.clone();
    alice.close(&mut world);
    // The same address and port, and somebody else's stream.
    let mut bob = Client { five_tuple: was.five_tuple, ..Client::tcp(1).named("bob") };
    let at_bob = bob.allocate(&mut world);
    bob.permit(&mut world, &[PEER]);
    alice.five_tuple = Client::tcp(2).five_tuple;
    assert_eq!(alice.refresh(&mut world, &[ticket]).code(), 0);
    world.peer_sends(at_bob, PEER, b"for bob");
    assert_eq!(bob.take_received(&mut world), [Received::Data(address(PEER), b"for bob".to_vec())]);
    assert_eq!(bob.refresh(&mut world, &[number(LIFETIME, 0)]).code(), 0);
}

#[test]
fn mobility_can_be_off() {
    let mut world = World::with(|config| config.mobility = false);
    let reply = Client::udp(1).ask(&mut world, Method::Allocate, &[udp(), TICKET_WANTED]);
    assert_eq!(reply.code(), 405);
    world.assert_empty();
}

#[test]
fn a_ticket_releases_as_well() {
    let mut world = World::new();
    let (mut alice, _, ticket) = mobile(&mut world, Transport::Udp);
    alice.five_tuple = Client::udp(2).five_tuple;
    assert_eq!(alice.refresh(&mut world, &[ticket, number(LIFETIME, 0)]).code(), 0);
    world.assert_empty();
}

#[test]
fn tcp_relays_stay_on_streams() {
    let mut world = World::new();
    let mut alice = Client::tcp(1);
    let wishes = [raw(REQUESTED_TRANSPORT, TCP), TICKET_WANTED];
    let ticket = alice.ask(&mut world, Method::Allocate, &wishes).ticket();
    alice.five_tuple = Client::udp(2).five_tuple;
    assert_eq!(alice.refresh(&mut world, std::slice::from_ref(&ticket)).code(), 400);
    alice.five_tuple = Client::new(Transport::Tls, 2).five_tuple;
    assert_eq!(alice.refresh(&mut world, &[ticket]).code(), 0);
}
