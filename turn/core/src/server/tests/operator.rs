//! What an operator does: drain, kick, configure.

use super::*;

const PEER: &str = "8.8.8.8:5000";

#[test]
fn a_server_that_drains_sends_new_clients_elsewhere_and_keeps_its_own() {
    let (v4, v6) = (address("192.0.2.9:3478"), address("[2001:db8::9]:3478"));
    for (alternates, own, wanted) in [
        (vec![v6, v4], "93.184.216.34:3478", Some(v4)),
        (vec![v4, v6], "[2606:4700::9]:3478", Some(v6)),
        (vec![v6], "93.184.216.34:3478", None),
        (vec![], "93.184.216.34:3478", None),
    ] {
        let mut world = World::with(|config| config.alternate_servers = alternates);
        let mut alice = Client::udp(1);
        alice.allocate(&mut world);
        world.input(Input::Drain);
        assert_eq!(alice.refresh(&mut world, &[]).code(), 0);
        assert_eq!(alice.bind(&mut world, 0x4000, PEER), 0);
        alice.send_on(&mut world, 0x4000, b"x");
        assert_eq!(world.take_to_peers().len(), 1);
        let mut late = Client::udp(2);
        late.five_tuple.server = address(own);
        let reply = late.ask(&mut world, Method::Allocate, &[udp()]);
        match wanted {
            Some(server) => {
                assert_eq!(reply.code(), 300);
                // RFC 8489, section 14.15: as MAPPED-ADDRESS, in the clear.
                let value = reply.value(ALTERNATE_SERVER);
                assert_eq!(value[2..4], server.port().to_be_bytes());
                let family = if server.is_ipv4() { (1, 8) } else { (2, 20) };
                assert_eq!((value[0], value[1], value.len()), (0, family.0, family.1));
                let ip: Vec<u8> = match server.ip() {
                    std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
                    std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
                };
                assert_eq!(value[4..], ip);
            }
            None => assert_eq!(reply.code(), 508),
        }
        assert!(world.has_refused(RefusalReason::Draining) && !world.server.is_idle());
        alice.refresh(&mut world, &[number(LIFETIME, 0)]);
        assert!(world.server.is_idle());
    }
}

#[test]
fn a_kicked_allocation_is_gone_and_its_stream_closed() {
    for transport in [Transport::Udp, Transport::Tcp, Transport::Dtls] {
        let mut world = World::new();
        let (mut alice, mut bob) = (Client::new(transport, 1), Client::udp(2).named("bob"));
        alice.allocate(&mut world);
        let id = world.server.allocations().next().unwrap().id;
        bob.allocate(&mut world);
        world.events.clear();
        world.input(Input::Kick { allocation: AllocationId(id.0 ^ 1) });
        assert!(world.take_events().is_empty());
        world.input(Input::Kick { allocation: id });
        let five_tuple = alice.five_tuple;
        let mut wanted = vec![Event::Deallocated { allocation: id, five_tuple, reason: EndReason::Kicked }];
        if transport != Transport::Udp {
            wanted.insert(0, Event::CloseClient { five_tuple: alice.five_tuple });
        }
        assert_eq!(world.take_events(), wanted);
        assert_eq!(alice.refresh(&mut world, &[]).code(), 437);
        assert_eq!(bob.refresh(&mut world, &[]).code(), 0);
    }
}

#[test]
fn a_new_policy_holds_at_once() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    let relayed = alice.allocate(&mut world);
    alice.bind(&mut world, 0x4000, PEER);
    alice.permit(&mut world, &["8.8.4.4:1"]);
    let mut new = config();
    new.peers.deny = vec!["8.8.8.0/24".parse().unwrap()];
    world.input(Input::Configure(Box::new(new)));
    alice.send_on(&mut world, 0x4000, b"x");
    alice.send_to(&mut world, PEER, b"x");
    world.peer_sends(relayed, PEER, b"x");
    assert!(world.to_peers.is_empty() && world.to_clients.is_empty());
    alice.send_to(&mut world, "8.8.4.4:1", b"x");
    assert_eq!(world.to_peers.len(), 1);
    let report = world.server.allocations().next().unwrap();
    assert_eq!((report.permissions, report.channels), (1, 0));
    assert_eq!(alice.bind(&mut world, 0x4000, PEER), 403);
}

#[test]
fn an_address_that_becomes_our_own_has_ports_only() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    alice.bind(&mut world, 0x4000, PEER);
    alice.permit(&mut world, &[PEER]);
    let mut new = config();
    new.peers.own.push(address(PEER).ip());
    new.peers.services.push(address("8.8.8.8:7000"));
    world.input(Input::Configure(Box::new(new)));
    alice.send_on(&mut world, 0x4000, b"x");
    alice.send_to(&mut world, "8.8.8.8:22", b"x");
    assert!(world.to_peers.is_empty());
    alice.send_to(&mut world, "8.8.8.8:7000", b"x");
    assert_eq!(world.to_peers.len(), 1);
}

#[test]
fn a_new_policy_closes_connections_to_peers() {
    let mut world = World::new();
    let mut alice = Client::tcp(1);
    alice.ask(&mut world, Method::Allocate, &[raw(REQUESTED_TRANSPORT, TCP)]);
    let mut keys = Vec::new();
    for to in ["8.8.8.8:80", "8.8.4.4:80"] {
        let request = alice.compose(Method::Connect, &[peer(to)]);
        alice.send(&mut world, &request);
        let Some(Event::ConnectPeer { connection, .. }) = world.events.pop() else { panic!() };
        world.input(Input::PeerConnected { connection });
        let id = alice.reply_to(&mut world, &request).unwrap().message().number(CONNECTION_ID).unwrap();
        let mut data = Client::tcp(2 + keys.len() as u16);
        assert_eq!(data.ask(&mut world, Method::ConnectionBind, &[number(CONNECTION_ID, id)]).code(), 0);
        keys.push((connection, data.five_tuple));
    }
    world.events.clear();
    let mut new = config();
    new.peers.deny = vec!["8.8.8.0/24".parse().unwrap()];
    world.input(Input::Configure(Box::new(new)));
    let (connection, five_tuple) = keys[0];
    assert_eq!(world.take_events(), [Event::CloseClient { five_tuple }, Event::ClosePeer { connection }]);
}

#[test]
fn new_credentials_and_quotas_hold_for_new_allocations() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    let mut new = config();
    new.credentials = Credentials::new([("bob".to_owned(), "bob's".into())], []);
    new.quotas.allocations = Some(2);
    world.input(Input::Configure(Box::new(new)));
    assert_eq!(alice.refresh(&mut world, &[]).code(), 0, "a call is not cut");
    assert_eq!(Client::udp(2).ask(&mut world, Method::Allocate, &[udp()]).code(), 401);
    Client::udp(3).named("bob").allocate(&mut world);
    assert_eq!(Client::udp(4).named("bob").ask(&mut world, Method::Allocate, &[udp()]).code(), 508);
}

#[test]
fn the_range_of_ports_stays_what_it_was() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    let mut new = config();
    (new.port_first, new.port_last, new.worker, new.workers) = (40_000, 40_001, 1, 2);
    world.input(Input::Configure(Box::new(new)));
    let port = Client::udp(2).allocate(&mut world).port();
    assert!((50_000..=50_999).contains(&port));
    alice.refresh(&mut world, &[number(LIFETIME, 0)]);
    assert_eq!(world.server.ports[0].taken(), 1);
}

#[test]
fn a_new_nonce_key_makes_old_nonces_stale() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    world.input(Input::Configure(Box::new(ServerConfig { nonce_key: [9; 32], ..config() })));
    assert_eq!(alice.ask_once(&mut world, Method::Refresh, &[]).unwrap().code(), 438);
    assert_eq!(alice.refresh(&mut world, &[]).code(), 0);
}

#[test]
fn the_time_of_day_can_be_set() {
    let mut world = World::new();
    let mut alice = Client::udp(1).ephemeral("alice", seconds(100));
    let later = SystemTime::UNIX_EPOCH + seconds(BEGIN_S + 10_000);
    world.server.set_time_of_day(world.now, later);
    assert_eq!(alice.ask(&mut world, Method::Allocate, &[udp()]).code(), 401);
    world.server.set_time_of_day(world.now, later - seconds(10_000));
    alice.allocate(&mut world);
}
