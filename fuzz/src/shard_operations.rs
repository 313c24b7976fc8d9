//! Sequences of commands, datagrams, timeouts and batches on two shards of one node, which share rooms.
//!
//! ```text
//!   operation = opcode, argument, argument     text, datagrams, packets: the octets that follow, up to a length
//!   opcode    = 7 bits, and one for "the next operation comes in the same turn"
//!
//!     clients ── sealed RTP, RTCP ──► shard 0 ◄── wires: batches wait, get lost, change places ──► shard 1
//! ```
//! Connections of even number are on shard 0, the others on shard 1. They come up without a handshake, with keys that
//! their clients know: what the input says is the plaintext.

use std::time::Duration;

use bytes::Bytes;
use zynk_protocol::{
    BackupUse, ConnectionId, ConnectionRole, DataKind, ExpectedTrack, MediaKind, MimeType, NodeAction,
    Recipients, RoomSid, SubscribeTrack, SubscriptionSettings, TrackQuality, TrackSid, TrackSource,
};
use zynk_sfu_core::{Input, ShardIndex, Transport, fuzzing};

use crate::{
    shard_client::Making,
    shard_rig::{Rig, index, remote},
    shard_sdp::{Sections, answer, offer},
};

/// Operations of one input; the rest is ignored.
const OPERATIONS_MAX: usize = 96;
const SIDES: usize = 2;
const ROOMS: u8 = 2;
const CONNECTIONS: u8 = 6;
const TRACKS: u8 = 4;
/// Of an offer, at most.
const SECTIONS: u64 = 3;
/// Opcodes; what is above begins anew.
const OPCODES: u8 = 32;
/// Longer than any timer of a shard without connections.
const AFTERWARDS: Duration = Duration::from_secs(60);

/// How far an input got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardReach {
    /// RTP packets that were sent on to receivers.
    pub forwarded: u64,
    /// RTP packets that one shard took from the other.
    pub relayed: u64,
    /// RTP packets that receivers were sent in all: repeated ones and padding included.
    pub received: u64,
    /// Keyframe requests that publishers were sent.
    pub keyframe_requests: u64,
}

/// Runs the operations that the input encodes.
pub fn shard_operations(data: &[u8]) {
    shard_reach(data);
}

/// Same, and tells how far they got.
pub fn shard_reach(data: &[u8]) -> ShardReach {
    let mut rig = Rig::new(SIDES);
    let mut rest = data;
    for _ in 0..OPERATIONS_MAX {
        let [opcode, a, b, after @ ..] = rest else { break };
        rig.holds_back = opcode & 0x80 != 0;
        rest = operate(&mut rig, opcode & 0x7f, *a, *b, after);
        check(&rig);
    }
    rig.holds_back = false;
    rig.drain_all();
    check(&rig);
    let reach = reach(&rig);
    close(&mut rig);
    reach
}

fn check(rig: &Rig) {
    let stats: Vec<_> = rig.sides.iter().map(|side| side.shard.stats()).collect();
    let connections = u64::from(CONNECTIONS) / SIDES as u64;
    for stats in &stats {
        assert_eq!(stats.sessions_panicked, 0, "a session panicked");
        assert!(stats.rooms <= ROOMS.into() && stats.connections <= connections);
        assert!(stats.tracks <= connections * SECTIONS);
        assert!(stats.subscriptions <= connections * u64::from(TRACKS));
    }
    let reach = reach(rig);
    let sent: u64 = stats.iter().map(|stats| stats.relay_packets_sent).sum();
    assert!(reach.relayed <= sent + rig.doubled, "{} packets relayed of {sent}", reach.relayed);
    assert!(
        rig.owes_output() || reach.forwarded <= reach.received,
        "counted as sent, and not sent: {reach:?}"
    );
}

fn reach(rig: &Rig) -> ShardReach {
    let mut reach = ShardReach { received: rig.received(), ..ShardReach::default() };
    for side in &rig.sides {
        let stats = side.shard.stats();
        reach.forwarded += stats.rtp_packets_sent;
        reach.relayed += stats.relay_packets_received;
        reach.keyframe_requests += stats.keyframe_requests_sent;
    }
    reach
}

/// Closes all rooms, while batches are under way: nothing may be left.
fn close(rig: &mut Rig) {
    for side in 0..SIDES {
        for room in 0..ROOMS {
            rig.command(side, &self::room(room), NodeAction::CloseRoom);
        }
    }
    rig.settle();
    rig.jump(AFTERWARDS);
    rig.settle();
    for side in &rig.sides {
        let stats = side.shard.stats();
        assert_eq!((stats.connections, stats.tracks, stats.subscriptions), (0, 0, 0), "left behind");
        assert_eq!(fuzzing::leftovers(&side.shard), [""; 0], "left behind");
    }
}

fn room(number: u8) -> RoomSid {
    RoomSid::from_random((number % ROOMS).into())
}

fn track(number: u8) -> TrackSid {
    TrackSid::from_random((number % TRACKS).into())
}

fn side_of(connection: u64) -> usize {
    connection as usize % SIDES
}

/// The lowest two bits name the track.
fn settings(bits: u8) -> SubscriptionSettings {
    let quality = match bits >> 3 & 3 {
        0 => TrackQuality::Low,
        1 => TrackQuality::Medium,
        _ => TrackQuality::High,
    };
    let size = (bits & 32 != 0).then_some((u32::from(bits) * 8, u32::from(bits)));
    SubscriptionSettings {
        paused: bits & 4 != 0,
        quality,
        size,
        fps: u32::from(bits >> 6),
        priority: u32::from(bits >> 3 & 3),
    }
}

fn expected(connection: ConnectionId, bits: u8) -> NodeAction {
    let kind = if bits & 4 == 0 { MediaKind::Audio } else { MediaKind::Video };
    let backup = (bits & 128 != 0).then_some(match bits & 8 {
        0 => BackupUse::WhereNeeded,
        _ => BackupUse::Everywhere,
    });
    let cid = match (kind, backup) {
        (MediaKind::Audio, _) => "a",
        (MediaKind::Video, None) => "v",
        (MediaKind::Video, Some(_)) => "w",
    };
    NodeAction::ExpectTrack(ExpectedTrack {
        connection,
        track: track(bits),
        cids: vec![cid.to_owned()],
        kind,
        source: TrackSource::Unknown,
        codec: (bits & 8 != 0).then(|| MimeType::new(if bits & 16 == 0 { "video/VP8" } else { "video/VP9" })),
        red: bits & 32 != 0,
        dtx: true,
        stereo: false,
        muted: bits & 64 != 0,
        encrypted: bits & 16 != 0,
        backup,
    })
}

fn subscribe(connection: ConnectionId, bits: u8) -> NodeAction {
    NodeAction::Subscribe(SubscribeTrack {
        connection,
        track: track(bits),
        stream_id: String::from("PA_x|TR_x"),
        settings: settings(bits & !4),
    })
}

fn remote_offer(connection: ConnectionId, bits: u8) -> NodeAction {
    let sections = match bits & 3 {
        0 => Sections::Plain,
        1 => Sections::Publishing,
        2 => Sections::Simulcast,
        _ => Sections::Receiving,
    };
    let idle = usize::from(bits >> 2 & 3).checked_sub(1);
    NodeAction::RemoteOffer { connection, offer_id: bits.into(), sdp: offer(sections, idle) }
}

/// A call over both shards: connection 0 publishes audio and video, as `bits` say; 2 and 1 receive, one shard each.
fn call(rig: &mut Rig, room: &RoomSid, bits: u8) {
    let publisher = ConnectionId(0);
    rig.open(0, room, 0, ConnectionRole::Publisher, false);
    rig.command(0, room, expected(publisher, if bits & 1 == 0 { 0 } else { 32 }));
    rig.command(0, room, expected(publisher, if bits & 2 == 0 { 5 } else { 1 | 4 | 8 | 16 }));
    rig.command(0, room, remote_offer(publisher, if bits & 4 == 0 { 1 } else { 2 }));
    if bits & 8 != 0 {
        rig.command(0, room, expected(publisher, 1 | 4 | 8 | 128));
        rig.command(0, room, remote_offer(publisher, 1));
    }
    for side in 0..SIDES {
        rig.input(side, Input::Siblings { room: room.clone(), shards: vec![index(0), index(1)] });
    }
    for id in [2, 1] {
        let (connection, side) = (ConnectionId(id), side_of(id));
        let role = if bits & 16 == 0 { ConnectionRole::Single } else { ConnectionRole::Subscriber };
        rig.open(side, room, id, role, bits & 32 != 0);
        for bits in [0, 1 | 2 << 3] {
            rig.command(side, room, subscribe(connection, bits));
        }
        rig.settle();
        match role {
            ConnectionRole::Subscriber => {
                rig.advance(Duration::from_millis(20));
                rig.settle();
                accept(rig, room, id);
            }
            _ => drop(rig.command(side, room, remote_offer(connection, 3))),
        }
    }
    for id in [0, 1, 2] {
        rig.connect(side_of(id), id, Transport::Udp);
    }
    rig.settle();
}

/// A client accepts the last offer that it got.
fn accept(rig: &mut Rig, room: &RoomSid, id: u64) {
    let Some((offer_id, sdp)) = rig.offer_to(id) else { return };
    let action = NodeAction::RemoteAnswer { connection: ConnectionId(id), offer_id, sdp: answer(&sdp) };
    rig.command(side_of(id), room, action);
}

/// One operation on connection `a` of the room its upper bit names; returns what of the input is left.
fn operate<'a>(rig: &mut Rig, opcode: u8, a: u8, b: u8, rest: &'a [u8]) -> &'a [u8] {
    let number = u64::from(a & 7) % u64::from(CONNECTIONS);
    let side = side_of(number);
    let connection = ConnectionId(number);
    let room = self::room(a >> 7);
    let (octets, after) = rest.split_at(usize::from(b).min(rest.len()));
    let text = || String::from_utf8_lossy(octets).into_owned();
    let port = 40_000 + u16::from(a >> 4);
    let transport = if a & 8 == 0 { Transport::Udp } else { Transport::Tcp };
    let action = match opcode % OPCODES {
        0 => {
            let role = match b % 3 {
                0 => ConnectionRole::Publisher,
                1 => ConnectionRole::Subscriber,
                _ => ConnectionRole::Single,
            };
            rig.open(side, &room, number, role, b & 0x80 != 0);
            return rest;
        }
        1 => NodeAction::CloseConnection { connection },
        2 => {
            rig.command(usize::from(b) % SIDES, &room, NodeAction::CloseRoom);
            return rest;
        }
        3 => remote_offer(connection, b),
        4 => {
            // The offer, with the input in place of some lines.
            let sdp = offer(Sections::Plain, None).replacen("a=mid:1", &text(), 1);
            rig.command(side, &room, NodeAction::RemoteOffer { connection, offer_id: 1, sdp });
            return after;
        }
        5 => {
            accept(rig, &room, number);
            return rest;
        }
        6 => {
            rig.command(side, &room, NodeAction::RemoteAnswer { connection, offer_id: 1, sdp: text() });
            return after;
        }
        7 => {
            rig.command(side, &room, NodeAction::RemoteCandidate { connection, candidate: text() });
            return after;
        }
        8 => NodeAction::RestartIce { connection },
        9 => expected(connection, b),
        10 => NodeAction::RemoveTrack { track: track(b) },
        11 => NodeAction::MuteTrack { track: track(b), muted: b & 128 != 0 },
        12 => subscribe(connection, b),
        13 => NodeAction::Unsubscribe { connection, track: track(b) },
        14 => NodeAction::ConfigureSubscription { connection, track: track(b), settings: settings(b) },
        15 => {
            let payload = Bytes::copy_from_slice(octets);
            let to = Recipients::Connections(vec![connection]);
            rig.command(side, &room, NodeAction::SendData { to, kind: DataKind::Reliable, payload });
            return after;
        }
        16 => {
            rig.datagram(side, transport, port, octets);
            return after;
        }
        17 => {
            let [bits, after @ ..] = rest else { return &[] };
            let (octets, after) = after.split_at(usize::from(b).min(after.len()));
            rig.show_path(side, number, (transport, port), (*bits, octets));
            return after;
        }
        18 => {
            rig.input(side, Input::TcpClosed { source: remote(port) });
            return rest;
        }
        19 => {
            // Up to half a minute: every timer of a connection comes by.
            rig.jump(Duration::from_millis(u64::from(b) * u64::from(b) / 2));
            return rest;
        }
        20 => {
            call(rig, &room, b);
            return rest;
        }
        21 => {
            rig.connect(side, number, transport);
            return rest;
        }
        22 => {
            rig.send(side, number, |client, _| client.seal_rtp(octets));
            return after;
        }
        23 | 24 => return make_packets(rig, (number, a, b), rest),
        25 => {
            rig.send(side, number, |client, _| client.seal_rtcp(octets));
            return after;
        }
        26 => {
            let [first, second, after @ ..] = rest else { return &[] };
            rig.send(side, number, |client, now| client.make_rtcp(now, b, [*first, *second]));
            return after;
        }
        27 => {
            rig.send(side, number, |client, _| Some(client.replay()));
            return rest;
        }
        28 => {
            relay(rig, usize::from(a) % SIDES, b);
            return rest;
        }
        29 => {
            // Who has a share of the room: both, neither, or another shard that never answers.
            let shards: &[ShardIndex] = match b % 4 {
                0 => &[],
                1 => &[index(2)],
                2 => &[index(0), index(1), index(2)],
                _ => &[index(0), index(1)],
            };
            rig.input(usize::from(a) % SIDES, Input::Siblings { room, shards: shards.to_vec() });
            return rest;
        }
        30 => {
            rig.advance(Duration::from_millis(u64::from(b)));
            return rest;
        }
        _ => {
            rig.settle();
            return rest;
        }
    };
    rig.command(side, &room, action);
    rest
}

/// Packets that a client makes of a few octets, one or a burst of them in one turn.
fn make_packets<'a>(rig: &mut Rig, (number, a, b): (u64, u8, u8), rest: &'a [u8]) -> &'a [u8] {
    let [length, after @ ..] = rest else { return &[] };
    let (octets, after) = after.split_at(usize::from(*length).min(after.len()));
    let making = Making { stream: a >> 3, flags: b };
    let side = side_of(number);
    let held_back = std::mem::replace(&mut rig.holds_back, true);
    for _ in 0..if b & 16 == 0 { 1 } else { 24 } {
        rig.send(side, number, |client, _| client.make_rtp(making, octets));
    }
    rig.holds_back = held_back;
    if !held_back {
        rig.drain(side);
    }
    after
}

/// What becomes of the batches from a shard to the other. Those that are lost or change places break what shards rely
/// on: they may disagree then, until their rooms are closed.
fn relay(rig: &mut Rig, from: usize, what: u8) {
    match what % 8 {
        0 | 1 => rig.deliver(from),
        2 => rig.join(from),
        3 => {
            let Some(side) = rig.sides.get_mut(from) else { return };
            if let Some(first) = side.wire.front_mut() {
                let packets = first.packets();
                assert_eq!(first.drop_media(), packets);
            }
        }
        4 => drop(rig.sides.get_mut(from).and_then(|side| side.wire.pop_front())),
        5 => {
            let Some(side) = rig.sides.get_mut(from) else { return };
            side.wire.rotate_left(usize::from(!side.wire.is_empty()));
        }
        6 => {
            let Some(side) = rig.sides.get_mut(from) else { return };
            if let Some(first) = side.wire.front().cloned() {
                rig.doubled += first.packets() as u64;
                side.wire.push_front(first);
            }
        }
        _ => rig.settle(),
    }
}
