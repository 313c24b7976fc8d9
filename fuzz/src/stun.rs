//! First datagrams: STUN from anybody.

use aws_lc_rs::hmac;
use zynk_protocol::{ConnectionId, ConnectionRole, NodeAction, RoomSid};
use zynk_sfu_core::{Transport, shard_of};

use crate::{
    shard_rig::Rig,
    shard_sdp::{Sections, offer},
};

/// Where the user fragment stands in a message that is made here: header, attribute's type and length.
const UFRAG_AT: usize = 24;

const HEADER_BYTES: usize = 20;
/// Of the attribute, its type and length included.
const INTEGRITY_BYTES: usize = 24;

/// Hands the input to a shard with an open connection, as it is and behind the connection's user fragment.
/// Without the password nothing may be answered. At last the input comes from who knows it.
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
    let Some(credentials) = rig.credentials_of(1) else { panic!("no credentials") };
    let message = addressed(&credentials.0, data);
    assert!(message.len() > UFRAG_AT && shard_of(&message).is_some());
    assert_eq!(rig.datagram(0, Transport::Udp, 40_000, &message), 0, "answered without the password");
    assert_eq!(rig.datagram(0, Transport::Udp, 40_000, data), 0, "learned an unauthenticated address");
    let request = binding_request(&credentials, Nomination::of(data.len() as u8), data);
    rig.datagram(0, Transport::Udp, 40_000, &request);
    rig.datagram(0, Transport::Udp, 40_000, data);
}

/// Whether a binding request nominates its path, and the path's priority.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nomination {
    priority: u32,
    nominates: bool,
}

impl Nomination {
    pub(crate) fn of(bits: u8) -> Self {
        Self { priority: u32::from(bits >> 4) << 20, nominates: bits & 1 != 0 }
    }
}

/// A binding request of who knows the user fragment and the password, with the input as further attributes.
pub(crate) fn binding_request(
    (ufrag, password): &(String, String),
    nomination: Nomination,
    rest: &[u8],
) -> Vec<u8> {
    let mut attributes = vec![0, 0x24, 0, 4];
    attributes.extend_from_slice(&nomination.priority.to_be_bytes());
    if nomination.nominates {
        attributes.extend_from_slice(&[0, 0x25, 0, 0]);
    }
    attributes.extend_from_slice(rest);
    attributes.resize(attributes.len().next_multiple_of(4), 0);
    let mut message = addressed(ufrag, &attributes);
    // Its length counts the integrity, which covers what is before it (RFC 8489, section 14.5).
    let length = (message.len() + INTEGRITY_BYTES - HEADER_BYTES) as u16;
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
    let integrity = hmac::sign(&key, &message);
    message.extend_from_slice(&[0, 8, 0, 20]);
    message.extend_from_slice(integrity.as_ref());
    message
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
