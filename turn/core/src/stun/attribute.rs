//! Numbers of attributes, and the forms of their values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{MAGIC_COOKIE, TransactionId};

// RFC 8489, section 18.3.
/// Who sends it.
pub const USERNAME: u16 = 0x0006;
pub(crate) const MESSAGE_INTEGRITY: u16 = 0x0008;
/// Why a request is refused.
pub const ERROR_CODE: u16 = 0x0009;
pub(crate) const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
/// What credentials are for.
pub const REALM: u16 = 0x0014;
/// What credentials are mixed with.
pub const NONCE: u16 = 0x0015;
pub(crate) const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
pub(crate) const PASSWORD_ALGORITHM: u16 = 0x001d;
/// Where a request came from.
pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
pub(crate) const PASSWORD_ALGORITHMS: u16 = 0x8002;
pub(crate) const ALTERNATE_SERVER: u16 = 0x8023;
pub(crate) const FINGERPRINT: u16 = 0x8028;
// RFC 8656, section 18.
pub(crate) const CHANNEL_NUMBER: u16 = 0x000c;
/// How long an allocation lasts, in seconds.
pub const LIFETIME: u16 = 0x000d;
/// Whom data is for, or from.
pub const XOR_PEER_ADDRESS: u16 = 0x0012;
/// What is relayed.
pub const DATA: u16 = 0x0013;
/// Where peers find the client.
pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
pub(crate) const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
pub(crate) const EVEN_PORT: u16 = 0x0018;
/// What peers are spoken to with: the protocol's number in IP, and three bytes of nothing.
pub const REQUESTED_TRANSPORT: u16 = 0x0019;
pub(crate) const DONT_FRAGMENT: u16 = 0x001a;
pub(crate) const RESERVATION_TOKEN: u16 = 0x0022;
pub(crate) const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
pub(crate) const ADDRESS_ERROR_CODE: u16 = 0x8001;
/// The number that [`ADDITIONAL_ADDRESS_FAMILY`] had in drafts (draft-ietf-tram-ssoda-00): coturn's client sends it.
pub(crate) const ADDITIONAL_ADDRESS_FAMILY_DRAFT: u16 = 0x8032;
// RFC 6062, section 6.2.
pub(crate) const CONNECTION_ID: u16 = 0x002a;
// RFC 8016, section 3.5.
pub(crate) const MOBILITY_TICKET: u16 = 0x8030;

/// Whether a message that has this attribute must not be answered without understanding it (RFC 8489, section 14).
pub(crate) fn is_comprehension_required(kind: u16) -> bool {
    kind < 0x8000
}

/// An IP version, as attributes name it (RFC 8489, section 14.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressFamily {
    /// IPv4.
    V4 = 1,
    /// IPv6.
    V6 = 2,
}

impl AddressFamily {
    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The value of REQUESTED-ADDRESS-FAMILY and its like: the family, and three bytes of nothing.
    pub(crate) fn from_value(value: &[u8]) -> Option<Self> {
        match value {
            [1, _, _, _] => Some(Self::V4),
            [2, _, _, _] => Some(Self::V6),
            _ => None,
        }
    }
}

/// Reads an address that is mixed with the message's beginning (RFC 8489, section 14.2). What an IPv6 address says
/// of IPv4 is left as it is.
pub(crate) fn read_xor_address(value: &[u8], transaction: &TransactionId) -> Option<SocketAddr> {
    let [_, family, port_high, port_low, address @ ..] = value else { return None };
    let port = u16::from_be_bytes([*port_high, *port_low]) ^ (MAGIC_COOKIE >> 16) as u16;
    let ip: IpAddr = match family {
        1 => Ipv4Addr::from(u32::from_be_bytes(address.try_into().ok()?) ^ MAGIC_COOKIE).into(),
        2 => Ipv6Addr::from(u128::from_be_bytes(address.try_into().ok()?) ^ v6_mask(transaction)).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Writes such an address; as many bytes as it says.
pub(crate) fn write_xor_address(address: SocketAddr, transaction: &TransactionId) -> ([u8; 20], usize) {
    let mut value = [0; 20];
    let port = address.port() ^ (MAGIC_COOKIE >> 16) as u16;
    let [_, family, port_at @ ..] = &mut value;
    *family = AddressFamily::of(address.ip()) as u8;
    let (port_at, ip_at) = port_at.split_at_mut(2);
    port_at.copy_from_slice(&port.to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            let (ip_at, _) = ip_at.split_at_mut(4);
            ip_at.copy_from_slice(&(u32::from(ip) ^ MAGIC_COOKIE).to_be_bytes());
            (value, 8)
        }
        IpAddr::V6(ip) => {
            ip_at.copy_from_slice(&(u128::from(ip) ^ v6_mask(transaction)).to_be_bytes());
            (value, 20)
        }
    }
}

/// Writes an address in the clear, as ALTERNATE-SERVER has it (RFC 8489, section 14.1).
pub(crate) fn write_address(address: SocketAddr) -> ([u8; 20], usize) {
    let mut value = [0; 20];
    let [_, family, port_at @ ..] = &mut value;
    *family = AddressFamily::of(address.ip()) as u8;
    let (port_at, ip_at) = port_at.split_at_mut(2);
    port_at.copy_from_slice(&address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            let (ip_at, _) = ip_at.split_at_mut(4);
            ip_at.copy_from_slice(&ip.octets());
            (value, 8)
        }
        IpAddr::V6(ip) => {
            ip_at.copy_from_slice(&ip.octets());
            (value, 20)
        }
    }
}

fn v6_mask(transaction: &TransactionId) -> u128 {
    let mut mask = [0; 16];
    let (cookie, rest) = mask.split_at_mut(4);
    cookie.copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    rest.copy_from_slice(transaction);
    u128::from_be_bytes(mask)
}
