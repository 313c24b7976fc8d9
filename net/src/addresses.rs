//! This machine's addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// The addresses that others can use for a socket bound to `bind`: itself, or, if that is unspecified, loopback and the
/// address that this machine has towards others, of each family that the socket takes.
pub fn reachable_addresses(bind: IpAddr) -> Vec<IpAddr> {
    if !bind.is_unspecified() {
        return vec![bind];
    }
    let mut picked: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
    picked.extend(own_address(Ipv4Addr::UNSPECIFIED.into()));
    if bind.is_ipv6() {
        picked.push(Ipv6Addr::LOCALHOST.into());
        picked.extend(own_address(Ipv6Addr::UNSPECIFIED.into()));
    }
    picked
}

/// The address this machine has towards others: of the default route if there is one, or else the first
/// that is neither loopback nor link-local. `family` is the unspecified address of the family.
fn own_address(family: IpAddr) -> Option<IpAddr> {
    // Connecting a UDP socket sends nothing: it only asks the routing table. The addresses are reserved for
    // documentation (RFC 5737, RFC 3849).
    let far: IpAddr = if family.is_ipv4() {
        Ipv4Addr::new(192, 0, 2, 1).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()
    };
    let routed = UdpSocket::bind((family, 0))
        .and_then(|socket| socket.connect((far, 9)).and_then(|()| socket.local_addr()))
        .map(|address| address.ip())
        .ok();
    let usable = |ip: &IpAddr| ip.is_ipv4() == family.is_ipv4() && !ip.is_loopback() && !ip.is_unspecified();
    routed.filter(usable).or_else(|| {
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        interfaces
            .into_iter()
            .filter(|interface| !interface.is_link_local())
            .map(|interface| interface.ip())
            .find(usable)
    })
}

/// All addresses of this machine's interfaces.
pub fn interface_addresses() -> Vec<IpAddr> {
    if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|interface| interface.ip()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picked_addresses_are_bound_ones() {
        assert_eq!(reachable_addresses(ip("10.1.2.3")), [ip("10.1.2.3")]);
        let picked = reachable_addresses(ip("0.0.0.0"));
        assert_eq!(picked[0], ip("127.0.0.1"));
        for address in picked {
            assert!(UdpSocket::bind((address, 0)).is_ok(), "an own address can be bound");
        }
    }

    #[test]
    fn loopback_is_an_interface() {
        assert!(interface_addresses().contains(&ip("127.0.0.1")));
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }
}
