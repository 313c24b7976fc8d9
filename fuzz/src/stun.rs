//! First datagrams: STUN from anybody.

use zynk_protocol::{ConnectionId, ConnectionRole, NodeAction, RoomSid};
use zynk_sfu_core::{Transport, shard_of};

use crate::{
    shard_rig::Rig,
    shard_sdp::{Sections, offer},
};

/// Where the user fragment stands in a message that is made here: header, attribute's type and length.
const UFRAG_AT: usize = 24;

/// Hands the input to a shard with an open connection, as it is and behind the connection's user fragment.
/// Without the password nothing may be answered.
pub fn stun(data: &[u8]) {
    let _shard = shard_of(data);
    let mut rig = Rig::new(1);
    let room = RoomSid::from_random(1);
    rig.open(0, &room, 1, ConnectionRole::Single, false);
    let sdp = offer(Sections::Plain, None);
    rig.command(0, &room, NodeAction::RemoteOffer { connection: ConnectionId(1), offer_id: 1, sdp });
    for transport in [Transport::Udp, Transport::Tcp] {
        assert_eq!(rig.datagram(0, transport, 40_000, data), 0, "answered an unauthenticated datagram");
    }
    let ufrag = rig.description.as_deref().and_then(|sdp| sdp.split("a=ice-ufrag:").nth(1));
    let Some(ufrag) = ufrag.and_then(|rest| rest.split("\r\n").next()) else { panic!("no user fragment") };
    let message = addressed(ufrag, data);
    assert!(message.len() > UFRAG_AT && shard_of(&message).is_some());
    assert_eq!(rig.datagram(0, Transport::Udp, 40_000, &message), 0, "answered without the password");
    assert_eq!(rig.datagram(0, Transport::Udp, 40_000, data), 0, "learned an unauthenticated address");
}

/// A binding request for `ufrag`, with the input as its further attributes.
fn addressed(ufrag: &str, rest: &[u8]) -> Vec<u8> {
    let username = format!("{ufrag}:abcd");
    let rest = rest.get(..rest.len().min(1200)).unwrap_or_default();
    let padded = username.len().next_multiple_of(4);
    let mut message = vec![0, 1];
    message.extend_from_slice(&((4 + padded + rest.len()) as u16).to_be_bytes());
    message.extend_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    message.extend_from_slice(&[7; 12]);
    message.extend_from_slice(&[0, 6]);
    message.extend_from_slice(&(username.len() as u16).to_be_bytes());
    message.extend_from_slice(username.as_bytes());
    message.resize(UFRAG_AT + padded, 0);
    message.extend_from_slice(rest);
    message
}
