//! Sequences of commands, datagrams and timeouts on one shard.
//!
//! ```text
//!   operation = opcode, argument, argument     text and datagrams: the octets that follow, up to a length
//! ```

use std::time::Duration;

use bytes::Bytes;
use zynk_protocol::{
    BackupUse, ConnectionId, ConnectionRole, DataKind, ExpectedTrack, MediaKind, MimeType, NodeAction,
    Recipients, RoomSid, SubscribeTrack, SubscriptionSettings, TrackQuality, TrackSid, TrackSource,
};
use zynk_sfu_core::{Input, Transport};

use crate::shard_rig::{Rig, offer, remote};

/// Operations of one input; the rest is ignored.
const OPERATIONS_MAX: usize = 64;
const ROOMS: u8 = 2;
const CONNECTIONS: u8 = 4;
const TRACKS: u8 = 4;

/// Runs the operations that the input encodes.
pub fn shard_operations(data: &[u8]) {
    let mut rig = Rig::new();
    let mut rest = data;
    for _ in 0..OPERATIONS_MAX {
        let [opcode, a, b, after @ ..] = rest else { break };
        rest = operate(&mut rig, *opcode, *a, *b, after);
        let stats = rig.shard.stats();
        assert!(stats.rooms <= ROOMS.into() && stats.connections <= CONNECTIONS.into());
        assert!(stats.tracks <= TRACKS.into());
        assert!(stats.subscriptions <= u64::from(CONNECTIONS) * u64::from(TRACKS));
    }
    for room in 0..ROOMS {
        rig.command(&self::room(room), NodeAction::CloseRoom);
    }
    let stats = rig.shard.stats();
    assert_eq!((stats.connections, stats.tracks, stats.subscriptions), (0, 0, 0), "left behind");
}

fn room(number: u8) -> RoomSid {
    RoomSid::from_random((number % ROOMS).into())
}

fn track(number: u8) -> TrackSid {
    TrackSid::from_random((number % TRACKS).into())
}

fn settings(bits: u8) -> SubscriptionSettings {
    let quality = match bits >> 1 & 3 {
        0 => TrackQuality::Low,
        1 => TrackQuality::Medium,
        _ => TrackQuality::High,
    };
    let size = (bits & 8 != 0).then_some((u32::from(bits) * 8, u32::from(bits)));
    SubscriptionSettings { paused: bits & 1 != 0, quality, size, fps: u32::from(bits >> 4) }
}

/// One operation on connection `a` of the room its upper bit names; returns what of the input is left.
fn operate<'a>(rig: &mut Rig, opcode: u8, a: u8, b: u8, rest: &'a [u8]) -> &'a [u8] {
    let number = u64::from(a % CONNECTIONS);
    let connection = ConnectionId(number);
    let room = self::room(a >> 7);
    let (octets, after) = rest.split_at(usize::from(b).min(rest.len()));
    let text = || String::from_utf8_lossy(octets).into_owned();
    let port = 40_000 + u16::from(a >> 4);
    let transport = if a & 8 == 0 { Transport::Udp } else { Transport::Tcp };
    let action = match opcode % 20 {
        0 => {
            let role = match b % 3 {
                0 => ConnectionRole::Publisher,
                1 => ConnectionRole::Subscriber,
                _ => ConnectionRole::Single,
            };
            rig.open(&room, number, role, b & 0x80 != 0);
            return rest;
        }
        1 => NodeAction::CloseConnection { connection },
        2 => NodeAction::CloseRoom,
        3 => NodeAction::RemoteOffer { connection, offer_id: b.into(), sdp: offer() },
        4 => {
            // The offer, with the input in place of some lines.
            let sdp = offer().replacen("a=mid:1", &text(), 1);
            rig.command(&room, NodeAction::RemoteOffer { connection, offer_id: 1, sdp });
            return after;
        }
        5 => {
            let sdp = rig.description.clone().unwrap_or_default();
            NodeAction::RemoteAnswer { connection, offer_id: b.into(), sdp }
        }
        6 => {
            rig.command(&room, NodeAction::RemoteAnswer { connection, offer_id: 1, sdp: text() });
            return after;
        }
        7 => {
            rig.command(&room, NodeAction::RemoteCandidate { connection, candidate: text() });
            return after;
        }
        8 => NodeAction::RestartIce { connection },
        9 => NodeAction::ExpectTrack(ExpectedTrack {
            connection,
            track: track(b),
            cids: vec![if b & 4 == 0 { "a" } else { "v" }.to_owned()],
            kind: if b & 4 == 0 { MediaKind::Audio } else { MediaKind::Video },
            source: TrackSource::Unknown,
            codec: (b & 8 != 0).then(|| MimeType::new(if b & 16 == 0 { "video/VP8" } else { "video/VP9" })),
            red: b & 32 != 0,
            dtx: true,
            stereo: false,
            muted: b & 64 != 0,
            backup: (b & 128 != 0).then_some(BackupUse::WhereNeeded),
        }),
        10 => NodeAction::RemoveTrack { track: track(b) },
        11 => NodeAction::MuteTrack { track: track(b), muted: b & 128 != 0 },
        12 => NodeAction::Subscribe(SubscribeTrack {
            connection,
            track: track(b),
            stream_id: String::from("PA_x|TR_x"),
            settings: settings(b),
        }),
        13 => NodeAction::Unsubscribe { connection, track: track(b) },
        14 => NodeAction::ConfigureSubscription { connection, track: track(b), settings: settings(b) },
        15 => {
            let payload = Bytes::copy_from_slice(octets);
            let to = Recipients::Connections(vec![connection]);
            rig.command(&room, NodeAction::SendData { to, kind: DataKind::Reliable, payload });
            return after;
        }
        16 | 17 => {
            rig.datagram(transport, port, octets);
            return after;
        }
        18 => {
            rig.input(Input::TcpClosed { source: remote(port) });
            return rest;
        }
        _ => {
            // Up to half a minute: every timer of a connection comes by.
            rig.advance(Duration::from_millis(u64::from(b) * u64::from(b) / 2));
            return rest;
        }
    };
    rig.command(&room, action);
    rest
}
