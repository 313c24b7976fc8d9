//! Clients that were heard all the time and suddenly are not.

use zynk_protocol::ConnectionState;

use super::{attacks::*, media::*, *};

/// Alice sends for two seconds; Bob receives, and says nothing.
fn call() -> (Rig, Client) {
    let (mut rig, mut alice) = (Rig::call(&[BOB]), Client::of(ALICE));
    for (_, endpoint) in &mut rig.shard.endpoints {
        endpoint.connected_once = true;
    }
    for sequence in 0..100 {
        send(&mut rig, &mut alice, sequence);
        rig.advance(Duration::from_millis(20));
    }
    (rig, alice)
}

fn send(rig: &mut Rig, alice: &mut Client, sequence: u16) {
    let packet = alice.rtp(1, VP8, sequence, &KEYFRAME);
    rig.datagram(alice.address, packet);
}

fn states(rig: &mut Rig) -> Vec<(ConnectionId, ConnectionState)> {
    let events = std::mem::take(&mut rig.events).into_iter();
    let states = events.filter_map(|event| match event {
        NodeEvent::ConnectionState { connection, state } => Some((connection, state)),
        _ => None,
    });
    states.collect()
}

#[test]
fn a_publisher_that_falls_silent_is_told_before_ice_notices_and_so_is_its_return() {
    let (mut rig, mut alice) = call();
    rig.advance(Duration::from_millis(1_100));
    assert_eq!(states(&mut rig), []);
    rig.advance(Duration::from_millis(300));
    assert_eq!(states(&mut rig), [(ALICE, ConnectionState::Disconnected)]);
    send(&mut rig, &mut alice, 100);
    rig.advance(Duration::from_millis(200));
    assert_eq!(states(&mut rig), [(ALICE, ConnectionState::Connected)]);
}

#[test]
fn who_is_silent_is_sent_to_wherever_it_is_heard_and_goes_on_with_a_keyframe() {
    let (mut rig, _) = call();
    let key = rig.shard.by_id[&BOB];
    let (nominated, other) = (address(BOB), SocketAddr::from(([127, 0, 0, 1], 9)));
    let path = |rig: &Rig| rig.shard.endpoints[key.0].media.path().unwrap().remote;
    for _ in 0..20 {
        rig.shard.endpoints[key.0].silence.hear(rig.now);
        rig.advance(Duration::from_millis(50));
    }
    rig.shard.endpoints[key.0].silence.send(10);
    rig.advance(Duration::from_millis(1_500));
    assert!(rig.shard.endpoints[key.0].silence.is_silent());
    assert_eq!(path(&rig), nominated);
    let now = rig.now;
    let elsewhere = Path { transport: Transport::Tcp, local: SERVER.into(), remote: other };
    rig.shard.endpoints[key.0].media.nominate(now, elsewhere, 1);
    assert_eq!(path(&rig), other);
    let asked = rig.shard.stats().keyframe_requests_sent;
    rig.shard.endpoints[key.0].silence.hear(now);
    rig.advance(Duration::from_millis(200));
    assert_eq!(rig.shard.stats().keyframe_requests_sent, asked + 1);
}

#[test]
fn who_muted_its_track_may_be_silent() {
    let (mut rig, _) = call();
    rig.command(NodeAction::MuteTrack { track: "TR_video".parse().unwrap(), muted: true });
    rig.advance(Duration::from_millis(2_500));
    assert_eq!(states(&mut rig), []);
}
