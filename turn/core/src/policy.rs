//! Which peers clients may reach. A relay stands inside somebody's network: without this, everybody with credentials
//! stands there too.
//!
//! ```text
//!  address ─► all the IPv4 addresses that it can mean ─► denied by the operator?       ─► no
//!                                                        allowed by the operator?      ─► yes; the machine's own
//!                                                                                         addresses one by one only
//!                                                        an address of relays?         ─► only relays and services
//!                                                        another of the machine's?     ─► no
//!                                                        not for everybody to reach?   ─► no
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// Addresses that are not for everybody to reach: the IANA special-purpose registries (RFC 6890, as updated), and the
/// metadata services that clouds put elsewhere.
const SPECIAL: [(IpAddr, u8); 32] = [
    v4(0, 0, 0, 0, 8),             // this network
    v4(10, 0, 0, 0, 8),            // private
    v4(100, 64, 0, 0, 10),         // carrier-grade NAT; Alibaba Cloud's metadata
    v4(127, 0, 0, 0, 8),           // loopback
    v4(168, 63, 129, 16, 32),      // Azure's WireServer
    v4(169, 254, 0, 0, 16),        // link-local; most clouds' metadata
    v4(172, 16, 0, 0, 12),         // private
    v4(192, 0, 0, 0, 24),          // protocol assignments; Oracle Cloud's metadata
    v4(192, 0, 2, 0, 24),          // documentation
    v4(192, 88, 99, 0, 24),        // 6to4 relays
    v4(192, 168, 0, 0, 16),        // private
    v4(198, 18, 0, 0, 15),         // benchmarks
    v4(198, 51, 100, 0, 24),       // documentation
    v4(203, 0, 113, 0, 24),        // documentation
    v4(224, 0, 0, 0, 4),           // multicast
    v4(240, 0, 0, 0, 4),           // reserved, broadcast
    v6([0, 0, 0, 0], 8), // unspecified, loopback, forms of IPv4 addresses: what of those is good is asked as IPv4
    v6([0x64, 0xff9b, 1, 0], 48), // local NAT64
    v6([0x100, 0, 0, 0], 64), // discard
    v6([0x2001, 2, 0, 0], 48), // benchmarks
    v6([0x2001, 0x10, 0, 0], 28), // ORCHID
    v6([0x2001, 0x20, 0, 0], 28), // ORCHIDv2
    v6([0x2001, 0xdb8, 0, 0], 32), // documentation
    v6([0x3fff, 0, 0, 0], 20), // documentation
    v6([0x5f00, 0, 0, 0], 16), // segment routing
    v6([0xfc00, 0, 0, 0], 7), // unique local; AWS' metadata
    v6([0xfe80, 0, 0, 0], 10), // link-local
    v6([0xfec0, 0, 0, 0], 10), // site-local
    v6([0xff00, 0, 0, 0], 8), // multicast
    v6([0x64, 0xff9b, 0, 0], 96), // NAT64: asked as IPv4
    v6([0x2002, 0, 0, 0], 16), // 6to4: asked as IPv4
    v6([0x2001, 0, 0, 0], 32), // Teredo: asked as IPv4
];

/// The ranges of [`SPECIAL`] that stand for IPv4 addresses; a peer there is as good as the IPv4 address is.
const V4_IN_V6: [(IpAddr, u8); 4] =
    [v6([0, 0, 0, 0], 8), v6([0x64, 0xff9b, 0, 0], 96), v6([0x2002, 0, 0, 0], 16), v6([0x2001, 0, 0, 0], 32)];

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> (IpAddr, u8) {
    (IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits)
}

const fn v6([a, b, c, d]: [u16; 4], bits: u8) -> (IpAddr, u8) {
    (IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)), bits)
}

/// Which peers may be reached.
#[derive(Clone, Debug, Default)]
pub struct PeerPolicy {
    /// Peers that are denied whatever else is said.
    pub deny: Vec<IpNet>,
    /// Peers that are allowed although they are not for everybody to reach.
    pub allow: Vec<IpNet>,
    /// The addresses of relayed addresses, announced ones included. At these, only relayed addresses of this relay and
    /// `services` are reached, so that two clients of one relay can talk.
    pub own: Vec<IpAddr>,
    /// All addresses of this machine. A network in `allow` that they are in does not allow them, each of its own does.
    pub machine: Vec<IpAddr>,
    /// Addresses that are allowed whatever else is said: the media ports of our own SFU.
    pub services: Vec<SocketAddr>,
}

/// Whether a peer may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    /// Some ports alone: see [`PeerPolicy::is_service`].
    PortsOnly,
    Denied,
}

impl PeerPolicy {
    /// What holds for an address, whatever the port.
    pub(crate) fn verdict(&self, ip: IpAddr) -> Verdict {
        let ip = ip.to_canonical();
        let meanings = [Some(ip), embedded_v4(ip).map(IpAddr::V4), teredo_server(ip).map(IpAddr::V4)];
        let any =
            |nets: &[IpNet]| meanings.iter().flatten().any(|ip| nets.iter().any(|net| net.contains(ip)));
        if any(&self.deny) {
            return Verdict::Denied;
        }
        // What is allowed is allowed as it was written down, not in other spellings.
        let is_ours = self.own.contains(&ip) || self.machine.contains(&ip);
        let allows =
            |net: &IpNet| net.contains(&ip) && (!is_ours || net.prefix_len() == net.max_prefix_len());
        if self.allow.iter().any(allows) {
            return Verdict::Allowed;
        }
        if self.own.contains(&ip) || self.services.iter().any(|service| service.ip() == ip) {
            return Verdict::PortsOnly;
        }
        let mut meanings = meanings.into_iter().flatten();
        let is_ours = |ip| self.own.contains(&ip) || self.machine.contains(&ip);
        match meanings.any(|meaning| is_ours(meaning) || is_special(meaning)) {
            true => Verdict::Denied,
            false => Verdict::Allowed,
        }
    }

    /// Whether it is one of the services.
    pub(crate) fn is_service(&self, peer: SocketAddr) -> bool {
        self.services.contains(&peer)
    }
}

fn within(ip: IpAddr, ranges: &[(IpAddr, u8)]) -> bool {
    ranges.iter().any(|(net, bits)| match (ip, net) {
        (IpAddr::V4(ip), IpAddr::V4(net)) => {
            u32::from(ip).checked_shr(32 - u32::from(*bits)).unwrap_or(0)
                == u32::from(*net).checked_shr(32 - u32::from(*bits)).unwrap_or(0)
        }
        (IpAddr::V6(ip), IpAddr::V6(net)) => {
            u128::from(ip).checked_shr(128 - u32::from(*bits)).unwrap_or(0)
                == u128::from(*net).checked_shr(128 - u32::from(*bits)).unwrap_or(0)
        }
        _ => false,
    })
}

fn is_special(ip: IpAddr) -> bool {
    // ISATAP (RFC 5214, section 6.1) can be in any network.
    within(ip, &SPECIAL) && !(embedded_v4(ip).is_some() && within(ip, &V4_IN_V6))
}

/// The IPv4 address that an IPv6 address stands for: mapped and compatible (RFC 4291, section 2.5.5), translated (RFC
/// 2765), NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo's client (RFC 4380), ISATAP (RFC 5214).
fn embedded_v4(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let at_end = Ipv4Addr::from((u128::from(ip) & 0xffff_ffff) as u32);
    match ip.segments() {
        // Unspecified and loopback are none.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Some(at_end),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(at_end),
        [0x2002, high, low, ..] => Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
        [0x2001, 0, ..] => Some(Ipv4Addr::from(!u32::from(at_end))),
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => Some(at_end),
        _ => None,
    }
}

/// The server that an address of Teredo goes by (RFC 4380, section 4).
fn teredo_server(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    match ip.segments() {
        [0x2001, 0, high, low, ..] => Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
