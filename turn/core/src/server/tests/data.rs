//! RFC 8656, sections 11, 12.4 to 12.7, 14 and 15.

use super::*;

const PEER: &str = "8.8.8.8:5000";

fn with_channel(world: &mut World, transport: Transport) -> (Client, SocketAddr) {
    let mut client = Client::new(transport, 1);
    let relayed = client.allocate(world);
    assert_eq!(client.bind(world, 0x4000, PEER), 0);
    (client, relayed)
}

#[test]
fn over_streams_channel_data_is_padded_and_over_datagrams_not() {
    for transport in [Transport::Udp, Transport::Dtls, Transport::Tcp, Transport::Tls] {
        for length in 0..9 {
            let mut world = World::new();
            let (client, relayed) = with_channel(&mut world, transport);
            let data = vec![7; length];
            client.send_on(&mut world, 0x4000, &data);
            assert_eq!(world.take_peers_data(), [(address(PEER), data.clone())], "no padding for the peer");
            world.peer_sends(relayed, PEER, &data);
            let padding = if transport.is_stream() { (4 - length % 4) % 4 } else { 0 };
            assert_eq!(client.take_received(&mut world), [Received::Channel(0x4000, data, padding)]);
        }
    }
}

#[test]
fn channel_data_that_is_cut_or_on_no_channel_is_dropped() {
    let mut world = World::new();
    let (client, _) = with_channel(&mut world, Transport::Udp);
    for payload in [&[0x40, 0, 0, 5, 1, 2, 3, 4][..], &[0x40, 0, 0], &[0x40], &[0x40, 0, 0xff, 0xff, 1]] {
        world.input(Input::Client { five_tuple: client.five_tuple, payload });
    }
    assert_eq!(world.server.stats().malformed, 4);
    client.send_on(&mut world, 0x4001, b"x");
    assert_eq!(world.server.stats().without_permission, 1);
    Client::udp(2).send_on(&mut world, 0x4000, b"x");
    assert_eq!(world.server.stats().without_allocation, 1);
    assert!(world.to_peers.is_empty());
}

#[test]
fn padding_of_datagrams_is_not_data() {
    let mut world = World::new();
    let (client, _) = with_channel(&mut world, Transport::Udp);
    world.input(Input::Client { five_tuple: client.five_tuple, payload: &[0x40, 0, 0, 1, 9, 0, 0, 0] });
    assert_eq!(world.take_peers_data(), [(address(PEER), vec![9])]);
}

#[test]
fn send_and_data_carry_anything_even_nothing() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    let relayed = alice.allocate(&mut world);
    alice.permit(&mut world, &[PEER]);
    for data in [&b""[..], b"x", b"four", b"\0\x01\0\0\x21\x12\xa4\x42"] {
        alice.send_to(&mut world, PEER, data);
        let sent = world.take_to_peers();
        let from = SocketAddr::new("10.0.0.2".parse().unwrap(), relayed.port());
        let wanted = ToPeer { from, peer: address(PEER), data: data.to_vec(), dont_fragment: false };
        assert_eq!(sent, [wanted]);
        world.peer_sends(relayed, PEER, data);
        assert_eq!(alice.take_received(&mut world), [Received::Data(address(PEER), data.to_vec())]);
    }
}

#[test]
fn dont_fragment_is_kept_for_its_datagram() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    assert_eq!(alice.allocate_with(&mut world, &[raw(DONT_FRAGMENT, [])]).code(), 0);
    alice.permit(&mut world, &[PEER]);
    alice.indicate(&mut world, Method::Send, &[peer(PEER), raw(DONT_FRAGMENT, []), raw(DATA, b"a")]);
    alice.send_to(&mut world, PEER, b"b");
    let sent = world.take_to_peers().into_iter().map(|sent| (sent.data, sent.dont_fragment));
    assert_eq!(sent.collect::<Vec<_>>(), [(b"a".to_vec(), true), (b"b".to_vec(), false)]);
}

#[test]
fn send_indications_that_make_no_sense_are_dropped() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    alice.permit(&mut world, &[PEER]);
    let data = || raw(DATA, b"x");
    for attributes in [
        vec![data()],
        vec![peer(PEER)],
        vec![raw(XOR_PEER_ADDRESS, [0, 1, 2, 3]), data()],
        vec![peer("8.8.8.8:0"), data()],
        vec![peer(PEER), data(), raw(0x7001, [])],
    ] {
        alice.indicate(&mut world, Method::Send, &attributes);
    }
    assert_eq!((world.server.stats().malformed, world.to_peers.len()), (5, 0));
    alice.indicate(&mut world, Method::Send, &[peer(PEER), data(), raw(0xf001, [])]);
    assert_eq!(world.to_peers.len(), 1, "what need not be understood is no obstacle");
}

#[test]
fn of_repeated_attributes_the_first_counts() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    alice.permit(&mut world, &[PEER, "8.8.4.4:1"]);
    let twice = [peer(PEER), peer("8.8.4.4:1"), raw(DATA, b"first"), raw(DATA, b"second")];
    alice.indicate(&mut world, Method::Send, &twice);
    assert_eq!(world.take_peers_data(), [(address(PEER), b"first".to_vec())]);
}

#[test]
fn messages_that_are_not_for_a_server_are_not_answered() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    alice.permit(&mut world, &[PEER]);
    let before = world.server.stats();
    for method in [Method::Send, Method::Data, Method::ConnectionAttempt] {
        assert!(alice.ask_once(&mut world, method, &[peer(PEER), raw(DATA, b"x")]).is_none());
    }
    for method in [Method::Allocate, Method::Refresh, Method::Data, Method::ChannelBind] {
        alice.indicate(&mut world, method, &[peer(PEER), raw(DATA, b"x")]);
    }
    for class in [Class::Success, Class::Error] {
        let mut payload = Vec::new();
        Writer::new(&mut payload, class, Method::Binding, &[1; 12]);
        world.input(Input::Client { five_tuple: alice.five_tuple, payload: &payload });
    }
    // A method that nobody knows (RFC 8489, section 6.3.1, wants silence).
    let payload = [&[0x0e, 0xe1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[5; 12]].concat();
    world.input(Input::Client { five_tuple: alice.five_tuple, payload: &payload });
    assert_eq!(world.server.stats().malformed, before.malformed + 10);
    assert!(world.to_clients.is_empty() && world.to_peers.is_empty());
    alice.indicate(&mut world, Method::Binding, &[]);
    assert_eq!(world.server.stats().malformed, before.malformed + 10, "a keep-alive is fine");
}

#[test]
fn what_is_relayed_is_counted() {
    let mut world = World::new();
    let (mut client, relayed) = with_channel(&mut world, Transport::Udp);
    client.send_on(&mut world, 0x4000, &[0; 100]);
    client.send_to(&mut world, PEER, &[0; 10]);
    world.peer_sends(relayed, PEER, &[0; 7]);
    let traffic = world.server.allocations().next().unwrap().traffic;
    let wanted =
        Traffic { to_peers_packets: 2, to_peers_bytes: 110, to_client_packets: 1, to_client_bytes: 7 };
    assert_eq!(traffic, wanted);
    let stats = world.server.stats();
    assert_eq!((stats.to_peers_packets, stats.to_peers_bytes), (2, 110));
    assert_eq!((stats.to_clients_packets, stats.to_clients_bytes), (1, 7));
}

#[test]
fn two_clients_of_one_relay_talk_without_a_socket() {
    let mut world = World::new();
    let (mut alice, mut bob) = (Client::udp(1), Client::tcp(2).named("bob"));
    let (at_alice, at_bob) = (alice.allocate(&mut world), bob.allocate(&mut world));
    assert_eq!(alice.bind(&mut world, 0x4000, &at_bob.to_string()), 0);
    alice.send_on(&mut world, 0x4000, b"too early");
    assert!(world.to_clients.is_empty(), "bob has not allowed it");
    assert_eq!(bob.permit(&mut world, &[&at_alice.to_string()]), 0);
    alice.send_on(&mut world, 0x4000, b"hello");
    assert_eq!(bob.take_received(&mut world), [Received::Data(at_alice, b"hello".to_vec())]);
    bob.send_to(&mut world, &at_alice.to_string(), b"hi");
    assert_eq!(alice.take_received(&mut world), [Received::Channel(0x4000, b"hi".to_vec(), 0)]);
    assert!(world.to_peers.is_empty());
    let stats = world.server.stats();
    assert_eq!((stats.to_peers_packets, stats.to_clients_packets), (3, 2));
}

#[test]
fn of_the_own_machine_only_relays_and_services_are_reached() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    let relayed = alice.allocate(&mut world);
    for nowhere in ["93.184.216.34:22", "10.0.0.2:3478", "127.0.0.1:7881"] {
        assert_eq!(alice.bind(&mut world, 0x4000, nowhere), 403, "{nowhere}");
        // A permission names no port; the data does.
        assert_eq!(alice.permit(&mut world, &[nowhere]), 0);
        alice.send_to(&mut world, nowhere, b"x");
        world.peer_sends(relayed, nowhere, b"x");
    }
    assert!(world.to_peers.is_empty() && world.to_clients.is_empty());
    assert_eq!(alice.bind(&mut world, 0x4000, "127.0.0.1:7882"), 0);
    alice.send_on(&mut world, 0x4000, b"x");
    alice.send_to(&mut world, "127.0.0.1:7882", b"y");
    assert_eq!(world.take_to_peers().len(), 2);
    world.peer_sends(relayed, "127.0.0.1:7882", b"z");
    assert_eq!(alice.take_received(&mut world), [Received::Channel(0x4000, b"z".to_vec(), 0)]);
    assert!(world.has_refused(RefusalReason::PeerDenied));
}

#[test]
fn what_is_sent_leaves_before_its_socket_is_closed() {
    let mut world = World::new();
    let (mut client, _) = with_channel(&mut world, Transport::Udp);
    let release = client.compose(Method::Refresh, &[number(LIFETIME, 0)]);
    let five_tuple = client.five_tuple;
    for payload in [&[0x40, 0, 0, 1, 9][..], &release] {
        world.server.handle_input(world.now, Input::Client { five_tuple, payload });
    }
    let mut order = Vec::new();
    loop {
        order.push(match world.server.poll_output() {
            Output::ToPeer { .. } => "data",
            Output::ToClient { is_control: true, .. } => "answer",
            Output::Event(Event::CloseRelay { .. }) => "close",
            Output::Event(Event::Deallocated { .. }) => "end",
            Output::Timeout(_) => break,
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(order, ["data", "answer", "close", "end"]);
}

#[test]
fn data_is_never_in_one_run_with_control() {
    let mut world = World::new();
    let (mut client, relayed) = with_channel(&mut world, Transport::Udp);
    let ask = client.compose(Method::CreatePermission, &[peer(PEER)]);
    world.server.handle_input(world.now, Input::Client { five_tuple: client.five_tuple, payload: &ask });
    // As long as the answer: header and integrity, less the channel's header.
    let relay = world.server.announced[&relayed];
    let data = [0; 44 - 4];
    for _ in 0..3 {
        world.server.handle_input(world.now, Input::Peer { relay, peer: address(PEER), payload: &data });
    }
    let mut runs = Vec::new();
    while let Output::ToClient { payload, segment_bytes, is_control, .. } = world.server.poll_output() {
        runs.push((payload.len(), segment_bytes, is_control));
    }
    assert_eq!(runs, [(44, 44, true), (132, 44, false)]);
}
