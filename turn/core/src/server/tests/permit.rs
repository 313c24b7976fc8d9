//! RFC 8656, sections 9, 10 and 12.

use super::*;

const PEER: &str = "8.8.8.8:5000";

#[test]
fn without_a_permission_nothing_goes_either_way() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    let relayed = alice.allocate(&mut world);
    alice.send_to(&mut world, PEER, b"out");
    world.peer_sends(relayed, PEER, b"in");
    alice.permit(&mut world, &["8.8.4.4:5000"]);
    alice.send_to(&mut world, PEER, b"out");
    world.peer_sends(relayed, PEER, b"in");
    assert!(world.to_peers.is_empty() && world.to_clients.is_empty());
    assert_eq!(world.server.stats().without_permission, 4);
}

#[test]
fn a_permission_is_for_all_ports_of_an_address_for_300_seconds() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    let relayed = alice.allocate(&mut world);
    assert_eq!(alice.permit(&mut world, &["8.8.8.8:0"]), 0, "the port does not matter");
    world.wait(Duration::from_millis(299_999));
    alice.send_to(&mut world, "8.8.8.8:7", b"out");
    world.peer_sends(relayed, "8.8.8.8:9", b"in");
    assert_eq!(world.take_peers_data(), [(address("8.8.8.8:7"), b"out".to_vec())]);
    let received = alice.take_received(&mut world);
    assert_eq!(received, [Received::Data(address("8.8.8.8:9"), b"in".to_vec())]);
    world.wait(Duration::from_millis(1));
    alice.send_to(&mut world, "8.8.8.8:7", b"out");
    world.peer_sends(relayed, "8.8.8.8:9", b"in");
    assert!(world.to_peers.is_empty() && world.to_clients.is_empty());
    alice.permit(&mut world, &[PEER]);
    alice.send_to(&mut world, "8.8.8.8:7", b"out");
    assert_eq!(world.to_peers.len(), 1);
}

#[test]
fn data_does_not_make_a_permission_last_longer() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    let relayed = alice.allocate(&mut world);
    alice.permit(&mut world, &[PEER]);
    for _ in 0..4 {
        world.wait(seconds(100));
        alice.send_to(&mut world, PEER, b"out");
        world.peer_sends(relayed, PEER, b"in");
    }
    assert_eq!(world.take_to_peers().len(), 2, "at 100 and 200 seconds");
}

#[test]
fn several_peers_are_permitted_together_or_not_at_all() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    for (bad, code) in [("192.168.1.1:1", 403), ("[2606:4700::1]:1", 443)] {
        assert_eq!(alice.permit(&mut world, &["8.8.8.8:1", bad, "8.8.4.4:1"]), code);
        assert_eq!(world.server.allocations().next().unwrap().permissions, 0);
    }
    let broken = [peer("8.8.8.8:1"), raw(XOR_PEER_ADDRESS, [0, 1, 2])];
    assert_eq!(alice.ask(&mut world, Method::CreatePermission, &broken).code(), 400);
    assert_eq!(alice.ask(&mut world, Method::CreatePermission, &[]).code(), 400);
    assert_eq!(world.server.allocations().next().unwrap().permissions, 0);
    assert_eq!(alice.permit(&mut world, &["8.8.8.8:1", "8.8.4.4:1", "8.8.8.8:2"]), 0);
    assert_eq!(world.server.allocations().next().unwrap().permissions, 2);
}

#[test]
fn permissions_have_a_bound_and_old_ones_make_room() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate_with(&mut world, &[number(LIFETIME, 3600)]);
    let peers: Vec<_> = (0..129).map(|n| format!("8.8.{}.{}:1", n / 256, n % 256)).collect();
    let peers: Vec<_> = peers.iter().map(String::as_str).collect();
    assert_eq!(alice.permit(&mut world, &peers), 508);
    assert_eq!(world.server.allocations().next().unwrap().permissions, 0, "none of them");
    assert_eq!(alice.permit(&mut world, &peers[..100]), 0);
    assert_eq!(alice.permit(&mut world, &peers[90..128]), 0, "ten of these are known");
    assert_eq!(alice.permit(&mut world, &peers[128..]), 508);
    assert_eq!(alice.bind(&mut world, 0x4000, peers[128]), 508);
    assert!(world.has_refused(RefusalReason::PeerQuota));
    assert_eq!(alice.permit(&mut world, &peers[..10]), 0, "for longer is always possible");
    world.wait(seconds(300));
    assert_eq!(alice.permit(&mut world, &peers[128..]), 0);
    assert_eq!(world.server.allocations().next().unwrap().permissions, 1);
}

#[test]
fn channels_have_a_bound_and_old_ones_make_room() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate_with(&mut world, &[number(LIFETIME, 3600)]);
    for n in 0..128 {
        assert_eq!(alice.bind(&mut world, 0x4000 + n, &format!("8.8.8.8:{}", n + 1)), 0);
    }
    assert_eq!(alice.bind(&mut world, 0x4fff, "8.8.8.8:999"), 508);
    assert_eq!(alice.bind(&mut world, 0x4000, "8.8.8.8:1"), 0);
    world.wait(seconds(600));
    assert_eq!(alice.bind(&mut world, 0x4fff, "8.8.8.8:999"), 0);
    assert_eq!(world.server.allocations().next().unwrap().channels, 1);
}

#[test]
fn channel_binds_that_make_no_sense_are_refused() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    assert_eq!(alice.bind(&mut world, 0x4000, PEER), 437);
    alice.allocate(&mut world);
    for number in [0x0000, 0x3fff, 0x8000, 0xffff] {
        assert_eq!(alice.bind(&mut world, number, PEER), 400, "{number:04x}");
    }
    assert_eq!(alice.bind(&mut world, 0x4000, "8.8.8.8:0"), 400);
    assert_eq!(alice.bind(&mut world, 0x4000, "127.0.0.1:80"), 403);
    assert_eq!(alice.bind(&mut world, 0x4000, "[2606:4700::1]:1"), 443);
    for attributes in [
        vec![channel(0x4000)],
        vec![peer(PEER)],
        vec![peer(PEER), raw(CHANNEL_NUMBER, [0x40, 0])],
        vec![raw(XOR_PEER_ADDRESS, [0, 1, 1, 1]), channel(0x4000)],
    ] {
        assert_eq!(alice.ask(&mut world, Method::ChannelBind, &attributes).code(), 400);
    }
    let report = world.server.allocations().next().unwrap();
    assert_eq!((report.permissions, report.channels), (0, 0));
}

#[test]
fn a_number_is_one_peers_and_a_peer_has_one_number() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate_with(&mut world, &[number(LIFETIME, 3600)]);
    assert_eq!(alice.bind(&mut world, 0x4000, PEER), 0);
    assert_eq!(alice.bind(&mut world, 0x4000, "8.8.8.8:5001"), 400);
    assert_eq!(alice.bind(&mut world, 0x4001, PEER), 400);
    assert_eq!(alice.bind(&mut world, 0x4001, "8.8.8.8:5001"), 0);
    world.wait(seconds(599));
    assert_eq!(alice.bind(&mut world, 0x4000, PEER), 0, "for longer");
    world.wait(seconds(1));
    // 0x4001 is over; 0x4000 is not.
    assert_eq!(alice.bind(&mut world, 0x4001, PEER), 400);
    assert_eq!(alice.bind(&mut world, 0x4001, "8.8.4.4:1"), 0);
    assert_eq!(alice.bind(&mut world, 0x4002, "8.8.8.8:5001"), 0);
}

#[test]
fn a_channel_carries_data_both_ways_for_as_long_as_there_is_a_permission() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    let relayed = alice.allocate_with(&mut world, &[number(LIFETIME, 3600)]).relayed()[0];
    let goes = |world: &mut World, alice: &Client| {
        alice.send_on(world, 0x4abc, b"out");
        world.peer_sends(relayed, PEER, b"in");
        let there = world.take_peers_data() == [(address(PEER), b"out".to_vec())];
        let back = alice.take_received(world) == [Received::Channel(0x4abc, b"in".to_vec(), 0)];
        assert_eq!(there, back);
        there
    };
    alice.bind(&mut world, 0x4abc, PEER);
    world.wait(seconds(299));
    assert!(goes(&mut world, &alice));
    world.wait(seconds(1));
    assert!(!goes(&mut world, &alice), "the permission is over, the channel is not");
    alice.permit(&mut world, &["8.8.8.8:1"]);
    assert!(goes(&mut world, &alice));
    world.wait(seconds(298));
    alice.permit(&mut world, &["8.8.8.8:1"]);
    world.wait(seconds(1));
    assert!(goes(&mut world, &alice), "599 seconds");
    world.wait(seconds(1));
    alice.send_on(&mut world, 0x4abc, b"out");
    assert!(world.to_peers.is_empty(), "the channel is over, the permission is not");
    world.peer_sends(relayed, PEER, b"in");
    let received = alice.take_received(&mut world);
    assert_eq!(received, [Received::Data(address(PEER), b"in".to_vec())]);
}

#[test]
fn a_channel_is_also_a_permission() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    let relayed = alice.allocate_with(&mut world, &[number(LIFETIME, 3600)]).relayed()[0];
    alice.permit(&mut world, &[PEER]);
    world.wait(seconds(200));
    alice.bind(&mut world, 0x4000, PEER);
    world.wait(seconds(200));
    alice.send_to(&mut world, "8.8.8.8:1234", b"out");
    world.peer_sends(relayed, "8.8.8.8:4321", b"in");
    assert_eq!(world.take_to_peers().len(), 1);
    let received = alice.take_received(&mut world);
    assert_eq!(received, [Received::Data(address("8.8.8.8:4321"), b"in".to_vec())]);
}

#[test]
fn channels_of_one_address_share_its_permission() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate_with(&mut world, &[number(LIFETIME, 3600)]);
    alice.bind(&mut world, 0x4000, "8.8.8.8:1");
    world.wait(seconds(250));
    alice.bind(&mut world, 0x4001, "8.8.8.8:2");
    world.wait(seconds(250));
    alice.send_on(&mut world, 0x4000, b"x");
    assert_eq!(world.take_to_peers().len(), 1, "500 seconds after its own bind");
}

#[test]
fn peers_in_ipv4_spellings_of_ipv6_are_ipv4_peers() {
    let mut world = World::new();
    let mut alice = Client::udp(1);
    alice.allocate(&mut world);
    assert_eq!(alice.permit(&mut world, &["[::ffff:8.8.8.8]:1"]), 0);
    alice.send_to(&mut world, "[::ffff:8.8.8.8]:5", b"a");
    alice.send_to(&mut world, "8.8.8.8:5", b"b");
    assert_eq!(alice.bind(&mut world, 0x4000, "[::ffff:8.8.8.8]:5"), 0);
    assert_eq!(alice.bind(&mut world, 0x4001, "8.8.8.8:5"), 400, "it is the same peer");
    alice.send_on(&mut world, 0x4000, b"c");
    let peers: Vec<_> = world.take_peers_data().into_iter().map(|(peer, _)| peer).collect();
    assert_eq!(peers, [address("8.8.8.8:5"); 3]);
}

#[test]
fn permissions_of_one_allocation_are_not_anothers() {
    let mut world = World::new();
    let (mut alice, mut other) = (Client::udp(1), Client::udp(2));
    alice.allocate(&mut world);
    let relayed = other.allocate(&mut world);
    alice.bind(&mut world, 0x4000, PEER);
    other.send_to(&mut world, PEER, b"x");
    other.send_on(&mut world, 0x4000, b"x");
    world.peer_sends(relayed, PEER, b"x");
    assert!(world.to_peers.is_empty() && world.to_clients.is_empty());
}
