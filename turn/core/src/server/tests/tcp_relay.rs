//! RFC 6062.

use super::*;

const PEER: &str = "8.8.8.8:80";
const ACCEPTED: u32 = PeerConnectionKey::ACCEPTED;

fn tcp_client(world: &mut World) -> (Client, RelayKey) {
    let mut alice = Client::tcp(1);
    let reply = alice.ask(world, Method::Allocate, &[raw(REQUESTED_TRANSPORT, TCP)]);
    assert_eq!(reply.code(), 0);
    let relay = world.server.announced[&reply.relayed()[0]];
    world.events.clear();
    (alice, relay)
}

/// Sends Connect, which is not answered yet; returns the request and the connection's key.
fn connect(world: &mut World, alice: &mut Client, to: &str) -> (Vec<u8>, PeerConnectionKey) {
    let request = alice.compose(Method::Connect, &[peer(to)]);
    assert!(alice.send(world, &request).is_none());
    let Some(Event::ConnectPeer { connection, peer, .. }) = world.events.pop() else { panic!() };
    assert_eq!(peer, address(to));
    (request, connection)
}

/// A connection that the peer has answered: its number and key.
fn connected(world: &mut World, alice: &mut Client, to: &str) -> (u32, PeerConnectionKey) {
    let (request, connection) = connect(world, alice, to);
    world.input(Input::PeerConnected { connection });
    let reply = alice.reply_to(world, &request).unwrap();
    assert_eq!(reply.code(), 0);
    assert!(reply.message().is_signed_with(&alice.key()));
    (reply.message().number(CONNECTION_ID).unwrap(), connection)
}

fn accept(world: &mut World, relay: RelayKey, from: &str, connection: u32) {
    let connection = PeerConnectionKey(ACCEPTED | connection);
    world.input(Input::PeerAccepted { relay, peer: address(from), connection });
}

#[test]
fn connect_then_bind_then_bytes() {
    let mut world = World::new();
    let (mut alice, relay) = tcp_client(&mut world);
    let request = alice.compose(Method::Connect, &[peer(PEER)]);
    assert!(alice.send(&mut world, &request).is_none(), "not before the peer has answered");
    let Some(Event::ConnectPeer { connection, relay: from, .. }) = world.events.pop() else { panic!() };
    assert_eq!((from, connection.0 & ACCEPTED), (relay, 0));
    world.input(Input::PeerConnected { connection });
    let reply = alice.reply_to(&mut world, &request).unwrap();
    let id = reply.message().number(CONNECTION_ID).unwrap();

    let mut data = Client::tcp(2);
    data.nonce = data.ask_once(&mut world, Method::ConnectionBind, &[]).unwrap().value(NONCE);
    let bind = data.compose(Method::ConnectionBind, &[number(CONNECTION_ID, id)]);
    let five_tuple = data.five_tuple;
    world.server.handle_input(world.now, Input::Client { five_tuple, payload: &bind });
    // The answer leaves before the stream becomes the peer's.
    assert!(
        matches!(world.server.poll_output(), Output::ToClient { five_tuple: to, .. } if to == five_tuple)
    );
    let splice = Event::Splice { five_tuple, connection };
    assert!(matches!(world.server.poll_output(), Output::Event(event) if event == splice));
    world.server.check_invariants();
    world.wait(seconds(100));
    assert!(world.take_events().is_empty(), "it lasts");
    data.close(&mut world);
    assert_eq!(world.take_events(), [Event::ClosePeer { connection }]);
}

#[test]
fn a_peer_that_does_not_answer_is_447() {
    let mut world = World::new();
    let (mut alice, _) = tcp_client(&mut world);
    let (request, connection) = connect(&mut world, &mut alice, PEER);
    world.wait(Duration::from_millis(29_999));
    assert!(alice.reply_to(&mut world, &request).is_none());
    world.wait(Duration::from_millis(1));
    assert_eq!(alice.reply_to(&mut world, &request).unwrap().code(), 447);
    assert_eq!(world.take_events(), [Event::ClosePeer { connection }]);
    // It answers after all.
    world.input(Input::PeerConnected { connection });
    assert_eq!(world.take_events(), [Event::ClosePeer { connection }]);
    // One that says no is the same at once.
    let (request, connection) = connect(&mut world, &mut alice, PEER);
    world.input(Input::PeerClosed { connection });
    assert_eq!(alice.reply_to(&mut world, &request).unwrap().code(), 447);
    assert!(world.take_events().is_empty());
}

#[test]
fn one_connection_to_a_peer_at_a_time() {
    let mut world = World::new();
    let (mut alice, _) = tcp_client(&mut world);
    let (_, connection) = connect(&mut world, &mut alice, PEER);
    assert_eq!(alice.ask(&mut world, Method::Connect, &[peer(PEER)]).code(), 446);
    world.input(Input::PeerConnected { connection });
    assert_eq!(alice.ask(&mut world, Method::Connect, &[peer(PEER)]).code(), 446);
    connected(&mut world, &mut alice, "8.8.8.8:81");
    world.input(Input::PeerClosed { connection });
    connect(&mut world, &mut alice, PEER);
}

#[test]
fn connects_that_make_no_sense_are_refused() {
    let mut world = World::new();
    let mut udp_client = Client::tcp(9);
    assert_eq!(udp_client.ask(&mut world, Method::Connect, &[peer(PEER)]).code(), 437);
    udp_client.allocate(&mut world);
    assert_eq!(udp_client.ask(&mut world, Method::Connect, &[peer(PEER)]).code(), 437);
    let (mut alice, _) = tcp_client(&mut world);
    for (to, code) in [
        ("8.8.8.8:0", 400),
        ("127.0.0.1:80", 403),
        ("169.254.169.254:80", 403),
        ("93.184.216.34:22", 403),
        ("[2606:4700::1]:80", 443),
    ] {
        assert_eq!(alice.ask(&mut world, Method::Connect, &[peer(to)]).code(), code, "{to}");
    }
    assert_eq!(alice.ask(&mut world, Method::Connect, &[]).code(), 400);
    assert_eq!(alice.bind(&mut world, 0x4000, PEER), 400, "no channels there");
    alice.permit(&mut world, &[PEER]);
    alice.send_to(&mut world, PEER, b"x");
    assert!(world.to_peers.is_empty(), "no datagrams there");
    assert!(!world.events.iter().any(|event| matches!(event, Event::ConnectPeer { .. })));
}

#[test]
fn tcp_relays_are_for_streams_and_can_be_off() {
    let wish = [raw(REQUESTED_TRANSPORT, TCP)];
    let mut world = World::new();
    for transport in [Transport::Udp, Transport::Dtls] {
        assert_eq!(Client::new(transport, 1).ask(&mut world, Method::Allocate, &wish).code(), 400);
    }
    for more in [raw(EVEN_PORT, [0]), raw(RESERVATION_TOKEN, [0; 8])] {
        let wishes = [wish[0].clone(), more];
        assert_eq!(Client::tcp(1).ask(&mut world, Method::Allocate, &wishes).code(), 400);
    }
    let mut world = World::with(|config| config.tcp_relays = false);
    assert_eq!(Client::tcp(1).ask(&mut world, Method::Allocate, &wish).code(), 442);
}

#[test]
fn a_peer_that_connects_is_announced_if_it_is_permitted() {
    let mut world = World::new();
    let (mut alice, relay) = tcp_client(&mut world);
    accept(&mut world, relay, PEER, 1);
    assert_eq!(world.take_events(), [Event::ClosePeer { connection: PeerConnectionKey(ACCEPTED | 1) }]);
    alice.permit(&mut world, &["8.8.8.8:0"]);
    accept(&mut world, relay, PEER, 2);
    let received = alice.take_received(&mut world);
    let [Received::Attempt(from, id)] = received[..] else { panic!("{received:?}") };
    assert_eq!(from, address(PEER));
    accept(&mut world, relay, PEER, 3);
    assert_eq!(world.take_events(), [Event::ClosePeer { connection: PeerConnectionKey(ACCEPTED | 3) }]);
    let mut data = Client::tcp(2);
    assert_eq!(data.ask(&mut world, Method::ConnectionBind, &[number(CONNECTION_ID, id)]).code(), 0);
    assert!(
        matches!(world.events.last(), Some(Event::Splice { connection, .. }) if connection.0 == ACCEPTED | 2)
    );
}

#[test]
fn who_does_not_bind_in_time_loses_the_connection() {
    let mut world = World::new();
    let (mut alice, _) = tcp_client(&mut world);
    let (id, connection) = connected(&mut world, &mut alice, PEER);
    world.wait(seconds(30));
    assert_eq!(world.take_events(), [Event::ClosePeer { connection }]);
    let mut data = Client::tcp(2);
    assert_eq!(data.ask(&mut world, Method::ConnectionBind, &[number(CONNECTION_ID, id)]).code(), 400);
}

#[test]
fn a_connection_is_bound_by_its_owner_once_and_from_a_fresh_stream() {
    let mut world = World::new();
    let (mut alice, _) = tcp_client(&mut world);
    let (id, _) = connected(&mut world, &mut alice, PEER);
    let id = [number(CONNECTION_ID, id)];
    let bind = |world: &mut World, mut client: Client, attributes: &[Attribute]| {
        client.ask(world, Method::ConnectionBind, attributes).code()
    };
    assert_eq!(bind(&mut world, Client::tcp(2).named("bob"), &id), 400, "as if there were none");
    assert_eq!(bind(&mut world, Client { password: "x".into(), ..Client::tcp(2) }, &id), 401);
    assert_eq!(bind(&mut world, Client::udp(2), &id), 400);
    assert_eq!(bind(&mut world, Client::tcp(2), &[]), 400);
    assert_eq!(bind(&mut world, Client::tcp(2), &[number(CONNECTION_ID, 7)]), 400);
    assert_eq!(bind(&mut world, alice.clone(), &id), 400, "the control connection is another one");
    assert!(!world.events.iter().any(|event| matches!(event, Event::Splice { .. })));
    assert_eq!(bind(&mut world, Client::new(Transport::Tls, 2), &id), 0);
    assert_eq!(bind(&mut world, Client::tcp(3), &id), 400);
    let (second, _) = connected(&mut world, &mut alice, "8.8.4.4:80");
    let second = [number(CONNECTION_ID, second)];
    assert_eq!(bind(&mut world, Client::new(Transport::Tls, 2), &second), 400, "it carries one already");
    assert_eq!(bind(&mut world, Client::tcp(4), &second), 0);
}

#[test]
fn a_connection_can_not_be_bound_before_the_peer_has_answered() {
    let mut world = World::new();
    let (mut alice, _) = tcp_client(&mut world);
    let (request, connection) = connect(&mut world, &mut alice, PEER);
    let id = *world.server.peer_connections.numbers().first().unwrap();
    let mut data = Client::tcp(2);
    assert_eq!(data.ask(&mut world, Method::ConnectionBind, &[number(CONNECTION_ID, id)]).code(), 400);
    world.input(Input::PeerConnected { connection });
    assert_eq!(alice.reply_to(&mut world, &request).unwrap().code(), 0);
}

#[test]
fn connections_end_with_their_allocation() {
    let mut world = World::new();
    let (mut alice, _) = tcp_client(&mut world);
    let (id, bound) = connected(&mut world, &mut alice, PEER);
    let mut data = Client::tcp(2);
    data.ask(&mut world, Method::ConnectionBind, &[number(CONNECTION_ID, id)]);
    let (_, unbound) = connected(&mut world, &mut alice, "8.8.8.8:81");
    let (_, connecting) = connect(&mut world, &mut alice, "8.8.8.8:82");
    world.events.clear();
    alice.close(&mut world);
    let events = world.take_events();
    for connection in [bound, unbound, connecting] {
        assert!(events.contains(&Event::ClosePeer { connection }));
    }
    assert!(events.contains(&Event::CloseClient { five_tuple: data.five_tuple }));
    assert!(!events.contains(&Event::CloseClient { five_tuple: alice.five_tuple }));
    world.assert_empty();
    data.close(&mut world);
    assert!(world.take_events().is_empty(), "it is forgotten");
}

#[test]
fn connections_of_one_allocation_have_a_bound() {
    let mut world = World::new();
    let (mut alice, relay) = tcp_client(&mut world);
    for port in 1..=32 {
        connected(&mut world, &mut alice, &format!("8.8.8.8:{port}"));
    }
    assert_eq!(alice.ask(&mut world, Method::Connect, &[peer("8.8.8.8:33")]).code(), 447);
    alice.permit(&mut world, &[PEER]);
    world.events.clear();
    accept(&mut world, relay, "8.8.8.8:33", 1);
    assert_eq!(world.take_events(), [Event::ClosePeer { connection: PeerConnectionKey(ACCEPTED | 1) }]);
    // Another client is not concerned.
    let mut bob = Client::tcp(5).named("bob");
    bob.ask(&mut world, Method::Allocate, &[raw(REQUESTED_TRANSPORT, TCP)]);
    connected(&mut world, &mut bob, "8.8.8.8:1");
}

#[test]
fn a_call_that_outlives_its_credentials_can_bind_its_connections() {
    let mut world = World::with(|config| config.nonce_life = seconds(86_400));
    let mut alice = Client::tcp(1).ephemeral("alice", seconds(100));
    alice.ask(&mut world, Method::Allocate, &[raw(REQUESTED_TRANSPORT, TCP), number(LIFETIME, 3600)]);
    world.wait(seconds(1000));
    world.events.clear();
    let (id, _) = connected(&mut world, &mut alice, PEER);
    let mut data = Client { five_tuple: Client::tcp(2).five_tuple, ..alice };
    let wrong = data.ask(&mut world, Method::ConnectionBind, &[number(CONNECTION_ID, id ^ 1)]).code();
    assert_eq!(wrong, 401, "for nothing that is there they are over");
    assert_eq!(data.ask(&mut world, Method::ConnectionBind, &[number(CONNECTION_ID, id)]).code(), 0);
}

/// What shells do in the wrong order is no reason to fall.
#[test]
fn reports_about_connections_may_come_at_any_time() {
    let mut world = World::new();
    let (mut alice, relay) = tcp_client(&mut world);
    let (id, connection) = connected(&mut world, &mut alice, PEER);
    let mut data = Client::tcp(2);
    data.ask(&mut world, Method::ConnectionBind, &[number(CONNECTION_ID, id)]);
    world.events.clear();
    world.input(Input::PeerConnected { connection });
    assert!(world.take_events().is_empty(), "it is spliced as it was");
    world.wait(seconds(31));
    assert!(world.take_events().is_empty());
    world.input(Input::PeerClosed { connection });
    world.input(Input::PeerClosed { connection });
    data.close(&mut world);
    assert!(world.take_events().is_empty());
    world.input(Input::PeerAccepted { relay: RelayKey(99), peer: address(PEER), connection });
    assert_eq!(world.take_events(), [Event::ClosePeer { connection }]);
    alice.permit(&mut world, &[PEER]);
    accept(&mut world, relay, PEER, 1);
    accept(&mut world, relay, "8.8.8.8:81", 1);
    assert_eq!(alice.take_received(&mut world).len(), 1, "one key, one connection");
}

#[test]
fn t26_keys_of_connections_wrap_around() {
    let mut world = World::new();
    let (mut alice, _) = tcp_client(&mut world);
    let (_, first) = connected(&mut world, &mut alice, "8.8.8.8:1");
    world.server.peer_connections.set_drawn(u32::MAX - 1);
    let keys: Vec<_> =
        (2..6).map(|port| connected(&mut world, &mut alice, &format!("8.8.8.8:{port}")).1).collect();
    assert!(keys.iter().all(|key| key.0 & ACCEPTED == 0 && *key != first));
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 4);
}
